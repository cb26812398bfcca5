"""Whether arrays that are to become a recording can be one, asked before anything is written: types and layouts.

Shape letters: T frames, H W pixels, C channels, U units, D behavior numbers, N trials.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.data.recording.resumable import Sliceable, pieces
from vivit_core.specs import RecordingError

CHANNELS = 4  # most channels that a pixel may have: gray, two or three colors, or four cones' contrasts
MISSING_ID = frozenset({"", "nan", "NaN", "None", "<NA>", "NaT"})  # what programs write where no stimulus id is known
UNNAMED = "unnamed, "  # how the id of such a trial's stimulus begins
_PIECE_BYTES = 1 << 24


NAMES = {"b": "true and false", "U": "text", "S": "text", "O": "Python objects", "M": "dates", "m": "durations",
         "c": "complex numbers", "V": "rows of several fields", "i": "integers", "u": "integers"}  # fmt: skip


def check_frames(path: Path, frames: Sliceable, bins: int | None, field: str = "stimulus/frames") -> None:
    """Refuse frames that are no numbers, or lie in another order than time first and color last.

    Parameters
    ----------
    path, field : for the message.
    frames : (T, H, W) or (T, H, W, C).
    bins : of the counts, where known: they tell time from pixels.
    """
    _check_type(path, frames, "biuf", "pixel values", field)
    shape = tuple(frames.shape)
    wanted = "(frames, height, width), or (frames, height, width, colors)"
    if len(shape) in (3, 4) and 0 in shape:
        raise RecordingError(
            path, field, f"has shape {shape}, and so not a single pixel", f"Give at least one frame: {wanted}"
        )
    if len(shape) not in (3, 4):
        raise RecordingError(path, field, f"has shape {shape}", f"It ought to be {wanted}")
    if len(shape) == 4 and shape[-1] > CHANNELS:
        first = shape[1] <= CHANNELS
        raise RecordingError(
            path,
            field,
            f"has shape {shape}: {shape[-1]} colors in {wanted}",
            "Bring the colors to the end: np.moveaxis(frames, 1, -1)"
            if first
            else f"Give at most {CHANNELS} colors, in the last axis",
        )
    if bins is not None and shape[0] != bins:
        places = [axis for axis, size in enumerate(shape) if size == bins]
        raise RecordingError(
            path,
            field,
            f"has shape {shape}: {shape[0]} frames in {wanted}, for {bins} bins of the counts",
            f"Bring time to the front: np.moveaxis(frames, {places[-1]}, 0)" if places else "Give one bin a frame",
        )


def check_counts(path: Path, counts: Sliceable, field: str = "responses/counts") -> None:
    """Refuse counts that are no numbers, or have not two axes."""
    _check_type(path, counts, "iuf", "numbers of spikes, or a calcium signal", field)
    if len(counts.shape) != 2:
        raise RecordingError(path, field, f"has shape {tuple(counts.shape)}", "It ought to be (bins, units)")


def check_behavior(path: Path, values: Sliceable, field: str) -> None:
    """Refuse a behavior that is no numbers, has more than two axes, or not a number in a bin."""
    _check_type(path, values, "biuf", "numbers", field)
    shape = tuple(values.shape)
    if len(shape) not in (1, 2) or 0 in shape[1:]:
        raise RecordingError(
            path, field, f"has shape {shape}", "It ought to be (bins,) or (bins, numbers of a bin), at least one number"
        )


def check_unit_table(path: Path, values: Any, field: str) -> None:
    """Refuse a column of the units' table that an HDF5 file cannot hold as it is."""
    array = np.asarray(values)
    plain = array.dtype.kind in "biufUS" or (
        array.dtype.kind == "O" and all(isinstance(value, str | bytes) for value in array.ravel().tolist())
    )
    if not plain:
        raise RecordingError(
            path, field, f"holds {_said(array.dtype)}", "It ought to be numbers or text; .astype(str) makes text"
        )


def check_arrays(
    path: Path,
    frames: Sliceable,
    counts: Sliceable,
    behavior: Mapping[str, Sliceable],
    units: Mapping[str, Any],
    valid: Sliceable | None,
) -> None:
    """All of this module, of what is to be written to ``path``; frames in a type that a file holds."""
    check_counts(path, counts)
    check_frames(path, frames, counts.shape[0])
    if np.dtype(frames.dtype) != np.uint8 and np.dtype(frames.dtype).kind != "f":
        raise RecordingError(
            path,
            "stimulus/frames",
            f"holds {_said(np.dtype(frames.dtype))}",
            "It ought to be uint8, or floats: .astype(np.uint8) where the values are whole and in 0 … 255",
        )
    if valid is not None:
        check_marks(path, valid, "responses/valid")
    for name, values in behavior.items():
        check_behavior(path, values, f"behavior/{name}")
    for name, column in units.items():
        check_unit_table(path, column, f"units/{name}")


def check_marks(path: Path, marks: Sliceable, field: str) -> None:
    """Refuse marks that are neither true nor false: NaN, which numpy takes for true, and numbers beside 0 and 1.

    Raises
    ------
    RecordingError
        Names the first such row, and says how many there are.
    """
    kind = np.dtype(marks.dtype).kind
    if kind == "b":
        return
    wanted = "true and false, or 1 and 0"
    _check_type(path, marks, "iuf", wanted, field)
    row_bytes = int(np.prod(marks.shape[1:])) * np.dtype(marks.dtype).itemsize
    first, number, value = None, 0, 0.0
    for start, stop in pieces(marks.shape[0], row_bytes, _PIECE_BYTES):
        piece = np.asarray(marks[start:stop])
        strange = (piece != 0) & (piece != 1)  # NaN too
        if strange.any() and first is None:
            where = np.argwhere(strange)[0]
            first, value = start + int(where[0]), float(piece[tuple(where)])
        number += int(strange.sum())
    if first is not None:
        raise RecordingError(
            path,
            field,
            f"row {first} holds {value:g}, which is neither true nor false ({number} such values)",
            f"Give {wanted}; false where a bin must not be used",
        )


def own_stimuli(values: Any) -> tuple[np.ndarray, int]:
    """Stimulus ids as text, equal for repeats; a trial whose stimulus is not known gets one of its own.

    Parameters
    ----------
    values : (N,) numbers, text or objects; NaN, NaT, None, masked and empty text say that it is not known.

    Returns
    -------
    ids (N,) str, and how many were not known.
    """
    given = np.ma.asarray(values)
    lost = np.ma.getmaskarray(given).tolist()
    named = [None if hidden else value for value, hidden in zip(np.ma.getdata(given), lost, strict=True)]
    ids = [_word(value) for value in named]
    named_ids = [f"{UNNAMED}trial {row}" if word is None else word for row, word in enumerate(ids)]
    return np.array(named_ids, dtype=str), ids.count(None)


def unknown_stimuli(number: int, where: str) -> list[str]:
    """The line that says so; none where all are known."""
    return [f"{number} trials without a {where}: each is a stimulus of its own, and no repeat"] if number else []


def _word(value: Any) -> str | None:
    """An entry as text, None where it says nothing; 3.0 is "3"."""
    value = value.decode() if isinstance(value, bytes) else value
    if value is None or (isinstance(value, np.datetime64 | np.timedelta64) and np.isnat(value)):
        return None
    if isinstance(value, float | np.floating):
        return None if np.isnan(value) else (str(int(value)) if float(value).is_integer() else str(value))
    text = str(value)
    return None if text.strip() in MISSING_ID else text


def _check_type(path: Path, values: Sliceable, kinds: str, wanted: str, field: str) -> None:
    if np.dtype(values.dtype).kind not in kinds:
        raise RecordingError(path, field, f"holds {_said(np.dtype(values.dtype))}", f"It ought to be {wanted}")


def _said(dtype: np.dtype) -> str:
    return f"{NAMES.get(dtype.kind, 'something else')} ({dtype})"
