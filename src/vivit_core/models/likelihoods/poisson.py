"""Poisson counts: independent from bin to bin, with a variance that equals the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.models.likelihoods.base import Likelihood


class Poisson(Likelihood):
    """Spikes that know nothing of each other but the rate.

    Parameters
    ----------
    mean_counts : given by the twin.
    output : how the drive becomes expected counts.
    """

    def nats(self, rate: Tensor, counts: Tensor) -> Tensor:
        """r − n ln r; a bin without counts costs its rate, also where that is 0, and one of NaN counts costs NaN."""
        return rate - torch.where(counts == 0, 0.0, counts * rate.log())

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        return rate, torch.xlogy(counts, rate)  # apart: what evaluations say stays the same to the last digit

    def summed_nats(self, sums: np.ndarray) -> np.ndarray:
        rate, counts_log_rate = sums
        return rate - counts_log_rate

    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        with np.errstate(divide="ignore", invalid="ignore"):
            return counts - counts * np.log(np.where(counts > 0, counts / bins, 1.0))

    def distribution(self, rate: np.ndarray) -> Any:
        from scipy import stats  # takes seconds

        return stats.poisson(rate)
