"""The arrays of small recordings made by hand."""

from __future__ import annotations

from typing import Any

import numpy as np

from vivit_core.data.recording.format import Trials


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
