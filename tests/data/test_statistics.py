"""What a twin knows of a recording's training trials."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from vivit_core.data.recording import Trials, write_recording
from vivit_core.data.recording.reader import Recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.data.statistics import fading_s, training_statistics


@pytest.mark.filterwarnings("ignore:overflow")
def test_bins_that_are_not_valid_have_no_part_in_mean_counts(make: Callable[..., Path]) -> None:
    """Whatever stands there: the sum of two that fill float32 is infinite."""
    counts, valid = np.ones((120, 3), np.float32), np.ones((120, 3), bool)
    counts[10:12, 1], valid[10:12, 1] = np.finfo(np.float32).max, False
    view = ResampledRecording(make(counts=counts, valid=valid), 50.0)
    assert np.isinf(view.counts(5, 6)[0, 1])
    assert training_statistics(view, {}).unit_mean_counts == (2.0, 2.0, 2.0)


@pytest.mark.parametrize(
    ("left", "trial", "units", "least", "most"),
    [
        (0.92, 300, 20, 0.36, 0.42),  # .4 s at 30 Hz
        (0.92, 60, 20, 0.34, 0.42),  # in trials of 2 s
        (0.0, 300, 5, 0, 0),  # deconvolved: neighboring bins are alike by chance alone
        (0.0, 300, 500, 0, 0),
    ],
)
def test_how_long_traces_last(tmp_path: Path, left: float, trial: int, units: int, least: float, most: float) -> None:
    random, start = np.random.default_rng(0), np.arange(0, 6000, trial)
    traces = (random.random((6000, units)) < 0.05) * random.gamma(2.0, 1.0, (6000, units))
    for t in range(1, len(traces)):
        traces[t] += left * traces[t - 1]
    write_recording(
        tmp_path / "x.h5",
        recording_id="x",
        frame_rate_hz=30.0,
        frames=random.integers(0, 255, (6000, 4, 4), dtype=np.uint8),
        counts=(traces + 0.05 * random.random(traces.shape)).astype(np.float32),
        trials=Trials(start, start + trial, np.arange(len(start)).astype(str), np.full(len(start), "train")),
        kind="calcium",
    )
    assert least <= fading_s(Recording(tmp_path / "x.h5")) <= most
