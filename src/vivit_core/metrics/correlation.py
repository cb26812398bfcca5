"""Pearson's correlation, with a rule for what is constant."""

from __future__ import annotations

import numpy as np

CONSTANT = 1e-12
"""A trace counts as constant where its variance is below this part of its mean square (float32 rounding lies near
1e-14)."""


def pearson(xy: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Pearson correlation from means of products; NaN where x or y is constant."""
    var_x, var_y = xx - x**2, yy - y**2
    moving = (var_x > CONSTANT * xx) & (var_y > CONSTANT * yy)
    return np.where(moving, (xy - x * y) / np.sqrt(np.where(moving, var_x * var_y, 1.0)), np.nan)
