"""A spatial mask times feature weights for each unit (Klindt et al. 2017).

Shape letters: U units, C channels, H W cells of a map, R Q rows and columns of the mask's own grid.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap, cell_centers
from vivit_core.models.layers import roughness
from vivit_core.models.readouts.base import Reader, Readout, seen_through_window, through_window


class FactorizedReadout(Readout):
    """Every unit has a mask over the frame, of any shape, and weighs the features that it lets through.

    A unit has one mask, on a grid of its own over the frame, which is brought to the cells of each map: a unit sits in
    one place, whatever the maps are; so the mask's numbers do not grow with the maps, and what one map tells of the
    place serves all. A cell of the mask hands its weight to the nearest cells of a map, none lost. So a map of coarse
    cells sees the mask coarsely, and a map of one cell sees its sum.

    No weight of a mask is negative, so that it says where, and the features say what. An L1 makes it sparse, and the
    squared Laplacian smooth. After Klindt et al. 2017, "Neural system identification for large populations separating
    'what' and 'where'". There a mask is on the cells of the core's one map.

    Parameters
    ----------
    channels : channels of each map, given by the twin.
    frame_size : height and width of the frame, px, given by the twin.
    mean_drive : see ``Readout``.
    cell_px : side of a mask's cells, px.
    std_px : standard deviation of the round mask with which a unit begins at its receptive field, px.
    mask_l1 : weight of the mask's sum in the loss.
    mask_smooth : weight of the mask's squared Laplacian, as a part of its energy, in the loss.
    l1 : weight of the mean absolute feature weight, summed over channels, in the loss.

    Raises
    ------
    ValueError
        For a size that is not above zero.
    """

    ys: Tensor
    xs: Tensor

    def __init__(
        self,
        channels: list[int],
        frame_size: tuple[int, int],
        mean_drive: Tensor,
        cell_px: float,
        std_px: float,
        mask_l1: float,
        mask_smooth: float,
        l1: float,
    ) -> None:
        super().__init__(mean_drive)
        for name, value in (("cell_px", cell_px), ("std_px", std_px)):
            if not value > 0:
                raise ValueError(f"readout.{name}={value} must be above zero")
        units = len(mean_drive)
        self.cell, self.std = cell_px, std_px
        self.mask_l1, self.mask_smooth, self.l1 = mask_l1, mask_smooth, l1
        for name, size in zip(("ys", "xs"), frame_size, strict=True):
            cells = math.ceil(size / cell_px)
            before = (cells * cell_px - size) / 2
            self.register_buffer(name, cell_centers(cells, cell_px, before, torch.device("cpu")), persistent=False)
        # In units of the peak of the mask that a unit begins with, where Adam's steps are small.
        self.peak = cell_px**2 / (2 * math.pi * std_px**2)
        cells = len(self.ys) * len(self.xs)
        self.mask = nn.Parameter(torch.full((units, len(self.ys), len(self.xs)), 1 / (cells * self.peak)))
        self.features = nn.ParameterList([torch.randn(units, c) * 0.1 * c**-0.5 for c in channels])

    @torch.no_grad()
    def set_progress(self, fraction: float) -> None:
        """Takes negative weights out of the masks."""
        self.mask.clamp_(min=0.0)

    @torch.no_grad()
    def initialize(self, centers_U2: Tensor, clear_U: Tensor) -> None:
        """Begin with a round mask, whose weights sum to one, at these places, (U, 2) as x, y in pixels."""
        x_U1, y_U1 = centers_U2.to(self.mask).split(1, dim=1)
        x_U1, y_U1 = x_U1.clamp(self.xs[0], self.xs[-1]), y_U1.clamp(self.ys[0], self.ys[-1])
        energy = (self.ys - y_U1).square()[:, :, None] + (self.xs - x_U1).square()[:, None, :]
        # A flat top where the mask's cells are coarser than it: the nearest cell always has its weight.
        mask = torch.exp(-0.5 * (energy - energy.amin((1, 2), keepdim=True)) / self.std**2)
        mask = mask * (mask > math.exp(-30.0))  # denormal numbers make the matrix product slow on a CPU
        self.mask.copy_(mask / (mask.sum((1, 2), keepdim=True) * self.peak))

    def seen_by(self, feature_map: FeatureMap) -> Tensor:
        """What each mask weighs each cell of a map with, (U, H, W)."""
        down = shares(self.ys, feature_map.ys, max(self.cell, feature_map.cell))
        across = shares(self.xs, feature_map.xs, max(self.cell, feature_map.cell))
        return down @ (self.peak * self.mask) @ across.T

    def reader(self, index: int, feature_map: FeatureMap) -> Reader:
        return through_window(self.features[index], self.seen_by(feature_map))

    def weighed(self, index: int, feature_map: FeatureMap, units: slice) -> tuple[nn.Parameter, Tensor]:
        return self.features[index], seen_through_window(feature_map.x_BCTHW, self.seen_by(feature_map)[units])

    def window_on(self, feature_map: FeatureMap) -> Tensor:
        """The mask, scaled to a sum of one for each unit; an empty one is even."""
        window_UHW = self.seen_by(feature_map).clamp_min(0.0) + 1e-12
        return window_UHW / window_UHW.sum((1, 2), keepdim=True)

    def regularizer(self) -> Tensor:
        """Means over units: of the mask's sum, of its roughness, and of the features' L1."""
        features = torch.stack([f.abs().sum(1).mean() for f in self.features]).sum()
        sums = self.peak * self.mask.sum((1, 2)).mean()
        return self.l1 * features + self.mask_l1 * sums + self.mask_smooth * roughness(self.mask[:, None])

    def centers(self) -> Tensor:
        """The masks' means."""
        mask = self.mask.detach().clamp_min(0.0) + 1e-12
        mask = mask / mask.sum((1, 2), keepdim=True)
        return torch.stack([mask.sum(1) @ self.xs, mask.sum(2) @ self.ys], dim=1)


def shares(of: Tensor, to: Tensor, reach: float) -> Tensor:
    """Which part of each cell's weight each of other cells takes over, (other cells, cells); columns sum to one.

    Parameters
    ----------
    of, to : places of the cells, and of the others, along one axis.
    reach : how far a cell's weight goes, falling linearly; further, where nothing lies as near.
    """
    apart = (to[:, None] - of).abs()
    weight = (1 - apart / (2 * apart.amin(0)).clamp_min(reach)).clamp_min(0.0)
    return weight / weight.sum(0)
