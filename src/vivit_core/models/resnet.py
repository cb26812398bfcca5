"""Residual 3-D CNN: as a core, the ViViT's rival, and as a stem whose map the ViViT's tokens are cut from.

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

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Literal, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.convolution import ChannelNorm, Conv3d, ResidualBlock, Step, in_turn
from vivit_core.models.core import Call, Core, call_block
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

    Raises
    ------
    ValueError
        For a tokenizer that waits for attention, and sizes that do not fit each other.
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
        if isinstance(self.tokenizer, ResidualStem):  # the weights that write back would never be used
            raise ValueError(
                "model.tokenizer: a residual stem's tokens are written back to its map after attention, which a "
                "ResNet lacks; set model/tokenizer=stem or model/tokenizer=tubelet"
            )
        self.make_stages(widths, depth, kernel, causal, dropout, drop_path)
        self.level_channels = [*self.tokenizer.level_channels, *widths]
        self.stride = self.tokenizer.patch_size[0]

    def forward(self, x_BCTHW: Tensor) -> list[Level]:
        """Feature levels, finest first; the last is the last stage's."""
        if self.frontend is not None:
            x_BCTHW = self.frontend(x_BCTHW)
        tokens = self.tokenizer(x_BCTHW)
        level = tokens.as_level(tokens.x_BTND)
        return [
            *tokens.levels,
            *self.climb(level, [partial(run_blocks, each, call=self.call) for each in self.blocks()]),
        ]

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
    """Tokens cut from the last map of a small residual CNN, and written back to it.

    Convolutions see what is near, at fine places; the blocks see what is around and before, at coarse ones. A token
    takes the whole of its patch of the map, cell by cell, and after the blocks adds to every cell of it, so that
    readouts and the modulator find both on one fine map (Xiao et al. 2021, "Early convolutions help transformers see
    better"; Ranftl et al. 2021, "Vision transformers for dense prediction"). What it adds is next to
    nothing at the start, so that the model begins as the CNN alone, and learns how attention can better it.

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a token.
    stem : constructor of the inner tokenizer, which makes the map that the residual blocks work on.
    cell : side of the first map's cells, px; smaller where whole cells of the last map would not fill a token.
    widths : channels of each stage's map; each stage after the first halves the map's sides.
    depth : residual blocks of each stage.
    kernel : time steps, and cells down and across, of a block's convolutions.
    dropout : probability, between a block's convolutions.

    Raises
    ------
    ValueError
        For sizes below one, tokens that are no whole cells of the last map, and what the inner tokenizer refuses.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: list[int],
        stem: Part,
        cell: int,
        widths: list[int],
        depth: int,
        kernel: list[int],
        dropout: float = 0.0,
    ) -> None:
        super().__init__(patch_size, dim)
        halved = 2 ** max(0, len(widths) - 1)
        # Tubelets have no stride, and one below 1 is the stem's to refuse.
        stride = max(1, getattr(stem, "keywords", {}).get("stride", 1))
        self.multiple = halved * stride
        self.any_side = f"model.tokenizer.stem.stride=1, model.tokenizer.widths={list(widths)[-1:]}"
        frames, *sides = self.patch_size
        if cell < 1 or cell % stride or any(side % self.multiple for side in sides):
            down, across = (math.ceil(side / self.multiple) * self.multiple for side in sides)
            raise ValueError(
                f"model.tokenizer.patch_size={list(patch_size)}, model.tokenizer.cell={cell}: cells are multiples of "
                f"model.tokenizer.stem.stride={stride}, and a token's sides of {self.multiple} px, because each of "
                f"model.tokenizer.widths={list(widths)} after the first halves the map; set "
                f"model.tokenizer.patch_size=[{frames},{down},{across}] and "
                f"model.tokenizer.cell={max(1, math.ceil(cell / stride)) * stride}"
            )
        h, w = (math.gcd(cell, side // halved) for side in sides)
        self.stem: Tokenizer = stem(in_channels=in_channels, dim=widths[0] if widths else 1, patch_size=[frames, h, w])
        self.make_stages(widths, depth, kernel, True, dropout, 0.0)
        self.cells = (sides[0] // (h * halved), sides[1] // (w * halved))  # down and across in a token
        self.embed = nn.Linear(widths[-1] * math.prod(self.cells), dim)
        self.unembed = nn.Linear(dim, widths[-1] * math.prod(self.cells))
        init_linear(self.embed)
        init_linear(self.unembed, 0.02)  # not zero, so that the blocks learn from the first step on
        self.norm = ChannelNorm(widths[-1])
        self.level_channels, self.out_channels = [*self.stem.level_channels, *widths[:-1]], widths[-1]

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        inner = self.stem(x_BCTHW, call)
        stages: list[Step] = [partial(run_blocks, stage, call=call) for stage in self.blocks()]
        levels = self.climb(inner.as_level(inner.x_BTND), stages)
        return self.tokens([*inner.levels, *levels])

    def tokens(self, levels: list[Level]) -> Tokens:
        """Cut the tokens from the last of the levels, padded to whole tokens at its right and lower ends."""
        *finer, level = levels
        h, w = self.cells
        _, _, _, rows, columns = level.x_BCTHW.shape
        x = F.pad(level.x_BCTHW, (0, -columns % w, 0, -rows % h))
        x = self.embed(rearrange(x, "b c t (h ph) (w pw) -> b t (h w) (c ph pw)", ph=h, pw=w))
        height, width = math.ceil(rows / h), math.ceil(columns / w)
        _, ph, pw = self.patch_size

        def middles(cells: Tensor, number: int, of: int, side: int) -> Tensor:
            first = cells[0] + (of - 1) * side / of / 2
            return first + side * torch.arange(number, device=cells.device)

        return Tokens(
            x_BTND=x,
            height=height,
            width=width,
            first_end=level.first_end,
            stride=level.stride,
            ys=middles(level.ys, height, h, ph),
            xs=middles(level.xs, width, w, pw),
            cell=math.sqrt(ph * pw),
            levels=finer,
            map=level,
            cells=self.cells,
        )

    def restore(self, tokens: Tokens, x_BTND: Tensor) -> Level:
        """The map with every token's part of it added, (B, widths[-1], T', H, W)."""
        level = tokens.map
        assert level is not None
        h, w = self.cells
        _, _, _, rows, columns = level.x_BCTHW.shape
        added = rearrange(
            self.unembed(x_BTND), "b t (h w) (c ph pw) -> b c t (h ph) (w pw)", h=tokens.height, ph=h, pw=w
        )
        return replace(level, x_BCTHW=self.norm(level.x_BCTHW + added[..., :rows, :columns]))

    def penalty(self) -> Tensor:
        return self.stem.penalty()

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[Level | None], Tokens | None]]:
        cut = self.stem.stream(old)
        stages = self.stage_streams()

        def advance(frame: Tensor) -> tuple[list[Level | None], Tokens | None]:
            finer, inner = cut(frame)
            if inner is None:
                return [*finer, *[None] * (len(stages) - 1)], None
            known = [level for level in finer if level is not None]
            assert len(known) == len(finer)  # a stem's maps are at least as fast as what is cut from them
            tokens = self.tokens([*known, *self.climb(inner.as_level(inner.x_BTND), stages)])
            return list(tokens.levels), tokens

        return advance


def run_blocks(blocks: list[ResidualBlock], x_BCTHW: Tensor, call: Call = call_block) -> Tensor:
    """One block after the other, each called by ``call``."""
    seeds = draw_seeds(len(blocks), ResidualBlock.SEEDS, device=x_BCTHW.device)
    for block, own in zip(blocks, seeds, strict=True):
        x_BCTHW = call(block, x_BCTHW, own)
    return x_BCTHW


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
