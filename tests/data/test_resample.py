"""A recording at another rate and with transforms equals plain loops over its trials; nothing crosses their borders."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.resample import Clock, ResampledRecording
from vivit_core.data.transforms import Contrast, RaisedCosines, Smooth, SmoothTargets, SplitBySign, Velocity

TRIALS = Trials([0, 13, 45, 80], [13, 41, 80, 120], ["a", "b", "c", "d"], ["train", "train", "val", "test"])
RATES = [100.0, 50.0, 100 / 3, 40.0, 60.0, 99.0, 8.0]
NEAR = {99.97: 1, 99.6: 1, 50.2: 2, 49.8: 2}  # within .5 % of 100 Hz, or of half of that


def ratio(wanted: float) -> Fraction:
    return Fraction(NEAR[wanted]) if wanted in NEAR else Fraction(100.0 / wanted).limit_denominator(1000)


def file_with_gaps(make: Callable[..., Path]) -> Path:
    rng = np.random.default_rng(5)
    return make(
        trials=TRIALS,
        valid=rng.random((120, 3)) < 0.9,
        behavior={"eye": rng.standard_normal((120, 2)).astype(np.float32)},
        truth={"rate": rng.random((120, 3)).astype(np.float32)},
    )


@pytest.mark.parametrize("wanted", [*RATES, *NEAR])
def test_each_bin_is_made_of_the_time_it_covers(make: Callable[..., Path], wanted: float) -> None:
    path = file_with_gaps(make)
    stored, view = Recording(path), ResampledRecording(path, wanted)
    width = ratio(wanted)
    frames, counts = stored.frames(0, 120), stored.counts(0, 120)
    valid, eye, rate = stored.valid(0, 120), stored.behavior(0, 120, {"eye": 2}), stored.truth("rate")
    assert view.info.frame_rate_hz == pytest.approx(float(100 / width))
    for trial, (start, stop) in enumerate(zip(TRIALS.start, TRIALS.stop, strict=True)):
        low, high = int(view.info.trials.start[trial]), int(view.info.trials.stop[trial])
        assert high - low == (stop - start) // width
        clip = view.read(low, high, {"eye": 2})
        true = view.truth("rate", low, high)
        for j in range(high - low):
            begin, end = start + j * width, start + (j + 1) * width
            touched = [n for n in range(120) if n < end and n + 1 > begin]
            share = np.array([float(min(n + 1, end) - max(n, begin)) for n in touched])[:, None]
            ended = [n for n in touched if n + 1 <= end]  # what is stored was known at its bin's end
            np.testing.assert_array_equal(clip["frames"][:, j], frames[:, touched[-1]])
            np.testing.assert_allclose(clip["counts"][j], (share * counts[touched]).sum(0), rtol=1e-5, atol=1e-5)
            np.testing.assert_allclose(true[j], (share * rate[touched]).sum(0), rtol=1e-5)
            np.testing.assert_array_equal(clip["valid"][j], valid[touched].all(0))
            np.testing.assert_allclose(clip["behavior"][j], eye[ended].mean(0), rtol=1e-5, atol=1e-6)
        whole = start + (high - low) * width  # what is left at the trial's end is dropped
        if width.denominator == 1:
            np.testing.assert_array_equal(clip["counts"].sum(0), counts[start : int(whole)].sum(0))


def test_what_is_left_at_a_trial_s_end_belongs_to_its_last_bin() -> None:
    """And not to the next trial's first: five bins of the file are two of the model, and one that is left."""
    clock = Clock(Trials([0, 5], [5, 10], ["a", "b"], ["train", "test"]), 10, 100.0, 50.0)
    assert (clock.trials.start.tolist(), clock.trials.stop.tolist()) == ([0, 2], [2, 4])
    assert clock.holding(np.arange(10)).tolist() == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("wanted", [100.4, 100.6])
def test_a_file_a_little_slower_than_asked_is_taken_as_it_is(make: Callable[..., Path], wanted: float) -> None:
    path = make(trials=TRIALS)
    if wanted > 100.5:
        with pytest.raises(ValueError, match=r"it has 100 Hz and the model 100\.6 Hz; counts cannot be made finer"):
            ResampledRecording(path, wanted)
        return
    view = ResampledRecording(path, wanted)
    assert view.clock.same and view.info.frame_rate_hz == 100
    np.testing.assert_array_equal(view.counts(0, 120), Recording(path).counts(0, 120))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_trials_stay_sorted_apart_and_inside(data: st.DataObject) -> None:
    gaps = data.draw(st.lists(st.integers(0, 7), min_size=1, max_size=6))
    lengths = data.draw(st.lists(st.integers(1, 40), min_size=len(gaps), max_size=len(gaps)))
    start = np.cumsum(gaps) + np.cumsum([0, *lengths[:-1]])
    stop = start + lengths
    n_frames = int(stop[-1]) + data.draw(st.integers(0, 5))
    wanted = data.draw(st.floats(3, 30))
    trials = Trials(start, stop, start, ["train"] * len(start))
    if max(lengths) * wanted < 30:
        with pytest.raises(ValueError, match="no trial of it is as long as a bin"):
            Clock(trials, n_frames, 30.0, 0.99 * wanted)
        return
    clock = Clock(trials, n_frames, 30.0, wanted)
    assert (clock.trials.stop[:-1] <= clock.trials.start[1:]).all()
    assert clock.trials.stop[-1] <= clock.n_frames
    newest = clock.newest(0, clock.n_frames)
    for a, b, name in zip(clock.trials.start, clock.trials.stop, clock.trials.stimulus_id, strict=True):
        row = list(map(str, start)).index(name)
        assert start[row] <= newest[a] and newest[b - 1] < stop[row]
    near = abs(30 / wanted / round(30 / wanted) - 1) < 5.1e-3  # a whole number, which it then counts as
    assert abs(clock.frame_rate_hz / wanted - 1) < (5.1e-3 if near else 2e-3)


@pytest.mark.parametrize("wanted", [None, 50.0, 40.0])
def test_a_window_does_not_change_what_is_in_it(make: Callable[..., Path], wanted: float | None) -> None:
    view = ResampledRecording(file_with_gaps(make), wanted, TRANSFORMS)
    names = {"cosines": 12, "smooth": 2, "eye": 2}
    whole = view.read(0, view.info.n_frames, names)
    targets = view.targets(0, view.info.n_frames)
    for start, stop in ((0, 5), (3, 30), (17, 18), (20, view.info.n_frames)):
        clip = view.read(start, stop, names)
        np.testing.assert_allclose(clip["behavior"], whole["behavior"][start:stop], atol=1e-6)
        np.testing.assert_array_equal(clip["counts"], whole["counts"][start:stop])
        np.testing.assert_array_equal(clip["frames"], whole["frames"][:, start:stop])
        np.testing.assert_allclose(view.targets(start, stop), targets[start:stop], atol=1e-6)
    assert view.read(4, 4, names)["behavior"].shape == (0, 16)


TRANSFORMS: dict[str, Any] = {
    "speed": Velocity("eye"),
    "directions": SplitBySign("speed"),
    "cosines": RaisedCosines("directions", n=3, duration_s=0.06, causal=True),
    "smooth": Smooth("eye", tau_s=0.02),
    "contrast": Contrast(std_px=None, floor=1.0),
    "calcium": SmoothTargets(tau_s=0.02),
}


def test_a_behavior_reaches_only_into_its_own_trial_and_its_past(make: Callable[..., Path]) -> None:
    eye = np.random.default_rng(0).standard_normal((120, 2)).astype(np.float32)
    names = {"cosines": 12, "smooth": 2}

    def seen(changed: np.ndarray, name: str) -> np.ndarray:
        path = make(name, trials=TRIALS, behavior={"eye": changed})
        return ResampledRecording(path, None, TRANSFORMS).behavior(0, 120, names)

    before = seen(eye, "before.h5")
    for place, reach in ((12, 13), (13, 41), (60, 80), (100, 120)):
        other = eye.copy()
        other[place] += 1
        changed = np.flatnonzero((seen(other, "after.h5") != before).any(1))
        assert changed.min() == place and changed.max() < reach


def test_an_acausal_basis_is_known_as_one(make: Callable[..., Path]) -> None:
    looks_ahead = {**TRANSFORMS, "cosines": RaisedCosines("directions", n=3, duration_s=0.06, causal=False)}
    on = {"on": Smooth("cosines", tau_s=0.1)}
    path = make(behavior={"eye": np.zeros((120, 2)), "ahead": np.zeros((120, 1))}, behavior_causal={"ahead": False})
    causal = ResampledRecording(path, None, {**looks_ahead, **on, "of_ahead": Velocity("ahead")}).info.behavior_causal
    assert {name for name, is_causal in causal.items() if not is_causal} == {"cosines", "on", "ahead", "of_ahead"}


def test_cosines_that_the_rate_does_not_hold_are_named_by_their_key(make: Callable[..., Path]) -> None:
    path, many = make(), {"eyes": RaisedCosines("eye", n=10, duration_s=0.2, causal=True)}
    assert ResampledRecording(path, 50.0, many).info.behavior["eyes"] == 20
    with pytest.raises(ValueError, match=r"a\.h5: data\.transforms\.eyes: 10 raised cosines .* give n between 2 and 6"):
        ResampledRecording(path, 25.0, many)


def test_a_transform_may_take_the_place_of_the_stored_behavior(make: Callable[..., Path]) -> None:
    path = make(behavior={"eye": np.arange(240.0).reshape(120, 2)})
    view = ResampledRecording(path, None, {"eye": SplitBySign("eye"), "speed": Velocity("eye")})
    assert view.info.behavior == {"eye": 4, "speed": 4}
    np.testing.assert_array_equal(view.behavior(3, 5, {"eye": 4}), [[6, 7, 0, 0], [8, 9, 0, 0]])
    np.testing.assert_allclose(view.behavior(3, 5, {"speed": 4}), [[200, 200, 0, 0]] * 2)


def test_circles_and_missing_sources(make: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match=r"a ← b ← a is a circle"):
        ResampledRecording(make(), None, {"a": Velocity("b"), "b": Velocity("a")})
    view = ResampledRecording(make(), None, {"speed": Velocity("wheel"), "on": Smooth("speed", tau_s=1.0)})
    assert view.info.behavior == {"eye": 2}
    # A slip of the pen, or a transform that nobody gave, is no row of zeros.
    with pytest.raises(ValueError, match=r"a\.h5 has no behavior 'on'; it has eye\. .*load_recording.*absent"):
        view.behavior(0, 3, {"on": 2})
    view.absent = {"on": np.array([1.0, 2.0])}
    np.testing.assert_array_equal(view.behavior(0, 2, {"on": 2}), [[1, 2], [1, 2]])


def test_targets_are_smoothed_over_valid_bins_and_counts_are_not(make: Callable[..., Path]) -> None:
    path = file_with_gaps(make)
    view, stored = ResampledRecording(path, None, {"calcium": SmoothTargets(tau_s=0.03)}), Recording(path)
    counts, valid = stored.counts(0, 120), stored.valid(0, 120)
    np.testing.assert_array_equal(view.counts(0, 120), counts)
    targets = view.targets(0, 120)
    for start, stop in zip(TRIALS.start, TRIALS.stop, strict=True):
        for t in range(start, stop):
            past = np.arange(max(start, t - 15), t + 1)
            weight = np.exp(-(t - past) / 3.0)[:, None] * valid[past]
            total = weight.sum(0)
            expected = np.where(total > 0, (weight * counts[past]).sum(0) / np.maximum(total, 1e-9), 0)
            np.testing.assert_allclose(targets[t], expected, atol=1e-5)


def test_target_transforms_follow_each_other_inside_trials(make: Callable[..., Path]) -> None:
    one, two = SmoothTargets(tau_s=0.03), SmoothTargets(tau_s=0.02)
    view = ResampledRecording(file_with_gaps(make), 50.0, {"one": one, "two": two})
    whole = view.targets(0, 60)
    trials = view.info.trials
    for start, stop in zip(trials.start.tolist(), trials.stop.tolist(), strict=True):
        counts, valid = view.counts(start, stop), view.valid(start, stop)
        expected = two.targets(one.targets(counts, valid, 50.0), valid, 50.0)
        np.testing.assert_allclose(whole[start:stop], expected, atol=1e-6)
    for start, stop in ((3, 30), (17, 18), (20, 60), (4, 4)):
        np.testing.assert_allclose(view.targets(start, stop), whole[start:stop], atol=1e-6)


FIELDS: dict[str, Callable[[Recording, int, int], Any]] = {
    "read": lambda view, *span: view.read(*span, {"eye": 2}),
    "frames": lambda view, *span: view.frames(*span),
    "counts": lambda view, *span: view.counts(*span),
    "valid": lambda view, *span: view.valid(*span),
    "behavior": lambda view, *span: view.behavior(*span, {"eye": 2}),
    "a behavior that is not there": lambda view, *span: view.behavior(*span, {"wheel": 1}),
    "truth": lambda view, *span: view.truth("rate", *span),
}


@pytest.mark.parametrize("wanted", [None, 100.0, 50.0, 40.0])
def test_a_range_that_leaves_the_recording_is_refused(make: Callable[..., Path], wanted: float | None) -> None:
    path = file_with_gaps(make)
    plain, view = Recording(path), ResampledRecording(path, wanted or 100.0, TRANSFORMS)
    fields = dict(FIELDS) if wanted is None else FIELDS | {"targets": lambda _, *span: view.targets(*span)}
    shown = plain if wanted is None else view
    view.absent = {"wheel": np.zeros(1)}
    n = shown.info.n_frames
    for name, field in fields.items():
        field(shown, 0, n)
        for span in ((n - 3, n + 3), (-4, 3), (-4, -1), (5, 4), (n, n + 1), (n + 1, n + 1)):
            with pytest.raises(ValueError, match=rf"a\.h5: frames {span[0]}:{span[1]} are not inside 0:{n}$"):
                pytest.fail(f"{name} {span}: {field(shown, *span)}")


def test_a_view_can_be_pickled_and_keeps_units_order(make: Callable[..., Path]) -> None:
    path = make()
    view = ResampledRecording(path, 50.0, TRANSFORMS, "other", ["2", "0", "1"])
    again = pickle.loads(pickle.dumps(view))
    assert again.recording_id == "other"
    np.testing.assert_array_equal(again.counts(0, 60), ResampledRecording(path, 50.0).counts(0, 60)[:, [2, 0, 1]])
