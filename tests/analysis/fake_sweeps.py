"""Sweeps' folders as task=scaling reads them, written without a training."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import yaml

UNITS = [("a", "u0", 0.1), ("a", "007", 0.0), ("a", "silent", None)]


def settings(minutes: float | None, run_dir: str, **changed: Any) -> dict[str, Any]:
    """A training's config.yaml, as far as it is looked at."""
    return {
        "task": "train",
        "seed": 0,
        "run_dir": run_dir,
        "init_from": None,
        "outputs": f"outputs of {run_dir}",
        "data": {"train_minutes": minutes, "seed": changed.get("seed", 0), "recordings": ["a.h5"]},
        "model": {"embedding_dim": 8},
        "optim": {"core_lr_scale": 1.0, "readouts_first": 0.0},
        "callbacks": {"keep": {"folder": f"{run_dir}/checkpoints"}},
        **changed,
    }


def job(sweep: Path, number: int, minutes: float, bps: float, asked: float | None = None, **changed: Any) -> Path:
    """One job that has trained on so many minutes."""
    run = sweep / str(number)
    run.mkdir(parents=True)
    (sweep / "outcomes").mkdir(exist_ok=True)
    outcome = {"status": "finished", "run": str(run), "score": bps, "score_name": "val/bps_mean", "trained": True}
    (sweep / "outcomes" / f"{number}.json").write_text(json.dumps(outcome))
    (run / "config.yaml").write_text(yaml.safe_dump(settings(asked or minutes, str(run), **changed)))
    about = {"recordings": {"a": {"minutes": minutes, "units": 3}}, "core_parameters": 500}
    (run / "environment.json").write_text(json.dumps({"task": "train", "trained_on": about}))
    (run / "summary.json").write_text(json.dumps({"likelihood": "Poisson"}))
    with (run / "units.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["recording", "unit", "bins", "spikes", "bps", "truth_bps"])
        for recording, unit, more in UNITS:
            known = more is not None
            table.writerow([recording, unit, 90, 30.0, bps + more if known else "", 1.5 if known else ""])
    return run


def sweep_of(folder: Path, *, exponent: float = 1.0, **changed: Any) -> Path:
    for number, minutes in enumerate((0.5, 1.0, 2.0, 4.0)):
        job(folder, number, minutes, 1.0 - 0.2 * minutes**-exponent, **changed)
    return folder
