"""Films that lie outside an NWB file, which names them in ``external_file``.

Shape letters: T frames of a piece, H W pixels, C colors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from einops import rearrange

from vivit_core.data.importers.nwb_file import word
from vivit_core.data.importers.remote import Remote
from vivit_core.data.video.decoder import DecodedVideo
from vivit_core.data.video.files import IMAGES, ImageFolder, open_video
from vivit_core.data.video.source import Video
from vivit_core.specs import RecordingError


def films_outside(
    source: Path | Remote, field: str, series: Any, folder: Path | None, channels: int, notes: list[str]
) -> Films:
    """The films of an ImageSeries.

    Parameters
    ----------
    source, field : file and place of the series, for messages.
    series : of pynwb.
    folder : where films are looked for; None: the file's own.
    channels : of the films.
    notes : lines on what was chosen are added.

    Raises
    ------
    ValueError
        Where a film is not there or cannot be read, or their frames are not those that the series says.
    """
    field = f"{field}/external_file"
    paths = [film_at(source, field, word(name), folder) for name in series.external_file[:]]
    videos: list[Video] = (
        [ImageFolder(paths[0].parent, paths)]
        if all(path.suffix.lower() in IMAGES and path.suffix.lower() != ".gif" for path in paths)
        else [open_video(path) for path in paths]
    )
    firsts = np.cumsum([0, *(video.n_frames for video in videos)])
    said = np.asarray(series.starting_frame[:], np.int64) if series.starting_frame is not None else firsts[:1]
    if len(videos) == len(said) and (wrong := np.flatnonzero(said != firsts[:-1])).size:
        raise RecordingError(
            source, field.replace("external_file", "starting_frame"),
            f"says that film {wrong[0]} begins at frame {said[wrong[0]]}, and those before it have "
            f"{firsts[wrong[0]]} frames", "Correct starting_frame, or give the films that were shown",
        )  # fmt: skip
    if len(sizes := {video.frame_shape[1:] for video in videos}) != 1:
        raise RecordingError(source, field, f"names films of sizes {sorted(sizes)}", "Give films of one size")
    number = int(firsts[-1])
    wanted = len(series.timestamps) if series.timestamps is not None else getattr(series, "num_samples", None)
    if wanted is not None and int(wanted) != number:
        raise RecordingError(
            source, field, f"has {number} frames, and the series {int(wanted)} times",
            "Give one time a frame, or the film that was shown",
        )  # fmt: skip
    notes.append(f"{field}: {number} frames of {', '.join(path.name for path in paths[:3])}" + (
        f" and {len(paths) - 3} more files" if len(paths) > 3 else "") + ", timed by the series")  # fmt: skip
    for video in videos:
        notes += [f"{video.path.name}: {note}" for note in video.notes]
        own = video.frame_rate_hz
        if series.rate and own is not None and abs(own / series.rate - 1) > 0.01:
            notes.append(f"{video.path.name} says {own:g} frames a second, the series {series.rate:g}, which is taken")
        if series.rate and video.ends_s is not None:
            notes.append(f"frames of {video.path.name} last unlike; the series says {series.rate:g} a second")
    if channels == 1 and videos[0].frame_shape[0] == 3:
        notes.append("colors became luminance (importer.film_channels)")
    return Films(videos, channels)


def film_at(source: Path | Remote, field: str, name: str, folder: Path | None) -> Path:
    """The file of a film that an NWB file names. It is looked for under its path and under its bare name, in one
    folder and nowhere else: what a stranger's file names is not followed out of it.

    Raises
    ------
    RecordingError
        Where it is not there.
    """
    if "://" in name:
        raise RecordingError(
            source, field, f"names {name}, which is not in a folder",
            "Download it, and name its folder by importer.films=FOLDER",
        )  # fmt: skip
    if folder is not None:
        place = folder
    elif isinstance(source, Path):
        place = source.parent
    else:
        raise RecordingError(
            source, field, f"names {name}, which is not in the file",
            "Download the film, and name its folder by importer.films=FOLDER",
        )  # fmt: skip
    plain = name.replace("\\", "/")  # as Windows writes it
    for path in (place / plain, place / PurePosixPath(plain).name):
        if path.exists() and path.resolve().is_relative_to(place.resolve()):
            return path
    raise RecordingError(
        source, field, f"names {name}, which is not in {place}",
        "Copy the film there, or name its folder by importer.films=FOLDER",
    )  # fmt: skip


def films_of(source: Path, folder: Path | None) -> list[Path]:
    """The files outside an NWB file that hold its films, as far as they are there."""
    found = list[Path]()
    try:
        with h5py.File(source) as file:
            for group in ("stimulus/presentation", "stimulus/templates"):
                for name, series in dict(file.get(group, {})).items():
                    if isinstance(series, h5py.Group) and "external_file" in series:
                        field = f"{group}/{name}/external_file"
                        for film in [film_at(source, field, word(n), folder) for n in series["external_file"][:]]:
                            found += sorted(film.iterdir()) if film.is_dir() else [film]
    except (OSError, ValueError, KeyError, RuntimeError, TypeError):  # what is wrong the import itself says
        return found
    return found


class Films:
    """Pictures of films, one after the other, decoded in their order. Asking for an earlier one begins a film anew.

    Parameters
    ----------
    videos : of one size.
    channels : 1 or 3.
    """

    def __init__(self, videos: Sequence[Video], channels: int) -> None:
        self.videos, self.channels = videos, channels
        self.ends = np.cumsum([video.n_frames for video in videos])
        self.number = int(self.ends[-1])
        whole = all(isinstance(video, DecodedVideo | ImageFolder) for video in videos)
        self.dtype: type[np.uint8] | type[np.float32] = np.uint8 if whole else np.float32
        self.size: tuple[int, ...] = (*videos[0].frame_shape[1:], *((channels,) if channels > 1 else ()))
        self._first, self._piece = 0, np.empty((0, *self.size), self.dtype)  # the frames at hand
        self._coming = self._from(0)

    def __call__(self, numbers: np.ndarray) -> np.ndarray:
        unique, back = np.unique(numbers, return_inverse=True)
        return np.stack([self._frame(int(number)) for number in unique])[back]

    def _frame(self, number: int) -> np.ndarray:
        if number < self._first:
            self._first, self._piece, self._coming = number, self._piece[:0], self._from(number)
        while number >= self._first + len(self._piece):
            self._first += len(self._piece)
            self._piece = next(self._coming)
        return self._piece[number - self._first]

    def _from(self, number: int) -> Iterator[np.ndarray]:
        for video, end in zip(self.videos, self.ends.tolist(), strict=True):
            if end > number:
                begin = max(0, number - (end - video.n_frames))
                for frames_CTHW in video.frames(begin, video.n_frames, self.channels):
                    rounded = np.rint(frames_CTHW) if self.dtype is np.uint8 else frames_CTHW
                    form = "c t h w -> t h w c" if self.channels > 1 else "1 t h w -> t h w"
                    yield rearrange(rounded.astype(self.dtype), form)
