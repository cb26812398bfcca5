"""Factorised 3-D CNN: the baseline of the Sensorium 2023 competition (Turishcheva et al. 2023), causal.

    video (B, C, T, H, W)
      layers    a convolution over space, one over time, ELU; the first with large kernels
                → one map, (B, C', T, H', W'), at the full frame rate

Departures: the convolutions over time see no later frame. Instead of batch normalization, whose statistics over a clip
would carry later frames back to earlier ones and differ between training and a stream, each convolution's scale is set
to unit variance on data, once, before the training (Salimans & Kingma 2016): ``normalize``.

Shape letters: B clips, C channels, T frames, H W pixels or cells, L lags, P pixels of a kernel's side, F fields, K
filters in time of one, or its singular vectors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.convolution import Conv3d, Step, in_turn
from vivit_core.models.cores.base import Core
from vivit_core.models.feature_map import FeatureMap, cell_centers
from vivit_core.models.from_data import FieldsWanted
from vivit_core.models.layers import channel_scales, init_linear, roughness


class FactorizedLayer(nn.Module):
    """A convolution over space, then one over time, then ELU.

    Parameters
    ----------
    inputs, outputs : channels.
    kernel : time steps; cells down and across.
    stride : see ``Conv3d``, of the convolution over space.
    causal : see ``Conv3d``.
    """

    def __init__(self, inputs: int, outputs: int, kernel: list[int], stride: int, causal: bool) -> None:
        super().__init__()
        if len(kernel) != 2:
            raise ValueError(f"kernel={list(kernel)} must be two numbers: [time steps, cells down and across]")
        frames, side = kernel
        self.space = Conv3d(inputs, outputs, (1, side), stride, causal)
        self.time = Conv3d(outputs, outputs, (frames, 1), causal=causal)
        for convolution in (self.space, self.time):
            init_linear(convolution)

    def forward(self, x_BCTHW: Tensor) -> Tensor:
        return F.elu(self.time(self.space(x_BCTHW)))

    @torch.no_grad()
    def normalize(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Scale both convolutions to unit variance of each channel on these clips together, which may differ in length;
        returns the layer's outputs."""
        for convolution in (self.space, self.time):
            convolution.weight /= channel_scales([convolution(x) for x in clips])[:, None, None, None, None]
            clips = [convolution(x) for x in clips]
        return [F.elu(x) for x in clips]

    def stream(self) -> Step:
        time = self.time.stream()
        return lambda x: F.elu(time(self.space(x)))


class FactorizedCNN(Core):
    """Convolutions over space and time in turns.

    Parameters
    ----------
    in_channels : channels of the video, given by the recordings.
    channels : of each layer.
    first_kernel : frames, and pixels down and across, of the first layer's convolutions.
    kernel : frames, and cells down and across, of the others'.
    stride : pixels between the map's cells.
    smoothness : weight of the first kernels' roughness over space in the loss.
    checkpointing, causal, compile : see ``Core``.
    """

    def __init__(
        self,
        in_channels: int,
        channels: list[int],
        first_kernel: list[int],
        kernel: list[int],
        stride: int,
        smoothness: float,
        checkpointing: bool,
        causal: bool,
        compile: bool | Literal["auto"],
    ) -> None:
        super().__init__(causal, checkpointing, compile)
        if not channels or min(channels) < 1:
            raise ValueError(f"model.channels={list(channels)}: each layer has channels")
        widths = [in_channels, *channels]
        self.layers = nn.ModuleList(
            FactorizedLayer(widths[i], width, kernel if i else first_kernel, 1 if i else stride, causal)
            for i, width in enumerate(channels)
        )
        self.spacing, self.smoothness = stride, smoothness
        self.map_channels = [channels[-1]]
        self.stride = 1

    @property
    def first(self) -> FactorizedLayer:
        return cast(FactorizedLayer, self.layers[0])

    def fields_wanted(self) -> FieldsWanted:
        first = self.first
        return FieldsWanted(first.space.out_channels // 2, first.space.kernel_size[1], first.time.kernel_size[0])

    @torch.no_grad()
    def initialize(self, fields_FKPP: Tensor) -> None:
        """Take over receptive fields, separated into space and time, each with its negative, at unit norm; the channels
        beyond their number stay random.
        """
        time_FLK, _, space_FKP = torch.linalg.svd(fields_FKPP.flatten(2), full_matrices=False)
        space_CPP, time_CL = space_FKP[:, 0].view(-1, *fields_FKPP.shape[2:]), time_FLK[:, :, 0]
        first, number = self.first, 2 * len(space_CPP)
        side = first.space.kernel_size[1]
        margin = (side - space_CPP.shape[-1]) // 2
        space = F.normalize(torch.cat([space_CPP, -space_CPP]).flatten(1), dim=1).view(number, *space_CPP.shape[1:])
        first.time.weight[:number] *= 0.1  # what others mix in
        first.space.weight[:number, 0, 0] = F.pad(space, (margin, margin, margin, margin))
        own = torch.arange(number)
        first.time.weight[own, own, :, 0, 0] = F.normalize(time_CL.repeat(2, 1), dim=1)

    @torch.no_grad()
    def normalize(self, clips: Iterable[Tensor]) -> None:
        """Scale every convolution to unit variance of each channel on these clips (B, C, T, H, W) together, which may
        differ in length."""
        shown: Sequence[Tensor] = list(clips)
        for layer in self.layers:
            shown = cast(FactorizedLayer, layer).normalize(shown)

    def forward(self, x_BCTHW: Tensor) -> list[FeatureMap]:
        """One map: the last layer's."""
        for layer in self.layers:
            x_BCTHW = self.call(layer, x_BCTHW)
        return [self.feature_map(x_BCTHW)]

    def feature_map(self, x_BCTHW: Tensor) -> FeatureMap:
        height, width = x_BCTHW.shape[3:]
        middle = (self.spacing - 1) / 2  # a cell is centered on its first pixel
        ys, xs = (cell_centers(cells, self.spacing, 0, x_BCTHW.device) - middle for cells in (height, width))
        return FeatureMap(x_BCTHW, 0, 1, ys, xs, float(self.spacing))

    def stream(self, old: int) -> Callable[[Tensor], list[FeatureMap | None]]:
        self.refuse_acausal_stream()
        through = in_turn([cast(FactorizedLayer, layer).stream() for layer in self.layers])
        return lambda frame: [self.feature_map(through(frame))]

    def check_geometry(self, frames: int, height: int, width: int) -> None:
        """Every size of clip will do."""

    def regularizer(self) -> Tensor:
        weight = self.first.space.weight
        return self.smoothness * roughness(weight[:, :, 0]) if self.smoothness else weight.new_zeros(())
