"""Plaids: does a unit follow the pattern, or its components?

Shape letters: B resamplings, D directions, T bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from vivit_core.analysis.tuning.protocols.base import (
    Bench,
    Conditions,
    CurveOf,
    Site,
    contrast_problems,
    draw_problems,
    driven,
    phases_deg,
)
from vivit_core.stimuli.base import Stimulus, refuse
from vivit_core.stimuli.surrounds import Plaid

LARGEST = 1 - 1e-6  # a correlation, so that partial correlations and Fisher z stay finite


@dataclass(frozen=True)
class Plaids(Conditions):
    """Gratings and plaids in all directions, at the unit's preferred frequencies, over the whole frame.

    Parameters
    ----------
    contrast : of a component; a grating alone has the same.
    directions : evenly spaced over the circle.
    angle_deg : between the components; half of it is a whole number of steps between directions.
    draws, seed : see :class:`Conditions`.

    References
    ----------
    Movshon, Adelson, Gizzi & Newsome 1985; Smith, Majaj & Movshon 2005 (Nat Neurosci 8:220): Z-transformed partial
    correlations.
    """

    contrast: float
    directions: int
    angle_deg: float

    titles: ClassVar[Mapping[str, str]] = {
        "pattern_z": "pattern (Z)",
        "component_z": "component (Z)",
        "pattern_index": "pattern index (pattern Z less component Z)",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "pattern_z": "Fisher z, in its standard deviations, of the partial correlation of the responses to plaids with "
        "those to gratings of the plaid's direction, less what the components explain.",
        "component_z": "the same with the sum of the responses to the two components, less what the pattern explains.",
        "pattern_index": "pattern_z − component_z.",
    }
    over = "phases"

    def __post_init__(self) -> None:
        problems = draw_problems(self) + contrast_problems(self, "contrast", most=0.5)
        if self.directions < 6:
            problems.append(f"directions={self.directions} is below 6, too few for partial correlations")
        elif not 0 < self.angle_deg < 180 or self.half_steps != int(self.half_steps):
            problems.append(
                f"angle_deg={self.angle_deg}: half of it is no whole number of steps of {360 / self.directions:g}°"
            )
        refuse(self, problems)

    @property
    def half_steps(self) -> float:
        """From the pattern's direction to a component's, in steps between directions."""
        return round(self.angle_deg / 2 / (360 / self.directions), 6)

    @property
    def directions_deg(self) -> list[float]:
        return [360.0 * i / self.directions for i in range(self.directions)]

    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        pairs = list(zip(phases_deg(rng, self.draws), rng.uniform(0, 360, self.draws), strict=True))

        def of(direction_deg: float, angle_deg: float) -> list[Stimulus]:
            return [
                Plaid(
                    replace(site.drift, direction_deg=direction_deg, contrast=self.contrast, phase_deg=float(first)),
                    angle_deg,
                    float(second) if angle_deg else 0.0,
                    bench.on_s,
                )
                for first, second in pairs
            ]

        gratings = {f"grating {deg:g}°": of(deg, 0.0) for deg in self.directions_deg}
        return gratings | {f"plaid {deg:g}°": of(deg, self.angle_deg) for deg in self.directions_deg}

    def read(self, condition: str, course_T: np.ndarray, site: Site, bench: Bench) -> float:
        return bench.above_gray(course_T, site.unit)

    def curves(self) -> dict[str, CurveOf]:
        x = tuple(self.directions_deg)
        return {
            f"{kind}s": CurveOf(f"{kind.capitalize()}s", "direction (°)", x, tuple(f"{kind} {d:g}°" for d in x))
            for kind in ("grating", "plaid")
        }

    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        gratings_DB, plaids_DB = (
            np.stack([response[f"{kind} {deg:g}°"] for deg in self.directions_deg]) for kind in ("grating", "plaid")
        )
        step = int(self.half_steps)
        components_DB = np.roll(gratings_DB, step, 0) + np.roll(gratings_DB, -step, 0)
        pattern_z, component_z = partial_z(plaids_DB, gratings_DB, components_DB)
        some = np.isfinite(driven(gratings_DB.max(0), floor_hz)) & np.isfinite(driven(plaids_DB.max(0), floor_hz))
        pattern_z, component_z = (np.where(some, z, np.nan) for z in (pattern_z, component_z))
        return {"pattern_z": pattern_z, "component_z": component_z, "pattern_index": pattern_z - component_z}


def partial_z(
    measured_DB: np.ndarray, pattern_DB: np.ndarray, component_DB: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Fisher z, in its standard deviations, of the correlation with each prediction that the other does not explain."""

    def correlation(a_DB: np.ndarray, b_DB: np.ndarray) -> np.ndarray:
        a, b = a_DB - a_DB.mean(0), b_DB - b_DB.mean(0)
        exact = (a * b).sum(0) / np.sqrt(np.square(a).sum(0) * np.square(b).sum(0))
        # A unit that follows one prediction exactly would leave 0 / 0 of the other, whose value rounding decides.
        return np.asarray(np.clip(exact, -LARGEST, LARGEST))

    def z(own: np.ndarray, other: np.ndarray, both: np.ndarray) -> np.ndarray:
        partial = (own - other * both) / np.sqrt((1 - np.square(other)) * (1 - np.square(both)))
        return np.arctanh(np.clip(partial, -LARGEST, LARGEST)) * np.sqrt(len(measured_DB) - 3)

    with np.errstate(divide="ignore", invalid="ignore"):
        pattern, component = correlation(measured_DB, pattern_DB), correlation(measured_DB, component_DB)
        both = correlation(pattern_DB, component_DB)
        return z(pattern, component, both), z(component, pattern, both)
