"""A video is brought to a recording's rate and pixels by the rules that are said, worked out by hand here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from films import gray
from small_recordings import small_arrays

from vivit_core.data.recording.writer import write_recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.transforms import Contrast, Velocity
from vivit_core.data.video.behavior import behavior_of, read_behavior, sources_of
from vivit_core.data.video.files import open_video
from vivit_core.data.video.match import Match
from vivit_core.data.video.source import Video, in_channels
from vivit_core.specs import RecordingSpec
from vivit_core.testing.small import spec


class Made(Video):
    """Frames in memory."""

    def __init__(self, frames_NHW: np.ndarray, rate_hz: float | None = None, ends_s: Any = None) -> None:
        self.path, self.made = Path("made.mp4"), frames_NHW
        self.n_frames, self.frame_shape = len(frames_NHW), (1, *frames_NHW.shape[1:])
        self.frame_rate_hz, self.ends_s = rate_hz, None if ends_s is None else np.array(ends_s)

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        for low in range(start, stop, 7):
            yield in_channels(self.made[None, low : min(stop, low + 7)], channels, self.path)


def at(rate_hz: float, **changed: Any) -> RecordingSpec:
    return replace(spec(behavior=0), frame_rate_hz=rate_hz, **changed)


def numbered(n: int = 12) -> np.ndarray:
    return np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None], (n, 12, 16)).copy()


def bins_of(match: Match) -> np.ndarray:
    return np.concatenate([piece for s in match.video.stretches for piece in match.frames(*s)], axis=1)


# Time ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("video_hz", "model_hz", "shown"),
    [
        (30, 30, list(range(12))),
        (30, 30.01, list(range(12))),  # .03 % apart
        (30, 120, [n // 4 for n in range(48)]),
        (60, 30, [1, 3, 5, 7, 9, 11]),
        (50, 30, [1, 3, 4, 6, 8, 9, 11]),  # a bin of 33.3 ms ends in the frame that began at 20, 60, 80 … ms
        (30, 50, [0, 1, 1, 2, 2, 3, 4, 4, 5, 5, 6, 7, 7, 8, 8, 9, 10, 10, 11, 11]),
        (0.5, 2000, [n // 4000 for n in range(48000)]),
    ],
)
def test_a_bin_shows_the_newest_frame_begun_before_its_end(video_hz: float, model_hz: float, shown: list[int]) -> None:
    match = Match(Made(numbered(), video_hz), at(model_hz))
    assert match.shown(0, 12).tolist() == shown
    ratio = Fraction(video_hz) / round(model_hz)
    ended = [sum(n + 1 <= (k + 1) * ratio for n in range(12)) for k in range(len(shown))]
    assert match.ended(0, 12).tolist() == ended
    if len(shown) < 100:
        assert bins_of(match)[0, :, 0, 0].tolist() == shown


def test_frames_of_different_lengths_are_shown_as_long_as_they_last() -> None:
    match = Match(Made(numbered(4), None, [0.1, 0.15, 0.35, 0.45]), at(20))
    assert bins_of(match)[0, :, 0, 0].tolist() == [0, 0, 1, 2, 2, 2, 2, 3, 3]
    assert match.ended(0, 4).tolist() == [0, 1, 2, 2, 2, 2, 3, 3, 4]
    assert "different lengths brought to 20 Hz" in match.lines()[0]
    said = Match(Made(numbered(4), None, [0.1, 0.15, 0.35, 0.45]), at(20), frame_rate_hz=20)
    assert bins_of(said)[0, :, 0, 0].tolist() == [0, 1, 2, 3]


def test_a_video_that_does_not_say_its_rate() -> None:
    with pytest.raises(ValueError, match=r"made\.mp4: does not say .* say frame_rate_hz="):
        Match(Made(numbered()), at(30))


@pytest.mark.parametrize("rate_hz", [100.0, 50.0, 60.0])
def test_a_recording_is_brought_to_a_rate_as_in_training(tmp_path: Path, rate_hz: float) -> None:
    """Frames, behavior and what transforms make of them, trial by trial."""
    path = write_recording(tmp_path / "r.h5", **small_arrays())
    transforms = {"speed": Velocity("eye"), "contrast": Contrast(None, 1.0)}
    trained = ResampledRecording(path, rate_hz, transforms)
    video = open_video(path)
    own = at(rate_hz, frame_shape=(1, 4, 6), behavior={"eye": 2, "speed": 2}, behavior_mean=(0,) * 4,
             behavior_std=(1,) * 4)  # fmt: skip
    match = Match(video, own, transforms=transforms)
    trials = trained.info.trials
    for (start, stop), first, last in zip(video.stretches, trials.start, trials.stop, strict=True):
        ended = match.ended(start, stop)
        made = behavior_of(video.behavior(start, stop), own, transforms, ended, stop - start, path)
        assert not made.at_mean
        np.testing.assert_array_equal(np.concatenate(list(match.frames(start, stop)), 1), trained.frames(first, last))
        expected = trained.behavior(first, last, own.behavior)
        np.testing.assert_allclose(made.values_TD, expected, rtol=1e-4, atol=1e-4)


# Pixels -------------------------------------------------------------------------------------------------------------


def point(height: int, width: int, row: int, column: int) -> np.ndarray:
    frames = np.zeros((1, height, width), np.uint8)
    frames[0, row, column] = 240
    return frames


def test_the_same_size_is_taken_pixel_for_pixel() -> None:
    frames = np.random.default_rng(0).integers(0, 255, (3, 12, 16), dtype=np.uint8)
    match = Match(Made(frames, 30), at(30))
    assert bins_of(match).dtype == np.uint8 and (bins_of(match)[0] == frames).all()
    same = Match(Made(frames, 30), at(30, degrees_per_pixel=0.2), degrees_per_pixel=0.2)
    assert same.zoom is None and "pixel for pixel" in same.lines()[1]


def test_larger_and_smaller_frames_of_the_same_pixels_are_cut_and_filled_around_the_middle() -> None:
    of = at(30, degrees_per_pixel=0.2)
    frames = np.random.default_rng(0).integers(0, 255, (2, 20, 10), dtype=np.uint8)
    seen = bins_of(Match(Made(frames, 30), of, degrees_per_pixel=0.2))
    assert np.abs(seen[0, :, :, 3:13] - frames[:, 4:16]).max() < 1e-3
    assert (seen[0, :, :, :3] == of.pixel_mean).all() and (seen[0, :, :, 13:] == of.pixel_mean).all()


def test_pixels_twice_as_wide_cover_twice_as_many() -> None:
    of = at(30, degrees_per_pixel=0.1)
    match = Match(Made(point(6, 8, 2, 5), 30), of, degrees_per_pixel=0.2)
    seen = bins_of(match)[0, 0]
    ys, xs = np.mgrid[:12, :16]
    assert ((seen * ys).sum() / seen.sum(), (seen * xs).sum() / seen.sum()) == pytest.approx((4.5, 10.5), abs=0.01)
    assert "each pixel 2 times as wide as the recording's of 0.1°" in match.lines()[1]


def test_pixels_half_as_wide_are_averaged() -> None:
    of = at(30, degrees_per_pixel=0.2)
    bars = np.tile(np.array([0, 200], np.uint8), (1, 24, 16))  # alternate columns
    seen = bins_of(Match(Made(bars, 30), of, degrees_per_pixel=0.1))[0, 0]
    assert seen[:, 1:-1] == pytest.approx(100, abs=0.01)  # no aliasing
    whole = bins_of(Match(Made(np.full((1, 48, 64), 70, np.uint8), 30), of, degrees_per_pixel=0.1))[0, 0]
    assert whole == pytest.approx(70, abs=1e-3)


def test_fill_covers_the_frame_and_keeps_the_shape_of_pixels() -> None:
    match = Match(Made(np.full((1, 30, 30), 70, np.uint8), 30), at(30), degrees_per_pixel="fill")
    assert match.zoom == pytest.approx(16 / 30) and bins_of(match)[0, 0] == pytest.approx(70, abs=1e-3)
    assert (match.rows.low, match.rows.high) == pytest.approx((30 / 2 - 11.25, 30 / 2 + 11.25))


def test_values_and_transforms_are_applied_and_the_rest_is_at_the_recordings_mean() -> None:
    of = at(30, degrees_per_pixel=0.2, pixel_mean=0.5)
    transforms = {"contrast": Contrast(None, 1.0)}
    arguments = {"degrees_per_pixel": 0.2, "pixel_scale": 2.0, "pixel_offset": 1.0}
    frames = np.random.default_rng(0).integers(0, 255, (1, 12, 10), dtype=np.uint8)
    seen = bins_of(Match(Made(frames, 30), of, **arguments, transforms=transforms))
    shown = frames[0] * 2.0 + 1
    assert seen[0, 0, :, 3:13] == pytest.approx((shown - shown.mean()) / (shown.std() + 1), abs=1e-3)
    assert (seen[0, 0, :, :3] == 0.5).all()


@pytest.mark.parametrize(
    ("frames", "of", "degrees", "message"),
    [
        (gray(2), at(30), None, r"its frames are 32×48 px, and those of recording a 12×16; say .*degrees_per_pixel="),
        (numbered(2), at(30), 0.1, r"importer.degrees_per_pixel=… .*; leave degrees_per_pixel out: .* same size"),
        (
            gray(2),
            at(30),
            0.1,
            r"degrees_per_pixel=0\.1: the model does not know .*importer.degrees_per_pixel=… .*"
            r"degrees_per_pixel=fill, or give .*12",
        ),
        (gray(2), at(30, degrees_per_pixel=1.0), 1e-3, r"it would cover no pixel of recording a's frame of 12×16 px"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(frames: np.ndarray, of: Any, degrees: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Match(Made(frames, 30), of, degrees_per_pixel=degrees)


# Behavior -----------------------------------------------------------------------------------------------------------

BEHAVING = replace(
    spec(), behavior={"gaze": 2, "running": 1}, behavior_mean=(5.0, 6.0, 7.0), behavior_std=(1.0, 1.0, 1.0)
)
ENDED = np.array([0, 1, 1, 2, 2, 3])  # of three frames, each for two bins


def beside(path: Path, transforms: Any = None) -> Any:
    transforms = transforms or {}
    given = read_behavior(path, sources_of(BEHAVING, transforms))
    return behavior_of(given, BEHAVING, transforms, ENDED, 3, path)


def test_behavior_from_a_csv_a_row_a_frame_and_the_rest_at_its_mean(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "b.csv").write_text("time,gaze_0,gaze_1,runing\n0,1,10,4\n1,2,,4\n2,3,30,4\n")
    with caplog.at_level("INFO"):
        made = beside(tmp_path / "b.csv")
    assert "not used: time, runing; the model sees gaze, running" in caplog.text
    assert made.at_mean == ("running",)
    nan = np.nan  # a row says what was at its frame's end, and is not known before
    np.testing.assert_array_equal(made.values_TD[:, 0], [nan, 1, 1, 2, 2, 3])
    np.testing.assert_array_equal(made.values_TD[:, 1], [nan, 10, 10, nan, nan, 30])  # missing, not forgotten
    assert (made.values_TD[:, 2] == 7).all()


def test_behavior_from_an_npz_a_row_a_bin(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", running=np.arange(6), gaze=np.arange(12).reshape(6, 2))
    made = beside(tmp_path / "b.npz")
    np.testing.assert_array_equal(made.values_TD, np.column_stack([np.arange(12).reshape(6, 2), np.arange(6)]))


def test_rows_are_of_frames_where_there_are_as_many_bins(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "b.npz", running=[1.0, 2.0, 6.0])
    given = read_behavior(tmp_path / "b.npz", {"running"})
    of_frames = Match(Made(numbered(3), None, [2 / 30, 2.5 / 30, 3 / 30]), at(30))
    made = behavior_of(given, BEHAVING, {}, of_frames.ended(0, 3), 3, tmp_path / "b.npz")
    np.testing.assert_array_equal(made.values_TD[:, 2], [np.nan, 1, 4])  # the last two frames end in one bin
    assert "running has 3 rows; the video has as many frames" in caplog.text and "taken for frames" in caplog.text
    caplog.clear()
    made = behavior_of(given, BEHAVING, {}, np.arange(1, 4), 3, tmp_path / "b.npz")
    assert made.values_TD[:, 2].tolist() == [1, 2, 6] and not caplog.text


def test_behavior_is_made_of_what_the_file_holds(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", place=np.arange(6.0) ** 2)
    made = beside(tmp_path / "b.npz", {"running": Velocity("place")})
    np.testing.assert_array_equal(made.values_TD[:, 2], np.diff(np.arange(6.0) ** 2, prepend=0) * 120)
    assert made.at_mean == ("gaze",)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("gone.csv", None, r"there is no such file of behavior"),
        ("b.txt", "1", r"read from a \.csv or an \.npz file"),
        ("b.csv", "", r"not a readable table"),
        ("b.csv", "speed\n1\n", r"holds speed, and the model sees gaze, running; name columns"),
        ("b.csv", "running\nfast\n", r"column running holds text"),
        ("b.csv", "running\n1\n2\n", r"running has 2 rows; give one for each of the 6 bins .* of the 3 frames"),
        ("b.csv", "gaze\n1\n2\n3\n", r"gaze has 1 numbers, and the model sees 2"),
        ("b.npz", "no archive", r"not a readable \.npz file"),
    ],
)
def test_behavior_that_does_not_fit_is_refused(tmp_path: Path, name: str, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message) as caught:
        beside(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)
