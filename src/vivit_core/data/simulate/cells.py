"""Cells: what a context sees of the movie, energy and motion of oriented filters on a coarse grid over the frame.

Shape letters: T bins (= frames), H W pixels, R C rows and columns of cells, J = R · C cells, O orientations, P = T · H
rows of pixels, 2 = (x, y). Numbers and their sources: docs/simulator.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
ComplexArray = NDArray[np.complex64]

GRAY = 127.5  # the gray pixel of every simulated movie, halfway from black to white

# --- the choices, units in the names ---
CELL_PX = 4.0  # between neighboring cells
CELL_STD_PX = 2.5  # of a cell's filters: their diameter is 10 px, as that of a middling unit
CELL_CYCLES_PER_STD = 0.4
CELL_ORIENTATIONS_DEG = (0.0, 45.0, 90.0, 135.0)  # of the filters' wave vectors, from x to y
CELL_TAU_S = 0.04  # the past over which a cell's energy and motion are smoothed
STILL_PX_PER_S = 2.0  # slower motion counts as rest


def smooth(signal_T: FloatArray, tau_s: float | FloatArray, frame_rate_hz: float, axis: int = 0) -> FloatArray:
    """The mean of the past, which forgets with `tau_s`, from rest."""
    from scipy.signal import lfilter  # seconds that a process which simulates nothing does not wait for

    keep = float(np.exp(-1 / (tau_s * frame_rate_hz)))
    return lfilter([1 - keep], [1, -keep], signal_T, axis=axis).astype(np.float32, copy=False)


@dataclass(frozen=True, eq=False)
class Cells:
    """Oriented filters on a coarse grid over the frame: what a context sees of the movie."""

    x_px_C: FloatArray
    y_px_R: FloatArray
    frame_rate_hz: float
    filters: tuple[tuple[FloatArray, FloatArray], ...]  # an orientation's factors along x (W, 2 C) and y (2 R, H)

    @classmethod
    def over(cls, frame_shape: tuple[int, int], frame_rate_hz: float) -> Cells:
        """Cells that cover a frame."""
        places, windows, offsets = [], [], []
        for length in frame_shape:
            n = max(1, round(length / CELL_PX))
            place = (np.arange(n) + 0.5) * length / n - 0.5
            offset = np.arange(length)[:, None] - place
            window = np.exp(-(offset**2) / (2 * CELL_STD_PX**2)) / np.sqrt(np.sqrt(np.pi) * CELL_STD_PX)
            window[window < 1e-6] = 0  # denormal float32 numbers are slow to multiply
            places.append(place.astype(np.float32))
            windows.append(window)
            offsets.append(offset)
        filters = []
        for angle in np.deg2rad(CELL_ORIENTATIONS_DEG):
            # A Gabor whose envelope is round is a product of one factor along x and one along y.
            factor_y, factor_x = (
                window * np.exp(-2j * np.pi * CELL_CYCLES_PER_STD / CELL_STD_PX * wave * offset)
                for window, wave, offset in zip(windows, (np.sin(angle), np.cos(angle)), offsets, strict=True)
            )
            x_W2C = np.concatenate([factor_x.real, factor_x.imag], axis=1).astype(np.float32)
            y_2RH = np.concatenate([factor_y.real, factor_y.imag], axis=1).T.astype(np.float32)
            filters.append((x_W2C, np.ascontiguousarray(y_2RH)))
        return cls(places[1], places[0], frame_rate_hz, tuple(filters))

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.y_px_R), len(self.x_px_C)

    @property
    def place_px_J2(self) -> FloatArray:
        """Centers of the cells, row by row."""
        x_RC, y_RC = np.meshgrid(self.x_px_C, self.y_px_R)
        return np.stack([x_RC.ravel(), y_RC.ravel()], axis=1)

    def responses(self, frames_THW: NDArray[np.uint8]) -> ComplexArray:
        """Complex responses of the quadrature pairs: (T, J, O)."""
        n_frames, height, width = frames_THW.shape
        rows, columns = self.shape
        contrast_PW = frames_THW.reshape(-1, width).astype(np.float32) / GRAY - 1
        found = []
        for x_W2C, y_2RH in self.filters:
            both = y_2RH @ (contrast_PW @ x_W2C).reshape(n_frames, height, -1)
            real = both[:, :rows, :columns] - both[:, rows:, columns:]
            imaginary = both[:, rows:, :columns] + both[:, :rows, columns:]
            found.append((real + 1j * imaginary).reshape(n_frames, -1))
        return np.stack(found, axis=-1)

    def see(self, frames_THW: NDArray[np.uint8]) -> Seen:
        """Energy and motion in every cell, from the frames of one trial."""
        response_TJO = self.responses(frames_THW)
        energy_TJO = smooth(np.square(np.abs(response_TJO)), CELL_TAU_S, self.frame_rate_hz)
        # The response's phase falls by (wave vector · shift) from frame to frame; a trial comes after a gray screen.
        turn_TJO = np.zeros_like(energy_TJO)
        turn_TJO[1:] = -(response_TJO[:-1].conj() * response_TJO[1:]).imag
        angle_O = np.deg2rad(CELL_ORIENTATIONS_DEG)
        direction_O2 = np.stack([np.cos(angle_O), np.sin(angle_O)], axis=1).astype(np.float32)
        motion_TJ2 = smooth(turn_TJO, CELL_TAU_S, self.frame_rate_hz) @ direction_O2
        return Seen(energy_TJO, energy_TJO.sum(-1), motion_TJ2, np.linalg.norm(motion_TJ2, axis=-1))

    @property
    def still(self) -> float:
        """The turn a frame, in radians, of a pattern that moves at `STILL_PX_PER_S`."""
        return 2 * np.pi * CELL_CYCLES_PER_STD / CELL_STD_PX * STILL_PX_PER_S / self.frame_rate_hz


@dataclass(frozen=True, eq=False)
class Seen:
    """What the cells see in one trial, or at some bins of it."""

    energy_TJO: FloatArray  # orientation energy
    energy_TJ: FloatArray  # its sum over orientations
    motion_TJ2: FloatArray  # opponent motion energy summed as vectors: energy times turn of the phase a frame
    speed_TJ: FloatArray  # its size

    def at(self, bins: Sequence[int]) -> Seen:
        rows = list(bins)
        return Seen(self.energy_TJO[rows], self.energy_TJ[rows], self.motion_TJ2[rows], self.speed_TJ[rows])

    def likeness_TJO(self) -> FloatArray:
        """The tuned part of each cell's amplitudes over orientations, of length 1: cells are alike as their product."""
        amplitude_TJO = np.sqrt(self.energy_TJO)
        tuned_TJO = amplitude_TJO - amplitude_TJO.mean(-1, keepdims=True)
        return tuned_TJO / (np.linalg.norm(tuned_TJO, axis=-1, keepdims=True) + np.float32(1e-9))
