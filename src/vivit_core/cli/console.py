"""What the command line prints: lines, and the tables of an analysis."""

from __future__ import annotations

import os

from rich.table import Table

from vivit_core.names import printable
from vivit_core.report.section import Section, cell
from vivit_core.system.terminal import PlainConsole, shown

LOG_WIDTH = 160  # characters of a line in a log file, where no terminal says how many there are
LEAST_WIDTH = 40  # below it a table's columns hold nothing


def made() -> PlainConsole:
    """The console of this process, wide enough for a table."""
    made = PlainConsole()
    if not made.is_terminal and "COLUMNS" not in os.environ:
        made.width = LOG_WIDTH
    made.width = max(made.width, LEAST_WIDTH)
    return made


console = made()


def tell(line: str) -> None:
    """Print a line as it is, in which no name is markup; by ``print``, so that a live bar makes room for it."""
    if not console.quiet:  # as it is in all processes but the first
        print(printable(line, lines=True), flush=True)


def show(section: Section) -> None:
    """Print a section's tables."""
    for found in section.tables:
        table = Table(title=shown(found.title))
        for i, name in enumerate(found.columns):
            # Folded where there is no room, because a number that is cut off is lost.
            table.add_column(shown(name), justify="right" if i else "left", overflow="fold")
        for row in found.rows:
            table.add_row(*(shown(cell(value)) for value in row))
        console.print(table)
