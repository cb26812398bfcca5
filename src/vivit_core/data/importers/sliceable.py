"""Large arrays that are made, joined or looked through where they are read, a stretch of time at once.

Shape letters: T frames, D behavior numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vivit_core.data.importers.common import _PIECE_BYTES
from vivit_core.data.recording.resumable import Sliceable, pieces


class Computed:
    """A (T, ...) array that is made where it is read: ``read(start, stop)`` gives its rows."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[int, int], np.ndarray]) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, step = key.indices(self.shape[0])
        assert step == 1
        return self._read(start, stop)


class Joined:
    """A (T, ...) array made of parts, one after the other; ``read(part)`` gives a part, and the last one is kept."""

    def __init__(
        self, lengths: Sequence[int], inner: tuple[int, ...], dtype: Any, read: Callable[[int], np.ndarray]
    ) -> None:
        self._ends = np.cumsum(lengths)
        self.shape, self.dtype, self._read = (int(self._ends[-1]), *inner), np.dtype(dtype), read
        self._last: tuple[int, np.ndarray] | None = None

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, step = key.indices(self.shape[0])
        assert step == 1
        rows = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        place = start
        while place < stop:
            part = int(np.searchsorted(self._ends, place, side="right"))
            end = min(stop, int(self._ends[part]))
            first = int(self._ends[part - 1]) if part else 0
            if self._last is None or self._last[0] != part:
                self._last = (part, self._read(part))
            rows[place - start : end - start] = self._last[1][place - first : end - first]
            place = end
        return rows


def converted(values: Sliceable, dtype: Any) -> Sliceable:
    """The same array in another type, converted where it is read."""
    if values.dtype == np.dtype(dtype):
        return values
    return Computed(tuple(values.shape), dtype, lambda start, stop: np.asarray(values[start:stop]).astype(dtype))


def span(values: Sliceable) -> tuple[float, float, bool]:
    """The least and the largest value, NaN left out, and whether all are whole numbers. Reads in pieces."""
    least, most, whole = np.inf, -np.inf, True
    row_bytes = int(np.prod(values.shape[1:])) * np.dtype(values.dtype).itemsize
    for start, stop in pieces(values.shape[0], row_bytes, _PIECE_BYTES):
        piece = np.asarray(values[start:stop])
        if piece.dtype.kind == "f":
            whole = whole and bool((piece == np.rint(piece)).all())  # which NaN is not
            piece = piece[~np.isnan(piece)]
        if piece.size:
            least, most = min(least, float(piece.min())), max(most, float(piece.max()))
    return least, most, whole


def pixel_type(values: Sliceable) -> type[np.uint8] | type[np.float32]:
    """uint8 where all values are whole and fit, else float32."""
    if np.dtype(values.dtype).kind == "b" or values.dtype == np.uint8:
        return np.uint8
    least, most, whole = span(values)
    return np.uint8 if whole and least >= 0 and most <= 255 else np.float32


def held(values_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the newest earlier finite value of its column in the place of each NaN or inf; NaN where there is none.

    Returns
    -------
    values (T, D), and (T,) bool, whether a row had such a gap.
    """
    finite = np.isfinite(values_TD)
    rows = np.where(finite, np.arange(len(values_TD))[:, None], -1)
    newest = np.maximum.accumulate(rows, axis=0) if len(rows) else rows
    filled = np.take_along_axis(np.where(finite, values_TD, 0), np.maximum(newest, 0), axis=0)
    return np.where(newest >= 0, filled, np.nan), ~finite.all(1)
