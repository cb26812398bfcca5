"""What the file of a recipe (``experiment=NAME``) says of the model by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from vivit_core.cli.planned import MARK
from vivit_core.system.plain import read_plain
from vivit_core.training.transfer import leaves


def said_of_model(recipe: str | None, folders: Sequence[Path]) -> frozenset[str]:
    """The keys of the model that a recipe sets, dotted; of a group that it chooses, its name, and the empty word for
    the whole model.

    Parameters
    ----------
    recipe : its name; None: there is none.
    folders : of configurations, the first one that has it counts.
    """
    return frozenset() if recipe is None else frozenset(_said(recipe, folders))


def _said(recipe: str, folders: Sequence[Path]) -> Iterator[str]:
    file = next((f for folder in folders if (f := folder / "experiment" / f"{recipe}.yaml").is_file()), None)
    if file is None:  # of somebody's package
        return
    content = read_plain(file)
    for entry in content.get("defaults") or ():
        if isinstance(entry, str) and entry != "_self_":
            yield from _said(entry, folders)  # a recipe that it changes
        for group in entry if isinstance(entry, dict) else ():
            words = group.removeprefix("override ").split("@")[0].strip("/").split("/")
            if words[0] == "model":
                yield ".".join(words[1:])
    model = content.get("model")
    for key, value in leaves(model) if isinstance(model, dict) else ():
        if not (isinstance(value, str) and MARK.fullmatch(value)):
            yield key
