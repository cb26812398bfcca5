"""What a comparison writes of each unit: its scores, and its rates in a few seconds.

Shape letters: M models, T bins, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.bootstrap import intervals
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.names import key_name
from vivit_core.system.tables import write_table


def write_units(
    path: Path,
    shared: dict[str, list[str]],
    point: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    truth_U: np.ndarray,
    enough_U: np.ndarray,
) -> None:
    """A row a unit: each model's scores, and each one's gain over the first with its interval."""
    names = list(point)
    columns: dict[str, np.ndarray] = {"truth_bps": truth_U}
    for name in names:
        columns |= {f"{name}_{metric.name}": point[name][m] for m, metric in enumerate(all_metrics())}
    for name in names[1:]:
        low_U, high_U = intervals(drawn[name][:, 0] - drawn[names[0]][:, 0], enough_U)
        gain_U = point[name][0] - point[names[0]][0]
        columns |= {f"{name}_bps_gain": gain_U, f"{name}_bps_gain_low": low_U, f"{name}_bps_gain_high": high_U}
    units = [(rid, unit) for rid, own in shared.items() for unit in own]
    rows = [
        {"recording": rid, "unit": unit} | {name: float(column[u]) for name, column in columns.items()}
        for u, (rid, unit) in enumerate(units)
    ]
    write_table(path, rows)


def responses_of_all(
    shared: Mapping[str, Sequence[str]], rates: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, np.ndarray]:
    """What ``responses.npz`` holds of a comparison: of each recording what an evaluation's does, without frame and
    windows, and with the ``predicted`` rates of all models (M, T, U), in their order.

    Parameters
    ----------
    shared : the units of each recording.
    rates : model -> recording -> name -> :func:`evaluate.responses.rates_of`.
    """
    kept: dict[str, np.ndarray] = {}
    for rid, units in shared.items():
        models = [own[rid] for own in rates.values()]
        arrays = {**models[0], "unit_ids": np.array(units), "predicted": np.stack([own["predicted"] for own in models])}
        kept |= {f"{key_name(rid)}/{name}": value for name, value in arrays.items()}
    return kept
