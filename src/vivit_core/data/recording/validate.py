"""Check recording files before they are used: each number in them, and that nothing in them does harm.

What a file holds is checked in :mod:`structure`, what it may claim in :mod:`limits`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np

from vivit_core.data.recording.checksum import checksum_holds, difference
from vivit_core.data.recording.format import (
    COPY_BYTES,
    SHIFT,
    RecordingInfo,
    Verify,
    is_rate,
)
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.hdf5 import open_recording, unreadable
from vivit_core.data.recording.limits import MOST_CHUNK_BYTES, along_time, check_holes
from vivit_core.data.recording.resumable import pieces
from vivit_core.data.recording.structure import dataset_names, describe, read_attribute, whole_dataset
from vivit_core.specs import RecordingError
from vivit_core.system.files import known_whole, remember_whole, state_of

log = logging.getLogger(__name__)


_NOTHING = "Store finite numbers ≥ 0; put 0 and mark the bin in responses/valid where nothing was measured"
_RATES = "Store finite rates ≥ 0"
_BELOW = {  # what to do about counts below 0, by their kind
    "spikes": f'{_NOTHING}. A calcium trace is imported with importer.kind=calcium, and written with kind="calcium"',
    "calcium": "Store numbers ≥ 0: deconvolve the trace; or add a constant to each unit's, which leaves correlations "
    "as they are and not bits; or set what is below 0 to 0, and scores are then of a trace without the lower half of "
    "its noise. Do not mark these bins in responses/valid: they were measured",
}


def _check_values(
    path: Path, file: h5py.File, name: str, remedy: str, below: str | None = None, may_miss: bool = False
) -> None:
    """Stream through a (T, ...) array and name the first row with a bad number.

    Parameters
    ----------
    path, file, name : of the array.
    remedy : of numbers that are not finite.
    below : of those below 0; None: they are fine.
    may_miss : NaN is a missing number.
    """
    dataset = file[name]
    if dataset.dtype.kind == "u":
        return
    bad = np.isinf if may_miss else lambda values: ~np.isfinite(values)
    for start, piece in _streamed(dataset):
        if piece.dtype.kind == "f" and bad(piece).any():
            where = np.argwhere(bad(piece))[0]
            raise RecordingError(
                path, name, f"row {start + where[0]}, index {where[1:].tolist()} is {piece[tuple(where)]}", remedy
            )
        if below is not None and piece.size and piece.min() < 0:
            where = np.argwhere(piece < 0)[0]
            raise RecordingError(
                path, name, f"row {start + where[0]}, unit {where[1]} is negative ({piece[tuple(where)]})", below
            )


def _streamed(dataset: h5py.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """A (T, ...) array in pieces of whole chunks, so that none is inflated twice: first row and values of each."""
    row_bytes = max(1, int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize)
    rows = max(1, COPY_BYTES // row_bytes)
    if dataset.chunks is not None and dataset.chunks[0] * row_bytes <= MOST_CHUNK_BYTES:
        rows = max(dataset.chunks[0], rows // dataset.chunks[0] * dataset.chunks[0])
    for start, stop in pieces(dataset.shape[0], row_bytes, rows * row_bytes):
        yield start, dataset[start:stop]


def examine_here(path: Path, whole: bool) -> RecordingInfo:
    """Check structure, counts and behavior; with ``whole`` also each frame, and read whatever a task could read."""
    with open_recording(path) as file:
        info = describe(file, path)
        _check_values(path, file, "responses/counts", _NOTHING, _BELOW[info.kind])
        for name in info.behavior:
            _check_values(
                path,
                file,
                f"behavior/{name}",
                "Store finite numbers, and NaN where a value is missing: a twin then sees the mean",
                may_miss=True,
            )
        for name in file.get("truth", ()):
            if is_rate(name):
                _check_values(path, file, f"truth/{name}", _RATES, _RATES)
            elif name == SHIFT:
                _check_values(path, file, f"truth/{name}", "Store finite shifts")
        if whole:
            _check_values(path, file, "stimulus/frames", "Store finite pixel values")
            for name in dataset_names(file):
                dataset = file[name]
                if dataset.dtype.kind in "ub" and dataset.ndim > 1:
                    for _ in _streamed(dataset):  # that every chunk can be read
                        pass
                elif name.startswith(("units/", "truth/")) and not along_time(name):
                    whole_dataset(path, dataset)
                for attribute in dataset.attrs:
                    read_attribute(path, dataset, attribute)
            read_attribute(path, file, "import_key")
    return info


def examine(path: str) -> None:
    """What :class:`guard.Guard` calls: read a file to its end."""
    examine_here(Path(path), whole=True)


def validate_recording(path: str | Path) -> RecordingInfo:
    """Check a recording file: its checksum, its structure, and every number in it. Memory use does not depend on its
    size, and a file that is damaged or made to do harm meets HDF5 in a process of its own (:mod:`guard`).

    Raises
    ------
    RecordingError
        The first thing that is wrong: file, field, row, and what to do about it.
    """
    return check_recording(path, verify="always")


def check_recordings(
    paths: Sequence[str | Path], *, verify: Verify = "known"
) -> tuple[list[RecordingInfo], list[RecordingError]]:
    """:func:`check_recording` for many files: what the good ones hold, and what is wrong with the others."""
    infos, problems = [], []
    with Guard() as guard:
        for path in paths:
            try:
                infos.append(_checked(Path(path), guard, verify))
            except RecordingError as error:
                problems.append(error)
    return infos, problems


def check_recording(path: str | Path, *, verify: Verify = "known") -> RecordingInfo:
    """:func:`validate_recording` for the start of a training: a file is read to its end the first time that it is seen,
    and again after it has changed; otherwise its structure, counts and behavior are checked.

    Parameters
    ----------
    path : the file.
    verify : "always" reads it to its end each time: damage of the disk changes neither size nor time of a file.

    Raises
    ------
    RecordingError
        As :func:`validate_recording`.
    """
    with Guard() as guard:
        return _checked(Path(path), guard, verify)


def _checked(path: Path, guard: Guard, verify: Verify) -> RecordingInfo:
    if not path.is_file():
        raise RecordingError(path, "file", "there is no such file", "Check the path")
    if verify == "known" and known_whole(path):
        return examine_here(path, whole=False)
    try:
        before = state_of(path)
        check_holes(path)
    except OSError as error:
        raise unreadable(path, error) from error
    sealed = checksum_holds(path)
    try:
        guard.run(path, "vivit_core.data.recording.validate:examine", {"path": str(path)})
    except RecordingError as error:
        if sealed is not False or error.field not in ("file", "attribute format"):
            raise
    if sealed is False:
        raise RecordingError(
            path,
            "file",
            difference(path),
            "Copy or import it again; if you changed it yourself, call "
            "vivit_core.data.recording.checksum.write_checksum(path)",
        )
    if not path.is_file() or state_of(path) != before:
        raise RecordingError(path, "file", "it changed while it was read", "Start again when nothing writes to it")
    remember_whole(path)
    with open_recording(path) as file:
        return describe(file, path)
