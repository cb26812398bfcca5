"""The benchmark runs and writes what docs/performance.md is made from. Its numbers are no test's business."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[1] / "benchmarks" / "bench.py"


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads a process's peak memory from Linux")
def test_it_writes_every_number(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    done = subprocess.run(
        [sys.executable, str(BENCH), "--tiny", "--out", str(out)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert set(found["gemm_gflops"]) == {"float32", "bfloat16"}
    assert set(found["train_step"]) == {
        f"{case}_{dtype}" for case in ("small", "baseline", "multi8") for dtype in ("float32", "bfloat16")
    }
    for step in found["train_step"].values():
        assert {"seconds", "mfu", "clips_per_s", "bins_per_s"} <= set(step)
        assert 0 < step["mfu"] < 1 and step["bins_per_s"] == pytest.approx(32 * step["clips_per_s"])
    assert {"baseline", "baseline_checkpointed"} <= set(found["activation_mb"])
    assert set(found["loader"]) == {"bins_per_s", "over_train_step", "rss_mb_1x", "rss_mb_10x"}
    assert found["stream_over_clip"] > 0 and found["all_over_last"] > 0 and 0 <= found["data_wait_frac"] < 1
    assert found["stream"]["largest_difference"] < 1e-4
    assert found["machine"]["threads"] >= 1
