"""Each unit asks for what it reads: a learned query over the cells of every map (Pierzchlewicz et al. 2023).

Shape letters: B clips, T time steps of a map, S = B · T, C channels, H W cells, N = H · W, U units, h heads, D numbers
of a head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from einops import einsum, rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vivit_core.models.attention.rotary import Rope, apply_rope, rotation, tables
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.readouts.base import Reader, Readout

BLOCK = 1 << 22  # attention weights that are held at a time


class AttentionReadout(Readout):
    """Every unit attends to the cells of each map with queries of its own, and weighs the features that it finds.

    A cell's key is what is there (a linear function of its features) and a constant, both turned by its place as rotary
    positions are. So a query can name a place, a feature at a place, or several of them, one a head; and where a unit
    looks may change with what is shown. The constant's part of the scores is the *place* that a query names; it is all
    that a unit begins with: a round window at its receptive field. A bin's values are the features themselves.

    A unit attends within each map, and what it finds is added up as in other readouts: maps have other frame rates, and
    a gain is no rival of a drive. Its query is the same for all maps, so that a place is one place.

    After Pierzchlewicz et al. 2023, "Energy guided diffusion for generating neurally exciting images", where keys and
    values are of one map, with sums of sines for places. Weights are made for some units and steps at a time, and again
    in the backward pass, so that memory does not grow with bins × units × cells.

    Parameters
    ----------
    channels : channels of each map, given by the twin.
    frame_size : height and width of the frame, px, given by the twin.
    mean_drive : see ``Readout``.
    heads : queries of a unit.
    head_dim : numbers of a query; a multiple of 4, at least 8. More of them name a place with fewer side lobes.
    wavelength_px : shortest wavelength of the keys' turning with place, px. The longest is four of the frame's longer
        sides, so that no two places are the same.
    std_px : standard deviation of the window with which a unit begins, px.
    l1 : weight of the mean absolute feature weight, summed over heads and channels, in the loss.

    Raises
    ------
    ValueError
        For a number out of its range.
    """

    ys: Tensor
    xs: Tensor

    def __init__(
        self,
        channels: list[int],
        frame_size: tuple[int, int],
        mean_drive: Tensor,
        heads: int,
        head_dim: int,
        wavelength_px: float,
        std_px: float,
        l1: float,
    ) -> None:
        super().__init__(mean_drive)
        if heads < 1:
            raise ValueError(f"readout.heads={heads} must be at least 1")
        if head_dim < 8 or head_dim % 4:
            raise ValueError(f"readout.head_dim={head_dim} must be a multiple of 4, and at least 8")
        longest = 4.0 * max(frame_size)
        if not 0 < wavelength_px < longest:
            raise ValueError(f"readout.wavelength_px={wavelength_px} must be above zero and below {longest:g}")
        if not std_px > 0:
            raise ValueError(f"readout.std_px={std_px} must be above zero")
        units = len(mean_drive)
        self.heads, self.head_dim, self.l1 = heads, head_dim, l1
        self.radians = 2 * math.pi / wavelength_px  # a pixel turns the fastest pair by so much
        self.base = (longest / wavelength_px) ** (head_dim / (head_dim - 4))
        # Where all pairs agree, the sum of their cosines falls as a Gaussian's logarithm does. Squares of how fast they
        # turn are summed without a list of them, because a tampered checkpoint may name any number of pairs.
        slower = math.log(self.base)
        squares = math.expm1(-2 * slower) / math.expm1(-8 * slower / head_dim)
        self.agree = 1 / (std_px * self.radians * math.sqrt(squares))
        middle = torch.tensor([(side - 1) / 2 for side in reversed(frame_size)])
        self.queries = nn.Parameter(self.looking_at(middle.expand(units, 2)))
        self.place = nn.Parameter(self.together())
        # One table for all maps: where a map has one cell there is nothing to choose, and its rows stay as they are.
        self.channels = list(channels)
        wide = torch.cat([torch.full((c, 1, 1), c**-0.5) for c in channels])
        self.keys = nn.Parameter(torch.randn(sum(channels), heads, head_dim) * wide * 0.1 / self.place.norm())
        self.features = nn.ParameterList([torch.randn(units, heads, c) * 0.1 * (heads * c) ** -0.5 for c in channels])
        for name, size in zip(("ys", "xs"), frame_size, strict=True):
            self.register_buffer(name, torch.arange(size, dtype=torch.float32), persistent=False)

    def together(self) -> Tensor:
        """(h, d) pairs that are not yet turned."""
        return self.agree * torch.cat([torch.ones(self.head_dim // 2), torch.zeros(self.head_dim // 2)]).repeat(
            self.heads, 1
        )

    def looking_at(self, places_U2: Tensor) -> Tensor:
        """Queries (U, h, d) that agree with the constant key of these places, x and y in pixels."""
        x_U, y_U = places_U2.unbind(1)
        return apply_rope(self.together().to(places_U2).expand(len(places_U2), -1, -1), self.turns(y_U, x_U))

    @torch.no_grad()
    def initialize(self, centers_U2: Tensor, clear_U: Tensor) -> None:
        """Look at these places, (U, 2) as x, y in pixels, to begin with."""
        x_U, y_U = centers_U2.to(self.queries).unbind(1)
        places_U2 = torch.stack([x_U.clamp(self.xs[0], self.xs[-1]), y_U.clamp(self.ys[0], self.ys[-1])], dim=1)
        self.queries.copy_(self.looking_at(places_U2))

    def turns(self, ys_N: Tensor, xs_N: Tensor) -> Rope:
        """How keys are turned at these places, px."""
        angles = [rotation(self.radians * places, self.head_dim // 2, self.base) for places in (ys_N, xs_N)]
        return tables(torch.cat(angles, dim=1))

    def on_grid(self, ys: Tensor, xs: Tensor) -> tuple[Rope, Tensor]:
        """How keys of a grid's cells are turned, row by row, and how much each query agrees with the constant one of
        each cell, (U, h, N)."""
        rope = self.turns(ys.repeat_interleave(len(xs)), xs.repeat(len(ys)))
        with torch.autocast(ys.device.type, enabled=False):
            keys_NhD = apply_rope(self.place.expand(len(rope[0]), -1, -1), rope)
            return rope, einsum(self.queries, keys_NhD, "u h d, n h d -> u h n")

    def looks(self, ys: Tensor, xs: Tensor) -> Tensor:
        """The attention on a grid's cells that places alone explain, the mean of the heads: (U, H, W)."""
        weights_UhN = torch.softmax(self.on_grid(ys, xs)[1], dim=-1)
        return rearrange(weights_UhN.mean(1), "u (h w) -> u h w", h=len(ys))

    def finder(self, index: int, feature_map: FeatureMap) -> Callable[[Tensor, slice], Tensor]:
        """What some units find in steps of map number ``index``, (S, N, C) to (S, U, h, C)."""
        first = sum(self.channels[:index])
        keys_ChD = self.keys[first : first + self.channels[index]]
        (cos, sin), place_UhN = self.on_grid(feature_map.ys, feature_map.xs)
        queries_UhD = self.queries[:]

        def found(x_SNC: Tensor, units: slice) -> Tensor:
            keys_SNhD = apply_rope(einsum(x_SNC, keys_ChD, "s n c, c h d -> s n h d"), (cos, sin))
            content = einsum(keys_SNhD, queries_UhD[units], "s n h d, u h d -> s u h n")
            weights = torch.softmax(place_UhN[units] + content.float(), dim=-1)
            return einsum(weights.to(x_SNC.dtype), x_SNC, "s u h n, s n c -> s u h c")

        return found

    def reader(self, index: int, feature_map: FeatureMap) -> Reader:
        found, features_UhC = self.finder(index, feature_map), self.features[index][:]

        def attended(x_SNC: Tensor, units: slice) -> Tensor:
            return einsum(found(x_SNC, units), features_UhC[units], "s u h c, u h c -> s u").float()

        return lambda x_BCTHW: self.in_blocks(attended, x_BCTHW, slice(0, len(features_UhC)))

    def weighed(self, index: int, feature_map: FeatureMap, units: slice) -> tuple[nn.Parameter, Tensor]:
        found = self.in_blocks(self.finder(index, feature_map), feature_map.x_BCTHW, units)
        return self.features[index], found.flatten(3).float()

    def in_blocks(self, of: Callable[[Tensor, slice], Tensor], x_BCTHW: Tensor, units: slice) -> Tensor:
        """(B, T, units, …) of a function of some steps (S, N, C) and some units, which is called for blocks of them,
        units within steps."""
        x_SNC = rearrange(x_BCTHW, "b c t h w -> (b t) (h w) c")
        blocks = list(self.blocks(len(x_SNC), units, x_SNC.shape[1]))
        again = len(blocks) > 1 and torch.is_grad_enabled()
        values = [
            checkpoint(of, x_SNC[steps], some, use_reentrant=False, preserve_rng_state=False)
            if again
            else of(x_SNC[steps], some)
            for steps, some in blocks
        ]
        of_steps = len({some.start for _, some in blocks})
        rows = [torch.cat(values[i : i + of_steps], dim=1) for i in range(0, len(values), of_steps)]
        return torch.cat(rows).unflatten(0, (len(x_BCTHW), -1))

    def blocks(self, steps: int, units: slice, cells: int) -> Iterator[tuple[slice, slice]]:
        """Which steps and units are worked on at once, units within steps."""
        wanted = units.stop - units.start
        of_units = min(wanted, max(1, BLOCK // (self.heads * cells)))
        of_steps = max(1, BLOCK // (self.heads * cells * of_units))
        for step in range(0, steps, of_steps):
            for unit in range(units.start, units.stop, of_units):
                yield slice(step, min(steps, step + of_steps)), slice(unit, min(units.stop, unit + of_units))

    def window_on(self, feature_map: FeatureMap) -> Tensor:
        """Of what a unit attends to, the part that places alone explain."""
        return self.looks(feature_map.ys, feature_map.xs)

    def regularizer(self) -> Tensor:
        """L1 of the feature weights: mean over units of the sum over heads and channels."""
        total = torch.stack([f.abs().sum((1, 2)).mean() for f in self.features]).sum()
        return self.l1 * total

    def centers(self) -> Tensor:
        """The mean place of the attention that places alone explain."""
        window_UHW = self.looks(self.ys, self.xs).detach()
        return torch.stack([window_UHW.sum(1) @ self.xs, window_UHW.sum(2) @ self.ys], dim=1)
