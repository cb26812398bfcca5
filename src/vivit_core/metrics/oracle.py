"""The oracle's share: how much of what the true rate says a prediction says."""

from __future__ import annotations

import math

import numpy as np


def share_of_oracle(bps_model: np.ndarray, bps_truth: np.ndarray) -> float:
    """Which part of the information that the true rates carry a model finds.

    Σ model / Σ truth of bits per spike, over the units for which both are defined and the truth is positive: a mean of
    the units' fractions weighted by what is knowable of each, so that units of which almost nothing is knowable do not
    decide. Not clamped; NaN without such a unit.

    Parameters
    ----------
    bps_model, bps_truth : (U,) bits per spike of the model's and of the true rates, on the same bins.
    """
    use = ~np.isnan(bps_model) & (np.nan_to_num(bps_truth, nan=0.0) > 0)
    return float(np.sum(bps_model[use]) / np.sum(bps_truth[use])) if use.any() else math.nan
