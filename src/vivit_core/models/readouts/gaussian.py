"""A Gaussian window for each unit (Lurz et al. 2021).

Shape letters: B clips, F bins, T time steps of a map, C channels, H W cells, U units.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.readouts.base import Reader, Readout, seen_through_window, through_window


class GaussianReadout(Readout):
    """Every unit looks at one place of the frame through a Gaussian window and weighs the features there.

    The window (mean, std, angle) lives in pixels and is the same for all maps; on a map with coarse cells it is
    widened by the cell, so that a narrow window between two cells sees both. After Lurz et al. 2021, with the window
    integrated instead of sampled.

    Parameters
    ----------
    channels : channels of each map, given by the twin.
    frame_size : height and width of the frame, px, given by the twin.
    mean_drive : see ``Readout``.
    std_px : the windows' standard deviation at the start, px.
    std_min_px, std_max_px : bounds of the standard deviation, px.
    std_settle : fraction of the training over which the upper bound sinks from the frame's size to ``std_max_px``.
    l1 : weight of the mean absolute feature weight, summed over channels, in the loss.
    """

    limit: Tensor

    def __init__(
        self,
        channels: list[int],
        frame_size: tuple[int, int],
        mean_drive: Tensor,
        std_px: float,
        std_min_px: float,
        std_max_px: float,
        std_settle: float,
        l1: float,
    ) -> None:
        super().__init__(mean_drive)
        if not 0 < std_min_px <= std_px <= std_max_px:
            raise ValueError(
                f"readout: 0 < std_min_px={std_min_px} <= std_px={std_px} <= std_max_px={std_max_px} does not hold"
            )
        units = len(mean_drive)
        height, width = frame_size
        self.l1 = l1
        self.std_min, self.std_max, self.std_settle = std_min_px, std_max_px, std_settle
        self.std_ceiling = max(std_max_px, float(max(height, width)))
        middle = torch.tensor([(width - 1) / 2, (height - 1) / 2])
        self.mean = nn.Parameter(middle.repeat(units, 1))  # (U, 2) x, y
        # A round window has no angle to learn: they start a little longer than wide.
        self.log_std = nn.Parameter(math.log(std_px) + torch.tensor([0.05, -0.05]).repeat(units, 1))
        self.angle = nn.Parameter(torch.zeros(units))  # radians
        self.features = nn.ParameterList([torch.randn(units, c) * 0.1 * c**-0.5 for c in channels])
        self.register_buffer("limit", torch.tensor([[0.0, 0.0], [width - 1.0, height - 1.0]]), persistent=False)

    @torch.no_grad()
    def set_progress(self, fraction: float) -> None:
        """The schedule of the upper bound of the standard deviations; ``fraction`` is the part of the training done."""
        done = min(1.0, fraction / self.std_settle) if self.std_settle > 0 else 1.0
        ceiling = math.exp((1 - done) * math.log(self.std_ceiling) + done * math.log(self.std_max))
        self.log_std.clamp_(math.log(self.std_min), math.log(ceiling))
        place_U2 = self.place()
        self.mean.add_(place_U2.clamp(self.limit[0], self.limit[1]) - place_U2)

    def place(self) -> Tensor:
        """Where each unit looks, (U, 2) as x, y in pixels."""
        return self.mean

    @torch.no_grad()
    def initialize(self, centers_U2: Tensor, clear_U: Tensor) -> None:
        """Look at these places, (U, 2) as x, y in pixels, to begin with."""
        self.mean.copy_(centers_U2.to(self.mean).clamp(self.limit[0], self.limit[1]))

    def windows(self) -> list[nn.Parameter]:
        return [self.mean, self.log_std, self.angle]

    def window_on(self, feature_map: FeatureMap) -> Tensor:
        """(U, H, W), sums to one for each unit."""
        place_U2 = self.place()
        dx = feature_map.xs - place_U2[:, :1]
        dy = feature_map.ys - place_U2[:, 1:]
        cos, sin = self.angle.cos()[:, None, None], self.angle.sin()[:, None, None]
        along = dx[:, None, :] * cos + dy[:, :, None] * sin
        across = dy[:, :, None] * cos - dx[:, None, :] * sin
        variance = (2 * self.log_std).exp() + (feature_map.cell / 2) ** 2
        energy = along.square() / variance[:, 0, None, None] + across.square() / variance[:, 1, None, None]
        # Beyond e^-30 the window is exactly zero: tails that are denormal numbers make the matrix product 40 times
        # slower on a CPU.
        tails = energy.detach() - energy.detach().amin((1, 2), keepdim=True) > 60.0
        return torch.softmax((-0.5 * energy).masked_fill(tails, -math.inf).flatten(1), dim=1).view_as(energy)

    def reader(self, index: int, feature_map: FeatureMap) -> Reader:
        return through_window(self.features[index], self.window_on(feature_map))

    def weighed(self, index: int, feature_map: FeatureMap, units: slice) -> tuple[nn.Parameter, Tensor]:
        return self.features[index], seen_through_window(feature_map.x_BCTHW, self.window_on(feature_map)[units])

    def regularizer(self) -> Tensor:
        """L1 of the feature weights: mean over units of the sum over channels."""
        total = torch.stack([f.abs().sum(1).mean() for f in self.features]).sum()
        return self.l1 * total

    def centers(self) -> Tensor:
        return self.place().detach()

    def gaussians(self) -> dict[str, Tensor]:
        """Means (U, 2) as x, y and standard deviations (U, 2) in pixels, angles (U,) in degrees."""
        return {
            "mean_px": self.centers(),
            "std_px": self.log_std.detach().exp(),
            "angle_deg": self.angle.detach().rad2deg(),
        }
