"""An evaluation as a reader sees it: the table on the console, and the report. A training ends with one too."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from vivit_core.analysis.evaluate.evaluate import evaluate
from vivit_core.analysis.evaluate.section import report_section
from vivit_core.analysis.evaluate.verdict import verdict
from vivit_core.cli.context import RunContext
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Split
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.models.predictor import Predictor
from vivit_core.names import command, hydra_value
from vivit_core.report.section import between
from vivit_core.report.training import still_improving, training_of
from vivit_core.system.terminal import shown

WIDE = 120  # characters in which the twin's and LN's numbers find room beside each other


def report(
    context: RunContext,
    datamodule: RecordingsDataModule,
    twin: Predictor,
    ln: Predictor | None,
    *,
    split: Split,
    checkpoint: Path,
    average: bool = False,
    with_behavior_controls: bool = False,
    with_attention_controls: bool = False,
) -> float | None:
    """Evaluate, print the table, write the report; returns the mean bits per spike.

    Averaged weights leave the report beside the checkpoint alone: it is of the others.
    """
    run, console = context.run, context.console
    summary = evaluate(
        twin,
        datamodule,
        ln=ln,
        split=split,
        device=context.device,
        out=run.path,
        checkpoint=place_of(checkpoint),
        average=average,
        with_behavior_controls=with_behavior_controls,
        with_attention_controls=with_attention_controls,
        seed=context.seed,
    )
    # The evaluation that ends a training is done again by evaluating its checkpoint.
    evaluation = (
        context.command_line
        if checkpoint != run.best
        else command(["task=evaluate", f"checkpoint={hydra_value(checkpoint)}"])
    )
    trained = training_of(checkpoint)
    meaning = verdict(summary, None if trained is None else still_improving(trained))
    console.print(table_of(summary, split, console.width))
    if meaning is not None:
        console.print(meaning)
    unit = f"bits/{summary['event']}"
    if summary["history"]:
        known = summary["history"]
        whose = "the own unit" if known["observed"] == "own" else "the population"
        console.print(
            f"without past counts: {number(summary['bps_mean'])} {unit}; with past counts of {whose} observed: "
            f"{number(known['bps_mean'])}"
        )
    for name, own in summary["recordings"].items():
        if pairs := own["noise_correlations"]:
            words = f"noise correlations of {pairs['pairs']} pairs, predicted with measured: r = "
            console.print(f"{name}: {words}{number(pairs['correlation'])}", markup=False)
    for name, share in summary["behavior"].items():
        left = "–" if share["bps_mean"] is None else f"{share['bps_mean']:.3f}"
        console.print(f"with behavior {name.replace('_', ' ')}: {left} {unit}")
    for name, share in summary["attention"].items():
        interval = between(share["bps_lost_interval"], ", ")
        if share["bps_lost_mean"] is not None:
            words = f"attention {name.replace('_', ' ')}: {share['bps_mean']:.3f} {unit}"
            lost = f"{share['bps_lost_mean']:.3f}" + ("" if interval is None else f" [{interval}]")
            console.print(f"{words}, {lost} less", markup=False)
    section = report_section(summary, run.path / "pictures", evaluation, meaning)
    context.publish(section, None if average else checkpoint)
    bps: float | None = summary["bps_mean"]
    return bps


def place_of(checkpoint: Path) -> str:
    """A checkpoint as a summary names it: by its whole path, which tells it from the best.ckpt of another run. A twin
    on the Hub, and one that comes with the package, keep their names."""
    return str(checkpoint.resolve() if checkpoint.exists() else checkpoint)


def number(value: float | None) -> str:
    """As narrow as it can be."""
    return "–" if value is None else re.sub(r"^(-?)0\.", r"\1.", f"{value:.3f}")


def table_of(summary: Mapping[str, Any], split: str, width: int) -> Table:
    """Per recording: units, means and medians of each metric over them, the twin's / the LN
    baseline's; the share of the oracle and, where it is known, that of context. In ``width`` characters: where they are
    few, LN's numbers stand below the twin's, because rich cuts off what it cannot fold."""
    few = f"{summary['trials']} trials" if summary["trials"] != 1 else "one trial"
    if summary["trials_left_out"]:
        few += f" of {summary['trials'] + summary['trials_left_out']} (data.most_trials)"
    # Below, because a terminal of 80 has no room for it beside the units.
    silent = summary["units_silent"]
    table = Table(
        Column("recording", overflow="fold"),
        title=f"{split} split, {few}, bins after the first {summary['burn_in']} of each; twin / LN",
        caption=f"{silent} of the units silent there, and left out of bits per {summary['event']}" if silent else None,
        box=SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    contextual = summary["contextual_fraction"] is not None
    beside = " / " if width >= WIDE else " /\n"
    shares = ["of the oracle", *["of context"] * contextual]
    metrics = all_metrics()
    titles = [metric.title.replace("per spike", f"per {summary['event']}").replace(" per ", "/") for metric in metrics]
    heads = [head for title in titles for head in (title, "median")]
    for name in ("units", *heads, *shares):
        word = max(map(len, name.split()))
        # Given room, a share's heading would take it from the others, of which the last would be cut off.
        table.add_column(name, justify="right", min_width=word, max_width=word if name in shares else None)

    def pair(scores: Mapping[str, Any], name: str) -> str:
        return beside.join(number(scores[key]) for key in (name, f"ln_{name}") if scores[key] is not None) or "–"

    recordings, subjects = summary["recordings"], summary["subjects"]
    several = {  # of a subject with one recording, the recording's row says the same
        f"{name}: {len(own['recordings'])} recordings": own | {"contextual_fraction": None}
        for name, own in subjects.items()
        if len(own["recordings"]) > 1
    }
    rows = [*recordings.items(), *several.items(), ("all", summary)]
    for i, (name, scores) in enumerate(rows):
        if i in (len(recordings), len(rows) - 1):
            table.add_section()
        known = ["knowable_fraction", *["contextual_fraction"] * contextual]
        pairs = (pair(scores, f"{metric.name}_{of}") for metric in metrics for of in ("mean", "median"))
        table.add_row(shown(name), str(scores["units"]), *pairs, *(number(scores[key]) for key in known))
    return table
