"""What models predict for a split, one recording at a time.

Shape letters: N scored bins of a recording, B clips, T bins of a clip, U units, D behavior numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

import numpy as np
import torch
from einops import rearrange

from vivit_core.analysis.attention.lesions import Lesioned
from vivit_core.analysis.behavior_controls import Control
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Split
from vivit_core.metrics.base import UnitMetric
from vivit_core.metrics.unit_scores import Scorer
from vivit_core.models.layers import evaluating
from vivit_core.models.predictor import Predictor
from vivit_core.names import few
from vivit_core.specs import Clips
from vivit_core.system.terminal import track


@dataclass
class Predictions:
    """What was measured and predicted in a split of one recording, in the order of time."""

    bins_N: np.ndarray  # frames of the recording
    counts_NU: np.ndarray
    valid_NU: np.ndarray
    predicted_NU: np.ndarray  # expected counts a bin, float32
    ln_NU: np.ndarray | None
    controls: dict[str, np.ndarray] = field(default_factory=dict)  # (N, U), as predicted, with another behavior
    lesions: dict[str, np.ndarray] = field(default_factory=dict)  # (N, U), as predicted without what attention finds
    observed_NU: np.ndarray | None = None  # as predicted where past counts are observed
    missing_behavior: float = 0.0  # share of the scored bins' numbers of behavior that were missing, at their mean


@torch.no_grad()
def predict_split(
    twin: Predictor,
    datamodule: RecordingsDataModule,
    *,
    ln: Predictor | None,
    split: Split,
    device: str,
    progress: bool,
    controls: Mapping[str, Control] | None = None,
    lesions: Mapping[str, Lesioned] | None = None,
    observing: bool = False,
    label: str = "evaluate",
) -> Iterator[tuple[str, Predictions]]:
    """Run the models over a split; recording by recording, every scored bin once, in the order of time.

    One recording's predictions are in memory at a time. No prediction knows what was counted, but those apart for which
    ``observing`` asks. Models are in evaluation meanwhile, also where one stops early.

    Parameters
    ----------
    twin, ln : the model, and the baseline beside it.
    datamodule : set up.
    split, device : what to score, and where to compute.
    progress : show a bar.
    controls : behaviors, by name, that the twin is shown instead of the animal's.
    lesions : the twin, by name, without something that its attention finds.
    observing : predict also with past counts observed; of a twin that ``observes``.
    label : of the bar.
    """
    models: list[Predictor] = [twin] if ln is None else [twin, ln]
    columns = {
        spec.recording_id: [unit_columns(model, spec.recording_id, spec.unit_ids) for model in models]
        for spec in datamodule.specs
    }
    controls, lesions = controls or {}, lesions or {}
    for model in models:
        model.to(device)
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {}
    baseline = ["ln"] if ln is not None else []
    kinds = {
        "baseline": baseline,
        "controls": list(controls),
        "lesions": list(lesions),
        "observed": ["own"] * observing,
    }
    loader = datamodule.evaluation_dataloader(split)
    with evaluating(*models):
        for batch in track(loader, f"{label} on {split}", total=len(loader), disable=not progress):
            for done in [name for name in parts if name not in batch]:
                yield done, assembled(parts.pop(done), kinds)
            for recording_id, clips in batch.items():
                seen = cast(Clips, {**clips, "behavior": clips["behavior"][clips["row"]]})
                behaviors = [seen["behavior"] for _ in models]
                behaviors += [torch.from_numpy(control(recording_id, seen)) for control in controls.values()]
                behaviors += [seen["behavior"] for _ in lesions]
                shown: list[Predictor | Lesioned] = [*models, *[twin] * len(controls), *lesions.values()]
                own = columns[recording_id] + [columns[recording_id][0]] * (len(controls) + len(lesions))
                score_BT = clips["score"]
                bins_BT = rearrange(clips["start"], "b -> b 1") + torch.arange(score_BT.shape[1])
                lost_BT = (~seen["behavior"].isfinite()).sum(-1) / max(1, seen["behavior"].shape[-1])
                collected = [bins_BT[score_BT], lost_BT[score_BT], clips["counts"][score_BT], clips["valid"][score_BT]]
                for each, behavior_BTD, units in zip(shown, behaviors, own, strict=True):
                    counts = predict_clips(each, recording_id, clips, behavior_BTD, device)[..., units]
                    collected.append(where_scored(each, counts, score_BT, recording_id))
                if observing:
                    units = columns[recording_id][0]
                    counts = predict_clips(twin, recording_id, clips, seen["behavior"], device, observed=units)
                    collected.append(where_scored(twin, counts[..., units], score_BT, recording_id))
                parts.setdefault(recording_id, []).append(tuple(x.numpy() for x in collected))
    for name, pieces in parts.items():
        yield name, assembled(pieces, kinds)


def predict_clips(
    model: Predictor | Lesioned,
    recording_id: str,
    clips: Clips,
    behavior_BTD: torch.Tensor,
    device: str,
    observed: Sequence[int] | None = None,
) -> torch.Tensor:
    """What a model predicts for each clip of an evaluation's batch, (B, T, U) or (B, U) float32, on the CPU.

    Clips with the same frames and the same behavior are predicted once. A pass has at most as many rows as the frames,
    so that another behavior for each repeat takes time but no more memory. ``observed`` says which of the model's units
    the counts are of, where it is to see them.
    """
    first: dict[tuple[int, bytes], int] = {}  # a row of the frames and a behavior -> the first clip that has them
    contents = [(row, x_TD.numpy().tobytes()) for row, x_TD in zip(clips["row"].tolist(), behavior_BTD, strict=True)]
    if observed is not None:  # each clip has counts of its own
        contents = [(row, str(number).encode()) for number, (row, _) in enumerate(contents)]
    for clip, content in enumerate(contents):
        first.setdefault(content, clip)
    passes = []
    for some in torch.tensor(list(first.values())).split(len(clips["frames"])):
        shown = Clips(frames=clips["frames"][clips["row"][some]].to(device), behavior=behavior_BTD[some].to(device))
        if observed is not None:
            shown |= counts_of_units(model, recording_id, clips, some, observed, device)
        passes.append(model({recording_id: shown})[recording_id].float().cpu())
    place = {content: number for number, content in enumerate(first)}
    return torch.cat(passes)[[place[content] for content in contents]]


def counts_of_units(
    model: Predictor | Lesioned,
    recording_id: str,
    clips: Clips,
    some: torch.Tensor,
    units: Sequence[int],
    device: str,
) -> Clips:
    """The counts of some clips in the order of the model's units; nothing is known of those that a recording lacks."""
    assert isinstance(model, Predictor)
    shape = (*clips["counts"][some].shape[:2], model.specs[recording_id].n_units)
    counts, valid = torch.zeros(shape), torch.zeros(shape, dtype=torch.bool)
    counts[..., units], valid[..., units] = clips["counts"][some], clips["valid"][some]
    everyone = torch.ones(len(some), shape[-1], dtype=torch.bool, device=device)
    return Clips(counts=counts.to(device), valid=valid.to(device), observed=everyone)


def where_scored(
    model: Predictor | Lesioned, counts: torch.Tensor, score_BT: torch.Tensor, recording_id: str
) -> torch.Tensor:
    """A model's counts (N, U) of the bins of clips that are scored; with ``predict="last"`` it has the newest alone."""
    if model.predict == "all":
        return counts[score_BT]
    if score_BT[:, :-1].any():
        raise ValueError(
            f"recording {recording_id}: this model predicts a clip's newest bin alone (predict=last), "
            "but clips are scored on more bins; set data.evaluation_burn_in to data.evaluation_length - 1"
        )
    return counts[score_BT[:, -1]]


def unit_columns(model: Predictor, recording_id: str, unit_ids: Sequence[str]) -> list[int]:
    """Where a recording's units stand among those the model knows under its id."""
    place = {unit: i for i, unit in enumerate(model.spec(recording_id).unit_ids)}
    missing = [unit for unit in unit_ids if unit not in place]
    if missing:
        raise ValueError(
            f"recording {recording_id}: the model does not know {len(missing)} of its {len(unit_ids)} units: "
            f"{few(missing)}; "
            "evaluate a recording of the units it was trained on"
        )
    return [place[unit] for unit in unit_ids]


def scorer_of(
    model: Predictor, recording_id: str, unit_ids: Sequence[str], metrics: Sequence[UnitMetric] | None = None
) -> Scorer:
    """Scores units of a recording by a model's likelihood of them; all metrics where it is not said which."""
    return Scorer(model.likelihood(recording_id).of_units(unit_columns(model, recording_id, unit_ids)).cpu(), metrics)


def assembled(pieces: Sequence[tuple[np.ndarray, ...]], kinds: Mapping[str, Sequence[str]]) -> Predictions:
    """One time line from the pieces of all batches; ``kinds`` names what follows the twin's own predictions."""
    bins_N, *values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(bins_N, kind="stable")
    assert (np.diff(bins_N[order]) > 0).all(), "a bin was scored twice"
    missing, counts, valid, predicted, *rest = (value[order] for value in values)
    others = iter(rest)
    found = {kind: dict(zip(names, others, strict=False)) for kind, names in kinds.items()}
    return Predictions(
        bins_N=bins_N[order],
        counts_NU=counts,
        valid_NU=valid,
        predicted_NU=predicted,
        ln_NU=found["baseline"].get("ln"),
        controls=found["controls"],
        lesions=found["lesions"],
        observed_NU=found["observed"].get("own"),
        missing_behavior=float(missing.mean()),
    )


def refuse_broken(found: Predictions, recording_id: str, model: str) -> None:
    """A model that predicts no numbers is no silent unit, which scores leave out.

    Raises
    ------
    ValueError
        Where a prediction is NaN or infinite; names the model and the recording, and says how many.
    """
    with_history = ("with past counts observed, ", found.observed_NU)
    for what, predicted in (("", found.predicted_NU), ("the LN baseline of ", found.ln_NU), with_history):
        if predicted is None or np.isfinite(predicted).all():
            continue
        broken = ~np.isfinite(predicted)
        raise ValueError(
            f"{what}{model}: {int(broken.sum())} of {broken.size} predictions for recording {recording_id} are NaN or "
            f"infinite, of {int(broken.any(0).sum())} of {broken.shape[1]} units: the training has diverged. "
            "Take an earlier checkpoint, or train with a lower optim.lr"
        )
