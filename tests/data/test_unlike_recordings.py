"""Recordings of different frame sizes, rates and behaviors in one training; mixed clips; smoothed targets."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shipped import PLAIN
from tiny_models import LIKELIHOOD, READOUT, vivit

from vivit_core.data.augmentation import CutMix
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.transforms import RaisedCosines, SmoothTargets, Velocity
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch
from vivit_core.training.baseline import fit_ln
from vivit_core.training.initialize import initialize_from_data

TRANSFORMS = {"speed": Velocity("eye"), "cosines": RaisedCosines("speed", n=2, duration_s=0.04, causal=True)}


def datamodule(paths: list[Path], specs: Any = None, **changes: Any) -> RecordingsDataModule:
    settings: dict[str, Any] = {
        "recordings": [str(p) for p in paths],
        "root": None,
        "simulator": None,
        "cache": "unused",
        "behavior": ["cosines", "pupil"],
        "clip_length": 16,
        "burn_in": 4,
        "evaluation_length": 16,
        "evaluation_burn_in": 4,
        "weighting": "equal",
        "num_workers": 0,
        "seed": 0,
        "transforms": TRANSFORMS,
    }
    module = RecordingsDataModule(**(PLAIN | settings | changes))
    module.configure(batch_size=6, batches_per_epoch=3, specs=specs)
    module.setup()
    return module


def trials(n: int, length: int) -> dict[str, Any]:
    from vivit_core.data.recording.format import Trials

    start = np.arange(n) * length
    return {"trials": Trials(start, start + length, start, ["train"] * (n - 2) + ["val", "test"])}


@pytest.fixture
def two(make: Callable[..., Path]) -> list[Path]:
    """12×16 px at 100 Hz with eye and pupil; 9×20 px at 40 Hz without pupil."""
    rng = np.random.default_rng(0)

    def frames(n: int, height: int, width: int) -> np.ndarray:
        return rng.integers(0, 256, (n, height, width), dtype=np.uint8)

    eye, pupil = rng.standard_normal((800, 1)), 5 + rng.standard_normal((800, 1))
    return [
        make("fast.h5", 0, 800, frames=frames(800, 12, 16), behavior={"eye": eye, "pupil": pupil}, **trials(8, 100)),
        make("slow.h5", 1, 320, 4, frames=frames(320, 9, 20), frame_rate_hz=40.0, behavior={"eye": eye[:320]},
             **trials(8, 40)),
    ]  # fmt: skip


def test_one_training_of_both(two: list[Path], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        module = datamodule(two)
    assert "fast.h5: 100 Hz is brought to 40 Hz (5 bins become 2, counts shared by overlap)" in caplog.text
    assert "slow.h5 has no behavior 'pupil': its mean stands in" in caplog.text
    assert [s.frame_rate_hz for s in module.specs] == [40.0, 40.0]
    assert [s.frame_shape for s in module.specs] == [(1, 12, 16), (1, 9, 20)]
    with pytest.raises(ValueError, match=r"different sizes .* set model\.frame_size"):
        Twin(vivit(), READOUT, LIKELIHOOD, module.specs)
    twin = Twin({**vivit(), "frame_size": [12, 16]}, READOUT, LIKELIHOOD, module.specs)
    ln = fit_ln(module, duration_s=0.1, patch=5, nonlinearity="exp", progress=False)
    initialize_from_data(twin, module.recordings, ln)
    for batch in module.train_dataloader():
        assert {rid: tuple(clips["frames"].shape[1:]) for rid, clips in batch.items()} == {
            "rec0": (1, 16, 12, 16),
            "rec1": (1, 16, 9, 20),
        }
        assert batch["rec1"]["behavior"].shape[-1] == 3 and not batch["rec1"]["behavior"][..., 2].any()
        predicted = twin(batch)
        assert {rid: x.shape[1:] for rid, x in predicted.items()} == {"rec0": (16, 3), "rec1": (16, 4)}
    # What the twin's methods take is what the view gives, at the model's rate.
    twin.eval()
    for view in module.recordings:
        clip = view.read(0, 24, twin.specs[view.recording_id].behavior)
        rates = twin.rates(view.recording_id, clip["frames"], clip["behavior"])
        stream = twin.stream(view.recording_id, clip_length=24)
        one_by_one = [stream.step(clip["frames"][:, t], clip["behavior"][t]) for t in range(24)]
        np.testing.assert_allclose(one_by_one, rates, rtol=1e-4)
    # A later evaluation gets the files as they are.
    again = datamodule(two, specs=list(twin.specs.values()))
    for old, new in zip(module.evaluation_dataloader("test"), again.evaluation_dataloader("test"), strict=True):
        assert same(old, new)


def test_a_behavior_that_is_missing_later_is_at_its_mean(two: list[Path], make: Callable[..., Path]) -> None:
    module = datamodule(two[:1])
    later = make("later.h5", 0, 100, frames=np.zeros((100, 12, 16), np.uint8), behavior={}, **trials(3, 33))
    clips = next(iter(datamodule([later], specs=module.specs).evaluation_dataloader("test")))["rec0"]
    mean = torch.tensor(module.specs[0].behavior_mean, dtype=torch.float32)
    assert mean[2] == pytest.approx(5, abs=0.2)
    torch.testing.assert_close(clips["behavior"], mean.expand_as(clips["behavior"]))


def test_the_rate_asked_for_beats_the_lowest(two: list[Path]) -> None:
    assert [s.frame_rate_hz for s in datamodule(two, frame_rate_hz=20.0).specs] == [20.0, 20.0]
    assert [s.frame_rate_hz for s in datamodule(two[:1]).specs] == [100.0]
    with pytest.raises(ValueError, match=r"data\.frame_rate_hz is 0"):
        datamodule(two, frame_rate_hz=0.0)


def test_a_behavior_made_from_nothing_is_named(two: list[Path]) -> None:
    with pytest.raises(ValueError, match=r"data\.transforms\.cosines makes it from 'wheel', which no recording has"):
        datamodule(two, transforms={"cosines": Velocity("wheel")})


CUTMIX = CutMix(probability=0.7, alpha=1.0, space=True, time=True, settle_s=0.05)


def same(a: Batch, b: Batch) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[rid][name], b[rid][name])  # type: ignore[literal-required]
        for rid in a
        for name in ("frames", "counts", "valid", "behavior")
    )


def test_mixed_clips_are_a_function_of_seed_and_number(two: list[Path]) -> None:
    first = list(datamodule(two, augmentation=CUTMIX).train_dataloader())
    for workers in (0, 2):
        again = datamodule(two, augmentation=CUTMIX, num_workers=workers).train_dataloader()
        assert all(same(a, b) for a, b in zip(first, again, strict=True))
    resumed = datamodule(two, augmentation=CUTMIX)
    resumed.load_state_dict({"next_sample": 6})
    assert same(first[1], next(iter(resumed.train_dataloader())))
    other = datamodule(two, augmentation=CUTMIX, seed=1).train_dataloader()
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))
    bare = list(datamodule(two).train_dataloader())
    mixed = [
        not torch.equal(a[rid]["frames"][row], b[rid]["frames"][row])
        for a, b in zip(first, bare, strict=True)
        for rid in a
        for row in range(len(a[rid]["frames"]))
    ]
    assert 0.3 < np.mean(mixed) < 1  # the same clips, most of them with a piece of another in it


def test_validation_and_test_know_no_augmentation_and_no_smoothing(two: list[Path]) -> None:
    bare = datamodule(two)
    changed = datamodule(two, augmentation=CUTMIX, transforms={**TRANSFORMS, "calcium": SmoothTargets(tau_s=0.1)})
    assert changed.specs == bare.specs
    for split in ("val", "test"):
        loaders = (bare.evaluation_dataloader(split), changed.evaluation_dataloader(split))
        assert all(same(a, b) for a, b in zip(*loaders, strict=True))
    counts = next(iter(datamodule(two, transforms=changed._transforms).train_dataloader()))["rec1"]["counts"]
    assert not torch.equal(counts, counts.round())
