"""The recording file: one HDF5 file a recording. Writer, validator, reader; docs/design.md lists its fields.

Shape letters: T bins (= frames), H W pixels, C channels, U units, D behavior numbers, N trials.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import h5py
import numpy as np

from vivit_core.data.recording.checksum import checksum_holds, difference
from vivit_core.data.recording.format import (
    _TEXT_ATTRS,
    COPY_BYTES,
    FORMAT,
    FORMAT_VERSION,
    KINDS,
    RecordingInfo,
    Trials,
    Verify,
    _strings,
    _text,
)
from vivit_core.data.recording.guard import Guard, stored_bytes
from vivit_core.data.recording.hdf5 import held_elsewhere, open_hdf5
from vivit_core.data.recording.resumable import pieces
from vivit_core.names import LONGEST, problem_of, short
from vivit_core.specs import RecordingError
from vivit_core.system.files import known_whole, remember_whole, state_of

log = logging.getLogger(__name__)


# What no recording has, and a damaged or hostile file may claim.
_MOST_BYTES = 1 << 30  # of an array, and of all together, beside


_INFLATION = 1032  # times what is stored of it, which is the most that deflate can compress


_MOST_HOLES = 100  # times the bytes that a file takes on the disk is its size; file systems that compress stay below


_HOLES_BYTES = 1 << 26  # size from which on holes are looked for


_MOST_ROW_BYTES = 1 << 28  # one frame, or all units' numbers of one bin


_MOST_CHUNK_BYTES = 1 << 30  # HDF5 reads whole chunks


_MOST_TABLE_BYTES = 1 << 28  # trials/…, units/… and truth/… but its rate


_MOST_TRIALS = 1 << 20


_MOST_NAMES = 10_000  # of behaviors, of columns of units, of truths


_MOST_ATTRIBUTE_BYTES = 1 << 16


# --- checking --------------------------------------------------------------------------------------------------------
@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
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
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RecordingError:
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


def _dataset(file: h5py.File, path: Path, name: str, ndim: tuple[int, ...], kinds: str, what: str) -> h5py.Dataset:
    """The dataset ``name``, checked for being inside this file, its rank and its type."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        part = "/".join(parts[:depth])
        link = file.get(part, getlink=True)
        if link is None:
            raise RecordingError(path, name, "missing", f"Write it: {what}")
        if not isinstance(link, h5py.HardLink):
            raise RecordingError(
                path, part, "is a link to somewhere else", "Store the data in this file itself; links are not followed"
            )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise RecordingError(path, name, "is a group", f"Write a dataset there: {what}")
    if dataset.external or dataset.is_virtual:
        raise RecordingError(path, name, "its data lie in another file", "Store the data in this file itself")
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    kind = "s" if is_text else dataset.dtype.kind
    if len(dataset.shape or ()) not in ndim or dataset.shape is None:
        raise RecordingError(path, name, f"has shape {dataset.shape}", f"Write {what}")
    if kind not in kinds:
        raise RecordingError(path, name, f"has type {dataset.dtype}", f"Write {what}")
    _check_size(path, name, dataset)
    return dataset


def _check_size(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Refuse what could not be read in bounded memory and time: a few bytes of a file can claim anything."""

    def claims(what: str, size: int, most: int) -> RecordingError:
        return RecordingError(
            path,
            name,
            f"claims {what} of {size:.3g} bytes; at most {most:.3g} are read",
            "Write the file again with what was recorded; a file that claims so much is damaged",
        )

    item = max(1, dataset.dtype.itemsize)
    size = int(np.prod(dataset.shape, dtype=object)) * item
    if dataset.chunks is not None and (chunk := int(np.prod(dataset.chunks, dtype=object)) * item) > _MOST_CHUNK_BYTES:
        raise RecordingError(
            path, name, f"is stored in chunks of {chunk:.3g} bytes", "Write it in chunks of about a megabyte"
        )
    along_time = name in ("stimulus/frames", "responses/counts", "responses/valid", "truth/rate") or name.startswith(
        "behavior/"
    )
    if not along_time:
        if size > _MOST_TABLE_BYTES:
            raise claims("a table", size, _MOST_TABLE_BYTES)
        if name.startswith("trials/") and dataset.shape[0] > _MOST_TRIALS:
            raise RecordingError(
                path, name, f"claims {dataset.shape[0]} trials; at most {_MOST_TRIALS} are read", "Write longer trials"
            )
        return
    row = int(np.prod(dataset.shape[1:], dtype=object)) * item
    if row > _MOST_ROW_BYTES:
        raise claims("a bin", row, _MOST_ROW_BYTES)
    most = _MOST_BYTES + _INFLATION * min(dataset.id.get_storage_size(), stored_bytes(path))
    if size > most:
        raise claims("content", size, most)


def _check_sizes(path: Path, datasets: Sequence[h5py.Dataset]) -> None:
    """:func:`_check_size` for all datasets together: many small claims make a large one."""
    size = sum(int(np.prod(d.shape, dtype=object)) * max(1, d.dtype.itemsize) for d in datasets)
    stored, on_disk = sum(d.id.get_storage_size() for d in datasets), stored_bytes(path)
    remedy = "Copy or import it again; a file that claims so much is damaged"
    if stored > path.stat().st_size:
        raise RecordingError(
            path, "file", f"claims that {stored:.3g} bytes are stored in its {path.stat().st_size:.3g}", remedy
        )
    most = _MOST_BYTES + _INFLATION * min(stored, on_disk)
    if size > most:
        raise RecordingError(path, "file", f"claims {size:.3g} bytes in all; at most {most:.3g} are read", remedy)


def check_holes(path: Path) -> None:
    """Refuse a file that is little more than holes, which cost its maker nothing and a reader hours."""
    size, on_disk = path.stat().st_size, stored_bytes(path)
    if size > _HOLES_BYTES and size > _MOST_HOLES * on_disk:
        raise RecordingError(
            path,
            "file",
            f"truncated or damaged: of its {size:.3g} bytes only {on_disk:.3g} are on the disk",
            "Copy or import it again; a copy that was cut short leaves such holes",
        )


def _length(path: Path, name: str, n: int, expected: int, of: str) -> None:
    if n != expected:
        raise RecordingError(path, name, f"has {n} rows, but {of} has {expected}", "Give both the same length")


def _group_names(file: h5py.File, path: Path, name: str) -> list[str]:
    link = file.get(name, getlink=True)
    if link is None:
        return []
    if not isinstance(link, h5py.HardLink):
        raise RecordingError(
            path, name, "is a link to somewhere else", "Store the data in this file itself; links are not followed"
        )
    group = file[name]
    if not isinstance(group, h5py.Group):
        raise RecordingError(path, name, "is a dataset", "Make it a group with one dataset for each name")
    if len(group) > _MOST_NAMES:
        raise RecordingError(
            path, name, f"claims {len(group)} names; at most {_MOST_NAMES} are read", "Join some into one, as columns"
        )
    names = list(group)
    _check_names(path, name, names)
    return [str(member) for member in names]


def _attribute(path: Path, item: h5py.File | h5py.Dataset, name: str, default: Any = None) -> Any:
    """The value of an attribute, which is never large."""
    if name not in item.attrs:
        return default
    value = None
    if item.attrs.get_id(name).get_storage_size() <= _MOST_ATTRIBUTE_BYTES:
        value = item.attrs[name]
        words = value.ravel().tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else [value]
        if sum(len(word) for word in words if isinstance(word, str | bytes)) > _MOST_ATTRIBUTE_BYTES:
            value = None
    if value is None:
        raise RecordingError(
            path,
            f"attribute {name}" if isinstance(item, h5py.File) else f"{item.name.lstrip('/')} attribute {name}",
            f"is larger than {_MOST_ATTRIBUTE_BYTES} bytes",
            "Write a short one",
        )
    return value


def _table(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A whole small dataset; texts of any length, which claim nothing of their size, are read in pieces."""
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        return dataset[()]
    words: list[Any] = []
    longest = 0
    for start in range(0, len(dataset), 256):
        words += dataset[start : start + 256].tolist()
        longest = max(longest, *(len(word) for word in words[start:]))
        if 4 * longest * len(words) > _MOST_TABLE_BYTES:  # an array of str gives each the place of the longest
            raise RecordingError(
                path,
                dataset.name.lstrip("/"),
                f"holds a text of {longest} characters",
                "Write short texts; a file that holds such long ones is damaged",
            )
    return np.array(words, dtype=object)


def _check_id(path: Path, recording_id: Any) -> None:
    _check_names(path, "attribute recording_id", [recording_id], how="; importer.recording_id=… chooses another")


def _check_names(path: Path, field: str, names: Sequence[Any], *, longest: int | None = LONGEST, how: str = "") -> None:
    """Refuse names that could not be shown or used as one word; numbers may stand for names."""
    for row, name in enumerate(map(_text, names)):
        if (problem := problem_of(name, longest)) is not None:
            raise RecordingError(
                path,
                field,
                (f"row {row}, '{short(name)}', " if len(names) > 1 else f"'{short(name)}' ") + problem,
                f"Write it in UTF-8, in one line of at most {LONGEST} characters, without control characters{how}",
            )


def _check_free_text(path: Path, field: str, text: str) -> None:
    """Refuse what HDF5 cannot keep as text."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise RecordingError(path, field, f"'{short(text)}' has a NUL, or is not UTF-8", "Write it in UTF-8")


def _describe(file: h5py.File, path: Path) -> RecordingInfo:
    """Check everything but the values of the large arrays, and say what the file holds."""
    said = _text(_attribute(path, file, "format", "nothing"))
    if said != FORMAT:
        raise RecordingError(
            path,
            "attribute format",
            f"this HDF5 file is not a recording: it says {said!r}, not {FORMAT!r}",
            "Import it with `python run.py task=import …`",
        )
    version = _attribute(path, file, "format_version")
    if version is None or not np.isscalar(version) or _text(version) != str(FORMAT_VERSION):
        raise RecordingError(
            path,
            "attribute format_version",
            f"is {version}, and this vivit-core reads version {FORMAT_VERSION}",
            "Import the recording again, or use the vivit-core that wrote it",
        )
    recording_id = _text(_attribute(path, file, "recording_id", ""))
    if not recording_id:
        raise RecordingError(path, "attribute recording_id", "missing or empty", "Give the recording a name")
    _check_id(path, recording_id)
    frame_rate_hz = _positive(file, path, "frame_rate_hz")
    degrees_per_pixel = _positive(file, path, "degrees_per_pixel") if "degrees_per_pixel" in file.attrs else None

    frames = _dataset(file, path, "stimulus/frames", (3, 4), "uf", "(T, H, W) or (T, H, W, C) uint8 or float32")
    if frames.dtype not in (np.uint8, np.float32):
        raise RecordingError(path, "stimulus/frames", f"has type {frames.dtype}", "Store uint8 or float32")
    if 0 in frames.shape:
        raise RecordingError(path, "stimulus/frames", f"is empty: shape {frames.shape}", "Store at least one frame")
    n_frames, height, width = frames.shape[:3]
    channels = frames.shape[3] if len(frames.shape) == 4 else 1

    counts = _dataset(file, path, "responses/counts", (2,), "iuf", "(T, U) numbers")
    _length(path, "responses/counts", counts.shape[0], n_frames, "stimulus/frames")
    n_units = counts.shape[1]
    if n_units == 0:
        raise RecordingError(path, "responses/counts", "has no units", "A recording has at least one unit")
    kind = _text(_attribute(path, counts, "kind", ""))
    if kind not in KINDS:
        raise RecordingError(
            path, "responses/counts attribute kind", f"is {kind!r}", f"Write one of {', '.join(KINDS)}"
        )
    valid = _dataset(file, path, "responses/valid", (2,), "b", "(T, U) or (T, 1) bool")
    _length(path, "responses/valid", valid.shape[0], n_frames, "stimulus/frames")
    if valid.shape[1] not in (1, n_units):
        raise RecordingError(
            path,
            "responses/valid",
            f"has {valid.shape[1]} columns for {n_units} units",
            "Give one column, or one a unit",
        )

    behavior, causal = {}, {}
    for name in _group_names(file, path, "behavior"):
        field = f"behavior/{name}"
        dataset = _dataset(file, path, field, (2,), "f", "(T, D) float32")
        _length(path, field, dataset.shape[0], n_frames, "stimulus/frames")
        behavior[name] = int(dataset.shape[1])
        causal[name] = bool(_attribute(path, dataset, "causal", True))

    for name, kinds in (("start", "iu"), ("stop", "iu"), ("stimulus_id", "siu"), ("split", "s")):
        _dataset(
            file, path, f"trials/{name}", (1,), kinds, "one value a trial: integers for start and stop, text for split"
        )
    try:
        trials = Trials(*(_table(path, file[f"trials/{name}"]) for name in ("start", "stop", "stimulus_id", "split")))
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise RecordingError(path, field, problem, "Write the trials again") from None
    _check_names(path, "trials/stimulus_id", [s or "none" for s in trials.stimulus_id.tolist()], longest=None)
    if not len(trials):
        raise RecordingError(path, "trials", "there are none", "Write at least one trial")
    if trials.stop[-1] > n_frames:
        row = int(np.argmax(trials.stop > n_frames))
        raise RecordingError(
            path,
            "trials/stop",
            f"row {row} ends at frame {trials.stop[row]} of {n_frames}",
            "End every trial inside the recording",
        )

    _dataset(file, path, "units/id", (1,), "siu", "one id a unit")
    unit_ids = _strings(_table(path, file["units/id"]))
    _check_names(path, "units/id", unit_ids.tolist())
    names, repeats = np.unique(unit_ids, return_counts=True)
    if (repeats > 1).any():
        twice = names[repeats > 1][0]
        rows = np.flatnonzero(unit_ids == twice)[:2].tolist()
        raise RecordingError(
            path, "units/id", f"rows {rows[0]} and {rows[1]} are both {str(twice)!r}", "Give each unit its own id"
        )
    for name in _group_names(file, path, "units"):
        dataset = _dataset(file, path, f"units/{name}", (1, 2, 3), "siufb", "one row a unit")
        _length(path, f"units/{name}", dataset.shape[0], n_units, "responses/counts' second axis")
    for name in _group_names(file, path, "truth"):
        if name == "rate":
            rate = _dataset(file, path, "truth/rate", (2,), "f", "(T, U) float32, expected counts a bin")
            if rate.shape != counts.shape:
                raise RecordingError(
                    path,
                    "truth/rate",
                    f"has shape {rate.shape}, not {counts.shape}",
                    "Give it the shape of responses/counts",
                )
        else:
            dataset = _dataset(file, path, f"truth/{name}", (1, 2, 3), "siufb", "one row a unit")
            _length(path, f"truth/{name}", dataset.shape[0], n_units, "responses/counts' second axis")

    _check_sizes(path, [file[name] for name in _names(file)])
    return RecordingInfo(
        path=path,
        frame_rate_hz=frame_rate_hz,
        n_frames=int(n_frames),
        frame_shape=(int(channels), int(height), int(width)),
        frame_dtype=str(frames.dtype),
        unit_ids=tuple(str(u) for u in unit_ids),
        behavior=behavior,
        behavior_causal=causal,
        kind=cast(Literal["spikes", "calcium"], kind),
        trials=trials,
        has_truth="truth/rate" in file,
        degrees_per_pixel=degrees_per_pixel,
        **{name: _text(_attribute(path, file, name, "")) for name in _TEXT_ATTRS},
    )


def _names(file: h5py.File) -> list[str]:
    """The datasets of a recording whose structure is checked."""
    named = ["stimulus/frames", "responses/counts", "responses/valid"]
    named += [f"trials/{name}" for name in ("start", "stop", "stimulus_id", "split")]
    return named + [
        f"{group}/{name}" for group in ("behavior", "units", "truth") if group in file for name in file[group]
    ]


def _positive(file: h5py.File, path: Path, name: str) -> float:
    value = _attribute(path, file, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise RecordingError(path, f"attribute {name}", f"is {value}", "Write a positive number")
    return number


def _check_values(
    path: Path, file: h5py.File, name: str, non_negative: bool, remedy: str, may_miss: bool = False
) -> None:
    """Stream through a (T, ...) array and name the first row with a bad number; ``may_miss``: NaN is a missing one."""
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
        if non_negative and piece.size and piece.min() < 0:
            where = np.argwhere(piece < 0)[0]
            raise RecordingError(
                path, name, f"row {start + where[0]}, unit {where[1]} is negative ({piece[tuple(where)]})", remedy
            )


def _streamed(dataset: h5py.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """A (T, ...) array in pieces of whole chunks, so that none is inflated twice: first row and values of each."""
    row_bytes = max(1, int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize)
    rows = max(1, COPY_BYTES // row_bytes)
    if dataset.chunks is not None and dataset.chunks[0] * row_bytes <= _MOST_CHUNK_BYTES:
        rows = max(dataset.chunks[0], rows // dataset.chunks[0] * dataset.chunks[0])
    for start, stop in pieces(dataset.shape[0], row_bytes, rows * row_bytes):
        yield start, dataset[start:stop]


def _examine(path: Path, whole: bool) -> RecordingInfo:
    """Check structure, counts and behavior; with ``whole`` also each frame, and read whatever a task could read."""
    with _open(path) as file:
        info = _describe(file, path)
        _check_values(
            path,
            file,
            "responses/counts",
            True,
            "Store finite numbers ≥ 0; put 0 and mark the bin in responses/valid where nothing was measured",
        )
        for name in info.behavior:
            _check_values(
                path,
                file,
                f"behavior/{name}",
                False,
                "Store finite numbers, and NaN where a value is missing: a twin then sees the mean",
                may_miss=True,
            )
        if info.has_truth:
            _check_values(path, file, "truth/rate", True, "Store finite rates ≥ 0")
        if whole:
            _check_values(path, file, "stimulus/frames", False, "Store finite pixel values")
            for name in _names(file):
                dataset = file[name]
                if dataset.dtype.kind in "ub" and dataset.ndim > 1:
                    for _ in _streamed(dataset):  # that every chunk can be read
                        pass
                elif name.startswith(("units/", "truth/")) and name != "truth/rate":
                    _table(path, dataset)
                for attribute in dataset.attrs:
                    _attribute(path, dataset, attribute)
            _attribute(path, file, "import_key")
    return info


def examine(path: str) -> None:
    """What :class:`guard.Guard` calls: read a file to its end."""
    _examine(Path(path), whole=True)


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
        return _examine(path, whole=False)
    try:
        before = state_of(path)
        check_holes(path)
    except OSError as error:
        raise _unreadable(path, error) from error
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
    with _open(path) as file:
        return _describe(file, path)
