"""Calibration: whether counts scatter around a prediction as the model says that they do."""

from __future__ import annotations

import numpy as np


def probability_integral(below: np.ndarray, up_to: np.ndarray, classes: int) -> np.ndarray:
    """The share of counts in each class of predicted probability (Czado, Gneiting & Held 2009).

    A count takes up the probabilities between that of fewer and that of at most as many, evenly. Where counts scatter
    as predicted, all classes hold the same share. Full outer classes say that they scatter more, full inner ones less.

    Parameters
    ----------
    below, up_to : (N,) predicted probability of fewer counts than were measured, and of at most as many.
    classes : of equal width.

    Returns
    -------
    (classes,) with sum 1.

    References
    ----------
    Czado, Gneiting, Held (2009), Biometrics 65:1254.
    """
    width = np.maximum(up_to - below, np.finfo(np.float64).tiny)
    edges = np.linspace(0, 1, classes + 1)
    reached = np.array([np.clip((edge - below) / width, 0, 1).mean() for edge in edges[1:-1]])
    return np.diff(reached, prepend=0.0, append=1.0)
