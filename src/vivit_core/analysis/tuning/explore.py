"""What tuning adds to the units that a reader explores: preferred values, and a curve for each property.

Shape letters: U units, X places of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.explore import UNITS, by_recording, explorer_columns
from vivit_core.analysis.tables import IDS
from vivit_core.analysis.tuning.laboratory import OF_GRATINGS, PREFERRED, TRULY
from vivit_core.report.explore import Curves, Explorer, Panel
from vivit_core.system.tables import read_table

TITLES = {"best_hz": "best response (Hz)", "blank_hz": "rate at gray (Hz)"} | PREFERRED | OF_GRATINGS
CURVES = {  # of tuning.npz: what a curve runs over, its title there, and whether by ratios
    "direction_DU": ("directions_deg", "direction (°)", False),
    "spatial_SU": ("spatial_frequencies", "spatial frequency (cycles/px)", True),
    "temporal_FU": ("temporal_frequencies_hz", "temporal frequency (Hz)", True),
    "contrast_KU": ("contrasts", "contrast", False),
    "size_AU": ("sizes_px", "diameter (px)", False),
}


def unit_explorer(folder: Path, protocols: Mapping[str, Any]) -> Explorer | None:
    """The units' tuning, from ``tuning.csv`` and ``tuning.npz`` in a task's folder; None where no unit is driven.

    Parameters
    ----------
    folder : of the task.
    protocols : of the summary, those that were run, by name.
    """
    table = read_table(folder / "tuning.csv", text=IDS)
    titles = TITLES | {column: f"{TITLES[name]}, true neuron" for name, column in TRULY.items()}
    for name, protocol in protocols.items():
        for number, told in protocol["numbers"].items():
            titles[f"{name}_{number}"] = f"{name.replace('_', ' ')}: {told['title']}"
            titles[f"truth_{name}_{number}"] = f"{name.replace('_', ' ')}: {told['title']}, true neuron"
    columns = explorer_columns(table, titles, shown=("osi", "dsi"))
    if not {"osi", "dsi"} <= {column.key for column in columns}:
        return None
    groups = table["recording"].tolist()
    panels: list[Panel] = []
    with np.load(folder / "tuning.npz", allow_pickle=False) as arrays:
        for name, (over, title, logarithmic) in CURVES.items():
            x = arrays[over].tolist()
            if len(x) > 1:
                values_UX = by_recording(arrays, name, groups, axis=1).T[:, : len(x)]  # sizes end with the full field
                panels.append(Curves(f"By {title.split(' (')[0]}", title, "response (Hz)", x, values_UX, logarithmic))
        for name, protocol in protocols.items():
            for curve, axis in protocol["curves"].items():
                x = arrays[f"{name}_{curve}_x"].tolist()
                values_UX = by_recording(arrays, f"{name}_{curve}_UX", groups, axis=0)
                panels.append(Curves(axis["title"], axis["x_title"], "response (Hz)", x, values_UX))
    units = table["unit"].tolist()
    return Explorer(UNITS, "Units", "recording", "unit", groups, units, columns, ("osi", "dsi"), "osi", panels)
