"""Which clip is training sample k."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Literal

import numpy as np

from vivit_core.data.recording import Trials
from vivit_core.data.windows import TrainingWindows

Weighting = Literal["units", "equal", "proportional"]

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
    weighting : how often a recording is drawn: by its "units", "equal", or "proportional" to its training windows.

    Raises
    ------
    ValueError
        Where the seed is negative, or a recording has no training trial of ``clip_length`` bins.

    References
    ----------
    .. [1] Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox).
    """

    def __init__(
        self, seed: int, trials: Sequence[Trials], n_units: Sequence[int], clip_length: int, weighting: Weighting
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
        weights = {"units": list(n_units), "equal": [1] * len(trials), "proportional": [len(w) for w in self.windows]}
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
