"""What every front end keeps.

Shape letters: B clips, C channels, T frames, H W pixels, K filters, L lags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable

from torch import Tensor, nn


class Frontend(nn.Module, ABC):
    """Video in, a video of the same frames and pixels out, with other channels: (B, C, T, H, W) to (B, C', T, H, W).

    It stands before a core's tokenizer, in whose place it is at the recordings' full frame rate.

    What a subclass has to do
    -------------------------
    - take ``in_channels`` in its constructor; all other arguments are its YAML's keys;
    - set ``out_channels`` and ``lags``;
    - ``forward``: frame t of the output sees no frame after t, and frames before the clip count as zero;
    - ``stream``: the same numbers, frame by frame;
    - with ``bases`` above 0, ``initialize``, which training calls with the units' own time courses.

    What the contract tests check (``vivit_core.testing.check_frontend``)
    --------------------------------------------------------------------
    Odd sizes, no look ahead, a gradient for every parameter, a stream that equals the clip, the round trip through a
    checkpoint.

    Attributes
    ----------
    out_channels : channels C' of the output.
    lags : frames that it looks back over, the own one included.
    bases : temporal filters that ``initialize`` takes; 0 where it starts from no data.
    """

    out_channels: int
    lags: int
    bases: int = 0

    @abstractmethod
    def forward(self, x_BCTHW: Tensor) -> Tensor:
        """(B, C, T, H, W) to (B, out_channels, T, H, W)."""

    @abstractmethod
    def stream(self) -> Callable[[Tensor], Tensor]:
        """A function that takes frames (1, C, 1, H, W) one by one, and gives (1, C', 1, H, W) for each."""

    def initialize(self, filters_KL: Tensor) -> None:
        """Begin with these temporal filters, (bases, lags), oldest lag first; called where ``bases`` is above 0."""

    def filters(self) -> Tensor | None:
        """The temporal filters through which each pixel is seen now, (K, lags), oldest lag first; None where the output
        is something else. With them, fields of the units are told in the front end's channels (``FromData``)."""
        return None
