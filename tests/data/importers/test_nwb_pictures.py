"""NWB files whose film lies outside, and whose templates a table of presentations shows."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import films
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from nwb_files import FRAMES, RATE, REGULAR, RNG, SPIKES, F, H, W, build, counted, pynwb, write

from vivit_core.data.importers import nwb_pictures
from vivit_core.data.importers.common import Importer
from vivit_core.data.importers.nwb_clock import make_clock
from vivit_core.data.importers.nwb_films import Films
from vivit_core.data.importers.nwb_pictures import BLANK, UNKNOWN, Pictures, pictures_of, shown_by_table
from vivit_core.data.importers.nwb_trials import blocks, by_pictures, restarts
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.reader import Recording
from vivit_core.data.video.files import open_video
from vivit_core.specs import RecordingError

SPLITS = ["val_fraction=0", "test_fraction=0", "behavior=[]"]
PICTURES = RNG.integers(0, 256, (5, H, W), dtype=np.uint8)


def movie(names: list[str], **more: Any) -> Any:
    given: dict[str, Any] = {"timestamps": REGULAR, "starting_frame": None, **more}
    return pynwb.image.ImageSeries(name="movie", external_file=names, format="external", **given)


def film(path: Path, frames: np.ndarray, rate_hz: float = RATE) -> Path:
    """A film that keeps its pixels."""
    path.parent.mkdir(exist_ok=True)
    return films.write(path, frames, rate_hz, codec="png", pix="rgb24")


def table(rows: list[dict[str, Any]], name: str = "shows") -> Any:
    columns = [key for key in rows[0] if key not in ("start_time", "stop_time", "timeseries")]
    made = pynwb.epoch.TimeIntervals(name=name, description="what was shown")
    for column in columns:
        made.add_column(name=column, description="of the row")
    for row in rows:
        made.add_row(**row)
    return made


def templates(kind: str, ordered: bool = True) -> Any:
    if kind == "images":
        listed = [pynwb.image.GrayscaleImage(name=f"p{9 - i}", data=p) for i, p in enumerate(PICTURES)]
        order = pynwb.base.ImageReferences(name="order_of_images", data=listed)
        return pynwb.base.Images(name="pictures", images=listed, **({"order_of_images": order} if ordered else {}))
    return pynwb.image.ImageSeries(  # as the Allen Institute stores them
        name="pictures", data=PICTURES, unit="n.a.", rate=1.0, control=np.arange(5, dtype=np.uint8),
        control_description=[f"p{9 - i}" for i in range(5)],
    )  # fmt: skip


def saved(path: Path, nwb: Any) -> Path:
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(nwb)
    return path


# Films outside -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["several", "images"])
def test_a_film_outside_is_what_it_would_be_inside(how: str, tmp_path: Path, importer: Callable[..., Importer]) -> None:
    times = REGULAR + RNG.uniform(-0.001, 0.001, F)
    times[10:] += 2 / RATE  # frame 9 stays for three bins
    if how == "several":
        film(tmp_path / "films" / "a.avi", FRAMES[:150])
        film(tmp_path / "films" / "b.mov", FRAMES[150:])
        (tmp_path / "b.mov").symlink_to(tmp_path / "films" / "b.mov")  # by its bare name, within the folder
        names, first = [r"films\a.avi", r"C:\rig\films\b.mov"], [0, 150]
    else:
        films.images(tmp_path / "films", FRAMES)
        names, first = [f"films/{i}.png" for i in range(F)], list(range(F))
    inside = pynwb.image.ImageSeries(name="movie", data=FRAMES, timestamps=times, unit="n.a.")
    outside = write(tmp_path / "a.nwb", stimulus=movie(names, timestamps=times, starting_frame=first))
    make = importer("nwb", *SPLITS)
    a = Recording(make(write(tmp_path / "b.nwb", stimulus=inside), tmp_path / "b.h5")[0])
    b = Recording(make(outside, tmp_path / "a.h5")[0])
    assert b.info.n_frames == a.info.n_frames and b.info.frame_shape == (1, H, W) and b.info.frame_dtype == "uint8"
    got, wanted = b.read(0, b.info.n_frames, {}), a.read(0, a.info.n_frames, {})
    for name in ("frames", "counts", "valid"):
        np.testing.assert_array_equal(got[name], wanted[name])


def test_a_rate_and_colors(
    tmp_path: Path, importer: Callable[..., Importer], capsys: pytest.CaptureFixture[str]
) -> None:
    colored = RNG.integers(0, 256, (F, H, W, 3), dtype=np.uint8)
    film(tmp_path / "rig" / "a.avi", colored, rate_hz=25.0)
    timed = {"timestamps": None, "rate": RATE, "starting_time": 3.0, "starting_frame": [0], "num_samples": F}
    path = write(tmp_path / "a.nwb", stimulus=movie(["a.avi"], **timed))
    folder = f"films={tmp_path / 'rig'}"
    color = Recording(importer("nwb", folder, "film_channels=3", *SPLITS)(path, tmp_path / "c.h5")[0])
    bins = [f for f in range(F) if any(3 + 0.8 * i <= REGULAR[f] + 0.01 < 3.7 + 0.8 * i for i in range(10))]
    np.testing.assert_array_equal(color.frames(0, 350), colored[bins].transpose(3, 0, 1, 2))
    assert "a.avi says 25 frames a second, the series 50, which is taken" in capsys.readouterr().out
    gray = Recording(importer("nwb", folder, *SPLITS)(path, tmp_path / "g.h5")[0])
    wanted = colored[bins] @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray.frames(0, 350)[0].astype(float) - wanted).max() < 0.51
    clock = [(REGULAR[f], REGULAR[f] + 1 / RATE) for f in bins]
    assert np.abs(gray.counts(0, 350) - counted(clock, SPIKES)).sum() <= 2  # rounding of 3.0 + k / 50


def test_a_film_that_changed_is_imported_anew(
    tmp_path: Path, importer: Callable[..., Importer], monkeypatch: pytest.MonkeyPatch
) -> None:
    film(tmp_path / "a.avi", FRAMES)
    make, path = importer("nwb", *SPLITS), write(tmp_path / "a.nwb", stimulus=movie(["a.avi"], starting_frame=[0]))
    make(path, tmp_path / "x.h5")
    film(tmp_path / "a.avi", 255 - FRAMES)
    make(path, tmp_path / "x.h5")
    assert (Recording(tmp_path / "x.h5").frames(0, 1)[0, 0] == 255 - FRAMES[0]).all()
    allowed = []
    monkeypatch.setattr(type(make), "guarded", True)
    monkeypatch.setattr(Guard, "run", lambda *_, more_s: allowed.append(more_s))
    make(path, tmp_path / "y.h5")
    assert allowed[0] == pytest.approx(60 + 1e-5 * (tmp_path / "a.avi").stat().st_size)  # a film takes time to decode


def test_films_in_any_order(tmp_path: Path) -> None:
    """A template may be shown in any order, and again."""
    videos = [open_video(film(tmp_path / "a.avi", FRAMES[:90])), open_video(film(tmp_path / "b.avi", FRAMES[90:200]))]
    read = Films(videos, 1)
    for ask in ([0, 3, 3, 1], [150, 20, 199], [199], [64, 63], [120, 121, 2], list(range(200))):
        np.testing.assert_array_equal(read(np.array(ask)), FRAMES[ask])


@pytest.mark.parametrize(
    ("names", "more", "message"),
    [
        (["b.avi"], {}, r"external_file: names b\.avi, which is not in .*importer\.films=FOLDER"),
        (["../out.avi"], {}, r"external_file: names \.\./out\.avi, which is not in"),
        (["/etc/hostname"], {}, r"external_file: names /etc/hostname, which is not in"),
        (["https://a.org/film.mp4"], {}, r"names https://a\.org/film\.mp4, which is not in a folder\. Download it"),
        (["a.avi"], {"timestamps": REGULAR[:-1]}, "external_file: has 400 frames, and the series 399 times"),
        (["a.avi"], {"timestamps": None, "rate": 50.0, "num_samples": 7}, "has 400 frames, and the series 7 times"),
        (["a.avi", "a.avi"], {"starting_frame": [0, 300]}, "starting_frame: says that film 1 begins at frame 300, and"),
        (["a.avi", "small.avi"], {"starting_frame": [0, 400]}, r"names films of sizes \[\(4, 8\), \(6, 8\)\]"),
        (["bad.avi"], {}, r"bad\.avi: not a readable video"),
        (["empty.avi"], {}, r"empty\.avi: the file is empty"),
    ],
)
def test_what_is_wrong_with_a_film_is_said(
    names: list[str], more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    film(folder / "a.avi", FRAMES)
    film(tmp_path / "out.avi", FRAMES)
    film(folder / "small.avi", FRAMES[:8, :4])
    (folder / "bad.avi").write_bytes(b"no video")
    (folder / "empty.avi").touch()
    series = movie(names, **{"starting_frame": [0] * len(names), **more})
    with pytest.raises(ValueError, match=message) as caught:
        pictures_of(folder / "a.nwb", "stimulus/movie", series, "t h w", None, 1, [])
    assert "\n" not in str(caught.value)


def test_a_film_is_imported_by_the_command(tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    film(tmp_path / "rig" / "a.avi", FRAMES)
    write(tmp_path / "a.nwb", stimulus=movie(["D:/rig/a.avi"], starting_frame=[0]))
    words = ["task=import", "importer=nwb", "source=a.nwb", "out=a.h5", "importer.split_column=part"]
    code, printed = command(*words, "importer.films=rig")
    assert code == 0 and "400 frames of a.avi, timed by the series" in printed, printed


# Templates ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "column"), [("images", "image_name"), ("series", "image_index"), ("series", "timeseries")]
)
def test_presentations_of_templates(
    kind: str, column: str, tmp_path: Path, importer: Callable[..., Importer], capsys: pytest.CaptureFixture[str]
) -> None:
    """As in the Allen Institute's visual behavior: 0.25 s of a picture, 0.5 s of gray, now and then none."""
    shown = RNG.integers(0, 5, 12).tolist()
    shown[4] = -1
    starts = 3.0 + 0.75 * np.arange(12)
    starts[8:] += 20.0  # a pause: a gap
    holder, nwb = templates(kind), build(stimulus=None, trials=None)
    nwb.add_stimulus_template(holder)
    rows = []
    for start, number in zip(starts, shown, strict=True):
        row = {"start_time": start, "stop_time": start + 0.25, "image_index": number,
               "image_name": f"p{9 - number}" if number >= 0 else "omitted"}  # fmt: skip
        if kind == "series":
            row["timeseries"] = [pynwb.base.TimeSeriesReference(max(number, 0), int(number >= 0), holder)]
        rows.append(row)
    nwb.add_time_intervals(table([rows[i] for i in RNG.permutation(12)]))  # in no order
    path = saved(tmp_path / "a.nwb", nwb)
    words = ["presentations=shows", f"picture_column={column}", "blank_pictures=[omitted]", "frame_rate_hz=40"]
    recording = Recording(importer("nwb", *words, "background=90", *SPLITS)(path, tmp_path / "x.h5")[0])
    info = recording.info
    assert info.frame_shape == (1, H, W) and info.frame_dtype == "uint8"
    frames, counts = recording.frames(0, info.n_frames)[0], recording.counts(0, info.n_frames)
    # What there ought to be, slow and plain: before the pause, gray stands for the usual time, 0.25 s. A reference to
    # nothing is unknown, and leaves a gap.
    bins = []
    for i, number in enumerate(shown):
        for k in range({7: 20, 11: 10}.get(i, 30)):
            if not (column == "timeseries" and number < 0 and k < 10):
                at = starts[i] + k / 40
                bins.append((at, at + 1 / 40, number if k < 10 else -1))
    wanted = np.stack([np.full((H, W), 90, np.uint8) if n < 0 else PICTURES[n] for *_, n in bins])
    np.testing.assert_array_equal(frames, wanted)
    assert np.abs(counts - counted([(a, b) for a, b, _ in bins], SPIKES)).sum() <= 2
    edges = [sum(a < starts[8] for a, *_ in bins), len(bins)]
    if column == "timeseries":  # before the gray that follows the unknown picture
        edges.insert(0, sum(a < starts[4] for a, *_ in bins))
    assert info.trials.stop.tolist() == edges
    said = capsys.readouterr().out
    assert column == "timeseries" or "1 presentations of no picture: the empty screen (importer.background)" in said


def test_pictures_that_stand_too_short_to_be_shown_are_counted(
    tmp_path: Path, importer: Callable[..., Importer], capsys: pytest.CaptureFixture[str]
) -> None:
    """One of 4 ms, where a bin has 25; that others stand for ten bins is meant so, and no matter of a line."""
    holder, nwb = templates("series"), build(stimulus=None, trials=None)
    nwb.add_stimulus_template(holder)
    edges = np.append(3.0 + 0.25 * np.arange(8), 5.0)
    starts = np.insert(edges[:-1], 3, edges[3] - 0.004)
    stops = np.append(starts[1:], 5.0)
    shown = [0, 1, 2, 4, 3, 0, 1, 2, 3]
    nwb.add_time_intervals(
        table(
            [
                {"start_time": a, "stop_time": b, "image_index": number}
                for a, b, number in zip(starts, stops, shown, strict=True)
            ]
        )
    )
    path = saved(tmp_path / "a.nwb", nwb)
    words = ["presentations=shows", "picture_column=image_index", "frame_rate_hz=40", *SPLITS]
    info = Recording(importer("nwb", *words)(path, tmp_path / "x.h5")[0]).info
    said = capsys.readouterr().out
    assert info.n_frames == 80 and "1 pictures were replaced within half a bin and are not shown" in said
    assert "repeated" not in said


def test_a_film_as_template_shown_in_part(tmp_path: Path, importer: Callable[..., Importer]) -> None:
    """A table with rows of two stimuli: a stretch of a film outside the file, and something that is not imported."""
    film(tmp_path / "a.avi", FRAMES)
    holder = pynwb.image.ImageSeries(
        name="movie", external_file=["a.avi"], format="external", rate=RATE, starting_frame=[0], num_samples=F
    )
    nwb = build(stimulus=None, trials=None)
    nwb.add_stimulus_template(holder)
    nwb.add_stimulus_template(templates("series"))
    rows = [
        (3.0, 5.0, 100, 100, "film"),
        (5.0, 7.0, 0, 1, "bars"),
        (7.0, 9.0, 100, 100, "film"),
        (9.0, 9.5, 0, 25, "film"),
    ]
    nwb.add_time_intervals(table([
        {"start_time": a, "stop_time": b, "kind": kind,
         "timeseries": [pynwb.base.TimeSeriesReference(first, count, holder)]}
        for a, b, first, count, kind in rows
    ]))  # fmt: skip
    path = saved(tmp_path / "a.nwb", nwb)
    words = ["presentations=shows", "picture_column=timeseries", "stimulus=movie", "+keep_presentations.kind=[film]"]
    recording = Recording(importer("nwb", *words, *SPLITS)(path, tmp_path / "x.h5")[0])
    info = recording.info
    order = [*range(100, 200), *range(100, 200), *range(25)]
    np.testing.assert_array_equal(recording.frames(0, info.n_frames)[0], FRAMES[order])
    assert info.frame_rate_hz == pytest.approx(RATE)
    # Equal parts of the film are repeats: it is cut at the gap and where it begins anew.
    assert info.trials.stop.tolist() == [100, 200, 225]
    ids = info.trials.stimulus_id.tolist()
    assert ids[0] == ids[1] and ids[0].startswith("from picture 100 (") and ids[2].startswith("from picture 0 (")
    with pytest.raises(RecordingError, match=r"stimulus/templates: holds 2 series of pictures: .*importer\.stimulus=…"):
        importer("nwb", *words[:2], *SPLITS)(path, tmp_path / "y.h5")


def test_repeats_of_a_film_without_trials(tmp_path: Path, importer: Callable[..., Importer]) -> None:
    """An IndexSeries that shows a film five times in a row: parts of it are repeats, and stay in one split."""
    holder = pynwb.image.ImageSeries(name="film", data=FRAMES[:80], rate=1.0, unit="n.a.")
    nwb = build(stimulus=None, trials=None)
    nwb.add_stimulus_template(holder)
    index = np.tile(np.arange(80, dtype=np.uint32), 5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; older files have it
        series = pynwb.image.IndexSeries.__new__(
            pynwb.image.IndexSeries, parent=None, object_id=None, container_source=None, in_construct_mode=True
        )
        series.__init__(name="shown", data=index, indexed_timeseries=holder, unit="N/A", timestamps=REGULAR)
    nwb.add_stimulus(series)
    path = saved(tmp_path / "a.nwb", nwb)
    make = importer("nwb", "behavior=[]", "trial_s=0.4", "val_fraction=0.25", "test_fraction=0.25")
    trials = Recording(make(path, tmp_path / "x.h5")[0]).info.trials
    assert trials.stop.tolist() == list(range(20, 401, 20))
    ids = trials.stimulus_id.reshape(5, 4)
    assert (ids == ids[0]).all() and [one.split(" (")[0] for one in ids[0]] == [
        f"from picture {20 * k}" for k in range(4)
    ]
    splits = trials.split.reshape(5, 4)
    assert (splits == splits[0]).all() and sorted(splits[0]) == ["test", "train", "train", "val"]


def photographs(tmp_path: Path, index: np.ndarray, stay_s: float = 0.25, **more: Any) -> Path:
    """Some of five pictures, each for a while."""
    holder, nwb = templates("images"), build(stimulus=None, **more)
    nwb.add_stimulus_template(holder)
    timed = {"starting_time": 3.0, "rate": 1 / stay_s}
    nwb.add_stimulus(
        pynwb.image.IndexSeries(name="shown", data=index.astype(np.uint32), indexed_images=holder, unit="N/A", **timed)
    )
    return saved(tmp_path / "a.nwb", nwb)


def seen_in(recording: Recording, split: str) -> set[bytes]:
    trials = recording.info.trials.of(split)
    ranges = zip(trials.start.tolist(), trials.stop.tolist(), strict=True)
    return {recording.frames(t, t + 1).tobytes() for start, stop in ranges for t in range(start, stop)}


@pytest.mark.parametrize("tabled", [True, False])
def test_a_photograph_is_in_one_split_and_its_showings_are_repeats(
    tabled: bool, tmp_path: Path, importer: Callable[..., Importer], capsys: pytest.CaptureFixture[str]
) -> None:
    """In random order, one a trial; with or without a table of trials that says nothing of them."""
    index = np.concatenate([np.random.default_rng(i).permutation(5) for i in range(8)])
    trials = [(3 + 0.25 * i, 3.25 + 0.25 * i) for i in range(40)] if tabled else None
    path = photographs(tmp_path, index, trials=trials, shown=index.tolist())
    make = importer("nwb", "behavior=[]", "frame_rate_hz=20", *([] if tabled else ["trial_s=0.25"]))
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    assert recording.info.trials.stimulus_id.tolist() == [f"picture {i}" for i in index]
    splits = [seen_in(recording, split) for split in ("train", "val", "test")]
    assert [len(seen) for seen in splits] == [3, 1, 1] and len(set.union(*splits)) == 5
    assert "also shown in training" not in capsys.readouterr().out


def test_trials_of_several_photographs_stay_together_where_that_leaves_splits(
    tmp_path: Path, importer: Callable[..., Importer], capsys: pytest.CaptureFixture[str]
) -> None:
    apart = np.array([[0, 1], [2, 2], [3, 4], [1, 0], [4, 3], [2, 2], [0, 1], [3, 4]])
    trials = [(3 + 0.5 * i, 3.5 + 0.5 * i) for i in range(8)]
    make = importer("nwb", "behavior=[]", "frame_rate_hz=20")
    path = photographs(tmp_path, apart.ravel(), trials=trials, shown=[0] * 8)
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    splits = [seen_in(recording, split) for split in ("train", "val", "test")]
    assert sorted(len(seen) for seen in splits) == [1, 2, 2] and len(set.union(*splits)) == 5
    ids = recording.info.trials.stimulus_id
    assert ids[0] == ids[6] != ids[3] and ids[1] == ids[5] == "picture 2"
    assert "also shown in training" not in capsys.readouterr().out
    # In random order every trial shares a picture with another one: then the line says what is shared.
    index = np.random.default_rng(1).integers(0, 5, 16)
    path = photographs(tmp_path, index, trials=trials, shown=[0] * 8)
    recording = Recording(make(path, tmp_path / "x.h5")[0])
    test, train = seen_in(recording, "test"), seen_in(recording, "train")
    said = f"{len(test & train)} of {len(test)} pictures of the test trials are also shown in training trials"
    assert test & train and said in capsys.readouterr().out
    assert sorted(recording.info.trials.split.tolist()) == ["test", *["train"] * 6, "val"]


def test_where_a_film_begins_anew() -> None:
    once = np.repeat(np.arange(40), 3)
    assert restarts(np.concatenate([once, once, [UNKNOWN], once[30:]])).tolist() == [120, 241]
    assert restarts(np.concatenate([once, np.full(5, BLANK), once])).tolist() == [125]  # the empty screen between
    assert restarts(np.random.default_rng(0).integers(0, 118, 500)).tolist() == []  # photographs in any order
    assert restarts(np.zeros(9, int)).tolist() == [] and restarts(np.zeros(0, int)).tolist() == []


def parts_of(picture_T: np.ndarray, length: int) -> tuple[list[np.ndarray], list[str], list[str]]:
    starts = np.append(0, restarts(picture_T))
    parts = np.split(picture_T, np.setdiff1d(np.union1d(starts, blocks(picture_T, starts, length)), [0]))
    return parts, *by_pictures(parts, range(len(parts)))


def test_parts_of_a_film_are_named_and_grouped_by_what_they_show() -> None:
    film = np.arange(100)
    gray = np.full(7, BLANK)
    # A showing that begins at 40 has the parts that a whole one has there, behind the empty screen too.
    parts, ids, groups = parts_of(np.concatenate([gray, film, gray, film[40:]]), 20)
    assert [part[part >= 0][0] for part in parts] == [0, 20, 40, 60, 80, 40, 60, 80]
    assert ids[2:4] == ids[5:7] and groups[2:5] == groups[5:] and len(set(groups)) == 5
    # One that begins with the empty screen is no repeat of another that does.
    ids, groups = by_pictures([np.append(gray, film[:5]), np.append(gray, film[50:55]), gray], [0, 1, 2])
    assert len(set(ids)) == len(set(groups)) == 3
    # Other pictures from the same one on are no repeat; but they share pictures, and stay in one split.
    jump = np.concatenate([film[:50], 200 + film[:50]])
    parts, ids, groups = parts_of(np.concatenate([jump, film]), 1000)
    assert len(parts) == 2 and ids[0] != ids[1] and groups[0] == groups[1]
    # A dropped frame, or several bins a picture, move no cut.
    parts, _, groups = parts_of(np.repeat(np.concatenate([film, np.delete(film, 30)]), 3), 60)
    assert [part[0] for part in parts] == [0, 20, 40, 60, 80] * 2 and groups[:5] == groups[5:]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 90), st.integers(15, 60)), min_size=2, max_size=6), st.integers(3, 30))
def test_parts_in_different_groups_share_no_picture(stretches: list[tuple[int, int]], length: int) -> None:
    parts, ids, groups = parts_of(np.concatenate([a + np.arange(n) for a, n in stretches]), length)
    seen: dict[int, str] = {}
    for part, group in zip(parts, groups, strict=True):
        assert all(seen.setdefault(int(picture), group) == group for picture in part)
    assert len(set(zip(ids, groups, strict=True))) == len(set(ids))
    for (one, a), (other, b) in itertools.combinations(zip(ids, parts, strict=True), 2):
        least = min(len(a), len(b))  # of repeats the last picture may stay for longer in one
        alike = (a[:least] == b[:least]).all() and len({*a[least - 1 :].tolist(), *b[least - 1 :].tolist()}) == 1
        assert (one == other) == alike


class Rows:
    """A table as pynwb has it."""

    def __init__(self, **columns: Any) -> None:
        self.name, self.columns, self.colnames = "shows", columns, tuple(columns)

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]


def shows(
    rows: Rows, keep: dict[str, list[str]] | None = None, rate_hz: float | None = None, notes: list[str] | None = None
) -> nwb_pictures.Shown:
    own = Pictures((H, W), np.uint8, 5, lambda rows: PICTURES[rows], tuple("abcde"))
    said = [] if notes is None else notes
    return shown_by_table(Path("a.nwb"), rows, "what", keep or {}, [], None, own, rate_hz, [], said)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.one_of(st.integers(2, 9), st.just(60)), min_size=2, max_size=12),
    gaps=st.lists(st.sampled_from([0, 0, 1, 2, 3, 7, 25, 200]), min_size=12, max_size=12),
    numbers=st.lists(st.integers(-1, 4), min_size=12, max_size=12),
    others=st.lists(st.booleans(), min_size=12, max_size=12),
)
# Of these stays the median is two and a half bins, and no picture's.
@example(lengths=[2, 2, 3, 2], gaps=[0, 200, 200] + [0] * 9, numbers=[0] * 12, others=[False] * 12)
def test_every_bin_shows_what_the_table_says(
    lengths: list[int], gaps: list[int], numbers: list[int], others: list[bool]
) -> None:
    n = len(lengths)
    numbers[0], others[0] = 2, False
    edges = np.cumsum([0, *(x for pair in zip(lengths, gaps[:n], strict=True) for x in pair)]) / 20
    start, stop = edges[:-1:2], edges[1::2]
    kind = np.where(others[:n], "other", "own")
    shown = shows(Rows(start_time=start, stop_time=stop, what=np.array(numbers[:n]), kind=kind), {"kind": ["own"]}, 20)
    limit = np.where(shown.picture_F >= 0, np.inf, 1.0)
    clock = make_clock(shown.times_F, 20.0, limit, []) if len(shown.times_F) > 1 else None
    assert clock is not None
    assert clock.rate_hz == pytest.approx(20) and (clock.start_s[1:] > clock.stop_s[:-1] - 1e-9).all()
    middle = (clock.start_s + clock.stop_s) / 2
    for at, number in zip(middle, shown.picture_F[clock.frame], strict=True):
        row = int(np.searchsorted(start, at, side="right")) - 1
        inside = at < stop[row]
        wanted = (UNKNOWN if others[row] else numbers[row]) if inside else BLANK if row < n - 1 else UNKNOWN
        assert number == wanted
    seen = sum(
        round((b - a) * 20) for a, b, n, o in zip(start, stop, numbers, others, strict=False) if n >= 0 and not o
    )
    assert (shown.picture_F[clock.frame] >= 0).sum() == seen


@pytest.mark.parametrize(("rate_hz", "closed"), [(60.0, 2), (25.0, 3), (None, 1)])
def test_an_empty_screen_of_half_a_bin_is_none_and_counted(rate_hz: float | None, closed: int) -> None:
    """Five pictures of 1 s, with nothing, 4, 8, 17 and 100 ms between; nothing but half a bin is too short to be."""
    gaps_s = np.array([0.0, 0.004, 0.008, 0.017, 0.1])
    start = np.cumsum([0.0, *(1 + gaps_s)])
    stop, notes = start + 1, list[str]()
    shown = shows(Rows(start_time=start, stop_time=stop, what=np.arange(6) % 5), None, rate_hz, notes)
    seen = shown.times_F[shown.picture_F == BLANK]
    np.testing.assert_allclose(seen, stop[1 + closed : -1])
    assert notes == [f"{closed} gaps of up to {1e3 / (2 * rate_hz) if rate_hz else 5:.3g} ms in intervals/shows are "
                     "closed: the row before stays"]  # fmt: skip


def test_rows_that_are_not_kept_may_overlap_and_name_no_picture() -> None:
    """As where a table holds stimuli on another layer, or a block that spans its presentations."""
    shown = shows(
        Rows(
            start_time=np.array([0.0, 1.0, 3.0, -2.0, 1.5, 6.0, 3.5]),
            stop_time=np.array([1.0, 2.0, 4.0, 5.0, 2.1, 7.0, 3.6]),
            what=np.array(["a", "b", "c", "block", "9", "bars", "?"]),
            kind=np.array(["own"] * 3 + ["other"] * 4),
        ),
        {"kind": ["own"]},
    )
    assert shown.times_F.tolist() == [-2, 0, 1, 2, 3, 4, 5, 6, 7]
    assert shown.picture_F.tolist() == [UNKNOWN, 0, 1, UNKNOWN, 2, UNKNOWN, BLANK, UNKNOWN, UNKNOWN]
    # What is left of one beside a kept row for less than half a bin is nothing.
    columns = {"start_time": [0.0, 1.01, 0.5], "stop_time": [1.0, 2.0, 1.5], "what": ["a", "b", "?"]}
    shown = shows(Rows(**{k: np.array(v) for k, v in columns.items()}, kind=np.array([*"xxy"])), {"kind": ["x"]}, 20)
    assert shown.picture_F.tolist() == [0, 1, UNKNOWN] and shown.times_F.tolist() == [0, 1.01, 2]


@pytest.mark.parametrize(
    ("columns", "keep", "message"),
    [
        ({"other": [1, 2]}, {}, r"intervals/shows/what: missing; the columns are"),
        ({"what": [1, 5]}, {}, r"intervals/shows/what: row 1 asks for picture 5 of 5"),
        (
            {"what": ["a", "omitted"]},
            {},
            r"row 1 says 'omitted'; .* such as a, b, c.*importer\.blank_pictures=\[…\]",
        ),
        ({"what": [-1, np.nan]}, {}, r"intervals/shows: no row of 2 shows a picture"),
        ({"what": [1, 2], "kind": ["x", "y"]}, {"kind": ["z"]}, r"intervals/shows: no row of 2 shows a picture"),
        ({"what": [1, 2]}, {"kind": ["z"]}, r"intervals/shows/kind: missing"),
        ({"what": [1, 2], "start_time": [0.0, 0.5]}, {}, r"intervals/shows: row 1 starts before row 0 ends"),
    ],
)
def test_what_is_wrong_with_a_table_is_said(columns: dict[str, Any], keep: Any, message: str) -> None:
    given = {"start_time": [0.0, 1.0], "stop_time": [1.0, 2.0], **columns}
    with pytest.raises(RecordingError, match=message):
        shows(Rows(**{name: np.array(values) for name, values in given.items()}), keep)


def test_templates_alone_say_how_to_show_them(tmp_path: Path, importer: Callable[..., Importer]) -> None:
    nwb = build(stimulus=None)
    nwb.add_stimulus_template(templates("series"))
    nwb.add_time_intervals(table([{"start_time": 3.0, "stop_time": 3.5, "frame": 1}]))
    path = saved(tmp_path / "a.nwb", nwb)
    with pytest.raises(RecordingError, match=r"importer\.presentations=TABLE .* there are \['shows'\]"):
        importer("nwb")(path, tmp_path / "x.h5")
    with pytest.raises(RecordingError, match=r"intervals/show: missing. There are \['shows', 'trials'\]"):
        importer("nwb", "presentations=show", "picture_column=frame")(path, tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"importer\.presentations names a table, and importer\.picture_column"):
        importer("nwb", "presentations=shows")
    with pytest.raises(ValueError, match=r"importer\.keep_presentations is about rows .*importer\.presentations=TABLE"):
        importer("nwb", "+keep_presentations.kind=[film]")
    with pytest.raises(ValueError, match=r"importer\.blank_pictures is about rows .*importer\.presentations=TABLE"):
        importer("nwb", "blank_pictures=[omitted]")


def test_images_without_an_order_have_names_and_no_numbers(tmp_path: Path, importer: Callable[..., Importer]) -> None:
    """HDF5 lists them by name, in the order of nobody's numbers."""
    shown, rows = [0, 4, 2, 1], list[dict[str, Any]]()
    for i, number in enumerate(shown):
        at = 3 + 0.5 * i
        rows.append({"start_time": at, "stop_time": at + 0.5, "image_index": number, "image_name": f"p{9 - number}"})
    nwb, holder = build(stimulus=None, trials=None), templates("images", ordered=False)
    nwb.add_stimulus_template(holder)
    nwb.add_time_intervals(table(rows))
    index = {"data": np.array(shown, np.uint32), "unit": "N/A", "rate": 2.0, "starting_time": 3.0}
    nwb.add_stimulus(pynwb.image.IndexSeries(name="index", indexed_images=holder, **index))
    path = saved(tmp_path / "a.nwb", nwb)
    refused = r"has numbers of pictures, and the Images have no order_of_images .* Write order_of_images .*, or name a"
    with pytest.raises(RecordingError, match=rf"stimulus/presentation/index: {refused}"):
        importer("nwb", *SPLITS)(path, tmp_path / "x.h5")
    words = ["presentations=shows", *SPLITS]
    with pytest.raises(RecordingError, match=rf"intervals/shows/image_index: {refused}"):
        importer("nwb", *words, "picture_column=image_index")(path, tmp_path / "x.h5")
    recording = Recording(importer("nwb", *words, "picture_column=image_name")(path, tmp_path / "x.h5")[0])
    np.testing.assert_array_equal(recording.frames(0, recording.info.n_frames)[0], PICTURES[shown])


def test_one_image_alone_needs_no_order(tmp_path: Path, importer: Callable[..., Importer]) -> None:
    nwb = build(stimulus=None, trials=None)
    alone = pynwb.base.Images(name="pictures", images=[pynwb.image.GrayscaleImage(name="p", data=PICTURES[0])])
    nwb.add_stimulus_template(alone)
    index = {"data": np.zeros(4, np.uint32), "unit": "N/A", "rate": 2.0, "starting_time": 3.0}
    nwb.add_stimulus(pynwb.image.IndexSeries(name="index", indexed_images=alone, **index))
    recording = Recording(importer("nwb", *SPLITS)(saved(tmp_path / "a.nwb", nwb), tmp_path / "x.h5")[0])
    assert (recording.frames(0, recording.info.n_frames)[0] == PICTURES[0]).all()


@pytest.mark.parametrize("pictures", [(PICTURES / 255).astype("f4"), (PICTURES > 127).astype(np.uint8)])
def test_an_empty_screen_brighter_than_all_pictures_is_refused(
    pictures: np.ndarray, tmp_path: Path, importer: Callable[..., Importer]
) -> None:
    nwb = build(stimulus=None, trials=None)
    nwb.add_stimulus_template(pynwb.image.ImageSeries(name="pictures", data=pictures, unit="n.a.", rate=1.0))
    nwb.add_time_intervals(table([{"start_time": 3.0 + i, "stop_time": 3.5 + i, "frame": i} for i in range(4)]))
    path = saved(tmp_path / "a.nwb", nwb)
    words = ["presentations=shows", "picture_column=frame", *SPLITS]
    with pytest.raises(RecordingError, match=r"values from 0.* to .*the empty screen has 127.*importer\.background=…"):
        importer("nwb", *words)(path, tmp_path / "x.h5")
    frames = Recording(importer("nwb", *words, "background=0.5")(path, tmp_path / "x.h5")[0]).frames(0, 2)[0]
    np.testing.assert_allclose(frames, [pictures[0].astype(float), np.full((H, W), 0.5)])
