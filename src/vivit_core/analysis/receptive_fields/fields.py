"""Receptive fields of a model's units: by gradients, by noise, and those measured in the data.

Shape letters: B clips, T bins, H W pixels, P = H · W, U units, V = U or 1, L lags, K = B · L, N pairs of frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vivit_core.analysis.screen import BINS_AT_ONCE, Screen
from vivit_core.data.recording.format import RecordingInfo
from vivit_core.data.recording.reader import Recording
from vivit_core.rf import maps as rf_maps
from vivit_core.stimuli.noise import Noise
from vivit_core.system.terminal import track

WHITE = 0.1  # largest correlation between neighboring pixels and successive frames of what counts as white noise
PAIRS = 64  # of successive frames that are looked at


PIECE_S = 4.0  # of a recording, s, at most; halves take turns at them, so that both know all parts of a session


TOO_FEW = "signal to noise needs two halves; give at least two clips (or trials)"


ROUNDING = 1e-5  # what a contrast of one changes in the log rate by no more than this is single precision's rounding


@dataclass(frozen=True, eq=False)
class Fields:
    """The receptive fields of a recording's units by one method.

    Where a map shows nothing but rounding, its numbers are NaN. A map that is the same all over the frame has no place.
    """

    map_ULHW: np.ndarray  # the linear field
    snr_U: np.ndarray  # peak energy over chance's; 1 is chance, NaN where half of the data does not have the unit
    center_U2: np.ndarray  # x, y, px
    size_U: np.ndarray  # diameter: four standard deviations of the field's envelope, px
    explained_U: np.ndarray  # share of the energy's variance that a round envelope explains
    orientation_U: np.ndarray  # degrees, of the preferred bars
    coherence_U: np.ndarray  # how much of one orientation, 0 to 1
    peak_lag_U: np.ndarray  # bins before the response at which the field is strongest

    @classmethod
    def of(
        cls, map_ULHW: Tensor, snr_U: np.ndarray, energy_UHW: Tensor, structure_U3HW: Tensor, seen_U: Tensor
    ) -> Fields:
        """``seen``: whether the energy holds more than rounding; a complex cell's map may be zero all the same."""
        energy_UHW = torch.where(seen_U[:, None, None], energy_UHW, 0.0)
        envelope = rf_maps.fit_envelope(energy_UHW)
        std_U = math.sqrt(2) * envelope.std_U
        orientation_U, coherence_U = rf_maps.orientation(structure_U3HW, envelope.center_U2, std_U)
        course_UL = torch.stack([lag_UHW.square().sum((1, 2)) for lag_UHW in map_ULHW.unbind(1)], 1)
        lag_U = (map_ULHW.shape[1] - 1 - course_UL.argmax(1)).double()
        return cls(
            map_ULHW.cpu().numpy(),
            np.where(seen_U, snr_U, np.nan),
            envelope.center_U2,
            4 * std_U,
            envelope.explained_U,
            orientation_U,
            coherence_U,
            torch.where(seen_U & (course_UL.amax(1) > 0), lag_U, torch.nan).numpy(),
        )


def mean_and_chance(sums: Sequence[Tensor], counts: Sequence[Tensor | float]) -> tuple[Tensor, Tensor]:
    """A mean over samples in two halves, and a map of its noise alone: the halves' difference, without the signal.

    Every sample weighs the same. The difference has the mean's noise where it is taken times √(n₁ n₂) / (n₁ + n₂), half
    of it for equal halves. It is zero where a half has no samples.

    Parameters
    ----------
    sums : of each half.
    counts : samples of each half; they broadcast against the sums.
    """
    first, second = (torch.as_tensor(count) for count in counts)
    total = (first + second).clamp_min(1)
    apart = sums[0] / first.clamp_min(1) - sums[1] / second.clamp_min(1)
    return (sums[0] + sums[1]) / total, apart * ((first * second).sqrt() / total)


class TriggeredAverage:
    """A spike-triggered average, collected piece by piece: what a contrast of one changes in the rate, in Hz.

    Where pixels or frames move as one, a filter is seen blurred by that, and the sum over the blur is its value.

    Parameters
    ----------
    lags : frames before a response, its own included.
    """

    def __init__(self, lags: int) -> None:
        self.lags = lags
        # For each half: stimulus times response, stimulus, response, bins.
        self.pieces: list[list[Tensor]] = [[], []]

    def add(self, half: int, stimulus_BTP: Tensor, response_BTU: Tensor, use_BTV: Tensor) -> None:
        """Stimulus in contrast, response in Hz; ``use`` (V = U, or 1) is true where a response counts.

        Of each piece, the first ``lags - 1`` responses are left out, since their history lies outside of it.
        """
        use_BTV = use_BTV.float()
        use_BTV[:, : self.lags - 1] = 0.0
        weighted_BTU = response_BTU.float() * use_BTV
        found = [self.lagged(weighted_BTU, stimulus_BTP), self.lagged(use_BTV, stimulus_BTP)]
        found += [weighted_BTU.sum((0, 1)), use_BTV.sum((0, 1))]
        before = self.pieces[half]
        self.pieces[half] = [a + b for a, b in zip(before, found, strict=True)] if before else found

    def lagged(self, weight_BTV: Tensor, stimulus_BTP: Tensor) -> Tensor:
        bins = stimulus_BTP.shape[1]
        one_lag = [
            rearrange(weight_BTV[:, lag:], "b t v -> v (b t)")
            @ rearrange(stimulus_BTP[:, : bins - lag], "b t p -> (b t) p")
            for lag in reversed(range(self.lags))
        ]
        return torch.stack(one_lag, 1)

    @property
    def rate_U(self) -> Tensor:
        """Mean response of the bins that count."""
        total_U, count_V = (sum(parts) for parts in zip(*(piece[2:] for piece in self.pieces if piece), strict=True))
        return torch.as_tensor(total_U) / torch.as_tensor(count_V).clamp_min(1)

    @property
    def known_V(self) -> Tensor:
        """Whether both halves have bins that count."""
        return torch.stack([piece[3] for piece in self.pieces]).amin(0) > 0

    def map_and_chance(self, units: slice, power: float) -> tuple[Tensor, Tensor]:
        """The averages of some units (U, L, P) and their noise, divided by the stimulus' power.

        The power is a pixel's covariance with all others at all lags. That of a white stimulus is its variance. The
        rate's mean is that of both halves: a half of one bin has no other response than its mean, and no noise.
        """
        sums, counts = [], []
        mean_U11 = self.rate_U[units, None, None]
        for triggered_ULP, seen_VLP, _, count_V in self.pieces:
            of = units if len(count_V) > 1 else slice(None)
            sums.append((triggered_ULP[units] - mean_U11 * seen_VLP[of]) / power)
            counts.append(count_V[of, None, None])
        return mean_and_chance(sums, counts)


def noise_fields(screen: Screen, noise: Noise, lags: int, progress: bool) -> Fields:
    """The twin's fields by spike-triggered average on noise, blurred by its checks and holds.

    A check's pixels and a held frame's bins move as one, so each pixel and lag of the average also holds the share of
    its neighbors: a filter that is smooth over checks and holds keeps its values, a finer one is flattened.
    """
    height, width = screen.frame_size
    bins = screen.bins(noise.clip_s)
    if bins < 2 * lags:
        raise ValueError(
            f"noise.clip_s={noise.clip_s} makes clips of {bins} bins, and a history has {lags}; "
            f"give at least {2 * lags / screen.spec.frame_rate_hz:.3g} s"
        )
    average = TriggeredAverage(lags)
    shown = screen.show(noise.make(bins, height, width), noise.clips, "noise", progress)
    clip = 0
    for stimulus_BTHW, rates_BTU in shown:
        for stimulus, rates in zip(rearrange(stimulus_BTHW, "b t h w -> b 1 t (h w)"), rates_BTU[:, None], strict=True):
            average.add(clip % 2, stimulus, rates, torch.ones(*rates.shape[:2], 1))
            clip += 1
    return triggered_fields(average, noise.variance * noise.check_px**2 * noise.hold_bins, height)


def triggered_fields(average: TriggeredAverage, power: float, height: int) -> Fields:
    """Fields of averages; what chance adds to energy and slopes is taken away.

    A unit that counts in one half alone has no signal to noise, and nothing is taken away from its field.
    """
    if not all(average.pieces):
        raise ValueError(TOO_FEW)
    rate_U = average.rate_U
    found: list[tuple[Tensor, ...]] = []
    for first in range(0, len(rate_U), rf_maps.UNITS_AT_ONCE):
        both = average.map_and_chance(slice(first, first + rf_maps.UNITS_AT_ONCE), power)
        map_ULHW, chance_ULHW = (rearrange(x, "u l (h w) -> u l h w", h=height) for x in both)
        snr_U = torch.as_tensor(rf_maps.peak_over_chance(map_ULHW, chance_ULHW))
        energy_UHW = rf_maps.energy(map_ULHW) - rf_maps.energy(chance_ULHW)
        structure_U3HW = rf_maps.structure(map_ULHW) - rf_maps.structure(chance_ULHW)
        found.append((map_ULHW, snr_U, energy_UHW, structure_U3HW))
    map_ULHW, snr_U, energy_UHW, structure_U3HW = (torch.cat(parts) for parts in zip(*found, strict=True))
    snr_U = torch.where(average.known_V, snr_U, torch.nan)
    seen_U = map_ULHW.flatten(1).abs().amax(1) > ROUNDING * rate_U
    return Fields.of(map_ULHW, snr_U.numpy(), energy_UHW, structure_U3HW, seen_U)


def gradient_fields(screen: Screen, clips_BTHW: Tensor, lags: int, progress: bool) -> Fields:
    """The twin's fields by the gradient of the log rate in the last bin of natural clips.

    The map is the mean gradient over clips: the relative change of the rate with the contrast of a pixel. Place and
    orientation come from the gradients' energy and slopes summed over clips, whatever their sign, and so hold for
    complex cells as well.

    Raises
    ------
    ValueError
        For fewer than two clips.
    """
    if len(clips_BTHW) < 2:
        raise ValueError(
            f"recording {screen.spec.recording_id}: {TOO_FEW}: gradient_clips of 2 or more, and a gradient_clip_s that "
            "is below the longest trial"
        )
    at_once = max(1, BINS_AT_ONCE // clips_BTHW.shape[1])
    units = screen.spec.n_units
    height, width = screen.frame_size
    energy_UHW, structure_U3HW = torch.zeros(units, height, width), torch.zeros(units, 3, height, width)
    steps = [(piece, unit) for piece in range(-(-len(clips_BTHW) // at_once)) for unit in range(units)]
    sums_HULHW = torch.zeros(2, units, lags, height, width)
    x_BTHW, log_BU = clips_BTHW, clips_BTHW
    for piece, unit in track(steps, f"gradients {screen.spec.recording_id}", disable=not progress):
        if unit == 0:
            x_BTHW = clips_BTHW[piece * at_once : (piece + 1) * at_once].to(screen.device).requires_grad_()
            log_BU = screen.rates(x_BTHW)[:, -1].clamp_min(1e-6).log()
        (gradient,) = torch.autograd.grad(log_BU[:, unit].sum(), x_BTHW, retain_graph=unit < units - 1)
        gradient_BLHW = gradient[:, -lags:].cpu()
        first = piece * at_once % 2
        for half in (0, 1):
            sums_HULHW[(half + first) % 2, unit] += gradient_BLHW[half::2].sum(0)
        every_1KHW = rearrange(gradient_BLHW, "b l h w -> 1 (b l) h w")
        energy_UHW[unit] += rf_maps.energy(every_1KHW)[0]
        structure_U3HW[unit] += rf_maps.structure(every_1KHW)[0]
    counts = [float(len(range(half, len(clips_BTHW), 2))) for half in (0, 1)]
    snr = []
    for unit in range(units):  # a unit's mean takes the place of its first sum: maps of all are large
        mean_LHW, chance_LHW = mean_and_chance(list(sums_HULHW[:, unit]), counts)
        snr.append(rf_maps.peak_over_chance(mean_LHW[None], chance_LHW[None]))
        sums_HULHW[0, unit] = mean_LHW
    seen_U = (energy_UHW.flatten(1).amax(1) / (len(clips_BTHW) * lags)).sqrt() > ROUNDING
    return Fields.of(sums_HULHW[0], np.concatenate(snr), energy_UHW, structure_U3HW, seen_U)


def measured_fields(screen: Screen, recording: Recording, lags: int, progress: bool) -> Fields:
    """The fields that the data show, by spike-triggered average on all trials of a recording of white noise."""
    average = TriggeredAverage(lags)
    squares, pixels = 0.0, 0
    pieces = pieces_of(recording.info, lags)
    for half, start, stop in track(pieces, f"measured {recording.recording_id}", disable=not progress):
        frames_THW = torch.as_tensor(recording.frames(start, stop).astype(np.float32).mean(0))
        stimulus_TP = screen.to_contrast(frames_THW).flatten(1)
        counts_TU = torch.as_tensor(recording.counts(start, stop).astype(np.float32))
        valid_TU = torch.as_tensor(recording.valid(start, stop))
        average.add(half, stimulus_TP[None], counts_TU[None] * recording.info.frame_rate_hz, valid_TU[None])
        squares += float(stimulus_TP.square().sum(dtype=torch.float64))
        pixels += stimulus_TP.numel()
    return triggered_fields(average, squares / pixels, screen.frame_size[0])


def pieces_of(info: RecordingInfo, lags: int) -> list[tuple[int, int, int]]:
    """The half, first bin and end of each piece of a recording, its history of ``lags - 1`` bins included.

    A trial has an even number of equal pieces, and every other trial begins with the other half. So both halves know a
    unit that was measured in a part of the session, or in some of the trials, alone.
    """
    pieces = []
    most = max(1, round(PIECE_S * info.frame_rate_hz))
    for trial, (start, stop) in enumerate(zip(info.trials.start.tolist(), info.trials.stop.tolist(), strict=True)):
        first = start + lags - 1  # the first bin with a whole history
        number = 2 * math.ceil((stop - first) / (2 * most))
        edges = np.linspace(first, stop, number + 1).round().astype(int).tolist() if stop > first else []
        for piece, (at, end) in enumerate(pairwise(edges)):
            if end > at:
                pieces.append(((trial + piece) % 2, at - lags + 1, end))
    return pieces


def is_white(recording: Recording) -> bool:
    """Whether neither neighboring pixels nor successive frames of a recording are correlated."""
    trials = recording.info.trials
    starts = np.concatenate([np.arange(a, b - 1) for a, b in zip(trials.start, trials.stop, strict=True)])
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, PAIRS).round().astype(int))]
    frames_N2HW = np.stack([recording.frames(int(a), int(a) + 2).astype(np.float64).mean(0) for a in chosen])
    neighbors = [(frames_N2HW[:, 0], frames_N2HW[:, 1])]
    neighbors += [(frames_N2HW[..., 1:, :], frames_N2HW[..., :-1, :]), (frames_N2HW[..., 1:], frames_N2HW[..., :-1])]
    return all(
        min(one.shape) == 0 or (one.std() > 0 and abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < WHITE)
        for one, other in neighbors
    )
