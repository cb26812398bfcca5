"""The regression of units' counts on what they see: which weights predict them best, by some steps of Fisher scoring.

A unit has a hundred weights and more, and some thousand spikes: by itself it finds what is not there. But a recording's
units are alike. Some features matter to most of them and in the same way, others to none. So units tell each other:
after some steps, the mean of each weight over units and how far it differs among them, beyond what chance does, are the
prior of the next steps (empirical Bayes: Efron & Morris 1973; with the evidence's fixed point of MacKay 1992). Where
units are few, what is usual among weights of a kind counts too.

Bins that nothing was fitted to decide how often priors are learned, for all units of a recording together, and which
units take over what was found.

Shape letters: N bins, U units, K weights of a unit (the bias last), R priors, one after the other, P pieces of all
bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise, repeat
from typing import NamedTuple

import torch
from torch import Tensor

from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.solving import solve_positive
from vivit_core.system.threads import cores, mapping_on

GROUP = 2**25  # of some units', at four bytes, that are worked on at a time, by all threads together
STEPS = 2  # of Fisher scoring with each prior, from where the one before ended
LEARNED = 3  # priors that units tell
LEAST_SURE = 1e-2  # of a weight's variance before it was fitted, that a fit takes away where it knows something
ODD = 30  # units, of which one may be like no other
FEW = 1.0  # units; so much counts what is usual among a kind of weights
CURVED = 4096  # bins that tell how the nats are curved; their slope is that of all
SIZES = (1.0, 0.5, 0.2)  # of a step, of which the best is taken
EVERY_NTH = 4  # one training clip in so many decides too, where validation trials have
LEAST_DEVIATION = 1e-4  # of a feature; one that varies less tells nothing
LEAST_CURVATURE = 1e-3  # of the nats, so that a step is finite
PIECE, LEAST_PIECES = 60, 10  # bins that stand for one, and how many such pieces there are at least
LEAST_GAIN = 2.0  # nats of all units together: less is chance among them
MOST_GAIN = 1e6  # nats, where a rate was none
DRAWN = 2.0  # standard errors, by which others' gains may move what a unit is thought to gain
DEVIATION = 1.4826  # the standard deviation of a Gaussian, in its median deviation


class Ridge(NamedTuple):
    """How strongly weights are held before units have told it, in nats for one that moves by one over its feature's
    deviation: those of the core's maps that drive, of a unit's own filters, and of what multiplies its rate."""

    core: float
    own: float
    gain: float


FIRST = Ridge(4096.0, 8.0, 128.0)


class Prior(NamedTuple):
    """Where weights lie, in their features' deviations, and how strongly they are held there, (K,) each. The bias may
    lie anywhere."""

    mean_K: Tensor
    ridge_K: Tensor


@dataclass
class Seen:
    """What units see and do, on clips spread over the training trials of a recording.

    Attributes
    ----------
    x_UNK : what the weights weigh, but for the bias: the core's maps that drive, the unit's own filters, what
        multiplies.
    counts_NU, valid_NU : what was measured.
    held_N : which bins are of clips that decide, and are not fitted to.
    of_core, drives : how many of the K are of the core's maps that drive, and of the drive with own filters.
    """

    x_UNK: Tensor
    counts_NU: Tensor
    valid_NU: Tensor
    held_N: Tensor
    of_core: int
    drives: int

    def kinds(self) -> list[tuple[float, slice]]:
        """How strongly weights of each kind are held at first, and which they are."""
        edges = 0, self.of_core, self.drives, self.x_UNK.shape[2]
        return [(ridge, slice(*of)) for ridge, of in zip(FIRST, pairwise(edges), strict=True) if of[0] < of[1]]

    def first_prior(self) -> Prior:
        ridge_K = self.x_UNK.new_zeros(self.x_UNK.shape[2] + 1, dtype=torch.float32)
        for ridge, some in self.kinds():
            ridge_K[some] = ridge
        return Prior(torch.zeros_like(ridge_K), ridge_K)

    def told(self, prior: Prior, weights_UK: Tensor, variance_UK: Tensor) -> Prior:
        """The prior that units tell whose weights, fitted with another one, have these variances for all they know.

        A unit that knows nothing of a weight says nothing. Of thirty units the one that differs most counts like the
        next, so that none spoils the prior of the others.
        """
        sure_UK = (1 - variance_UK * prior.ridge_K).nan_to_num(nan=0.0).clamp(0.0, 1.0)  # data decided, not the prior
        knows_UK = (sure_UK > LEAST_SURE) & weights_UK.isfinite()
        sure_K, units_K = torch.where(knows_UK, sure_UK, 0.0).sum(0), knows_UK.sum(0)
        usual_K = middle(torch.where(knows_UK, weights_UK, torch.inf), units_K)
        moved_UK = torch.where(knows_UK, (weights_UK - usual_K).square(), 0.0)
        most_K = moved_UK.sort(0, descending=True).values.gather(0, units_K[None] // ODD)[0].sqrt()
        weights_UK = torch.where(knows_UK, usual_K + (weights_UK - usual_K).clamp(-most_K, most_K), 0.0)
        mean_K = weights_UK.sum(0) / (units_K + FEW)
        moved_K = torch.where(knows_UK, (weights_UK - mean_K).square(), 0.0).sum(0)
        ridge_K = torch.zeros_like(mean_K)
        for ridge, some in self.kinds():
            usual = (moved_K[some].sum() + FEW / ridge) / (sure_K[some].sum() + FEW)
            ridge_K[some] = (sure_K[some] + FEW) / (moved_K[some] + FEW * usual)
        mean_K[-1] = 0.0
        return Prior(mean_K, ridge_K)


def middle(values_UK: Tensor, known_K: Tensor) -> Tensor:
    """The median over units of the smallest so many, the lower of two; zero of none. On a GPU, torch's own median is
    refused where a training is to be deterministic."""
    ordered_UK = values_UK.sort(0).values
    found_K = ordered_UK.gather(0, ((known_K - 1).clamp_min(0) // 2)[None])[0]
    return torch.where(known_K > 0, found_K, 0.0)


def in_groups(units: slice, numbers: int, device: torch.device) -> list[slice]:
    """Units in groups, one a thread, of which each has so many numbers. A GPU, with one thread, has larger ones."""
    threads = cores() if device.type == "cpu" else 1
    return parts(units, GROUP // (threads * max(1, numbers)))


class Found(NamedTuple):
    """What was found with some priors, R of them.

    Attributes
    ----------
    weights_RUK : as readouts have them.
    better_RU : by how many nats the held-out bins are better predicted than by the weights that the fit began with.
        Minus infinity where a unit has no bin to be fitted to, or a rate is none; infinity where it was none before.
    error_RU : the standard error of that.
    """

    weights_RUK: Tensor
    better_RU: Tensor
    error_RU: Tensor


def fitted(fit: Callable[[slice], Fit], seen: Seen, groups: Sequence[slice]) -> Found:
    """What is found for all units of these groups, which tell each other; on a CPU a thread a group."""

    def turn(few: slice, begun_UK: Tensor | None, prior: Prior) -> Turn:
        with torch.no_grad():  # which every thread has to say for itself
            return fit(few).turn(begun_UK, prior)

    now: list[Tensor | None] = [None] * len(groups)
    prior, found = seen.first_prior(), []
    with mapping_on(seen.x_UNK.device) as each_of:
        for _ in range(1 + LEARNED):
            turns = list(each_of(turn, groups, now, repeat(prior)))
            now = [each.weights_UK for each in turns]
            found.append(Turn(*(torch.cat(parts) for parts in zip(*turns, strict=True))))
            prior = seen.told(prior, found[-1].scaled_UK, found[-1].variance_UK)
    return Found(
        *(torch.stack([getattr(each, part) for each in found]) for part in ("weights_UK", "better_U", "error_U"))
    )


def best_of(found: Sequence[Found], begun_UK: Tensor) -> tuple[Tensor, Tensor]:
    """Of what was found for some units after others, all units' weights (U, K) with the prior by which they gain most
    together, and which units (U,) took them over. The others keep the weights that the fit began with; all do where
    they gain next to nothing together."""
    weights_RUK, better_RU, error_RU = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    gain_RU = torch.stack([expected_gain(*own) for own in zip(better_RU, error_RU, strict=True)])
    all_R = gain_RU.clamp_min(0).sum(1)
    best = int(all_R.argmax())
    took_U = (gain_RU[best] > 0) & (all_R[best] > LEAST_GAIN)
    return torch.where(took_U[:, None], weights_RUK[best], begun_UK), took_U


def expected_gain(better_U: Tensor, error_U: Tensor) -> Tensor:
    """What units gain by a change, as far as held-out bins can tell, (U,).

    Few bins tell little of one unit: of changes that help nobody, half look better by chance. So a unit's gain, in its
    standard errors, is drawn towards what all units gain, the more the less these differ beyond chance (empirical
    Bayes: Efron & Morris 1973), and by ``DRAWN`` of these errors at most (their limited translation of 1972), as some
    units differ much. A unit without any bin that tells gains as is usual, one that could not be fitted nothing.
    """
    told_U = better_U.isfinite() & (error_U > 0)
    if not told_U.any():
        return torch.where(better_U == torch.inf, MOST_GAIN, 0.0)
    z_U = torch.where(told_U, better_U / error_U, 0.0)
    usual = z_U[told_U].quantile(0.5)
    spread = (DEVIATION * (z_U[told_U] - usual).abs().quantile(0.5)).square()
    differ = (spread - 1).clamp_min(0)  # of gains, beyond that of chance
    drawn_U = ((usual - z_U) / (1 + differ)).clamp(-DRAWN, DRAWN)
    gain_U = torch.where(told_U, error_U * (z_U + drawn_U), 0.0)
    gain_U = torch.where((better_U == 0) & ~told_U, usual, gain_U)
    return torch.where(better_U == torch.inf, MOST_GAIN, gain_U)


def difference(other_NU: Tensor, own_NU: Tensor) -> tuple[Tensor, Tensor]:
    """By how much the sum of a unit's nats in some bins is less than that of others, (U,), and its standard error.

    What is left over of responses lasts some bins, so that these do not tell apart from each other. The error is that
    of a sum over pieces of them.
    """
    better_NU = (other_NU - own_NU).double()
    pieces_PU = torch.stack([piece.sum(0) for piece in better_NU.tensor_split(number_of_pieces(len(better_NU)))])
    more = len(pieces_PU) / max(1, len(pieces_PU) - 1)  # their mean is not the true one
    error_U = ((pieces_PU - pieces_PU.mean(0)).square().sum(0) * more).sqrt()
    return better_NU.sum(0).nan_to_num(nan=-torch.inf, posinf=torch.inf).float(), error_U.float()


def number_of_pieces(bins: int) -> int:
    """As long as ``PIECE``, but shorter where these are few; one of no bins."""
    return max(1, bins // PIECE, min(bins, LEAST_PIECES))


def parts(whole: slice, size: int) -> list[slice]:
    """A range in even parts of at most ``size``, at least one."""
    length = whole.stop - whole.start
    number = max(1, -(-length // max(1, size)))
    edges = [whole.start + length * part // number for part in range(number + 1)]
    return [slice(*of) for of in pairwise(edges)]


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


class Turn(NamedTuple):
    """What some units found with one prior: as in :class:`Found`; and in their features' deviations, with the variances
    that their bins and the prior leave, NaN where there is none."""

    weights_UK: Tensor
    better_U: Tensor
    error_U: Tensor
    scaled_UK: Tensor
    variance_UK: Tensor


class Fit:
    """The regression of some units, in coordinates in which features have the deviation one, and those of the drive the
    mean zero.

    Parameters
    ----------
    likelihood : of these units.
    seen, units : what they see and do, and which of its units they are.
    weights_UK : those that they have.
    """

    def __init__(self, likelihood: Likelihood, seen: Seen, units: slice, weights_UK: Tensor) -> None:
        self.likelihood, self.drives = likelihood, seen.drives
        self.valid_NU, self.held_N = seen.valid_NU[:, units], seen.held_N
        self.counts_NU = torch.where(self.valid_NU, seen.counts_NU[:, units], 0.0)
        self.fit_NU = self.valid_NU & ~self.held_N[:, None]
        self.z_UNK = seen.x_UNK[units].to(torch.float32, copy=True)
        self.mean_UK = self.z_UNK.mean(1)
        deviation_UK = self.z_UNK.sub_(self.mean_UK[:, None]).square().mean(1).sqrt()
        self.varies_UK = deviation_UK > LEAST_DEVIATION
        self.deviation_UK = torch.where(self.varies_UK, deviation_UK, 1.0)
        self.varies_UK[:, self.drives :] = True  # where the bias does not stand for what is constant
        self.z_UNK.div_(self.deviation_UK[:, None])
        # A gain has no bias that could make up for its mean.
        self.z_UNK[..., self.drives :] += (self.mean_UK / self.deviation_UK)[:, None, self.drives :]
        self.mean_UK[:, self.drives :] = 0.0
        self.weights_UK = weights_UK

    def scaled(self, weights_UK: Tensor) -> Tensor:
        """Weights as readouts have them, in these coordinates."""
        own_UK, bias_U1 = weights_UK[:, :-1], weights_UK[:, -1:]
        return torch.cat([own_UK * self.deviation_UK, bias_U1 + (own_UK * self.mean_UK).sum(1, True)], dim=1)

    def unscaled(self, scaled_UK: Tensor) -> Tensor:
        """The reverse; zero for a feature that does not vary."""
        own_UK = scaled_UK[:, :-1] / self.deviation_UK * self.varies_UK
        return torch.cat([own_UK, scaled_UK[:, -1:] - (own_UK * self.mean_UK).sum(1, True)], dim=1)

    def state(self, scaled_UK: Tensor) -> State:
        return State(scaled_UK, *self.drive(scaled_UK))

    def turn(self, begun_UK: Tensor | None, prior: Prior) -> Turn:
        """What this prior gives, from weights as readouts have them on; None: those that the units have."""
        own_UK = self.scaled(self.weights_UK)
        now = self.state(own_UK if begun_UK is None else self.scaled(begun_UK))
        for _ in range(STEPS):
            now, information_UKK = self.stepped(now, prior)
        every_UKK = torch.eye(len(prior.mean_K), device=information_UKK.device).expand_as(information_UKK)
        variance_UK = solve_positive(information_UKK, every_UKK).diagonal(dim1=1, dim2=2)
        better_U, error_U = difference(self.held_nats(self.state(own_UK)), self.held_nats(now))
        better_U = better_U.masked_fill(~self.fit_NU.any(0), -torch.inf)
        return Turn(self.unscaled(now.weights_UK), better_U, error_U, now.weights_UK, variance_UK)

    def drive(self, weights_UK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Drive and logarithm of the gain, (N, U) each; None where no map is a gain. Linear in the weights."""
        d = self.drives
        drive_UN = torch.einsum("unk,uk->un", self.z_UNK[..., :d], weights_UK[:, :d]) + weights_UK[:, -1:]
        if d == self.z_UNK.shape[2]:
            return drive_UN.T, None
        return drive_UN.T, torch.einsum("unk,uk->un", self.z_UNK[..., d:], weights_UK[:, d:-1]).T

    def rate(self, drive_NU: Tensor, log_gain_NU: Tensor | None = None) -> Tensor:
        """What weights make of all bins."""
        return self.likelihood.rate(drive_NU, log_gain_NU)

    def nats(self, state: State) -> Tensor:
        """(U,) of the bins that are fitted to; infinite where a rate is none."""
        nats_NU = self.likelihood.nats(self.rate(state.drive_NU, state.log_gain_NU), self.counts_NU)
        return torch.where(self.fit_NU, nats_NU, 0.0).sum(0, dtype=torch.float64).nan_to_num(nan=torch.inf).float()

    def held_nats(self, state: State) -> Tensor:
        """Of the bins that are held out, one by one."""
        held_N = self.held_N
        rate_NU = self.rate(state.drive_NU, state.log_gain_NU)[held_N]
        return torch.where(self.valid_NU[held_N], self.likelihood.nats(rate_NU, self.counts_NU[held_N]), 0.0)

    def derivatives(self, state: State) -> tuple[list[Tensor], Tensor, Tensor]:
        """How the rate moves with the drive, and with the logarithm of the gain; how the nats move with the rate; and
        their curvature, as a Poisson count's would be at the same rates, times a number of each unit. All (N, U)."""
        counted_NU = self.fit_NU.float()
        with torch.enable_grad():
            given = (state.drive_NU, state.log_gain_NU)
            parts = [part.detach().requires_grad_() for part in given if part is not None]
            rate_NU = self.rate(*parts)
            slopes = torch.autograd.grad(rate_NU.sum(), parts, materialize_grads=True)
            rate_NU = rate_NU.detach().requires_grad_()
            nats = self.likelihood.nats(rate_NU, self.counts_NU).sum()
            (first_NU,) = torch.autograd.grad(nats, rate_NU, create_graph=True)
            (second_NU,) = torch.autograd.grad(first_NU.sum(), rate_NU)
        rate_NU = rate_NU.detach()
        bends_U = (second_NU * rate_NU * counted_NU).sum(0) / counted_NU.sum(0).clamp_min(1.0)
        return list(slopes), first_NU.detach() * counted_NU, bends_U.clamp_min(LEAST_CURVATURE) / rate_NU * counted_NU

    def stepped(self, state: State, prior: Prior) -> tuple[State, Tensor]:
        """One step of Fisher scoring, as much of it as lowers a unit's penalized nats most; and how these are curved
        where it began, (U, K, K)."""
        slopes, first_NU, curvature_NU = self.derivatives(state)
        every = slice(None, None, max(1, len(first_NU) // CURVED))
        moves_UNK = self.moves([slope_NU[every] for slope_NU in slopes], every)
        moves_UNK *= curvature_NU[every].sqrt().T[..., None]
        more_U = self.fit_NU.sum(0) / self.fit_NU[every].sum(0).clamp_min(1)
        information_UKK = moves_UNK.transpose(1, 2) @ moves_UNK * more_U[:, None, None]
        information_UKK.diagonal(dim1=1, dim2=2).add_(prior.ridge_K + LEAST_CURVATURE)
        slope_UK = self.pulled([slope_NU * first_NU for slope_NU in slopes])
        slope_UK += prior.ridge_K * (state.weights_UK - prior.mean_K)
        step_UK = solve_positive(information_UKK, slope_UK[..., None])[..., 0]  # NaN makes no weights better
        step = self.state(step_UK)

        def cost(candidate: State) -> Tensor:
            penalty_U = 0.5 * (prior.ridge_K * (candidate.weights_UK - prior.mean_K).square()).sum(1)
            return self.nats(candidate) + penalty_U

        best, best_U = state, cost(state)
        for size in SIZES:
            moved = state.less(size, step)
            cost_U = cost(moved)
            better_U = cost_U < best_U
            best, best_U = best.where(~better_U, moved), torch.where(better_U, cost_U, best_U)
        return best, information_UKK

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
