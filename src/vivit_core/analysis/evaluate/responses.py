"""Every unit's rates in a few seconds that it was shown, measured and predicted: ``responses.npz``.

Shape letters: T bins, R repeats, U units, H W pixels, N scored bins of a recording.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vivit_core.analysis.evaluate.numbers import repeated_rows, side_by_side
from vivit_core.analysis.predict import Predictions, unit_columns
from vivit_core.analysis.truth import centers_px
from vivit_core.data.recording.reader import Recording, runs
from vivit_core.models.predictor import Predictor
from vivit_core.names import key_name
from vivit_core.plotting.rates import SMOOTHING_S, smoothed_average
from vivit_core.report.explore import MOST_REPEATS, Clip

CLIP_S = 5.0  # s of a stimulus that are kept and drawn
EXACT = 2048  # up to which float16 knows every whole number


def over_repeats(found: Predictions, shown: list[slice], rate_hz: float) -> dict[str, np.ndarray]:
    """One stimulus: its ``trials`` (R, T, U), NaN where invalid or over, and mean predictions (T, U) over the showings
    that last so long; all in Hz."""
    bins = round(CLIP_S * rate_hz)
    shown = [slice(rows.start, min(rows.stop, rows.start + bins)) for rows in shown]
    valid_RTU, counts_RTU = (side_by_side(x, shown, 0) for x in (found.valid_NU, found.counts_NU))
    traces = {"trials": np.where(valid_RTU, counts_RTU * rate_hz, np.nan)}
    for name, predicted_NU in (("predicted", found.predicted_NU), ("ln", found.ln_NU)):
        if predicted_NU is not None:
            traces[name] = np.nanmean(side_by_side(predicted_NU, shown, np.nan), axis=0) * rate_hz
    return traces


def shown_most(recording: Recording, found: Predictions, split: str) -> tuple[str, list[slice]]:
    """The stimulus of a split with most repeats and its showings' rows among the scored bins; where none is repeated,
    what comes first, which has no name."""
    if stimuli := repeated_rows(recording, found.bins_N, split):
        stimulus = max(stimuli, key=lambda name: len(stimuli[name]))  # the first of equals
        return stimulus, stimuli[stimulus]
    first, last = runs(found.bins_N)[0]
    return "", [slice(0, last - first)]


def rates_of(recording: Recording, found: Predictions, split: str) -> tuple[dict[str, Any], int]:
    """Measured and predicted rates while one stimulus was shown, by the names of :func:`responses_of`; and the first
    frame of that."""
    rate_hz = recording.info.frame_rate_hz
    stimulus, rows = shown_most(recording, found, split)
    traces = over_repeats(found, rows, rate_hz)
    trials_RTU = traces["trials"]
    averages = [smoothed_average(trials_RTU[..., unit], 1 / rate_hz) for unit in range(trials_RTU.shape[-1])]
    known_TU = (~np.isnan(trials_RTU)).sum(0)
    mean_TU = np.where(known_TU > 0, np.nansum(trials_RTU, 0) / np.maximum(known_TU, 1) / rate_hz, np.nan)
    rates = {"predicted": traces["predicted"]} | ({"ln": traces["ln"]} if "ln" in traces else {})
    kept: dict[str, Any] = {
        "bin_s": np.array(1 / rate_hz),
        "stimulus": np.array(stimulus),
        "repeats": np.array(len(rows)),
        "counts": compact(trials_RTU[:MOST_REPEATS] / rate_hz, recording.info.kind),
        "mean_counts": mean_TU.astype(np.float32),
        "smoothing_s": np.array(SMOOTHING_S),
        "measured": np.stack([mean for mean, _ in averages], 1).astype(np.float32),
        "error": np.stack([error for _, error in averages], 1).astype(np.float32),
        **{name: values.astype(np.float32) for name, values in rates.items()},
    }
    return kept, int(found.bins_N[rows[0].start])


def compact(counts: np.ndarray, kind: str) -> np.ndarray:
    """Spikes in float16. A calcium trace has any unit, and float16 knows nothing above 65504 and little below .0001: in
    float32, as are numbers of spikes that float16 would round."""
    half = kind == "spikes" and not (counts > EXACT).any()
    return counts.astype(np.float16 if half else np.float32)


def responses_of(
    twin: Predictor, recording: Recording, recording_id: str, found: Predictions, split: str
) -> dict[str, np.ndarray]:
    """What ``responses.npz`` holds of a recording, by ``<recording>/<name>``; the recording's name is that of
    :func:`vivit_core.names.key_name`.

    ``unit_ids`` (U,) · ``bin_s`` · ``stimulus``, empty where none is repeated · ``repeats``, how many there are ·
    ``counts`` (R, T, U) a bin, of at most ``MOST_REPEATS``, NaN where not valid or where a showing that is shorter than
    others is over · ``mean_counts`` (T, U) a bin, their mean over all repeats · ``measured`` and ``error`` (T, U): the
    same mean of counts that were smoothed over bins, and its standard error, Hz, NaN where there are not two ·
    ``smoothing_s``, the standard deviation of that Gaussian, which also sees later bins · ``predicted`` and, where
    there is one, ``ln`` (T, U), Hz, means over the repeats that last so long · ``frame`` (H, W), the first one shown ·
    ``window`` (U, 5): see ``report.explore.Place``.
    """
    rates, first = rates_of(recording, found, split)
    kept = rates | {
        "unit_ids": np.array(recording.info.unit_ids),
        "frame": recording.frames(first, first + 1)[:, 0].mean(0).astype(np.float32),
        "window": windows_of(twin, recording, recording_id).astype(np.float32),
    }
    key = key_name(recording_id)
    return {f"{key}/{name}": value for name, value in kept.items()}


def clip_of(arrays: Mapping[str, np.ndarray], recording_id: str, models: Mapping[tuple[str, str], np.ndarray]) -> Clip:
    """A recording's rates for the page, from ``responses.npz``; ``models`` are a name and a role -> rates (T, U)."""
    key = key_name(recording_id)
    stimulus, repeats = str(arrays[f"{key}/stimulus"]), int(arrays[f"{key}/repeats"])
    return Clip(
        float(arrays[f"{key}/bin_s"]),
        f"stimulus {stimulus}, {repeats} repeats" if stimulus else "the first trial, which was shown once",
        {("measured", "measured"): arrays[f"{key}/measured"], **models},
        arrays[f"{key}/error"] if repeats > 1 else None,
        arrays[f"{key}/counts"],
        repeats,
    )


def windows_of(twin: Predictor, recording: Recording, recording_id: str) -> np.ndarray:
    """Where each readout looks, and how wide, (U, 5): x, y, standard deviations along and across, and angle; NaN where
    not known."""
    units = unit_columns(twin, recording_id, recording.info.unit_ids)
    windows_U5 = np.full((len(units), 5), np.nan)
    windows_U5[:, :2] = centers_px(twin, recording, recording_id)
    if (gaussians := twin.gaussians_px(recording_id)) is not None:
        windows_U5[:, 2:4], windows_U5[:, 4] = gaussians["std_px"][units], gaussians["angle_deg"][units]
    return windows_U5
