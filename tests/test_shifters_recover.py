"""Eye trackers that are wrong cost bits per spike, and shifters win them back: small simulated recordings, whose true
shift is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shipped import settings_in, simulator

from vivit_core import load_twin
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.simulate.eye_tracker import EyeTracker
from vivit_core.rf.stretches import moved

WRONG = EyeTracker(**settings_in("data/simulator/eye_tracker/default"))
SMALL = {
    "recordings": 1, "units": 32, "train_trials": 80, "val_trials": 6, "test_trials": 20, "repeated_stimuli": 0,
    "frame_rate_hz": 60.0, "height": 24, "width": 40,
}  # fmt: skip
BRIEF = [
    "model.embedding_dim=24", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1",
    "model.window=120", "model.compile=false", "model.tokenizer.patch_size=[4,8,8]", "trainer.device=cpu",
    "model.tokenizer.stem.channels=16", "model.tokenizer.stem.stride=2", "model.tokenizer.widths=[16]",
    "model.tokenizer.cell=4", "trainer.epochs=4", "trainer.steps_per_epoch=60", "trainer.batch_size=4",
    "trainer.max_minutes=inf", "data.clip_length=150", "data.burn_in=25", "baseline=null",
]  # fmt: skip


def trained(run: str, path: Path, shifter: str, command: Any) -> dict[str, Any]:
    """The summary of a twin with this shifter; beside it ``error_px`` and ``wrong_px``: how far the windows are from
    the truth on test trials, as a root of the mean square along an axis, and how far they would be unshifted."""
    code, printed = command(f"data.recordings=[{path}]", f"model/shifter={shifter}", *BRIEF, f"hydra.run.dir={run}")
    assert code == 0, printed
    summary: dict[str, Any] = json.loads(Path(run, "summary.json").read_text())
    recording, twin = Recording(path), load_twin(f"{run}/checkpoints/best.ckpt")
    test = recording.info.trials.of("test")
    behaviors = twin.specs["sim0"].behavior
    true, found = (
        np.concatenate([one(a, b) for a, b in zip(test.start, test.stop, strict=True)])
        for one in (
            lambda a, b: recording.truth("shift_px", a, b),
            lambda a, b: twin.shift_px("sim0", recording.behavior(a, b, behaviors)),
        )
    )
    # A constant is the readouts' to find: all windows lie elsewhere by it.
    summary["error_px"] = float(np.sqrt((true - found).var(0).mean()))
    summary["wrong_px"] = float(np.sqrt(true.var(0).mean()))
    return summary


def known(path: Path, corrected: Path) -> Path:
    """The recording as it would be had its eye tracker been right but for a constant and the drift: what a shifter can
    know is taken back from the file. What lies beyond the border of a frame stays unknown."""
    recording = Recording(path)
    bins = int(recording.info.trials.stop[-1])
    behavior = {name: recording.behavior(0, bins, {name: width}) for name, width in recording.info.behavior.items()}
    true = recording.truth("shift_px", 0, bins)
    position = behavior["eye_position"] - behavior["eye_position"].mean(0)
    slope, *_ = np.linalg.lstsq(position, true - true.mean(0), rcond=None)
    write_recording(
        corrected,
        recording_id="sim0",
        frame_rate_hz=recording.info.frame_rate_hz,
        frames=moved(recording.frames(0, bins)[0], position @ slope),
        counts=recording.counts(0, bins),
        trials=recording.info.trials,
        behavior=behavior,
        truth={"rate": recording.truth("rate", 0, bins), "shift_px": true},
    )
    return corrected


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_shifter_recovers_the_shift_and_the_bits_that_can_be_recovered(command: Any, tmp_path: Path) -> None:
    """Where windows look beyond the frame's border, nobody knows what was there: so its twin is measured against one
    that knows the shift from the start."""
    (path,) = simulator(**SMALL, eye_tracker=WRONG).make(tmp_path / "wrong")
    corrected = known(path, tmp_path / "sim0.h5")
    bound, lost, found = (
        trained(run, file, shifter, command)
        for run, file, shifter in (("bound", corrected, "none"), ("lost", path, "none"), ("found", path, "affine"))
    )
    assert lost["wrong_px"] > 3
    assert found["error_px"] < 0.7
    gap = bound["knowable_fraction"] - lost["knowable_fraction"]
    assert gap > 0.15
    assert found["knowable_fraction"] - lost["knowable_fraction"] > 0.8 * gap
