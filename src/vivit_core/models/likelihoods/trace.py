"""What likelihoods of calcium traces share: responses may have any unit.

Shape letters as in ``base``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vivit_core.models.layers import inverse_softplus
from vivit_core.models.likelihoods.base import LEAST_COUNTS, Likelihood


class TraceLikelihood(Likelihood):
    """Scatter of a signal without a natural unit.

    A trace in arbitrary units may have a mean of .001 or of 1000, and no drive could learn both. So a drive says the
    rate in parts of the unit's mean response in training, and parameters are in parts of it too.

    Parameters
    ----------
    mean_counts : given by the twin; here mean responses.
    output : how the drive becomes the expected response, in the unit's mean.

    Attributes
    ----------
    mean_U : the mean responses, at least ``LEAST_COUNTS``.
    """

    mean_U: Tensor

    def __init__(self, mean_counts: Sequence[float], output: Literal["exp", "softplus"]) -> None:
        super().__init__(mean_counts, output)
        self.scale_U = None  # whatever the mean is
        self.register_buffer("mean_U", torch.tensor(self.mean_counts).clamp_min(LEAST_COUNTS))

    def rate(self, drive: Tensor, log_gain: Tensor | None = None) -> Tensor:
        return self.mean_U * super().rate(drive, log_gain)

    def mean_drive(self) -> Tensor:
        one = torch.ones(len(self.mean_counts))
        return torch.zeros_like(one) if self.output == "exp" else inverse_softplus(one)

    def summed_nats(self, sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[0])

    def probabilities(self, rate: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A response of zero takes up all that lies below it, and any other one a point."""
        up_to = self.distribution(rate).cdf(counts)
        return np.where(counts > self.zero(), up_to, 0.0), up_to

    def zero(self) -> np.ndarray:
        """(U,) the response up to which there is none."""
        return np.zeros(len(self.mean_counts))


def of_the_others(found_U: Tensor, known_U: Tensor, otherwise: Tensor) -> Tensor:
    """What was found of each unit, and the median of those for the units that tell too little."""
    median = found_U[known_U].median() if known_U.any() else otherwise
    return torch.where(known_U, found_U, median)
