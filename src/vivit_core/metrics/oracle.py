"""The oracle's share: how much of what the true rate says a prediction says, and how much of what no local observer can
say."""

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


def share_of_context(bps_model: np.ndarray, bps_truth: np.ndarray, bps_local: np.ndarray) -> np.ndarray:
    """Which part of the information of context a model finds: Σ (model − local) / Σ (truth − local) over units.

    The local observer knows a unit's own field and no more, and what it cannot say of the unit's rate is context's
    (docs/simulator.md). A model that says as much as it has 0, one that says less of what is local has less than that,
    and the truth has 1. Not clamped.

    Parameters
    ----------
    bps_model, bps_truth, bps_local : (…, U) bits per spike of the model's, of the true and of the best local rates, on
        the same bins. A unit for which one of them is not finite is left out.

    Returns
    -------
    (…) ; NaN where the truth says no more than the local observer.
    """
    use = np.isfinite(bps_model) & np.isfinite(bps_truth) & np.isfinite(bps_local)
    with np.errstate(invalid="ignore", divide="ignore"):
        found, there = (np.where(use, bps - bps_local, 0.0).sum(-1) for bps in (bps_model, bps_truth))
        return np.where(there > 0, found / there, np.nan)
