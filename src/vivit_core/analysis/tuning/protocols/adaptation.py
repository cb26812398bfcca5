"""Adaptation: how much smaller is the answer to a test after an adapter, and how long does that last?

Shape letters: B resamplings, T bins, X delays, G recoveries that are tried.
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
    driven,
    rising_problems,
    suppression,
)
from vivit_core.stimuli.adaptation import AdapterAndTest
from vivit_core.stimuli.base import Stimulus, negative, not_positive, refuse

LEAST_ADAPTATION = 0.05  # an index below it has no time of recovery
RECOVERIES_S = np.geomspace(0.02, 20.0, 100)  # times that the fit tries


@dataclass(frozen=True)
class Adaptation(Conditions):
    """The preferred grating as an adapter, then a short test of the same grating at several delays.

    The response to the test is the mean rate while it is on and for ``after_s`` after it, less what the adapter alone
    leaves at that time.

    Parameters
    ----------
    adapter_contrast, test_contrast : of the gratings.
    before_s : gray before the adapter, s.
    adapter_s : how long it is on, s.
    delays_s : from its end to the test, s, rising.
    test_s : how long the test is on, s.
    after_s : time after the test that still counts, s.
    draws, seed : see :class:`Conditions`.

    References
    ----------
    Ohzawa, Sclar & Freeman 1985 (J Neurophysiol 54:651).
    """

    adapter_contrast: float
    test_contrast: float
    before_s: float
    adapter_s: float
    delays_s: list[float]
    test_s: float
    after_s: float

    titles: ClassVar[Mapping[str, str]] = {
        "index": "adaptation index at the first delay",
        "last_index": "adaptation index at the last delay",
        "recovery_s": "time of recovery (s)",
    }
    methods: ClassVar[Mapping[str, str]] = {
        "index": "1 − R_adapted / R_alone at the first delay: the response to the test after the adapter, less what "
        "the adapter alone leaves at that time, and the response to the test alone.",
        "last_index": "the same at the last delay.",
        "recovery_s": "τ of A exp(−delay / τ), fitted to the indices by least squares; inf where they do not fall or τ "
        f"is over {RECOVERIES_S[-2]:.2g} s, and empty where the first is below {LEAST_ADAPTATION:g}.",
    }
    over = "phases"

    def __post_init__(self) -> None:
        problems = draw_problems(self) + contrast_problems(self, "adapter_contrast", "test_contrast")
        problems += not_positive(self, "adapter_s", "test_s") + negative(self, "before_s", "after_s")
        refuse(self, problems + rising_problems(self, "delays_s", 2))

    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        tests = drawn_drifts(site, self.test_contrast, rng, self.draws)
        adapters = drawn_drifts(site, self.adapter_contrast, rng, self.draws)

        def of(adapter: bool, test: bool, delay_s: float) -> list[Stimulus]:
            return [
                AdapterAndTest(
                    a if adapter else None,
                    t if test else None,
                    site.center_px,
                    site.diameter_px,
                    self.before_s,
                    self.adapter_s,
                    delay_s,
                    self.test_s,
                    self.after_s,
                )
                for a, t in zip(adapters, tests, strict=True)
            ]

        found = {"test alone": of(False, True, self.delays_s[0])}
        for delay_s in self.delays_s:
            found[f"test {delay_s:g} s"] = of(True, True, delay_s)
            # The same clip for all delays, read at the time of each test.
            found[f"adapter {delay_s:g} s"] = of(True, False, self.delays_s[-1])
        return found

    def read(self, condition: str, course_T: np.ndarray, site: Site, bench: Bench) -> float:
        word = condition.split()[1]
        delay_s = self.delays_s[0] if word == "alone" else float(word)
        begins_s = self.before_s + self.adapter_s + delay_s
        first, last = (round(t * bench.rate_hz) for t in (begins_s, begins_s + self.test_s + self.after_s))
        return float(course_T[first : max(last, first + 1)].mean() - bench.blank_U[site.unit])

    def curves(self) -> dict[str, CurveOf]:
        keys = tuple(f"test {delay_s:g} s" for delay_s in self.delays_s)
        return {"by_delay": CurveOf("Test after an adapter", "delay (s)", tuple(self.delays_s), keys)}

    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        alone = driven(response["test alone"], floor_hz)
        index_XB = np.stack(
            [suppression(response[f"test {d:g} s"] - response[f"adapter {d:g} s"], alone) for d in self.delays_s]
        )
        return {
            "index": index_XB[0],
            "last_index": index_XB[-1],
            "recovery_s": np.where(
                index_XB[0] > LEAST_ADAPTATION, decay_s(np.array(self.delays_s), np.nan_to_num(index_XB)), np.nan
            ),
        }


def decay_s(x: np.ndarray, curve_XB: np.ndarray) -> np.ndarray:
    """τ of A exp(−x / τ), by least squares over ``RECOVERIES_S``; (B,).

    NaN where the best A is not above 0, or the best τ is the first that is tried. Infinite where it is the last: a flat
    or rising curve does not recover, and a slower one was not followed for long enough.
    """
    shape_GX = np.exp(-x / RECOVERIES_S[:, None])
    along_GB = shape_GX @ curve_XB
    explained_GB = np.square(along_GB) / np.square(shape_GX).sum(1)[:, None]
    best_B = explained_GB.argmax(0)
    tau_B = np.where(best_B < len(RECOVERIES_S) - 1, RECOVERIES_S[best_B], np.inf)
    falls_B = np.take_along_axis(along_GB, best_B[None], 0)[0] > 0
    return np.where((best_B > 0) & falls_B, tau_B, np.nan)
