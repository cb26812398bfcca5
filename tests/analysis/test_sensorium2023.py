"""A submission to Sensorium 2023 holds the model's predictions, in the competition's order and files."""

from __future__ import annotations

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from shipped import settings_in
from tiny_models import factorized, spec, twin

from vivit_core.analysis.export import sensorium2023
from vivit_core.analysis.export.sensorium2023 import FILES, export_sensorium2023
from vivit_core.analysis.video.video import predict_video
from vivit_core.cli.tasks.export import export
from vivit_core.data.importers.sensorium2023 import Sensorium2023Importer
from vivit_core.data.importers.sensorium2023_trials import TierVideo
from vivit_core.models.load import checkpoint_of
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec

T, H, W, IDS = 70, 12, 16, [11, 5, 7]
MICE = ["dynamic1-2-3-Video-abc", "dynamic4-5-6-Video-def"]
TIERS = ["train", "live_test_main", "final_test_main", "live_test_main", "final_test_bonus", "none"]
VALID = [70, 70, 66, 64, 70, 70]  # frames before the NaN tail


def write(folder: Path, seed: int, tiers: list[str] = TIERS, released: bool = False) -> Path:
    """A recording's folder; the test trials' responses are zeros where they are not released."""
    for name in ("videos", "responses", "behavior", "pupil_center"):
        (folder / "data" / name).mkdir(parents=True)
    for name in ("neurons", "trials"):
        (folder / "meta" / name).mkdir(parents=True)
    np.save(folder / "meta/neurons/unit_ids.npy", np.array(IDS))
    np.save(folder / "meta/trials/tiers.npy", np.array(tiers))
    for trial, n in enumerate(VALID):
        rng = np.random.default_rng([seed, trial])
        behavior = rng.normal(size=(2, T))
        behavior[0, 55] = np.nan  # a gap, before which stands the value that is held
        behavior[1, :52] = np.nan  # before which stands none
        arrays = {
            "videos": rng.integers(0, 256, (H, W, T)).astype(float),
            "responses": rng.gamma(0.5, 1.0, (len(IDS), T)) * (released or tiers[trial] == "train"),
            "behavior": behavior,
            "pupil_center": rng.normal(size=(2, T)),
        }
        for name, values in arrays.items():
            values[..., n:] = np.nan
            np.save(folder / f"data/{name}/{trial}.npy", values)
    return folder


def of_mouse(name: str) -> RecordingSpec:
    return dataclasses.replace(
        spec(name, H, W, units=4),
        frame_rate_hz=30.0,
        unit_ids=("7", "11", "more", "5"),  # in another order than the folder's
        behavior={"pupil": 1, "running_speed": 1, "pupil_center": 2},
        behavior_mean=(0.1, 0.2, 0.3, 0.4),
        behavior_std=(1.0, 1.5, 2.0, 2.5),
    )


def model(*names: str) -> Twin:
    return twin(factorized(), *(of_mouse(name) for name in names or ("dynamic1-2-3", "dynamic4-5-6"))).eval()


def submitted(out: Path, tier: str) -> pd.DataFrame:
    return pd.read_parquet(out / FILES[tier], engine="pyarrow")


def test_the_tables_hold_what_the_model_predicts(tmp_path: Path) -> None:
    for seed, name in enumerate(MICE):
        write(tmp_path / "in" / name, seed)
    own, lines = model(), list[str]()
    with pytest.raises(ValueError, match="stands there already; name a new folder"):
        export_sensorium2023(own, tmp_path / "in", tmp_path / "in", recording=None, transforms={})
    files = export_sensorium2023(
        own, tmp_path / "in", tmp_path / "out", recording=None, transforms={}, progress=False, tell=lines.append
    )
    made = ["live_test_main", "final_test_main", "final_test_bonus"]
    assert [file.name for file in files] == [
        *(FILES[tier] for tier in made),
        "submission_main.zip",
        "submission_final_bonus.zip",
    ]
    assert [line.partition(":")[0] for line in lines] == list(FILES) and "live_test_bonus: no trial" in lines[2]
    for tier, trials in {"live_test_main": [1, 3], "final_test_main": [2], "final_test_bonus": [4]}.items():
        table = submitted(tmp_path / "out", tier)
        assert list(table.columns) == ["mouse", "trial_indices", "prediction", "neuron_ids"]
        assert table["mouse"].tolist() == [name for name in MICE for _ in trials]
        assert table["trial_indices"].tolist() == trials * 2
        for row in table.itertuples():
            assert row.neuron_ids.tolist() == IDS and row.neuron_ids.dtype == np.uint32
            got, n = np.stack(row.prediction), VALID[row.trial_indices]
            assert got.shape == (3, n - 50) and got.dtype == np.float32
            folder = tmp_path / "in" / row.mouse / "data"
            video, behavior, gaze = (
                np.load(folder / what / f"{row.trial_indices}.npy")[..., :n]
                for what in ("videos", "behavior", "pupil_center")
            )
            behavior[0, 55] = behavior[0, 54]
            behavior[1, :52] = 0.2  # the model's mean
            beside = np.concatenate([behavior, gaze]).T.astype(np.float32)
            rates = own.rates(row.mouse.partition("-Video-")[0], np.moveaxis(video, -1, 0), beside)
            np.testing.assert_allclose(got, rates[50:, [1, 3, 0]].T / 30, rtol=2e-4, atol=1e-7)
    with zipfile.ZipFile(tmp_path / "out" / "submission_main.zip") as archive:
        assert archive.namelist() == ["predictions_live_main.parquet.brotli", "predictions_final_main.parquet.brotli"]
        assert archive.read(archive.namelist()[0]) == files[0].read_bytes()


@pytest.mark.parametrize("withheld", ["zeros", "NaN", "missing"])
def test_responses_that_are_withheld_do_not_shorten_a_trial(withheld: str, tmp_path: Path) -> None:
    folder = write(tmp_path / MICE[0], 0)
    path = folder / "data/responses/1.npy"
    assert not np.nan_to_num(np.load(path)).any()
    if withheld == "NaN":
        np.save(path, np.full((len(IDS), T), np.nan))
    elif withheld == "missing":
        path.unlink()
    assert TierVideo(folder, "live_test_main", 30.0).stretches == [(0, VALID[1]), (VALID[1], VALID[1] + VALID[3])]


def test_they_equal_task_predict_of_released_trials(tmp_path: Path) -> None:
    """The same trials by another way: imported into a recording file, and predicted there."""
    folder = write(tmp_path / MICE[0], 0, released=True)
    settings = settings_in("importer/sensorium2023") | settings_in("importer/about/blank") | {"seed": 0}
    settings |= {"tiers": {"train": "train", "live_test_main": "test"}}
    Sensorium2023Importer(**settings)(folder, tmp_path / "a.h5")
    own = model("dynamic1-2-3")
    predict_video(
        own, tmp_path / "a.h5", tmp_path / "rates.npz", recordings=None, behavior=None, transforms={},
        frame_rate_hz=None, degrees_per_pixel=None, pixel_scale=1.0, pixel_offset=0.0, film=None, film_s=1.0,
        pictures=tmp_path / "pictures", about={}, progress=False,
    )  # fmt: skip
    export_sensorium2023(own, folder, tmp_path / "out", recording=None, transforms={}, progress=False, tell=str)
    with np.load(tmp_path / "rates.npz") as rates:
        values, trial = (rates[next(n for n in rates.files if n.startswith(what))] for what in ("rates_", "trial_"))
    for row, place in zip(submitted(tmp_path / "out", "live_test_main").itertuples(), (1, 2), strict=True):
        wanted = values[trial == place][50:, [1, 3, 0]].T / 30
        np.testing.assert_allclose(np.stack(row.prediction), wanted, rtol=1e-5)


@pytest.mark.slow
def test_the_command_writes_it(tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    write(tmp_path / MICE[0], 0)
    write(tmp_path / MICE[1], 1)
    torch.save(checkpoint_of(model("dynamic4-5-6")), tmp_path / "P.ckpt")
    words = ["task=export", "checkpoint=P.ckpt", "format=sensorium2023", "out=submission"]
    code, printed = command(*words, "source=.")
    assert code == 0 and "left out, because the checkpoint does not know them: dynamic1-2-3" in printed, printed
    assert set(submitted(tmp_path / "submission", "live_test_main")["mouse"]) == {MICE[1]}
    write(tmp_path / "dynamic4-5-6-Video-old", 2)
    code, printed = command(*words[:-1], "out=other", "source=.")
    assert code != 0 and f"{MICE[1]} and dynamic4-5-6-Video-old are both of recording dynamic4-5-6" in printed, printed
    code, printed = command(*words)
    assert code != 0 and "say where they are by source=FOLDER" in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"names": ["b"]}, r"the checkpoint knows b, and the folders are of dynamic1-2-3; train on recordings"),
        ({"recording": "dynamic4-5-6"}, r"holds no folder of recording dynamic4-5-6; there are \['dynamic1-2-3'\]"),
        ({"rate": 29.98}, r"has 29\.98 bins a second, the competition 30"),  # nearer than .1 %, and not one bin a bin
        ({"rate": 15.0}, r"has 15 bins a second, the competition 30; train with data\.frame_rate_hz=30"),
        ({"units": ("7", "11", "x", "y")}, r"lacks 1 of the 3 units of .*\(5\); the competition scores all"),
        ({"tiers": ["train"] * 6}, r"holds no trial of live_test_main, final_test_main"),
        ({"cut": 40}, r"1\.npy: has 40 frames, of which the first 50 are not scored"),
        ({"hole": 30}, r"1\.npy: array: has no frames, or NaN before their end"),
        ({"library": False}, r'needs pyarrow: pip install "vivit-core\[sensorium\]"'),
    ],
)
def test_what_cannot_be_submitted_is_said(
    change: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write(tmp_path / MICE[0], 0, change.get("tiers", TIERS))
    path = folder / "data/videos/1.npy"
    video = np.load(path)
    if "cut" in change:
        video[..., change["cut"] :] = np.nan
    if "hole" in change:
        video[3, 4, change["hole"]] = np.nan
    np.save(path, video)
    own = model(*change.get("names", ["dynamic1-2-3", "dynamic4-5-6"]))
    first = next(iter(own.specs))
    wanted = {"frame_rate_hz": change.get("rate", own.specs[first].frame_rate_hz)}
    own.specs[first] = dataclasses.replace(
        own.specs[first], unit_ids=change.get("units", ("7", "11", "x", "5")), **wanted
    )
    monkeypatch.setattr(sensorium2023, "find_spec", lambda name: None if "library" in change else name)
    with pytest.raises(ValueError, match=message) as caught:
        export_sensorium2023(
            own, folder, tmp_path / "out", recording=change.get("recording"), transforms={}, progress=False, tell=str
        )
    assert "\n" not in str(caught.value) and not [*(tmp_path / "out").glob("*")]


def test_other_formats_read_no_source(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"source=in: format=onnx reads none; leave it out"):
        export(
            None,
            checkpoint=tmp_path / "a",
            average=False,
            out=tmp_path,
            format="onnx",
            recording=None,
            source=Path("in"),
        )
