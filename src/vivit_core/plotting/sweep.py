"""The score over one axis of a sweep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from vivit_core.names import picture_text, short
from vivit_core.plotting.style import MEASURED, TWIN, save

TICK = 16  # characters of a value under an axis


def sweep_axis(
    path: Path,
    *,
    key: str,
    values: Sequence[str],
    others: Sequence[tuple[str, ...]],
    scores: Sequence[float],
    score_name: str,
) -> Path:
    """Scores of a sweep's runs over the values of one swept key: a point a run, the best of each value joined.

    Parameters
    ----------
    path : of the PNG.
    key, values : the swept key, and the value that each run had of it.
    others : what each run had of the other swept keys; a thin line joins runs that differ in ``key`` alone.
    scores, score_name : one a run, and what they are.
    """
    places, ticks = _places(values)
    figure = Figure(figsize=(5.4, 3.8), layout="constrained")
    axes = figure.subplots()
    for other in dict.fromkeys(others):
        own = sorted(places[i] for i in range(len(values)) if others[i] == other)
        score_at = {places[i]: scores[i] for i in range(len(values)) if others[i] == other}
        axes.plot(own, [score_at[x] for x in own], ".-", color=MEASURED, lw=0.7, alpha=0.5)
    best = {x: max(score for place, score in zip(places, scores, strict=True) if place == x) for x in sorted(ticks)}
    axes.plot(list(best), list(best.values()), "o-", color=TWIN, label="the best of each value")
    if len(ticks) > 1 and all(x > 0 for x in ticks) and max(ticks) / min(ticks) >= 8 and _numbers(values):
        axes.set_xscale("log")
    axes.set_xticks(list(ticks), [picture_text(short(value, TICK)) for value in ticks.values()])
    axes.minorticks_off()
    axes.set(xlabel=short(key), ylabel=score_name)
    axes.legend(frameon=False, fontsize="small")
    return save(figure, path)


def _numbers(words: Sequence[str]) -> list[float] | None:
    """The words as numbers; None where one is none, or has no place on an axis."""
    try:
        numbers = [float(word) for word in words]
    except ValueError:
        return None
    return numbers if np.isfinite(numbers).all() else None


def _rank(word: str) -> tuple[bool, float, str]:
    """What sorts values side by side: numbers by their size, then words."""
    number = _numbers([word])
    return (True, 0.0, word) if number is None else (False, number[0], word)


def _places(values: Sequence[str]) -> tuple[list[float], dict[float, str]]:
    """Where values stand on an axis, numbers by their size, but side by side beside words; and the axis's ticks."""
    numbers = _numbers(values)
    if numbers is None:
        order = {value: float(i) for i, value in enumerate(dict.fromkeys(sorted(values, key=_rank)))}
        numbers = [order[value] for value in values]
    return numbers, dict(zip(numbers, values, strict=True))
