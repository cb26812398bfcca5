"""Each unit's own past spikes: refractoriness, bursts, adaptation. Shape letters as in ``base``."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

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

    def looked(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        clips, _, units = past_BPU.shape
        traces = rearrange(past_BPU, "b p u -> (b u) 1 p")
        seen = F.conv1d(traces, self.basis_KL[:, None].to(traces.dtype)).float()
        of_basis = rearrange(seen, "(b u) k t -> b t u k", b=clips, u=units)
        return torch.cat([of_basis, self.share_known(known_BPU)[..., None]], dim=-1)

    def gain(self, past_BPU: Tensor, known_BPU: Tensor) -> Tensor:
        """With one kernel for each unit, which is smaller than what its functions see."""
        return over_time(past_BPU, self.weight_UK @ self.basis_KL) + self.offset_U * self.share_known(known_BPU)

    def weights(self) -> Tensor:
        return torch.cat([self.weight_UK, self.offset_U[:, None]], dim=1)

    @torch.no_grad()
    def take(self, weights_UW: Tensor) -> None:
        self.weight_UK.copy_(weights_UW[:, :-1])
        self.offset_U.copy_(weights_UW[:, -1])
