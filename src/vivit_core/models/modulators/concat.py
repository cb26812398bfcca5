"""Behavior is concatenated to the features of the last map, and a small network mixes them.

Shape letters: B clips, S time steps of the last map, C channels, H W cells, D behavior numbers, K = frames a step · D.
"""

from __future__ import annotations

import torch
from einops import rearrange, repeat
from torch import Tensor

from vivit_core.models.modulators.base import StepModulator, small_net


class Concat(StepModulator):
    """Each cell's features and the behavior of the step, side by side, through a network that is added to the features.

    The digital twins of VisionCore (https://github.com/Yates-Lab/VisionCore) concatenate behavior to the features, and
    a ConvGRU reads both. ``ConvGRU`` here is that. This is concatenation alone: a hidden layer, in which features and
    behavior meet, and no memory. Where there is no behavior it does nothing.

    Parameters
    ----------
    channels, behavior_dim, stride : given by the twin.
    hidden : width of the network's hidden layer.
    """

    def __init__(self, channels: int, behavior_dim: int, stride: int, hidden: int) -> None:
        super().__init__(stride)
        self.net = small_net(channels + behavior_dim * stride, hidden, channels) if behavior_dim else None

    def change(self, x_BCSHW: Tensor, past_BSK: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if self.net is None:
            return x_BCSHW, None
        height, width = x_BCSHW.shape[3:]
        cells_BSHWC = rearrange(x_BCSHW, "b c s h w -> b s h w c")
        past_BSHWK = repeat(past_BSK, "b s k -> b s h w k", h=height, w=width).to(x_BCSHW.dtype)
        mixed = self.net(torch.cat([cells_BSHWC, past_BSHWK], dim=-1))
        return x_BCSHW + rearrange(mixed, "b s h w c -> b c s h w"), None
