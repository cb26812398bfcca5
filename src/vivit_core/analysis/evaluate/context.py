"""How much of context's information a twin finds, where a simulation knows it: by kind of context, with intervals.

Shape letters: N scored bins of a recording, R resamplings, U units, K pieces.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vivit_core.analysis.bootstrap import Sums, bps_drawn, interval, sums_over_pieces
from vivit_core.analysis.evaluate.numbers import LOCAL
from vivit_core.analysis.predict import Predictions, scorer_of
from vivit_core.data.recording.reader import Recording
from vivit_core.metrics.averages import mean_known
from vivit_core.metrics.bits_per_spike import BitsPerSpike
from vivit_core.metrics.oracle import share_of_context, share_of_oracle
from vivit_core.models.predictor import Predictor

RESAMPLES = 1000
PIECE_S = 10.0  # s; pieces of stimuli that are drawn are at most as long
UNKNOWN = {"contextual_fraction": math.nan, "contextual_fraction_interval": [math.nan, math.nan]}

Rows = Sequence[Mapping[str, Any]]  # of units.csv


def context_sums(
    twin: Predictor, recording: Recording, found: Predictions, split: str, burn_in: int
) -> dict[str, Sums] | None:
    """Sums of a recording's predictions, true rates and best local rates under the twin's likelihood, for
    :func:`bootstrap.resampled`; None where the best local rate is not known."""
    if "rate_local" not in recording.truths:
        return None
    known = {"twin": found.predicted_NU}
    for name, truth in (("truth", "rate"), ("local", "rate_local")):
        known[name] = recording.truth_at(found.bins_N, truth)
    return sums_of(known, twin, recording, found, split, burn_in)


def sums_of(
    known: Mapping[str, np.ndarray], twin: Predictor, recording: Recording, found: Predictions, split: str, burn_in: int
) -> dict[str, Sums]:
    """Sums of each of these rates (N, U), by name, over pieces of stimuli; the twin's likelihood scores."""
    info = recording.info
    scorer = scorer_of(twin, info.recording_id, info.unit_ids, [BitsPerSpike()])
    return sums_over_pieces(scorer, recording, found, known, split=split, burn_in=burn_in, piece_s=PIECE_S)


def summarize_context(
    rows: Mapping[str, Rows], sums: Mapping[str, Mapping[str, Sums]], seed: int
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """What a summary says of context: of all recordings together, and of each.

    Parameters
    ----------
    rows : recording -> its units' numbers.
    sums : recording -> ``context_sums``, for those of which it is known.
    seed : of the resampling.
    """
    drawn, by_recording = bps_drawn(sums, RESAMPLES, seed)
    of_each = {rid: context_numbers(own, by_recording.get(rid)) for rid, own in rows.items()}
    return context_numbers([row for rid in sums for row in rows[rid]], drawn or None), of_each


def context_numbers(rows: Rows, drawn: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
    """The numbers of some units, from their rows and from their bits per spike in each resampling (R, U)."""
    if drawn is None:
        return UNKNOWN | {"context": {}}
    kind_U = np.array([row["context"] for row in rows])
    point = {
        name: np.array([row[column] for row in rows], np.float64)
        for name, column in (("twin", "bps"), ("truth", "truth_bps"), ("local", "local_bps"))
    }

    def fraction(use_U: np.ndarray) -> dict[str, Any]:
        own, again = ({name: bps[..., use_U] for name, bps in of.items()} for of in (point, drawn))
        return {
            "contextual_fraction": float(share_of_context(own["twin"], own["truth"], own["local"])),
            "contextual_fraction_interval": interval(share_of_context(again["twin"], again["truth"], again["local"])),
        }

    kinds = {}
    for kind in sorted(set(kind_U.tolist()), key=lambda kind: (kind == LOCAL, kind)):
        use_U = kind_U == kind
        kinds[kind] = {
            "units": int(use_U.sum()),
            "bps_mean": mean_known(point["twin"][use_U]),
            "local_bps_mean": mean_known(point["local"][use_U]),
            "truth_bps_mean": mean_known(point["truth"][use_U]),
            "knowable_fraction": share_of_oracle(point["twin"][use_U], point["truth"][use_U]),
            **(UNKNOWN if kind == LOCAL else fraction(use_U)),
        }
    return {**fraction(kind_U != LOCAL), "context": kinds}
