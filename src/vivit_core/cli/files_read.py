"""The files that a training reads, as they were: the same settings with another file are another training."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from vivit_core.cli.runs import RunFolder
from vivit_core.data.paths import files_of
from vivit_core.data.recording.checksum import seal_of

CHECKPOINTS = ("teacher", "init_from")


def files_read(settings: Mapping[str, Any]) -> dict[str, str]:
    """Each recording, teacher and checkpoint to start from that settings name, and what changes with its content.

    No file is read whole. Folders and ``hf://`` are left out. Empty where one of them is not there, which the task will
    say.
    """
    try:
        paths = files_of(settings["data"])
        paths += [path for name in CHECKPOINTS if (said := settings.get(name)) and (path := Path(said)).is_file()]
        return {str(path): state(path) for path in paths}
    except (OSError, ValueError):
        return {}


def state(path: Path) -> str:
    """What changes with a file's content, and not where it is copied: the seal of a recording, and the checksums that a
    checkpoint's archive holds of its parts; else size and time."""
    if (seal := seal_of(path)) is not None:
        return seal
    try:
        with ZipFile(path) as archive:
            parts = "".join(f"{part.CRC:08x}" for part in archive.infolist())
        return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()
    except BadZipFile:
        about = path.stat()
        return f"{about.st_size} bytes, changed at {about.st_mtime_ns} ns"


def changed_files(run: RunFolder, states: Mapping[str, str]) -> str | None:
    """Which file is another than a run has read, in words; None where none is, or it is not known.

    Parameters
    ----------
    run : whose manifest says what was read.
    states : of :func:`files_read`, now.
    """
    before = run.environment.get("files")
    if not isinstance(before, dict) or not before or not states:
        return None
    other = [name for name in {**before, **states} if before.get(name) != states.get(name)]
    if not other:
        return None
    name, more = other[0], f" and {len(other) - 1} more" if len(other) > 1 else ""
    how = "was not read then" if name not in before else "is not read now" if name not in states else "has changed"
    return f"{name} {how}{more}"
