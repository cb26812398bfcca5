"""Whether units follow a stimulus on average, or only in its variance.

A cell that likes dark as much as bright (a complex cell, an ON-OFF cell) has no spike-triggered average: before its
spikes the mean stimulus is gray. But what is shown then varies more, or otherwise, than at other times: the variance of
the stimulus's projections on some filters, given a spike, differs. The variance of any projection is a sum of products
of two pixels, so the products of near pixels and near bins are asked one by one.

Shape letters: T bins, U units, H W pixels, P places, L lags, K shifts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from einops import rearrange
from torch import Tensor

from vivit_core.rf.placing import contrast_energies, varies, varying

CLEAR_SD = 6.0  # standard deviations over chance from which on a link is taken for one
SHIFTED = 64  # responses shifted in time, of all units together, at least, that say what chance is
FEWEST_SHIFTS = 4  # of each unit
STEPS = ((0, 0), (0, 1), (0, 2), (1, 0), (2, 0))  # pixels down and across between the two of a product


def links(frames_THW: Tensor, rest_TU: Tensor, lags: int) -> tuple[Tensor, Tensor]:
    """How clearly units follow the stimulus itself, and how clearly its variance.

    Parameters
    ----------
    frames_THW : contrast of the stimulus.
    rest_TU : counts less their mean, zero in bins that do not count.
    lags : bins before a response that are looked at, its own included.

    Returns
    -------
    average_U, variance_U : standard deviations over chance of the largest correlation of a unit with a pixel, and with
        a product of two near pixels or the local contrast energy, at any place and lag. Chance is what the same
        responses show when they are shifted in time, around the recording's end, so that it knows both the stimulus's
        slowness and the responses' own. NaN of units that never respond, and where nothing changes; the second also of
        units that follow the stimulus itself clearly (``CLEAR_SD``), which are not asked.
    """
    average_U = above_chance([rearrange(frames_THW, "t h w -> t (h w)")], rest_TU, lags)
    variance_U, asked_U = torch.full_like(average_U, torch.nan), average_U < CLEAR_SD
    if asked_U.any():
        variance_U[asked_U] = above_chance(products(frames_THW), rest_TU[:, asked_U], lags)
    return average_U, variance_U


def products(frames_THW: Tensor) -> Iterator[Tensor]:
    """Movies (T, P) of what the variances of local projections are made of."""
    height, width = frames_THW.shape[1:]
    for down, across in STEPS:
        if down < height and across < width:
            near = frames_THW[:, down:, across:] * frames_THW[:, : height - down, : width - across]
            yield rearrange(near, "t h w -> t (h w)")
    before = frames_THW.roll(1, 0)
    before[:1] = 0
    yield rearrange(frames_THW * before, "t h w -> t (h w)")
    if min(height, width) >= 4:
        for energy_THW in contrast_energies(frames_THW):
            yield rearrange(energy_THW, "t h w -> t (h w)")


def above_chance(movies: Iterable[Tensor], rest_TU: Tensor, lags: int) -> Tensor:
    """The largest correlation of each unit with any place of the movies (T, P) at any lag, in standard deviations over
    that of the unit's shifted responses; (U,)."""
    bins, units = rest_TU.shape
    shifts = max(FEWEST_SHIFTS, -(-SHIFTED // max(1, units)))
    # Evenly over the recording, never near the responses' own time.
    away = [round(bins * (k + 1) / (shifts + 1)) for k in range(shifts)]
    all_TU = torch.cat([rest_TU, *(rest_TU.roll(by, 0) for by in away)], 1)
    peak_U = torch.zeros(all_TU.shape[1])
    for movie_TP in movies:
        if not varies(movie_TP):
            continue
        x_TP = movie_TP[:, varying(movie_TP)]
        x_TP = x_TP - x_TP.mean(0)
        x_TP /= x_TP.square().sum(0).sqrt()
        for lag in range(min(lags, bins - 1)):
            link_UP = all_TU[lag:].T @ x_TP[: bins - lag]
            peak_U = torch.maximum(peak_U, link_UP.abs().amax(1))
    chance_KU = rearrange(peak_U[units:], "(k u) -> k u", u=units)
    mean_U = chance_KU.mean(0)
    known = mean_U > 0
    if not known.any():
        return torch.full((units,), torch.nan)
    # Four shifts of a unit say little of its scatter, those of all units together enough.
    scatter = (chance_KU[:, known] / mean_U[known] - 1).square().sum() / ((shifts - 1) * known.sum())
    return torch.where(known, (peak_U[:units] / mean_U.clamp_min(1e-12) - 1) / scatter.sqrt(), torch.nan)
