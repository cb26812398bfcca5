"""Still pictures whose center and surround come from one picture, or from two."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivit_core.stimuli.base import Stimulus, negative, not_positive, refuse, unseen
from vivit_core.stimuli.gratings import aperture
from vivit_core.stimuli.surrounds import ring


@dataclass(frozen=True, eq=False)
class PictureInPicture(Stimulus):
    """Gray, then a disc of one picture with the surround of the same or of another one, both where they are in their
    pictures.

    Parameters
    ----------
    center : picture in contrast, (H, W).
    surround : picture outside of the disc, (H, W); None leaves it gray.
    center_px, diameter_px : the disc.
    before_s : gray at first, s.
    picture_s : time for which the picture stands, s.

    Raises
    ------
    ValueError
        Where a time is negative, a picture is of another size than the frame, or frames are asked for at a rate at
        which no bin would show it.

    References
    ----------
    Coen-Cagli, Kohn & Schwartz 2015 (Nat Neurosci 18:1648): natural images in V1's surround.
    """

    center: Tensor
    surround: Tensor | None
    center_px: tuple[float, float]
    diameter_px: float
    before_s: float
    picture_s: float

    def __post_init__(self) -> None:
        refuse(self, not_positive(self, "diameter_px", "picture_s") + negative(self, "before_s"))

    @property
    def duration_s(self) -> float:  # type: ignore[override]
        return self.before_s + self.picture_s

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        for picture in (self.center, self.surround):
            if picture is not None and tuple(picture.shape) != tuple(size):
                raise ValueError(f"PictureInPicture: a picture is {tuple(picture.shape)} px, and the frame {size} px")
        picture = aperture(size, np.asarray(self.center_px), self.diameter_px) * self.center
        if self.surround is not None:
            picture = picture + ring(size, self.center_px, self.diameter_px) * self.surround
        clip = torch.zeros(self.bins(rate_hz), *size)
        first = round(self.before_s * rate_hz)
        if first >= len(clip):
            refuse(self, [unseen(self, "picture_s", rate_hz)])
        clip[first:] = picture
        return clip
