"""A feature map: what a core gives to readouts, and where in space and time its cells lie.

Shape letters: B clips, C channels, T steps in time, H W cells, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn


@dataclass
class FeatureMap:
    """A feature map and where its cells lie in the clip.

    Attributes
    ----------
    x_BCTHW : features.
    first_end : the frame (0 = the clip's oldest) with which the first step ends.
    stride : frames a step.
    ys, xs : (H,), (W,) pixel coordinates of the cells' centers in the clip's frame.
    cell : side of a cell in pixels; less where windows shall be sharper than that.
    gain : what is read of it multiplies the rate, as its logarithm, instead of being added to the drive.
    """

    x_BCTHW: Tensor
    first_end: int
    stride: int
    ys: Tensor
    xs: Tensor
    cell: float
    gain: bool = False

    def split(self, clips: Sequence[int]) -> list[FeatureMap]:
        """The same map for the first so many clips, the next so many, and so on.

        Slices would each fill a gradient of the whole map's size, so that a step's time would grow with the square of
        the number of recordings. Channels go last, as they lie in memory behind a stem.
        """
        parts = self.x_BCTHW.movedim(1, -1).split(list(clips))
        return [replace(self, x_BCTHW=part.movedim(-1, 1)) for part in parts]

    def to_bins(self, values_BTU: Tensor, bins: int) -> Tensor:
        """Serve each bin by the newest step that had ended; bins before the first end get zero. Returns (B, F, U)."""
        served = values_BTU.repeat_interleave(self.stride, dim=1) if self.stride > 1 else values_BTU
        if self.first_end:
            served = nn.functional.pad(served, (0, 0, self.first_end, 0))
        return served[:, :bins]


def cell_centers(cells: int, size: float, before: float, device: torch.device) -> Tensor:
    """Pixel coordinates of the centers of cells of ``size`` pixels, the first of which starts at ``-before``."""
    return (torch.arange(cells, device=device, dtype=torch.float32) + 0.5) * size - 0.5 - before
