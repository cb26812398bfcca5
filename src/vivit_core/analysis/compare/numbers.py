"""Compare models on the same test bins, unit by unit, with intervals by a bootstrap over trials, beside what they cost.

Scores follow from sums that add up over bins (``Scorer.sums``), so a resampling is a weighted sum. What is drawn
are pieces of stimuli: all repeats of a stimulus together, because a model errs alike in each of them, and long trials
in parts, because a recording of one film has one trial, and drawing that again and again says nothing.

Shape letters: N scored bins of a recording, U units, K pieces, R resamplings, S sums of ``Scorer.sums``, M metrics.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from vivit_core.analysis.bootstrap import Sums, sums_over_pieces
from vivit_core.analysis.compare.foreign import Foreign
from vivit_core.analysis.evaluate.responses import rates_of
from vivit_core.analysis.predict import Predictions, predict_split, refuse_broken, scorer_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Split
from vivit_core.metrics.unit_scores import BINS, DATA, Scorer
from vivit_core.models.predictor import Predictor
from vivit_core.specs import RecordingSpec


@dataclass
class Contender:
    """A model that is compared, with the data cut as it was in its training; or what another program predicted, with
    the data of the first model."""

    name: str
    checkpoint: str
    model: Predictor | Foreign
    datamodule: RecordingsDataModule

    @property
    def kind(self) -> str:
        """Its core's class, or its own."""
        return "another program" if isinstance(self.model, Foreign) else self.model.kind

    @property
    def causal(self) -> bool | None:
        """Whether no prediction knows later bins; None where nobody says."""
        if isinstance(self.model, Foreign):
            return None
        return self.model.causal and all(spec.behavior_causal for spec in self.datamodule.specs)

    @property
    def specs(self) -> list[RecordingSpec]:
        """Of the recordings that it knows."""
        specs = self.datamodule.specs
        return [s for s in specs if s.recording_id in self.model.rates] if isinstance(self.model, Foreign) else specs

    def predictions(self, split: Split, device: str, progress: bool) -> Iterator[tuple[str, Predictions]]:
        """Of each recording."""
        if isinstance(self.model, Foreign):
            return self.model.predictions(self.datamodule, split)
        return predict_split(
            self.model, self.datamodule, ln=None, split=split, device=device, progress=progress, label=self.name
        )


def shared_recordings(known: Mapping[str, Collection[str]]) -> list[str]:
    """The recordings that all models know, in the first one's order.

    Parameters
    ----------
    known : the ids of its recordings, by the model's name.

    Raises
    ------
    ValueError
        Where there is none.
    """
    first, *others = known.values()
    common = [rid for rid in first if all(rid in own for own in others)]
    if not common:
        said = "; ".join(f"{name}: {', '.join(own)}" for name, own in known.items())
        raise ValueError(f"these models share no recording, so there is nothing to compare ({said})")
    return common


def shared_units(contenders: Sequence[Contender]) -> dict[str, list[str]]:
    """The units of each recording that all models know, in the first one's order.

    Raises
    ------
    ValueError
        Where nothing is shared.
    """
    known = {c.name: {spec.recording_id: spec.unit_ids for spec in c.specs} for c in contenders}
    common = shared_recordings(known)
    first, *others = known.values()
    shared = {rid: [unit for unit in first[rid] if all(unit in own[rid] for own in others)] for rid in common}
    if apart := [rid for rid, units in shared.items() if not units]:
        raise ValueError(f"recording {apart[0]}: these models know none of the same units, so they cannot be compared")
    return shared


def left_out(contenders: Sequence[Contender], shared: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """How many recordings, and units of the shared ones, are not compared."""
    known: dict[str, set[str]] = {}
    for spec in (spec for contender in contenders for spec in contender.datamodule.specs):
        known.setdefault(spec.recording_id, set()).update(spec.unit_ids)
    for rid in (rid for contender in contenders for rid in contender.datamodule.left_out):
        known.setdefault(rid, set())
    units = sum(len(known[rid]) - len(own) for rid, own in shared.items())
    return {"recordings": len(known) - len(shared), "units": units}


def refuse_other_views(contenders: Sequence[Contender], shared: Collection[str], split: Split) -> None:
    """Refuse models that see a shared recording at other rates, or other trials of it.

    Raises
    ------
    ValueError
        Says which setting differs.
    """
    first, *others = contenders
    views = {c.name: c.datamodule.by_id for c in contenders}
    for rid, other in ((rid, other) for rid in shared for other in others):
        one, two = views[first.name][rid], views[other.name][rid]
        rates_hz = one.info.frame_rate_hz, two.info.frame_rate_hz
        if rates_hz[0] != rates_hz[1]:
            raise ValueError(
                f"recording {rid}: {first.name} sees it at {rates_hz[0]:g} Hz and {other.name} at {rates_hz[1]:g}, so "
                "they have no bins in common; compare models of one data.frame_rate_hz"
            )
        left_out = one.trials_left_out(split), two.trials_left_out(split)
        if left_out[0] != left_out[1]:
            raise ValueError(
                f"recording {rid}: {first.name} leaves out {left_out[0]} of its {split} trials and {other.name} "
                f"{left_out[1]}; give both the same with data.most_trials=null, or another number"
            )


def sums_of(
    contender: Contender,
    judge: Predictor,
    shared: Mapping[str, Sequence[str]],
    burn_in: int,
    split: Split,
    piece_s: float,
    device: str,
    progress: bool,
) -> tuple[dict[str, Sums], dict[str, dict[str, Any]]]:
    """Each shared recording's sums of its shared units, over the bins after a trial's first ``burn_in``; and its rates
    in a few seconds of them, by recording and name (:func:`rates_of`).

    ``judge`` is the model whose likelihood scores: the same for all contenders, because bits per spike under two
    likelihoods have two zeros.
    """
    by_id = contender.datamodule.by_id
    sums, rates = {}, {}
    for rid, own in contender.predictions(split, device, progress):
        refuse_broken(own, rid, f"{contender.name} ({contender.checkpoint})")
        if rid not in shared:
            continue
        info = by_id[rid].info
        columns = [info.unit_ids.index(unit) for unit in shared[rid]]
        trials = info.trials.of(split)
        use_N = own.bins_N >= trials.start[np.searchsorted(trials.start, own.bins_N, side="right") - 1] + burn_in
        kept = {name: getattr(own, name)[use_N][:, columns] for name in ("counts_NU", "valid_NU", "predicted_NU")}
        scored = replace(own, bins_N=own.bins_N[use_N], **kept)
        sums[rid] = sums_over_pieces(
            scorer_of(judge, rid, shared[rid]),
            by_id[rid],
            scored,
            {"": scored.predicted_NU},
            split=split,
            burn_in=burn_in,
            piece_s=piece_s,
            truth_NU=by_id[rid].truth_at(own.bins_N)[use_N][:, columns] if info.has_truth else None,
        )[""]
        if use_N.any():
            rates[rid], _ = rates_of(by_id[rid], scored, split)
    return sums, rates


def with_bins(found: Mapping[str, Mapping[str, Sums]], split: Split) -> list[str]:
    """The recordings of which every model has predicted a bin after the longest burn-in.

    Raises
    ------
    ValueError
        Where there is none, or the measured data differ.
    """
    first, *others = found.items()
    recordings = [rid for rid in first[1] if all(rid in own for _, own in others)]
    for rid in recordings:
        measured = first[1][rid].sums_KSU[:, DATA]
        for name, own in others:
            if not np.array_equal(measured, own[rid].sums_KSU[:, DATA]):
                raise ValueError(
                    f"recording {rid}: the {split} data of {first[0]} and of {name} differ, though they have one name; "
                    "give both the same files with data.recordings=[…]"
                )
    # Else the longest burn-in, or responses/valid, leaves no bin.
    scored = [rid for rid in recordings if first[1][rid].sums_KSU[:, BINS].any()]
    if not scored:
        raise ValueError(
            "the longest burn-in of these models (data.evaluation_burn_in) leaves no valid bin of "
            f"{', '.join(recordings or first[1])}"
        )
    return scored


def scores_of_pieces(scorer: Scorer, sums_KSU: np.ndarray) -> np.ndarray:
    """Each metric over all pieces, (M, U)."""
    return np.stack(list(scorer.scores(sums_KSU.sum(0)).by_name.values()))
