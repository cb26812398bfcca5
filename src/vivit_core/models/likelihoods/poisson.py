"""Poisson counts: independent from bin to bin, with a variance that equals the mean."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vivit_core.metrics.bits_per_spike import null_nats
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

    def null_nats(self, bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
        return null_nats(bins, counts)
