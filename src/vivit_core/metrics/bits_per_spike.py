"""Bits per spike: by how many bits a spike a prediction is a better Poisson model than the unit's own mean.

Shape letter: U units.

References
----------
Pillow et al. (2008), Nature 454:995.
"""

from __future__ import annotations

import math

import numpy as np


def bits_per_spike(bins: np.ndarray, counts: np.ndarray, rate: np.ndarray, counts_log_rate: np.ndarray) -> np.ndarray:
    """From sums over the bins that count. Not clamped: a bad prediction is negative.

    Parameters
    ----------
    bins, counts, rate, counts_log_rate : (…, U) float64: how many bins, and the sums of counts, of expected counts, and
        of counts · ln expected counts.

    Returns
    -------
    (…, U) bits; NaN for a unit without counts.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        gained = counts_log_rate - rate + null_nats(bins, counts)
        return np.where(counts > 0, gained / (counts * math.log(2)), np.nan)


def null_nats(bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Poisson loss of the null model, the zero of bits per spike: each unit at its own mean on these very bins.

    Parameters
    ----------
    bins, counts : (…, U) float64, how many bins and the sum of their counts.

    Returns
    -------
    (…, U) nats, summed over bins; 0 for a unit without counts.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        return counts - counts * np.log(np.where(counts > 0, counts / bins, 1.0))
