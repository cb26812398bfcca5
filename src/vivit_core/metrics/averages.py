"""Averages over units, of which some have no score."""

from __future__ import annotations

import math

import numpy as np


def mean_known(values: np.ndarray) -> float:
    """Mean over the units for which a score is defined; NaN where there is none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else math.nan


def median_known(values: np.ndarray) -> float:
    """Median over the units for which a score is defined; NaN where there is none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if known.size else math.nan


def median_finite(values: np.ndarray) -> float:
    """Median over the units for which a number is finite; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else math.nan


def share_within(values: np.ndarray, most: float) -> float:
    """Share of the units for which a number is finite where it is at most ``most``; NaN where there is none."""
    finite = values[np.isfinite(values)]
    return float((finite <= most).mean()) if finite.size else math.nan
