"""Means and standard deviations of long arrays, read piece by piece, in which values may be missing.

Shape letters: N rows of a piece, D columns.
"""

from __future__ import annotations

import numpy as np


class Moments:
    """Mean and standard deviation of each column over the values that are there; missing ones (NaN) are counted.

    Parameters
    ----------
    width : columns D.
    """

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.known = np.zeros(width, np.int64)
        self._total, self._squares = np.zeros(width), np.zeros(width)
        self._shift = np.full(width, np.nan)  # a column's first value: keeps squares small beside their differences

    def add(self, values_ND: np.ndarray) -> None:
        values = np.asarray(values_ND, np.float64)
        there = np.isfinite(values)
        first = values[there.argmax(0), np.arange(values.shape[1])] if len(values) else self._shift
        self._shift = np.where(np.isnan(self._shift) & there.any(0), first, self._shift)
        rest = np.where(there, values - self._shift, 0.0)
        self.rows += len(values)
        self.known += there.sum(0)
        self._total += rest.sum(0)
        self._squares += np.square(rest).sum(0)

    @property
    def mean(self) -> np.ndarray:
        """(D,); 0 where no value is there."""
        return self._total / np.maximum(self.known, 1) + np.nan_to_num(self._shift)

    @property
    def std(self) -> np.ndarray:
        """(D,), without correction; 0 for a constant."""
        n = np.maximum(self.known, 1)
        return np.sqrt(np.maximum(self._squares / n - np.square(self._total / n), 0))

    @property
    def missing(self) -> np.ndarray:
        """(D,) share of the rows in which a value is missing."""
        return 1 - self.known / max(1, self.rows)


def constant(mean_D: np.ndarray, std_D: np.ndarray) -> np.ndarray:
    """(D,) bool: where the spread is none, or float32's rounding of the mean."""
    return std_D <= 1e-7 * np.abs(mean_D)


def divisor(mean_D: np.ndarray, std_D: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by: 1 for a constant."""
    return np.where(constant(mean_D, std_D), 1.0, std_D)
