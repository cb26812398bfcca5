"""task=inspect: what is in the recordings, and what may be wrong with them."""

from __future__ import annotations

from pathlib import Path

from vivit_core.analysis.inspect.inspect import inspect as inspect_recordings
from vivit_core.analysis.inspect.section import report_section as inspect_section
from vivit_core.cli import runs
from vivit_core.cli.context import Settings, command_line, console, describe, make_datamodule, show
from vivit_core.report.page import publish


def inspect(settings: Settings) -> None:
    """Look at recordings before anything is trained on them."""
    paths = make_datamodule(settings["data"]).paths()
    run = runs.Run(Path(settings["run_dir"]))
    describe(run, settings)
    summary = inspect_recordings(
        paths,
        duration_s=settings["duration_s"],
        max_frames=settings["max_frames"],
        out=run.path,
        burn_in=settings["data"]["evaluation_burn_in"],
        frame_rate_hz=settings["data"]["frame_rate_hz"],
    )
    section = inspect_section(summary, command_line())
    show(section)
    console.print(section.text[0])
    console.print(f"report: {publish(run.path, section)}")
    console.print(f"run folder: {run.path}")
