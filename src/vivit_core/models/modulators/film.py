"""Behavior scales and shifts each channel of the last map.

Shape letters: B clips, S time steps of the last map, C channels, H W cells, D behavior numbers, K = frames a step · D.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor

from vivit_core.models.modulators.base import StepModulator, small_net


class FiLM(StepModulator):
    """Feature-wise linear modulation (Perez et al. 2018): ``(1 + scale) · x + shift``, both from behavior, by channel.

    Where there is no behavior it does nothing.

    Parameters
    ----------
    channels, behavior_dim, stride : given by the twin.
    hidden : width of the network's hidden layer.
    """

    def __init__(self, channels: int, behavior_dim: int, stride: int, hidden: int) -> None:
        super().__init__(stride)
        self.net = small_net(behavior_dim * stride, hidden, 2 * channels) if behavior_dim else None

    def change(self, x_BCSHW: Tensor, past_BSK: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        return (x_BCSHW if self.net is None else modulated(x_BCSHW, self.net(past_BSK))), None


def modulated(x_BCSHW: Tensor, scale_and_shift_BSC: Tensor) -> Tensor:
    """Channels scaled and shifted; of twice as many numbers, the first half are the scales."""
    scale, shift = rearrange(scale_and_shift_BSC, "b s c -> b c s 1 1").chunk(2, dim=1)
    return (1 + scale) * x_BCSHW + shift
