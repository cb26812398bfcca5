"""Attention with rotary positions: places and times as angles by which pairs of numbers are turned.

Departures from Vaswani et al. 2017: one fused projection for queries, keys and values; queries and keys may be
normalized for each head before they are rotated (Dehghani et al. 2023), which keeps bf16 training stable; positions
enter only by rotation (Su et al. 2021), so that scores depend on differences of positions.

Shape letters: B sequences, N tokens, D embedding, h heads, d numbers of a head.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from vivit_core.models.attention.base import Attention, AttentionMask, Positions
from vivit_core.models.layers import at_least_float32

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the angles by which pairs of numbers are turned, (N, 1, 2, d / 2): see ``apply_rope``."""


class RotaryAttention(Attention):
    """Self-attention with rotary positions: axial in space, along one axis in time, along all three in both.

    Parameters
    ----------
    dim, mask : given by the core.
    heads : number of heads; ``dim / heads`` must be a multiple of 4 (two axes of pairs), of 8 where blocks are joint.
    qk_norm : normalize queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    rope_base_space, rope_base_time : longest wavelength of the rotation is about 2π times this, in tokens.
    """

    def __init__(
        self,
        dim: int,
        mask: AttentionMask,
        heads: int,
        qk_norm: bool,
        dropout: float,
        rope_base_space: float,
        rope_base_time: float,
    ) -> None:
        super().__init__(dim, mask, heads, qk_norm, dropout, multiple=8 if mask.over == "space_time" else 4)
        self.rope_base_space, self.rope_base_time = rope_base_space, rope_base_time

    def turns(self) -> list[float]:
        """How fast each pair of a head's numbers turns, radians a token."""

        def axis(pairs: int, base: float) -> list[float]:
            return [base ** (-i / pairs) for i in range(pairs)]

        pairs = self.head_dim // 2
        if self.mask.over == "time":
            return axis(pairs, self.rope_base_time)
        if self.mask.over == "space":
            return 2 * axis(pairs // 2, self.rope_base_space)
        return [*2 * axis(pairs // 4, self.rope_base_space), *axis(pairs // 2, self.rope_base_time)]

    def steady(self) -> list[int]:
        turns = 2 * self.turns()  # of the pair (i, i + d / 2) both
        return sorted(range(self.head_dim), key=lambda own: turns[own])

    def looks_back(self, steps: float) -> int | None:
        # The score is √d cos(turn · lag): about a Gaussian of the lag around 0.
        wanted, turns = (2 * self.head_dim**-0.5) ** 0.5 / steps, self.turns()
        return min(range(len(turns)), key=lambda pair: abs(math.log(turns[pair] / wanted)))

    def make(self, positions: Positions, height: int, width: int) -> tuple[Tensor, ...]:
        rows, columns, steps, _ = positions
        if self.mask.over == "time":
            return rope_time(steps, self.head_dim, self.rope_base_time)
        if self.mask.over == "space":
            return rope_space(rows, columns, self.head_dim, self.rope_base_space)
        half = self.head_dim // 2  # of the pairs turn with place, half with time
        in_space = rope_space(rows, columns, half, self.rope_base_space)
        in_time = rope_time(steps, half, self.rope_base_time)
        return tuple(torch.cat(pair, dim=-1) for pair in zip(in_space, in_time, strict=True))

    def project(self, x_BND: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (normalized and rotated) and values, each (B, h, N, d)."""
        q, k, v = self.split(x_BND)
        cos, sin = positions.made
        q, k = apply_rope(q, (cos, sin), self.q_scale), apply_rope(k, (cos, sin), self.k_scale)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def rotation(positions: Tensor, dim: int, base: float) -> Tensor:
    """Angles of a one-dimensional rotary position encoding (Su et al. 2021): (N,) positions to (N, dim / 2).

    In float64, so that the positions of an endless stream lose nothing.
    """
    frequency = base ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64) / dim)
    return positions[:, None].double() * frequency


def rope_time(positions: Tensor, head_dim: int, base: float) -> Rope:
    """For positions in time, (T,)."""
    return tables(rotation(positions, head_dim, base))


def rope_space(rows: Tensor, columns: Tensor, head_dim: int, base: float) -> Rope:
    """For places, axial: half of the pairs turn with the row, half with the column.

    Registers, at row and column -1, are not turned: they have no place.
    """
    return tables(torch.cat([rotation(at.clamp_min(0), head_dim // 2, base) for at in (rows, columns)], dim=1))


def tables(angle: Tensor) -> Rope:
    """For (N, d / 2) angles, one for each pair of numbers of a token."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos, cos], 1)[:, None].float(), torch.stack([-sin, sin], 1)[:, None].float()


def apply_rope(x_BNhd: Tensor, rope: Rope, scale_d: Tensor | None = None) -> Tensor:
    """Turn the pairs (i, i + d/2) by the tables' angles; with a scale, first normalize to unit mean square.

    The pairs have an axis of their own, of which one half is added to the flipped other: written so, it compiles into
    one pass over memory in each direction.
    """
    cos, sin = rope
    x = at_least_float32(x_BNhd).unflatten(-1, (2, -1))
    if scale_d is not None:
        x = x * torch.rsqrt(x.square().mean((-2, -1), keepdim=True) + 1e-6) * scale_d.unflatten(0, (2, -1))
    return (x * cos + x.flip(-2) * sin).flatten(-2).to(x_BNhd.dtype)
