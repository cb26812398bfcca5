"""Videos in a container (mp4, avi, gif, mkv, …), decoded by PyAV, which comes with the extra ``vivit-core[video]``.

What is asked of the file is the frames' times, which need no decoding, how the first frame is to be turned, and then
the frames in their order. Nothing but the file itself is opened, whatever the container names.

Shape letters: H W pixels, C colors.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from vivit_core.data.video.source import PIECE, Video, in_channels
from vivit_core.system.plain import in_a_line

# Those that hold their frames themselves; a playlist would open other files, and addresses.
CONTAINERS = "mov,avi,gif,matroska,webm,mpeg,mpegts,mpegvideo,m4v,ogg,asf,flv,apng,yuv4mpegpipe,h264,hevc,dv,wav"
ODD = 0.25  # of a frame: where none begins farther from its place, the video has one rate
EQUAL = 0.01  # relative difference of a pixel's sides, and of a turn from a right one, below which there is none


class DecodedVideo(Video):
    """A file that PyAV reads.

    Parameters
    ----------
    path : the file.

    Raises
    ------
    ValueError
        Where PyAV is not installed, or the file is no video, or one without a frame, or its frames are to be turned by
        other than right angles, or have pixels that are not square.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with opened(path) as (container, stream):
            packets, discarded = list[tuple[int | None, int]](), 0
            for packet in container.demux(stream):
                if packet.is_discard:
                    discarded += 1
                elif packet.size:
                    packets.append((packet.pts if packet.pts is not None else packet.dts, packet.duration or 0))
            if not packets:
                raise ValueError(f"{path}: a video without a frame; give one that has some")
            if stream.frames > len(packets) + discarded:
                raise cut_off(path, len(packets), stream.frames)
            self.n_frames = len(packets)
            self.frame_shape = (3, stream.height, stream.width)
            if not stream.height or not stream.width:
                raise ValueError(f"{path}: its frames have no size; write the video anew")
            aspect = float(stream.sample_aspect_ratio or 1)  # 0 and None: not known
            if abs(aspect - 1) > EQUAL:
                raise ValueError(
                    f"{path}: its pixels are {aspect:.4g} times as wide as high, and the model's are square; write it "
                    f'anew by ffmpeg -i {path.name} -vf "scale=iw*sar:ih,setsar=1" OUT{path.suffix}'
                )
            self.time(packets, stream)
        with opened(path) as (container, stream):  # anew: not every stream can be wound back
            self.turn = Turn.of(next(container.decode(stream), None), path)
        if self.turn.swapped:
            self.frame_shape = (3, self.frame_shape[2], self.frame_shape[1])
        if self.turn != Turn():
            self.notes = ("frames are turned as the file says (its display matrix)",)

    def time(self, packets: list[tuple[int | None, int]], stream: Any) -> None:
        """Set the rate, or when each frame ends, by the time and the length of each packet."""
        if any(pts is None for pts, _ in packets):  # a raw stream without times
            self.frame_rate_hz = float(stream.average_rate) if stream.average_rate else None
            return
        times = np.array(sorted(packets), float) * float(stream.time_base)
        begins_s, last_s = times[:, 0] - times[0, 0], times[-1, 1]
        self.frame_rate_hz = one_rate(begins_s, float(stream.average_rate or 0), last_s)
        if self.frame_rate_hz is None and len(begins_s) > 1:  # a single frame of no length says nothing
            last_s = last_s or float(np.median(np.diff(begins_s)))
            self.ends_s = np.append(begins_s[1:], begins_s[-1] + last_s)

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        number, waiting = 0, list[np.ndarray]()
        with opened(self.path) as (container, stream):
            for frame in container.decode(stream):
                if number >= stop:
                    break
                if number >= start:
                    pixels = self.turn.turned(frame.to_ndarray(format="rgb24"))
                    if pixels.shape[:2] != self.frame_shape[1:]:
                        raise ValueError(
                            f"{self.path}: frame {number} is {pixels.shape[0]}×{pixels.shape[1]} px, and the video "
                            f"{self.frame_shape[1]}×{self.frame_shape[2]}; cut it where the size changes"
                        )
                    waiting.append(pixels)
                number += 1
                if len(waiting) == PIECE:
                    yield in_channels(rearrange(np.stack(waiting), "t h w c -> c t h w"), channels, self.path)
                    waiting = []
        if number < stop:
            raise cut_off(self.path, number, self.n_frames)
        if waiting:
            yield in_channels(rearrange(np.stack(waiting), "t h w c -> c t h w"), channels, self.path)


@dataclass(frozen=True)
class Turn:
    """How a video's frames are to be turned before they are shown.

    Parameters
    ----------
    swapped : rows become columns.
    rows, columns : 1, or -1 where they are reversed after that.
    """

    swapped: bool = False
    rows: int = 1
    columns: int = 1

    @classmethod
    def of(cls, frame: Any, path: Path) -> Turn:
        """By the display matrix of a frame, which takes a point (x, y) to (a x + c y, b x + d y).

        Raises
        ------
        ValueError
            Where it turns by no multiple of 90°.
        """
        matrix = None if frame is None else frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return cls()
        a, b, _, c, d, *_ = np.frombuffer(bytes(matrix), np.int32).astype(float)
        straight, across = max(abs(a), abs(d)), max(abs(b), abs(c))
        if across <= EQUAL * straight:
            return cls(False, -1 if d < 0 else 1, -1 if a < 0 else 1)
        if straight <= EQUAL * across:
            return cls(True, -1 if b < 0 else 1, -1 if c < 0 else 1)
        raise ValueError(
            f"{path}: its frames are to be turned by {abs(np.degrees(np.arctan2(b, a))):.3g}° when shown, and only "
            f"right angles are known; write it anew by ffmpeg -i {path.name} OUT{path.suffix}, which turns them"
        )

    def turned(self, frame_HWC: np.ndarray) -> np.ndarray:
        return (frame_HWC.swapaxes(0, 1) if self.swapped else frame_HWC)[:: self.rows, :: self.columns]


def cut_off(path: Path, there: int, wanted: int) -> ValueError:
    return ValueError(
        f"{path}: {there} of its {wanted} frames can be read: the file is damaged or cut off; write it anew, or cut it "
        "there"
    )


def one_rate(begins_s: np.ndarray, said_hz: float, last_s: float) -> float | None:
    """The rate of frames that begin at these times; None where they have none in common.

    Containers round times, some of them to milliseconds, so what the file says of its rate is taken where the times
    do not speak against it.

    Parameters
    ----------
    begins_s : (N,) from the first one's.
    said_hz : what the container says; 0 where it says nothing.
    last_s : length of the last frame; 0 where it is not known.
    """
    n = len(begins_s)
    measured_hz = (n - 1) / begins_s[-1] if n > 1 and begins_s[-1] > 0 else 1 / last_s if last_s > 0 else 0.0
    for rate_hz in (said_hz, measured_hz):
        if rate_hz > 0 and np.abs(begins_s - np.arange(n) / rate_hz).max() * rate_hz <= ODD:
            return float(rate_hz)
    return None


@contextmanager
def opened(path: Path) -> Iterator[tuple[Any, Any]]:
    """The container and its first video stream; whatever the decoder says of a broken file is one line.

    PyAV says nothing of its own, which is its default. At any level of ``av.logging`` the codec's threads wait for
    Python's lock to say something, and a close that holds the lock waits for these threads, for ever.
    """
    try:
        import av
    except ImportError as error:
        raise ValueError(
            f'{path}: videos are decoded by PyAV, which is not installed: pip install "vivit-core[video]". '
            "A folder of images, an .npy or .npz file, and a recording file need none"
        ) from error
    try:
        with av.open(f"file:{path.absolute()}", options={"format_whitelist": CONTAINERS}) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: has no video stream; give a video (mp4, avi, gif, …)")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        raise ValueError(
            f"{path}: not a readable video ({type(error).__name__}: {in_a_line(error)}); write it anew, or give "
            "a folder of images"
        ) from error
