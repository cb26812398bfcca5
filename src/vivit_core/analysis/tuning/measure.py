"""Drifting gratings on a screen: what each unit does, and what it prefers.

A grating that drifts passes through every phase, so full-field gratings need not be centered: each one drives all units
of a recording at once. Only contrast and size are tried at a unit's own preferred grating, size at its own place.

Shape letters: N gratings, D directions, S spatial and F temporal frequencies, K contrasts, A sizes, T bins, H W pixels,
U units, R draws, B resamplings (the first is the data themselves).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vivit_core.analysis.screen import AnyScreen
from vivit_core.analysis.tuning.numbers import DRIVEN_HZ, DRIVEN_SHARE, MODULATED, Curves, Responses, preferred
from vivit_core.stimuli.gratings import Gratings, aperture, grating

OF_BARS = ("orientation_deg", "circular_variance", "osi", "orientation_bandwidth_deg")


@dataclass(frozen=True)
class Shown:
    """A grating, by the indices of its direction, spatial and temporal frequency; ``disc`` is x, y and diameter in px,
    None for the whole frame."""

    index: tuple[int, int, int]
    contrast: float
    disc: tuple[float, float, float] | None = None
    phase_deg: float = 0.0


class Projector:
    """Shows gratings on a screen.

    Parameters
    ----------
    screen : the units.
    gratings : what the indices mean.
    progress : show bars.

    Raises
    ------
    ValueError
        Where the screen cannot show a temporal frequency.
    """

    def __init__(self, screen: AnyScreen, gratings: Gratings, progress: bool) -> None:
        self.screen, self.gratings, self.progress = screen, gratings, progress
        self.rate_hz = screen.spec.frame_rate_hz
        self.settle = screen.bins(gratings.settle_s) if gratings.settle_s else 0
        self.analysed = gratings.analysed_bins(self.rate_hz)

    def clip(self, shown: Shown) -> Tensor:
        """It, for as long as it has to be on; its phase is that at which the analysed time begins."""
        (d, s, f), size = shown.index, self.screen.frame_size
        times_s = np.arange(-self.settle, self.analysed[f]) / self.rate_hz
        direction, cycles = float(self.gratings.directions_deg[d]), self.gratings.spatial_frequencies[s]
        hz = self.gratings.temporal_frequencies_hz[f]
        clip = grating(size, times_s, direction, cycles, hz, shown.contrast, shown.phase_deg)
        return clip if shown.disc is None else clip * aperture(size, np.array(shown.disc[:2]), shown.disc[2])

    def show(self, every: Sequence[Shown], what: str) -> Iterator[tuple[int, np.ndarray, Responses]]:
        """The place of each in the list, its rates in the analysed time, (T, U), and what they amount to."""
        # Clips of one length go together.
        order = sorted(range(len(every)), key=lambda n: self.analysed[every[n].index[2]])
        clips = (self.clip(every[n]) for n in order)
        places = iter(order)
        for _, rates_BTU in self.screen.show(clips, len(every), what, self.progress):
            for rates_TU in rates_BTU[:, self.settle :].double().numpy():
                n = next(places)
                hz = self.gratings.temporal_frequencies_hz[every[n].index[2]]
                yield n, rates_TU, Responses.of(rates_TU, np.arange(len(rates_TU)) / self.rate_hz, hz)


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a recording's units did, and prefer. Rates in Hz."""

    gratings: Gratings
    frame_size: tuple[int, int]
    rate_hz: float  # frames a second
    blank_U: np.ndarray  # rate at gray
    f0_DSFU: np.ndarray
    f1_DSFU: np.ndarray
    best_U3: np.ndarray  # index of the preferred direction, spatial and temporal frequency
    simple_U: np.ndarray  # bool: whose response is F1: F1 / (F0 − blank) > 1 at the preferred grating, or F0 ≤ blank
    response_DSFU: np.ndarray  # F1 of simple units, F0 − blank of others: the larger one at the preferred grating
    phase_U: np.ndarray  # of F1 at the preferred grating, degrees
    course_TU: np.ndarray  # rate in the analysed time of the preferred grating; NaN behind its end
    contrast_KU: np.ndarray  # response by contrast
    size_AU: np.ndarray  # response by size, the full field last

    @property
    def driven_U(self) -> np.ndarray:
        """Whether a unit's best response is more than rounding, or than the little that any grating does."""
        return self.curve(0).max(0) > np.maximum(DRIVEN_SHARE * self.blank_U, DRIVEN_HZ)

    def curve(self, axis: int) -> np.ndarray:
        """Response along an axis (direction, spatial, temporal frequency) through the preferred grating; (X, U)."""
        units = np.arange(len(self.best_U3))
        index: list[Any] = [self.best_U3[:, i][None] for i in range(3)]
        index[axis] = np.arange(self.response_DSFU.shape[axis])[:, None]
        return self.response_DSFU[index[0], index[1], index[2], units[None]]

    def curves(self) -> Curves:
        """Every unit's own, as they were measured."""
        place = (*self.best_U3.T, np.arange(len(self.best_U3)))
        return Curves(
            direction_DX=self.curve(0),
            spatial_SX=self.curve(1),
            temporal_FX=self.curve(2),
            contrast_KX=self.contrast_KU,
            size_AX=self.size_AU,
            above_gray_X=self.f0_DSFU[place] - self.blank_U,
            f1_X=self.f1_DSFU[place],
        )


def measure(screen: AnyScreen, gratings: Gratings, centers_U2: np.ndarray, progress: bool) -> Tuning:
    """Show all gratings to a recording's units.

    Parameters
    ----------
    screen : the units.
    gratings : what to show.
    centers_U2 : where apertures are centered, x, y, px.
    progress : show bars.
    """
    projector = Projector(screen, gratings, progress)
    units, units_U = screen.spec.n_units, np.arange(screen.spec.n_units)
    longest = max(projector.analysed)
    blank_U = next(projector.show([Shown((0, 0, projector.analysed.index(longest)), 0.0)], "blank"))[1].mean(0)
    shape = (gratings.directions, len(gratings.spatial_frequencies), len(gratings.temporal_frequencies_hz))
    every = [Shown((d, s, f), gratings.contrast) for d, s, f in np.ndindex(*shape)]
    f0, f1, phase = (np.zeros((len(every), units)) for _ in range(3))
    best_size_U, course_TU = np.full(units, -np.inf), np.full((longest, units), np.nan)
    for n, rates_TU, found in projector.show(every, "gratings"):
        f0[n], f1[n], phase[n] = found.f0, found.f1, found.phase
        response_U = np.maximum(found.f0 - blank_U, found.f1)
        better_U = response_U > best_size_U
        best_size_U[better_U] = response_U[better_U]
        course_TU[:, better_U] = np.nan
        course_TU[: len(rates_TU), better_U] = rates_TU[:, better_U]
    best_N = np.maximum(f0 - blank_U, f1).argmax(0)
    best_U3 = np.stack(np.unravel_index(best_N, shape), 1)
    simple_U = f1[best_N, units_U] > MODULATED * (f0[best_N, units_U] - blank_U)
    response_NU = np.where(simple_U, f1, f0 - blank_U)

    def own(what: str, values: Sequence[tuple[float, float | None]]) -> np.ndarray:
        """Each unit's response at its preferred grating, for each (contrast, diameter or None); (values, U)."""
        responses = np.zeros((len(values), units))
        # Units that prefer the same grating see the same full field, but apertures are at a unit's own place.
        users: dict[Shown, list[tuple[int, int]]] = {}
        for value, (contrast, diameter) in enumerate(values):
            if diameter is None and contrast == gratings.contrast:  # it was among all gratings
                responses[value] = response_NU[best_N, units_U]
                continue
            for unit, best in enumerate(best_U3.tolist()):
                disc = None if diameter is None else (*centers_U2[unit].tolist(), diameter)
                users.setdefault(Shown(tuple(best), contrast, disc), []).append((value, unit))
        for n, _, found in projector.show(list(users), what):
            response_U = np.where(simple_U, found.f1, found.f0 - blank_U)
            for value, unit in list(users.values())[n]:
                responses[value, unit] = response_U[unit]
        return responses

    return Tuning(
        gratings=gratings,
        frame_size=screen.frame_size,
        rate_hz=projector.rate_hz,
        blank_U=blank_U,
        f0_DSFU=f0.reshape(*shape, units),
        f1_DSFU=f1.reshape(*shape, units),
        best_U3=best_U3,
        simple_U=simple_U,
        response_DSFU=response_NU.reshape(*shape, units),
        phase_U=np.rad2deg(phase[best_N, units_U]),
        course_TU=course_TU,
        contrast_KU=own("contrasts", [(c, None) for c in gratings.contrasts]),
        size_AU=np.concatenate(
            [
                own("sizes", [(gratings.contrast, diameter) for diameter in gratings.sizes_px]),
                response_NU[best_N, units_U][None],
            ]
        ),
    )


def defined(name: str, tuning: Tuning) -> bool:
    """Whether a number means anything in frames of this size."""
    return name not in OF_BARS or min(tuning.frame_size) > 1


def preferences(tuning: Tuning) -> dict[str, np.ndarray]:
    """What every unit prefers, by name (``preferred``), and what is known of it beside.

    A unit whose best response is below ``DRIVEN_SHARE`` of its rate at gray, or below ``DRIVEN_HZ``, has no
    preferences: it is not ``driven``. In frames one pixel wide, bars have no orientation.
    """
    found = preferred(tuning.gratings, tuning.curves())
    best_hz, driven_U = found.pop("best_hz"), tuning.driven_U
    # Where F0 is not above the rate at gray there is no F1/F0, and so no kind.
    modulated_U = np.where(tuning.curves().above_gray_X > 0, tuning.simple_U, np.nan)
    found |= {"modulated": modulated_U, "phase_deg": tuning.phase_U}
    found = {
        name: np.where(driven_U, column, np.nan) if defined(name, tuning) else np.full(len(driven_U), np.nan)
        for name, column in found.items()
    }
    return {"driven": driven_U.astype(float), "blank_hz": tuning.blank_U, "best_hz": best_hz} | found
