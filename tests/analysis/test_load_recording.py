"""A recording that a user opens is what the model of a checkpoint was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from shipped import PLAIN
from small_recordings import small_arrays

from vivit_core.analysis.recording import load_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.load import checkpoint_of
from vivit_core.parts.build import build

TRANSFORMS = {
    "speed": {"_target_": "vivit_core.data.transforms.Speed", "source": "velocity"},
    "velocity": {"_target_": "vivit_core.data.transforms.Velocity", "source": "eye"},
    "pixels": {"_target_": "vivit_core.data.transforms.Contrast", "std_px": None, "floor": 1.0},
}


def recorded(folder: Path, number: int, **behavior: np.ndarray) -> Path:
    """A small recording, whose pixels are far from zero."""
    arrays = small_arrays(number)
    film = np.random.default_rng(number).integers(100, 200, (120, 12, 16), dtype=np.uint8)
    return write_recording(folder / f"{number}.h5", **(arrays | {"frames": film, "behavior": behavior}))


def test_it_is_as_the_model_saw_it(tmp_path: Path) -> None:
    """At its rate, with its transforms, and the mean of a behavior that a file lacks."""
    rng = np.random.default_rng(0)
    eye, pupil = rng.standard_normal((120, 2)), 2000 + rng.standard_normal((120, 1))
    first = recorded(tmp_path, 0, eye=eye, pupil=pupil)
    data: dict[str, Any] = PLAIN | {
        "_target_": "vivit_core.data.datamodule.RecordingsDataModule", "recordings": [str(first)], "root": None,
        "simulator": None, "cache": "unused", "behavior": ["speed", "pupil"], "clip_length": 8, "burn_in": 2,
        "evaluation_length": 8, "evaluation_burn_in": 2, "weighting": "units", "num_workers": 0, "seed": 0,
        "frame_rate_hz": 50.0, "transforms": TRANSFORMS,
    }  # fmt: skip
    trained = build("data", data)
    trained.setup()
    model = tiny_models.twin(tiny_models.vivit(), *trained.specs)
    checkpoint = tmp_path / "best.ckpt"
    torch.save(checkpoint_of(model) | {"settings": {"data": data}}, checkpoint)
    (expected,), (spec,) = trained.recordings, trained.specs
    assert spec.behavior == {"speed": 1, "pupil": 1} and spec.frame_rate_hz == 50.0
    opened = load_recording(first, checkpoint)
    np.testing.assert_array_equal(opened.frames(0, 60), expected.frames(0, 60))
    np.testing.assert_array_equal(opened.behavior(0, 60, spec.behavior), expected.behavior(0, 60, spec.behavior))
    assert abs(opened.frames(0, 60).mean()) < 0.1 and opened.behavior(0, 60, spec.behavior).mean(0)[1] > 1900
    assert model.rates("rec0", opened.frames(0, 20), opened.behavior(0, 20, spec.behavior)).shape == (20, 3)

    (tmp_path / "lacking").mkdir()
    lacking = load_recording(recorded(tmp_path / "lacking", 0, eye=eye), checkpoint)
    np.testing.assert_allclose(lacking.behavior(0, 60, {"pupil": 1}), spec.behavior_mean[1], rtol=1e-6)

    with pytest.raises(ValueError, match=r"none\.h5: there is no such file"):
        load_recording(tmp_path / "none.h5", checkpoint)
    torch.save(checkpoint_of(model), checkpoint)
    with pytest.raises(ValueError, match=r"best\.ckpt does not say how its data were prepared.*ResampledRecording"):
        load_recording(first, checkpoint)
