"""Nodes, checked against the signatures of what they name.

The signature of a ``_target_`` *is* its schema: names, types and defaults stand in one place, the constructor. What
comes from a command line and what comes from a file is checked alike, by :func:`check_call`; only classes that
``groups`` lists are looked at.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import pydantic

from vivit_core.names import nearest
from vivit_core.parts.groups import BESIDE_THE_CORE, class_of, given, group_of

MISSING = "???"


LAST_SEED = 2**32 - 1  # numpy's; it holds for every key named `seed`


LONGEST_SHOWN = 200  # characters of a refused value in a message


# Types with bounds, for the signatures of parts; those that only tasks use are in vivit_core.cli.schema.
Count = Annotated[int, pydantic.Field(gt=0)]
Positive = Annotated[float, pydantic.Field(gt=0)]
NotNegative = Annotated[float, pydantic.Field(ge=0)]
SplitFraction = Annotated[float, pydantic.Field(ge=0, lt=1)]  # some is left for training


def two_sides(size: list[int]) -> list[int]:
    if len(size) != 2 or min(size) < 1:
        raise ValueError("give two numbers above 0, [height,width] in px, or null")
    return size


FrameSize = Annotated[list[int], pydantic.AfterValidator(two_sides)]


class Node(dict[str, Any]):
    """In a schema: a node with a ``_target_``, whose schema is the target's signature."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What ``task=plan`` takes for granted of recordings that are not there yet."""

    frame_shape: tuple[Count, Count, Count]  # channels, height, width
    frame_rate_hz: Positive
    recordings: Count
    units: Count  # of each recording
    behavior: dict[str, int]  # numbers of each behavior, by name
    position_dim: int  # numbers of a unit's position in the tissue; 0 where it is not known


def problems_of(path: str, node: Any) -> list[str]:
    """All that is wrong with the node of a part, ``path`` being its key."""
    return list(check_value(path, node, Node))


def check_call(path: str, target: Callable[..., Any], values: Mapping[str, Any]) -> Iterator[str]:
    """Problems of ``values`` as the arguments of ``target``; ``path`` is the node's key."""
    parameters = dict(inspect.signature(target).parameters)
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    parameters = {n: p for n, p in parameters.items() if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL)}
    hints = types_of(target)
    by_code = given(path)
    extra = of_the_twin(path, parameters)
    known = (set(parameters) | set(extra)) - by_code

    for key, value in values.items():
        where = f"{path}.{key}" if path else key
        if key == "_target_":
            continue
        if key in by_code and key in parameters:
            yield f"{where} is not yours to set: the program knows it from the data or from the enclosing part"
        elif key not in known:
            if not takes_any:
                yield f"{where} does not exist{suggestion(path, key, known)}"
        else:
            yield from check_value(where, value, extra.get(key, hints.get(key, Any)))
    for name, parameter in parameters.items():
        if parameter.default is parameter.empty and name not in values and name not in by_code:
            yield f"{f'{path}.{name}' if path else name} is missing: {name_of(target)} needs it"


def of_the_twin(path: str, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Keys that stand in a node for another part's sake: the twin's beside the core's, the plan's beside the data's."""
    if path == "model" and "in_channels" in parameters:
        return {**dict.fromkeys(BESIDE_THE_CORE, Node | None), "frame_size": FrameSize | None}
    if path == "data":
        return {"geometry": Geometry}
    return {}


def check_value(path: str, value: Any, hint: Any) -> Iterator[str]:
    if value == MISSING:
        yield f"{path} has no value; say {path}=…"
    elif group_of(path) is not None and not isinstance(value, Mapping):
        if value is not None or type(None) not in alternatives(hint):
            yield f"{path}={shown(value)} is no part; give it a _target_ with its arguments"
    elif isinstance(value, Mapping) and "_target_" in value:
        try:
            target = class_of(path, value["_target_"])
        except ValueError as error:
            yield f"{path}._target_: {error}"
        else:
            yield from check_call(path, target, value)
    elif isinstance(value, Mapping) and group_of(path) is not None:
        yield f"{path} needs a _target_, and has {sorted(value)}"
    elif isinstance(value, Mapping) and (schema := dataclass_in(hint)) is not None:
        yield from check_call(path, schema, value)
    elif isinstance(value, Mapping) and (inner := values_of(hint)) is not None:
        for key, member in value.items():
            yield from check_value(f"{path}.{key}", member, inner)
    elif any(True for _ in targets_in(value)):
        yield f"{path} has a _target_ where there is no part to choose"
    else:
        yield from check_leaf(path, value, hint)


def targets_in(value: Any) -> Iterator[Mapping[str, Any]]:
    """The nodes with a ``_target_`` at or below a value."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            yield value
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            yield from targets_in(inner)


def check_leaf(path: str, value: Any, hint: Any) -> Iterator[str]:
    """Strict: no word for a number, no fraction for an integer, no truth value for either, no number that is none."""
    seed = path.rsplit(".", 1)[-1] == "seed" and isinstance(value, int) and not isinstance(value, bool)
    if seed and not 0 <= value <= LAST_SEED:
        yield f"{path}={shown(value)} must be 0 … {LAST_SEED}"
        return
    if "" in (value if isinstance(value, list) else [value]) and takes_path(hint):
        yield f"{path} is empty; give a path" + (", or null" if types.NoneType in alternatives(hint) else "")
        return
    try:
        # As JSON, because there a list may stand for a tuple and a word for a path, as in YAML.
        adapter(hint).validate_json(json.dumps(value), strict=True)
    except pydantic.errors.PydanticUserError:
        if value is not None and not isinstance(value, str | int | float | bool | list | dict):
            raise  # a type that YAML cannot hold: our own mistake
        # Of others' classes pydantic knows nothing, but a plain value is no dict of them.
        beside = [a for a in alternatives(hint) if typing.get_origin(a) is not dict]
        dict_or_null = values_of(hint) is not None and set(beside) <= {types.NoneType}
        if dict_or_null and (value is not None or not beside):
            yield f"{path}={shown(value)} should be an object"
    except pydantic.ValidationError as error:
        refused = [str(e["ctx"]["error"]) for e in error.errors() if e["type"] == "value_error"]
        wanted = " or ".join(dict.fromkeys(str(e["msg"]).removeprefix("Input should be ") for e in error.errors()))
        wanted = wanted.replace("a valid array", "a list")
        listed = isinstance(value, str | int | float) and "a list" in wanted
        wanted += f"; for one member write {path}=[{value}]" if listed else ""
        yield f"{path}={shown(value)} " + (f"does not work: {refused[0]}" if refused else f"should be {wanted}")


def shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}…"


@cache
def adapter(hint: Any) -> pydantic.TypeAdapter[Any]:
    # pydantic takes no further settings beside a dataclass, which has its own
    settings = None if dataclass_in(hint) is not None else pydantic.ConfigDict(allow_inf_nan=False)
    return pydantic.TypeAdapter(hint, config=settings)


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


def takes_path(hint: Any) -> bool:
    """Whether a value of this type, or a member of its list, is a path."""
    lists = [typing.get_args(a)[0] for a in alternatives(hint) if typing.get_origin(a) is list]
    return Path in (*alternatives(hint), *(a for member in lists for a in alternatives(member)))


def dataclass_in(hint: Any) -> type | None:
    return next((a for a in alternatives(hint) if isinstance(a, type) and dataclasses.is_dataclass(a)), None)


def values_of(hint: Any) -> Any:
    """The schema of a ``dict``'s values, else None."""
    return next((typing.get_args(a)[1] for a in alternatives(hint) if typing.get_origin(a) is dict), None)


def suggestion(path: str, key: str, known: set[str]) -> str:
    close = nearest(key, known)
    prefix = f"{path}." if path else ""
    return (
        f"; did you mean {prefix}{close}?"
        if close
        else f"; {path or 'the root'} has {', '.join(sorted(known)) or 'no settings'}"
    )


def name_of(target: Callable[..., Any]) -> str:
    return getattr(target, "__name__", str(target))
