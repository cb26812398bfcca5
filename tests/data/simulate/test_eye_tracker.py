"""A wrong eye tracker: what it changes of a recording, what it leaves, and that its truth is kept."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from shipped import simulator

from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import validate_recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.simulate.eye_tracker import EyeTracker
from vivit_core.data.simulate.neurons import true_neurons
from vivit_core.models.frames import shifted
from vivit_core.specs import RecordingError

SMALL = {
    "recordings": 2, "units": 3, "train_trials": 2, "val_trials": 1, "test_trials": 1, "repeated_stimuli": 1,
    "repeats": 2, "trial_s": 1.0, "frame_rate_hz": 60.0, "height": 20, "width": 30,
}  # fmt: skip
WRONG = EyeTracker(offset_deg=0.05, gain=0.1, drift_deg=0.01, drift_s=10.0)
SHOWN = ("stimulus/frames", "behavior/eye_position", "behavior/eye_velocity")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Recordings without a tracker, with one that is right, and with one that is wrong."""
    cache = tmp_path_factory.mktemp("cache")
    trackers = {"none": None, "right": EyeTracker(0.0, 0.0, 0.0, 1.0), "wrong": WRONG}
    return {name: simulator(**SMALL, eye_tracker=tracker).make(cache) for name, tracker in trackers.items()}


def test_without_one_recordings_are_those_of_before() -> None:
    assert "eye_tracker" not in simulator(**SMALL)._fields()
    assert simulator(**SMALL).name != simulator(**SMALL, eye_tracker=WRONG).name


def test_one_without_errors_changes_nothing(paths: dict[str, list[Path]]) -> None:
    with h5py.File(paths["none"][0]) as plain, h5py.File(paths["right"][0]) as right:
        for name in (*SHOWN, "responses/counts", "truth/rate"):
            np.testing.assert_array_equal(plain[name][()], right[name][()], err_msg=name)
        assert not right["truth/shift_px"][()].any() and "truth/shift_px" not in plain


def test_a_wrong_one_moves_frames_by_the_shift_that_is_kept(paths: dict[str, list[Path]]) -> None:
    recordings = [Recording(path) for path in paths["wrong"]]
    shifts = [recording.truth("shift_px") for recording in recordings]
    assert all(shift.shape == (recordings[0].info.n_frames, 2) and shift.std(0).min() > 0 for shift in shifts)
    assert not np.allclose(shifts[0], shifts[1])  # each has errors of its own
    # Repeats show the same to the eye, under another drift: what the tracker got wrong is taken back.
    trials = recordings[0].info.trials
    first, second = np.flatnonzero(trials.stimulus_id == "repeat-0")
    shown = []
    for trial in (first, second):
        start, stop = trials.start[trial], trials.stop[trial]
        frames = torch.as_tensor(recordings[0].frames(start, stop)).float()[None] - 127.5
        shift = torch.as_tensor(recordings[0].truth("shift_px", start, stop))[None]
        shown.append((frames[0, 0, :, 6:-6, 8:-8], shifted(frames, shift)[0, 0, :, 6:-6, 8:-8]))
    (told, seen), (told_again, seen_again) = shown
    assert (seen - seen_again).square().mean() < 0.5 * (told - told_again).square().mean()
    with h5py.File(paths["wrong"][0]) as file:
        rate = file["truth/rate"][()]
        np.testing.assert_array_equal(
            rate[trials.start[first] : trials.stop[first]], rate[trials.start[second] : trials.stop[second]]
        )


def test_its_neurons_are_not_made_again_from_frames_that_they_never_saw(paths: dict[str, list[Path]]) -> None:
    assert true_neurons(paths["none"][0]) is not None
    assert true_neurons(paths["wrong"][0]) is None


def test_a_shift_at_another_rate_is_the_mean_over_a_bin(paths: dict[str, list[Path]]) -> None:
    stored, slow = Recording(paths["wrong"][0]), ResampledRecording(paths["wrong"][0], frame_rate_hz=30.0)
    trial = slow.info.trials.start[1]
    original = stored.info.trials.start[1]
    expected = stored.truth("shift_px", original, original + 20).reshape(10, 2, 2).mean(1)
    np.testing.assert_allclose(slow.truth("shift_px", trial, trial + 10), expected, atol=1e-5)


def test_a_shift_that_is_none_is_refused(paths: dict[str, list[Path]], tmp_path: Path) -> None:
    for number, (values, message) in enumerate(
        ((np.zeros((7, 2)), r"has shape \(7, 2\)"), (np.full((360, 2), np.nan), r"row 0, index \[0\] is nan"))
    ):
        path = tmp_path / f"{number}.h5"
        path.write_bytes(paths["wrong"][0].read_bytes())
        with h5py.File(path, "r+") as file:
            del file["truth/shift_px"]
            file["truth/shift_px"] = values
        with pytest.raises(RecordingError, match=rf"truth/shift_px: {message}"):
            validate_recording(path)


def test_a_tracker_that_leaves_no_room_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"set smaller data\.simulator\.eye_tracker\.offset_deg, drift_deg or gain"):
        simulator(**SMALL, eye_tracker=EyeTracker(50.0, 0.0, 0.0, 1.0)).make(tmp_path)
    with pytest.raises(ValueError, match=r"drift_s=0\.0 above 0"):
        EyeTracker(0.0, 0.0, 0.0, 0.0)
