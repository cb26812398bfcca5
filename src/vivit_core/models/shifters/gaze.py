"""A shift by a small net from eye position.

Shape letters: B clips, T bins, E numbers of eye position, K functions of it, 2 = (x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivit_core.models.shifters.base import Shifter

START_PX = 1e-3  # what the hidden layer is weighed by at first: a part of a pixel that changes nothing


class GazeShifter(Shifter):
    """A linear function of eye position, and a hidden layer that bends it (Walker et al. 2019).

    Parameters
    ----------
    behavior : name of the behavior that holds eye position.
    numbers : of it a bin, given by the twin.
    most_px : see ``Shifter``.
    hidden : width of the hidden layer.

    Raises
    ------
    ValueError
        For a width below one.
    """

    def __init__(self, behavior: str, numbers: int, most_px: float, hidden: int) -> None:
        super().__init__(most_px)
        if hidden < 1:
            raise ValueError(f"model.shifter.hidden={hidden} must be at least 1; model/shifter=affine has none")
        self.inner = nn.Parameter(torch.randn(numbers, hidden) * numbers**-0.5)
        self.middle = nn.Parameter(torch.randn(hidden))
        # A hidden unit without a weight behind it would not learn.
        self.outer = nn.Parameter(torch.cat([torch.zeros(numbers, 2), START_PX * torch.randn(hidden, 2)]))  # px

    def functions(self, position_BTE: Tensor) -> Tensor:
        """(B, T, K) what the last layer weighs."""
        return torch.cat([position_BTE, torch.tanh(position_BTE @ self.inner + self.middle)], dim=-1)

    def shift(self, position_BTE: Tensor) -> Tensor:
        mean_BTE = torch.zeros_like(position_BTE[:1, :1])
        return (self.functions(position_BTE) - self.functions(mean_BTE)) @ self.outer

    @torch.no_grad()
    def initialize(self, slope_E2: Tensor) -> None:
        self.outer[: len(slope_E2)] = slope_E2

    def windows(self) -> list[nn.Parameter]:
        return [self.outer]
