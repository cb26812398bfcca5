"""The one function that makes objects from plain nodes, ``{"_target_": "package.module.Class", …}``.

Command lines, configurations and checkpoints are all built here, after the same check (``schema``), from the classes
that their group may name (``groups``). A file can therefore choose among parts and give them numbers, and can do no
more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vivit_core.parts.groups import class_of, given
from vivit_core.parts.schema import problems_of


def build(path: str, node: Mapping[str, Any], **sizes: Any) -> Any:
    """Make what a node describes; lists and dicts in it stay plain, the nodes in them become parts too.

    Parameters
    ----------
    path : the node's key in the configuration, dotted, which says what it may be (``model``, ``data.simulator``).
    node : its class under ``_target_``, and the arguments.
    sizes : the arguments that only the caller knows (``groups.GROUPS`` lists them).

    Raises
    ------
    ValueError
        Where it names a class of another kind, an unknown argument or a value of a wrong type, or lacks one; and what
        the class itself refuses.
    """
    return part(path, node)(**sizes)


def build_data(node: Mapping[str, Any]) -> Any:
    """The data module of a ``data`` node. Its geometry says what recordings are planned for before there are any."""
    return build("data", {key: value for key, value in node.items() if key != "geometry"})


def build_all(path: str, nodes: Mapping[str, Mapping[str, Any] | None]) -> dict[str, Any]:
    """What a dict of nodes describes, by name; what is null is left out."""
    return {name: build(f"{path}.{name}", node) for name, node in nodes.items() if node is not None}


def part(path: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    """The constructor of what a node describes, with the node's arguments filled in: it takes the sizes that only the
    caller knows."""
    problems = problems_of(path, node)
    if problems:
        raise ValueError("; ".join(problems))
    return _part(path, node)


def _part(path: str, node: Mapping[str, Any]) -> Callable[..., Any]:
    arguments = {key: _made(f"{path}.{key}", value) for key, value in node.items() if key != "_target_"}
    constructor: Callable[..., Any] = class_of(path, node["_target_"])
    return partial(constructor, **arguments)


def _made(path: str, value: Any) -> Any:
    """A value with the nodes in it made; one that its enclosing part gives sizes to stays a constructor."""
    if isinstance(value, Mapping):
        if "_target_" in value:
            return _part(path, value) if given(path) else _part(path, value)()
        return {key: _made(f"{path}.{key}", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_made(path, inner) for inner in value]
    return value
