"""Natural pictures in their own and in a foreign surround.

Shape letters: B pictures, R those that are chosen, T bins, H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.tuning.protocols.base import (
    Bench,
    Conditions,
    Site,
    draw_problems,
    driven,
    suppression,
)
from vivit_core.stimuli.base import Stimulus, negative, not_positive, refuse
from vivit_core.stimuli.pictures import PictureInPicture
from vivit_core.stimuli.surrounds import ring

MOST_SCALED = 4.0  # times the contrast of a foreign surround; more would show a nearly gray picture's noise


@dataclass(frozen=True)
class NaturalSurround(Conditions):
    """The middle of natural pictures, alone, in its own surround, and in another picture's.

    The foreign surround is of another stimulus (of one film, half of the pictures away), at the root mean square
    contrast of the own one, as far as ``MOST_SCALED`` and the range of the natural pictures allow.

    Parameters
    ----------
    before_s : gray before the picture, s.
    picture_s : time for which it stands, and for which the mean rate counts, s.
    draws, seed : see :class:`Conditions`; each draw is a picture of the test split (``natural`` says how many there
        are).

    References
    ----------
    Coen-Cagli, Kohn & Schwartz 2015 (Nat Neurosci 18:1648).
    """

    before_s: float
    picture_s: float

    titles: ClassVar[Mapping[str, str]] = {
        "own_suppression": "suppression by the own surround",
        "foreign_suppression": "suppression by a foreign surround",
        "own_minus_foreign": "(own − foreign) / center alone",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "own_suppression": "1 − R_own / R_center: the middle of pictures in their own surround, and alone.",
        "foreign_suppression": "1 − R_foreign / R_center: in the surround of another picture.",
        "own_minus_foreign": "(R_own − R_foreign) / R_center.",
    }
    over = "pictures"

    def __post_init__(self) -> None:
        problems = [f"draws={self.draws} is below 2, and a foreign surround is another's"] if self.draws < 2 else []
        problems += not_positive(self, "picture_s") + negative(self, "before_s") + draw_problems(self)
        refuse(self, problems)

    @property
    def pictures(self) -> int:
        return self.draws

    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        total = len(bench.natural_BHW)
        if total < self.draws:
            raise ValueError(
                f"NaturalSurround: draws={self.draws}, and the recording gives {total} natural pictures; ask for fewer "
                "draws"
            )
        chosen = np.sort(rng.choice(total, self.draws, replace=False))
        # One stimulus a picture for all sites, so that it is shown once: center and own surround are the picture.
        whole = bench.kept(id(self), lambda: [self.shown(bench.natural_BHW[i], bench.natural_BHW[i]) for i in chosen])
        around = ring(bench.size, site.center_px, site.diameter_px)
        alone: list[Stimulus] = []
        foreign: list[Stimulus] = []
        # The pictures' own range: what they show the pixels can show, which may be more than ±1 on one side.
        least, most = bench.natural_BHW.min(), bench.natural_BHW.max()
        for i, j in zip(chosen, chosen[partners(bench.film_B[chosen])], strict=True):
            own, other = bench.natural_BHW[i], bench.natural_BHW[j]
            scale = min(rms(own * around) / max(rms(other * around), 1e-6), MOST_SCALED)
            alone.append(self.shown(own, None, site))
            foreign.append(self.shown(own, (scale * other).clamp(least, most), site))
        return {"center": alone, "own": whole, "foreign": foreign}

    def shown(self, center: Tensor, surround: Tensor | None, site: Site | None = None) -> Stimulus:
        place, diameter = ((0.0, 0.0), 1.0) if site is None else (site.center_px, site.diameter_px)
        return PictureInPicture(center, surround, place, diameter, self.before_s, self.picture_s)

    def read(self, condition: str, course_T: np.ndarray, site: Site, bench: Bench) -> float:
        return float(course_T[round(self.before_s * bench.rate_hz) :].mean() - bench.blank_U[site.unit])

    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        alone = driven(response["center"], floor_hz)
        return {
            "own_suppression": suppression(response["own"], alone),
            "foreign_suppression": suppression(response["foreign"], alone),
            "own_minus_foreign": (response["own"] - response["foreign"]) / alone,
        }


def partners(film_R: np.ndarray) -> np.ndarray:
    """For each picture, the place of another: half of them on, or the first of another film behind that."""
    total = len(film_R)
    found_R = []
    for r in range(total):
        away = [(r + total // 2 + step) % total for step in range(total)]
        found_R.append(next((other for other in away if film_R[other] != film_R[r]), away[0]))
    return np.array(found_R)


def rms(picture: Tensor) -> float:
    return float(torch.sqrt(picture.square().mean()))
