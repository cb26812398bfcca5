"""The ViViT core: a factorized Video Vision Transformer (Arnab et al. 2021, "model 3"), causal in time.

    video (B, C, T, H, W)
      front end      optional causal temporal filters
      tokenizer      tubelets → tokens (B, T', N, D)
      spatial blocks every time step's N tokens (and registers) attend to each other
      temporal blocks every place's T' tokens attend to themselves and what was before
      norm           → (B, D, T', H', W'), or a map of a gain (``ResidualStem``)

Departures from the paper: positions are rotary (axial in space, one axis in time) instead of learned and added;
queries and keys are normalized; registers (Darcet et al. 2024) take part in the spatial blocks, where they are
attended; no class token: every place is read out; temporal attention is causal and may be limited to a window.

Shape letters: B clips, C channels, T frames, T' time steps, H W pixels, N tokens a time step, R registers, D embedding.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from einops import rearrange, repeat
from torch import Tensor, nn

from vivit_core.models.attention.base import Attention, AttentionMask, Cache, Positions
from vivit_core.models.attention.blocks import Block
from vivit_core.models.cores.base import Core
from vivit_core.models.dropout import check_probability, draw_seeds, drop
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.frontends.base import Frontend
from vivit_core.models.layers import Part
from vivit_core.models.tokenizers.base import Tokenizer

EVERYWHERE = AttentionMask(causal=False)


class ViViT(Core):
    """Factorised video transformer.

    Parameters
    ----------
    in_channels : channels of the video, given by the recordings.
    embedding_dim : width D of a token.
    spatial_depth, temporal_depth : number of blocks of each kind.
    tokenizer, attention, frontend : constructors that take the sizes (``layers.part``); ``frontend=None`` for bare
        pixels.
    registers : extra tokens of each time step that the spatial blocks may write to.
    ff_ratio : width of the feed-forward layers, in embedding widths.
    ff_dropout : dropout in the feed-forward layers.
    drop_path : probability of leaving out a residual branch in the last block; rises linearly from 0 at the first.
    patch_dropout : probability of silencing a whole token before the blocks.
    checkpointing : compute each block again in the backward pass instead of keeping its activations.
    causal : temporal attention sees no later token.
    window : frames that temporal attention looks back over, in whole tokens, the token's own included; None: the whole
        clip, so that what a stream has to remember grows without end.
    compile : whether the blocks are compiled for training (``compile_blocks``); "auto": the training decides.
    """

    def __init__(
        self,
        in_channels: int,
        embedding_dim: int,
        spatial_depth: int,
        temporal_depth: int,
        tokenizer: Part,
        attention: Part,
        frontend: Part | None,
        registers: int,
        ff_ratio: float,
        ff_dropout: float,
        drop_path: float,
        patch_dropout: float,
        checkpointing: bool,
        causal: bool,
        window: int | None,
        compile: bool | Literal["auto"],
    ) -> None:
        super().__init__(causal, checkpointing, compile)
        check_probability(ff_dropout=ff_dropout, drop_path=drop_path, patch_dropout=patch_dropout)
        if registers and not spatial_depth:
            raise ValueError(
                f"model.registers={registers} would never be attended to without spatial blocks; set model.registers=0"
            )
        self.frontend: Frontend | None = frontend(in_channels=in_channels) if frontend is not None else None
        channels = self.frontend.out_channels if self.frontend is not None else in_channels
        self.tokenizer: Tokenizer = tokenizer(in_channels=channels, dim=embedding_dim)
        self.patch_dropout = patch_dropout
        self.registers = nn.Parameter(torch.randn(registers, embedding_dim) * 0.02) if registers else None
        depth = spatial_depth + temporal_depth
        blocks = []
        for i in range(depth):
            layer: Attention = attention(dim=embedding_dim)
            path = drop_path * i / max(1, depth - 1)
            blocks.append(Block(layer, embedding_dim, ff_ratio, ff_dropout, path, residual_scale=(2 * depth) ** -0.5))
        self.spatial = nn.ModuleList(blocks[:spatial_depth])
        self.temporal = nn.ModuleList(blocks[spatial_depth:])
        self.norm = nn.LayerNorm(embedding_dim)
        self.map_channels = [*self.tokenizer.map_channels, self.tokenizer.out_channels]
        self.stride = self.tokenizer.patch_size[0]
        if window is not None and (window < self.stride or not causal):
            raise ValueError(
                f"model.window={window}: a window holds at least one token of {self.stride} frames, and "
                "only a causal model has one; set model.window=null, or at least the tokens' frames"
            )
        self.mask = AttentionMask(causal, None if window is None else math.ceil(window / self.stride))

    def forward(self, x_BCTHW: Tensor) -> list[FeatureMap]:
        """Feature maps, finest first; the last is what the tokenizer makes of the blocks' output."""
        if self.frontend is not None:
            x_BCTHW = self.frontend(x_BCTHW)
        tokens = self.tokenizer(x_BCTHW, self.call)
        x = tokens.x_BTND
        if self.training and self.patch_dropout:
            x = drop(x, self.patch_dropout, draw_seeds(device=x.device), shape=(*x.shape[:-1], 1))
        x = self.attend_space(x, tokens.height, tokens.width)
        x = self.attend_time(x)
        return [*tokens.maps, self.tokenizer.restore(tokens, self.norm(x))]

    def attend_space(self, x_BTND: Tensor, height: int, width: int) -> Tensor:
        if not self.spatial:
            return x_BTND
        b = x_BTND.shape[0]
        x = rearrange(x_BTND, "b t n d -> (b t) n d")
        r = 0
        if self.registers is not None:
            r = self.registers.shape[0]
            x = torch.cat([repeat(self.registers.to(x.dtype), "r d -> s r d", s=x.shape[0]), x], dim=1)
        positions = first_attention(self.spatial).space(height, width, r, x.device)
        x = self.run(self.spatial, x, positions, EVERYWHERE)
        return rearrange(x[:, r:], "(b t) n d -> b t n d", b=b)

    def attend_time(self, x_BTND: Tensor) -> Tensor:
        if not self.temporal:
            return x_BTND
        b, t = x_BTND.shape[:2]
        x = rearrange(x_BTND, "b t n d -> (b n) t d")
        positions = first_attention(self.temporal).time(torch.arange(t, device=x.device))
        x = self.run(self.temporal, x, positions, self.mask)
        return rearrange(x, "(b n) t d -> b t n d", b=b)

    def run(self, blocks: nn.ModuleList, x_BND: Tensor, positions: Positions, mask: AttentionMask) -> Tensor:
        """The blocks one after the other."""
        shape = (len(blocks), Block.SEEDS)
        seeds = draw_seeds(*shape, device=x_BND.device)
        for block, own in zip(blocks, seeds, strict=True):
            x_BND = self.call(block, x_BND, positions, mask, own)
        return x_BND

    def stream(self, old: int) -> Callable[[Tensor], list[FeatureMap | None]]:
        self.refuse_acausal_stream()
        filtered = self.frontend.stream() if self.frontend is not None else None
        cut = self.tokenizer.stream(old)
        caches = [Cache(self.mask.window) for _ in self.temporal]
        step = 0

        def advance(frame: Tensor) -> list[FeatureMap | None]:
            nonlocal step
            maps, tokens = cut(frame if filtered is None else filtered(frame))
            if tokens is None:
                return [*maps, None]
            x = self.attend_space(tokens.x_BTND, tokens.height, tokens.width)[0].transpose(0, 1)  # (N, 1, D)
            if self.temporal:
                positions = first_attention(self.temporal).time(torch.tensor([step], device=x.device))
                for block, cache in zip(self.temporal, caches, strict=True):
                    assert isinstance(block, Block)
                    x = block.step(x, positions, cache)
            step += 1
            return [*maps, self.tokenizer.restore(tokens, self.norm(x.transpose(0, 1)[None]))]

        return advance

    def check_geometry(self, frames: int, height: int, width: int) -> None:
        self.tokenizer.grid(frames, height, width)

    def regularizer(self) -> Tensor:
        return self.tokenizer.regularizer()


def first_attention(blocks: nn.ModuleList) -> Attention:
    """All blocks' attention has the same sizes."""
    block = blocks[0]
    assert isinstance(block, Block)
    return block.attention
