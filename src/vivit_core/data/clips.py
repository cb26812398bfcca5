"""Where a clip is cut: which bins it covers (:mod:`loaders` reads them).

Windows are half open ranges of frames and never cross a trial's border.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal, NamedTuple

import numpy as np

from vivit_core.data.recording.format import Trials


class Window(NamedTuple):
    """A clip for evaluation: its frames start … stop-1, of which score_start … score_stop-1 are scored."""

    start: int
    stop: int
    score_start: int
    score_stop: int


def evaluation_windows(trials: Trials, split: str, clip_length: int, burn_in: int) -> list[Window]:
    """Windows that score each bin of a split once, with at least ``burn_in`` bins of its own trial before it.

    Windows of a trial overlap by ``burn_in``; the last one is shifted back so that it too has ``clip_length`` bins. A
    trial shorter than that is one shorter window. The first ``burn_in`` bins of a trial are scored nowhere. With
    ``burn_in = clip_length - 1`` each window scores its newest bin alone.

    Parameters
    ----------
    trials : the trials of a recording.
    split : "train", "val" or "test".
    clip_length, burn_in : in bins; ``0 <= burn_in < clip_length``.

    Returns
    -------
    list of Window
        In the order of time.

    Raises
    ------
    ValueError
        Where ``burn_in`` leaves nothing of a clip.
    """
    if not 0 <= burn_in < clip_length:
        raise ValueError(
            f"a clip of {clip_length} bins cannot leave out its first {burn_in}; "
            f"burn_in must be in 0 … {clip_length - 1}"
        )
    windows = []
    for first, last in zip(*_bounds(trials, split), strict=True):
        scored = first + burn_in  # bins of the trial before this one are done
        while scored < last:
            stop = min(scored - burn_in + clip_length, last)
            windows.append(Window(max(first, stop - clip_length), stop, scored, stop))
            scored = stop
    return windows


def _bounds(trials: Trials, split: str) -> tuple[list[int], list[int]]:
    chosen = trials.of(split)
    return chosen.start.tolist(), chosen.stop.tolist()


def ends_of_trials(trials: Trials, split: str, max_frames: int, least: int) -> list[tuple[int, int]]:
    """The ends of a split's trials, the same part of each, so that together they have at most ``max_frames``.

    Where that would leave less than ``least`` frames of a trial, fewer trials, spread evenly over the recording, keep
    more of theirs.
    """
    chosen = trials.of(split)
    lengths = chosen.stop - chosen.start
    if lengths.sum() > max_frames:
        most = max(1, int(max_frames // min(least, float(lengths.mean()))))
        rows = np.unique(np.linspace(0, len(lengths) - 1, min(most, len(lengths))).astype(int))
        chosen = Trials(chosen.start[rows], chosen.stop[rows], chosen.stimulus_id[rows], chosen.split[rows])
        lengths = lengths[rows]
    part = min(1.0, max_frames / max(1, int(lengths.sum())))
    kept = np.maximum(1, (lengths * part).astype(int))
    return list(zip((chosen.stop - kept).tolist(), chosen.stop.tolist(), strict=True))


def handful(trials: Trials, most: int) -> Trials:
    """At most so many trials of each split: two that repeat a stimulus, where there are, and then the longest."""
    kept: list[int] = []
    for split in dict.fromkeys(trials.split.tolist()):
        rows = np.flatnonzero(trials.split == split)
        longest = rows[np.argsort(trials.start[rows] - trials.stop[rows], kind="stable")].tolist()
        shown: dict[str, list[int]] = {}
        for row in longest:
            shown.setdefault(str(trials.stimulus_id[row]), []).append(row)
        pair = next((repeats[:2] for repeats in shown.values() if len(repeats) > 1), [])
        kept += list(dict.fromkeys(pair + longest))[:most]
    rows = np.sort(np.array(kept, np.int64))
    return Trials(trials.start[rows], trials.stop[rows], trials.stimulus_id[rows], trials.split[rows])


@dataclass(frozen=True)
class Some:
    """Which of a recording's units are used, and which of its training trials; trials of other splits all stay.

    Trials are drawn in an order that follows from the seed alone until the minutes are full, and the last is cut at its
    end. So what a smaller number takes lies inside what a larger one takes.

    Parameters
    ----------
    minutes : at most; None for all.
    seed : of the order.
    units : at most, drawn in the same way; None for all.
    """

    minutes: float | None
    seed: int
    units: int | None

    def units_of(self, unit_ids: tuple[str, ...]) -> tuple[str, ...]:
        """The units that are used, in the recording's order."""
        if self.units is None or self.units >= len(unit_ids):
            return unit_ids
        drawn = np.random.default_rng(self.seed).permutation(len(unit_ids))[: self.units]
        return tuple(unit_ids[unit] for unit in sorted(drawn.tolist()))

    def of(self, trials: Trials, frame_rate_hz: float) -> Trials:
        """The trials that are used; all of them where the recording has no more minutes.

        Parameters
        ----------
        trials : of a recording.
        frame_rate_hz : of its bins.
        """
        if self.minutes is None:
            return trials
        stop = trials.stop.copy()
        kept = trials.split != "train"
        left = max(1, round(self.minutes * 60 * frame_rate_hz))
        for row in np.random.default_rng(self.seed).permutation(np.flatnonzero(~kept)).tolist():
            stop[row] = min(stop[row], trials.start[row] + left)
            left -= int(stop[row] - trials.start[row])
            kept[row] = True
            if left == 0:
                break
        return Trials(trials.start[kept], stop[kept], trials.stimulus_id[kept], trials.split[kept])


class TrainingWindows:
    """All windows of ``clip_length`` bins inside the training trials, numbered in the order of time but never listed.

    ``windows[i]`` is the first frame of window i. Trials shorter than a clip have none; ``n_bins`` counts the bins of
    the others.
    """

    def __init__(self, trials: Trials, clip_length: int) -> None:
        train = trials.of("train")
        self._first = train.start
        lengths = train.stop - train.start
        self._ends = np.cumsum(np.maximum(lengths - clip_length + 1, 0))
        self.n_bins = int(lengths[lengths >= clip_length].sum())

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        trial = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[trial - 1]) if trial else 0
        return int(self._first[trial]) + index - before


def by_subject(n_units: Sequence[int], subjects: Sequence[str]) -> list[int]:
    """Weights of recordings by which each subject gives the same number of (bin, unit) pairs: one over all units of its
    subject, times what makes whole numbers of them. A recording without one is a subject of its own."""
    units: dict[str | int, int] = {}
    whose = [subject or index for index, subject in enumerate(subjects)]
    for subject, number in zip(whose, n_units, strict=True):
        units[subject] = units.get(subject, 0) + number
    whole = math.lcm(*units.values())
    return [whole // units[subject] for subject in whose]


Weighting = Literal["units", "equal", "proportional", "subjects"]
_WORD = 1 << 64
_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio


class TrainingSampler:
    """Training sample k, as a pure function of (seed, k).

    So ranks and workers may take any share of the samples, and to resume is to know one integer. The start is uniform
    over all windows of all training trials, from a counter-based generator [1]_. The recording follows the additive
    golden-ratio sequence, whose any stretch visits the recordings in proportion to their weights: a batch holds clips
    of several.

    Parameters
    ----------
    seed : not negative; 0 is a seed like any other.
    trials : the trials of each recording.
    n_units : the number of units of each recording.
    clip_length : in bins.
    weighting : how often a recording is drawn: by its "units", "equal", "proportional" to its training bins (those of
        trials that hold a clip), or by "subjects": so that each subject has the same share of the (bin, unit) pairs of
        which the loss is a mean, however many recordings and units it has, and each unit of a subject an equal one.
    subjects : whose recording each is; an empty one is a subject of its own.

    Raises
    ------
    ValueError
        Where the seed is negative, or a recording has no training trial of ``clip_length`` bins.

    References
    ----------
    .. [1] Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox).
    """

    def __init__(
        self,
        seed: int,
        trials: Sequence[Trials],
        n_units: Sequence[int],
        clip_length: int,
        weighting: Weighting,
        subjects: Sequence[str],
    ) -> None:
        if not 0 <= seed < _WORD:
            raise ValueError(f"seed is {seed}; give an integer from 0 to 2^64-1")
        self.seed = seed
        self.windows = [TrainingWindows(t, clip_length) for t in trials]
        for index, windows in enumerate(self.windows):
            if not len(windows):
                longest = max((trials[index].of("train").stop - trials[index].of("train").start).tolist(), default=0)
                raise ValueError(
                    f"recording {index} has no training trial of {clip_length} bins (its longest has {longest}); "
                    "shorten clip_length or leave the recording out"
                )
        weights: dict[str, list[int]] = {
            "units": list(n_units),
            "equal": [1] * len(trials),
            "proportional": [windows.n_bins for windows in self.windows],
            "subjects": by_subject(n_units, subjects),
        }
        if weighting not in weights:
            raise ValueError(f"weighting is {weighting!r}; choose one of {', '.join(weights)}")
        total = sum(weights[weighting])
        self._bounds = [_WORD * end // total for end in accumulate(weights[weighting])]  # exact, in integers
        self._offset = int(np.random.Philox(key=seed, counter=1 << 255).random_raw())

    def sample(self, k: int) -> tuple[int, int]:
        """Index of the recording and first frame of the clip."""
        recording = bisect_right(self._bounds, (self._offset + k * _GOLDEN) % _WORD)
        windows = self.windows[recording]
        raw = int(np.random.Philox(key=self.seed, counter=k).random_raw())
        return recording, windows[raw * len(windows) >> 64]

    def generator(self, k: int) -> np.random.Generator:
        """Random numbers for whatever else sample k needs; none of them decides which clip it is."""
        return np.random.Generator(np.random.Philox(key=self.seed, counter=(1 << 192) + (k << 64)))
