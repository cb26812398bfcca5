"""A convolutional recurrence over the coarsest features, driven by behavior.

Shape letters: B clips, T bins, S time steps of the last map, C channels, H W cells, D behavior numbers, G hidden
channels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import init_linear
from vivit_core.models.modulators.base import Modulator
from vivit_core.models.modulators.behavior_gain import BehaviorGain


class ConvGRU(Modulator):
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
        super().__init__()
        if kernel % 2 == 0:
            raise ValueError(f"model.modulator.kernel={kernel} must be odd")
        self.stride, self.hidden, self.behavior_dim = stride, hidden, behavior_dim
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

    def forward(self, maps: list[FeatureMap], behavior_BTD: Tensor) -> list[FeatureMap]:
        *finer, feature_map = maps
        b, _, steps, height, width = feature_map.x_BCTHW.shape
        drive = self.input(rearrange(feature_map.x_BCTHW, "b c s h w -> (b s) c h w"))
        drive = rearrange(drive, "(b s) g h w -> s b g h w", b=b)
        if self.behavior is not None:
            old = steps * self.stride - behavior_BTD.shape[1]  # the clip is padded at its old end, as the tokens are
            past = F.pad(behavior_BTD, (0, 0, old, 0))
            past = self.behavior(rearrange(past, "b (s k) d -> s b (k d)", k=self.stride))
            drive = drive + past[..., None, None]
        state = drive.new_zeros(b, self.hidden, height, width)
        states = []
        for drive_now in drive:
            state = self.advance(state, drive_now)
            states.append(state)
        y = self.out(rearrange(torch.stack(states, 1), "b s g h w -> (b s) g h w"))
        changed = replace(feature_map, x_BCTHW=feature_map.x_BCTHW + rearrange(y, "(b s) c h w -> b c s h w", b=b))
        return [*self.behavior_map(behavior_BTD), *finer, changed]

    def advance(self, state: Tensor, drive: Tensor) -> Tensor:
        """One step of the recurrence: (B, G, H, W) from itself and the input's three drives, (B, 3G, H, W)."""
        update_x, reset_x, new_x = drive.chunk(3, dim=1)
        # Under autocast the weights are cast anew in each step, so that their gradient sums over the steps in float32:
        # cast once, it sums in bfloat16, and was off by 1.9 % after 150 steps where it is off by 0.3 %.
        update_h, reset_h, new_h = self.recur(state).chunk(3, dim=1)
        update = torch.sigmoid(update_x + update_h)
        return (1 - update) * torch.tanh(new_x + torch.sigmoid(reset_x + reset_h) * new_h) + update * state

    def stream(self, old: int) -> Callable[[list[FeatureMap | None], Tensor], list[FeatureMap | None]]:
        """See ``Modulator.stream``."""
        state: Tensor | None = None
        waiting: list[Tensor] = []

        def advance(maps: list[FeatureMap | None], behavior: Tensor) -> list[FeatureMap | None]:
            nonlocal old, state
            waiting.extend([torch.zeros_like(behavior)] * old + [behavior])
            old = 0
            *finer, feature_map = maps
            own = list(self.behavior_map(behavior))
            if feature_map is None:
                return [*own, *finer, None]
            x = feature_map.x_BCTHW[:, :, 0]
            drive = self.input(x)
            if self.behavior is not None:
                drive = drive + self.behavior(torch.cat(waiting, dim=1).flatten(1))[..., None, None]
            waiting.clear()
            state = self.advance(drive.new_zeros(len(x), self.hidden, *x.shape[2:]) if state is None else state, drive)
            return [*own, *finer, replace(feature_map, x_BCTHW=(x + self.out(state))[:, :, None])]

        return advance

    def behavior_map(self, behavior_BTD: Tensor) -> list[FeatureMap]:
        return [] if self.gain is None else self.gain.gain(behavior_BTD)
