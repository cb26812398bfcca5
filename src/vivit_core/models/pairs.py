"""Pairs of filters a quarter of a wave apart, and the energies of what they see: fields of complex cells.

Shape letters: U units, M members of a bank, P pixels of a side, L lags.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

TINY = 1e-6  # of a filter's norm: a window of less than a pixel may hold nothing
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


def bank_of(side: int, orientations: int, stds_px: Sequence[float], cycles_per_std: Sequence[float]) -> Tensor:
    """Pairs of Gabor filters, (M, 2, P, P): blind to uniform gray, of unit norm."""
    at_P = torch.arange(side) - (side - 1) / 2
    std_M, cycles_M, turn_M = torch.cartesian_prod(
        *(torch.tensor(each, dtype=at_P.dtype) for each in (stds_px, cycles_per_std)),
        torch.arange(orientations) * (math.pi / orientations),
    ).T[..., None, None]
    along = at_P * turn_M.sin() + at_P[:, None] * turn_M.cos()
    phase = 2 * math.pi * (cycles_M / std_M).clamp_max(0.25) * along
    window = torch.exp(-(at_P.square() + at_P[:, None].square()) / (2 * std_M**2))
    pair = window[:, None] * torch.stack([phase.cos(), phase.sin()], dim=1)
    share = pair.sum((2, 3), keepdim=True) / window.sum((1, 2))[:, None, None, None]
    pair = pair - share * window[:, None]
    return pair / pair.square().sum((2, 3), keepdim=True).sqrt().clamp_min(TINY)


def usual_courses(lags: int, frame_rate_hz: float) -> Tensor:
    """Two time courses (2, L) as cortical cells have them: biphasic, the first one faster (Adelson & Bergen 1985,
    equation 9)."""
    kt = USUAL_RATE_PER_S * torch.arange(lags).flip(0) / frame_rate_hz
    courses = [kt**n * (-kt).exp() * (1 / math.factorial(n) - kt.square() / math.factorial(n + 2)) for n in (3, 5)]
    return F.normalize(torch.stack(courses).float(), dim=1)


def energies(responses: Tensor) -> Tensor:
    """(…, 3) of a pair's responses (…, 4): even and odd through the first time course, then through the second.

    The energy of either course, and of motion: where two courses are about a quarter of a cycle apart, its sign tells
    in which of two directions a pattern moves (Adelson & Bergen 1985).
    """
    even, odd, even_late, odd_late = responses.unbind(-1)
    motion = odd * even_late - even * odd_late
    return torch.stack([even.square() + odd.square(), even_late.square() + odd_late.square(), motion], dim=-1)
