"""An HDF5 file written piece by piece, that a later process completes where one was killed.

Two hidden files stand beside the one to come: ``.NAME.partial``, the HDF5 file, and ``.NAME.journal``, a line for each
piece that is safely in it, with a checksum of what the source gave. The partial file gets its whole structure first,
with place for every number; from then on pieces are written into their places and no structure changes, so that a
process killed at any moment leaves a file that opens. At the end each piece is read back and compared with its
checksum, and only then the file gets its name.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol, TextIO
from uuid import uuid4

import h5py
import numpy as np

from vivit_core.data.recording.checksum import BLOCK
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.hdf5 import open_hdf5
from vivit_core.specs import RecordingError
from vivit_core.system.files import remove_leftovers
from vivit_core.system.locks import lock
from vivit_core.system.terminal import track
from vivit_core.system.troubles import FULL, REFUSED, reason

_CHUNK_FRAMES = 64  # frames a chunk; 300-frame windows read fastest from uncompressed chunks of 32-128 frames
_STRUCTURE_BYTES = 1 << 14  # HDF5's own of a file
TABLE_BYTES = 1 << 12  # HDF5's own of a dataset, at most: 2.6 kB were measured
_CHUNK_ENTRY_BYTES = 1 << 6  # where a chunk lies
_CHUNK_BYTES = 1 << 20  # larger chunks do not fit HDF5's chunk cache


class Sliceable(Protocol):
    """Anything with a shape, a dtype and slices along its first axis: an array, a memmap, an h5py dataset."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, key: slice, /) -> Any: ...


def pieces(n: int, row_bytes: int, piece_bytes: int) -> Iterator[tuple[int, int]]:
    """Half open ranges that cover n rows, each of at most ``piece_bytes`` (but of one row at least)."""
    step = max(1, piece_bytes // max(1, row_bytes))
    for start in range(0, n, step):
        yield start, min(n, start + step)


def write_in_pieces(
    path: Path,
    layout: Callable[[h5py.File], None],
    arrays: Mapping[str, tuple[Sliceable, np.dtype]],
    check: Callable[[Path], Any],
    *,
    layout_bytes: int,
    piece_bytes: int,
    key: str | None = None,
    progress: str | None = None,
) -> None:
    """Write an HDF5 file, whole or not at all, in bounded memory.

    Parameters
    ----------
    path : the file to come; it is replaced where it exists.
    layout : writes all that is small into the new file: attributes, groups, short tables.
    arrays : name -> the (T, ...) values and the type they are stored as; copied in pieces into uncompressed datasets
        with chunks along time.
    layout_bytes : what ``layout`` writes, at most, so that a disk without room for it is refused first.
    check : called with the complete file before it gets its name; raises where it must not.
    piece_bytes : what is held of one array at a time.
    key : identifies what is written. A process that was killed leaves its partial file, and a later write under the
        same key goes on where it stopped; under another key it starts again. None never goes on.
    progress : what a progress bar says; None shows none.

    Raises
    ------
    RecordingError
        Where another process is writing this file, where it cannot be written, or where the disk gives back something
        else than it was given.
    """
    partial, journal_path = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.journal")
    check_writable(path)
    with _held(path, journal_path) as journal:
        try:
            with _writing(path):
                done = _begin(partial, journal, layout, layout_bytes, arrays, key or uuid4().hex)
            plan = [
                (name, start, stop)
                for name, (_, dtype) in arrays.items()
                for start, stop in pieces(arrays[name][0].shape[0], _row_bytes(arrays[name][0], dtype), piece_bytes)
            ]
            hidden = progress is None
            with open_hdf5(partial, "r+") as file:
                for name, start, stop in track(plan, f"{progress}: write", disable=hidden):
                    if (name, start, stop) in done:
                        continue
                    values, dtype = arrays[name]
                    piece = np.ascontiguousarray(np.asarray(values[start:stop]).astype(dtype, copy=False))
                    if piece.shape != (stop - start, *values.shape[1:]):
                        raise RecordingError(
                            path,
                            name,
                            f"rows {start}:{stop} of the source have shape {piece.shape}, not "
                            f"{(stop - start, *values.shape[1:])}",
                            "Look whether the source changed while it was read",
                        )
                    done[name, start, stop] = zlib.crc32(piece.data)
                    with _writing(path):  # the line above may fail too, but then it is the source that cannot be read
                        file[name][start:stop] = piece
                        file.flush()
                        _note(journal, [name, start, stop, done[name, start, stop]])
            with _writing(path):
                _sync(partial)
            with open_hdf5(partial) as file:
                for name, start, stop in track(plan, f"{progress}: check", disable=hidden):
                    if zlib.crc32(np.ascontiguousarray(file[name][start:stop]).data) != done[name, start, stop]:
                        raise RecordingError(
                            path,
                            name,
                            f"rows {start}:{stop} read back from the disk differ from what was written",
                            "Check the disk, and write the file again",
                        )
            check(partial)
            with _writing(path):
                os.replace(partial, path)
        except Exception:  # not where the process is interrupted: it may go on later
            partial.unlink(missing_ok=True)
            journal_path.unlink(missing_ok=True)
            raise
        except BaseException:
            if key is None:
                partial.unlink(missing_ok=True)
                journal_path.unlink(missing_ok=True)
            raise
        journal_path.unlink()


def check_writable(path: Path) -> None:
    """Refuse a file that cannot be written, best before anything is read for it; makes its folder.

    Raises
    ------
    RecordingError
        Says what is in the way.
    """
    if path.is_dir():
        raise RecordingError(path, "file", "is a folder", f"Name a file, for example {path / 'recording.h5'}")
    with _writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        tried = path.with_name(f".{path.name}.{uuid4().hex[:8]}.tmp")
        tried.touch()
        tried.unlink(missing_ok=True)  # who writes this file removes what killed processes have left


def remove_journal(path: Path) -> None:
    """Remove the journal of a complete file, which a process leaves that is killed as it gives the file its name."""
    journal_path = path.with_name(f".{path.name}.journal")
    if journal_path.exists():
        with (
            suppress(RecordingError),
            _held(path, journal_path),
        ):  # another process writes the file anew; a read-only folder
            journal_path.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """What the system or HDF5 refuses here is about the file that is written, and about none that is read for it."""
    try:
        yield
    except OSError as error:
        remedy = (
            "Make room on the disk, or write elsewhere"
            if error.errno in FULL
            else "Ask for the right to write there, or write elsewhere"
            if error.errno in REFUSED
            else "Correct the path, or write elsewhere"
        )
        raise RecordingError(path, "file", f"cannot be written ({reason(error)})", remedy) from error


@contextmanager
def _held(path: Path, journal_path: Path) -> Iterator[TextIO]:
    """The journal, locked: one process writes a file at a time."""
    with _writing(path):
        opened = journal_path.open("a+", encoding="utf-8")
    with opened as journal:
        try:
            lock(journal)
            mine = journal_path.exists() and os.fstat(journal.fileno()).st_ino == journal_path.stat().st_ino
        except BlockingIOError:
            mine = False
        if not mine:
            raise RecordingError(path, "file", "another process is writing it", "Wait for it, or write elsewhere")
        remove_leftovers(path.parent, path.name)
        yield journal


def _begin(
    partial: Path,
    journal: TextIO,
    layout: Callable[[h5py.File], None],
    layout_bytes: int,
    arrays: Mapping[str, tuple[Sliceable, np.dtype]],
    key: str,
) -> dict[tuple[str, int, int], int]:
    """Find what a killed process left under this key, or lay out a new file; the checksums of the pieces in it."""
    journal.seek(0)
    if partial.is_file():
        # A journal or a file that is damaged, or that somebody else put there: it is written anew.
        with suppress(ValueError, TypeError, RecursionError):
            lines = journal.read().split("\n")[:-1]  # what follows the last line break is half a line
            done = [json.loads(line) for line in lines]
            if done and done[0] == key:
                shapes = {name: list(values.shape) for name, (values, _) in arrays.items()}
                with Guard() as guard:
                    guard.run(partial, f"{__name__}:opens", {"path": str(partial), "shapes": shapes})
                return {(name, start, stop): crc for name, start, stop, crc in done[1:]}
    journal.truncate(0)
    check_room(partial, layout_bytes + sum(_place_bytes(values, dtype) for values, dtype in arrays.values()))
    # The user block is for the seal. Later versions of HDF5's format refuse what a killed writer left.
    with open_hdf5(partial, "w", libver=("v108", "v108"), userblock_size=BLOCK) as file:
        for name, (values, dtype) in arrays.items():
            _make_place(file, name, tuple(values.shape), dtype)
        layout(file)
    _note(journal, key)
    return {}


def opens(path: str, shapes: Mapping[str, list[int]]) -> None:
    """What :class:`guard.Guard` calls: whether the places of a partial file can be found, before this process writes
    into them. What stands there is compared with its checksums at the end."""
    with open_hdf5(Path(path)) as file:
        for name, shape in shapes.items():
            if list(file[name].shape) != shape:
                raise ValueError(f"{name} has another shape")
            if file[name].chunks is not None:
                file[name].id.get_num_chunks()


def check_room(partial: Path, size: int) -> None:
    """Refuse what the disk cannot hold before it is full: HDF5 does not survive a disk that fills up."""
    free = shutil.disk_usage(partial.parent).free
    if (limit := resource.getrlimit(resource.RLIMIT_FSIZE)[0]) != resource.RLIM_INFINITY:
        free = min(free, limit)
    if size + _STRUCTURE_BYTES > free:
        raise OSError(
            errno.ENOSPC, f"{size / 1e6:.1f} MB are to be written, and the disk has place for {free / 1e6:.1f} MB"
        )


def _make_place(file: h5py.File, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """An uncompressed dataset whose place in the file is taken now, so that writing to it changes nothing else."""
    if 0 in shape:
        file.create_dataset(name, shape, dtype)
        return
    # Uncompressed: light compression makes a window 5 to 20 times slower to read.
    chunk = _chunk_rows(shape[0], max(1, int(np.prod(shape[1:])) * dtype.itemsize))
    places = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    places.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    file.create_dataset(name, shape, dtype, chunks=(chunk, *shape[1:]), dcpl=places, fill_time="never")


def _chunk_rows(rows: int, row_bytes: int) -> int:
    return max(1, min(rows, _CHUNK_FRAMES if row_bytes > 512 else 1024, _CHUNK_BYTES // row_bytes))


def _place_bytes(values: Sliceable, dtype: np.dtype) -> int:
    """What an array takes in the file: whole chunks, and HDF5's notes of them."""
    row_bytes = _row_bytes(values, dtype)
    chunk = _chunk_rows(values.shape[0], row_bytes)
    return -(-values.shape[0] // chunk) * (chunk * row_bytes + _CHUNK_ENTRY_BYTES) + TABLE_BYTES


def _row_bytes(values: Sliceable, dtype: np.dtype) -> int:
    return max(1, int(np.prod(values.shape[1:])) * dtype.itemsize)


def _note(journal: TextIO, entry: Any) -> None:
    journal.write(json.dumps(entry) + "\n")
    journal.flush()


def _sync(path: Path) -> None:
    """Onto the disk."""
    with open(path, "rb+") as written:
        os.fsync(written.fileno())
