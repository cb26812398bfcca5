from __future__ import annotations

import json
import math
import multiprocessing
import pickle
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vivit_core.data.recording import resumable
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording, runs
from vivit_core.data.recording.validate import check_recording, validate_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.statistics import training_statistics
from vivit_core.specs import RecordingError, RecordingSpec
from vivit_core.system.files import remember_whole


def replace_dataset(file: h5py.File, name: str, values: Any, **attrs: Any) -> None:
    kept = dict(file[name].attrs) if name in file else {}
    if name in file:
        del file[name]
    file[name] = values
    file[name].attrs.update(kept | attrs)


def test_what_is_written_is_read(make: Callable[..., Path], arrays: Callable[..., dict[str, Any]]) -> None:
    given = arrays()
    valid = np.random.default_rng(1).random((120, 3)) > 0.2
    rate = np.random.default_rng(2).random((120, 3))
    path = make(
        valid=valid,
        truth={"rate": rate, "kind": ["simple", "complex", "simple"]},
        units={"id": ["u7", "u8", "u9"], "depth_um": [1.0, 2.0, 3.0]},
        behavior_units={"eye": "deg"},
        behavior_causal={"eye": False},
        degrees_per_pixel=0.1,
        area="V1",
        licence="MIT",
    )
    recording = Recording(path)
    info = recording.info
    assert (info.recording_id, info.frame_rate_hz, info.n_frames, info.frame_shape) == ("rec0", 100.0, 120, (1, 4, 6))
    assert (info.unit_ids, info.behavior, info.behavior_causal) == (("u7", "u8", "u9"), {"eye": 2}, {"eye": False})
    assert (info.degrees_per_pixel, info.area, info.licence, info.has_truth) == (0.1, "V1", "MIT", True)
    np.testing.assert_array_equal(info.trials.split, given["trials"].split)
    np.testing.assert_array_equal(info.trials.stimulus_id, [str(i) for i in range(6)])

    clip = recording.read(15, 47, {"eye": 2})
    np.testing.assert_array_equal(clip["frames"], given["frames"][None, 15:47])
    np.testing.assert_array_equal(clip["counts"], given["counts"][15:47])
    np.testing.assert_array_equal(clip["valid"], valid[15:47])
    np.testing.assert_array_equal(clip["behavior"], given["behavior"]["eye"][15:47])
    assert {name: values.dtype.name for name, values in clip.items()} == {
        "frames": "uint8",
        "counts": "float32",
        "valid": "bool",
        "behavior": "float32",
    }
    np.testing.assert_allclose(recording.truth("rate", 15, 47), rate[15:47], rtol=1e-6)
    np.testing.assert_allclose(recording.truth_at(np.r_[3:9, 15:47]), rate[np.r_[3:9, 15:47]], rtol=1e-6)
    assert recording.truth("kind").tolist() == ["simple", "complex", "simple"]
    with pytest.raises(ValueError, match="no truth/center"):
        recording.truth("center")
    with pytest.raises(ValueError, match="not inside 0:120"):
        recording.read(100, 121, {})


def test_color_and_floats(make: Callable[..., Path]) -> None:
    frames = np.random.default_rng(0).random((120, 4, 6, 3))  # float64, stored as float32
    clip = Recording(make(frames=frames)).read(3, 9, {})
    assert clip["frames"].dtype == np.float32 and clip["frames"].flags.c_contiguous
    np.testing.assert_allclose(clip["frames"], np.moveaxis(frames[3:9], -1, 0), rtol=1e-6)
    assert clip["behavior"].shape == (6, 0)


def test_units_in_another_order(make: Callable[..., Path]) -> None:
    valid = np.random.default_rng(1).random((120, 3)) > 0.2
    rate = np.random.default_rng(2).random((120, 3))
    path = make(valid=valid, truth={"rate": rate, "size_px": [4.0, 5.0, 6.0]})
    plain, turned = Recording(path), Recording(path, recording_id="other", unit_ids=["2", "0", "1"])
    assert (turned.recording_id, turned.info.unit_ids) == ("other", ("2", "0", "1"))
    for name in ("counts", "valid"):
        np.testing.assert_array_equal(turned.read(0, 9, {})[name], plain.read(0, 9, {})[name][:, [2, 0, 1]])
    np.testing.assert_array_equal(turned.truth("rate", 0, 9), plain.truth("rate", 0, 9)[:, [2, 0, 1]])
    assert turned.truth("size_px").tolist() == [6.0, 4.0, 5.0]
    assert (plain.info.position_dim, plain.unit_column("position_um")) == (0, None)
    places = np.array([[0.0, 10.0], [5.0, 20.0], [-3.5, 30.0]])
    placed = Recording(
        make("placed.h5", units={"id": ["0", "1", "2"], "position_um": places}), unit_ids=["2", "0", "1"]
    )
    assert placed.info.position_dim == 2
    np.testing.assert_array_equal(placed.unit_column("position_um"), places[[2, 0, 1]])
    spec = training_statistics(placed, {})
    assert spec.unit_position_um == ((-3.5, 30.0), (0.0, 10.0), (5.0, 20.0))
    assert RecordingSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec
    assert training_statistics(plain, {}).unit_position_um == ()
    for wrong in ([[1.0, math.nan]] * 3, [[1.0, 2.0]] * 2, [[1.0]] * 3, [[1.0, 2.0], [1.0], [1.0, 2.0]]):
        with pytest.raises(ValueError, match=r"a finite number|positions of"):
            RecordingSpec.from_dict(spec.to_dict() | {"unit_position_um": wrong})
    with pytest.raises(RecordingError, match=r"missing 7, not expected 1"):
        Recording(path, unit_ids=["2", "0", "7"])


def test_missing_behavior_is_zero_and_told_once(make: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    recording = Recording(make())
    for _ in range(2):
        behavior = recording.read(0, 5, {"pupil": 3, "eye": 2})["behavior"]
    assert behavior.shape == (5, 5) and not behavior[:, :3].any() and behavior[:, 3:].all()
    assert len([r for r in caplog.records if "pupil" in r.message]) == 1
    with pytest.raises(ValueError, match="has 2 numbers, and 4 are expected"):
        recording.read(0, 5, {"eye": 4})


def test_arrays_on_disk_are_copied_in_pieces(
    tmp_path: Path, arrays: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivit_core.data.recording.writer.COPY_BYTES", 1000)
    given = arrays()
    np.save(tmp_path / "frames.npy", given["frames"])
    largest = 0

    class Watched:
        def __init__(self, values: Any) -> None:
            self.values, self.shape, self.dtype = values, values.shape, values.dtype

        def __getitem__(self, key: slice) -> Any:
            nonlocal largest
            largest = max(largest, key.stop - key.start)
            return self.values[key]

    with h5py.File(tmp_path / "counts.h5", "w") as file:
        file["c"] = given["counts"]
        frames = np.load(tmp_path / "frames.npy", mmap_mode="r")
        path = write_recording(tmp_path / "a.h5", **(given | {"frames": Watched(frames), "counts": file["c"]}))
    assert largest == 1000 // 24
    np.testing.assert_array_equal(Recording(path).read(0, 120, {})["frames"][0], given["frames"])
    np.testing.assert_array_equal(Recording(path).read(0, 120, {})["counts"], given["counts"])


def test_a_failed_write_leaves_the_old_file(make: Callable[..., Path], arrays: Callable[..., dict[str, Any]]) -> None:
    path = make()
    before = path.read_bytes()

    class Failing:
        shape, dtype = (120, 4, 6), np.dtype(np.uint8)

        def __getitem__(self, key: slice) -> Any:
            raise OSError("disk on fire")

    with pytest.raises(OSError, match="on fire"):
        make(frames=Failing())
    counts = arrays()["counts"].astype(np.float32)
    counts[7, 1] = np.nan
    with pytest.raises(RecordingError, match=r"a\.h5: responses/counts: row 7, index \[1\] is nan"):
        make(counts=counts)
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == ["a.h5"]


def test_options_for_a_behavior_that_is_not_there(make: Callable[..., Path]) -> None:
    with pytest.raises(ValueError, match="pupil"):
        make(behavior_causal={"pupil": False})


def test_files_that_are_no_recordings(tmp_path: Path, make: Callable[..., Path]) -> None:
    whole = make()
    with pytest.raises(RecordingError, match="no such file"):
        validate_recording(tmp_path / "none.h5")
    (tmp_path / "text.h5").write_text("hello")
    with pytest.raises(RecordingError, match="not an HDF5 file"):
        validate_recording(tmp_path / "text.h5")
    (tmp_path / "empty.h5").touch()
    with pytest.raises(RecordingError, match="not an HDF5 file"):
        validate_recording(tmp_path / "empty.h5")
    with h5py.File(tmp_path / "foreign.h5", "w") as file:
        file["x"] = 1
    with pytest.raises(RecordingError, match="attribute format: this HDF5 file is not a recording"):
        validate_recording(tmp_path / "foreign.h5")
    data = whole.read_bytes()
    for fraction in (0.05, 0.5, 0.99):
        (tmp_path / "cut.h5").write_bytes(data[: int(len(data) * fraction)])
        for read in (validate_recording, Recording):
            with pytest.raises(RecordingError, match=r"cut\.h5: file: truncated or damaged"):
                read(tmp_path / "cut.h5")


BREAKS: dict[str, tuple[Callable[[h5py.File], Any], str]] = {
    "version": (lambda f: f.attrs.modify("format_version", 2), "attribute format_version: is 2"),
    "no version": (lambda f: f.attrs.pop("format_version"), "attribute format_version: is None"),
    "no id": (lambda f: f.attrs.modify("recording_id", ""), "attribute recording_id: missing"),
    "rate nan": (lambda f: f.attrs.modify("frame_rate_hz", np.nan), "attribute frame_rate_hz: is nan"),
    "rate text": (lambda f: f.attrs.create("frame_rate_hz", "fast"), "attribute frame_rate_hz: is fast"),
    "rate gone": (lambda f: f.attrs.pop("frame_rate_hz"), "attribute frame_rate_hz: is None"),
    "no frames": (lambda f: f.pop("stimulus/frames"), "stimulus/frames: missing"),
    "no stimulus": (lambda f: f.pop("stimulus"), "stimulus/frames: missing"),
    "frames are a group": (
        lambda f: (f.pop("stimulus/frames"), f.create_group("stimulus/frames")),
        "stimulus/frames: is a group",
    ),
    "rank": (
        lambda f: replace_dataset(f, "stimulus/frames", np.zeros((120, 24), np.uint8)),
        r"stimulus/frames: has shape \(120, 24\)",
    ),
    "dtype": (
        lambda f: replace_dataset(f, "stimulus/frames", np.zeros((120, 4, 6), np.int32)),
        "stimulus/frames: has type int32",
    ),
    "scalar": (lambda f: replace_dataset(f, "stimulus/frames", 3), r"stimulus/frames: has shape \(\)"),
    "text frames": (
        lambda f: replace_dataset(f, "stimulus/frames", np.full((2, 2, 2), b"a")),
        "stimulus/frames: has type",
    ),
    "empty frames": (
        lambda f: replace_dataset(f, "stimulus/frames", np.zeros((0, 4, 6), np.uint8)),
        "stimulus/frames: is empty",
    ),
    "length": (
        lambda f: replace_dataset(f, "responses/counts", np.zeros((119, 3))),
        "responses/counts: has 119 rows, but stimulus/frames has 120",
    ),
    "no units": (
        lambda f: replace_dataset(f, "responses/counts", np.zeros((120, 0))),
        "responses/counts: has no units",
    ),
    "kind": (lambda f: f["responses/counts"].attrs.modify("kind", "spike"), "attribute kind: is 'spike'"),
    "negative": (
        lambda f: f["responses/counts"].__setitem__((40, 2), -1),
        r"responses/counts: row 40, unit 2 is negative \(-1",
    ),
    "nan": (
        lambda f: f["responses/counts"].__setitem__((41, 1), np.nan),
        r"responses/counts: row 41, index \[1\] is nan",
    ),
    "inf": (
        lambda f: f["responses/counts"].__setitem__((119, 0), np.inf),
        r"responses/counts: row 119, index \[0\] is inf",
    ),
    "valid is no bool": (
        lambda f: replace_dataset(f, "responses/valid", np.ones((120, 1), np.uint8)),
        "responses/valid: has type uint8",
    ),
    "valid columns": (
        lambda f: replace_dataset(f, "responses/valid", np.ones((120, 2), bool)),
        "responses/valid: has 2 columns for 3 units",
    ),
    "no valid": (lambda f: f.pop("responses/valid"), "responses/valid: missing"),
    "behavior length": (lambda f: replace_dataset(f, "behavior/eye", np.zeros((5, 2))), "behavior/eye: has 5 rows"),
    "behavior infinite": (
        lambda f: f["behavior/eye"].__setitem__((3, 1), np.inf),
        r"behavior/eye: row 3, index \[1\] is inf.*NaN where a value is missing",
    ),
    "behavior is no group": (lambda f: (f.pop("behavior"), f.__setitem__("behavior", 1)), "behavior: is a dataset"),
    "frames nan": (
        lambda f: f["stimulus/frames"].__setitem__((99, 1, 2), np.nan),
        r"stimulus/frames: row 99, index \[1, 2\] is nan",
    ),
    "unsorted": (lambda f: f["trials/start"].__setitem__(2, 100), "trials/stop: row 2 is the range 100:60"),
    "overlap": (lambda f: f["trials/stop"].__setitem__(2, 70), "trials/start: row 3 starts at 60, before row 2 ends"),
    "negative start": (lambda f: f["trials/start"].__setitem__(0, -1), "trials/stop: row 0 is the range -1:20"),
    "outside": (lambda f: f["trials/stop"].__setitem__(5, 121), "trials/stop: row 5 ends at frame 121 of 120"),
    "float start": (lambda f: replace_dataset(f, "trials/start", np.zeros(6)), "trials/start: has type float64"),
    "split": (lambda f: f["trials/split"].__setitem__(1, "validation"), "trials/split: row 1 says 'validation'"),
    "no split": (lambda f: f.pop("trials/split"), "trials/split: missing"),
    "trials differ": (lambda f: replace_dataset(f, "trials/stimulus_id", np.arange(5)), "trials: one number a trial"),
    "unit ids": (lambda f: f["units/id"].__setitem__(2, "0"), "units/id: rows 0 and 2 are both '0'"),
    "unit rows": (lambda f: f.__setitem__("units/depth", np.zeros(2)), "units/depth: has 2 rows"),
    "unit positions": (
        lambda f: f.__setitem__("units/position_um", np.zeros((3, 4))),
        r"units/position_um: has shape \(3, 4\) .* Write \(U, 2\) or \(U, 3\) numbers, in micrometers",
    ),
    "unit positions flat": (lambda f: f.__setitem__("units/position_um", np.zeros(3)), r"has shape \(3,\)"),
    "unit positions text": (lambda f: f.__setitem__("units/position_um", [[b"a", b"b"]] * 3), "and type"),
    "unit positions nan": (
        lambda f: f.__setitem__("units/position_um", np.array([[0, 0], [0, np.nan], [0, 0]])),
        r"units/position_um: row 1, index \[1\] is nan",
    ),
    "no unit ids": (lambda f: f.pop("units"), "units/id: missing"),
    "truth shape": (lambda f: f.__setitem__("truth/rate", np.zeros((120, 2))), r"truth/rate: has shape \(120, 2\)"),
    "truth negative": (
        lambda f: f.__setitem__("truth/rate", np.full((120, 3), -1.0)),
        "truth/rate: row 0, unit 0 is negative",
    ),
}


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize("what", BREAKS)
def test_the_validator_names_what_is_wrong(
    what: str, make: Callable[..., Path], arrays: Callable[..., dict[str, Any]]
) -> None:
    given = arrays()
    path = make(frames=given["frames"].astype(np.float32), counts=given["counts"].astype(np.float32))
    breaking, message = BREAKS[what]
    with h5py.File(path, "r+") as file:
        breaking(file)
    with pytest.raises(RecordingError, match=rf"^{path}: .*{message}"):
        validate_recording(path)


def test_no_trials(make: Callable[..., Path]) -> None:
    none = np.zeros(0, np.int64)
    with pytest.raises(RecordingError, match="trials: there are none"):
        make(trials=Trials(none, none, none, none))


def test_a_test_only_recording_is_fine(make: Callable[..., Path]) -> None:
    assert validate_recording(make(trials=Trials([0], [120], ["x"], ["test"]))).trials.of("train").n_bins == 0


@pytest.mark.parametrize("kind", ["external link", "soft link", "external storage", "virtual"])
def test_data_outside_the_file_are_refused(kind: str, make: Callable[..., Path], tmp_path: Path) -> None:
    path, other = make(), make("b.h5", seed=1)
    with h5py.File(path, "r+") as file:
        del file["stimulus/frames"]
        if kind == "external link":
            file["stimulus/frames"] = h5py.ExternalLink(str(other), "/stimulus/frames")
        elif kind == "soft link":
            file["stimulus/frames"] = h5py.SoftLink("/responses/counts")
        elif kind == "external storage":
            (tmp_path / "raw").write_bytes(bytes(120 * 24))
            file.create_dataset(
                "stimulus/frames", (120, 4, 6), np.uint8, external=[(str(tmp_path / "raw"), 0, 120 * 24)]
            )
        else:
            layout = h5py.VirtualLayout((120, 4, 6), np.uint8)
            layout[:] = h5py.VirtualSource(str(other), "stimulus/frames", (120, 4, 6))
            file.create_virtual_dataset("stimulus/frames", layout)
    with pytest.raises(RecordingError, match=r"stimulus/frames: (is a link|its data lie in another file)"):
        validate_recording(path)


def test_of_a_known_file_the_frames_are_left_to_the_reader(
    make: Callable[..., Path], arrays: Callable[..., dict[str, Any]]
) -> None:
    path = make(frames=arrays()["frames"].astype(np.float32))
    with h5py.File(path, "r+") as file:
        file["stimulus/frames"][50] = np.nan
    remember_whole(path)
    check_recording(path)
    Recording(path).read(0, 50, {})
    with pytest.raises(RecordingError, match=r"stimulus/frames: row 50 is not finite"):
        Recording(path).read(45, 55, {})


@pytest.mark.usefixtures("unguarded")
def test_memory_of_the_validator_is_bounded(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivit_core.data.recording.validate.COPY_BYTES", 1 << 18)
    path = make(n_frames=2000, frames=np.zeros((2000, 40, 50), np.float32))
    tracemalloc.start()
    try:
        validate_recording(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert path.stat().st_size > 16e6 and peak < 2e6


def read_in_child(recording: Recording, queue: Any) -> None:
    queue.put((recording.read(3, 9, {"eye": 2})["counts"].tolist(), recording._pid))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_process_opens_the_file_itself(method: str, make: Callable[..., Path]) -> None:
    recording = Recording(make())
    here = recording.read(3, 9, {"eye": 2})["counts"].tolist()
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    child = context.Process(target=read_in_child, args=(recording, queue))
    child.start()
    there, pid = queue.get(timeout=30)
    child.join()
    assert there == here and pid == child.pid
    assert recording.read(3, 9, {"eye": 2})["counts"].tolist() == here
    recording.close()
    assert pickle.loads(pickle.dumps(recording)).read(3, 9, {})["counts"].tolist() == here


def test_trials_check_themselves() -> None:
    trials = Trials([0, 10], [10, 25], [b"a", b"a"], ["train", "test"])
    assert trials.n_bins == 25 and len(trials) == 2
    assert trials.of("test").start.tolist() == [10] and trials.stimulus_id.tolist() == ["a", "a"]
    with pytest.raises(ValueError, match="row 1 starts at 5"):
        Trials([0, 5], [10, 25], [0, 1], ["train", "test"])
    with pytest.raises(ValueError, match="integers"):
        Trials([0.0], [10.5], [0], ["train"])


def test_trials_without_a_stimulus_id_are_no_repeats_of_each_other(make, tmp_path):
    given = np.array(["film", "", "nan", "film", "NaN", " ", "Nana"])
    starts = np.arange(7) * 10
    trials = Trials(starts, starts + 10, given, np.array(["test"] * 7))
    assert sorted(map(len, trials.by_stimulus().values())) == [1, 1, 1, 1, 1, 2] and trials.unnamed == 4
    numbers = Trials(starts, starts + 10, np.array([1.0, np.nan, 1.0, np.nan, 2, np.nan, 3]), trials.split)
    assert numbers.unnamed == 3 and len(numbers.by_stimulus()) == 6
    # In a file of another program too, and their names stay where trials are left out or brought to another rate.
    path = make()
    with h5py.File(path, "r+") as file:
        replace_dataset(file, "trials/stimulus_id", [b"", b"a", b"nan", b"a", b"", b"b"])
    write_checksum(path)
    recording = Recording(path)
    assert recording.info.trials.unnamed == 3 and len(recording.info.trials.by_stimulus()) == 5
    everything = recording.info.trials.by_stimulus()
    for split in ("train", "val", "test"):
        assert set(recording.info.trials.of(split).by_stimulus()) <= set(everything)
    slower = ResampledRecording(path, recording.info.frame_rate_hz / 2).info.trials
    assert slower.stimulus_id.tolist() == recording.info.trials.stimulus_id.tolist()


@pytest.mark.parametrize(
    ("frames", "shape", "units"),
    [(90, (6, 8), 3), (65, (6, 8), 3), (1025, (4, 4), 40), (300, (36, 64), 5), (70, (2, 2), 900)],
)
def test_room_is_asked_for_all_that_a_file_takes(
    frames: int, shape: tuple[int, int], units: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 does not survive a disk that fills up: a disk without room for whole chunks, tables and texts is refused."""
    asked = []
    monkeypatch.setattr(resumable, "check_room", lambda partial, size: asked.append(size))
    rng = np.random.default_rng(0)
    rate = rng.random((frames, units)).astype(np.float16)
    path = write_recording(
        tmp_path / "x.h5",
        recording_id="x" * 60,
        frame_rate_hz=30.0,
        frames=rng.integers(0, 255, (frames, *shape), dtype=np.uint8),
        counts=rng.poisson(0.5, (frames, units)),
        trials=Trials(
            np.arange(0, frames, 10),
            np.minimum(np.arange(10, frames + 10, 10), frames),
            np.array([f"stimulus {i}" for i in range(-(-frames // 10))]),
            np.array(["train"] * -(-frames // 10)),
        ),
        behavior={"eye": rng.random((frames, 40)).astype(np.float32)},
        behavior_names={"eye": [f"a long name of a column {i}" for i in range(40)]},
        units={"id": np.array([f"unit {i:04d}" for i in range(units)]), "depth": rng.random(units)},
        truth={
            "rate": rate,
            "rate_local": rate,
            "rate_without_motion": rate,
            **{f"t{i}": rng.random((units, 3)) for i in range(12)},
        },
    )
    taken = path.stat().st_size
    (size,) = asked
    assert taken <= size + resumable._STRUCTURE_BYTES < 1.5 * taken + 200_000


def test_what_to_do_about_a_trace_below_zero(make: Callable[..., Path]) -> None:
    """Half of a trace at rest is. Marked as not measured, that half would not be learned."""
    trace = np.random.default_rng(0).standard_normal((120, 3))
    with pytest.raises(RecordingError, match=r"is negative .*deconvolve the trace.*Do not mark these bins"):
        make(counts=trace, kind="calcium")
    with pytest.raises(RecordingError, match=r"is negative .*put 0 and mark the bin in responses/valid.*kind=calcium"):
        make(counts=trace)


@pytest.mark.parametrize("of_all_units", [False, True])
def test_a_count_that_nobody_made_may_be_nan_where_it_is_not_valid(
    make: Callable[..., Path], of_all_units: bool
) -> None:
    counts = np.random.default_rng(0).poisson(0.5, (120, 3)).astype(float)
    counts[7], valid = np.nan, np.arange(120)[:, None] != 7
    recording = Recording(make(counts=counts, valid=valid if of_all_units else np.repeat(valid, 3, 1)))
    np.testing.assert_array_equal(recording.counts(0, 120), np.nan_to_num(counts))
    np.testing.assert_array_equal(recording.valid(0, 120), np.repeat(valid, 3, 1))
    counts[9, 1] = np.nan
    with pytest.raises(RecordingError, match=r"responses/counts: row 9, index \[1\] is nan. Store finite numbers"):
        make(counts=counts, valid=valid)


def test_runs_of_bins() -> None:
    assert runs(np.array([3, 4, 5, 9, 11, 12])) == [(3, 6), (9, 10), (11, 13)]
