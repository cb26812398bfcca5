"""The benchmarks run and write what docs/performance.md is made from. Their numbers are no test's business."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts can be imported, and nothing is compiled."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: call)
    was = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(was)
    for name in ("bench", "measuring", "reading", "scale", "first_hour"):
        sys.modules.pop(name, None)


def run_bench(monkeypatch: pytest.MonkeyPatch, out: Path, bf16_gflops: float, *words: str) -> dict[str, Any]:
    """The whole command, with all parts in this process, on a machine of 100 GFLOP/s in float32."""
    import bench
    import measuring

    speeds = {torch.float32: 100.0, torch.bfloat16: bf16_gflops}
    monkeypatch.setattr(measuring, "matmul_gflops", lambda dtype, device, size: speeds[dtype])

    def in_this_process(script: str, seconds: float, *words: str) -> Any:
        assert Path(script) == BENCHMARKS / "bench.py" and seconds > 0
        return bench.part(bench.parser().parse_args(list(words)))

    monkeypatch.setattr(bench, "rows_of", in_this_process)
    monkeypatch.setattr(bench, "startup", lambda: iter([("start-up: run.py --help", {"seconds": 1.0})]))
    monkeypatch.setattr(bench, "STEP_S", 0.0)
    bench.main(["--tiny", "--out", str(out), *words])
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def test_every_shipped_default_has_its_rows(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench

    found = run_bench(monkeypatch, tmp_path / "first.json", 90.0)
    shipped = {path.stem for path in (BENCHMARKS.parent / "conf" / "model").glob("*.yaml")} - {"ln"}
    for name in shipped:
        step = found["rows"][f"{name}, training step, float32"]
        assert step["of_peak"] == pytest.approx(step["gflop"] / step["seconds"] / 100) and step["memory_mb"] > 0
        assert step["clips_per_s"] == pytest.approx(step["clips"] / step["seconds"])
        assert found["rows"][f"{name}, forward, float32"]["seconds"] > 0
        assert found["rows"][f"{name}, one streamed bin"]["seconds"] > 0
    named = " ".join(found["rows"])
    assert all(word in named for word in ("simulation", "LN", "evaluation", "start-up", "matrix product", "copy"))
    assert list(found["left_out"]) == ["bfloat16"] and "emulates" in found["left_out"]["bfloat16"]
    assert "bfloat16" not in named
    # Against itself, as if everything had taken half of the time before.
    for row in found["rows"].values():
        if "seconds" in row:
            row["seconds"] /= 2
    (tmp_path / "before.json").write_text(json.dumps(found))
    monkeypatch.setattr(bench, "bench", lambda given: json.loads((tmp_path / "first.json").read_text()))
    capsys.readouterr()
    bench.main(["--tiny", "--out", str(tmp_path / "again.json"), "--against", str(tmp_path / "before.json")])
    said = capsys.readouterr().out
    line = next(x for x in said.splitlines()[::-1] if "vivit_small, forward" in x and "seconds" in x)
    assert "2.00" in line


def test_a_gpus_rows(benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """On the CPU, with tiny sizes: steps of both models, and the reader's rates and a training's waiting."""
    import bench

    monkeypatch.setattr(bench, "GPU_STEP_S", 0.0)
    found = run_bench(monkeypatch, tmp_path / "gpu.json", 400.0, "--device", "cuda")
    assert found["left_out"] == {}
    for name in ("vivit_small", "vivit_baseline"):
        for how in ("uncompiled", "compiled", "compiled, not deterministic"):
            step = found["rows"][f"{name}, training step, {how}"]
            assert step["of_peak"] > 0 and step["memory_mb"] > 0 and step["precision"] == "bfloat16"
    for files in ("uncompressed", "compressed"):
        assert found["rows"][f"reading, {files}, 0 workers"]["clips_per_s"] > 0
        assert 0 < found["rows"][f"vivit_small, compiled, trained from {files} files, 0 workers"]["waiting"] < 1
    sizes = [found["rows"][f"reading, {files}, 0 workers"]["files_mb"] for files in ("compressed", "uncompressed")]
    assert sizes[0] < 0.8 * sizes[1]


def test_clips_that_do_not_fit_are_halved(benchmarks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench

    tried = []

    def step(settings: Any, sizes: Any, device: str, compiled: bool) -> dict[str, Any]:
        checkpointing = settings["model"]["checkpointing"]
        tried.append((sizes.clips, checkpointing))
        if sizes.clips > 1 and not checkpointing:
            raise torch.cuda.OutOfMemoryError
        return {"clips": sizes.clips}

    monkeypatch.setattr(bench, "gpu_step", step)
    rows = dict(bench.of_model_on_gpu("vivit_small", replace(bench.TINY, clips=2), "cpu"))
    assert rows["vivit_small, training step, compiled"] == {"clips": 1, "note": "2 clips do not fit"}
    assert rows["vivit_small, training step, compiled, checkpointing"] == {"clips": 2, "note": ""}
    assert tried[:2] == [(2, False), (1, False)]


def test_what_has_no_time_or_fails_is_left_out_and_said(benchmarks: None, tmp_path: Path) -> None:
    import measuring

    script = tmp_path / "part.py"
    script.write_text('import sys, time\nprint(\'["row", {"seconds": 1}]\', flush=True)\nexec(sys.argv[1])')
    rows = measuring.rows_of(str(script), 60, "raise ValueError('no such thing')")
    assert next(rows) == ("row", {"seconds": 1})
    with pytest.raises(RuntimeError, match="it failed: ValueError: no such thing"):
        next(rows)
    rows = measuring.rows_of(str(script), 2, "time.sleep(60)")
    assert next(rows) == ("row", {"seconds": 1})
    with pytest.raises(RuntimeError, match="no time was left"):
        next(rows)
    assert list(measuring.rows_of(str(script), 60, "pass")) == [("row", {"seconds": 1})]
