"""Recordings that are not alike, and that hold less than a training hopes for: trials of unequal length, frames that
never change, silent units, few bins. What is fitted to data before a training must end in numbers for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shipped import PLAIN
from tiny_models import BASIS, LIKELIHOOD, MODELS_UNDER_CONTRACT, READOUT

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.statistics import training_statistics
from vivit_core.models.layers import channel_scales, inverse_softplus
from vivit_core.models.twin import Twin
from vivit_core.rf.placing import contrast_energies, courses, place
from vivit_core.rf.stretches import TrialStretches
from vivit_core.specs import RecordingSpec
from vivit_core.training.baseline import fit_ln
from vivit_core.training.initialize import initialize_from_data

SPLIT = ("train",) * 5 + ("val", "test")


def written(path: Path, name: str = "a", bins: int = 40, split: tuple[str, ...] = SPLIT, **changed: Any) -> Path:
    """Noise: ``bins`` frames a trial, three units."""
    rng, total = np.random.default_rng(0), bins * len(split)
    starts = np.arange(len(split)) * bins
    given = {
        "recording_id": name,
        "frame_rate_hz": 30.0,
        "frames": rng.integers(0, 256, (total, 12, 16)).astype(np.uint8),
        "counts": rng.poisson(0.5, (total, 3)),
        "trials": Trials(starts, starts + bins, np.arange(len(split)), np.array(split)),
    }
    return write_recording(path / f"{name}.h5", **{**given, **changed})


def opened(*paths: Path, **changed: Any) -> RecordingsDataModule:
    given = {
        "root": None, "simulator": None, "cache": "", "behavior": [], "clip_length": 16, "burn_in": 4,
        "evaluation_length": 32, "evaluation_burn_in": 8, "weighting": "equal", "num_workers": 0, "seed": 0,
    }  # fmt: skip
    data = RecordingsDataModule([str(path) for path in paths], **{**PLAIN, **given, **changed})
    data.setup()
    return data


def movies(bins: int, height: int, width: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(1)
    shape = (bins, height, width)
    flash = np.zeros(shape)
    flash[bins // 2] = 1
    yield from (rng.normal(size=shape), np.zeros(shape), np.full(shape, 3.3), flash, 1e6 + rng.normal(size=shape))
    yield from (0.1 + 1e-8 * rng.normal(size=shape), np.broadcast_to(rng.normal(size=(bins, 1, 1)), shape))
    yield np.broadcast_to(rng.normal(size=(1, height, width)), shape)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (6, 8)])
def test_maps_and_time_courses_are_numbers_for_every_movie_and_every_unit(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    for bins, lags in product((1, 5, 30), (1, 6)):
        units = np.stack([rng.poisson(0.5, bins), np.zeros(bins), np.full(bins, 2.0)], 1)
        for movie, which in product(movies(bins, *size), ([0, 1, 2], [0], [1])):
            x = torch.tensor(np.ascontiguousarray(movie), dtype=torch.float32)
            counts = torch.as_tensor(units[:, which], dtype=torch.float32)
            rest = counts - counts.mean(0)
            linear, energy = place(x[None], rest, lags, 0.5), place(contrast_energies(x), rest, lags, 100.0)
            spec = RecordingSpec("a", 30.0, (1, *size), tuple("abc"[: len(which)]), (0.5,) * len(which), 0.0, 1.0)
            data = TrialStretches(x.numpy(), counts.numpy(), np.ones(counts.shape, bool))
            for found in (*linear, *energy, courses(data, spec, linear[2], lags)):
                assert found.isfinite().all()


FRAMES: dict[str, Any] = {
    "dark": np.zeros((280, 12, 16), np.uint8),
    "gray": np.full((280, 12, 16), 0.1, np.float32),
    "still": np.broadcast_to(np.random.default_rng(3).integers(0, 256, (1, 12, 16)).astype(np.uint8), (280, 12, 16)),
    "one pixel": np.random.default_rng(4).integers(0, 256, (280, 1, 1)).astype(np.uint8),
}
CONVOLUTIONAL = ["bare", "stem", "residual-stem", "resnet", "factorized"]


@pytest.mark.parametrize("name", CONVOLUTIONAL)
def test_a_twin_starts_beside_a_recording_without_contrast_and_with_trials_of_other_lengths(
    name: str, tmp_path: Path
) -> None:
    """29.97 Hz beside 30 Hz also makes clips for the scales differ by a bin."""
    files = [
        written(tmp_path, "good", frame_rate_hz=29.97),
        written(tmp_path, "longer", bins=60),
        written(tmp_path, "gray", frames=FRAMES["gray"]),
    ]
    data = opened(*files)
    ln = fit_ln(data, duration_s=0.2, patch=5, nonlinearity="exp", progress=False)
    torch.manual_seed(0)
    for baseline in (ln, None):
        twin = Twin(MODELS_UNDER_CONTRACT[name] | {"modulator": None}, READOUT, LIKELIHOOD, data.specs)
        initialize_from_data(twin, data.recordings, baseline)
        assert all(value.isfinite().all() for value in twin.state_dict().values())
        np.testing.assert_allclose(twin.gaussians_px("gray")["mean_px"], [[7.5, 5.5]] * 3)
        weights = [value.abs().max() for key, value in twin.core.named_parameters() if key.endswith("weight")]
        assert max(weights) < 100  # nothing was divided by next to nothing
        batch = next(iter(data.evaluation_dataloader("val")))
        assert all(rate.isfinite().all() for rate in twin(batch).values())


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("counts", ["poisson", "silent", "constant"])
def test_the_baseline_of_recordings_that_show_nothing_is_each_units_mean(
    frames: str, counts: str, tmp_path: Path
) -> None:
    made = {"poisson": np.random.default_rng(5).poisson(0.5, (280, 3)), "silent": np.zeros((280, 3), int)}
    made["constant"] = np.full((280, 3), 2)
    data = opened(written(tmp_path, frames=FRAMES[frames], counts=made[counts]))
    spec = data.specs[0]
    ln = fit_ln(data, duration_s=0.2, patch=5, nonlinearity="exp", progress=False)
    torch.manual_seed(0)
    twin = Twin(MODELS_UNDER_CONTRACT["stem"] | {"modulator": None}, READOUT, LIKELIHOOD, data.specs)
    initialize_from_data(twin, data.recordings, ln)
    batch = next(iter(data.evaluation_dataloader("test")))
    rate = ln(batch)["a"]
    assert rate.isfinite().all() and twin(batch)["a"].isfinite().all()
    if frames != "one pixel":
        expected = torch.tensor(spec.unit_mean_counts).clamp_min(1e-6)
        torch.testing.assert_close(rate, expected.expand_as(rate), rtol=1e-3, atol=1e-6)


def test_a_constant_has_a_standard_deviation_to_divide_by(tmp_path: Path) -> None:
    """0.1 has no exact float32, and 1e4 + rounding is what a still tracker writes."""
    still = np.full((280, 2), [0.1, 1e4], np.float32)
    path = written(tmp_path, frames=FRAMES["gray"], behavior={"still": still})
    spec = training_statistics(Recording(path), {"still": 2})
    assert (spec.pixel_std, spec.behavior_std) == (1.0, (1.0, 1.0))
    assert spec.pixel_mean == pytest.approx(0.1) and spec.behavior_mean == pytest.approx((0.1, 1e4))


def test_the_baseline_without_validation_trials_chooses_on_the_end_of_training(tmp_path: Path) -> None:
    data = opened(written(tmp_path, split=("train",) * 6 + ("test",)))
    assert (
        fit_ln(data, duration_s=0.2, patch=5, nonlinearity="exp", progress=False).readout("a").bias_U.isfinite().all()
    )


def test_the_baseline_refuses_training_trials_shorter_than_its_filters(tmp_path: Path) -> None:
    data = opened(written(tmp_path, bins=10), clip_length=8, evaluation_length=9)
    with pytest.raises(ValueError, match=r"no training trial has a valid bin after the 30 lags.*baseline=null"):
        fit_ln(data, duration_s=1.0, patch=5, nonlinearity="exp", progress=False)
    torch.manual_seed(0)
    twin = Twin(MODELS_UNDER_CONTRACT["bare"] | {"frontend": BASIS | {"lags": 30}}, READOUT, LIKELIHOOD, data.specs)
    initialize_from_data(twin, data.recordings, None)  # the twin's own start takes what there is: shorter kernels
    places = np.asarray(twin.gaussians_px("a")["mean_px"])
    assert ((places >= 0) & (places <= [15, 11])).all() and not np.allclose(places, [[7.5, 5.5]] * 3)


def test_scales_over_maps_of_unequal_length_are_those_of_all_numbers_together() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = [torch.randn(1, 3, t, 2, 5, generator=generator) * (t + 1) + t for t in (1, 4, 9)]
    together = torch.cat(maps, dim=2).std((0, 2, 3, 4))
    torch.testing.assert_close(channel_scales(maps), together)
    torch.testing.assert_close(channel_scales([torch.full((1, 3, 2, 2, 2), 5.0)]), torch.ones(3))


def test_softplus_is_undone_for_small_and_large_means() -> None:
    mean = torch.tensor([1e-4, 0.5, 20.0, 1e3])
    torch.testing.assert_close(torch.nn.functional.softplus(inverse_softplus(mean)), mean, rtol=1e-3, atol=0.0)
