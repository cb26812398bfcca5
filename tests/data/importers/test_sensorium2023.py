"""Folders shaped like those of Sensorium 2023, with NaN tails and all tiers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingError

T, H, W, U = 40, 6, 8, 3
NAME = "dynamic1-2-3-Video-abc"
TIERS = ["train", "train", "oracle", "oracle", "oracle", "live_test_main", "live_test_bonus", "final_test_main", "none",
         "train"]  # fmt: skip
VALID = [40, 35, 30, 30, 30, 38, 40, 40, 40, 33]  # frames before the NaN tail
SHOWS = [0, 1, 2, 2, 3, 5, 6, 7, 8, 9]  # trials 2 and 3 show one video
HIDDEN = {6: "zeros", 7: "missing"}  # how the responses of unreleased trials look


def arrays_of(trial: int) -> dict[str, np.ndarray]:
    """The valid part, time last, as in the files."""
    n = VALID[trial]
    video = np.random.default_rng(SHOWS[trial]).integers(0, 256, (H, W, n)).astype(float)
    rng = np.random.default_rng(100 + trial)
    return {
        "videos": video,
        "responses": rng.gamma(0.5, 1.0, (U, n)).astype(np.float32),
        "behavior": rng.normal(size=(2, n)),
        "pupil_center": rng.normal(size=(2, n)),
    }


def write(folder: Path, tiers: list[str] = TIERS, **changes: Any) -> Path:
    """A recording's folder; ``changes``: file (without .npy, / written __) -> array, or None to leave it out."""
    for name in ("data/videos", "data/responses", "data/behavior", "data/pupil_center", "meta/neurons", "meta/trials"):
        (folder / name).mkdir(parents=True)
    files: dict[str, Any] = {
        "meta/trials/tiers": np.array(tiers),
        "meta/neurons/unit_ids": np.array([11, 5, 7]),
        "meta/neurons/cell_motor_coordinates": np.arange(9).reshape(3, 3),
    }
    for trial in range(len(tiers)):
        for what, values in arrays_of(trial).items():
            tail = np.full((*values.shape[:-1], T - values.shape[-1]), np.nan)
            files[f"data/{what}/{trial}"] = np.concatenate([values, tail], -1)
        if HIDDEN.get(trial) == "zeros":
            files[f"data/responses/{trial}"] = np.zeros((U, T))
        elif HIDDEN.get(trial) == "missing":
            files[f"data/responses/{trial}"] = None
    for name, values in (files | {k.replace("__", "/"): v for k, v in changes.items()}).items():
        if values is not None:
            np.save(folder / f"{name}.npy", values)
    return folder


def test_everything_comes_back(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write(tmp_path / NAME)
    (path,) = importer("sensorium2023")(folder, tmp_path / "x.h5")
    recording = Recording(path)
    info, trials = recording.info, recording.info.trials
    kept = [0, 1, 2, 3, 4, 5, 9]
    assert (info.recording_id, info.kind, info.frame_rate_hz) == ("dynamic1-2-3", "calcium", 30.0)
    assert (info.unit_ids, info.frame_shape, info.frame_dtype) == (("11", "5", "7"), (1, H, W), "uint8")
    assert (trials.stop - trials.start).tolist() == [VALID[k] for k in kept]
    assert trials.split.tolist() == ["train", "train", "val", "val", "val", "test", "train"]
    same = trials.stimulus_id[:, None] == trials.stimulus_id
    assert np.array_equal(same, np.array([SHOWS[k] for k in kept])[:, None] == np.array([SHOWS[k] for k in kept]))
    behaviors = {"pupil": 1, "running_speed": 1, "pupil_center": 2}
    assert info.behavior == behaviors
    for k, start, stop in zip(kept, trials.start, trials.stop, strict=True):
        put, got = arrays_of(k), recording.read(int(start), int(stop), behaviors)
        np.testing.assert_array_equal(got["frames"][0], np.moveaxis(put["videos"], -1, 0))
        np.testing.assert_array_equal(got["counts"], put["responses"].T)
        assert got["valid"].all()
        np.testing.assert_allclose(got["behavior"][:, :2], put["behavior"].T, rtol=1e-6)
        np.testing.assert_allclose(got["behavior"][:, 2:], put["pupil_center"].T, rtol=1e-6)
    np.testing.assert_array_equal(recording.unit_column("position_um"), np.arange(9).reshape(3, 3))
    said = capsys.readouterr().out
    assert "cell_motor_coordinates.npy says where units lie" in said
    assert "left out: 1 trials of tier 'none'" in said
    assert "left out: 1 trials of tier 'live_test_bonus': their responses are not released" in said
    assert "left out: 1 trials of tier 'final_test_main': their responses are not released" in said


def test_coordinates_that_are_no_places_stay_what_they_are(tmp_path: Path, importer: Callable[..., Any]) -> None:
    for number, values in enumerate((np.full((3, 3), np.nan), np.zeros((3, 4)), np.zeros(3))):
        folder = write(tmp_path / f"{number}" / NAME, meta__neurons__cell_motor_coordinates=values)
        recording = Recording(importer("sensorium2023")(folder, tmp_path / f"{number}.h5")[0])
        assert recording.info.position_dim == 0
        np.testing.assert_array_equal(recording.unit_column("cell_motor_coordinates"), values)


def test_gaps_inside_are_not_valid(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = arrays_of(0)
    arrays["responses"][1, 7] = arrays["responses"][0, 0] = np.nan
    arrays["responses"][2, 8] = -0.25
    arrays["behavior"][0, :2] = np.nan
    arrays["pupil_center"][1, 20:22] = np.nan
    folder = write(tmp_path / NAME, **{f"data__{k}__0": v for k, v in arrays.items() if k != "videos"})
    recording = Recording(importer("sensorium2023")(folder, tmp_path / "x.h5")[0])
    valid, counts = recording.valid(0, 40), recording.counts(0, 40)
    expected = np.ones((40, U), bool)
    expected[7, 1] = expected[:2] = expected[20:22] = False
    np.testing.assert_array_equal(valid, expected)
    assert counts[8, 2] == 0 and counts[7, 1] == counts[6, 1] and counts[0, 0] == 0
    behavior = recording.behavior(0, 40, {"pupil": 1, "pupil_center": 2})
    assert np.isnan(behavior[:2, 0]).all()
    np.testing.assert_allclose(behavior[20:22, 2], arrays["pupil_center"][1, 19], rtol=1e-6)
    said = capsys.readouterr().out
    assert "1 negative responses are set to 0" in said and "2 responses that are NaN" in said
    assert "4 bins lack a behavior" in said


def test_a_trial_that_ends_early_still_repeats_its_video(tmp_path: Path, importer: Callable[..., Any]) -> None:
    """Two trials show one video, and the responses of one end two bins early."""
    short = np.full((U, T), np.nan)
    short[:, : VALID[3] - 2] = arrays_of(3)["responses"][:, :-2]
    folder = write(tmp_path / NAME, data__responses__3=short)
    trials = Recording(importer("sensorium2023")(folder, tmp_path / "x.h5")[0]).info.trials
    assert (trials.stop - trials.start).tolist()[2:4] == [VALID[2], VALID[3] - 2]
    assert trials.stimulus_id[2] == trials.stimulus_id[3]


def test_without_released_test_trials_some_of_val_are_test(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    tiers = [t if "test" not in t else "final_test_main" for t in TIERS]
    folder = write(tmp_path / NAME, tiers, **{f"data__responses__{i}": np.zeros((U, T)) for i in (5, 6, 7)})
    split = Recording(importer("sensorium2023")(folder, tmp_path / "x.h5")[0]).info.trials.split.tolist()
    assert split in (
        ["train", "train", "val", "val", "test", "train"],
        ["train", "train", "test", "test", "val", "train"],
    )
    assert "no test trial has responses: 1 of the 2 distinct val videos are test" in capsys.readouterr().out
    split = Recording(importer("sensorium2023", "test_from_val=0")(folder, tmp_path / "y.h5")[0]).info.trials.split
    assert "test" not in split.tolist()


def test_several_recordings_resume_where_one_was_killed(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str], interrupted: Callable[[int], None]
) -> None:
    for n in range(3):
        write(tmp_path / "all" / f"dynamic{n}-Video-abc")
    make = importer("sensorium2023")
    paths = make(tmp_path / "all", tmp_path / "whole")
    assert [path.name for path in paths] == ["dynamic0.h5", "dynamic1.h5", "dynamic2.h5"]
    interrupted(16)
    with pytest.raises(KeyboardInterrupt):
        make(tmp_path / "all", tmp_path / "out")
    there = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert any(name.endswith(".partial") for name in there)
    assert [p.name for p in make(tmp_path / "all", tmp_path / "out")] == [p.name for p in paths]
    for path in paths:
        assert (tmp_path / "out" / path.name).stat().st_size == path.stat().st_size
        a, b = Recording(path), Recording(tmp_path / "out" / path.name)
        for name, values in a.read(0, a.info.n_frames, a.info.behavior).items():
            np.testing.assert_array_equal(values, b.read(0, a.info.n_frames, a.info.behavior)[name])
    capsys.readouterr()
    before = {p: p.stat().st_mtime_ns for p in paths}
    make(tmp_path / "all", tmp_path / "whole")
    assert capsys.readouterr().out.count("is imported already") == 3
    assert before == {p: p.stat().st_mtime_ns for p in paths}
    other = importer("sensorium2023", "area=LM")
    other(tmp_path / "all", tmp_path / "whole")
    assert Recording(paths[0]).info.area == "LM"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__videos__1": None}, r"data/videos/1\.npy: file: missing"),
        ({"data__responses__1": None}, r"data/responses/1\.npy: file: missing"),
        ({"data__behavior__4": np.zeros((1, T))}, r"data/behavior/4\.npy: array: has shape \(1, 40\)"),
        ({"data__videos__0": np.zeros((H, W))}, r"data/videos/0\.npy: array: has shape \(6, 8\) and type float64"),
        ({"data__videos__1": np.zeros((H, W + 1, T))}, r"data/videos/1\.npy: array: its frames have size \(6, 9\)"),
        ({"data__responses__0": np.ones((U + 1, T))}, r"data/responses/0\.npy: array: has 4 rows"),
        ({"data__pupil_center__0": np.full((2, T), np.nan)}, r"data/pupil_center/0\.npy: array: nothing in it"),
        ({"data__videos__0": np.array([{}], object)}, r"data/videos/0\.npy: array: cannot be read"),
        ({"meta__trials__tiers": None}, r"meta/trials/tiers\.npy: file: missing"),
        ({"meta__neurons__unit_ids": np.zeros((3, 1))}, r"unit_ids\.npy: array: has shape \(3, 1\)"),
        ({"meta__trials__tiers": np.array(["a"] * 10)}, r"tiers\.npy: no trial of the tiers"),
    ],
)
def test_broken_folders_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    folder = write(tmp_path / NAME, **changes)
    with pytest.raises(RecordingError, match=message):
        importer("sensorium2023")(folder, tmp_path / "x.h5")
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_hole_in_a_video(tmp_path: Path, importer: Callable[..., Any]) -> None:
    video = arrays_of(0)["videos"]
    video[2, 3, 11] = np.nan
    with pytest.raises(RecordingError, match=r"videos/0\.npy: array: frame 11 is NaN in part"):
        importer("sensorium2023")(write(tmp_path / NAME, data__videos__0=video), tmp_path / "x.h5")


def test_files_cut_short_links_out_and_wrong_folders(tmp_path: Path, importer: Callable[..., Any]) -> None:
    make = importer("sensorium2023")
    folder = write(tmp_path / NAME)
    video = folder / "data/videos/1.npy"
    whole = video.read_bytes()
    video.write_bytes(whole[:3000])
    with pytest.raises(RecordingError, match=r"videos/1\.npy: array: cannot be read: mmap length"):
        make(folder, tmp_path / "x.h5")
    (tmp_path / "elsewhere.npy").write_bytes(whole)
    video.unlink()
    video.symlink_to(tmp_path / "elsewhere.npy")
    with pytest.raises(RecordingError, match=r"videos/1\.npy: file: is a link out of"):
        make(folder, tmp_path / "x.h5")
    with pytest.raises(RecordingError, match="source: holds neither data/ and meta/"):
        make(folder / "data", tmp_path / "x.h5")
    with pytest.raises(ValueError, match="there is no such file or folder"):
        make(tmp_path / "nothing", tmp_path / "x.h5")
    write(tmp_path / "dynamic4-5-6-Video-0")
    with pytest.raises(ValueError, match="gives 2 recordings; leave it out"):
        importer("sensorium2023", "recording_id=a")(tmp_path, tmp_path / "x")


@pytest.mark.slow
def test_end_to_end(
    tmp_path: Path, command: Callable[..., tuple[int, str]], train_and_evaluate: Callable[..., dict[str, Any]]
) -> None:
    write(tmp_path / "source" / NAME)
    code, printed = command("task=import", "importer=sensorium2023", "source=source", "out=data/sensorium2023")
    assert code == 0 and "wrote data/sensorium2023/dynamic1-2-3.h5" in printed
    summary = train_and_evaluate(
        "data=sensorium2023", "data.clip_length=30", "data.burn_in=5", "data.evaluation_burn_in=20"
    )
    assert summary["units"] == U and summary["bins"] == VALID[5] - 20 and summary["ln_bps_mean"] is not None
