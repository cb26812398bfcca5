"""What every latent keeps: how counts of several units belong together, where a twin alone calls them independent.

Shape letters: B clips, T bins, U units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn


class Latent(nn.Module, ABC):
    """A hidden cause that moves the counts of a recording's units together; a twin has one for each recording.

    It changes no expected count: a twin's rates, and all scores of them, mean what they mean without. It says how
    counts scatter *together* around these rates (noise correlations), and a training with it weighs each bin by what it
    tells beyond that.

    What a subclass has to do
    -------------------------
    - take ``mean_counts`` in its constructor, given by the twin; all other arguments are its YAML's keys;
    - say ``more_nats`` and ``log_covariance``, and set ``hold`` and ``rank``.

    What the contract tests check (``vivit_core.testing.check_latent``)
    ------------------------------------------------------------------
    Rates are those of the twin without; a gradient for every parameter; a covariance that is one; what does not count
    changes nothing; the round trip through a checkpoint.

    Attributes
    ----------
    hold : bins for which the hidden cause stands still.
    rank : its numbers.
    """

    hold: int
    rank: int

    @abstractmethod
    def more_nats(self, rate_BTU: Tensor, counts_BTU: Tensor, mask_BTU: Tensor) -> Tensor:
        """What all counts cost together, less what they cost one by one: nats summed over clips, a scalar, mostly
        negative. Counts may be anything where the mask is false."""

    @abstractmethod
    def log_covariance(self) -> Tensor:
        """(U, U) covariance of the logarithms of what multiplies the units' rates in one bin."""
