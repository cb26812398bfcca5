"""What every modulator keeps: how behavior acts on the features.

Shape letters: B clips, T bins, C channels, D behavior numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import no_regularizer


class Modulator(nn.Module, ABC):
    """Feature maps and behavior in, feature maps out.

    It takes the core's maps, finest first, and the behavior of every bin, and gives the maps that readouts see: the
    last one changed, and before the others possibly maps of its own (``extra_channels``), for example one on a 1×1 grid
    at the full frame rate that every unit sees at every bin.

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
