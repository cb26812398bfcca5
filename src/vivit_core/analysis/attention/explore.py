"""What attention adds to the units a reader explores: how much comes through the tokens, and which of them count."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vivit_core.analysis.explore import UNITS
from vivit_core.report.explore import Column, Explorer, Images

SHARE = "token_share"


def unit_explorer(folder: Path, recording: str) -> Explorer | None:
    """The units of the recording that was looked at, from ``attention.npz`` in a task's folder; None where the share
    of no unit is known."""
    with np.load(folder / "attention.npz", allow_pickle=False) as arrays:
        names, share_U = arrays["unit_ids"].tolist(), arrays[SHARE]
        looks_UHW = arrays.get("looks")
    if not np.isfinite(share_U).any():
        return None
    panels = []
    if looks_UHW is not None:
        most_U = looks_UHW.max((1, 2)).tolist()
        looks = [look / most if most > 0 else None for look, most in zip(looks_UHW, most_U, strict=True)]
        panels.append(Images("Tokens that its rate depends on", looks))
    column = Column(SHARE, "share through tokens", share_U.tolist())
    groups = [recording] * len(names)
    return Explorer(UNITS, "Units", "recording", "unit", groups, names, [column], (SHARE, SHARE), SHARE, panels)
