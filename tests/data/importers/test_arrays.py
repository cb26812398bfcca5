from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shipped import arrays_importer

from vivit_core.data.importers.sources import split_by_stimulus
from vivit_core.data.recording.inputs import own_stimuli
from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingError

RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 17, (105, 3, 5), dtype=np.uint8)
COUNTS = RNG.poisson(1.0, (105, 2)).astype(np.uint8)


def save(tmp_path: Path, **changes: Any) -> Path:
    arrays = {"frames": FRAMES, "counts": COUNTS} | changes
    np.savez(tmp_path / "x.npz", **{name: values for name, values in arrays.items() if values is not None})
    return tmp_path / "x.npz"


def imported(tmp_path: Path, arrays: dict[str, Any], **settings: Any) -> Recording:
    importer = arrays_importer(**({"trial_length": 10} | settings))
    return Recording(importer(save(tmp_path, **arrays), tmp_path / "out" / "y.h5")[0])


def test_arrays_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    valid = RNG.random((2, 105)) > 0.1
    arrays = {
        "counts": COUNTS.T,
        "valid": valid,
        "behavior_run": np.arange(105.0),
        "unit_id": ["a", "b"],
        "unit_depth": [1, 2],
        "unit_position_um": [[0.0, 1.0], [2.0, 3.0]],
        "centers_px": np.zeros((2, 2)),
    }
    recording = imported(tmp_path, arrays, counts_axis="unit_time", area="retina")
    info = recording.info
    assert (info.unit_ids, info.behavior, info.area, info.frame_rate_hz) == (("a", "b"), {"run": 1}, "retina", 30)
    clip = recording.read(0, 105, {"run": 1})
    np.testing.assert_array_equal(clip["frames"][0], FRAMES)
    np.testing.assert_array_equal(clip["counts"], COUNTS)
    np.testing.assert_array_equal(clip["valid"], valid.T)
    np.testing.assert_array_equal(clip["behavior"][:, 0], np.arange(105))
    np.testing.assert_array_equal(recording.unit_column("position_um"), [[0, 1], [2, 3]])
    assert info.position_dim == 2
    said = capsys.readouterr().out
    assert "105 frames of 3×5" in said and "left out: centers_px" in said and "the last trial has 5 bins" in said


def test_trials_of_one_length_and_the_rest(tmp_path: Path) -> None:
    trials = imported(tmp_path, {}).info.trials
    assert trials.start.tolist() == list(range(0, 105, 10)) and trials.stop.tolist() == [*range(10, 105, 10), 105]
    assert {name: int((trials.split == name).sum()) for name in ("train", "val", "test")} == {
        "train": 9,
        "val": 1,
        "test": 1,
    }
    again = imported(tmp_path, {}).info.trials
    assert again.split.tolist() == trials.split.tolist()
    others = [imported(tmp_path, {}, seed=seed).info.trials.split.tolist() for seed in range(1, 4)]
    assert any(other != trials.split.tolist() for other in others)


def test_trials_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arrays = {"trial_start": [5, 50, 60], "split": ["train", "val", "test"], "stimulus_id": [7, 8, 7]}
    trials = imported(tmp_path, arrays, trial_length=None).info.trials
    assert (trials.start.tolist(), trials.stop.tolist()) == ([5, 50, 60], [50, 60, 105])
    assert (trials.split.tolist(), trials.stimulus_id.tolist()) == (["train", "val", "test"], ["7", "8", "7"])
    said = capsys.readouterr().out
    assert "left out: frames 0:5 belong to no trial" in said
    assert "shows 1 of 2 stimuli (7) in trials of more than one split (train, test): what is scored" in said
    trials = imported(tmp_path, arrays, trial_length=None, split="test").info.trials
    assert trials.split.tolist() == ["test"] * 3
    said = capsys.readouterr().out
    assert "importer.split=test stands above" in said and "more than one split" not in said


def test_all_into_one_split(tmp_path: Path) -> None:
    trials = imported(tmp_path, {}, trial_length=None, split="test").info.trials
    assert (trials.start.tolist(), trials.stop.tolist(), trials.split.tolist()) == ([0], [105], ["test"])


def test_repeats_stay_together() -> None:
    stimuli = RNG.integers(0, 20, 200)
    for seed in range(5):
        split = split_by_stimulus(stimuli, 0.2, 0.1, seed, "")
        of = {s: set(split[stimuli == s]) for s in range(20)}
        assert all(len(splits) == 1 for splits in of.values())
        named = [splits.pop() for splits in of.values()]
        assert (named.count("val"), named.count("test")) == (4, 2)
    assert set(split_by_stimulus(np.arange(3), 0.01, 0.01, 0, "")) == {"train", "val", "test"}
    assert set(split_by_stimulus(np.arange(3), 0.0, 0.0, 0, "")) == {"train"}
    with pytest.raises(ValueError, match="2 distinct stimuli cannot give"):
        split_by_stimulus(np.array([1, 2, 1]), 0.1, 0.1, 0, "do this")
    with pytest.raises(ValueError, match="negative"):
        split_by_stimulus(np.arange(3), -0.1, 0.1, 0, "")


@pytest.mark.parametrize(
    ("frames", "dtype"),
    [
        (FRAMES.astype(np.int64), "uint8"),
        (FRAMES.astype(np.int64) - 9, "float32"),
        (FRAMES / 16, "float32"),
        (FRAMES > 8, "uint8"),
    ],
)
def test_pixel_types(frames: np.ndarray, dtype: str, tmp_path: Path) -> None:
    recording = imported(tmp_path, {"frames": frames})
    assert recording.info.frame_dtype == dtype
    np.testing.assert_allclose(recording.frames(0, 105)[0], frames, rtol=1e-6)


@pytest.mark.parametrize("counts_axis", ["time_unit", "unit_time"])
@pytest.mark.parametrize("form", ["like counts", "flat", "column"])
def test_valid_is_like_counts_or_one_value_a_frame(form: str, counts_axis: Any, tmp_path: Path) -> None:
    marks, turned = RNG.random((105, 2)) > 0.2, counts_axis == "unit_time"
    if form != "like counts":
        marks[:, 1] = marks[:, 0]
    stored = {"like counts": marks.T if turned else marks, "flat": marks[:, 0], "column": marks[:, :1]}[form]
    arrays = {"counts": COUNTS.T if turned else COUNTS, "valid": stored}
    recording = imported(tmp_path, arrays, counts_axis=counts_axis)
    np.testing.assert_array_equal(recording.valid(0, 105), marks)


@pytest.mark.parametrize(
    ("arrays", "settings"),
    [
        ({"counts": COUNTS.T}, {"counts_axis": "unit_time"}),
        ({}, {"trial_length": 60, "split": "train"}),
        ({}, {"trial_length": 35}),
        ({}, {"trial_length": None, "split": "val"}),
        ({"trial_start": [0]}, {"trial_length": None, "split": "train"}),
        ({"trial_start": [0, 50], "split": ["train", "val"]}, {"trial_length": None}),
        ({"frames": np.moveaxis(np.repeat(FRAMES[:, None], 2, 1), 1, -1)}, {}),
        ({"frames": np.moveaxis(np.moveaxis(FRAMES, 0, -1), 2, 0)}, {}),
        ({"unit_day": np.array(["2024-05-01"] * 2, "datetime64[D]").astype(str)}, {}),
        ({"valid": np.where(np.arange(105) == 7, 0.0, 1.0)}, {}),
        ({"behavior_run": np.arange(105) % 2 == 0}, {}),
    ],
)
def test_the_messages_remedies_work(arrays: dict[str, Any], settings: dict[str, Any], tmp_path: Path) -> None:
    info = imported(tmp_path, arrays, **settings).info
    assert info.frame_shape[1:] == (3, 5) and info.n_frames == 105


@pytest.mark.parametrize(
    ("values", "own"),
    [
        (np.where(np.arange(11) % 4 == 0, np.nan, np.arange(11) % 2), [0, 4, 8]),
        (np.array(["film", "", "film", "nan", *["b"] * 7]), [1, 3]),
    ],
    ids=["numbers", "text"],
)
def test_a_trial_without_a_stimulus_id_repeats_no_other(
    values: np.ndarray, own: list[int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = {"val_fraction": 0.0, "test_fraction": 0.0}
    ids = imported(tmp_path, {"stimulus_id": values}, **settings).info.trials.stimulus_id.tolist()
    for row, found in enumerate(ids):
        same = [i for i in range(11) if i == row or (row not in own and i not in own and values[row] == values[i])]
        assert [i for i, other in enumerate(ids) if other == found] == same
    assert f"{len(own)} trials without a stimulus_id: each is a stimulus of its own" in capsys.readouterr().out


def test_what_says_that_a_stimulus_is_not_known() -> None:
    given = np.array([None, "a", b"a", 2.0, 2, np.datetime64("NaT"), float("nan"), " ", "<NA>", "none"], dtype=object)
    ids, unknown = own_stimuli(given)
    assert unknown == 5 and len(set(ids.tolist())) == 5 + 3
    assert ids[1] == ids[2] == "a" and ids[3] == ids[4] == "2" and ids[9] == "none"  # which may be a name
    ids, unknown = own_stimuli(np.ma.masked_equal([3, 3, 9, 9], 9))
    assert unknown == 2 and ids[0] == ids[1] and len(set(ids.tolist())) == 3
    assert own_stimuli(np.array(["2024-05-01", "NaT"], "datetime64[D]"))[1] == 1


@pytest.mark.parametrize(
    ("arrays", "settings", "message"),
    [
        ({"counts": None}, {}, r"x\.npz lacks \['counts'\]; it holds .*: save the arrays under the names"),
        ({"counts": COUNTS.T}, {}, r"set importer\.counts_axis=unit_time"),
        ({"counts": COUNTS[:50]}, {}, "counts has 50 bins for 105 frames; give one bin a frame"),
        ({"counts": COUNTS[0]}, {}, r"x\.npz: counts: has shape \(2,\)\. It ought to be \(bins, units\)"),
        ({"frames": FRAMES[0]}, {}, r"frames: has shape \(3, 5\)"),
        ({"frames": np.array(5)}, {}, r"x\.npz: frames: has shape \(\)\. It ought to be \(frames, height, width\)"),
        ({"frames": FRAMES.astype(str)}, {}, r"x\.npz: frames: holds text \(<U3\)\. It ought to be pixel values"),
        ({"frames": np.array([None, {}], dtype=object)}, {}, "allow_pickle"),
        ({}, {"trial_length": None}, r"give importer\.trial_length=… \(frames\), or importer\.split=train"),
        ({}, {"trial_length": 60}, r"cannot give.*importer\.trial_length=…, or .*importer\.split=train"),
        ({"trial_start": [0]}, {"trial_length": None}, r"cannot give.*make all one split: importer\.split=train"),
        (
            {"frames": np.repeat(FRAMES[:, None], 2, 1)},
            {},
            r"\(105, 2, 3, 5\): 5 colors .*moveaxis\(frames, 1, -1\)",
        ),
        ({"frames": np.zeros((105, 6, 7, 5))}, {}, "Give at most 4 colors, in the last axis"),
        ({"frames": np.moveaxis(FRAMES, 0, -1)}, {}, r"3 frames in \(frames, height.*np\.moveaxis\(frames, 2, 0\)"),
        ({"frames": FRAMES.astype(complex)}, {}, r"frames: holds complex numbers"),
        ({"counts": COUNTS.astype(str)}, {}, r"x\.npz: counts: holds text"),
        ({"counts": COUNTS.astype(bool)}, {}, r"counts: holds true and false"),
        ({"behavior_state": np.array(["a"] * 105)}, {}, r"x\.npz: behavior_state: holds text .*ought to be numbers"),
        ({"behavior_clock": np.arange(105).astype("datetime64[s]")}, {}, "behavior_clock: holds dates"),
        ({"behavior_pair": np.zeros(105, "i4,f4")}, {}, "behavior_pair: holds rows of several fields"),
        ({"behavior_pose": np.zeros((105, 2, 3))}, {}, r"behavior_pose: has shape \(105, 2, 3\)"),
        (
            {"behavior_pose": np.zeros((105, 0))},
            {},
            r"x\.npz: behavior_pose: has shape \(105, 0\).* at least one number",
        ),
        ({"unit_day": np.array(["2024-05-01"] * 2, "datetime64[D]")}, {}, r"unit_day: holds dates.*\.astype\(str\)"),
        ({"valid": np.where(np.arange(105) == 7, np.nan, 1.0)}, {}, r"valid: row 7 holds nan.*\(1 such values\)"),
        ({"valid": np.full((105, 2), 2)}, {}, r"row 0 holds 2, which is neither.*\(210 such values\)"),
        ({"valid": np.array(["True"] * 105)}, {}, "valid: holds text"),
        ({"valid": np.ones(104)}, {}, r"x\.npz: valid has shape \(104,\); give it like counts \(105, 2\), or \(105,\)"),
        ({"valid": np.ones((2, 105))}, {}, r"valid has shape \(2, 105\); give it like counts \(105, 2\)"),
        (
            {"counts": COUNTS.T, "valid": np.ones((105, 2))},
            {"counts_axis": "unit_time"},
            r"valid has shape \(105, 2\); give it like counts \(2, 105\)",
        ),
        ({"valid": np.array(1)}, {}, r"valid has shape \(\); give it like counts"),
        ({"trial_start": [0, 50]}, {}, r"set importer\.trial_length=null"),
        ({"trial_start": [50, 0]}, {"trial_length": None}, r"rising frame numbers \(not ms or s\)"),
        ({"trial_start": [0.0, 1.5]}, {"trial_length": None}, r"rising frame numbers \(not ms or s\)"),
        ({"trial_start": [0, 105]}, {"trial_length": None}, r"not inside 0:105 \(frame numbers, not ms or s\)"),
        ({"stimulus_id": [1, 2]}, {}, "one value for each of the 11 trials"),
        ({"trial_start": [0], "split": ["all"]}, {"trial_length": None}, r"x\.npz: .*row 0 says 'all'; write one of"),
    ],
)
def test_mistakes_are_named(arrays: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        imported(tmp_path, arrays, **settings)
    assert not (tmp_path / "out" / "y.h5").exists()


def test_bad_values_and_bad_files(tmp_path: Path) -> None:
    hole = FRAMES.astype(float)
    hole[7, 1, 2] = np.nan
    with pytest.raises(RecordingError, match=r"y\.h5: stimulus/frames: row 7, index \[1, 2\] is nan"):
        imported(tmp_path, {"frames": hole})
    with pytest.raises(RecordingError, match=r"y\.h5: responses/counts: row 0, unit 0 is negative"):
        imported(tmp_path, {"counts": COUNTS.astype(float) - 50})
    importer = arrays_importer(trial_length=10)
    with pytest.raises(ValueError, match=r"none\.npz: there is no such file"):
        importer(tmp_path / "none.npz", tmp_path / "y.h5")
    np.save(tmp_path / "one.npy", FRAMES)
    whole = save(tmp_path).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[:900])
    for name in ("one.npy", "cut.npz"):
        with pytest.raises(ValueError, match=f"{name} is not a whole .npz file"):
            importer(tmp_path / name, tmp_path / "y.h5")
    (tmp_path / "damaged.npz").write_bytes(whole[:300] + bytes(200) + whole[500:])
    with pytest.raises(ValueError, match=r"damaged\.npz cannot be read: Bad CRC"):
        importer(tmp_path / "damaged.npz", tmp_path / "y.h5")


def folder(tmp_path: Path, **arrays: Any) -> Path:
    (tmp_path / "x").mkdir()
    for name, values in arrays.items():
        np.save(tmp_path / "x" / f"{name}.npy", values)
    return tmp_path / "x"


def test_a_folder_of_npy_files_gives_the_same(tmp_path: Path) -> None:
    arrays = {
        "frames": FRAMES.astype(np.float64),
        "counts": COUNTS.T,
        "valid": RNG.random(105) > 0.1,
        "behavior_run": np.arange(105.0),
        "unit_id": ["a", "b"],
    }
    importer = arrays_importer(counts_axis="unit_time", trial_length=10)
    one = Recording(importer(save(tmp_path, **arrays), tmp_path / "1.h5")[0])
    two = Recording(importer(folder(tmp_path, **arrays), tmp_path / "2.h5")[0])
    assert two.info.unit_ids == ("a", "b") and two.info.frame_dtype == "uint8"
    for name, values in one.read(0, 105, {"run": 1}).items():
        np.testing.assert_array_equal(two.read(0, 105, {"run": 1})[name], values)


def test_a_folder_larger_than_the_memory_it_may_take(tmp_path: Path) -> None:
    """Frames of 160 MB are imported while memory grows by a fraction of it."""
    source = folder(tmp_path, counts=np.ones((40_000, 3), np.float32))
    made = np.lib.format.open_memmap(source / "frames.npy", "w+", np.float32, (40_000, 32, 32))
    made[:, 0, 0] = 0.5
    made.flush()
    del made
    code = (
        "import json, re, resource, sys\n"
        "from pathlib import Path\n"
        "from vivit_core.data.importers.arrays import ArraysImporter\n"
        "now_kb = int(re.search(r'VmData:\\s+(\\d+)', Path('/proc/self/status').read_text())[1])\n"
        "resource.setrlimit(resource.RLIMIT_DATA, ((now_kb << 10) + (90 << 20),) * 2)\n"
        "ArraysImporter(**json.loads(sys.argv[3]))(sys.argv[1], sys.argv[2])\n"
    )
    words = [str(source), str(tmp_path / "y.h5"), json.dumps(asdict(arrays_importer(trial_length=5000)))]
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)
    assert Recording(tmp_path / "y.h5").frames(39_000, 39_001)[0, 0, 0, 0] == 0.5


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"frames": FRAMES}, r"lacks \['counts'\]"),
        ({"frames": FRAMES, "counts": np.array([{}, 1], object)}, r"counts\.npy: array: cannot be read"),
        ({"frames": FRAMES.astype("complex"), "counts": COUNTS}, r"frames\.npy: array: has shape .* complex128"),
    ],
)
def test_broken_folders_are_named(arrays: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        arrays_importer(trial_length=10)(folder(tmp_path, **arrays), tmp_path / "y.h5")


def test_other_settings_or_another_file_import_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    importer, out = arrays_importer(trial_length=10), tmp_path / "y.h5"
    importer(save(tmp_path), out)
    importer(save(tmp_path), out)  # written anew: another time of change
    assert "imported already" not in capsys.readouterr().out
    importer(tmp_path / "x.npz", out)
    assert "imported already" in capsys.readouterr().out
    arrays_importer(trial_length=20)(tmp_path / "x.npz", out)
    assert len(Recording(out).info.trials) == 6
    out.write_bytes(out.read_bytes()[:2000])
    arrays_importer(trial_length=20)(tmp_path / "x.npz", out)
    assert len(Recording(out).info.trials) == 6
