"""What every readout keeps: from feature maps to the drive of one recording's units.

Shape letters: B clips, F bins, C channels, H W cells, U units.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import no_regularizer


class Readout(nn.Module, ABC):
    """Feature maps in, the drive of every unit of one recording out; the likelihood makes a rate of it.

    A twin has one for each recording. The maps come finest first, each with its own frames a step, and each says where
    its cells lie (``FeatureMap``): a bin is served by the newest step that had ended (``FeatureMap.to_bins``).

    What a subclass has to do
    -------------------------
    - take ``channels``, ``frame_size`` and ``mean_drive`` in its constructor, all given by the twin: channels of each
      map, height and width of the frame in pixels, and (U,) the drive at which each unit fires at its mean, where its
      bias starts. All other arguments are its YAML's keys;
    - ``forward``: (B, F, U), or (B, U) for the newest bin alone where ``last`` is true, and then the same numbers; no
      bin sees a step that ends after it;
    - ``stream``: the same numbers, bin by bin.

    What it may do
    --------------
    ``regularizer``, ``set_progress``, ``initialize``, ``windows`` and the two that say where units look; the docstring
    of each says what it is good for, and what happens without it.

    What the contract tests check (``vivit_core.testing.check_readout``)
    -------------------------------------------------------------------
    Odd frames and several maps, ``last`` beside all bins, no look ahead, a gradient for every parameter, a stream that
    equals the clip, the round trip through a checkpoint, that ``initialize`` is obeyed by ``centers``.
    """

    @abstractmethod
    def forward(self, maps: list[FeatureMap], bins: int, last: bool) -> Tensor:
        """The drive of ``bins`` bins, (B, F, U); with ``last`` of the newest alone, (B, U)."""

    @abstractmethod
    def stream(self) -> Callable[[list[FeatureMap | None]], Tensor]:
        """A function that takes what each bin changes of the maps (None: nothing), and gives the bin's drive (U,)."""

    def regularizer(self) -> Tensor:
        """What it adds to the loss, already weighted: nothing, unless it says otherwise."""
        return no_regularizer(self)

    def set_progress(self, fraction: float) -> None:
        """Told after each optimizer step which part of the training is done (0 to 1), for schedules and bounds."""

    def initialize(self, centers_U2: Tensor) -> None:
        """Begin by looking at these places, x and y in pixels: the units' receptive fields, found in the data."""

    def windows(self) -> list[nn.Parameter]:
        """The parameters that say where units look, in pixels; they learn at ``optim.window_lr_scale``."""
        return []

    def window_on(self, feature_map: FeatureMap) -> Tensor | None:
        """How much each unit reads of each cell of a map, (U, H, W), summing to one for each; None: it cannot say.

        ``task=attention`` needs it.
        """
        return None

    def centers(self) -> Tensor | None:
        """Where units look, (U, 2) as x and y in pixels; None: it cannot say. Evaluations compare it with the truth."""
        return None

    def gaussians(self) -> dict[str, Tensor] | None:
        """Gaussian windows to be drawn, ``mean_px`` (U, 2) as x and y, ``std_px`` (U, 2), ``angle_deg`` (U,); None:
        there are none."""
        return None
