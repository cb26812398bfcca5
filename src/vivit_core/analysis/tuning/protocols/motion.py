"""Motion in the center and in the surround.

Shape letters: T bins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vivit_core.analysis.tuning.protocols.base import (
    Bench,
    Conditions,
    Site,
    contrast_problems,
    draw_problems,
    driven,
    suppression,
)
from vivit_core.stimuli.base import Stimulus, negative, refuse
from vivit_core.stimuli.motion import MOST_CONTRAST, CenterSurroundMotion


@dataclass(frozen=True)
class Motion(Conditions):
    """Noise that drifts in a disc in the preferred direction and at the preferred grating's speed: alone, against
    noise that moves the other way at the same place, and in a surround that moves the same or the other way.

    Parameters
    ----------
    contrast : root mean square contrast of the noise, up to 0.35.
    gap_px : gray between the disc and the surround, px.
    draws, seed : see :class:`Conditions`; each draw has noise of its own.

    References
    ----------
    Allman, Miezin & McGuinness 1985 (Perception 14:105); Snowden et al. 1991 (J Neurosci 11:2768).
    """

    contrast: float
    gap_px: float

    titles: ClassVar[Mapping[str, str]] = {
        "same_suppression": "suppression by a surround that moves along",
        "opposite_suppression": "suppression by a surround that moves against",
        "center_surround_index": "(against − along) / (against + along)",
        "opponency": "suppression by opposite motion in the center",
        "direction_index": "(preferred − opposite) / (preferred + opposite)",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "same_suppression": "1 − R_along / R_center: noise around the disc that moves along, and the disc alone in the "
        "preferred direction.",
        "opposite_suppression": "1 − R_against / R_center: noise around the disc that moves against it.",
        "center_surround_index": "(R_against − R_along) / (R_against + R_along), of responses above zero.",
        "opponency": "1 − R_both / R_center: noise in the disc moves both ways at once.",
        "direction_index": "(R_center − R_null) / (R_center + R_null), of responses above zero; R_null is to the disc "
        "alone in the opposite direction.",
    }
    over = "noise"

    def __post_init__(self) -> None:
        problems = draw_problems(self) + contrast_problems(self, "contrast", most=MOST_CONTRAST)
        refuse(self, problems + negative(self, "gap_px"))

    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        seeds = rng.integers(2**31, size=self.draws).tolist()
        along = site.drift.direction_deg
        against = (along + 180.0) % 360.0

        def of(center_deg: float, surround_deg: float | None = None, opponent: bool = False) -> list[Stimulus]:
            return [
                CenterSurroundMotion(
                    center_deg=center_deg,
                    surround_deg=surround_deg,
                    opponent=opponent,
                    cycles_per_px=site.drift.cycles_per_px,
                    speed_px_per_s=site.drift.hz / site.drift.cycles_per_px,
                    contrast=self.contrast,
                    center_px=site.center_px,
                    diameter_px=site.diameter_px,
                    gap_px=self.gap_px,
                    duration_s=bench.on_s,
                    seed=seed,
                )
                for seed in seeds
            ]

        return {
            "center": of(along),
            "center against": of(against),
            "both ways": of(along, opponent=True),
            "surround along": of(along, along),
            "surround against": of(along, against),
        }

    def read(self, condition: str, course_T: np.ndarray, site: Site, bench: Bench) -> float:
        return bench.above_gray(course_T, site.unit)

    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        alone = driven(response["center"], floor_hz)
        same, opposite, null = (response[name] for name in ("surround along", "surround against", "center against"))

        def index(a: np.ndarray, b: np.ndarray) -> np.ndarray:
            a, b = np.maximum(a, 0), np.maximum(b, 0)
            # Where neither raises the rate there is nothing to compare.
            return np.where(np.isfinite(alone) & (a + b > 0), (a - b) / np.maximum(a + b, 1e-12), np.nan)

        return {
            "same_suppression": suppression(same, alone),
            "opposite_suppression": suppression(opposite, alone),
            "center_surround_index": index(opposite, same),
            "opponency": suppression(response["both ways"], alone),
            "direction_index": index(alone, null),
        }
