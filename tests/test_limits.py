"""Whole trainings where a machine has little room."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording

ROOT = Path(__file__).resolve().parents[1]
SPLIT = ("train", "train", "val", "test")
BINS = 20
TRAIN = [
    *("trainer=debug", "baseline=null", "callbacks.pictures=null", "model.embedding_dim=24", "model.spatial_depth=1"),
    *("model.temporal_depth=1", "model.attention.heads=2", "data.behavior=[]", "data.clip_length=16", "data.burn_in=4"),
    *("data.evaluation_length=20", "data.evaluation_burn_in=8", "hydra.run.dir=run"),
]

pytestmark = pytest.mark.long


def written(folder: Path, number: int, height: int, width: int) -> None:
    rng, total = np.random.default_rng(number), BINS * len(SPLIT)
    starts = np.arange(len(SPLIT)) * BINS
    write_recording(
        folder / f"{number:02d}.h5",
        recording_id=f"r{number}",
        frame_rate_hz=30.0,
        frames=rng.integers(0, 256, (total, height, width)).astype(np.uint8),
        counts=rng.poisson(0.5, (total, 2)),
        trials=Trials(starts, starts + BINS, np.arange(len(SPLIT)), np.array(SPLIT)),
    )


def trained(folder: Path, shell: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Train in a shell of its own; ``shell`` sets its limits."""
    line = [sys.executable, str(ROOT / "run.py"), *TRAIN, f"data.root={folder}", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["sh", "-c", f'{shell} && exec "$@"', "sh", *line],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=500, check=False,
    )  # fmt: skip


@pytest.mark.timeout(600)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small /dev/shm, in a namespace of its own")
def test_shared_memory_is_too_small_for_the_workers(tmp_path: Path) -> None:
    """None of them starts, a line says so, and nothing waits for ever."""
    inner = "mount -t tmpfs -o size=64k none /dev/shm"
    if subprocess.run(["unshare", "-m", "sh", "-c", inner], capture_output=True, check=False).returncode != 0:
        pytest.skip("this container may not mount")
    written(tmp_path, 0, 24, 32)
    line = f'if [ -z "$INNER" ]; then INNER=1 exec unshare -m sh -c \'{inner} && exec "$@"\' sh "$@"; fi'
    done = trained(tmp_path, line, "data.num_workers=2", "trainer.cpu.batch_size=2")
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "Traceback" not in said, said[-4000:]
    assert "there is room for 0 that read ahead" in said, said[-4000:]
