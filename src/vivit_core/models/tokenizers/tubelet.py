"""Tokens from tubelets: one linear map of each box of pixels and frames (Arnab et al. 2021).

Shape letters as in ``base``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import Call, call_block, init_linear
from vivit_core.models.tokenizers.base import Tokenizer, Tokens


class Tubelet(Tokenizer):
    """Bare tubelets: each token is a linear map of its own block of pixels (Arnab et al. 2021, "tubelet embedding").

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a tubelet.
    token_stride : the same from one token to the next; None: the tubelet's own. Smaller ones let tubelets overlap (as
        patches do in Wang et al. 2022, "PVT v2"), so that tokens are newer, and lie closer.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: list[int], token_stride: list[int] | None) -> None:
        super().__init__(patch_size, dim, token_stride)
        self.embed = nn.Linear(in_channels * math.prod(self.patch_size), dim)
        self.map_channels = []
        init_linear(self.embed)

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        x, before = self.pad(x_BCTHW)
        x = F.pad(x, (0, 0, 0, 0, self.reaching_back, 0)) if self.reaching_back else x
        for axis, (size, stride) in enumerate(zip(self.patch_size, self.token_stride, strict=True), 2):
            x = x.unfold(axis, size, stride)
        height, width = x.shape[3:5]
        x = rearrange(x, "b c t h w pt ph pw -> b t (h w) (c pt ph pw)")
        return self.place(self.embed(x), height, width, before, [])

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[FeatureMap | None], Tokens | None]]:
        waiting: list[Tensor] = []
        old += self.reaching_back

        def advance(frame: Tensor) -> tuple[list[FeatureMap | None], Tokens | None]:
            nonlocal old
            waiting.extend([torch.zeros_like(frame)] * old + [frame])
            old = 0
            if len(waiting) < self.patch_size[0]:
                return [], None
            tokens = self(torch.cat(waiting, dim=2))
            del waiting[: self.token_stride[0]]
            return [], replace(tokens, x_BTND=tokens.x_BTND[:, -1:])  # those before were given when they ended

        return advance
