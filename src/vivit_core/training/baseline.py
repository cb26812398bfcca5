"""Receptive fields from training trials, and the fit of the linear-nonlinear baseline.

Shape letters: T bins (= frames), H W pixels, P pixels (flat) or pixels of a window, U units, L lags (oldest first),
K J axes of the priors of space and time, N filters that are tried, F features of a step.
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


PART = 4  # one in so many pieces of the training frames finds the filters roughly
ROUGH_TURNS = 3  # of space and time filter, on that part


TURNS = 2  # on all frames
MARGIN=0.0
POINT=[0.0,1.0,10.0]
TAIL=0.01
TAILS=(0.01,)
MODE="old"
ROUGH_ALWAYS=True
TURNS0=2



SIZES = (1.0, 0.5, 0.25, 0.1)  # of a step, tried in this order until one helps


HELD_OUT = 0.1  # of the training frames, which choose the regularization where there are no validation trials


BLOCK = 2048  # bins that are worked on at once: what they take stays in a core's cache
BAND = 16  # bins that one banded matrix filters at once


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
    likelihood, with a Gaussian prior that favors smooth filters around the window's middle: first on a part of the
    frames, from the spike-triggered average and, where pixels do not place a unit, from the spike-triggered covariance
    too; then on all of them, where the validation trials choose the prior's strength in each turn. Deterministic.

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

    padded_TK: Tensor  # lags - 1 rows of zeros first, and at the end what fills a band
    counts_T: Tensor
    use_T: Tensor  # float, one or zero
    lags: int

    @property
    def x_TK(self) -> Tensor:
        return self.padded_TK[self.lags - 1 :][: len(self.counts_T)]

    @classmethod
    def empty(cls, axes: int, counts_T: Tensor, use_T: Tensor, lags: int) -> Movie:
        rows = lags - 1 + -(-len(counts_T) // BAND) * BAND
        return cls(torch.zeros(rows, axes), counts_T, use_T, lags)

    def part(self) -> Movie:
        """One in ``PART`` pieces; the first bins of each, whose past is in another piece, do not count."""
        length = 16 * self.lags
        pieces = len(self.counts_T) // (PART * length)
        if pieces < 2:  # too little to leave any out
            return self
        used = slice(0, pieces * PART * length)

        def taken(values: Tensor) -> Tensor:
            return rearrange(values[used], "(n k b) ... -> n k b ...", k=PART, b=length)[:, 0]

        use_NB = taken(self.use_T).clone()
        use_NB[:, : self.lags - 1] = 0.0
        made = Movie.empty(self.padded_TK.shape[1], taken(self.counts_T).flatten(), use_NB.flatten(), self.lags)
        made.x_TK[:] = taken(self.x_TK).flatten(0, 1)
        return made


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
        self.readout, self.train, self.val = readout, Pixels(train), Pixels(val)
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

    def movie(self, data: Pixels, unit: int) -> Movie:
        """The unit's window, projected on the prior's axes."""
        row, column = self.readout.corner_U2[unit].tolist()
        _, height, width = self.readout.spec.frame_shape
        rows = slice(max(0, row), min(height, row + self.readout.patch))
        columns = slice(max(0, column), min(width, column + self.readout.patch))
        basis = rearrange(self.space_PK, "(r c) k -> r c k", c=self.readout.patch)
        basis = basis[rows.start - row : rows.stop - row, columns.start - column : columns.stop - column]
        basis = rearrange(basis, "r c k -> (r c) k") / self.readout.spec.pixel_std
        movie = Movie.empty(basis.shape[1], data.counts_UT[unit], data.use_UT[unit].float(), self.lags)
        for block in blocks(len(movie.counts_T)):
            window = data.frames_THW[block, rows, columns].float() - self.readout.spec.pixel_mean
            torch.mm(window.flatten(1), basis, out=movie.x_TK[block])
        return movie

    def changes(self, unit: int) -> bool:
        row, column = self.readout.corner_U2[unit].tolist()
        side = self.readout.patch
        return bool(self.train.changes_HW[max(0, row) : row + side, max(0, column) : column + side].any())

    @torch.no_grad()
    def fit(self, unit: int) -> None:
        """Fit one unit into the readout. A unit without spikes, in front of which nothing changes, or whose filters
        predict nothing, keeps its mean."""
        train = self.movie(self.train, unit)
        if (train.counts_T * train.use_T).sum() == 0 or not self.changes(unit):
            return
        val = self.movie(self.val, unit)
        time_J = self.time_LJ.T @ self.courses_UL[unit]
        part = train.part()
        starts = [self.linear_start(part, time_J)]
        if self.hidden_U[unit]:
            starts.append(self.quadratic_start(part, time_J))
        ridge0 = RIDGES[0] * float(part.use_T.sum() / train.use_T.sum())
        if MODE == "old":
            score, best = max((self.turns(train, val, start, RIDGES[:1], TURNS) for start in starts), key=lambda found: found[0])
        elif MODE == "start":  # rough only to choose
            if len(starts) > 1 or ROUGH_ALWAYS:
                found = [self.turns(part, val, start, (ridge0,), ROUGH_TURNS) for start in starts]
                best = max(found, key=lambda f: f[0])[1]
            else:
                best = starts[0]
            score, best = self.turns(train, val, best, RIDGES[:1], TURNS0)
        first = 1
        if MODE == "path":
            share = float(part.use_T.sum() / train.use_T.sum())
            found = [self.turns(part, val, start, (ridge0,), ROUGH_TURNS) for start in starts]
            score, best = max(found, key=lambda f: f[0])
            while first < len(RIDGES):
                next_score, filters = self.turns(part, val, best, (RIDGES[first]*share,), TURNS)
                if next_score <= score: break
                score, best = next_score, filters
                first += 1
            score, best = self.turns(train, val, best, RIDGES[first-1:first], TURNS0)
        for ridge in RIDGES[first:]:
            next_score, filters = self.turns(train, val, best, (ridge,), TURNS)
            if next_score <= score + MARGIN:
                break
            score, best = next_score, filters
        # Filters that do not generalize are worse than none: the readout then stays at the unit's mean.
        drive_T, val_T = (self.drives(movie, best.space_K[None], best.time_J)[0] for movie in (train, val))
        ranges = [drive_range(train, drive_T, tail) for tail in TAILS]
        scores = [float(self.likelihood(val, total(val_T.clamp(*range_2), best.point_3))) for range_2 in ranges]
        chosen = int(np.argmax(scores))
        mean = (train.counts_T * train.use_T).sum() / train.use_T.sum()
        if scores[chosen] > float(self.likelihood(val, torch.full_like(val.counts_T, self.inverse(mean)))):
            self.write(unit, best, ranges[chosen])

    def turns(
        self, train: Movie, val: Movie, filters: Filters, ridges: tuple[float, ...], turns: int
    ) -> tuple[float, Filters]:
        """The best on the validation trials of a few turns of space and time, and its log likelihood there."""
        found = []
        drive_T = self.drives(train, filters.space_K[None], filters.time_J)[0]
        filters = self.point_step(train, drive_T, filters)
        for _ in range(turns):
            filters, drive_T = self.turn(train, val, filters, drive_T, ridges)
            found.append((float(self.scores(train, val, filters, filters.space_K[None], drive_T[None], filters.point_3[:1])), filters))
        return max(found, key=lambda one: one[0])

    def linear_start(self, movie: Movie, time_J: Tensor) -> Filters:
        seen_TK = through_time(movie, self.time_LJ @ time_J)
        mean = (movie.counts_T * movie.use_T).sum() / movie.use_T.sum()
        power = seen_TK.square().sum(0)
        space_K = (seen_TK.T @ ((movie.counts_T - mean) * movie.use_T)) / (power + power.mean())
        return self.start(movie, space_K, time_J, torch.tensor([self.inverse(mean), 0.1, 0.0]))

    def quadratic_start(self, movie: Movie, time_J: Tensor) -> Filters:
        """The direction whose variance spikes change most (spike-triggered covariance)."""
        seen_TK = through_time(movie, self.time_LJ @ time_J)
        mean = (movie.counts_T * movie.use_T).sum() / movie.use_T.sum()
        weight_T = (movie.counts_T / mean - 1) * movie.use_T
        covariance_KK = seen_TK.T @ seen_TK
        covariance_KK = covariance_KK + 0.3 * covariance_KK.trace() / len(covariance_KK) * torch.eye(len(covariance_KK))
        half_KK = torch.linalg.inv(torch.linalg.cholesky(covariance_KK))
        values, vectors = torch.linalg.eigh(half_KK @ (seen_TK.T @ (seen_TK * weight_T[:, None])) @ half_KK.T)
        first = int(values.abs().argmax())
        point_3 = torch.tensor([self.inverse(mean), 0.0, 0.1 * float(values[first].sign())])
        return self.start(movie, half_KK.T @ vectors[:, first], time_J, point_3)

    def start(self, movie: Movie, space_K: Tensor, time_J: Tensor, point_3: Tensor) -> Filters:
        filters, drive_T = normalized(Filters(space_K, time_J, point_3), self.drives(movie, space_K[None], time_J)[0])
        return self.point_step(movie, drive_T, filters)

    def drives(self, movie: Movie, space_NK: Tensor, time_J: Tensor) -> Tensor:
        """What filters see, (N, T)."""
        return trace_through_time(space_NK @ movie.x_TK.T, self.time_LJ @ time_J)

    def turn(
        self, train: Movie, val: Movie, filters: Filters, drive_T: Tensor, ridges: tuple[float, ...]
    ) -> tuple[Filters, Tensor]:
        """One turn: point nonlinearity, space, time; and the drive that comes of it."""
        # Space, for all ridges at once
        gradient_F, information_FF = self.space_fisher(train, filters, drive_T)
        theta = torch.cat([filters.space_K, filters.point_3[:1]])
        directions_NF = torch.stack([direction(gradient_F, information_FF, theta, penalty(theta, ridge)) for ridge in ridges])
        along_NT = self.drives(train, directions_NF[:, :-1], filters.time_J)
        sizes_N = [self.size(train, filters, filters.space_K, drive_T, directions_NF[n], along_NT[n], ridge) for n, ridge in enumerate(ridges)]
        sizes_N1 = torch.tensor(sizes_N)[:, None]
        theta_NF = theta + sizes_N1 * directions_NF
        drive_NT = drive_T + sizes_N1 * along_NT
        chosen = 0
        if len(ridges) > 1:
            chosen = int(self.scores(train, val, filters, theta_NF[:, :-1], drive_NT, theta_NF[:, -1]).argmax())
        filters = Filters(theta_NF[chosen, :-1], filters.time_J, torch.stack([theta_NF[chosen, -1], *filters.point_3[1:]]))
        filters, drive_T = normalized(filters, drive_NT[chosen])
        filters = self.point_step(train, drive_T, filters)
        # The ridge is on the product of both filters, so each step sees the other's size.
        ridge = ridges[chosen] * float(filters.space_K.square().sum())
        trace_T = train.x_TK @ filters.space_K
        gradient_F, information_FF = self.time_fisher(train, filters, drive_T, trace_T)
        theta = torch.cat([filters.time_J, filters.point_3[:1]])
        direction_F = direction(gradient_F, information_FF, theta, penalty(theta, ridge))
        along_T = trace_through_time(trace_T[None], self.time_LJ @ direction_F[:-1])[0]
        size = self.size(train, filters, filters.time_J, drive_T, direction_F, along_T, ridge)
        theta = theta + size * direction_F
        filters = Filters(filters.space_K, theta[:-1], torch.stack([theta[-1], *filters.point_3[1:]]))
        filters, drive_T = normalized(filters, drive_T + size * along_T)
        return self.point_step(train, drive_T, filters), drive_T

    def size(self, movie, filters, filter_K, drive_T, direction_F, along_T, ridge) -> float:
        def value(size: float) -> float:
            moved = torch.stack([filters.point_3[0] + size * direction_F[-1], *filters.point_3[1:]])
            weights = filter_K + size * direction_F[:-1]
            return float(self.likelihood(movie, total(drive_T + size * along_T, moved))) - 0.5 * ridge * float(
                weights.square().sum()
            )

        now = value(0.0)
        return next((size for size in SIZES if value(size) > now), 0.0)

    def space_fisher(self, movie: Movie, filters: Filters, drive_T: Tensor) -> tuple[Tensor, Tensor]:
        pull_T, weight_T, inner_T = self.weights(movie, filters.point_3, drive_T)
        axes = movie.padded_TK.shape[1]
        banded = band(self.time_LJ @ filters.time_J, BAND)
        gradient_F, information_FF = torch.zeros(axes + 1), torch.zeros(axes + 1, axes + 1)
        features = torch.ones(BLOCK, axes + 1)
        for block in blocks(len(drive_T)):
            seen = filtered(movie, banded, block)
            f = features[: len(seen)]
            torch.mul(seen, inner_T[block, None], out=f[:, :-1])
            gradient_F += pull_T[block] @ f
            information_FF.addmm_(f.T, f * weight_T[block, None])
        return gradient_F, information_FF

    def time_fisher(self, movie: Movie, filters: Filters, drive_T: Tensor, trace_T: Tensor) -> tuple[Tensor, Tensor]:
        pull_T, weight_T, inner_T = self.weights(movie, filters.point_3, drive_T)
        axes = self.time_LJ.shape[1]
        padded = F.pad(trace_T, (self.lags - 1, 0))
        gradient_F, information_FF = torch.zeros(axes + 1), torch.zeros(axes + 1, axes + 1)
        features = torch.ones(BLOCK, axes + 1)
        for block in blocks(len(drive_T)):
            past = padded[block.start : block.stop + self.lags - 1].unfold(0, self.lags, 1)
            f = features[: len(past)]
            torch.mul(past @ self.time_LJ, inner_T[block, None], out=f[:, :-1])
            gradient_F += pull_T[block] @ f
            information_FF.addmm_(f.T, f * weight_T[block, None])
        return gradient_F, information_FF

    def weights(self, movie: Movie, point_3: Tensor, drive_T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """By bin: the log likelihood's slope along the total, its Fisher information, the total's slope along the drive."""
        rate_T, slope_T = self.output(total(drive_T, point_3))
        pull_T = (movie.counts_T - rate_T) * slope_T / rate_T * movie.use_T
        return pull_T, slope_T.square() / rate_T * movie.use_T, point_3[1] + 2 * point_3[2] * drive_T

    def point_step(self, movie: Movie, drive_T: Tensor, filters: Filters) -> Filters:
        """Fisher scoring of the point nonlinearity's three numbers."""
        features = torch.stack([torch.ones_like(drive_T), drive_T, drive_T.square()])
        point_3 = filters.point_3
        ridges = torch.tensor(POINT)

        def value(point_3: Tensor) -> float:
            return float(self.likelihood(movie, point_3 @ features)) - 0.5 * float((ridges * point_3.square()).sum())

        pull_T, weight_T, _ = self.weights(movie, point_3, drive_T)
        step = direction(features @ pull_T, (features * weight_T) @ features.T, point_3, ridges)
        now = value(point_3)
        size = next((size for size in SIZES if value(point_3 + size * step) > now), 0.0)
        return replace(filters, point_3=point_3 + size * step)

    def output(self, total_T: Tensor) -> tuple[Tensor, Tensor]:
        """Expected counts and their slope."""
        if self.readout.nonlinearity == "exp":
            rate_T = total_T.clamp(-20.0, 5.0).exp()
            return rate_T, rate_T
        return F.softplus(total_T).clamp_min(1e-8), total_T.sigmoid()

    def inverse(self, mean: Tensor) -> float:
        return float(mean.log() if self.readout.nonlinearity == "exp" else inverse_softplus(mean))

    def likelihood(self, movie: Movie, total_T: Tensor) -> Tensor:
        """Log likelihood of the counts, without what does not depend on the rate; over the last axis."""
        rate_T, _ = self.output(total_T)
        log_T = total_T.clamp(-20.0, 5.0) if self.readout.nonlinearity == "exp" else rate_T.log()
        return ((movie.counts_T * log_T - rate_T) * movie.use_T).sum(-1, dtype=torch.float64)

    def scores(self, train: Movie, val: Movie, filters: Filters, space_NK: Tensor, drive_NT: Tensor, bias_N: Tensor) -> Tensor:
        """Log likelihoods (N,) of validation trials"""
        val_NT = self.drives(val, space_NK, filters.time_J)
        ranges_N2 = torch.stack([drive_range(train, drive_T, TAIL) for drive_T in drive_NT])
        val_NT = val_NT.clamp(ranges_N2[:, :1], ranges_N2[:, 1:])
        return self.likelihood(val, bias_N[:, None] + filters.point_3[1] * val_NT + filters.point_3[2] * val_NT.square())

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


class Pixels:
    def __init__(self, data: TrialStretches) -> None:
        self.frames_THW = torch.as_tensor(data.frames_THW)
        low_HW, high_HW = self.frames_THW.amin(0).float(), self.frames_THW.amax(0).float()
        self.changes_HW = high_HW - low_HW > 1e-5 * torch.maximum(low_HW.abs(), high_HW.abs()).max()
        self.counts_UT = torch.as_tensor(np.ascontiguousarray(data.counts_TU.T))
        self.use_UT = torch.as_tensor(np.ascontiguousarray(data.use_TU.T))


def spread(drive_T: Tensor) -> Tensor:
    return drive_T.std(correction=0).clamp_min(1e-12)


def normalized(filters: Filters, drive_T: Tensor) -> tuple[Filters, Tensor]:
    """The same model with a time filter of norm one and a drive of standard deviation one."""
    norm = filters.time_J.norm().clamp_min(1e-12)
    std = spread(drive_T)
    bias, linear, quadratic = filters.point_3
    return Filters(
        filters.space_K * norm / std,
        filters.time_J / norm,
        torch.stack([bias, linear * std, quadratic * std**2]),
    ), drive_T / std


def drive_range(movie: Movie, drive_T: Tensor, tail: float) -> Tensor:
    """The drive's range, without the rare extremes at which the point nonlinearity is hardly known."""
    used = drive_T[movie.use_T > 0].numpy()
    return torch.as_tensor(np.quantile(used, [tail, 1 - tail]), dtype=torch.float32)


def total(drive_T: Tensor, point_3: Tensor) -> Tensor:
    return point_3[0] + point_3[1] * drive_T + point_3[2] * drive_T.square()


def penalty(theta_F: Tensor, ridge: float) -> Tensor:
    ridge_F = torch.full_like(theta_F, float(ridge))
    ridge_F[-1] = 0.0
    return ridge_F


def direction(gradient_F: Tensor, information_FF: Tensor, theta_F: Tensor, ridge_F: Tensor) -> Tensor:
    """A step of Fisher scoring"""
    information_FF = information_FF + torch.diag(ridge_F + 1e-4 * information_FF.diagonal().mean() + 1e-6)
    return torch.linalg.solve(information_FF, gradient_F - ridge_F * theta_F)


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


def blocks(bins: int) -> list[slice]:
    return [slice(start, min(bins, start + BLOCK)) for start in range(0, bins, BLOCK)]


def band(filter_L: Tensor, bins: int) -> Tensor:
    """The matrix (bins, bins + L - 1) that filters as many bins, oldest lag first."""
    length = bins + len(filter_L) - 1
    return F.pad(filter_L, (0, bins)).repeat(bins)[: bins * length].reshape(bins, length)


def filtered(movie: Movie, banded: Tensor, block: slice) -> Tensor:
    """Bins of a block of each trace, (K, block), through a causal filter; zeros before the first bin."""
    rows, axes = -(-(block.stop - block.start) // BAND), movie.padded_TK.shape[1]
    length = banded.shape[1]
    pieces = movie.padded_TK.as_strided((rows, length, axes), (BAND * axes, axes, 1), block.start * axes)
    return torch.bmm(banded.expand(rows, BAND, length), pieces).flatten(0, 1)[: block.stop - block.start]


def through_time(movie: Movie, filter_L: Tensor) -> Tensor:
    """Causal filter of each column, zeros before the first bin; oldest lag first."""
    return filtered(movie, band(filter_L, BAND), slice(0, len(movie.counts_T)))


def trace_through_time(x_NT: Tensor, filter_L: Tensor) -> Tensor:
    """The same of traces (N, T)."""
    bins, lags = x_NT.shape[1], len(filter_L)
    padded = F.pad(x_NT, (lags - 1, -bins % 64))
    return (padded.unfold(1, 64 + lags - 1, 64) @ band(filter_L, 64).T).flatten(1)[:, :bins]
