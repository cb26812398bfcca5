"""Tasks: found by their names, their arguments checked by their signatures.

A task is a function of its module's name, ``vivit_core.cli.tasks.NAME.NAME`` (``import_`` for ``import``, which Python
keeps for itself). It takes a :class:`vivit_core.cli.context.RunContext` and, by keyword, the settings that it uses: its
signature is the schema of ``conf/task/NAME.yaml``, which holds their values.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import keyword
import pkgutil
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from types import NoneType
from typing import Any

from vivit_core.cli.schema import SHARED, ConfigError, EveryRun
from vivit_core.names import nearest
from vivit_core.parts.build import build
from vivit_core.parts.groups import consented
from vivit_core.parts.schema import Node, adapter, alternatives, check_call, dataclass_in, takes_path, types_of

Task = Callable[..., float | None]

TASKS = "vivit_core.cli.tasks"


def task_named(name: str) -> Task:
    """The task of a name. Only its own module is imported, and what that needs.

    Of a package that the user consented to (:func:`vivit_core.parts.groups.consent`), ``PACKAGE.tasks.NAME`` may be
    taken; a name that is ours stays ours.

    Parameters
    ----------
    name : what ``task=`` says.

    Raises
    ------
    ConfigError
        Where there is no such task; names the nearest.
    """
    places = [TASKS, *(f"{package}.tasks" for package in consented())]
    found = {word: place for place in reversed(places) for word in names_in(place)}
    if name not in found:
        close = nearest(name, found)
        hint = f"did you mean task={close}?" if close else f"there are {', '.join(sorted(found))}"
        raise ConfigError([f"task={name} does not exist; {hint}"])
    word = f"{name}_" if keyword.iskeyword(name) else name
    module = import_module(f"{found[name]}.{word}")
    task: Task | None = getattr(module, word, None)
    if task is None:
        raise ConfigError([f"task={name}: {module.__name__} has no function {word}; a task is a function of its name"])
    return task


def names_in(place: str) -> list[str]:
    """The names of the tasks in a package; none where there is no such package."""
    try:
        spec = find_spec(place)
    except ModuleNotFoundError:
        spec = None
    folders = spec.submodule_search_locations if spec is not None else None
    return sorted(module.name.removesuffix("_") for module in pkgutil.iter_modules(folders or []))


def score_of(task: Task, settings: Mapping[str, Any]) -> str | None:
    """Which number a task returns, for a sweep to maximize: its module's ``SCORE``, filled in from the settings; None
    where it returns none."""
    pattern: str | None = getattr(sys.modules[task.__module__], "SCORE", None)
    return pattern.format_map(settings) if pattern is not None else None


def follows_recordings(task: Task) -> bool:
    """Whether settings follow the recordings of ``data`` before the task (:mod:`vivit_core.cli.planned`): its module
    says ``FOLLOWS_RECORDINGS = True``. Else, as where a checkpoint knows them, they are those of ``conf``."""
    return getattr(sys.modules[task.__module__], "FOLLOWS_RECORDINGS", False) is True


def arguments_in(task: Task) -> dict[str, Any]:
    """The settings that a task takes: name -> type."""
    parameters, hints = inspect.signature(task).parameters, types_of(task)
    return {name: hints[name] for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY}


def root_of(task: Task) -> type[Any]:
    """The schema of a whole configuration: the task's arguments beside what every run has."""
    own, every = arguments_in(task), types_of(EveryRun)
    fields: list[Any] = [(field.name, every[field.name]) for field in dataclasses.fields(EveryRun)]
    for name, hint in own.items():
        # A group of which nothing is chosen has no key.
        left_out = name in SHARED and NoneType in alternatives(hint)
        fields.append((name, hint, dataclasses.field(default=None)) if left_out else (name, hint))
    return dataclasses.make_dataclass(f"task={task.__name__.removesuffix('_')}", fields, kw_only=True)


def checked(task: Task, settings: Mapping[str, Any]) -> dict[str, Any]:
    """The part of a configuration that a task uses.

    What only other tasks use is not looked at: to check a training's callbacks is to import what trains.

    Raises
    ------
    ConfigError
        Names every unknown key, every missing one and every value of a wrong type.
    """
    unused = SHARED.difference(arguments_in(task))
    used = {key: value for key, value in settings.items() if key not in unused}
    if problems := list(check_call("", root_of(task), used)):
        raise ConfigError(problems)
    return used


def paths_in(task: Task) -> list[str]:
    """The settings of a task that are paths."""
    return [name for name, hint in arguments_in(task).items() if takes_path(hint)]


def call(task: Task, context: Any, settings: Mapping[str, Any]) -> float | None:
    """Run a task with checked settings."""
    given = {name: argument(name, settings.get(name), hint) for name, hint in arguments_in(task).items()}
    return task(context, **given)


def argument(name: str, value: Any, hint: Any) -> Any:
    """A checked setting as a task takes it: a word as a path, a list as a tuple, a node with a ``_target_`` as what it
    describes. Where the signature says ``Node``, the node stays one, because the task knows sizes that it needs."""
    if isinstance(value, Mapping) and "_target_" in value:
        return value if Node in alternatives(hint) else build(name, value)
    if isinstance(value, Mapping) and dataclass_in(hint) is None:
        return value
    if value is None:
        return None
    return adapter(hint).validate_json(json.dumps(value), strict=True)
