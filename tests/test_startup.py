"""What a start must not wait for: the libraries that only some tasks need (docs/performance.md has the times)."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from vivit_core.cli.schema import conf_dir

HEAVY = ["torch", "lightning", "torchmetrics", "scipy.signal", "matplotlib", "pandas", "skimage", "wandb", "submitit"]

VALIDATED = f"""
from hydra import compose, initialize_config_dir
from vivit_core.cli import main
from vivit_core.cli.task import task_named
from vivit_core.cli.validate import validate

with initialize_config_dir({str(conf_dir())!r}, version_base="1.3"):
    validate(compose("config", overrides=["run_dir=/r", *WORDS]))
"""
SMALL = {
    "import": ["importer=arrays", "source=a", "out=b", "importer.recording_id=a", "importer.frame_rate_hz=30"],
    "inspect": [], "plan": [], "evaluate": ["checkpoint=a"], "stream": ["checkpoint=a"], "tuning": ["checkpoint=a"],
    "receptive_fields": ["checkpoint=a"], "attention": ["checkpoint=a"], "compare": ["checkpoints=[a,b]"],
    "predict": ["checkpoint=a", "video=b", "out=c.h5"], "publish": ["checkpoint=a", "out=b"],
    "export": ["checkpoint=a", "out=b"],
}  # fmt: skip


def imported(code: str) -> set[str]:
    """The modules that a fresh interpreter has after some code."""
    code += "\nimport sys, json; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_the_program_itself_imports_little() -> None:
    """Also with Hydra's plugins, which every start imports."""
    modules = imported("import vivit_core.cli.main, hydra_plugins.vivit_core_sweeps, vivit_core.cli.command")
    assert "vivit_core.cli.main" in modules and modules.isdisjoint(HEAVY)


def test_an_import_needs_no_torch() -> None:
    assert imported(f"WORDS = {['task=import', *SMALL['import']]}{VALIDATED}").isdisjoint(HEAVY)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name != "import"])
def test_only_a_training_imports_what_trains(name: str) -> None:
    modules = imported(f"WORDS = {[f'task={name}', *SMALL[name]]}{VALIDATED}")
    assert f"vivit_core.cli.tasks.{name}" in modules
    assert modules.isdisjoint(["lightning", "scipy.signal", "wandb", "vivit_core.training.module"])
