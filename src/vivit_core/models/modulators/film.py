"""Behavior scales and shifts each channel of the last map.

Shape letters: B clips, T bins, S time steps of the last map, C channels, H W cells, D behavior numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import init_linear
from vivit_core.models.modulators.base import Modulator


class FiLM(Modulator):
    """Feature-wise linear modulation (Perez et al. 2018): ``(1 + scale) · x + shift``, both from behavior, by channel.

    A step sees the behavior of its own bins. Where there is no behavior it does nothing. As every modulator it changes
    the last map only: behind ``residual_stem`` that is the map of gains, and the drive is not touched.

    Parameters
    ----------
    channels, behavior_dim, stride : given by the twin.
    hidden : width of the network's hidden layer.
    """

    def __init__(self, channels: int, behavior_dim: int, stride: int, hidden: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = []
        self.net = None
        if behavior_dim:
            self.net = nn.Sequential(
                nn.Linear(behavior_dim * stride, hidden), nn.GELU(), nn.Linear(hidden, 2 * channels)
            )
            for layer in self.net:
                if isinstance(layer, nn.Linear):
                    init_linear(layer)

    def forward(self, maps: list[FeatureMap], behavior_BTD: Tensor) -> list[FeatureMap]:
        if self.net is None:
            return maps
        *finer, last = maps
        old = last.x_BCTHW.shape[2] * self.stride - behavior_BTD.shape[1]  # padded at its old end, as the tokens are
        past = F.pad(behavior_BTD, (0, 0, old, 0))
        return [*finer, self.change(last, rearrange(past, "b (s k) d -> b s (k d)", k=self.stride))]

    def change(self, last: FeatureMap, past_BSD: Tensor) -> FeatureMap:
        """The map scaled and shifted by the behavior of each of its steps, (B, S, stride · D)."""
        assert self.net is not None
        scale, shift = rearrange(self.net(past_BSD), "b s c -> b c s 1 1").chunk(2, dim=1)
        return replace(last, x_BCTHW=(1 + scale) * last.x_BCTHW + shift)

    def stream(self, old: int) -> Callable[[list[FeatureMap | None], Tensor], list[FeatureMap | None]]:
        """See ``Modulator.stream``."""
        waiting: list[Tensor] = []

        def advance(maps: list[FeatureMap | None], behavior: Tensor) -> list[FeatureMap | None]:
            nonlocal old
            waiting.extend([torch.zeros_like(behavior)] * old + [behavior])
            old = 0
            *finer, last = maps
            if last is None:
                return maps
            past = torch.cat(waiting, dim=1).flatten(1)[:, None]
            waiting.clear()
            return [*finer, last if self.net is None else self.change(last, past)]

        return advance
