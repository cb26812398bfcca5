"""How close to the machine's limit: training, streaming, loading, memory. ``make bench ARGS="--device cuda"`` on a GPU.

Each speed stands beside the peak of a plain matrix product measured in the same run. FLOPs are the model's own: matrix
products, convolutions and attention, the backward pass counted as two forward ones, nothing that is computed again.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from hydra import compose, initialize_config_dir
from rich.console import Console
from rich.table import Table

from vivit_core.analysis.stream.numbers import measure_stream
from vivit_core.cli.schema import conf_dir
from vivit_core.cli.validate import validate
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.likelihoods.loss import summed_loss
from vivit_core.models.plan import expected, plan
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build
from vivit_core.specs import Batch, Clips, RecordingSpec
from vivit_core.training.machine import compiles, keep_freed_memory

RESULTS = Path(__file__).parent / "results" / "latest.json"
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DROPOUTS = ["model.attention.dropout=0.1", "model.patch_dropout=0.1"]  # besides those that are on anyway
SMALL = ["model=vivit_small", "model/tokenizer=tubelet", "model.tokenizer.patch_size=[8,8,8]", "model/frontend=none"]
console = Console(soft_wrap=True, highlight=False)


@dataclass(frozen=True)
class Sizes:
    """Of the clips; small ones only show that the benchmark runs."""

    bins: int = 300
    side: int = 48  # px
    units: int = 100
    behavior: int = 42  # numbers
    repeats: int = 7
    trials: int = 60  # of a recording, of ``bins`` bins each
    gemm: int = 4096
    narrow: bool = False

    def words(self) -> list[str]:
        return ["model.embedding_dim=24", "model.compile=false"] if self.narrow else []


CASES = {
    "small": (SMALL, 4, 1),  # settings, clips of a batch, recordings
    "baseline": (["model=vivit_baseline"], 1, 1),
    "multi8": (SMALL, 8, 8),
}


def twin_of(settings: Mapping[str, Any], specs: list[RecordingSpec], predict: Literal["all", "last"] = "all") -> Twin:
    return Twin(settings["model"], settings["readout"], settings["likelihood"], specs, predict)


def settings_of(*words: str) -> dict[str, Any]:
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validate(compose("config", overrides=["run_dir=none", *words]))


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: str, repeats: int, warm_up: int = 2) -> float:
    """Median seconds."""
    seconds = []
    for i in range(warm_up + repeats):
        synchronize(device)
        start = time.perf_counter()
        call()
        synchronize(device)
        if i >= warm_up:
            seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def gemm_gflops(dtype: torch.dtype, device: str, size: int) -> float:
    """The best of several square matrix products."""
    best = 0.0
    for n in (size // 2, size):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        best = max(best, 2 * n**3 / timed(partial(torch.mm, a, b, out=out), device, 5) / 1e9)
    return best


class Step:
    """One training step of one case, everything that costs time included: dropout, loss, clipping, optimizer."""

    def __init__(self, case: str, sizes: Sizes, device: str, dtype: str, *more: str) -> None:
        words, clips, recordings = CASES[case]
        self.settings = settings_of(*words, *DROPOUTS, *sizes.words(), *more)
        self.device, self.bfloat16 = device, dtype == "bfloat16"
        torch.manual_seed(0)
        shape = (1, sizes.side, sizes.side)
        specs = expected(shape, recordings, sizes.units, sizes.behavior)
        self.twin = twin_of(self.settings, specs, self.settings["predict"]).to(device)
        if compiles(self.twin.core.compile_choice, device, sys.maxsize):
            self.twin.core.compile_blocks()
        self.optimizer = build("optim", self.settings["optim"]).build(self.twin, 1, 10_000)[0]
        each, bins, units = clips // recordings, sizes.bins, sizes.units
        self.batch: Batch = {
            spec.recording_id: Clips(
                frames=torch.randint(0, 256, (each, 1, bins, sizes.side, sizes.side), dtype=torch.uint8).to(device),
                behavior=torch.randn(each, bins, sizes.behavior).to(device),
                counts=torch.poisson(torch.full((each, bins, units), 0.1)).to(device),
                valid=torch.ones(each, bins, units, dtype=torch.bool).to(device),
            )
            for spec in specs
        }
        self.clips, self.burn_in = clips, min(50, bins // 2)
        self.plan = plan(
            self.settings["model"],
            self.settings["readout"],
            self.settings["likelihood"],
            frame_shape=shape,
            recordings=recordings,
            units=units,
            behavior_dim=sizes.behavior,
            clip_length=bins,
            batch_size=clips,
            predict=self.settings["predict"],
            precision="bf16-mixed" if self.bfloat16 else "32-true",
            device=device,
        )

    def __call__(self, batch: Batch | None = None) -> None:
        batch = self.batch if batch is None else batch
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            predicted = self.twin(batch)
        total, pairs = summed_loss(predicted, batch, self.burn_in, self.twin.likelihood)
        (total / pairs + self.twin.regularizer()).backward()
        torch.nn.utils.clip_grad_norm_(self.twin.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


# What each part measures ---------------------------------------------------------------------------------------------


def train_steps(sizes: Sizes, device: str, gemm: dict[str, float]) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for case in CASES:
        for dtype in DTYPES:
            step = Step(case, sizes, device, dtype)
            seconds = timed(step, device, sizes.repeats if case != "baseline" else max(1, sizes.repeats // 2))
            results[f"{case}_{dtype}"] = {
                "seconds": seconds,
                "mfu": step.plan.flops / seconds / 1e9 / gemm[dtype],
                "clips_per_s": step.clips / seconds,
                "bins_per_s": step.clips * sizes.bins / seconds,
                "gflops_of_a_step": step.plan.flops / 1e9,
            }
            say(f"train_step {case} {dtype}", results[f"{case}_{dtype}"])
            del step
            torch._dynamo.reset()
            gc.collect()
    return results


def all_over_last(sizes: Sizes, device: str) -> float:
    """Cost of predicting every bin, in steps that predict the newest alone; measured in turns."""
    steps = {p: Step("small", sizes, device, "float32", f"predict={p}", "model.compile=false") for p in ("all", "last")}
    ratios = []
    for i in range(sizes.repeats + 1):
        every, newest = (timed(steps[p], device, 1, warm_up=0 if i else 1) for p in ("all", "last"))
        ratios.append(every / newest)
    return statistics.median(ratios[1:])


def streaming(sizes: Sizes, device: str) -> dict[str, Any]:
    twin = Step("small", sizes, device, "float32", "model.compile=false").twin
    made = np.random.default_rng(0)
    frames = made.integers(0, 256, (sizes.bins, sizes.side, sizes.side), dtype=np.uint8)
    behavior = made.normal(size=(sizes.bins, sizes.behavior)).astype(np.float32)
    return measure_stream(twin, "recording0", frames, behavior, progress=False).summary()


def write_recordings(folder: Path, sizes: Sizes, times: int) -> None:
    """Four recordings of noise, ``times`` as long."""
    made = np.random.default_rng(0)
    trials, bins = sizes.trials * times, sizes.bins
    for i in range(4):
        split = np.array(["val", "test", *["train"] * (trials - 2)])
        start = np.arange(trials) * bins
        write_recording(
            folder / f"recording{i}.h5",
            recording_id=f"recording{i}",
            frame_rate_hz=120.0,
            frames=made.integers(0, 256, (trials * bins, sizes.side, sizes.side), dtype=np.uint8),
            counts=made.poisson(0.1, (trials * bins, sizes.units)).astype(np.float32),
            behavior={"behavior": made.normal(size=(trials * bins, sizes.behavior)).astype(np.float32)},
            trials=Trials(start, start + bins, np.arange(trials).astype(str), split),
        )


def loader_of(folder: Path, sizes: Sizes, batches: int) -> RecordingsDataModule:
    data = settings_of("data=multi_backimage", f"data.root={folder}", "data.behavior=[behavior]")["data"]
    data |= {"clip_length": sizes.bins, "burn_in": 1, "evaluation_length": sizes.bins, "evaluation_burn_in": 1}
    module: RecordingsDataModule = build("data", {k: v for k, v in data.items() if k != "geometry"})
    module.configure(batch_size=4, batches_per_epoch=batches)
    module.setup()
    return module


def load_only(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Bins a second of the loader alone, and this process's memory after it; in a process of its own."""
    batches = 10 * sizes.trials
    module = loader_of(folder, sizes, batches)
    start = time.perf_counter()
    bins = sum(len(c["frames"]) * sizes.bins for batch in module.train_dataloader() for c in batch.values())
    return {"bins_per_s": bins / (time.perf_counter() - start), "rss_mb": status_mb("VmRSS")}


def data_wait_frac(folder: Path, sizes: Sizes, device: str) -> float:
    """The part of a training's time that goes by until a batch is there."""
    step = Step("small", sizes, device, "float32", "model.compile=false")
    module = loader_of(folder, sizes, 2 + sizes.repeats)
    specs = expected((1, sizes.side, sizes.side), len(module.specs), sizes.units, sizes.behavior)
    step.twin = twin_of(step.settings, specs).to(device)
    step.optimizer = build("optim", step.settings["optim"]).build(step.twin, 1, 10_000)[0]
    waited = worked = 0.0
    batches = iter(module.train_dataloader())
    for i in range(2 + sizes.repeats):
        start = time.perf_counter()
        batch = {name: Clips(**{k: v.to(device) for k, v in clips.items()}) for name, clips in next(batches).items()}  # type: ignore[typeddict-item, attr-defined]
        there = time.perf_counter()
        step(batch)
        synchronize(device)
        if i >= 2:
            waited, worked = waited + there - start, worked + time.perf_counter() - there
    return waited / (waited + worked)


def activation(checkpointing: bool, sizes: Sizes, device: str) -> dict[str, float]:
    """What a training step of the baseline holds at most besides weights and moments; in a process of its own."""
    if device == "cpu" and not checkpointing:
        keep_freed_memory()  # as training does
    step = Step("baseline", sizes, device, "float32", f"model.checkpointing={str(checkpointing).lower()}")
    step()  # compiles, and makes the moments
    gc.collect()
    if device == "cuda":
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        measured = (torch.cuda.max_memory_allocated() - before) / 2**20
    else:
        ctypes.CDLL(None).malloc_trim(0)
        before_mb = status_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
        step()
        measured = status_mb("VmHWM") - before_mb
    return {"measured_mb": measured, "planned_mb": step.plan.activation_bytes / 2**20}


def status_mb(name: str) -> float:
    """A line of /proc/self/status, MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name)) / 1024


# All of them ---------------------------------------------------------------------------------------------------------


def alone(part: str, small: bool, device: str, *words: str) -> dict[str, Any]:
    """A part in a process of its own, so that its memory is its own."""
    command = [sys.executable, __file__, "--part", part, "--device", device, *(["--tiny"] if small else []), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def say(name: str, values: Any) -> None:
    numbers = values.items() if isinstance(values, dict) else [("", values)]
    console.print(f"{name}: " + ", ".join(f"{k} {v:.4g}".strip() for k, v in numbers if isinstance(v, int | float)))


def machine(device: str) -> dict[str, Any]:
    cpu = next(
        (x for x in Path("/proc/cpuinfo").read_text().splitlines() if x.startswith("model name")), platform.processor()
    )
    return {
        "device": device,
        "name": torch.cuda.get_device_name() if device == "cuda" else cpu.split(":")[-1].strip(),
        "threads": torch.get_num_threads(),
        "bf16_instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def bench(sizes: Sizes, device: str) -> dict[str, Any]:
    if device == "cpu":
        keep_freed_memory()
    small = sizes.narrow
    results: dict[str, Any] = {"machine": machine(device)}
    console.print(", ".join(f"{k} {v}" for k, v in results["machine"].items()))
    # In processes of their own, and first, so that nothing else is running.
    results["activation_mb"] = {}
    for name, word in (("baseline", "false"), ("baseline_checkpointed", "true")):
        found = alone("activation", small, device, "--checkpointing", word)
        results["activation_mb"] |= {name: found["measured_mb"], f"{name}_planned": found["planned_mb"]}
    say("activation_mb", results["activation_mb"])
    before = {dtype: gemm_gflops(DTYPES[dtype], device, sizes.gemm) for dtype in DTYPES}
    say("gemm_gflops", before)
    results["train_step"] = train_steps(sizes, device, before)
    after = {dtype: gemm_gflops(DTYPES[dtype], device, sizes.gemm) for dtype in DTYPES}
    # The better of before and after: what the machine can do when nobody disturbs it.
    results["gemm_gflops"] = {dtype: max(before[dtype], after[dtype]) for dtype in DTYPES}
    for name, values in results["train_step"].items():
        dtype = name.rsplit("_", 1)[1]
        values["mfu"] *= before[dtype] / results["gemm_gflops"][dtype]
    results["all_over_last"] = all_over_last(sizes, device)
    say("all_over_last", results["all_over_last"])
    results["stream"] = streaming(sizes, device)
    results["stream_over_clip"] = results["stream"]["stream_over_clip"]
    say("stream", results["stream"])
    with tempfile.TemporaryDirectory() as made:
        loaded = {}
        for times in (1, 10):
            folder = Path(made) / str(times)
            folder.mkdir()
            write_recordings(folder, sizes, times)
            loaded[times] = alone("loader", small, device, "--folder", str(folder))
        results["data_wait_frac"] = data_wait_frac(Path(made) / "1", sizes, device)
    results["loader"] = {
        "bins_per_s": loaded[1]["bins_per_s"],
        "over_train_step": loaded[1]["bins_per_s"] / results["train_step"]["small_float32"]["bins_per_s"],
        "rss_mb_1x": loaded[1]["rss_mb"],
        "rss_mb_10x": loaded[10]["rss_mb"],
    }
    say("loader", results["loader"])
    say("data_wait_frac", results["data_wait_frac"])
    return results


def table_of(results: dict[str, Any]) -> Table:
    table = Table("training step", title=f"{results['machine']['name']}, {results['machine']['threads']} threads")
    for name in ("s", "of the peak", "clips/s", "bins/s"):
        table.add_column(name, justify="right")
    for name, step in results["train_step"].items():
        row = (
            f"{step['seconds']:.3f}",
            f"{step['mfu']:.0%}",
            f"{step['clips_per_s']:.2f}",
            f"{step['bins_per_s']:.0f}",
        )
        table.add_row(name, *row)
    return table


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON file to write")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, whose numbers mean nothing: does it run?")
    parser.add_argument("--part", choices=("loader", "activation"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--checkpointing", help=argparse.SUPPRESS)
    given = parser.parse_args(words)
    sizes = (
        Sizes(bins=32, side=16, units=5, behavior=3, repeats=2, trials=4, gemm=256, narrow=True)
        if given.tiny
        else Sizes()
    )
    if given.part == "loader":
        print(json.dumps(load_only(given.folder, sizes)))
    elif given.part == "activation":
        print(json.dumps(activation(given.checkpointing == "true", sizes, given.device)))
    else:
        results = bench(sizes, given.device)
        given.out.parent.mkdir(parents=True, exist_ok=True)
        given.out.write_text(json.dumps(results, indent=2) + "\n")
        console.print(table_of(results))
        console.print(f"written: {given.out}")


if __name__ == "__main__":
    main()
