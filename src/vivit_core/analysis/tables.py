"""An analysis's numbers to files and back, and its rows as columns.

Shape letters: U units.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.system.files import atomic_write, write_text

IDS = ("recording", "unit")  # the columns of a table that name its rows
WORDS = (*IDS, "context")  # those that hold no number


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


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of an ``.npz``."""
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def columns_of_rows(rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
    """Each number of all units, (U,) float64."""
    return {name: np.array([row[name] for row in rows], np.float64) for name in rows[0] if name not in WORDS}
