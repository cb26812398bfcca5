"""Tokens from a small residual network whose maps drive the units; after the blocks, tokens are a gain.

Shape letters as in ``base``.
"""

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
from vivit_core.models.tokenizers.base import Tokenizer, Tokens, cells_on, folded


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
    token_stride : the same from one token to the next, in multiples of the pixels of ``patch_size``; None: the patch's
        own. Where patches overlap, a cell's gain is the mean of what its tokens give it, and is as new as the newest.
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

    gain = True

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: list[int],
        token_stride: list[int] | None,
        stem: Part,
        step: int,
        cell: int,
        widths: list[int],
        depth: int,
        kernel: list[int],
        dropout: float,
        context: int,
    ) -> None:
        super().__init__(patch_size, dim, token_stride)
        if context < 1:
            raise ValueError(f"model.tokenizer.context={context}: a token gives each of its cells at least one number")
        halved = 2 ** max(0, len(widths) - 1)
        # Tubelets have no stride, and one below 1 is the stem's to refuse.
        stride = max(1, getattr(stem, "keywords", {}).get("stride", 1))
        self.multiple = halved * stride
        self.any_side = f"model.tokenizer.stem.stride=1, model.tokenizer.widths={list(widths)[-1:]}"
        frames, *sides = self.patch_size
        every, *apart = self.token_stride
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
        if any(stride % self.multiple for stride in apart):
            down, across = (
                min(side, math.ceil(stride / self.multiple) * self.multiple)
                for side, stride in zip(sides, apart, strict=True)
            )
            raise ValueError(
                f"model.tokenizer.token_stride={list(self.token_stride)}: tokens lie whole cells of the last map "
                f"apart, of {self.multiple} px; set model.tokenizer.token_stride=[{every},{down},{across}]"
            )
        h, w = (math.gcd(cell, side // halved, by // halved) for side, by in zip(sides, apart, strict=True))
        self.step = math.gcd(step, frames, every)
        self.steps = frames // self.step  # of the maps, in a token
        first = [self.step, h, w]
        self.stem: Tokenizer = stem(in_channels=in_channels, dim=widths[0] if widths else 1, patch_size=first)
        if self.stem.token_stride != self.stem.patch_size:
            raise ValueError(
                "model.tokenizer.stem.token_stride must be null: cells do not overlap; tokens may "
                "(model.tokenizer.token_stride)"
            )
        self.make_stages(widths, depth, kernel, True, dropout, 0.0)
        self.cells = (sides[0] // (h * halved), sides[1] // (w * halved))  # down and across in a token
        self.apart = (every // self.step, apart[0] // (h * halved), apart[1] // (w * halved))  # steps and cells
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
        """Cut the tokens from the last of the maps, padded to whole tokens at its old, right and lower ends.

        Steps before the clip, which an overlapping token reaches back to, are zero.
        """
        old = -maps[-1].x_BCTHW.shape[2] % self.apart[0]
        x = F.pad(maps[-1].x_BCTHW, (0, 0, 0, 0, self.steps - self.apart[0] + old, 0))
        return self.cut(x, maps, maps[-1].first_end + (self.apart[0] - 1 - old) * self.step)

    def cut(self, x_BCTHW: Tensor, maps: list[FeatureMap], first_end: int) -> Tokens:
        """All whole tokens of a map whose steps are padded."""
        feature_map, x = maps[-1], x_BCTHW
        rows, columns = x.shape[3:]
        (h, w), (every, down, across) = self.cells, self.apart
        height, width = cells_on(rows, h, down), cells_on(columns, w, across)
        x = F.pad(x, (0, (width - 1) * across + w - columns, 0, (height - 1) * down + h - rows))
        x = x.unfold(2, self.steps, every).unfold(3, h, down).unfold(4, w, across)
        x = self.embed(rearrange(x, "b c t h w pt ph pw -> b t (h w) (c pt ph pw)"))
        _, ph, pw = self.patch_size
        _, stride_y, stride_x = self.token_stride

        def middles(cells: Tensor, number: int, of: int, side: int, stride: int) -> Tensor:
            first = cells[0] + (of - 1) * side / of / 2
            return first + stride * torch.arange(number, device=cells.device)

        return Tokens(
            x_BTND=x,
            height=height,
            width=width,
            first_end=first_end,
            stride=self.token_stride[0],
            ys=middles(feature_map.ys, height, h, ph, stride_y),
            xs=middles(feature_map.xs, width, w, pw, stride_x),
            cell=math.sqrt(stride_y * stride_x),
            maps=maps,
            map=feature_map,
            cells=self.cells,
            apart=self.apart[1:],
        )

    def restore(self, tokens: Tokens, x_BTND: Tensor) -> FeatureMap:
        """Every cell's part of its token's gain, (B, context, T', H, W)."""
        feature_map = tokens.map
        assert feature_map is not None
        h, w = self.cells
        _, _, _, rows, columns = feature_map.x_BCTHW.shape
        x = self.unembed(x_BTND)
        if (h, w) == self.apart[1:]:
            x = rearrange(x, "b t (h w) (c ph pw) -> b c t (h ph) (w pw)", h=tokens.height, ph=h, pw=w)
        else:
            of_cells = rearrange(x, "b t n (c p) -> (b t) (c p) n", p=h * w)
            x = folded(of_cells, tokens) / folded(torch.ones_like(of_cells[:1, : h * w]), tokens)
            x = rearrange(x, "(b t) c h w -> b c t h w", b=len(x_BTND))
        x = x[..., :rows, :columns]
        return replace(feature_map, x_BCTHW=x, first_end=tokens.first_end, stride=tokens.stride, gain=True)

    @torch.no_grad()
    def begin_with(self, free: int, told: list[int], zero: int) -> None:
        super().begin_with(free, told, zero)
        weight = self.unembed.weight.unflatten(0, (self.out_channels, -1))  # (context, cells, dim)
        for row, number in zip(weight[: len(told)], told, strict=False):
            row.zero_()
            row[:, number], row[:, zero] = 1.0, -1.0

    def learns_with_blocks(self) -> list[nn.Parameter]:
        return [*super().learns_with_blocks(), *self.unembed.parameters()]

    def regularizer(self) -> Tensor:
        return self.stem.regularizer()

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[FeatureMap | None], Tokens | None]]:
        cut = self.stem.stream(old % self.step)
        stages = self.stage_streams()
        missing = old // self.step + self.steps - self.apart[0]  # steps of padding
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
            tokens = self.cut(torch.cat(waiting, dim=2), maps, 0)
            del waiting[: self.apart[0]]
            return list(maps), tokens

        return advance
