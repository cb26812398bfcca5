"""A twin's stand-in whose receptive fields and tuning are known exactly: an LN model with weights set by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from shipped import PLAIN

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.simulate.population import Population
from vivit_core.models.ln import LN
from vivit_core.specs import Clips, RecordingSpec

HEIGHT, WIDTH, RATE_HZ, PATCH, LAGS = 20, 26, 60.0, 19, 9
CENTERS = np.array([[8.0, 9.0], [17.0, 11.0], [12.0, 8.0], [15.0, 10.0]], np.float32)  # x, y
ORIENTATIONS = np.array([20.0, 65.0, 110.0, 160.0], np.float32)
FREQUENCIES = np.array([0.12, 0.15, 0.12, 0.18], np.float32)  # cycles a pixel
SIZES = np.array([8.0, 7.0, 9.0, 6.0], np.float32)  # px
COURSE = np.array([0, 0, 0, 0, -0.2, -0.5, 0.3, 1.0, 0.4], np.float32)  # oldest lag first; peaks one bin back
COURSE /= np.linalg.norm(COURSE)


def population() -> Population:
    """The simulator's own units at these places."""
    drawn = Population.draw(4, (HEIGHT, WIDTH), RATE_HZ, np.random.default_rng(0))
    return replace(
        drawn,
        center_px=CENTERS,
        orientation_deg=ORIENTATIONS,
        spatial_frequency=FREQUENCIES,
        size_px=SIZES,
    )


def spec() -> RecordingSpec:
    return RecordingSpec(
        "known", RATE_HZ, (1, HEIGHT, WIDTH), tuple("abcd"), (0.2,) * 4, 120.0, 40.0, {"gaze": 1}, (0.5,), (1.0,)
    )


def fields_UHW() -> np.ndarray:
    """The even Gabors of the simulator."""
    return rearrange(population().gabors()[:, :4], "(h w) u -> u h w", h=HEIGHT)


def known_ln(linear: float = 1.0, quadratic: float = 0.0, gain: float = 1.0, mute: Sequence[int] = ()) -> LN:
    """log rate = log mean + linear · s + quadratic · s², s the Gabor's response at the lags of ``COURSE``; the rates of
    ``mute`` units are constant."""
    model = LN([spec()], duration_s=LAGS / RATE_HZ, patch=PATCH, nonlinearity="exp")
    readout = model.readout("known")
    fields = torch.as_tensor(fields_UHW())
    corner = torch.as_tensor(np.round(CENTERS[:, ::-1].copy())).long() - PATCH // 2
    padded = torch.nn.functional.pad(fields, (PATCH, PATCH, PATCH, PATCH))
    with torch.no_grad():
        readout.corner_U2[:] = corner
        for unit, (row, column) in enumerate(corner.tolist()):
            window = padded[unit, row + PATCH : row + 2 * PATCH, column + PATCH : column + 2 * PATCH]
            readout.space_UP[unit] = gain * window.flatten()
        readout.time_UL[:] = torch.as_tensor(COURSE)
        readout.linear_U[:] = linear
        readout.quadratic_U[:] = quadratic
        readout.linear_U[list(mute)] = readout.quadratic_U[list(mute)] = 0.0
    return model


def recorded(folder: Path, white: bool = True) -> Path:
    """Counts of the known model to noise, with some bins invalid and wrong."""
    rng = np.random.default_rng(1)
    bins = 6000
    frames = rng.integers(0, 2, (bins, HEIGHT, WIDTH), dtype=np.uint8) * 96 + 72
    if not white:
        frames = np.repeat(frames[:, :1], HEIGHT, 1)
    rate = known_ln(gain=0.4)({"known": Clips(frames=torch.as_tensor(frames)[None, None])})["known"][0].detach().numpy()
    counts = rng.poisson(rate).astype(np.uint8)
    valid = rng.random((bins, 4)) > 0.2
    counts[~valid] = 50
    start = np.arange(0, bins, 1500)
    return write_recording(
        folder / "known.h5",
        recording_id="known",
        frame_rate_hz=RATE_HZ,
        frames=frames,
        counts=counts,
        valid=valid,
        behavior={"gaze": np.zeros((bins, 1))},
        trials=Trials(start, start + 1500, np.arange(4), np.array(["train", "train", "val", "test"])),
        units={"id": list("abcd")},
        truth={"rate": rate, "center_px": CENTERS, "orientation_deg": ORIENTATIONS, "complex": np.array([0, 0, 1, 0])},
        degrees_per_pixel=0.5,
    )


def data_of(path: Path) -> RecordingsDataModule:
    data = RecordingsDataModule(
        recordings=[str(path)],
        root=None,
        simulator=None,
        cache="",
        behavior=["gaze"],
        clip_length=100,
        burn_in=20,
        evaluation_length=100,
        evaluation_burn_in=20,
        weighting="units",
        num_workers=0,
        seed=0,
        **PLAIN,
    )
    data.configure(batch_size=4, specs=[spec()])
    data.setup()
    return data
