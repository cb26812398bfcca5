"""Values that anybody may have written, copied as plain ones: dicts, lists, numbers and texts, and nothing else.

A small file of a run folder is read here. A checkpoint, which holds tensors too, is read by ``models/checkpoint``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

MOST_TEXT_BYTES = {".yaml": 1 << 20, ".json": 1 << 24}  # of a configuration; of a summary, some kB a recording
A_CONTAINER = 16  # values that are copied in the time of an empty list
DEEPEST = 32  # nested values; Lightning's progress has 6
ATOMS = {str, int, float, bool, type(None)}


class Plain:
    """Copies dicts, lists, numbers and texts, and refuses all else.

    Parameters
    ----------
    most : values that are copied; a list or a dict counts as ``A_CONTAINER`` more.
    """

    def __init__(self, most: int) -> None:
        self.left = most

    def copy(self, value: Any, depth: int = 0) -> Any:
        kind = type(value)
        if kind not in (dict, OrderedDict, list, tuple):
            return self.copy_one(value)
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

    def copy_one(self, value: Any) -> Any:
        """A value that holds no others."""
        check_atoms([value])
        return value


def check_atoms(values: Sequence[Any]) -> None:
    kinds = set(map(type, values))
    if strange := kinds - ATOMS:
        raise ValueError(f"it holds a {min(kind.__name__ for kind in strange)}, and plain values and tensors alone may")
    if str in kinds:
        "".join(value for value in values if type(value) is str).encode()  # half a surrogate pair cannot be printed
    if int in kinds and any(not -(2**63) <= value < 2**63 for value in values if type(value) is int):
        raise ValueError("it holds an integer of more than 64 bits")


def read_plain(path: Path, beside: int = 0) -> dict[str, Any]:
    """A small YAML or JSON file of plain values, which lies in somebody's run folder.

    Parameters
    ----------
    path : of the file.
    beside : bytes of a file that it describes; it may have as many more.

    Raises
    ------
    ValueError
        Where it is too large or damaged, or holds anything else; one line that names it.
    """
    try:
        most = MOST_TEXT_BYTES[path.suffix] + beside
        if path.stat().st_size > most:
            raise ValueError(f"it has {path.stat().st_size} bytes, and at most {most} are read")
        text = path.read_text(encoding="utf-8")
        loaded = yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
        content = Plain(most).copy(loaded)
        if not isinstance(content, dict):
            raise ValueError(f"it holds a {type(content).__name__} and should hold a dict")
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not readable ({type(error).__name__}: {in_a_line(error)})") from error
    return content


def in_a_line(error: BaseException, most: int = 300) -> str:
    """The first words of an error's message, in one line."""
    text = " ".join(str(error).split())
    return text if len(text) <= most else f"{text[:most]}…"
