"""Long tests of whole trainings: of recordings that differ in all they may, and of one that no memory holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import h5py
import numpy as np
import pytest
from shipped import simulator

from vivit_core.data.recording.format import FORMAT, FORMAT_VERSION

KINDS = {
    "fast": {"seed": 21, "frame_rate_hz": 120.0, "height": 18, "width": 32, "units": 24, "degrees_per_pixel": 0.03},
    "slow": {"seed": 22, "frame_rate_hz": 60.0, "height": 16, "width": 24, "units": 20, "degrees_per_pixel": 0.045},
}


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_each_beats_its_own_ln(command, tmp_path: Path) -> None:
    for name, fields in KINDS.items():
        (path,) = simulator(recordings=1, train_trials=60, **fields).make(tmp_path / "cache")
        shutil.copy(path, tmp_path / f"{name}.h5")
        with h5py.File(tmp_path / f"{name}.h5", "r+") as file:
            file.attrs["recording_id"] = name
            if name == "slow":
                del file["behavior/eye_velocity"]
    code, printed = command(
        f"data.recordings=[{tmp_path}/fast.h5,{tmp_path}/slow.h5]", "data.clip_length=150", "data.burn_in=25",
        "model.frame_size=[18,32]", "model.frontend.lags=12", "model/tokenizer=stem",
        "model.tokenizer.patch_size=[5,6,8]", "model.tokenizer.channels=24", "model.window=150",
        "model.embedding_dim=48", "model.spatial_depth=2",
        "model.temporal_depth=2", "model.compile=false", "trainer.batch_size=4", "trainer.epochs=4",
        "trainer.steps_per_epoch=80", "trainer.max_minutes=60",
    )  # fmt: skip
    assert code == 0, printed
    assert "120 Hz is brought to 60 Hz" in printed and "has no behavior 'eye_velocity'" in printed
    summary = json.loads(next(Path("outputs").rglob("summary.json")).read_text())
    for name, scores in summary["recordings"].items():
        assert scores["bps_mean"] > scores["ln_bps_mean"] > 0.3, name


HEIGHT, WIDTH, UNITS, CHUNK, TRIAL = 36, 64, 4, 64, 640


def large(path: Path, n_bytes: float) -> Path:
    """A recording with frames of so many bytes, of which the disk holds little: a few compressed chunks over and over.

    Unit u follows the brightness of a place.
    """
    rng = np.random.default_rng(0)
    n_trials = round(n_bytes / (HEIGHT * WIDTH) / TRIAL)
    n = n_trials * TRIAL
    packed: dict[str, list[bytes]] = {"frames": [], "counts": []}
    for _ in range(20):
        checks = rng.integers(0, 2, (CHUNK, HEIGHT // 6, WIDTH // 8), dtype=np.uint8)
        seen = np.roll(checks[:, 2, 1 : 1 + UNITS], 4, 0)
        frames = np.repeat(np.repeat(255 * checks, 6, 1), 8, 2)
        packed["frames"].append(zlib.compress(frames.tobytes(), 1))
        packed["counts"].append(zlib.compress(rng.poisson(0.1 + 0.5 * seen).astype(np.uint8).tobytes(), 1))
    start = np.arange(n_trials) * TRIAL
    split = np.array(["train"] * (n_trials - 8) + ["val"] * 4 + ["test"] * 4)
    with h5py.File(path, "w") as file:
        file.attrs.update(
            format=FORMAT, format_version=FORMAT_VERSION, recording_id="large", frame_rate_hz=120.0,
            subject="", area="", species="", source="", licence="",
        )  # fmt: skip
        for name, group, shape in (
            ("frames", "stimulus", (HEIGHT, WIDTH)),
            ("counts", "responses", (UNITS,)),
        ):
            dataset = file.create_dataset(
                f"{group}/{name}", (n, *shape), np.uint8, chunks=(CHUNK, *shape), compression="gzip", compression_opts=1
            )
            for i in range(0, n, CHUNK):
                dataset.id.write_direct_chunk((i, *(0 for _ in shape)), packed[name][i // CHUNK * 7 % 20])
        file["responses/counts"].attrs["kind"] = "spikes"
        file.create_dataset("responses/valid", (n, 1), bool, chunks=(1 << 16, 1), fillvalue=True)
        file["trials/start"], file["trials/stop"] = start, start + TRIAL
        file.create_dataset("trials/stimulus_id", data=[f"s{i}" for i in range(n_trials)], dtype=h5py.string_dtype())
        file.create_dataset("trials/split", data=split.astype(object), dtype=h5py.string_dtype())
        file.create_dataset("units/id", data=[f"u{u}" for u in range(UNITS)], dtype=h5py.string_dtype())
    return path


def peak_bytes(*words: str, cwd: Path) -> int:
    """The largest resident memory of ``python run.py …``."""
    code = (
        "import pathlib\n"
        "def peak():\n"
        "    status = pathlib.Path('/proc/self/status').read_text()\n"
        "    return int(status.split('VmHWM:')[1].split()[0])\n"
        "from vivit_core.cli.main import main\n"
        "main()\n"
        "print('peak', peak())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *words], cwd=cwd, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return 1024 * int(done.stdout.split("peak")[-1])


@pytest.mark.long
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("task", ["train", "inspect"])
def test_memory_does_not_grow_with_the_recording(tmp_path: Path, task: str) -> None:
    """20 GB take what 200 MB take: training with LN and evaluation, and inspection."""
    peaks = {}
    for n_bytes in (2e8, 2e10):
        path = large(tmp_path / "large.h5", n_bytes)
        words = [f"data.recordings=[{path}]", "data.behavior=[]", "data.clip_length=120", "data.burn_in=40"]
        if task == "train":
            words += ["trainer=debug", "model.spatial_depth=1", "model.temporal_depth=1", "model/modulator=none"]
        peaks[n_bytes] = peak_bytes(f"task={task}", *words, cwd=tmp_path)
    print(f"{task}: {', '.join(f'{n / 1e9:g} GB of frames: {peak / 2**20:.0f} MiB' for n, peak in peaks.items())}")
    assert peaks[2e10] < 1.15 * peaks[2e8], peaks
