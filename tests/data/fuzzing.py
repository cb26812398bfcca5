"""Damages files, and lets a process of its own read them, so that a crash, a hang or a hunger for memory is seen from
outside.

    python fuzzing.py recording|checkpoint|arrays    # reads paths from stdin, answers each with a line of JSON
"""

from __future__ import annotations

import hashlib
import json
import resource
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.data.recording.checksum import write_checksum

SECONDS = 60.0  # within which a file is refused or read, also on a busy machine
MEMORY = 2 << 30  # bytes that reading may take beyond what the process has when it starts


# Damage ---------------------------------------------------------------------------------------------------------------


def damaged(content: bytes, seed: int) -> tuple[str, bytes]:
    """The kind of damage, and the content with it; a pure function of the seed."""
    rng = np.random.default_rng(seed)
    kinds = list(DAMAGES)
    kind = kinds[seed % len(kinds)]
    return kind, bytes(DAMAGES[kind](bytearray(content), rng))


def somewhere(size: int, rng: np.random.Generator) -> int:
    """A place in the file; half of them near its start or its end, where its structure is."""
    edge = min(size, 4096)
    return int(rng.choice([rng.integers(size), rng.integers(edge), size - 1 - rng.integers(edge), rng.integers(size)]))


def flip(b: bytearray, rng: np.random.Generator, bits: int) -> bytearray:
    for _ in range(bits):
        b[somewhere(len(b), rng)] ^= 1 << int(rng.integers(8))
    return b


def fill(b: bytearray, rng: np.random.Generator, value: int | None) -> bytearray:
    at, n = somewhere(len(b), rng), int(rng.integers(1, 600))
    n = min(n, len(b) - at)
    b[at : at + n] = rng.bytes(n) if value is None else bytes([value]) * n
    return b


def number(b: bytearray, rng: np.random.Generator) -> bytearray:
    """A size or an address of the file replaced by another, often a huge one."""
    at = min(somewhere(len(b), rng) // 8 * 8, len(b) - 8)
    value = int(rng.choice([0, 1, 2**31 - 1, 2**32, 2**40, 2**62, int(rng.integers(2**62))]))
    b[at : at + 8] = value.to_bytes(8, "little")
    return b


def cut(b: bytearray, rng: np.random.Generator) -> bytearray:
    return b[: somewhere(len(b), rng)]


def remove(b: bytearray, rng: np.random.Generator) -> bytearray:
    at = somewhere(len(b), rng)
    return b[:at] + b[at + int(rng.integers(1, 64)) :]


def insert(b: bytearray, rng: np.random.Generator) -> bytearray:
    at = somewhere(len(b), rng)
    return b[:at] + rng.bytes(int(rng.integers(1, 64))) + b[at:]


def swap(b: bytearray, rng: np.random.Generator) -> bytearray:
    one, other = somewhere(len(b), rng), somewhere(len(b), rng)
    n = int(min(rng.integers(1, 512), len(b) - one, len(b) - other))
    b[one : one + n], b[other : other + n] = b[other : other + n], b[one : one + n]
    return b


DAMAGES: dict[str, Callable[[bytearray, np.random.Generator], bytearray]] = {
    "one bit flipped": lambda b, rng: flip(b, rng, 1),
    "eight bits flipped": lambda b, rng: flip(b, rng, 8),
    "truncated": cut,
    "zeros": lambda b, rng: fill(b, rng, 0),
    "ones": lambda b, rng: fill(b, rng, 255),
    "noise": lambda b, rng: fill(b, rng, None),
    "another number": number,
    "bytes missing": remove,
    "bytes too many": insert,
    "places swapped": swap,
}


# Reading, in a process of its own ------------------------------------------------------------------------------------


def read_recording(path: Path) -> str:
    """A digest of all that a training could read."""
    from vivit_core.data.recording.reader import Recording
    from vivit_core.data.recording.validate import check_recording

    info = check_recording(path)
    recording = Recording(path)
    read = recording.read(0, info.n_frames, info.behavior)
    truth = [recording.truth(name) for name in recording.truths]
    trials = info.trials
    parts = [*read.values(), trials.start, trials.stop, trials.stimulus_id, trials.split, *truth]
    said = [info.recording_id, info.frame_rate_hz, info.unit_ids, info.kind, info.behavior_causal, info.source]
    recording.close()
    return digest(parts, said)


def read_checkpoint(path: Path) -> str:
    from vivit_core import load_twin

    twin = load_twin(path)
    return digest([value.numpy() for value in twin.state_dict().values()], [twin.description()])


def read_arrays(path: Path) -> str:
    from shipped import arrays_importer

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "imported.h5"
        importer = arrays_importer(recording_id="x", **ARRAYS)
        importer(path, out)
        return read_recording(out)


ARRAYS: dict[str, Any] = {"trial_length": 50, "counts_axis": "time_unit"}


def digest(arrays: list[np.ndarray], said: list[Any]) -> str:
    whole = hashlib.sha256(repr(said).encode())
    for array in arrays:
        whole.update(f"{array.shape} {array.dtype}".encode())
        whole.update(np.ascontiguousarray(array if array.dtype.kind != "U" else array.astype("S64")).data)
    return whole.hexdigest()


READERS = {"recording": read_recording, "checkpoint": read_checkpoint, "arrays": read_arrays}


def serve(kind: str) -> None:
    read = READERS[kind]
    import vivit_core.data.importers.arrays
    import vivit_core.data.recording.validate  # noqa: F401

    for line in sys.stdin:
        if (path := line.rstrip("\n")) == "limit":
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, now + MEMORY))
            answer: dict[str, Any] = {"ready": True}
        else:
            try:
                answer = {"digest": read(Path(path))}
            except ValueError as error:
                answer = {"refused": type(error).__name__, "message": str(error)}
            except BaseException as error:
                answer = {"escaped": f"{type(error).__name__}: {error}"[:500]}
        print("\x1e" + json.dumps(answer), flush=True)


# Watching ------------------------------------------------------------------------------------------------------------


@dataclass
class Outcome:
    """What became of the damaged files."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)  # crashes, hangs, accepted damage, errors that are no help
    messages: Counter[str] = field(default_factory=Counter)
    slowest: float = 0.0


class Reader:
    """The process that reads; started again where it died."""

    def __init__(self, kind: str, environment: dict[str, str]) -> None:
        self.kind, self.environment = kind, environment
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, self.kind],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,  # a line that Python holds already would be none that select sees
        )

    def ask(self, line: str, seconds: float = SECONDS) -> dict[str, Any]:
        """The answer; ``{"crash": code}`` or ``{"hang": seconds}`` where there is none."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(f"{line}\n".encode())
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and select.select([self.process.stdout], [], [], left)[0]:
            if not (said := self.process.stdout.readline()):
                code = self.process.wait()
                self.start()
                return {"crash": code}
            if said.startswith(b"\x1e"):
                return json.loads(said[1:])
        self.process.kill()
        self.start()
        return {"hang": seconds}

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def fuzz(
    good: Path, kind: str, seeds: range, folder: Path, environment: dict[str, str], resealed: bool = False
) -> Outcome:
    """Damage ``good`` once for each seed and look what reading does; the first file is the good one itself.

    Parameters
    ----------
    resealed : give a recording a checksum that holds, as anyone can. Then it may be accepted where it can be read to
        its end: no checksum tells one number from another.
    """
    content = good.read_bytes()
    out = Outcome()
    reader = Reader(kind, environment)
    try:
        expected = reader.ask(str(good), 120)
        assert "digest" in expected, expected
        reader.ask("limit")
        for seed in seeds:
            damage, changed = damaged(content, seed)
            path = folder / f"{kind}{seed}{good.suffix}"
            path.write_bytes(changed)
            if resealed:
                write_checksum(path)
            began = time.monotonic()
            answer = reader.ask(str(path))
            out.slowest = max(out.slowest, time.monotonic() - began)
            path.unlink()
            if {"crash", "hang"} & answer.keys():
                reader.ask(str(good), 120)
                reader.ask("limit")
            if resealed and "digest" in answer:
                answer = expected
            note(out, seed, damage, answer, expected, path)
    finally:
        reader.close()
    return out


def note(out: Outcome, seed: int, damage: str, answer: dict[str, Any], expected: dict[str, Any], path: Path) -> None:
    if answer == expected:
        out.counts["unharmed"] += 1  # the damage lies where nothing is stored
    elif "refused" in answer:
        out.counts["refused"] += 1
        message = answer["message"]
        if str(path) not in message or len(message) < len(str(path)) + 30:
            out.failures.append(f"seed {seed}, {damage}: no help: {message}")
        out.messages[message.replace(str(path), "FILE")[:160]] += 1
    else:
        what = next(iter(answer))
        out.counts["accepted" if what == "digest" else what] += 1
        out.failures.append(f"seed {seed}, {damage}: {what} {answer[what]}")


if __name__ == "__main__":
    serve(sys.argv[1])
