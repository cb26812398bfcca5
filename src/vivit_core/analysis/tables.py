"""An analysis's numbers to files, and over groups of units."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.truth import HALF_KNOWN
from vivit_core.system.files import atomic_write, write_text


def write_summary(path: Path, summary: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON file, whole or not at all; returns what it holds. JSON knows no NaN and no infinity: they become None."""
    known: dict[str, Any] = _finite(dict(summary))
    write_text(path, json.dumps(known, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    return known


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """A compressed ``.npz``, whole or not at all."""
    with atomic_write(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def by_group(
    rows: Sequence[Mapping[str, Any]], summary_of: Callable[[Mapping[str, np.ndarray], np.ndarray], dict[str, Any]]
) -> dict[str, Any]:
    """``summary_of`` the units' numbers for all units, by kind where it is known, and for those the twin knows half of.

    Parameters
    ----------
    rows : one a unit, with ``truth_complex`` and ``knowable_fraction`` among the numbers.
    summary_of : takes each number as an array over units, and which units are meant.
    """
    of = {name: np.array([row[name] for row in rows], float) for name in rows[0] if name not in ("recording", "unit")}
    groups = {"all": np.ones(len(rows), bool)}
    if np.isfinite(of["truth_complex"]).all():
        groups |= {"simple": of["truth_complex"] == 0, "complex": of["truth_complex"] == 1}
    if np.isfinite(of["knowable_fraction"]).any():
        half = of["knowable_fraction"] >= HALF_KNOWN
        groups |= {f"{name}, half of the oracle": own & half for name, own in groups.items()}
    return {"units": len(rows), "groups": {name: summary_of(of, own) for name, own in groups.items() if own.any()}}
