"""The regression of units' counts on what they see: which weights predict them best, by some steps of Fisher scoring.

How far weights may go from where they are depends on what they weigh. What multiplies a rate and what a unit's own
filters say are few numbers, which go far unless trials are seconds. The core's maps are many, and a unit has some
thousand spikes. Which of a few strengths holds them, or whether units do better without them, is decided for all units
of a recording together, by bins that nothing was fitted to.

Shape letters: N bins, U units, K weights of a unit (the bias last), R ridges.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.solving import solve_positive
from vivit_core.rf.energy_pairs import threads_for_units

GROUP = 2**25  # of some units', at four bytes, that are worked on at a time, by all threads together
STEPS = 2  # of Fisher scoring with each ridge, from where the one before ended
CURVED = 4096  # bins that tell how the nats are curved; their slope is that of all
SIZES = (1.0, 0.5, 0.2)  # of a step, of which the best is taken
HELD_OUT = 4  # one training clip in so many chooses the ridge too, where validation trials have
LEAST_DEVIATION = 1e-4  # of a feature; one that varies less tells nothing
LEAST_CURVATURE = 1e-3  # of the nats, so that a step is finite
DRAWN = 2.0  # standard errors, by which others' gains may move what a unit is thought to gain
DEVIATION = 1.4826  # the standard deviation of a Gaussian, in its median deviation
NONE = 1e9  # nats that hold a weight where it is


class Ridge(NamedTuple):
    """How strongly weights are held, in nats for one that moves by one over its feature's deviation: those of the
    core's maps that drive (``NONE``: they are zero), of a unit's own filters, and of what multiplies its rate."""

    core: float
    own: float
    gain: float


RIDGES = (  # where trials are seconds, the first one is the best
    Ridge(4096.0, 512.0, 4096.0),
    Ridge(4096.0, 8.0, 128.0),
    Ridge(256.0, 8.0, 128.0),
    Ridge(NONE, 8.0, 128.0),
)


@dataclass
class Seen:
    """What units see and do, on clips spread over the training trials of a recording.

    Attributes
    ----------
    x_NUK : what the weights weigh, but for the bias: the core's maps that drive, the unit's own filters, what
        multiplies.
    counts_NU, valid_NU : what was measured.
    held_N : which bins are of clips that choose the ridge.
    of_core, drives : how many of the K are of the core's maps that drive, and of the drive with own filters.
    """

    x_NUK: Tensor
    counts_NU: Tensor
    valid_NU: Tensor
    held_N: Tensor
    of_core: int
    drives: int


def in_groups(units: slice, numbers: int) -> list[slice]:
    """Units in groups, one a thread, of which each has so many numbers."""
    return parts(units, GROUP // (torch.get_num_threads() * max(1, numbers)))


class Found(NamedTuple):
    """What fits with some ridges found, R of them.

    Attributes
    ----------
    weights_RUK : as readouts have them.
    better_RU : by how many nats the held-out bins are better predicted than by the weights that the fit began with.
        Minus infinity where a unit has no bin to be fitted to, or a rate is none.
    error_RU : the standard error of that.
    """

    weights_RUK: Tensor
    better_RU: Tensor
    error_RU: Tensor


def side_by_side(fit: Callable[[slice], Fit], groups: Sequence[slice]) -> list[Found]:
    """What the fit of each group finds; a thread a group."""

    def found(few: slice) -> Found:
        with torch.no_grad():  # which every thread has to say for itself
            return fit(few).found()

    with threads_for_units() as pool:
        return list(pool.map(found, groups))


def best_of(found: Sequence[Found], begun_UK: Tensor) -> tuple[Tensor, Tensor]:
    """Of what fits found for some units after others, all units' weights (U, K) with the ridge by which they gain most
    together, and which units (U,) took them over. The others keep the weights that fits began with."""
    weights_RUK, better_RU, error_RU = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    gain_RU = torch.stack([expected_gain(*own) for own in zip(better_RU, error_RU, strict=True)])
    best = int(gain_RU.clamp_min(0).sum(1).argmax())
    took_U = gain_RU[best] > 0
    return torch.where(took_U[:, None], weights_RUK[best], begun_UK), took_U


def expected_gain(better_U: Tensor, error_U: Tensor) -> Tensor:
    """What units gain by a change, as far as held-out bins can tell, (U,).

    Few bins tell little of one unit: of changes that help nobody, half look better by chance. So a unit's gain, in its
    standard errors, is drawn towards what all units gain, the more the less these differ beyond chance (empirical
    Bayes: Efron & Morris 1973), and by ``DRAWN`` of these errors at most (their limited translation of 1972), as some
    units differ much. A unit of which nothing can be told gains nothing.
    """
    told_U = better_U.isfinite() & (error_U > 0)
    if not told_U.any():
        return torch.zeros_like(better_U)
    z_U = torch.where(told_U, better_U / error_U, 0.0)
    usual = z_U[told_U].median()
    spread = (DEVIATION * (z_U[told_U] - usual).abs().median()).square()
    differ = (spread - 1).clamp_min(0)  # of gains, beyond that of chance
    drawn_U = ((usual - z_U) / (1 + differ)).clamp(-DRAWN, DRAWN)
    return torch.where(told_U, error_U * (z_U + drawn_U), 0.0)


def difference(other_NU: Tensor, own_NU: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the sum of a unit's nats in some bins is less than that of others, (U,), and its standard error."""
    better_NU = (other_NU - own_NU).double()
    better_U = better_NU.sum(0)
    error_U = ((better_NU - better_NU.mean(0)).square().sum(0)).sqrt()
    return better_U.nan_to_num(nan=-torch.inf).float(), error_U.float()


def parts(whole: slice, size: int) -> list[slice]:
    """A range in parts of at most ``size``, at least one."""
    size = max(1, size)
    return [slice(first, min(first + size, whole.stop)) for first in range(whole.start, whole.stop, size)]


class State(NamedTuple):
    """Weights of some units (U, K), and the drive and the logarithm of the gain that they make, (N, U) each."""

    weights_UK: Tensor
    drive_NU: Tensor
    log_gain_NU: Tensor | None

    def where(self, kept_U: Tensor, other: State) -> State:
        """This of some units, and another of the others."""
        gain_NU = None
        if self.log_gain_NU is not None and other.log_gain_NU is not None:
            gain_NU = torch.where(kept_U, self.log_gain_NU, other.log_gain_NU)
        weights_UK = torch.where(kept_U[:, None], self.weights_UK, other.weights_UK)
        return State(weights_UK, torch.where(kept_U, self.drive_NU, other.drive_NU), gain_NU)

    def less(self, size: float, step: State) -> State:
        gain_NU = None
        if self.log_gain_NU is not None and step.log_gain_NU is not None:
            gain_NU = self.log_gain_NU - size * step.log_gain_NU
        return State(self.weights_UK - size * step.weights_UK, self.drive_NU - size * step.drive_NU, gain_NU)


class Fit:
    """The regression of some units, in coordinates in which features have the deviation one, and those of the drive the
    mean zero.

    Parameters
    ----------
    likelihood : of these units.
    seen, units : what they see and do, and which of its units they are.
    weights_UK : their weights, to which the ridge pulls.
    """

    def __init__(self, likelihood: Likelihood, seen: Seen, units: slice, weights_UK: Tensor) -> None:
        self.likelihood, self.of_core, self.drives = likelihood, seen.of_core, seen.drives
        self.valid_NU, self.held_N = seen.valid_NU[:, units], seen.held_N
        self.counts_NU = torch.where(self.valid_NU, seen.counts_NU[:, units], 0.0)
        self.fit_NU = self.valid_NU & ~self.held_N[:, None]
        self.z_UNK = seen.x_NUK[:, units].float().transpose(0, 1).contiguous()
        deviation_UK, self.mean_UK = torch.std_mean(self.z_UNK, dim=1)
        self.deviation_UK = torch.where(deviation_UK > LEAST_DEVIATION, deviation_UK, 1.0)
        self.mean_UK[:, self.drives :] = 0.0  # a gain has no bias that could make up for it
        self.z_UNK.sub_(self.mean_UK[:, None]).div_(self.deviation_UK[:, None])
        own_UK, bias_U1 = weights_UK[:, :-1], weights_UK[:, -1:]
        at_mean_U1 = bias_U1 + (own_UK * self.mean_UK).sum(1, True)
        self.start_UK = torch.cat([own_UK * self.deviation_UK, at_mean_U1], dim=1)
        self.weights_UK = weights_UK

    def found(self) -> Found:
        """What each ridge gives."""
        now = State(self.start_UK, *self.drive(self.start_UK))
        begun_NU = self.held_nats(now)
        found: list[tuple[Tensor, ...]] = []
        for ridge in self.ridges():
            if ridge.core == NONE:
                now = self.without_core(now)
            for _ in range(STEPS):
                now = self.stepped(now, ridge)
            own_UK = now.weights_UK[:, :-1] / self.deviation_UK
            if ridge.core == NONE:  # which rounding and a thousand small numbers have moved
                own_UK[:, : self.of_core] = 0.0
            weights_UK = torch.cat([own_UK, now.weights_UK[:, -1:] - (own_UK * self.mean_UK).sum(1, True)], dim=1)
            better_U, error_U = difference(begun_NU, self.held_nats(now))
            found.append((weights_UK, better_U.masked_fill(~self.fit_NU.any(0), -torch.inf), error_U))
        return Found(*(torch.stack(each) for each in zip(*found, strict=True)))

    def ridges(self) -> list[Ridge]:
        """Those that differ in what there is to hold. Without own filters nothing can do without the core."""
        numbers = self.of_core, self.drives - self.of_core, self.z_UNK.shape[2] - self.drives
        some = [each for each in RIDGES if numbers[1] or each.core < NONE]
        held = (Ridge(*(own if number else 0.0 for own, number in zip(each, numbers, strict=True))) for each in some)
        return list(dict.fromkeys(held))

    def without_core(self, state: State) -> State:
        """With all weights of the core's maps that drive at zero, to which the ridge pulls them from now on."""
        self.start_UK[:, : self.of_core] = 0.0
        weights_UK = state.weights_UK.clone()
        weights_UK[:, : self.of_core] = 0.0
        return State(weights_UK, *self.drive(weights_UK))

    def drive(self, weights_UK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Drive and logarithm of the gain, (N, U) each; None where no map is a gain. Linear in the weights."""
        d = self.drives
        drive_UN = torch.einsum("unk,uk->un", self.z_UNK[..., :d], weights_UK[:, :d]) + weights_UK[:, -1:]
        if d == self.z_UNK.shape[2]:
            return drive_UN.T, None
        return drive_UN.T, torch.einsum("unk,uk->un", self.z_UNK[..., d:], weights_UK[:, d:-1]).T

    def nats(self, state: State) -> Tensor:
        """(U,) of the bins that are fitted to; infinite where a rate is none."""
        nats_NU = self.likelihood.nats(self.likelihood.rate(state.drive_NU, state.log_gain_NU), self.counts_NU)
        return torch.where(self.fit_NU, nats_NU, 0.0).sum(0, dtype=torch.float64).nan_to_num(nan=torch.inf).float()

    def held_nats(self, state: State) -> Tensor:
        """Of the bins that are held out, one by one."""
        held_N, log_gain_NU = self.held_N, state.log_gain_NU
        rate_NU = self.likelihood.rate(state.drive_NU[held_N], None if log_gain_NU is None else log_gain_NU[held_N])
        return torch.where(self.valid_NU[held_N], self.likelihood.nats(rate_NU, self.counts_NU[held_N]), 0.0)

    def derivatives(self, state: State) -> tuple[list[Tensor], Tensor, Tensor]:
        """How the rate moves with the drive, and with the logarithm of the gain; how the nats move with the rate; and
        their curvature, as a Poisson count's would be at the same rates, times a number of each unit. All (N, U)."""
        counted_NU = self.fit_NU.float()
        with torch.enable_grad():
            given = (state.drive_NU, state.log_gain_NU)
            parts = [part.detach().requires_grad_() for part in given if part is not None]
            rate_NU = self.likelihood.rate(*parts)
            slopes = torch.autograd.grad(rate_NU.sum(), parts)
            rate_NU = rate_NU.detach().requires_grad_()
            nats = self.likelihood.nats(rate_NU, self.counts_NU).sum()
            (first_NU,) = torch.autograd.grad(nats, rate_NU, create_graph=True)
            (second_NU,) = torch.autograd.grad(first_NU.sum(), rate_NU)
        rate_NU = rate_NU.detach()
        bends_U = (second_NU * rate_NU * counted_NU).sum(0) / counted_NU.sum(0).clamp_min(1.0)
        return list(slopes), first_NU.detach() * counted_NU, bends_U.clamp_min(LEAST_CURVATURE) / rate_NU * counted_NU

    def stepped(self, state: State, ridge: Ridge) -> State:
        """One step of Fisher scoring: as much of it as lowers a unit's penalized nats most."""
        slopes, first_NU, curvature_NU = self.derivatives(state)
        ridge_K = state.weights_UK.new_full(state.weights_UK.shape[1:], ridge.gain)
        ridge_K[: self.drives], ridge_K[: self.of_core], ridge_K[-1] = ridge.own, ridge.core, 0.0
        every = slice(None, None, max(1, len(first_NU) // CURVED))
        moves_UNK = self.moves([slope_NU[every] for slope_NU in slopes], every)
        moves_UNK *= curvature_NU[every].sqrt().T[..., None]
        more_U = self.fit_NU.sum(0) / self.fit_NU[every].sum(0).clamp_min(1)
        information_UKK = moves_UNK.transpose(1, 2) @ moves_UNK * more_U[:, None, None]
        information_UKK.diagonal(dim1=1, dim2=2).add_(ridge_K + LEAST_CURVATURE)
        slope_UK = self.pulled([slope_NU * first_NU for slope_NU in slopes]) + ridge_K * (
            state.weights_UK - self.start_UK
        )
        step_UK = solve_positive(information_UKK, slope_UK[..., None])[..., 0]  # NaN makes no weights better
        step = State(step_UK, *self.drive(step_UK))

        def cost(candidate: State) -> Tensor:
            penalty_U = 0.5 * (ridge_K * (candidate.weights_UK - self.start_UK).square()).sum(1)
            return self.nats(candidate) + penalty_U

        best, best_U = state, cost(state)
        for size in SIZES:
            moved = state.less(size, step)
            cost_U = cost(moved)
            better_U = cost_U < best_U
            best, best_U = best.where(~better_U, moved), torch.where(better_U, cost_U, best_U)
        return best

    def moves(self, slopes: Sequence[Tensor], bins: slice) -> Tensor:
        """How rates move with each weight in some bins, (U, N, K), from how they move with drive and gain there."""
        of_drive_UN1, *of_gain = (slope_NU.T[..., None] for slope_NU in slopes)
        z_UNK, d = self.z_UNK[:, bins], self.drives
        return torch.cat([z_UNK[..., :d] * of_drive_UN1, *(z_UNK[..., d:] * of for of in of_gain), of_drive_UN1], dim=2)

    def pulled(self, slopes: Sequence[Tensor]) -> Tensor:
        """How the nats move with each weight, (U, K), from how those of each bin move with drive and gain."""
        of_drive_UN, *of_gain = (slope_NU.T for slope_NU in slopes)
        d = self.drives
        parts = [torch.einsum("unk,un->uk", self.z_UNK[..., :d], of_drive_UN)]
        parts += [torch.einsum("unk,un->uk", self.z_UNK[..., d:], of_UN) for of_UN in of_gain]
        return torch.cat([*parts, of_drive_UN.sum(1, True)], dim=1)
