"""Data sets as VisionCore saves them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from vivit_core.data.importers.visioncore import Part
from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingError

U, SIDE = 5, 7
LENGTHS = {"backimage": [41, 30, 36, 38], "gaborium": [32, 33], "fixrsvp": [30, 31, 29]}  # bins of each trial


def dset(name: str, **changes: Any) -> dict[str, Any]:
    lengths = LENGTHS[name]
    made, bins = torch.Generator().manual_seed(len(name)), sum(lengths)
    trial = torch.repeat_interleave(torch.arange(len(lengths)) * 3 + 2, torch.tensor(lengths))
    within = torch.cat([torch.arange(n) for n in lengths])
    if name == "fixrsvp":
        within[:30] += 1  # the first showing was caught a bin late
    covariates = {
        "stim": torch.randint(0, 255, (bins, SIDE, SIDE), generator=made, dtype=torch.uint8),
        "robs": torch.poisson(torch.full((bins, U), 0.4), generator=made),
        "eyepos": torch.randn(bins, 2, generator=made, dtype=torch.float64),
        "dpi_valid": torch.ones(bins),
        "trial_inds": trial,
        "t_bins": (torch.arange(bins, dtype=torch.float64) + trial * 100) / 240,
        "roi": torch.zeros(bins, 2, 2),
    }
    if name == "fixrsvp":
        covariates["psth_inds"] = within
    covariates |= changes
    metadata = {"name": name, "cids": np.arange(U), "scale": np.float64(2.0), "names": np.array(["a", "b"])}
    return {"covariates": {k: v for k, v in covariates.items() if v is not None}, "metadata": metadata}


def write(folder: Path, names: tuple[str, ...] = tuple(LENGTHS), **changes: Any) -> Path:
    """``changes``: of the covariates of backimage."""
    folder.mkdir(parents=True)
    for name in names:
        torch.save(dset(name, **(changes if name == "backimage" else {})), folder / f"{name}.dset")
    return folder


def pooled(covariates: dict[str, Any], start: int, stop: int, pool: int = 2) -> dict[str, np.ndarray]:
    """Slow and plain: what bins start … stop-1 of a file become."""
    out: dict[str, list[Any]] = {"frames": [], "counts": [], "behavior": [], "valid": []}
    for first in range(start, stop - pool + 1, pool):
        own = slice(first, first + pool)
        out["frames"].append(covariates["stim"][first + pool - 1].numpy())
        out["counts"].append(covariates["robs"][own].numpy().sum(0))
        out["behavior"].append(covariates["eyepos"][first + pool - 1].numpy())
        out["valid"].append([bool((covariates["dpi_valid"][own] > 0).all())] * U)
    return {name: np.array(values) for name, values in out.items()}


def test_everything_comes_back(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    dpi = torch.ones(sum(LENGTHS["backimage"]))
    dpi[[4, 11, 90]] = 0
    folder = write(tmp_path / "Allen_2022" / "datasets", dpi_valid=dpi)
    recording = Recording(importer("visioncore", "test_fraction=0.2")(folder, tmp_path / "x.h5")[0])
    info, trials = recording.info, recording.info.trials
    assert (info.recording_id, info.frame_rate_hz, info.frame_shape) == ("Allen_2022", 120.0, (1, SIDE, SIDE))
    assert (info.frame_dtype, info.n_units, info.behavior) == ("uint8", U, {"eyepos": 2})
    ranges = []
    for name, lengths in LENGTHS.items():
        ends = np.cumsum(lengths)
        for i, (start, stop) in enumerate(zip(ends - lengths, ends, strict=True)):
            late = name == "fixrsvp" and i == 0  # its first bin is the second half of a pair
            ranges.append((name, int(start) + late, int(stop)))
    assert (trials.stop - trials.start).tolist() == [(stop - start) // 2 for _, start, stop in ranges]
    for (name, start, stop), first, last in zip(ranges, trials.start, trials.stop, strict=True):
        covariates = dset(name, **({"dpi_valid": dpi} if name == "backimage" else {}))["covariates"]
        put, got = pooled(covariates, start, stop), recording.read(int(first), int(last), {"eyepos": 2})
        np.testing.assert_array_equal(got["frames"][0], put["frames"])
        np.testing.assert_array_equal(got["counts"], put["counts"])
        np.testing.assert_array_equal(got["valid"], put["valid"])
        np.testing.assert_allclose(got["behavior"], put["behavior"], rtol=1e-6)
    assert trials.stimulus_id.tolist()[:2] == ["backimage trial 2", "backimage trial 5"]
    assert trials.stimulus_id.tolist()[-3:] == ["fixrsvp from bin 1", "fixrsvp from bin 0", "fixrsvp from bin 0"]
    split = trials.split.tolist()
    assert split[-3:] == ["test"] * 3 and sorted(split[:-3]) == ["test", "train", "train", "train", "train", "val"]
    said = capsys.readouterr().out
    assert "left out: type gratings: there is no gratings.dset" in said
    assert "left out: type backimage: 1 bins at trials' borders" in said
    assert "valid: 97." in said or "valid: 98." in said


def test_gaps_cut_a_trial(tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]) -> None:
    covariates = dset("backimage")["covariates"]
    times = covariates["t_bins"].clone()
    times[20:] += 0.5
    eyepos = covariates["eyepos"].clone()
    eyepos[50] = eyepos[:3, 1] = float("nan")  # the first three bins know of no place before
    folder = write(tmp_path / "a", ("backimage",), t_bins=times, eyepos=eyepos)
    recording = Recording(importer("visioncore", "recording_id=r")(folder, tmp_path / "x.h5")[0])
    trials = recording.info.trials
    assert (trials.stop - trials.start).tolist() == [10, 10, 15, 18, 19]
    assert trials.stimulus_id.tolist()[:2] == ["backimage trial 2", "backimage trial 2 part 2"]
    assert trials.split[0] == trials.split[1]
    start = int(trials.start[2])
    valid = recording.valid(start, start + 15)[:, 0]
    assert np.flatnonzero(~valid).tolist() == [(50 - 41) // 2]
    behavior = recording.behavior(start, start + 15, {"eyepos": 2})
    np.testing.assert_allclose(behavior[4], eyepos[49].numpy() if (50 - 41) % 2 else eyepos[50 - 41 + 41 + 1].numpy())
    np.testing.assert_array_equal(np.isnan(recording.behavior(0, 3, {"eyepos": 2})), [[0, 1], [0, 0], [0, 0]])
    assert not recording.valid(0, 2).any()
    assert "1 gaps of t_bins" in capsys.readouterr().out


def test_all_parts_of_a_trial_lie_in_one_split(importer: Callable[..., Any]) -> None:
    """Else what is tested would be a moment after what is learned from."""
    parts = [Part("backimage", f"trial {n}", f"trial {n} part {k}", 0, 9) for n in range(20) for k in (1, 2)]
    made = importer("visioncore", "val_fraction=0.25", "test_fraction=0.25")
    split = made._split([*parts, Part("fixrsvp", "trial 0", "from bin 0", 0, 9)])
    assert split[:-1:2].tolist() == split[1::2].tolist() and split[-1] == "test"
    assert sorted(split[:-1]) == ["test"] * 10 + ["train"] * 20 + ["val"] * 10


@pytest.mark.parametrize("unknown", [float("nan"), float("inf")])
def test_trials_without_a_place_in_the_stimulus_repeat_none(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str], unknown: float
) -> None:
    """Neither each other nor those whose place is known; nothing of them is cut off for a place."""
    folder = write(tmp_path / "a", ("fixrsvp",))
    made = dset("fixrsvp")
    place = made["covariates"]["psth_inds"].double()
    place[:61] = unknown  # the first two of three trials
    made["covariates"]["psth_inds"] = place
    torch.save(made, folder / "fixrsvp.dset")
    trials = Recording(importer("visioncore")(folder, tmp_path / "x.h5")[0]).info.trials
    assert trials.stimulus_id.tolist() == ["fixrsvp trial 2", "fixrsvp trial 5", "fixrsvp from bin 0"]
    assert (trials.stop - trials.start).tolist() == [15, 15, 14] and set(trials.split) == {"test"}
    assert "2 trials without a number in psth_inds" in " ".join(capsys.readouterr().out.split())


def test_without_psth_inds_a_part_after_a_gap_begins_at_its_own_place(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """Of three showings, the first stops for 5 bins after 12, and the second for a second after 22."""
    made = dset("fixrsvp")
    covariates = made["covariates"]
    del covariates["psth_inds"]
    covariates["t_bins"][12:30] += 5 / 240
    covariates["t_bins"][52:61] += 1
    (tmp_path / "a").mkdir()
    torch.save(made, tmp_path / "a" / "fixrsvp.dset")
    trials = Recording(importer("visioncore", "pool=1")(tmp_path / "a", tmp_path / "x.h5")[0]).info.trials
    places = [one.removeprefix("fixrsvp from bin ") for one in trials.stimulus_id.tolist()]
    assert places == ["0", "17", "0", "262", "0"] and trials.stop.tolist() == [12, 30, 52, 61, 90]
    assert "fixrsvp: psth_inds, which is missing: each trial counts" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("pool", [1, 2])
def test_infinite_counts_are_none_and_not_valid(pool: int, tmp_path: Path, importer: Callable[..., Any]) -> None:
    robs = torch.ones(145, U)
    robs[4, 0] = robs[5, 0] = robs[9, 1] = float("inf")
    robs[12, 2] = -float("inf")
    folder = write(tmp_path / "a", ("backimage",), robs=robs)
    recording = Recording(importer("visioncore", f"pool={pool}")(folder, tmp_path / "x.h5")[0])
    counts, valid = recording.counts(0, 10), recording.valid(0, 10)
    bad = {(4 // pool, 0), (5 // pool, 0), (9 // pool, 1), (12 // pool, 2)}
    assert {tuple(place) for place in np.argwhere(~valid).tolist()} == {place for place in bad if place[0] < 10}
    assert counts.max() == pool and recording.counts(0, recording.info.n_frames).min() >= 0


@pytest.mark.parametrize(
    ("true_hz", "words", "remedy"),
    [
        (240.0, ["rate_hz=120"], "rate_hz=240 importer.pool=4, which makes 60 Hz"),
        (240.0, ["rate_hz=480", "pool=4"], "rate_hz=240 importer.pool=2, which makes 120 Hz"),
        (120.0, [], "rate_hz=120 importer.pool=1, which makes 120 Hz"),
        (243.0, [], "rate_hz=243 importer.pool=2, which makes 121.5 Hz"),
    ],
)
def test_a_rate_that_is_not_that_of_the_clock_is_refused(
    true_hz: float, words: list[str], remedy: str, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    times = dset("backimage")["covariates"]["t_bins"] * 240 / true_hz
    folder = write(tmp_path / "a", ("backimage",), t_bins=times)
    with pytest.raises(RecordingError, match=rf"backimage\.dset: covariates/t_bins: has {true_hz:g} .*{remedy}"):
        importer("visioncore", *words)(folder, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_a_clock_of_float32_has_the_right_rate(tmp_path: Path, importer: Callable[..., Any]) -> None:
    """After two hours its steps are 8 or 9 halves of a millisecond, and no step has the right length."""
    times = (dset("backimage")["covariates"]["t_bins"] + 7000).float()
    importer("visioncore")(write(tmp_path / "a", ("backimage",), t_bins=times), tmp_path / "x.h5")


def test_units_of_the_sessions_file(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    robs = dset("backimage")["covariates"]["robs"].clone()
    robs[:, 3] = 0
    robs[7, 3] = 1
    folder = write(tmp_path / "a", ("backimage",), robs=robs)
    lists = {"session": "a", "visual": [0, 2, 3, 4], "qcmissing": [0, 1, 3, 4], "qccontam": [0, 3, 4], "cids": [1]}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(lists))
    own = f"units_file={tmp_path}/a.yaml"
    recording = Recording(importer("visioncore", own, "min_rate_hz=5")(folder, tmp_path / "x.h5")[0])
    assert recording.info.unit_ids == ("0", "4")
    np.testing.assert_array_equal(recording.counts(0, 3), robs[:6, [0, 4]].numpy().reshape(3, 2, 2).sum(1))
    said = capsys.readouterr().out
    assert "left out: 1 units that are not in visual" in said and "1 units that fire below" in said
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"visual": [0, 99]}))
    with pytest.raises(RecordingError, match=r"a\.yaml: visual: is not a list of columns"):
        importer("visioncore", own)(folder, tmp_path / "y.h5")
    with pytest.raises(RecordingError, match=r"a\.yaml: cids: is missing"):
        importer("visioncore", own, "unit_lists=[cids]")(folder, tmp_path / "y.h5")
    with pytest.raises(ValueError, match="no unit is left"):
        importer("visioncore", "min_rate_hz=1000")(folder, tmp_path / "y.h5")


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_nothing_is_unpickled(tmp_path: Path, importer: Callable[..., Any]) -> None:
    folder = write(tmp_path / "a", ())
    for metadata in ({"sess": Evil(tmp_path / "touched")}, {"odd": OrderedDict(a=Evil(tmp_path / "touched"))}):
        torch.save(dset("backimage") | {"metadata": metadata}, folder / "backimage.dset")
        with pytest.raises(RecordingError, match=r"backimage\.dset: file: holds objects of .*pathlib"):
            importer("visioncore")(folder, tmp_path / "x.h5")
    assert not (tmp_path / "touched").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"robs": None}, r"backimage\.dset: covariates/robs: missing"),
        ({"stim": torch.zeros(9, SIDE, SIDE)}, r"covariates/robs: has 145 bins, and stim 9"),
        ({"stim": torch.zeros(145)}, r"covariates/stim: has shape \(145,\)"),
        ({"robs": torch.zeros(145, U, dtype=torch.complex64)}, "covariates/robs: has shape .*complex64"),
        ({"robs": torch.full((145, U), -1.0)}, "responses/counts: row 0, unit 0 is negative"),
        ({"t_bins": torch.full((145,), float("nan"))}, "covariates/t_bins: bin 0 is nan"),
        ({"t_bins": torch.zeros(145)}, "covariates/t_bins: does not rise"),
        ({"stim": torch.zeros(145, SIDE + 1, SIDE)}, r"gaborium\.dset: stim: has \(7, 7\) in each bin"),
        ({"stim": torch.zeros(1, 1, 1).expand(145, SIDE, SIDE)}, "covariates/stim: declares more numbers"),
        ({"stim": torch.full((145, SIDE, SIDE), float("nan"))}, "stimulus/frames: row 0, index"),
        ({"dfs": torch.ones(145, 2)}, "covariates/dfs: has 2 columns"),
    ],
)
def test_broken_covariates_are_named(
    changes: dict[str, Any], message: str, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    with pytest.raises(RecordingError, match=message):
        importer("visioncore")(write(tmp_path / "a", **changes), tmp_path / "x.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_broken_files_are_named(tmp_path: Path, importer: Callable[..., Any]) -> None:
    make, folder = importer("visioncore"), write(tmp_path / "a")
    file = folder / "backimage.dset"
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"hello", whole[:200] + bytes(400) + whole[600:]):
        file.write_bytes(content)
        with pytest.raises(RecordingError, match=r"backimage\.dset: file: (is damaged|is in torch's format)"):
            make(folder, tmp_path / "x.h5")
    torch.save(dset("backimage"), file, _use_new_zipfile_serialization=False)
    with pytest.raises(RecordingError, match=r"backimage\.dset: file: is in torch's format of before 2020"):
        make(folder, tmp_path / "x.h5")
    torch.save([1], file)
    with pytest.raises(RecordingError, match="covariates: missing"):
        make(folder, tmp_path / "x.h5")
    with pytest.raises(RecordingError, match="source: holds none of"):
        importer("visioncore", "types=[dots]", "repeats=[]")(folder, tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"importer\.repeats names \['dots'\]"):
        importer("visioncore", "repeats=[dots]")(folder, tmp_path / "x.h5")


@pytest.mark.slow
def test_end_to_end(
    tmp_path: Path, command: Callable[..., tuple[int, str]], train_and_evaluate: Callable[..., dict[str, Any]]
) -> None:
    write(tmp_path / "Allen_2022")
    words = ["importer=visioncore", "source=Allen_2022", "out=data/a.h5", "importer.test_fraction=0.2"]
    code, printed = command("task=import", *words)
    assert code == 0, printed
    cut = ["data.clip_length=14", "data.burn_in=3", "data.evaluation_length=15", "data.evaluation_burn_in=5"]
    cut += ["baseline.duration_s=0.05", "model.frontend.lags=4"]
    summary = train_and_evaluate("data.root=data", "data.behavior=[eyepos]", *cut)
    assert summary["units"] == U and summary["corr_to_average_mean"] is not None
