"""What follows the recordings: rules with numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from vivit_core.training.planner import Sizes, plan, usual_trial

DEFAULT = Sizes(height=36, width=64, rate_hz=120.0, recordings=4, units=256, trial_bins=600, train_bins=4 * 42 * 600)
KEYS = {
    "model.tokenizer.stem.stride",
    "model.tokenizer.patch_size",
    "model.tokenizer.cell",
    "model.window",
    "data.clip_length",
    "data.burn_in",
    "trainer.cpu.batch_size",
    "trainer.cuda.batch_size",
    "trainer.cuda.steps_per_epoch",
}


def settings(**data: float) -> dict[str, Any]:
    """The part of a configuration that a plan looks at."""
    budget = {"epochs": 20, "steps_per_epoch": 7, "batch_size": 5, "accumulate": 1}
    tokenizer = {"patch_size": [8, 8, 8], "cell": 4, "stem": {"stride": 2}}
    return {
        "model": {"tokenizer": tokenizer},
        "data": {"clip_length": 1, "burn_in": 0, **data},
        "trainer": {"cpu": budget, "cuda": budget},
    }


def chosen(sizes: Sizes, free: set[str] = KEYS, **data: int) -> dict[str, Any]:
    return {choice.key: choice.value for choice in plan(sizes, settings(**data), free)}


@pytest.mark.parametrize(
    ("sizes", "clip", "burn_in", "clips"),
    [
        (DEFAULT, 300, 50, 2),
        (replace(DEFAULT, height=37, width=50, rate_hz=30.0, trial_bins=1500), 75, 13, 8),  # Liu 2017
        (replace(DEFAULT, height=16, width=16, rate_hz=60.0), 150, 25, 8),  # each pixel is a place
        (replace(DEFAULT, height=31, width=1, rate_hz=60.0, trial_bins=2160), 150, 25, 16),  # Mahuas 2020
        (replace(DEFAULT, rate_hz=10.0), 60, 4, 8),  # no fewer than 60 bins: 6 s
        (replace(DEFAULT, rate_hz=10.0, trial_bins=40), 40, 4, 16),  # but a trial has no more
        (replace(DEFAULT, trial_bins=60), 60, 20, 8),  # .42 s would be 50 of 60
        (replace(DEFAULT, trial_bins=None, train_bins=None), 300, 50, 2),
        (replace(DEFAULT, height=512, width=512), 300, 50, 2),
    ],
)
def test_what_suits_recordings(sizes: Sizes, clip: int, burn_in: int, clips: int) -> None:
    found = chosen(sizes)
    assert (found["data.clip_length"], found["data.burn_in"]) == (clip, burn_in)
    assert found["trainer.cpu.batch_size"] == clips
    assert found["model.window"] == clip  # what lies further back no clip ever showed


@pytest.mark.parametrize(
    ("shape", "stride", "patch", "cell"),
    [
        ((36, 64), 2, [8, 8, 8], 4),
        ((37, 50), 2, [8, 8, 8], 4),
        ((24, 1), 1, [8, 8, 1], 2),  # bars
        ((1, 31), 1, [8, 1, 8], 2),
        ((100, 5), 1, [8, 8, 4], 2),
        ((16, 16), 1, [8, 8, 8], 2),
        ((4, 4), 1, [8, 4, 4], 2),
        ((256, 256), 2, [8, 8, 8], 4),
    ],
)
def test_the_map_suits_the_frames(shape: tuple[int, int], stride: int, patch: list[int], cell: int) -> None:
    """No token is larger than a frame, small frames are seen pixel by pixel."""
    found = chosen(replace(DEFAULT, height=shape[0], width=shape[1]))
    assert found["model.tokenizer.stem.stride"] == stride
    assert (found["model.tokenizer.patch_size"], found["model.tokenizer.cell"]) == (patch, cell)


def test_the_recording_whose_trials_make_clips_short_is_named() -> None:
    (own,) = (each for each in plan(replace(DEFAULT, trial_bins=20, shortest="b"), settings(), {"data.clip_length"}))
    assert own.value == 20 and own.reason == "0.167 s: trials are no longer in b, for which all clips are so short"


@pytest.mark.parametrize(("trial_bins", "frames"), [(600, 8), (40, 8), (30, 4), (9, 2), (2, 1)])
def test_a_clip_has_several_tokens(trial_bins: int, frames: int) -> None:
    """Tokens of short trials are shorter."""
    assert chosen(replace(DEFAULT, rate_hz=10.0, trial_bins=trial_bins))["model.tokenizer.patch_size"][0] == frames


def test_a_model_without_such_a_map_is_left_alone() -> None:
    """A ResNet's stem has no slower cells, a factorized CNN no tokenizer."""
    for model, keys in (
        ({"tokenizer": {"patch_size": [4, 4, 4], "stride": 2}}, {"model.tokenizer.stride"}),
        ({"stride": 2}, set()),
        ({"tokenizer": None}, set()),
    ):
        others = {key for key in KEYS if not key.startswith("model")}
        found = {choice.key for choice in plan(DEFAULT, {**settings(), "model": model}, others | keys)}
        assert found == others | keys


@pytest.mark.parametrize("rate_hz", [5.0, 24.0, 60.0, 500.0])
@pytest.mark.parametrize("trial_bins", [1, 2, 30, 3000])
def test_never_half_of_a_clip_burns_in_and_every_clip_fits(rate_hz: float, trial_bins: int) -> None:
    found = chosen(replace(DEFAULT, rate_hz=rate_hz, trial_bins=trial_bins))
    assert 0 <= 3 * found["data.burn_in"] <= found["data.clip_length"] <= trial_bins


@pytest.mark.parametrize(
    ("fading_s", "trial_bins", "filters", "clip", "burn_in"),
    [
        (0.05, 300, 0.3, 75, 13),  # deconvolved: as for spikes
        (0.2, 300, 0.6, 75, 18),
        (0.4, 300, 1.2, 108, 36),
        (2.0, 300, 1.2, 108, 36),  # no longer, however slow
        (0.4, 60, 0.67, 60, 20),  # a third of a trial
        (0.4, 15, 0.3, 15, 5),
    ],
)
def test_filters_are_as_long_as_calcium_traces_last(
    fading_s: float, trial_bins: int, filters: float, clip: int, burn_in: int
) -> None:
    sizes = replace(DEFAULT, rate_hz=30.0, trial_bins=trial_bins, fading_s=fading_s)
    own = {"own_filter": {"duration_s": 0.3}, "tokenizer": settings()["model"]["tokenizer"]}
    everything = {**settings(), "model": own, "baseline": {"duration_s": 0.3}}
    keys = {"model.own_filter.duration_s", "baseline.duration_s", "data.clip_length", "data.burn_in"}
    found = {choice.key: choice.value for choice in plan(sizes, everything, keys)}
    assert found["model.own_filter.duration_s"] == found["baseline.duration_s"] == filters
    assert (found["data.clip_length"], found["data.burn_in"]) == (clip, burn_in)
    short = {
        choice.key: choice.value
        for choice in plan(sizes, {**everything, "data": {"clip_length": 30}}, keys - {"data.clip_length"})
    }
    assert 0.3 <= short["baseline.duration_s"] <= 0.33 and short["data.burn_in"] == 10  # a third of the clip
    assert plan(replace(sizes, fading_s=None), everything, {"baseline.duration_s"}) == []


def test_what_is_settled_is_followed() -> None:
    """A clip that the user has chosen decides its burn-in and how many make a step."""
    found = chosen(DEFAULT, KEYS - {"data.clip_length"}, clip_length=75)
    assert found["data.burn_in"] == 25 and found["trainer.cpu.batch_size"] == 8
    assert "data.clip_length" not in found


def test_steps_without_a_time_limit_follow_the_training_bins() -> None:
    """Twice the data are seen as often; within bounds."""
    key = "trainer.cuda.steps_per_epoch"
    one, two = chosen(DEFAULT)[key], chosen(replace(DEFAULT, train_bins=2 * 4 * 42 * 600))[key]
    assert one == 200 and two == pytest.approx(2 * one, abs=1)
    assert chosen(replace(DEFAULT, train_bins=10))[key] == 50
    assert chosen(replace(DEFAULT, train_bins=10**9))[key] == 1000
    assert key not in chosen(replace(DEFAULT, train_bins=None))


def test_what_is_given_for_all_devices_is_reckoned_with() -> None:
    sizes = replace(DEFAULT, train_bins=400_000)

    def steps(**given: int) -> int:
        every = settings()
        every["trainer"] |= dict.fromkeys(("epochs", "accumulate", "batch_size"), None) | given
        (found,) = (x.value for x in plan(sizes, every, KEYS) if x.key == "trainer.cuda.steps_per_epoch")
        return int(found)

    usual, clips = steps(), chosen(sizes)["trainer.cuda.batch_size"]
    assert 200 < usual < 1000
    assert steps(accumulate=2) == pytest.approx(usual / 2, abs=1)
    assert steps(epochs=40) == pytest.approx(usual / 2, abs=1)
    assert steps(batch_size=3 * clips) == pytest.approx(usual / 3, abs=1)


def test_a_burn_in_of_a_whole_clip_is_left_to_who_cuts_clips() -> None:
    assert chosen(DEFAULT, KEYS - {"data.clip_length", "data.burn_in"}, clip_length=60, burn_in=60)


@pytest.mark.parametrize(
    ("lengths", "usual"), [([100] * 10, 100), ([100] * 9 + [3], 100), ([100] * 5 + [50] * 10, 50), ([7], 7), ([], 0)]
)
def test_a_few_short_trials_shorten_no_clip(lengths: list[int], usual: int) -> None:
    assert usual_trial(lengths) == usual


def test_each_choice_says_why() -> None:
    assert {choice.key for choice in plan(DEFAULT, settings(), KEYS)} == KEYS
    assert all(choice.reason for choice in plan(DEFAULT, settings(), KEYS))
    assert str(DEFAULT) == "4 recordings, 256 units, frames of 36×64 px at 120 Hz, 14 minutes of training trials"


def test_of_fewer_minutes_no_passes_are_told() -> None:
    """The budget of a sweep over minutes is that of all, and so is not of those that are trained on."""
    key = "trainer.cuda.steps_per_epoch"
    (every,) = (c for c in plan(DEFAULT, settings(), KEYS) if c.key == key)
    (few,) = (c for c in plan(DEFAULT, settings(train_minutes=0.5), KEYS) if c.key == key)
    assert few.value == every.value
    assert "sees each bin about" in every.reason and "data.train_minutes takes some" in few.reason
