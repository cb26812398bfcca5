"""The commands of README.md and of the site's first pages exist. Each is run, on tiny recordings and for a few steps.

Some are composed alone: those that differ by a setting from one that is run, and those that need what is not here.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
import yaml
from fake_sweeps import sweep_of
from films import gray, write
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.vivit_core_sweeps import Grid
from vivit_core.cli.main import main
from vivit_core.models.load import checkpoint_of

ROOT = Path(__file__).resolve().parents[1]
RUN = ["README.md", "docs/commands.md", "docs/recordings.md"]  # pages whose commands are run
COMPOSED = ["docs/index.md", "docs/get_started.md", "docs/training.md", "docs/wandb.md"]


def commands(page: str) -> list[str]:
    """Every command of a page's code blocks for a shell."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [" ".join(shlex.split(line, comments=True)) for line in lines if line.strip()]


def of(program: str, pages: list[str]) -> list[str]:
    """What follows the program's name in the pages' commands, each once."""
    known = dict.fromkeys(command for page in pages for command in commands(page))
    return [command.removeprefix(f"{program} ") for command in known if command.startswith(f"{program} ")]


PYTHON = of("python run.py", RUN)
SETTINGS = [words for words in of("python run.py", COMPOSED) if words not in PYTHON]
MAKE = of("make", RUN + COMPOSED)
SMALL = ["trainer=debug", "model.spatial_depth=1", "model.temporal_depth=1"]
SHORT = {
    "task=compare": ["resamples=20"],
    "task=scaling": ["resamples=20"],
    "task=receptive_fields": ["noise.clips=2", "noise.clip_s=0.5", "gradient_clips=2", "gradient_clip_s=0.3"],
    "task=tuning": [
        "gratings.directions=4",
        "gratings.spatial_frequencies=[0.1]",
        "gratings.temporal_frequencies_hz=[4]",
        "gratings.contrasts=[0.2,0.5]",
        "gratings.sizes_px=[8]",
        "lab_units=1",
        "lab.surround.draws=1",
        "mei.steps=2",
        "mei_units=2",
        "natural=3",
    ],
}
TRAINED = {  # tasks of which PATH and PATH2 are trained checkpoints
    *("task=evaluate", "task=ensemble", "task=stream", "task=attention", "task=predict", "task=publish"),
    *(SHORT.keys() - {"task=scaling"}),
}


def test_all_commands_are_known_to_this_test():
    assert len(PYTHON) >= 15 and len(SETTINGS) >= 8
    assert commands("README.md") == ["make train", "make test"] and set(MAKE) == {"train", "test"}
    others = {c for page in RUN + COMPOSED for c in commands(page)} - {f"make {target}" for target in MAKE}
    assert {c for c in others if not c.startswith("python run.py ")} == {"source .venv/bin/activate"}


@pytest.mark.parametrize("target", [*MAKE, "docs", "help"])
def test_make_targets_exist(target):
    assert re.search(rf"^{target}:.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)


def test_make_train_is_the_first_command():
    recipe = (ROOT / "Makefile").read_text()
    assert f"run.py {of('python run.py', ['docs/commands.md'])[0]} $(ARGS)" in recipe


@pytest.mark.parametrize("words", SETTINGS)
def test_settings_compose(words, compose):
    given = words.split()
    sweep = "-m" in given
    for word in given[:]:
        if sweep and word.startswith("hparams_search="):  # whose file says what is swept
            file = ROOT / "conf/hparams_search" / f"{word.partition('=')[2]}.yaml"
            params = yaml.safe_load(file.read_text())["hydra"]["sweeper"]["params"]
            given += [f"{key}={values}" for key, values in params.items()]
    (jobs,) = Grid.split_arguments(
        OverridesParser.create().parse_overrides([word for word in given if word != "-m"]), None
    )
    assert (len(jobs) > 1) == sweep
    for job in jobs:
        compose(*job)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, tiny):
    """A checkpoint, for the commands that ask for one."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run.py", *tiny, *SMALL, "baseline=null"])
        main()
    return next(folder.rglob("best.ckpt"))


@pytest.mark.slow
@pytest.mark.parametrize("words", PYTHON)
def test_python_commands_run(words, command, tiny, tiny_files, tmp_path, request):
    given = words.split()
    given += [word for task in given for word in SHORT.get(task, [])]
    if TRAINED & set(given):
        best = request.getfixturevalue("trained")
        paths = {"PATH2": best.with_name("last.ckpt"), "PATH": best}
        for name, path in paths.items():
            given = [word.replace(name, str(path)) for word in given]
        write(tmp_path / "FILM.mp4", gray(20, 18, 26))  # of the tiny recordings' size
    elif "task=export" in given:  # of a twin with few operations, because each takes its time
        torch.save(checkpoint_of(tiny_models.twin(tiny_models.factorized(), tiny_models.spec("sim0"))), "P.ckpt")
        given = [word.replace("PATH", "P.ckpt") for word in given]
    elif "task=import" in given:
        made = np.random.default_rng(0)
        np.savez(
            tmp_path / "X.npz",
            frames=made.integers(0, 255, (9000, 4, 4), dtype=np.uint8),
            counts=made.poisson(0.3, (9000, 5)),
            trial_start=np.arange(0, 9000, 1500),
        )
    elif "data.root=data" in given:
        own = [word for word in tiny if not word.startswith(("data.clip", "data.burn", "data.cache"))]
        (tmp_path / "data").mkdir()
        for file in tiny_files:
            shutil.copy(file, tmp_path / "data")
        given = [*own, "data.burn_in=20", *given, *SMALL, "baseline=null"]
    elif "task=scaling" in given:
        sweep_of(tmp_path / "FOLDER")
    elif "experiment=distill" in given:  # by any trained model
        given = [word.replace("ensemble.ckpt", str(request.getfixturevalue("trained"))) for word in given]
        given += [*tiny, *SMALL, "baseline=null"]
    elif "experiment=finetune" in given:  # another recording of the same kind
        shutil.copy(tiny_files[0], tmp_path / "NEW.h5")
        given = [word.replace("PATH", str(request.getfixturevalue("trained"))) for word in given]
        given += [
            *(word for word in tiny if word.startswith(("data.clip", "data.burn"))),
            "trainer=debug",
            "baseline=null",
        ]
    elif "task=plan" not in given:
        given = [*given, *tiny, *SMALL, "baseline=null"]
    code, printed = command(*given)
    assert code == 0, printed
