"""What a reader can explore on the page: a table to sort and filter, a picture of it, and a panel for each row.

An :class:`Explorer` is plain data. The page holds it as JSON beside its section, and the page's one script
(``templates/explore.js``) draws it. Where script is switched off, nothing of it is seen, and the section's tables and
pictures tell the same. Explorers of one ``key`` on a page are shown as one, joined by their rows' groups and names: so
a tuning, which is made later, adds its columns and curves to the units that an evaluation has listed.

How much an explorer holds is bounded: ``SERIES_BYTES`` of rates over time, and ``IMAGES_BYTES`` of each panel's
pictures, whatever the number of units. A page may have two with rates, of an evaluation and of a comparison.

Shape letters: T bins, R repeats, U rows (units), X places of a curve, H W pixels.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from vivit_core.names import page_text

SERIES_BYTES = 3_000_000  # of an explorer's rates and counts over time; a third more as the page's text
MOST_BINS, FEWEST_BINS = 600, 100  # of a row's rates
MOST_REPEATS = 40
LEVELS = 15  # of a count in a raster, four bits
UNKNOWN = 2**16 - 1  # in place of a rate that is not known
MOST_PX, FEWEST_PX = 32, 12  # sides of a small picture
IMAGES_BYTES = 3_000_000  # of a panel's pictures; a third more as the page's text
PNG_BYTES, PIXEL_BYTES = 120, 2.5  # of a small picture of noise, which is the largest


@dataclass(frozen=True)
class Column:
    """A number, or a word, of each row.

    Attributes
    ----------
    key : its name in the table file, by which a reader filters.
    title : what is shown.
    values : (U,), None or NaN where not known.
    shown : whether the table shows it at first.
    quantity : what it measures, with its unit; two columns of one quantity are drawn on one scale.
    low, high : keys of the columns that bound its interval.
    """

    key: str
    title: str
    values: Sequence[float | int | str | None]
    shown: bool = False
    quantity: str = ""
    low: str = ""
    high: str = ""


@dataclass(frozen=True)
class Scores:
    """Numbers of one row beside each other: ``rows`` are a title, and what stands beside it as (name, role, key).

    The role is its color: twin, ln, truth, local, measured, or m0, m1, … for one of several models.
    """

    title: str
    rows: Sequence[tuple[str, Sequence[tuple[str, str, str]]]]


@dataclass(frozen=True, eq=False)
class Clip:
    """Rates over time of one group's rows, in the rows' order.

    Attributes
    ----------
    bin_s : length of a bin, s.
    about : what was shown, in words.
    traces : name and role -> rates (T, U), Hz, NaN where not known; the first one has the error.
    error_TU : standard error of the first trace; None: none.
    counts_RTU : what was measured in each repeat that was kept.
    repeats : how many there were.
    """

    bin_s: float
    about: str
    traces: Mapping[tuple[str, str], np.ndarray]
    error_TU: np.ndarray | None
    counts_RTU: np.ndarray
    repeats: int


@dataclass(frozen=True)
class Series:
    """Rates over time and repeats, by group."""

    title: str
    clips: Mapping[str, Clip]


@dataclass(frozen=True, eq=False)
class Place:
    """Where each row looks on a frame of its group's stimulus.

    Attributes
    ----------
    frames : group -> frame (H, W), gray.
    windows_U5 : x, y, standard deviations along and across, px, and angle, degrees from the x axis towards the y
        axis, which points down; NaN where not known. Of a place without a width the last three are NaN.
    """

    title: str
    frames: Mapping[str, np.ndarray]
    windows_U5: np.ndarray


@dataclass(frozen=True, eq=False)
class Curves:
    """A curve of each row over common places ``x``; NaN where not known."""

    title: str
    x_title: str
    y_title: str
    x: Sequence[float]
    values_UX: np.ndarray
    logarithmic: bool = False


@dataclass(frozen=True, eq=False)
class Images:
    """A small picture of each row, (H, W) from −1 to 1 where the row has one; at most ``MOST_PX`` a side are kept, and
    of many rows fewer (:func:`plain_images`)."""

    title: str
    pictures: Sequence[np.ndarray | None]


Panel = Scores | Series | Place | Curves | Images


@dataclass(frozen=True)
class Explorer:
    """A table of rows that have a name and belong to a group, a picture of all, and panels of one.

    Attributes
    ----------
    key : explorers of one key on a page are joined.
    title : its heading.
    group, name : what a row's group and name are, such as recording and unit.
    groups, names : of each row; together they name one row.
    columns : its numbers.
    axes : columns of the scatter, (x, y); empty for parallel coordinates of all columns shown.
    sort : the column by which the table is sorted at first, the largest first.
    panels : what is told of one row, in the page's order.
    """

    key: str
    title: str
    group: str
    name: str
    groups: Sequence[str]
    names: Sequence[str]
    columns: Sequence[Column]
    axes: tuple[str, ...]
    sort: str
    panels: Sequence[Panel] = field(default_factory=tuple)

    def __post_init__(self) -> None:
        rows, keys = len(self.names), [column.key for column in self.columns]
        if len(self.groups) != rows or any(len(column.values) != rows for column in self.columns):
            raise ValueError(f"explorer {self.key!r}: groups and every column have a value for each of {rows} rows")
        if len(set(zip(self.groups, self.names, strict=True))) < rows:
            raise ValueError(f"explorer {self.key!r}: two rows have one {self.group} and one {self.name}")
        if len(set(keys)) < len(keys):
            raise ValueError(f"explorer {self.key!r}: two columns have one key ({', '.join(keys)})")
        bounds = [key for column in self.columns for key in (column.low, column.high) if key]
        beside = [key for p in self.panels if isinstance(p, Scores) for _, of in p.rows for _, _, key in of]
        if unknown := {self.sort, *self.axes, *bounds, *beside} - set(keys):
            raise ValueError(f"explorer {self.key!r}: no column is called {', '.join(sorted(unknown))}")
        for panel in self.panels:
            of = {Place: "windows_U5", Curves: "values_UX", Images: "pictures"}.get(type(panel))
            if of is not None and len(getattr(panel, of)) != rows:
                raise ValueError(f"explorer {self.key!r}: {panel.title} is not of {rows} rows")

    @property
    def json(self) -> str:
        """The whole as the page keeps it: no character of it means anything in HTML."""
        text = json.dumps(self.plain(), allow_nan=False, separators=(",", ":"))
        return text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e")

    def plain(self) -> dict[str, Any]:
        """The whole as plain values."""
        names = list(dict.fromkeys(self.groups))
        place = {name: i for i, name in enumerate(names)}
        return {
            "key": self.key,
            "title": page_text(self.title),
            "group": self.group,
            "name": self.name,
            "groups": [page_text(name) for name in names],
            "group_of": [place[name] for name in self.groups],
            "names": [page_text(name) for name in self.names],
            "columns": [plain_column(column) for column in self.columns],
            "axes": list(self.axes),
            "sort": self.sort,
            "panels": [plain_panel(panel, self.groups, names) for panel in self.panels],
        }


def plain_column(column: Column) -> dict[str, Any]:
    return {
        "key": column.key,
        "title": page_text(column.title),
        "values": [page_text(value) if isinstance(value, str) else digits(value) for value in column.values],
        "shown": column.shown,
        "quantity": column.quantity,
        "low": column.low,
        "high": column.high,
    }


def digits(value: float | int | None, most: int = 7) -> float | int | None:
    """A number in few digits; None where there is none."""
    if value is None or not math.isfinite(value):
        return None
    short = float(f"{value:.{most}g}") if abs(value) < 10.0**most else float(value)
    return int(short) if short.is_integer() else short


def plain_panel(panel: Panel, groups: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """A panel as plain values.

    Parameters
    ----------
    panel : of an explorer.
    groups : of each row.
    names : of all groups, in the page's order.
    """
    told: dict[str, Any] = {"kind": type(panel).__name__.lower(), "title": page_text(panel.title)}
    if isinstance(panel, Scores):
        return told | {"rows": [[page_text(t), [[page_text(n), r, key] for n, r, key in of]] for t, of in panel.rows]}
    if isinstance(panel, Series):
        return told | plain_series(panel, groups, names)
    if isinstance(panel, Place):
        frames = [panel.frames.get(name) for name in names]
        return told | {
            "frames": [None if f is None else {"size": list(f.shape), "png": png_of(stretched(f))} for f in frames],
            "windows": [[digits(v, 5) for v in window] for window in panel.windows_U5.tolist()],
        }
    if isinstance(panel, Curves):
        return told | {
            "x_title": panel.x_title,
            "y_title": panel.y_title,
            "x": [digits(v) for v in panel.x],
            "values": [[digits(v, 4) for v in curve] for curve in panel.values_UX.tolist()],
            "logarithmic": panel.logarithmic,
        }
    return told | plain_images(panel)


def plain_images(images: Images) -> dict[str, Any]:
    """Pictures in few bytes: with fewer pixels where there are many. Of very many rows only some, evenly chosen, have
    theirs; an empty word stands in for what is left out, and None where there is no picture."""
    rows = [row for row, picture in enumerate(images.pictures) if picture is not None]
    kept = min(len(rows), int(IMAGES_BYTES / (PNG_BYTES + FEWEST_PX**2 * PIXEL_BYTES)))
    room = IMAGES_BYTES / max(1, kept) - PNG_BYTES
    side = min(MOST_PX, max(FEWEST_PX, math.isqrt(int(room / PIXEL_BYTES))))
    keep = {rows[place] for place in np.linspace(0, len(rows) - 1, kept).round().astype(int).tolist()}

    def told(row: int, picture: np.ndarray | None) -> str | None:
        if picture is None:
            return None
        return png_of(signed(smaller(picture, side))) if row in keep else ""

    return {"pngs": [told(row, picture) for row, picture in enumerate(images.pictures)]}


def plain_series(series: Series, groups: Sequence[str], names: Sequence[str]) -> dict[str, Any]:
    """Rates and counts in few bytes: 16 bits a rate, of a row's largest one; 4 bits a count, which is exact up to
    ``LEVELS``, and else a share of the row's largest one. Bins are joined, and repeats left out, until a page of so
    many rows has room for all; of very many rows some have none."""
    rows = sum(group in series.clips for group in groups)
    kept = min(rows, SERIES_BYTES // (9 * FEWEST_BINS))  # four traces, and a repeat or two
    keep = set(np.linspace(0, rows - 1, kept).round().astype(int).tolist()) if kept else set()
    clips: list[dict[str, Any] | None] = []
    data: dict[int, list[Any]] = {}
    seen = 0
    for name in names:
        if (clip := series.clips.get(name)) is None:
            clips.append(None)
            continue
        own = [row for row, group in enumerate(groups) if group == name]
        room = SERIES_BYTES // max(1, kept)
        traces = [*clip.traces.values(), *([] if clip.error_TU is None else [clip.error_TU])]
        bins, units = traces[0].shape
        repeats = len(clip.counts_RTU)
        share = 2 * room // 3 if repeats > 1 else 8 * room // 9
        join = max(1, math.ceil(bins / max(FEWEST_BINS, min(MOST_BINS, share // (2 * len(traces))))))
        traces = [joined(trace, join) for trace in traces]
        left = room - 2 * len(traces) * len(traces[0])
        repeats = max(0, min(repeats, MOST_REPEATS, 2 * left // len(traces[0])))
        counts_RTU = joined(clip.counts_RTU[:repeats].swapaxes(0, 1), join, total=True).swapaxes(0, 1)
        clips.append(
            {
                "bin_s": digits(clip.bin_s * join),
                "bins": len(traces[0]),
                "repeats": repeats,
                "of": clip.repeats,
                "about": page_text(clip.about),
                "traces": [[page_text(title), role] for title, role in clip.traces],
                "error": clip.error_TU is not None,
            }
        )
        if units != len(own):
            raise ValueError(f"series {series.title!r}: {name} has {len(own)} rows, and rates of {units}")
        for unit, row in enumerate(own):
            if seen in keep:
                data[row] = packed([trace[:, unit] for trace in traces], counts_RTU[..., unit])
            seen += 1
    return {"clips": clips, "data": [data.get(row) for row in range(len(groups))], "left_out": rows - kept}


def joined(values_T: np.ndarray, number: int, total: bool = False) -> np.ndarray:
    """Means (or totals) of each so many values of the first axis; the last is of what is left at the end."""
    if number == 1:
        return values_T
    starts = np.arange(0, len(values_T), number)
    sums = np.add.reduceat(np.nan_to_num(values_T.astype(np.float64)), starts)
    if total:
        return sums
    known = np.add.reduceat((~np.isnan(values_T)).astype(np.float64), starts)
    return np.where(known > 0, sums / np.maximum(known, 1), np.nan)


def packed(traces: Sequence[np.ndarray], counts_RT: np.ndarray) -> list[Any]:
    """One row's rates and counts: the largest rate, the largest count, and base64 of all."""
    top = max((float(np.nanmax(trace)) for trace in traces if not np.isnan(trace).all()), default=0.0)
    top = top if top > 0 else 1.0
    shares = np.concatenate(traces) / top
    values = np.where(np.isnan(shares), UNKNOWN, np.round(np.clip(np.nan_to_num(shares), 0, 1) * (UNKNOWN - 1)))
    content = values.astype("<u2").tobytes()
    counts = np.nan_to_num(counts_RT)
    most = float(counts.max(initial=0.0))
    whole = most <= LEVELS and bool((counts == np.round(counts)).all())
    if counts.size:
        levels = np.clip(np.round(counts if whole else counts / max(most, 1e-12) * LEVELS), 0, LEVELS).astype(np.uint8)
        flat = np.append(levels.ravel(), np.zeros(levels.size % 2, np.uint8))
        content += (flat[::2] | flat[1::2] << 4).tobytes()
    return [digits(top), digits(float(LEVELS) if whole else most), base64.b64encode(content).decode("ascii")]


def smaller(picture: np.ndarray, side: int) -> np.ndarray:
    """At most so many pixels a side: means over squares, those at the far edges over what is there of them."""
    step = max(1, math.ceil(max(picture.shape) / side))
    if step == 1:
        return picture
    rows, columns = (np.arange(0, side, step) for side in picture.shape)
    sums = np.add.reduceat(np.add.reduceat(picture.astype(np.float64), rows, 0), columns, 1)
    counts = np.outer(*(np.diff([*start, side]) for start, side in zip((rows, columns), picture.shape, strict=True)))
    return sums / counts


def signed(picture: np.ndarray) -> np.ndarray:
    """Red above zero, blue below, white (as clear as the page) at zero: (H, W, 4) bytes."""
    share = np.clip(np.nan_to_num(picture), -1, 1)
    color = np.where(share[..., None] > 0, np.array([202, 62, 71]), np.array([47, 111, 178]))
    return np.concatenate([color, np.round(255 * np.abs(share))[..., None]], -1).astype(np.uint8)


def stretched(frame: np.ndarray) -> np.ndarray:
    """A frame's gray values as bytes, the darkest black and the brightest white."""
    low, high = float(np.nanmin(frame)), float(np.nanmax(frame))
    return np.round(255 * (np.nan_to_num(frame, nan=low) - low) / max(high - low, 1e-12)).astype(np.uint8)


def png_of(pixels: np.ndarray) -> str:
    """Pixels as a picture's address."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode('ascii')}"


@cache
def part(name: str) -> str:
    """The page's script, or its styles, as they stand in the templates' folder."""
    return (files("vivit_core.report") / "templates" / name).read_text(encoding="utf-8")


@cache
def script_hash() -> str:
    """What the page's policy names as the one script that may run."""
    digest = hashlib.sha256(part("explore.js").encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"
