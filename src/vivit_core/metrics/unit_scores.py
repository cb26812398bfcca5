"""All scores of single trials, for each unit, from sums in float64 that are exact across ranks. ``bits_per_spike`` and
``correlation`` have the formulas.

Shape letters: N bins of any number of clips, U units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit_core.metrics.bits_per_spike import bits_per_spike
from vivit_core.metrics.correlation import pearson
from vivit_core.metrics.repeats import PIECE


class UnitScores(NamedTuple):
    """One number a unit, (U,) float64; NaN where a score is not defined."""

    bps: np.ndarray  # bits per spike; NaN for silent units
    correlation: np.ndarray  # single-trial Pearson correlation; NaN where prediction or measurement is constant
    loss: np.ndarray  # mean Poisson loss; NaN without a bin
    spikes: np.ndarray  # on the evaluated bins
    bins: np.ndarray  # evaluated bins

    @property
    def broken(self) -> int:
        """Units with a prediction that is NaN or infinite: the model's fault, and no silent unit."""
        return int(((self.bins > 0) & ~np.isfinite(self.loss)).sum())

    @property
    def silent(self) -> int:
        """Units without a spike on the evaluated bins."""
        return int((self.spikes == 0).sum())


def unit_scores(predicted: np.ndarray, counts: np.ndarray, mask: np.ndarray) -> UnitScores:
    """Bits per spike, single-trial correlation and loss of one recording's units.

    Parameters
    ----------
    predicted, counts, mask : expected and measured counts and the pairs that count, each (..., U).
    """
    flat = [np.reshape(x, (-1, x.shape[-1])) for x in (predicted, counts, mask)]
    sums = np.zeros((7, predicted.shape[-1]))
    for first in range(0, len(flat[0]), PIECE):  # so that the float64 copies are of a piece alone
        sums += unit_sums(*(torch.as_tensor(x[first : first + PIECE]) for x in flat)).numpy()
    return scores_of_sums(sums)


def unit_sums(predicted: Tensor, counts: Tensor, mask: Tensor) -> Tensor:
    """Sums over the bins that count, (7, U) float64: bins, counts, rate, counts·ln rate, counts², rate²,
    counts·rate."""
    units = predicted.shape[-1]
    rate = torch.where(mask, predicted.double(), 1.0).reshape(
        -1, units
    )  # ln 1 = 0, and what is not counted may be anything
    n = torch.where(mask, counts.double(), 0.0).reshape(-1, units)
    m = mask.double().reshape(-1, units)
    n_log_rate = torch.xlogy(n, rate)
    rate = rate * m
    return torch.stack([x.sum(0) for x in (m, n, rate, n_log_rate, n.square(), rate.square(), n * rate)])


def scores_of_sums(sums: np.ndarray) -> UnitScores:
    """Scores from ``unit_sums``."""
    bins, n, rate, n_log_rate, n_square, rate_square, n_rate = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = n / bins
        bps = bits_per_spike(bins, n, rate, n_log_rate)
        correlation = pearson(n_rate / bins, mean, rate / bins, n_square / bins, rate_square / bins)
        loss = (rate - n_log_rate) / bins
    return UnitScores(bps, correlation, loss, n, bins)
