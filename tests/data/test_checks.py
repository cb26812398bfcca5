"""What a training asks of its recordings before its first step, and what it says of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_core.analysis.inspect.findings import Look
from vivit_core.analysis.inspect.inspect import inspect, usable
from vivit_core.data.checks import check_responses, check_start, lack, unlike_angles, unscored
from vivit_core.data.recording.format import SPLITS, Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.repeats import leak
from vivit_core.data.resample import ResampledRecording

SPLIT = ("train",) * 3 + ("val", "test")
FIRST = {"train": 4, "val": 8, "test": 8}  # bins left out at a trial's start


def made(path: Path, name: str, split: tuple[str, ...] = SPLIT, bins: int = 20, **changed: Any) -> Recording:
    rng, total = np.random.default_rng(0), bins * len(split)
    starts = np.arange(len(split)) * bins
    given = {
        "recording_id": name,
        "frame_rate_hz": 30.0,
        "frames": rng.integers(0, 256, (total, 4, 5)).astype(np.uint8),
        "counts": rng.poisson(0.5, (total, 3)),
        "trials": Trials(starts, starts + bins, np.arange(len(split)), np.array(split)),
    }
    return Recording(write_recording(path / f"{name}.h5", **{**given, **changed}))


def counts_but(first: int, stop: int) -> np.ndarray:
    """Responses, none of them in some bins."""
    counts = np.random.default_rng(0).poisson(0.5, (100, 3))
    counts[first:stop] = 0
    return counts


def valid_but(first: int, stop: int) -> np.ndarray:
    valid = np.ones((100, 3), bool)
    valid[first:stop] = False
    return valid


# For each split: what is changed, the check, and what is said.
LACKING: dict[str, tuple[dict[str, Any], str, str]] = {
    "no val": ({"split": ("train",) * 4 + ("test",)}, "val", "no_val_trial"),
    "no test": ({"split": ("train",) * 4 + ("val",)}, "test", "no_test_trial"),
    "no train": ({"split": ("val",) * 4 + ("test",)}, "train", "no_train_trial"),
    "short": ({"bins": 8}, "test", "short_test_trials"),
    "not valid": ({"valid": valid_but(60, 80)}, "val", "no_valid_val_bin"),
    "valid in the burn-in alone": ({"valid": valid_but(88, 100)}, "test", "no_valid_test_bin"),
    "silent": ({"counts": counts_but(80, 100)}, "test", "silent_test"),
    "responses in the burn-in alone": ({"counts": counts_but(68, 80)}, "val", "silent_val"),
    "silent all the time": ({"counts": counts_but(0, 100)}, "train", "silent_train"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_a_split_lacks_is_found_at_the_start_and_by_inspection(name: str, tmp_path: Path) -> None:
    changed, split, check = LACKING[name]
    recording = made(tmp_path, "a", **changed)
    found = lack(recording, split, FIRST[split])
    assert found is not None and found.check == check
    assert lack(made(tmp_path, "good"), split, FIRST[split]) is None
    look = Look({}, [])
    usable(recording, look, FIRST["val"] / 30.0)
    findings = {f.check: f for f in look.findings}
    assert findings[check].level == "fault" and findings[check].remedy == found.remedy


def test_a_training_is_refused_with_all_reasons_at_once(tmp_path: Path) -> None:
    mute = {"a": made(tmp_path, "a", valid=valid_but(60, 80)), "b": made(tmp_path, "b", ("train",) * 4 + ("test",))}
    with pytest.raises(ValueError, match="validation") as refused:
        check_start(mute, FIRST, clip_length=10)
    assert f"recording a ({tmp_path / 'a.h5'}) has no valid bin in val trials after" in str(refused.value)
    assert f"recording b ({tmp_path / 'b.h5'}) has no val trial. Give some trials the split 'val'" in str(refused.value)
    blind = {"a": made(tmp_path, "c"), "b": made(tmp_path, "d", valid=valid_but(0, 60))}
    with pytest.raises(ValueError, match=r"d\.h5\) has no valid bin in train trials after their first 4 bins"):
        check_start(blind, FIRST, clip_length=10)
    with pytest.raises(ValueError, match="no response of any unit in train trials"):
        check_start({"a": made(tmp_path, "e", counts=counts_but(0, 60))}, FIRST, clip_length=10)


def test_silent_validation_trials_end_nothing_and_are_said(tmp_path: Path) -> None:
    mute = {"a": made(tmp_path, "a", counts=counts_but(60, 80)), "b": made(tmp_path, "b", ("train",) * 4 + ("test",))}
    lines = check_start(mute, FIRST, clip_length=10)["val"]
    assert "recording a" in lines[0] and "has no response of any unit in val trials" in lines[0]
    assert lines[-1] == "no recording can be scored on its val split: best.ckpt will hold the weights of the end"


@pytest.mark.parametrize("split", ["test", "val"])
def test_what_an_evaluation_cannot_score_is_said(split: str, tmp_path: Path) -> None:
    recordings = {
        "good": made(tmp_path, "good"),
        "mute": made(tmp_path, "mute", counts=counts_but(0, 100)),
        "untested": made(tmp_path, "untested", ("train",) * 5),
    }
    first, second = unscored(recordings, split, 8)
    assert f"recording mute ({tmp_path / 'mute.h5'}) has no response of any unit in {split} trials" in first
    assert second == f"recording untested ({tmp_path / 'untested.h5'}) has no {split} trial: it gets no {split} score"
    assert unscored({"mute": recordings["mute"]}, split, 8)[-1].startswith(f"no recording can be scored on its {split}")
    assert unscored({"good": recordings["good"]}, split, 8) == []


def test_recordings_without_a_score_beside_others_are_named(tmp_path: Path) -> None:
    recordings = {
        "good": made(tmp_path, "good"),
        "untested": made(tmp_path, "untested", ("train",) * 4 + ("val",)),
        "unchosen": made(tmp_path, "unchosen", ("train",) * 4 + ("test",)),
        "mute": made(tmp_path, "mute", counts=counts_but(0, 100)),
    }
    lines = check_start(recordings, FIRST, clip_length=10)
    assert [line.split()[1] for line in lines["test"]] == ["untested", "mute"]
    assert [line.split()[1] for line in lines["val"]] == ["unchosen", "mute"]
    assert [line.split()[1] for line in lines["train"]] == ["mute"]
    assert check_start({"good": recordings["good"]}, FIRST, 10) == {"train": [], "val": [], "test": []}


def test_stimuli_in_several_splits_are_said_at_the_start(tmp_path: Path) -> None:
    starts = np.arange(5) * 20
    shared = Trials(starts, starts + 20, ["a", "b", "b", "a", "a"], list(SPLIT))
    recordings = {"good": made(tmp_path, "good"), "leak": made(tmp_path, "leak", trials=shared)}
    (line,) = check_start(recordings, FIRST, clip_length=10)["test"]
    assert line.startswith(f"recording leak ({tmp_path / 'leak.h5'}) shows 1 of 2 stimuli (a) in trials of more than")
    assert "(train, val, test)" in line and "Put all trials of a stimulus into one split" in line


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefgh"), st.sampled_from(SPLITS)), min_size=1, max_size=20))
def test_each_stimulus_of_several_splits_is_found(shown: list[tuple[str, str]]) -> None:
    at = np.arange(len(shown))
    trials = Trials(at, at + 1, [name for name, _ in shown], [split for _, split in shown])
    found = trials.in_several_splits
    assert found == {
        name: [split for split in SPLITS if (name, split) in shown]
        for name in dict.fromkeys(name for name, _ in shown)
        if len({split for other, split in shown if other == name}) > 1
    }
    said = leak(trials)
    assert (said is None) == (not found) and all(name in str(said) for name in list(found)[:5])


def test_inspection_says_what_a_training_would(tmp_path: Path) -> None:
    """Constant frames, missing values, no repeats, unnamed stimuli, unequal trials."""
    lost = np.stack([np.full(100, np.nan), np.where(np.arange(100) % 10 == 0, np.nan, 1.0 * np.arange(100))], 1)
    starts, stops = np.arange(5) * 20, np.array([20, 40, 60, 75, 100])
    recording = made(
        tmp_path,
        "a",
        frames=np.full((100, 4, 5), 0.1, np.float32),
        behavior={"pupil": lost.astype(np.float32)},
        trials=Trials(starts, stops, np.array(["x", "", "y", "z", "nan"]), np.array(SPLIT)),
    )
    seen = inspect([recording.path], duration_s=0.1, max_frames=1000, out=tmp_path / "out", progress=False)
    found = {f["check"]: f["level"] for f in seen["recordings"]["a"]["findings"]}
    assert {"constant_frames": "fault", "missing_behavior": "fault"}.items() <= found.items()
    assert {"no_repeats": "note", "unnamed_stimuli": "note", "unequal_trials": "note"}.items() <= found.items()
    assert seen["recordings"]["a"]["behavior"]["pupil"]["missing"] == pytest.approx(105 / 190)


TINY = [
    "trainer=debug", "model.embedding_dim=24", "model.spatial_depth=1", "model.temporal_depth=1",
    "model.attention.heads=2", "data.behavior=[]", "data.clip_length=16", "data.burn_in=4", "data.evaluation_length=32",
    "data.evaluation_burn_in=8", "data.num_workers=0", "baseline=null", "callbacks.pictures=null",
]  # fmt: skip


@pytest.mark.slow
def test_a_training_without_test_trials_says_so_first_and_ends_well(
    tmp_path: Path, command: Callable[..., tuple[int, str]]
) -> None:
    shape = (40 * 5, 24, 32)
    for name, split in (("a", ("train",) * 4 + ("val",)), ("b", ("train",) * 5)):
        frames = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
        made(tmp_path, name, split, bins=40, frames=frames, counts=np.random.default_rng(1).poisson(0.5, (200, 3)))
    code, said = command(*TINY, f"data.recordings=[{tmp_path}/a.h5,{tmp_path}/b.h5]", "hydra.run.dir=run")
    assert code == 0, said
    before = said[: said.index("epoch 1/")]
    assert "recording b" in before and "has no val trial: it does not choose the checkpoint" in before
    assert "no recording can be scored on its test split: the training ends without a score" in before
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["bps_mean"] is None and summary["left_out"] == ["a", "b"]
    # The remedy that it names.
    code, said = command("task=evaluate", "checkpoint=run/checkpoints/best.ckpt", "split=val")
    assert code == 0, said

    code, said = command(*TINY, f"data.recordings=[{tmp_path}/b.h5]", "hydra.run.dir=other")
    assert code == 1 and "recording b" in said and "has no val trial" in said and "Traceback" not in said

    code, said = command(*TINY, f"data.recordings=[{tmp_path}/a.h5]", "likelihood=zero_inflated_gamma")
    assert code == 1 and "recording a" in said and "holds spikes" in said and "Traceback" not in said

    smooth = "{_target_: vivit_core.data.transforms.SmoothTargets, tau_s: 0.1}"
    code, said = command(*TINY, "model/history=spikes", f"+data.transforms.slow={smooth}")
    assert code == 1 and "data.transforms.slow=null" in said and "model/history=none" in said


def responses(path: Path, frame_rate_hz: float | None = None, **changed: Any) -> ResampledRecording:
    return ResampledRecording(made(path, "a", **changed).path, frame_rate_hz)


def test_responses_are_what_the_likelihood_is_made_for(tmp_path: Path) -> None:
    spikes, traces = ("spikes",), ("calcium",)
    trace = np.random.default_rng(0).gamma(0.5, 1.0, (100, 3))
    counted = {"a": responses(tmp_path)}
    assert check_responses(counted, "Poisson", spikes) == check_responses(counted, "Gaussian", spikes + traces) == []
    with pytest.raises(ValueError, match=r"recording a .*a\.h5.* holds spikes.*Set likelihood=negative_binomial"):
        check_responses(counted, "ZeroInflatedGamma", traces)
    calcium = {"a": responses(tmp_path, counts=trace, kind="calcium")}
    assert check_responses(calcium, "ZeroInflatedGamma", traces) == []
    (line,) = check_responses(calcium, "Poisson", spikes)
    assert "holds a calcium trace" in line and "Set likelihood=zero_inflated_gamma" in line


def test_a_trace_that_is_called_spikes_is_noticed(tmp_path: Path) -> None:
    trace = np.random.default_rng(0).gamma(0.5, 1.0, (100, 3))
    named = {"a": responses(tmp_path, counts=trace)}
    (line,) = check_responses(named, "Poisson", ("spikes",))
    assert f"numbers such as {trace.astype(np.float32)[0, 0]:g}" in line and "importer.kind=calcium" in line
    # Bins that two bins of the model share are divided: those are no traces.
    assert check_responses({"a": responses(tmp_path, frame_rate_hz=20.0)}, "Poisson", ("spikes",)) == []


def test_pixels_of_other_visual_angles_are_told(tmp_path: Path) -> None:
    fine, same, coarse, unknown = (
        made(tmp_path, name, degrees_per_pixel=degrees).info
        for name, degrees in (("a", 0.5), ("b", 0.6), ("c", 2.0), ("d", None))
    )
    for alike in ([], [unknown], [fine, same, unknown]):
        assert unlike_angles(alike, None) is None
    line = unlike_angles([fine, same, coarse, unknown], None)
    assert line is not None and "0.5 degrees of visual angle in recording a and 2 in c" in line
    # The core sees frames of one size, here of one field.
    fine, coarse = (replace(own, frame_shape=(1, side, side)) for own, side in ((fine, 16), (coarse, 4)))
    assert unlike_angles([fine, coarse], [8, 8]) is None
    assert unlike_angles([replace(fine, frame_shape=(1, 16, 8)), coarse], [8, 8]) is not None
