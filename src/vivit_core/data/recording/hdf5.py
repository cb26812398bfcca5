"""Opens HDF5 files: on file systems without locks too, and with a word on what is wrong where one cannot be read."""

from __future__ import annotations

import errno
import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from vivit_core.specs import RecordingError

log = logging.getLogger(__name__)
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP)  # what file systems without locks say


def open_hdf5(path: Path, mode: str = "r", **options: Any) -> h5py.File:
    """``h5py.File``; where the file system has no locks it is opened without one, and a line says so once."""
    try:
        return h5py.File(path, mode, **options)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        _say_no_locks(str(path.parent))
        return h5py.File(path, mode, locking=False, **options)


@functools.cache
def _say_no_locks(folder: str) -> None:
    log.warning("%s: its file system has no locks; let no other program write to a file that is being read", folder)


def held_elsewhere(path: Path, error: Exception) -> RecordingError | None:
    """What to say where a file cannot be opened because another program writes to it; None where that is not why."""
    if isinstance(error, BlockingIOError) or "unable to lock file" in str(error):
        return RecordingError(
            path,
            "file",
            "another program has it open for writing",
            "Close it there (a notebook, a viewer), and start again; where nothing writes to it, and its file system "
            "has no locks that work, set HDF5_USE_FILE_LOCKING=FALSE",
        )
    if "already open for" in str(error):
        return RecordingError(
            path,
            "file",
            "another program has it open for writing, or was killed while it had",
            f"Close it there, and start again; where none has, `h5clear -s {path}` takes the mark away",
        )
    return None


@contextmanager
def open_recording(path: Path) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 says of a broken file becomes a RecordingError."""
    if not path.is_file():
        raise RecordingError(path, "file", "there is no such file", "Check the path")
    try:
        with open_hdf5(path) as file:
            yield file
    except RecordingError:
        raise
    # What h5py raises where the inside of a file is damaged.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> RecordingError:
    if not path.is_file():
        return RecordingError(path, "file", "it is gone", "Put it back, and continue with resume=auto")
    if isinstance(error, PermissionError):
        return RecordingError(path, "file", "you may not read it", "Ask its owner for the right to read it")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return RecordingError(
            path, "file", f"too many files are open ({error})", "Allow more (`ulimit -n 1024`), and start again"
        )
    if (held := held_elsewhere(path, error)) is not None:
        return held
    if not h5py.is_hdf5(path):
        return RecordingError(
            path,
            "file",
            "this is not an HDF5 file",
            "Import your data with `python run.py task=import importer=arrays …`",
        )
    return RecordingError(
        path, "file", f"truncated or damaged ({error})", "Copy or import it again; a whole file can be read to its end"
    )
