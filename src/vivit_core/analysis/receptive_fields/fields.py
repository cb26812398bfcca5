"""Receptive fields of a model's units: by gradients, by noise, and those measured in the data."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vivit_core.analysis.screen import BINS_AT_ONCE, Screen
from vivit_core.data.recording.reader import Recording
from vivit_core.rf import maps as rf_maps
from vivit_core.stimuli.noise import Noise
from vivit_core.system.terminal import track

WHITE = 0.1  # largest correlation between neighboring pixels and successive frames of what counts as white noise


CHUNK_BINS = 4096  # bins of a recording read at once


TOO_FEW = "signal to noise needs two halves; give at least two clips (or trials)"


ROUNDING = 1e-5  # what a contrast of one changes in the log rate by no more than this is single precision's rounding


@dataclass(frozen=True, eq=False)
class Fields:
    """The receptive fields of a recording's units by one method.

    Where a map shows nothing but rounding, its numbers are NaN. A map that is the same all over the frame has no place.
    """

    map_ULHW: np.ndarray  # the linear field
    snr_U: np.ndarray  # peak energy over chance's; 1 is chance
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


class Halves:
    """A mean over samples, in two halves: half of their difference has the noise of the mean, but not its signal."""

    def __init__(self) -> None:
        self.sums: list[Tensor | None] = [None, None]
        self.counts: list[Tensor | float] = [0.0, 0.0]

    def add(self, half: int, total: Tensor, count: Tensor | float) -> None:
        """``count`` broadcasts against ``total``, the sum over that many samples."""
        own = self.sums[half]
        self.sums[half] = total.clone() if own is None else own + total
        self.counts[half] = self.counts[half] + count

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        first, second = self.sums
        if first is None or second is None:
            raise ValueError(TOO_FEW)
        return first / torch.as_tensor(self.counts[0]).clamp_min(1), second / torch.as_tensor(self.counts[1]).clamp_min(
            1
        )

    @property
    def mean(self) -> Tensor:
        first, second = self.means
        return (first + second) / 2

    @property
    def chance(self) -> Tensor:
        first, second = self.means
        return (first - second) / 2


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

    def halves(self, power: float) -> Halves:
        """The averages (U, L, P), divided by the stimulus' power: a pixel's covariance with all others at all lags.

        That of a white stimulus is its variance.
        """
        found = Halves()
        for half, piece in enumerate(self.pieces):
            if not piece:
                continue
            triggered_ULP, seen_VLP, total_U, count_V = piece
            mean_U = total_U / count_V.clamp_min(1)
            found.add(half, (triggered_ULP - mean_U[:, None, None] * seen_VLP) / power, count_V[:, None, None])
        return found


def noise_fields(screen: Screen, noise: Noise, lags: int, progress: bool = True) -> Fields:
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
    """Fields of averages; what chance adds to energy and slopes is taken away."""
    halves = average.halves(power)
    map_ULHW, chance_ULHW = (rearrange(x, "u l (h w) -> u l h w", h=height) for x in (halves.mean, halves.chance))
    pieces = list(zip(*(of_ULHW.split(rf_maps.UNITS_AT_ONCE) for of_ULHW in (map_ULHW, chance_ULHW)), strict=True))
    return Fields.of(
        map_ULHW,
        np.concatenate([rf_maps.peak_over_chance(found, chance) for found, chance in pieces]),
        torch.cat([rf_maps.energy(found) - rf_maps.energy(chance) for found, chance in pieces]),
        torch.cat([rf_maps.structure(found) - rf_maps.structure(chance) for found, chance in pieces]),
        map_ULHW.flatten(1).abs().amax(1) > ROUNDING * average.rate_U,
    )


def gradient_fields(screen: Screen, clips_BTHW: Tensor, lags: int, progress: bool = True) -> Fields:
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
    halves = Halves()
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
    for half, total in enumerate(sums_HULHW):
        halves.add(half, total, float(len(range(half, len(clips_BTHW), 2))))
    seen_U = (energy_UHW.flatten(1).amax(1) / (len(clips_BTHW) * lags)).sqrt() > ROUNDING
    snr_U = rf_maps.peak_over_chance(halves.mean, halves.chance)
    return Fields.of(halves.mean, snr_U, energy_UHW, structure_U3HW, seen_U)


def measured_fields(screen: Screen, recording: Recording, lags: int, progress: bool = True) -> Fields:
    """The fields that the data show, by spike-triggered average on all trials of a recording of white noise."""
    average = TriggeredAverage(lags)
    trials = recording.info.trials
    pieces = [
        (max(start, at - lags + 1), min(at + CHUNK_BINS, stop))
        for start, stop in zip(trials.start.tolist(), trials.stop.tolist(), strict=True)
        for at in range(start, stop, CHUNK_BINS)
    ]
    squares, pixels = 0.0, 0
    for piece, (start, stop) in enumerate(track(pieces, f"measured {recording.recording_id}", disable=not progress)):
        frames_THW = torch.as_tensor(recording.frames(start, stop).astype(np.float32).mean(0))
        stimulus_TP = screen.to_contrast(frames_THW).flatten(1)
        counts_TU = torch.as_tensor(recording.counts(start, stop).astype(np.float32))
        valid_TU = torch.as_tensor(recording.valid(start, stop)).expand(counts_TU.shape).clone()
        average.add(piece % 2, stimulus_TP[None], counts_TU[None] * recording.info.frame_rate_hz, valid_TU[None])
        squares += float(stimulus_TP.square().sum(dtype=torch.float64))
        pixels += stimulus_TP.numel()
    return triggered_fields(average, squares / pixels, screen.frame_size[0])


def is_white(recording: Recording, pairs: int = 64) -> bool:
    """Whether neither neighboring pixels nor successive frames of a recording are correlated."""
    trials = recording.info.trials
    starts = np.concatenate([np.arange(a, b - 1) for a, b in zip(trials.start, trials.stop, strict=True)])
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, pairs).round().astype(int))]
    frames_N2HW = np.stack([recording.frames(int(a), int(a) + 2).astype(np.float64).mean(0) for a in chosen])
    neighbors = [(frames_N2HW[:, 0], frames_N2HW[:, 1])]
    neighbors += [(frames_N2HW[..., 1:, :], frames_N2HW[..., :-1, :]), (frames_N2HW[..., 1:], frames_N2HW[..., :-1])]
    return all(
        min(one.shape) == 0 or (one.std() > 0 and abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < WHITE)
        for one, other in neighbors
    )
