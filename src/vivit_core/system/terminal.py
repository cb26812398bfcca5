"""Text on a terminal by rich, which takes ``[word]`` for markup and ``:word:`` for a picture: here text stays text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sized
from pathlib import Path
from typing import Any, TypeVar

import rich
import rich.progress
from rich.console import Console
from rich.markup import escape
from rich.text import Text

from vivit_core.names import printable, short
from vivit_core.system.activity import followed

T = TypeVar("T")


BAR = 60  # characters of what a progress bar says


class PlainConsole(Console):
    """A console that prints any text as it is, in its own lines and in the cells of its tables alike.

    Parameters
    ----------
    width : characters of a line; None: the terminal's.
    """

    def __init__(self, width: int | None = None) -> None:
        super().__init__(width=width, soft_wrap=True, highlight=False, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text, lines=True), **options)


class PlainFormatter(logging.Formatter):
    """Log lines in which no name acts, or begins another line."""

    def format(self, record: logging.LogRecord) -> str:
        quiet = logging.makeLogRecord(record.__dict__)
        if isinstance(record.args, tuple):
            quiet.args = tuple(printable(str(x)) if isinstance(x, str | Path) else x for x in record.args)
        return printable(super().format(quiet), lines=True)


def shown(text: str, lines: bool = False) -> Text:
    """Text of a table, or to be printed, that is the same on every console; ``lines`` leaves its line breaks."""
    return Text(printable(text, lines))


def bar_text(text: str) -> str:
    """What a progress bar says."""
    return escape(short(text, BAR) + " ")[:-1]  # so that a backslash at the end is not doubled


def track(sequence: Iterable[T], description: str, total: float | None = None, *, disable: bool = False) -> Iterable[T]:
    """The items of a sequence, with a bar on a live terminal, and elsewhere with lines where the program wants them
    (:mod:`vivit_core.system.activity`)."""
    if disable:
        return sequence
    if not rich.get_console().is_terminal:
        return followed(sequence, printable(description), total)
    count = len(sequence) if total is None and isinstance(sequence, Sized) else total
    return rich.progress.track(
        followed(sequence, printable(description), total, bar=True), bar_text(description), count
    )
