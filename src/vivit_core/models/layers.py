"""Small parts that several models share: levels, and rotary positions.

Shape letters: B clips, T steps in time, C channels, H W cells, N tokens, D embedding, h heads,
d numbers of a head, F bins (frames) of a clip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

Part = Callable[..., Any]
"""A constructor whose remaining arguments (sizes) the enclosing module gives."""


@dataclass
class Level:
    """A feature map and where its cells lie in the clip.

    Attributes
    ----------
    x_BCTHW : features.
    first_end : the frame (0 = the clip's oldest) with which the first step ends.
    stride : frames a step.
    ys, xs : (H,), (W,) pixel coordinates of the cells' centres in the clip's frame.
    cell : side of a cell in pixels.
    """

    x_BCTHW: Tensor
    first_end: int
    stride: int
    ys: Tensor
    xs: Tensor
    cell: float

    def rows(self, rows: slice) -> Level:
        """The same level for some of the clips."""
        return replace(self, x_BCTHW=self.x_BCTHW[rows])

    def to_bins(self, values_BTU: Tensor, bins: int) -> Tensor:
        """Serve each bin by the newest step that had ended; bins before the first end get zero. Returns (B, F, U)."""
        served = values_BTU.repeat_interleave(self.stride, dim=1) if self.stride > 1 else values_BTU
        if self.first_end:
            served = nn.functional.pad(served, (0, 0, self.first_end, 0))
        return served[:, :bins]


def centres(cells: int, size: int, before: int, device: torch.device) -> Tensor:
    """Pixel coordinates of the centres of cells of ``size`` pixels, the first of which starts at ``-before``."""
    return (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) * size - 0.5 - before


Rope = tuple[Tensor, Tensor]
"""Cosines and sines of the angles by which pairs of numbers are turned, (N, 1, 2, d / 2): see ``turn``."""


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


def turn(x_BNhd: Tensor, rope: Rope, scale_d: Tensor | None = None) -> Tensor:
    """Turn the pairs (i, i + d/2) by the tables' angles; with a scale, first normalise to unit mean square.

    The pairs have an axis of their own, of which one half is added to the flipped other: written so, it compiles into
    one pass over memory in each direction.
    """
    cos, sin = rope
    x = at_least_float32(x_BNhd).unflatten(-1, (2, -1))
    if scale_d is not None:
        x = x * torch.rsqrt(x.square().mean((-2, -1), keepdim=True) + 1e-6) * scale_d.unflatten(0, (2, -1))
    return (x * cos + x.flip(-2) * sin).flatten(-2).to(x_BNhd.dtype)


def normalized(values: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """Float32, in standard deviations from the mean. A missing value (NaN or infinite) is at the mean.

    The one place where a model meets raw values, so that training, evaluation, ``rates`` and ``stream`` take what is
    missing alike.
    """
    x = (values.float() - mean) / std
    return x.nan_to_num(0.0, 0.0, 0.0) if values.is_floating_point() else x


def missing(values: Tensor) -> int:
    """How many values ``normalized`` puts at the mean."""
    return int((~values.isfinite()).sum()) if values.is_floating_point() else 0


def channel_scales(maps: Sequence[Tensor]) -> Tensor:
    """Standard deviation (C,) of each channel over several maps (B, C, …) together, of whatever lengths and sizes.

    A channel that does not vary has scale 1: there is nothing to bring to unit variance.
    """
    over = [[0, *range(2, x.dim())] for x in maps]
    number = [x.numel() // x.shape[1] for x in maps]
    mean = [x.mean(axes).double() for x, axes in zip(maps, over, strict=True)]
    spread = [x.var(axes, correction=0).double() for x, axes in zip(maps, over, strict=True)]
    total = torch.stack([n * m for n, m in zip(number, mean, strict=True)]).sum(0) / sum(number)
    squares = torch.stack([n * (v + (m - total).square()) for n, v, m in zip(number, spread, mean, strict=True)])
    std_C = (squares.sum(0) / max(1, sum(number) - 1)).sqrt().to(maps[0].dtype)
    return torch.where(std_C > 1e-6, std_C, 1.0)


def inverse_softplus(value: Tensor) -> Tensor:
    """What softplus turns into ``value`` > 0; also of large ones, whose exponential is infinite."""
    return value + torch.log(-torch.expm1(-value))


def roughness(fields_OIHW: Tensor) -> Tensor:
    """Squared Laplacian of receptive fields, relative to their energy, as a mean over them (Sinz et al. 2018)."""
    fields = fields_OIHW.flatten(0, 1)[:, None].float()
    laplacian = fields.new_tensor([[0.25, 0.5, 0.25], [0.5, -3.0, 0.5], [0.25, 0.5, 0.25]])
    rough = nn.functional.conv2d(fields, laplacian[None, None], padding=1).square().sum((1, 2, 3))
    return (rough / fields.square().sum((1, 2, 3)).clamp_min(1e-8)).mean()


def at_least_float32(x: Tensor) -> Tensor:
    """The tensor itself where its numbers are that wide."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def init_linear(module: nn.Module, depth_scale: float = 1.0) -> None:
    """Normal with variance 1 / inputs, times ``depth_scale``, clipped at two standard deviations; biases at zero."""
    assert isinstance(module, nn.Linear | nn.Conv2d | nn.Conv3d)
    fan_in = module.weight[0].numel()
    std = depth_scale * fan_in**-0.5
    with torch.no_grad():
        module.weight.normal_(0.0, std).clamp_(-2 * std, 2 * std)
    if module.bias is not None:
        nn.init.zeros_(module.bias)
