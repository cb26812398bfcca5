"""The best weights of readouts on a core that stands still.

A readout weighs what its units' windows see of the core's maps. With the core and the windows held, the weights of one
unit are a regression of some hundred numbers, close to convex. A few steps of Fisher scoring come near its optimum,
where gradient steps on small batches stay farther away and noisy.

How far weights may go from where they are depends on what they weigh. What multiplies a rate and what a unit's own
filters say are few numbers, which go far unless trials are seconds. The core's maps are many, and a unit has some
thousand spikes. Which of a few strengths holds them is decided for all units of a recording together, by the validation
trials, which nothing was fitted to.

Shape letters: B clips, T bins of a clip, N bins that count, U units, C channels, K weights of a unit (the bias last).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.data.clips import Window, evaluation_windows
from vivit_core.data.recording.reader import Recording
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.solving import solve_positive
from vivit_core.models.twin import Twin
from vivit_core.rf.energy_pairs import threads_for_units
from vivit_core.specs import Clips

MEMORY = 2**28  # numbers of all units' features that are held at a time, at two bytes each; half of it at four
GROUP = 2**25  # of some units', at four bytes, that are worked on at a time, by all threads together
STEPS = 2  # of Fisher scoring with each ridge, from where the one before ended
CURVED = 4096  # bins that tell how the nats are curved; their slope is that of all
SIZES = (1.0, 0.5, 0.2)  # of a step, of which the best is taken
WORSE = 4.0  # nats of the held-out clips, by which a unit's other weights may be worse than its own: more is no chance
HELD_OUT = 4  # one training clip in so many chooses the ridge too, where validation trials have
LEAST_SHARE = 16  # less than one bin for so many of the training trials
LEAST_DEVIATION = 1e-4  # of a feature; one that varies less tells nothing
LEAST_CURVATURE = 1e-3  # of the nats, so that a step is finite
MOST = 6e4  # of a feature, in half precision


class Ridge(NamedTuple):
    """How strongly weights are held, in nats for one that moves by one over its feature's deviation: those of the
    core's maps that drive, of a unit's own filters, and of what multiplies its rate."""

    core: float
    own: float
    gain: float


RIDGES = (  # where trials are seconds, the first one is the best
    Ridge(4096.0, 512.0, 4096.0),
    Ridge(4096.0, 8.0, 128.0),
    Ridge(512.0, 8.0, 128.0),
    Ridge(64.0, 8.0, 128.0),
)


@dataclass
class Weights:
    """Weights of a readout that can be fitted.

    Attributes
    ----------
    drive, gain : (U, …) each, of the maps that drive, and of those that multiply.
    bias : (U,) of the drive.
    """

    drive: list[nn.Parameter]
    gain: list[nn.Parameter]
    bias: nn.Parameter

    def of(self, units: slice) -> Tensor:
        """Those of some units side by side, (U, K)."""
        return torch.cat([own[units].flatten(1) for own in (*self.drive, *self.gain, self.bias[:, None])], dim=1)

    def set(self, units: slice, weights_UK: Tensor) -> None:
        *weights, bias_U1 = weights_UK.split([*(own[0].numel() for own in (*self.drive, *self.gain)), 1], dim=1)
        for own, values in zip((*self.drive, *self.gain), weights, strict=True):
            own[units] = values.view_as(own[units])
        self.bias[units] = bias_U1[:, 0]


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


@torch.no_grad()
def fit_readout(twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int) -> int | None:
    """Give the readout of one recording, and its own filters, the weights that predict its training trials best.

    Parameters
    ----------
    twin : in evaluation, wherever it lies. Only weights and biases of this recording's readout and filters change.
    recording : its validation trials choose how far weights may go; where they are few, every ``HELD_OUT``-th clip of
        the training trials does too, and is not fitted to.
    clip_length, burn_in : bins of a clip, and those at its start that do not count.
    bins : about so many count, of clips that are spread over the training trials; fewer where all units together see
        more than ``MEMORY`` numbers in them.

    Returns
    -------
    How many units took over other weights: all but those whose held-out clips they predict worse. None where the
    readout has no weights that can be fitted (``Readout.weighed``), or there are fewer than ``HELD_OUT`` clips.
    """
    units, likelihood = slice(0, recording.info.n_units), twin.likelihood(recording.info.recording_id)
    windows, choosing = (
        evaluation_windows(recording.info.trials, split, clip_length, burn_in) for split in ("train", "val")
    )
    choosing = [window for window in choosing if recording.valid(window.score_start, window.score_stop).any()]
    if scored_bins(choosing) * LEAST_SHARE < scored_bins(windows):  # too little to choose by
        choosing += windows[HELD_OUT - 1 :: HELD_OUT]
        del windows[HELD_OUT - 1 :: HELD_OUT]
    if len(windows) + len(choosing) < HELD_OUT or not windows:
        return None
    if (one := look(twin, recording, windows[:1], [], slice(0, 1))) is None:
        return None
    numbers = one[1].x_NUK.shape[2]
    # Where not all units can be looked at together, the core works for some of them after others, and on fewer clips.
    bins = min(bins, math.isqrt(bins * MEMORY // (numbers * units.stop)))
    chosen, choosing = evenly(windows, bins), evenly(choosing, max(1, bins // HELD_OUT))
    scored = scored_bins([*chosen, *choosing])
    fitted: list[tuple[Weights, slice]] = []
    found: list[tuple[Tensor, Tensor]] = []
    for some in parts(units, MEMORY // (scored * numbers)):
        # Half a number's precision is lost where it must be: it shows in the weights of what hardly varies.
        many = scored * numbers * (some.stop - some.start) > MEMORY // 2
        looked = look(twin, recording, chosen, choosing, some, torch.float16 if many else torch.float32)
        assert looked is not None
        weights, seen = looked

        def fit(few: slice, seen: Seen = seen, weights: Weights = weights, first: int = some.start) -> Fit:
            own = likelihood.of_units(range(few.start, few.stop))
            return Fit(own, seen, slice(few.start - first, few.stop - first), weights.of(few))

        groups = in_groups(some, scored * numbers)
        fitted += [(weights, few) for few in groups]
        found += side_by_side(fit, groups)
    better_UK, took_U = best_of(found)
    for weights, few in fitted:
        weights.set(few, better_UK[few])
    return int(took_U.sum())


def in_groups(units: slice, numbers: int) -> list[slice]:
    """Units in groups, one a thread, of which each has so many numbers."""
    return parts(units, GROUP // (torch.get_num_threads() * max(1, numbers)))


def side_by_side(fit: Callable[[slice], Fit], groups: Sequence[slice]) -> list[tuple[Tensor, Tensor]]:
    """What the fit of each group finds; a thread a group."""

    def found(few: slice) -> tuple[Tensor, Tensor]:
        with torch.no_grad():  # which every thread has to say for itself
            return fit(few).found()

    with threads_for_units() as pool:
        return list(pool.map(found, groups))


def best_of(found: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Of what fits found for some units after others (:meth:`Fit.found`), all units' weights (U, K) with the ridge that
    is best for all of them together, and which units (U,) took them over.

    Where it is best to leave all as it was, none does. Otherwise those keep what they had which would become worse.
    """
    weights_RUK, nats_RU = (torch.cat(parts, dim=1) for parts in zip(*found, strict=True))
    more_RU = (nats_RU - nats_RU[0]).nan_to_num(nan=torch.inf)
    took_RU = more_RU < WORSE
    took_RU[0] = False
    best = int(torch.where(took_RU, more_RU, 0.0).sum(1).argmin())
    return torch.where(took_RU[best][:, None], weights_RUK[best], weights_RUK[0]), took_RU[best]


def scored_bins(windows: Sequence[Window]) -> int:
    return sum(window.score_stop - window.score_start for window in windows)


def evenly(windows: Sequence[Window], bins: int) -> list[Window]:
    """As many of them as score about so many bins, evenly taken; at least ``HELD_OUT`` where there are so many."""
    number = min(len(windows), max(HELD_OUT, len(windows) * bins // scored_bins(windows)))
    return [windows[int(i)] for i in np.linspace(0, len(windows) - 1, number)]


def parts(whole: slice, size: int) -> list[slice]:
    """A range in parts of at most ``size``, at least one."""
    size = max(1, size)
    return [slice(first, min(first + size, whole.stop)) for first in range(whole.start, whole.stop, size)]


def look(
    twin: Twin,
    recording: Recording,
    windows: Sequence[Window],
    choosing: Sequence[Window],
    units: slice,
    precision: torch.dtype = torch.float32,
) -> tuple[Weights, Seen] | None:
    """The weights of a recording's readout, and what some units see and do in these windows, and in those that choose,
    kept in this precision; None where weights cannot be fitted."""
    name, weights, of_core, drives = recording.info.recording_id, None, 0, 0
    readout, device = twin.readout(name), next(twin.parameters()).device
    columns: list[tuple[Tensor, ...]] = []
    for number, (start, stop, scored, _) in enumerate((*windows, *choosing)):
        behavior = recording.behavior(start, stop, twin.specs[name].behavior)
        clips: Clips = {
            "frames": torch.as_tensor(recording.frames(start, stop), device=device)[None],
            "behavior": torch.as_tensor(behavior, device=device)[None],
        }
        frames, moved = twin.adapt(name, clips)
        maps = twin.core(frames)
        if twin.modulator is not None:
            maps = twin.modulator(maps, moved)
        of_drive: list[tuple[nn.Parameter, Tensor]] = []
        of_gain: list[tuple[nn.Parameter, Tensor]] = []
        for index, feature_map in enumerate(maps):
            if (weighed := readout.weighed(index, feature_map, units)) is None:
                return None
            x_BTK = weighed[1].flatten(2)
            x_NUC = feature_map.to_bins(x_BTK, stop - start)[0, scored - start :].unflatten(1, weighed[1].shape[2:])
            (of_gain if feature_map.gain else of_drive).append((weighed[0], x_NUC))
        of_core = sum(x_NUC.shape[2] for _, x_NUC in of_drive)
        if (filters := twin.own_filter(name)) is not None:
            of_unit = filters.looked(clips["frames"])
            of_drive.append((filters.weight, of_unit.drive[0, scored - start :, units]))
            of_gain.append((filters.gain, of_unit.gain[0, scored - start :, units]))
        weights = Weights([own for own, _ in of_drive], [own for own, _ in of_gain], readout.bias)
        drives = sum(x_NUC.shape[2] for _, x_NUC in of_drive)
        x_NUK = torch.cat([x_NUC for _, x_NUC in (*of_drive, *of_gain)], dim=2).clamp(-MOST, MOST).to(precision)
        counts_NU, valid_NU = (
            torch.as_tensor(x, device=device) for x in (recording.counts(scored, stop), recording.valid(scored, stop))
        )
        held_N = torch.full((stop - scored,), number >= len(windows), device=device)
        columns.append((x_NUK, counts_NU[:, units], valid_NU.expand(counts_NU.shape)[:, units], held_N))
    assert weights is not None
    x_NUK, counts_NU, valid_NU, held_N = (torch.cat(own) for own in zip(*columns, strict=True))
    return weights, Seen(x_NUK, counts_NU, valid_NU, held_N, of_core, drives)


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
        valid_NU, held_N1 = seen.valid_NU[:, units], seen.held_N[:, None]
        self.counts_NU = torch.where(valid_NU, seen.counts_NU[:, units], 0.0)
        self.fit_NU, self.held_NU = valid_NU & ~held_N1, valid_NU & held_N1
        self.z_UNK = seen.x_NUK[:, units].float().transpose(0, 1).contiguous()
        deviation_UK, self.mean_UK = torch.std_mean(self.z_UNK, dim=1)
        self.deviation_UK = torch.where(deviation_UK > LEAST_DEVIATION, deviation_UK, 1.0)
        self.mean_UK[:, self.drives :] = 0.0  # a gain has no bias that could make up for it
        self.z_UNK.sub_(self.mean_UK[:, None]).div_(self.deviation_UK[:, None])
        own_UK, bias_U1 = weights_UK[:, :-1], weights_UK[:, -1:]
        at_mean_U1 = bias_U1 + (own_UK * self.mean_UK).sum(1, True)
        self.start_UK = torch.cat([own_UK * self.deviation_UK, at_mean_U1], dim=1)
        self.weights_UK = weights_UK

    def found(self) -> tuple[Tensor, Tensor]:
        """Weights (R, U, K) as readouts have them, those that the fit began with and those of each ridge, and the nats
        (R, U) of the held-out bins with them; infinite where a unit has no bin to be fitted to."""
        now = State(self.start_UK, *self.drive(self.start_UK))
        found, nats = [self.weights_UK], [self.nats(now, self.held_NU)]
        for ridge in self.ridges():
            for _ in range(STEPS):
                now = self.stepped(now, ridge)
            own_UK = now.weights_UK[:, :-1] / self.deviation_UK
            found.append(torch.cat([own_UK, now.weights_UK[:, -1:] - (own_UK * self.mean_UK).sum(1, True)], dim=1))
            nats.append(self.nats(now, self.held_NU).masked_fill(~self.fit_NU.any(0), torch.inf))
        return torch.stack(found), torch.stack(nats)

    def ridges(self) -> list[Ridge]:
        """Those that differ in what there is to hold."""
        numbers = self.of_core, self.drives - self.of_core, self.z_UNK.shape[2] - self.drives
        held = (Ridge(*(own if number else 0.0 for own, number in zip(each, numbers, strict=True))) for each in RIDGES)
        return list(dict.fromkeys(held))

    def drive(self, weights_UK: Tensor) -> tuple[Tensor, Tensor | None]:
        """Drive and logarithm of the gain, (N, U) each; None where no map is a gain. Linear in the weights."""
        d = self.drives
        drive_UN = torch.einsum("unk,uk->un", self.z_UNK[..., :d], weights_UK[:, :d]) + weights_UK[:, -1:]
        if d == self.z_UNK.shape[2]:
            return drive_UN.T, None
        return drive_UN.T, torch.einsum("unk,uk->un", self.z_UNK[..., d:], weights_UK[:, d:-1]).T

    def nats(self, state: State, mask_NU: Tensor) -> Tensor:
        """(U,) of the bins in the mask; infinite where a rate is none."""
        nats_NU = self.likelihood.nats(self.likelihood.rate(state.drive_NU, state.log_gain_NU), self.counts_NU)
        return torch.where(mask_NU, nats_NU, 0.0).sum(0, dtype=torch.float64).nan_to_num(nan=torch.inf).float()

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
            return self.nats(candidate, self.fit_NU) + penalty_U

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
