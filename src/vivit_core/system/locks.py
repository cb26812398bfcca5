"""One process at a time: locks on files, which are freed when their process ends, however it ends."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

log = logging.getLogger(__name__)


_WITHOUT: set[int] = set()  # file systems of which was said that they have no locks


def lock(file: IO[Any], *, wait: bool = False) -> None:
    """Lock an open file until it is closed.

    Some network file systems have no locks (their errno is ENOSYS, ENOLCK, ENOTSUP …): there the work goes on without,
    and one line says so.

    Parameters
    ----------
    file : open for writing, because file systems that make locks of others' ask for that.
    wait : for whoever holds it.

    Raises
    ------
    BlockingIOError
        Where another process holds it and ``wait`` is false.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError as error:
        device = os.fstat(file.fileno()).st_dev
        if device not in _WITHOUT:
            _WITHOUT.add(device)
            log.warning(
                "the file system of %s has no locks (%s): do not start two programs at once that write the same files",
                os.path.dirname(os.path.abspath(file.name)),
                error.strerror or error,
            )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock file, for which others are waited."""
    with path.open("w", encoding="utf-8") as file:
        lock(file, wait=True)
        yield
