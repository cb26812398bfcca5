"""What receptive fields add to the units that a reader explores: their numbers, and the map of each unit.

Shape letters: L lags, H W pixels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.explore import UNITS, explorer_columns
from vivit_core.analysis.tables import IDS
from vivit_core.names import key_name
from vivit_core.report.explore import Explorer, Images
from vivit_core.system.tables import read_table

MAPS = {"gradient": "Field by gradients", "sta": "Field by noise", "measured": "Field in the data"}
SHOWN = ("gradient_snr", "gradient_x_px", "gradient_y_px")


def unit_explorer(folder: Path) -> Explorer | None:
    """The units' fields, from ``receptive_fields.csv`` and ``.npz`` in a task's folder; None where none was found."""
    table = read_table(folder / "receptive_fields.csv", text=IDS)
    columns = explorer_columns(table, {name: name.replace("_", " ") for name in table}, SHOWN)
    if not set(SHOWN) <= {column.key for column in columns}:
        return None
    groups = table["recording"].tolist()
    with np.load(folder / "receptive_fields.npz", allow_pickle=False) as arrays:
        panels = [
            Images(title, maps_of(arrays, method, groups, (table[f"{method}_has_field"] == 1).tolist()))
            for method, title in MAPS.items()
            if (table[f"{method}_has_field"] == 1).any()
        ]
    units = table["unit"].tolist()
    return Explorer(UNITS, "Units", "recording", "unit", groups, units, columns, SHOWN[1:], SHOWN[0], panels)


def maps_of(
    arrays: Mapping[str, Any], method: str, recordings: list[str], has_field: list[bool]
) -> list[np.ndarray | None]:
    """Each unit's map (H, W) at the lag where it is strongest, from −1 to 1; None where it has no field."""
    maps: list[np.ndarray | None] = []
    for recording in dict.fromkeys(recordings):
        name = f"{key_name(recording)}/{method}"
        maps_of_recording = arrays[name] if name in arrays else [None] * recordings.count(recording)
        for map_LHW in maps_of_recording:  # one recording's at a time are in memory
            if map_LHW is None or not has_field[len(maps)]:
                maps.append(None)
                continue
            strongest_HW = map_LHW[np.square(map_LHW).sum((1, 2)).argmax()]
            maps.append(strongest_HW / np.abs(strongest_HW).max())
    return maps
