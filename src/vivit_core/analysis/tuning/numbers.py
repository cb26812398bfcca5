"""What tuning curves say: preferred values, selectivity, widths, and how far they are from the truth.

Angles: ``direction`` is where a grating moves, in degrees counterclockwise from rightwards; its bars have the
orientation ``direction + 90``, counterclockwise from horizontal, as the simulator counts. In frames y points down.

Shape letters: D directions, S spatial and F temporal frequencies, K contrasts, A sizes, T bins, U units, X columns:
units, or resamplings of one unit's draws, B resamplings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from vivit_core.rf import maps as rf_maps
from vivit_core.stimuli.gratings import FINE, Gratings

# A unit whose best response is smaller has no preferences: a tenth of its rate at gray, and a spike in ten seconds.
DRIVEN_SHARE, DRIVEN_HZ = 0.1, 0.1


FAR = 10.0  # times the best natural picture's rate: a rate above is far outside what a model was trained on


MODULATED = 1.0  # F1/F0 above which a unit counts as simple (Skottun et al. 1991)


EXPONENTS = np.linspace(0.5, 5.0, 46)  # of the contrast response that the fit tries


HALF_CONTRASTS = np.geomspace(0.01, 3.0, 80)


METHODS = {  # of the numbers that gratings tell, as docs/analyses.md has them
    "response": "R: of simple units, and of those whose F0 is not above the rate at gray, F1, the amplitude at the "
    "grating's temporal frequency; of others F0, the mean rate over whole cycles, less the rate at gray. Below zero it "
    "counts as none. R(θ) is to a grating that moves in direction θ, at the preferred frequencies; θ₀ is the best of "
    "the directions that were shown.",
    "driven": f"1 where best_hz is above both {DRIVEN_SHARE:g} of blank_hz and {DRIVEN_HZ:g} Hz. A unit that is not "
    "driven has no preferred values.",
    "blank_hz": "rate at gray, in Hz.",
    "best_hz": "R(θ₀), in Hz.",
    "modulation_ratio": "F1 / (F0 − rate at gray) at the preferred grating; empty where F0 is not above the rate at "
    "gray.",
    "modulated": f"1 (simple) where modulation_ratio is above {MODULATED:g}, 0 (complex) where it is not (Skottun et "
    "al. 1991).",
    "phase_deg": "phase of F1 at the preferred grating, in degrees.",
    "direction_deg": "θ₀: where the grating moves, counterclockwise from rightwards.",
    "orientation_deg": "half the angle of Σ R(θ) e^(2iθ), plus 90°: of the bars, counterclockwise from horizontal.",
    "circular_variance": "1 − (length of Σ R(θ) e^(2iθ)) / Σ R(θ) (Ringach et al. 2002). 0: one orientation alone; 1: "
    "none.",
    "osi": "(R(θ₀) − R⊥) / (R(θ₀) + R⊥), where R⊥ is the mean of R(θ₀ + 90°) and R(θ₀ − 90°).",
    "dsi": "(R(θ₀) − R(θ₀ + 180°)) / (R(θ₀) + R(θ₀ + 180°)).",
    "orientation_bandwidth_deg": "half the width of the peak of R at half its height; between directions R is the "
    "trigonometric polynomial through them. Empty where R does not fall to half.",
    "spatial_frequency": "cycles a pixel at the peak of the response, by a parabola through the best frequency and its "
    "neighbors on a logarithmic axis.",
    "spatial_frequency_bandwidth_octaves": "full width of that peak at half its height, in octaves; empty where the "
    "response does not fall to half on both sides.",
    "temporal_frequency_hz": "the same over temporal frequencies, in Hz.",
    "temporal_frequency_hz_bandwidth_octaves": "the width of that peak, in octaves.",
    "contrast_c50": "c50 of R(c) = Rmax cⁿ / (cⁿ + c50ⁿ) (Naka-Rushton; Albrecht & Hamilton 1982), by least squares "
    f"over n from {EXPONENTS[0]:g} to {EXPONENTS[-1]:g} and c50 from {HALF_CONTRASTS[0]:g} to {HALF_CONTRASTS[-1]:g}. "
    "A c50 above the largest contrast that was shown says only that it is above.",
    "contrast_exponent": "n of that fit.",
    "contrast_rmax_hz": "Rmax of that fit, in Hz.",
    "preferred_size_px": "diameter of the disc with the largest response, in pixels; inf where the full field has it.",
    "suppression_index": "(R_max − R_full) / R_max: the largest response to any size, and that to the full field.",
    "NAME_low, NAME_high": "95 % of the resamplings of the draws lie between them; the number itself is then that "
    "of the mean over draws. The bounds of an angle lie beside it, and may be below 0.",
    "neuron_NAME, truth_NAME": "the same number of the true neuron of a simulated recording, under the same stimuli; "
    "other truth_… are named here.",
    "truth_orientation_deg": "orientation that the true neuron's filters were made with, in degrees.",
    "truth_spatial_frequency": "their cycles a pixel.",
    "truth_temporal_frequency_hz": "their temporal frequency, in Hz.",
    "truth_complex": "1 where the true neuron is complex, 0 where it is simple.",
    "truth_direction": "1 or −1 where its filters prefer motion in one direction, 0 where they do not.",
    "orientation_error_deg": "smaller angle between orientation_deg and truth_orientation_deg.",
    "direction_error_deg": "smaller angle between direction_deg and the direction that the filters prefer; empty where "
    "they prefer none.",
    "spatial_frequency_error_octaves": "log2 of spatial_frequency over truth_spatial_frequency.",
    "temporal_frequency_error_octaves": "log2 of temporal_frequency_hz over truth_temporal_frequency_hz.",
    "kind_right": "1 where modulated and truth_complex say the same.",
    "knowable_fraction": "the model's bits per spike over those of the true rate, by the evaluation of its training.",
}


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
class Curves:
    """Responses to the gratings that differ from the preferred one in a single property, Hz; and F0 less the rate at
    gray, and F1, at the preferred one."""

    direction_DX: np.ndarray
    spatial_SX: np.ndarray
    temporal_FX: np.ndarray
    contrast_KX: np.ndarray
    size_AX: np.ndarray  # the full field last
    above_gray_X: np.ndarray
    f1_X: np.ndarray

    def at(self, column: int) -> Curves:
        """One column, without its axis."""
        return Curves(*(values[..., column] for values in self.arrays()))

    def weighed(self, weights_BX: np.ndarray) -> Curves:
        """Sums of the columns, (…, B)."""
        return Curves(*(values @ weights_BX.T for values in self.arrays()))

    @classmethod
    def side_by_side(cls, columns: Sequence[Curves]) -> Curves:
        """Single columns together."""
        return cls(*(np.stack(of, -1) for of in zip(*(column.arrays() for column in columns), strict=True)))

    def arrays(self) -> list[Any]:
        return [getattr(self, field.name) for field in fields(self)]


def preferred(gratings: Gratings, curves: Curves) -> dict[str, np.ndarray]:
    """Preferred values, selectivity and widths of every column, by name; NaN where a curve does not say, and
    ``preferred_size_px`` infinite where it is the full field. ``METHODS`` defines each.
    """
    directions_deg = gratings.directions_deg
    r_DX = np.maximum(curves.direction_DX, 0)
    total_X = np.where(r_DX.sum(0) > 0, r_DX.sum(0), np.nan)
    twice_X = (r_DX * np.exp(2j * np.deg2rad(directions_deg))[:, None]).sum(0) / total_X
    best_X = r_DX.argmax(0)
    columns, count = np.arange(len(best_X)), gratings.directions

    def at(steps: int) -> np.ndarray:
        return r_DX[(best_X + steps) % count, columns]

    best, opposite, orthogonal = at(0), at(count // 2), (at(count // 4) + at(-count // 4)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        found = {
            "best_hz": best,
            "orientation_deg": (np.rad2deg(np.angle(twice_X)) / 2 + 90.0) % 180.0,
            "direction_deg": directions_deg[best_X],
            "circular_variance": 1 - np.abs(twice_X),
            "osi": (best - orthogonal) / (best + orthogonal),
            "dsi": (best - opposite) / (best + opposite),
            "orientation_bandwidth_deg": half_width_deg(r_DX),
            "modulation_ratio": np.where(curves.above_gray_X > 0, curves.f1_X / curves.above_gray_X, np.nan),
        }
    for name, values, curve in (
        ("spatial_frequency", gratings.spatial_frequencies, curves.spatial_SX),
        ("temporal_frequency_hz", gratings.temporal_frequencies_hz, curves.temporal_FX),
    ):
        found[name], found[f"{name}_bandwidth_octaves"] = peak_of(np.array(values), np.maximum(curve, 0))
    if gratings.contrasts:
        found |= naka_rushton(np.array(gratings.contrasts), np.maximum(curves.contrast_KX, 0))
    size_AX = np.maximum(curves.size_AX, 0)
    largest = size_AX.max(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Without a disc beside it the full field says nothing.
        sizes = np.array([*gratings.sizes_px, np.inf if gratings.sizes_px else np.nan])
        found["preferred_size_px"] = np.where(largest > 0, sizes[size_AX.argmax(0)], np.nan)
        found["suppression_index"] = np.where(largest > 0, (largest - size_AX[-1]) / largest, np.nan)
    return found


def half_width_deg(r_DU: np.ndarray) -> np.ndarray:
    """Half the width at half height of each curve's highest peak over the circle, (U,); NaN where it never falls to it.

    Between the measured directions the curve is the trigonometric polynomial through them. It is sampled at ``FINE``
    directions, between which it is a line. docs/analyses.md says which widths so many directions tell.
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
        if turned[0] > 0:
            sides = [crossing(side, turned[0] / 2) for side in (turned, np.roll(turned[::-1], 1))]
            widths[unit] = sum(sides) / 2 * (360.0 / FINE)
    return widths


def crossing(curve_X: np.ndarray, level: float) -> float:
    """Where a curve that begins above a level first falls to it, in steps from its begin; NaN where it never does."""
    below = np.flatnonzero(curve_X < level)
    if not len(below):
        return np.nan
    before, after = curve_X[below[0] - 1 : below[0] + 1]
    return float(below[0] - 1 + (before - level) / (before - after))


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
    turned = rf_maps.turn_deg(found["direction_deg"], moves_deg, 360.0)
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
