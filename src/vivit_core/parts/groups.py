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


# By the node's key; * stands for any one word. Lightning's own classes belong to no part that comes from a file.
GROUPS: dict[str, Group] = {
    "model": group(
        "vivit_core.models",
        "vivit_core.models.cores.base.Core vivit_core.models.ln.LN",
        "in_channels recordings predict",
    ),
    "model.tokenizer": group("vivit_core.models", "vivit_core.models.tokenizers.base.Tokenizer", "in_channels dim"),
    "model.tokenizer.stem": group(
        "vivit_core.models", "vivit_core.models.tokenizers.base.Tokenizer", "in_channels dim patch_size"
    ),
    "model.attention": group("vivit_core.models", "vivit_core.models.attention.rotary.Attention", "dim"),
    "model.frontend": group(
        "vivit_core.models", "vivit_core.models.frontends.temporal_basis.TemporalBasis", "in_channels"
    ),
    "model.modulator": group(
        "vivit_core.models", "vivit_core.models.modulators.convgru.ConvGRU", "channels behavior_dim stride"
    ),
    "baseline": group("vivit_core.models", "vivit_core.models.ln.LN", "recordings predict"),
    "readout": group(
        "vivit_core.models", "vivit_core.models.readouts.gaussian.GaussianReadout", "channels frame_size mean_counts"
    ),
    "data": group("vivit_core.data", "vivit_core.data.datamodule.RecordingsDataModule"),
    "data.simulator": group("vivit_core.data.simulate", "vivit_core.data.simulate.simulate.Simulator"),
    "data.transforms.*": group("vivit_core.data.transforms", "vivit_core.data.transforms.Transform"),
    "data.augmentation": group("vivit_core.data.augmentation", "vivit_core.data.augmentation.CutMix"),
    "optim": group("vivit_core.training.optim", "vivit_core.training.optim.Optimization"),
    "callbacks.*": group("vivit_core.training lightning.pytorch.callbacks", "lightning.pytorch.callbacks.Callback"),
    "logger.*": group("vivit_core.training lightning.pytorch.loggers", "lightning.pytorch.loggers.Logger"),
    "importer": group("vivit_core.data.importers", "vivit_core.data.importers.common.Importer"),
    "noise": group("vivit_core.stimuli", "vivit_core.stimuli.noise.Noise"),
    "gratings": group("vivit_core.stimuli", "vivit_core.stimuli.gratings.Gratings"),
    "mei": group("vivit_core.analysis", "vivit_core.analysis.tuning.most_exciting.Ascent"),
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
