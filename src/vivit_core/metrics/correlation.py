"""Pearson's correlation, with a rule for what is constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from vivit_core.metrics.base import Totals, UnitMetric

CONSTANT = 1e-12
"""A trace counts as constant where its variance is below this part of its mean square (float32 rounding lies near
1e-14)."""


def constant(x: np.ndarray, xx: np.ndarray) -> np.ndarray:
    """Whether a trace is constant, from its mean and its mean square; not where these are no numbers."""
    return xx - x**2 <= CONSTANT * xx


def pearson(xy: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Pearson correlation of a measurement x and a prediction y, from means of products.

    NaN where the measurement is constant: nothing could be predicted. 0 where the prediction alone is: it says nothing
    of what there was to say, and a unit that was left out for it would make a model's mean the better the fewer units
    it could fit.
    """
    var_x, var_y = xx - x**2, yy - y**2
    there = var_x > CONSTANT * xx
    moving = there & (var_y > CONSTANT * yy)
    still = np.where(there & constant(y, yy), 0.0, np.nan)
    return np.where(moving, (xy - x * y) / np.sqrt(np.where(moving, var_x * var_y, 1.0)), still)


class Correlation(UnitMetric):
    """Correlation of prediction and count over single trials' bins; 0 for a constant prediction, NaN where the count is
    constant."""

    name = "corr"
    title = "correlation"
    method = (
        "Pearson correlation of prediction and count over a unit's valid bins, single trials; 0 where the prediction "
        "is constant, none where the count is."
    )

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        return rate, rate.square(), counts * rate

    def score(self, totals: Totals, sums: np.ndarray) -> np.ndarray:
        bins, n, n_square = totals.bins, totals.counts, totals.squares
        rate, rate_square, n_rate = sums
        return pearson(n_rate / bins, n / bins, rate / bins, n_square / bins, rate_square / bins)
