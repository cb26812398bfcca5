"""A recurrence with one state for the whole frame, whose numbers scale and shift each channel of the last map.

Shape letters: B clips, S time steps of the last map, C channels, H W cells, D behavior numbers, K = frames a step · D,
G numbers of the state.
"""

from __future__ import annotations

import torch
from einops import reduce
from torch import Tensor, nn

from vivit_core.models.layers import init_linear
from vivit_core.models.modulators.base import StepModulator
from vivit_core.models.modulators.film import modulated


class GRU(StepModulator):
    """A gated recurrent unit (Cho et al. 2014) whose vector state modulates channels as ``FiLM`` does.

    It is driven by the behavior of each step and by the mean of the last map over the frame. So it remembers how an
    animal has behaved, for as long as it learns to, and what has been shown to the frame as a whole. Of a place it
    knows nothing; ``ConvGRU`` has a state for each cell.

    Parameters
    ----------
    channels, behavior_dim, stride : given by the twin.
    hidden : numbers G of the state.
    """

    def __init__(self, channels: int, behavior_dim: int, stride: int, hidden: int) -> None:
        super().__init__(stride)
        self.recur = nn.GRU(channels + behavior_dim * stride, hidden, batch_first=True)
        self.out = nn.Linear(hidden, 2 * channels)
        init_linear(self.out)

    def train(self, mode: bool = True) -> GRU:
        """Training or evaluation, but for the recurrence: cuDNN has no gradient through one in evaluation, which
        receptive fields ask for. Without a dropout of its own it computes the same in both."""
        super().train(mode)
        self.recur.train()
        return self

    def change(self, x_BCSHW: Tensor, past_BSK: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        seen = torch.cat([reduce(x_BCSHW, "b c s h w -> b s c", "mean"), past_BSK], dim=-1)
        # In the weights' own precision: it costs nothing, and autocast casts no recurrence on a CPU.
        with torch.autocast(x_BCSHW.device.type, enabled=False):
            states_BSG, state = self.recur(seen.to(self.out.weight.dtype), state)
        return modulated(x_BCSHW, self.out(states_BSG)), state
