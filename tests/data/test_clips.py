"""Clips: which windows there are, and which of them a training samples."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivit_core.data.clips import (
    TrainingSampler,
    TrainingWindows,
    Weighting,
    Window,
    ends_of_trials,
    evaluation_windows,
    handful,
)
from vivit_core.data.recording.format import Trials

TRIALS = [
    Trials([0, 50], [50, 80], [0, 1], ["train", "train"]),
    Trials([0, 400], [400, 500], [0, 1], ["train", "val"]),
    Trials([0, 40, 60], [40, 60, 90], [0, 1, 2], ["test", "train", "train"]),
]
UNITS = [10, 30, 60]


def test_few_trials_are_the_longest_of_each_split_and_two_repeats() -> None:
    stop = np.cumsum([5, 9, 7, 4, 6, 4, 8, 3])
    split = np.array(["train", "train", "test", "test", "train", "test", "test", "test"])
    trials = Trials(np.append(0, stop[:-1]), stop, np.array(list("abcdefdg")), split)
    trials.stimulus_id[5] = trials.stimulus_id[6]  # d is shown by trials 3, 5 and 6, of 4, 4 and 8 bins
    for most, kept in ((1, [1, 6]), (2, [1, 3, 4, 6]), (3, [0, 1, 2, 3, 4, 6]), (8, list(range(8)))):
        made = handful(trials, most)
        assert made.start.tolist() == trials.start[kept].tolist() and made.stop.tolist() == trials.stop[kept].tolist()
        assert made.split.tolist() == split[kept].tolist()
        assert made.stimulus_id.tolist() == trials.stimulus_id[kept].tolist()


def sampler(seed: int = 0, weighting: Weighting = "equal") -> TrainingSampler:
    return TrainingSampler(seed, TRIALS, UNITS, 16, weighting, [""] * 3)


def test_a_sample_is_a_function_of_seed_and_number() -> None:
    one, other = sampler(), sampler()
    forward = [one.sample(k) for k in range(200)]
    assert [other.sample(k) for k in reversed(range(200))] == forward[::-1]
    assert [one.sample(k) for k in (10**12, 3)] == [other.sample(k) for k in (10**12, 3)]
    assert len(set(forward)) > 100
    for seed in (1, 2):
        assert [sampler(seed).sample(k) for k in range(200)] != forward


def test_clips_stay_inside_training_trials() -> None:
    for recording, start in map(sampler().sample, range(2000)):
        trials = TRIALS[recording].of("train")
        assert ((trials.start <= start) & (start + 16 <= trials.stop)).sum() == 1


def test_starts_are_uniform_over_all_windows() -> None:
    starts = np.array([start for recording, start in map(sampler().sample, range(30000)) if recording == 0])
    windows = [*range(35), *range(50, 65)]
    counts = np.array([(starts == w).sum() for w in windows])
    assert counts.sum() == len(starts)
    expected = len(starts) / len(windows)
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 85.4  # 0.1 % of 49 degrees of freedom


@pytest.mark.parametrize(
    ("weighting", "weights"), [("equal", [1, 1, 1]), ("units", [10, 30, 60]), ("proportional", [50 + 30, 400, 20 + 30])]
)
def test_recordings_are_drawn_by_their_weights(weighting: Weighting, weights: list[int]) -> None:
    drawn = np.array([sampler(3, weighting).sample(k)[0] for k in range(3000)])
    shares = np.array(weights) / sum(weights)
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), shares, atol=0.005)
    for first in range(0, 2900, 37):  # any stretch of 64, not only the long run
        np.testing.assert_allclose(np.bincount(drawn[first : first + 64], minlength=3) / 64, shares, atol=0.06)


def test_short_trials_are_drawn_as_often_as_a_long_one_of_as_many_bins() -> None:
    """However few places there are in them at which a clip begins; but trials too short for a clip do not count."""
    starts = np.arange(20) * 20
    short = Trials(starts, starts + 20, starts, ["train"] * 20)
    long = Trials([0, 400], [400, 415], [0, 1], ["train", "train"])
    draws = TrainingSampler(0, [short, long], [5, 5], 20, "proportional", ["", ""])
    assert sum(draws.sample(k)[0] for k in range(2000)) == pytest.approx(1000, abs=5)


def test_no_subject_outweighs_the_others() -> None:
    """One mouse of two recordings, one of a single small one, and a recording that names none."""
    trials, units, subjects = [*TRIALS, TRIALS[0]], [10, 30, 5, 20], ["m1", "m1", "m2", ""]
    draws = TrainingSampler(3, trials, units, 16, "subjects", subjects)
    clips = np.bincount([draws.sample(k)[0] for k in range(30000)]) / 30000
    pairs = clips * units  # of each recording in the loss, up to a factor
    np.testing.assert_allclose([pairs[:2].sum(), pairs[2], pairs[3]] / pairs.sum(), [1 / 3] * 3, atol=0.005)
    assert clips[0] == pytest.approx(clips[1], abs=0.001)  # so that each unit of a subject counts alike


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        sampler(-1)
    with pytest.raises(ValueError, match=r"recording 2 has no training trial of 31 bins \(its longest has 30\)"):
        TrainingSampler(0, TRIALS, UNITS, 31, "equal", [""] * 3)
    with pytest.raises(ValueError, match="weighting is 'unit'"):
        sampler(0, "unit")  # type: ignore[arg-type]


def trials_of(lengths: list[int], gaps: list[int], splits: list[str]) -> Trials:
    start, place = [], 0
    for length, gap in zip(lengths, gaps, strict=True):
        start.append(place + gap)
        place += gap + length
    return Trials(start, [s + n for s, n in zip(start, lengths, strict=True)], list(range(len(lengths))), splits)


some_trials = st.lists(
    st.tuples(st.integers(1, 40), st.integers(0, 3), st.sampled_from(["train", "val", "test"])), min_size=1, max_size=6
).map(lambda rows: trials_of(*map(list, zip(*rows, strict=True))))


def test_windows_by_hand() -> None:
    trials = Trials([0, 100, 120], [100, 117, 123], ["a", "b", "c"], ["test", "test", "test"])
    assert evaluation_windows(trials, "test", 40, 10) == [
        Window(0, 40, 10, 40),
        Window(30, 70, 40, 70),
        Window(60, 100, 70, 100),
        Window(100, 117, 110, 117),  # shorter than a clip; the 3 bins after it are all burn-in
    ]
    assert evaluation_windows(trials, "test", 50, 10)[:3] == [
        Window(0, 50, 10, 50),
        Window(40, 90, 50, 90),
        Window(50, 100, 90, 100),
    ]
    assert evaluation_windows(trials, "val", 40, 10) == []


@given(some_trials, st.integers(1, 20), st.integers(0, 19))
def test_each_bin_is_scored_once_with_its_context(trials: Trials, clip_length: int, burn_in: int) -> None:
    if burn_in >= clip_length:
        with pytest.raises(ValueError, match="burn_in"):
            evaluation_windows(trials, "val", clip_length, burn_in)
        return
    scored = np.zeros(int(trials.stop[-1]), int)
    wanted = np.zeros_like(scored)
    val = trials.of("val")
    for start, stop in zip(val.start, val.stop, strict=True):
        wanted[start + burn_in : stop] = 1
    windows = evaluation_windows(trials, "val", clip_length, burn_in)
    for w in windows:
        scored[w.score_start : w.score_stop] += 1
        trial = np.flatnonzero((val.start <= w.start) & (w.stop <= val.stop))
        assert len(trial) == 1
        length = val.stop[trial[0]] - val.start[trial[0]]
        assert w.stop - w.start == min(clip_length, length)
        assert w.start + burn_in <= w.score_start < w.score_stop <= w.stop
    np.testing.assert_array_equal(scored, wanted)
    assert windows == sorted(windows)


@given(some_trials, st.integers(1, 25))
def test_training_windows_are_all_windows(trials: Trials, clip_length: int) -> None:
    expected = [
        first
        for start, stop, split in zip(trials.start, trials.stop, trials.split, strict=True)
        if split == "train"
        for first in range(start, stop - clip_length + 1)
    ]
    windows = TrainingWindows(trials, clip_length)
    assert [windows[i] for i in range(len(windows))] == expected
    with pytest.raises(IndexError):
        windows[len(windows)]


@given(st.lists(st.integers(1, 400), min_size=1, max_size=40), st.integers(50, 3000), st.integers(1, 200))
def test_ends_of_trials_fit_and_none_is_too_short(lengths: list[int], max_frames: int, least: int) -> None:
    stop = np.cumsum(np.array(lengths) + 3)
    start = stop - lengths
    trials = Trials(start, stop, start, ["train"] * len(lengths))
    ends = ends_of_trials(trials, "train", max_frames, least)
    kept = np.array([b - a for a, b in ends])
    assert {b for _, b in ends} <= set(stop.tolist()) and ends == sorted(ends)
    assert kept.sum() <= max(max_frames + len(ends), 1)
    if sum(lengths) <= max_frames:
        assert kept.tolist() == lengths
    elif min(lengths) == max(lengths) and max_frames >= min(least, lengths[0]):
        assert kept.min() >= min(least, lengths[0]) - 1


def test_ends_of_very_many_trials_keep_some_past() -> None:
    start = np.arange(14_000) * 640
    ends = ends_of_trials(Trials(start, start + 640, start, ["train"] * 14_000), "train", 60_000, 288)
    assert 200 < len(ends) < 212 and min(b - a for a, b in ends) >= 280
    assert ends[0][1] == 640 and ends[-1][1] == 14_000 * 640  # from the first trial to the last
