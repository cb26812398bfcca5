"""Gratings in the center and in the surround of a place: discs, annuli, both; and plaids.

Shape letters: T bins (= frames), H W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vivit_core.stimuli.base import Stimulus, negative, not_positive, refuse
from vivit_core.stimuli.gratings import TELLABLE, aperture, grating


@dataclass(frozen=True)
class Drift:
    """A grating that drifts, wherever it is shown.

    Parameters
    ----------
    direction_deg : where it moves, degrees counterclockwise from rightwards; its bars are orthogonal to it.
    cycles_per_px : spatial frequency.
    hz : temporal frequency.
    contrast : 0 … 1.
    phase_deg : at the frame's middle at the clip's start.
    """

    direction_deg: float
    cycles_per_px: float
    hz: float
    contrast: float
    phase_deg: float = 0.0

    def __post_init__(self) -> None:
        problems = [] if 0 <= self.contrast <= 1 else [f"contrast={self.contrast} is not in 0 … 1"]
        if not 0 < self.cycles_per_px < 0.5:
            problems.append(f"cycles_per_px={self.cycles_per_px} is not {TELLABLE}")
        refuse(self, problems + negative(self, "hz"))

    def turned(self, degrees: float) -> Drift:
        """The same grating in another direction."""
        return replace(self, direction_deg=(self.direction_deg + degrees) % 360.0)

    def over(self, size: tuple[int, int], times_s: np.ndarray) -> Tensor:
        """It over the whole frame, (T, H, W)."""
        return grating(
            size, times_s, self.direction_deg, self.cycles_per_px, self.hz, self.contrast, self.phase_deg
        )  # fmt: skip


def ring(
    size: tuple[int, int], center_px: tuple[float, float], inner_px: float, outer_px: float | None = None
) -> Tensor:
    """One between two circles around a place, zero elsewhere, (H, W); diameters in px, None: to the frame's border."""
    place = np.asarray(center_px)
    outside = torch.ones(size) if outer_px is None else aperture(size, place, outer_px)
    inside = aperture(size, place, inner_px) if inner_px > 0 else torch.zeros(size)
    return (outside - inside).clamp_min(0.0)


@dataclass(frozen=True)
class CenterSurround(Stimulus):
    """A grating in a disc, and another one in the annulus around it; gray elsewhere.

    Parameters
    ----------
    center, surround : what drifts in each; None leaves it gray. An annulus alone has ``center=None``, a disc alone
        ``surround=None``.
    center_px : x, y of the middle.
    diameter_px : of the disc.
    gap_px : gray between the disc's border and the annulus.
    outer_px : outer diameter of the annulus; None: to the frame's border.
    duration_s : for which all is on, s.

    References
    ----------
    Cavanaugh, Bair & Movshon 2002 (J Neurophysiol 88:2530, 2547): discs, annuli, and surrounds by orientation.
    """

    center: Drift | None
    surround: Drift | None
    center_px: tuple[float, float]
    diameter_px: float
    gap_px: float
    outer_px: float | None
    duration_s: float

    def __post_init__(self) -> None:
        problems = not_positive(self, "diameter_px", "duration_s") + negative(self, "gap_px")
        if self.outer_px is not None and not self.outer_px > self.inner_px:
            problems.append(f"outer_px={self.outer_px} is not above the annulus's inner diameter, {self.inner_px}")
        refuse(self, problems)

    @property
    def inner_px(self) -> float:
        """Inner diameter of the annulus."""
        return self.diameter_px + 2 * self.gap_px

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        times_s = self.times_s(rate_hz)
        clip = torch.zeros(len(times_s), *size)
        if self.center is not None:
            disc = aperture(size, np.asarray(self.center_px), self.diameter_px)
            clip = clip + disc * self.center.over(size, times_s)
        if self.surround is not None:
            annulus = ring(size, self.center_px, self.inner_px, self.outer_px)
            clip = clip + annulus * self.surround.over(size, times_s)
        return clip


@dataclass(frozen=True)
class Plaid(Stimulus):
    """Gratings over the whole frame that drift to both sides of a direction, added up; with ``angle_deg=0`` one alone.

    Parameters
    ----------
    drift : of each component; its direction is where the pattern moves. The contrast is a component's.
    angle_deg : between the components' directions.
    second_phase_deg : phase of the second component, which sets where the pattern's knots lie.
    duration_s : s.

    References
    ----------
    Adelson & Movshon 1982 (Nature 300:523).
    """

    drift: Drift
    angle_deg: float
    second_phase_deg: float
    duration_s: float

    def __post_init__(self) -> None:
        problems = not_positive(self, "duration_s") + negative(self, "angle_deg")
        if self.angle_deg and self.drift.contrast > 0.5:
            problems.append(f"a component's contrast={self.drift.contrast} is above 0.5, so the sum leaves the range")
        if not self.angle_deg < 180:
            problems.append(f"angle_deg={self.angle_deg} is not below 180")
        refuse(self, problems)

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        times_s = self.times_s(rate_hz)
        first = self.drift.turned(self.angle_deg / 2).over(size, times_s)
        if not self.angle_deg:
            return first
        second = replace(self.drift.turned(-self.angle_deg / 2), phase_deg=self.second_phase_deg)
        return first + second.over(size, times_s)
