"""Checkpoints, read as what anybody may have written.

A checkpoint is a zip file of torch's: one pickle, and the bytes of the tensors. Here it is read by one function, which
runs no code, takes no more memory than the file has bytes (times a small number) and a time in proportion to them, and
either returns plain values and whole tensors or raises one line that names the file.
"""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from struct import unpack_from
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from vivit_core.parts.build import build
from vivit_core.parts.groups import is_consented, packages_in, version_of
from vivit_core.parts.schema import problems_of

WRITTEN = "vivit_core"  # where a checkpoint says by whom it was written


FORMAT = 2  # to be raised with every change after which older checkpoints do not read


MOST_STEPS = 8_000_000  # of the pickle: over a million units; torch takes about a second for a million


MOST_TENSORS = 16_384  # in one state: over a thousand recordings


MOST_CLAIMS = 4  # tensors' bytes over the file's, because a state may stand in a checkpoint twice


MOST_TEXT_BYTES = {".yaml": 1 << 20, ".json": 1 << 24}  # of a configuration; of a summary, some kB a recording


A_CONTAINER = 16  # values that are copied in the time of an empty list


DEEPEST = 32  # nested values; Lightning's progress has 6


ATOMS = {str, int, float, bool, type(None)}


# What a pickle of plain values and tensors consists of, with the bytes of each step's argument. Anything else (an
# object, another protocol) has no place in a checkpoint.
_STEPS: dict[int, int] = {
    code[0]: size
    for size, codes in {
        0: (
            *(pickle.MARK, pickle.STOP, pickle.NONE, pickle.NEWTRUE, pickle.NEWFALSE, pickle.BINPERSID),
            *(pickle.EMPTY_LIST, pickle.APPEND, pickle.APPENDS, pickle.EMPTY_DICT, pickle.SETITEM, pickle.SETITEMS),
            *(pickle.EMPTY_TUPLE, pickle.TUPLE, pickle.TUPLE1, pickle.TUPLE2, pickle.TUPLE3),
            *(pickle.REDUCE, pickle.BUILD),
        ),
        1: (pickle.PROTO, pickle.BININT1, pickle.BINGET, pickle.BINPUT),
        2: (pickle.BININT2,),
        4: (pickle.BININT, pickle.LONG_BINGET, pickle.LONG_BINPUT),
        8: (pickle.BINFLOAT,),
    }.items()
    for code in codes
}


_TEXT, _LONG, _GLOBAL, _STOP = pickle.BINUNICODE[0], pickle.LONG1[0], pickle.GLOBAL[0], pickle.STOP[0]


_GLOBALS = {
    b"collections OrderedDict",
    b"torch._utils _rebuild_tensor_v2",
    *(
        b"torch %sStorage" % kind
        for kind in (b"Float", b"Double", b"Half", b"BFloat16", b"Long", b"Int", b"Short", b"Char", b"Byte", b"Bool")
    ),
}


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
            "outputs/train/…/checkpoints/best.ckpt"
        )
    try:
        check_archive(Path(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        content = Plain(Path(path).stat().st_size).copy(loaded)
    except Exception as error:  # torch raises whatever the broken bytes lead to
        raise ValueError(
            f"{path}: not a readable checkpoint ({type(error).__name__}: {in_a_line(error)}); "
            "take another of its run, for example last.ckpt"
        ) from error
    check_kind(path, content)
    return content


def check_archive(path: Path) -> None:
    """Compare what the zip file claims with its bytes, and look through its pickle before it is read."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > size:
            raise ValueError("it would take more memory than the file has bytes")
        if len(members) > 4 * MOST_TENSORS:
            raise ValueError(f"it has {len(members)} members, and a checkpoint at most {4 * MOST_TENSORS}")
        if (bad := archive.testzip()) is not None:
            raise ValueError(f"{bad} is damaged: its checksum differs")
        pickles = [member for member in members if member.filename.endswith("data.pkl")]
        if len(pickles) != 1:
            raise ValueError(f"it has {len(pickles)} data.pkl, and a checkpoint one")
        check_pickle(archive.read(pickles[0]))


def check_pickle(data: bytes) -> None:
    """Refuse a pickle that does anything but put plain values and tensors together, or that has too many steps."""
    at, steps, end = 0, 0, len(data)
    while at < end:
        step = data[at]
        at += 1
        steps += 1
        if (size := _STEPS.get(step)) is not None:
            at += size
        elif step == _TEXT:  # a text, its length in four bytes
            at += 4 + int(unpack_from("<I", data, at)[0])
        elif step == _LONG:  # a large integer, its length in one byte
            if data[at] > 8:
                raise ValueError("it holds an integer of more than 64 bits")
            at += 1 + data[at]
        elif step == _GLOBAL:  # a global: two lines
            stop = data.index(b"\n", data.index(b"\n", at) + 1)
            named = data[at:stop].replace(b"\n", b" ")
            if named not in _GLOBALS:
                raise ValueError(f"it holds {named[:80].decode(errors='replace')!r}, which no checkpoint needs")
            at = stop + 1
        else:
            raise ValueError(f"its pickle has the step {step:#x}, which no checkpoint needs")
        if steps > MOST_STEPS:
            raise ValueError(f"its pickle has more than {MOST_STEPS} steps, those of over a million units")
        if step == _STOP:
            return
    raise ValueError("its pickle has no end")


class Plain:
    """Copies dicts, lists, numbers and texts, and refuses all else but tensors, and tensors that claim more bytes than
    are stored.

    Parameters
    ----------
    stored : bytes of the file.
    most : values that are copied; a list or a dict counts as ``A_CONTAINER`` more.
    """

    def __init__(self, stored: int, most: int = MOST_STEPS) -> None:
        self.left, self.bytes = most, MOST_CLAIMS * stored

    def copy(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind is Tensor:
            self.bytes -= check_tensor(value)
            if self.bytes < 0:
                raise ValueError(f"its tensors claim more than {MOST_CLAIMS} times the bytes that it has")
            return value
        if kind not in (dict, OrderedDict, list, tuple):
            check_atoms([value])
            return value
        self.left -= len(value) + A_CONTAINER
        if self.left < 0:
            raise ValueError("its values refer to each other so often that they would not fit into memory")
        if depth >= DEEPEST:
            raise ValueError(f"its values are nested more than {DEEPEST} deep")
        if kind in (list, tuple):
            if all(type(one) in ATOMS for one in value):
                check_atoms(value)
                return kind(value)
            return kind([self.copy(one, depth + 1) for one in value])
        items = list(dict.items(value))  # an OrderedDict's own method may have been overwritten by the file
        if not all(type(key) in (str, int) for key, _ in items):
            raise ValueError("it has keys that are neither words nor integers")
        check_atoms([key for key, _ in items])
        return {key: self.copy(one, depth + 1) for key, one in items}


def check_atoms(values: Sequence[Any]) -> None:
    kinds = set(map(type, values))
    if strange := kinds - ATOMS:
        raise ValueError(f"it holds a {min(kind.__name__ for kind in strange)}, and plain values and tensors alone may")
    if str in kinds:
        "".join(value for value in values if type(value) is str).encode()  # half a surrogate pair cannot be printed
    if int in kinds and any(not -(2**63) <= value < 2**63 for value in values if type(value) is int):
        raise ValueError("it holds an integer of more than 64 bits")


def check_tensor(value: Tensor) -> int:
    """The bytes that a tensor claims; ValueError where it lies over itself or is no plain one."""
    if value.layout != torch.strided or value.is_quantized or value.is_nested or value.device.type != "cpu":
        raise ValueError("it holds a tensor that is not a plain one (sparse, quantized, nested or without numbers)")
    claimed = value.numel() * value.element_size()
    if claimed > value.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {tuple(value.shape)} claims more numbers than are stored")
    return claimed


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


def in_a_line(error: BaseException, most: int = 300) -> str:
    """The first words of an error's message, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]}…"


def read_plain(path: Path) -> dict[str, Any]:
    """A small YAML or JSON file of plain values, which lies in somebody's run folder.

    Raises
    ------
    ValueError
        Where it is too large or damaged, or holds anything else; one line that names it.
    """
    try:
        most = MOST_TEXT_BYTES[path.suffix]
        if path.stat().st_size > most:
            raise ValueError(f"it has {path.stat().st_size} bytes, and at most {most} are read")
        text = path.read_text(encoding="utf-8")
        loaded = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        content = Plain(0, most=most).copy(loaded)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__} and should hold a dict")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not readable ({type(error).__name__}: {in_a_line(error)})") from error
    return content


# What is in it --------------------------------------------------------------------------------------------------------
def check_model(
    path: str | Path, content: Mapping[str, Any], make: Callable[[], nn.Module], state: Mapping[str, Any]
) -> None:
    """Make the model without its numbers and compare it with the weights that it is to get, so that no description
    takes more memory than the weights that come with it.

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
            expected = {name: (value.shape, value.dtype) for name, value in make().state_dict().items()}
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
    try:
        if problems := problems_of("data", settings.get("data")):
            raise ValueError("; ".join(problems))
        build("data", {key: value for key, value in dict(settings["data"]).items() if key != "geometry"})
    except Exception as error:  # settings that were tampered with can fail anywhere in the constructors
        raise refused(
            path, content, f"its settings of the data cannot be used ({type(error).__name__}: {in_a_line(error)})"
        ) from error
    return dict(settings)
