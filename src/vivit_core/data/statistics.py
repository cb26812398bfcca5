"""Means and standard deviations of long arrays, read piece by piece, in which values may be missing.

Shape letters: N rows of a piece, D columns, U units.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from vivit_core.data.recording.format import ABOUT, POSITION
from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingSpec

log = logging.getLogger(__name__)

_STATISTICS_FRAMES = 4096  # frames of a recording, evenly spaced over its training trials, that pixel statistics use
_STATISTICS_BINS = 4096  # bins of counts and behavior read at once
_FADING_BINS, _FADING_NUMBERS = 1024, 2**22  # of traces at least, and about, by which it is told how long they last
_CLEAR_SD = 4.0  # standard deviations over chance
_MOST_KEPT = 0.999  # of a trace from one bin to the next


class Moments:
    """Mean and standard deviation of each column over the values that are there; missing ones (NaN) are counted.

    Parameters
    ----------
    width : columns D.
    """

    def __init__(self, width: int) -> None:
        self.rows = 0
        self.known = np.zeros(width, np.int64)
        self._total, self._squares = np.zeros(width), np.zeros(width)
        self._shift = np.full(width, np.nan)  # a column's first value: keeps squares small beside their differences

    def add(self, values_ND: np.ndarray) -> None:
        values = np.asarray(values_ND, np.float64)
        there = np.isfinite(values)
        first = values[there.argmax(0), np.arange(values.shape[1])] if len(values) else self._shift
        self._shift = np.where(np.isnan(self._shift) & there.any(0), first, self._shift)
        rest = np.where(there, values - self._shift, 0.0)
        self.rows += len(values)
        self.known += there.sum(0)
        self._total += rest.sum(0)
        self._squares += np.square(rest).sum(0)

    @property
    def mean(self) -> np.ndarray:
        """(D,); 0 where no value is there."""
        return self._total / np.maximum(self.known, 1) + np.nan_to_num(self._shift)

    @property
    def std(self) -> np.ndarray:
        """(D,), without correction; 0 for a constant."""
        n = np.maximum(self.known, 1)
        return np.sqrt(np.maximum(self._squares / n - np.square(self._total / n), 0))

    @property
    def missing(self) -> np.ndarray:
        """(D,) share of the rows in which a value is missing."""
        return 1 - self.known / max(1, self.rows)


def constant(mean_D: np.ndarray, std_D: np.ndarray) -> np.ndarray:
    """(D,) bool: where the spread is none, or float32's rounding of the mean."""
    return std_D <= 1e-7 * np.abs(mean_D)


def divisor(mean_D: np.ndarray, std_D: np.ndarray) -> np.ndarray:
    """Standard deviations to divide by: 1 for a constant."""
    return np.where(constant(mean_D, std_D), 1.0, std_D)


def training_statistics(recording: Recording, behavior: Mapping[str, int]) -> RecordingSpec:
    """What a twin must know of a recording; all numbers from its training trials alone, in bounded memory.

    Pixel mean and std come from at most 4096 frames, evenly spaced over the training trials; counts (valid bins) and
    behavior (values that are there) from all bins. A constant has std 1, so that it stays finite when divided by it. A
    behavior that the recording lacks has mean 0 and std 1. How much of a behavior is missing is logged.

    Parameters
    ----------
    recording : with at least one training trial.
    behavior : name -> width, in the order of the batch's columns.
    """
    info, train = recording.info, recording.info.trials.of("train")
    spikes, bins = np.zeros(info.n_units), np.zeros(info.n_units)
    traces = Moments(sum(behavior.values()))
    for start, stop in _pieces(train.start.tolist(), train.stop.tolist()):
        valid = recording.valid(start, stop)
        spikes += np.where(valid, recording.counts(start, stop), 0).sum(0, dtype=np.float64)
        bins += valid.sum(0)
        traces.add(recording.behavior(start, stop, behavior))
    missing = np.add.reduceat(traces.missing, np.cumsum([0, *behavior.values()])[:-1]) if behavior else np.zeros(0)
    for (name, width), share in zip(behavior.items(), missing, strict=True):
        if share > 0:
            log.warning(
                "%s: %.1f %% of behavior %r is missing (NaN) in training trials: its mean stands in",
                recording.path,
                100 * share / width,
                name,
            )

    ends = np.cumsum(train.stop - train.start)
    chosen = np.unique(np.linspace(0, train.n_bins - 1, min(train.n_bins, _STATISTICS_FRAMES)).astype(np.int64))
    trial = np.searchsorted(ends, chosen, side="right")
    places = train.stop[trial] - (ends[trial] - chosen)
    pixels = Moments(1)
    for place in places.tolist():
        pixels.add(recording.frames(place, place + 1).reshape(-1, 1))
    if constant(pixels.mean, pixels.std)[0]:
        log.warning("%s shows one gray in all training trials: nothing can be learnt from its frames", recording.path)
    position = recording.unit_column(POSITION)
    return RecordingSpec(
        recording_id=info.recording_id,
        frame_rate_hz=info.frame_rate_hz,
        frame_shape=info.frame_shape,
        unit_ids=info.unit_ids,
        unit_mean_counts=tuple((spikes / np.maximum(bins, 1)).tolist()),
        pixel_mean=float(pixels.mean[0]),
        pixel_std=float(divisor(pixels.mean, pixels.std)[0]),
        behavior=dict(behavior),
        behavior_mean=tuple(traces.mean.tolist()),
        behavior_std=tuple(divisor(traces.mean, traces.std).tolist()),
        behavior_causal=all(info.behavior_causal.get(name, True) for name in behavior),
        degrees_per_pixel=info.degrees_per_pixel,
        unit_position_um=() if position is None else tuple(map(tuple, position.astype(float).tolist())),
        **{name: getattr(info, name) for name in ABOUT},
    )


def fading_s(recording: Recording) -> float | None:
    """How long a recording's calcium traces last: the time in which they fade to 1/e, s; None where it holds spikes.

    That of the median unit, from autocorrelations over one and two bins in some training trials. Noise of single bins
    does not count. What lasts in the stimulus does.

    Parameters
    ----------
    recording : its file.
    """
    info = recording.info
    if info.kind != "calcium":
        return None
    train = info.trials.of("train")
    left, pieces = max(_FADING_BINS, _FADING_NUMBERS // info.n_units), []
    for start, stop in _pieces(train.start.tolist(), train.stop.tolist()):
        stop = min(stop, start + left)
        left -= stop - start
        if stop - start > 2:
            counts = recording.counts(start, stop).astype(np.float64)
            pieces.append(np.where(recording.valid(start, stop), counts, np.nan))
    if not pieces:
        return 0.0
    known = sum(np.isfinite(piece).sum(0) for piece in pieces)
    mean_U = sum(np.nansum(piece, 0) for piece in pieces) / np.maximum(known, 1)
    rest = [np.nan_to_num(piece - mean_U) for piece in pieces]
    zero_U, one_U, two_U = (
        sum((x[lag:] * x[: len(x) - lag]).sum(0) for x in rest) / sum(len(x) - lag for x in rest) for lag in range(3)
    )
    # A unit whose neighboring bins are hardly more alike than by chance has a trace without memory.
    clear_U = one_U > _CLEAR_SD * zero_U / np.sqrt(np.maximum(known, 1))
    kept_U = np.where(clear_U, two_U / np.where(clear_U, one_U, 1.0), 0.0).clip(0, _MOST_KEPT)
    kept = float(np.median(kept_U[zero_U > 0])) if (zero_U > 0).any() else 0.0
    return -1 / (info.frame_rate_hz * math.log(kept)) if kept > 0 else 0.0


def _pieces(starts: Sequence[int], stops: Sequence[int]) -> Iterator[tuple[int, int]]:
    for first, last in zip(starts, stops, strict=True):
        for start in range(first, last, _STATISTICS_BINS):
            yield start, min(start + _STATISTICS_BINS, last)
