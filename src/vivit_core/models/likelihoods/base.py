"""What every likelihood keeps: how a readout's drive becomes a rate, and how measured counts scatter around it.

Shape letters: B clips, T bins, N bins of any number of clips, U units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.layers import inverse_softplus

LEAST_COUNTS = 1e-4  # mean counts a bin that a silent unit starts from
DRIVE_RANGE = (-15.0, 8.0)  # outside of it the exponential would under- or overflow a training step


class Likelihood(nn.Module, ABC):
    """How the counts of one recording's units scatter around a predicted rate.

    A twin has one for each recording, so that what scatters differently from unit to unit (a dispersion, say) may be
    learned: parameters of it are trained with the readouts.

    What a subclass has to do
    -------------------------
    - take ``mean_counts`` and ``output`` in its constructor and hand them on; more arguments are its YAML's keys;
    - say ``nats``, of which the loss is made, and ``null_nats``, what the null model costs.

    Evaluations give Poisson's bits per spike (``metrics.unit_scores``), whichever likelihood a twin was trained with.

    What the contract tests check (``vivit_core.testing.check_likelihood``)
    ----------------------------------------------------------------------
    ``drive`` is the inverse of ``rate``; the loss is least where the rate is the mean of the counts; a constant rate at
    the mean costs what the null model costs; every parameter gets a gradient.

    Parameters
    ----------
    mean_counts : (U,) mean counts a bin of each unit in training, given by the twin.
    output : how the drive becomes expected counts.
    """

    def __init__(self, mean_counts: Sequence[float], output: Literal["exp", "softplus"]) -> None:
        super().__init__()
        self.mean_counts, self.output = tuple(mean_counts), output

    def rate(self, drive: Tensor) -> Tensor:
        """Expected counts a bin, positive, of any shape."""
        if self.output == "exp":
            return drive.clamp(*DRIVE_RANGE).exp()
        return F.softplus(drive) + 1e-6

    def mean_drive(self) -> Tensor:
        """(U,) the drive at which each unit has its mean counts: where readouts start."""
        rate = torch.tensor(self.mean_counts).clamp_min(LEAST_COUNTS)
        return rate.log() if self.output == "exp" else inverse_softplus(rate)

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

    @abstractmethod
    def null_nats(self, bins: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """The same, summed over bins, of the null model: each unit at its own mean on these very bins.

        Parameters
        ----------
        bins, counts : (…, U) float64, how many bins and the sum of their counts.

        Returns
        -------
        (…, U) nats; 0 for a unit without counts.
        """
