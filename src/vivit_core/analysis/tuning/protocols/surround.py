"""Gratings in the surround: by orientation and by distance; and annuli of every inner diameter.

Shape letters: B resamplings, T bins, X places of a curve.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vivit_core.analysis.tuning.protocols.base import (
    Bench,
    Conditions,
    CurveOf,
    Site,
    contrast_problems,
    draw_problems,
    drawn_drifts,
    drawn_places,
    driven,
    first_fall,
    rising_problems,
    suppression,
)
from vivit_core.stimuli.base import Stimulus, negative, refuse
from vivit_core.stimuli.surrounds import CenterSurround, Drift

GONE = 0.05  # share of its largest response to which a unit falls where an annulus no longer covers its field
LEAST_SUPPRESSION = 0.05  # below it, how far a suppression reaches has no meaning


class OfGratings(Conditions):
    """Responses to gratings: F1 of simple units, else the mean rate above gray's."""

    def read(self, condition: str, course_T: np.ndarray, site: Site, bench: Bench) -> float:
        return bench.drifting(course_T, site)


@dataclass(frozen=True)
class Surround(OfGratings):
    """The preferred grating in a disc, alone and with a grating around it: of the same orientation at several
    distances, and of the orthogonal one.

    Parameters
    ----------
    contrast : of center and surround.
    gaps_px : gray between the disc's border and the surround, px, rising from 0; the cross surround has 0.
    jitter_px : standard deviation of the place in each draw, px.
    draws, seed : see :class:`Conditions`.

    References
    ----------
    Cavanaugh, Bair & Movshon 2002 (J Neurophysiol 88:2530, 2547).
    """

    contrast: float
    gaps_px: list[float]
    jitter_px: float

    titles: ClassVar[Mapping[str, str]] = {
        "iso_suppression": "suppression by an iso surround",
        "cross_suppression": "suppression by a cross surround",
        "orientation_tuned": "iso less cross suppression",
        "annulus_response": "surround alone over center alone",
        "reach_px": "gap that halves the suppression (px)",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "iso_suppression": "1 − R / R_center: R to the disc and a surround of the same orientation without a gap, "
        "R_center to the disc alone.",
        "cross_suppression": "the same with a surround of the orthogonal orientation.",
        "orientation_tuned": "iso_suppression − cross_suppression.",
        "annulus_response": "response to the surround alone over R_center.",
        "reach_px": "gap at which the iso suppression first falls to half of that without a gap, by a line between the "
        f"gaps; inf where it never does, and empty where that without a gap is below {LEAST_SUPPRESSION:g}.",
    }
    over = "phases and places"

    def __post_init__(self) -> None:
        problems = draw_problems(self) + contrast_problems(self, "contrast") + negative(self, "jitter_px")
        problems += rising_problems(self, "gaps_px", 1)
        if not problems and self.gaps_px[0] != 0:
            problems.append(
                f"gaps_px={self.gaps_px} does not begin at 0, and suppressions are those without a gap; put 0.0 first"
            )
        refuse(self, problems)

    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        drifts = drawn_drifts(site, self.contrast, rng, self.draws)
        places = drawn_places(site, self.jitter_px, rng, self.draws)

        def of(center: bool, turn_deg: float | None, gap_px: float) -> list[Stimulus]:
            def one(drift: Drift, place: tuple[float, float]) -> Stimulus:
                around = None if turn_deg is None else drift.turned(turn_deg)
                return CenterSurround(
                    drift if center else None,
                    around,
                    place,
                    site.diameter_px,
                    gap_px,
                    None,
                    bench.drift_s(site),
                )

            return [one(drift, place) for drift, place in zip(drifts, places, strict=True)]

        first = self.gaps_px[0]
        return {
            "center": of(True, None, first),
            **{f"iso {gap:g} px": of(True, 0.0, gap) for gap in self.gaps_px},
            "cross": of(True, 90.0, first),
            "surround": of(False, 0.0, first),
        }

    def curves(self) -> dict[str, CurveOf]:
        by_gap = tuple(f"iso {gap:g} px" for gap in self.gaps_px)
        return {"by_gap": CurveOf("Iso surround by distance", "gap (px)", tuple(self.gaps_px), by_gap)}

    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        alone = driven(response["center"], floor_hz)
        iso_XB = np.stack([suppression(response[f"iso {gap:g} px"], alone) for gap in self.gaps_px])
        cross = suppression(response["cross"], alone)
        half = np.where(iso_XB[0] > LEAST_SUPPRESSION, iso_XB[0] / 2, np.nan)
        return {
            "iso_suppression": iso_XB[0],
            "cross_suppression": cross,
            "orientation_tuned": iso_XB[0] - cross,
            "annulus_response": response["surround"] / alone,
            "reach_px": first_fall(self.gaps_px, iso_XB, half),
        }


@dataclass(frozen=True)
class Annuli(OfGratings):
    """The preferred grating over the whole frame but for a gray disc, which grows.

    Parameters
    ----------
    contrast : of the grating.
    inner_px : diameters of the gray disc, px, rising; the grating without a disc is added.
    jitter_px : standard deviation of the place in each draw, px.
    draws, seed : see :class:`Conditions`.

    References
    ----------
    Cavanaugh, Bair & Movshon 2002 (J Neurophysiol 88:2530): where annuli no longer drive a unit, its field ends.
    """

    contrast: float
    inner_px: list[float]
    jitter_px: float

    titles: ClassVar[Mapping[str, str]] = {
        "field_px": "inner diameter that silences (px)",
        "outside_response": "outside of the center over whole",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "field_px": "diameter of the gray disc from which on at most "
        f"{GONE:g} of the largest response is left, by a line between the discs; inf where the largest disc leaves "
        "more.",
        "outside_response": "response with gray in the unit's own disc over that to the whole grating.",
    }
    over = "phases and places"

    def __post_init__(self) -> None:
        problems = draw_problems(self) + contrast_problems(self, "contrast") + negative(self, "jitter_px")
        problems += rising_problems(self, "inner_px", 2)
        if not problems and not self.inner_px[0] > 0:
            problems.append(f"inner_px={self.inner_px} does not begin above 0; the grating without a disc is added")
        refuse(self, problems)

    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        drifts = drawn_drifts(site, self.contrast, rng, self.draws)
        places = drawn_places(site, self.jitter_px, rng, self.draws)

        def of(inner_px: float, center: bool = False) -> list[Stimulus]:
            return [
                CenterSurround(drift if center else None, drift, place, inner_px, 0.0, None, bench.drift_s(site))
                for drift, place in zip(drifts, places, strict=True)
            ]

        # A disc of the same grating inside fills the hole exactly.
        whole: dict[str, list[Stimulus]] = {"whole": of(self.inner_px[0], center=True)}
        return whole | {f"{inner:g} px": of(inner) for inner in self.inner_px} | {"own center": of(site.diameter_px)}

    def curves(self) -> dict[str, CurveOf]:
        keys = ("whole", *(f"{inner:g} px" for inner in self.inner_px))
        return {"by_inner": CurveOf("Annuli", "inner diameter (px)", (0.0, *self.inner_px), keys)}

    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        curve = self.curves()["by_inner"]
        curve_XB = np.stack([response[key] for key in curve.conditions])
        largest = driven(curve_XB.max(0), floor_hz)
        # What lies behind the last annulus that still drives the unit: small revivals do not count as silence before.
        return {
            "field_px": last_fall(curve.x, curve_XB, GONE * largest),
            "outside_response": response["own center"] / driven(response["whole"], floor_hz),
        }


def last_fall(x: tuple[float, ...], curve_XB: np.ndarray, level_B: np.ndarray) -> np.ndarray:
    """Where each curve falls to a level for good; infinite where its end is above, and NaN without a level."""
    found_B = np.where(np.isnan(level_B), np.nan, np.inf)
    for b, (curve_X, level) in enumerate(zip(curve_XB.T, level_B, strict=True)):
        above = np.flatnonzero(curve_X > level)
        if not len(above) or above[-1] == len(x) - 1:
            continue
        at = int(above[-1])
        share = (curve_X[at] - level) / (curve_X[at] - curve_X[at + 1])
        found_B[b] = x[at] + share * (x[at + 1] - x[at])
    return found_B
