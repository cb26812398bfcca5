"""A recording whose eye tracker has a known error, in small: what a fixating eye sees of large pictures, and units that
see it where the eye really looked."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.specs import RecordingSpec

RATE_HZ, TRIALS, BINS, FIXATION = 60.0, 12, 400, 8  # Hz, trials, bins of each, bins that the eye rests
HEIGHT, WIDTH, ROOM = 20, 28, 40  # px of frames, and how far the eye goes from the middle of a picture, px
CENTERS = np.stack(np.meshgrid(range(8, 21, 3), [6, 10, 14]), -1).reshape(-1, 2)  # of the units, x and y in px
MEAN, LATE = np.array([3.0, -1.0]), 2  # what the tracker tells of the middle; bins by which responses are late


def made(path: Path, slope_E2: np.ndarray, driven: bool = True, seed: int = 0) -> tuple[Recording, RecordingSpec]:
    """A recording whose windows must look ``slope_E2`` px to the right and down for each standard deviation of eye
    position (x, y); its units answer to what they see only where they are ``driven``."""
    rng = np.random.default_rng(seed)
    told_N2 = np.repeat(rng.normal(size=(TRIALS * BINS // FIXATION + 1, 2)), FIXATION, axis=0)[: TRIALS * BINS]
    told_N2 = np.clip(told_N2, -2.2, 2.2)
    told_N2 = (told_N2 - told_N2.mean(0)) / told_N2.std(0)
    step_px = ROOM / np.abs(told_N2).max()
    right_N2 = told_N2 * step_px + told_N2 @ slope_E2
    frames, seen = [], []
    rows, columns = np.arange(HEIGHT) - HEIGHT // 2, np.arange(WIDTH) - WIDTH // 2
    for trial in range(TRIALS):
        side = 2 * (ROOM + 20) + max(HEIGHT, WIDTH)
        picture = gaussian_filter(rng.normal(size=(side, side)), 0.8, mode="wrap")
        picture /= picture.std()
        for t in range(trial * BINS, (trial + 1) * BINS):
            x, y = np.round(told_N2[t] * step_px).astype(int) + side // 2
            frames.append(picture[np.ix_(y + rows, x + columns)])
            x, y = np.round(right_N2[t]).astype(int) + side // 2
            seen.append(picture[y + rows[CENTERS[:, 1]], x + columns[CENTERS[:, 0]]])
    late = np.roll(np.array(seen), LATE, axis=0) if driven else rng.normal(size=(len(seen), len(CENTERS)))
    shown = np.clip(np.array(frames) * 40 + 127, 0, 255).astype(np.uint8)
    start = np.arange(TRIALS) * BINS
    split = np.array(["train"] * (TRIALS - 2) + ["val", "test"])
    counts = rng.poisson(0.5 * np.exp(late - 0.5)).astype(np.uint8)
    write_recording(
        path,
        recording_id="a",
        frame_rate_hz=RATE_HZ,
        frames=shown,
        counts=counts,
        trials=Trials(start, start + BINS, np.arange(TRIALS), split),
        behavior={"running": np.zeros(len(shown)), "gaze": (told_N2 + MEAN).astype(np.float32)},
    )
    recording = Recording(path)
    spec = RecordingSpec(
        "a", RATE_HZ, (1, HEIGHT, WIDTH), recording.info.unit_ids, tuple(counts.mean(0)), 127.0, 40.0,
        behavior={"running": 1, "gaze": 2}, behavior_mean=(0.0, *MEAN), behavior_std=(1.0, 1.0, 1.0),
    )  # fmt: skip
    return recording, spec
