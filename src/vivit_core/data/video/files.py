"""Videos in other files: a folder of images, an .npy or .npz file, a recording file; and the one function that opens
any video."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from einops import rearrange
from PIL import Image, ImageOps, UnidentifiedImageError

from vivit_core.data.npy import DAMAGED_NPY, open_npy
from vivit_core.data.recording.inputs import check_frames
from vivit_core.data.recording.reader import Recording
from vivit_core.data.video.decoder import DecodedVideo
from vivit_core.data.video.source import PIECE, Video, in_channels
from vivit_core.names import few
from vivit_core.specs import RecordingError
from vivit_core.system.plain import in_a_line

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".gif", ".webp", ".pgm", ".ppm")
RECORDINGS = (".h5", ".hdf5")
MID_GRAY = (128, 128, 128, 255)  # what shows through where an image is transparent


def open_video(path: str | Path) -> Video:
    """A video: a folder of images, an .npy or .npz file, a recording file (.h5), or a file that PyAV decodes.

    Raises
    ------
    ValueError
        Where there is no such file, it cannot be read, or has no frame; one line that names it.
    """
    path = Path(path)
    if path.is_dir():
        return ImageFolder(path)
    if not path.is_file():
        raise ValueError(f"{path}: there is no such video (seen from {Path.cwd()}); correct the path")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: the file is empty; give a video that has frames")
    if path.suffix.lower() == ".npy":
        return NpyVideo(path)
    if path.suffix.lower() == ".npz":
        return NpzVideo(path)
    return RecordedVideo(path) if path.suffix.lower() in RECORDINGS else DecodedVideo(path)


class ImageFolder(Video):
    """Images of one size, in the order of their names; numbers in names count as numbers, so 2.png is before 10.png.

    Parameters
    ----------
    path : the folder.
    images : those of its images that are the frames, in their order; None: all.
    """

    def __init__(self, path: Path, images: Sequence[Path] | None = None) -> None:
        self.path = path
        there = (file for file in path.iterdir() if file.suffix.lower() in IMAGES)
        self.images = sorted(there, key=natural) if images is None else list(images)
        if not self.images:
            raise ValueError(f"{path}: holds no image ({', '.join(IMAGES)}); give a folder of a video's frames")
        self.n_frames = len(self.images)
        first = pixels_of(self.images[0])
        self.frame_shape = (first.shape[0], first.shape[1], first.shape[2])

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        for low in range(start, stop, PIECE):
            images = self.images[low : min(stop, low + PIECE)]
            yield np.stack([self.image(image, channels) for image in images], axis=1)

    def image(self, path: Path, channels: int) -> np.ndarray:
        pixels = pixels_of(path)
        if pixels.shape[1:] != self.frame_shape[1:]:
            raise ValueError(
                f"{path} has {pixels.shape[1]}×{pixels.shape[2]} px, and {self.images[0].name} "
                f"{self.frame_shape[1]}×{self.frame_shape[2]}; a video's frames are of one size"
            )
        return in_channels(pixels[:, None], channels, path)[:, 0]


def natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """How file names are sorted: what is a number by its value."""
    words = re.split(r"([0-9]+)", path.name)
    return [(int(word), "") if word.isdecimal() else (-1, word) for word in words], path.name


def pixels_of(path: Path) -> np.ndarray:
    """An image's pixels, (1 or 3, H, W) uint8; turned as its EXIF says, and over mid gray where it is transparent."""
    try:
        with Image.open(path) as stored:
            image = ImageOps.exif_transpose(stored)
            if image.mode in ("I", "F") or image.mode.startswith("I;16"):
                raise ValueError(f"{path}: has more than 8 bits a pixel; give such frames as an .npy file")
            gray = image.mode in ("1", "L", "LA")
            if "A" in image.getbands() or "transparency" in image.info:
                image = Image.alpha_composite(Image.new("RGBA", image.size, MID_GRAY), image.convert("RGBA"))
            return np.atleast_3d(np.asarray(image.convert("L" if gray else "RGB"))).transpose(2, 0, 1)
    except (OSError, SyntaxError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path}: not a readable image ({in_a_line(error)}); write it anew") from error


class NpyVideo(Video):
    """An array in an .npy file, (N, H, W) or (N, H, W, C), which stays on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        what = "frames: (frames, height, width), or (frames, height, width, colors)"
        self.array = open_npy(path.parent, path.name, (3, 4), "biuf", what)
        check_frames(path, self.array, None, "frames")
        self.n_frames, height, width, *channels = self.array.shape
        self.frame_shape = (channels[0] if channels else 1, height, width)

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        for low in range(start, stop, PIECE):
            yield piece(self.array[low : min(stop, low + PIECE)], channels, self.path)


class NpzVideo(Video):
    """The array ``frames`` of an .npz file, or its only one; read a piece at a time, though it may be compressed."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "frames" not in names and len(names) != 1:
                raise ValueError(f"it holds {few(names) or 'no array'}, and the video should be called frames")
            self.member = "frames.npy" if "frames" in names else f"{names[0]}.npy"
            with self.rows() as (_, shape, self.dtype):
                check_frames(path, Shape(shape, self.dtype), None, "frames")
        except RecordingError:
            raise
        except DAMAGED_NPY as error:
            raise ValueError(f"{path}: not a readable .npz file ({in_a_line(error)}); np.savez writes one") from error
        self.shape = shape
        self.n_frames, height, width, *channels = shape
        self.frame_shape = (channels[0] if channels else 1, height, width)

    @contextmanager
    def rows(self) -> Iterator[tuple[IO[bytes], tuple[int, ...], np.dtype]]:
        """The member's bytes after its header, its shape and its type."""
        with zipfile.ZipFile(self.path) as archive, archive.open(self.member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, columns_first, dtype = read(file)
            if columns_first:
                raise ValueError("its frames are in Fortran's order; save np.ascontiguousarray(frames)")
            yield file, shape, dtype

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        row_bytes = int(np.prod(self.shape[1:])) * self.dtype.itemsize
        try:
            with self.rows() as (file, _, _):
                file.seek(file.tell() + start * row_bytes)
                for low in range(start, stop, PIECE):
                    rows = min(stop, low + PIECE) - low
                    data = file.read(rows * row_bytes)
                    if len(data) < rows * row_bytes:
                        raise EOFError(f"it ends at frame {low + len(data) // row_bytes} of {self.n_frames}")
                    yield piece(np.frombuffer(data, self.dtype).reshape(rows, *self.shape[1:]), channels, self.path)
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{self.path}: cannot be read to its end ({in_a_line(error)}); save it again") from error


class Shape:
    """An array's shape and type, without the array."""

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self.shape, self.dtype = shape, dtype

    def __getitem__(self, key: object) -> np.ndarray:
        raise TypeError("it has no numbers")


def piece(frames: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """Rows of an array as (C, T, H, W) float32, or uint8 where they are."""
    kept = frames if frames.dtype == np.uint8 else frames.astype(np.float32)
    return in_channels(kept[None] if kept.ndim == 3 else rearrange(kept, "t h w c -> c t h w"), channels, path)


class RecordedVideo(Video):
    """The stimulus of a recording file, trial by trial, with its behavior."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recording = Recording(path)
        info = self.recording.info
        self.n_frames, self.frame_shape = info.n_frames, info.frame_shape
        self.frame_rate_hz, self.degrees_per_pixel = info.frame_rate_hz, info.degrees_per_pixel

    @property
    def stretches(self) -> list[tuple[int, int]]:
        trials = self.recording.info.trials
        return list(zip(trials.start.tolist(), trials.stop.tolist(), strict=True))

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        for low in range(start, stop, PIECE):
            yield in_channels(self.recording.frames(low, min(stop, low + PIECE)), channels, self.path)

    def behavior(self, start: int, stop: int) -> Mapping[str, np.ndarray]:
        return {
            name: self.recording.behavior(start, stop, {name: width})
            for name, width in self.recording.info.behavior.items()
        }
