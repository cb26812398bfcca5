"""What a simulation knows of its units, how near to it counts as right, and which units a twin knows well.

Shape letters: U units.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from vivit_core.analysis.predict import columns_of
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
    return model.centers_px(recording_id)[columns_of(model, recording_id, recording.info.unit_ids)]


def known_fractions(training: Path | None) -> dict[tuple[str, str], float]:
    """The share of the oracle by recording and unit, as a training's final evaluation found it."""
    file = None if training is None else training / "units.csv"
    if file is None or not file.is_file():
        return {}
    try:
        units = read_table(file, text=("recording", "unit")).dropna(subset="knowable_fraction")
        return units.set_index(["recording", "unit"])["knowable_fraction"].astype(float).to_dict()
    except (OSError, ValueError, LookupError) as error:  # a file of somebody's run folder
        log.warning("%s does not say how much of each unit is known (%s: %s)", file, type(error).__name__, error)
        return {}
