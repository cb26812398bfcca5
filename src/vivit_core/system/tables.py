"""Tables as CSV files, which spreadsheets and other programs read: one home for how they are written and read back."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivit_core.names import csv_text, text_of_csv
from vivit_core.system.files import atomic_write
from vivit_core.system.plain import in_a_line

if TYPE_CHECKING:
    import pandas


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """A CSV file, whole or not at all; its columns are the first row's.

    What is not defined (None, NaN) stays empty, and no text in it is a formula to a spreadsheet.
    """
    import pandas  # a quarter of a second that a process which writes no table does not wait for

    cells = [
        {csv_text(name): csv_text(value) if isinstance(value, str) else value for name, value in row.items()}
        for row in rows
    ]
    table = pandas.DataFrame(cells, dtype=object)  # so that a column of integers and None keeps its integers
    with atomic_write(path) as temporary:
        table.to_csv(temporary, index=False, encoding="utf-8", lineterminator="\r\n")


def read_table(path: Path, text: Sequence[str] = ()) -> pandas.DataFrame:
    """A table that :func:`write_table` wrote, or another program.

    Parameters
    ----------
    path : the file.
    text : columns of text, whatever it looks like; an id may be called 007 or NA. The others are numbers where all of
        their cells are, and an empty cell is NaN.

    Raises
    ------
    ValueError
        Where it is no table, or lacks a column of ``text``.
    """
    import pandas

    kinds: dict[Any, Any] = dict.fromkeys(map(csv_text, text), str)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pandas.errors.ParserWarning)  # of cells that have no heading
            # Else the first column of rows with one cell too many would become their index.
            table = pandas.read_csv(path, dtype=kinds, keep_default_na=False, na_values=[""], index_col=False)
    except (ValueError, pandas.errors.ParserWarning) as error:  # also of bytes that are no UTF-8
        raise ValueError(
            f"{path}: not a table as CSV in UTF-8 ({in_a_line(error)}); save it as such, or let the task write it again"
        ) from error
    table = table.rename(columns=text_of_csv)
    if lacking := [name for name in text if name not in table.columns]:
        raise ValueError(f"{path}: has no column {', '.join(lacking)}")
    return table.assign(**{name: table[name].map(text_of_csv, na_action="ignore") for name in text})
