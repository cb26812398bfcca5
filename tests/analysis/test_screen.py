"""A twin before a screen: what cannot be shown is known before anything is computed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
from known_models import recorded, spec
from shipped import PLAIN

from vivit_core.analysis.screen import screens_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.models.ln import LN


def data_with(folder: Path, frames: dict[str, float | None]) -> tuple[LN, RecordingsDataModule]:
    """Recordings by name, those of a number with that gray in the place of their frames; and a model that knows all."""
    first = recorded(folder)
    for name, gray in frames.items():
        path = folder / f"{name}.h5"
        shutil.copy(first, path)
        with h5py.File(path, "r+") as file:
            file.attrs["recording_id"] = name
            if gray is not None:
                file["stimulus/frames"][:] = gray
        write_checksum(path)
    first.unlink()
    specs = [replace(spec(), recording_id=name, pixel_mean=120.0 if gray is None else gray) for name, gray in
             sorted(frames.items())]  # fmt: skip
    data = RecordingsDataModule(
        None, str(folder), None, "", ["gaze"], clip_length=100, burn_in=20, evaluation_length=100,
        evaluation_burn_in=20, weighting="units", num_workers=0, seed=0, **PLAIN,
    )  # fmt: skip
    data.configure(batch_size=4, specs=specs)
    data.setup()
    return LN(specs, duration_s=0.15, patch=19, nonlinearity="exp"), data


def test_recordings_of_one_gray_are_refused_together_before_the_others_are_shown(tmp_path: Path) -> None:
    model, data = data_with(tmp_path, {"dark": 0, "good": None, "middle": 127})
    words = r"recording dark .*one gray alone \(pixels of 0\).*recording middle .*pixels of 127.*data\.recordings=\[…\]"
    with pytest.raises(ValueError, match=words) as refused:
        screens_of(model, data, "cpu", None)
    assert "\n" not in str(refused.value) and "recording good" not in str(refused.value)


def test_clips_longer_than_any_trial_are_refused_before_too(tmp_path: Path) -> None:
    model, data = data_with(tmp_path, {"good": None})
    assert len(screens_of(model, data, "cpu", 25.0)) == 1
    with pytest.raises(ValueError, match="recording good: no trial is as long as a clip of 1560 bins"):
        screens_of(model, data, "cpu", 26.0)
