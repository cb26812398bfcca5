"""The best weights of readouts on a core that stands still.

A readout weighs what its units' windows see of the core's maps. With the core and the windows held, the weights of one
unit are a regression of some hundred numbers, close to convex. A few steps of Fisher scoring come near its optimum,
where gradient steps on small batches stay farther away and noisy. How far the weights may go from where they are is
decided for each unit by clips that the fit does not see.

Shape letters: B clips, T bins of a clip, N bins that count, U units, C channels, K weights of a unit (the bias last).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.data.clips import Window, evaluation_windows
from vivit_core.data.recording.reader import Recording
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

MEMORY = 9 * 2**24  # numbers of all units' features that are held at a time, at two bytes each
GROUP = 2**24  # of some units', at four bytes, that are worked on at a time
RIDGES = (512.0, 128.0, 32.0)  # nats for a weight that moves by one over its feature's deviation
STEPS = 1  # of Fisher scoring with each ridge, from where the one before ended
LAST_STEPS = 2  # on all clips, with the ridge that was chosen
SIZES = (1.0, 0.5, 0.2)  # of a step, of which the best is taken
LEAST_GAIN = 2.0  # nats of the held-out clips, by which other weights have to be better: less is chance
HELD_OUT = 4  # one clip in so many chooses the ridge
LEAST_DEVIATION = 1e-4  # of a feature; one that varies less tells nothing
LEAST_CURVATURE = 1e-3  # of the nats, so that a step is finite
MOST = 6e4  # of a feature, in half precision


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
    x_NUK : what the weights weigh, but for the bias, in half precision; those of the drive first.
    counts_NU, valid_NU : what was measured.
    held_N : which bins are of clips that choose the ridge.
    drives : how many of the K are of the drive.
    """

    x_NUK: Tensor
    counts_NU: Tensor
    valid_NU: Tensor
    held_N: Tensor
    drives: int


@torch.no_grad()
def fit_readout(twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int) -> int | None:
    """Give the readout of one recording the weights that predict its training trials best.

    Parameters
    ----------
    twin : in evaluation, wherever it lies. Only weights and biases of this recording's readout change.
    recording : only its training trials are read.
    clip_length, burn_in : bins of a clip, and those at its start that do not count.
    bins : at most so many count, of clips that are spread over the training trials; fewer where all units together see
        more than ``MEMORY`` numbers in them.

    Returns
    -------
    How many units took over other weights: those whose held-out clips they predict better. None where the readout has
    no weights that can be fitted (``Readout.weighed``), or the training trials make fewer than ``HELD_OUT`` clips.
    """
    units, likelihood = slice(0, recording.info.n_units), twin.likelihood(recording.info.recording_id)
    windows = evaluation_windows(recording.info.trials, "train", clip_length, burn_in)
    if len(windows) < HELD_OUT or (one := look(twin, recording, windows[:1], slice(0, 1))) is None:
        return None
    scored, _, numbers = one[1].x_NUK.shape
    # Where not all units can be looked at together, the core works for some of them after others, and on fewer clips.
    bins = min(bins, math.isqrt(bins * MEMORY // (numbers * units.stop)))
    clips = min(len(windows), max(HELD_OUT, bins // scored))
    chosen = [windows[int(i)] for i in np.linspace(0, len(windows) - 1, clips)]
    took = 0
    for some in parts(units, MEMORY // (clips * scored * numbers)):
        looked = look(twin, recording, chosen, some)
        assert looked is not None
        weights, seen = looked
        for few in parts(some, GROUP // (clips * scored * numbers)):
            own = likelihood.of_units(range(few.start, few.stop))
            fit = Fit(own, seen, slice(few.start - some.start, few.stop - some.start), weights.of(few))
            better_UK, took_U = fit.best()
            weights.set(few, better_UK)
            took += int(took_U.sum())
    return took


def parts(whole: slice, size: int) -> Iterator[slice]:
    """A range in parts of at most ``size``, at least one."""
    size = max(1, size)
    for first in range(whole.start, whole.stop, size):
        yield slice(first, min(first + size, whole.stop))


def look(twin: Twin, recording: Recording, windows: Sequence[Window], units: slice) -> tuple[Weights, Seen] | None:
    """The weights of a recording's readout, and what some units see and do in these windows; None where weights cannot
    be fitted."""
    name, weights, drives = recording.info.recording_id, None, 0
    readout, device = twin.readout(name), next(twin.parameters()).device
    columns: list[tuple[Tensor, ...]] = []
    for number, (start, stop, scored, _) in enumerate(windows):
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
        if (filters := twin.own_filter(name)) is not None:
            of_drive.append((filters.weight, filters.looked(clips["frames"])[0, scored - start :, units]))
        weights = Weights([own for own, _ in of_drive], [own for own, _ in of_gain], readout.bias)
        drives = sum(x_NUC.shape[2] for _, x_NUC in of_drive)
        x_NUK = torch.cat([x_NUC for _, x_NUC in (*of_drive, *of_gain)], dim=2).clamp(-MOST, MOST).half()
        counts_NU, valid_NU = (
            torch.as_tensor(x, device=device) for x in (recording.counts(scored, stop), recording.valid(scored, stop))
        )
        held_N = torch.full((stop - scored,), number % HELD_OUT == HELD_OUT - 1, device=device)
        columns.append((x_NUK, counts_NU[:, units], valid_NU.expand(counts_NU.shape)[:, units], held_N))
    assert weights is not None
    x_NUK, counts_NU, valid_NU, held_N = (torch.cat(own) for own in zip(*columns, strict=True))
    return weights, Seen(x_NUK, counts_NU, valid_NU, held_N, drives)


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
        self.likelihood, self.drives = likelihood, seen.drives
        valid_NU, held_N1 = seen.valid_NU[:, units], seen.held_N[:, None]
        self.counts_NU = torch.where(valid_NU, seen.counts_NU[:, units], 0.0)
        self.fit_NU, self.held_NU, self.every_NU = valid_NU & ~held_N1, valid_NU & held_N1, valid_NU
        self.z_UNK = seen.x_NUK[:, units].float().transpose(0, 1).contiguous()
        deviation_UK, self.mean_UK = torch.std_mean(self.z_UNK, dim=1)
        self.deviation_UK = torch.where(deviation_UK > LEAST_DEVIATION, deviation_UK, 1.0)
        self.mean_UK[:, self.drives :] = 0.0  # a gain has no bias that could make up for it
        self.z_UNK.sub_(self.mean_UK[:, None]).div_(self.deviation_UK[:, None])
        own_UK, bias_U1 = weights_UK[:, :-1], weights_UK[:, -1:]
        at_mean_U1 = bias_U1 + (own_UK * self.mean_UK).sum(1, True)
        self.start_UK = torch.cat([own_UK * self.deviation_UK, at_mean_U1], dim=1)
        self.weights_UK = weights_UK

    def best(self) -> tuple[Tensor, Tensor]:
        """Weights (U, K) as readouts have them, and which units (U,) took over others than they began with."""
        begun = now = best = State(self.start_UK, *self.drive(self.start_UK))
        best_U = self.nats(begun, self.held_NU) - LEAST_GAIN
        ridge_U = torch.zeros_like(best_U)
        for ridge in RIDGES:
            for _ in range(STEPS):
                now = self.stepped(now, torch.full_like(ridge_U, ridge), self.fit_NU)
            nats_U = self.nats(now, self.held_NU)
            better_U = nats_U < best_U
            best, best_U = best.where(~better_U, now), torch.where(better_U, nats_U, best_U)
            ridge_U = torch.where(better_U, ridge, ridge_U)
        took_U = ridge_U > 0
        if took_U.any():
            ridge_U = torch.where(took_U, ridge_U, RIDGES[0]) * HELD_OUT / (HELD_OUT - 1)
            for _ in range(LAST_STEPS):
                best = self.stepped(best, ridge_U, self.every_NU)
        own_UK = best.weights_UK[:, :-1] / self.deviation_UK
        found_UK = torch.cat([own_UK, best.weights_UK[:, -1:] - (own_UK * self.mean_UK).sum(1, True)], dim=1)
        return torch.where(took_U[:, None], found_UK, self.weights_UK), took_U

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

    def derivatives(self, state: State, mask_NU: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        """How the rate moves with the drive, and with the logarithm of the gain; how the nats move with the rate; and
        their curvature, as a Poisson count's would be at the same rates, times a number of each unit. All (N, U)."""
        counted_NU = mask_NU.float()
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

    def stepped(self, state: State, ridge_U: Tensor, mask_NU: Tensor) -> State:
        """One step of Fisher scoring: as much of it as lowers a unit's penalized nats most."""
        slopes, first_NU, curvature_NU = self.derivatives(state, mask_NU)
        root_NU = curvature_NU.sqrt()
        d, (units, bins, numbers) = self.drives, self.z_UNK.shape
        moves_UNK = self.z_UNK.new_empty(units, bins, numbers + 1)  # how standardized rates move with each weight
        of_drive_UN1 = (slopes[0] * root_NU).T[..., None]
        torch.mul(self.z_UNK[..., :d], of_drive_UN1, out=moves_UNK[..., :d])
        if numbers > d:
            torch.mul(self.z_UNK[..., d:], (slopes[1] * root_NU).T[..., None], out=moves_UNK[..., d:-1])
        moves_UNK[..., -1:] = of_drive_UN1
        ridge_UK = ridge_U[:, None].repeat(1, numbers + 1)
        ridge_UK[:, -1] = 0.0
        pull_UN1 = torch.where(mask_NU, first_NU / root_NU, 0.0).T[..., None]
        gradient_UK = (moves_UNK.transpose(1, 2) @ pull_UN1)[..., 0] + ridge_UK * (state.weights_UK - self.start_UK)
        information_UKK = moves_UNK.transpose(1, 2) @ moves_UNK + torch.diag_embed(ridge_UK + LEAST_CURVATURE)
        step_UK = torch.linalg.solve(information_UKK, gradient_UK[..., None])[..., 0]
        step = State(step_UK, *self.drive(step_UK))

        def cost(candidate: State) -> Tensor:
            penalty_U = 0.5 * (ridge_UK * (candidate.weights_UK - self.start_UK).square()).sum(1)
            return self.nats(candidate, mask_NU) + penalty_U

        best, best_U = state, cost(state)
        for size in SIZES:
            moved = state.less(size, step)
            cost_U = cost(moved)
            better_U = cost_U < best_U
            best, best_U = best.where(~better_U, moved), torch.where(better_U, cost_U, best_U)
        return best
