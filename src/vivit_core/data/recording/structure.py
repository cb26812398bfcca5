"""Everything of a recording file but the values of its large arrays: what is there, its shape and its type.

Shape letters: T bins (= frames), H W pixels, C channels, U units, D behavior numbers, N trials.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vivit_core.data.recording.format import (
    CONTEXT_AXES,
    FORMAT,
    FORMAT_VERSION,
    KINDS,
    POSITION,
    POSITION_NUMBERS,
    SHIFT,
    TEXT_ATTRS,
    RecordingInfo,
    Trials,
    as_strings,
    as_text,
    is_rate,
)
from vivit_core.data.recording.limits import MOST_ATTRIBUTE_BYTES, MOST_NAMES, MOST_TABLE_BYTES, check_size, check_sizes
from vivit_core.names import LONGEST, problem_of, short
from vivit_core.specs import RecordingError


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
    check_size(path, name, dataset)
    return dataset


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
    if len(group) > MOST_NAMES:
        raise RecordingError(
            path, name, f"claims {len(group)} names; at most {MOST_NAMES} are read", "Join some into one, as columns"
        )
    names = list(group)
    check_names(path, name, names)
    return [str(member) for member in names]


def read_attribute(path: Path, item: h5py.File | h5py.Dataset, name: str, default: Any = None) -> Any:
    """The value of an attribute, which is never large."""
    if name not in item.attrs:
        return default
    value = None
    if item.attrs.get_id(name).get_storage_size() <= MOST_ATTRIBUTE_BYTES:
        value = item.attrs[name]
        words = value.ravel().tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else [value]
        if sum(len(word) for word in words if isinstance(word, str | bytes)) > MOST_ATTRIBUTE_BYTES:
            value = None
    if value is None:
        raise RecordingError(
            path,
            f"attribute {name}" if isinstance(item, h5py.File) else f"{item.name.lstrip('/')} attribute {name}",
            f"is larger than {MOST_ATTRIBUTE_BYTES} bytes",
            "Write a short one",
        )
    return value


def whole_dataset(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A whole small dataset; texts of any length, which claim nothing of their size, are read in pieces."""
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        return dataset[()]
    words: list[Any] = []
    longest = 0
    for start in range(0, len(dataset), 256):
        words += dataset[start : start + 256].tolist()
        longest = max(longest, *(len(word) for word in words[start:]))
        if 4 * longest * len(words) > MOST_TABLE_BYTES:  # an array of str gives each the place of the longest
            raise RecordingError(
                path,
                dataset.name.lstrip("/"),
                f"holds a text of {longest} characters",
                "Write short texts; a file that holds such long ones is damaged",
            )
    return np.array(words, dtype=object)


def check_id(path: Path, recording_id: Any) -> None:
    check_names(path, "attribute recording_id", [recording_id], how="; importer.recording_id=… chooses another")


def check_names(path: Path, field: str, names: Sequence[Any], *, longest: int | None = LONGEST, how: str = "") -> None:
    """Refuse names that could not be shown or used as one word; numbers may stand for names."""
    for row, name in enumerate(map(as_text, names)):
        if (problem := problem_of(name, longest)) is not None:
            raise RecordingError(
                path,
                field,
                (f"row {row}, '{short(name)}', " if len(names) > 1 else f"'{short(name)}' ") + problem,
                f"Write it in UTF-8, in one line of at most {LONGEST} characters, without control characters{how}",
            )


def check_free_text(path: Path, field: str, text: str) -> None:
    """Refuse what HDF5 cannot keep as text."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise RecordingError(path, field, f"'{short(text)}' has a NUL, or is not UTF-8", "Write it in UTF-8")


def describe(file: h5py.File, path: Path) -> RecordingInfo:
    """Check everything but the values of the large arrays, and say what the file holds."""
    said = as_text(read_attribute(path, file, "format", "nothing"))
    if said != FORMAT:
        raise RecordingError(
            path,
            "attribute format",
            f"this HDF5 file is not a recording: it says {said!r}, not {FORMAT!r}",
            "Import it with `python run.py task=import …`",
        )
    version = read_attribute(path, file, "format_version")
    if version is None or not np.isscalar(version) or as_text(version) != str(FORMAT_VERSION):
        raise RecordingError(
            path,
            "attribute format_version",
            f"is {version}, and this vivit-core reads version {FORMAT_VERSION}",
            "Import the recording again, or use the vivit-core that wrote it",
        )
    recording_id = as_text(read_attribute(path, file, "recording_id", ""))
    if not recording_id:
        raise RecordingError(path, "attribute recording_id", "missing or empty", "Give the recording a name")
    check_id(path, recording_id)
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
    kind = as_text(read_attribute(path, counts, "kind", ""))
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
        causal[name] = bool(read_attribute(path, dataset, "causal", True))

    for name, kinds in (("start", "iu"), ("stop", "iu"), ("stimulus_id", "siu"), ("split", "s")):
        _dataset(
            file, path, f"trials/{name}", (1,), kinds, "one value a trial: integers for start and stop, text for split"
        )
    try:
        trials = Trials(
            *(whole_dataset(path, file[f"trials/{name}"]) for name in ("start", "stop", "stimulus_id", "split"))
        )
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise RecordingError(path, field, problem, "Write the trials again") from None
    check_names(path, "trials/stimulus_id", [s or "none" for s in trials.stimulus_id.tolist()], longest=None)
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
    unit_ids = as_strings(whole_dataset(path, file["units/id"]))
    check_names(path, "units/id", unit_ids.tolist())
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
    position_dim = _check_positions(path, file[f"units/{POSITION}"]) if POSITION in file["units"] else 0
    truths = _group_names(file, path, "truth")
    for name in truths:
        field = f"truth/{name}"
        if is_rate(name):
            rate = _dataset(file, path, field, (2,), "f", "(T, U) floats, expected counts a bin")
            if rate.shape != counts.shape:
                raise RecordingError(
                    path,
                    field,
                    f"has shape {rate.shape}, not {counts.shape}",
                    "Give it the shape of responses/counts",
                )
        elif name == SHIFT:
            shift = _dataset(file, path, field, (2,), "f", "(T, 2) floats, pixels to the right and down")
            if shift.shape != (n_frames, 2):
                raise RecordingError(
                    path, field, f"has shape {shift.shape}, not ({n_frames}, 2)", "Give it x and y of each frame"
                )
        elif name not in CONTEXT_AXES:
            dataset = _dataset(file, path, field, (1, 2, 3), "siufb", "one row a unit")
            _length(path, field, dataset.shape[0], n_units, "responses/counts' second axis")
    if any(name in CONTEXT_AXES for name in truths):
        _check_context(file, path, int(n_units), int(n_frames))

    check_sizes(path, [file[name] for name in dataset_names(file)])
    return RecordingInfo(
        path=path,
        frame_rate_hz=frame_rate_hz,
        n_frames=int(n_frames),
        frame_shape=(int(channels), int(height), int(width)),
        frame_dtype=str(frames.dtype),
        unit_ids=tuple(str(u) for u in unit_ids),
        position_dim=position_dim,
        behavior=behavior,
        behavior_causal=causal,
        kind=kind,
        trials=trials,
        has_truth="truth/rate" in file,
        degrees_per_pixel=degrees_per_pixel,
        **{name: as_text(read_attribute(path, file, name, "")) for name in TEXT_ATTRS},
    )


def _check_positions(path: Path, dataset: h5py.Dataset) -> int:
    """Check where units lie in the tissue; returns how many numbers a position has."""
    field, what = f"units/{POSITION}", "(U, 2) or (U, 3) numbers, in micrometers"
    if dataset.ndim != 2 or dataset.shape[1] not in POSITION_NUMBERS or dataset.dtype.kind not in "iuf":
        raise RecordingError(path, field, f"has shape {dataset.shape} and type {dataset.dtype}", f"Write {what}")
    bad = np.argwhere(~np.isfinite(dataset[()]))
    if len(bad):
        row, column = bad[0].tolist()
        raise RecordingError(
            path,
            field,
            f"row {row}, index [{column}] is {dataset[row, column]}",
            "Store a finite place for each unit, or leave the field out",
        )
    return int(dataset.shape[1])


def _check_context(file: h5py.File, path: Path, n_units: int, n_frames: int) -> None:
    """Check the true context weights: that all parts are there, fit together and hold numbers that can be weights."""
    lengths = {"U": (n_units, "responses/counts' second axis")}
    for name, axes in CONTEXT_AXES.items():
        field, kinds = f"truth/{name}", "iu" if name == "context_bins" else "f"
        what = f"({', '.join(axes)}) {'integers' if kinds == 'iu' else 'floats'}, as docs/design.md says"
        dataset = _dataset(file, path, field, (len(axes),), kinds, what)
        for length, axis in zip(dataset.shape, axes, strict=True):
            expected, of = lengths.setdefault(axis, (length, field))
            if length != expected:
                raise RecordingError(
                    path,
                    field,
                    f"has shape {dataset.shape}, with {length} along {axis}, but {of} has {expected}",
                    f"Write {what}",
                )
        values = dataset[()]
        place = name in ("context_x_px", "context_y_px")
        bad = ~np.isfinite(values)
        if not place:
            bad |= values < 0
        if name == "context_bins":
            bad |= values >= n_frames
        if bad.any():
            where = np.argwhere(bad)[0]
            wanted = f"bins of the recording, 0 … {n_frames - 1}" if name == "context_bins" else "finite numbers ≥ 0"
            raise RecordingError(
                path,
                field,
                f"row {where[0]}, index {where[1:].tolist()} is {values[tuple(where)]}",
                "Store finite places" if place else f"Store {wanted}",
            )


def dataset_names(file: h5py.File) -> list[str]:
    """The datasets of a recording whose structure is checked."""
    named = ["stimulus/frames", "responses/counts", "responses/valid"]
    named += [f"trials/{name}" for name in ("start", "stop", "stimulus_id", "split")]
    return named + [
        f"{group}/{name}" for group in ("behavior", "units", "truth") if group in file for name in file[group]
    ]


def _positive(file: h5py.File, path: Path, name: str) -> float:
    value = read_attribute(path, file, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise RecordingError(path, f"attribute {name}", f"is {value}", "Write a positive number")
    return number
