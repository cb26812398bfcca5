"""Arrays that took long to compute, kept in the user's cache under a key of what they were computed from.

They lie in NumPy's ``.npz``, read without pickle: nothing in such a file is ever run. Losing one costs the time to
compute it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import IO, Any

import numpy as np

from vivit_core.names import few
from vivit_core.system.files import atomic_write, remove_leftovers
from vivit_core.system.locks import lock
from vivit_core.system.threads import go_on
from vivit_core.system.user import cache_folder

log = logging.getLogger(__name__)
SWITCH = "VIVIT_CORE_CACHE"  # environment variable; "off" keeps nothing, and looks nothing up
MOST_BYTES = 256 << 20  # of all files of a folder together; what was not used for longest goes first
_HEADERS = 64 << 10  # bytes that the names and shapes in a file take at most
LOOK_S = 0.2  # between two looks whether it is one's turn
_turns: dict[str, threading.Lock] = {}  # of this process's threads, by the name of the file that processes lock
_told: set[Path] = set()  # folders of which was said that nothing can be kept in them

Arrays = dict[str, np.ndarray]


def user_folder(name: str) -> Path | None:
    """A folder of the user's cache; None where this user has none, or switched the cache off."""
    if os.environ.get(SWITCH, "").strip().lower() in ("off", "0", "false", "no"):
        return None
    return cache_folder(name)


def digest(code: Iterable[ModuleType], settings: Any, arrays: Iterable[np.ndarray]) -> str:
    """The key of what some code computes from settings and arrays: a hash of all three.

    Parameters
    ----------
    code : every module that decides what is found.
    settings : as JSON can hold them.
    arrays : read one after another.
    """
    hashed = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=16)
    for module in code:
        hashed.update(Path(str(module.__file__)).read_bytes())
    for array in arrays:
        hashed.update(f"{array.dtype}{array.shape}".encode())
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()


def user_kept(name: str) -> Kept | None:
    """What is kept in :func:`user_folder`; None where there is none."""
    folder = user_folder(name)
    return None if folder is None else Kept(folder)


class Kept:
    """A folder of kept arrays, which any number of processes may use at once.

    Parameters
    ----------
    folder : made where it is missing.
    most_bytes : of its files together.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self.folder, self.most_bytes = folder, most_bytes

    def get(self, key: str, like: Mapping[str, np.ndarray], make: Callable[[], Arrays]) -> tuple[Arrays, bool]:
        """The arrays of a key, and whether they were kept; else they are made, by one process at a time, and kept.

        A file that cannot be read is made again, and a line says so; where none can be written, one line says so.

        Parameters
        ----------
        key : letters and digits, as of a hash.
        like : arrays with the names, shapes and types that are asked for.
        make : computes them.
        """
        path = self.folder / f"{key}.npz"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # Few files, though of all keys: two that share one wait for each other, and no more.
            turn = (self.folder / f"{key[:2]}.lock").open("a", encoding="utf-8")
        except OSError as error:
            found = self._read(path, like)  # somebody else may have filled a folder that is only read here
            if found is None:
                self._tell(error)
            return (make(), False) if found is None else (found, True)
        with in_turn(turn):
            found = self._read(path, like)
            if found is not None:
                with suppress(OSError):
                    os.utime(path)  # it was used just now
                return found, True
            made = make()
            try:
                remove_leftovers(self.folder, f"{key[:2]}*")
                with atomic_write(path) as temporary, temporary.open("wb") as file:
                    np.savez(file, **made)  # type: ignore[arg-type]
                self._trim(path)
            except OSError as error:
                self._tell(error)
            return made, False

    def _read(self, path: Path, like: Mapping[str, np.ndarray]) -> Arrays | None:
        """None where there is nothing, or nothing that is good."""
        try:
            with path.open("rb") as file:
                if os.fstat(file.fileno()).st_size > sum(array.nbytes for array in like.values()) + _HEADERS:
                    raise ValueError("it is too large")
                with np.load(file, allow_pickle=False) as stored:
                    if (names := set(stored)) != set(like):
                        raise ValueError(f"it holds {few(sorted(names)) or 'nothing'}")
                    found = {name: stored[name] for name in like}
            for name, array in found.items():
                if (array.shape, array.dtype) != (like[name].shape, like[name].dtype) or np.isnan(array).any():
                    raise ValueError(f"its {name} is not what belongs there")
            return found
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return None
        # All that reading a damaged .npz raises.
        except (
            *(OSError, ValueError, KeyError, EOFError, SyntaxError, MemoryError, RuntimeError),
            *(zipfile.BadZipFile, zlib.error),
        ) as error:
            log.warning("%s cannot be used (%s): what it held is computed again", path, error)
            return None

    def _trim(self, newest: Path) -> None:
        """Keep the files that were used last, and the newest in any case."""
        used = []
        for path in self.folder.glob("*.npz"):
            with suppress(OSError):  # another process has removed it
                status = path.stat()
                used.append((path == newest, status.st_mtime_ns, status.st_size, path))
        total = 0
        for is_newest, _, size, path in sorted(used, reverse=True):
            total += size
            if total > self.most_bytes and not is_newest:
                path.unlink(missing_ok=True)

    def _tell(self, error: OSError) -> None:
        if self.folder not in _told:
            _told.add(self.folder)
            cause = error.__cause__ if isinstance(error.__cause__, OSError) else error
            log.warning(
                "nothing can be kept in %s (%s), so it is computed again next time; %s=off does without a cache, and "
                "XDG_CACHE_HOME chooses another place",
                self.folder,
                cause.strerror or cause,
                SWITCH,
            )


@contextmanager
def in_turn(file: IO[Any]) -> Iterator[None]:
    """Alone with an open file, of all threads and processes, and it is closed in the end. The others are waited for as
    long as that is wanted (:func:`vivit_core.system.threads.go_on`)."""
    own, told = _turns.setdefault(file.name, threading.Lock()), False
    with file:
        while not own.acquire(timeout=LOOK_S):
            go_on()
        try:
            while True:
                try:
                    lock(file)
                    break
                except BlockingIOError:
                    if not told:
                        log.info(
                            "another process computes the same, which is waited for (%s=off does not wait)", SWITCH
                        )
                    told = True
                    go_on()
                    time.sleep(LOOK_S)
            yield
        finally:
            file.close()  # before a thread of this process may look, for which it would be another process's
            own.release()
