from __future__ import annotations

import numpy as np
import pytest

from vivit_core.data.clips import TrainingSampler, Weighting
from vivit_core.data.recording.format import Trials

TRIALS = [
    Trials([0, 50], [50, 80], [0, 1], ["train", "train"]),
    Trials([0, 400], [400, 500], [0, 1], ["train", "val"]),
    Trials([0, 40, 60], [40, 60, 90], [0, 1, 2], ["test", "train", "train"]),
]
UNITS = [10, 30, 60]


def sampler(seed: int = 0, weighting: Weighting = "equal") -> TrainingSampler:
    return TrainingSampler(seed, TRIALS, UNITS, 16, weighting)


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
    ("weighting", "weights"), [("equal", [1, 1, 1]), ("units", [10, 30, 60]), ("proportional", [35 + 15, 385, 5 + 15])]
)
def test_recordings_are_drawn_by_their_weights(weighting: Weighting, weights: list[int]) -> None:
    drawn = np.array([sampler(3, weighting).sample(k)[0] for k in range(3000)])
    shares = np.array(weights) / sum(weights)
    np.testing.assert_allclose(np.bincount(drawn) / len(drawn), shares, atol=0.005)
    for first in range(0, 2900, 37):  # any stretch of 64, not only the long run
        np.testing.assert_allclose(np.bincount(drawn[first : first + 64], minlength=3) / 64, shares, atol=0.06)


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        sampler(-1)
    with pytest.raises(ValueError, match=r"recording 2 has no training trial of 31 bins \(its longest has 30\)"):
        TrainingSampler(0, TRIALS, UNITS, 31, "equal")
    with pytest.raises(ValueError, match="weighting is 'unit'"):
        sampler(0, "unit")  # type: ignore[arg-type]
