"""task=import: a recording file from a foreign format."""

from __future__ import annotations

from pathlib import Path

from vivit_core.cli.context import Settings
from vivit_core.cli.schema import conf_dir
from vivit_core.parts.build import build


def import_recording(settings: Settings) -> None:
    """Make recording files from a foreign format."""
    if settings.get("importer") is None:
        known = sorted(path.stem for path in (conf_dir() / "importer").glob("*.yaml"))
        raise ValueError(f"task=import needs an importer; choose one: importer={' | importer='.join(known)}")
    build("importer", settings["importer"])(Path(settings["source"]), Path(settings["out"]))
