"""The configuration: where it lies, what it may hold, and what identifies it.

``validate`` compares each key and value of a composed configuration with its schema (``schema``), and reports all
problems at once, before anything is read.
"""

from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from omegaconf import OmegaConf

from vivit_core.parts.schema import MISSING, Node


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


Count = Annotated[int, pydantic.Field(gt=0)]


Positive = Annotated[float, pydantic.Field(gt=0)]


NotNegative = Annotated[float, pydantic.Field(ge=0)]


# All other numbers are finite.
Unbounded = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=True)]


# What takes a Path, here or in a constructor, is a path: `~` in it is the home directory, and it is not empty.
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
class Root:
    seed: int
    predict: Literal["all", "last"]
    outputs: PathName
    run_dir: PathName
    debug: bool
    model: Node
    readout: Node
    data: Node
    optim: Node
    trainer: Trainer
    callbacks: dict[str, Node | None]
    logger: dict[str, Node | None]
    task: Literal[
        "train", "evaluate", "compare", "receptive_fields", "tuning", "attention", "stream", "plan", "inspect", "import"
    ]  # fmt: skip
    baseline: Node | None = None
    importer: Node | None = None


@dataclasses.dataclass(frozen=True)
class Train(Root):
    resume: PathName | None = None
    init_from: PathName | None = None


@dataclasses.dataclass(frozen=True)
class Evaluate(Root):
    checkpoint: PathName = MISSING
    split: Literal["val", "test"] = "test"
    average: bool = False
    behavior_controls: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Root):
    checkpoints: list[PathName]
    names: list[str] | None
    split: Literal["val", "test"]
    resamples: int
    piece_s: Positive


@dataclasses.dataclass(frozen=True)
class Stream(Root):
    checkpoint: PathName = MISSING
    recording: str | None = None
    bins: int = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReceptiveFields(Root):
    checkpoint: PathName
    duration_s: float
    gradient_clips: int
    gradient_clip_s: float
    measured: bool | Literal["auto"]
    noise: Node | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(Root):
    checkpoint: PathName
    recording: str | None
    trial: int
    place: tuple[int, int] | None
    clips: Count
    heads: Count
    units: Count
    megabytes: Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Root):
    checkpoint: PathName
    gratings: Node
    mei: Node | None
    mei_units: int
    natural: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspect(Root):
    duration_s: Positive
    max_frames: Count


@dataclasses.dataclass(frozen=True)
class Import(Root):
    source: PathName = MISSING
    out: PathName = MISSING


ROOTS: dict[str, type[Root]] = {
    "train": Train,
    "evaluate": Evaluate,
    "receptive_fields": ReceptiveFields,
    "attention": Attention,
    "tuning": Tuning,
    "compare": Compare,
    "stream": Stream,
    "plan": Root,
    "inspect": Inspect,
    "import": Import,
}


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
