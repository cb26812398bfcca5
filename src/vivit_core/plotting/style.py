"""The pictures' colors, and how every picture is written.

Text is taken as it is: ``save``, which all pictures end with, makes it safe. A name that stands beside or between axes
is shortened where it is drawn, because axes give way to text.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from vivit_core.names import picture_text, short
from vivit_core.system.files import atomic_write

MEASURED, TWIN, BASELINE, TRUTH = "0.25", "tab:blue", "tab:orange", "tab:green"
TALL = 2.0  # largest height over width of a picture; frames that are taller leave white to their sides
FLOOR = -0.5  # bits per spike: a few units far below zero must not squeeze the others into a corner


def note_beyond(axes: Axes, number: int) -> None:
    """Say of how many points the place is beyond the axes, so that they are drawn at the edge."""
    if number:
        axes.text(0.02, 0.98, f"{number} beyond the axes, at the edge", transform=axes.transAxes, va="top", fontsize=8)


def label_of(name: str) -> str:
    """A name in a legend, from which matplotlib leaves out what begins with an underscore."""
    return f" {short(name)}" if name.startswith("_") else short(name)


def save(figure: Figure, path: Path) -> Path:
    """Write a figure; no text of it acts, whatever it holds."""
    plain(figure)
    return written(figure, path)


def plain(figure: Figure) -> None:
    """Let no text of a figure act, once all of it is there; and take away what frames its axes at the top and right."""
    for text in texts_of(figure):
        text.set_text(picture_text(text.get_text()))
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)


def texts_of(artist: Artist) -> Iterator[Text]:
    """The texts in it, but those at ticks, which are made anew for each drawing, some of them as mathematics.

    ``Artist.findobj`` would make the ticks, for nothing, and that takes a quarter of a picture's time.
    """
    if isinstance(artist, Text):
        yield artist
    inside = [artist.label, artist.offsetText] if isinstance(artist, Axis) else artist.get_children()
    for child in inside:
        yield from texts_of(child)


def written(figure: Figure, path: Path) -> Path:
    """Write a figure whose text is plain."""
    with warnings.catch_warnings(), atomic_write(path) as temporary:
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a box stands in for it
        FigureCanvasAgg(figure).print_png(temporary)
    return path
