"""Checkpoints: what they say of themselves, and whether what they hold is what they say.

One function reads them (``archive`` has its bounds): it returns plain values and whole tensors, or raises one line that
names the file. Models are compared with their weights before anything of their size is made.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vivit_core.models.archive import MOST_TENSORS, MOST_UNKEPT, read_archive
from vivit_core.models.shipped import NAMES
from vivit_core.parts.build import build_data
from vivit_core.parts.groups import is_consented, packages_in, version_of
from vivit_core.parts.schema import problems_of
from vivit_core.system.plain import in_a_line

# Keys of what has weights each; a bound, as model.window is one, may be far above their number.
COUNTS = frozenset(
    ("embedding_dim", "heads", "head_dim", "registers", "context")
    + ("widths", "channels", "bases", "lags", "orientations")
)
WRITTEN = "vivit_core"  # where a checkpoint says by whom it was written
FORMAT = 5  # to be raised with every change after which older checkpoints do not read
LATER = {"most_units": None}  # settings of the data that came since, as if they were not there


def written_by(*nodes: Any) -> dict[str, Any]:
    """What a new checkpoint says of itself; ``nodes`` are what it holds of nodes, whose packages are named too."""
    packages = {package: version_of(package) for node in nodes for package in packages_in(node)}
    return {"format": FORMAT, "version": version(), "packages": packages}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """The content of a checkpoint: ``twin``, ``state_dict``, ``ln``, ``settings`` …; plain values and tensors.

    Raises
    ------
    ValueError
        Where there is no such file, or it is damaged, of another format, no checkpoint of a twin, holds anything but
        plain values and whole tensors of numbers, or claims more than it has; one line that names it.
    """
    if not Path(path).is_file():
        raise ValueError(
            f"{path}: no such checkpoint; give the path of a .ckpt file, for example "
            "outputs/train/…/checkpoints/best.ckpt, a folder that task=publish wrote, hf://user/name, or a twin that "
            f"comes with the package: {' or '.join(NAMES)}"
        )
    try:
        content = read_archive(Path(path))
    except Exception as error:  # torch raises whatever the broken bytes lead to
        raise ValueError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {in_a_line(error)}); "
            "take another of its run, for example last.ckpt"
        ) from error
    check_kind(path, content)
    return content


def check_kind(path: str | Path, content: Any) -> None:
    """Refuse what is no twin's checkpoint, or one of another format."""
    if not isinstance(content, dict) or not {"twin", "state_dict"} <= content.keys():
        raise ValueError(
            f"{path}: not a checkpoint of a twin (it lacks 'twin' or 'state_dict'); give one that task=train wrote"
        )
    own = content.get(WRITTEN, {"format": 0})  # the first ones said nothing
    number = own.get("format") if isinstance(own, dict) else None
    if type(number) is not int or number != FORMAT:
        raise ValueError(
            f"{path}: its format is number {str(number)[:20]}{by(content)}, and this version ({version()}) reads "
            f"number {FORMAT}; read it with the version that wrote it"
        )
    kinds = {"twin": dict, "state_dict": dict, "ln": dict, "settings": dict, "average": dict}
    for key, kind in kinds.items():
        if content.get(key) is not None and not isinstance(content[key], kind):
            raise refused(path, content, f"{key} is a {type(content[key]).__name__}, and should be a {kind.__name__}")


def version() -> str:
    """Of this package."""
    try:
        return importlib.metadata.version("vivit-core")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, without being installed
        return "of unknown version"


def by(content: Mapping[str, Any]) -> str:
    """By which version a checkpoint was written, as far as it says so, for messages."""
    own = content.get(WRITTEN)
    said = own.get("version") if isinstance(own, dict) else None
    return f" (written by vivit-core {said[:20]!r})" if isinstance(said, str) else ""


def check_packages(path: str | Path, content: Mapping[str, Any], nodes: Any) -> None:
    """Refuse by name what is made of another package's classes, where nobody said that it may be: nothing of it is
    imported.

    Raises
    ------
    ValueError
        Names package, version and class.
    """
    needed = {name: target for name, target in packages_in(nodes).items() if not is_consented(target)}
    if needed:
        own = content.get(WRITTEN)
        versions = own.get("packages") if isinstance(own, dict) else None
        versions = versions if isinstance(versions, dict) else {}
        said = {name: versions[name] for name in needed if isinstance(versions.get(name), str)}
        told = (f"{name} {said[name][:20]}" if name in said else name for name in needed)
        raise ValueError(
            f"{path}: needs {' and '.join(told)} (for {', '.join(needed.values())}), and a checkpoint alone runs no "
            f"code; say packages=[{','.join(needed)}] if you trust what is installed here under that name"
        )


def refused(path: str | Path, content: Mapping[str, Any], problem: str) -> ValueError:
    """The error for a checkpoint that cannot be used."""
    wrote = by(content) or " (it does not say which version wrote it)"
    return ValueError(f"{path}: {problem}{wrote}; this is vivit-core {version()}; take another checkpoint of its run")


# What is in it --------------------------------------------------------------------------------------------------------


def check_model(
    path: str | Path, content: Mapping[str, Any], make: Callable[[], nn.Module], state: Mapping[str, Any]
) -> None:
    """Make the model without its numbers and compare it with the weights that it is to get, so that no description
    takes more memory than the weights that come with it, and ``MOST_UNKEPT`` numbers that are made anew.

    Parameters
    ----------
    path, content : of the checkpoint, for messages.
    make : makes the model as the checkpoint describes it.
    state : its weights.

    Raises
    ------
    ValueError
        Where the description makes no model, or one of other weights, or weights are not finite.
    """
    try:
        if len(state) > MOST_TENSORS:
            raise ValueError(f"{len(state)} tensors, and a model has at most {MOST_TENSORS}")
        with FakeTensorMode():
            made = make()
            expected = {name: (value.shape, value.dtype) for name, value in made.state_dict().items()}
            unkept = sum(value.numel() for name, value in made.named_buffers() if name not in expected)
        if unkept > MOST_UNKEPT:
            raise ValueError(f"{unkept} numbers that come with no weights, and a model has at most {MOST_UNKEPT}")
    except Exception as error:  # a description that was tampered with can fail anywhere in the constructors
        raise refused(
            path,
            content,
            f"the checkpoint describes no twin that can be made ({type(error).__name__}: {in_a_line(error)})",
        ) from error
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    given = {name: (value.shape, value.dtype) for name, value in tensors.items()}
    wrong = sorted(str(name) for name in expected.keys() | state.keys() if expected.get(name) != given.get(name))
    if wrong:
        first = wrong[0]
        raise refused(
            path,
            content,
            "the weights do not fit the model that the checkpoint describes: "
            f"{len(wrong)} of {len(expected)} tensors differ, the first is {first[:100]} "
            f"(described {told(expected.get(first))}, held {told(given.get(first))})",
        )
    for name, value in tensors.items():
        # The range of what an LN model has seen may have no end.
        wrong_numbers = value.isnan() if name.endswith("range_U2") else ~value.isfinite()
        if wrong_numbers.any():
            raise refused(path, content, f"the weights {name[:100]} are not all finite numbers")


def told(form: tuple[torch.Size, torch.dtype] | None) -> str:
    return "nothing" if form is None else f"{list(form[0])} {str(form[1]).removeprefix('torch.')}"


def asked(node: Any) -> int:
    """How many blocks and layers a model's node and the nodes in it ask for, at most: by depths, and by lists."""
    if not isinstance(node, Mapping):
        return 0
    lists = {name: len(value) for name, value in node.items() if isinstance(value, list | tuple)}
    depths = sum(max(0, size) for name, size in node.items() if "depth" in name and isinstance(size, int))
    own = depths * max(1, lists.get("widths", 1)) + sum(lists.values())
    return own + sum(asked(inner) for inner in node.values())


def largest(node: Any, counts: bool = False) -> int:
    """The largest of the ``COUNTS`` that a model's node, and the nodes of this package in it, ask for.

    Parameters
    ----------
    node : plain values.
    counts : whether it stands under such a key.
    """
    if isinstance(node, list | tuple):
        return max((largest(each, counts) for each in node), default=0)
    if isinstance(node, Mapping):
        if packages_in({"_target_": node.get("_target_")}):  # somebody trusts it
            return 0
        return max((largest(value, key in COUNTS) for key, value in node.items()), default=0)
    return node if counts and type(node) is int else 0


def settings_of(path: str | Path, content: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that a checkpoint was trained with, of which the data's are checked as a command line's are; None
    where it holds none.

    Raises
    ------
    ValueError
        Where the data's settings are none that a command line could have given.
    """
    settings = content.get("settings")
    if settings is None:
        return None
    check_packages(path, content, settings.get("data"))
    if isinstance(settings.get("data"), Mapping):
        settings = {**settings, "data": LATER | settings["data"]}
    try:
        if problems := problems_of("data", settings.get("data")):
            raise ValueError("; ".join(problems))
        build_data(settings["data"])
    except Exception as error:  # settings that were tampered with can fail anywhere in the constructors
        raise refused(
            path, content, f"its settings of the data cannot be used ({type(error).__name__}: {in_a_line(error)})"
        ) from error
    return dict(settings)
