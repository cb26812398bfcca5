"""Tokens from tubelets: one linear map of each box of pixels and frames (Arnab et al. 2021)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import Call, call_block, init_linear
from vivit_core.models.tokenizers.base import Tokenizer, Tokens


class Tubelet(Tokenizer):
    """Bare tubelets: each token is a linear map of its own block of pixels (Arnab et al. 2021, "tubelet embedding").

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a tubelet.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: list[int]) -> None:
        super().__init__(patch_size, dim)
        self.embed = nn.Linear(in_channels * math.prod(self.patch_size), dim)
        self.map_channels = []
        init_linear(self.embed)

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        x, before = self.pad(x_BCTHW)
        pt, ph, pw = self.patch_size
        height, width = x.shape[3] // ph, x.shape[4] // pw
        x = rearrange(x, "b c (t pt) (h ph) (w pw) -> b t (h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
        return self.place(self.embed(x), height, width, before, [])

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[FeatureMap | None], Tokens | None]]:
        waiting: list[Tensor] = []

        def advance(frame: Tensor) -> tuple[list[FeatureMap | None], Tokens | None]:
            nonlocal old
            waiting.extend([torch.zeros_like(frame)] * old + [frame])
            old = 0
            if len(waiting) < self.patch_size[0]:
                return [], None
            clip = torch.cat(waiting, dim=2)
            waiting.clear()
            return [], self(clip)

        return advance
