"""Opens HDF5 files: on file systems without locks too, and with a word on who else has a file open."""

from __future__ import annotations

import errno
import functools
import logging
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
