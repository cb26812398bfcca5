"""The comparison's tables, pictures and section of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis import bootstrap
from vivit_core.analysis.bootstrap import intervals
from vivit_core.analysis.compare import plots as compare_plots
from vivit_core.analysis.evaluate.responses import clip_of
from vivit_core.analysis.evaluate.section import between
from vivit_core.analysis.explore import columns_of
from vivit_core.analysis.tables import IDS, read_arrays
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.names import key_name
from vivit_core.report.explore import Explorer, Panel, Scores, Series
from vivit_core.report.section import Section, Table, definitions
from vivit_core.report.training import counted
from vivit_core.system.tables import read_table, write_table


def write_units(
    path: Path,
    shared: dict[str, list[str]],
    point: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    truth_U: np.ndarray,
    enough_U: np.ndarray,
) -> None:
    """A row a unit: each model's scores, and each one's gain over the first with its interval."""
    names = list(point)
    columns: dict[str, np.ndarray] = {"truth_bps": truth_U}
    for name in names:
        columns |= {f"{name}_{metric.name}": point[name][m] for m, metric in enumerate(all_metrics())}
    for name in names[1:]:
        low_U, high_U = intervals(drawn[name][:, 0] - drawn[names[0]][:, 0], enough_U)
        gain_U = point[name][0] - point[names[0]][0]
        columns |= {f"{name}_bps_gain": gain_U, f"{name}_bps_gain_low": low_U, f"{name}_bps_gain_high": high_U}
    units = [(rid, unit) for rid, own in shared.items() for unit in own]
    rows = [
        {"recording": rid, "unit": unit} | {name: float(column[u]) for name, column in columns.items()}
        for u, (rid, unit) in enumerate(units)
    ]
    write_table(path, rows)


def responses_of_all(
    shared: Mapping[str, Sequence[str]], rates: Mapping[str, Mapping[str, Mapping[str, Any]]]
) -> dict[str, np.ndarray]:
    """What ``responses.npz`` holds of a comparison: of each recording what an evaluation's does, without frame and
    windows, and with the ``predicted`` rates of all models (M, T, U), in their order.

    Parameters
    ----------
    shared : the units of each recording.
    rates : model -> recording -> name -> :func:`rates_of`.
    """
    kept: dict[str, np.ndarray] = {}
    for rid, units in shared.items():
        models = [own[rid] for own in rates.values()]
        arrays = {**models[0], "unit_ids": np.array(units), "predicted": np.stack([own["predicted"] for own in models])}
        kept |= {f"{key_name(rid)}/{name}": value for name, value in arrays.items()}
    return kept


def unit_explorer(folder: Path, models: Sequence[str]) -> Explorer | None:
    """The units of a comparison, from ``compare.csv`` and ``responses.npz`` in its folder; None where it lists none."""
    if not (folder / "compare.csv").is_file():
        return None
    table = read_table(folder / "compare.csv", text=IDS)
    bits, *others = all_metrics()
    first, *rest = models
    titles = {f"{name}_{metric.name}": f"{name}: {metric.title}" for name in models for metric in (bits, *others)}
    titles |= {"truth_bps": "oracle"} | {f"{name}_bps_gain": f"gain of {name}" for name in rest}
    quantity = {f"{name}_{metric.name}": metric.title for name in models for metric in (bits, *others)}
    quantity |= {"truth_bps": bits.title} | {f"{name}_bps_gain": f"gain in {bits.title}" for name in rest}
    shown = [*(f"{name}_bps" for name in models), *(f"{name}_bps_gain" for name in rest)]
    columns = columns_of(table, titles, shown, quantity)
    known = [column.key for column in columns]
    if f"{first}_bps" not in known or f"{rest[-1]}_bps_gain" not in known:
        return None  # nothing was scored
    beside = [
        (metric.title, [(name, f"m{i}", f"{name}_{metric.name}") for i, name in enumerate(models)])
        for metric in (bits, *others)
    ]
    beside[0][1].append(("oracle", "truth", "truth_bps"))
    gains = [(name, f"m{i}", f"{name}_bps_gain") for i, name in enumerate(models) if i]
    rows = [(f"gain in {bits.title} over {first}", gains), *beside]
    panels: list[Panel] = [Scores("Scores", [(title, [o for o in of if o[2] in known]) for title, of in rows])]
    groups = table["recording"].tolist()
    if (folder / "responses.npz").is_file():
        arrays = read_arrays(folder / "responses.npz")
        clips = {}
        for rid in dict.fromkeys(groups):
            rates_MTU = arrays[f"{key_name(rid)}/predicted"]
            named = {
                (name, f"m{i}"): rates_TU for i, (name, rates_TU) in enumerate(zip(models, rates_MTU, strict=True))
            }
            clips[rid] = clip_of(arrays, rid, named)
        panels.append(Series("Rates on repeats", clips))
    axes = (f"{first}_bps", f"{rest[-1]}_bps")
    title = "Units, model by model"
    names = table["unit"].tolist()
    return Explorer("compare", title, "recording", "unit", groups, names, columns, axes, f"{rest[-1]}_bps_gain", panels)


def draw(
    summary: dict[str, Any],
    point: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    enough_U: np.ndarray,
    folder: Path,
) -> None:
    names = list(point)
    gains = {name: intervals(drawn[name][:, 0] - drawn[names[0]][:, 0], enough_U) for name in names[1:]}
    compare_plots.against_first(
        folder / "compare_units.png",
        first=(names[0], point[names[0]][0]),
        others={name: point[name][0] for name in names[1:]},
        sure={name: np.where(low > 0, 1, np.where(high < 0, -1, 0)) for name, (low, high) in gains.items()},
    )
    compare_plots.scores_and_costs(folder / "compare_costs.png", models=summary["models"])


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


def with_interval(value: float | None, bounds: Sequence[float | None]) -> str:
    if value is None:
        return "–"
    interval = between(bounds, ", ")
    return f"{value:.3f}" if interval is None else f"{value:.3f} [{interval}]"
