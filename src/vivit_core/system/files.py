"""Files that are there whole or not at all, and the memory of which files were read whole before."""

from __future__ import annotations

import errno
import glob
import hashlib
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from uuid import uuid4

from vivit_core.system.user import cache_folder

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


LEFTOVER = re.compile(r"\..+\.[0-9a-f]{8}\.tmp")  # the names that :func:`atomic_write` writes to


class NoRoomError(OSError, ValueError):
    """A file could not be written because a disk, a quota or a limit on files is full. The message says which."""


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A temporary name beside ``path``; what was written there gets its name, synced to the disk, if nothing fails.

    A process that is killed leaves the former file or the new one under the name, and may leave the temporary file,
    which :func:`remove_leftovers` removes.

    Raises
    ------
    NoRoomError
        Where there is no room for it; the former file is still there.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise NoRoomError(_no_room(path, error)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring a new name to the disk too, so that it outlives a power failure."""
    with suppress(OSError):  # some network file systems do not sync folders, and need not
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)


def _no_room(path: Path, error: OSError) -> str:
    disk = path.resolve()
    while not os.path.ismount(disk):
        disk = disk.parent
    size = shutil.disk_usage(disk)
    return (
        f"no room to write {path}: {error.strerror}. The file system {disk} has {size.free / 1e6:.0f} MB free of "
        f"{size.total / 1e6:.0f} MB; where that is enough, a quota or a limit on the size of files (ulimit -f) is in "
        "the way. Make room there, or write elsewhere with outputs=FOLDER. The file is as it was before"
    )


def check_new_folder(out: Path) -> None:
    """Refuse a folder in which something stands.

    Raises
    ------
    ValueError
        Says what would do.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ValueError(f"out={out}: stands there already; name a new folder")
    if out.exists() and (out.resolve() == Path.cwd() or out.is_mount()):  # another folder is put in its place
        raise ValueError(f"out={out}: you stand in this folder, or a disk is mounted there; name a new folder in it")


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A folder beside ``out`` in which its files are made; it gets the name if nothing fails, a full disk also, so that
    the same command can be given again. Nothing else is ever taken away. A process that is killed leaves its own,
    ``.NAME.….tmp``.

    Raises
    ------
    ValueError
        As ``check_new_folder``.
    """
    check_new_folder(out)
    whole = out.resolve()  # an empty folder may be a link
    making = whole.with_name(f".{whole.name}.{uuid4().hex[:8]}.tmp")
    try:
        making.mkdir(parents=True)
        yield making
        if whole.exists():
            shutil.copymode(whole, making)
        os.replace(making, whole)  # refused where something has come to stand there
        _sync_folder(whole.parent)
    finally:
        shutil.rmtree(making, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """A text file, whole or not at all."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def link_or_copy(source: Path, path: Path) -> None:
    """The content of a file that is never written into again under a second name, without taking its room twice."""
    with atomic_write(path) as temporary:
        try:
            os.link(source, temporary)
        except OSError:  # a file system without hard links
            shutil.copyfile(source, temporary)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary files of killed processes; only for who holds the lock under which they are written.

    Parameters
    ----------
    folder : where they lie; not the folders in it.
    name : of the files that they were to become, as a glob.
    """
    for path in folder.glob(f".{name}.*.tmp"):
        if LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)


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
    folder = cache_folder("read-whole")
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return None if folder is None else folder / name


def state_of(path: Path) -> str:
    """What changes where a file does. Its user can set the time of change back (mtime), but not that of the inode."""
    status = path.stat()
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ino} {status.st_ctime_ns}"


def matching(pattern: str) -> list[Path]:
    """The files and folders that a path or a pattern (``*``, ``**``, ``?``, ``[…]``) names, sorted; none where nothing
    is there."""
    return [Path(found) for found in sorted(glob.glob(_as_pattern(pattern), recursive=True))]


def _as_pattern(path: str) -> str:
    """A path or pattern as ``glob`` takes it: what is there under its very name, from the left on, is no pattern, also
    where its name has brackets."""
    place, parts = Path(), Path(path).parts
    for number, part in enumerate(parts):
        if not os.path.lexists(place / part):
            return os.path.join(glob.escape(str(place)), *parts[number:])
        place /= part
    return glob.escape(str(place))
