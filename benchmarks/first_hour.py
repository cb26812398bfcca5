"""What a new user sees: ``make train`` in a fresh clone, with a stopwatch for each stage.

    python benchmarks/first_hour.py                       # with the installation
    python benchmarks/first_hour.py --venv .venv          # with an installation that is there
    python benchmarks/first_hour.py --venv .venv --busy 0.5   # beside a process that takes half of one core

It clones the commit that is checked out, without what is not committed. Nothing is taken from this user's cache. The
clone, with the run's log and its outputs, stays where ``--folder`` says.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from measuring import machine

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ["run.py", "model=vivit_small", "data=multi_backimage"]  # what `make train` runs
BEGINS, TOOK = re.compile(r"^(.+?) begins(?:[,;].*)?$"), re.compile(r"^(.+) took \d+:\d\d (?:min|h)$")
BUSY = """
import sys, time
share, began = float(sys.argv[1]), time.monotonic()
while True:
    while time.process_time() < share * (time.monotonic() - began):
        pass
    time.sleep(0.02)
"""
console = Console(soft_wrap=True, highlight=False)


@dataclass
class Stopwatch:
    """Seconds of each stage, from the lines in which a training says that it begins and what it took.

    Attributes
    ----------
    stages : name -> seconds, in their order; what lies before the first is ``start-up``, what follows one ``after …``.
    """

    clock: Callable[[], float] = time.monotonic
    stages: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._name, self._since = "start-up", self.clock()

    def hear(self, line: str) -> None:
        if (begins := BEGINS.match(line)) and not begins[1].startswith("task="):
            self._turn(begins[1])
        elif (took := TOOK.match(line)) and took[1] == self._name:
            self._turn(f"after {self._name}")

    def stop(self) -> None:
        self._turn("")

    def _turn(self, name: str) -> None:
        now = self.clock()
        self.stages[self._name] = self.stages.get(self._name, 0.0) + now - self._since
        self._name, self._since = name, now


@contextmanager
def busy(share: float) -> Iterator[None]:
    """Beside a process that takes so much of a core."""
    if share == 0:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", BUSY, str(share)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def listened(
    command: Sequence[str], folder: Path, env: Mapping[str, str], log: Path, hear: Callable[[str], None]
) -> int:
    """Run a command, print and keep its lines, and tell each as it comes; its exit status."""
    with (
        open(log, "a", encoding="utf-8") as kept,
        subprocess.Popen(
            command, cwd=folder, env=dict(env), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process,
    ):
        assert process.stdout is not None
        try:
            for line in process.stdout:
                hear(line.rstrip("\n"))
                console.print(line, end="", markup=False)
                kept.write(line)
                kept.flush()
        except KeyboardInterrupt:
            process.send_signal(signal.SIGINT)
            raise
    return process.returncode


def scores(folder: Path) -> list[tuple[str, float, float, float | None]]:
    """Recording, bits per spike of the twin and of LN, and the share of what can be known; all recordings first."""
    found = sorted(folder.glob("outputs/train/*/summary.json"))
    if not found:
        return []
    summary: dict[str, Any] = json.loads(found[-1].read_text(encoding="utf-8"))
    named = {"all": summary, **summary["recordings"]}
    return [(name, own["bps_mean"], own["ln_bps_mean"], own.get("knowable_fraction")) for name, own in named.items()]


def first_hour(given: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Clone, install, train."""
    clone, log = folder / "clone", folder / "log.txt"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=clone, capture_output=True, text=True, check=True
    )
    env = os.environ | {"XDG_CACHE_HOME": str(folder / "cache"), "PYTHONUNBUFFERED": "1"}
    env.pop("PYTHONPATH", None)
    stages: dict[str, float] = {}
    with busy(given.busy):
        if given.command:
            command = given.command
        elif given.venv is not None:
            env["PYTHONPATH"] = str(clone / "src")
            command = [str(given.venv.absolute() / "bin" / "python"), *TRAIN]
        else:
            command = ["make", "train"]
            began = time.monotonic()
            if status := listened(["make", "setup"], clone, env, log, lambda line: None):
                raise RuntimeError(f"make setup ended with status {status}; see {log}")
            stages["installation"] = time.monotonic() - began
        watch = Stopwatch()
        status = listened(command, clone, env, log, watch.hear)
        watch.stop()
    if status:
        raise RuntimeError(f"{' '.join(command)} ended with status {status}; see {log}")
    return {
        "machine": machine("cpu"),
        "commit": commit.stdout.strip(),
        "command": " ".join(command),
        "busy": given.busy,
        "stages": stages | watch.stages,
        "without_installation_s": sum(watch.stages.values()),
        "scores": scores(clone),
    }


def tables(found: Mapping[str, Any]) -> Iterable[Table]:
    own = found["machine"]
    beside = f", beside {found['busy']:g} of a core" if found["busy"] else ""
    table = Table(title=f"{found['command']}, {found['commit']}: {own['name']}, {own['threads']} threads{beside}")
    table.add_column("stage")
    table.add_column("min:s", justify="right")
    everything = {"all but the installation": found["without_installation_s"]}
    for name, seconds in {**found["stages"], **everything}.items():
        table.add_row(name, f"{int(seconds) // 60}:{int(seconds) % 60:02d}")
    yield table
    if not found["scores"]:
        return
    table = Table(title="bits/spike on the test split")
    table.add_column("recording")
    for name in ("twin", "LN", "twin − LN", "of the knowable"):
        table.add_column(name, justify="right")
    for name, twin, ln, share in found["scores"]:
        table.add_row(name, f"{twin:.3f}", f"{ln:.3f}", f"{twin - ln:+.3f}", "" if share is None else f"{share:.3f}")
    yield table


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, help="a virtual environment to use instead of installing one")
    parser.add_argument("--busy", type=float, default=0.0, help="part of one core that another process takes, 0 … 1")
    parser.add_argument("--folder", type=Path, help="a new folder for the clone and what it makes (default: in /tmp)")
    parser.add_argument("--out", type=Path, default=Path("first_hour.json"), help="JSON file to write")
    parser.add_argument("--command", nargs=argparse.REMAINDER, help="instead of the training, in the clone; comes last")
    given = parser.parse_args(words)
    if not 0 <= given.busy < 1:
        parser.error(f"--busy {given.busy:g}: give 0 or more, and less than 1")
    if given.folder is not None:
        given.folder.mkdir(parents=True)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="first_hour_"))
    try:
        found = first_hour(given, folder.absolute())
    except RuntimeError as error:
        sys.exit(str(error))
    for table in tables(found):
        console.print(table)
    given.out.write_text(json.dumps(found, indent=2) + "\n")
    console.print(f"written: {given.out}; the clone is in {folder}")


if __name__ == "__main__":
    main()
