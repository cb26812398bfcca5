"""A recording as a twin sees it: at the model's rate, with the behaviors and pixels that transforms make.

Shape letters: T bins of the model, N bins of the file, D behavior numbers, C channels, H W pixels, U units, M moments
of the truth about context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np

from vivit_core.data.clips import Some, handful
from vivit_core.data.recording.format import ContextWeights, Trials, has_bins, is_rate
from vivit_core.data.recording.reader import Recording
from vivit_core.data.transforms import BehaviorTransform, FrameTransform, TargetTransform, Transform, chain, widths

STEPS = 1000  # a ratio of rates is a fraction with at most this denominator
CLOSE = 0.005  # a ratio that is so near to a whole number, as a fraction, counts as one: screens have 59.94 or 60.02 Hz


def ratio_of(file_hz: float, model_hz: float) -> Fraction:
    """Bins of a file in a bin of the model."""
    if file_hz < model_hz:
        return 1 / ratio_of(model_hz, file_hz)
    ratio, whole = file_hz / model_hz, round(file_hz / model_hz)
    return Fraction(whole) if abs(ratio - whole) <= CLOSE * whole else Fraction(ratio).limit_denominator(STEPS)


class Clock:
    """Which bins of the file make a bin of the model.

    A trial's first bins begin together; bin j of a trial covers the time from j to j + 1 periods of the model. What is
    left at a trial's end, shorter than a period, is dropped.

    Parameters
    ----------
    trials, n_frames, frame_rate_hz : of the file.
    wanted_hz : the model's rate.

    Raises
    ------
    ValueError
        Where the model is faster than the file, or has bins longer than the trials.
    """

    def __init__(self, trials: Trials, n_frames: int, frame_rate_hz: float, wanted_hz: float) -> None:
        ratio = ratio_of(frame_rate_hz, wanted_hz)
        if ratio < 1:
            raise ValueError(
                f"it has {frame_rate_hz:g} Hz and the model {wanted_hz:g} Hz; counts cannot be made finer: "
                f"set data.frame_rate_hz to {frame_rate_hz:g} or less"
            )
        self.p, self.q = ratio.numerator, ratio.denominator  # p bins of the file take as long as q of the model
        self.frame_rate_hz = frame_rate_hz * self.q / self.p
        self.n_frames = n_frames * self.q // self.p
        start = trials.start * self.q // self.p
        stop = start + (trials.stop - trials.start) * self.q // self.p
        some = stop > start
        if not some.any():
            raise ValueError(f"no trial of it is as long as a bin at {wanted_hz:g} Hz; set a higher data.frame_rate_hz")
        self.trials = Trials(start[some], stop[some], trials.stimulus_id[some], trials.split[some])
        self._file_start = trials.start[some]
        self._file_stop = trials.stop[some]

    @property
    def same(self) -> bool:
        return self.p == self.q

    def edges(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the bins start … stop-1 begin and end, in q-ths of the file's bins from its first one."""
        bins = np.arange(start, stop)
        last = np.searchsorted(self.trials.start, bins, side="right") - 1
        inside = (last >= 0) & (bins < self.trials.stop[last])
        begin = np.where(inside, self._file_start[last], 0)
        local = bins - np.where(inside, self.trials.start[last], 0)
        low = begin * self.q + local * self.p
        return low, low + self.p

    def newest(self, start: int, stop: int) -> np.ndarray:
        """The file's newest frame that had begun by the end of each bin: what the bin shows."""
        return -(-self.edges(start, stop)[1] // self.q) - 1

    def holding(self, file_bins: np.ndarray) -> np.ndarray:
        """The bin of the model in which each of these bins of the file begins; its trial's last one for a remainder."""
        trial = np.clip(np.searchsorted(self._file_start, file_bins, side="right") - 1, 0, None)
        held = self.trials.start[trial] + (file_bins - self._file_start[trial]) * self.q // self.p
        return np.minimum(held, self.trials.stop[trial] - 1)


def totals(values_ND: np.ndarray, first: int, low: np.ndarray, high: np.ndarray, q: int) -> np.ndarray:
    """Sums over low/q … high/q of the file's bins, a bin that lies half inside counting half: (T, D).

    Parameters
    ----------
    values_ND, first : the file's bins from ``first`` on.
    low, high, q : where each sum begins and ends, in parts of a bin of which q make one.
    """
    left, right = low // q - first, -(-high // q) - first  # all bins that are touched
    sums = segments(values_ND, left, right)
    before = (low - (left + first) * q) / q
    after = ((right + first) * q - high) / q
    if before.any() or after.any():
        sums = sums - before[:, None] * values_ND[left] - after[:, None] * values_ND[right - 1]
    return sums


def segments(values_ND: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Sums of the rows left … right-1, for each pair; in an order that does not depend on the other pairs."""
    if len(set((right - left).tolist())) == 1:
        width = int(right[0] - left[0])
        return sum((values_ND[left + i] for i in range(1, width)), start=values_ND[left])
    ends = np.stack([left, right], 1).ravel()
    padded = np.concatenate([values_ND, values_ND[:1]])  # reduceat takes no index behind the end
    return np.add.reduceat(padded, ends, axis=0)[::2]


def used_trials(clock: Clock, most_trials: int | None, some: Some | None) -> Trials:
    """The trials of a recording that are used, in the model's bins; ``most_trials`` and ``some`` are those of
    :class:`ResampledRecording`."""
    used = clock.trials if most_trials is None else handful(clock.trials, most_trials)
    return used if some is None else some.of(used, clock.frame_rate_hz)


class ResampledRecording(Recording):
    """A recording at the model's rate, with transforms. Everything is computed when read, window by window.

    Time comes first: counts of pooled bins are summed (shared by overlap where the ratio of rates is no whole number,
    which makes them fractional), the newest frame stands for the pooled ones, behavior is the mean of the bins that
    ended in the pooled time (a bin stores what was known at its end; NaN is a missing value, and left out), and a bin
    is valid where all it overlaps are. Then the transforms, in the model's bins, never across a trial's border.

    Parameters
    ----------
    path, recording_id, unit_ids : of :class:`Recording`.
    frame_rate_hz : the model's; None for the file's own.
    transforms : name -> transform. A :class:`BehaviorTransform` makes the behavior of its name.
    most_trials : of each split, the others being as if they were not there (:func:`clips.handful`); None for all.
    some : which units are used, and which training trials of those; None for all.
    chosen : which units are used, from their ids, in the place of what ``some`` says.

    Attributes
    ----------
    absent : name -> numbers that stand in for a behavior which the recording lacks; any other is refused.

    Raises
    ------
    ValueError
        Where the model is faster than the file.
    """

    def __init__(
        self,
        path: str | Path,
        frame_rate_hz: float | None = None,
        transforms: Mapping[str, Transform] | None = None,
        recording_id: str | None = None,
        unit_ids: Sequence[str] | None = None,
        most_trials: int | None = None,
        some: Some | None = None,
        chosen: Callable[[tuple[str, ...]], tuple[str, ...]] | None = None,
    ) -> None:
        super().__init__(path, recording_id, unit_ids, chosen if chosen or some is None else some.units_of)
        stored, self._transforms = self.info, dict(transforms or {})
        # What transforms go by: the same of all recordings, where rates differ a little and count as equal.
        self.model_hz = frame_rate_hz or stored.frame_rate_hz
        try:
            self.clock = Clock(stored.trials, stored.n_frames, stored.frame_rate_hz, self.model_hz)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self.stored = stored
        self.absent: dict[str, np.ndarray] = {}
        self._pixels = [t for t in self._transforms.values() if isinstance(t, FrameTransform)]
        self._targets = [t for t in self._transforms.values() if isinstance(t, TargetTransform)]
        trials = self.clock.trials
        self._borders = np.unique(np.concatenate([[0, self.clock.n_frames], trials.start, trials.stop]))
        known = widths(self._transforms, stored.behavior)
        self.info = replace(
            stored,
            frame_rate_hz=self.clock.frame_rate_hz,
            n_frames=self.clock.n_frames,
            trials=used_trials(self.clock, most_trials, some),
            frame_dtype="float32" if self._pixels else stored.frame_dtype,
            behavior=known,
            behavior_causal={name: self._causal(name) for name in known},
        )

    def trials_left_out(self, split: str) -> int:
        """Trials of a split that the file has, and that are not used (``most_trials``)."""
        return len(self.clock.trials.of(split)) - len(self.info.trials.of(split))

    def _causal(self, name: str) -> bool:
        """Whether nothing on a behavior's way from the file looks ahead."""
        made = chain(self._transforms, name)
        ahead = [self._looks_ahead(step) for step in made]
        last = self._transforms[made[-1]] if made else None
        source = last.source if isinstance(last, BehaviorTransform) else name
        return not any(ahead) and self.stored.behavior_causal.get(source, True)

    def _looks_ahead(self, name: str) -> bool:
        """Whether the transform of a behavior does; refuses one that the rate does not allow by its key."""
        node = self._transforms[name]
        assert isinstance(node, BehaviorTransform)
        try:
            return node.reach(self.model_hz)[1] > 0
        except ValueError as error:
            raise ValueError(f"{self.path}: data.transforms.{name}: {error}") from None

    def frames(self, start: int, stop: int) -> np.ndarray:
        """(C, T, H, W), as stored, or as the transforms of pixels leave it."""
        if self.clock.same:
            frames = super().frames(start, stop)
        else:
            self._check_inside(start, stop, self.info.n_frames)
            newest = self.clock.newest(start, stop)
            first, last = (int(newest.min()), int(newest.max()) + 1) if len(newest) else (0, 0)
            frames = super().frames(first, last)[:, newest - first]
        for transform in self._pixels:
            frames = transform.pixels(frames)
        return frames

    def counts(self, start: int, stop: int) -> np.ndarray:
        """(T, U) float32, as measured."""
        if self.clock.same:
            return super().counts(start, stop)
        low, high, first, last = self._span(start, stop)
        return totals(super().counts(first, last), first, low, high, self.clock.q).astype(np.float32)

    def targets(self, start: int, stop: int) -> np.ndarray:
        """(T, U) float32: what training aims at, which is what was measured unless a transform says otherwise."""
        if not self._targets:
            return self.counts(start, stop)
        self._check_inside(start, stop, self.info.n_frames)
        rate_hz = self.model_hz
        past, ahead = np.sum([transform.reach(rate_hz) for transform in self._targets], 0).tolist()
        pieces = [np.zeros((0, self.info.n_units), np.float32)]
        for low, high, trial_low, trial_high in self._pieces(start, stop):
            first, last = max(trial_low, low - past), min(trial_high, high + ahead)
            made, valid = self.counts(first, last), self.valid(first, last)
            for transform in self._targets:
                made = transform.targets(made, valid, rate_hz)
            pieces.append(made[low - first : high - first])
        return np.concatenate(pieces)

    def valid(self, start: int, stop: int) -> np.ndarray:
        """(T, U) bool; true where every bin of the file that lies in it is."""
        if self.clock.same:
            return super().valid(start, stop)
        low, high, first, last = self._span(start, stop)
        left, right = low // self.clock.q - first, -(-high // self.clock.q) - first
        broken = (~super().valid(first, last)).astype(np.int32)
        return segments(broken, left, right) == 0

    def _stand_in(self, name: str, width: int) -> np.ndarray:
        if name not in self.absent:
            raise ValueError(
                f"{self.path} has no behavior {name!r}; it has {', '.join(self.info.behavior) or 'none'}. "
                "vivit_core.analysis.recording.load_recording(FILE, CHECKPOINT) opens it as a twin sees it, with what "
                "its data.transforms make and a mean for what is lacking; elsewhere give transforms={…} that make it, "
                "or set what stands in for it in recording.absent"
            )
        return self.absent[name].astype(np.float32)

    def truth(self, name: str = "rate", start: int = 0, stop: int | None = None) -> np.ndarray:
        """What the simulator knows; rates in expected counts of a bin of the model, shifts in their mean over it."""
        if not has_bins(name) or self.clock.same:
            return super().truth(name, start, stop)
        low, high, first, last = self._span(start, self.info.n_frames if stop is None else stop)
        stored = super().truth(name, first, last)
        summed = totals(stored, first, low, high, self.clock.q)
        if not is_rate(name):
            summed /= totals(np.ones_like(stored), first, low, high, self.clock.q)
        return summed.astype(np.float32)

    def context_weights(self) -> ContextWeights | None:
        """Where the units' contexts lie at some moments, in bins of the model; None where nobody knows it. Moments of
        trials that are not used (``most_trials``) are left out."""
        found = super().context_weights()
        if found is None:
            return None
        bins_M, trials = self.clock.holding(found.bins_M), self.info.trials
        trial_M = np.searchsorted(trials.start, bins_M, side="right") - 1
        used_M = (trial_M >= 0) & (bins_M < trials.stop[trial_M])
        return replace(
            found,
            bins_M=bins_M[used_M],
            weights_UMRC=found.weights_UMRC[:, used_M],
            shares_UMRC=found.shares_UMRC[:, used_M],
            lag_shares_UML=found.lag_shares_UML[:, used_M],
        )

    def _span(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, int, int]:
        """Begin and end of each bin, in q-ths of the file's bins, and the range of the file that holds them."""
        self._check_inside(start, stop, self.info.n_frames)
        low, high = self.clock.edges(start, stop)
        if not len(low):
            return low, high, 0, 0
        return low, high, int(low.min() // self.clock.q), int(-(-high.max() // self.clock.q))

    def _trace(self, name: str, start: int, stop: int, stored: bool = False) -> np.ndarray:
        """One behavior, stored or made."""
        node = self._transforms.get(name)
        if stored or not isinstance(node, BehaviorTransform):
            return self._stored_trace(name, start, stop)
        rate_hz = self.model_hz
        past, ahead = node.reach(rate_hz)
        pieces = [np.zeros((0, self.info.behavior[name]), np.float32)]
        for low, high, trial_low, trial_high in self._pieces(start, stop):
            first, last = max(trial_low, low - past), min(trial_high, high + ahead)
            made = node(self._trace(node.source, first, last, stored=node.source == name), rate_hz)
            pieces.append(made[low - first : high - first])
        return np.concatenate(pieces)

    def _stored_trace(self, name: str, start: int, stop: int) -> np.ndarray:
        if self.clock.same:
            return self._slice(f"behavior/{name}", start, stop).astype(np.float32, copy=False)
        low, high, first, last = self._span(start, stop)
        values = self._slice(f"behavior/{name}", first, last).astype(np.float32, copy=False)
        left, right = low // self.clock.q - first, high // self.clock.q - first  # bins that ended in it: one or more
        there = np.isfinite(values)
        number = segments(there.astype(np.float32), left, right)
        total = segments(np.where(there, values, 0), left, right)
        return np.where(number > 0, total / np.maximum(number, 1), np.nan).astype(np.float32)

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """The parts of a range by trial, and each one's trial; what lies between two trials is one for itself."""
        first = int(np.searchsorted(self._borders, start, side="right")) - 1
        while start < stop:
            low, high = int(self._borders[first]), int(self._borders[first + 1])
            yield start, min(stop, high), low, high
            start, first = high, first + 1
