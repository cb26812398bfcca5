"""Which classes a node's ``_target_`` may name: those of its group, and nothing else that can be called.

Nodes come from command lines, but also from files that somebody else wrote. So a name is looked up in the list before
anything is imported, and what is found must be a class of its group's kind. This is the one place that says what may be
built. Other packages' classes may be named within :func:`consent`, which is where the user says so.
"""

from __future__ import annotations

import importlib.metadata
import inspect
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Group:
    """The classes that one key of the configuration may name.

    Attributes
    ----------
    within : modules and packages in which they lie.
    kinds : dotted names of their base classes; no base class beside them counts.
    given : arguments that code passes when it makes one, because only the data or the enclosing part knows them. A node
        within another one becomes a constructor that still takes them (``functools.partial``).
    """

    within: tuple[str, ...]
    kinds: tuple[str, ...]
    given: frozenset[str] = frozenset()


def group(within: str, kinds: str, given: str = "") -> Group:
    return Group(tuple(within.split()), tuple(kinds.split()), frozenset(given.split()))


# By the node's key; * stands for any one word. Lightning's own classes belong to no part that comes from a file.
GROUPS: dict[str, Group] = {
    "predictor": group("vivit_core.models", "vivit_core.models.predictor.Predictor"),
    "model": group(
        "vivit_core.models",
        "vivit_core.models.cores.base.Core vivit_core.models.predictor.Predictor",
        "in_channels recordings predict",
    ),
    "model.tokenizer": group("vivit_core.models", "vivit_core.models.tokenizers.base.Tokenizer", "in_channels dim"),
    "model.tokenizer.stem": group(
        "vivit_core.models", "vivit_core.models.tokenizers.base.Tokenizer", "in_channels dim patch_size"
    ),
    "model.attention": group("vivit_core.models", "vivit_core.models.attention.base.Attention", "dim mask"),
    "model.frontend": group("vivit_core.models", "vivit_core.models.frontends.base.Frontend", "in_channels"),
    "model.energy": group(
        "vivit_core.models", "vivit_core.models.energy.OrientedEnergy", "in_channels patch_size token_stride"
    ),
    "model.modulator": group(
        "vivit_core.models", "vivit_core.models.modulators.base.Modulator", "channels behavior_dim stride"
    ),
    "model.own_filter": group("vivit_core.models", "vivit_core.models.own_filter.OwnFilters", "spec"),
    "model.history": group("vivit_core.models", "vivit_core.models.histories.base.History", "mean_counts"),
    "model.latent": group("vivit_core.models", "vivit_core.models.latents.base.Latent", "mean_counts"),
    "model.shifter": group("vivit_core.models", "vivit_core.models.shifters.base.Shifter", "numbers"),
    "baseline": group("vivit_core.models", "vivit_core.models.predictor.Predictor", "recordings predict"),
    "readout": group(
        "vivit_core.models", "vivit_core.models.readouts.base.Readout", "channels frame_size mean_drive position_um"
    ),
    "likelihood": group("vivit_core.models", "vivit_core.models.likelihoods.base.Likelihood", "mean_counts"),
    "data": group("vivit_core.data", "vivit_core.data.datamodule.RecordingsDataModule"),
    "data.simulator": group("vivit_core.data.simulate", "vivit_core.data.simulate.simulate.Simulator"),
    "data.simulator.context": group("vivit_core.data.simulate", "vivit_core.data.simulate.context.Context"),
    "data.simulator.eye_tracker": group("vivit_core.data.simulate", "vivit_core.data.simulate.eye_tracker.EyeTracker"),
    "data.transforms.*": group("vivit_core.data.transforms", "vivit_core.data.transforms.Transform"),
    "data.augmentation": group("vivit_core.data.augmentation", "vivit_core.data.augmentation.Augmentation"),
    "optim": group("vivit_core.training.optim", "vivit_core.training.optim.Optimization"),
    "callbacks.*": group("vivit_core.training lightning.pytorch.callbacks", "lightning.pytorch.callbacks.Callback"),
    "logger.*": group("vivit_core.training lightning.pytorch.loggers", "lightning.pytorch.loggers.Logger"),
    "importer": group("vivit_core.data.importers", "vivit_core.data.importers.common.Importer"),
    "noise": group("vivit_core.stimuli", "vivit_core.stimuli.noise.Noise"),
    "gratings": group("vivit_core.stimuli", "vivit_core.stimuli.gratings.Gratings"),
    "mei": group("vivit_core.analysis", "vivit_core.analysis.tuning.most_exciting.Ascent"),
    "lab.*": group("vivit_core.analysis.tuning.protocols", "vivit_core.analysis.tuning.protocols.base.Protocol"),
}


BESIDE_THE_CORE = ("own_filter", "modulator", "history", "latent", "shifter")  # a twin's other parts in ``model``
LONGEST_TARGET = 200  # characters of another package's class
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)+")


@cache
def group_of(path: str) -> Group | None:
    """The group of a node's key, dotted; None where no class may stand."""
    words = path.split(".")
    for pattern, found in GROUPS.items():
        own = pattern.split(".")
        if len(own) == len(words) and all(o in ("*", w) for o, w in zip(own, words, strict=True)):
            return found
    return None


def given(path: str) -> frozenset[str]:
    """The arguments that code passes to the part at this key."""
    found = group_of(path)
    return frozenset() if found is None else found.given


def class_of(path: str, target: object) -> type[Any]:
    """The class that the node at ``path`` names.

    Parameters
    ----------
    path : the node's key, dotted, for example ``model.tokenizer``.
    target : its ``_target_``.

    Raises
    ------
    ValueError
        Where it is no class of the group at this key. Nothing outside of the group's modules, and of the packages that
        the user consented to, is imported to find out.
    """
    found = group_of(path)
    if found is None:
        raise ValueError(f"no class can be named there, and it names {str(target)[:80]!r}")
    within = (*found.within, *_consented.get())
    kinds = " or ".join(kind.rpartition(".")[2] for kind in found.kinds)
    if not isinstance(target, str) or not NAME.fullmatch(target) or not lies_in(target, within):
        yours = ", ".join(packages_in({"_target_": target}))
        hint = f", or say packages=[{yours}] if you trust that package" if yours else ""
        raise ValueError(
            f"{str(target)[:80]!r} lies outside {' and '.join(map(repr, within))}; name a {kinds} of it{hint}"
        )
    module, _, name = target.rpartition(".")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {target!r} ({error})") from error
    if not isinstance(made, type) or not lies_in(f"{made.__module__}.{made.__qualname__}", within):
        raise ValueError(f"{target!r} is no class of {' or '.join(map(repr, within))}; name a {kinds}")
    bases = tuple(kind_named(kind) for kind in found.kinds)
    if not issubclass(made, bases) or (made in bases and inspect.isabstract(made)):
        raise ValueError(f"{target!r} is no {kinds}")
    if inspect.isabstract(made):
        lacking = ", ".join(sorted(getattr(made, "__abstractmethods__", ())))
        raise ValueError(f"{target!r} is no whole {kinds}: it lacks {lacking}")
    return made


def lies_in(target: str, packages: Sequence[str]) -> bool:
    return any(target.startswith(f"{package}.") for package in packages)


@cache
def kind_named(name: str) -> type[Any]:
    module, _, word = name.rpartition(".")
    kind: type[Any] = getattr(import_module(module), word)
    return kind


# Other people's packages --------------------------------------------------------------------------------------------

OURS = ("vivit_core", "lightning")  # packages that need no consent, because GROUPS says what of them may be named
PACKAGE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

_consented: ContextVar[tuple[str, ...]] = ContextVar("_consented", default=())


@contextmanager
def consent(packages: Sequence[str]) -> Iterator[None]:
    """Within it, nodes may name classes of these packages too, because the user said so.

    It is left as it was entered, and other threads do not see it.

    Raises
    ------
    ValueError
        For what is no package of somebody's: a wrong word, or one of Python's own modules.
    """
    for package in packages:
        if not PACKAGE.fullmatch(package) or package.split(".")[0] in (*sys.stdlib_module_names, *OURS):
            raise ValueError(
                f"packages={list(packages)}: {package[:80]!r} is no package of yours; give names as in "
                "`import mylab`, for example packages=[mylab]"
            )
    before = _consented.set((*_consented.get(), *packages))
    try:
        yield
    finally:
        _consented.reset(before)


def consented() -> tuple[str, ...]:
    """The packages of others that the user consented to."""
    return _consented.get()


def is_consented(target: str) -> bool:
    """Whether the user consented to the package of a class."""
    return lies_in(target, _consented.get())


def packages_in(value: Any) -> dict[str, str]:
    """The packages of others that the nodes in a value name, each with the first class that is named of it."""
    found: dict[str, str] = {}
    if isinstance(value, Mapping):
        target = value.get("_target_")
        if isinstance(target, str) and len(target) <= LONGEST_TARGET and NAME.fullmatch(target):
            package = target.split(".")[0]
            if package not in OURS and package not in sys.stdlib_module_names:
                found[package] = target
        value = list(value.values())
    if isinstance(value, list | tuple):
        for inner in value:
            found = packages_in(inner) | found
    return found


@cache
def version_of(package: str) -> str | None:
    """The installed version of a package by the name that one imports; None where it says none."""
    for name in importlib.metadata.packages_distributions().get(package, ()):
        return importlib.metadata.version(name)
    said = getattr(sys.modules.get(package), "__version__", None)
    return said if isinstance(said, str) else None
