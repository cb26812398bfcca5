"""Intervals of what gratings tell: those along a unit's curves are shown again, in other phases and places.

Intervals are the protocols': draws are resampled (``protocols/base.py``).

Shape letters: U units, R draws, B resamplings (the first is the data themselves).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from vivit_core.analysis.screen import AnyScreen
from vivit_core.analysis.tuning.measure import Projector, Shown, Tuning, defined
from vivit_core.analysis.tuning.numbers import Curves, preferred
from vivit_core.analysis.tuning.protocols.base import bounds_of, resamplings

AROUND_DEG = {"orientation_deg": 180.0, "direction_deg": 360.0}  # numbers that run over a circle, and its length


def drawn(
    screen: AnyScreen, tuning: Tuning, centers_U2: np.ndarray, units: Sequence[int], progress: bool
) -> dict[int, Curves]:
    """The curves of some units in every draw; columns are draws.

    The first is what was measured already. In each of the others gratings have another phase, and discs another place.

    Parameters
    ----------
    screen, centers_U2, progress : see :func:`measure`.
    tuning : what it found.
    units : whose curves.
    """
    gratings = tuning.gratings
    projector = Projector(screen, gratings, progress)
    phases_R = np.arange(gratings.draws) * 360.0 / gratings.draws
    steps_R2 = np.random.default_rng(gratings.seed).normal(0.0, gratings.jitter_px, (gratings.draws, 2))
    plans = {
        unit: [along(tuning, unit, centers_U2[unit] + step_2, float(phase))
               for phase, step_2 in zip(phases_R[1:], steps_R2[1:], strict=True)]
        for unit in units
    }  # fmt: skip
    wanted = list(dict.fromkeys(shown for draws in plans.values() for plan in draws for own in plan for shown in own))
    above: dict[Shown, np.ndarray] = {}
    f1: dict[Shown, np.ndarray] = {}
    for n, _, found in projector.show(wanted, "draws of gratings"):
        above[wanted[n]], f1[wanted[n]] = found.f0 - tuning.blank_U, found.f1
    measured = tuning.curves()
    curves = {}
    for unit, draws in plans.items():
        of = f1 if tuning.simple_U[unit] else above
        columns = [measured.at(unit)]
        for *plan, (best,) in draws:
            responses = [np.array([of[shown][unit] for shown in own]) for own in plan]
            columns.append(Curves(*responses, *(np.asarray(values[best][unit]) for values in (above, f1))))
        curves[unit] = Curves.side_by_side(columns)
    return curves


def along(tuning: Tuning, unit: int, place_2: np.ndarray, phase_deg: float) -> list[list[Shown]]:
    """The gratings of each of a unit's curves, and the preferred one, in one draw."""
    gratings = tuning.gratings
    d, s, f = tuning.best_U3[unit].tolist()
    best, (x, y) = (d, s, f), place_2.tolist()

    def over(places: Sequence[tuple[int, int, int]]) -> list[Shown]:
        return [Shown(place, gratings.contrast, None, phase_deg) for place in places]

    whole = Shown(best, gratings.contrast, None, phase_deg)
    return [
        over([(i, s, f) for i in range(gratings.directions)]),
        over([(d, i, f) for i in range(len(gratings.spatial_frequencies))]),
        over([(d, s, i) for i in range(len(gratings.temporal_frequencies_hz))]),
        [Shown(best, contrast, None, phase_deg) for contrast in gratings.contrasts],
        [*(Shown(best, gratings.contrast, (x, y, size), phase_deg) for size in gratings.sizes_px), whole],
        [whole],
    ]


def with_intervals(
    found: Mapping[str, np.ndarray], tuning: Tuning, curves: Mapping[int, Curves]
) -> dict[str, np.ndarray]:
    """What units prefer, with ``_low`` and ``_high`` of each number; NaN for units that were not drawn.

    Those that were have the numbers of the mean over their draws. Bounds of an angle lie beside it, so that they may be
    below 0 or above the circle's end.
    """
    gratings = tuning.gratings
    found = {name: column.copy() for name, column in found.items()}
    names = list(preferred(gratings, tuning.curves()))
    found |= {f"{name}{end}": np.full(len(tuning.blank_U), np.nan) for name in names for end in ("_low", "_high")}
    weights_BR = resamplings(gratings.draws, gratings.seed)
    for unit, own in curves.items():
        told = preferred(gratings, own.weighed(weights_BR))
        for name in (name for name in names if defined(name, tuning)):
            values_B = told[name]
            found[name][unit] = values_B[0]
            if name in AROUND_DEG:
                half = AROUND_DEG[name] / 2
                values_B = values_B[0] + (values_B - values_B[0] + half) % (2 * half) - half
            found[f"{name}_low"][unit], found[f"{name}_high"][unit] = bounds_of(values_B[1:])
    return found
