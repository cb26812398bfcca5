"""The fit of one recording's linear-nonlinear models.

Shape letters: T bins (= frames), H W pixels, P pixels of a window, U units, L lags (oldest first), K J axes of the
priors of space and time, F features of a step, N choices, D coordinates of a place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vivit_core.models.layers import inverse_softplus
from vivit_core.models.ln import LEAST_LOG, LNReadout
from vivit_core.models.solving import solve_positive
from vivit_core.rf.movie import BAND, BLOCK, Movie, Stimulus, band, blocks, filtered, through_time, trace_through_time
from vivit_core.rf.placing import varying
from vivit_core.rf.stretches import TrialStretches

RIDGES = (1000.0, 250.0, 60.0)  # nats; the validation trials choose for each unit


TAILS = (0.03, 0.01, 0.003, 0.001)  # of the drive's distribution that are clamped on each side; validation chooses


PIXEL_LENGTH = 1.0  # px over which a spatial filter is smooth a priori


TIME_LENGTH_S = 0.012  # s over which a temporal filter is smooth a priori


ROUGH_TURNS = 2  # of space and time filter, on that part


SIZES = (1.0, 0.5, 0.25, 0.1)  # of a step, tried in this order until one helps


@dataclass
class Filters:
    """One unit's model in the coordinates of the priors, in which they are spherical."""

    space_K: Tensor
    time_J: Tensor
    point_3: Tensor  # bias, linear, quadratic

    def moved(self, bias: Tensor, **filters: Tensor) -> Filters:
        return replace(self, point_3=torch.stack([bias, *self.point_3[1:]]), **filters)


class Fitter:
    """Fits the units of one recording, one after another, into ``readout``."""

    def __init__(
        self,
        readout: LNReadout,
        train: TrialStretches,
        val: TrialStretches,
        centers_U2: np.ndarray,
        courses_UL: np.ndarray,
    ) -> None:
        self.readout, self.train, self.val = readout, Stimulus(train), Stimulus(val)
        self.changes_HW = varying(torch.as_tensor(train.frames_THW))
        lags, patch = readout.time_UL.shape[1], readout.patch
        self.lags = lags
        side = torch.arange(patch) - patch // 2
        y_P, x_P = side.repeat_interleave(patch).float(), side.repeat(patch).float()
        self.space_PK = prior(
            torch.stack([y_P, x_P], 1), PIXEL_LENGTH, (y_P.square() + x_P.square()) / (patch / 4) ** 2
        )
        past_L = torch.arange(lags - 1, -1, -1).float()
        self.time_LJ = prior(past_L[:, None], TIME_LENGTH_S * readout.spec.frame_rate_hz, past_L / lags)
        readout.corner_U2[:] = torch.as_tensor(centers_U2[:, ::-1].copy()).round().long() - patch // 2
        own_UL = torch.as_tensor(courses_UL)
        self.hidden_U = own_UL.square().sum(1) == 0
        # Units without a time course of their own start from the one that explains most of the others.
        common_L = torch.linalg.eigh(own_UL.T @ own_UL)[1][:, -1]
        if self.hidden_U.all():
            common_L = past_L * torch.exp(-past_L / (0.03 * readout.spec.frame_rate_hz))
        self.courses_UL = torch.where(self.hidden_U[:, None], common_L, own_UL)

    def window(self, unit: int) -> tuple[slice, slice, Tensor]:
        """The rows and columns of the unit's window that lie in the frame, and the prior's axes there, (P, K)."""
        row, column = self.readout.corner_U2[unit].tolist()
        _, height, width = self.readout.spec.frame_shape
        patch = self.readout.patch
        rows = slice(max(0, row), min(height, row + patch))
        columns = slice(max(0, column), min(width, column + patch))
        basis = rearrange(self.space_PK, "(r c) k -> r c k", c=patch)
        basis = basis[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
        return rows, columns, basis.flatten(0, 1)

    def movie(self, data: Stimulus, unit: int) -> Movie:
        """The unit's window, projected on the prior's axes."""
        rows, columns, basis_PK = self.window(unit)
        movie = Movie(basis_PK.shape[1], self.lags, data.counts_UT[unit], data.use_UT[unit])
        basis_PK = basis_PK / self.readout.spec.pixel_std
        for block in blocks(len(movie.counts_T)):
            window_PT = data.frames_HWT[rows, columns, block].float().flatten(0, 1)
            torch.mm(window_PT.sub_(self.readout.spec.pixel_mean).T, basis_PK, out=movie.x_TK[block])
        return movie

    @torch.no_grad()
    def fit(self, unit: int) -> None:
        """Fit one unit into the readout. A unit without spikes, in front of which nothing changes, or whose filters
        predict nothing, keeps its mean."""
        rows, columns, _ = self.window(unit)
        if not (self.train.counts_UT[unit] * self.train.use_UT[unit]).any() or not self.changes_HW[rows, columns].any():
            return
        train, val = self.movie(self.train, unit), self.movie(self.val, unit)
        best = self.rough(train.part(), val, unit)
        drive_T = self.drive(train, best)
        best = self.point_step(train, drive_T, best)
        score, range_2 = -np.inf, None
        for ridge in RIDGES:
            filters, drive_T = self.turn(train, best, drive_T, ridge)
            next_score, next_range_2 = self.score(train, val, filters, drive_T)
            if next_score <= score:
                break
            score, best, range_2 = next_score, filters, next_range_2
        # Filters that do not generalize are worse than none: the readout then stays at the unit's mean.
        flat_T = torch.full_like(val.counts_T, self.inverse(train.mean))
        if range_2 is not None and score > self.likelihood(val, flat_T):
            self.write(unit, best, range_2)

    def rough(self, part: Movie, val: Movie, unit: int) -> Filters:
        """Filters from a part of the training frames, from the start that leads to the better ones."""
        share = len(part.counts_T) / self.train.counts_UT.shape[1]
        time_J = self.time_LJ.T @ self.courses_UL[unit]
        starts = [self.linear_start(part, time_J)]
        if self.hidden_U[unit]:
            starts.append(self.quadratic_start(part, time_J))
        found = []
        for filters in starts:
            drive_T = self.drive(part, filters)
            filters, drive_T = normalized(filters, drive_T)
            filters = self.point_step(part, drive_T, filters)
            for _ in range(ROUGH_TURNS):
                # With fewer spikes, as strong a prior as RIDGES[0] is on all of them.
                filters, drive_T = self.turn(part, filters, drive_T, RIDGES[0] * share)
            found.append(filters)
        if len(found) == 1:
            return found[0]
        return max(found, key=lambda filters: self.score(part, val, filters, self.drive(part, filters))[0])

    def linear_start(self, movie: Movie, time_J: Tensor) -> Filters:
        """The spike-triggered average."""
        seen_TK = through_time(movie, self.time_LJ @ time_J)
        power = seen_TK.square().sum(0)
        space_K = (seen_TK.T @ ((movie.counts_T - movie.mean) * movie.use_T)) / (power + power.mean())
        return Filters(space_K, time_J, torch.tensor([self.inverse(movie.mean), 0.1, 0.0]))

    def quadratic_start(self, movie: Movie, time_J: Tensor) -> Filters:
        """The direction whose variance spikes change most (spike-triggered covariance)."""
        seen_TK = through_time(movie, self.time_LJ @ time_J)
        weight_T = (movie.counts_T / movie.mean - 1) * movie.use_T
        covariance_KK = seen_TK.T @ seen_TK
        covariance_KK = covariance_KK + 0.3 * covariance_KK.trace() / len(covariance_KK) * torch.eye(len(covariance_KK))
        factor_KK = torch.linalg.cholesky(covariance_KK)
        half_KK = torch.linalg.solve_triangular(factor_KK, torch.eye(len(factor_KK)), upper=False)
        values, vectors = torch.linalg.eigh(half_KK @ (seen_TK.T @ (seen_TK * weight_T[:, None])) @ half_KK.T)
        first = int(values.abs().argmax())
        point_3 = torch.tensor([self.inverse(movie.mean), 0.0, 0.1 * float(values[first].sign())])
        return Filters(half_KK.T @ vectors[:, first], time_J, point_3)

    def drive(self, movie: Movie, filters: Filters) -> Tensor:
        """What the filters see, (T,)."""
        return trace_through_time(movie.x_TK @ filters.space_K, self.time_LJ @ filters.time_J)

    def turn(self, movie: Movie, filters: Filters, drive_T: Tensor, ridge: float) -> tuple[Filters, Tensor]:
        """One turn of space, time, and point nonlinearity after each; with the drive that comes of it."""
        step_K, step_bias = self.space_step(movie, filters, drive_T, ridge)
        along_T = self.drive(movie, replace(filters, space_K=step_K))
        size = self.size(movie, filters, filters.space_K, drive_T, step_K, step_bias, along_T, ridge)
        bias = filters.point_3[0] + size * step_bias
        filters = filters.moved(bias, space_K=filters.space_K + size * step_K)
        filters, drive_T = normalized(filters, drive_T + size * along_T)
        filters = self.point_step(movie, drive_T, filters)

        # The ridge is on the product of both filters, so each step sees the other's size.
        ridge = ridge * float(filters.space_K.square().sum())
        trace_T = movie.x_TK @ filters.space_K
        step_J, step_bias = self.time_step(movie, filters, drive_T, trace_T, ridge)
        along_T = trace_through_time(trace_T, self.time_LJ @ step_J)
        size = self.size(movie, filters, filters.time_J, drive_T, step_J, step_bias, along_T, ridge)
        bias = filters.point_3[0] + size * step_bias
        filters = filters.moved(bias, time_J=filters.time_J + size * step_J)
        filters, drive_T = normalized(filters, drive_T + size * along_T)
        return self.point_step(movie, drive_T, filters), drive_T

    def size(
        self,
        movie: Movie,
        filters: Filters,
        filter_K: Tensor,
        drive_T: Tensor,
        step_K: Tensor,
        step_bias: Tensor,
        along_T: Tensor,
        ridge: float,
    ) -> float:
        """How much of a step of a filter and the bias helps; 0 where nothing does."""
        bias, linear, quadratic = filters.point_3

        def value(size: float) -> float:
            moved = torch.stack([bias + size * step_bias, linear, quadratic])
            penalty = 0.5 * ridge * float((filter_K + size * step_K).square().sum())
            return self.likelihood(movie, total(drive_T + size * along_T, moved)) - penalty

        now = value(0.0)
        return next((size for size in SIZES if value(size) > now), 0.0)

    def space_step(self, movie: Movie, filters: Filters, drive_T: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
        """Fisher scoring of the spatial filter and the bias."""
        banded = band(self.time_LJ @ filters.time_J, BAND)

        def seen(block: slice) -> Tensor:
            return filtered(movie, banded, block)

        return self.step(movie, filters, drive_T, filters.space_K, ridge, seen)

    def time_step(
        self, movie: Movie, filters: Filters, drive_T: Tensor, trace_T: Tensor, ridge: float
    ) -> tuple[Tensor, Tensor]:
        """Fisher scoring of the temporal filter and the bias."""
        padded = F.pad(trace_T, (self.lags - 1, 0))

        def seen(block: slice) -> Tensor:
            return padded[block.start : block.stop + self.lags - 1].unfold(0, self.lags, 1) @ self.time_LJ

        return self.step(movie, filters, drive_T, filters.time_J, ridge, seen)

    def step(
        self,
        movie: Movie,
        filters: Filters,
        drive_T: Tensor,
        filter_K: Tensor,
        ridge: float,
        seen: Callable[[slice], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Fisher scoring of one filter and the bias, where ``seen`` says what the filter's axes see in a block.

        Gradient and information are summed over blocks, so that nothing as large as the movie is written to memory.
        """
        root_T, residual_T = self.weights(movie, filters.point_3, drive_T)
        root_drive_T = root_T * (filters.point_3[1] + 2 * filters.point_3[2] * drive_T)
        size = len(filter_K) + 1
        gradient_F, information_FF = torch.zeros(size), torch.zeros(size, size)
        features_TF = torch.empty(min(BLOCK, len(drive_T)), size)
        for block in blocks(len(drive_T)):
            part_TF = features_TF[: block.stop - block.start]
            torch.mul(seen(block), root_drive_T[block, None], out=part_TF[:, :-1])
            part_TF[:, -1] = root_T[block]  # of the bias
            gradient_F += residual_T[block] @ part_TF
            information_FF.addmm_(part_TF.T, part_TF)
        ridge_F = torch.full((size,), ridge)
        ridge_F[-1] = 0.0
        step_F = direction(gradient_F, information_FF, torch.cat([filter_K, filters.point_3[:1]]), ridge_F)
        return step_F[:-1], step_F[-1]

    def weights(self, movie: Movie, point_3: Tensor, drive_T: Tensor) -> tuple[Tensor, Tensor]:
        """Of each bin, the root of the Fisher information about its total, and the counts' standardized residual: the
        log likelihood's slope along the total is their product."""
        rate_T, slope_T = self.output(total(drive_T, point_3))
        std_T = rate_T.sqrt()
        return slope_T / std_T * movie.use_T, (movie.counts_T - rate_T) / std_T * movie.use_T

    def point_step(self, movie: Movie, drive_T: Tensor, filters: Filters) -> Filters:
        """Fisher scoring of the point nonlinearity's three numbers."""
        features_3T = torch.stack([torch.ones_like(drive_T), drive_T, drive_T.square()])
        point_3 = filters.point_3
        ridges = torch.tensor([0.0, 1.0, 10.0])

        def value(point_3: Tensor) -> float:
            return self.likelihood(movie, point_3 @ features_3T) - 0.5 * float((ridges * point_3.square()).sum())

        root_T, residual_T = self.weights(movie, point_3, drive_T)
        weighted_3T = features_3T * root_T
        step = direction(weighted_3T @ residual_T, weighted_3T @ weighted_3T.T, point_3, ridges)
        now = value(point_3)
        size = next((size for size in SIZES if value(point_3 + size * step) > now), 0.0)
        return replace(filters, point_3=point_3 + size * step)

    def output(self, total_T: Tensor) -> tuple[Tensor, Tensor]:
        """Expected counts and their slope."""
        if self.readout.nonlinearity == "exp":
            most = self.readout.most_log
            rate_T = total_T.clamp(LEAST_LOG, most).exp()
            return rate_T, torch.where(total_T < most, rate_T, 0.0)  # beyond it no step helps
        return F.softplus(total_T).clamp_min(1e-8), total_T.sigmoid()

    def inverse(self, mean: Tensor) -> float:
        return float(mean.log() if self.readout.nonlinearity == "exp" else inverse_softplus(mean))

    def likelihood(self, movie: Movie, total_T: Tensor) -> float:
        """Log likelihood of the counts, without what does not depend on the rate."""
        rate_T, _ = self.output(total_T)
        return float(((movie.counts_T * rate_T.log() - rate_T) * movie.use_T).sum(dtype=torch.float64))

    def score(self, train: Movie, val: Movie, filters: Filters, drive_T: Tensor) -> tuple[float, Tensor]:
        """The log likelihood of validation trials, and the range of the training trials' drive to which it is best
        clamped: the point nonlinearity is hardly known at the rare extremes.

        Parameters
        ----------
        train, val : what was shown in trials of both splits, and the counts.
        filters : that are scored.
        drive_T : of the training trials.
        """
        used_T = drive_T[train.use_T > 0].numpy()
        edges = np.quantile(used_T, [*TAILS, *(1 - tail for tail in TAILS)]).reshape(2, -1).T
        val_T = self.drive(val, filters)
        ranges_N2 = torch.as_tensor(edges, dtype=torch.float32)
        found = [self.likelihood(val, total(val_T.clamp(*range_2), filters.point_3)) for range_2 in ranges_N2]
        best = int(np.argmax(found))
        return found[best], ranges_N2[best]

    def write(self, unit: int, filters: Filters, range_2: Tensor) -> None:
        """Keep a unit's filters, with the sign for which its rate rises: the other one says the same, and rounding must
        not decide between them."""
        bias, linear, quadratic = filters.point_3
        sign = -1.0 if linear < 0 else 1.0
        own = self.readout
        own.space_UP[unit] = sign * (self.space_PK @ filters.space_K)
        own.time_UL[unit] = self.time_LJ @ filters.time_J
        own.bias_U[unit], own.linear_U[unit], own.quadratic_U[unit] = bias, sign * linear, quadratic
        range_2 = range_2 if sign > 0 else -range_2.flip(0)
        own.range_U2[unit] = range_2


def normalized(filters: Filters, drive_T: Tensor) -> tuple[Filters, Tensor]:
    """The same model with a time filter of norm one and a drive of standard deviation one, and that drive."""
    norm = filters.time_J.norm().clamp_min(1e-12)
    std = drive_T.std(correction=0).clamp_min(1e-12)
    bias, linear, quadratic = filters.point_3
    point_3 = torch.stack([bias, linear * std, quadratic * std**2])
    return Filters(filters.space_K * norm / std, filters.time_J / norm, point_3), drive_T / std


def total(drive_T: Tensor, point_3: Tensor) -> Tensor:
    return point_3[0] + point_3[1] * drive_T + point_3[2] * drive_T.square()


def direction(gradient_F: Tensor, information_FF: Tensor, theta_F: Tensor, ridge_F: Tensor) -> Tensor:
    """The step of Fisher scoring with a ridge."""
    information_FF = information_FF + torch.diag(ridge_F + 1e-4 * information_FF.diagonal().mean() + 1e-6)
    return solve_positive(information_FF, (gradient_F - ridge_F * theta_F)[:, None])[:, 0]


def prior(place_ND: Tensor, length: float, distance_N: Tensor) -> Tensor:
    """The axes (N, K) of a Gaussian prior over filters, scaled by its standard deviations.

    Weights at neighboring places are alike, and small at a large ``distance_N`` (in squared standard deviations of the
    envelope). Axes with next to no variance are left out.
    """
    apart_NN = torch.cdist(place_ND, place_ND)
    envelope_N = torch.exp(-0.5 * distance_N)
    covariance_NN = torch.exp(-0.5 * (apart_NN / length) ** 2) * envelope_N[:, None] * envelope_N
    variance_N, axes_NN = torch.linalg.eigh(covariance_NN.double())
    kept = variance_N > 0.003 * variance_N.max()
    return (axes_NN[:, kept] * variance_N[kept].sqrt()).float()
