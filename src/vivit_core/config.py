"""The configuration: where it lies, what it may hold, and what identifies it.

The signature of a ``_target_`` *is* its schema: names, types and defaults stand in one place, the constructor.
``validate`` compares each key and value of a composed configuration with it, and reports all problems at once, before
anything is read.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import inspect
import json
import os
import types
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

MISSING = "???"
HYDRA_KEYS = {"_target_", "_convert_", "_recursive_", "_partial_"}

# What code passes when it makes a part, because only the data or the enclosing part knows it; by the part's key.
GIVEN: dict[str, set[str]] = {
    "model": {"in_channels", "recordings", "predict"},
    "model.tokenizer": {"in_channels", "dim"},
    "model.tokenizer.stem": {"in_channels", "dim", "patch_size"},
    "model.attention": {"dim"},
    "model.frontend": {"in_channels"},
    "model.modulator": {"channels", "behavior_dim", "stride"},
    "baseline": {"recordings", "predict"},
    "readout": {"channels", "frame_size", "mean_counts"},
}


class ConfigError(ValueError):
    """All problems of a configuration in one message."""

    def __init__(self, problems: list[str]) -> None:
        self.problems = problems
        count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
        super().__init__(f"the configuration has {count}:\n" + "\n".join(f"  - {p}" for p in problems))


class Node(dict[str, Any]):
    """In a schema: a node with a ``_target_``, whose schema is the target's signature."""


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
    max_minutes: float

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
    max_minutes: float | None
    cpu: Budget
    cuda: Budget


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What ``task=plan`` takes for granted of the recordings, so that it need not read them."""

    frame_shape: tuple[int, int, int]  # channels, height, width
    frame_rate_hz: float
    recordings: int
    units: int  # of each recording
    behavior: dict[str, int]  # numbers of each behaviour, by name


@dataclasses.dataclass(frozen=True)
class Root:
    seed: int
    predict: Literal["all", "last"]
    outputs: str
    run_dir: str
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
    resume: str | None = None
    init_from: str | None = None


@dataclasses.dataclass(frozen=True)
class Evaluate(Root):
    checkpoint: str = MISSING
    split: Literal["val", "test"] = "test"
    average: bool = False
    behavior_controls: bool = False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compare(Root):
    checkpoints: list[str]
    names: list[str] | None
    split: Literal["val", "test"]
    resamples: int
    piece_s: Positive


@dataclasses.dataclass(frozen=True)
class Stream(Root):
    checkpoint: str = MISSING
    recording: str | None = None
    bins: int = 300


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReceptiveFields(Root):
    checkpoint: str
    duration_s: float
    gradient_clips: int
    gradient_clip_s: float
    measured: bool | Literal["auto"]
    noise: Node | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attention(Root):
    checkpoint: str
    recording: str | None
    trial: int
    place: tuple[int, int] | None
    clips: Count
    heads: Count
    units: Count
    megabytes: Positive


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning(Root):
    checkpoint: str
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
    source: str = MISSING
    out: str = MISSING


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
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parents[1] / "conf"


# Two runs started in the same second must not share a folder; one process must see the same word each time it asks, as
# must the processes of one SLURM job.
OmegaConf.register_new_resolver(
    "unique", lambda: os.environ.get("SLURM_JOB_ID") or uuid.uuid4().hex[:6], use_cache=True, replace=True
)


# What it may hold ---------------------------------------------------------------------------------------------------


def plain(cfg: DictConfig) -> dict[str, Any]:
    """The composed configuration as plain dicts, lists and numbers, all references resolved.

    Raises
    ------
    ConfigError
        Where a reference leads nowhere.
    """
    try:
        container = OmegaConf.to_container(cfg, resolve=True)
    except OmegaConfBaseException as error:
        raise ConfigError([f"{error.full_key or 'a key'}: {str(error).splitlines()[0]}"]) from error
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def validate(cfg: DictConfig) -> dict[str, Any]:
    """Check every key and every value; returns the plain configuration.

    Raises
    ------
    ConfigError
        Names every unknown key, every missing one and every value of a wrong type.
    """
    container = plain(cfg)
    root = ROOTS.get(str(container.get("task")), Root)
    problems = list(check_call("", root, container))
    if problems:
        raise ConfigError(problems)
    return container


def check_call(path: str, target: Callable[..., Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Problems of ``values`` as the arguments of ``target``; ``path`` is the node's key."""
    parameters = dict(inspect.signature(target).parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    parameters = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    hints = types_of(target)
    given = GIVEN.get(path, set())
    extra = of_the_twin(path, parameters)
    known = (set(parameters) | set(extra)) - given

    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if key in HYDRA_KEYS:
            continue
        if key in given and key in parameters:
            yield f"{where} is not yours to set: the program knows it from the data or from the enclosing part"
        elif key not in known:
            if not takes_any:
                yield f"{where} does not exist{suggestion(path, key, known)}"
        else:
            yield from check_value(where, value, extra.get(key, hints.get(key, Any)))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values and name not in given:
            yield f"{f'{path}.{name}' if path else name} is missing: {name_of(target)} needs it"


def of_the_twin(path: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that stand in a node for another part's sake: the twin's beside the core's, the plan's beside the data's."""
    if path == "model" and "in_channels" in parameters:
        return {"modulator": Node | None, "frame_size": list[int] | None}
    if path == "data":
        return {"geometry": Geometry}
    return {}


def check_value(path: str, value: Any, hint: Any) -> Iterator[str]:
    if value == MISSING:
        yield f"{path} has no value; say {path}=…"
    elif isinstance(value, Mapping) and "_target_" in value:
        try:
            target = locate(value["_target_"])
        except ValueError as error:
            yield f"{path}._target_: {error}"
        else:
            yield from check_call(path, target, value)
    elif isinstance(value, Mapping) and (schema := dataclass_in(hint)) is not None:
        yield from check_call(path, schema, value)
    elif isinstance(value, Mapping) and Node in alternatives(hint):
        yield f"{path} needs a _target_, and has {sorted(value)}"
    elif isinstance(value, Mapping) and (inner := values_of(hint)) is not None:
        for key, member in value.items():
            yield from check_value(f"{path}.{key}", member, inner)
    else:
        yield from check_leaf(path, value, hint)


def check_leaf(path: str, value: Any, hint: Any) -> Iterator[str]:
    """Strict: no word for a number, no fraction for an integer, no truth value for either."""
    try:
        # As JSON, because there a list may stand for a tuple and a word for a path, as in YAML.
        adapter(hint).validate_json(json.dumps(value), strict=True)
    except pydantic.errors.PydanticUserError:
        if value is not None and not isinstance(value, str | int | float | bool | list | dict):
            raise  # a type that YAML cannot hold: our own mistake
    except pydantic.ValidationError as error:
        refused = [str(e["ctx"]["error"]) for e in error.errors() if e["type"] == "value_error"]
        wanted = " or ".join(dict.fromkeys(str(e["msg"]).removeprefix("Input should be ") for e in error.errors()))
        yield f"{path}={json.dumps(value, ensure_ascii=False)} " + (
            f"does not work: {refused[0]}" if refused else f"should be {wanted}"
        )


@cache
def adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    return pydantic.TypeAdapter(hint)


def locate(target: str) -> Callable[..., Any]:
    """The class or function named ``package.module.Name``; ValueError where there is none."""
    module_name, _, name = str(target).rpartition(".")
    try:
        found = getattr(import_module(module_name), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"there is no {target!r} ({error})") from error
    if not callable(found):
        raise ValueError(f"{target!r} cannot be called")
    return typing.cast(Callable[..., Any], found)


@cache
def types_of(target: Callable[..., Any]) -> dict[str, Any]:
    """The resolved types of a constructor's, or a function's, arguments."""
    try:
        return typing.get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    except NameError:
        # Others' annotations may name what they import for type checkers alone: then names are checked, not types.
        if target.__module__.startswith("vivit_core."):
            raise
        return {}


def alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def dataclass_in(hint: Any) -> type | None:
    return next((a for a in alternatives(hint) if isinstance(a, type) and dataclasses.is_dataclass(a)), None)


def values_of(hint: Any) -> Any:
    """The schema of a ``dict``'s values, else None."""
    return next((typing.get_args(a)[1] for a in alternatives(hint) if typing.get_origin(a) is dict), None)


def suggestion(path: str, key: str, known: set[str]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    prefix = f"{path}." if path else ""
    return (
        f"; did you mean {prefix}{close[0]}?"
        if close
        else f"; {path or 'the root'} has {', '.join(sorted(known)) or 'no settings'}"
    )


def name_of(target: Callable[..., Any]) -> str:
    return getattr(target, "__name__", str(target))


# What identifies it -------------------------------------------------------------------------------------------------


def relocated(container: Mapping[str, Any], run_dir: str) -> dict[str, Any]:
    """The same configuration with its files in another run folder."""
    old = str(container["run_dir"])

    def move(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: move(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [move(inner) for inner in value]
        if isinstance(value, str) and (value == old or value.startswith(old + "/")):
            return run_dir + value[len(old) :]
        return value

    return {key: move(value) for key, value in container.items()}


def fingerprint(container: Mapping[str, Any]) -> str:
    """A hash of the settings that decide what a training computes: not the folder, the loggers, ``resume``."""
    deciding = {k: v for k, v in relocated(container, "").items() if k not in ("outputs", "resume", "debug", "logger")}
    return hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()[:16]
