"""What a protocol is, where it shows its stimuli, and how it gets its intervals.

Shape letters: S sites (units), C conditions, R draws, B resamplings (the first is the data themselves), T bins, H W
pixels, U units, X places of a curve.
"""

from __future__ import annotations

import itertools
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.bootstrap import interval
from vivit_core.analysis.screen import AnyScreen
from vivit_core.analysis.tuning.numbers import DRIVEN_HZ, DRIVEN_SHARE, Responses
from vivit_core.stimuli.base import Stimulus
from vivit_core.stimuli.surrounds import Drift

log = logging.getLogger(__name__)

RESAMPLES = 200  # of the draws, for an interval
FEWEST_DRAWS = 3  # with fewer there is no interval
MOST_UNDEFINED = 0.05  # share of the resamplings that an interval may leave out
# Intervals of few draws are too narrow: of normally distributed draws, the share that holds the mean of endless ones.
COVERAGE = {3: 0.70, 4: 0.79, 6: 0.83, 10: 0.89}


@dataclass(frozen=True)
class Site:
    """A unit on whose place stimuli are centered, and what it prefers.

    Attributes
    ----------
    unit : its index.
    center_px : x, y of its receptive field.
    diameter_px : the smallest disc of its preferred grating to which it responds nearly fully.
    drift : its preferred grating.
    simple : whether its response to gratings is F1, and not the mean rate above gray's.
    analysed_s : time for which its responses to its grating count: whole cycles, s.
    """

    unit: int
    center_px: tuple[float, float]
    diameter_px: float
    drift: Drift
    simple: bool
    analysed_s: float

    def moved(self, step_px: Sequence[float]) -> tuple[float, float]:
        """A place beside the center."""
        return self.center_px[0] + float(step_px[0]), self.center_px[1] + float(step_px[1])


class Bench:
    """A screen with what protocols need around it.

    Parameters
    ----------
    screen : the units.
    natural_BHW : natural pictures in contrast.
    settle_s, analysed_s : time that a stimulus is on before responses count, and for which they count.
    progress : show bars.
    film_B : the stimulus of each picture, which may have several; None where all are of one film.
    """

    def __init__(
        self,
        screen: AnyScreen,
        natural_BHW: Tensor,
        settle_s: float,
        analysed_s: float,
        progress: bool = True,
        film_B: np.ndarray | None = None,
    ) -> None:
        self.film_B = np.zeros(len(natural_BHW), int) if film_B is None else film_B
        self.screen, self.natural_BHW, self.progress = screen, natural_BHW, progress
        self.settle_s, self.analysed_s = settle_s, analysed_s
        self._kept: dict[object, list[Stimulus]] = {}
        gray = Gray(settle_s + analysed_s)
        ((_, rates_BTU),) = screen.show(iter([gray.frames(self.size, self.rate_hz)]), 1, "gray", False)
        self.blank_U = rates_BTU[0, -self.bins(analysed_s) :].double().mean(0).numpy()

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the frames, px."""
        return self.screen.frame_size

    @property
    def rate_hz(self) -> float:
        return self.screen.spec.frame_rate_hz

    def bins(self, seconds: float) -> int:
        return self.screen.bins(seconds)

    @property
    def on_s(self) -> float:
        """Length of a clip whose end is analysed, s."""
        return self.settle_s + self.analysed_s

    def drift_s(self, site: Site) -> float:
        """Length of a clip of a site's grating, s."""
        return self.settle_s + site.analysed_s

    def floor_hz(self, unit: int) -> float:
        """The response above which a unit counts as driven."""
        return max(DRIVEN_SHARE * float(self.blank_U[unit]), DRIVEN_HZ)

    def analysed(self, course_T: np.ndarray) -> np.ndarray:
        """The end of a clip, for which responses count."""
        return course_T[-self.bins(self.analysed_s) :]

    def above_gray(self, course_T: np.ndarray, unit: int) -> float:
        """The mean rate in the analysed time, less the rate at gray."""
        return float(self.analysed(course_T).mean() - self.blank_U[unit])

    def drifting(self, course_T: np.ndarray, site: Site) -> float:
        """The response to a grating, as gratings are analysed: F1 of simple units, else the mean rate above gray's."""
        rates_TU = course_T[-self.bins(site.analysed_s) :, None]
        found = Responses.of(rates_TU, np.arange(len(rates_TU)) / self.rate_hz, site.drift.hz)
        return float(found.f1[0] if site.simple else found.f0[0] - self.blank_U[site.unit])

    def kept(self, key: object, make: Callable[[], list[Stimulus]]) -> list[Stimulus]:
        """Stimuli that several sites share, made once."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def courses(self, wanted: Sequence[tuple[Stimulus, int]], what: str) -> list[np.ndarray]:
        """The rate of one unit under each stimulus, (T,) in Hz. Equal stimuli are shown once, to all their units."""
        users: dict[Stimulus, list[int]] = {}
        for number, (stimulus, _) in enumerate(wanted):
            users.setdefault(stimulus, []).append(number)
        by_length: dict[int, list[Stimulus]] = {}
        for stimulus in users:
            by_length.setdefault(stimulus.bins(self.rate_hz), []).append(stimulus)
        if self.screen.bins_shown:
            bins = sum(length * len(stimuli) for length, stimuli in by_length.items())
            seconds = bins * self.screen.seconds_taken / self.screen.bins_shown
            units = len({unit for _, unit in wanted})
            log.info(
                "%s %s: %d clips for %d units, about %.0f s",
                what,
                self.screen.spec.recording_id,
                len(users),
                units,
                seconds,
            )
        courses = [np.zeros(0)] * len(wanted)
        for stimuli in by_length.values():  # a batch is of one length

            def clips(stimuli: list[Stimulus] = stimuli) -> Iterator[Tensor]:
                for stimulus in stimuli:
                    yield stimulus.frames(self.size, self.rate_hz)

            shown = iter(stimuli)
            for _, rates_BTU in self.screen.show(clips(), len(stimuli), what, self.progress):
                for rates_TU in rates_BTU.double().numpy():
                    for number in users[next(shown)]:
                        # A view would keep the rates of all units until the protocol has ended.
                        courses[number] = rates_TU[:, wanted[number][1]].copy()
        return courses


@dataclass(frozen=True)
class Gray(Stimulus):
    """Nothing, for ``duration_s``."""

    duration_s: float

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        return torch.zeros(self.bins(rate_hz), *size)


@dataclass(frozen=True)
class CurveOf:
    """A curve through some conditions: what it runs over, and the condition at each place."""

    title: str
    x_title: str
    x: tuple[float, ...]
    conditions: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a protocol found. NaN where a number is not defined, as where a unit is not driven; infinite where it is
    more than what was shown can tell.

    Attributes
    ----------
    numbers : name -> value, and its bounds (:func:`bounds_of`), (S, 3).
    curves : name -> the curve, and each site's responses along it in Hz, (S, X).
    shown : a frame of each condition at the first site, by name, (H, W) in contrast.
    """

    numbers: dict[str, np.ndarray]
    curves: dict[str, tuple[CurveOf, np.ndarray]] = field(default_factory=dict)
    shown: dict[str, np.ndarray] = field(default_factory=dict)


class Protocol(ABC):
    """A protocol. Its class says which ``numbers`` it gives, by name with a title, how each is defined, and what a draw
    of it varies."""

    titles: ClassVar[Mapping[str, str]]
    methods: ClassVar[Mapping[str, str]] = {}
    over: ClassVar[str]

    @property
    def pictures(self) -> int:
        """Natural pictures that it needs."""
        return 0

    @property
    @abstractmethod
    def drawn(self) -> int:
        """Draws that its intervals are over."""

    @abstractmethod
    def run(self, bench: Bench, sites: Sequence[Site], name: str) -> Outcome:
        """Show the stimuli to each site's unit; ``name`` is the protocol's key, for bars."""


@dataclass(frozen=True)
class Conditions(Protocol):
    """A protocol that compares conditions, each shown in the same draws.

    Parameters
    ----------
    draws : times that each condition is shown, each with another phase, place, noise or picture: what is drawn is the
        same for all conditions. Intervals are over them; with fewer than three there are none.
    seed : of the draws.
    """

    draws: int
    seed: int

    @property
    def drawn(self) -> int:
        return self.draws

    @abstractmethod
    def conditions(self, site: Site, bench: Bench, rng: np.random.Generator) -> dict[str, list[Stimulus]]:
        """The stimuli of each condition, one a draw."""

    @abstractmethod
    def read(self, condition: str, course_T: np.ndarray, site: Site, bench: Bench) -> float:
        """The response in one draw, Hz."""

    @abstractmethod
    def numbers(self, response: Mapping[str, np.ndarray], floor_hz: float) -> dict[str, np.ndarray]:
        """The numbers from each condition's mean response, (B,): NaN where they are not defined, and infinite where
        they are more than what was shown can tell."""

    def curves(self) -> dict[str, CurveOf]:
        """Curves through the conditions."""
        return {}

    def run(self, bench: Bench, sites: Sequence[Site], name: str) -> Outcome:
        # A generator of its own for each site, so that sites draw alike and equal stimuli are shown once.
        plans = [self.conditions(site, bench, np.random.default_rng(self.seed)) for site in sites]
        wanted = [
            (stimulus, site.unit)
            for site, plan in zip(sites, plans, strict=True)
            for stimuli in plan.values()
            for stimulus in stimuli
        ]
        courses = iter(bench.courses(wanted, name))
        curves = self.curves()
        numbers: dict[str, list[list[float]]] = {key: [] for key in self.titles}
        along: dict[str, list[list[float]]] = {key: [] for key in curves}
        for site, plan in zip(sites, plans, strict=True):
            response_CR = np.array(
                [[self.read(condition, next(courses), site, bench) for _ in of] for condition, of in plan.items()]
            )
            weights_BR = resamplings(response_CR.shape[1], self.seed)
            mean_CB = response_CR @ weights_BR.T
            found = self.numbers(dict(zip(plan, mean_CB, strict=True)), bench.floor_hz(site.unit))
            for key, own in numbers.items():
                own.append([float(found[key][0]), *bounds_of(found[key][1:])])
            for key, curve in curves.items():
                at = list(plan)
                along[key].append([float(mean_CB[at.index(condition), 0]) for condition in curve.conditions])
        shown = {}
        if sites:
            for condition, stimuli in plans[0].items():
                clip_THW = stimuli[0].frames(bench.size, bench.rate_hz).numpy()
                shown[condition] = clip_THW[int(np.abs(clip_THW).mean((1, 2)).argmax())]
        return Outcome(
            {key: np.array(own).reshape(-1, 3) for key, own in numbers.items()},
            {key: (curve, np.array(along[key]).reshape(-1, len(curve.x))) for key, curve in curves.items()},
            shown,
        )


def resamplings(draws: int, seed: int) -> np.ndarray:
    """Weights of the draws, (B, R): all equal at first, then as drawn with replacement."""
    equal_R = np.full(draws, 1 / draws)
    if draws < FEWEST_DRAWS:
        return equal_R[None]
    return np.vstack([equal_R, np.random.default_rng(seed).multinomial(draws, equal_R, RESAMPLES) / draws])


def bounds_of(values_B: np.ndarray) -> list[float]:
    """Where 95 % of the resamplings lie. NaN where over ``MOST_UNDEFINED`` of them do not define the number: where the
    others lie would be an interval of the draws that went well."""
    if not len(values_B) or np.isnan(values_B).mean() > MOST_UNDEFINED:
        return [np.nan, np.nan]
    return interval(values_B)


def phases_deg(rng: np.random.Generator, draws: int) -> np.ndarray:
    """Phases spread evenly over the circle from a random one on."""
    return (rng.uniform(0, 360) + np.arange(draws) * 360.0 / draws) % 360.0


def drawn_drifts(site: Site, contrast: float, rng: np.random.Generator, draws: int) -> list[Drift]:
    """The site's preferred grating at a contrast, in each draw with a phase of its own."""
    return [replace(site.drift, contrast=contrast, phase_deg=float(phase)) for phase in phases_deg(rng, draws)]


def drawn_places(site: Site, jitter_px: float, rng: np.random.Generator, draws: int) -> list[tuple[float, float]]:
    """Places around the site's center, normally distributed along both axes."""
    return [site.moved(step) for step in rng.normal(0.0, jitter_px, (draws, 2))]


def driven(response_B: np.ndarray, floor_hz: float) -> np.ndarray:
    """A response that others are divided by; NaN where it does not reach the floor."""
    return np.where(response_B > floor_hz, response_B, np.nan)


def suppression(response_B: np.ndarray, alone_B: np.ndarray) -> np.ndarray:
    """The share of the response alone that is lost: 1 where nothing is left, below 0 where it rises."""
    return 1 - response_B / alone_B


def first_fall(x: Sequence[float], curve_XB: np.ndarray, level_B: np.ndarray) -> np.ndarray:
    """Where each curve first falls to a level, by a straight line between places; infinite where it never does, and NaN
    without a level."""
    found_B = np.where(np.isnan(level_B), np.nan, np.inf)
    for b, (curve_X, level) in enumerate(zip(curve_XB.T, level_B, strict=True)):
        below = np.flatnonzero(curve_X <= level)
        if not len(below):
            continue
        at = int(below[0])
        if at == 0:
            found_B[b] = x[0]
            continue
        share = (curve_X[at - 1] - level) / (curve_X[at - 1] - curve_X[at])
        found_B[b] = x[at - 1] + share * (x[at] - x[at - 1])
    return found_B


def draw_problems(protocol: Conditions) -> list[str]:
    return [f"draws={protocol.draws} is below 1"] if protocol.draws < 1 else []


def contrast_problems(protocol: object, *names: str, most: float = 1.0) -> list[str]:
    """Contrasts that are not above 0 and up to ``most``."""
    return [
        f"{name}={getattr(protocol, name)} is not in 0 … {most:g}"
        for name in names
        if not 0 < getattr(protocol, name) <= most
    ]


def rising_problems(protocol: object, name: str, least: int) -> list[str]:
    """Lists that are too short, do not rise, or begin below zero."""
    values = list(getattr(protocol, name))
    if len(values) < least or any(b <= a for a, b in itertools.pairwise(values)) or values[0] < 0:
        return [f"{name}={values} is no rising list of at least {least} from 0 on"]
    return []
