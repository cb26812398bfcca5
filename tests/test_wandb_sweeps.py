"""The W&B sweep files: each combination composes, and the real `wandb sweep` and `wandb agent` run them."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from wandb_reading import read_log
from wandb_server import ENTITY, PROJECT, SWEEP, SweepServer, combinations

from vivit_core.training.tracking import OBJECTIVE

ROOT = Path(__file__).resolve().parents[1]
FILES = sorted((ROOT / "sweeps").glob("*.yaml"))
SMALL = ["trainer=debug", "baseline=null", "model.embedding_dim=24", "model.attention.heads=2"]
BEFORE = ["${env}", "${interpreter}", "${program}"]  # the agent's own words


def content(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())


def test_all_promised_files_are_there():
    assert {file.stem for file in FILES} >= {"patch_size", "depth", "learning_rate", "patch_depth_lr_bayes"}


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_combination_is_a_configuration(path, compose):
    sweep = content(path)
    assert sweep["command"][:3] == BEFORE and sweep["command"][-1] == "${args_no_hyphens}"
    assert sweep["metric"] == {"name": OBJECTIVE, "goal": "maximize"} and sweep["program"] == "run.py"
    fixed = sweep["command"][3:-1]
    chosen = list(combinations(sweep["parameters"]))
    every = {(name, str(value)) for combination in chosen for name, value in combination.items()}
    while every:  # each value of each parameter at least once
        combination = next(c for c in chosen if every & {(n, str(v)) for n, v in c.items()})
        every -= {(name, str(value)) for name, value in combination.items()}
        settings = compose(*fixed, *(f"{name}={value}" for name, value in combination.items()))
        assert settings["logger"]["wandb"] is not None


@pytest.mark.long
@pytest.mark.parametrize("name", ["depth", "patch_depth_lr_bayes"])
def test_the_real_agent_runs_them(name, tiny, tmp_path):
    """`wandb sweep` takes the file, `wandb agent` runs two of its combinations, and each run's metric arrives."""
    sweep = content(ROOT / "sweeps" / f"{name}.yaml")
    sizes = [word for word in tiny if not word.startswith(("data.clip", "data.burn"))]
    sweep["command"] = [
        *sweep["command"][:-1],
        *SMALL,
        *sizes,
        "data.clip_length=80",
        "data.burn_in=20",
        "${args_no_hyphens}",
    ]
    (tmp_path / "sweep.yaml").write_text(yaml.safe_dump(sweep, sort_keys=False))
    (tmp_path / "run.py").symlink_to(ROOT / "run.py")
    server = SweepServer(count=2)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # ${interpreter} is a bare `python`
        "OMP_NUM_THREADS": "1",
        "WANDB_BASE_URL": server.address,
        "WANDB_API_KEY": "0" * 40,
        "WANDB_ENTITY": ENTITY,
        "WANDB_PROJECT": PROJECT,
        "WANDB_AGENT_DISABLE_FLAPPING": "true",
        "WANDB_SILENT": "false",
    }

    def wandb(*words: str, **also: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "wandb", *words],
            cwd=tmp_path,
            env=environment | also,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    try:
        assert f"wandb agent {ENTITY}/{PROJECT}/{SWEEP}" in wandb("sweep", "sweep.yaml")
        printed = wandb("agent", f"{ENTITY}/{PROJECT}/{SWEEP}", WANDB_MODE="offline")
    finally:
        server.shutdown()
    assert len(server.given) == 2 and server.given[0] != server.given[1]
    logs = [read_log(path) for path in sorted(tmp_path.rglob("offline-run-*/run-*.wandb"))]
    assert [log.run_id for log in logs] == ["run1", "run2"], printed
    for log, given in zip(logs, server.given, strict=True):
        assert log.sweep_id == SWEEP
        history = list(log.values(OBJECTIVE))
        assert history and log.summary[OBJECTIVE] == pytest.approx(max(history))
        for key, value in given.items():
            group, _, rest = key.partition(".")
            node = log.config[group]
            for part in rest.split("."):
                node = node[part]
            assert str(node).replace(" ", "") == str(value)
        assert log.exit_code == 0 and ("model", f"twin-{log.run_id}") in log.artifacts
