"""The twin that comes with the package loads by its name, is small, and is what its card says."""

from __future__ import annotations

import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shipped import simulator

from vivit_core import load_twin
from vivit_core.data.recording.reader import Recording
from vivit_core.models.checkpoint import settings_of
from vivit_core.models.ln import LN
from vivit_core.models.load import baseline_in, load_predictor, read_trained
from vivit_core.models.shipped import NAMES, shipped
from vivit_core.models.twin import Twin

ROOT = Path(__file__).resolve().parents[2]


def folder_of(name: str) -> Path:
    folder = shipped(name)
    assert folder is not None
    return folder


@pytest.fixture(scope="module")
def twin() -> Twin:
    loaded = load_twin("simulated")
    assert isinstance(loaded, Twin)
    return loaded


def test_every_folder_has_its_name() -> None:
    inside = folder_of("simulated").parent
    assert sorted(path.name for path in inside.iterdir() if path.is_dir() and path.name != "__pycache__") == sorted(
        NAMES
    )


@pytest.mark.parametrize("name", NAMES)
def test_it_is_small_and_holds_no_code(name: str) -> None:
    files = [path for path in folder_of(name).rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".md", ".png"}
    assert sum(path.stat().st_size for path in files) <= 6_000_000


def test_it_predicts(twin: Twin) -> None:
    for name, spec in twin.specs.items():
        frames = np.random.default_rng(0).integers(0, 256, (40, *spec.frame_shape[1:])).astype(np.uint8)
        behavior = np.tile(np.asarray(spec.behavior_mean, np.float32), (40, 1))
        rates = twin.rates(name, frames, behavior)
        assert rates.shape == (40, spec.n_units) == (40, 64)
        assert np.isfinite(rates).all() and (rates >= 0).all() and rates.std(0).min() > 0


def test_it_needs_neither_a_network_nor_the_library_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    monkeypatch.setattr("socket.socket.connect", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simulated").mkdir()  # a cache of recordings, say
    assert list(load_twin("simulated").specs) == list(load_predictor(Path("simulated")).specs)


def test_a_path_means_the_folder_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "simulated").mkdir()
    for path in ("./simulated", tmp_path / "simulated"):
        with pytest.raises(ValueError, match="simulated: not a published twin"):
            load_twin(path)


@pytest.mark.parametrize(("device", "said"), [("cuda:99", "torch sees no such GPU here"), ("gpu", 'give "cpu" or')])
def test_a_device_that_is_not_there_is_refused(device: str, said: str) -> None:
    with pytest.raises(ValueError, match=f"device={device}.*{said}"):
        load_twin("simulated", device=device)


def test_its_baseline_comes_with_it() -> None:
    assert isinstance(baseline_in("simulated", read_trained("simulated")), LN)


def test_an_unknown_name_is_told_which_there_are() -> None:
    with pytest.raises(ValueError, match=r"simulate: no such checkpoint; .* comes with the package: simulated$"):
        load_twin("simulate")


def test_its_card_says_its_scores() -> None:
    folder = folder_of("simulated")
    card = (folder / "README.md").read_text(encoding="utf-8")
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert set(scores["summary"]["recordings"]) == set(load_twin("simulated").specs)
    for name, own in scores["summary"]["recordings"].items():
        assert own["bps_mean"] > own["ln_bps_mean"] + 0.1, name
        row = next(line for line in card.splitlines() if line.startswith(f"| {name} | {own['bps_mean']:.3f} ["))
        assert f"| {own['ln_bps_mean']:.3f} [" in row and f"| {own['truth_bps_mean']:.3f} [" in row
    assert scores["summary"]["split"] == "test" and str(ROOT) not in card + json.dumps(scores)


def test_what_made_it_is_what_would_make_it_again() -> None:
    script: dict[str, Any] = runpy.run_path(str(ROOT / "tools" / "pretrained.py"))
    scores = json.loads((folder_of("simulated") / "scores.json").read_text(encoding="utf-8"))
    assert scores["command"] == ["run.py", *script["TRAINING"]] and scores["seed"] == script["SEED"]


def test_it_knows_its_units(twin: Twin, tmp_path: Path) -> None:
    """On photographs that it has not seen, its rates are nearer to the true ones than LN's are."""
    few = {"recordings": 1, "train_trials": 8, "val_trials": 0, "test_trials": 2, "repeated_stimuli": 0, "trial_s": 2.5}
    (file,) = simulator(**few).make(tmp_path)
    ln = baseline_in("simulated", read_trained("simulated"))
    spec = twin.specs["sim0"]
    assert ln is not None
    recording = Recording(file)
    trials = recording.info.trials.of("test")
    found: dict[str, list[np.ndarray]] = {"twin": [], "ln": [], "true": []}
    for start, stop in zip(trials.start, trials.stop, strict=True):
        frames = recording.frames(start, stop)
        behavior = recording.behavior(start, stop, spec.behavior)
        found["twin"].append(twin.rates("sim0", frames, behavior)[50:])
        found["ln"].append(ln.rates("sim0", frames, behavior)[50:])
        found["true"].append(recording.truth("rate", start, stop)[50:])
    shown = {name: np.concatenate(pieces) for name, pieces in found.items()}

    def likeness(name: str) -> float:
        pairs = zip(shown[name].T, shown["true"].T, strict=True)
        return float(np.mean([np.corrcoef(model, true)[0, 1] for model, true in pairs]))

    assert likeness("twin") > likeness("ln") + 0.1
    assert likeness("twin") > 0.6


def test_a_task_takes_its_name(command: Callable[..., Any], tmp_path: Path) -> None:
    np.save(tmp_path / "film.npy", np.random.default_rng(0).integers(0, 256, (60, 36, 64)).astype(np.uint8))
    words = ("video=film.npy", "frame_rate_hz=120", "degrees_per_pixel=0.03", "out=rates.npz")
    code, printed = command("task=predict", "checkpoint=simulated", *words, "recordings=[sim1]")
    assert code == 0, printed
    assert "sim1" in printed and (tmp_path / "rates.npz").is_file()


@pytest.mark.long
def test_its_scores_are_those_that_are_kept(command: Callable[..., Any], tmp_path: Path) -> None:
    code, printed = command("task=evaluate", "checkpoint=simulated", "hydra.run.dir=run")
    assert code == 0, printed
    kept = json.loads((folder_of("simulated") / "scores.json").read_text(encoding="utf-8"))["summary"]["recordings"]
    found = json.loads((tmp_path / "run" / "summary.json").read_text())["recordings"]
    for name, own in kept.items():
        for score in ("bps_mean", "ln_bps_mean", "truth_bps_mean", "corr_mean"):
            assert found[name][score] == pytest.approx(own[score], abs=2e-3), (name, score)


@pytest.mark.parametrize("name", NAMES)
def test_a_command_takes_its_settings(name: str) -> None:
    """Else task=evaluate would refuse it; a new key of the data's settings has to be written into it."""
    assert settings_of(name, read_trained(name)) is not None
