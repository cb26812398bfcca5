"""Which recording files ``data.recordings`` and ``data.root`` name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_core.specs import RecordingError
from vivit_core.system.files import matching


def files_of(data: Mapping[str, Any]) -> list[Path]:
    """The recording files that a data node names; none where they are simulated."""
    if data["recordings"] is not None:
        return named([str(pattern) for pattern in data["recordings"]])
    return [] if data["root"] is None else inside(Path(data["root"]))


def named(patterns: Sequence[str]) -> list[Path]:
    """The files that paths and patterns name, each once."""
    if not patterns:
        raise ValueError("data.recordings is an empty list; name at least one file, or set it to null")
    found: list[Path] = []
    for pattern in patterns:
        matches = matching(pattern)
        if not matches:
            raise ValueError(
                f"data.recordings: no file matches {pattern!r} (seen from {Path.cwd()}); "
                "correct the path, or make the file with "
                "`python run.py task=import importer=arrays source=X.npz out=Y.h5 …`"
            )
        found += matches
    return list(dict.fromkeys(found))


def inside(root: Path) -> list[Path]:
    """The recording files of a folder and its subfolders, but hidden ones: those of a simulation that was cut short lie
    there."""
    if root.is_file():
        raise ValueError(f"data.root: {root} is a file; give a folder, or say data.recordings=[{root}] instead")
    found = sorted(
        path
        for path in root.rglob("*.h5")
        if not any(part.startswith(".") for part in path.relative_to(root).parts)  # above root they may
    )
    if not found:
        what = "holds no *.h5 file" if root.is_dir() else "is not a folder"
        raise ValueError(f"data.root: {root} {what}; give a folder of recording files, or null")
    for path in found:
        if not path.resolve().is_relative_to(root.resolve()):
            raise RecordingError(
                path,
                "file",
                f"is a link that leads out of data.root, to {path.resolve()}",
                "Name the file itself in data.recordings, or put it into the folder",
            )
    return found
