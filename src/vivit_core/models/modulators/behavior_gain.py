"""Behavior multiplies rates, and touches nothing else.

Shape letters: B clips, T bins, D behavior numbers, G numbers of the gain's map.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from einops import repeat
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.modulators.base import Modulator, small_net


class BehaviorGain(Modulator):
    """A few numbers of each bin's behavior, which every unit weighs into the gain of its rate: directions in behavior,
    and what a small network adds to them.

    In cortex, behavior acts on firing rates more as a gain than as a drive (Niell & Stryker 2010; Reynolds & Heeger
    2009). What behavior was before is in the behavior itself, where its transform keeps a history
    (``data/transforms``). Where there is no behavior it does nothing.

    Before a training, the directions are set to those that tell most of rates (``training.behavior_directions``).

    Parameters
    ----------
    channels, behavior_dim, stride : given by the twin.
    hidden : width of the network's hidden layer.
    numbers : directions, and outputs of the network that add to them; a map on a 1×1 grid.
    """

    def __init__(self, channels: int, behavior_dim: int, stride: int, hidden: int, numbers: int) -> None:
        super().__init__()
        self.net = nn.Sequential(*small_net(behavior_dim, hidden, numbers), nn.GELU()) if behavior_dim else None
        self.directions = nn.Linear(behavior_dim, numbers, bias=False) if behavior_dim else None
        if self.directions is not None:
            nn.init.zeros_(self.directions.weight)
        self.extra_channels = [] if self.net is None else [numbers]

    @torch.no_grad()
    def initialize(self, directions_GD: Tensor) -> None:
        """Begin with these directions in normalized behavior alone; where they are fewer than the numbers, with no
        others."""
        assert self.directions is not None and self.net is not None
        self.directions.weight.zero_()
        self.directions.weight[: len(directions_GD)] = directions_GD[: len(self.directions.weight)]
        for value in self.net[2].parameters():
            value.zero_()

    def forward(self, maps: list[FeatureMap], behavior_BTD: Tensor) -> list[FeatureMap]:
        return [*self.gain(behavior_BTD), *maps]

    def gain(self, behavior_BTD: Tensor) -> list[FeatureMap]:
        """The gain's map, at every bin; nothing where there is no behavior."""
        if self.net is None or self.directions is None:
            return []
        with torch.autocast(behavior_BTD.device.type, enabled=False):  # small differences of behaviors that go together
            x_BGT11 = repeat(self.directions(behavior_BTD) + self.net(behavior_BTD), "b t g -> b g t 1 1")
        middle = x_BGT11.new_zeros(1, dtype=torch.float32)
        return [FeatureMap(x_BGT11, 0, 1, middle, middle, 1.0, gain=True)]

    def stream(self, old: int) -> Callable[[list[FeatureMap | None], Tensor], list[FeatureMap | None]]:
        """See ``Modulator.stream``."""
        return lambda maps, behavior: [*self.gain(behavior), *maps]
