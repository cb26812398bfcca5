"""Drifting gratings, whole and through apertures, in a recording's own pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

FINE = 360  # directions at which a curve is interpolated


EDGE_PX = 1.0  # over which the border of an aperture fades


@dataclass(frozen=True)
class Gratings:
    """Which gratings are shown.

    Parameters
    ----------
    directions : number of directions, evenly spaced over the circle; a multiple of 4.
    spatial_frequencies : cycles a pixel.
    temporal_frequencies_hz : each with a whole number of cycles in ``analysed_s``.
    contrast : of the gratings for the preferred values; 1 is the largest step from gray that the pixels can make.
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
    phase_THW = 2 * np.pi * (cycles_per_px * along_HW - hz * times_s[:, None, None])
    return contrast * torch.as_tensor(np.cos(phase_THW + math.radians(phase_deg))).float()


def aperture(size: tuple[int, int], center_2: np.ndarray, diameter_px: float) -> Tensor:
    """One inside a disc, zero outside, with a border that fades over ``EDGE_PX``; (H, W)."""
    y_H1, x_W = np.arange(size[0])[:, None], np.arange(size[1])
    distance = np.hypot(x_W - center_2[0], y_H1 - center_2[1])
    return torch.as_tensor(np.clip((diameter_px / 2 - distance) / EDGE_PX + 0.5, 0, 1)).float()
