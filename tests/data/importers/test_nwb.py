"""NWB files written by pynwb."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nwb_files import (
    FRAMES,
    RATE,
    REGULAR,
    RNG,
    SHOWN,
    SPEED,
    SPEED_S,
    SPIKES,
    TRIALS,
    F,
    H,
    U,
    W,
    build,
    counted,
    pynwb,
    write,
)

from vivit_core.data.importers import nwb as nwb_module
from vivit_core.data.importers import nwb_clock, nwb_file
from vivit_core.data.importers.nwb_clock import Sampled, make_clock
from vivit_core.data.importers.nwb_file import behavior_series
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.reader import Recording
from vivit_core.data.statistics import training_statistics
from vivit_core.specs import RecordingError


def test_a_source_is_read_through_in_another_process_first(
    tmp_path: Path, importer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nwb_module.NwbImporter, "guarded", True)
    runs, run = [], Guard.run
    monkeypatch.setattr(Guard, "run", lambda *words, **more: runs.append((words[2], run(*words, **more))))
    importer("nwb", "trial_s=1")(write(tmp_path / "a.nwb"), tmp_path / "x.h5")
    assert runs == [("vivit_core.data.importers.common:read_through", None)]


def test_everything_comes_back(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (nwb_clock, nwb_file):
        monkeypatch.setattr(module, "BLOCK", 32)  # many blocks
    obs = [np.array([[2.0, 5.0], [6.0, 20.0]]), np.array([[0.0, 20.0]]), np.array([[3.0, 4.0]])]
    path = write(tmp_path / "a.nwb", obs=obs)
    make = importer("nwb", "stimulus_column=image", "split_column=part", "longest_hold_s=10")
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    info, trials = recording.info, recording.info.trials
    assert (info.recording_id, info.subject, info.species, info.source) == ("a", "m1", "Mus musculus", "a lab, test-7")
    assert info.frame_rate_hz == pytest.approx(RATE) and info.frame_shape == (1, H, W) and info.frame_dtype == "uint8"
    assert info.behavior == {"speed": 1, "eye": 2}
    onsets = REGULAR
    bins = [f for f in range(F) if any(a <= onsets[f] + 0.01 < b for a, b in TRIALS)]
    assert (trials.stop - trials.start).tolist() == [35] * 10 and len(bins) == 350
    assert trials.stimulus_id.tolist() == [str(s) for s in SHOWN]
    assert trials.split.tolist() == [["train", "val", "test"][i % 3] for i in range(10)]
    got = recording.read(0, 350, {"speed": 1, "eye": 2})
    np.testing.assert_array_equal(got["frames"][0], FRAMES[bins])
    clock = [(onsets[f], onsets[f] + 1 / RATE) for f in bins]
    np.testing.assert_array_equal(got["counts"], counted(clock, SPIKES))
    expected = [[any(a >= p - 1e-6 and b <= q + 1e-6 for p, q in obs[u]) for u in range(U)] for a, b in clock]
    np.testing.assert_array_equal(got["valid"], expected)
    for t, (_, end) in enumerate(clock):  # the newest sample at the bin's end, nothing later
        np.testing.assert_allclose(got["behavior"][t, 0], 2 * SPEED[end >= SPEED_S][-1], rtol=1e-6)
        eye = np.floor((end - 2.0) * 100 + 1e-6)
        assert got["behavior"][t, 1] in (eye, eye - 1) and got["behavior"][t, 2] == -got["behavior"][t, 1]
    said = capsys.readouterr().out
    assert "left out: 50 bins in no trial" in said
    with h5py.File(tmp_path / "x.h5") as file:
        assert [q.decode() for q in file["units/quality"][()]] == ["good", "good", "mua"]


def test_units_are_chosen_by_a_column(tmp_path: Path, importer: Callable[..., Any]) -> None:
    path = write(tmp_path / "a.nwb")
    recording = Recording(importer("nwb", "+keep_units.quality=[mua]", "behavior=[]")(path, tmp_path / "x.h5")[0])
    assert recording.info.unit_ids == ("2",) and recording.info.behavior == {}
    assert set(recording.info.trials.split.tolist()) == {"train", "val", "test"}
    clock = [(REGULAR[f], REGULAR[f] + 1 / RATE) for f in range(35)]
    np.testing.assert_array_equal(recording.counts(0, 35), counted(clock, SPIKES[2:]))


def test_dropped_frames_and_gaps(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    times = REGULAR + RNG.uniform(-0.001, 0.001, F)
    times[10:] += 2 / RATE  # frame 9 stays for three bins
    times[60:] += 0.5 / RATE  # frame 59 stays for a bin and a half
    times[100:] += 5.0  # a break
    movie = pynwb.image.ImageSeries(name="movie", data=FRAMES, timestamps=times, unit="n.a.")
    path = write(tmp_path / "a.nwb", stimulus=movie, trials=[(0.0, 20.0)])
    make = importer("nwb", "behavior=[]", "val_fraction=0", "test_fraction=0")
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    trials = recording.info.trials
    half = 2 if times[60] - times[59] >= 1.5 / RATE else 1
    shown = [f for f in range(F) for _ in range({9: 3, 59: half}.get(f, 1))]
    np.testing.assert_array_equal(recording.frames(0, recording.info.n_frames)[0], FRAMES[shown])
    assert trials.stop.tolist() == [101 + half, len(shown)]
    first, second = trials.stimulus_id.tolist()
    assert first == "trial 0" and re.fullmatch(rf"trial 0 from bin {101 + half}, (249|250) late", second)
    edges: list[tuple[float, float]] = []
    median = float(np.median(np.diff(times)))
    for f in range(F):
        n = shown.count(f)
        stay = times[f + 1] - times[f] if f + 1 < F and f != 99 else median
        edges += [(times[f] + k * stay / n, times[f] + (k + 1) * stay / n) for k in range(n)]
    np.testing.assert_array_equal(recording.counts(0, len(shown)), counted(edges, SPIKES))
    assert np.flatnonzero(~recording.valid(0, len(shown))[:, 0]).tolist() == ([61, 62] if half == 2 else [61])[:half]
    said = capsys.readouterr().out
    assert "frames stayed for more than one bin" in said and "1 gaps of the stimulus cut trials in two" in said


def test_parts_after_gaps_at_different_places_are_no_repeats(tmp_path: Path, importer: Callable[..., Any]) -> None:
    """A film that is shown four times, stops for 3 s after frame 30 or after frame 60, and then goes on."""
    times, trials, now = [], [], 3.0
    for cut in (30, 60, 30, None):
        begin = now
        for k in range(100):
            times.append(now)
            now += 1 / RATE + 3.0 * (k + 1 == cut)
        trials.append((begin, now))
        now += 2.0
    film = np.tile(np.arange(100, dtype=np.uint8), 4)[:, None, None] * np.ones((1, H, W), np.uint8)
    movie = pynwb.image.ImageSeries(name="movie", data=film, timestamps=np.array(times), unit="n.a.")
    path = write(tmp_path / "a.nwb", stimulus=movie, trials=trials, shown=["m"] * 4)
    make = importer("nwb", "stimulus_column=image", "behavior=[]", "val_fraction=0", "test_fraction=0")
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    began = {}
    for start, one in zip(recording.info.trials.start, recording.info.trials.stimulus_id, strict=True):
        began.setdefault(one, []).append(int(recording.frames(start, start + 1).flat[0]))
    assert list(began.values()) == [[0, 0, 0, 0], [30, 30], [60]]


@pytest.mark.parametrize("how", ["images", "series"])
def test_templates_by_index(how: str, tmp_path: Path, importer: Callable[..., Any]) -> None:
    """Pictures that stay for 0.2 s, at 50 bins a second; width first, in color."""
    pictures = RNG.integers(0, 256, (4, W, H, 3), dtype=np.uint8)
    index = RNG.integers(0, 4, 40)
    nwb = build(stimulus=None)
    if how == "images":
        listed = [pynwb.image.RGBImage(name=f"p{9 - i}", data=p) for i, p in enumerate(pictures)]
        order = pynwb.base.ImageReferences(name="order_of_images", data=listed)
        images = pynwb.base.Images(name="pictures", images=listed, order_of_images=order)
        nwb.add_stimulus_template(images)
        series = pynwb.image.IndexSeries(
            name="shown", data=index.astype(np.uint32), indexed_images=images, unit="N/A", starting_time=3.0, rate=5.0
        )
        nwb.add_stimulus(series)
        with pynwb.NWBHDF5IO(tmp_path / "a.nwb", "w") as io:
            io.write(nwb)
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it is deprecated; older files have it
            template = pynwb.image.ImageSeries(name="pictures", data=pictures, rate=1.0, unit="n.a.")
            nwb.add_stimulus_template(template)
            series = pynwb.image.IndexSeries.__new__(
                pynwb.image.IndexSeries, parent=None, object_id=None, container_source=None, in_construct_mode=True
            )
            series.__init__(
                name="shown", data=index.astype(np.uint32), indexed_timeseries=template, unit="N/A", starting_time=3.0,
                rate=5.0,
            )  # fmt: skip
            nwb.add_stimulus(series)
            with pynwb.NWBHDF5IO(tmp_path / "a.nwb", "w") as io:
                io.write(nwb)
    make = importer("nwb", "frame_rate_hz=50", "axes=t w h", "behavior=[]")
    recording = Recording(make(tmp_path / "a.nwb", tmp_path / "x.h5")[0])
    assert recording.info.frame_shape == (3, H, W) and recording.info.frame_rate_hz == 50
    bins = [f for f in range(F) if any(a <= REGULAR[f] + 0.01 < b for a, b in TRIALS)]
    expected = pictures[index[np.array(bins) // 10]].transpose(3, 0, 2, 1)
    np.testing.assert_array_equal(recording.frames(0, 350), expected)
    clock = [(REGULAR[f], REGULAR[f] + 1 / RATE) for f in bins]
    assert np.abs(recording.counts(0, 350) - counted(clock, SPIKES)).sum() <= 2  # rounding of 3.0 + k / 5 + i / 50
    with pytest.raises(ValueError, match=r"frame_rate_hz=2, but the stimulus has 5 frames a second"):
        importer("nwb", "frame_rate_hz=2")(tmp_path / "a.nwb", tmp_path / "y.h5")
    with pytest.raises(ValueError, match=r"13 bins a second do not fit .* which makes 15 of them; give 10 or 15, and"):
        importer("nwb", "frame_rate_hz=13")(tmp_path / "a.nwb", tmp_path / "y.h5")


@pytest.mark.parametrize("missing", [float("nan"), ""])
def test_a_trial_without_a_stimulus_repeats_no_other(
    missing: Any, tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    shown = [missing if i % 2 else (1.0 if missing != "" else "film") for i in range(len(TRIALS))]
    settings = ["stimulus_column=image", "val_fraction=0", "test_fraction=0"]
    path = importer("nwb", *settings)(write(tmp_path / "a.nwb", shown=shown), tmp_path / "x.h5")[0]
    ids = [word.split(" from ")[0] for word in Recording(path).info.trials.stimulus_id.tolist()]
    lost = len(TRIALS) // 2
    assert len(set(ids)) == 1 + lost and ids.count("1" if missing != "" else "film") > 1
    printed = capsys.readouterr().out
    assert f"{lost} trials without a image (importer.stimulus_column): each is a stimulus of its own" in printed


def test_without_trials(tmp_path: Path, importer: Callable[..., Any]) -> None:
    path = write(tmp_path / "a.nwb", trials=None)
    trials = Recording(importer("nwb", "trial_s=1")(path, tmp_path / "x.h5")[0]).info.trials
    assert trials.stop.tolist() == list(range(50, 401, 50))
    with pytest.raises(ValueError, match=r"cannot give .*importer\.trial_s=….*importer\.val_fraction=0"):
        importer("nwb")(path, tmp_path / "y.h5")
    whole = importer("nwb", "val_fraction=0", "test_fraction=0")(path, tmp_path / "z.h5")[0]
    assert set(Recording(whole).info.trials.split.tolist()) == {"train"}
    with pytest.raises(RecordingError, match=r"intervals/trials/image: missing; there are no trials"):
        importer("nwb", "stimulus_column=image")(path, tmp_path / "y.h5")


def test_a_spike_at_the_border_of_two_bins_is_the_later_ones() -> None:
    """Spikes may lie on the clock of the frames. Bins of a quarter second from 1 s on, and a gap of a second."""
    clock = make_clock(np.array([1.0, 1.25, 1.5, 2.75, 3.0]), 4.0, 0.5, [])
    assert clock.start_s.tolist() == [1.0, 1.25, 1.5, 2.75, 3.0] and clock.stop_s[2] == 1.75
    spikes = np.array([0.99, 1.0, 1.2, 1.25, 1.5, 1.5, 1.75, 2.0, 2.75, 3.24, 3.25])
    column = SimpleNamespace(target=SimpleNamespace(data=spikes), data=np.array([len(spikes)]))

    class Units(dict[str, Any]):
        colnames = ("spike_times",)

    counts, observed = nwb_file.spikes_of(Path("a.nwb"), Units(spike_times=column), np.array([0]), clock)
    assert counts(0, 5)[:, 0].tolist() == [2, 1, 2, 1, 1] and observed is None
    assert counts(1, 4)[:, 0].tolist() == [1, 2, 1]


def test_samples_are_never_from_the_future() -> None:
    times = np.array([1.0, 1.1, 1.2, 2.0])
    data = np.array([1.0, 2.0, np.nan, 4.0])
    ends = np.array([0.5, 1.0, 1.15, 1.25, 1.55, 1.8, 2.0, 2.4, 9.0])
    sampled = Sampled(data, times, ends, longest_s=0.5, scale=10.0, shift=1.0)
    np.testing.assert_array_equal(sampled.known(0, 9), [False, True, True, True, True, False, True, True, False])
    unknown = np.nan
    np.testing.assert_array_equal(sampled.values(0, 9)[:, 0], [unknown, 11, 21, 21, 21, unknown, 41, 41, unknown])
    early = Sampled(data, times, ends[:1], longest_s=0.5, scale=10.0, shift=1.0)  # a block before all samples
    assert np.isnan(early.values(0, 1)).all() and not early.known(0, 1).any()


def test_a_behavior_is_missing_where_nobody_knows_it(tmp_path: Path, importer: Callable[..., Any]) -> None:
    """A camera that starts 4 s late, and stands still for one; no number of its own stands there for statistics."""
    times = np.delete(7.003 + np.arange(400) / 100, np.arange(100, 200))
    pupil = RNG.normal(50, 1, len(times))
    nwb = build(trials=None)
    series = pynwb.TimeSeries(name="pupil", data=pupil, timestamps=times, unit="px")
    nwb.processing["behavior"].add(pynwb.behavior.PupilTracking(time_series=series))
    path = tmp_path / "a.nwb"
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    make = importer("nwb", "behavior=[pupil]", "val_fraction=0", "test_fraction=0")
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    ends = REGULAR + 1 / RATE
    newest = np.searchsorted(times, ends, side="right") - 1
    known = (newest >= 0) & (ends - times[newest] < 0.5)
    assert known.sum() in range(170, 180)
    got = recording.behavior(0, F, {"pupil": 1})[:, 0]
    np.testing.assert_allclose(got, np.where(known, pupil[newest], np.nan), rtol=1e-6)
    np.testing.assert_array_equal(recording.valid(0, F)[:, 0], known)
    found = training_statistics(recording, {"pupil": 1})
    np.testing.assert_allclose(found.behavior_mean, [got[known].mean()], rtol=1e-5)
    np.testing.assert_allclose(found.behavior_std, [got[known].std()], rtol=1e-4)


def test_behaviors_of_one_name_are_told_apart() -> None:
    nwb = build()

    def track(module: str, box: str, series: str) -> None:
        made = pynwb.TimeSeries(name=series, data=np.arange(5.0), rate=10.0, unit=f"{module} {box}")
        where = nwb.processing.get(module) or nwb.create_processing_module(module, "tracked")
        where.add(pynwb.behavior.PupilTracking(name=box, time_series=made))

    for module, box, series in (("left", "eye", "d"), ("right", "eye", "d"), ("right", "other", "d"), ("a", "b", "c")):
        track(module, box, series)
    found = {name: series.unit for name, series in behavior_series(Path("a.nwb"), nwb).items()}
    assert found == {
        "speed": "cm/s", "eye": "meters", "left_eye_d": "left eye", "right_eye_d": "right eye",
        "other_d": "right other", "c": "a b",
    }  # fmt: skip
    track("a", "c", "left_eye_d")
    with pytest.raises(RecordingError, match=r"processing: has several time series left_eye_d\. Give one"):
        behavior_series(Path("a.nwb"), nwb)


@pytest.mark.parametrize(
    ("samples", "times", "problem"),
    [(0, [], "has 0 entries for 0 samples"), (3, [4.0, 4.0, 5.0], "do not rise at entry 1")],
)
def test_a_broken_behavior_is_left_out_unless_it_is_asked_for(
    samples: int,
    times: list[float],
    problem: str,
    tmp_path: Path,
    importer: Callable[..., Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    nwb, path = build(), tmp_path / "a.nwb"
    licks = pynwb.TimeSeries(name="licks", data=np.zeros(samples), timestamps=np.array(times), unit="s")
    nwb.processing["behavior"].add(licks)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    recording = Recording(importer("nwb", "longest_hold_s=10")(path, tmp_path / "x.h5")[0])
    assert sorted(recording.info.behavior) == ["eye", "speed"]
    said = " ".join(capsys.readouterr().out.split())
    assert f"left out: behavior licks: processing/…/licks/timestamps: {problem}" in said
    with pytest.raises(RecordingError, match=rf"{problem}\. .*, or leave it out of importer\.behavior"):
        importer("nwb", "behavior=[speed,licks]")(path, tmp_path / "y.h5")


def test_units_of_one_id_are_told_apart_by_their_rows(
    tmp_path: Path, importer: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    nwb, path = build(spikes=None), tmp_path / "a.nwb"
    nwb.add_unit_column("quality", "by hand")
    for one, quality in ((7, "mua"), (8, "good"), (7, "good"), (7, "good")):
        nwb.add_unit(spike_times=SPIKES[0], id=one, quality=quality)
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    make = importer("nwb", "behavior=[]")
    assert Recording(make(path, tmp_path / "x.h5")[0]).info.unit_ids == ("7", "8", "7 row 2", "7 row 3")
    assert "2 units have the id of an earlier row, and are called 7 row 2, 7 row 3" in capsys.readouterr().out
    some = importer("nwb", "behavior=[]", "+keep_units.quality=[good]")  # has the same names
    assert Recording(some(path, tmp_path / "y.h5")[0]).info.unit_ids == ("8", "7 row 2", "7 row 3")


@pytest.mark.parametrize("setting", ["stimulus_column", "split_column"])
@pytest.mark.parametrize("column", ["tags_own", "pos"])
def test_a_column_of_several_entries_a_trial_is_refused(
    setting: str, column: str, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    nwb, path = build(), tmp_path / "a.nwb"
    nwb.trials.add_column(name="tags_own", description="words", data=[["a"], ["a", "b"]] * 5, index=True)
    nwb.trials.add_column(name="pos", description="two numbers", data=np.arange(20.0).reshape(10, 2))
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    message = rf"a\.nwb: intervals/trials/{column}: has several entries a row\. Name a column with one"
    with pytest.raises(RecordingError, match=message):
        importer("nwb", "behavior=[]", f"{setting}={column}")(path, tmp_path / "x.h5")


def test_a_bin_in_which_one_trial_ends_and_another_begins_is_of_one_alone(
    tmp_path: Path, importer: Callable[..., Any]
) -> None:
    """Trials that overlap by 4 ms; a bin's middle lies in the overlap."""
    trials = [(3.008 + 0.8 * i, 3.812 + 0.8 * i) for i in range(9)]
    path = write(tmp_path / "a.nwb", trials=trials, shown=list(range(9)))
    recording = Recording(importer("nwb", "split_column=part", "behavior=[]")(path, tmp_path / "x.h5")[0])
    assert recording.info.trials.stop.tolist() == [41 + 40 * i for i in range(9)]
    np.testing.assert_array_equal(recording.frames(0, 361)[0], FRAMES[:361])
    clock = [(start, start + 1 / RATE) for start in REGULAR[:361]]
    np.testing.assert_array_equal(recording.counts(0, 361), counted(clock, SPIKES))


@settings(max_examples=30, deadline=None)
@given(st.floats(0.02, 0.5), st.floats(0, 0.5), st.floats(5, 100))
@example(0.02, 0.0, 60.0)
@example(0.02, 0.0, 49.7)
@example(0.25, 0.1, 10.0)
def test_a_clock_has_the_rate_that_is_asked_for_or_names_one_that_fits(on_s: float, off_s: float, asked: float) -> None:
    times = 3.0 + np.cumsum([0.0, *[on_s, off_s] * 20])
    times = times[np.append(True, np.diff(times) > 0)]
    try:
        clock = make_clock(times, asked, 10.0, [])
    except ValueError as error:
        named = re.findall(r"[\d.]+", str(error).partition("; give ")[2].partition(", and")[0])
        assert named or "at its own rate" in str(error) or "give a much higher one" in str(error)
        for rate in map(float, named):
            assert make_clock(times, rate, 10.0, []).rate_hz == pytest.approx(rate, rel=0.01)
        return
    assert clock.rate_hz == pytest.approx(1 / np.mean(clock.stop_s - clock.start_s), rel=1e-5)
    assert clock.rate_hz == pytest.approx(asked, rel=0.0101)


@pytest.mark.parametrize("rate", [60.0, 75.0, 85.0, 120.0, 144.0])
@pytest.mark.parametrize("asked", [True, False])
def test_times_that_are_rounded_have_the_right_rate(rate: float, asked: bool) -> None:
    """To milliseconds, as many rigs write them: of two lengths of a stay neither is the right one."""
    times = np.round(7.0 + np.arange(1800) / rate, 3)
    clock = make_clock(times, rate if asked else None, 10.0, [])
    assert clock.rate_hz == pytest.approx(rate, rel=1e-4) and len(clock.start_s) == 1800
    late = times.astype(np.float32) + np.float32(9000)
    assert make_clock(late.astype(float), rate if asked else None, 10.0, []).rate_hz == pytest.approx(rate, rel=1e-4)


def test_clock_of_frames_too_close() -> None:
    notes: list[str] = []
    clock = make_clock(np.array([0.0, 1.0, 1.001, 2.0, 3.0]), None, 10.0, notes)
    assert clock.frame.tolist() == [0, 2, 3, 4]
    assert notes == ["1 frames were replaced within half a bin and are not shown"]


@pytest.mark.parametrize(
    ("changes", "words", "message"),
    [
        ({"stimulus": None}, [], "stimulus/presentation: holds 0 series of pictures"),
        ({}, ["stimulus=film"], r"stimulus/presentation/film: missing. There are \['movie'\]"),
        ({"spikes": None}, [], "units/spike_times: missing"),
        ({"spikes": [np.array([3.0, 2.0])] * 3}, [], "units/spike_times, row 0: has times that fall"),
        ({"spikes": [np.array([3.0, np.nan])] * 3}, [], "units/spike_times, row 0: has times that fall"),
        ({"trials": [(3.0, 5.0), (4.0, 6.0)]}, [], "intervals/trials: row 1 starts before row 0 ends"),
        ({"trials": [(30.0, 31.0)]}, [], "intervals/trials: no trial holds a frame"),
        ({}, ["split_column=image"], "intervals/trials/image: trials/split: row 0 says '0'"),
        ({}, ["stimulus_column=picture"], "intervals/trials/picture: missing; the columns are"),
        ({}, ["behavior=[lick]"], r"processing: has no time series \['lick'\]. There are \['eye', 'speed'\]"),
        ({}, ["+keep_units.quality=[poor]"], "units: none is left"),
        ({}, ["+keep_units.depth=[a]"], "units/depth: missing"),
    ],
)
def test_what_does_not_fit_is_named(
    changes: dict[str, Any], words: list[str], message: str, tmp_path: Path, importer: Callable[..., Any]
) -> None:
    path = write(tmp_path / "a.nwb", **changes)
    with pytest.raises(RecordingError, match=r"a\.nwb: " + message):
        importer("nwb", *words)(path, tmp_path / "x.h5")
    assert not (tmp_path / "x.h5").exists()


def test_external_frames_falling_times_and_broken_files(tmp_path: Path, importer: Callable[..., Any]) -> None:
    make = importer("nwb")
    film = pynwb.image.ImageSeries(
        name="movie", external_file=["film.avi"], format="external", timestamps=REGULAR, unit="n.a.", starting_frame=[0]
    )
    with pytest.raises(RecordingError, match=r"movie/external_file: names film\.avi, which is not in"):
        make(write(tmp_path / "a.nwb", stimulus=film), tmp_path / "x.h5")
    times = REGULAR.copy()
    times[7] = times[5]
    film = pynwb.image.ImageSeries(name="movie", data=FRAMES, timestamps=times, unit="n.a.")
    with pytest.raises(RecordingError, match=r"movie/timestamps: do not rise at entry 7"):
        make(write(tmp_path / "b.nwb", stimulus=film), tmp_path / "x.h5")
    whole = write(tmp_path / "c.nwb")
    content = whole.read_bytes()
    for broken in (content[: len(content) // 2], content[:100], b"", b"hello"):
        whole.write_bytes(broken)
        with pytest.raises(RecordingError, match=r"c\.nwb: file: (cannot be read as NWB|is not an NWB file)"):
            make(whole, tmp_path / "x.h5")
    with h5py.File(tmp_path / "d.nwb", "w") as file:
        file["x"] = 1
    with pytest.raises(RecordingError, match=r"d\.nwb: file: cannot be read as NWB"):
        make(tmp_path / "d.nwb", tmp_path / "x.h5")


def test_data_in_another_file(tmp_path: Path, importer: Callable[..., Any]) -> None:
    path = write(tmp_path / "a.nwb")
    with h5py.File(path, "r+") as file, h5py.File(tmp_path / "other.h5", "w") as other:
        data = file["stimulus/presentation/movie/data"]
        other["data"] = data[()]
        attributes = dict(data.attrs)
        other["data"].attrs.update(attributes)
        del file["stimulus/presentation/movie/data"]
        file["stimulus/presentation/movie/data"] = h5py.ExternalLink(str(tmp_path / "other.h5"), "data")
    with pytest.raises(RecordingError, match=r"movie/data: lies in another file|cannot be read as NWB"):
        importer("nwb")(path, tmp_path / "x.h5")


def test_an_interrupted_import_goes_on(
    tmp_path: Path, importer: Callable[..., Any], interrupted: Callable[[int], None]
) -> None:
    path, make = write(tmp_path / "a.nwb"), importer("nwb")
    make(path, tmp_path / "whole.h5")
    interrupted(7)
    with pytest.raises(KeyboardInterrupt):
        make(path, tmp_path / "x.h5")
    assert (tmp_path / ".x.h5.partial").exists() and not (tmp_path / "x.h5").exists()
    make(path, tmp_path / "x.h5")
    a, b = Recording(tmp_path / "whole.h5"), Recording(tmp_path / "x.h5")
    for name, values in a.read(0, 350, a.info.behavior).items():
        np.testing.assert_array_equal(values, b.read(0, 350, a.info.behavior)[name])


@pytest.mark.slow
def test_end_to_end(
    tmp_path: Path, command: Callable[..., tuple[int, str]], train_and_evaluate: Callable[..., dict[str, Any]]
) -> None:
    write(tmp_path / "a.nwb")
    code, printed = command(
        "task=import", "importer=nwb", "source=a.nwb", "out=data/a.h5", "importer.split_column=part"
    )
    assert code == 0, printed
    cut = ["data.clip_length=20", "data.burn_in=5", "data.evaluation_length=35"]
    summary = train_and_evaluate("data.root=data", "data.behavior=[speed,eye]", *cut)
    assert summary["units"] == U and summary["units_silent"] == 1 and summary["bins"] == 3 * 30
