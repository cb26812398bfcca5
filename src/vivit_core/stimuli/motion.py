"""Noise that drifts in the center and in the surround of a place.

Shape letters: T bins (= frames), H W pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivit_core.stimuli.base import Stimulus, negative, not_positive, refuse
from vivit_core.stimuli.gratings import aperture
from vivit_core.stimuli.surrounds import ring

BAND = 1 / 3  # standard deviation of the noise's spatial frequencies, as a share of their mean


@dataclass(frozen=True)
class CenterSurroundMotion(Stimulus):
    """Noise of all orientations around one spatial frequency, which drifts in a disc and in the annulus around it.

    The noise is periodic: what leaves the frame on one side comes back on the other. Center and surround, and the
    opponent, show noise of their own. Contrast that leaves −1 … 1 is cut.

    Parameters
    ----------
    center_deg, surround_deg : direction of the motion in each; None leaves it gray.
    opponent : whether the center also shows noise that moves the other way, of the same contrast.
    cycles_per_px : mean spatial frequency.
    speed_px_per_s : of all motion.
    contrast : root mean square contrast.
    center_px, diameter_px : the disc.
    gap_px : gray between the disc and the annulus, which reaches to the frame's border.
    duration_s : s.
    seed : of the noise.

    References
    ----------
    Allman, Miezin & McGuinness 1985 (Perception 14:105): center and surround in motion. Snowden et al. 1991
    (J Neurosci 11:2768): opponent motions at one place.
    """

    center_deg: float | None
    surround_deg: float | None
    opponent: bool
    cycles_per_px: float
    speed_px_per_s: float
    contrast: float
    center_px: tuple[float, float]
    diameter_px: float
    gap_px: float
    duration_s: float
    seed: int

    def __post_init__(self) -> None:
        problems = not_positive(self, "diameter_px", "duration_s", "contrast") + negative(
            self, "gap_px", "speed_px_per_s"
        )
        if not 0 < self.cycles_per_px <= 0.5:
            problems.append(f"cycles_per_px={self.cycles_per_px} is not in 0 … 0.5")
        refuse(self, problems)

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        times_s = self.times_s(rate_hz)
        clip = torch.zeros(len(times_s), *size)
        if self.center_deg is not None:
            disc = aperture(size, np.asarray(self.center_px), self.diameter_px)
            clip = clip + disc * self.noise(size, times_s, self.center_deg, 0)
            if self.opponent:
                clip = clip + disc * self.noise(size, times_s, self.center_deg + 180.0, 1)
        if self.surround_deg is not None:
            annulus = ring(size, self.center_px, self.diameter_px + 2 * self.gap_px)
            clip = clip + annulus * self.noise(size, times_s, self.surround_deg, 2)
        return clip.clamp(-1.0, 1.0)

    def noise(self, size: tuple[int, int], times_s: np.ndarray, direction_deg: float, which: int) -> Tensor:
        """Drifting noise over the whole frame, (T, H, W), of the contrast asked for."""
        fy, fx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])
        away = (np.hypot(fx, fy) - self.cycles_per_px) / (BAND * self.cycles_per_px)
        white = np.random.default_rng([self.seed, which]).standard_normal(size)
        spectrum = np.fft.rfft2(white) * np.exp(-0.5 * np.square(away))
        spectrum[0, 0] = 0.0  # no change of the mean
        if not (still := np.fft.irfft2(spectrum, size)).any():  # a single pixel has no contrast
            return torch.zeros(len(times_s), *size)
        angle = math.radians(direction_deg)
        per_s = self.speed_px_per_s * (fx * math.cos(angle) - fy * math.sin(angle))  # y points down
        moved = spectrum * np.exp(-2j * np.pi * per_s * times_s[:, None, None])
        return torch.as_tensor(self.contrast / still.std() * np.fft.irfft2(moved, size, axes=(1, 2))).float()
