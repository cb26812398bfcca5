"""The pictures of an NWB file, and which of them is shown when: stored frames, films that lie outside the file, and
templates that an IndexSeries or a table of presentations points into.

Shape letters: F frames or presentations, in order of time; N pictures; T frames of a piece; H W pixels; C colors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from einops import rearrange

from vivit_core.data.importers.nwb_file import own_array, times_of, word
from vivit_core.data.importers.nwb_films import films_outside
from vivit_core.data.importers.remote import Remote
from vivit_core.data.importers.sliceable import pixel_type
from vivit_core.specs import RecordingError
from vivit_core.system.terminal import track

BLANK, UNKNOWN = -1, -2  # in the place of a picture's number: the empty screen; what is not imported
NOTHING = ("", "-1", "nan", "null", "None")  # entries of a table that name no picture
CLOSE = 0.25  # of a picture's time: by how much presentations may overlap, or be apart and yet follow at once
ROUNDING_S = 1e-6  # of times in a table
JITTER_S = 0.005  # by how much they may be apart at most where no bin is given: less than a frame of most screens


@dataclass(frozen=True, eq=False)
class Pictures:
    """Pictures by number, wherever they are stored."""

    size: tuple[int, ...]  # H, W[, C]
    dtype: type[np.uint8] | type[np.float32]
    number: int
    read: Callable[[np.ndarray], np.ndarray]  # numbers, in any order -> (T, H, W[, C])
    names: tuple[str, ...] = ()  # one a picture, or none
    ordered: bool = True  # whether the file says which number a picture has


@dataclass(frozen=True, eq=False)
class Shown:
    """What is shown when: the pictures, and from when on each stands."""

    pictures: Pictures
    times_F: np.ndarray  # s, rising
    picture_F: np.ndarray  # its number, BLANK or UNKNOWN
    indexed: bool  # whether one picture may be shown several times


# Pictures ----------------------------------------------------------------------------------------------------------


def pictures_of(
    source: Path | Remote, field: str, holder: Any, axes: str, films: Path | None, channels: int, notes: list[str]
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
        outside = films_outside(source, field, holder, films, channels, notes)
        return Pictures(outside.size, outside.dtype, outside.number, outside, _names(holder))
    stored = own_array(source, f"{field}/data", holder.data)
    if stored.ndim not in (3, 4) or 0 in stored.shape or np.dtype(stored.dtype).kind not in "biuf":
        raise RecordingError(
            source, f"{field}/data", f"has shape {stored.shape} and type {stored.dtype}", "Store (T, H, W[, C]) numbers"
        )
    size = rearrange(np.empty((1, *stored.shape[1:]), bool), turned).shape[1:]
    return Pictures(
        size, pixel_type(stored), len(stored), lambda rows: rearrange(_rows_of(stored, rows), turned), _names(holder)
    )


def _listed(source: Path | Remote, field: str, images: Any, turned: str) -> Pictures:
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

    ordered = order is not None or len(one) == 1
    size = read(np.zeros(1, np.int64)).shape[1:]
    return Pictures(size, dtype, len(one), read, tuple(i.name for i in listed), ordered)


def _check_order(source: Path | Remote, field: str, pictures: Pictures) -> None:
    """Refuse to take numbers for pictures that the file does not number; HDF5 lists them by name, image10 first."""
    if not pictures.ordered:
        raise RecordingError(
            source, field, "has numbers of pictures, and the Images have no order_of_images that numbers them",
            "Write order_of_images into the file, or name a column with the pictures' names by "
            "importer.presentations=TABLE importer.picture_column=COLUMN",
        )  # fmt: skip


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


# What is shown when --------------------------------------------------------------------------------------------------


def shown_by_series(source: Path | Remote, series: Any, pictures: Callable[[str, Any], Pictures]) -> Shown:
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
    _check_order(source, field, own)
    index = np.asarray(own_array(source, field, series.data)[:], np.int64)
    if len(index) and not (index.min() >= 0 and index.max() < own.number):
        raise RecordingError(
            source, field, f"asks for image {index.min()} … {index.max()} of {own.number}", "Correct the index"
        )
    return Shown(own, times_of(source, series, field, len(index)), index, True)


def shown_by_table(
    source: Path | Remote,
    table: Any,
    column: str,
    keep: Mapping[str, Sequence[str]],
    blank: Sequence[str],
    holder: Any,
    pictures: Pictures,
    rate_hz: float | None,
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
    rate_hz : bins a second that are asked for. An empty screen of at most half a bin is none.
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
    own = np.ones(len(begin), bool)
    for name, values in keep.items():
        own &= np.array([word(value) in values for value in table[name][:]])
    other = timed & ~own
    if other.any():
        said = " and ".join(f"{name} is {' or '.join(values)}" for name, values in keep.items())
        left_out.append(f"{int(other.sum())} presentations of {len(begin)}: not one whose {said}")
    rows = np.flatnonzero(timed & own)
    rows = rows[np.argsort(begin[rows], kind="stable")]
    first, count = _numbers(source, f"{field}/{column}", table[column], rows, blank, holder, pictures, notes)
    bad = np.flatnonzero((first >= 0) & (first + count > pictures.number))
    if len(bad):
        raise RecordingError(
            source, f"{field}/{column}",
            f"row {rows[bad[0]]} asks for picture {first[bad[0]] + count[bad[0]] - 1} of {pictures.number}",
            "Correct the table, or choose another template by importer.stimulus",
        )  # fmt: skip
    if not (first >= 0).any():
        raise RecordingError(
            source, field, f"no row of {len(own)} shows a picture", "Change importer.keep_presentations"
        )
    others = begin[other], end[other]
    begin, end = begin[rows], end[rows]
    overlap_s = CLOSE * float(np.median((end - begin)[first >= 0] / count[first >= 0]))
    near_s = min(overlap_s, JITTER_S if rate_hz is None else 0.5 / rate_hz)
    after = np.append(begin[1:], np.inf)
    if len(over := np.flatnonzero(end > after + overlap_s)):
        raise RecordingError(
            source, field, f"row {rows[over[0] + 1]} starts before row {rows[over[0]]} ends",
            "Choose rows that do not overlap by importer.keep_presentations, and another table for the others",
        )  # fmt: skip
    left = _left((begin, np.minimum(end, after)), others, near_s)
    order = np.argsort(np.concatenate([begin, left[0]]), kind="stable")
    begin, end = np.concatenate([begin, left[0]])[order], np.concatenate([end, left[1]])[order]
    first = np.append(first, np.full(len(left[0]), UNKNOWN))[order]
    count = np.append(count, np.ones(len(left[0]), np.int64))[order]
    after = np.append(begin[1:], np.inf)
    closed = (after - end > ROUNDING_S) & (after - end <= near_s)
    if closed.any():
        notes.append(f"{closed.sum()} gaps of up to {1e3 * near_s:.3g} ms in {field} are closed: the row before stays")
    end = np.where(after - end <= near_s, after, end)
    times, shown = list[float](), list[int]()
    for start, stop, number, frames, then in zip(begin, end, first.tolist(), count.tolist(), after, strict=True):
        frames = frames if number >= 0 else 1
        times += (start + np.arange(frames) * (stop - start) / frames).tolist()
        shown += [number + i if number >= 0 else number for i in range(frames)]
        if stop < then:
            times.append(float(stop))
            shown.append(BLANK if np.isfinite(then) else UNKNOWN)  # after the last one nobody knows
    return Shown(pictures, np.array(times), np.array(shown), True)


def _left(
    kept: tuple[np.ndarray, np.ndarray], others: tuple[np.ndarray, np.ndarray], near_s: float
) -> tuple[np.ndarray, np.ndarray]:
    """Begin and end of the stretches that only rows which are not kept take. What is left of one beside a kept row is
    none where it is no longer than ``near_s``."""
    edges = np.unique(np.concatenate([*kept, *others]))

    def covered(begin: np.ndarray, end: np.ndarray) -> np.ndarray:
        begun, ended = (np.searchsorted(np.sort(x), edges[:-1], side="right") for x in (begin, end))
        return begun > ended

    alone = np.concatenate([[False], covered(*others) & ~covered(*kept), [False]]).astype(np.int8)
    begin, end = edges[np.flatnonzero(np.diff(alone) == 1)], edges[np.flatnonzero(np.diff(alone) == -1)]
    real = np.array([
        b - a > near_s or bool(((others[0] >= a) & (others[1] <= b)).any()) for a, b in zip(begin, end, strict=True)
    ], bool)  # fmt: skip
    return begin[real], end[real]


def _numbers(
    source: Path | Remote,
    field: str,
    column: Any,
    rows: np.ndarray,
    blank: Sequence[str],
    holder: Any,
    pictures: Pictures,
    notes: list[str],
) -> tuple[np.ndarray, np.ndarray]:
    """The first picture of each of some rows, or BLANK, or UNKNOWN; and how many it shows."""
    from pynwb.base import TimeSeriesReferenceVectorData

    if isinstance(getattr(column, "target", column), TimeSeriesReferenceVectorData):
        first, count = [], []
        for row in track(rows.tolist(), f"{source.name}: look through {field}"):
            entry = column[row]
            own = [one for one in (entry if isinstance(entry, list) else [entry]) if one.timeseries is holder]
            first.append(int(own[0].idx_start) if len(own) == 1 and own[0].count > 0 else UNKNOWN)
            count.append(int(own[0].count) if first[-1] >= 0 else 1)
        return np.array(first, np.int64), np.array(count, np.int64)
    said = column[:]
    words = [word(said[row]) for row in rows]
    place = {name: i for i, name in enumerate(pictures.names)}
    numbers = np.full(len(words), UNKNOWN, np.int64)
    for i, value in enumerate(words):
        if value in blank or value in NOTHING:
            numbers[i] = BLANK
        elif value in place:
            numbers[i] = place[value]
        elif value.removesuffix(".0").isdecimal():
            _check_order(source, field, pictures)
            numbers[i] = int(value.removesuffix(".0"))
        else:
            known = f"names such as {', '.join(pictures.names[:3])}" if pictures.names else "numbers alone"
            raise RecordingError(
                source,
                field,
                f"row {rows[i]} says {value!r}; the template has {pictures.number} pictures, with {known}",
                "Choose another column by importer.picture_column, or say what is no picture by "
                "importer.blank_pictures=[…]",
            )  # fmt: skip
    if empty := int((numbers == BLANK).sum()):
        notes.append(f"{empty} presentations of no picture: the empty screen (importer.background)")
    return numbers, np.ones(len(words), np.int64)
