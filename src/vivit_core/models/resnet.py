"""Residual 3-D CNN: as a core, the ViViT's rival, and as a stem that the ViViT's tokens are cut from.

    video (B, C, T, H, W)
      front end      optional causal temporal filters
      tokenizer      the strided first convolution → (B, C, T', H', W')
      stages         residual blocks of causal 3-D convolutions; each stage after the first halves the map's sides
      norm           → a level from each stage

Front end and tokenizer are the ViViT's own, so that the two differ in nothing but what they compute from the same
features: convolutions here, attention there.

Shape letters: B clips, C channels, T frames, T' time steps, H W pixels or cells, N tokens a time step, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal, cast

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.convolution import ChannelNorm, Conv3d, ResidualBlock, Step, in_turn
from vivit_core.models.core import Core
from vivit_core.models.dropout import check_probability, draw_seeds
from vivit_core.models.frontend import TemporalBasis
from vivit_core.models.layers import Level, Part, init_linear
from vivit_core.models.tokenizer import Tokenizer, Tokens


class Stages:
    """Residual stages over a map, for a core or a tokenizer; each after the first halves the map's sides."""

    stages: nn.ModuleList
    down: nn.ModuleList
    norms: nn.ModuleList

    def make_stages(
        self, widths: list[int], depth: int, kernel: list[int], causal: bool, dropout: float, drop_path: float
    ) -> None:
        """``depth`` blocks for each of ``widths``; the probability ``drop_path`` rises linearly over all of them."""
        check_probability(dropout=dropout, drop_path=drop_path)
        if not widths or min(widths) < 1 or depth < 1:
            raise ValueError(f"widths={list(widths)}, depth={depth}: a stage has channels and blocks")
        total = len(widths) * depth
        path = [drop_path * i / max(1, total - 1) for i in range(total)]
        self.stages = nn.ModuleList(
            residual_blocks(width, kernel, causal, dropout, path[i * depth : (i + 1) * depth], total)
            for i, width in enumerate(widths)
        )
        self.down = nn.ModuleList(
            Conv3d(narrow, wide, (1, 3), stride=2, causal=causal) for narrow, wide in pairwise(widths)
        )
        for convolution in self.down:
            init_linear(convolution)
        self.norms = nn.ModuleList(ChannelNorm(width) for width in widths)

    def blocks(self) -> list[list[ResidualBlock]]:
        """The blocks of each stage."""
        return [cast(list[ResidualBlock], list(cast(nn.ModuleList, stage))) for stage in self.stages]

    def stage_streams(self) -> list[Step]:
        """Each stage as a stream."""
        return [in_turn([block.stream() for block in stage]) for stage in self.blocks()]

    def climb(self, level: Level, stages: list[Step]) -> list[Level]:
        """Through all stages; a level from each."""
        levels = []
        for i, (stage, norm) in enumerate(zip(stages, self.norms, strict=True)):
            if i:
                x = self.down[i - 1](level.x_BCTHW)
                level = replace(level, x_BCTHW=x, ys=level.ys[::2], xs=level.xs[::2], cell=2 * level.cell)
            level = replace(level, x_BCTHW=stage(level.x_BCTHW))
            levels.append(replace(level, x_BCTHW=norm(level.x_BCTHW)))
        return levels


class ResNet(Core, Stages):
    """Residual CNN over space and time, causal (after He et al. 2016 and Tran et al. 2018).

    Parameters
    ----------
    in_channels : channels of the video, given by the recordings.
    widths : channels of each stage.
    depth : residual blocks of each stage.
    kernel : time steps, and cells down and across, of a block's convolutions.
    tokenizer, frontend : constructors that take the sizes (``layers.part``); ``frontend=None`` for bare pixels.
    dropout : probability, between a block's convolutions.
    drop_path : probability of leaving out the last block's branch; rises linearly from 0 at the first.
    checkpointing, causal, compile : see ``Core``.
    """

    def __init__(
        self,
        in_channels: int,
        widths: list[int],
        depth: int,
        kernel: list[int],
        tokenizer: Part,
        frontend: Part | None = None,
        dropout: float = 0.0,
        drop_path: float = 0.0,
        checkpointing: bool = False,
        causal: bool = True,
        compile: bool | Literal["auto"] = "auto",
    ) -> None:
        super().__init__(causal, checkpointing, compile)
        self.frontend: TemporalBasis | None = frontend(in_channels=in_channels) if frontend is not None else None
        channels = self.frontend.out_channels if self.frontend is not None else in_channels
        self.tokenizer: Tokenizer = tokenizer(in_channels=channels, dim=widths[0] if widths else 1)
        self.make_stages(widths, depth, kernel, causal, dropout, drop_path)
        self.level_channels = [*self.tokenizer.level_channels, *widths]
        self.stride = self.tokenizer.patch_size[0]

    def forward(self, x_BCTHW: Tensor) -> list[Level]:
        """Feature levels, finest first; the last is the last stage's."""
        if self.frontend is not None:
            x_BCTHW = self.frontend(x_BCTHW)
        tokens = self.tokenizer(x_BCTHW)
        level = tokens.as_level(tokens.x_BTND)
        return [*tokens.levels, *self.climb(level, [self.run(stage) for stage in self.blocks()])]

    def run(self, blocks: list[ResidualBlock]) -> Step:
        def stage(x_BCTHW: Tensor) -> Tensor:
            seeds = draw_seeds(len(blocks), ResidualBlock.SEEDS, device=x_BCTHW.device)
            for block, own in zip(blocks, seeds, strict=True):
                x_BCTHW = self.call(block, x_BCTHW, own)
            return x_BCTHW

        return stage

    def stream(self, old: int) -> Callable[[Tensor], list[Level | None]]:
        self.refuse_acausal_stream()
        filtered = self.frontend.stream() if self.frontend is not None else None
        cut = self.tokenizer.stream(old)
        stages = self.stage_streams()

        def advance(frame: Tensor) -> list[Level | None]:
            levels, tokens = cut(frame if filtered is None else filtered(frame))
            if tokens is None:
                return [*levels, *[None] * len(stages)]
            return [*levels, *self.climb(tokens.as_level(tokens.x_BTND), stages)]

        return advance

    def check_geometry(self, frames: int, height: int, width: int) -> None:
        self.tokenizer.grid(frames, height, width)

    def penalty(self) -> Tensor:
        return self.tokenizer.penalty()


class ResidualStem(Tokenizer, Stages):
    """Tokens cut from the last map of a residual CNN (Xiao et al. 2021, "Early convolutions help transformers see
    better"; Dai et al. 2021, "CoAtNet"); readouts see its maps too.

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a token; whole cells of the last map.
    stem : constructor of the inner tokenizer, which makes the map that the blocks work on.
    widths : channels of each stage.
    depth : residual blocks of each stage.
    kernel : time steps, and cells down and across, of a block's convolutions.
    dropout : probability, between a block's convolutions.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: list[int],
        stem: Part,
        widths: list[int],
        depth: int,
        kernel: list[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__(patch_size)
        self.stem: Tokenizer = stem(in_channels=in_channels, dim=widths[0] if widths else 1)
        self.make_stages(widths, depth, kernel, True, dropout, 0.0)
        halved = 2 ** (len(widths) - 1)
        t, h, w = self.stem.patch_size
        cell = (t, h * halved, w * halved)  # of the last map
        if any(outer % inner for outer, inner in zip(self.patch_size, cell, strict=True)):
            raise ValueError(
                f"tokenizer.patch_size={list(patch_size)} must be multiples of {list(cell)}: "
                f"tokenizer.stem.patch_size={list(self.stem.patch_size)}, its pixels halved in resolution by each of "
                f"tokenizer.widths={list(widths)} after the first"
            )
        self.cells = (patch_size[0] // cell[0], patch_size[1] // cell[1], patch_size[2] // cell[2])  # in a token
        self.embed = nn.Linear(widths[-1] * self.cells[0], dim)
        init_linear(self.embed)
        self.level_channels = [*self.stem.level_channels, *widths]

    def forward(self, x_BCTHW: Tensor) -> Tokens:
        x, before = self.pad_space(x_BCTHW)
        inner = self.stem(x)  # pads its own steps in time
        levels = self.climb(inner.as_level(inner.x_BTND), [self.run(stage) for stage in self.blocks()])
        old = -x.shape[2] % self.patch_size[0]
        pooled = F.pad(self.pool(levels[-1]), (0, 0, 0, 0, 0, 0, old // inner.stride, 0))
        return self.tokens(pooled, (old, *before), [shifted(each, before) for each in (*inner.levels, *levels)])

    @staticmethod
    def run(blocks: list[ResidualBlock]) -> Step:
        def stage(x_BCTHW: Tensor) -> Tensor:
            seeds = draw_seeds(len(blocks), ResidualBlock.SEEDS, device=x_BCTHW.device)
            for block, own in zip(blocks, seeds, strict=True):
                x_BCTHW = block(x_BCTHW, own)
            return x_BCTHW

        return stage

    def pad_space(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Pad to whole tokens around the frame alone; returns the video and what was put before (rows, columns)."""
        *_, h, w = x_BCTHW.shape
        _, ph, pw = self.patch_size
        rows, columns = -h % ph, -w % pw
        top, left = rows // 2, columns // 2
        return F.pad(x_BCTHW, (left, columns - left, top, rows - top)), (top, left)

    def pool(self, level: Level) -> Tensor:
        """A token's cells averaged in space, (B, T, H', W', C): place is the map's business."""
        _, h, w = self.cells
        return reduce(level.x_BCTHW, "b c t (h ph) (w pw) -> b t h w c", "mean", ph=h, pw=w)

    def tokens(self, pooled_BTHWC: Tensor, before: tuple[int, int, int], levels: list[Level]) -> Tokens:
        """A token's steps of the map side by side."""
        _, _, height, width, _ = pooled_BTHWC.shape
        x = rearrange(pooled_BTHWC, "b (t pt) h w c -> b t (h w) (pt c)", pt=self.cells[0])
        return self.place(self.embed(x), height, width, before, levels)

    def penalty(self) -> Tensor:
        return self.stem.penalty()

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[Level | None], Tokens | None]]:
        step = self.stem.patch_size[0]
        cut = self.stem.stream(old % step)
        stages = self.stage_streams()
        waiting: list[Tensor] = []

        def advance(frame: Tensor) -> tuple[list[Level | None], Tokens | None]:
            nonlocal old
            x, before = self.pad_space(frame)
            finer, inner = cut(x)
            levels = [None if each is None else shifted(each, before) for each in finer]
            if inner is None:
                return [*levels, *[None] * len(stages)], None
            maps = self.climb(inner.as_level(inner.x_BTND), stages)
            levels.extend(shifted(each, before) for each in maps)
            pooled = self.pool(maps[-1])
            waiting.extend([torch.zeros_like(pooled)] * (old // step) + [pooled])
            old = 0
            if len(waiting) < self.cells[0]:
                return levels, None
            tokens = self.tokens(torch.cat(waiting, dim=1), (0, *before), [])
            waiting.clear()
            return levels, tokens

        return advance


def shifted(level: Level, before: tuple[int, int]) -> Level:
    """A level of the padded frame in the coordinates of the frame itself."""
    top, left = before
    return replace(level, ys=level.ys - top, xs=level.xs - left)


def residual_blocks(
    width: int, kernel: list[int], causal: bool, dropout: float, drop_path: list[float], depth: int
) -> nn.ModuleList:
    """A stage: one block for each probability of ``drop_path``; ``depth`` counts the blocks of the whole network."""
    if len(kernel) != 2:
        raise ValueError(f"kernel={list(kernel)} must be two numbers: [time steps, cells down and across]")
    size = (kernel[0], kernel[1])
    return nn.ModuleList(
        ResidualBlock(width, size, causal, dropout, path, residual_scale=(2 * depth) ** -0.5) for path in drop_path
    )
