"""Pearson's correlation, with a rule for what is constant."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from vivit_core.metrics.base import Totals, UnitMetric

CONSTANT = 1e-12
"""A trace counts as constant where its variance is below this part of its mean square (float32 rounding lies near
1e-14)."""


def pearson(xy: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Pearson correlation from means of products; NaN where x or y is constant."""
    var_x, var_y = xx - x**2, yy - y**2
    moving = (var_x > CONSTANT * xx) & (var_y > CONSTANT * yy)
    return np.where(moving, (xy - x * y) / np.sqrt(np.where(moving, var_x * var_y, 1.0)), np.nan)


class Correlation(UnitMetric):
    """Correlation of prediction and count over single trials' bins; NaN where one is constant."""

    name = "corr"
    title = "correlation"
    method = (
        "Pearson correlation of prediction and count over a unit's valid bins, single trials; none where one is "
        "constant."
    )

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        return rate, rate.square(), counts * rate

    def score(self, totals: Totals, sums: np.ndarray) -> np.ndarray:
        bins, n, n_square = totals.bins, totals.counts, totals.squares
        rate, rate_square, n_rate = sums
        return pearson(n_rate / bins, n / bins, rate / bins, n_square / bins, rate_square / bins)
