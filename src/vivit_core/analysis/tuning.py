"""Tuning in silico: drifting gratings on a twin's screen, and what each unit prefers.

A grating that drifts passes through every phase, so full-field gratings need not be centred: each one drives all units
of a recording at once. Only contrast and size are tried at a unit's own preferred grating, size at its own place.

Angles: ``direction`` is where a grating moves, in degrees counterclockwise from rightwards; its bars have the
orientation ``direction + 90``, counterclockwise from horizontal, as the simulator counts. In frames y points down.

Shape letters: N gratings, D directions, S spatial and F temporal frequencies, K contrasts, A sizes, T bins, H W pixels,
U units.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis import maps
from vivit_core.analysis import tuning_pictures as pictures
from vivit_core.analysis.evaluate import centers_px, without_nan
from vivit_core.analysis.insilico import Screen, natural_clips, screens_of
from vivit_core.analysis.receptive_fields import ORIENTED_DEG, truth_of
from vivit_core.analysis.report import Section, Table
from vivit_core.analysis.synthesis import Ascent, Kind, best_natural, most_exciting
from vivit_core.analysis.tables import by_group, write_arrays, write_summary, write_units
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.baselines import LN
from vivit_core.models.twin import Twin
from vivit_core.names import file_name, key_name

FINE = 360  # directions at which a curve is interpolated
EDGE_PX = 1.0  # over which the border of an aperture fades
# A unit whose best response is smaller has no preferences: a tenth of its rate at grey, and a spike in ten seconds.
DRIVEN_SHARE, DRIVEN_HZ = 0.1, 0.1
FAR = 10.0  # times the best natural picture's rate: a rate above is far outside what a model was trained on
MODULATED = 1.0  # F1/F0 above which a unit counts as simple (Skottun et al. 1991)
EXPONENTS = np.linspace(0.5, 5.0, 46)  # of the contrast response that the fit tries
HALF_CONTRASTS = np.geomspace(0.01, 3.0, 80)


@dataclass(frozen=True)
class Gratings:
    """Which gratings are shown.

    Parameters
    ----------
    directions : number of directions, evenly spaced over the circle; a multiple of 4.
    spatial_frequencies : cycles a pixel.
    temporal_frequencies_hz : each with a whole number of cycles in ``analysed_s``.
    contrast : of the gratings for the preferred values; 1 is the largest step from grey that the pixels can make.
    contrasts : for the contrast response, at the unit's preferred grating.
    sizes_px : diameters of apertures around the unit's place, at its preferred grating; the full field is added.
    settle_s, analysed_s : time that a grating is on before responses count, and for which they count, s.
    """

    directions: int
    spatial_frequencies: list[float]
    temporal_frequencies_hz: list[float]
    contrast: float
    contrasts: list[float]
    sizes_px: list[float]
    settle_s: float
    analysed_s: float

    def __post_init__(self) -> None:
        problems = []
        if self.directions < 4 or self.directions % 4:
            problems.append(f"directions={self.directions} is not a multiple of 4, so orthogonals would be missing")
        if not self.spatial_frequencies or not all(0 < f <= 0.5 for f in self.spatial_frequencies):
            problems.append(f"spatial_frequencies={self.spatial_frequencies} are not in 0 … 0.5 cycles a pixel")
        if not self.temporal_frequencies_hz:
            problems.append("temporal_frequencies_hz is empty")
        for hz in self.temporal_frequencies_hz:
            cycles = hz * self.analysed_s
            if cycles < 0.5 or abs(cycles - round(cycles)) > 1e-6:
                problems.append(
                    f"temporal_frequencies_hz: {hz} Hz has {cycles:g} cycles in analysed_s={self.analysed_s}, "
                    "which is not a whole number"
                )
        if not all(0 < c <= 1 for c in (self.contrast, *self.contrasts)):
            problems.append(f"contrast={self.contrast}, contrasts={self.contrasts} are not in 0 … 1")
        if not all(size > 0 for size in self.sizes_px):
            problems.append(f"sizes_px={self.sizes_px} are not above 0")
        if problems:
            raise ValueError("gratings: " + "; ".join(problems))

    @property
    def directions_deg(self) -> np.ndarray:
        return np.arange(self.directions) * 360.0 / self.directions


def grating(
    size: tuple[int, int], times_s: np.ndarray, direction_deg: float, cycles_per_px: float, hz: float, contrast: float
) -> Tensor:
    """A drifting grating (T, H, W) in contrast; its phase is zero at the frame's middle at time zero."""
    height, width = size
    y_H1, x_W = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    angle = math.radians(direction_deg)
    along_HW = x_W * math.cos(angle) - y_H1 * math.sin(angle)  # y points down
    phase_THW = 2 * np.pi * (cycles_per_px * along_HW - hz * times_s[:, None, None])
    return contrast * torch.as_tensor(np.cos(phase_THW)).float()


def aperture(size: tuple[int, int], center_2: np.ndarray, diameter_px: float) -> Tensor:
    """One inside a disc, zero outside, with a border that fades over ``EDGE_PX``; (H, W)."""
    y_H1, x_W = np.arange(size[0])[:, None], np.arange(size[1])
    distance = np.hypot(x_W - center_2[0], y_H1 - center_2[1])
    return torch.as_tensor(np.clip((diameter_px / 2 - distance) / EDGE_PX + 0.5, 0, 1)).float()


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
    blank_U: np.ndarray  # rate at grey
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
    centers_U2 : where apertures are centred, x, y, px.
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


# What the curves say --------------------------------------------------------------------------------------------------


def preferences(tuning: Tuning) -> dict[str, np.ndarray]:
    """Preferred values, selectivity and widths of every unit, by name; NaN where a curve does not say.

    A unit whose best response is below ``DRIVEN_SHARE`` of its rate at grey, or below ``DRIVEN_HZ``, has none of them:
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
    """Where each curve peaks, by a parabola on a logarithmic axis through the highest point and its neighbours; and its
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
            "orientation_error_deg": maps.orientation_error_deg(found["orientation_deg"], true["orientation_deg"]),
            "direction_error_deg": np.where(np.abs(true["direction"]) == 1, turned, np.nan),
            "spatial_frequency_error_octaves": np.log2(found["spatial_frequency"] / true["spatial_frequency"]),
            "temporal_frequency_error_octaves": np.log2(found["temporal_frequency_hz"] / true["temporal_frequency_hz"]),
            "kind_right": np.where(
                np.isfinite(true["complex"]) & np.isfinite(found["modulated"]),
                (found["modulated"] == 0) == (true["complex"] == 1),
                np.nan,
            ),
        }


# --- the whole: files, pictures, summary ------------------------------------------------------------------------------


def tune(
    model: Twin | LN,
    datamodule: RecordingsDataModule,
    *,
    gratings: Gratings,
    mei: Ascent | None,
    mei_units: int,
    natural: int,
    out: Path,
    known: Mapping[tuple[str, str], float],
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Tuning of every unit, and pictures that excite a few most; writes ``tuning.{csv,json,npz}`` and ``pictures/``.

    Parameters
    ----------
    model : a twin, or an LN model in its place.
    datamodule : set up; its recordings are among those the model knows.
    gratings : what is shown.
    mei : how most exciting pictures are sought; None leaves them out.
    mei_units : units of each recording for which they are sought: those that gratings drive most, relative to grey.
    natural : natural pictures of the test split with which they are compared.
    out : folder for the files.
    known : fraction of the knowable information that the model has, by recording and unit, where it was evaluated.
    device, progress : where to compute; whether to show bars.

    Returns
    -------
    dict
        The content of ``tuning.json``; a number that is not defined is None.
    """
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    excited: list[dict[str, Any]] = []
    screens = screens_of(model, datamodule, device, None if mei is None or mei_units == 0 else mei.picture_s)
    for (recording, screen), spec in zip(screens, datamodule.specs, strict=True):
        middle = (np.array(screen.frame_size[::-1]) - 1) / 2
        centers_U2 = centers_px(model, recording, spec.recording_id)
        # An LN model that found nothing in a unit looks nowhere; a disc in the middle is as good as any.
        centers_U2 = np.where(np.isfinite(centers_U2), centers_U2, middle)
        tuning = measure(screen, gratings, centers_U2, progress)
        found = preferences(tuning)
        found |= against_truth(found, truth_of(recording))
        found["knowable_fraction"] = np.array([known.get((spec.recording_id, unit), np.nan) for unit in spec.unit_ids])
        rows += [
            {"recording": spec.recording_id, "unit": unit} | {name: column[i].item() for name, column in found.items()}
            for i, unit in enumerate(spec.unit_ids)
        ]
        key = key_name(spec.recording_id)
        for name in ("blank_U", "f0_DSFU", "f1_DSFU", "course_TU", "contrast_KU", "size_AU"):
            arrays[f"{key}/{name}"] = getattr(tuning, name)
        arrays[f"{key}/unit_ids"] = np.array(spec.unit_ids)
        pictures.plot_tuning(
            out / "pictures" / f"tuning_{file_name(spec.recording_id)}.png",
            spec.recording_id,
            spec.unit_ids,
            tuning,
            found,
        )
        if mei is None or mei_units == 0:
            continue
        units = np.argsort(-found["best_hz"] / np.maximum(tuning.blank_U, 1e-3), kind="stable")[:mei_units].tolist()
        shown = natural_clips(screen, recording, screen.bins(mei.picture_s), natural)
        kinds: tuple[Kind, Kind] = ("image", "clip")
        for kind in kinds:
            made, made_hz = most_exciting(screen, units, mei, kind, progress)
            best, best_hz = best_natural(screen, shown, units, mei, kind, progress)
            arrays[f"{key}/mei_{kind}"] = made.numpy()
            arrays[f"{key}/natural_{kind}"] = best.numpy()
            for i, unit in enumerate(units):
                excited.append(
                    {
                        "recording": spec.recording_id,
                        "unit": spec.unit_ids[unit],
                        "kind": kind,
                        "mei_hz": float(made_hz[i]),
                        "natural_hz": float(best_hz[i]),
                        "gain": float(made_hz[i] / best_hz[i]),
                        "far": bool(made_hz[i] > FAR * best_hz[i]),
                        "mei_rms": float(made[i].square().mean().sqrt()),
                        "natural_rms": float(best[i].square().mean().sqrt()),
                    }
                )
        arrays[f"{key}/mei_units"] = np.array([spec.unit_ids[unit] for unit in units])
        pictures.plot_exciting(
            out / "pictures", spec.recording_id, arrays, [e for e in excited if e["recording"] == spec.recording_id],
            bin_s=1 / spec.frame_rate_hz,
        )  # fmt: skip
    pictures.plot_population(out / "pictures" / "population.png", rows)
    summary = by_group(rows, summary_of)
    summary["recordings"] = {
        spec.recording_id: by_group([row for row in rows if row["recording"] == spec.recording_id], summary_of)
        for spec in datamodule.specs
    }
    summary["most_exciting"] = excited
    summary = without_nan(summary)
    write_units(out / "tuning.csv", rows)
    write_summary(out / "tuning.json", summary)
    write_arrays(out / "tuning.npz", arrays)
    return summary


def summary_of(of: Mapping[str, np.ndarray], own: np.ndarray) -> dict[str, Any]:
    """The numbers of some units; each is over those for which there is a value, so over none that is ``undriven``."""

    def known(name: str) -> np.ndarray:
        values = of[name][own]
        return values[np.isfinite(values)]

    def median(values: np.ndarray) -> float:
        return float(np.median(values)) if len(values) else math.nan

    def share(values: np.ndarray) -> float:
        return float(values.mean()) if len(values) else math.nan

    names = ["osi", "dsi", "circular_variance", "orientation_bandwidth_deg", "modulation_ratio", "spatial_frequency"]
    names += ["temporal_frequency_hz", "contrast_c50", "suppression_index", "orientation_error_deg"]
    found: dict[str, Any] = {"units": int(own.sum()), "undriven": int((of["driven"][own] == 0).sum())}
    found |= {f"{name}_median": median(known(name)) if name in of else math.nan for name in names}
    found["modulated_share"] = share(known("modulated"))
    found[f"orientation_within_{ORIENTED_DEG:g}deg"] = share(known("orientation_error_deg") <= ORIENTED_DEG)
    for name in ("spatial_frequency", "temporal_frequency"):
        found[f"{name}_error_octaves_median"] = median(np.abs(known(f"{name}_error_octaves")))
    found["kind_right_share"] = share(known("kind_right"))
    found["direction_within_45deg"] = share(known("direction_error_deg") <= 45.0)
    return found


def report_section(summary: Mapping[str, Any], folder: Path, command: str) -> Section:
    """What tuning adds to a twin's report, from its summary and the pictures in ``folder``."""
    preferred = {
        "units": "number",
        "undriven": "undriven",
        "osi_median": "OSI",
        "dsi_median": "DSI",
        "orientation_bandwidth_deg_median": "half width (°)",
        "modulated_share": "F1/F0 > 1",
        "spatial_frequency_median": "cycles/px",
        "temporal_frequency_hz_median": "Hz",
        "contrast_c50_median": "c50",
        "suppression_index_median": "suppression",
    }
    errors = {
        "units": "number",
        "orientation_error_deg_median": "orientation (°)",
        f"orientation_within_{ORIENTED_DEG:g}deg": f"within {ORIENTED_DEG:g}°",
        "direction_within_45deg": "direction within 45°",
        "spatial_frequency_error_octaves_median": "spatial (oct)",
        "temporal_frequency_error_octaves_median": "temporal (oct)",
        "kind_right_share": "kind right",
    }
    tables = []
    for title, columns in (("Tuning: medians over units", preferred), ("Tuning against the truth", errors)):
        rows = [(group, *(of[name] for name in columns)) for group, of in summary["groups"].items()]
        if any(value is not None for row in rows for value in row[2:]):
            tables.append(Table(title, ("units", *columns.values()), rows))
    text = [
        "Drifting gratings were shown to the twin, with behaviour at its mean. The response is F1 (the amplitude at "
        "the grating's temporal frequency) of units whose F1 exceeds F0 less the rate at grey, and F0 less that rate "
        "of all others. A twin was trained on natural films; gratings lie outside of them, and rates far above those "
        "of the training are extrapolation.",
    ]
    everyone = summary["groups"]["all"]
    if everyone["undriven"]:
        text.append(
            f"Of {everyone['units']} units, {everyone['undriven']} respond to no grating by more than "
            f"{DRIVEN_SHARE:.0%} of their rate at grey and {DRIVEN_HZ:g} Hz. These are undriven: they have no "
            "preferences, and are left out of all medians and shares."
        )
    if excited := summary["most_exciting"]:
        text.append(
            "Most exciting images and clips were sought by gradient ascent under a budget of contrast, and are "
            "compared with the most exciting of the natural ones of the test split, shown in the same way: after grey, "
            "an image for as long as a clip. Natural ones keep their own contrast."
        )
        if far := sum(e["far"] for e in excited):
            text.append(
                f"Of {len(excited)} most exciting pictures, {far} drive their unit to more than {FAR:g} times the rate "
                "of the best natural one: such rates lie far outside what the model was trained on, and are no "
                "prediction of a neuron's firing."
            )
        names = {"mei_hz": "most exciting (Hz)", "natural_hz": "best natural (Hz)", "gain": "ratio"}
        names |= {"mei_rms": "its rms contrast", "natural_rms": "the natural one's"}
        shown = [(e["recording"], e["unit"], e["kind"], *(e[name] for name in names)) for e in excited]
        tables.append(Table("Most exciting pictures", ("recording", "unit", "kind", *names.values()), shown))
    captions = {
        "population": "Tuning of all units",
        "tuning": "Tuning of a few units",
        "exciting": "Most exciting images, beside the best natural ones",
        "clips": "Most exciting clips (above) and the best natural ones (below)",
    }
    of_recording = {f"_{file_name(name)}": f": {name}" for name in summary["recordings"]}
    drawn = [
        (path, f"{captions[kind]}{of_recording.get(path.stem.removeprefix(kind), '')}.")
        for kind in captions
        for path in sorted((folder / "pictures").glob(f"{kind}*.*"))
    ]
    return Section("tuning", "In-silico tuning", text, tables, drawn, command)
