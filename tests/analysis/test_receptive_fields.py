"""Receptive fields of models and recordings that are known exactly."""

from __future__ import annotations

import csv
import json
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from known_models import (
    CENTERS,
    COURSE,
    HEIGHT,
    LAGS,
    ORIENTATIONS,
    RATE_HZ,
    WIDTH,
    data_of,
    fields_UHW,
    known_ln,
    recorded,
    spec,
)
from torch import nn

from vivit_core.analysis.receptive_fields.fields import Fields, gradient_fields, is_white, measured_fields, noise_fields
from vivit_core.analysis.receptive_fields.numbers import likeness, rows_of
from vivit_core.analysis.receptive_fields.receptive_fields import receptive_fields
from vivit_core.analysis.receptive_fields.section import report_section
from vivit_core.analysis.screen import Screen, natural_clips, pixel_range
from vivit_core.data.recording.reader import Recording
from vivit_core.models.ln import LN
from vivit_core.models.predictor import Predictor
from vivit_core.rf import maps as rf_maps
from vivit_core.specs import Batch, Clips
from vivit_core.stimuli.noise import Noise

WHITE: dict[str, Any] = {
    "kind": "white",
    "contrast": 0.8,
    "density": 1.0,
    "check_px": 1,
    "hold_bins": 1,
    "clips": 24,
    "clip_s": 4.0,
    "seed": 0,
}


def screen(**arguments: float) -> Screen:
    return Screen(known_ln(**arguments), "known", (0.0, 255.0))


def true_map() -> np.ndarray:
    """(U, L, H, W) of the change of the log rate with contrast: the filter, over the pixels' standard deviation."""
    return COURSE[None, :, None, None] * fields_UHW()[:, None] * (120.0 / 40.0)


def cosine(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.reshape(len(one), -1), other.reshape(len(other), -1)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def natural(clips: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(clips, 20, HEIGHT, WIDTH, generator=generator)


def test_screen_shows_pixels_and_mean_behavior() -> None:
    """The units see the pixels that a contrast stands for: 0 is the mean pixel, 1 the range's nearer end."""
    shown = screen()
    contrast = natural(2).clamp(-1, 1)
    frames = 120.0 + 120.0 * contrast  # to the nearer end of 0 … 255
    expected = known_ln()({"known": Clips(frames=frames[:, None])})["known"] * RATE_HZ
    torch.testing.assert_close(shown.rates(contrast), expected)
    assert shown.natural_contrast == pytest.approx(40 / 120)
    torch.testing.assert_close(shown.to_contrast(frames), contrast, rtol=0, atol=1e-5)


def test_screen_reads_every_bin_of_a_model_that_predicts_the_last() -> None:
    model = known_ln()
    model.predict = "last"
    assert Screen(model, "known", (0.0, 255.0)).rates(natural(1)).shape == (1, 20, 4)
    assert model.predict == "last"


def test_gradient_of_a_linear_model_is_its_filter() -> None:
    found = gradient_fields(screen(), natural(5), LAGS, progress=False)
    np.testing.assert_allclose(found.map_ULHW, true_map(), atol=1e-4)
    assert (found.snr_U > 1e5).all()  # every clip has the same gradient
    assert (found.peak_lag_U == 1).all()
    assert np.linalg.norm(found.center_U2 - CENTERS, axis=1).max() < 0.1
    assert rf_maps.orientation_error_deg(found.orientation_U, ORIENTATIONS).max() < 5


def test_gradients_at_one_clip_are_refused() -> None:
    with pytest.raises(ValueError, match="recording known: signal to noise needs two halves"):
        gradient_fields(screen(), natural(1), LAGS, progress=False)


def test_gradient_places_and_orients_a_unit_without_a_linear_field() -> None:
    found = gradient_fields(screen(linear=0.0, quadratic=0.3), natural(40), LAGS, progress=False)
    assert (found.snr_U < 3).all()  # of the mean, whose sign is the stimulus'
    assert np.linalg.norm(found.center_U2 - CENTERS, axis=1).max() < 0.1
    assert rf_maps.orientation_error_deg(found.orientation_U, ORIENTATIONS).max() < 5


@pytest.mark.parametrize("changes", [{}, {"kind": "sparse", "density": 0.2}, {"check_px": 2, "hold_bins": 2}])
def test_average_on_noise_finds_the_filters(changes: dict[str, Any]) -> None:
    gain = 0.3
    found = noise_fields(screen(gain=gain), Noise(**WHITE | changes), LAGS, progress=False)
    # 5600 bins leave noise in each of 4680 numbers: the cosine cannot be much larger.
    assert (cosine(found.map_ULHW, true_map()) > 0.6).all()
    assert (found.snr_U > 5).all()
    assert np.linalg.norm(found.center_U2 - CENTERS, axis=1).max() < 1.0
    assert rf_maps.orientation_error_deg(found.orientation_U, ORIENTATIONS).max() < 15
    if not changes:  # in Hz per contrast: the mean rate times the log rate's slope
        mean_hz = 0.2 * RATE_HZ * np.exp((gain * 0.8 * 120 / 40) ** 2 / 2)
        scale = (found.map_ULHW * true_map()).sum((1, 2, 3)) / np.square(true_map()).sum((1, 2, 3))
        np.testing.assert_allclose(scale, gain * mean_hz, rtol=0.15)


class Linear(nn.Module):
    """Rates that are linear in pixels, of four units with smooth filters of one sign, under the twin's contract."""

    spec = Predictor.spec

    def __init__(self) -> None:
        super().__init__()
        self.specs, self.predict = {"known": spec()}, "all"
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        apart = np.square(x - CENTERS[:, :1, None]) + np.square(y - CENTERS[:, 1:, None])
        course = np.exp(-0.5 * np.square((np.arange(LAGS) - 5.0) / 1.2))
        self.map_ULHW = 3.0 * course[None, :, None, None] * np.exp(-0.5 * apart / 2.0**2)[:, None]  # Hz a contrast

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        contrast = (batch["known"]["frames"] - 120.0) / 120.0
        padded = nn.functional.pad(contrast, (0, 0, 0, 0, LAGS - 1, 0))
        seen = nn.functional.conv3d(padded, torch.as_tensor(self.map_ULHW).float()[:, None])[..., 0, 0]
        return {"known": 0.2 + seen.mT / RATE_HZ}


@pytest.mark.parametrize("kind", [{}, {"kind": "sparse", "density": 0.2}])
@pytest.mark.parametrize(("check", "hold"), [(1, 1), (2, 2), (3, 1)])
def test_average_on_noise_is_in_hz_a_contrast(kind: dict[str, Any], check: int, hold: int) -> None:
    """It is the filter under a blur whose weights sum to one, whatever the checks and however long they hold."""
    model: Any = Linear()
    shown = Screen(model, "known", (0.0, 255.0))
    noise = Noise(**WHITE | kind | {"check_px": check, "hold_bins": hold, "clips": 48})
    found = noise_fields(shown, noise, LAGS, progress=False).map_ULHW
    blurred = model.map_ULHW
    for axis, size in ((1, hold), (2, check), (3, check)):
        triangle = np.convolve(np.ones(size), np.ones(size)) / size**2
        blurred = np.apply_along_axis(np.convolve, axis, blurred, triangle, mode="same")
    scale = (found * blurred).sum((1, 2, 3)) / np.square(blurred).sum((1, 2, 3))
    np.testing.assert_allclose(scale, 1.0, atol=0.07)


def study(model: Any, data: Any, out: Path, **changes: Any) -> dict[str, Any]:
    """The whole task, in a second."""
    small: dict[str, Any] = {"duration_s": LAGS / RATE_HZ, "clips": 4, "clip_s": 0.3, "measured": False, "known": {}}
    noise = Noise(**WHITE | {"clips": 8})
    return receptive_fields(model, data, out=out, progress=False, **({"noise": noise} | small | changes))


def test_units_without_a_response_have_no_field(tmp_path: Path) -> None:
    """Neither a gradient of zero nor the rounding of an average has a place, a latency, or an orientation."""
    quiet = Screen(known_ln(gain=0.3, mute=[1, 2]), "known", (0.0, 255.0))
    gradient = gradient_fields(quiet, natural(5), LAGS, progress=False)
    sta = noise_fields(quiet, Noise(**WHITE), LAGS, progress=False)
    for found in (gradient, sta):
        columns = (found.center_U2[:, 0], found.size_U, found.orientation_U, found.coherence_U, found.peak_lag_U)
        for column in (*columns, found.snr_U, found.explained_U):
            assert np.isnan(column).tolist() == [False, True, True, False]
    assert np.isnan(likeness(sta, gradient, gradient)).tolist() == [False, True, True, False]
    # Even pixels that are known to be there tell nothing of a unit that fired as often in every bin.
    recording = Recording(recorded(tmp_path))
    recording.counts = lambda start, stop: np.ones((stop - start, 4), np.uint8)  # type: ignore[method-assign]
    assert np.isnan(measured_fields(quiet, recording, LAGS, progress=False).center_U2).all()


@pytest.mark.parametrize("units", [[1], [0, 1, 2, 3]])
def test_units_without_a_field_are_counted_and_left_out(tmp_path: Path, units: list[int]) -> None:
    summary = study(known_ln(gain=0.4, mute=units), data_of(recorded(tmp_path)), tmp_path / "out")
    everyone = summary["groups"]["all"]
    assert everyone["gradient_without_field"] == everyone["sta_without_field"] == len(units)
    assert everyone["measured_without_field"] is None
    assert everyone["gradient_center_within_2px"] == (None if len(units) == 4 else 1.0)
    row = list(csv.DictReader((tmp_path / "out" / "receptive_fields.csv").open()))[1]
    assert row["gradient_has_field"] == "0.0" and row["measured_has_field"] == ""
    for name in ("x_px", "size_px", "latency_s", "orientation_deg", "snr", "center_error_px", "orientation_error_deg"):
        assert row[f"gradient_{name}"] == row[f"sta_{name}"] == ""
    section = report_section(summary, tmp_path / "out", "python run.py task=receptive_fields")
    assert f"frame, for {len(units)} by gradient, {len(units)} by sta" in section.text[2]
    assert "<method>_snr" in dict(section.notes[0].rows).keys() == summary["methods"].keys()
    if len(units) == 4:
        assert section.explore is None
    else:
        assert section.explore is not None
        told = section.explore.plain()
        assert [panel["title"] for panel in told["panels"]] == ["Field by gradients", "Field by noise"]
        for panel in told["panels"]:
            assert [png is None for png in panel["pngs"]] == [False, True, False, False]
        shown = [column["key"] for column in told["columns"] if column["shown"]]
        assert shown == ["gradient_snr", "gradient_x_px", "gradient_y_px"]
        column = next(column for column in told["columns"] if column["key"] == "gradient_x_px")
        assert column["values"][1] is None and column["values"][2] is not None
    pictures = {path.name for path in (tmp_path / "out" / "pictures").iterdir()}
    assert pictures == {"errors.png"} | ({"fields_known.png"} if len(units) < 4 else set())


def test_one_recordings_maps_at_a_time_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: weakref.WeakSet[Fields] = weakref.WeakSet()
    before = []

    def watched(*arguments: Any) -> Fields:
        before.append(len(alive))
        found = gradient_fields(*arguments)
        alive.add(found)
        return found

    monkeypatch.setattr("vivit_core.analysis.receptive_fields.receptive_fields.gradient_fields", watched)
    path = recorded(tmp_path)
    names = ("first", "second")
    specs = [replace(spec(), recording_id=name) for name in names]
    data: Any = SimpleNamespace(recordings=[Recording(path, recording_id=name) for name in names], specs=specs)
    model = LN(specs, duration_s=LAGS / RATE_HZ, patch=5, nonlinearity="exp")
    with torch.no_grad():
        for head in model.readouts:
            head.space_UP[:] = 0.1
            head.time_UL[:] = torch.as_tensor(COURSE)
    study(model, data, tmp_path / "out", noise=None)
    assert before == [0, 0]
    with np.load(tmp_path / "out" / "receptive_fields.npz") as arrays:
        assert sorted(arrays) == [f"{name}/{what}" for name in names for what in ("gradient", "unit_ids")]
        assert arrays["second/gradient"].dtype == np.float32


def test_signal_to_noise_is_one_for_chance_and_grows_with_the_recording() -> None:
    flat = noise_fields(screen(linear=0.0, quadratic=0.02), Noise(**WHITE), LAGS, progress=False)
    assert (flat.snr_U < 2.5).all() and (flat.snr_U > 0.4).all()
    short, long = (
        noise_fields(screen(gain=0.15), Noise(**WHITE | {"clips": clips}), LAGS, progress=False).snr_U
        for clips in (6, 24)
    )
    assert np.median(long / short) > 2


@pytest.mark.parametrize(
    ("changes", "named"),
    [({"contrast": 1.5}, "contrast=1.5"), ({"check_px": 0}, "check_px=0"), ({"clips": 1}, "clips=1")],
)
def test_noise_that_cannot_be_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        Noise(**WHITE | changes)


def test_noise_has_its_variance_and_holds() -> None:
    for changes in ({}, {"kind": "sparse", "density": 0.2}):
        noise = Noise(**WHITE | changes | {"hold_bins": 3, "check_px": 2, "clips": 2})
        clip = next(noise.make(300, HEIGHT, WIDTH))
        assert clip.shape == (300, HEIGHT, WIDTH)
        assert float(clip.square().mean()) == pytest.approx(noise.variance, rel=0.05)
        assert torch.equal(clip[0::3], clip[2::3]) and not torch.equal(clip[2], clip[3])


# Recordings -----------------------------------------------------------------------------------------------------------


def test_measured_average_finds_the_filters(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path))
    assert is_white(recording) and not is_white(Recording(recorded(tmp_path, white=False)))
    recording = Recording(recorded(tmp_path))
    found = measured_fields(screen(), recording, LAGS, progress=False)
    assert (cosine(found.map_ULHW, true_map()) > 0.15).all() and (found.snr_U > 1.2).all()
    assert np.linalg.norm(found.center_U2 - CENTERS, axis=1).max() < 1.5


@pytest.mark.parametrize(
    "measured",
    [
        [slice(0, 1500)],
        [slice(0, 1600)],
        [slice(0, 1500), slice(3000, 4500)],
        [slice(1000, 1300)],
        [slice(0, LAGS + 187)],
    ],
    ids=["first trial", "and 100 bins", "every other trial", "some seconds", "a piece and some bins"],
)
def test_unit_of_a_part_of_the_session_has_its_own_field(tmp_path: Path, measured: list[slice]) -> None:
    """Halves know all parts of a session, and every bin weighs the same."""
    recording = Recording(recorded(tmp_path))
    valid_TU = recording.valid(0, 6000).copy()
    valid_TU[:, 1] = False
    for part in measured:
        valid_TU[part, 1] = True
    recording.valid = lambda start, stop: valid_TU[start:stop]  # type: ignore[method-assign]
    found = measured_fields(screen(), recording, LAGS, progress=False)
    counts_T = recording.counts(0, 6000)[:, 1].astype(float)
    contrast_TP = (recording.frames(0, 6000)[0].reshape(6000, -1).astype(float) - 120) / 120
    use_N = np.flatnonzero(valid_TU[:, 1])
    use_N = use_N[use_N % 1500 >= LAGS - 1]
    weight_N = (counts_T[use_N] - counts_T[use_N].mean()) * RATE_HZ / len(use_N) / np.square(contrast_TP).mean()
    plain_LP = np.stack([weight_N @ contrast_TP[use_N - lag] for lag in reversed(range(LAGS))])
    assert cosine(found.map_ULHW[1:2], plain_LP[None]) > 0.98
    np.testing.assert_allclose(
        (found.map_ULHW[1].reshape(LAGS, -1) * plain_LP).sum() / np.square(plain_LP).sum(), 1, 0.03
    )
    assert np.isfinite(found.snr_U).all()


def test_unit_of_one_half_has_a_field_without_signal_to_noise(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path))
    valid_TU = recording.valid(0, 6000).copy()
    valid_TU[100:, 1] = False  # less than a piece
    recording.valid = lambda start, stop: valid_TU[start:stop]  # type: ignore[method-assign]
    found = measured_fields(screen(), recording, LAGS, progress=False)
    assert np.isnan(found.snr_U).tolist() == [False, True, False, False]
    assert np.abs(found.map_ULHW[1]).max() > 0 and np.isfinite(found.center_U2[1]).all()


def test_natural_clips_lie_inside_trials(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path))
    clips = natural_clips(screen(), recording, 1499, 10)
    assert len(clips) == 2  # a trial of 1500 bins has no more
    expected = (recording.frames(4500, 5999)[0].astype(np.float32) - 120) / 120
    np.testing.assert_allclose(clips[0].numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="no trial is as long as a clip of 1501 bins"):
        natural_clips(screen(), recording, 1501, 10)
    assert pixel_range(recording) == (0.0, 255.0)


def test_places_in_degrees_are_to_the_right_of_the_middle_and_above_it() -> None:
    """Of 11 rows and 21 columns, whose middle is pixel (10, 5); a pixel is half a degree, and y points down."""
    info = SimpleNamespace(
        recording_id="r", unit_ids=("a",), n_units=1, frame_shape=(1, 11, 21), frame_rate_hz=30.0, degrees_per_pixel=0.5
    )
    place_U2, windows = np.array([[12.0, 3.0]]), {"std_px": np.array([[1.0, 2.0]])}
    recording: Any = SimpleNamespace(recording_id="r", info=info)
    (row,) = rows_of(recording, place_U2, windows, {}, {"center_px": np.array([[9.0, -1.0]])}, {("r", "a"): 0.25})
    assert (row["readout_x_deg"], row["readout_y_deg"]) == (1.0, 1.0)
    assert (row["readout_std_long_deg"], row["readout_std_short_deg"]) == (1.0, 0.5)
    assert row["readout_center_error_px"] == 5.0 and row["knowable_fraction"] == 0.25


def test_everything_is_written(tmp_path: Path) -> None:
    data = data_of(recorded(tmp_path))
    known = {("known", "a"): 0.7, ("known", "b"): 0.2}
    summary = study(known_ln(gain=0.4), data, tmp_path / "out", measured="auto", known=known)
    rows = list(csv.DictReader((tmp_path / "out" / "receptive_fields.csv").open()))
    assert [row["unit"] for row in rows] == list("abcd")
    assert rows[0]["readout_std_long_px"] == ""  # an LN model has no readout windows, but looks somewhere
    assert float(rows[0]["readout_x_px"]) == pytest.approx(8.0, abs=0.1)
    assert float(rows[0]["gradient_x_px"]) == pytest.approx(8.0, abs=0.1)
    assert float(rows[0]["gradient_size_deg"]) == pytest.approx(float(rows[0]["gradient_size_px"]) * 0.5)
    assert float(rows[0]["sta_measured_cosine"]) > 0.2
    assert json.loads((tmp_path / "out" / "receptive_fields.json").read_text()) == summary
    groups = summary["groups"]
    assert groups["all"]["gradient_center_within_2px"] == 1.0
    assert groups["simple"]["units"] == 3 and groups["all, half of the oracle"]["units"] == 1
    assert groups["all"]["readout_center_within_2px"] == 1.0
    with np.load(tmp_path / "out" / "receptive_fields.npz") as arrays:
        assert arrays["known/gradient"].shape == (4, LAGS, HEIGHT, WIDTH)
        assert arrays["known/unit_ids"].tolist() == list("abcd")
    assert {p.name for p in (tmp_path / "out" / "pictures").iterdir()} == {"fields_known.png", "errors.png"}
    text = report_section(summary, tmp_path / "out", "python run.py task=receptive_fields").text
    assert len(text) == 3 and "median cosine" in text[2] and "in-sample" in text[2]
