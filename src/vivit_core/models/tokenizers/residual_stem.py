"""Tokens from a small residual network whose maps drive the units; after the blocks, tokens are a gain."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.convolution import Step
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import Call, Part, call_block, init_linear
from vivit_core.models.residual import Stages, run_blocks
from vivit_core.models.tokenizers.base import Tokenizer, Tokens


class ResidualStem(Tokenizer, Stages):
    """Tokens cut from the last map of a small residual CNN, which after the blocks give every cell a gain.

    Convolutions see what is near, at fine places: their maps are what drives a unit, the stem's at the full frame rate
    and those of the residual stages at the tokens'. The blocks see what is around and before. A token takes the whole
    of its patch of the last map, cell by cell, and after the blocks gives every cell of it a few numbers, which a unit
    reads at its own place into the gain of its rate (after Xiao et al. 2021, "Early convolutions help transformers see
    better"; Ranftl et al. 2021, "Vision transformers for dense prediction"). Context acts on cortical neurons mostly as
    a gain (Cavanaugh, Bair & Movshon 2002), and a gain may change slowly, where a drive that is held for a token's
    frames is late.

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a token.
    stem : constructor of the inner tokenizer, which makes the map that the residual blocks work on.
    step : frames of a step of the residual maps; smaller where whole steps would not fill a token.
    cell : side of the first map's cells, px; smaller where whole cells of the last map would not fill a token.
    widths : channels of each stage's map; each stage after the first halves the map's sides.
    depth : residual blocks of each stage.
    kernel : time steps, and cells down and across, of a block's convolutions.
    dropout : probability, between a block's convolutions.
    context : numbers that a token gives each of its cells.

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
        step: int,
        cell: int,
        widths: list[int],
        depth: int,
        kernel: list[int],
        dropout: float,
        context: int,
    ) -> None:
        super().__init__(patch_size, dim)
        if context < 1:
            raise ValueError(f"model.tokenizer.context={context}: a token gives each of its cells at least one number")
        halved = 2 ** max(0, len(widths) - 1)
        # Tubelets have no stride, and one below 1 is the stem's to refuse.
        stride = max(1, getattr(stem, "keywords", {}).get("stride", 1))
        self.multiple = halved * stride
        self.any_side = f"model.tokenizer.stem.stride=1, model.tokenizer.widths={list(widths)[-1:]}"
        frames, *sides = self.patch_size
        if step < 1:
            raise ValueError(f"model.tokenizer.step={step}: a step of the residual maps has at least one frame")
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
        self.step = math.gcd(step, frames)
        self.steps = frames // self.step  # of the maps, in a token
        first = [self.step, h, w]
        self.stem: Tokenizer = stem(in_channels=in_channels, dim=widths[0] if widths else 1, patch_size=first)
        self.make_stages(widths, depth, kernel, True, dropout, 0.0)
        self.cells = (sides[0] // (h * halved), sides[1] // (w * halved))  # down and across in a token
        self.embed = nn.Linear(widths[-1] * self.steps * math.prod(self.cells), dim)
        self.unembed = nn.Linear(dim, context * math.prod(self.cells))
        init_linear(self.embed)
        init_linear(self.unembed)
        self.map_channels, self.out_channels = [*self.stem.map_channels, *widths], context

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        inner = self.stem(x_BCTHW, call)
        stages: list[Step] = [partial(run_blocks, stage, call=call) for stage in self.blocks()]
        maps = self.climb(inner.as_map(inner.x_BTND), stages)
        return self.tokens([*inner.maps, *maps])

    def tokens(self, maps: list[FeatureMap]) -> Tokens:
        """Cut the tokens from the last of the maps, padded to whole tokens at its old, right and lower ends."""
        feature_map = maps[-1]
        h, w = self.cells
        _, _, steps, rows, columns = feature_map.x_BCTHW.shape
        old = -steps % self.steps
        x = F.pad(feature_map.x_BCTHW, (0, -columns % w, 0, -rows % h, old, 0))
        x = self.embed(rearrange(x, "b c (t pt) (h ph) (w pw) -> b t (h w) (c pt ph pw)", pt=self.steps, ph=h, pw=w))
        height, width = math.ceil(rows / h), math.ceil(columns / w)
        _, ph, pw = self.patch_size

        def middles(cells: Tensor, number: int, of: int, side: int) -> Tensor:
            first = cells[0] + (of - 1) * side / of / 2
            return first + side * torch.arange(number, device=cells.device)

        return Tokens(
            x_BTND=x,
            height=height,
            width=width,
            first_end=feature_map.first_end + (self.steps - 1 - old) * self.step,
            stride=self.patch_size[0],
            ys=middles(feature_map.ys, height, h, ph),
            xs=middles(feature_map.xs, width, w, pw),
            cell=math.sqrt(ph * pw),
            maps=maps,
            map=feature_map,
            cells=self.cells,
        )

    def restore(self, tokens: Tokens, x_BTND: Tensor) -> FeatureMap:
        """Every cell's part of its token's gain, (B, context, T', H, W)."""
        feature_map = tokens.map
        assert feature_map is not None
        h, w = self.cells
        _, _, _, rows, columns = feature_map.x_BCTHW.shape
        x = rearrange(self.unembed(x_BTND), "b t (h w) (c ph pw) -> b c t (h ph) (w pw)", h=tokens.height, ph=h, pw=w)
        x = x[..., :rows, :columns]
        return replace(feature_map, x_BCTHW=x, first_end=tokens.first_end, stride=tokens.stride, gain=True)

    def regularizer(self) -> Tensor:
        return self.stem.regularizer()

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[FeatureMap | None], Tokens | None]]:
        cut = self.stem.stream(old % self.step)
        stages = self.stage_streams()
        missing = old // self.step  # steps of padding
        waiting: list[Tensor] = []

        def advance(frame: Tensor) -> tuple[list[FeatureMap | None], Tokens | None]:
            nonlocal missing
            finer, inner = cut(frame)
            if inner is None:
                return [*finer, *[None] * len(stages)], None
            known = [feature_map for feature_map in finer if feature_map is not None]
            assert len(known) == len(finer)  # a stem's maps are at least as fast as what is cut from them
            maps = [*known, *self.climb(inner.as_map(inner.x_BTND), stages)]
            x = maps[-1].x_BCTHW
            waiting.extend([torch.zeros_like(x)] * missing + [x])
            missing = 0
            if len(waiting) < self.steps:
                return list(maps), None
            tokens = self.tokens([*maps[:-1], replace(maps[-1], x_BCTHW=torch.cat(waiting, dim=2))])
            waiting.clear()
            return list(maps), tokens

        return advance
