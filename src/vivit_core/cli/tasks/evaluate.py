"""task=evaluate: the scores of a checkpoint, with their report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from rich.table import Column, Table

from vivit_core.analysis.evaluate.evaluate import evaluate as evaluate_twin
from vivit_core.analysis.evaluate.section import report_section
from vivit_core.analysis.predict import refuse_blind
from vivit_core.cli import runs
from vivit_core.cli.context import (
    Settings,
    command_line,
    console,
    data_of_checkpoint,
    is_ln,
    machine_of,
    model_of,
    tell,
)
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.ln import LN, load_ln
from vivit_core.models.load import load_twin
from vivit_core.models.twin import Twin
from vivit_core.names import command, hydra_value
from vivit_core.report.page import publish
from vivit_core.system.terminal import shown


def evaluate(settings: Settings) -> float | None:
    """Evaluate a checkpoint on recordings of the units it knows."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    ln = load_ln(path, content)
    twin: Twin | LN
    if is_ln(content) and not settings["average"]:
        twin, ln = model_of(path, content), None
    else:
        twin = load_twin(path, average=settings["average"])
    if settings["behavior_controls"]:
        refuse_blind(twin)
    device, budget = machine_of(settings["trainer"])
    run, datamodule = data_of_checkpoint(settings, content, twin, budget)
    for line in datamodule.unscored(settings["split"]):
        tell(line)
    return report(
        run,
        datamodule,
        twin,
        ln,
        device=device,
        split=settings["split"],
        checkpoint=path,
        average=settings["average"],
        with_behavior_controls=settings["behavior_controls"],
        seed=settings["seed"],
    )


def report(
    run: runs.Run,
    datamodule: RecordingsDataModule,
    twin: Twin | LN,
    ln: LN | None,
    *,
    device: str,
    split: Literal["train", "val", "test"],
    checkpoint: Path,
    average: bool = False,
    with_behavior_controls: bool = False,
    seed: int = 0,
) -> float | None:
    """Evaluate, print the table, write the report; returns the mean bits per spike.

    Averaged weights leave the report beside the checkpoint alone: it is of the others.
    """
    summary = evaluate_twin(
        twin,
        datamodule,
        ln=ln,
        split=split,
        device=device,
        out=run.path,
        checkpoint=str(checkpoint),
        with_behavior_controls=with_behavior_controls,
        seed=seed,
    )
    # The evaluation that ends a training is done again by evaluating its checkpoint.
    evaluation = (
        command_line()
        if checkpoint != run.best
        else command(["task=evaluate", f"checkpoint={hydra_value(checkpoint)}"])
    )
    console.print(table_of(summary, split))
    for name, share in summary["behavior"].items():
        left = "–" if share["bps_mean"] is None else f"{share['bps_mean']:.3f}"
        console.print(f"with behavior {name.replace('_', ' ')}: {left} bits/spike")
    section = report_section(summary, run.path / "pictures", evaluation)
    page = publish(run.path, section, None if average else checkpoint)
    console.print(f"report: {page}")
    console.print(f"run folder: {run.path}")
    bps: float | None = summary["bps_mean"]
    return bps


def table_of(summary: Mapping[str, Any], split: str) -> Table:
    """Per recording: units, bits per spike, the LN baseline's, and the fraction of the knowable information."""
    table = Table(
        Column("recording", overflow="fold"),
        title=f"{split} split, bins after the first {summary['burn_in']} of a trial",
    )
    for name in ("units", "bits/spike", "LN bits/spike", "of knowable", "correlation"):
        table.add_column(name, justify="right", no_wrap=True)

    def number(value: float | None, form: str = ".3f") -> str:
        return "–" if value is None else format(value, form)

    rows = [*summary["recordings"].items(), ("all", summary)]
    for i, (name, scores) in enumerate(rows, 1):
        if i == len(rows):
            table.add_section()
        table.add_row(
            shown(name),
            str(scores["units"]),
            number(scores["bps_mean"]),
            number(scores["ln_bps_mean"]),
            number(scores["knowable_fraction"]),
            number(scores["corr_mean"]),
        )
    return table
