"""task=compare: several checkpoints on the same bins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vivit_core.analysis.compare import compare as compare_compare
from vivit_core.analysis.compare import numbers as comparison
from vivit_core.analysis.compare import section as compare_section
from vivit_core.cli import runs
from vivit_core.cli.context import (
    Settings,
    command_line,
    console,
    data_for,
    data_of_evaluation,
    describe,
    machine_of,
    model_of,
    overridden,
    show,
)
from vivit_core.models.checkpoint import read_checkpoint, settings_of
from vivit_core.report.page import publish


def compare(settings: Settings) -> float | None:
    """Several checkpoints on the same test bins; returns by how many bits per spike the last is above the first."""
    paths = [Path(path) for path in settings["checkpoints"]]
    names = settings["names"] or names_of(paths)
    if len(names) != len(paths):
        raise ValueError(f"names={names}: {len(names)} names for {len(paths)} checkpoints; give one for each, or null")
    device, budget = machine_of(settings["trainer"])
    run = runs.Run(Path(settings["run_dir"]))
    contenders = []
    for name, path in zip(names, paths, strict=True):
        content = read_checkpoint(path)
        model = model_of(path, content)
        data = data_of_evaluation(settings["data"], settings_of(path, content), overridden())
        contenders.append(comparison.Contender(name, str(path), model, data_for(data, model, budget)))
    describe(run, settings)
    summary = compare_compare.compare(
        contenders,
        split=settings["split"],
        device=device,
        out=run.path,
        resamples=settings["resamples"],
        piece_s=settings["piece_s"],
        seed=settings["seed"],
    )
    section = compare_section.report_section(summary, run.path / "pictures", command_line())
    show(section)
    console.print(f"report: {publish(run.path, section, paths)}")
    console.print(f"run folder: {run.path}")
    gain: float | None = summary["pairs"][len(paths) - 2]["bps_gain_mean"]
    return gain


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short distinct names for checkpoints: the folders' in which their paths differ, or the whole paths."""
    folders = [p.parent.parent.name if p.parent.name == "checkpoints" else p.stem for p in map(Path.resolve, paths)]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]
