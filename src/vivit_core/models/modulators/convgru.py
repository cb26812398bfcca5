"""A convolutional recurrence over the last map, driven by features and behavior.

Shape letters: B clips, T bins, S time steps of the last map, C channels, H W cells, D behavior numbers, K = frames a
step · D, G hidden channels.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import init_linear
from vivit_core.models.modulators.base import StepModulator
from vivit_core.models.modulators.behavior_gain import BehaviorGain


class ConvGRU(StepModulator):
    """A convolutional gated recurrent unit (Ballas et al. 2016) over the last map, driven by features and behavior.

    The convolutions of the input run over all time at once; only the recurrence steps.

    Parameters
    ----------
    channels, behavior_dim, stride : given by the twin.
    hidden : channels G of the state.
    kernel : side of the recurrent convolution, cells; odd.
    gain : numbers of a ``BehaviorGain`` beside it; 0 for none.
    """

    def __init__(self, channels: int, behavior_dim: int, stride: int, hidden: int, kernel: int, gain: int) -> None:
        super().__init__(stride)
        if kernel % 2 == 0:
            raise ValueError(f"model.modulator.kernel={kernel} must be odd")
        self.hidden = hidden
        self.input = nn.Conv2d(channels, 3 * hidden, 1)
        self.behavior = nn.Linear(behavior_dim * stride, 3 * hidden, bias=False) if behavior_dim else None
        self.recur = nn.Conv2d(hidden, 3 * hidden, kernel, padding=kernel // 2, bias=False)
        self.out = nn.Conv2d(hidden, channels, 1)
        for module in (self.input, self.recur, self.out):
            init_linear(module)
        if self.behavior is not None:
            init_linear(self.behavior)
        self.gain = BehaviorGain(channels, behavior_dim, stride, hidden=4 * gain, numbers=gain) if gain else None
        self.extra_channels = self.gain.extra_channels if self.gain is not None else []

    def change(self, x_BCSHW: Tensor, past_BSK: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        b, _, _, height, width = x_BCSHW.shape
        drive = self.input(rearrange(x_BCSHW, "b c s h w -> (b s) c h w"))
        drive = rearrange(drive, "(b s) g h w -> s b g h w", b=b)
        if self.behavior is not None:
            drive = drive + rearrange(self.behavior(past_BSK), "b s g -> s b g 1 1")
        if state is None:
            state = drive.new_zeros(b, self.hidden, height, width)
        states = []
        for drive_now in drive:
            state = self.advance(state, drive_now)
            states.append(state)
        y = self.out(rearrange(torch.stack(states, 1), "b s g h w -> (b s) g h w"))
        return x_BCSHW + rearrange(y, "(b s) c h w -> b c s h w", b=b), state

    def own(self, behavior_BTD: Tensor) -> list[FeatureMap]:
        """The gain's map."""
        return [] if self.gain is None else self.gain.gain(behavior_BTD)

    def advance(self, state: Tensor, drive: Tensor) -> Tensor:
        """One step of the recurrence: (B, G, H, W) from itself and the input's three drives, (B, 3G, H, W)."""
        update_x, reset_x, new_x = drive.chunk(3, dim=1)
        # Under autocast the weights are cast anew in each step, so that their gradient sums over the steps in float32:
        # cast once, it sums in bfloat16, and was off by 1.9 % after 150 steps where it is off by 0.3 %.
        update_h, reset_h, new_h = self.recur(state).chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        return (1 - update) * torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h) + update * state
