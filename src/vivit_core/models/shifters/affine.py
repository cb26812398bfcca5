"""A shift that is linear in eye position.

Shape letters: B clips, T bins, E numbers of eye position, 2 = (x, y).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivit_core.models.shifters.base import Shifter


class AffineShifter(Shifter):
    """What a tracker with a wrong gain, or a turned one, gets wrong (Sinz et al. 2018, without hidden layers).

    Parameters
    ----------
    behavior : name of the behavior that holds eye position.
    numbers : of it a bin, given by the twin.
    most_px : see ``Shifter``.
    """

    def __init__(self, behavior: str, numbers: int, most_px: float) -> None:
        super().__init__(most_px)
        self.slope = nn.Parameter(torch.zeros(numbers, 2))  # px for one standard deviation

    def shift(self, position_BTE: Tensor) -> Tensor:
        return position_BTE @ self.slope

    @torch.no_grad()
    def initialize(self, slope_E2: Tensor) -> None:
        self.slope.copy_(slope_E2)

    def windows(self) -> list[nn.Parameter]:
        return [self.slope]
