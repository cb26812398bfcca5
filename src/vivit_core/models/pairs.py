"""Pairs of filters a quarter of a wave apart, and the energies of what they see: fields of complex cells.

Shape letters: B clips, T bins, U units, M members of a bank, P pixels of a side, L lags, X time courses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-6  # of a filter's norm: a window of less than a pixel may hold nothing
MOST_FREQUENCY = 0.25  # waves a pixel: finer ones are not of a photograph
ENERGIES = 3  # of a pair: of either time course, and of motion
USUAL_RATE_PER_S = 100.0  # how fast courses go by where no unit shows its own


class Pairs(NamedTuple):
    """A pair of spatial filters for each unit, a quarter of a wave apart.

    Attributes
    ----------
    member_U : which of the bank; -1 where none was found.
    center_U2 : x and y of its middle, whole pixels.
    """

    member_U: Tensor
    center_U2: Tensor


class Gabors(NamedTuple):
    """Shapes of pairs of Gabor filters.

    Attributes
    ----------
    place_M2 : row and column of the middle, px from that of the window.
    angle_M : of the wave, from down to right.
    log_std_M : logarithm of the window's standard deviation along the wave, px.
    log_frequency_M : logarithm of the waves a pixel.
    log_aspect_M : logarithm of the window's length across the wave, in that along it.
    """

    place_M2: Tensor
    angle_M: Tensor
    log_std_M: Tensor
    log_frequency_M: Tensor
    log_aspect_M: Tensor

    def of(self, members: Tensor) -> Gabors:
        return Gabors(*(each[members] for each in self))

    def pairs(self, side: int) -> Tensor:
        """(M, 2, P, P): blind to uniform gray, of unit norm."""
        at_P = torch.arange(side, device=self.place_M2.device) - (side - 1) / 2
        y, x = at_P[:, None] - self.place_M2[:, 0, None, None], at_P - self.place_M2[:, 1, None, None]
        angle, std, frequency, aspect = (
            each[:, None, None]
            for each in (self.angle_M, self.log_std_M.exp(), self.log_frequency_M.exp(), self.log_aspect_M.exp())
        )
        along, across = x * angle.sin() + y * angle.cos(), x * angle.cos() - y * angle.sin()
        window = torch.exp(-(along.square() + (across / aspect).square()) / (2 * std.square()))
        phase = 2 * math.pi * frequency * along
        pair = window[:, None] * torch.stack([phase.cos(), phase.sin()], dim=1)
        share = pair.sum((2, 3), keepdim=True) / window.sum((1, 2))[:, None, None, None]
        pair = pair - share * window[:, None]
        return pair / pair.square().sum((2, 3), keepdim=True).sqrt().clamp_min(TINY)


def round_gabors(orientations: int, stds_px: Sequence[float], cycles_per_std: Sequence[float]) -> Gabors:
    """Shapes of a bank: round windows of each size, with waves of each frequency and orientation."""
    std_M, cycles_M, angle_M = torch.cartesian_prod(
        *(torch.tensor(each, dtype=torch.get_default_dtype()) for each in (stds_px, cycles_per_std)),
        torch.arange(orientations) * (math.pi / orientations),
    ).T
    frequency_M = (cycles_M / std_M).clamp_max(MOST_FREQUENCY)
    none_M = torch.zeros_like(std_M)
    return Gabors(torch.zeros(len(std_M), 2), angle_M, std_M.log(), frequency_M.log(), none_M)


def bank_of(side: int, orientations: int, stds_px: Sequence[float], cycles_per_std: Sequence[float]) -> Tensor:
    """Pairs of Gabor filters, (M, 2, P, P): see :meth:`Gabors.pairs`."""
    return round_gabors(orientations, stds_px, cycles_per_std).pairs(side)


def usual_courses(lags: int, frame_rate_hz: float) -> Tensor:
    """Two time courses (2, L) as cortical cells have them: biphasic, the first one faster (Adelson & Bergen 1985,
    equation 9)."""
    kt = USUAL_RATE_PER_S * torch.arange(lags).flip(0) / frame_rate_hz
    courses = [kt**n * (-kt).exp() * (1 / math.factorial(n) - kt.square() / math.factorial(n + 2)) for n in (3, 5)]
    return F.normalize(torch.stack(courses).float(), dim=1)


def newest(courses_XL: Tensor, lags: int) -> Tensor:
    """Time courses of so many lags: the newest ones, and zeros before them where there are too few."""
    return F.pad(courses_XL[:, -lags:], (max(0, lags - courses_XL.shape[1]), 0))


def through(seen_BTU2: Tensor, courses_U2L: Tensor) -> Tensor:
    """What pairs see (B, T, U, 2) through the time courses of their units, (B, T, U, 4): even and odd through the
    first, then through the second. Before the clip nothing was seen."""
    units, _, lags = courses_U2L.shape
    x = F.pad(rearrange(seen_BTU2, "b t u pair -> (b pair) u t"), (lags - 1, 0))
    y = F.conv1d(x, rearrange(courses_U2L, "u course l -> (u course) 1 l"), groups=units)
    return rearrange(y, "(b pair) (u course) t -> b t u (course pair)", pair=2, course=2)


def energies(responses: Tensor) -> Tensor:
    """(…, 3) of a pair's responses (…, 4): even and odd through the first time course, then through the second.

    The energy of either course, and of motion: where two courses are about a quarter of a cycle apart, its sign tells
    in which of two directions a pattern moves (Adelson & Bergen 1985).
    """
    even, odd, even_late, odd_late = responses.unbind(-1)
    motion = odd * even_late - even * odd_late
    return torch.stack([even.square() + odd.square(), even_late.square() + odd_late.square(), motion], dim=-1)
