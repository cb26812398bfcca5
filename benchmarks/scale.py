"""How a training step grows: seconds and memory against recordings, units, clip length, frame size and batch.

    python benchmarks/scale.py                       # of the default model; writes scale.json and scale.md
    python benchmarks/scale.py --model resnet
    python benchmarks/scale.py --parts units reading

Each size is measured in a process of its own, on one thread. One thing grows at a time, from clips of the default with
200 units. Seconds are the processor's, so that other processes on the machine hardly count.
*Growth* is the power of the size with which a number grows from the line before: 1 is in proportion, below 1 less, and
more than 1 steeper than linear. GFLOP and planned MiB are the plan's. MiB is the most that the process held while it
made steps, less what it held before: with what the allocator keeps, more than the plan's tensors. What takes longer
than the time that is left, or more memory than is free, is left out, and said.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from measuring import (
    Row,
    Sizes,
    Step,
    as_in_training,
    free_mb,
    machine,
    peak_mb,
    print_rows,
    rows_of,
    settings_of,
    status_mb,
    timed_twice,
)
from reading import FILES, reading

UNITS = 200
STEP_S = 5.0  # seconds for the steps of one size
BEYOND_PLAN = 1.8  # a process's memory over what the plan says, at most
FASTER = 10  # times the default's speed that the reader should give
GROWING = {  # what grows: its values, and what it changes
    "recordings": [1, 4, 16, 64],
    "units": [64, 256, 1024, 4096],
    "bins": [100, 300, 600, 1200],
    "pixels": [36, 72, 108],
    "clips": [1, 2, 4, 8],
}
TINY = Sizes(recordings=1, units=3, bins=48, height=18, width=26, behavior=2, clips=1)
console = Console(width=max(100, Console().width), soft_wrap=True, highlight=False)


def grown(part: str, value: int, base: Sizes) -> Sizes:
    """The sizes of one line. Where recordings do not grow there is one, and where clips do not, one clip for each
    recording up to four, so that a step's work is the same in all lines but those that change it."""
    one = replace(base, recordings=1, clips=1)
    if part == "recordings":
        return replace(base, recordings=value, clips=4)
    if part == "pixels":
        return replace(one, height=value, width=round(value * base.width / base.height))
    return replace(one, **{part: value})


def of_size(model: str, sizes: Sizes, seconds: float) -> Iterator[Row]:
    """One line, in this process."""
    as_in_training("cpu")
    settings = settings_of(f"model={model}")
    planned = sizes.planned(settings, "cpu", "float32")
    work = {"gflop": planned.flops / 1e9, "planned_mb": planned.memory_bytes / 2**20}
    if (needed := BEYOND_PLAN * work["planned_mb"]) > free_mb():
        sys.exit(f"it takes about {needed / 1024:.1f} GiB of memory, and {free_mb() / 1024:.1f} are free")
    before = status_mb("VmRSS")
    passed, computed = timed_twice(Step(settings, sizes, "cpu"), "cpu", seconds)
    took = {"seconds": computed, "passed_s": passed, "memory_mb": peak_mb("cpu") - before}
    yield "step", {**took, **work, **asdict(sizes)}


def growth(lines: Mapping[str, Mapping[str, Any]], part: str, number: str) -> list[str]:
    """The power of the size with which a number grows from each line to the next."""
    sizes = [int(name) ** (2 if part == "pixels" else 1) for name in lines]
    values = [found[number] for found in lines.values()]
    # Memory that an earlier line had taken already does not grow.
    powers = (
        math.log(now / before) / math.log(larger / smaller) if before > 0 and now > 0 else math.nan
        for before, now, smaller, larger in zip(values, values[1:], sizes, sizes[1:], strict=False)
    )
    return ["", *("" if math.isnan(power) else f"{power:.2f}" for power in powers)]


def scale(given: argparse.Namespace) -> dict[str, Any]:
    """All lines, each said as it is found."""
    began = time.monotonic()
    ends = began + 60 * given.minutes
    results: dict[str, Any] = {"machine": machine("cpu"), "model": given.model, "parts": {}, "left_out": {}}
    tiny = ["--tiny"] if given.tiny else []
    for part in given.parts:
        lines: dict[str, dict[str, Any]] = results["parts"].setdefault(part, {})
        values: Sequence[Any] = ["files"] if part == "reading" else GROWING[part][: 2 if given.tiny else None]
        for value in values:
            words = ["--model", given.model, "--part", part, "--value", str(value), *tiny]
            try:
                if (left_s := ends - time.monotonic()) <= 0:
                    raise RuntimeError("no time was left")
                for name, found in rows_of(__file__, left_s, *words):
                    lines[name if part == "reading" else str(value)] = found
                    numbers = ", ".join(f"{key} {number:.4g}" for key, number in found.items())
                    left = f"{max(0.0, ends - time.monotonic()):.0f} s left"
                    console.print(f"{part} {value if part != 'reading' else name}: {numbers} ({left})")
            except RuntimeError as error:
                results["left_out"][f"{part} {value}"] = str(error)
                console.print(f"{part} {value}: left out: {error}")
                break  # what is larger takes longer
    results["seconds"] = time.monotonic() - began
    return results


def tables(results: Mapping[str, Any]) -> Iterator[Table]:
    own = results["machine"]
    for part, lines in results["parts"].items():
        table = Table(title=f"{results['model']}, {part}: {own['name']}, {own['threads']} threads, load {own['load']}")
        table.add_column(part)
        if part == "reading":
            for name in ("clips/s", "bins/s", "MiB"):
                table.add_column(name, justify="right")
            for name, found in lines.items():
                rates = (found["clips_per_s"], found["clips_per_s"] * found["bins"])
                size = f"{found['files_mb']:.0f}" if "files_mb" in found else ""
                table.add_row(name, *(f"{rate:,.0f}" for rate in rates), size)
        else:
            columns = {"seconds": "s a step", "gflop": "GFLOP", "memory_mb": "MiB", "planned_mb": "planned MiB"}
            for name in columns.values():
                table.add_column(name, justify="right")
                table.add_column("growth", justify="right")
            powers = {number: growth(lines, part, number) for number in columns}
            for i, (name, found) in enumerate(lines.items()):
                cells = ((f"{found[number]:.4g}", powers[number][i]) for number in columns)
                table.add_row(name, *(cell for pair in cells for cell in pair))
        yield table


def markdown(table: Table) -> str:
    """A table as a page of the documentation has it."""
    rows = [[str(column.header) for column in table.columns], ["---"] * len(table.columns)]
    rows += [list(map(str, row)) for row in zip(*(column.cells for column in table.columns), strict=True)]
    return "\n".join([f"{table.title}", "", *(f"| {' | '.join(row)} |" for row in rows), ""])


def part(given: argparse.Namespace) -> Iterator[Row]:
    """The rows of one line, in this process."""
    torch.set_num_threads(1)
    base = TINY if given.tiny else replace(Sizes.default("cpu"), units=UNITS)
    if given.part != "reading":
        yield from of_size(given.model, grown(given.part, int(given.value), base), 0.0 if given.tiny else STEP_S)
        return
    step = Step(settings_of(f"model={given.model}"), base, "cpu")
    speed = base.clips / timed_twice(step, "cpu", 0.0 if given.tiny else STEP_S)[1]
    yield f"{FASTER} × what a training takes", {"clips_per_s": FASTER * speed, "bins": base.bins}
    with tempfile.TemporaryDirectory() as made:
        yield from reading(Path(made), base, [0], 0.0 if given.tiny else 4.0, 2 if given.tiny else 20, FILES)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = [*GROWING, "reading"]
    parser.add_argument("--model", default="vivit_small", help="name of a shipped model")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts, help="what grows")
    parser.add_argument("--minutes", type=float, default=20.0, help="after which what is missing is left out")
    parser.add_argument(
        "--out", type=Path, default=Path("scale.json"), help="JSON file to write, and its tables beside it"
    )
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, whose numbers mean nothing: does it run?")
    parser.add_argument("--part", choices=parts, help=argparse.SUPPRESS)
    parser.add_argument("--value", help=argparse.SUPPRESS)
    return parser


def main(words: list[str] | None = None) -> None:
    given = parser().parse_args(words)
    if given.part is not None:
        print_rows(part(given))
        return
    results = scale(given)
    found = list(tables(results))
    for table in found:
        console.print(table)
    for name, why in results["left_out"].items():
        console.print(f"left out: {name}: {why}")
    given.out.write_text(json.dumps(results, indent=2) + "\n")
    given.out.with_suffix(".md").write_text("\n".join(map(markdown, found)))
    console.print(f"written: {given.out}, in {results['seconds']:.0f} s")


if __name__ == "__main__":
    main()
