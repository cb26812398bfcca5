"""What every likelihood keeps: how a readout's drive becomes a rate, and how measured counts scatter around it.

Shape letters: B clips, T bins, N bins of any number of clips, U units.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.layers import inverse_softplus

LEAST_COUNTS = 1e-4  # mean counts a bin that a silent unit starts from
DRIVE_RANGE = (-15.0, 8.0)  # outside of it the exponential would under- or overflow a training step
GAIN_RANGE = (-6.0, 4.0)  # of the logarithm: a gain of .0025 to 55, so that no unit is silenced for good
LEAST_RATE = 1e-6  # counts a bin that a softplus gives at least


def float64_of(parameter: Tensor) -> np.ndarray:
    """A parameter in float64 for NumPy, wherever it lies."""
    return parameter.detach().double().cpu().numpy()


class Likelihood(nn.Module, ABC):
    """How the counts of one recording's units scatter around a predicted rate.

    A twin has one for each recording, so that what scatters differently from unit to unit (a dispersion, say) may be
    learned: parameters of it are trained with the readouts.

    What a subclass has to do
    -------------------------
    - take ``mean_counts`` and ``output`` in its constructor and hand them on; more arguments are its YAML's keys;
    - say ``nats``, of which the loss is made, and ``null_nats``, what the null model costs;
    - have no parameter or buffer but scalars and such with a number for each unit, units last (``of_units``).

    What it may do
    --------------
    ``terms`` and ``summed_nats``, where nats alone do not tell what the null model costs; ``distribution``, and
    ``probabilities`` where that is a density; ``initialize``; ``made_for``, ``event`` and ``events``, where responses
    are no spikes; ``deviance``, where a rate equal to the count is not the best one.

    An evaluation scores by the likelihood of the twin: bits per spike of the twin, of LN and of the true rate beside
    each other are all of that one.

    What the contract tests check (``vivit_core.testing.check_likelihood``)
    ----------------------------------------------------------------------
    ``drive`` is the inverse of ``rate``; the loss is least where the rate is the mean of the counts; a constant rate at
    the mean costs what the null model costs; some of the units cost what they cost among all; nats are those of the
    distribution, where that is said; every parameter gets a gradient.

    Parameters
    ----------
    mean_counts : (U,) mean counts a bin of each unit in training, given by the twin.
    output : how the drive becomes expected counts.

    Attributes
    ----------
    made_for : kinds of recordings (``responses/counts``, attribute kind) whose responses can scatter like this.
    event : what bits per spike are counted by, in a word.
    scale_U : in what a softplus gives the counts: each unit's mean where that is above one, else one; None: in ones.
    """

    made_for: ClassVar[tuple[str, ...]] = ("spikes",)
    event: ClassVar[str] = "spike"
    scale_U: Tensor | None

    def __init__(self, mean_counts: Sequence[float], output: Literal["exp", "softplus"]) -> None:
        super().__init__()
        self.mean_counts, self.output = tuple(mean_counts), output
        # A softplus is straight where it is large, so that units of 50 counts a bin would need other features than
        # units of 5. Their drive says the rate in parts of their mean; none has the buffer where no unit needs it.
        large = output == "softplus" and any(mean > 1 for mean in self.mean_counts)
        self.register_buffer("scale_U", torch.tensor(self.mean_counts).clamp_min(1.0) if large else None)

    def rate(self, drive: Tensor, log_gain: Tensor | None = None) -> Tensor:
        """Expected counts a bin, positive, of any shape.

        Parameters
        ----------
        drive : of a readout.
        log_gain : logarithm of what multiplies them; None: nothing does.
        """
        if self.output == "exp":
            return (drive if log_gain is None else drive + log_gain).clamp(*DRIVE_RANGE).exp()
        rate = F.softplus(drive) + LEAST_RATE
        if self.scale_U is not None:
            rate = rate * self.scale_U
        return rate if log_gain is None else rate * log_gain.clamp(*GAIN_RANGE).exp()

    def mean_drive(self) -> Tensor:
        """(U,) the drive at which each unit has its mean counts: where readouts start."""
        rate = torch.tensor(self.mean_counts).clamp_min(LEAST_COUNTS)
        if self.scale_U is not None:
            rate = rate / self.scale_U.cpu()
        return rate.log() if self.output == "exp" else inverse_softplus(rate)

    def initialize(self, counts: Tensor, valid: Tensor) -> None:
        """Let parameters of its own start where they fit the units' counts, at a rate that stays at the mean.

        Parameters
        ----------
        counts, valid : (N, U) of training trials.
        """

    @abstractmethod
    def nats(self, rate: Tensor, counts: Tensor) -> Tensor:
        """Negative log-likelihood of each count, less what depends on the counts alone.

        Parameters
        ----------
        rate, counts : (…, U) expected and measured counts a bin; finite.

        Returns
        -------
        (…, U) nats.
        """

    def terms(self, rate: Tensor, counts: Tensor) -> Sequence[Tensor]:
        """What a score adds up over bins, each of the shape of ``rate`` and ``counts``, (N, U) float64."""
        return (self.nats(rate, counts),)

    def summed_nats(self, sums: np.ndarray) -> np.ndarray:
        """Nats summed over bins, (…, U), from the sums of ``terms``, (terms, …, U) float64."""
        (nats,) = sums
        return np.asarray(nats)

    def deviance(self, rate: Tensor, counts: Tensor) -> Tensor:
        """Twice the nats that a rate costs more than the best one for each count, the count itself; (…, U)."""
        return 2 * (self.nats(rate, counts) - self.nats(counts, counts))

    def distribution(self, rate: np.ndarray) -> Any:
        """How counts scatter around rates (…, U): a frozen distribution of ``scipy.stats`` or its like, with its mean,
        its variance (``var``), its quantiles (``ppf``), ``cdf``, and ``logpmf``, or ``logpdf`` where it is a density.
        None: this likelihood does not say."""
        return None

    def sample(self, rate: Tensor, rng: np.random.Generator) -> Tensor:
        """Counts drawn around rates (…, U).

        Raises
        ------
        ValueError
            Where the likelihood does not say how they scatter.
        """
        scatter = self.distribution(rate.detach().double().cpu().numpy())
        if scatter is None:
            raise ValueError(f"{type(self).__name__} has no distribution() to draw samples from; set history=expected")
        return torch.as_tensor(np.maximum(scatter.ppf(rng.random(rate.shape)), 0.0)).to(rate)

    def probabilities(self, rate: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
        """How probable less than was counted is, and at most as much; each (…, U). None where ``distribution`` is."""
        scatter = self.distribution(rate)
        return None if scatter is None else (scatter.cdf(counts - 1.0), scatter.cdf(counts))

    def events(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """By what a gain in bits is divided, (…, U): the spikes, or another number of ``event``s where responses are no
        spikes. The parameters are ``null_nats``'s."""
        return counts

    @abstractmethod
    def null_nats(self, bins: np.ndarray, counts: np.ndarray, sums: np.ndarray) -> np.ndarray:
        """The same of the null model, the zero of bits per spike: each unit at its own mean on these very bins.

        Parameters
        ----------
        bins, counts : (…, U) float64, how many bins and the sum of their counts.
        sums : of ``terms``, one after another, (terms, …, U) float64; of those that depend on the rate, none may be
            used. A parameter stands beside them by ``numbers``.

        Returns
        -------
        (…, U) nats; 0 for a unit without counts, where that costs nothing at a rate of 0.
        """

    def of_units(self, units: Sequence[int]) -> Self:
        """The likelihood of some of the units, in this order; a copy."""
        chosen = copy.deepcopy(self)
        chosen.mean_counts = tuple(self.mean_counts[unit] for unit in units)
        for module in chosen.modules():
            for value in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                if value.dim():
                    value.data = value.data[..., list(units)]
        return chosen
