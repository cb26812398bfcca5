"""Pictures of a comparison."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vivit_core.names import short
from vivit_core.plotting.style import BASELINE, FLOOR, TWIN, label_of, note_beyond, save


def against_first(
    path: Path,
    *,
    first: tuple[str, np.ndarray],
    others: Mapping[str, np.ndarray],
    sure: Mapping[str, np.ndarray],
) -> Path:
    """Bits per spike of models against a first one, a point a unit.

    Parameters
    ----------
    path : of the PNG.
    first, others : a model's name and its units' bits per spike (U,).
    sure : for each other model (U,): 1 where it is surely better, -1 where it is surely worse, else 0.
    """
    columns = min(len(others), 3)
    rows = -(-len(others) // columns)
    figure = Figure(figsize=(4.6 * columns, 4.7 * rows), layout="constrained")
    name, x = first
    values = np.concatenate([x, *others.values()])
    values = np.append(values[np.isfinite(values)], 0.0)  # of silent units there are none
    low, high = max(float(values.min()), FLOOR), float(values.max())
    limits = (low - 0.05 * (high - low + 0.1), high + 0.05 * (high - low + 0.1))
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid[len(others) :]:
        axes.set_axis_off()
    for axes, (other, y) in zip(grid[: len(others)], others.items(), strict=True):
        known = ~(np.isnan(x) | np.isnan(y))
        axes.plot(limits, limits, color="0.6", lw=1, zorder=0)
        for value, color in ((0, "0.55"), (1, TWIN), (-1, BASELINE)):
            own = known & (sure[other] == value)
            face = "none" if value == 0 else color
            label = {0: "not sure", 1: f"{label_of(other)} surely better", -1: f"{label_of(name)} surely better"}[value]
            axes.scatter(
                np.clip(x[own], low, high),
                np.clip(y[own], low, high),
                s=16,
                lw=0.7,
                edgecolors=color,
                facecolors=face,
                alpha=0.8,
                label=f"{label}: {own.sum()}",
            )
        note_beyond(axes, int(((np.minimum(x, y) < low) | (np.maximum(x, y) > high))[known].sum()))
        axes.set(
            xlim=limits,
            ylim=limits,
            aspect="equal",
            xlabel=f"{short(name)} (bits per spike)",
            ylabel=f"{short(other)} (bits per spike)",
        )
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return save(figure, path)


def scores_and_costs(path: Path, *, models: Mapping[str, Mapping[str, Any]]) -> Path:
    """Each model's mean bits per spike with its interval against its parameters, its operations and its speed.

    Parameters
    ----------
    path : of the PNG.
    models : name -> ``bps_mean`` and ``bps_interval``, None where they are not known, ``parameters``,
        ``flops_per_bin``, ``bins_per_s``.
    """
    known = {name: own for name, own in models.items() if own["bps_mean"] is not None}
    figure = Figure(figsize=(11.5, 3.7), layout="constrained")
    costs = {"parameters": "parameters", "flops_per_bin": "FLOPs a bin", "bins_per_s": "bins a second"}
    for axes, (cost, label) in zip(figure.subplots(1, 3, sharey=True), costs.items(), strict=True):
        for i, (name, own) in enumerate(known.items()):
            if not (own[cost] or 0) > 0:
                continue  # not known, or without a place on a logarithmic axis
            mean = own["bps_mean"]
            low, high = (mean if end is None else end for end in own["bps_interval"])
            error = [[max(mean - low, 0.0)], [max(high - mean, 0.0)]]
            axes.errorbar(own[cost], mean, error, fmt="o", color=f"C{i % 10}", capsize=3, label=label_of(name))
        axes.set(xlabel=label, xscale="log", ylabel="bits per spike, mean over units" if cost == "parameters" else None)
        axes.margins(x=0.25)
    figure.legend(
        *figure.axes[0].get_legend_handles_labels(), frameon=False, ncols=4, loc="outside lower center", fontsize=9
    )
    return save(figure, path)
