"""What conf says, for tests that make a part without the command line: no constructor repeats it."""

from __future__ import annotations

from typing import Any

import yaml

from vivit_core.cli.schema import conf_dir
from vivit_core.data.importers.arrays import ArraysImporter
from vivit_core.data.simulate import Simulator

PLAIN = {
    "frame_rate_hz": None, "transforms": {}, "augmentation": None, "verify": "known", "worker_timeout_s": 300.0,
    "most_trials": None, "train_minutes": None, "most_units": None,
}  # fmt: skip
"""What a data module is told beside its recordings and how clips are cut from them."""


def settings_in(option: str) -> dict[str, Any]:
    """An option's own settings as they stand, such as ``importer/arrays``; references to others are not followed."""
    content: dict[str, Any] = yaml.safe_load((conf_dir() / f"{option}.yaml").read_text(encoding="utf-8"))
    return {key: value for key, value in content.items() if key not in ("defaults", "_target_")}


def simulator(**changes: Any) -> Simulator:
    """The simulator of ``data=multi_backimage``, with other fields."""
    return Simulator(**settings_in("data/simulator/backimage") | {"context": None, "eye_tracker": None} | changes)


def arrays_importer(**changes: Any) -> ArraysImporter:
    """``importer=arrays`` for a recording r of 30 Hz, with other fields."""
    same = {"recording_id": "r", "frame_rate_hz": 30.0, "seed": 0}
    return ArraysImporter(**settings_in("importer/arrays") | settings_in("importer/about/blank") | same | changes)
