"""The package that docs/extending.md builds is built from the page, and does what the page says."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from vivit_core import load_twin
from vivit_core.data.recording.reader import Recording

ROOT = Path(__file__).resolve().parents[1]
FILE = re.compile(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```", flags=re.MULTILINE | re.DOTALL)
YOURS = ["packages=[mylab]", "readout=pooled", "model/tokenizer=rectified", "likelihood=geometric"]
SMALL = [
    *("trainer=debug", "baseline=null", "trainer.epochs=1", "model.embedding_dim=16", "model.attention.heads=2"),
    *("model.spatial_depth=1", "model.temporal_depth=1"),
]
Command = Callable[..., tuple[int, str]]


def build(folder: Path) -> list[str]:
    """Write each file that the page shows; returns their names."""
    found = FILE.findall((ROOT / "docs" / "extending.md").read_text(encoding="utf-8"))
    for name, text in found:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return [name for name, _ in found]


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that holds the package, which can be imported."""
    folder = tmp_path / "lab"
    names = build(folder)
    assert len(names) == 15 and "mylab/readouts.py" in names and "mylab/conf/task/deviance.yaml" in names
    monkeypatch.syspath_prepend(str(folder))
    yield folder
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]


def rig(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    folder.mkdir()
    np.save(folder / "video.npy", rng.integers(0, 256, (300, 12, 16), dtype=np.uint8))
    np.save(folder / "spikes.npy", rng.poisson(0.3, (300, 5)))
    return folder


@pytest.mark.slow
def test_a_package_of_somebody_else_trains_imports_and_has_tasks(
    mylab: Path, tiny: list[str], command: Command, tmp_path: Path
) -> None:
    yours = ["--config-dir", str(mylab / "mylab" / "conf")]
    code, printed = command(*yours, *YOURS, *tiny, *SMALL, "hydra.run.dir=run")
    assert code == 0, printed
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    assert torch.load(best, weights_only=True)["vivit_core"]["packages"].keys() == {"mylab"}

    # Its metric and its likelihood, in validations and in the evaluation.
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    validations = pd.read_csv(tmp_path / "run" / "metrics.csv")
    assert summary["likelihood"] == "Geometric" and summary["deviance_explained_mean"] <= 1
    assert validations["val/deviance_explained_mean"].notna().any()
    assert "deviance" in printed and "explained" in printed  # a heading may be folded

    # Its task, with its metric; nothing of the package without consent.
    words = ["task=deviance", f"checkpoint={best}", "hydra.run.dir=deviance"]
    code, printed = command(*yours, "packages=[mylab]", *words)
    assert code == 0 and "deviance explained" in printed, printed
    table = pd.read_csv(tmp_path / "deviance" / "deviance.csv")
    assert len(table) == 12 and (table["share"].dropna() <= 1).all()
    units = pd.read_csv(tmp_path / "run" / "units.csv")
    assert np.allclose(units["deviance_explained"], table["share"], rtol=1e-4, atol=1e-6, equal_nan=True)
    code, printed = command(*yours, *words)
    assert code == 1 and "task=deviance does not exist" in printed and "Traceback" not in printed

    # A checkpoint alone runs no code.
    for name in [name for name in sys.modules if name.split(".")[0] == "mylab"]:
        del sys.modules[name]
    code, printed = command("task=evaluate", f"checkpoint={best}", "hydra.run.dir=evaluation")
    assert code == 1 and "needs mylab" in printed and "packages=[mylab]" in printed and "Traceback" not in printed
    with pytest.raises(ValueError, match=r"needs mylab .*say packages=\[mylab\]"):
        load_twin(best)
    assert "mylab" not in sys.modules
    code, printed = command("task=evaluate", "packages=[mylab]", f"checkpoint={best}", "hydra.run.dir=evaluation")
    assert code == 0, printed

    # Its importer.
    source = rig(tmp_path / "rig")
    words = ["task=import", "importer=rig", "importer.recording_id=r1", f"source={source}", "out=r1.h5"]
    code, printed = command(*yours, "packages=[mylab]", *words)
    assert code == 0, printed
    assert Recording(tmp_path / "r1.h5").info.n_units == 5
    code, printed = command(*yours, *words)
    assert code == 1 and "packages=[mylab]" in printed and "Traceback" not in printed


@pytest.mark.parametrize("said", ["packages=[os]", "packages=[vivit_core]", "packages=['my lab']", "packages=mylab"])
def test_what_is_no_package_of_yours_is_refused(said: str, command: Command) -> None:
    code, printed = command("task=plan", said)
    assert code == 1 and "packages=" in printed and "Traceback" not in printed, printed


@pytest.mark.slow
def test_its_own_tests_pass(mylab: Path) -> None:
    """In a process of their own, as somebody runs them."""
    environment = {**os.environ, "PYTHONPATH": f"{mylab}:{ROOT / 'src'}", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(words, cwd=mylab, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "5 passed" in done.stdout, done.stdout + done.stderr


@pytest.fixture
def fresh(installed: Callable[..., Path], tmp_path: Path) -> Path:
    """The programs of a new environment with both packages, installed from their wheels."""
    build(tmp_path / "lab")
    return installed(ROOT, tmp_path / "lab")


@pytest.mark.long
def test_the_page_works_in_a_fresh_environment_from_the_built_wheels(
    fresh: Path, tiny: list[str], tmp_path: Path
) -> None:
    where = tmp_path / "elsewhere"
    where.mkdir()
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}

    def run(program: str, *words: str, at: Path = where) -> str:
        line = [str(fresh / program), *words]
        done = subprocess.run(line, cwd=at, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    files = run("python", "-c", "import mylab, vivit_core; print(mylab.__file__, vivit_core.__file__, sep='\\n')")
    assert all(Path(file).is_relative_to(tmp_path / "venv") for file in files.split()), files
    conf = str(Path(files.split()[0]).parent / "conf")

    def command(*words: str) -> str:
        return run("vivit-core", "--config-dir", conf, *words)

    command(*YOURS, *tiny, *SMALL, "hydra.run.dir=run")
    best = where / "run" / "checkpoints" / "best.ckpt"
    assert torch.load(best, weights_only=True)["vivit_core"]["packages"] == {"mylab": "0.3"}
    assert "deviance explained" in command("task=deviance", "packages=[mylab]", f"checkpoint={best}")
    words = ("packages=[mylab]", "importer=rig", "importer.recording_id=r1", f"source={rig(tmp_path / 'rig')}")
    command("task=import", *words, "out=r1.h5")
    assert Recording(where / "r1.h5").info.n_units == 5
    (tmp_path / "tests").mkdir()
    shutil.copy(tmp_path / "lab" / "tests" / "test_mylab.py", tmp_path / "tests")  # where mylab's sources are not
    assert "5 passed" in run("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", at=tmp_path)
