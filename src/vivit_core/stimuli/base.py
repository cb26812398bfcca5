"""What every stimulus of the laboratory is: a small description that makes its own frames.

Shape letters: T bins (= frames), H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np
from torch import Tensor


class Stimulus(ABC):
    """A clip, described by a few numbers; equal descriptions make equal frames.

    Places and lengths are in pixels of the frame, (x, y) from the middle of its upper left pixel, y downwards; times in
    seconds; directions in degrees counterclockwise from rightwards. Contrast is 0 at gray and ±1 at the largest step
    from it that the pixels can make.
    """

    duration_s: float  # of the whole clip, s

    @abstractmethod
    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        """The clip at a size (height, width) in px and a rate in frames a second: (T, H, W) in contrast, float32."""

    def bins(self, rate_hz: float) -> int:
        """Frames of the clip, at least one."""
        return max(1, round(self.duration_s * rate_hz))

    def times_s(self, rate_hz: float) -> np.ndarray:
        """When each frame begins, (T,), from the clip's start."""
        return np.arange(self.bins(rate_hz)) / rate_hz


def refuse(stimulus: object, problems: list[str]) -> None:
    """All that cannot be shown, in one message.

    Raises
    ------
    ValueError
        Where there is any problem.
    """
    if problems:
        raise ValueError(f"{type(stimulus).__name__}: " + "; ".join(problems))


def unseen(stimulus: object, name: str, rate_hz: float) -> str:
    """The problem of a time so short that none of its bins is there."""
    return (
        f"{name}={getattr(stimulus, name)} is so short that no bin shows it at {rate_hz:g} Hz; set it above "
        f"{1 / rate_hz:.3g} s"
    )


def not_positive(stimulus: object, *names: str) -> list[str]:
    """Problems of the fields that have to be above zero."""
    return [f"{n}={getattr(stimulus, n)} is not above 0" for n in names if not getattr(stimulus, n) > 0]


def negative(stimulus: object, *names: str) -> list[str]:
    """Problems of the fields that must not be below zero."""
    return [f"{n}={getattr(stimulus, n)} is below 0" for n in names if not getattr(stimulus, n) >= 0]
