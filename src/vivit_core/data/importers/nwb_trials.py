"""What an NWB file's trials show, where the pictures are numbered: where films begin anew, which parts are repeats, and
which have to stay together.

Shape letters: T bins, P parts of trials.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence

import numpy as np

FILM = 0.9  # of the changes of a film's picture go to the next one
LEAST_GROUPS = 3  # for train, val and test


def restarts(picture_T: np.ndarray) -> np.ndarray:
    """Bins where a film begins anew: where pictures mostly follow each other by number, those whose number falls.

    Nothing where they do not, as where photographs are shown in random order.
    """
    known = np.flatnonzero(picture_T >= 0)  # the empty screen between does not hide that a film begins anew
    change = np.diff(picture_T[known])
    steps = change[change != 0]
    film = len(steps) > 0 and float((steps == 1).mean()) >= FILM
    return known[1:][change < 0] if film else np.zeros(0, np.int64)


def blocks(picture_T: np.ndarray, starts: np.ndarray, length: int) -> np.ndarray:
    """Bins where showings of a film are cut into parts of about ``length`` bins: at the same pictures in each showing,
    wherever it began.

    Parameters
    ----------
    picture_T : number of the picture, or BLANK; at least one is a number.
    starts : bins where a showing begins.
    length : bins.
    """
    known = picture_T >= 0
    last = np.maximum.accumulate(np.where(known, np.arange(len(picture_T)), -1))
    last = np.where(last < 0, np.argmax(known), last)
    place_T = picture_T[last]  # the empty screen belongs to the picture before it
    changes = np.union1d(starts, np.flatnonzero(np.diff(place_T)) + 1)
    stay = np.diff(np.append(changes, len(picture_T)))
    usual = float(np.minimum(stay, 2 * np.median(stay)).mean())  # bins of a picture; long empty screens do not count
    part_T = place_T // max(1, round(length / usual))
    return np.flatnonzero(np.diff(part_T)) + 1


def by_pictures(parts: Sequence[np.ndarray], trial_P: Sequence[int]) -> tuple[list[str], list[str]]:
    """Names and groups of parts of trials, by the pictures that they show.

    Parameters
    ----------
    parts : numbers of the pictures in the bins of each, or BLANK.
    trial_P : the trial of each.

    Returns
    -------
    ids, equal where the same pictures begin at the same bins (the last one may stay for longer); and groups, which hold
    all trials that share a picture.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ids, pairs = list[str](), list[tuple[int, int]]()
    trials = max(trial_P) + 1
    for picture_T, trial in zip(parts, trial_P, strict=True):
        begins = np.append(0, np.flatnonzero(np.diff(picture_T)) + 1)
        digest = hashlib.sha256(np.stack([begins, picture_T[begins]]).astype("<i8").tobytes()).hexdigest()[:12]
        seen = picture_T[picture_T >= 0]
        one = f"picture {seen[0]}" if len(seen) else "no picture"
        ids.append(one if len(begins) == 1 else f"from {one} ({digest})")
        pairs += [(trial, trials + int(number)) for number in np.unique(seen)]
    row, column = np.array(pairs, int).reshape(-1, 2).T
    number = int(column.max(initial=trials - 1)) + 1
    edges = coo_array((np.ones(len(row), bool), (row, column)), (number, number))
    group = connected_components(edges, directed=False)[1]
    shows = set(row.tolist())
    return ids, [f"pictures {group[trial]}" if trial in shows else "no picture" for trial in trial_P]


def kept_together(groups: list[str], ids: list[str], trial_P: list[int]) -> list[str]:
    """What of parts of trials has to be in one split: groups that share no picture, else what begins alike, else
    trials; the first that gives at least three, none of them more than half of all parts."""
    begin = dict(zip(reversed(trial_P), reversed(ids), strict=True))  # each trial's first part
    trials = [f"trial {trial}" for trial in trial_P]
    for kin in (groups, [begin[trial] for trial in trial_P]):
        number = Counter(kin)
        if len(number) >= LEAST_GROUPS and 2 * max(number.values()) <= len(kin):
            return kin
    return trials


def shared_pictures(parts: Sequence[np.ndarray], split_P: np.ndarray) -> list[str]:
    """A line on the pictures of test trials (of val trials where there are none) that training trials show too."""
    held_out = "test" if "test" in split_P else "val"
    train, held = (
        {int(n) for part, own in zip(parts, split_P, strict=True) if own == split for n in np.unique(part[part >= 0])}
        for split in ("train", held_out)
    )
    shared = len(train & held)
    said = f"{shared} of {len(held)} pictures of the {held_out} trials are also shown in training trials"
    return [said] if shared else []
