"""Pictures of the laboratory: what was shown, each number's distribution or its scatter against the true neurons, and
some units' curves.

Shape letters: S sites (units), X places of a curve, H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vivit_core.analysis.tuning.laboratory import ANGLES, PREFERRED, TRULY, apart
from vivit_core.names import short
from vivit_core.plotting.style import TALL, TRUTH, TWIN, save

if TYPE_CHECKING:
    from vivit_core.analysis.tuning.laboratory import ProtocolRun

SHOWN = 4  # units whose curves are drawn
COLUMNS = 6  # of a row of panels
STIMULI = 12  # conditions of which a frame is drawn; of more, every so many


def plot_protocol(
    path: Path, rows: Sequence[Mapping[str, Any]], runs: Sequence[ProtocolRun], recording_ids: Sequence[str]
) -> Path:
    """One protocol: a frame of each condition, its numbers over all units, and the curves of a few.

    Parameters
    ----------
    path : of the picture.
    rows : one a unit, of all recordings.
    runs : the protocol at each recording.
    recording_ids : of the recordings, in the same order.
    """
    first = next((run for run in runs if run.sites), runs[0])
    shown = list(first.twin.shown.items())
    if len(shown) > STIMULI:
        shown = [shown[i * len(shown) // STIMULI] for i in range(STIMULI)]
    numbers = list(first.protocol.titles.items())
    curves = list(first.twin.curves)
    lines = -(-len(shown) // COLUMNS)
    more = -(-len(numbers) // COLUMNS) + len(curves)
    tall = min(TALL, shown[0][1].shape[0] / shown[0][1].shape[1]) if shown else 0.0
    heights = [14 / COLUMNS * tall + 0.3] * lines + [2.6] * more
    figure = Figure(figsize=(14, sum(heights) + 0.6), layout="constrained")
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for line in range(lines):
        cells = parts[line].subplots(1, COLUMNS, squeeze=False)[0]
        for axes, (condition, frame) in zip(cells, shown[line * COLUMNS :], strict=False):
            axes.imshow(frame, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set_title(condition, fontsize=8)
        for axes in cells:
            axes.axis("off")
    at = lines
    for begin in range(0, len(numbers), COLUMNS):
        own = numbers[begin : begin + COLUMNS]
        for axes, (number, title) in zip(parts[at].subplots(1, len(own), squeeze=False)[0], own, strict=True):
            draw_number(axes, rows, f"{first.name}_{number}", title)
        at += 1
    for curve in curves:
        draw_curve(parts[at], runs, recording_ids, rows, curve)
        at += 1
    known = (
        "; green and across: the true neurons under the same stimuli"
        if any(run.true is not None for run in runs)
        else ""
    )
    units = sum(len(run.sites) for run in runs)
    figure.suptitle(f"{first.name}: {units} units, intervals over {first.protocol.over}{known}", fontsize=11)
    return save(figure, path)


def plot_truth(path: Path, rows: Sequence[Mapping[str, Any]], titles: Mapping[str, str]) -> Path:
    """What gratings tell of the twin's units against what they tell of the true neurons."""
    figure = Figure(figsize=(13, 3.1 * -(-len(titles) // 4) + 0.4), layout="constrained")
    cells = figure.subplots(-(-len(titles) // 4), 4, squeeze=False).flatten()
    for axes, (name, title) in zip(cells, titles.items(), strict=False):
        draw_number(axes, rows, name, title)
    for axes in cells[len(titles) :]:
        axes.axis("off")
    figure.suptitle("Gratings: the twin's units against the true neurons under the same gratings", fontsize=11)
    return save(figure, path)


def draw_number(axes: Axes, rows: Sequence[Mapping[str, Any]], name: str, title: str) -> None:
    """A number of all units: against the true neurons' where they are known, else how it is distributed. What is
    infinite has no place there, and is counted below."""

    def column(key: str) -> np.ndarray:
        return np.array([row.get(key, np.nan) for row in rows], float)

    keys = (name, f"{name}_low", f"{name}_high", TRULY.get(name, f"truth_{name}"))
    twin_U, low_U, high_U, true_U = map(column, keys)
    both = ~np.isnan(twin_U) & ~np.isnan(true_U)
    axes.tick_params(labelsize=7)
    axes.set_title(title, fontsize=8)
    if not both.any():
        known = twin_U[~np.isnan(twin_U)]
        if np.isfinite(known).any():
            axes.hist(known[np.isfinite(known)], 15, color=TWIN, histtype="stepfilled", alpha=0.6)
        if np.isfinite(known).any() and np.isfinite(middle := float(np.median(known))):
            axes.axvline(middle, color=TWIN, lw=1)
        axes.set_xlabel(f"twin{beyond(known)}" if len(known) else "defined for no unit", fontsize=8)
        axes.set_ylabel("units", fontsize=8)
        return
    error = float(np.median(apart(name, twin_U[both], true_U[both])))
    within = both & np.isfinite(twin_U) & np.isfinite(true_U)
    if within.any():
        shown = np.concatenate([true_U[within], twin_U[within]])
        ends = np.array([shown.min(), shown.max()])
        room = 0.05 * max(ends[1] - ends[0], 1e-3)
        ends += (-room, room)
        bars = within & np.isfinite(low_U) & ~np.isnan(high_U)
        # An open bound is drawn as far as the axis goes.
        axes.vlines(true_U[bars], low_U[bars], np.minimum(high_U[bars], ends[1]), color=TWIN, lw=0.6, alpha=0.5)
        axes.plot(true_U[within], twin_U[within], ".", color=TWIN, ms=4)
        axes.plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        axes.set(xlim=ends, ylim=ends)
    unit = " octaves" if name in PREFERRED and name not in ANGLES else ""
    said = f"true neuron; median error {error:.3g}{unit}, {int(both.sum())} units"
    axes.set_xlabel(said + beyond(np.where(within, 0.0, np.inf)[both]), fontsize=7)
    axes.set_ylabel("twin", fontsize=8)


def beyond(values: np.ndarray) -> str:
    """How many values are more than what was shown can tell."""
    number = int(np.isinf(values).sum())
    return f", {number} beyond" if number else ""


def draw_curve(
    part: Any, runs: Sequence[ProtocolRun], recording_ids: Sequence[str], rows: Sequence[Mapping[str, Any]], curve: str
) -> None:
    """A curve of a few units, and of their true neurons."""
    chosen = [(i, s) for i, run in enumerate(runs) for s in range(len(run.sites))]
    # One of each recording first.
    chosen = sorted(chosen, key=lambda pair: pair[1])[:SHOWN]
    cells = part.subplots(1, max(1, len(chosen)), squeeze=False)[0]
    units = {recording: [row["unit"] for row in rows if row["recording"] == recording] for recording in recording_ids}
    for axes, (i, s) in zip(cells, chosen, strict=False):
        run = runs[i]
        of, values_SX = run.twin.curves[curve]
        axes.plot(of.x, values_SX[s], ".-", color=TWIN)
        if run.true is not None:
            axes.plot(of.x, run.true.curves[curve][1][s], ".:", color=TRUTH)
        axes.axhline(0, color="0.8", lw=0.8, zorder=0)
        axes.set_title(short(units[recording_ids[i]][run.sites[s].unit], 24), fontsize=8)
        axes.set_xlabel(of.x_title, fontsize=8)
        axes.tick_params(labelsize=7)
    if chosen:
        cells[0].set_ylabel(f"{runs[chosen[0][0]].twin.curves[curve][0].title}\nresponse (Hz)", fontsize=8)
