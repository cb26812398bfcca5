"""What a message tells the user to do helps: the remedy is done, and the same step passes."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra.errors import HydraException
from hydra.utils import instantiate
from shipped import PLAIN, arrays_importer

from vivit_core.cli import machine as cli_machine
from vivit_core.cli import recordings as cli_recordings
from vivit_core.cli import schema
from vivit_core.cli.asked import Asked
from vivit_core.cli.refusal import refuse_settings
from vivit_core.cli.unfit import refuse_unfit
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.parts.build import build
from vivit_core.training.monitors import check_monitors

CONF = schema.conf_dir()
SOURCE = Path(schema.__file__).parents[1]


# Keys ---------------------------------------------------------------------------------------------------------------

# A key as a message names it: dotted, so that a word before a sign of equality in other texts is none.
KEY = re.compile(r"(?<![\w./-])([a-z]\w*(?:\.[a-z_]\w*)+)=")


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Line and text of each string that is no docstring; what is filled in at run time is left blank."""
    owners = (ast.Module, ast.ClassDef, ast.FunctionDef)
    documents = {
        id(n.body[0].value)
        for n in ast.walk(tree)
        if isinstance(n, owners) and n.body and isinstance(n.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(v.value if isinstance(v, ast.Constant) else "…" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.lineno, node.value


def known_keys() -> set[str]:
    """Every key below conf/, by the place of its file; hydra's launcher's among them."""
    found: set[str] = set()

    def walk(prefix: str, node: Any) -> None:
        for key, value in node.items() if isinstance(node, dict) else ():
            found.add(f"{prefix}{key}")
            walk(f"{prefix}{key}.", value)

    for path in CONF.rglob("*.yaml"):
        text, parts = path.read_text(), path.parent.relative_to(CONF).parts
        prefix = "" if "@package _global_" in text or not parts else ".".join(parts) + "."
        walk(prefix, yaml.safe_load(text))
        if any(f"- {parts[-1]}@_here_:" in option.read_text() for option in path.parent.parent.glob("*.yaml") if parts):
            walk(".".join(parts[:-1]) + ".", yaml.safe_load(text))
    return found


def test_every_key_that_a_message_names_exists():
    known, wrong, named = known_keys(), [], set()
    for path in sorted(SOURCE.rglob("*.py")):
        for line, text in texts(ast.parse(path.read_text())):
            for key in KEY.findall(text):
                named.add(key)
                if key not in known:
                    wrong.append(f"{path.name}:{line}: {key}")
    assert len(named) > 30 and not wrong


# Settings -----------------------------------------------------------------------------------------------------------


def geometry(settings: dict[str, Any]) -> None:
    refuse_settings(settings["predict"], settings["model"], settings["data"])
    refuse_unfit(
        cli_recordings.make_datamodule(settings["data"]),
        build("optim", settings["optim"]),
        Asked(**{name: settings[name] for name in Asked.__dataclass_fields__}),
        device="cpu",
    )


def machine(settings: dict[str, Any]) -> None:
    cli_machine.machine_of(settings["trainer"])


def parts(settings: dict[str, Any]) -> None:
    instantiate(settings["optim"], _convert_="all")
    cli_recordings.make_datamodule(settings["data"])
    check_monitors(settings["callbacks"], ["a"])


TUBELETS = ["model/tokenizer=tubelet"]


@pytest.mark.parametrize(
    ("step", "words", "remedy"),
    [
        (geometry, ["predict=last"], ["data.evaluation_length=300", "data.evaluation_burn_in=299"]),
        (geometry, [*TUBELETS, "model.tokenizer.patch_size=[4,40,4]"], ["model.tokenizer.patch_size=[4,36,4]"]),
        (geometry, [*TUBELETS, "model.tokenizer.patch_size=[300,4,4]"], ["data.clip_length=600"]),
        (geometry, [*TUBELETS, "model.tokenizer.patch_size=[300,4,4]"], ["model.tokenizer.patch_size=[150,4,4]"]),
        (geometry, ["model.window=1"], ["model.window=null"]),
        (geometry, ["model.spatial_depth=0", "model.registers=4"], ["model.registers=0"]),
        (geometry, ["model.tokenizer.cell=3"], ["model.tokenizer.patch_size=[8,8,8]", "model.tokenizer.cell=4"]),
        (geometry, ["model/frontend=temporal_basis", "model.frontend.bases=99"], []),
        (machine, ["trainer.epochs=0"], []),
        (parts, ["data.num_workers=100000"], []),
        (parts, ["callbacks.checkpoint.mode=min"], ["callbacks.checkpoint.mode=max"]),
        (parts, ["optim.lr=-1"], []),
        (parts, ["data.burn_in=300"], []),
    ],
    ids=lambda value: value.__name__ if callable(value) else " ".join(value),
)
def test_a_setting_that_a_message_proposes_is_taken(
    step: Callable[[dict[str, Any]], None], words: list[str], remedy: list[str], compose: Any
):
    """Where a message proposes no setting it names at least the key."""
    with pytest.raises((ValueError, HydraException)) as error:
        step(compose(*words))
    said = str(error.value.__cause__ or error.value)
    for word in remedy or [words[-1].split("=")[0]]:
        assert word.split("=")[0] in said and word.split("=")[-1] in said
    if remedy:
        step(compose(*words, *remedy))


# Recordings ---------------------------------------------------------------------------------------------------------


def recording(path: Path, rate: float = 30.0, bins: int = 40, size: int = 24, units: int = 3) -> Path:
    rng, starts = np.random.default_rng(0), np.arange(4) * bins
    return write_recording(
        path,
        recording_id="a",
        frame_rate_hz=rate,
        frames=rng.integers(0, 256, (4 * bins, size, size)).astype(np.uint8),
        counts=rng.poisson(0.5, (4 * bins, units)),
        trials=Trials(starts, starts + bins, np.array(list("abcd")), np.array(["train", "train", "val", "test"])),
    )


def data_of(*files: Path, **changed: Any) -> RecordingsDataModule:
    given: dict[str, Any] = {
        "recordings": [str(file) for file in files], "root": None, "simulator": None, "cache": "", "behavior": [],
        "clip_length": 32, "burn_in": 8, "evaluation_length": 32, "evaluation_burn_in": 8, "weighting": "units",
        "num_workers": 0, "seed": 0,
    }  # fmt: skip
    return RecordingsDataModule(**{**PLAIN, **given, **changed})


def test_a_rate_above_a_recordings_own(tmp_path):
    path = recording(tmp_path / "a.h5", rate=29.5)
    with pytest.raises(ValueError, match=r"set data\.frame_rate_hz to 29\.5 or less"):
        data_of(path, frame_rate_hz=30.0).setup()
    data_of(path, frame_rate_hz=29.5).setup()


def test_a_trained_twin_keeps_its_rate(tmp_path):
    """No setting of an evaluation helps, so none is proposed for it; a training at the lower rate does."""
    fast, slow = recording(tmp_path / "a.h5", rate=30.0), recording(tmp_path / "b.h5", rate=29.5)
    trained = data_of(fast)
    trained.setup()
    evaluated = data_of(slow)
    evaluated.configure(specs=trained.specs)
    with pytest.raises(ValueError) as error:
        evaluated.setup()
    said = str(error.value)
    assert "train one with data.frame_rate_hz=29.5 or below" in said and "set data.frame_rate_hz" not in said
    trained = data_of(fast, frame_rate_hz=29.5)
    trained.setup()
    evaluated.configure(specs=trained.specs)
    evaluated.setup()


def test_a_little_slower_is_not_blamed_for_another_fault(tmp_path):
    trained = data_of(recording(tmp_path / "a.h5", rate=30.0))
    trained.setup()
    evaluated = data_of(recording(tmp_path / "b.h5", rate=29.97, units=4))
    evaluated.configure(specs=trained.specs)
    with pytest.raises(ValueError, match="other units than expected"):
        evaluated.setup()


def test_a_clip_longer_than_the_trials(tmp_path):
    path = recording(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"longest training trial has 40 bins, and data\.clip_length is 64; shorten"):
        data_of(path, clip_length=64).setup()
    data_of(path, clip_length=40).setup()


def test_a_simulation_of_one_recording_for_both_names(tmp_path):
    path = recording(tmp_path / "a.h5")
    with pytest.raises(ValueError, match=r"both recording 'a'; leave one out or rename it"):
        data_of(path, recording(tmp_path / "b.h5")).setup()
    data_of(path).setup()


def test_arrays_of_one_trial(tmp_path):
    rng = np.random.default_rng(0)
    source = tmp_path / "x.npz"
    np.savez(source, frames=rng.integers(0, 256, (90, 6, 8)).astype(np.uint8), counts=rng.poisson(0.5, (90, 3)))
    with pytest.raises(ValueError, match=r"give importer\.trial_length=… .*or importer\.split=train"):
        arrays_importer()(source, tmp_path / "x.h5")
    with pytest.raises(ValueError, match=r"importer\.trial_length=…, or make all one split: importer\.split=train"):
        arrays_importer(trial_length=60)(source, tmp_path / "x.h5")
    arrays_importer(trial_length=15)(source, tmp_path / "x.h5")
    arrays_importer(split="train")(source, tmp_path / "y.h5")
