"""Small recordings made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.validate import examine
from vivit_core.data.recording.writer import write_recording


def small_arrays(seed: int = 0, n_frames: int = 120, n_units: int = 3) -> dict[str, Any]:
    """Arguments of write_recording: six trials of 20 frames, the last 2 for val and test."""
    rng = np.random.default_rng(seed)
    starts = np.arange(0, n_frames, 20)
    split = np.array(["train"] * len(starts))
    split[-2:] = ["val", "test"]
    return {
        "recording_id": f"rec{seed}",
        "frame_rate_hz": 100.0,
        "frames": rng.integers(0, 256, (n_frames, 4, 6), dtype=np.uint8),
        "counts": rng.poisson(0.5, (n_frames, n_units)).astype(np.uint8),
        "trials": Trials(starts, np.minimum(starts + 20, n_frames), np.arange(len(starts)), split),
        "behavior": {"eye": rng.standard_normal((n_frames, 2)).astype(np.float32)},
    }


@pytest.fixture
def arrays() -> Callable[..., dict[str, Any]]:
    return small_arrays


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examine in this process: what is found is the same, and no other process has to start."""
    monkeypatch.setattr(Guard, "run", lambda self, path, function, arguments: examine(**arguments))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a small recording, with some arguments changed."""

    def write(name: str = "a.h5", seed: int = 0, n_frames: int = 120, n_units: int = 3, **changes: Any) -> Path:
        return write_recording(tmp_path / name, **(small_arrays(seed, n_frames, n_units) | changes))

    return write
