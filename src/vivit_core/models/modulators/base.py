"""What every modulator keeps: how behavior acts on the features.

Shape letters: B clips, T bins, S time steps of the last map, C channels, H W cells, D behavior numbers, K = frames a
step · D.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import init_linear, no_regularizer


class Modulator(nn.Module, ABC):
    """Feature maps and behavior in, feature maps out.

    It takes the core's maps, finest first, and the behavior of every bin, and gives the maps that readouts see: the
    last one changed, and before the others possibly maps of its own (``extra_channels``), for example one on a 1×1 grid
    at the full frame rate that every unit sees at every bin.

    Every modulator acts on the *last* map, whatever it is. Where that is a drive (bare tubelets, ``stem``, a CNN), it
    changes what drives units. Where it is a gain (``FeatureMap.gain``; ``residual_stem``), it changes what multiplies
    their rates, and the drive is not touched. What is changed holds for a whole step; a map of its own changes with
    each bin.

    What a subclass has to do
    -------------------------
    - take ``channels``, ``behavior_dim`` and ``stride`` in its constructor, all given by the twin: channels of the last
      map, numbers of behavior a bin (0: there is none), frames a step of the last map. All other arguments are its
      YAML's keys;
    - set ``extra_channels``;
    - ``forward``: no step sees frames or behavior after its own last frame. A clip whose length is no multiple of
      ``stride`` is padded with zeros at its *old* end, as the core's last map is;
    - ``stream``: the same numbers, bin by bin.

    What the contract tests check (``vivit_core.testing.check_modulator``)
    ---------------------------------------------------------------------
    Odd sizes, no look ahead in frames or behavior, that behavior changes predictions, a gradient for every parameter,
    a stream that equals the clip, the round trip through a checkpoint.

    Attributes
    ----------
    extra_channels : channels of each map of its own.
    """

    extra_channels: list[int]

    @abstractmethod
    def forward(self, maps: list[FeatureMap], behavior_BTD: Tensor) -> list[FeatureMap]:
        """Maps of its own, and the core's with the last one changed."""

    @abstractmethod
    def stream(self, old: int) -> Callable[[list[FeatureMap | None], Tensor], list[FeatureMap | None]]:
        """A function that takes what each bin changes of the core's maps (None: nothing) and its behavior (1, 1, D).

        ``old`` bins of padding stand before the first.
        """

    def regularizer(self) -> Tensor:
        """What it adds to the loss, already weighted: nothing, unless it says otherwise."""
        return no_regularizer(self)


def small_net(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with a GELU between, started as the core's layers are."""
    net = nn.Sequential(nn.Linear(inputs, hidden), nn.GELU(), nn.Linear(hidden, outputs))
    for layer in net:
        if isinstance(layer, nn.Linear):
            init_linear(layer)
    return net


class StepModulator(Modulator):
    """A modulator that changes the last map step by step, each by the behavior of its own bins.

    What a subclass has to do: ``change``.

    Parameters
    ----------
    stride : frames a step of the last map, given by the twin.
    """

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.extra_channels = []

    @abstractmethod
    def change(self, x_BCSHW: Tensor, past_BSK: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The last map after some steps, and what is remembered of them.

        Parameters
        ----------
        x_BCSHW : the map.
        past_BSK : the behavior of each step's bins, oldest first.
        state : what is remembered of the steps before; None: there were none.
        """

    def own(self, behavior_BTD: Tensor) -> list[FeatureMap]:
        """Maps of its own, at every bin: none, unless it says otherwise."""
        return []

    def forward(self, maps: list[FeatureMap], behavior_BTD: Tensor) -> list[FeatureMap]:
        *finer, last = maps
        old = last.x_BCTHW.shape[2] * self.stride - behavior_BTD.shape[1]  # padded at its old end, as the tokens are
        past = rearrange(F.pad(behavior_BTD, (0, 0, old, 0)), "b (s k) d -> b s (k d)", k=self.stride)
        changed, _ = self.change(last.x_BCTHW, past, None)
        return [*self.own(behavior_BTD), *finer, replace(last, x_BCTHW=changed)]

    def stream(self, old: int) -> Callable[[list[FeatureMap | None], Tensor], list[FeatureMap | None]]:
        """See ``Modulator.stream``."""
        state: Tensor | None = None
        waiting: list[Tensor] = []

        def advance(maps: list[FeatureMap | None], behavior: Tensor) -> list[FeatureMap | None]:
            nonlocal old, state
            waiting.extend([torch.zeros_like(behavior)] * old + [behavior])
            old = 0
            *finer, last = maps
            if last is not None:
                past = torch.cat(waiting, dim=1).flatten(1)[:, None]
                waiting.clear()
                changed, state = self.change(last.x_BCTHW, past, state)
                last = replace(last, x_BCTHW=changed)
            return [*self.own(behavior), *finer, last]

        return advance
