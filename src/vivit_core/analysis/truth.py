"""What a simulation knows of its units, how near to it counts as right, which units a twin knows well, and numbers over
these groups.

Shape letters: U units.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.predict import unit_columns
from vivit_core.analysis.tables import IDS, columns_of_rows
from vivit_core.data.recording.reader import Recording
from vivit_core.models.predictor import Predictor
from vivit_core.system.tables import read_table

log = logging.getLogger(__name__)

NEAR_PX, ORIENTED_DEG = 2.0, 15.0  # what counts as the right place, and the right orientation
HALF_KNOWN = 0.5  # of the oracle: a unit that a twin knows well
TRUTHS = (
    "center_px",
    "size_px",
    "orientation_deg",
    "spatial_frequency",
    "temporal_frequency_hz",
    "complex",
    "direction",
)


def truth_of(recording: Recording) -> dict[str, np.ndarray]:
    """What a simulated recording knows of its units' fields; empty where it was measured."""
    return {name: recording.truth(name) for name in TRUTHS if name in recording.truths}


def centers_px(model: Predictor, recording: Recording, recording_id: str) -> np.ndarray:
    """Where a model looks for each unit of a recording, in the recording's order of units: see
    ``Predictor.centers_px``."""
    return model.centers_px(recording_id)[unit_columns(model, recording_id, recording.info.unit_ids)]


def known_fractions(training: Path | None) -> dict[tuple[str, str], float]:
    """The share of the oracle by recording and unit, as a training's final evaluation found it."""
    file = None if training is None else training / "units.csv"
    if file is None or not file.is_file():
        return {}
    try:
        units = read_table(file, text=IDS).dropna(subset="knowable_fraction")
        return units.set_index(list(IDS))["knowable_fraction"].astype(float).to_dict()
    except (OSError, ValueError, LookupError) as error:  # a file of somebody's run folder
        log.warning("%s does not say how much of each unit is known (%s: %s)", file, type(error).__name__, error)
        return {}


def kinds_of(of: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Which units are truly simple and which are complex, each (U,); nothing where it is not known of all."""
    complex_U = of["truth_complex"]
    return {"simple": complex_U == 0, "complex": complex_U == 1} if np.isfinite(complex_U).all() else {}


SummaryOf = Callable[[Mapping[str, np.ndarray], np.ndarray], dict[str, Any]]


def by_group(rows: Sequence[Mapping[str, Any]], summary_of: SummaryOf) -> dict[str, Any]:
    """``summary_of`` the units' numbers for all units, by kind where it is known, and for those the twin knows half of.

    Parameters
    ----------
    rows : one a unit, with ``truth_complex`` and ``knowable_fraction`` among the numbers.
    summary_of : takes each number as an array over units, and which units are meant.
    """
    of = columns_of_rows(rows)
    groups = {"all": np.ones(len(rows), bool)} | kinds_of(of)
    if np.isfinite(of["knowable_fraction"]).any():
        half = of["knowable_fraction"] >= HALF_KNOWN
        groups |= {f"{name}, half of the oracle": own & half for name, own in groups.items()}
    return {"units": len(rows), "groups": {name: summary_of(of, own) for name, own in groups.items() if own.any()}}


def by_group_and_recording(
    rows: Sequence[Mapping[str, Any]], recordings: Sequence[str], summary_of: SummaryOf
) -> dict[str, Any]:
    """:func:`by_group` of all rows, and under ``recordings`` of each recording's."""
    own = {name: by_group([row for row in rows if row["recording"] == name], summary_of) for name in recordings}
    return by_group(rows, summary_of) | {"recordings": own}
