"""Whole trainings by the command line that take a minute, and recordings that differ from others in one thing."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from vivit_core.cli.main import main
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording

SMALL = {
    "recordings": 1, "units": 32, "train_trials": 80, "val_trials": 6, "test_trials": 20, "repeated_stimuli": 0,
    "frame_rate_hz": 60.0, "height": 24, "width": 40,
}  # fmt: skip
"""The simulator's settings for one small recording."""

WHATEVER_TOKENS = [
    "model.embedding_dim=24", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1",
    "model.window=120", "model.compile=false", "trainer.device=cpu", "trainer.epochs=2", "trainer.steps_per_epoch=60",
    "trainer.batch_size=4", "trainer.max_minutes=inf", "data.clip_length=150", "data.burn_in=25", "baseline=null",
]  # fmt: skip
BRIEF = [
    *WHATEVER_TOKENS, "model.tokenizer.patch_size=[4,8,8]", "model.tokenizer.stem.channels=16",
    "model.tokenizer.stem.stride=2", "model.tokenizer.widths=[16]", "model.tokenizer.cell=4",
]  # fmt: skip
"""The default twin in small."""

BARE = [*WHATEVER_TOKENS, "model/tokenizer=tubelet_8x8x8", "model/energy=none"]
"""A twin whose units know little but their own filters: for what is found whatever the core does."""


def trained(folder: Path, path: Path, *words: str) -> dict[str, Any]:
    """The summary of a twin of this recording, trained by these words into the folder ``run`` of a new folder."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["run.py", f"data.recordings=[{path}]", *words, "hydra.run.dir=run"])
        main()
    summary: dict[str, Any] = json.loads((folder / "run/summary.json").read_text())
    return summary


def rewritten(path: Path, to: Path, **changed: Any) -> Path:
    """A simulated recording with some arrays of another content (see ``write_recording``)."""
    recording = Recording(path)
    info, bins = recording.info, int(recording.info.trials.stop[-1])
    same: dict[str, Any] = {
        "frames": recording.frames(0, bins)[0],
        "counts": recording.counts(0, bins),
        "behavior": {name: recording.behavior(0, bins, {name: width}) for name, width in info.behavior.items()},
        "truth": {"rate": recording.truth("rate", 0, bins)},
    }
    write_recording(
        to, recording_id=info.recording_id, frame_rate_hz=info.frame_rate_hz, trials=info.trials, **same | changed
    )
    return to
