"""Small recordings made by hand: their arrays, and files of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.data.recording.format import Trials
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


def rich(folder: Path) -> Path:
    """A recording with every kind of field."""
    rng = np.random.default_rng(0)
    fields = small_arrays() | {
        "valid": rng.random((120, 3)) > 0.1,
        "truth": {"rate": rng.random((120, 3)).astype(np.float32), "center_px": rng.random((3, 2))},
        "source": "a laboratory",
    }
    return write_recording(folder / "good.h5", **fields)


def npz(folder: Path) -> Path:
    """The arrays of a recording in one file."""
    rng = np.random.default_rng(0)
    path = folder / "good.npz"
    np.savez(path, frames=rng.integers(0, 255, (300, 5, 6), dtype=np.uint8), counts=rng.poisson(0.3, (300, 4)))
    return path
