"""Drifting gratings, whole and through apertures, in a recording's own pixels.

Shape letters: T bins, H W pixels, F temporal frequencies.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FINE = 360  # directions at which a curve is interpolated


EDGE_PX = 1.0  # over which the border of an aperture fades


CYCLES = 8  # times the fewest cycles that are tried, until they are whole bins


TELLABLE = "above 0 and below 0.5 cycles a pixel, from which on no direction can be told"


WHOLE_BINS = 1e-3  # bins from a whole number that still count as whole


LONGEST_S = 10.0  # in which cycles of all frequencies are to be whole


NEAR = 0.01  # relative difference of a frequency from a wanted one in whose place it can stand


@dataclass(frozen=True)
class Gratings:
    """Which gratings are shown. Each list rises, because curves are read along it.

    Parameters
    ----------
    directions : number of directions, evenly spaced over the circle; a multiple of 4.
    spatial_frequencies : cycles a pixel.
    temporal_frequencies_hz : where a grating drifts, cycles a second.
    contrast : of the gratings for the preferred values; 1 is the largest step from gray that the pixels can make.
    contrasts : for the contrast response, at the unit's preferred grating.
    sizes_px : diameters of apertures around the unit's place, at its preferred grating; the full field is added.
    settle_s : time that a grating is on before responses count, s.
    analysed_s : time for which they count at least, s: each grating for the fewest whole cycles that last so long.
    draws : times that the gratings along a unit's curves are shown for intervals, each with another phase and, in
        apertures, another place; with fewer than three there are none.
    jitter_px : standard deviation of the place along both axes, px.
    seed : of the places.
    """

    directions: int
    spatial_frequencies: list[float]
    temporal_frequencies_hz: list[float]
    contrast: float
    contrasts: list[float]
    sizes_px: list[float]
    settle_s: float
    analysed_s: float
    draws: int
    jitter_px: float
    seed: int

    def __post_init__(self) -> None:
        problems = []
        if self.directions < 4 or self.directions % 4:
            problems.append(f"directions={self.directions} is not a multiple of 4, so orthogonals would be missing")
        if not self.spatial_frequencies or not all(0 < f < 0.5 for f in self.spatial_frequencies):
            problems.append(f"spatial_frequencies={self.spatial_frequencies} are not {TELLABLE}")
        if not self.temporal_frequencies_hz:
            problems.append("temporal_frequencies_hz is empty")
        if not all(hz > 0 for hz in self.temporal_frequencies_hz):
            problems.append(f"temporal_frequencies_hz={self.temporal_frequencies_hz} are not above 0 Hz")
        if self.draws < 1:
            problems.append(f"draws={self.draws} is below 1")
        for name in ("settle_s", "jitter_px"):
            if getattr(self, name) < 0:
                problems.append(f"{name}={getattr(self, name)} is below 0")
        if not self.analysed_s > 0:
            problems.append(f"analysed_s={self.analysed_s} is not above 0")
        if not all(0 < c <= 1 for c in (self.contrast, *self.contrasts)):
            problems.append(f"contrast={self.contrast}, contrasts={self.contrasts} are not in 0 … 1")
        if not all(size > 0 for size in self.sizes_px):
            problems.append(f"sizes_px={self.sizes_px} are not above 0")
        for name in ("spatial_frequencies", "temporal_frequencies_hz", "contrasts", "sizes_px"):
            if any(b <= a for a, b in itertools.pairwise(getattr(self, name))):
                problems.append(f"{name}={getattr(self, name)} does not rise")
        if problems:
            raise ValueError("gratings: " + "; ".join(problems))

    @property
    def directions_deg(self) -> np.ndarray:
        return np.arange(self.directions) * 360.0 / self.directions

    def analysed_bins(self, rate_hz: float) -> list[int]:
        """Bins for which the responses to each temporal frequency count: whole cycles.

        Raises
        ------
        ValueError
            For frequencies that so many frames a second cannot show, or whose cycles are never whole bins.
        """
        found, problems = [], []
        for hz in self.temporal_frequencies_hz:
            fewest = self.fewest_cycles(hz)
            if hz >= rate_hz / 2:
                problems.append(f"{hz} Hz cannot be shown at {rate_hz:g} frames a second")
            elif bins := self.whole_bins(hz, rate_hz):
                found.append(bins)
            else:
                problems.append(
                    f"{fewest} to {CYCLES * fewest} cycles of {hz} Hz are no whole number of bins at {rate_hz:g} "
                    "frames a second"
                )
        if problems:
            raise ValueError(f"gratings.temporal_frequencies_hz: {'; '.join(problems)}{self.remedy(rate_hz)}")
        return found

    def fewest_cycles(self, hz: float) -> int:
        """Cycles that last ``analysed_s``."""
        return max(1, math.ceil(self.analysed_s * hz - 1e-6))

    def whole_bins(self, hz: float, rate_hz: float) -> int | None:
        """Bins of the fewest whole cycles that are whole bins too; None where too many cycles would be needed."""
        fewest = self.fewest_cycles(hz)
        for cycles in range(fewest, CYCLES * fewest + 1):
            if abs(cycles * rate_hz / hz - round(cycles * rate_hz / hz)) < WHOLE_BINS:
                return round(cycles * rate_hz / hz)
        return None

    def common_s(self, rate_hz: float) -> float:
        """The shortest time in which all that :meth:`analysed_bins` says have whole cycles, s.

        Raises
        ------
        ValueError
            As :meth:`analysed_bins`; and where it is above ``LONGEST_S``.
        """
        common_s = math.lcm(*self.analysed_bins(rate_hz)) / rate_hz
        if common_s > LONGEST_S:
            raise ValueError(
                f"gratings.temporal_frequencies_hz: cycles of {self.temporal_frequencies_hz} Hz are all whole only in "
                f"{common_s:.3g} s at {rate_hz:g} frames a second, and protocols (lab) would show clips as long"
                f"{self.remedy(rate_hz)}"
            )
        return common_s

    def remedy(self, rate_hz: float) -> str:
        """Which frequencies near these have whole cycles in one short time, in words; empty where there are none."""
        wanted_F = np.array([hz for hz in self.temporal_frequencies_hz if hz < rate_hz / 2])
        found: dict[float, tuple[list[float], int]] = {}  # by how far they are, those of the shortest time
        for bins in range(math.ceil(self.analysed_s * rate_hz), int(LONGEST_S * rate_hz) + 1):
            near_F = np.maximum(np.round(wanted_F * bins / rate_hz), 1) * rate_hz / bins
            if (np.diff(near_F) > 0).all() and all(self.whole_bins(hz, rate_hz) for hz in near_F):
                off = max(NEAR, float(np.abs(near_F / wanted_F - 1).max(initial=0.0)))
                found.setdefault(off, (near_F.tolist(), bins))
        if not len(wanted_F) or not found:
            return ""
        these, bins = found[min(found)]
        words = ", ".join(f"{hz:.7g}" for hz in these)
        return f"; set gratings.temporal_frequencies_hz=[{words}], whose cycles are all whole in {bins} bins"


def grating(
    size: tuple[int, int],
    times_s: np.ndarray,
    direction_deg: float,
    cycles_per_px: float,
    hz: float,
    contrast: float,
    phase_deg: float = 0.0,
) -> Tensor:
    """A drifting grating (T, H, W) in contrast; ``phase_deg`` is its phase at the frame's middle at time zero."""
    height, width = size
    y_H1, x_W = np.arange(height)[:, None] - (height - 1) / 2, np.arange(width) - (width - 1) / 2
    angle = math.radians(direction_deg)
    along_HW = x_W * math.cos(angle) - y_H1 * math.sin(angle)  # y points down
    place_HW = 2 * np.pi * cycles_per_px * along_HW + math.radians(phase_deg)
    turn_T = 2 * np.pi * hz * times_s
    # The cosine of the difference, of which space and time are made once each.
    wave_THW = np.multiply.outer(np.cos(turn_T), np.cos(place_HW)) + np.multiply.outer(np.sin(turn_T), np.sin(place_HW))
    return contrast * torch.as_tensor(wave_THW).float()


def aperture(size: tuple[int, int], center_2: np.ndarray, diameter_px: float) -> Tensor:
    """One inside a disc, zero outside, with a border that fades over ``EDGE_PX``; (H, W)."""
    y_H1, x_W = np.arange(size[0])[:, None], np.arange(size[1])
    distance = np.hypot(x_W - center_2[0], y_H1 - center_2[1])
    return torch.as_tensor(np.clip((diameter_px / 2 - distance) / EDGE_PX + 0.5, 0, 1)).float()
