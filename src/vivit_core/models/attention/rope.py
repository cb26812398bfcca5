"""Rotary embeddings: places and times as angles by which pairs of numbers are turned (Su et al. 2021)."""

from __future__ import annotations

import torch
from torch import Tensor

from vivit_core.models.layers import at_least_float32

Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the angles by which pairs of numbers are turned, (N, 1, 2, d / 2): see ``apply_rope``."""


def rotation(positions: Tensor, dim: int, base: float) -> Tensor:
    """Angles of a one-dimensional rotary position encoding (Su et al. 2021): (N,) positions to (N, dim / 2).

    In float64, so that the positions of an endless stream lose nothing.
    """
    frequency = base ** (-torch.arange(0, dim, 2, device=positions.device, dtype=torch.float64) / dim)
    return positions[:, None].double() * frequency


def rope_time(positions: Tensor, head_dim: int, base: float) -> Rope:
    """For positions in time, (T,)."""
    return _tables(rotation(positions, head_dim, base))


def rope_space(height: int, width: int, registers: int, head_dim: int, base: float, device: torch.device) -> Rope:
    """For registers + H·W tokens, axial: half of the pairs turn with the row, half with the column.

    Registers come first and are not turned: they have no place.
    """
    rows = rotation(torch.arange(height, device=device), head_dim // 2, base)
    columns = rotation(torch.arange(width, device=device), head_dim // 2, base)
    angle = torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], dim=1)
    return _tables(torch.cat([angle.new_zeros(registers, angle.shape[1]), angle]))


def _tables(angle: Tensor) -> Rope:
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
