"""What a twin's attention is worth: bits per spike that it loses without, with intervals.

Shape letters: R resamplings, U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from vivit_core.analysis.attention.lesions import UNMIXED
from vivit_core.analysis.bootstrap import Sums, bps_drawn, interval, means_over_units
from vivit_core.analysis.evaluate.context import RESAMPLES, Rows, sums_of
from vivit_core.analysis.evaluate.numbers import LESIONED
from vivit_core.analysis.predict import Predictions
from vivit_core.data.recording.reader import Recording
from vivit_core.metrics.averages import mean_known
from vivit_core.models.predictor import Predictor

OWN = "as it is"


def attention_sums(
    twin: Predictor, recording: Recording, found: Predictions, split: str, burn_in: int
) -> dict[str, Sums]:
    """Sums of a recording's predictions as they are and with each lesion, for :func:`bootstrap.resampled`; empty where
    no lesion was predicted."""
    if not found.lesions:
        return {}
    return sums_of({OWN: found.predicted_NU} | found.lesions, twin, recording, found, split, burn_in)


def summarize_attention(
    rows: Mapping[str, Rows], sums: Mapping[str, Mapping[str, Sums]], seed: int
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a summary says of attention: of all recordings together, and of each.

    Parameters
    ----------
    rows : recording -> its units' numbers.
    sums : recording -> ``attention_sums``.
    seed : of the resampling.
    """
    drawn, by_recording = bps_drawn(sums, RESAMPLES, seed)
    of_each = {rid: attention_numbers(rows[rid], own) for rid, own in by_recording.items()}
    return attention_numbers([row for rid in sums for row in rows[rid]], drawn), of_each


def attention_numbers(rows: Rows, drawn: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The numbers of some units, from their rows and from their bits per spike in each resampling (R, U)."""
    found = {}
    for name in (name for name in drawn if name != OWN):
        without_U = np.array([row[f"{LESIONED}{name}_bps"] for row in rows], np.float64)
        lost_U = np.array([row["bps"] for row in rows], np.float64) - without_U
        with np.errstate(invalid="ignore"):
            lost_R = means_over_units(drawn[OWN] - drawn[name])
        found[name] = {
            "bps_mean": mean_known(without_U),
            "bps_lost_mean": mean_known(lost_U),
            "bps_lost_interval": interval(lost_R),
        }
    gain = found.get(UNMIXED, {"bps_lost_mean": float("nan"), "bps_lost_interval": [float("nan")] * 2})
    return {
        "attention": found,
        "context_gain_mean": gain["bps_lost_mean"],
        "context_gain_interval": gain["bps_lost_interval"],
    }
