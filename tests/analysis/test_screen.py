"""A twin before a screen: what cannot be shown is known before anything is computed."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import pytest
import torch
from known_models import HEIGHT, WIDTH, known_ln, recorded, spec
from shipped import PLAIN

from vivit_core.analysis.screen import Screen, chosen_columns, screens_of
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


@pytest.mark.slow
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


def test_units_are_chosen_by_id_or_by_their_spikes() -> None:
    first = replace(spec(), recording_id="x", unit_mean_counts=(0.1, 0.4, 0.2, 0.3))
    second = replace(spec(), recording_id="y", unit_ids=("d", "e", "f", "g"), unit_mean_counts=(0.5, 0.1, 0.1, 0.2))
    assert chosen_columns([first, second], None) == {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}
    assert chosen_columns([first, second], 2) == {"x": [1, 3], "y": [0, 3]}
    assert chosen_columns([first, second], 9) == {"x": [0, 1, 2, 3], "y": [0, 1, 2, 3]}
    assert chosen_columns([first, second], ["d", "a"]) == {"x": [0, 3], "y": [0]}
    assert chosen_columns([first, second], ["g"]) == {"x": [], "y": [3]}
    with pytest.raises(ValueError, match=r"units: no recording here has sim0-01; their first is a"):
        chosen_columns([first], ["a", "sim0-01"])
    with pytest.raises(ValueError, match="did you mean unit-7"):
        chosen_columns([replace(first, unit_ids=("unit-7", "b", "c", "d"))], ["unit-70"])
    with pytest.raises(ValueError, match=r"units=\[\] names none"):
        chosen_columns([first], [])


@pytest.mark.slow
def test_recordings_without_a_chosen_unit_are_left_out(tmp_path: Path) -> None:
    model, data = data_with(tmp_path, {"dark": 0, "good": None})
    data.specs[0] = replace(data.specs[0], unit_ids=("q", "r", "s", "t"))
    ((recording, screen),) = screens_of(model, data, "cpu", None, units=["c", "b"])
    assert recording.recording_id == "good" and screen.spec.unit_ids == ("b", "c")


def test_a_screen_of_some_units() -> None:
    model, clip = known_ln(gain=0.2), 0.3 * torch.randn(2, 12, HEIGHT, WIDTH)
    one, every = Screen(model, "known", (0.0, 255.0), columns=[3, 1]), Screen(model, "known", (0.0, 255.0))
    assert one.spec.unit_ids == ("d", "b") and one.spec.n_units == 2
    torch.testing.assert_close(one.rates(clip), every.rates(clip)[..., [3, 1]])
