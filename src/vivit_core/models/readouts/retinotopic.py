"""A Gaussian window whose place follows from where the unit lies in the tissue (Lurz et al. 2021).

Shape letters: U units, D numbers of a position, K functions of it.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

from vivit_core.models.readouts.gaussian import GaussianReadout
from vivit_core.models.solving import solve_positive

SURE = 2.0  # units whose receptive field is this clear lie where the data say
BEND = 0.05  # how far the hidden layer bends the map, as a part of the frame's side; what is known before the data
LEAST_SCATTER_PX = 1.0  # of units around the net
ROUNDS = 20  # of telling well placed units from badly placed ones


class RetinotopicReadout(GaussianReadout):
    """Every unit looks at one place of the frame, as with ``GaussianReadout``, and neighbors in the tissue look at
    neighbors.

    In visual cortex, a unit's place in the frame follows from its place in the tissue, but for some scatter. So a small
    net, which the units of a recording share, predicts the one from the other, and each unit adds a deviation of its
    own, which is kept small. A unit with few spikes is then placed by its neighbors'. After Lurz et al. 2021,
    "Generalization in data-driven models of primary visual cortex", where a unit has no deviation, and the net is
    trained alone.

    The net is affine, and bent by a hidden layer. It begins with a fit to the receptive fields that were found in the
    data, in which units that lie far from what their neighbors say count little, unless their field is clear.

    Parameters
    ----------
    channels, frame_size, mean_drive : see ``GaussianReadout``.
    position_um : (U, 2 or 3) where units lie in the tissue, micrometers, given by the twin.
    hidden : width of the net's hidden layer.
    deviation_l2 : weight of the squared deviations, px², mean over units, in the loss.
    std_px, std_min_px, std_max_px, std_settle, l1 : see ``GaussianReadout``.
    """

    needs_positions: ClassVar[bool] = True
    position: Tensor
    middle: Tensor

    def __init__(
        self,
        channels: list[int],
        frame_size: tuple[int, int],
        mean_drive: Tensor,
        position_um: Tensor,
        hidden: int,
        deviation_l2: float,
        std_px: float,
        std_min_px: float,
        std_max_px: float,
        std_settle: float,
        l1: float,
    ) -> None:
        super().__init__(channels, frame_size, mean_drive, std_px, std_min_px, std_max_px, std_settle, l1)
        if hidden < 1:
            raise ValueError(f"readout.hidden={hidden} must be at least 1")
        self.deviation_l2 = deviation_l2
        spread = position_um.std(0, correction=0)
        self.register_buffer("position", (position_um - position_um.mean(0)) / spread.clamp_min(1e-6), persistent=False)
        self.register_buffer("middle", self.limit[1] / 2, persistent=False)
        # The place that the net predicts, in pixels from the frame's middle; ``mean`` is what a unit adds to it.
        numbers = position_um.shape[1]
        self.inner = nn.Parameter(torch.randn(numbers, hidden))
        self.shift = nn.Parameter(torch.randn(hidden))
        self.outer = nn.Parameter(torch.randn(numbers + 1 + hidden, 2) * 0.1)
        nn.init.zeros_(self.mean)

    def functions(self) -> Tensor:
        """What the net's last layer weighs, (U, K): the position, a constant, and the hidden layer."""
        hidden = torch.tanh(self.position @ self.inner + self.shift)
        return torch.cat([self.position, torch.ones_like(self.position[:, :1]), hidden], dim=1)

    def predicted(self) -> Tensor:
        """Where units ought to look, by where they lie, (U, 2) as x, y in pixels."""
        return self.middle + self.functions() @ self.outer

    def place(self) -> Tensor:
        return self.predicted() + self.mean

    @torch.no_grad()
    def initialize(self, centers_U2: Tensor, clear_U: Tensor) -> None:
        """Fit the net to these places, and let units deviate to their own where that is no likely mistake.

        A unit's place is either right, and then scatters around the net's by a Gaussian, or a mistake anywhere in the
        frame. How likely a mistake is beforehand follows from how clear the receptive field is, and then from how far
        the place lies from the net's; fit and likelihood take turns (expectation maximization).
        """
        centers_U2 = centers_U2.to(self.mean).clamp(self.limit[0], self.limit[1])
        mistake_U = (1 - clear_U.to(self.mean) / SURE).clamp_min(0.0).square()
        right_U, area = 1 - mistake_U, float((self.limit[1] + 1).prod())
        functions_UK, target_U2 = self.functions().double(), (centers_U2 - self.middle).double()
        hidden = len(self.shift)
        straight = functions_UK.shape[1] - hidden
        bend = BEND * math.sqrt(area) / math.sqrt(hidden)
        precision_K = torch.tensor(
            [1e-6] * straight + [bend**-2] * hidden, dtype=torch.float64, device=self.mean.device
        )
        variance = torch.tensor(area, dtype=torch.float64, device=self.mean.device)
        for _ in range(ROUNDS):
            weighed_KU = functions_UK.T * right_U / variance
            outer_K2 = solve_positive(weighed_KU @ functions_UK + precision_K.diag(), weighed_KU @ target_U2)
            far_U = (target_U2 - functions_UK @ outer_K2).square().sum(1)
            variance = ((right_U * far_U).sum() / (2 * right_U.sum()).clamp_min(1e-6)).clamp_min(LEAST_SCATTER_PX**2)
            # One that cannot be a mistake beforehand is none however far it lies, one that must be is never right.
            chance_U = 2 * math.pi * variance / area * torch.exp((far_U / (2 * variance)).clamp_max(700.0))
            right_U = 1 / (1 + mistake_U / (1 - mistake_U) * chance_U)
        self.outer.copy_(outer_K2)
        self.mean.copy_((centers_U2 - self.predicted()) * right_U[:, None])

    def windows(self) -> list[nn.Parameter]:
        """The last layer's output is in pixels."""
        return [*super().windows(), self.outer]

    def places(self) -> list[nn.Parameter]:
        return [*self.windows(), self.inner, self.shift]

    def regularizer(self) -> Tensor:
        """The features' L1, and the squared deviations' mean over units."""
        return super().regularizer() + self.deviation_l2 * self.mean.square().sum(1).mean()
