"""What every video keeps, whatever it is stored in: frames that are read a piece at a time.

Shape letters: N frames of the video, C channels, T frames of a piece, H W pixels, D numbers of a behavior.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

PIECE = 64  # frames that are read at once
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)  # of red, green and blue (ITU-R BT.601)


class Video(ABC):
    """A video, read a piece at a time.

    Attributes
    ----------
    path : where it is stored.
    frame_shape : channels, height and width.
    n_frames : in all.
    frame_rate_hz : None where nothing says it, and where frames are of different lengths.
    ends_s : (N,) when each frame ends, s from the first one's begin, where frames are of different lengths; else None.
    degrees_per_pixel : the size of a pixel; None where nothing says it.
    notes : what was done to the frames as they were read, a line each.
    stretches : ranges of frames between which time does not run on, as trials; half open, in order.
    """

    path: Path
    frame_shape: tuple[int, int, int]
    n_frames: int
    frame_rate_hz: float | None = None
    ends_s: np.ndarray | None = None
    degrees_per_pixel: float | None = None
    notes: tuple[str, ...] = ()

    @property
    def stretches(self) -> list[tuple[int, int]]:
        return [(0, self.n_frames)]

    @abstractmethod
    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        """The frames start … stop-1 in pieces (C, T, H, W) of at most ``PIECE`` frames, in so many channels.

        Raises
        ------
        ValueError
            Where they cannot be read.
        """

    def behavior(self, start: int, stop: int) -> Mapping[str, np.ndarray]:
        """The behaviors that are stored beside the frames, (N, D) each; none, but for recordings."""
        return {}


def in_channels(frames_CTHW: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """The frames in so many channels: colors become their luminance, and gray stands in for each color.

    Raises
    ------
    ValueError
        Where neither helps.
    """
    given = frames_CTHW.shape[0]
    if given == channels:
        return frames_CTHW
    if given == 3 and channels == 1:
        return np.tensordot(LUMINANCE, frames_CTHW.astype(np.float32), 1)[None]
    if given == 1 and channels == 3:
        return np.repeat(frames_CTHW, 3, axis=0)
    raise ValueError(f"{path}: its frames have {given} channels, and the model sees {channels}; give such a video")


def said(frame_shape: tuple[int, int, int]) -> str:
    """A frame's size in words."""
    channels, height, width = frame_shape
    return f"{height}×{width} px" + (f" in {channels} channels" if channels > 1 else "")
