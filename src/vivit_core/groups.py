"""Which classes a node's ``_target_`` may name: those of its group, and nothing else that can be called.

Nodes come from command lines, but also from files that somebody else wrote. So a name is looked up in the list before
anything is imported, and what is found must be a class of its group's kind. This is the one place that says what may be
built; a user's own packages will be allowed here.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
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


M, D = "vivit_core.models", "vivit_core.data"
# By the node's key; * stands for any one word. Lightning's own classes belong to no part that comes from a file.
GROUPS: dict[str, Group] = {
    "model": group(M, f"{M}.core.Core {M}.baselines.LN", "in_channels recordings predict"),
    "model.tokenizer": group(M, f"{M}.tokenizer.Tokenizer", "in_channels dim"),
    "model.tokenizer.stem": group(M, f"{M}.tokenizer.Tokenizer", "in_channels dim patch_size"),
    "model.attention": group(M, f"{M}.attention.Attention", "dim"),
    "model.frontend": group(M, f"{M}.frontend.TemporalBasis", "in_channels"),
    "model.modulator": group(M, f"{M}.modulator.ConvGRU", "channels behavior_dim stride"),
    "baseline": group(M, f"{M}.baselines.LN", "recordings predict"),
    "readout": group(M, f"{M}.readout.GaussianReadout", "channels frame_size mean_counts"),
    "data": group(D, f"{D}.datamodule.RecordingsDataModule"),
    "data.simulator": group(f"{D}.simulate", f"{D}.simulate.simulate.Simulator"),
    "data.transforms.*": group(f"{D}.transforms", f"{D}.transforms.Transform"),
    "data.augmentation": group(f"{D}.transforms", f"{D}.transforms.CutMix"),
    "optim": group("vivit_core.training.optim", "vivit_core.training.optim.Optimization"),
    "callbacks.*": group("vivit_core.training lightning.pytorch.callbacks", "lightning.pytorch.callbacks.Callback"),
    "logger.*": group("vivit_core.training lightning.pytorch.loggers", "lightning.pytorch.loggers.Logger"),
    "importer": group(f"{D}.importers", f"{D}.importers.common.Importer"),
    "noise": group("vivit_core.analysis", "vivit_core.analysis.receptive_fields.Noise"),
    "gratings": group("vivit_core.analysis", "vivit_core.analysis.tuning.Gratings"),
    "mei": group("vivit_core.analysis", "vivit_core.analysis.synthesis.Ascent"),
}
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


def class_of(path: str, target: object, packages: Sequence[str] = ()) -> type[Any]:
    """The class that the node at ``path`` names.

    Parameters
    ----------
    path : the node's key, dotted, for example ``model.tokenizer``.
    target : its ``_target_``.
    packages : further packages whose classes may be named, because the user said so.

    Raises
    ------
    ValueError
        Where it is no class of the group at this key. Nothing outside of the group's modules is imported to find out.
    """
    found = group_of(path)
    if found is None:
        raise ValueError(f"no class can be named there, and it names {str(target)[:80]!r}")
    within = (*found.within, *packages)
    kinds = " or ".join(kind.rpartition(".")[2] for kind in found.kinds)
    inside = isinstance(target, str) and NAME.fullmatch(target) and any(target.startswith(f"{w}.") for w in within)
    if not isinstance(target, str) or not inside:
        raise ValueError(f"{str(target)[:80]!r} lies outside {' and '.join(map(repr, within))}; name a {kinds} of it")
    module, _, name = target.rpartition(".")
    try:
        made = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"there is no {target!r} ({error})") from error
    if not isinstance(made, type) or not any(f"{made.__module__}.".startswith(f"{w}.") for w in within):
        raise ValueError(f"{target!r} is no class of {' or '.join(map(repr, within))}; name a {kinds}")
    if not issubclass(made, tuple(kind_named(kind) for kind in found.kinds)) or inspect.isabstract(made):
        raise ValueError(f"{target!r} is no {kinds}")
    return made


@cache
def kind_named(name: str) -> type[Any]:
    module, _, word = name.rpartition(".")
    kind: type[Any] = getattr(import_module(module), word)
    return kind
