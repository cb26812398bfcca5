"""The configuration: where it lies, and what the keys may hold that no part and no task has for itself.

The types with bounds are those that signatures of tasks and of parts are written in.
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from omegaconf import OmegaConf

from vivit_core.parts.schema import NotNegative


class ConfigError(ValueError):
    """All problems of a configuration in one message."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the configuration has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


def refuse_fp16(precision: Any) -> Any:
    if str(precision) in ("16", "16-mixed", "16-true", "fp16", "float16"):
        raise ValueError(
            "half precision is refused, because spike counts' gradients under- and overflow its range; take bf16-mixed"
        )
    return precision


def refuse_auto_devices(devices: Any) -> Any:
    if devices in ("auto", -1):
        raise ValueError("say how many: a batch is shared among them, and a launcher asks the scheduler for as many")
    return devices


CountOrZero = Annotated[int, pydantic.Field(ge=0)]
TwoOrMore = Annotated[int, pydantic.Field(ge=2)]
Share = Annotated[float, pydantic.Field(gt=0, le=1)]
Unbounded = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=True)]  # all other numbers are finite
# What takes a Path, here, in a task or in a constructor, is a path: `~` in it is the home directory, and it is not
# empty.
PathName = str | Path
Precision = Annotated[Literal["32-true", "bf16-mixed"], pydantic.BeforeValidator(refuse_fp16)]


# The nodes without a _target_ ---------------------------------------------------------------------------------------
@dataclasses.dataclass(frozen=True)
class Budget:
    """How much training; see ``conf/trainer/auto.yaml`` for the units."""

    epochs: int
    steps_per_epoch: int
    batch_size: int
    accumulate: int
    precision: Precision
    max_minutes: Unbounded

    def __post_init__(self) -> None:
        for name in ("epochs", "steps_per_epoch", "batch_size", "accumulate", "max_minutes"):
            if not getattr(self, name) > 0:
                raise ValueError(f"trainer.{name}={getattr(self, name)} must be above zero")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The machine and the budget; null in a budget's field means what ``cpu`` or ``cuda`` says."""

    device: Literal["auto", "cpu", "cuda"]
    devices: Annotated[int, pydantic.BeforeValidator(refuse_auto_devices)]
    num_nodes: int
    gradient_clip: NotNegative
    deterministic: bool
    epochs: int | None
    steps_per_epoch: int | None
    batch_size: int | None
    accumulate: int | None
    precision: Precision | None
    max_minutes: Unbounded | None
    cpu: Budget
    cuda: Budget


@dataclasses.dataclass(frozen=True)
class EveryRun:
    """What every run has, and its :class:`vivit_core.cli.context.RunContext` offers. The rest is a task's own."""

    task: str
    seed: int
    outputs: PathName
    run_dir: PathName
    debug: bool
    packages: list[str]
    trainer: Trainer


# The other keys of conf/config.yaml, for any task that names them in its signature.
SHARED = frozenset(
    ("predict", "model", "baseline", "readout", "likelihood", "data", "optim", "callbacks", "logger", "importer")
)  # fmt: skip


# Where it lies ------------------------------------------------------------------------------------------------------
def conf_dir() -> Path:
    """The Hydra tree: inside the package where it was installed from a wheel, beside ``src`` in a checkout."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


# Two runs started in the same second must not share a folder; one process must see the same word each time it asks, as
# must the processes of one SLURM job.
OmegaConf.register_new_resolver(
    "unique", lambda: os.environ.get("SLURM_JOB_ID") or uuid.uuid4().hex[:6], use_cache=True, replace=True
)

# A value that may follow the recordings, until it does (vivit_core/cli/planned.py).
OmegaConf.register_new_resolver("planned", lambda value: value, replace=True)
