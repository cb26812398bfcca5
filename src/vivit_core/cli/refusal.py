"""Settings that cannot go together are refused before recordings are read or simulated, which may take hours.

Every task can ask: nothing here imports what trains.
"""

from __future__ import annotations

from collections.abc import Iterable

from vivit_core.data.augmentation import CutMix
from vivit_core.data.recording.format import POSITION, RecordingInfo
from vivit_core.data.transforms import TargetTransform
from vivit_core.models.predictor import Predict
from vivit_core.parts.groups import class_of
from vivit_core.parts.schema import Node
from vivit_core.specs import RecordingError


def refuse_settings(predict: Predict, model: Node, data: Node) -> None:
    """Refuse what settings alone tell cannot be trained.

    Raises
    ------
    ValueError
        With a remedy.
    """
    check_scorable(predict, data)
    refuse_smoothed(model, data)
    refuse_mixed_places(model, data)


def check_scorable(predict: Predict, data: Node) -> None:
    """A twin that predicts a window's newest bin alone must not learn that at its first validation."""
    length, burn_in, clip = data["evaluation_length"], data["evaluation_burn_in"], data["clip_length"]
    if predict == "last" and (length is None or burn_in != length - 1):
        raise ValueError(
            "predict=last predicts the newest bin of a window alone, so windows score one bin each: set "
            f"data.evaluation_length={clip} data.evaluation_burn_in={clip - 1} (they are {length} and {burn_in})"
        )


def refuse_smoothed(model: Node, data: Node) -> None:
    """Past counts that a transform has smoothed would tell of the bins that are to be predicted, or be others than
    those that an evaluation observes."""
    if model.get("history") is None:
        return
    for name, node in (data.get("transforms") or {}).items():
        if node and issubclass(class_of(f"data.transforms.{name}", node["_target_"]), TargetTransform):
            raise ValueError(
                f"data.transforms.{name} changes the responses that training aims at, and model.history sees them: "
                f"set model/history=none, or leave the transform out by data.transforms.{name}=null"
            )


def refuse_mixed_places(model: Node, data: Node) -> None:
    """A shifter moves a whole frame by its eye position. A frame that is mixed of two clips would need two, and has the
    mean of both, by which neither part lies where it ought to."""
    node = data.get("augmentation")
    if model.get("shifter") is None or node is None:
        return
    if issubclass(class_of("data.augmentation", node["_target_"]), CutMix) and node["space"]:
        raise ValueError(
            "data.augmentation.space=true mixes frames of two eye positions, and model.shifter moves the whole frame "
            "by their mean: set data.augmentation.space=false (data.augmentation.time=true cuts stretches of bins), or "
            "model/shifter=none"
        )


def check_positions(readout: Node, infos: Iterable[RecordingInfo]) -> None:
    """Refuse a recording that does not say where its units lie, where the readout is made of that.

    Raises
    ------
    RecordingError
        Names the file.
    """
    for info in infos if class_of("readout", readout["_target_"]).needs_positions else ():
        if not info.position_dim:
            raise RecordingError(
                info.path,
                f"units/{POSITION}",
                "missing, and this readout predicts from it where units look",
                "Write it, (units, 2 or 3) micrometers (unit_position_um with importer=arrays), or take "
                "readout=gaussian",
            )
