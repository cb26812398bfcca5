"""A prediction's section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.report.section import Section, Table, captioned


def report_section(summary: Mapping[str, Any], folder: Path, command: str) -> Section:
    """What was predicted, for which video, and how the video was matched to each recording."""
    recordings = summary["recordings"]
    rows: list[tuple[Any, ...]] = [
        (name, own["units"], own["bins"], own["seconds"], own["frame_rate_hz"], own["mean_rate_hz"])
        for name, own in recordings.items()
    ]
    columns = ["recording", "units", "bins", "seconds", "bins a second", "mean rate (Hz)"]
    spreads = [own["mean_spread_hz"] for own in recordings.values()]
    if None not in spreads:  # an ensemble's
        columns.append("members apart by (Hz)")
        rows = [(*row, spread) for row, spread in zip(rows, spreads, strict=True)]
    text = [
        f"The rates that the model predicts for {summary['video']}, from its first frame to its last, as of one pass. "
        f"They stand in {', '.join(summary['files'])}."
    ]
    text += [f"Recording {name}: {'; '.join(own['how'])}." for name, own in recordings.items()]
    captions = {"prediction": "A frame as the model sees it, and the rates of the units that change most"}
    return Section(
        key="predict",
        title="Prediction for a video",
        text=text,
        tables=[Table("Predicted rates", columns, rows)],
        pictures=captioned(folder, captions, recordings),
        command=command,
    )
