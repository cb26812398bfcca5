"""Gaussian responses, of the response itself or of its root: for traces that are never quite zero.

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

LOG_RANGE = (-3.0, 3.0)  # of a standard deviation over where it started: a unit that never answers has none
OFFSET = 1.0  # added before the root, in the unit's mean: so that an expected response of 0 has a root, see below
START = 0.5  # standard deviation without data, in the unit's mean


class Gaussian(TraceLikelihood):
    """Responses that scatter evenly to both sides of the rate, with a standard deviation learned for each unit.

    ``stabilized`` says of what. Responses scatter more where they are larger. The root of a response, √(y + c),
    scatters about as much everywhere, and a twin of noisy traces is then not ruled by its few largest bins. Bashiri et
    al. (2021) transform responses for the same reason. y is in parts of the unit's mean, and c is 1. The root has a
    mean of √(r + c − σ²), so that the mean of the response itself is r, the twin's rate. A root that scatters around a
    fixed mean has σ² ≤ c there, which is its bound.

    The null model has the unit's own mean and the same standard deviation. Where ``stabilized``, that need not be the
    best constant: of very skewed rates, less than the mean can score above 0. Bits are counted by bin.

    Parameters
    ----------
    mean_counts : given by the twin; here mean responses.
    output : how the drive becomes the expected response, in the unit's mean.
    stabilized : whether the root scatters evenly, or the response itself.

    References
    ----------
    Bashiri, Walker, Lurz, Jagadish, Muhammad, Ding, Ding, Tolias, Sinz (2021), A flow-based latent state generative
    model of neural population responses to natural images. NeurIPS 34.
    """

    made_for = ("spikes", "calcium")
    event = "bin"
    sd_U: Tensor

    def __init__(self, mean_counts: Sequence[float], output: Literal["exp", "softplus"], stabilized: bool) -> None:
        super().__init__(mean_counts, output)
        self.stabilized = stabilized
        self.register_buffer("sd_U", torch.full((len(self.mean_counts),), START))
        self.log_ratio_U = nn.Parameter(torch.zeros(len(self.mean_counts)))

    @property
    def std_U(self) -> Tensor:
        """Of the response, or of its root; of responses in the unit's mean."""
        std = self.sd_U * self.log_ratio_U.clamp(*LOG_RANGE).exp()
        return std.clamp(max=OFFSET**0.5) if self.stabilized else std

    @torch.no_grad()
    def initialize(self, counts: Tensor, valid: Tensor) -> None:
        """See ``Likelihood.initialize``: the spread around the mean, which the twin's rate will narrow."""
        z = self.scattered(counts.double())
        bins_U = valid.sum(0).clamp_min(1)
        mean_U = torch.where(valid, z, 0.0).sum(0) / bins_U
        std_U = (torch.where(valid, z - mean_U, 0.0).square().sum(0) / bins_U).sqrt()
        self.sd_U.copy_(of_the_others(std_U, std_U > 1e-6, torch.tensor(START, dtype=torch.float64)))
        self.log_ratio_U.zero_()

    def scattered(self, counts: Tensor) -> Tensor:
        """What scatters evenly."""
        y = counts / self.mean_U
        return (y + OFFSET).sqrt() if self.stabilized else y

    def middle(self, rate: Tensor) -> Tensor:
        """Around what it scatters."""
        r = rate / self.mean_U
        return (r + OFFSET - self.std_U.to(r.dtype).square()).clamp_min(1e-6).sqrt() if self.stabilized else r

    def nats(self, rate: Tensor, counts: Tensor) -> Tensor:
        std = self.std_U.to(rate.dtype)
        return 0.5 * ((self.scattered(counts) - self.middle(rate)) / std).square() + std.log()

    def deviance(self, rate: Tensor, counts: Tensor) -> Tensor:
        return ((self.scattered(counts) - self.middle(rate)) / self.std_U.to(rate.dtype)).square()

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        z = self.scattered(counts)
        return self.nats(rate, counts), z, z.square()

    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        _, z, squares = sums
        std = float64_of(self.std_U)
        r = counts / np.maximum(bins, 1) / float64_of(self.mean_U)
        middle = np.sqrt(np.maximum(r + OFFSET - std**2, 1e-6)) if self.stabilized else r
        spread = squares - 2 * middle * z + bins * middle**2
        return np.where(counts > 0, 0.5 * spread / std**2 + bins * np.log(std), 0.0)

    def events(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        return bins

    def distribution(self, rate: np.ndarray) -> Any:
        from scipy import stats  # takes seconds

        unit, std = float64_of(self.mean_U), float64_of(self.std_U)
        if not self.stabilized:
            return stats.norm(rate, std * unit)
        return Squared(stats.norm(np.sqrt(np.maximum(rate / unit + OFFSET - std**2, 1e-6)), std), unit)


@dataclass(frozen=True)
class Squared:
    """Of what the root is Gaussian; what ``scipy.stats`` calls a frozen distribution."""

    root: Any
    unit: np.ndarray  # mean responses

    def mean(self) -> np.ndarray:
        return np.asarray(self.unit * (self.root.mean() ** 2 + self.root.var() - OFFSET))

    def var(self) -> np.ndarray:
        return np.asarray(self.unit**2 * (4 * self.root.mean() ** 2 + 2 * self.root.var()) * self.root.var())

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Roots below that of 0 stand for a response of 0."""
        return np.where(np.asarray(x) < 0, 0.0, self.root.cdf(np.sqrt(np.maximum(x, 0) / self.unit + OFFSET)))

    def ppf(self, level: np.ndarray | float) -> np.ndarray:
        return self.unit * (np.maximum(self.root.ppf(level), OFFSET**0.5) ** 2 - OFFSET)

    def logpdf(self, x: np.ndarray) -> np.ndarray:
        root = np.sqrt(np.asarray(x) / self.unit + OFFSET)
        return np.asarray(self.root.logpdf(root) - np.log(2 * root * self.unit))
