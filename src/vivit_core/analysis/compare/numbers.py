"""Compare models on the same test bins, unit by unit, with intervals by a bootstrap over trials, beside what they cost.

Scores follow from sums that add up over bins (``metrics.unit_sums``), so a resampling is a weighted sum. What is drawn
are pieces of stimuli: all repeats of a stimulus together, because a model errs alike in each of them, and long trials
in parts, because a recording of one film has one trial, and drawing that again and again says nothing.

Shape letters: N scored bins of a recording, U units, K pieces, R resamplings, 7 sums of ``unit_sums``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vivit_core.analysis.bootstrap import Sums, piece_sums, pieces
from vivit_core.analysis.evaluate.numbers import runs
from vivit_core.analysis.predict import Split, predict_split, refuse_broken
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.metrics.unit_scores import scores_of_sums
from vivit_core.models.predictor import Predictor

SAME = slice(0, 2)  # of the sums, those that depend on the data alone: bins and counts …


SQUARES = 4  # … and squared counts


@dataclass
class Contender:
    """A model that is compared, with the data cut as it was in its training."""

    name: str
    checkpoint: str
    model: Predictor
    datamodule: RecordingsDataModule

    @property
    def kind(self) -> str:
        """Its core's class, or its own."""
        return self.model.kind


def sums_of(
    contender: Contender, burn_in: int, split: Split, piece_s: float, device: str, progress: bool
) -> dict[str, Sums]:
    """Each recording's sums, over the bins after a trial's first ``burn_in``."""
    data = contender.datamodule
    by_id = {spec.recording_id: recording for recording, spec in zip(data.recordings, data.specs, strict=True)}
    sums = {}
    for rid, own in predict_split(
        contender.model, data, ln=None, split=split, device=device, progress=progress, label=contender.name
    ):
        refuse_broken(own, rid, f"{contender.name} ({contender.checkpoint})")
        info = by_id[rid].info
        truth_NU = None
        if info.has_truth:
            truth_NU = np.concatenate([by_id[rid].truth("rate", a, b) for a, b in runs(own.bins_N)])
        trials = info.trials.of(split)
        after = trials.start[np.searchsorted(trials.start, own.bins_N, side="right") - 1] + burn_in
        cuts = pieces(trials, burn_in, piece_s * info.frame_rate_hz)
        sums[rid] = Sums(
            info.unit_ids,
            len(trials.start),
            len(trials.by_stimulus()),
            int((own.bins_N >= after).sum()),
            piece_sums(own, own.predicted_NU, cuts),
            None if truth_NU is None else piece_sums(own, truth_NU.astype(np.float32), cuts),
        )
    return sums


def matched(found: dict[str, dict[str, Sums]]) -> tuple[dict[str, list[str]], int]:
    """The units of each recording that all models know, their sums brought to that order, and how many are left out.

    Raises
    ------
    ValueError
        Where nothing is shared, or the measured data differ.
    """
    names = list(found)
    every = list(dict.fromkeys(rid for own in found.values() for rid in own))
    common = [rid for rid in every if all(rid in own for own in found.values())]
    if not common:
        known = "; ".join(f"{name}: {', '.join(own)}" for name, own in found.items())
        raise ValueError(f"these models share no recording, so there is nothing to compare ({known})")
    shared: dict[str, list[str]] = {}
    left_out = 0
    for rid in common:
        ids = [set(own[rid].unit_ids) for own in found.values()]
        units = [unit for unit in found[names[0]][rid].unit_ids if all(unit in known for known in ids)]
        left_out += len(set().union(*ids)) - len(units)
        if not units:
            raise ValueError(f"recording {rid}: these models know none of the same units, so they cannot be compared")
        for own in found.values():
            place = {unit: i for i, unit in enumerate(own[rid].unit_ids)}
            columns = [place[unit] for unit in units]
            own[rid].sums_K7U = own[rid].sums_K7U[..., columns]
            if (truth := own[rid].truth_K7U) is not None:
                own[rid].truth_K7U = truth[..., columns]
            own[rid].unit_ids = tuple(units)
        first = found[names[0]][rid].sums_K7U
        for name in names[1:]:
            other = found[name][rid].sums_K7U
            same = first.shape == other.shape and all(
                np.array_equal(first[:, rows], other[:, rows]) for rows in (SAME, SQUARES)
            )
            if not same:
                raise ValueError(
                    f"recording {rid}: the test data of {names[0]} and of {name} differ, though they have one name; "
                    "give both the same files with data.recordings=[…]"
                )
        if first[:, 0].any():  # else the longest burn-in, or responses/valid, leaves no bin
            shared[rid] = units
    if not shared:
        raise ValueError(
            f"the longest burn-in of these models (data.evaluation_burn_in) leaves no valid bin of {', '.join(common)}"
        )
    return shared, left_out


def scores_of_pieces(sums_K7U: np.ndarray) -> np.ndarray:
    """Bits per spike and correlation over all pieces, (2, U)."""
    scores = scores_of_sums(sums_K7U.sum(0))
    return np.stack([scores.bps, scores.correlation])
