"""Tuning in silico: drifting gratings on a twin's screen, and what each unit prefers.

A grating that drifts passes through every phase, so full-field gratings need not be centered: each one drives all units
of a recording at once. Only contrast and size are tried at a unit's own preferred grating, size at its own place.

Angles: ``direction`` is where a grating moves, in degrees counterclockwise from rightwards; its bars have the
orientation ``direction + 90``, counterclockwise from horizontal, as the simulator counts. In frames y points down.

Shape letters: N gratings, D directions, S spatial and F temporal frequencies, K contrasts, A sizes, T bins, H W pixels,
U units.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from vivit_core.analysis.screen import Screen
from vivit_core.rf import maps as rf_maps
from vivit_core.stimuli.gratings import FINE, Gratings, aperture, grating

# A unit whose best response is smaller has no preferences: a tenth of its rate at gray, and a spike in ten seconds.
DRIVEN_SHARE, DRIVEN_HZ = 0.1, 0.1


FAR = 10.0  # times the best natural picture's rate: a rate above is far outside what a model was trained on


MODULATED = 1.0  # F1/F0 above which a unit counts as simple (Skottun et al. 1991)


EXPONENTS = np.linspace(0.5, 5.0, 46)  # of the contrast response that the fit tries


HALF_CONTRASTS = np.geomspace(0.01, 3.0, 80)


@dataclass(frozen=True, eq=False)
class Responses:
    """Mean rate, and amplitude and phase of its modulation at the grating's temporal frequency, Hz and radians."""

    f0: np.ndarray
    f1: np.ndarray
    phase: np.ndarray

    @classmethod
    def of(cls, rates_TU: np.ndarray, times_s: np.ndarray, hz: float) -> Responses:
        """Of the analysed bins, which hold whole cycles."""
        wave_U = 2 * (rates_TU * np.exp(-2j * np.pi * hz * times_s)[:, None]).mean(0)
        return cls(rates_TU.mean(0), np.abs(wave_U), np.angle(wave_U))


@dataclass(frozen=True, eq=False)
class Tuning:
    """What a recording's units did, and prefer. Rates in Hz."""

    gratings: Gratings
    frame_size: tuple[int, int]
    blank_U: np.ndarray  # rate at gray
    f0_DSFU: np.ndarray
    f1_DSFU: np.ndarray
    best_U3: np.ndarray  # index of the preferred direction, spatial and temporal frequency
    simple_U: np.ndarray  # bool: modulated, F1 / (F0 − blank) > 1 at the preferred grating
    response_DSFU: np.ndarray  # F1 of simple units, F0 − blank of others
    phase_U: np.ndarray  # of F1 at the preferred grating, degrees
    course_TU: np.ndarray  # rate in the analysed time of the preferred grating
    contrast_KU: np.ndarray  # response by contrast
    size_AU: np.ndarray  # response by size, the full field last

    @property
    def driven_U(self) -> np.ndarray:
        """Whether a unit's best response is more than rounding, or than the little that any grating does."""
        return self.curve(0).max(0) > np.maximum(DRIVEN_SHARE * self.blank_U, DRIVEN_HZ)

    @property
    def ratio_U(self) -> np.ndarray:
        """F1 / (F0 − blank) at the preferred grating; NaN where the mean rate does not rise above the blank's."""
        d, s, f = self.best_U3.T
        units = np.arange(len(d))
        driven = self.f0_DSFU[d, s, f, units] - self.blank_U
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(driven > 0, self.f1_DSFU[d, s, f, units] / driven, np.nan)

    def curve(self, axis: int) -> np.ndarray:
        """Response along an axis (direction, spatial, temporal frequency) through the preferred grating; (X, U)."""
        units = np.arange(len(self.best_U3))
        index: list[Any] = [self.best_U3[:, i][None] for i in range(3)]
        index[axis] = np.arange(self.response_DSFU.shape[axis])[:, None]
        return self.response_DSFU[index[0], index[1], index[2], units[None]]


def measure(screen: Screen, gratings: Gratings, centers_U2: np.ndarray, progress: bool = True) -> Tuning:
    """Show all gratings to a recording's units.

    Parameters
    ----------
    screen : the units.
    gratings : what to show.
    centers_U2 : where apertures are centered, x, y, px.
    progress : show bars.
    """
    settle, analysed = screen.bins(gratings.settle_s), screen.bins(gratings.analysed_s)
    rate_hz = screen.spec.frame_rate_hz
    if abs(gratings.analysed_s * rate_hz - analysed) > 1e-3:
        raise ValueError(
            f"gratings.analysed_s={gratings.analysed_s} is no whole number of bins at {rate_hz:g} Hz; "
            f"give {analysed / rate_hz:.6g}"
        )
    if fast := [hz for hz in gratings.temporal_frequencies_hz if hz >= rate_hz / 2]:
        raise ValueError(f"gratings.temporal_frequencies_hz: {fast} cannot be shown at {rate_hz:g} frames a second")
    times_s = np.arange(-settle, analysed) / rate_hz
    size, units = screen.frame_size, screen.spec.n_units
    directions, spatial, temporal = (
        gratings.directions_deg,
        gratings.spatial_frequencies,
        gratings.temporal_frequencies_hz,
    )

    def shown(
        stimuli: Sequence[tuple[float, float, float, float, Tensor | None]], what: str
    ) -> Iterator[tuple[int, np.ndarray]]:
        """The analysed rates (T, U) of gratings (direction, spatial, temporal frequency, contrast, aperture)."""

        def clips() -> Iterator[Tensor]:
            for direction, cycles, hz, contrast, mask in stimuli:
                clip = grating(size, times_s, direction, cycles, hz, contrast)
                yield clip if mask is None else clip * mask

        number = 0
        for _, rates_BTU in screen.show(clips(), len(stimuli), what, progress):
            for rates_TU in rates_BTU[:, settle:].double().numpy():
                yield number, rates_TU
                number += 1

    blank_U = next(rates for _, rates in shown([(0.0, 0.1, 0.0, 0.0, None)], "blank")).mean(0)
    shape = (len(directions), len(spatial), len(temporal))
    every = [(float(directions[d]), spatial[s], temporal[f], gratings.contrast, None) for d, s, f in np.ndindex(*shape)]
    f0, f1, phase = (np.zeros((len(every), units)) for _ in range(3))
    best_size_U, course_TU = np.full(units, -np.inf), np.zeros((analysed, units))
    for n, rates_TU in shown(every, "gratings"):
        found = Responses.of(rates_TU, times_s[settle:], every[n][2])
        f0[n], f1[n], phase[n] = found.f0, found.f1, found.phase
        response_U = np.maximum(found.f0 - blank_U, found.f1)
        better_U = response_U > best_size_U
        best_size_U[better_U] = response_U[better_U]
        course_TU[:, better_U] = rates_TU[:, better_U]
    best_N = np.maximum(f0 - blank_U, f1).argmax(0)
    units_U = np.arange(units)
    simple_U = f1[best_N, units_U] > MODULATED * (f0[best_N, units_U] - blank_U)
    best_U3 = np.stack(np.unravel_index(best_N, shape), 1)

    def response(found: Responses) -> np.ndarray:
        return np.where(simple_U, found.f1, found.f0 - blank_U)

    def own(what: str, values: Sequence[tuple[float, float | None]]) -> np.ndarray:
        """Each unit's response at its preferred grating, for each (contrast, diameter or None); (values, U)."""
        # Units that prefer the same grating see the same full field, but apertures are at a unit's own place.
        users: dict[tuple[int, ...], list[int]] = {}
        for value, (_, diameter) in enumerate(values):
            for unit, best in enumerate(best_U3.tolist()):
                users.setdefault((value, *best) if diameter is None else (value, *best, unit), []).append(unit)
        places, stimuli = list(users.items()), []
        for (value, d, s, f, *_), own_units in places:
            contrast, diameter = values[value]
            mask = None if diameter is None else aperture(size, centers_U2[own_units[0]], diameter)
            stimuli.append((float(directions[d]), spatial[s], temporal[f], contrast, mask))
        responses = np.zeros((len(values), units))
        for n, rates_TU in shown(stimuli, what):
            (value, *_), own_units = places[n]
            found = response(Responses.of(rates_TU, times_s[settle:], stimuli[n][2]))
            responses[value, own_units] = found[own_units]
        return responses

    response_NU = np.where(simple_U, f1, f0 - blank_U)
    return Tuning(
        gratings=gratings,
        frame_size=size,
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


def preferences(tuning: Tuning) -> dict[str, np.ndarray]:
    """Preferred values, selectivity and widths of every unit, by name; NaN where a curve does not say.

    A unit whose best response is below ``DRIVEN_SHARE`` of its rate at gray, or below ``DRIVEN_HZ``, has none of them:
    it is not ``driven``. In frames one pixel wide, bars have no orientation.

    Responses below zero count as none. With R the response to a direction θ at the preferred frequencies:
    ``orientation_deg`` half the angle of Σ R e^(2iθ), turned into the bars' orientation; ``circular_variance``
    1 − |Σ R e^(2iθ)| / Σ R (Ringach et al. 2002); ``osi`` (best − orthogonal) / (best + orthogonal), the orthogonal
    being the mean of both; ``dsi`` (best − opposite) / (best + opposite); ``orientation_bandwidth_deg`` half the width
    of the best direction's peak at half its height. Widths of frequency are full ones at half height, in octaves.
    """
    gratings = tuning.gratings
    directions_deg = gratings.directions_deg
    r_DU = np.maximum(tuning.curve(0), 0)
    total_U = np.where(r_DU.sum(0) > 0, r_DU.sum(0), np.nan)
    twice_U = (r_DU * np.exp(2j * np.deg2rad(directions_deg))[:, None]).sum(0) / total_U
    best_U = tuning.best_U3[:, 0]
    units, count = np.arange(len(best_U)), gratings.directions

    def at(steps: int) -> np.ndarray:
        return r_DU[(best_U + steps) % count, units]

    best, opposite, orthogonal = at(0), at(count // 2), (at(count // 4) + at(-count // 4)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "orientation_deg": (np.rad2deg(np.angle(twice_U)) / 2 + 90.0) % 180.0,
            "direction_deg": directions_deg[best_U],
            "circular_variance": 1 - np.abs(twice_U),
            "osi": (best - orthogonal) / (best + orthogonal),
            "dsi": (best - opposite) / (best + opposite),
            "orientation_bandwidth_deg": half_width_deg(r_DU),
            "modulation_ratio": tuning.ratio_U,
            "modulated": tuning.simple_U.astype(float),
            "phase_deg": tuning.phase_U,
        }
    for name, axis, values in (
        ("spatial_frequency", 1, gratings.spatial_frequencies),
        ("temporal_frequency_hz", 2, gratings.temporal_frequencies_hz),
    ):
        found[name], found[f"{name}_bandwidth_octaves"] = peak_of(np.array(values), np.maximum(tuning.curve(axis), 0))
    if gratings.contrasts:
        found |= naka_rushton(np.array(gratings.contrasts), np.maximum(tuning.contrast_KU, 0))
    size_AU = np.maximum(tuning.size_AU, 0)
    largest = size_AU.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # NaN: the full field, which has no diameter.
        found["preferred_size_px"] = np.array([*gratings.sizes_px, np.nan])[size_AU.argmax(0)]
        found["suppression_index"] = np.where(largest > 0, (largest - size_AU[-1]) / largest, np.nan)
    driven_U = tuning.driven_U
    found = {name: np.where(driven_U, column, np.nan) for name, column in found.items()}
    if min(tuning.frame_size) == 1:
        oriented = ("orientation_deg", "circular_variance", "osi", "orientation_bandwidth_deg")
        found |= {name: np.full(len(driven_U), np.nan) for name in oriented}
    return {"driven": driven_U.astype(float), "blank_hz": tuning.blank_U, "best_hz": best} | found


def half_width_deg(r_DU: np.ndarray) -> np.ndarray:
    """Half the width at half height of each curve's highest peak over the circle, (U,); NaN where it never falls to it.

    Between the measured directions the curve is the trigonometric polynomial through them.
    """
    count, units = r_DU.shape
    spectrum = np.fft.rfft(r_DU, axis=0)
    if count % 2 == 0:
        spectrum[-1] /= 2
    fine = np.fft.irfft(spectrum, FINE, axis=0) * (FINE / count)
    top = fine.argmax(0)
    widths = np.full(units, np.nan)
    for unit in range(units):
        turned = np.roll(fine[:, unit], -top[unit])
        below = np.flatnonzero(turned < turned[0] / 2)
        if turned[0] > 0 and len(below):
            widths[unit] = (below[0] + FINE - below[-1]) / 2 * (360.0 / FINE)
    return widths


def peak_of(values: np.ndarray, curve_XU: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where each curve peaks, by a parabola on a logarithmic axis through the highest point and its neighbors; and its
    full width at half height, in octaves, NaN where the curve does not fall to half on both sides."""
    octave = np.log2(values)
    peaks, widths = np.full(curve_XU.shape[1], np.nan), np.full(curve_XU.shape[1], np.nan)
    for unit, curve in enumerate(curve_XU.T):
        top = int(curve.argmax())
        if curve[top] <= 0:
            continue
        peaks[unit] = values[top]
        if 0 < top < len(values) - 1:
            a, b, _ = np.polyfit(octave[top - 1 : top + 2], curve[top - 1 : top + 2], 2)
            if a < 0:
                peaks[unit] = 2 ** (-b / (2 * a))
        sides = []
        for step in (-1, 1):
            place = top
            while 0 <= place + step < len(values) and curve[place + step] >= curve[top] / 2:
                place += step
            if 0 <= place + step < len(values):
                share = (curve[place] - curve[top] / 2) / (curve[place] - curve[place + step])
                sides.append(abs(octave[place] + share * (octave[place + step] - octave[place]) - octave[top]))
        if len(sides) == 2:
            widths[unit] = sum(sides)
    return peaks, widths


def naka_rushton(contrasts: np.ndarray, response_KU: np.ndarray) -> dict[str, np.ndarray]:
    """R = Rmax cⁿ / (cⁿ + c50ⁿ) fitted by least squares over a grid of n and c50 (Albrecht & Hamilton 1982); where even
    the highest contrast does not bend the curve, c50 lies beyond it and says only that."""
    power = contrasts[:, None, None] ** EXPONENTS[:, None]
    shape = (power / (power + HALF_CONTRASTS ** EXPONENTS[:, None])).reshape(len(contrasts), -1)  # (K, grid)
    scale = (shape.T @ response_KU) / np.square(shape).sum(0)[:, None]  # (grid, U)
    error = np.square(response_KU).sum(0) - scale * (shape.T @ response_KU)
    best_U = error.argmin(0)
    exponent, half = np.unravel_index(best_U, (len(EXPONENTS), len(HALF_CONTRASTS)))
    nothing = response_KU.max(0) <= 0
    return {
        "contrast_c50": np.where(nothing, np.nan, HALF_CONTRASTS[half]),
        "contrast_exponent": np.where(nothing, np.nan, EXPONENTS[exponent]),
        "contrast_rmax_hz": np.where(nothing, np.nan, scale[best_U, np.arange(len(best_U))]),
    }


def against_truth(found: Mapping[str, np.ndarray], truth: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """How far preferred values are from the simulator's; NaN where it says nothing."""
    unknown = np.full(len(found["orientation_deg"]), np.nan)
    true = {name: np.asarray(truth.get(name, unknown), float) for name in (
        "orientation_deg", "spatial_frequency", "temporal_frequency_hz", "complex", "direction")}  # fmt: skip
    # The simulator's direction ±1 moves along ±(sin, cos) of the orientation in (x, y), y downwards.
    moves_deg = (true["orientation_deg"] - 90.0 * true["direction"]) % 360.0
    turned = np.abs((found["direction_deg"] - moves_deg + 180.0) % 360.0 - 180.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return {
            "truth_orientation_deg": true["orientation_deg"],
            "truth_spatial_frequency": true["spatial_frequency"],
            "truth_temporal_frequency_hz": true["temporal_frequency_hz"],
            "truth_complex": true["complex"],
            "truth_direction": true["direction"],
            "orientation_error_deg": rf_maps.orientation_error_deg(found["orientation_deg"], true["orientation_deg"]),
            "direction_error_deg": np.where(np.abs(true["direction"]) == 1, turned, np.nan),
            "spatial_frequency_error_octaves": np.log2(found["spatial_frequency"] / true["spatial_frequency"]),
            "temporal_frequency_error_octaves": np.log2(found["temporal_frequency_hz"] / true["temporal_frequency_hz"]),
            "kind_right": np.where(
                np.isfinite(true["complex"]) & np.isfinite(found["modulated"]),
                (found["modulated"] == 0) == (true["complex"] == 1),
                np.nan,
            ),
        }
