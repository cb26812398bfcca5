"""How fast the shipped models are here, beside what the machine can do at best. ``make bench``: 6 minutes at most.

    python benchmarks/bench.py                       # writes bench.json
    python benchmarks/bench.py --against old.json    # and prints the ratios to an earlier run
    python benchmarks/bench.py --device cuda         # the default and the baseline on a GPU, in 8 minutes at most

On a CPU: for each model a training step, a pass forward, one streamed bin and the memory; the simulation, LN's fit and
the evaluation of the default recordings; start-up. Steps are uncompiled, as the default training is there.

On a GPU: training steps of 32 clips in bfloat16, uncompiled and compiled, deterministic as trainings are and not; what
the reader of recordings gives; how long a training waits for it.

What the machine only emulates, and what no time was left for, is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from measuring import (
    DATA_SHEET_TFLOPS,
    Precision,
    Row,
    Sizes,
    Step,
    as_in_training,
    machine,
    peak_mb,
    peaks,
    print_rows,
    rows_of,
    settings_of,
    synchronize,
    timed,
)
from reading import module_of, reading
from vivit_core.analysis.evaluate.evaluate import evaluate
from vivit_core.cli.schema import conf_dir
from vivit_core.cli.trained import is_fitted_alone
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build_data
from vivit_core.specs import Clips
from vivit_core.training.baseline import fit_ln

RUN = Path(__file__).resolve().parents[1] / "run.py"
MINUTES = {"cpu": 6.0, "cuda": 7.5}
GPU_STEP_S = 4.0  # seconds for the steps of one way to train, on a GPU
STEP_S = 8.0  # seconds for the training steps of one model and precision
LARGE_GFLOP = 1000.0  # a step that is larger is measured with one clip, on a CPU
GPU_CLIPS = 32
GPU_MODELS = ("vivit_small", "vivit_baseline")
TINY = Sizes(recordings=1, units=3, bins=48, height=18, width=26, behavior=2, clips=1)
TINY_RECORDING = [
    "data/simulator/context=none",
    "data.simulator.units=3",
    "data.simulator.train_trials=2",
    "data.simulator.val_trials=1",
    "data.simulator.test_trials=1",
    "data.simulator.repeated_stimuli=0",
    "data.simulator.trial_s=1.0",
    "data.simulator.height=18",
    "data.simulator.width=26",
    "data.clip_length=60",
    "data.burn_in=20",
]
COLUMNS = {  # a row's numbers: their names, and how they are written
    "seconds": ("seconds", "{:.3g}"),
    "clips": ("clips", "{:.0f}"),
    "clips_per_s": ("clips/s", "{:.3g}"),
    "memory_mb": ("MiB", "{:.0f}"),
    "gflop_s": ("GFLOP/s", "{:.0f}"),
    "gb_s": ("GB/s", "{:.1f}"),
    "waiting": ("waiting", "{:.1%}"),
}
console = Console(width=max(150, Console().width), soft_wrap=True, highlight=False)  # its table is wide


def models() -> list[str]:
    """The shipped twins, the default and the baseline first."""
    every = (path.stem for path in (conf_dir() / "model").glob("*.yaml"))
    names = (name for name in every if not is_fitted_alone(settings_of(f"model={name}")["model"]))
    return sorted(names, key=lambda name: (name not in GPU_MODELS, name != GPU_MODELS[0], name))


# Parts, each in a process of its own ---------------------------------------------------------------------------------


def of_model(name: str, sizes: Sizes, precisions: list[Precision]) -> Iterator[Row]:
    """A model's speeds on a CPU."""
    as_in_training("cpu")
    settings = settings_of(f"model={name}")
    gflop = sizes.planned(settings, "cpu", "float32").flops / 1e9
    if gflop > LARGE_GFLOP:
        sizes, gflop = replace(sizes, clips=1), gflop / sizes.clips
    for precision in precisions:
        step = Step(settings, sizes, "cpu", precision)
        seconds = timed(step, "cpu", STEP_S)
        common = {"precision": precision, "clips": sizes.clips}
        speed = {"seconds": seconds, "clips_per_s": sizes.clips / seconds, "gflop": gflop}
        yield f"{name}, training step, {precision}", common | speed | {"memory_mb": peak_mb("cpu")}
        if precision == "float32":
            seconds = timed(step.forward, "cpu", STEP_S / 3)
            speed = {"seconds": seconds, "clips_per_s": sizes.clips / seconds, "gflop": gflop / 3}
            yield f"{name}, forward, {precision}", common | speed
            mean, most = step.streamed_bin_s(STEP_S / 2)
            yield f"{name}, one streamed bin", {"seconds": mean, "note": f"at most {1e3 * most:.1f} ms"}


def of_recordings(words: list[str]) -> Iterator[Row]:
    """What the default recordings cost besides the training: one of them is measured."""
    as_in_training("cpu")
    with tempfile.TemporaryDirectory() as made:
        settings = settings_of("data.simulator.recordings=1", f"data.cache={made}/cache", *words)
        all_of_them = settings_of()["data"]["simulator"]["recordings"]
        datamodule = build_data(settings["data"])
        baseline = {key: value for key, value in settings["baseline"].items() if key != "_target_"}
        for name, call in {
            "simulation of the default recordings": datamodule.prepare_data,
            "their checks and statistics": datamodule.setup,
            "LN of them": lambda: fit_ln(datamodule, **baseline, progress=False),  # not what was kept of an earlier fit
            "evaluation of their test split": lambda: evaluate(
                Twin(settings["model"], settings["readout"], settings["likelihood"], datamodule.specs, "all"),
                datamodule,
                ln=None,
                out=Path(made) / "evaluation",
                checkpoint="none",
                progress=False,
            ),
        }.items():
            start, cpu = time.perf_counter(), time.process_time()
            call()
            took, cpu = time.perf_counter() - start, time.process_time() - cpu
            note = f"one of {all_of_them} took {took:.1f} s, and {cpu:.1f} s of CPU"
            yield name, {"seconds": took * all_of_them, "cpu_s": cpu * all_of_them, "note": note}


def startup() -> Iterator[Row]:
    """Seconds until a command is done, the second time."""
    commands = {
        "start-up: import torch": [sys.executable, "-c", "import torch"],
        "start-up: run.py --help": [sys.executable, str(RUN), "--help"],
        "start-up: run.py task=plan": [sys.executable, str(RUN), "task=plan"],
    }
    with tempfile.TemporaryDirectory() as made:
        for name, words in commands.items():
            for _ in range(2):
                start = time.perf_counter()
                subprocess.run(words, cwd=made, check=True, capture_output=True)
                seconds = time.perf_counter() - start
            yield name, {"seconds": seconds}


def of_model_on_gpu(name: str, sizes: Sizes, device: str) -> Iterator[Row]:
    """Training steps of a model in bfloat16, in as many clips as fit."""
    as_in_training(device)
    sheet = next((peak for gpu, peak in DATA_SHEET_TFLOPS.items() if device == "cuda" and gpu in gpu_name()), None)
    variants: dict[str, tuple[bool, bool, bool]] = {  # compiled, deterministic, checkpointing
        "uncompiled": (False, True, False),
        "compiled": (True, True, False),
        "compiled, not deterministic": (True, False, False),
    }
    fitted = True
    while variants:
        how = next(iter(variants))
        compiled, deterministic, checkpointing = variants.pop(how)
        settings = settings_of(f"model={name}", f"model.checkpointing={str(checkpointing).lower()}")
        torch.use_deterministic_algorithms(deterministic)
        given, note = sizes, ""
        while True:
            try:
                values = gpu_step(settings, given, device, compiled)
                break
            except torch.cuda.OutOfMemoryError:
                note = f"{given.clips} clips do not fit"
            given = replace(given, clips=given.clips // 2)  # what the failed step held is free again here
            free(device)
            if given.clips == 0:
                raise ValueError(f"not one clip of {name} fits")
        free(device)
        if sheet is not None:
            values["of_data_sheet"] = values["gflop"] / values["seconds"] / 1e3 / sheet
        yield f"{name}, training step, {how}", values | {"note": note}
        if note and fitted:
            fitted = False
            variants["compiled, checkpointing"] = (True, True, True)


def gpu_step(settings: Mapping[str, Any], sizes: Sizes, device: str, compiled: bool) -> dict[str, Any]:
    planned = sizes.planned(settings, device, "bfloat16")
    step = Step(settings, sizes, device, "bfloat16", compiled)
    began = time.perf_counter()
    step()  # compiles, and makes the moments
    synchronize(device)
    first_s = time.perf_counter() - began
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(step, device, GPU_STEP_S)
    return {
        "precision": "bfloat16",
        "clips": sizes.clips,
        "seconds": seconds,
        "clips_per_s": sizes.clips / seconds,
        "gflop": planned.flops / 1e9,
        "memory_mb": peak_mb(device),
        "planned_mb": planned.memory_bytes / 2**20,
        "first_s": first_s,
    }


def free(device: str) -> None:
    torch._dynamo.reset()
    if device == "cuda":
        torch.cuda.empty_cache()


def gpu_name() -> str:
    return torch.cuda.get_device_name()


def of_reading(sizes: Sizes, device: str, workers: list[int], trials: int, seconds: float) -> Iterator[Row]:
    """What the reader gives, and how long a training of the default waits for it."""
    as_in_training(device)
    with tempfile.TemporaryDirectory() as made:
        yield from reading(Path(made), sizes, workers, seconds, trials)
        step = Step(settings_of(), sizes, device, "bfloat16", compiled=True)
        step()
        for name in ("uncompressed", "compressed"):
            for count in workers:
                module = module_of(Path(made) / name, sizes, count, 100_000, pin_memory=device == "cuda")
                waiting, seconds_a_step = waited(step, module, count, seconds)
                values = {"waiting": waiting, "seconds": seconds_a_step, "clips_per_s": sizes.clips / seconds_a_step}
                yield f"{GPU_MODELS[0]}, compiled, trained from {name} files, {count} workers", values


def waited(step: Step, module: Any, workers: int, seconds: float) -> tuple[float, float]:
    """The part of a training's time that goes by until a batch is there, and seconds of a step, waiting included."""
    waits: list[float] = []
    steps = -2 * workers - 3  # that are not timed: workers start
    began = 0.0
    start = time.perf_counter()
    for batch in module.train_dataloader():
        moved = {
            name: Clips(**{key: tensor.to(step.device, non_blocking=True) for key, tensor in clips.items()})
            for name, clips in batch.items()
        }
        synchronize(step.device)
        there = time.perf_counter()
        step(moved)
        synchronize(step.device)
        now = time.perf_counter()
        steps += 1
        if steps == 0:
            began = now
        elif steps > 0:
            waits.append(there - start)
            if now - began > seconds:
                break
        start = now
    return sum(waits) / (now - began), (now - began) / steps


# All of them ---------------------------------------------------------------------------------------------------------


def part(given: argparse.Namespace) -> Iterator[Row]:
    """The rows of one part, in this process."""
    device = "cpu" if given.tiny else given.device
    sizes = TINY if given.tiny else Sizes.default(device)
    if given.part == "peaks":
        return peaks(device, given.tiny)
    if given.part == "startup":
        return startup()
    if given.part == "recordings":
        return of_recordings(TINY_RECORDING if given.tiny else [])
    many = sizes if given.tiny else replace(sizes, clips=GPU_CLIPS)
    if given.part == "reading":
        return of_reading(
            many, device, [0] if given.tiny else [0, 8], 2 if given.tiny else 20, 0.1 if given.tiny else 5
        )
    if given.device == "cuda":
        return of_model_on_gpu(given.model, many, device)
    return of_model(given.model, sizes, given.precisions)


def bench(given: argparse.Namespace) -> dict[str, Any]:
    """All parts, each row said as it is found."""
    began = time.monotonic()
    ends = began + 60 * (given.minutes or MINUTES[given.device])
    results: dict[str, Any] = {
        "machine": machine("cpu" if given.tiny else given.device),
        "rows": {},
        "left_out": {},
    }
    console.print(", ".join(f"{key} {value}" for key, value in results["machine"].items()))
    rows: dict[str, dict[str, Any]] = results["rows"]

    def run(name: str, *words: str) -> None:
        left_s = ends - time.monotonic()
        common = ["--device", given.device, *(["--tiny"] if given.tiny else [])]
        try:
            if left_s <= 0:
                raise RuntimeError("no time was left")
            for row, values in rows_of(__file__, left_s, "--part", *words, *common):
                # Of what is measured before and after, the better: what the machine can do when nobody disturbs it.
                if row in rows and any(rows[row][key] > values[key] for key in ("gflop_s", "gb_s") if key in values):
                    continue
                rows[row] = values
                given.out.write_text(json.dumps(results, indent=2) + "\n")
                console.print(f"{line(row, values, rows)} ({max(0.0, ends - time.monotonic()):.0f} s left)")
        except RuntimeError as error:
            results["left_out"][name] = str(error)
            console.print(f"{name}: left out: {error}")

    run("the machine's peaks", "peaks")
    precisions = [name for name in ("float32", "bfloat16") if f"matrix product, {name}" in rows] or ["float32"]
    if "bfloat16" not in precisions:
        results["left_out"]["bfloat16"] = "no faster than float32 here, so the machine emulates it"
    # The defaults first: what no time is left for is the least used.
    if given.device == "cuda":
        for name in GPU_MODELS:
            run(name, "model", "--model", name)
        run("reading", "reading")
    else:
        run("the default recordings", "recordings")
        run("start-up", "startup")
        for name in models():
            run(name, "model", "--model", name, "--precisions", *precisions)
    run("the machine's peaks, again", "peaks")
    for values in rows.values():
        if (share := of_peak(values, rows)) is not None:
            values["of_peak"] = share
    results["seconds"] = time.monotonic() - began
    return results


def of_peak(values: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> float | None:
    """The work a second, in that of a plain matrix product of this run."""
    peak = rows.get(f"matrix product, {values.get('precision')}")
    return None if peak is None or "gflop" not in values else values["gflop"] / values["seconds"] / peak["gflop_s"]


def line(name: str, values: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    """A row in words."""
    said = [f"{form.format(values[key])} {word}" for key, (word, form) in COLUMNS.items() if key in values]
    if (share := of_peak(values, rows)) is not None:
        said.append(f"{share:.0%} of the peak")
    if "of_data_sheet" in values:
        said.append(f"{values['of_data_sheet']:.1%} of the data sheet's")
    return f"{name}: " + ", ".join([*said, *([values["note"]] if values.get("note") else [])])


def table_of(results: Mapping[str, Any]) -> Table:
    """All rows."""
    found = results["machine"]
    table = Table(title=f"{found['name']}, {found['threads']} threads, load {found['load']}")
    table.add_column("what", no_wrap=True)
    columns = {key: column for key, column in COLUMNS.items() if any(key in row for row in results["rows"].values())}
    shares = {"of_peak": ("of the peak", "{:.0%}"), "of_data_sheet": ("of the data sheet", "{:.1%}")}
    columns |= {key: column for key, column in shares.items() if any(key in row for row in results["rows"].values())}
    for name, _ in columns.values():
        table.add_column(name, justify="right")
    for name, values in results["rows"].items():
        cells = (form.format(values[key]) if key in values else "" for key, (_, form) in columns.items())
        table.add_row(name, *cells)
    return table


def comparison(before: Mapping[str, Any], now: Mapping[str, Any]) -> Table:
    """Two runs beside each other: what both have."""
    table = Table(title=f"{before['machine']['date']} → {now['machine']['date']}")
    table.add_column("what", no_wrap=True)
    for name in ("", "before", "now", "now / before"):
        table.add_column(name, justify="right")
    for row, values in now["rows"].items():
        old = before["rows"].get(row, {})
        for key, (word, form) in COLUMNS.items():
            if key in values and key in old and key != "clips":
                ratio = f"{values[key] / old[key]:.2f}" if old[key] else ""
                table.add_row(row, word, form.format(old[key]), form.format(values[key]), ratio)
    return table


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=tuple(MINUTES), default="cpu")
    parser.add_argument("--minutes", type=float, help=f"after which what is missing is left out ({MINUTES})")
    parser.add_argument("--out", type=Path, default=Path("bench.json"), help="JSON file to write")
    parser.add_argument("--against", type=Path, help="JSON file of an earlier run")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes on a CPU, whose numbers mean nothing")
    parts = ("peaks", "recordings", "startup", "model", "reading")
    parser.add_argument("--part", choices=parts, help=argparse.SUPPRESS)
    parser.add_argument("--model", choices=models(), help=argparse.SUPPRESS)
    parser.add_argument("--precisions", nargs="+", default=["float32"], help=argparse.SUPPRESS)
    return parser


def main(words: list[str] | None = None) -> None:
    given = parser().parse_args(words)
    if given.device == "cuda" and not given.tiny and not torch.cuda.is_available():
        parser().error("torch sees no GPU here")
    if given.part is not None:
        print_rows(part(given))
        return
    before = None if given.against is None else json.loads(given.against.read_text())
    results = bench(given)
    console.print(table_of(results))
    for name, why in results["left_out"].items():
        console.print(f"left out: {name}: {why}")
    if before is not None:
        if before["machine"]["name"] != results["machine"]["name"]:
            console.print(f"the run before was on another machine: {before['machine']['name']}")
        console.print(comparison(before, results))
    given.out.write_text(json.dumps(results, indent=2) + "\n")
    console.print(f"written: {given.out}, in {results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
