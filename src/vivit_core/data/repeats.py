"""Which trials show the very same: the stimulus and the behavior beside it. A model that sees nothing else predicts the
same in all of them, so that it is asked once. And which stimuli leak from one split into another."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from vivit_core.data.clips import Window
from vivit_core.data.recording.format import SPLITS, Trials
from vivit_core.data.recording.reader import Recording

PIECE = 512  # bins read at once
NAMED = 5  # stimuli that a line names


def grouped(
    recording: Recording, behavior: Mapping[str, int], split: str, windows: Sequence[Window]
) -> list[list[Window]]:
    """Windows of a split, those that show the same side by side, in the order of each group's first.

    What is the same is told by content: a stimulus that is repeated under one id may have been seen with another
    movement of the eye. Trials whose stimulus is shown once are not read.

    Parameters
    ----------
    recording : as the model sees it.
    behavior : the behaviors that the model sees, and their widths.
    split, windows : and its :func:`clips.evaluation_windows`.
    """
    trials = recording.info.trials.of(split)
    first_trial = alike(recording, behavior, trials)
    groups: dict[tuple[int, ...], list[Window]] = {}
    for window in windows:
        trial = int(np.searchsorted(trials.start, window.start, side="right")) - 1
        place = (edge - int(trials.start[trial]) for edge in window)
        groups.setdefault((first_trial[trial], *place), []).append(window)
    return list(groups.values())


def alike(recording: Recording, behavior: Mapping[str, int], trials: Trials) -> list[int]:
    """For each trial the first one that shows the same."""
    first = list(range(len(trials.start)))
    for shown in trials.by_stimulus().values():
        seen: dict[bytes, int] = {}
        for trial in shown if len(shown) > 1 else ():
            shows = content(recording, behavior, int(trials.start[trial]), int(trials.stop[trial]))
            first[trial] = seen.setdefault(shows, int(trial))
    return first


def content(recording: Recording, behavior: Mapping[str, int], first: int, last: int) -> bytes:
    """A digest of the frames of some bins and of the behavior beside them, read a piece at a time."""
    digest = hashlib.blake2b()
    for start in range(first, last, PIECE):
        stop = min(start + PIECE, last)
        for values in (recording.frames(start, stop), recording.behavior(start, stop, behavior)):
            digest.update(np.ascontiguousarray(values).tobytes())
    return digest.digest()


def leak(trials: Trials) -> str | None:
    """What to say of a recording whose repeats of a stimulus lie in several splits; None where each has one split."""
    shared = trials.in_several_splits
    if not shared:
        return None
    named = ", ".join(list(shared)[:NAMED]) + (", …" if len(shared) > NAMED else "")
    splits = [split for split in SPLITS if any(split in found for found in shared.values())]
    return (
        f"shows {len(shared)} of {len(trials.by_stimulus())} stimuli ({named}) in trials of more than one split "
        f"({', '.join(splits)}): what is scored there was seen before. Put all trials of a stimulus into one split "
        "(trials/split)"
    )
