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


def known_whole(path: Path) -> bool:
    """Whether :func:`remember_whole` has seen this very file: same place, size and time of change."""
    try:
        return _note_of(path).read_text(encoding="utf-8") == _state(path)
    except OSError:
        return False


def remember_whole(path: Path) -> None:
    """Note that a file was read to its end and found good; where no note can be written it will be read again."""
    with suppress(OSError):
        write_text(_note_of(path), _state(path))


def _note_of(path: Path) -> Path:
    notes = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vivit-core" / "read-whole"
    return notes / hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]


def _state(path: Path) -> str:
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"
