"""Receptive fields from training trials, and the fit of the linear-nonlinear baseline.

Shape letters: T bins (= frames), H W pixels, P pixels (flat) or pixels of a window, U units, L lags (oldest first),
K J axes of the priors of space and time.
"""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.layers import inverse_softplus
from vivit_core.models.ln import LN, LNReadout, lags_of
from vivit_core.parts.groups import class_of
from vivit_core.rf.regression import unit_centers, varies
from vivit_core.rf.stretches import TrialStretches
from vivit_core.system.terminal import track

RIDGES = (1000.0, 300.0, 100.0, 30.0)  # nats; the validation trials choose for each unit


PIXEL_LENGTH = 1.0  # px over which a spatial filter is smooth a priori


TIME_LENGTH_S = 0.012  # s over which a temporal filter is smooth a priori


TURNS = 2  # of space and time filter for each ridge


SIZES = (1.0, 0.5, 0.25, 0.1)  # of a step, tried in this order until one helps


HELD_OUT = 0.1  # of the training frames, which choose the regularization where there are no validation trials


# --- the fit ---------------------------------------------------------------------------------------------------------
def fit_baseline(datamodule: RecordingsDataModule, node: Mapping[str, Any]) -> LN:
    """Fit the model of a node, ``model=ln`` or ``baseline``, as :func:`fit_ln` does.

    Raises
    ------
    ValueError
        For a model that is not fitted in this way.
    """
    kind = class_of("baseline", node["_target_"])
    if kind is not LN:
        raise ValueError(f"{node['_target_']} is no model that is fitted in one go; say baseline=ln, or model=ln")
    return fit_ln(datamodule, **{key: value for key, value in node.items() if key != "_target_"})


def fit_ln(
    datamodule: RecordingsDataModule,
    *,
    duration_s: float,
    patch: int,
    nonlinearity: Literal["exp", "softplus"] = "exp",
    predict: Literal["all", "last"] = "all",
    max_frames: int = 60_000,
    progress: bool = True,
) -> LN:
    """Fit a linear-nonlinear model to each unit on training trials, its regularization chosen on validation trials.

    Of a recording without validation trials, the last tenth of its training frames chooses.
    A unit's window is placed by :func:`unit_centers`. Space and time filter take turns in Fisher scoring of the Poisson
    likelihood, with a Gaussian prior that favors smooth filters around the window's middle. Where pixels do not place
    a unit, a second fit starts from the spike-triggered covariance, and the validation trials choose. Deterministic.

    Parameters
    ----------
    datamodule : set up; its recordings have training and validation trials.
    duration_s, patch, nonlinearity, predict : of :class:`LN`.
    max_frames : most frames of a recording's split to use.
    progress : show a bar.

    Raises
    ------
    ValueError
        Where a recording has no training trial longer than the filters.
    """
    model = LN(datamodule.specs, duration_s, patch, nonlinearity, predict)
    for recording, spec in zip(datamodule.recordings, datamodule.specs, strict=True):
        readout, lags = model.readout(spec.recording_id), lags_of(duration_s, spec)
        train = TrialStretches.read(recording, "train", lags, max_frames)
        if not train.use_TU.any():
            raise ValueError(
                f"recording {spec.recording_id}: no training trial has a valid bin after the {lags} lags of the LN "
                "filters; shorten them (model=ln: model.duration_s, else baseline.duration_s), or leave the baseline "
                "out (baseline=null)"
            )
        val = TrialStretches.read(recording, "val", lags, max_frames)
        if not val.use_TU.any():
            train, val = train.held_out(HELD_OUT)
        centers_U2, courses_UL, _ = unit_centers(recording, spec, duration_s=duration_s, max_frames=max_frames)
        fitter = Fitter(readout, train, val, centers_U2, courses_UL)
        # The products are small: a thread a unit uses the cores far better than threads inside the products.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with ThreadPoolExecutor(threads) as pool:
                done = pool.map(fitter.fit, range(spec.n_units))
                for _ in track(done, f"LN {spec.recording_id}", spec.n_units, disable=not progress):
                    pass
        finally:
            torch.set_num_threads(threads)
    return model.eval()


@dataclass
class Filters:
    """One unit's model in the coordinates of the priors, in which they are spherical."""

    space_K: Tensor
    time_J: Tensor
    point_3: Tensor  # bias, linear, quadratic


@dataclass
class Movie:
    """What one unit's window shows in a split, and what the unit did."""

    x_TK: Tensor
    counts_T: Tensor
    use_T: Tensor  # float, one or zero


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
        self.readout, self.train, self.val = readout, train, val
        lags, patch = readout.time_UL.shape[1], readout.patch
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

    def movie(self, data: TrialStretches, unit: int) -> Movie:
        """The unit's window, projected on the prior's axes."""
        row, column = self.readout.corner_U2[unit].tolist()
        _, height, width = data.frames_THW.shape
        rows = slice(max(0, row), min(height, row + self.readout.patch))
        columns = slice(max(0, column), min(width, column + self.readout.patch))
        basis = rearrange(self.space_PK, "(r c) k -> r c k", c=self.readout.patch)
        basis = basis[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
        window = torch.as_tensor(np.ascontiguousarray(data.frames_THW[:, rows, columns])).float()
        contrast = (window - self.readout.spec.pixel_mean) / self.readout.spec.pixel_std
        x_TK = rearrange(contrast, "t r c -> t (r c)") @ rearrange(basis, "r c k -> (r c) k")
        return Movie(x_TK, torch.as_tensor(data.counts_TU[:, unit]), torch.as_tensor(data.use_TU[:, unit]).float())

    @torch.no_grad()
    def fit(self, unit: int) -> None:
        """Fit one unit into the readout. A unit without spikes, in front of which nothing changes, or whose filters
        predict nothing, keeps its mean."""
        train = self.movie(self.train, unit)
        if (train.counts_T * train.use_T).sum() == 0 or not varies(train.x_TK):
            return
        val = self.movie(self.val, unit)
        time_J = self.time_LJ.T @ self.courses_UL[unit]
        starts = [self.linear_start(train, time_J)]
        if self.hidden_U[unit]:
            starts.append(self.quadratic_start(train, time_J))
        score, best = max((self.turns(train, val, start, RIDGES[0]) for start in starts), key=lambda found: found[0])
        for ridge in RIDGES[1:]:
            next_score, filters = self.turns(train, val, best, ridge)
            if next_score <= score:
                break
            score, best = next_score, filters
        # Filters that do not generalize are worse than none: the readout then stays at the unit's mean.
        mean = (train.counts_T * train.use_T).sum() / train.use_T.sum()
        if score > self.likelihood(val, torch.full_like(val.counts_T, self.inverse(mean))):
            self.write(unit, best, self.drive_range(train, best))

    def turns(self, train: Movie, val: Movie, filters: Filters, ridge: float) -> tuple[float, Filters]:
        """The best on the validation trials of a few turns of space and time, and its log likelihood there."""
        found = []
        for _ in range(TURNS):
            filters = self.improve(train, filters, ridge)
            found.append((self.score(val, filters, self.drive_range(train, filters)), filters))
        return max(found, key=lambda one: one[0])

    def linear_start(self, movie: Movie, time_J: Tensor) -> Filters:
        seen_TK = through_time(movie.x_TK, self.time_LJ @ time_J)
        mean = (movie.counts_T * movie.use_T).sum() / movie.use_T.sum()
        power = seen_TK.square().sum(0)
        space_K = (seen_TK.T @ ((movie.counts_T - mean) * movie.use_T)) / (power + power.mean())
        return self.normalized(movie, Filters(space_K, time_J, torch.tensor([self.inverse(mean), 0.1, 0.0])))

    def quadratic_start(self, movie: Movie, time_J: Tensor) -> Filters:
        """The direction whose variance spikes change most (spike-triggered covariance)."""
        seen_TK = through_time(movie.x_TK, self.time_LJ @ time_J)
        mean = (movie.counts_T * movie.use_T).sum() / movie.use_T.sum()
        weight_T = (movie.counts_T / mean - 1) * movie.use_T
        covariance_KK = seen_TK.T @ seen_TK
        covariance_KK = covariance_KK + 0.3 * covariance_KK.trace() / len(covariance_KK) * torch.eye(len(covariance_KK))
        half_KK = torch.linalg.inv(torch.linalg.cholesky(covariance_KK))
        values, vectors = torch.linalg.eigh(half_KK @ (seen_TK.T @ (seen_TK * weight_T[:, None])) @ half_KK.T)
        first = int(values.abs().argmax())
        point_3 = torch.tensor([self.inverse(mean), 0.0, 0.1 * float(values[first].sign())])
        return self.normalized(movie, Filters(half_KK.T @ vectors[:, first], time_J, point_3))

    def improve(self, movie: Movie, filters: Filters, ridge: float) -> Filters:
        """One turn: point nonlinearity, space, time."""
        seen_TK = through_time(movie.x_TK, self.time_LJ @ filters.time_J)
        filters = self.point_step(movie, seen_TK @ filters.space_K, filters)
        space_K, bias = self.step(movie, seen_TK, filters.space_K, filters.point_3, ridge)
        filters = Filters(space_K, filters.time_J, torch.stack([bias, *filters.point_3[1:]]))
        filters = self.normalized(movie, filters)
        seen_TJ = through_space(movie.x_TK @ filters.space_K, self.time_LJ)
        filters = self.point_step(movie, seen_TJ @ filters.time_J, filters)
        # The ridge is on the product of both filters, so each step sees the other's size.
        size = float(filters.space_K.square().sum())
        time_J, bias = self.step(movie, seen_TJ, filters.time_J, filters.point_3, ridge * size)
        filters = Filters(filters.space_K, time_J, torch.stack([bias, *filters.point_3[1:]]))
        filters = self.normalized(movie, filters)
        return self.point_step(movie, self.drive(movie, filters), filters)

    def step(
        self, movie: Movie, seen_TK: Tensor, filter_K: Tensor, point_3: Tensor, ridge: float
    ) -> tuple[Tensor, Tensor]:
        """Fisher scoring of one filter and the bias, the step halved until it helps."""
        bias, linear, quadratic = point_3
        drive_T = seen_TK @ filter_K
        features = torch.cat([seen_TK * (linear + 2 * quadratic * drive_T)[:, None], torch.ones(len(drive_T), 1)], 1)
        ridges = torch.full((features.shape[1],), ridge)
        ridges[-1] = 0.0
        theta = torch.cat([filter_K, bias[None]])
        direction = self.direction(movie, features, self.total(drive_T, point_3), theta, ridges)
        along_T = seen_TK @ direction[:-1]

        def value(size: float) -> float:
            moved = torch.stack([bias + size * direction[-1], linear, quadratic])
            weights = filter_K + size * direction[:-1]
            return self.likelihood(movie, self.total(drive_T + size * along_T, moved)) - 0.5 * ridge * float(
                weights.square().sum()
            )

        now = value(0.0)
        size = next((size for size in SIZES if value(size) > now), 0.0)
        theta = theta + size * direction
        return theta[:-1], theta[-1]

    def point_step(self, movie: Movie, drive_T: Tensor, filters: Filters) -> Filters:
        """Fisher scoring of the point nonlinearity's three numbers."""
        features = torch.stack([torch.ones_like(drive_T), drive_T, drive_T.square()], 1)
        point_3 = filters.point_3
        ridges = torch.tensor([0.0, 1.0, 10.0])

        def value(point_3: Tensor) -> float:
            return self.likelihood(movie, features @ point_3) - 0.5 * float((ridges * point_3.square()).sum())

        direction = self.direction(movie, features, features @ point_3, point_3, ridges)
        now = value(point_3)
        size = next((size for size in SIZES if value(point_3 + size * direction) > now), 0.0)
        return replace(filters, point_3=point_3 + size * direction)

    def direction(self, movie: Movie, features_TF: Tensor, total_T: Tensor, theta_F: Tensor, ridge_F: Tensor) -> Tensor:
        rate_T, slope_T = self.output(total_T)
        gradient_F = features_TF.T @ ((movie.counts_T - rate_T) * slope_T / rate_T * movie.use_T) - ridge_F * theta_F
        information_FF = features_TF.T @ (features_TF * (slope_T.square() / rate_T * movie.use_T)[:, None])
        information_FF = information_FF + torch.diag(ridge_F + 1e-4 * information_FF.diagonal().mean() + 1e-6)
        return torch.linalg.solve(information_FF, gradient_F)

    def normalized(self, movie: Movie, filters: Filters) -> Filters:
        """The same model with a time filter of norm one and a drive of standard deviation one."""
        norm = filters.time_J.norm().clamp_min(1e-12)
        filters = replace(filters, time_J=filters.time_J / norm, space_K=filters.space_K * norm)
        std = self.drive(movie, filters).std(correction=0).clamp_min(1e-12)
        bias, linear, quadratic = filters.point_3
        return replace(
            filters, space_K=filters.space_K / std, point_3=torch.stack([bias, linear * std, quadratic * std**2])
        )

    def drive(self, movie: Movie, filters: Filters) -> Tensor:
        return through_space(movie.x_TK @ filters.space_K, (self.time_LJ @ filters.time_J)[:, None])[:, 0]

    def drive_range(self, movie: Movie, filters: Filters) -> Tensor:
        """The drive's range, without the rare extremes at which the point nonlinearity is hardly known."""
        return torch.quantile(self.drive(movie, filters)[movie.use_T > 0], torch.tensor([0.001, 0.999]))

    def total(self, drive_T: Tensor, point_3: Tensor) -> Tensor:
        return point_3[0] + point_3[1] * drive_T + point_3[2] * drive_T.square()

    def output(self, total_T: Tensor) -> tuple[Tensor, Tensor]:
        """Expected counts and their slope."""
        if self.readout.nonlinearity == "exp":
            rate_T = total_T.clamp(-20.0, 5.0).exp()
            return rate_T, rate_T
        return F.softplus(total_T).clamp_min(1e-8), total_T.sigmoid()

    def inverse(self, mean: Tensor) -> float:
        return float(mean.log() if self.readout.nonlinearity == "exp" else inverse_softplus(mean))

    def likelihood(self, movie: Movie, total_T: Tensor) -> float:
        rate_T, _ = self.output(total_T)
        return float(((movie.counts_T * rate_T.log() - rate_T) * movie.use_T).double().sum())

    def score(self, movie: Movie, filters: Filters, range_2: Tensor) -> float:
        return self.likelihood(
            movie, self.total(self.drive(movie, filters).clamp(range_2[0], range_2[1]), filters.point_3)
        )

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


def through_time(x_TK: Tensor, filter_L: Tensor) -> Tensor:
    """Causal filter of each column, zeros before the first bin; oldest lag first."""
    # Blocks of bins times a banded matrix: a few matrix products in place of many passes over memory.
    block, lags = 64, len(filter_L)
    bins, columns = x_TK.shape
    blocks = -(-bins // block)
    padded = F.pad(x_TK, (0, 0, lags - 1, blocks * block - bins))
    length = block + lags - 1
    banded = F.pad(filter_L, (0, block)).repeat(block)[: block * length].reshape(block, length)
    pieces = padded.as_strided((blocks, length, columns), (block * columns, columns, 1))
    return torch.matmul(banded, pieces).reshape(-1, columns)[:bins]


def through_space(seen_T: Tensor, basis_LJ: Tensor) -> Tensor:
    """The last lags of one trace at every bin, projected on a basis; (T, J)."""
    return F.pad(seen_T, (len(basis_LJ) - 1, 0)).unfold(0, len(basis_LJ), 1) @ basis_LJ
