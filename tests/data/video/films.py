"""Small videos of known pixels."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

LEVELS = np.linspace(20, 230, 40).astype(np.uint8)  # of the frames


def gray(frames: int = 40, height: int = 32, width: int = 48) -> np.ndarray:
    """(N, H, W) uint8: each frame has one level."""
    return np.broadcast_to(LEVELS[np.arange(frames) % len(LEVELS), None, None], (frames, height, width)).copy()


def write(
    path: Path,
    frames: np.ndarray,
    rate_hz: float = 30.0,
    codec: str = "libx264",
    pix: str = "yuv420p",
    aspect: Fraction | None = None,
) -> Path:
    """A video of frames (N, H, W) or (N, H, W, 3), whose pixels are ``aspect`` times as wide as high."""
    colored = np.repeat(frames[..., None], 3, -1) if frames.ndim == 3 else frames
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=Fraction(rate_hz).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = *colored.shape[1:3], pix
        if aspect is not None:
            stream.codec_context.sample_aspect_ratio = aspect
        for frame in colored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def turn(path: Path, a: float, b: float, c: float, d: float) -> Path:
    """The mp4 file with a display matrix that takes a point (x, y) to (a x + c y, b x + d y)."""
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44  # after version, flags, times, id, duration, layer, group and volume
    numbers = (round(65536 * value) for value in (a, b, 0, c, d, 0, 0, 0))
    data[at : at + 36] = struct.pack(">9i", *numbers, 0x40000000)
    path.write_bytes(data)
    return path


def images(folder: Path, frames: np.ndarray, names: Sequence[str] | None = None) -> Path:
    """A folder of images, by default 0.png, 1.png, …, 10.png, ….."""
    from PIL import Image

    folder.mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(folder / (names[number] if names else f"{number}.png"))
    return folder
