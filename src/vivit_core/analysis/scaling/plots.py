"""The picture of how scores grow with data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vivit_core.analysis.bootstrap import INTERVAL
from vivit_core.analysis.scaling.numbers import Curve
from vivit_core.names import picture_text, short
from vivit_core.plotting.style import TRUTH, label_of, save

COLORS = ("tab:blue", "tab:orange", "tab:purple", "tab:red", "tab:brown", "tab:pink", "tab:olive", "tab:cyan")
PLACES = 100  # of a line


def growth(
    path: Path, *, curves: Mapping[str, Curve], found: Mapping[str, Mapping[str, Any]], oracle: float, label: str
) -> Path:
    """Bits per spike over what grows, with each curve's law and its band; and what twice as much would add.

    Parameters
    ----------
    path : of the PNG.
    curves : by name.
    found : their numbers (:func:`vivit_core.analysis.scaling.numbers.numbers_of`).
    oracle : the true rates' mean bits per spike; NaN where it is not known.
    label : what grows, with its unit.
    """
    figure = Figure(figsize=(10.5, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[1.7, 1.0])
    for i, (name, curve) in enumerate(curves.items()):
        color, marks = COLORS[i % len(COLORS)], curve.amounts
        left.plot(curve.x_N, curve.mean_N, "o", ms=3.5, mfc="none", color=color, alpha=0.7)
        means = [curve.mean_N[curve.x_N == x].mean() for x in marks]
        left.plot(marks, means, "o", color=color, ls="" if curve.law else ":", label=label_of(name))
        if curve.law is None or curve.drawn is None:
            continue
        inside, beyond = np.geomspace(marks[0], marks[-1], PLACES), np.geomspace(marks[-1], 2 * marks[-1], PLACES)
        left.plot(inside, curve.law.at(inside)[0], color=color)
        left.plot(beyond, curve.law.at(beyond)[0], color=color, ls="--")
        everywhere = np.concatenate([inside, beyond])
        low, high = np.percentile(curve.drawn.at(everywhere), INTERVAL, axis=0)
        left.fill_between(everywhere, low, high, color=color, alpha=0.15, lw=0)
    if math.isfinite(oracle):
        left.axhline(oracle, color=TRUTH, ls="--", lw=1, label="oracle: the true rates")
    ticks = np.unique(np.concatenate([curve.amounts for curve in curves.values()]))
    ticks = np.union1d(ticks, [2 * curve.amounts[-1] for curve in curves.values() if curve.law is not None])
    left.set_xscale("log")
    left.set_xticks(ticks, [f"{x:g}" for x in ticks])
    left.minorticks_off()
    left.set(xlabel=label, ylabel="bits per spike, mean over units")
    left.legend(frameon=False, fontsize=8)

    lawful = [(i, name, found[name]) for i, name in enumerate(curves) if found[name]["law"] is not None]
    for place, (i, _, own) in enumerate(lawful):
        gain, (low, high) = own["law"]["gain_of_twice"], own["law"]["gain_of_twice_interval"]
        error = [[max(gain - low, 0.0)], [max(high - gain, 0.0)]]
        right.errorbar(gain, place, xerr=error, fmt="o", color=COLORS[i % len(COLORS)], capsize=3)
    if lawful:
        right.axvline(0, color="0.6", lw=0.8)
        names = [f"{picture_text(short(name))}\n{own['at'][-1]:g} to {2 * own['at'][-1]:g}" for _, name, own in lawful]
        right.set_yticks(range(len(lawful)), names, fontsize=8)
        right.set_ylim(len(lawful) - 0.5, -0.5)
        right.set(xlabel="gain of twice as much (bits per spike)")
    else:
        right.set_axis_off()
    return save(figure, path)
