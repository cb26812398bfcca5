"""What a reader can explore of a comparison: each unit's scores and rates, model by model.

Shape letters: M models, T bins, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from vivit_core.analysis.evaluate.responses import clip_of
from vivit_core.analysis.explore import explorer_columns
from vivit_core.analysis.tables import IDS, read_arrays
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.names import key_name
from vivit_core.report.explore import Explorer, Panel, Scores, Series
from vivit_core.system.tables import read_table


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
    columns = explorer_columns(table, titles, shown, quantity)
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
