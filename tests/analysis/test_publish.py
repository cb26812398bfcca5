"""A published folder says what the twin is and how good it is, and nothing of the disk it came from."""

from __future__ import annotations

import copy
import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import yaml
from small_recordings import small_arrays

from vivit_core import load_twin
from vivit_core.analysis.publish.card import About, text
from vivit_core.analysis.publish.publish import write_folder
from vivit_core.analysis.publish.scores import scores_in
from vivit_core.cli.evaluation import place_of
from vivit_core.cli.tasks.publish import publish
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.statistics import training_statistics
from vivit_core.models.load import checkpoint_of
from vivit_core.models.published import CONFIG, WEIGHTS, weights_of
from vivit_core.models.twin import Twin
from vivit_core.system.tables import write_table

ABOUT = About("My twin", "A. Author", "cc-by-4.0", None, "For teaching.")
BPS = np.linspace(0.1, 0.9, 5)
DATA: dict[str, Any] = {"recordings": None, "root": None, "cache": "/home/me/cache", "simulator": {}}


def made(**changed: Any) -> Twin:
    return tiny_models.twin(tiny_models.vivit(**changed), tiny_models.spec())


def evaluated(folder: Path, checkpoint: Path, **changed: Any) -> Path:
    """A run folder as an evaluation of five units leaves it; one of them is silent."""
    rows = [
        {"recording": "a", "unit": f"a{u}", "bps": BPS[u] if u else None, "ln_bps": BPS[u] / 2 if u else None,
         "truth_bps": 1.0 if u else None, "corr": 0.25}
        for u in range(5)
    ]  # fmt: skip
    write_table(folder / "units.csv", rows)
    summary = {
        "checkpoint": str(checkpoint), "split": "test", "bins": 300, "burn_in": 8, "units_silent": 1,
        "knowable_fraction": 0.5,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary | changed))
    (folder / "pictures").mkdir()
    for name in ("distribution", "rasters_a", "rasters_b"):
        (folder / "pictures" / f"{name}.png").write_bytes(b"\x89PNG" + name.encode())
    return folder


def of(folder: Path, twin: Twin) -> Path:
    """The run folder as the evaluation of this twin leaves it."""
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(summary | {"weights": weights_of(twin)}))
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return evaluated(tmp_path / "run", tmp_path / "run" / "checkpoints" / "best.ckpt")


def best(run: Path) -> Path:
    return run / "checkpoints" / "best.ckpt"


def published(run: Path, twin: Twin, about: About = ABOUT, data: dict[str, Any] = DATA) -> tuple[Path, str]:
    out = run.parent / "out"
    files = write_folder(out, twin, None, {"data": data}, scores_in(of(run, twin), twin, "checkpoint=x"), about)
    assert {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()} == set(files)
    return out, (out / "README.md").read_text()


def test_scores_are_means_over_units_with_their_intervals(run: Path) -> None:
    twin = made()
    own = scores_in(of(run, twin), twin, "checkpoint=x").of["a"]
    bps = own["bps"]
    assert bps is not None and bps.mean == pytest.approx(BPS[1:].mean())
    # The mean of 4 of 4 evenly spaced values: a standard error of .112, so 95 % within .22.
    assert (bps.low, bps.high) == pytest.approx((bps.mean - 0.22, bps.mean + 0.22), abs=0.03)
    assert str(own["truth_bps"]) == "1.000 [1.000, 1.000]" and own["corr"] is not None


def test_the_folder_holds_the_twin_and_its_card(run: Path) -> None:
    out, card = published(run, made())
    assert load_twin(out).specs["a"].n_units == 5
    assert {path.name for path in out.iterdir()} == {CONFIG, WEIGHTS, "README.md", "pictures"}
    _, header, body = card.split("---\n", 2)
    assert yaml.safe_load(header)["license"] == "cc-by-4.0" and yaml.safe_load(header)["library_name"] == "vivit-core"
    for words in (
        "# My twin", "For teaching.", "load_twin(FOLDER)", "recordings are simulated", "gaze (3)",
        "| a | 0.600 [0.", "| 1.000 [1.000, 1.000] |", "finds 0.500 of it", "1 silent units are left out",
        "up to that bin, and none that come later", "## Limits", "Of the weights: cc-by-4.0",
        "![Scores over units", "pictures/rasters.png", "A. Author, My twin.", "Neither can run code",
    ):  # fmt: skip
        assert words in body, words
    assert (out / "pictures" / "rasters.png").read_bytes().endswith(b"rasters_a")
    for file in (out / CONFIG, out / "README.md"):
        assert "/home/me" not in file.read_text() and str(run) not in file.read_text()


def test_recordings_at_hand_tell_of_themselves(run: Path) -> None:
    about = {"subject": "mouse 7", "area": "V1", "licence": "CC0", "species": "<b>mouse</b>", "stimulus_kind": "films"}
    file = write_recording(run.parent / "rec0.h5", **small_arrays(), **about)
    spec = replace(training_statistics(Recording(file), {}), frame_shape=(1, 12, 16), frame_rate_hz=50.0)
    twin = tiny_models.twin(tiny_models.vivit(modulator=None), spec)
    file.unlink()  # the twin knows it all
    out, card = published(run, twin, data=DATA | {"recordings": [str(file)]})
    assert r"| rec0 | 3 | 50 | 12 × 16 px | none | mouse 7 | \<b\>mouse\</b\> | V1 | films |" in card
    assert "Of the recording rec0: CC0" in card and "simulated" not in card
    config = json.loads((out / CONFIG).read_text())
    assert config["settings"]["data"]["recordings"] is None and config["settings"]["data"]["simulator"] is None


def test_what_is_not_known_is_said(run: Path) -> None:
    twin = made(causal=False)
    about = About("T", None, None, None, None)
    _, card = published(run, twin, about, DATA | {"recordings": ["/gone/*.h5"]})
    assert "not causal" in card and "None was given" in card
    assert "license:" not in card.split("---\n")[1]


def test_scores_that_chose_the_model_say_so(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    (run / "summary.json").write_text(json.dumps(summary | {"split": "val"}))
    assert "which chose the model, so that these scores are too high" in published(run, made())[1]


def test_a_card_names_the_area_the_unit_of_its_scores_and_what_is_seen(run: Path) -> None:
    traces = {"_target_": "vivit_core.models.likelihoods.gaussian.Gaussian", "output": "exp", "stabilized": False}
    eye = replace(tiny_models.spec(behavior=0), area="retina")
    twin = tiny_models.twin(tiny_models.vivit(), eye, likelihood=traces)
    _, card = published(run, twin)
    assert "A digital twin of retina: it is shown a video, and predicts the rates of 5 units" in card
    assert "| recording | bits/bin | LN bits/bin | oracle bits/bin | correlation |" in card
    assert "bits/spike" not in card and "visual cortex" not in card and "visual-cortex" not in card


@pytest.mark.parametrize("seen", [True, False])
def test_a_card_says_whether_what_the_animal_did_is_seen(run: Path, seen: bool) -> None:
    _, card = published(run, made() if seen else made(modulator=None))
    assert f"A digital twin of neurons: it is shown a video{' and what the animal did' * seen}, and predicts" in card


def test_names_are_text_in_a_card() -> None:
    assert text("a|b\n# c [d](e) <img> $x$") == r"a\|b \# c \[d\](e) \<img\> \$x\$"


def test_scores_of_another_checkpoint_are_refused(run: Path, tmp_path: Path) -> None:
    """Whatever its path: jobs of two sweeps, and checkpoints in folders of their own, are called alike."""
    one = made()
    other = copy.deepcopy(one)
    with torch.no_grad():
        next(other.parameters()).view(-1)[0] += 1e-3
    with pytest.raises(ValueError, match=r"its scores are not of these weights"):  # of before it was said
        scores_in(run, one, "checkpoint=x")
    of(run, other)
    again = r"not of these weights, .* names .*best\.ckpt\); run task=evaluate checkpoint=x average=true,"
    with pytest.raises(ValueError, match=again):
        scores_in(run, one, "checkpoint=x average=true")
    moved = of(run, one).rename(tmp_path / "elsewhere")
    assert scores_in(moved, one, "checkpoint=x").of["a"]["bps"] is not None
    with pytest.raises(ValueError, match=r"has no summary\.json and no units\.csv, .* task=evaluate checkpoint=x,"):
        scores_in(tmp_path, one, "checkpoint=x")


def averaging(run: Path) -> Twin:
    """A twin whose checkpoint holds an average too, of zeros, each with its scores; returns the trained one."""
    twin = made(modulator=None)
    best(run).parent.mkdir()
    zeros = {f"twin.{name}": torch.zeros_like(value) for name, value in twin.state_dict().items()}
    torch.save(checkpoint_of(twin) | {"average": {"state_dict": zeros, "steps": 3, "last_step": 3}}, best(run))
    for name in ("config.yaml", "environment.json"):
        (run / name).write_text("{}")
    (run / "average").mkdir()
    evaluated(run / "average", best(run), average=True, bins=77)
    of(run, twin)
    of(run / "average", load_twin(best(run), average=True))
    return twin


def share(run: Path, out: str, **changed: Any) -> Path:
    words: dict[str, Any] = dict.fromkeys(("evaluation", "title", "authors", "license", "cite", "note", "push"))
    context: Any = SimpleNamespace(describe=lambda: None)
    publish(context, **words | {"checkpoint": best(run), "average": False, "private": True, "out": run / out} | changed)
    return run / out


def test_averaged_weights_are_published_with_their_own_scores(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = averaging(run)
    plain, average = share(run, "plain"), share(run, "mean", average=True)
    assert "these are the trained weights; the checkpoint also holds averaged ones" in capsys.readouterr().out
    weights = {name: load_twin(folder).state_dict() for name, folder in {"plain": plain, "mean": average}.items()}
    for name, value in trained.state_dict().items():
        assert torch.equal(weights["plain"][name], value) and not weights["mean"][name].any()
    cards = [(folder / "README.md").read_text() for folder in (plain, average)]
    assert ["average over the steps" in card for card in cards] == [False, True]
    assert ["77 bins after" in card for card in cards] == [False, True]


def test_scores_of_the_other_weights_are_refused(run: Path) -> None:
    averaging(run)
    with pytest.raises(ValueError, match=r"not of these weights, .*best\.ckpt\); run task=evaluate .* average=true,"):
        share(run, "mean", average=True, evaluation=run)
    with pytest.raises(ValueError, match=r"not of these weights, .*best\.ckpt average=true\); run"):
        share(run, "plain", evaluation=run / "average")
    torch.save(checkpoint_of(made(modulator=None)), best(run))
    with pytest.raises(ValueError, match="holds no averaged weights; callbacks=ema keeps them"):
        share(run, "none", average=True)


def test_a_place_is_named_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.ckpt").touch()
    assert place_of(Path("best.ckpt")) == str(tmp_path.resolve() / "best.ckpt")
    assert [place_of(Path(name)) for name in ("simulated", "hf://lab/twin")] == ["simulated", "hf:/lab/twin"]


def test_a_folder_in_which_something_stands_is_refused(run: Path) -> None:
    (run.parent / "out").mkdir()
    published(run, made())
    with pytest.raises(ValueError, match="stands there already; name a new folder"):
        published(run, made())


def test_the_name_of_the_shipped_twin_is_refused(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    averaging(run)
    monkeypatch.chdir(run)
    with pytest.raises(ValueError, match="out=simulated: this name stands for the twin that comes with the package"):
        share(Path(), "simulated", checkpoint=best(run))
    assert load_twin(share(run, "simulated")).specs.keys() == {"a"}


def test_a_full_disk_leaves_a_folder_in_which_to_try_again(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fills while the weights are written, after card and pictures."""

    def full(*given: Any) -> list[Path]:
        assert (given[0] / "README.md").exists()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for stood in (False, True):
        if stood:
            (run.parent / "out").mkdir()
        with monkeypatch.context() as patch:
            patch.setattr("vivit_core.analysis.publish.publish.write_published", full)
            with pytest.raises(OSError, match="No space left"):
                published(run, made())
        assert (run.parent / "out").exists() == stood and not [*run.parent.glob("out/*"), *run.parent.glob(".out*")]
    published(run, made())
