"""Negative binomial counts: a Poisson neuron whose gain changes from bin to bin, unseen by the model.

Shape letters as in ``base``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.models.likelihoods.base import Likelihood, float64_of

LOG_RANGE = (-15.0, 5.0)  # of the dispersion's logarithm; at its lower end counts are Poisson's
CLEAR = 2.0  # standard deviations of chance above which a start is read off the counts


class NegativeBinomial(Likelihood):
    """Counts that scatter more than Poisson's.

    At a rate of r counts a bin their variance is r + a r². The dispersion a is learned for each unit. It is the
    variance of a gain that multiplies the rate anew in each bin, gamma-distributed around 1 (Goris et al. 2014). With
    a = 0 they would be Poisson's.

    The null model has the unit's own mean and the same dispersion. So bits per spike say what it is worth to know the
    rate's course, and not what it is worth to know how counts scatter.

    Parameters
    ----------
    mean_counts : given by the twin.
    output : how the drive becomes expected counts.
    dispersion : a at the start, of units whose counts do not tell theirs.

    References
    ----------
    Goris, Movshon, Simoncelli (2014), Nature Neuroscience 17:858.
    """

    def __init__(self, mean_counts: Sequence[float], output: Literal["exp", "softplus"], dispersion: float) -> None:
        super().__init__(mean_counts, output)
        if not dispersion > 0:
            raise ValueError(
                f"likelihood.dispersion={dispersion} must be above zero; without any, set likelihood=poisson"
            )
        self.log_dispersion_U = nn.Parameter(torch.full((len(self.mean_counts),), math.log(dispersion)))

    @property
    def dispersion_U(self) -> Tensor:
        return self.log_dispersion_U.clamp(*LOG_RANGE).exp()

    @torch.no_grad()
    def initialize(self, counts: Tensor, valid: Tensor) -> None:
        """See ``Likelihood.initialize``: by the variance above Poisson's that a bin does not share with the next one.

        What they share is mostly the rate's course, which a twin will know. The steps of a short training are too small
        to bring a logarithm far, and chance is kept out: below ``CLEAR`` of its standard deviations, ``dispersion``
        stays.
        """
        both_NU = valid[1:] & valid[:-1]
        bins_U = both_NU.sum(0).clamp_min(1)
        mean_U = torch.where(valid, counts.double(), 0.0).sum(0) / valid.sum(0).clamp_min(1)
        first_NU, second_NU = (torch.where(both_NU, x - mean_U, 0.0) for x in (counts[:-1], counts[1:]))
        shared_U = (first_NU * second_NU).sum(0) / bins_U
        above_U = (first_NU.square() + second_NU.square()).sum(0) / (2 * bins_U) - mean_U - shared_U
        power_U = mean_U.square() + shared_U.clamp_min(0.0)  # of the rate
        told_U = above_U > CLEAR * mean_U * (2 / bins_U).sqrt()  # of Poisson counts' variance, it would be chance
        found_U = (above_U / power_U).log().clamp(*LOG_RANGE)
        self.log_dispersion_U.copy_(torch.where(told_U, found_U, self.log_dispersion_U))

    def nats(self, rate: Tensor, counts: Tensor) -> Tensor:
        a = self.dispersion_U
        return (counts + 1 / a) * (a * rate).log1p() - torch.xlogy(counts, rate) - self.of_counts(counts).to(rate.dtype)

    def of_counts(self, counts: Tensor) -> Tensor:
        """The part of the logarithm that knows no rate, but the dispersion: Σ ln(1 + a j) over j below the count, and
        its continuation for counts in between."""
        k = 1 / self.dispersion_U.double()  # large where the dispersion is small, and then float32 would not do
        n = counts.double()
        return (n + k).lgamma() - k.lgamma() - n * k.log()

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        return self.nats(rate, counts), self.of_counts(counts)

    def summed_nats(self, sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[0])

    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        a, fired = float64_of(self.dispersion_U), counts > 0
        mean = np.where(fired, counts, 0.0) / np.maximum(bins, 1)
        return (counts + bins / a) * np.log1p(a * mean) - counts * np.log(np.where(fired, mean, 1.0)) - sums[1]

    def distribution(self, rate: np.ndarray) -> Any:
        from scipy import stats  # takes seconds

        a = float64_of(self.dispersion_U)
        return stats.nbinom(1 / a, 1 / (1 + a * rate))
