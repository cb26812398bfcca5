"""Matrices that blur lines of pixels with a Gaussian, and that take the slope of blurred ones.

A picture (…, H, W) is blurred by ``blur(H, std) @ picture @ blur(W, std).T``.
"""

from __future__ import annotations

import torch
from torch import Tensor


def gaussian(size: int, std: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix (size, size) of Gaussians around each pixel of a line, not normalized; zero beyond five std."""
    pixel = torch.arange(size, dtype=dtype)
    distance = (pixel - pixel[:, None]) / std
    # Beyond five standard deviations lie denormal numbers, with which matrix products are many times slower.
    return torch.exp(-0.5 * distance.square()) * (distance.abs() < 5)


def blur(size: int, std: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix that blurs a line of pixels, cut off at the borders."""
    weights = gaussian(size, std, dtype)
    return weights / weights.sum(1, keepdim=True)


def slope(size: int, std: float, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix that takes the slope of a blurred line of pixels; zero for a flat one, at the borders too."""
    pixel = torch.arange(size, dtype=dtype)
    weights = blur(size, std, dtype)
    product = weights * (pixel - pixel[:, None])
    return (product - weights * product.sum(1, keepdim=True)) / std
