"""What a training takes from the checkpoint that it continues: checked before Lightning takes it over.

Lightning sets whatever a checkpoint says as the state of the optimizer, the schedule and the callbacks, and one of
those deletes files by the names that it finds there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback
from torch import Tensor

from vivit_core.models.checkpoint import refused
from vivit_core.models.load import check_description, weights_in
from vivit_core.system.plain import in_a_line
from vivit_core.training.module import TwinModule

KEPT_FILES = ("best_model_path", "kth_best_model_path", "last_model_path")


def check_restorable(path: Path, content: Mapping[str, Any], module: TwinModule) -> None:
    """Compare the state of a training with that of the module which is to continue it.

    Raises
    ------
    ValueError
        Where weights, moments or the schedule have other shapes or kinds, are not finite, or a callback's files lie
        outside of the checkpoint's folder.
    """
    check_description(path, content, content["twin"], weights_in(content["state_dict"]))
    optimizer, schedule = module.optimization.build(module.twin, module.epochs, module.steps_per_epoch, module.scaled)
    try:
        for name, state in dict(content["callbacks"]).items():
            if str(name).startswith("ModelCheckpoint"):
                check_files(state)
        (moments,) = content["optimizer_states"]
        parameters = [p for own in optimizer.param_groups for p in own["params"]]
        for index, own in dict(moments["state"]).items():
            for key, value in dict(own).items():
                shape = () if key == "step" else parameters[index].shape
                if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
                    raise ValueError(f"the optimizer's {str(key)[:40]} of parameter {index} has another shape")
                if not value.isfinite().all():
                    raise ValueError(f"the optimizer's {str(key)[:40]} of parameter {index} is not finite")
        check_form("param_groups", moments["param_groups"], optimizer.state_dict()["param_groups"])
        (course,) = content["lr_schedulers"]
        own_course = schedule.state_dict()
        check_form("lr_schedulers", {key: course[key] for key in own_course}, own_course)
        if strange := sorted(set(course) - set(own_course)):
            raise ValueError(f"the schedule has no {', '.join(strange)[:100]}")
    except Exception as error:  # a state that was tampered with can be anything
        raise refused(
            path, content, f"this training cannot be continued from it ({type(error).__name__}: {in_a_line(error)})"
        ) from error


def check_files(state: Mapping[str, Any]) -> None:
    """Refuse names of files outside of the checkpoints' folder, because they are deleted when better ones come."""
    folder = Path(state["dirpath"])
    for name in (*(state.get(key, "") for key in KEPT_FILES), *state.get("best_k_models", {})):
        if name and (Path(name).parent != folder or not name.endswith(".ckpt") or Path(name).name == ".ckpt"):
            raise ValueError(
                f"it would delete {str(name)[:100]!r}, which lies outside of its folder {str(folder)[:100]!r}"
            )


def check_form(where: str, value: Any, own: Any) -> None:
    """Refuse a value that has another structure or other kinds of values than our own one."""
    number = (int, float)
    if isinstance(own, Mapping) and isinstance(value, Mapping) and value.keys() == own.keys():
        for key in own:
            check_form(f"{where}.{key}", value[key], own[key])
    elif isinstance(own, list | tuple) and isinstance(value, list | tuple) and len(own) == len(value):
        for i, (inner, mine) in enumerate(zip(value, own, strict=True)):
            check_form(f"{where}.{i}", inner, mine)
    elif type(value) is not type(own) and not (type(value) in number and type(own) in number):
        raise ValueError(
            f"{where} is {in_a_line(ValueError(value), 40)}, where {in_a_line(ValueError(own), 40)} belongs"
        )


class Begun(Callback):
    """Whether the training has taken over its state and begun."""

    def __init__(self) -> None:
        self.begun = False

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.begun = True


@contextmanager
def restoring(path: Path | None, content: Mapping[str, Any] | None, begun: Begun) -> Iterator[None]:
    """A training that continues from a checkpoint: what fails before its first step is the checkpoint's fault."""
    try:
        yield
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        if path is None or content is None or begun.begun:
            raise
        raise refused(
            path, content, f"this training cannot be continued from it ({type(error).__name__}: {in_a_line(error)})"
        ) from error
