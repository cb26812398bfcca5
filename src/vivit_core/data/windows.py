"""Which bins a clip covers. Windows are half open ranges of frames and never cross a trial's border."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vivit_core.data.recording import Trials


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


class TrainingWindows:
    """All windows of ``clip_length`` bins inside the training trials, numbered in the order of time but never listed.

    ``windows[i]`` is the first frame of window i. Trials shorter than a clip have none.
    """

    def __init__(self, trials: Trials, clip_length: int) -> None:
        train = trials.of("train")
        self._first = train.start
        self._ends = np.cumsum(np.maximum(train.stop - train.start - clip_length + 1, 0))
        self.short_trials = int((train.stop - train.start < clip_length).sum())

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> int:
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        trial = int(np.searchsorted(self._ends, index, side="right"))
        before = int(self._ends[trial - 1]) if trial else 0
        return int(self._first[trial]) + index - before
