"""Training clips that are cut and mixed; ``data.augmentation`` chooses how.

Shape letters: T bins, C channels, H W pixels, U units, D behavior numbers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from vivit_core.data.transforms import positive


class Clip(TypedDict):
    """What ``Recording.read`` gives: frames (C, T, H, W), counts (T, U), valid (T, U), behavior (T, D)."""

    frames: np.ndarray
    counts: np.ndarray
    valid: np.ndarray
    behavior: np.ndarray


class Augmentation(ABC):
    """Makes a training clip of two clips of one recording; evaluations never see it.

    Attributes
    ----------
    probability : that a training clip is made so, above 0 and up to 1.
    """

    probability: float

    @abstractmethod
    def __call__(self, clip: Clip, other: Clip, rng: np.random.Generator, frame_rate_hz: float) -> Clip:
        """A clip of the same sizes; neither of the two is changed, and all that is random comes from ``rng``."""


@dataclass(frozen=True)
class CutMix(Augmentation):
    """Training clips into which a piece of another clip of the same recording is cut.

    In time, a stretch of the other clip takes the place of this one's, with what the units did in it. After each seam
    the units still answer to what was before it, so bins within ``settle_s`` do not count. In space, a box is cut in;
    which of the two a unit saw is not known to the data, so its target is the mean of both responses, weighted by area
    (as in the entry that won Sensorium 2023). Behavior is treated like the responses, so that no eye position holds for
    a frame that is mixed in space: a twin with a shifter is refused there. With both, a stretch of a box.

    References
    ----------
    Yun et al. 2019, CutMix: regularization strategy to train strong classifiers with localizable features.
    """

    probability: float  # that a clip is mixed
    alpha: float  # of the Beta(alpha, alpha) from which the share of the other clip is drawn; 1: uniform
    space: bool  # cut a box out of the frames
    time: bool  # cut a stretch of bins
    settle_s: float  # after a seam in time, bins that do not count, s

    def __post_init__(self) -> None:
        positive({"alpha": self.alpha})
        if not 0 < self.probability <= 1 or self.settle_s < 0:
            raise ValueError(
                f"probability is {self.probability} and settle_s {self.settle_s}; "
                "give a probability above 0 and up to 1, and settle_s of 0 or more"
            )
        if not (self.space or self.time):
            raise ValueError("space and time are both false: nothing would be mixed; set one to true")

    def __call__(self, clip: Clip, other: Clip, rng: np.random.Generator, frame_rate_hz: float) -> Clip:
        """The clip with a piece of the other in it; neither is changed."""
        _, bins, height, width = clip["frames"].shape
        share = rng.beta(self.alpha, self.alpha)
        side = share ** (1 / (2 * self.space + self.time))  # the same part of each axis that is cut
        rows = piece(height, side, rng) if self.space else slice(0, height)
        columns = piece(width, side, rng) if self.space else slice(0, width)
        times = piece(bins, side, rng) if self.time else slice(0, bins)
        area = np.float32((rows.stop - rows.start) * (columns.stop - columns.start) / (height * width))
        if area == 0 or times.stop == times.start:
            return clip
        mixed = Clip(
            frames=clip["frames"].copy(),
            counts=clip["counts"].copy(),
            valid=clip["valid"].copy(),
            behavior=clip["behavior"].copy(),
        )
        mixed["frames"][:, times, rows, columns] = other["frames"][:, times, rows, columns]
        if area == 1:
            mixed["counts"][times], mixed["valid"][times] = other["counts"][times], other["valid"][times]
            mixed["behavior"][times] = other["behavior"][times]
        else:
            mixed["counts"][times] += area * (other["counts"] - clip["counts"])[times]
            mixed["valid"][times] &= other["valid"][times]
            mixed["behavior"][times] += area * (other["behavior"] - clip["behavior"])[times]
        settle = round(self.settle_s * frame_rate_hz)
        for seam in {times.start, times.stop} - {0, bins}:
            mixed["valid"][seam : seam + settle] = False
        return mixed


def piece(length: int, part: float, rng: np.random.Generator) -> slice:
    """A stretch of about this part of an axis, anywhere on it."""
    size = round(part * length)
    start = int(rng.integers(length - size + 1))
    return slice(start, start + size)
