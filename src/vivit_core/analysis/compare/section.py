"""The comparison's section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vivit_core.analysis import bootstrap
from vivit_core.analysis.compare.explore import unit_explorer
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.report.section import Section, Table, counted, definitions, with_interval


def report_section(summary: dict[str, Any], folder: Path, command: str) -> Section:
    """What a comparison adds to the reports of the models that were compared."""
    models, left_out = summary["models"], summary["left_out"]
    text = [
        f"{counted(len(models), 'model')} on the same {summary['bins']:,} bins of the {summary['split']} split, those "
        f"after the first {summary['burn_in']} of each trial, and the same {counted(summary['units'], 'unit')} of "
        f"{counted(len(summary['recordings']), 'recording')}; means over units, with 95 % intervals by a bootstrap "
        f"over {counted(sum(own['pieces'] for own in summary['recordings'].values()), 'piece')} of stimuli, repeats "
        f"together ({summary['resamples']:,} resamplings). They say how far scores would differ with other stimuli of "
        "this kind, for these units. A unit is surely better or worse where its own interval excludes zero: of two "
        "equally good models, one unit in eight would be one or the other by chance where a recording has ten pieces, "
        "and one in twenty where it has a hundred. "
        f"The likelihood of {next(iter(models))} ({summary['likelihood']}) scores all of them. "
        f"Speed was measured on {summary['device']}.",
    ]
    if telling := [name for name, own in models.items() if own["history"]]:
        text.append(f"{', '.join(telling)} can be told past counts. No model was told any, so that all know the same.")
    if summary["split"] == "val":
        text.append("This split chose the checkpoints, so its scores are too good.")
    if summary["units_without_interval"]:
        text.append(
            f"{counted(summary['units_without_interval'], 'unit')} spiked in fewer than {bootstrap.FEWEST} pieces: "
            "too few for an interval, so surely neither better nor worse."
        )
    if any(left_out.values()):
        text.append(
            f"{counted(left_out['recordings'], 'recording')} and {counted(left_out['units'], 'unit')} are left out, "
            "because not all models know them, or because no trial is longer than the burn-in."
        )
    _, *others = all_metrics()
    rows = [
        (
            name,
            own["model"] + (", not causal" if own["causal"] is False else ""),
            with_interval(own["bps_mean"], own["bps_interval"]),
            own["knowable_fraction"],
            *(with_interval(own[f"{m.name}_mean"], own[f"{m.name}_interval"]) for m in others),
            own["parameters"],
            own["flops_per_bin"],
            own["bins_per_s"],
        )
        for name, own in models.items()
    ]
    columns = (
        "name",
        "model",
        "bits per spike",
        "fraction known",
        *(metric.title for metric in others),
        "parameters",
        "FLOPs a bin",
        "bins/s",
    )
    gains = [
        (
            pair["of"],
            pair["to"],
            with_interval(pair["bps_gain_mean"], pair["bps_gain_interval"]),
            f"{pair['bps_units_better']} ({pair['bps_units_surely_better']})",
            f"{pair['bps_units_worse']} ({pair['bps_units_surely_worse']})",
            *(with_interval(pair[f"{m.name}_gain_mean"], pair[f"{m.name}_gain_interval"]) for m in others),
        )
        for pair in summary["pairs"]
    ]
    headings = (
        "of",
        "over",
        "gain in bits per spike",
        "units better (surely)",
        "units worse (surely)",
        *(f"in {metric.title}" for metric in others),
    )
    tables = [
        Table("Models", columns, rows),
        Table("Gains, unit by unit", headings, gains),
    ]
    notes = [
        Table("Checkpoints", ("name", "checkpoint"), [(name, own["checkpoint"]) for name, own in models.items()]),
        definitions(summary["methods"]),
    ]
    drawn = [
        (folder / "compare_units.png", "Bits per spike, a point a unit; filled where the interval excludes zero."),
        (
            folder / "compare_costs.png",
            "Mean bits per spike with its interval, beside parameters, operations and speed.",
        ),
    ]
    explore = unit_explorer(folder.parent, list(models))
    return Section("compare", "Compared with what", text, tables, drawn, command, notes, explore)
