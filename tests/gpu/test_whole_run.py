"""Whole runs with what only a GPU's budget asks for, computed by a CPU: bf16-mixed, clipping beside a fused optimizer,
compiled blocks, workers; by one process, and by two that train together on gloo."""

from __future__ import annotations

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from test_ranks import RUN, SMALL, run_command

from vivit_core.cli.runs import RunFolder
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.training.machine import lacks_to_compile

STEPS, CLIP = 4, 0.5  # below the gradient of every step, so that the clipping shows
OWN = [
    *SMALL, "data.behavior=[gaze]", "data.clip_length=60", "data.burn_in=20", "data.num_workers=2",
    "trainer.precision=bf16-mixed", f"trainer.gradient_clip={CLIP}", "model.compile=true", "trainer.steps_per_epoch=1",
    f"trainer.epochs={STEPS}",
]  # fmt: skip


def recorded(folder):
    """Units of many spikes, whose gradients are long, that follow how bright the frame is."""
    rng, bins, trial = np.random.default_rng(0), 960, 120
    light = rng.normal(size=(bins, 1, 1))
    frames = np.clip(128 + 30 * (rng.normal(size=(bins, 16, 20)) + light), 0, 255).astype(np.uint8)
    counts = rng.poisson(8 * np.exp(0.5 * light[:, 0]), (bins, 3))
    starts = np.arange(0, bins, trial)
    split = ["train"] * 4 + ["val", "val", "test", "test"]
    return write_recording(
        folder / "own.h5", recording_id="own", frame_rate_hz=60.0, frames=frames, counts=counts,
        behavior={"gaze": rng.normal(size=(bins, 1))}, trials=Trials(starts, starts + trial, list("abcdefgg"), split),
    )  # fmt: skip


def moments(run, name):
    (kept,) = read_checkpoint(run.last)["optimizer_states"]
    return kept, torch.cat([state[name].flatten() for state in kept["state"].values()])


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.skipif(lacks_to_compile("cpu") is not None, reason="this machine lacks what compiling needs")
def test_a_gpus_budget_from_training_to_report(tmp_path, monkeypatch):
    recording = recorded(tmp_path)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "compiled"))
    words = [sys.executable, str(RUN), f"data.recordings=[{recording}]", *OWN]
    runs = {}
    for name, trainer in {"one": ["trainer=debug"], "two": ["trainer=ddp", "trainer.devices=2"]}.items():
        code, printed = run_command([*words, *trainer, f"hydra.run.dir={name}"], tmp_path)
        assert code == 0 and "the blocks are compiled" in printed and "report:" in printed, printed
        assert ("with 2 processes" in " ".join(printed.split())) == (name == "two")
        assert "4 clips, bf16-mixed" in (tmp_path / name / "report.html").read_text()
        assert list((tmp_path / "compiled").rglob("*.so"))  # made by the C++ compiler
        run = runs[name] = RunFolder(tmp_path / name)
        assert run.finished
        rows = list(csv.DictReader((run.path / "metrics.csv").open()))
        norms = np.array([float(row["train/grad_norm"]) for row in rows])
        for column in ("train/loss", "val/loss", "val/bps_mean"):
            assert np.isfinite([float(row[column]) for row in rows]).all()
        assert len(rows) == STEPS and float(rows[-1]["train/skipped_steps"]) == 0
        summary = json.loads((run.path / "summary.json").read_text())
        assert math.isfinite(summary["bps_mean"]) and math.isfinite(summary["ln_bps_mean"])
        # What the optimizer saw were gradients of at most that norm: AdamW's mean of their squares says so.
        kept, squares = moments(run, "exp_avg_sq")
        beta = kept["param_groups"][0]["betas"][1]
        share = (1 - beta) * beta ** np.arange(STEPS - 1, -1, -1)
        assert norms.min() > CLIP and all(group["fused"] for group in kept["param_groups"])
        assert float(squares.sum()) == pytest.approx((share * np.minimum(norms, CLIP) ** 2).sum(), rel=1e-3)
    # Sums of half batches are rounded to bfloat16 each for itself.
    one, two = (moments(run, "exp_avg")[1] for run in runs.values())
    assert float((one - two).norm() / one.norm()) < 0.03
    scores = [json.loads((run.path / "summary.json").read_text())["bps_mean"] for run in runs.values()]
    assert scores[1] == pytest.approx(scores[0], abs=0.01)
