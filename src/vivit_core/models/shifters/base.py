"""What every shifter keeps: how far the frames of one recording are shifted, as its eye tracker says.

Shape letters: B clips, T bins, E numbers of eye position, 2 = (x, y).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from vivit_core.specs import RecordingSpec


class Shifter(nn.Module, ABC):
    """Eye position of one recording in, a shift of all its units' windows out, in pixels of the recording's frames.

    Frames of a recording lie where its eye tracker says. A tracker with a wrong gain, or a turned one, puts them
    elsewhere on the retina, and the windows of all units move over the frames together. A twin has a shifter for each
    recording, because each has errors of its own. It shifts the *frames* against the windows, before the core: so every
    readout can be shifted, motion is seen as the retina saw it, and a stream needs nothing new.

    The shift is zero at the mean eye position. A constant is left to the readouts' places, which find it anyway.

    What a subclass has to do
    -------------------------
    - take ``behavior``, ``numbers`` and ``most_px`` in its constructor and hand the last on; ``numbers`` is given by
      the twin. All other arguments are its YAML's keys;
    - ``shift``: zero at zero, and all but zero before any training;
    - ``initialize``: begin with a shift that is linear in eye position, as it was found in the data.

    What the contract tests check (``vivit_core.testing.check_shifter``)
    -------------------------------------------------------------------
    That it begins by changing nothing, begins where it is told to, is zero at the mean eye position and never above
    ``most_px``; and what every twin keeps.

    Parameters
    ----------
    most_px : how far it shifts at most, along each axis.

    Raises
    ------
    ValueError
        For a number out of its range.

    References
    ----------
    Sinz et al. (2018), "Stimulus domain transfer in recurrent models for large scale cortical population prediction on
    video"; Walker et al. (2019), "Inception loops discover what excites neurons most using deep predictive models".
    There a shift moves the readouts' points.
    """

    def __init__(self, most_px: float) -> None:
        super().__init__()
        if not most_px > 0:
            raise ValueError(f"model.shifter.most_px={most_px} must be above zero")
        self.most_px = most_px

    @abstractmethod
    def shift(self, position_BTE: Tensor) -> Tensor:
        """Eye position, in standard deviations from its mean, to a shift (B, T, 2) in pixels."""

    @abstractmethod
    def initialize(self, slope_E2: Tensor) -> None:
        """Begin with a shift by ``slope_E2`` pixels for one standard deviation of each number of eye position."""

    def windows(self) -> list[nn.Parameter]:
        """The parameters whose output is in pixels; they learn at ``optim.window_lr_scale``."""
        return []

    def places(self) -> list[nn.Parameter]:
        """All parameters of the shift; where ``optim.window_lr_scale`` is 0 they stay as they start."""
        return list(self.parameters())

    def forward(self, position_BTE: Tensor) -> Tensor:
        """The shift of each bin, (B, T, 2): windows look so many pixels to the right, and down."""
        with torch.autocast(position_BTE.device.type, enabled=False):  # half a number is too coarse for places
            # Up to the limit the shift is what was found: a limit that bends it would spoil those of half its size.
            return self.shift(position_BTE.float()).clamp(-self.most_px, self.most_px)


def behavior_columns(spec: RecordingSpec, behavior: str) -> slice:
    """The columns of a behavior among all that a twin sees of a recording.

    Raises
    ------
    ValueError
        Where it sees no such behavior.
    """
    if not spec.behavior.get(behavior):
        raise ValueError(
            f"model.shifter.behavior={behavior}: the twin does not see such a behavior of recording "
            f"{spec.recording_id}, but {list(spec.behavior) or 'none'}; name the one that holds eye position, let "
            "data.behavior list it, or set model/shifter=none"
        )
    names = list(spec.behavior)
    first = sum(spec.behavior[name] for name in names[: names.index(behavior)])
    return slice(first, first + spec.behavior[behavior])
