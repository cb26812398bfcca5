"""The benchmarks run and write what docs/performance.md is made from. Their numbers are no test's business."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from vivit_core.data.recording.reader import Recording

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The scripts can be imported, and nothing is compiled."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(torch, "compile", lambda call, dynamic: call)
    was = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(was)
    for name in ("bench", "choices", "measuring", "reading", "scale", "first_hour", "kinds"):
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


@pytest.mark.slow
def test_every_shipped_default_has_its_rows(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import bench

    found = run_bench(monkeypatch, tmp_path / "first.json", 90.0)
    shipped = {path.stem for path in (BENCHMARKS.parent / "conf" / "model").glob("*.yaml")}
    shipped -= {"ln", "ln_surround"}  # no steps train these
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


@pytest.mark.long
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


def test_a_step_with_a_latent_learns_it_too(benchmarks: None) -> None:
    """Else its cost would be left out."""
    import bench
    import measuring

    step = measuring.Step(measuring.settings_of("model/latent=shared_gain", "model.compile=false"), bench.TINY, "cpu")
    latent = step.twin.latent("recording0")
    before = [p.detach().clone() for p in latent.parameters()]
    step()
    assert all(not torch.equal(p, was) for p, was in zip(latent.parameters(), before, strict=True))


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


def test_a_large_product_is_not_made_in_what_is_emulated(benchmarks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import measuring

    made = []

    def speed(dtype: torch.dtype, device: str, size: int) -> float:
        made.append((dtype, size))
        return 100.0 if dtype == torch.float32 else 0.2

    monkeypatch.setattr(measuring, "matmul_gflops", speed)
    monkeypatch.setattr(measuring, "copied_gb_s", lambda device, megabytes: 10.0)
    monkeypatch.setattr(measuring, "as_in_training", lambda device: None)
    assert list(dict(measuring.peaks("cpu"))) == ["matrix product, float32", "copy in memory"]
    assert [size for dtype, size in made if dtype == torch.bfloat16] == [256], "a minute's product was made"


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


FAKED = """
import json, pathlib, time
for line in ("task=train begins", "the linear baseline (LN) begins; how long it takes is unknown",
             "LN sim0: 64 in 0:09 min",
             "the linear baseline (LN) took 0:51 min", "the training begins, and takes about 9:00 min",
             "the training took 9:01 min", "the evaluation begins, and takes about 0:12 min"):
    print(line, flush=True)
    time.sleep(0.3 if line.startswith("the training b") else 0.02)
run = pathlib.Path("outputs/train/2026-11-26_00-00-00_abcdef")
run.mkdir(parents=True)
own = {"bps_mean": 0.9, "ln_bps_mean": 0.7, "knowable_fraction": None}
(run / "summary.json").write_text(json.dumps({**own, "recordings": {"sim0": own}}))
"""


def test_the_first_hour_has_a_stopwatch_for_each_stage(
    benchmarks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import first_hour

    words = ["--busy", "0.5", "--folder", str(tmp_path / "new"), "--out", str(tmp_path / "found.json")]
    first_hour.main([*words, "--command", sys.executable, "-c", FAKED])
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["stages"]) == [
        "start-up",
        "the linear baseline (LN)",
        "after the linear baseline (LN)",
        "the training",
        "after the training",
        "the evaluation",
    ]
    assert max(found["stages"], key=found["stages"].get) in ("the training", "start-up")
    assert found["stages"]["the training"] >= 0.25  # it sleeps .3; when a line is read varies
    assert found["scores"] == [["all", 0.9, 0.7, None], ["sim0", 0.9, 0.7, None]]
    said = capsys.readouterr().out
    assert "+0.200" in said and found["machine"]["name"] in said and "beside 0.5 of a core" in said
    with pytest.raises(SystemExit, match="ended with status 3"):
        words = ["--folder", str(tmp_path / "other"), "--out", str(tmp_path / "none.json")]
        first_hour.main([*words, "--command", sys.executable, "-c", "raise SystemExit(3)"])
    assert not (tmp_path / "none.json").exists()


def test_a_busy_process_takes_its_share_of_a_core(benchmarks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import first_hour

    wall_s = cpu_s = 0.0

    def look(spent: bool) -> float:
        """A look at either clock takes a millisecond of a core."""
        nonlocal wall_s, cpu_s
        wall_s, cpu_s = wall_s + 0.001, cpu_s + 0.001
        return cpu_s if spent else wall_s

    def sleep(seconds: float) -> None:
        nonlocal wall_s
        wall_s += seconds
        if wall_s > 60:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sys, "argv", ["-c", "0.5"])
        patch.setattr(time, "process_time", lambda: look(spent=True))
        patch.setattr(time, "monotonic", lambda: look(spent=False))
        patch.setattr(time, "sleep", sleep)
        exec(first_hour.BUSY, {})
    assert cpu_s / wall_s == pytest.approx(0.5, abs=0.02)


@pytest.mark.slow
def test_other_kinds_of_recordings_hold_their_truth(benchmarks: None, tmp_path: Path) -> None:
    import kinds

    kinds.write("thalamus", tmp_path / "data", seed=0)
    recording = Recording(tmp_path / "data" / "thalamus.h5")
    trials = recording.info.trials
    repeated = np.array([name.startswith("rep") for name in trials.stimulus_id])
    assert repeated.sum() == 12 and set(trials.split[repeated]) == {"test"}
    of = {split: set(trials.stimulus_id[trials.split == split]) for split in ("train", "val", "test")}
    assert all(of.values()) and not of["train"] & (of["val"] | of["test"]) and not of["val"] & of["test"]
    counts_TU, rates_TU = recording.counts(0, 30_000), recording.truth("rate", 0, 30_000)
    assert counts_TU.mean() == pytest.approx(rates_TU.mean(), rel=0.03)  # 4000 spikes: .016
    assert np.corrcoef(counts_TU[:, 0], rates_TU[:, 0])[0, 1] > 0.3


@pytest.mark.slow
def test_other_kinds_of_recordings_are_trained_on(
    benchmarks: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import kinds

    with pytest.raises(SystemExit):
        kinds.main(["cats"])
    assert "no such kind: cats" in capsys.readouterr().err
    kinds.main(["flicker", "--folder", str(tmp_path / "new"), "--set", "trainer=debug"])
    (row,) = (line for line in capsys.readouterr().out.splitlines() if "flicker" in line and "│" in line)
    summary = json.loads((tmp_path / "new" / "flicker" / "run" / "summary.json").read_text())
    assert f"{summary['bps_mean']:.3f}" in row and f"{summary['truth_bps_mean']:.3f}" in row


@pytest.mark.slow
def test_scale_has_a_line_for_each_size(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import scale

    monkeypatch.setattr(
        scale, "rows_of", lambda script, seconds, *words: scale.part(scale.parser().parse_args(list(words)))
    )
    monkeypatch.setattr(scale, "GROWING", {"units": [4, 16], "pixels": [18, 36]})
    scale.main(
        ["--tiny", "--model", "resnet", "--parts", "units", "pixels", "reading", "--out", str(tmp_path / "s.json")]
    )
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["left_out"] == {}
    assert [line["units"] for line in found["parts"]["units"].values()] == [4, 16]
    assert [(line["height"], line["width"]) for line in found["parts"]["pixels"].values()] == [(18, 26), (36, 52)]
    assert all(line["seconds"] > 0 for part in ("units", "pixels") for line in found["parts"][part].values())
    assert {name for name in found["parts"]["reading"] if "reading" in name} == {
        "reading, uncompressed, 0 workers",
        "reading, compressed, 0 workers",
        "reading, compressed by lzf, 0 workers",
    }
    assert "| units | s a step | growth |" in (tmp_path / "s.md").read_text()
    assert "| reading, compressed by lzf, 0 workers | " in (tmp_path / "s.md").read_text()
    # Steeper than linear: from 4 to 16 units four times as many, and sixteen times as long.
    for i, line in enumerate(found["parts"]["units"].values()):
        line["seconds"] = 16.0**i
    table = next(scale.tables(found))
    assert list(table.columns[2].cells) == ["", "2.00"]


def test_scale_leaves_out_what_there_is_no_memory_for(benchmarks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    import scale

    monkeypatch.setattr(scale, "free_mb", lambda: 1.0)
    monkeypatch.setattr(scale, "Step", None)
    with pytest.raises(SystemExit, match=r"GiB of memory, and 0\.0 are free"):
        list(scale.of_size("resnet", scale.TINY, 0.0))


def test_scale_leaves_out_what_there_is_no_time_for(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import scale

    def rows(script: str, seconds: float, *words: str) -> Any:
        if words[words.index("--value") + 1] == "16":
            raise RuntimeError("no time was left")
        yield "step", {"seconds": 1.0, "gflop": 1.0, "memory_mb": 10.0, "planned_mb": 9.0}

    monkeypatch.setattr(scale, "rows_of", rows)
    scale.main(["--parts", "recordings", "--out", str(tmp_path / "s.json")])
    found = json.loads((tmp_path / "s.json").read_text())
    assert list(found["parts"]["recordings"]) == ["1", "4"]  # and 64, which is larger, was not tried
    assert found["left_out"] == {"recordings 16": "no time was left"}


def test_a_choice_that_fails_says_what_went_wrong(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And not the advice under it."""
    import choices

    def run(command: Sequence[str], stdout: Any, **_: Any) -> Any:
        stdout.write("task=train begins\na.h5: units/position_um: missing\n(debug=true adds the traceback)\n\n")
        return SimpleNamespace(returncode=1)

    monkeypatch.setattr(choices.subprocess, "run", run)
    assert choices.train(["readout=retinotopic"], tmp_path / "run") == "a.h5: units/position_um: missing"


def test_choices_are_compared_at_equal_cost(
    benchmarks: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An option whose step costs twice as much gets half of the steps; settings of the part that is exchanged stay with
    the default where the option does not have them; one that fails is told, and a second run trains nothing again."""
    import choices

    trained: list[Sequence[str]] = []
    folders: list[Path] = []

    def train(words: Sequence[str], folder: Path, threads: int) -> str | None:
        trained.append(words)
        folders.append(folder)
        return "no such thing (at /tmp/x). Set another" if "readout=attention" in words else None

    def found(folder: Path) -> Any:
        bps = 0.5 + 0.1 * ("factorized" in folder.name) + 0.01 * int(folder.parent.name[-1])
        numbers = {"bps": bps, "corr": 0.1, "share": np.nan, "steps": 40, "parameters": 1e6}
        return choices.Found("poisson", [bps] * 3, numbers, "abc1234")

    monkeypatch.setattr(choices, "train", train)
    monkeypatch.setattr(choices, "found", found)
    monkeypatch.setattr(choices, "cost", lambda choice, settings: 2.0 if "factorized" in choice.option else 1.0)
    page = tmp_path / "page.md"
    begins, ends = choices.MARKS
    names = "found.json", "what the options are", "others.json"
    page.write_text("\n".join(["before", *(f"{begins}\nold\n{ends}\nafter".format(x, x) for x in names), ""]))
    words = [
        *("choices", "--groups", "readout", "--others", "data.weighting=equal", "--seeds", "0", "1", "--steps", "60"),
        *("--jobs", "2", "--folder", str(tmp_path / "made"), "--results", str(tmp_path / "found.json")),
        *("--page", str(page), "--", "readout.std_max_px=9"),
    ]
    monkeypatch.setattr(sys, "argv", words)
    choices.main()
    of_seed = [list(words) for words in trained if "seed=1" in words]
    (factorized,) = (words for words in of_seed if "readout=factorized" in words)
    assert "trainer.steps_per_epoch=10" in factorized and "readout.std_max_px=9" not in factorized
    retinotopic = next(words for words in of_seed if "readout=retinotopic" in words)
    assert "trainer.steps_per_epoch=20" in retinotopic and "readout.std_max_px=9" in retinotopic
    assert len(trained) == 2 * 5  # the default, three other readouts, a weighting
    told = page.read_text()
    assert told.startswith("before\n") and told.endswith("after\n") and told.count("after") == 3
    assert told.count("old") == 1, "the table of other results stays"
    assert told.index("what the options are") < told.index("A mask over the frame")
    lines = {line.split("|")[1].strip(): line for line in told.splitlines() if line.startswith("| `")}
    assert "+0.100 [+0.100, +0.100]" in told and " 0, 1 |" in told and "| failed: no such thing |" in told
    assert "`default`" in told and "`data.weighting=equal`" in lines
    trained.clear()
    choices.main()
    assert {word for words in trained for word in words if word.startswith("readout=")} == {"readout=attention"}
    assert "trained at abc1234" in page.read_text()
    monkeypatch.setattr(sys, "argv", [*words[:-1], "readout.std_max_px=8"])
    with pytest.raises(SystemExit, match=r"std_max_px=9.*another --results"):
        choices.main()
    folders.clear()
    monkeypatch.setattr(sys, "argv", [*words[:12], "--results", str(tmp_path / "others.json")])
    choices.main()
    assert {folder.parent.parent for folder in folders} == {choices.ROOT / "outputs/choices/others"}
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.setattr(choices, "default_twin", lambda: "another")
    with pytest.raises(SystemExit, match="beside another default twin"):
        choices.main()
