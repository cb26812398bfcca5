"""What the benchmarks share: a training step of any size, clocks, memory, and what the machine can do at best.

FLOPs are the model's own: matrix products, convolutions and attention, the backward pass counted as two forward ones,
nothing that is computed again.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from hydra import compose, initialize_config_dir

from vivit_core.cli.schema import conf_dir
from vivit_core.cli.validate import validate
from vivit_core.models.likelihoods.loss import summed_loss
from vivit_core.models.plan import Plan, expected, plan
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build
from vivit_core.specs import Batch, Clips
from vivit_core.training.machine import exact_float32, keep_freed_memory

Precision = Literal["float32", "bfloat16"]
Row = tuple[str, dict[str, Any]]  # what was measured, and its numbers
DTYPES: dict[Precision, torch.dtype] = {"float32": torch.float32, "bfloat16": torch.bfloat16}
EMULATED = 1.2  # a bfloat16 product that is not so many times faster than float32's is emulated
GLANCE, SLOW = 256, 0.5  # rows of a product that tells at a glance, where it is so many times as fast or less
DATA_SHEET_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}  # dense bfloat16, of the SXM boards


def settings_of(*words: str) -> dict[str, Any]:
    """The configuration as ``run.py`` composes it."""
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return validate(compose("config", overrides=["run_dir=none", *words]))


# Clocks --------------------------------------------------------------------------------------------------------------


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(call: Callable[[], Any], device: str, seconds: float, most: int = 20) -> float:
    """Median seconds of a call, as often as it fits into so many seconds: once at least, after one that warms up."""
    return timed_twice(call, device, seconds, most)[0]


def timed_twice(call: Callable[[], Any], device: str, seconds: float, most: int = 20) -> tuple[float, float]:
    """:func:`timed` by two clocks: seconds that pass, and seconds that this process's threads compute, which other
    processes lengthen less."""
    passed: list[float] = []
    computed: list[float] = []
    began = time.perf_counter()
    while len(passed) < 2 or (len(passed) <= most and time.perf_counter() - began < seconds):
        synchronize(device)
        start, start_cpu = time.perf_counter(), time.process_time()
        call()
        synchronize(device)
        passed.append(time.perf_counter() - start)
        computed.append(time.process_time() - start_cpu)
    return statistics.median(passed[1:]), statistics.median(computed[1:])


# The machine ---------------------------------------------------------------------------------------------------------


def as_in_training(device: str) -> None:
    """What a training tells the machine before it starts (``trainer.deterministic=true``, the default)."""
    if device == "cpu":
        keep_freed_memory()
    else:
        exact_float32()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else cuBLAS refuses with deterministic algorithms
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def matmul_gflops(dtype: torch.dtype, device: str, size: int) -> float:
    """A square matrix product's speed, the better of two sizes."""
    best = 0.0
    for n in (size // 2, size):
        a, b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
        out = torch.empty_like(a)
        # The best of several: what the machine can do when nobody disturbs it.
        for _ in range(3):
            best = max(best, 2 * n**3 / timed(partial(torch.mm, a, b, out=out), device, 0.5) / 1e9)
    return best


def copied_gb_s(device: str, megabytes: int) -> float:
    """Of a copy in memory: what is read and written, a second."""
    a = torch.ones(megabytes << 18, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / timed(lambda: b.copy_(a), device, 1.0) / 1e9


def peaks(device: str, tiny: bool = False) -> Iterator[Row]:
    """What the machine can do at best; a bfloat16 product only where it is not emulated."""
    as_in_training(device)
    size = 256 if tiny else 8192 if device == "cuda" else 2048
    speed = matmul_gflops(torch.float32, device, size)
    yield "matrix product, float32", {"gflop_s": speed}
    # Without AVX-512 a large one may take a minute.
    glance = [matmul_gflops(dtype, device, GLANCE) for dtype in (torch.float32, torch.bfloat16)]
    if glance[1] > SLOW * glance[0] and (bf16 := matmul_gflops(torch.bfloat16, device, size)) > EMULATED * speed:
        yield "matrix product, bfloat16", {"gflop_s": bf16}
    yield "copy in memory", {"gb_s": copied_gb_s(device, 8 if tiny else 2048 if device == "cuda" else 256)}


def machine(device: str) -> dict[str, Any]:
    """Its name, and what is there."""
    cpu = platform.processor()
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[-1].strip() for line in lines if line.startswith("model name")), cpu)
    found = {
        "name": torch.cuda.get_device_name() if device == "cuda" else cpu,
        "device": device,
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),  # processes that wanted a core in the minute before
    }
    return found


def status_mb(name: str) -> float:
    """A line of /proc/self/status, MiB; NaN without Linux."""
    if not Path("/proc/self/status").is_file():
        return float("nan")
    lines = Path("/proc/self/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(name)), float("nan"))


def free_mb() -> float:
    """What the machine could give to another process, MiB; infinite without Linux."""
    memory = Path("/proc/meminfo")
    lines = memory.read_text().splitlines() if memory.is_file() else []
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("MemAvailable")), float("inf"))


def peak_mb(device: str) -> float:
    """The most memory that this process, or its part of the GPU, has held, MiB."""
    return torch.cuda.max_memory_allocated() / 2**20 if device == "cuda" else status_mb("VmHWM")


# A training step -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """Of recordings and clips."""

    recordings: int
    units: int
    bins: int
    height: int
    width: int
    behavior: int  # numbers
    clips: int

    @classmethod
    def default(cls, device: str) -> Sizes:
        """Those of ``make train``."""
        return cls.of(settings_of(), device)

    @classmethod
    def of(cls, settings: Mapping[str, Any], device: str) -> Sizes:
        """Those of a training with these settings on simulated recordings."""
        geometry, trainer = settings["data"]["geometry"], settings["trainer"]
        return cls(
            recordings=geometry["recordings"],
            units=geometry["units"],
            bins=settings["data"]["clip_length"],
            height=geometry["frame_shape"][1],
            width=geometry["frame_shape"][2],
            behavior=sum(geometry["behavior"].values()),
            clips=trainer["batch_size"] or trainer[device]["batch_size"],
        )

    def planned(self, settings: Mapping[str, Any], device: str, precision: Precision) -> Plan:
        return plan(
            settings["model"],
            settings["readout"],
            settings["likelihood"],
            frame_shape=(1, self.height, self.width),
            recordings=self.recordings,
            units=self.units,
            behavior={"behavior": self.behavior} if self.behavior else {},
            position_dim=settings["data"]["geometry"]["position_dim"],
            clip_length=self.bins,
            batch_size=self.clips,
            frame_rate_hz=settings["data"]["geometry"]["frame_rate_hz"],
            precision="bf16-mixed" if precision == "bfloat16" else "32-true",
            device=device,
        )


class Step:
    """One training step, everything that costs time included: dropout, loss, clipping, optimizer.

    Parameters
    ----------
    settings : the whole configuration.
    sizes : of recordings and clips.
    device : "cpu" or "cuda".
    precision : of the computing.
    compiled : compile the blocks.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        sizes: Sizes,
        device: str,
        precision: Precision = "float32",
        compiled: bool = False,
    ) -> None:
        self.sizes, self.device, self.bfloat16 = sizes, device, precision == "bfloat16"
        torch.manual_seed(0)
        frame, geometry = (1, sizes.height, sizes.width), settings["data"]["geometry"]
        named = geometry["behavior"]  # by the names that a shifter asks for
        behavior = named if sum(named.values()) == sizes.behavior else {"behavior": sizes.behavior}
        rate_hz, positions = geometry["frame_rate_hz"], geometry["position_dim"]
        specs = expected(frame, sizes.recordings, sizes.units, behavior, positions, rate_hz)
        self.twin = Twin(settings["model"], settings["readout"], settings["likelihood"], specs, "all").to(device)
        if compiled:
            self.twin.core.compile_blocks()
        self.optimizer = build("optim", settings["optim"]).build(self.twin, 1, 10_000)[0]
        self.burn_in = min(50, sizes.bins // 2)
        self.batch: Batch = {}
        for i, spec in enumerate(specs):
            if clips := sizes.clips // len(specs) + (i < sizes.clips % len(specs)):
                self.batch[spec.recording_id] = self._clips(clips)

    def _clips(self, clips: int) -> Clips:
        sizes = self.sizes
        frames = torch.randint(0, 256, (clips, 1, sizes.bins, sizes.height, sizes.width), dtype=torch.uint8)
        return Clips(
            frames=frames.to(self.device),
            behavior=torch.randn(clips, sizes.bins, sizes.behavior).to(self.device),
            counts=torch.poisson(torch.full((clips, sizes.bins, sizes.units), 0.1)).to(self.device),
            valid=torch.ones(clips, sizes.bins, sizes.units, dtype=torch.bool).to(self.device),
        )

    def __call__(self, batch: Batch | None = None) -> None:
        batch = self.batch if batch is None else batch
        self.twin.train()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            predicted = self.twin(batch)
        total, pairs = summed_loss(predicted, batch, self.burn_in, self.twin.likelihood)
        total = total + self.twin.more_nats(predicted, batch, self.burn_in)
        (total / pairs + self.twin.regularizer()).backward()
        torch.nn.utils.clip_grad_norm_(self.twin.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    @torch.no_grad()
    def forward(self) -> None:
        self.twin.eval()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bfloat16):
            self.twin(self.batch)

    def streamed_bin_s(self, seconds: float, warm_up: int = 32) -> tuple[float, float]:
        """Mean and largest seconds of a streamed bin."""
        self.twin.eval()
        sizes, taken = self.sizes, []
        frames = torch.randint(0, 256, (1, sizes.bins, sizes.height, sizes.width), dtype=torch.uint8).numpy()
        behavior = torch.randn(sizes.bins, sizes.behavior).numpy()
        stream = self.twin.stream("recording0", clip_length=sizes.bins)
        began = time.perf_counter()
        for t in range(sizes.bins):
            start = time.perf_counter()
            stream.step(frames[:, t], behavior[t] if sizes.behavior else None)
            taken.append(time.perf_counter() - start)
            if t > 2 * warm_up and time.perf_counter() - began > seconds:
                break
        taken = taken[min(warm_up, len(taken) // 2) :]
        return statistics.mean(taken), max(taken)


# Processes -----------------------------------------------------------------------------------------------------------


def print_rows(rows: Iterable[Row]) -> None:
    """What a part's process says to :func:`rows_of`."""
    for name, values in rows:
        print(json.dumps([name, values]), flush=True)


def rows_of(script: str, seconds: float, *words: str) -> Iterator[Row]:
    """The rows that a part finds in a process of its own, whose memory is then its own, as they are found.

    Parameters
    ----------
    script : the benchmark's file.
    seconds : after which the process is ended.

    Raises
    ------
    RuntimeError
        Where it failed or had no time to end, with a line that says why.
    """
    over = threading.Event()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [sys.executable, script, *words], stdout=subprocess.PIPE, stderr=errors, text=True, encoding="utf-8"
        )

        def end() -> None:
            over.set()
            process.kill()

        clock = threading.Timer(max(0.0, seconds), end)
        clock.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("["):
                    name, values = json.loads(line)
                    yield name, values
            code = process.wait()
        finally:
            clock.cancel()
            process.kill()
            process.wait()
        errors.seek(0)
        said = errors.read().strip().splitlines() or [f"without a word, with status {code}"]
    if over.is_set():
        raise RuntimeError("no time was left")
    if code:
        raise RuntimeError(f"it failed: {said[-1][:300]}")
