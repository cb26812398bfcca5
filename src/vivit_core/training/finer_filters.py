"""Units' own filters made finer by what units did, before a training's first step.

The linear baseline finds a separable filter as if a unit were linear. A pair comes from a bank of a few shapes, and its
time courses are other units'. Here each unit's linear filter, or the shape of its pair, its time courses and its part
in the linear response, follow the gradient of its own nats for some steps, as if nothing else drove it. The pair stays
one of Gabor filters, which a few numbers describe: as free pixels it would follow chance. The linear filter has a
hundred pixels, and follows chance too where trials are few: who calls this looks at trials that it did not see, and
lets a pair stand for it first (``own_filters``).

Shape letters: N pieces of trials, T bins of the longest one, U units, H W pixels, P pixels of a window, F filters of a
unit (of spectra: frequencies), S filters of all, C time courses, L lags, K weights of a unit.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.ln import laid_into_frame
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.pairs import Gabors, energies
from vivit_core.system.threads import a_core_each, go_on

STEPS, LEAST_STEPS = 160, 20
MOST_UNITS = 512  # of all recordings, for whom so many are made: about a third of a second of a core a unit
WARM_UP = 1 / 8  # of the steps
BATCH = 1_600  # bins in a step, of whole pieces of trials
GROUP, FEW = 32, 8  # units that learn together; where each looks through a window of its own
LARGE = 16  # a frame of so many windows: then each unit's window is cut out, which else takes longer than whole frames
RATE = 0.1  # of Adam at its peak: of angles (radians), logarithms, mixtures of time courses and of responses
PLACE = 2.0  # of the middle of a pair (px), in that
COURSE, FILTER = 0.3, 0.3  # of time courses and of the linear filter, in their own size and in that
WEIGHT = 0.02  # of the weights and the bias, in that
BETAS = 0.9, 0.99
MOST_PX = 3.0  # of a pair's middle from where the search saw it
TINY = 1e-12  # of a filter's size: where it is zero
MOST_LOG = 1.0  # of a pair's sizes, from what they were in the bank


@dataclass
class Shown:
    """Pieces of training trials.

    Attributes
    ----------
    contrast : (T, H, W) of each, in half precision.
    pool : (T, U), by what units are normalized, smoothed.
    counts, valid : (T, U), what was measured, and which bins count.
    """

    contrast: list[Tensor]
    pool: list[Tensor]
    counts: list[Tensor]
    valid: list[Tensor]

    def some(self, rng: np.random.Generator) -> list[int]:
        """Pieces by chance, of ``BATCH`` bins together, or all."""
        chosen, bins = [], 0
        for piece in rng.permutation(len(self.contrast)).tolist():
            chosen.append(piece)
            bins += len(self.contrast[piece])
            if bins >= BATCH:
                break
        return chosen


def steps_for(units: int) -> int:
    """How many steps are made where all recordings have so many units: few where they are very many."""
    return max(LEAST_STEPS, STEPS * MOST_UNITS // max(units, MOST_UNITS))


def refine(
    own: OwnFilters,
    likelihood: Likelihood,
    bias_U: Tensor,
    members_U: Tensor,
    wanted_U: Tensor,
    shown: Shown,
    steps: int = STEPS,
) -> None:
    """Let filters of some units, their weights and the bias follow the gradient of the units' nats.

    Parameters
    ----------
    own : with filters and fitted weights, changed in place.
    likelihood, bias_U : of the recording's units; the bias is changed in place.
    members_U : which member of ``own.shapes()`` each unit's pair is; any where it has none.
    wanted_U : which units. One with a pair learns the pair, and one without its linear filter.
    shown : what units saw and did.
    steps : how many.
    """
    paired_U = own.size_U > 0
    height, width = shown.contrast[0].shape[1:]
    groups = [
        (some.tolist(), paired)
        for paired in (True, False)
        for some in (wanted_U & (paired_U if paired else ~paired_U & (own.scale_U > 0)))
        .nonzero()[:, 0]
        .split(FEW if large(height, width, own.side if paired else own.linear.patch) else GROUP)
        if len(some)
    ]

    def learn(group: tuple[list[int], bool]) -> None:
        finer = Finer(own, likelihood.of_units(group[0]), bias_U, members_U, *group)
        with torch.enable_grad():
            finer.learn(shown, steps)
        with torch.no_grad():
            finer.take_over(own, bias_U)

    with a_core_each() as pool:
        for _ in pool.map(learn, groups):
            pass


class Finer:
    """What some units' filters are made of, and how it learns: their pairs, or their linear filters."""

    def __init__(
        self,
        own: OwnFilters,
        likelihood: Likelihood,
        bias_U: Tensor,
        members_U: Tensor,
        units: list[int],
        paired: bool,
    ) -> None:
        self.own, self.likelihood, self.units, self.paired = own, likelihood, units, paired
        device = own.scale_U.device
        self.begun = Gabors(*(each.to(device) for each in own.shapes().of(members_U[units].cpu())))
        self.shape = Gabors(*(each.clone().requires_grad_() for each in self.begun))
        self.turn_U22 = torch.eye(2, device=device).repeat(len(units), 1, 1).requires_grad_()
        # In their own size, so that no unit's step depends on the others of its group.
        self.course_U2L, self.course_size = in_its_size(own.courses_U2L[units])
        self.mix_U4, self.mix_size = in_its_size(own.mix_U4[units])
        self.space_UP, self.space_size = in_its_size(own.linear.space_UP[units])
        self.time_UL, self.time_size = in_its_size(own.linear.time_UL[units])
        self.weight_UK, self.bias_U = (each.detach()[units].clone().requires_grad_() for each in (own.weight, bias_U))
        self.peaks = [(self.weight_UK, WEIGHT), (self.bias_U, WEIGHT)]
        if paired:
            self.peaks += [*((each, 1.0) for each in self.shape[1:]), (self.shape.place_M2, PLACE)]
            self.peaks += [(self.turn_U22, 1.0), (self.mix_U4, 1.0)]
        self.peaks += [(self.course_U2L, COURSE)] if paired else [(self.space_UP, FILTER), (self.time_UL, FILTER)]

    def courses(self) -> Tensor:
        return self.turn_U22 @ (self.course_U2L * self.course_size)

    def mix(self) -> Tensor:
        return self.mix_U4 * self.mix_size

    def linear(self) -> tuple[Tensor, Tensor]:
        """Windows (U, P) and time courses (U, L)."""
        return self.space_UP * self.space_size, self.time_UL * self.time_size

    def learn(self, shown: Shown, steps: int) -> None:
        optimizer = torch.optim.Adam(
            [{"params": [each], "peak": RATE * peak} for each, peak in self.peaks], betas=BETAS
        )
        filtered: list[Tensor] = []
        if self.paired:  # whose linear filters stay as they are
            with torch.no_grad():
                filtered = [self.filtered(x[None])[0] for x in shown.contrast]
        for step in range(steps):
            go_on()
            course = min(1.0, (step + 1) / (WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimizer.param_groups:
                group["lr"] = course * group["peak"]
            some = shown.some(np.random.default_rng(step))
            contrast_NTHW = filled(shown.contrast, some)
            if self.paired:
                responses_NTU4 = self.responses(contrast_NTHW)
                s_NTU = filled(filtered, some) + (responses_NTU4 * self.mix()).sum(-1)
                energy_NTU3 = energies(responses_NTU4)
            else:
                s_NTU = self.filtered(contrast_NTHW)
                energy_NTU3 = s_NTU.new_zeros(*s_NTU.shape, 3)
            optimizer.zero_grad()
            self.nats(shown, some, s_NTU, energy_NTU3).backward()
            optimizer.step()
            self.stay_near()

    def filtered(self, contrast_NTHW: Tensor) -> Tensor:
        """What the linear filters make of pieces, (N, T, U)."""
        (space_UP, time_UL), linear = self.linear(), self.own.linear
        s_NTU = through_windows(contrast_NTHW, space_UP[:, None], linear.corner_U2[self.units], linear.patch)[..., 0]
        s_NUT = F.pad(s_NTU.transpose(1, 2), (time_UL.shape[1] - 1, 0))
        return F.conv1d(s_NUT, time_UL[:, None], groups=len(time_UL)).transpose(1, 2)

    def responses(self, contrast_NTHW: Tensor) -> Tensor:
        """Of the pairs to pieces, (N, T, U, 4)."""
        own, pairs_U2P = self.own, self.shape.pairs(self.own.side).flatten(2)
        seen_NTU2 = through_windows(contrast_NTHW, pairs_U2P, own.corner_U2[self.units], own.side)
        return through_spectra(seen_NTU2, self.courses())

    def nats(self, shown: Shown, pieces: list[int], s_NTU: Tensor, energy_NTU3: Tensor) -> Tensor:
        """Of a bin that counts, of all these units together."""
        pool_NTU, counts_NTU, valid_NTU = (
            filled(each, pieces)[:, :, self.units] for each in (shown.pool, shown.counts, shown.valid)
        )
        x_NTUK = self.own.features(s_NTU, energy_NTU3, pool_NTU, self.units)
        rate_NTU = self.likelihood.rate((x_NTUK * self.weight_UK).sum(-1) + self.bias_U)
        counts_NTU = torch.where(valid_NTU, counts_NTU, 0.0)
        nats_NTU = torch.where(valid_NTU, self.likelihood.nats(rate_NTU, counts_NTU), 0.0)
        return nats_NTU.sum() / valid_NTU.sum().clamp_min(1)

    @torch.no_grad()
    def stay_near(self) -> None:
        """Where the search found a pair, and about as large."""
        self.shape.place_M2.clamp_(-MOST_PX, MOST_PX)
        for name in ("log_std_M", "log_frequency_M", "log_aspect_M"):
            begun = getattr(self.begun, name)
            getattr(self.shape, name).clamp_(begun - MOST_LOG, begun + MOST_LOG)

    def take_over(self, own: OwnFilters, bias_U: Tensor) -> None:
        units = self.units
        if self.paired:
            own.pair_U2PP[units], own.courses_U2L[units] = self.shape.pairs(own.side), self.courses()
            own.mix_U4[units] = self.mix()
        else:
            own.linear.space_UP[units], own.linear.time_UL[units] = self.linear()
        own.weight[units], bias_U[units] = self.weight_UK, self.bias_U


def large(height: int, width: int, side: int) -> bool:
    """Whether a frame is so much larger than a window of this side that windows are cut out of it."""
    return height * width > LARGE * side**2


def through_windows(contrast_NTHW: Tensor, filters_UFP: Tensor, corner_U2: Tensor, side: int) -> Tensor:
    """What each unit's filters see of pieces, (N, T, U, F); see :func:`windows`."""
    height, width = contrast_NTHW.shape[2:]
    if large(height, width, side):
        seen_UNTP = windows(contrast_NTHW, corner_U2, side).float()
        return (seen_UNTP @ filters_UFP.transpose(1, 2)[:, None]).permute(1, 2, 0, 3)
    number = filters_UFP.shape[1]
    laid_SP = laid_into_frame(filters_UFP.flatten(0, 1), corner_U2.repeat_interleave(number, 0), side, (height, width))
    return (contrast_NTHW.flatten(2).float() @ laid_SP.T).unflatten(2, (-1, number))


def through_spectra(seen_NTU2: Tensor, courses_U2L: Tensor) -> Tensor:
    """The same as :func:`pairs.through`, (N, T, U, 4), but for rounding. Of a convolution with filters of each unit the
    gradient by the filters is slow."""
    bins, lags = seen_NTU2.shape[1], courses_U2L.shape[2]
    points = 1 << (bins + lags - 2).bit_length()  # enough that no response comes round to an early bin
    seen_NU1PF = torch.fft.rfft(rearrange(seen_NTU2, "n t u pair -> n u 1 pair t"), points)
    course_UC1F = torch.fft.rfft(courses_U2L.flip(2), points)[:, :, None]
    y_NUCPT = torch.fft.irfft(seen_NU1PF * course_UC1F, points)[..., :bins]
    return rearrange(y_NUCPT, "n u course pair t -> n t u (course pair)")


def windows(contrast_NTHW: Tensor, corner_U2: Tensor, side: int) -> Tensor:
    """What units see of pieces through square windows, (U, N, T, P); zero beyond the frame."""
    seen = []
    for row, column in corner_U2.tolist():
        top, left = max(0, -row), max(0, -column)
        cut = contrast_NTHW[:, :, max(0, row) : max(0, row + side), max(0, column) : max(0, column + side)]
        bottom, right = side - top - cut.shape[2], side - left - cut.shape[3]
        seen.append(F.pad(cut, (min(left, side), max(0, right), min(top, side), max(0, bottom))).flatten(2))
    return torch.stack(seen)


def filled(of: list[Tensor], pieces: list[int]) -> Tensor:
    """Some pieces as one, filled up with zeros to the longest of them; of half precision in single."""
    chosen = [of[piece] for piece in pieces]
    dtype = torch.float32 if chosen[0].dtype == torch.float16 else chosen[0].dtype
    together = chosen[0].new_zeros(len(chosen), max(len(each) for each in chosen), *chosen[0].shape[1:], dtype=dtype)
    for row, each in zip(together, chosen, strict=True):
        row[: len(each)] = each
    return together


def in_its_size(values: Tensor) -> tuple[Tensor, Tensor]:
    """Values of units, the unit first, in their root mean square, to be learned; and that. Zeros stay zero."""
    size = values.detach().square().mean(-1, keepdim=True).sqrt().clamp_min(TINY)
    return (values.detach() / size).requires_grad_(), size
