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
from vivit_core.stimuli.gratings import TELLABLE, aperture
from vivit_core.stimuli.surrounds import ring

MOST_CONTRAST = 0.35  # root mean square, with which a twentieth of two opposite noises' pixels is cut; of one, .4 %
BAND = 1 / 3  # standard deviation of the noise's spatial frequencies, as a share of their mean


@dataclass(frozen=True)
class CenterSurroundMotion(Stimulus):
    """Noise of all orientations around one spatial frequency, which drifts in a disc and in the annulus around it.

    The noise is periodic: what leaves the frame on one side comes back on the other. Center and surround, and the
    opponent, show noise of their own. Noise has no largest value: the few pixels that leave −1 … 1 are cut, so
    ``contrast`` has a bound. Of its frequencies, those are left out that turn by half a cycle or more from frame to
    frame: they would be seen to stand, or to move the other way.

    Parameters
    ----------
    center_deg, surround_deg : direction of the motion in each; None leaves it gray.
    opponent : whether the center also shows noise that moves the other way, of the same contrast.
    cycles_per_px : mean spatial frequency.
    speed_px_per_s : of all motion.
    contrast : root mean square contrast, up to 0.35.
    center_px, diameter_px : the disc.
    gap_px : gray between the disc and the annulus, which reaches to the frame's border.
    duration_s : s.
    seed : of the noise.

    Raises
    ------
    ValueError
        Where frames are asked for at a rate that cannot show the mean frequency's motion.

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
        if self.contrast > MOST_CONTRAST:
            problems.append(
                f"contrast={self.contrast} is above {MOST_CONTRAST}, so much of the noise would leave the range"
            )
        if not 0 < self.cycles_per_px < 0.5:
            problems.append(f"cycles_per_px={self.cycles_per_px} is not {TELLABLE}")
        refuse(self, problems)

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        if (hz := self.cycles_per_px * self.speed_px_per_s) >= rate_hz / 2:
            refuse(self, [f"cycles_per_px · speed_px_per_s = {hz:g} Hz cannot be shown at {rate_hz:g} frames a second"])
        clip = torch.zeros(self.bins(rate_hz), *size)
        if self.center_deg is not None:
            disc = aperture(size, np.asarray(self.center_px), self.diameter_px)
            clip = clip + disc * self.noise(size, rate_hz, self.center_deg, 0)
            if self.opponent:
                clip = clip + disc * self.noise(size, rate_hz, self.center_deg + 180.0, 1)
        if self.surround_deg is not None:
            annulus = ring(size, self.center_px, self.diameter_px + 2 * self.gap_px)
            clip = clip + annulus * self.noise(size, rate_hz, self.surround_deg, 2)
        return clip.clamp(-1.0, 1.0)

    def noise(self, size: tuple[int, int], rate_hz: float, direction_deg: float, which: int) -> Tensor:
        """Drifting noise over the whole frame, (T, H, W), of the contrast asked for."""
        fy, fx = np.fft.fftfreq(size[0])[:, None], np.fft.rfftfreq(size[1])
        away = (np.hypot(fx, fy) - self.cycles_per_px) / (BAND * self.cycles_per_px)
        white = np.random.default_rng([self.seed, which]).standard_normal(size)
        spectrum = np.fft.rfft2(white) * np.exp(-0.5 * np.square(away))
        spectrum[0, 0] = 0.0  # no change of the mean
        angle = math.radians(direction_deg)
        per_s = self.speed_px_per_s * (fx * math.cos(angle) - fy * math.sin(angle))  # y points down
        spectrum[np.abs(per_s) >= rate_hz / 2] = 0.0
        if not (still := np.fft.irfft2(spectrum, size)).any():  # a single pixel has no contrast
            return torch.zeros(self.bins(rate_hz), *size)
        moved = spectrum * np.exp(-2j * np.pi * per_s * self.times_s(rate_hz)[:, None, None])
        return torch.as_tensor(self.contrast / still.std() * np.fft.irfft2(moved, size, axes=(1, 2))).float()
