"""NWB files written by pynwb, for the tests of their importer."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pynwb = pytest.importorskip("pynwb")

F, H, W, U, RATE = 400, 6, 8, 3, 50.0
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 256, (F, H, W), dtype=np.uint8)
REGULAR = 3.0 + np.arange(F) / RATE
SPIKES = [np.sort(RNG.uniform(2.5, 12.0, n)) for n in (150, 0, 90)]
TRIALS = [(3.0 + 0.8 * i, 3.0 + 0.8 * (i + 1) - 0.1) for i in range(10)]  # the last 0.1 s of each belong to none
SHOWN = [0, 1, 2, 3, 0, 1, 2, 3, 4, 5]
SPEED_S = 2.9 + np.sort(RNG.uniform(0, 8.6, 300))
SPEED = RNG.normal(size=300)


def build(**changes: Any) -> Any:
    """An NWB file in memory."""
    given: dict[str, Any] = {
        "stimulus": pynwb.image.OpticalSeries(
            name="movie", data=FRAMES, timestamps=REGULAR, unit="n.a.", distance=0.2, field_of_view=[1.0, 1.0],
            orientation="upright",
        ),
        "trials": TRIALS,
        "spikes": SPIKES,
        "obs": None,
        "shown": SHOWN,
    } | changes  # fmt: skip
    nwb = pynwb.NWBFile(
        "a test", "test-7", datetime(2026, 1, 1, tzinfo=UTC), lab="a lab",
        subject=pynwb.file.Subject(subject_id="m1", species="Mus musculus"),
    )  # fmt: skip
    if given["stimulus"] is not None:
        nwb.add_stimulus(given["stimulus"])
    if given["trials"] is not None:
        nwb.add_trial_column("image", "what was shown")
        nwb.add_trial_column("part", "split")
        for i, (start, stop) in enumerate(given["trials"]):
            nwb.add_trial(
                start_time=start, stop_time=stop, image=given["shown"][i], part=["train", "val", "test"][i % 3]
            )
    if given["spikes"] is not None:
        nwb.add_unit_column("quality", "by hand")
        for u, times in enumerate(given["spikes"]):
            obs = {} if given["obs"] is None else {"obs_intervals": given["obs"][u]}
            nwb.add_unit(spike_times=times, quality=["good", "good", "mua"][u], **obs)
    module = nwb.create_processing_module("behavior", "what the animal did")
    speed = pynwb.TimeSeries(name="speed", data=SPEED, timestamps=SPEED_S, unit="cm/s", conversion=2.0)
    module.add(pynwb.behavior.BehavioralTimeSeries(time_series=speed, name="running"))
    pupil = np.stack([np.arange(1000.0), -np.arange(1000.0)], 1)
    eye = pynwb.behavior.SpatialSeries(name="eye", data=pupil, starting_time=2.0, rate=100.0, reference_frame="screen")
    module.add(pynwb.behavior.EyeTracking(spatial_series=eye))
    return nwb


def write(path: Path, **changes: Any) -> Path:
    with pynwb.NWBHDF5IO(path, "w") as io:
        io.write(build(**changes))
    return path


def counted(clock: list[tuple[float, float]], spikes: list[np.ndarray]) -> np.ndarray:
    """Slow and plain: spikes in each bin."""
    return np.array([[((s >= a) & (s < b)).sum() for s in spikes] for a, b in clock])
