"""A section of a report: its text, tables and pictures, before they become a page."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vivit_core.names import file_name
from vivit_core.report.explore import Explorer

MEDIA = {".png": "image/png", ".gif": "image/gif"}


@dataclass(frozen=True)
class Table:
    """A table of a section; None and NaN are shown as a dash."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str | float | int | None]]

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(f"table {self.title!r}: a row of {len(row)} cells for {len(self.columns)} columns")

    @property
    def numeric(self) -> list[bool]:
        """Which columns hold no text, and are set to the right."""
        return [all(not isinstance(row[i], str) for row in self.rows) for i in range(len(self.columns))]


def definitions(methods: Mapping[str, str]) -> Table:
    """What a report says under a section of how its numbers are defined, number by number."""
    return Table("How the numbers are defined", ("number", "method"), list(methods.items()))


@dataclass(frozen=True)
class Section:
    """What one task found; a report has one section of a key, the newest."""

    key: str
    title: str
    text: Sequence[str]  # paragraphs, plain
    tables: Sequence[Table]
    pictures: Sequence[tuple[Path, str]]  # PNG or GIF, and its caption
    command: str  # the command line that does it again
    notes: Sequence[Table] = ()  # tables that stand below the pictures
    explore: Explorer | None = None  # what a reader can explore, between tables and pictures

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_]+", self.key):
            raise ValueError(f"a section's key is letters, digits and underscores, not {self.key!r}")
        for path, _ in self.pictures:
            if path.suffix not in MEDIA:
                raise ValueError(f"{path}: a report shows {' and '.join(MEDIA)} files")


def captioned(folder: Path, captions: Mapping[str, str], recordings: Iterable[str]) -> list[tuple[Path, str]]:
    """The pictures of an analysis with their captions, for a :class:`Section`.

    Parameters
    ----------
    folder : the run folder; its ``pictures/`` hold ``KIND.png`` of all recordings, and ``KIND_RECORDING.png`` of one.
    captions : kind of picture -> what it shows, in the order of the page.
    recordings : their ids.
    """
    of_recording = {f"_{file_name(name)}": f": {name}" for name in recordings}
    return [
        (path, f"{caption}{of_recording.get(path.stem.removeprefix(kind), '')}.")
        for kind, caption in captions.items()
        for path in sorted((folder / "pictures").glob(f"{kind}*"))
        if path.suffix in MEDIA
    ]


def cell(value: str | float | int | None) -> str:
    """A table's cell as a reader wants it: four digits, dashes for what is not known."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def counted(n: int, word: str) -> str:
    """How many there are, in words: 1 unit, 2 units."""
    return f"{n:,} {word}" + ("" if n == 1 else "s")


def between(bounds: Sequence[float | None], middle: str = " … ") -> str | None:
    """An interval in words; None where there is none. A summary has None for an infinite bound too."""
    low, high = bounds
    if low is None and high is None:
        return None
    return f"{'−∞' if low is None else f'{low:.3f}'}{middle}{'∞' if high is None else f'{high:.3f}'}"


def with_interval(value: float | None, bounds: Sequence[float | None]) -> str:
    """A score and its interval in words."""
    if value is None:
        return "–"
    interval = between(bounds, ", ")
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval}]"
