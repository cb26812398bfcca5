"""Every pixel's past through a few temporal filters.

Shape letters: B clips, C channels, T frames, H W pixels, K bases, L lags.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.frontends.base import Frontend

PIECE = 300  # frames that one matrix product makes; the product with a matrix over all frames grows with their square


class TemporalBasis(Frontend):
    """Every pixel's past seen through a few learnable, causal filters: (B, C, T, H, W) to (B, C·K, T, H, W).

    They start as raised cosines on a logarithmic time axis (Pillow et al. 2008), or from data (``initialize``).

    Parameters
    ----------
    in_channels : channels of the video, given by the model.
    bases : number of filters K.
    lags : length of a filter, frames.
    """

    def __init__(self, in_channels: int, bases: int, lags: int) -> None:
        super().__init__()
        if not 1 <= bases <= lags:
            raise ValueError(
                f"model.frontend.bases={bases} filters cannot be told apart over model.frontend.lags={lags} "
                "frames; give 1 <= bases <= lags"
            )
        self.bases, self.lags, self.out_channels = bases, lags, in_channels * bases
        self.weight_KL = nn.Parameter(log_cosines(bases, lags))

    @torch.no_grad()
    def initialize(self, filters_KL: Tensor) -> None:
        """Take over filters (K, L), oldest lag first, at unit norm."""
        if filters_KL.shape != self.weight_KL.shape:
            raise ValueError(
                f"the front end has filters of shape {tuple(self.weight_KL.shape)}, not {tuple(filters_KL.shape)}"
            )
        self.weight_KL.copy_(F.normalize(filters_KL.to(self.weight_KL), dim=1))

    def filters(self) -> Tensor:
        return self.weight_KL.detach()

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        _, c, t, h, _ = x_BCTHW.shape
        series = rearrange(x_BCTHW, "b c t h w -> (b c) t (h w)")
        padded = F.pad(series, (0, 0, self.lags - 1, 0))
        # One small banded matrix over time does all pixels at once, as a matrix product.
        piece, before = min(t, PIECE), self.lags - 1
        band = padded.new_zeros(piece, self.bases, piece + before)
        rows = torch.arange(piece, device=band.device)
        for lag in range(self.lags):
            band[rows, :, rows + lag] = self.weight_KL[:, lag].to(band.dtype)
        made = []
        for start in range(0, t, piece):
            n = min(piece, t - start)
            part = padded[:, start : start + n + before]
            made.append(torch.einsum("tkj,bjn->btkn", band[:n, :, : n + before], part))
        y = torch.cat(made, 1) if len(made) > 1 else made[0]
        return rearrange(y, "(b c) t k (h w) -> b (c k) t h w", c=c, h=h)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Takes frames (1, C, 1, H, W) one by one; gives (1, C·K, 1, H, W) for each."""
        past: Tensor | None = None

        def advance(frame: Tensor) -> Tensor:
            nonlocal past
            if past is None:
                _, c, _, h, w = frame.shape
                past = frame.new_zeros(c, self.lags, h, w)
            past = torch.cat([past[:, 1:], frame[0]], dim=1)
            y = torch.einsum("kl,clhw->ckhw", self.weight_KL.to(past.dtype), past)
            return y.flatten(0, 1)[None, :, None]

        return advance


def log_cosines(bases: int, lags: int) -> Tensor:
    """(K, L) raised cosines on log(1 + lag), oldest lag first, unit norm."""
    if bases == 1:
        return F.normalize(torch.ones(1, lags), dim=1)
    axis = torch.log1p(torch.arange(lags, dtype=torch.float32))
    peaks = torch.linspace(0.0, math.log(lags), bases)
    width = math.log(lags) / (bases - 1)
    phase = ((axis[None] - peaks[:, None]) / (2 * width)).clamp(-0.5, 0.5) * 2 * math.pi
    return F.normalize((torch.cos(phase) + 1).flip(1), dim=1)
