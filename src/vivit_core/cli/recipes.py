"""What the file of a recipe (``experiment=NAME``) says of the model by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from omegaconf import OmegaConf

from vivit_core.cli.planned import MARK
from vivit_core.training.transfer import leaves

ALL = ""  # the whole model


def said_of_model(recipe: str | None, folders: Sequence[Path]) -> frozenset[str]:
    """The keys of the model that a recipe sets, dotted; of a group that it chooses, its name, and ``ALL`` for the whole
    model: also where the recipe, or one that it is made of, is written in a way that is not looked into here.

    Parameters
    ----------
    recipe : its name; None: there is none.
    folders : of configurations, the first one that has it counts.
    """
    return frozenset() if recipe is None else frozenset(_said(recipe, folders))


def _said(recipe: str, folders: Sequence[Path]) -> Iterator[str]:
    file = next((f for folder in folders if (f := folder / "experiment" / f"{recipe}.yaml").is_file()), None)
    if file is None:  # of somebody's package
        yield ALL
        return
    text = file.read_text(encoding="utf-8")
    if any("@package" in line and line.strip("# ") != "@package _global_" for line in text.splitlines()):
        yield ALL
    content: Any = OmegaConf.to_container(OmegaConf.create(text)) or {}
    for entry in content.get("defaults") or ():
        for group, name in entry.items() if isinstance(entry, dict) else ((None, entry),):
            yield from _chosen(recipe, group, name, folders)
    model = content.get("model")
    if isinstance(model, dict):
        yield from (key for key, value in leaves(model) if not (isinstance(value, str) and MARK.fullmatch(value)))
    elif model is not None:
        yield ALL


def _chosen(recipe: str, group: str | None, name: Any, folders: Sequence[Path]) -> Iterator[str]:
    """What an entry of a recipe's defaults says: a recipe, or an option of a group."""
    if name == "_self_":
        return
    if group is None and isinstance(name, str):
        path = PurePosixPath("/experiment", recipe).parent / name.removesuffix(".yaml")
    elif group is not None and (where := group.split("@")[0].split()[-1]).startswith("/"):
        path = PurePosixPath(where, str(name))
    else:
        yield ALL
        return
    _, first, *rest = path.parts
    if first == "experiment":
        yield from _said("/".join(rest), folders)
    elif first == "model":
        yield ".".join(rest[:-1])
