"""How counts of pairs of units scatter together, as a twin's latent says and as it was measured.

Shape letters: N scored bins, W windows, U units.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch

from vivit_core.analysis.predict import Predictions, unit_columns
from vivit_core.data.recording.reader import Recording, runs
from vivit_core.models.latents.base import Latent
from vivit_core.models.predictor import Predictor
from vivit_core.models.twin import Twin

FEWEST = 20  # windows in which both units of a pair were measured


def noise_correlations(
    twin: Predictor, recording: Recording, recording_id: str, found: Predictions
) -> dict[str, Any] | None:
    """Numbers of one recording; None for a model without a latent.

    Counts less the prediction are summed over windows in which the latent stands still. Their correlation of two units
    is the measured noise correlation; the predicted one follows from the latent's covariance and the predicted rates.

    Returns
    -------
    dict
        ``pairs`` of units that both fired and were measured together; ``correlation`` over pairs of predicted and
        measured noise correlations; the ``predicted_mean`` and ``measured_mean`` of these; ``joint_bits`` per spike
        that all counts together cost less than one by one.
    """
    latent = twin.latent(recording_id) if isinstance(twin, Twin) else None
    if latent is None:
        return None
    units = unit_columns(twin, recording_id, recording.info.unit_ids)
    with torch.no_grad():
        covariance_UU = latent.log_covariance()[units][:, units].double().cpu().numpy()
    trials = runs(found.bins_N, recording.info.trials.start)  # which may follow each other without a gap
    rate_WU, count_WU, known_WU = in_windows(found, trials, latent.hold)
    off_WU = np.where(known_WU, count_WU - rate_WU, 0.0)
    rate_WU = np.where(known_WU, rate_WU, 0.0)
    both_UU = known_WU.T.astype(float) @ known_WU
    with np.errstate(divide="ignore", invalid="ignore"):
        measured_UU = off_WU.T @ off_WU / both_UU
        # Of a pair the gains' product has a mean of exp(covariance), by which rates that vary together are multiplied.
        predicted_UU = rate_WU.T @ rate_WU / both_UU * np.expm1(covariance_UU)
        predicted_UU[np.diag_indices(len(units))] += rate_WU.sum(0) / np.diag(both_UU)  # Poisson's own
        measured_UU, predicted_UU = (x / np.sqrt(np.outer(np.diag(x), np.diag(x))) for x in (measured_UU, predicted_UU))
    upper = np.triu_indices(len(units), 1)
    use = (both_UU[upper] >= FEWEST) & np.isfinite(measured_UU[upper]) & np.isfinite(predicted_UU[upper])
    measured, predicted = measured_UU[upper][use], predicted_UU[upper][use]
    varies = len(measured) > 2 and measured.std() > 0 and predicted.std() > 0
    spikes = float(found.counts_NU[found.valid_NU].sum())
    return {
        "pairs": int(use.sum()),
        "correlation": float(np.corrcoef(measured, predicted)[0, 1]) if varies else math.nan,
        "predicted_mean": float(predicted.mean()) if len(predicted) else math.nan,
        "measured_mean": float(measured.mean()) if len(measured) else math.nan,
        "joint_bits": -joint_nats(latent, units, found, trials) / (spikes * math.log(2)) if spikes else math.nan,
        "window_bins": latent.hold,
    }


def in_windows(
    found: Predictions, trials: list[tuple[int, int]], hold: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Predicted and measured counts, summed over windows within trials (W, U), and whether each was measured
    throughout."""
    pieces, first = [], 0
    for start, stop in trials:
        whole = (stop - start) // hold
        rows = slice(first, first + whole * hold)
        pieces.append([x[rows].reshape(whole, hold, -1) for x in (found.predicted_NU, found.counts_NU, found.valid_NU)])
        first += stop - start
    rate, counts, valid = (np.concatenate(column) for column in zip(*pieces, strict=True))
    return rate.sum(1, dtype=np.float64), counts.sum(1, dtype=np.float64), np.asarray(valid.all(1))


@torch.no_grad()
def joint_nats(latent: Latent, units: list[int], found: Predictions, trials: list[tuple[int, int]]) -> float:
    """What all counts cost together, less what they cost one by one; trial by trial, of which each begins anew."""
    device = latent.log_covariance().device
    total, first = 0.0, 0
    shape = len(latent.log_covariance())
    for start, stop in trials:
        rows = slice(first, first + stop - start)
        rate, counts = (torch.zeros(1, stop - start, shape) for _ in range(2))
        mask = torch.zeros(1, stop - start, shape, dtype=torch.bool)
        rate[0, :, units] = torch.as_tensor(found.predicted_NU[rows], dtype=torch.float32)
        counts[0, :, units] = torch.as_tensor(found.counts_NU[rows], dtype=torch.float32)
        mask[0, :, units] = torch.as_tensor(found.valid_NU[rows])
        total += float(latent.more_nats(rate.to(device), counts.to(device), mask.to(device)))
        first += stop - start
    return total
