"""What attention adds to the units a reader explores: how much comes through the tokens, and which of them count.

Shape letters: U units, H W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vivit_core.analysis.explore import UNITS
from vivit_core.report.explore import Column, Explorer, Images

SHARE = "token_share"
MAPS = {
    "looks": "Tokens that its rate depends on",
    "surround_alike": "Cells that are like its own in orientation",
    "surround_agree": "Cells that move as its own do",
}  # in attention.npz, and what they show


def unit_explorer(folder: Path, recording: str) -> Explorer | None:
    """The units of the recording that was looked at, from ``attention.npz`` in a task's folder; None where the share
    of no unit is known."""
    with np.load(folder / "attention.npz", allow_pickle=False) as arrays:
        names, share_U = arrays["unit_ids"].tolist(), arrays[SHARE]
        of_cells_U = arrays.get("cell_share")
        maps = {title: arrays[key] for key, title in MAPS.items() if key in arrays}
    if not np.isfinite(share_U).any():
        return None
    columns = [Column(SHARE, "share through tokens", share_U.tolist(), shown=True)]
    if of_cells_U is not None:
        columns.append(Column("cell_share", "share through its surround", of_cells_U.tolist(), shown=True))
    panels = []
    for title, map_UHW in maps.items():
        most_U = map_UHW.max((1, 2)).tolist()
        panels.append(
            Images(title, [own / most if most > 0 else None for own, most in zip(map_UHW, most_U, strict=True)])
        )
    groups = [recording] * len(names)
    return Explorer(UNITS, "Units", "recording", "unit", groups, names, columns, (SHARE, SHARE), SHARE, panels)
