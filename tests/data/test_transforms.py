"""Transforms of a stretch, and CutMix, against plain code."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from vivit_core.cli.schema import conf_dir
from vivit_core.data.augmentation import Clip, CutMix
from vivit_core.data.recording.reader import Recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.transforms import Contrast, PositionBasis, Smooth, Speed, Velocity, memory, widths
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build, build_all
from vivit_core.specs import Batch


def test_speed_velocity_and_position():
    trace = np.array([[0.0, 0], [3, 4], [3, 4], [0, 0]], np.float32)
    np.testing.assert_allclose(Speed("x")(trace, 10.0), [[0], [5], [5], [0]])
    np.testing.assert_allclose(Velocity("x")(trace, 10.0), [[0, 0], [30, 40], [0, 0], [-30, -40]])
    basis = PositionBasis("x", n=5, low=-1.0, high=1.0)
    values = basis(np.array([[-9.0], [-1], [-0.75], [0], [0.3], [1], [7]], np.float32), 10.0)
    np.testing.assert_allclose(values.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(values[[0, 1, 3, 5, 6]], np.eye(5)[[0, 0, 2, 4, 4]], atol=1e-6)
    np.testing.assert_allclose(values[2], [0.5, 0.5, 0, 0, 0], atol=1e-6)


def test_smoothing_keeps_a_constant_and_forgets():
    smooth = Smooth("x", tau_s=0.1)
    np.testing.assert_allclose(smooth(np.full((700, 1), 3.0, np.float32), 100.0), 3.0, rtol=1e-5)
    step = smooth(np.repeat([0.0, 1.0], 300)[:, None].astype(np.float32), 100.0)[:, 0]
    assert (step[:300] == 0).all() and step[310] == pytest.approx(1 - np.exp(-1.1), abs=0.01)
    assert step[300 + memory(0.1, 100.0)] == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("std_px", [None, 2.0])
def test_contrast_takes_out_brightness_and_gain(std_px):
    frames = np.random.default_rng(0).integers(60, 180, (1, 3, 20, 24)).astype(np.float32)
    transform = Contrast(std_px=std_px, floor=1e-3)
    same = transform.pixels(frames)
    np.testing.assert_allclose(transform.pixels(0.5 * frames + 40), same, atol=2e-3)
    assert np.abs(transform.pixels(np.full((1, 2, 20, 24), 77, np.uint8))).max() < 1e-3  # a flat frame stays flat
    np.testing.assert_allclose(transform.pixels(frames[:, 1:2]), same[:, 1:2])  # frame by frame
    if std_px is None:
        np.testing.assert_allclose([same.mean(), same.std()], [0, 1], atol=1e-4)


def test_the_shipped_eye_velocity_is_the_simulators(compose, tiny, tiny_files: list[Path]):
    """Position to velocity, split and smoothed, gives what the simulator stored beside it."""
    data = compose(*tiny, "data/transforms=eye_velocity")["data"]
    view = ResampledRecording(tiny_files[0], None, build_all("data.transforms", data["transforms"]))
    stored = Recording(tiny_files[0])
    start, stop = int(stored.info.trials.start[1]), int(stored.info.trials.stop[2])
    expected = stored.behavior(start + 7, stop, {"eye_velocity": 40})
    assert np.abs(expected).max() > 1
    np.testing.assert_allclose(view.behavior(start + 7, stop, {"eye_velocity": 40}), expected, atol=2e-3)


def test_widths_of_shipped_transforms(compose):
    stored = {"eye_position": 2, "running_speed": 1, "pupil": 1}
    for choice, expected in (
        ("eye_velocity", {"eye_velocity": 40, "eye_position": 2}),
        ("locomotion", {"running": 1, "pupil_size": 1, "pupil_change": 1}),
        ("eye_speed", {"eye_speed": 1, "eye_change": 2}),
        ("eye_place", {"eye_place": 10, "eye_position": 2}),
        ("none", {"eye_velocity": None}),
    ):
        data = compose(f"data/transforms={choice}")["data"]
        made = widths(build_all("data.transforms", data["transforms"]), stored)
        assert {name: made.get(name) for name in expected} == expected


OF_EYE = sorted({path.stem for path in (conf_dir() / "data" / "transforms").glob("*.yaml")} - {"locomotion"})


@pytest.mark.parametrize("choice", OF_EYE)
def test_every_shipped_transform_changes_what_a_twin_steps_on(choice, compose, tiny, tiny_files: list[Path]):
    """But that of running and pupil, which simulated recordings have not."""

    def made(choice: str) -> tuple[Twin, Batch]:
        settings = compose(*tiny, "model/own_filter=none", f"data/transforms={choice}", "data.recordings=[a.h5]")
        datamodule = build("data", without_geometry(settings["data"]) | {"recordings": [str(tiny_files[0])]})
        datamodule.configure(batch_size=1, batches_per_epoch=1)
        datamodule.setup()
        parts = (settings[name] for name in ("model", "readout", "likelihood"))
        return Twin(*parts, datamodule.specs), next(iter(datamodule.train_dataloader()))

    twin, batch = made(choice)
    (counts,) = twin(batch).values()
    counts.sum().backward()
    assert counts.isfinite().all() and all(p.grad is None or p.grad.isfinite().all() for p in twin.parameters())
    ((clips,), (plain,)) = batch.values(), made("none")[1].values()
    changed = {name for name, x in plain.items() if not torch.equal(x, clips[name])}
    what = {"contrast": {"frames"}, "smooth_targets": {"counts"}, "eye_speed": {"behavior"}, "eye_place": {"behavior"}}
    assert changed == what.get(choice, set())  # the simulator stores the eye velocity that eye_velocity makes


def without_geometry(data):
    """What the data module is made of."""
    return {key: value for key, value in data.items() if key != "geometry"}


def test_what_the_twin_sees_is_the_users_choice_alone(compose):
    """A choice of transforms changes no other setting. What nobody would see is refused, and the remedy is a setting
    that composes."""
    plain = compose()["data"]
    for choice in ("eye_velocity", "locomotion", "eye_speed", "eye_place", "contrast", "smooth_targets"):
        data = compose(f"data/transforms={choice}", "data.behavior=[eye_position]")["data"]
        assert data["behavior"] == ["eye_position"]
        data = compose(f"data/transforms={choice}")["data"]
        assert {**data, "transforms": plain["transforms"]} == plain
        build("data", without_geometry(data))
    data = compose("data/transforms=locomotion", "data.behavior=[eye_velocity,eye_position]")["data"]
    with pytest.raises(ValueError, match=r"makes running, pupil_size, pupil_change, and data\.behavior") as refused:
        build("data", without_geometry(data))
    (word,) = re.findall(r"set (data.behavior=\S+)", str(refused.value).replace("'", ""))
    data = compose("data/transforms=locomotion", word)["data"]
    assert data["behavior"] == ["eye_velocity", "eye_position", "running", "pupil_size", "pupil_change"]
    build("data", without_geometry(data))


# CutMix -------------------------------------------------------------------------------------------------------------


def clip(value: float, bins: int = 40) -> Clip:
    return Clip(
        frames=np.full((1, bins, 10, 12), value, np.float32),
        counts=np.full((bins, 3), value, np.float32),
        valid=np.ones((bins, 3), bool),
        behavior=np.full((bins, 2), value, np.float32),
    )


def mixes(**changes):
    chosen = {"probability": 1.0, "alpha": 1.0, "space": False, "time": True, "settle_s": 0.2} | changes
    for seed in range(200):
        yield CutMix(**chosen)(clip(1.0), clip(3.0), np.random.default_rng(seed), 10.0)


def test_cutmix_in_time_swaps_stimulus_responses_and_behavior_together():
    lengths = []
    for mixed in mixes():
        shown = mixed["frames"][0, :, 0, 0]
        assert (mixed["frames"] == shown[None, :, None, None]).all()
        assert (mixed["counts"] == shown[:, None]).all() and (mixed["behavior"] == shown[:, None]).all()
        seams = np.flatnonzero(np.diff(shown)) + 1
        unsettled = {b for seam in seams for b in range(seam, min(seam + 2, 40))}
        assert set(np.flatnonzero(~mixed["valid"].all(1))) == unsettled
        lengths.append(int((shown == 3).sum()))
    assert min(lengths) < 4 and max(lengths) > 36 and 15 < np.mean(lengths) < 25


def test_cutmix_in_space_weighs_responses_by_area():
    areas = []
    for mixed in mixes(space=True, time=False):
        area = (mixed["frames"] == 3).mean()
        assert ((mixed["frames"] == 3) == (mixed["frames"][:, :1] == 3)).all()  # one box through all bins
        np.testing.assert_allclose(mixed["counts"], 1 + 2 * area, rtol=1e-5)
        np.testing.assert_allclose(mixed["behavior"], 1 + 2 * area, rtol=1e-5)
        assert mixed["valid"].all()
        areas.append(area)
    assert min(areas) < 0.1 and max(areas) > 0.9


def test_cutmix_in_both_is_a_stretch_of_a_box():
    for mixed in mixes(space=True):
        share = (mixed["frames"] == 3).mean((0, 2, 3))
        assert len(set(share[share > 0])) <= 1
        np.testing.assert_allclose(mixed["counts"], np.repeat(1 + 2 * share[:, None], 3, 1), rtol=1e-5)


def test_cutmix_refuses_nonsense():
    for changes, message in (
        ({"space": False, "time": False}, "space and time are both false"),
        ({"probability": 0.0}, "probability is 0"),
        ({"settle_s": -1.0}, "settle_s -1"),
        ({"alpha": 0.0}, "alpha is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            next(mixes(**changes))


def test_the_shipped_cutmix_mixes(compose):
    assert compose()["data"]["augmentation"] is None
    node = compose("data/augmentation=cutmix", "data.augmentation.probability=1")["data"]["augmentation"]
    cutmix = build("data.augmentation", node)
    mixed = cutmix(clip(1.0), clip(3.0), np.random.default_rng(0), 10.0)
    assert 0 < (mixed["frames"] == 3).mean() < 1
