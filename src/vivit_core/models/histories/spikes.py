"""Each unit's own past spikes: refractoriness, bursts, adaptation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vivit_core.models.histories.base import History, over_time


class OwnSpikes(History):
    """A unit's past counts, weighed by a kernel of its own that is a sum of raised cosines (Pillow et al. 2008).

    Where past counts are known it has an offset too: what known counts make of the rate is not 1 on average.

    Parameters
    ----------
    mean_counts : given by the twin.
    bases, lags, shown : of :class:`History`.
    """

    observed = "own"

    def __init__(self, mean_counts: Sequence[float], bases: int, lags: int, shown: float) -> None:
        super().__init__(mean_counts, bases, lags, shown)
        self.weight_UK = nn.Parameter(torch.zeros(len(self.mean_U), bases))
        self.offset_U = nn.Parameter(torch.zeros(len(self.mean_U)))

    def gain(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        return over_time(past_BPU, self.weight_UK @ self.basis_KL) + self.offset_U * self.share_known(known_BPU)
