"""The pictures of an NWB file, and which of them is shown when: stored frames, films that lie outside the file, and
templates that an IndexSeries or a table of presentations points into.

Shape letters: F frames or presentations, in order of time; N pictures; T frames of a piece; H W pixels; C colors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import h5py
import numpy as np
from einops import rearrange

from vivit_core.data.importers.nwb_file import own_array, times_of, word
from vivit_core.data.importers.sliceable import pixel_type
from vivit_core.data.video.decoder import DecodedVideo
from vivit_core.data.video.files import IMAGES, ImageFolder, open_video
from vivit_core.data.video.source import Video
from vivit_core.specs import RecordingError
from vivit_core.system.terminal import track

BLANK, UNKNOWN = -1, -2  # in the place of a picture's number: the empty screen; what is not imported
NOTHING = ("", "-1", "nan", "null", "None")  # entries of a table that name no picture
CLOSE = 0.25  # of a picture's time: presentations that are no farther apart follow each other at once


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures by number, wherever they are stored."""

    size: tuple[int, ...]  # H, W[, C]
    dtype: type[np.uint8] | type[np.float32]
    number: int
    read: Callable[[np.ndarray], np.ndarray]  # numbers, in any order -> (T, H, W[, C])
    names: tuple[str, ...] = ()  # one a picture, or none


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown when: the pictures, and from when on each stands."""

    pictures: Pictures
    times_F: np.ndarray  # s, rising
    picture_F: np.ndarray  # its number, BLANK or UNKNOWN
    indexed: bool  # whether one picture may be shown several times


# Pictures ----------------------------------------------------------------------------------------------------------


def pictures_of(
    source: Path, field: str, holder: Any, axes: str, films: Path | None, channels: int, notes: list[str]
) -> Pictures:
    """The pictures of an ImageSeries, or of Images.

    Parameters
    ----------
    source, field : file and place of the pictures, for messages.
    holder : of pynwb.
    axes : of stored pictures, ``t h w`` or ``t w h``.
    films : folder of those that lie outside; None: the file's own.
    channels : of those.
    notes : lines on what was chosen are added.

    Raises
    ------
    ValueError
        Where pictures are missing, elsewhere, or of different sizes.
    """
    from pynwb.base import Images

    turned = "t w h ... -> t h w ..." if axes == "t w h" else "t h w ... -> t h w ..."
    if isinstance(holder, Images):
        return _listed(source, field, holder, turned)
    if holder.external_file is not None and len(holder.external_file):
        return _outside(source, field, holder, films, channels, notes)
    stored = own_array(source, f"{field}/data", holder.data)
    if stored.ndim not in (3, 4) or 0 in stored.shape or np.dtype(stored.dtype).kind not in "biuf":
        raise RecordingError(
            source, f"{field}/data", f"has shape {stored.shape} and type {stored.dtype}", "Store (T, H, W[, C]) numbers"
        )
    size = rearrange(np.empty((1, *stored.shape[1:]), bool), turned).shape[1:]
    return Pictures(
        size, pixel_type(stored), len(stored), lambda rows: rearrange(_rows_of(stored, rows), turned), _names(holder)
    )


def _listed(source: Path, field: str, images: Any, turned: str) -> Pictures:
    order = images.order_of_images
    listed = list(order.data[:]) if order is not None else list(images.images.values())
    one = [own_array(source, f"{field}/{image.name}", image.data) for image in listed]
    shapes = {tuple(image.shape) for image in one}
    if len(shapes) != 1:
        raise RecordingError(source, field, f"has images of sizes {sorted(shapes)}", "Give all one size")
    dtype = np.uint8 if all(image.dtype == np.uint8 for image in one) else np.float32

    def read(rows: np.ndarray) -> np.ndarray:
        unique, back = np.unique(rows, return_inverse=True)
        return rearrange(np.stack([np.asarray(one[i][()]) for i in unique])[back], turned)

    return Pictures(read(np.zeros(1, np.int64)).shape[1:], dtype, len(one), read, tuple(i.name for i in listed))


def _rows_of(data: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an array on disk, in any order and repeated, each read once."""
    unique, back = np.unique(rows, return_inverse=True)
    low, high = int(unique[0]), int(unique[-1]) + 1
    if high - low <= 2 * len(unique):
        return np.asarray(data[low:high])[unique - low][back]
    return np.asarray(data[unique])[back]


def _names(series: Any) -> tuple[str, ...]:
    """What a series calls each of its pictures (``control`` and ``control_description``), as the Allen Institute's
    templates do."""
    if series.control is None or series.control_description is None:
        return ()
    said = [word(value) for value in series.control_description[:]]
    which = np.asarray(series.control[:], np.int64)
    return tuple(said[i] for i in which) if len(which) and which.min() >= 0 and which.max() < len(said) else ()


# Films outside the file --------------------------------------------------------------------------------------------


def _outside(source: Path, field: str, series: Any, folder: Path | None, channels: int, notes: list[str]) -> Pictures:
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
        own = video.frame_rate_hz
        if series.rate and own is not None and abs(own / series.rate - 1) > 0.01:
            notes.append(f"{video.path.name} says {own:g} frames a second, the series {series.rate:g}, which is taken")
        if series.rate and video.ends_s is not None:
            notes.append(f"frames of {video.path.name} last unlike; the series says {series.rate:g} a second")
    if channels == 1 and videos[0].frame_shape[0] == 3:
        notes.append("colors became luminance (importer.film_channels)")
    read = Films(videos, channels)
    return Pictures((*read.size,), read.dtype, number, read, _names(series))


def film_at(source: Path, field: str, name: str, folder: Path | None) -> Path:
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
    place = source.parent if folder is None else folder
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
        whole = all(isinstance(video, DecodedVideo | ImageFolder) for video in videos)
        self.dtype: type[np.uint8] | type[np.float32] = np.uint8 if whole else np.float32
        self.size = (*videos[0].frame_shape[1:], *((channels,) if channels > 1 else ()))
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


# What is shown when --------------------------------------------------------------------------------------------------


def shown_by_series(source: Path, series: Any, pictures: Callable[[str, Any], Pictures]) -> Shown:
    """The pictures of a series in its own time: an ImageSeries, or an IndexSeries and what it points into."""
    from pynwb.image import IndexSeries

    field = f"stimulus/presentation/{series.name}"
    if not isinstance(series, IndexSeries):
        own = pictures(field, series)
        return Shown(own, times_of(source, series, field, own.number), np.arange(own.number), False)
    holder, name = (
        (series.indexed_timeseries, "indexed_timeseries")
        if series.indexed_timeseries is not None
        else (series.indexed_images, "indexed_images")
    )
    if holder is None:
        raise RecordingError(source, field, "points into no template", "Give it indexed_images")
    own = pictures(f"{field}/{name}", holder)
    index = np.asarray(own_array(source, field, series.data)[:], np.int64)
    if len(index) and not (index.min() >= 0 and index.max() < own.number):
        raise RecordingError(
            source, field, f"asks for image {index.min()} … {index.max()} of {own.number}", "Correct the index"
        )
    return Shown(own, times_of(source, series, field, len(index)), index, True)


def shown_by_table(
    source: Path,
    table: Any,
    column: str,
    keep: Mapping[str, Sequence[str]],
    blank: Sequence[str],
    holder: Any,
    pictures: Pictures,
    left_out: list[str],
    notes: list[str],
) -> Shown:
    """The pictures of a template, as a table of intervals shows them; between them the screen is empty.

    Parameters
    ----------
    source : the file, for messages.
    table : with start_time and stop_time, s.
    column : the number or the name of each row's picture; or references to a stretch of the template's frames, which
        are shown one after the other, each for the same part of the interval.
    keep : column -> values; rows with others show something that is not imported.
    blank : entries of ``column`` that mean the empty screen, beside -1 and nothing.
    holder, pictures : the template.
    left_out, notes : lines are added.

    Raises
    ------
    RecordingError
        Where the table has no such column, names no such picture, or its rows overlap.
    """
    field = f"intervals/{table.name}"
    for name in (column, *keep):
        if name not in table.colnames:
            raise RecordingError(
                source, f"{field}/{name}", f"missing; the columns are {list(table.colnames)}",
                "Correct importer.picture_column or importer.keep_presentations",
            )  # fmt: skip
    begin, end = (np.asarray(table[name][:], np.float64) for name in ("start_time", "stop_time"))
    timed = np.isfinite(begin) & np.isfinite(end) & (end > begin)
    if not timed.all():
        left_out.append(f"{int((~timed).sum())} presentations without a time from start to stop")
    first, count = _numbers(source, f"{field}/{column}", table[column], blank, holder, pictures, notes)
    own = np.ones(len(begin), bool)
    for name, values in keep.items():
        own &= np.array([word(value) in values for value in table[name][:]])
    if (other := int((timed & ~own).sum())) > 0:
        said = " and ".join(f"{name} is {' or '.join(values)}" for name, values in keep.items())
        left_out.append(f"{other} presentations of {len(begin)}: not one whose {said}")
    first = np.where(own, first, UNKNOWN)
    bad = np.flatnonzero(timed & own & (first >= 0) & (first + count > pictures.number))
    if len(bad):
        raise RecordingError(
            source, f"{field}/{column}",
            f"row {bad[0]} asks for picture {first[bad[0]] + count[bad[0]] - 1} of {pictures.number}",
            "Correct the table, or choose another template by importer.stimulus",
        )  # fmt: skip
    rows = np.flatnonzero(timed)[np.argsort(begin[timed], kind="stable")]
    begin, end, first, count = begin[rows], end[rows], first[rows], count[rows]
    if not (first >= 0).any():
        raise RecordingError(
            source, field, f"no row of {len(own)} shows a picture", "Change importer.keep_presentations"
        )
    near_s = CLOSE * float(np.median((end - begin)[first >= 0] / count[first >= 0]))
    after = np.append(begin[1:], np.inf)
    if len(over := np.flatnonzero(end > after + near_s)):
        raise RecordingError(
            source, field, f"row {rows[over[0] + 1]} starts before row {rows[over[0]]} ends",
            "Choose rows that do not overlap by importer.keep_presentations, and another table for the others",
        )  # fmt: skip
    end = np.where(np.abs(after - end) <= near_s, after, end)
    times, shown = list[float](), list[int]()
    for start, stop, number, frames, then in zip(begin, end, first.tolist(), count.tolist(), after, strict=True):
        frames = frames if number >= 0 else 1
        times += (start + np.arange(frames) * (stop - start) / frames).tolist()
        shown += [number + i if number >= 0 else number for i in range(frames)]
        if stop < then:
            times.append(float(stop))
            shown.append(BLANK if np.isfinite(then) else UNKNOWN)  # after the last one nobody knows
    return Shown(pictures, np.array(times), np.array(shown), True)


def _numbers(
    source: Path, field: str, column: Any, blank: Sequence[str], holder: Any, pictures: Pictures, notes: list[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The first picture of each row, or BLANK, or UNKNOWN; and how many it shows."""
    from pynwb.base import TimeSeriesReferenceVectorData

    if isinstance(getattr(column, "target", column), TimeSeriesReferenceVectorData):
        first, count = [], []
        for row in track(range(len(column)), f"{source.name}: look through {field}"):
            entry = column[row]
            own = [one for one in (entry if isinstance(entry, list) else [entry]) if one.timeseries is holder]
            first.append(int(own[0].idx_start) if len(own) == 1 and own[0].count > 0 else UNKNOWN)
            count.append(int(own[0].count) if first[-1] >= 0 else 1)
        return np.array(first, np.int64), np.array(count, np.int64)
    words = [word(value) for value in column[:]]
    place = {name: i for i, name in enumerate(pictures.names)}
    numbers = np.full(len(words), UNKNOWN, np.int64)
    for row, value in enumerate(words):
        if value in blank or value in NOTHING:
            numbers[row] = BLANK
        elif value in place:
            numbers[row] = place[value]
        elif value.removesuffix(".0").isdecimal():
            numbers[row] = int(value.removesuffix(".0"))
        else:
            known = f"names such as {', '.join(pictures.names[:3])}" if pictures.names else "numbers alone"
            raise RecordingError(
                source, field, f"row {row} says {value!r}; the template has {pictures.number} pictures, with {known}",
                "Choose another column by importer.picture_column, or say what is no picture by "
                "importer.blank_pictures=[…]",
            )  # fmt: skip
    if empty := int((numbers == BLANK).sum()):
        notes.append(f"{empty} presentations of no picture: the empty screen (importer.background)")
    return numbers, np.ones(len(words), np.int64)
