"""Small functions that several models share.

Shape letters: B clips, T steps in time, C channels, H W cells, N tokens, D embedding, h heads, d numbers of a head, F
bins (frames) of a clip, O I channels of filters, L lags, U units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Part = Callable[..., Any]
"""A constructor whose remaining arguments (sizes) the enclosing module gives."""

Call = Callable[..., Tensor]
"""How a block is called: the block, then its inputs."""


def call_block(block: nn.Module, *inputs: Any) -> Tensor:
    """One function for all blocks, so that they share compiled code."""
    y: Tensor = block(*inputs)
    return y


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Models compute as in evaluation. Then each part is again as it was: while others train, some may be frozen."""
    modes = [(part, part.training) for model in models for part in model.modules()]
    for model in models:
        model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training


def normalized(values: Tensor, mean: float | Tensor, std: float | Tensor) -> Tensor:
    """Float32, in standard deviations from the mean. A missing value (NaN or infinite) is at the mean.

    The one place where a model meets raw values, so that training, evaluation, ``rates`` and ``stream`` take what is
    missing alike.
    """
    x = (values.float() - mean) / std
    return x.nan_to_num(0.0, 0.0, 0.0) if values.is_floating_point() else x


def missing(values: Tensor) -> int:
    """How many values ``normalized`` puts at the mean, also those that are beyond float32."""
    return int((~values.float().isfinite()).sum()) if values.is_floating_point() else 0


def as_numbers(values: Any, what: str) -> np.ndarray:
    """An array that somebody gave, as torch takes it: not mirrored, of this machine's byte order, writable; whole
    numbers as they are, all others float32.

    Parameters
    ----------
    values : of any kind.
    what : they are, for messages.

    Raises
    ------
    ValueError
        Where it holds anything but real numbers.
    """
    array = np.asarray(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{what}: give real numbers and not {array.dtype}, for example by .astype('float32')")
    kind = np.dtype(np.float32) if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    with np.errstate(over="ignore"):  # it is infinite then, and counts as missing
        return np.require(array, kind, ["C", "W"])


def finite_rates(rates_TU: np.ndarray, recording_id: str) -> np.ndarray:
    """The rates, if all are numbers.

    Raises
    ------
    ValueError
        Where one is NaN or infinite.
    """
    if not np.isfinite(rates_TU).all():
        raise ValueError(
            f"recording {recording_id}: rates are NaN or infinite; give frames and behavior in the units of the "
            "recording, or take an earlier checkpoint, because the training may have diverged"
        )
    return rates_TU


def no_regularizer(module: nn.Module) -> Tensor:
    """Zero, where the module's parameters are."""
    return torch.zeros((), device=next((p.device for p in module.parameters()), None))


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


def fading_weights(tau: float) -> Tensor:
    """(L,) weights of the last bins, the newest last, which fall to a part of 1/e in ``tau`` bins and sum to one."""
    weights_L = torch.exp(-torch.arange(math.ceil(3 * tau)).flip(0) / tau)
    return weights_L / weights_L.sum()
