"""Dropout whose mask is a pure function of a seed and of the place in the tensor.

An element's fate is a hash of (seed, index), computed where it is needed. So nothing is stored for the backward pass,
a compiled kernel hashes, drops and computes in one pass over memory, blocks that are computed again drop the same
elements, and eager, compiled and checkpointed training are one and the same. Torch's own generator on the CPU draws one
number after the other on one core, which took a fifth of a training step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

LEVELS = 1 << 16


def check_probability(**values: float) -> None:
    """Raise ValueError where one is not in [0, 1)."""
    for name, value in values.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{name}={value} is not a probability below 1; give a number in [0, 1)")


def draw_seeds(*shape: int, device: torch.device) -> Tensor:
    """Seeds for :func:`drop`, (…, 2) numbers of 16 bits, from torch's generator of the device."""
    return torch.randint(0, LEVELS, (*shape, 2), dtype=torch.int32, device=device)


def drop(x: Tensor, p: float | Tensor, seed: Tensor, shape: Sequence[int] | None = None) -> Tensor:
    """Set elements to zero with probability ``p`` and scale the others by 1 / (1 - p).

    Parameters
    ----------
    x : any tensor of fewer than 2³¹ elements.
    p : probability, taken in steps of 2⁻¹⁶; a tensor where it differs between modules that share compiled code.
    seed : (2,) from :func:`draw_seeds`.
    shape : of the mask, where elements share one fate; broadcasts to ``x``. Default: each element for itself.
    """
    threshold = round(p * LEVELS) if isinstance(p, float) else (p * LEVELS).round()
    keep = hashed(shape if shape is not None else x.shape, seed) >= threshold
    return torch.where(keep, x * (LEVELS / (LEVELS - threshold)), 0.0)


def hashed(shape: Sequence[int], seed: Tensor) -> Tensor:
    """Numbers of 16 bits, int32: half of a Feistel network of three rounds over the index, keyed with the seed.

    No product leaves 31 bits: where signed numbers may overflow, two compiled kernels may disagree on an element's
    fate, one in the forward and one in the backward pass.
    """
    x = torch.arange(math.prod(shape), dtype=torch.int32, device=seed.device).view(*shape)
    left, right = x >> 16, x & 0xFFFF
    for factor, key in ((31153, seed[..., 1]), (25717, seed[..., 0]), (29389, seed[..., 1])):
        product = right * factor + key
        left, right = right, left ^ ((product ^ (product >> 15)) & 0xFFFF)
    return right
