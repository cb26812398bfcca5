"""Attention finds context where there is much of it, and nothing where there is none: a small version of
docs/when_attention_pays.md, of some six minutes a test."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from shipped import settings_in, simulator

from vivit_core.data.simulate import Context

SMALL = {
    "recordings": 1, "units": 32, "train_trials": 300, "val_trials": 12, "test_trials": 40, "repeated_stimuli": 0,
    "frame_rate_hz": 60.0, "height": 24, "width": 40,
}  # fmt: skip
SMALL_TWIN = [
    "model.embedding_dim=48", "model.attention.heads=3", "model.spatial_depth=1", "model.temporal_depth=1",
    "model.window=120", "model.compile=false", "model.tokenizer.patch_size=[4,8,8]", "model.tokenizer.stem.channels=24",
    "model.tokenizer.widths=[24]", "trainer.device=cpu", "trainer.epochs=4", "trainer.steps_per_epoch=80",
    "trainer.batch_size=4", "trainer.max_minutes=inf", "data.clip_length=150", "data.burn_in=25", "baseline=null",
]  # fmt: skip


def worth(kinds: dict[str, float], command, tmp_path: Path) -> dict[str, Any]:
    """The summary of a twin of units with these contexts, its attention's controls in it."""
    none = dict.fromkeys(("surround", "adaptation", "motion"), 0.0)
    strong = {"far_px": [8.0, 40.0], "surround_suppression": [0.8, 0.9]}
    context = Context(**settings_in("data/simulator/context/default") | none | kinds | strong)
    simulator(**SMALL, context=context).make(tmp_path / "recordings")
    code, printed = command(f"data.root={tmp_path}/recordings", *SMALL_TWIN, "hydra.run.dir=trained")
    assert code == 0, printed
    code, printed = command(
        "task=evaluate",
        "checkpoint=trained/checkpoints/best.ckpt",
        "attention_controls=true",
        "hydra.run.dir=evaluated",
    )
    assert code == 0, printed
    summary: dict[str, Any] = json.loads(Path("evaluated/summary.json").read_text())
    return summary


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_surrounds_are_worth_something(command, tmp_path: Path) -> None:
    summary = worth({"surround": 1.0}, command, tmp_path)
    assert summary["context_gain_mean"] > 0.03
    assert summary["context_gain_interval"][0] > 0


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_where_there_is_no_context_attention_is_worth_nothing(command, tmp_path: Path) -> None:
    summary = worth({}, command, tmp_path)
    assert abs(summary["context_gain_mean"]) < 0.01
