"""Files that are there whole or not at all, and the memory of which files were read whole before."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; what was written there gets its name, synced to the disk, if nothing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


_seen: dict[str, str] = {}  # file -> its state when this process read it whole, for where no note can be written


def known_whole(path: Path) -> bool:
    """Whether :func:`remember_whole` has seen this very file, on this machine: same place, size and times of change."""
    try:
        state = state_of(path)
        if _seen.get(os.path.realpath(path)) == state:
            return True
        note = _note_of(path)
        # A note that somebody else wrote, into a cache folder that many share, says nothing.
        return note is not None and note.stat().st_uid == os.geteuid() and note.read_bytes() == state.encode()
    except OSError:
        return False


def remember_whole(path: Path) -> None:
    """Note that a file was read to its end and found good; where no note can be written, this process alone knows."""
    with suppress(OSError):
        state = state_of(path)
        _seen[os.path.realpath(path)] = state
        if (note := _note_of(path)) is not None:
            write_text(note, state)


def _note_of(path: Path) -> Path | None:
    """Where the note of a file lies; None where this user has no place for it."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # no HOME and no entry in the list of users, as in a container
        return None
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return cache / "vivit-core" / "read-whole" / name


def state_of(path: Path) -> str:
    """What changes where a file does. Its user can set the time of change back (mtime), but not that of the inode."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}"
