"""Convolutions over space and time that see no later frame, and the residual block made of them.

No batch normalization: its statistics over a clip would carry later frames back to earlier ones, and a stream would
compute something else than the training did. The blocks normalize over the channels of one place and time instead.

Shape letters: B clips, C channels, T time steps, H W cells.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.dropout import drop
from vivit_core.models.layers import init_linear

Step = Callable[[Tensor], Tensor]
"""One time step (1, C, 1, H, W) in, one out; remembers what it needs."""


class Conv3d(nn.Conv3d):
    """A convolution over space and time, padded with zeros at the old end of time and around the frame.

    Parameters
    ----------
    inputs, outputs : channels.
    kernel : time steps; cells down and across; odd in space, and in time where not ``causal``.
    stride : cells between its outputs; output i is centered on cell i·stride, and no cell is left out.
    causal : False: the kernel's middle, not its newest end, is the present.
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: tuple[int, int], stride: int = 1, causal: bool = True
    ) -> None:
        frames, side = kernel
        if min(frames, side) < 1 or side % 2 == 0 or (not causal and frames % 2 == 0):
            raise ValueError(
                f"a kernel of {frames} steps and {side} cells: cells must be odd, so that it has a middle, and so must "
                "steps where model.causal=false"
            )
        around = side // 2
        super().__init__(inputs, outputs, (frames, side, side), (1, stride, stride), padding=(0, around, around))
        self.past = frames - 1 if causal else frames // 2
        self.future = frames - 1 - self.past

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        if self.past or self.future:
            x_BCTHW = F.pad(x_BCTHW, (0, 0, 0, 0, self.past, self.future))
        return super().forward(x_BCTHW)

    def stream(self) -> Step:
        past: Tensor | None = None

        def advance(x: Tensor) -> Tensor:
            nonlocal past
            if self.past:
                if past is None:
                    b, c, _, h, w = x.shape
                    past = x.new_zeros(b, c, self.past, h, w)
                x = torch.cat([past, x], dim=2)
                past = x[:, :, 1:]
            return nn.Conv3d.forward(self, x)

        return advance


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of one place and time: nothing from elsewhere or later takes part."""

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return super().forward(x_BCTHW.movedim(1, -1)).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Two convolutions, each after a norm and a rectifier, in a residual branch (He et al. 2016, "pre-activation").

    Parameters
    ----------
    width : channels.
    kernel : time steps; cells down and across.
    causal : see ``Conv3d``.
    dropout : probability, between the convolutions.
    drop_path : probability with which the branch is left out for a whole clip (Huang et al. 2016).
    residual_scale : of the weights that close the branch, at the start.
    """

    SEEDS = 2  # of one pass
    drop_path: Tensor

    def __init__(
        self,
        width: int,
        kernel: tuple[int, int],
        causal: bool,
        dropout: float,
        drop_path: float,
        residual_scale: float,
    ) -> None:
        super().__init__()
        self.norm1, self.conv1 = ChannelNorm(width), Conv3d(width, width, kernel, causal=causal)
        self.norm2, self.conv2 = ChannelNorm(width), Conv3d(width, width, kernel, causal=causal)
        init_linear(self.conv1)
        init_linear(self.conv2, residual_scale)
        self.dropout = dropout
        # A tensor, because the number differs between blocks, which are to share their compiled code.
        self.register_buffer("drop_path", torch.tensor(drop_path), persistent=False)
        self.drops_paths = drop_path > 0

    def forward(self, x_BCTHW: Tensor, seeds: Tensor) -> Tensor:
        y = self.conv1(F.gelu(self.norm1(x_BCTHW)))
        if self.training and self.dropout:
            y = drop(y, self.dropout, seeds[0])
        y = self.conv2(F.gelu(self.norm2(y)))
        if self.training and self.drops_paths:
            y = drop(y, self.drop_path, seeds[1], shape=(len(y), 1, 1, 1, 1))
        return x_BCTHW + y

    def stream(self) -> Step:
        conv1, conv2 = self.conv1.stream(), self.conv2.stream()

        def advance(x: Tensor) -> Tensor:
            y = conv1(F.gelu(self.norm1(x)))
            return x + conv2(F.gelu(self.norm2(y)))

        return advance


def in_turn(steps: list[Step]) -> Step:
    """The steps one after the other."""

    def advance(x: Tensor) -> Tensor:
        for step in steps:
            x = step(x)
        return x

    return advance
