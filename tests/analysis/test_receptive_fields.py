"""Receptive fields of models and recordings that are known exactly."""

from __future__ import annotations

import csv
import json
from pathlib import Path
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
)

from vivit_core.analysis import maps
from vivit_core.analysis.insilico import Screen, natural_clips, pixel_range
from vivit_core.analysis.receptive_fields import (
    Noise,
    gradient_fields,
    is_white,
    measured_fields,
    noise_fields,
    receptive_fields,
)
from vivit_core.data.recording import Recording
from vivit_core.specs import Clips

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


def test_screen_shows_pixels_and_mean_behaviour() -> None:
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
    assert maps.orientation_error_deg(found.orientation_U, ORIENTATIONS).max() < 5


def test_gradient_places_and_orients_a_unit_without_a_linear_field() -> None:
    found = gradient_fields(screen(linear=0.0, quadratic=0.3), natural(40), LAGS, progress=False)
    assert (found.snr_U < 3).all()  # of the mean, whose sign is the stimulus'
    assert np.linalg.norm(found.center_U2 - CENTERS, axis=1).max() < 0.1
    assert maps.orientation_error_deg(found.orientation_U, ORIENTATIONS).max() < 5


@pytest.mark.parametrize("changes", [{}, {"kind": "sparse", "density": 0.2}, {"check_px": 2, "hold_bins": 2}])
def test_average_on_noise_finds_the_filters(changes: dict[str, Any]) -> None:
    gain = 0.3
    found = noise_fields(screen(gain=gain), Noise(**WHITE | changes), LAGS, progress=False)
    # 5600 bins leave noise in each of 4680 numbers: the cosine cannot be much larger.
    assert (cosine(found.map_ULHW, true_map()) > 0.6).all()
    assert (found.snr_U > 5).all()
    assert np.linalg.norm(found.center_U2 - CENTERS, axis=1).max() < 1.0
    assert maps.orientation_error_deg(found.orientation_U, ORIENTATIONS).max() < 15
    if not changes:  # in Hz per contrast: the mean rate times the log rate's slope
        mean_hz = 0.2 * RATE_HZ * np.exp((gain * 0.8 * 120 / 40) ** 2 / 2)
        scale = (found.map_ULHW * true_map()).sum((1, 2, 3)) / np.square(true_map()).sum((1, 2, 3))
        np.testing.assert_allclose(scale, gain * mean_hz, rtol=0.15)


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


def test_natural_clips_lie_inside_trials(tmp_path: Path) -> None:
    recording = Recording(recorded(tmp_path))
    clips = natural_clips(screen(), recording, "test", 1499, 10)
    assert len(clips) == 2  # a trial of 1500 bins has no more
    expected = (recording.frames(4500, 5999)[0].astype(np.float32) - 120) / 120
    np.testing.assert_allclose(clips[0].numpy(), expected, atol=1e-6)
    with pytest.raises(ValueError, match="no test trial is as long as a clip of 1501 bins"):
        natural_clips(screen(), recording, "test", 1501, 10)
    assert pixel_range(recording) == (0.0, 255.0)


def test_everything_is_written(tmp_path: Path) -> None:
    data = data_of(recorded(tmp_path))
    summary = receptive_fields(
        known_ln(gain=0.4),
        data,
        noise=Noise(**WHITE | {"clips": 8}),
        duration_s=LAGS / RATE_HZ,
        clips=4,
        clip_s=0.3,
        measured="auto",
        out=tmp_path / "out",
        known={("known", "a"): 0.7, ("known", "b"): 0.2},
        progress=False,
    )
    rows = list(csv.DictReader((tmp_path / "out" / "receptive_fields.csv").open()))
    assert [row["unit"] for row in rows] == list("abcd")
    assert rows[0]["readout_x_px"] == ""  # an LN model has no readout windows
    assert float(rows[0]["gradient_x_px"]) == pytest.approx(8.0, abs=0.1)
    assert float(rows[0]["gradient_size_deg"]) == pytest.approx(float(rows[0]["gradient_size_px"]) * 0.5)
    assert float(rows[0]["sta_measured_corr"]) > 0.2
    assert json.loads((tmp_path / "out" / "receptive_fields.json").read_text()) == summary
    groups = summary["groups"]
    assert groups["all"]["gradient_center_within_2px"] == 1.0
    assert groups["simple"]["units"] == 3 and groups["all, half of the knowable"]["units"] == 1
    assert groups["all"]["readout_center_within_2px"] is None
    with np.load(tmp_path / "out" / "receptive_fields.npz") as arrays:
        assert arrays["known/gradient"].shape == (4, LAGS, HEIGHT, WIDTH)
        assert arrays["known/unit_ids"].tolist() == list("abcd")
    assert {p.name for p in (tmp_path / "out" / "pictures").iterdir()} == {"fields_known.png", "errors.png"}
