"""How a video becomes the frames of a twin's recording: its rate, and the size of its pixels.

Both are matched by rules that are said. A bin of the model shows the newest frame that had begun before the bin's end,
as in training. A pixel of the video becomes as large as its visual angle says; the video's middle lies on that of the
recording's frame, what is beyond is left out, and what is not covered is at the recording's mean pixel.

Shape letters: N frames of the video, C channels, T bins, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from fractions import Fraction
from typing import Literal

import numpy as np
from PIL import Image

from vivit_core.data.resample import STEPS
from vivit_core.data.transforms import FrameTransform, Transform
from vivit_core.data.video.source import Video, said
from vivit_core.specs import RecordingSpec

PIECE = 64  # bins that are made at once
EQUAL = 0.01  # relative difference of pixels' sizes below which they count as equal
INSTANT_S = 1e-6  # times closer together are one


class Match:
    """Turns a video into the frames that one recording's units are shown.

    Parameters
    ----------
    video : the video.
    spec : of the recording whose units see it.
    frame_rate_hz : of the video; None: what the video says.
    degrees_per_pixel : of the video; "fill": as large as it takes to cover the recording's frame; None: what the video
        says, and where it says nothing, as large as the recording's, whose size the frames then have to have.
    pixel_scale, pixel_offset : a pixel value x is shown as ``pixel_scale`` · x + ``pixel_offset``, in the recording's
        units.
    transforms : those that the twin was trained with; the pixels' are applied.

    Raises
    ------
    ValueError
        Where the rate or the size of a pixel is not known, or nothing of the video would be seen.
    """

    def __init__(
        self,
        video: Video,
        spec: RecordingSpec,
        *,
        frame_rate_hz: float | None = None,
        degrees_per_pixel: float | Literal["fill"] | None = None,
        pixel_scale: float = 1.0,
        pixel_offset: float = 0.0,
        transforms: Mapping[str, Transform] | None = None,
    ) -> None:
        self.video, self.spec = video, spec
        self.pixel_scale, self.pixel_offset = pixel_scale, pixel_offset
        self.transforms = [t for t in (transforms or {}).values() if isinstance(t, FrameTransform)]
        rate_hz = frame_rate_hz or video.frame_rate_hz
        self.ends_s = None if rate_hz is not None else video.ends_s
        if rate_hz is None and self.ends_s is None:
            raise ValueError(f"{video.path}: does not say how many frames it has a second; say frame_rate_hz=…")
        self.rate_hz = rate_hz
        self.ratio = None if rate_hz is None else frames_a_bin(rate_hz, spec.frame_rate_hz)
        self.zoom = self.zoom_of(degrees_per_pixel)
        if self.zoom is not None:
            self.rows, self.columns = (
                Axis(*sizes, self.zoom) for sizes in zip(spec.frame_shape[1:], video.frame_shape[1:], strict=True)
            )
            if not self.rows.cells or not self.columns.cells:
                raise ValueError(
                    f"{video.path}: at this size it would cover no pixel of recording {spec.recording_id}'s frame of "
                    f"{said(spec.frame_shape)}; correct degrees_per_pixel"
                )

    def zoom_of(self, degrees: float | Literal["fill"] | None) -> float | None:
        """Pixels of the recording in one of the video; None where they are the same, and the frames too."""
        own, spec = self.video.frame_shape[1:], self.spec
        wanted = spec.frame_shape[1:]
        if degrees == "fill":
            zoom = max(wanted[0] / own[0], wanted[1] / own[1])
            return None if own == wanted else zoom
        given = degrees if degrees is not None else self.video.degrees_per_pixel
        if given is not None and spec.degrees_per_pixel is not None:
            zoom = given / spec.degrees_per_pixel
            return None if own == wanted and abs(zoom - 1) < EQUAL else zoom
        if degrees is not None:
            remedy = f"say degrees_per_pixel=fill, or give a video of {said(spec.frame_shape)}"
            if own == wanted:
                remedy = "leave degrees_per_pixel out: the frames are of the same size"
            raise ValueError(
                f"degrees_per_pixel={degrees:g}: the model does not know the size of a pixel of recording "
                f"{spec.recording_id}, which its import says by importer.degrees_per_pixel=… before a training; "
                f"{remedy}"
            )
        if own != wanted:
            raise ValueError(
                f"{self.video.path}: its frames are {own[0]}×{own[1]} px, and those of recording {spec.recording_id} "
                f"{wanted[0]}×{wanted[1]}; say how large a pixel of the video is by degrees_per_pixel=… (visual "
                "degrees), or degrees_per_pixel=fill to let it cover the frame"
            )
        return None

    # Time -------------------------------------------------------------------------------------------------------------

    def shown(self, start: int, stop: int) -> np.ndarray:
        """Which frame of the video each bin of a stretch shows, (T,)."""
        if self.ratio is not None:
            p, q = self.ratio.numerator, self.ratio.denominator  # p frames take as long as q bins
            bins = np.arange(1, (stop - start) * q // p + 1)
            return start + -(-bins * p // q) - 1
        ends_s, bin_ends_s = self._ends(start, stop)
        return start + np.searchsorted(ends_s[:-1], bin_ends_s - INSTANT_S, side="left")

    def ended(self, start: int, stop: int) -> np.ndarray:
        """How many frames of a stretch have ended by the end of each bin, (T,)."""
        if self.ratio is not None:
            p, q = self.ratio.numerator, self.ratio.denominator
            return np.arange(1, (stop - start) * q // p + 1) * p // q
        ends_s, bin_ends_s = self._ends(start, stop)
        return np.searchsorted(ends_s, bin_ends_s + INSTANT_S, side="right")

    def _ends(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """When frames of a stretch, and bins, end: s from its begin."""
        assert self.ends_s is not None
        begin_s = 0.0 if start == 0 else self.ends_s[start - 1]
        ends_s = self.ends_s[start:stop] - begin_s
        bins = int((ends_s[-1] + INSTANT_S) * self.spec.frame_rate_hz)
        return ends_s, np.arange(1, bins + 1) / self.spec.frame_rate_hz

    # Frames -----------------------------------------------------------------------------------------------------------

    def frames(self, start: int, stop: int) -> Iterator[np.ndarray]:
        """The bins of a stretch in pieces of at most ``PIECE``, (C, T, H, W)."""
        shown_T = self.shown(start, stop)
        at, low = start, 0
        for frames_CNHW in self.video.frames(start, stop, self.spec.frame_shape[0]):
            after = at + frames_CNHW.shape[1]
            high = int(np.searchsorted(shown_T, after, side="left"))
            wanted, place = np.unique(shown_T[low:high] - at, return_inverse=True)
            placed = self.placed(frames_CNHW[:, wanted]) if len(wanted) else frames_CNHW[:, :0]
            for first in range(0, high - low, PIECE):
                yield placed[:, place[first : first + PIECE]]
            at, low = after, high
            if low == len(shown_T):
                return

    def placed(self, frames_CNHW: np.ndarray) -> np.ndarray:
        """Frames of the video as the recording's."""
        seen = frames_CNHW
        if self.zoom is not None:
            seen = self.resized(seen)
        if self.pixel_scale != 1 or self.pixel_offset != 0:
            seen = seen.astype(np.float32) * np.float32(self.pixel_scale) + np.float32(self.pixel_offset)
        for transform in self.transforms:
            seen = transform.pixels(seen)
        if self.zoom is None or seen.shape[2:] == self.spec.frame_shape[1:]:
            return seen
        _, height, width = self.spec.frame_shape
        whole = np.full((*seen.shape[:2], height, width), self.spec.pixel_mean, np.float32)
        whole[:, :, self.rows.first : self.rows.last, self.columns.first : self.columns.last] = seen
        return whole

    def resized(self, frames_CNHW: np.ndarray) -> np.ndarray:
        """What is seen of the video, at the size of the recording's pixels."""
        box = (self.columns.low, self.rows.low, self.columns.high, self.rows.high)
        size = (self.columns.cells, self.rows.cells)
        out = np.empty((*frames_CNHW.shape[:2], size[1], size[0]), np.float32)
        for channel, frames in enumerate(frames_CNHW):
            for number, frame in enumerate(frames):
                image = Image.fromarray(np.ascontiguousarray(frame, np.float32))
                out[channel, number] = np.asarray(image.resize(size, Image.Resampling.BILINEAR, box=box))
        return out

    # Words ------------------------------------------------------------------------------------------------------------

    def lines(self) -> list[str]:
        """How the video is brought to the recording's rate and pixels, a line each."""
        spec = self.spec
        if self.rate_hz is None:
            rate = "frames of different lengths"
        else:
            rate = f"{self.rate_hz:g} Hz"
        if self.ratio == 1:
            time = f"{rate}, as the model's bins"
        else:
            time = f"{rate} brought to {spec.frame_rate_hz:g} Hz: each bin shows the newest frame begun before its end"
        own = said(self.video.frame_shape)
        if self.zoom is None:
            space = f"frames of {own}, pixel for pixel"
        else:
            angle = "" if spec.degrees_per_pixel is None else f" of {spec.degrees_per_pixel:g}°"
            space = (
                f"frames of {own}, each pixel {self.zoom:.4g} times as wide as the recording's{angle}: rows "
                f"{self.rows.first}:{self.rows.last} and columns {self.columns.first}:{self.columns.last} of "
                f"{said(spec.frame_shape)} are covered, by rows {self.rows.low:.1f}:{self.rows.high:.1f} and columns "
                f"{self.columns.low:.1f}:{self.columns.high:.1f} of the video"
            )
            if (self.rows.cells, self.columns.cells) != spec.frame_shape[1:]:
                space += "; the rest is at the mean pixel"
        lines = [time, *self.video.notes, space]
        if (spec.frame_shape[0], self.video.frame_shape[0]) == (1, 3):
            lines.append("colors become their luminance (0.299 red + 0.587 green + 0.114 blue)")
        if self.pixel_scale != 1 or self.pixel_offset != 0:
            lines.append(f"pixel values x are shown as {self.pixel_scale:g} x + {self.pixel_offset:g}")
        return lines


class Axis:
    """Where a video lies along one side of a frame, both with one middle.

    Parameters
    ----------
    size, own : pixels of the frame and of the video along the side.
    zoom : pixels of the frame in one of the video.

    Attributes
    ----------
    first, last : the frame's pixels that the video covers, half open.
    low, high : where these begin and end in the video, in its pixels.
    """

    def __init__(self, size: int, own: int, zoom: float) -> None:
        begin = (size - own * zoom) / 2  # of the video, in the frame's pixels
        self.first = max(0, math.ceil(begin - EQUAL))
        self.last = max(self.first, min(size, math.floor(begin + own * zoom + EQUAL)))
        self.low = min(max(0.0, (self.first - begin) / zoom), own)
        self.high = min(max(self.low, (self.last - begin) / zoom), own)

    @property
    def cells(self) -> int:
        return self.last - self.first


def frames_a_bin(video_hz: float, model_hz: float) -> Fraction:
    """Frames of the video in a bin of the model. Bins keep the model's time, so that rates have to be nearer to each
    other than a recording's to count as equal, 0.05 %: frames may be shown twice, or not, where counts may not."""
    if video_hz < model_hz:
        return 1 / frames_a_bin(model_hz, video_hz)
    return Fraction(video_hz / model_hz).limit_denominator(STEPS)
