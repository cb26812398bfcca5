"""Zero-inflated gamma: a deconvolved calcium trace, which is zero in most bins and of any size in the others.

Shape letters as in ``base``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.models.likelihoods.base import float64_of
from vivit_core.models.likelihoods.trace import TraceLikelihood, of_the_others

LOG_RANGE = (-6.0, 6.0)  # of the logarithm of an event's size, in the unit's mean
LOG_SHAPE_RANGE = (-3.0, 5.0)  # at its ends an event's standard deviation is 4.5 and .08 of its mean
LEAST_RATE = 1e-9  # in a unit's mean: less is taken for as much, so that no logarithm is infinite
FEWEST = 10  # events that tell their size and shape


class ZeroInflatedGamma(TraceLikelihood):
    """A response is zero, or an event of gamma-distributed size (Wei et al. 2020).

    Wei and colleagues let the chance q of an event and its mean size each depend on the stimulus. Here the one rate r
    of a twin says both, as if events were the spikes of a Poisson neuron that the bin adds up: q = 1 − exp(−r / a), and
    the mean size is r / q. At low rates it is a, which is learned for each unit, and at high ones q is 1 and the size
    is r. The mean of all responses is r. The gamma distribution's shape is learned for each unit too.

    The null model has the unit's own mean and the same size and shape. These were fitted around the twin's rates, so
    that it need not be the best constant: of very skewed rates, less than the mean can score above 0. Bits are counted
    by event, a bin above zero, so that they do not depend on the trace's unit.

    Parameters
    ----------
    mean_counts : given by the twin; here mean responses.
    output : how the drive becomes the expected response, in the unit's mean.
    floor : response up to which there is none, in the unit's mean; sizes are counted from there. 0 where
        deconvolution gives exact zeros.

    References
    ----------
    Wei, Zhou, Grosmark, Ajabi, Sparks, Zhou, Brandon, Losonczy, Paninski (2020), A zero-inflated gamma model for
    post-deconvolved calcium imaging traces. Neurons, Behavior, Data analysis, and Theory 3(6).
    """

    made_for = ("calcium",)
    event = "bin above zero"

    def __init__(self, mean_counts: Sequence[float], output: Literal["exp", "softplus"], floor: float) -> None:
        super().__init__(mean_counts, output)
        if not 0 <= floor < 1:
            raise ValueError(f"likelihood.floor={floor} must be 0 or more, and below 1, a unit's mean response")
        self.floor = floor
        self.log_size_U = nn.Parameter(torch.zeros(len(self.mean_counts)))
        self.log_shape_U = nn.Parameter(torch.zeros(len(self.mean_counts)))

    @property
    def size_U(self) -> Tensor:
        """a, in the unit's mean; above the floor."""
        return self.floor + self.log_size_U.clamp(*LOG_RANGE).exp()

    @property
    def shape_U(self) -> Tensor:
        return self.log_shape_U.clamp(*LOG_SHAPE_RANGE).exp()

    @torch.no_grad()
    def initialize(self, counts: Tensor, valid: Tensor) -> None:
        """See ``Likelihood.initialize``: by the share of bins above zero, and by mean and variance of these."""
        y = (counts / self.mean_U).double()
        fired = valid & (y > self.floor)
        bins_U, events_U = valid.sum(0), fired.sum(0)
        chance_U = (events_U / bins_U.clamp_min(1)).clamp(max=1 - 0.5 / len(y))
        mean_U = torch.where(fired, y, 0.0).sum(0) / events_U.clamp_min(1)
        var_U = torch.where(fired, y - mean_U, 0.0).square().sum(0) / events_U.clamp_min(1)
        size_U = -chance_U * mean_U / (-chance_U).log1p() - self.floor
        shape_U = (mean_U - self.floor).square() / var_U
        told = (events_U >= FEWEST) & (size_U > 0) & (shape_U > 0) & shape_U.isfinite()
        one = torch.ones((), dtype=torch.float64)
        self.log_size_U.copy_(of_the_others(size_U, told, one).log().clamp(*LOG_RANGE))
        self.log_shape_U.copy_(of_the_others(shape_U, told, one).log().clamp(*LOG_SHAPE_RANGE))

    def parts(self, rate: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Where there is an event; its size above the floor, in the unit's mean, 1 where there is none; and r / a."""
        above = (counts / self.mean_U) - self.floor
        fired = above > 0
        # Where there is none the branch of events is computed all the same, and its gradient must be a number.
        return fired, torch.where(fired, above, 1.0), (rate / self.mean_U).clamp_min(LEAST_RATE) / self.size_U

    def nats(self, rate: Tensor, counts: Tensor) -> Tensor:
        fired, above, t = self.parts(rate, counts)
        k, chance = self.shape_U.to(t.dtype), -(-t).expm1()
        scale = (self.size_U * t / chance - self.floor) / k
        event = -chance.log() + (1 - k) * above.log() + above / scale + k * scale.log() + k.lgamma()
        return torch.where(fired, event, rate / self.mean_U / self.size_U)

    def deviance(self, rate: Tensor, counts: Tensor) -> Tensor:
        """Twice the nats that a rate costs more than to know of each bin whether there is an event, and its size."""
        fired, above, t = self.parts(rate, counts)
        chance = -(-t).expm1()
        ratio = above / (self.size_U * t / chance - self.floor)
        event = -chance.log() + self.shape_U * (ratio - 1 - ratio.log())
        return 2 * torch.where(fired, event, rate / self.mean_U / self.size_U)

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        fired, above, _ = self.parts(rate, counts)
        return self.nats(rate, counts), fired.to(rate.dtype), torch.where(fired, above, 0.0), above.log()

    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        _, events, above, logs = sums
        a, k = float64_of(self.size_U), float64_of(self.shape_U)
        t = np.maximum(counts / np.maximum(bins, 1) / float64_of(self.mean_U), LEAST_RATE) / a
        chance = -np.expm1(-t)
        scale = (a * t / chance - self.floor) / k
        own = events * (-np.log(chance) + k * np.log(scale) + float64_of(self.shape_U.double().lgamma()))
        return np.where(counts > 0, (bins - events) * t + own + (1 - k) * logs + above / scale, 0.0)

    def events(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        return np.asarray(sums[1])

    def zero(self) -> np.ndarray:
        return self.floor * float64_of(self.mean_U)

    def distribution(self, rate: np.ndarray) -> Any:
        from scipy import stats  # takes seconds

        unit, k = float64_of(self.mean_U), float64_of(self.shape_U)
        rate = np.maximum(rate, LEAST_RATE * unit)
        chance = -np.expm1(-rate / unit / float64_of(self.size_U))
        scale = (rate / chance - self.zero()) / k
        return Scatter(chance, self.zero(), stats.gamma(k, loc=self.zero(), scale=scale))


@dataclass(frozen=True)
class Scatter:
    """Zero, or with some chance a draw from ``sizes``; what ``scipy.stats`` calls a frozen distribution."""

    chance: np.ndarray
    zero: np.ndarray  # up to which a response is zero
    sizes: Any

    def mean(self) -> np.ndarray:
        return np.asarray(self.chance * self.sizes.mean())

    def var(self) -> np.ndarray:
        return np.asarray(self.chance * (self.sizes.var() + (1 - self.chance) * self.sizes.mean() ** 2))

    def cdf(self, x: np.ndarray) -> np.ndarray:
        return np.where(np.asarray(x) < 0, 0.0, 1 - self.chance * self.sizes.sf(x))

    def ppf(self, level: np.ndarray | float) -> np.ndarray:
        within = (np.asarray(level) - (1 - self.chance)) / self.chance
        return np.where(within > 0, self.sizes.ppf(np.clip(within, 0, 1)), 0.0)

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        """Of zero its probability's logarithm, and of more the density's."""
        above = np.asarray(x) > self.zero
        density = self.sizes.logpdf(np.where(above, x, self.zero + self.sizes.mean()))
        return np.where(above, np.log(self.chance) + density, np.log1p(-self.chance))
