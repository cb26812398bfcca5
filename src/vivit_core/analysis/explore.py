"""What analyses of units have in common when a reader explores them: one table, to which each adds what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from vivit_core.analysis.tables import IDS
from vivit_core.names import key_name
from vivit_core.report.explore import Column

if TYPE_CHECKING:
    import pandas

UNITS = "units"  # the explorer of a twin's units


def explorer_columns(
    table: pandas.DataFrame,
    titles: Mapping[str, str],
    shown: Sequence[str] = (),
    quantity: Mapping[str, str] | None = None,
) -> list[Column]:
    """A table's columns of which something is known, those that are shown first, in their order. The page shows a dash
    where a number is infinite, and the title says of how many rows.

    Parameters
    ----------
    table : a row a unit.
    titles : by a column's name; what has none is called by its name.
    shown : columns of the page's table at first.
    quantity : what a column measures. ``x_low`` and ``x_high`` bound ``x``.
    """

    order = dict.fromkeys((*(name for name in shown if name in table), *table))
    known = [name for name in order if name not in IDS and table[name].notna().any()]
    bound = {f"{name}_{end}": f"{titles.get(name, name)}, {word}" for name in known for end, word in BOUNDS.items()}

    def title_of(name: str) -> str:
        title = titles.get(name, bound.get(name, name.replace("_", " ")))
        infinite = int(table[name].isin([np.inf, -np.inf]).sum())
        return f"{title}; infinite for {infinite}" if infinite else title

    return [
        Column(
            name,
            title_of(name),
            [None if value != value else value for value in table[name].tolist()],
            shown=name in shown,
            quantity=(quantity or {}).get(name, ""),
            low=f"{name}_low" if f"{name}_low" in known else "",
            high=f"{name}_high" if f"{name}_high" in known else "",
        )
        for name in known
    ]


BOUNDS = {"low": "from", "high": "to"}


def by_recording(arrays: Mapping[str, Any], name: str, recordings: Sequence[str], axis: int) -> np.ndarray:
    """An array of each recording, ``<recording>/<name>`` of an ``.npz``, joined along the axis of units."""
    return np.concatenate([arrays[f"{key_name(recording)}/{name}"] for recording in dict.fromkeys(recordings)], axis)
