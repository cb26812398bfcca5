"""Mutations of the files that a user may be given, and what reading them comes to. Called in forks."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np

SECONDS = 60.0  # within which a file is refused or read, on a busy machine
MEMORY = 2 << 30  # bytes that this may take beyond what the process has when it starts
KINDS = (
    "recording",
    "recording without a checksum",
    "resealed recording",
    "recording's fields",
    "checkpoint",
    "checkpoint's nodes",
    "npz",
    "NWB",
)
SUFFIX = dict.fromkeys(KINDS, ".h5") | {"checkpoint": ".ckpt", "checkpoint's nodes": ".ckpt"}
SUFFIX |= {"npz": ".npz", "NWB": ".nwb"}
VOUCHED = ("recording", "checkpoint", "npz")  # with checksums: what is read is what was written


# Good files -----------------------------------------------------------------------------------------------------------


def make(kind: str, path: str) -> None:
    """A good file, which the mutations are made of."""
    to = Path(path)
    if kind == "npz":
        from small_recordings import npz

        npz(to.parent).rename(to)
    elif kind == "NWB":
        write_nwb(to)
    elif kind.startswith("checkpoint"):
        import tampering
        import torch

        torch.save(tampering.content(), to)
    else:
        from small_recordings import rich

        rich(to.parent).rename(to)
        if kind == "recording without a checksum":
            without_checksum(to)


def without_checksum(path: Path) -> None:
    """As another program would write it."""
    mine = path.rename(path.with_suffix(".mine"))
    with h5py.File(mine) as old, h5py.File(path, "w") as new:
        for name in old:
            old.copy(name, new)
        new.attrs.update(old.attrs)
    mine.unlink()


def write_nwb(path: Path) -> None:
    """Pictures, spikes, trials with stimuli and splits, and a behavior."""
    from datetime import UTC, datetime

    from pynwb import NWBHDF5IO, NWBFile, TimeSeries
    from pynwb.behavior import BehavioralTimeSeries
    from pynwb.image import OpticalSeries

    rng = np.random.default_rng(0)
    nwb = NWBFile("a test", "test-7", datetime(2026, 1, 1, tzinfo=UTC))
    frames = rng.integers(0, 256, (200, 6, 8), dtype=np.uint8)
    times = 3.0 + np.arange(200) / 50
    movie = {"unit": "n.a.", "distance": 0.2, "field_of_view": [1.0, 1.0], "orientation": "upright"}
    nwb.add_stimulus(OpticalSeries(name="movie", data=frames, timestamps=times, **movie))
    nwb.add_trial_column("image", "what was shown")
    nwb.add_trial_column("part", "split")
    for i in range(6):
        part = ["train", "val", "test"][i % 3]
        nwb.add_trial(start_time=3.0 + 0.6 * i, stop_time=3.5 + 0.6 * i, image=i % 3, part=part)
    for _ in range(2):
        nwb.add_unit(spike_times=np.sort(rng.uniform(2.5, 8.0, 90)))
    speed = TimeSeries(name="speed", data=rng.normal(size=100), starting_time=2.0, rate=20.0, unit="cm/s")
    nwb.create_processing_module("behavior", "what it did").add(BehavioralTimeSeries(time_series=speed, name="running"))
    with NWBHDF5IO(path, "w") as io:
        io.write(nwb)


# Mutations ------------------------------------------------------------------------------------------------------------


def mutated(kind: str, seed: int, good: Path, path: Path) -> str:
    """Write the mutation of a good file that belongs to a seed; says what it is."""
    if kind == "checkpoint's nodes":
        return nodes(seed, path)
    if kind == "recording's fields":
        path.write_bytes(good.read_bytes())
        return fields(seed, path)
    from fuzzing import damaged

    damage, content = damaged(good.read_bytes(), seed)
    path.write_bytes(content)
    if kind == "resealed recording":
        from vivit_core.data.recording.checksum import write_checksum

        with contextlib.suppress(OSError):
            write_checksum(path)
    return damage


def fields(seed: int, path: Path) -> str:
    """Another structure of a recording, with the checksum made right again."""
    from vivit_core.data.recording.checksum import write_checksum

    rng = np.random.default_rng(seed)
    kinds = [*STRUCTURES]
    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        name, kind = str(rng.choice(names)), kinds[seed % len(kinds)]
        with contextlib.suppress(ValueError, TypeError, OSError, KeyError):  # what HDF5 itself does not write
            STRUCTURES[kind](file, name, rng)
    if kind == "a hole behind it":
        os.truncate(path, 40 << 30)
        return kind  # reading 40 GB to seal it is what it is to be refused for
    write_checksum(path)
    return f"{kind}: {name}"


def renewed(file: h5py.File, name: str, **made: Any) -> None:
    attrs = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, **made).attrs.update(attrs)


def values_of(file: h5py.File, name: str) -> np.ndarray:
    return file[name][()] if isinstance(file[name], h5py.Dataset) else np.zeros(3)


def odd_attribute(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    holder = file if rng.random() < 0.5 else file[name]
    keys = [*holder.attrs] or ["x"]
    odd = [np.nan, -1.0, 0, 2**62, "", "x" * 60000, "a\nb", b"\xff\xfe", np.zeros((30, 30)), h5py.Empty("f4"), [], True]
    holder.attrs[str(rng.choice(keys))] = odd[int(rng.integers(len(odd)))]


def odd_value(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    data = file[name]
    if not isinstance(data, h5py.Dataset):
        return odd_attribute(file, name, rng)
    at = tuple(int(rng.integers(n)) for n in data.shape)
    data[at] = rng.choice([np.nan, -1, np.inf, 1e30, 2**40])
    return None


def linked(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    del file[name]
    links = [h5py.SoftLink(f"/{name}"), h5py.SoftLink("/stimulus"), h5py.ExternalLink("/etc/passwd", "/x")]
    file[name] = [*links, h5py.ExternalLink(file.filename, "/trials/start"), file["/"]][int(rng.integers(5))]


def virtual(file: h5py.File, name: str, rng: np.random.Generator) -> None:
    shape = values_of(file, name).shape
    layout = h5py.VirtualLayout(shape, "f4")
    layout[...] = h5py.VirtualSource("/etc/hostname", "x", shape)
    del file[name]
    file.create_virtual_dataset(name, layout)


TYPES = ["i1", "u8", "f2", "c16", "S7", "bool", [("a", "f4"), ("b", "i2")], h5py.string_dtype(), "f8", h5py.ref_dtype]
STRUCTURES: dict[str, Callable[[h5py.File, str, np.random.Generator], None]] = {
    "removed": lambda file, name, rng: file.__delitem__(name),
    "another type": lambda file, name, rng: renewed(
        file, name, shape=values_of(file, name).shape, dtype=TYPES[int(rng.integers(len(TYPES)))]
    ),
    "another shape": lambda file, name, rng: renewed(
        file, name, shape=tuple(rng.integers(0, 90, int(rng.integers(0, 5)))), dtype="f4"
    ),
    "a claim": lambda file, name, rng: renewed(
        file, name, shape=(10 ** int(rng.integers(4, 13)), *values_of(file, name).shape[1:]), dtype="u1", chunks=True
    ),
    "a wide claim": lambda file, name, rng: renewed(
        file, name, shape=(len(values_of(file, name)), 10 ** int(rng.integers(4, 11))), dtype="u1", chunks=True
    ),
    "packed zeros": lambda file, name, rng: renewed(
        file, name, data=np.zeros((120, 4, 6000)), chunks=(120, 4, 6000), compression="gzip"
    ),
    "odd attribute": odd_attribute,
    "odd value": odd_value,
    "a link": linked,
    "a group": lambda file, name, rng: (file.__delitem__(name), file.create_group(f"{name}/{name}"))[0],
    "empty": lambda file, name, rng: renewed(file, name, dtype="f4", data=h5py.Empty("f4")),
    "moved": lambda file, name, rng: file.move(name, f"behavior/{name.replace('/', '_')}"),
    "virtual": virtual,
    "a hole behind it": lambda file, name, rng: None,
    "shortened": lambda file, name, rng: renewed(
        file, name, data=values_of(file, name)[: int(rng.integers(len(values_of(file, name))))]
    ),
}  # fmt: skip


def places(node: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Keys of all that lies in nested dictionaries and lists."""
    if at:
        yield at
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from places(value, (*at, key))


def changed(node: Any, at: tuple[Any, ...], value: Any) -> Any:
    """A copy with another value at a place."""
    copy = dict(node) if isinstance(node, dict) else list(node)
    copy[at[0]] = value if len(at) == 1 else changed(node[at[0]], at[1:], value)
    return copy


def nodes(seed: int, path: Path) -> str:
    """A checkpoint of which one or two values of its nested nodes are others; or one that somebody wrote with care."""
    import tampering
    import torch

    rng = np.random.default_rng(seed)
    made = tampering.content()
    hand, names = [*tampering.TAMPERINGS], [*tampering.PICKLES]
    if seed < len(hand):
        torch.save(tampering.TAMPERINGS[hand[seed]](made), path)
        return hand[seed]
    if seed < len(hand) + len(names):
        name = names[seed - len(hand)]
        tampering.with_pickle(path, tampering.PICKLES[name])
        return name
    canary = path.with_suffix(".canary")
    nested = [*tampering.targets(canary)]
    odd = [None, -1, 0, 1, 10**9, 2**70, -0.5, math.nan, math.inf, "", "x", "../x", "\ud800", [], {}, [[]], {"a": 1}]
    odd += [True, b"x", (1, 2), torch.zeros(2), ["eye"] * 9, [10**9] * 3, *nested]
    said = []
    for _ in range(int(rng.integers(1, 3))):
        every = list(places({key: made[key] for key in ("vivit_core", "twin", "settings", "ln")}))
        at = every[int(rng.integers(len(every)))]
        value = odd[int(rng.integers(len(odd)))]
        made = changed(made, at, value)
        said.append(f"{'.'.join(map(str, at))} = {value!r:.60}")
    torch.save(made, path)
    return ", ".join(said)


# Reading --------------------------------------------------------------------------------------------------------------


def read(kind: str, path: Path) -> str:
    """A digest of all that is read."""
    import fuzzing

    if kind in ("checkpoint", "checkpoint's nodes"):
        import tampering

        twin, ln, _ = tampering.read_all(path)
        weights = [value.numpy() for value in twin.state_dict().values()]
        return fuzzing.digest(weights, [twin.description(), ln is None])
    if kind == "npz":
        return fuzzing.read_arrays(path)
    if kind == "NWB":
        from shipped import settings_in

        from vivit_core.data.importers.nwb import NwbImporter

        settings = settings_in("importer/nwb") | settings_in("importer/about/blank")
        settings |= {"stimulus_column": "image", "split_column": "part", "seed": 0}
        return fuzzing.read_recording(NwbImporter(**settings)(path, path.with_suffix(".h5"))[0])
    return fuzzing.read_recording(path)


def attempt(kind: str, seed: int | None, good: str, path: str) -> dict[str, str]:
    """Mutate and read; what it came to. A mutation that the process survives and the file does not is no harm."""
    from vivit_core.data.importers import common
    from vivit_core.data.recording import guard

    guard._started = Forked  # type: ignore[assignment]
    common._IMPORTS_S = 0.0  # a fork has its libraries
    source, target = Path(good), Path(path)
    what = "nothing" if seed is None else mutated(kind, seed, source, target)
    if seed is None:
        target.write_bytes(source.read_bytes())
    print(what, flush=True)
    try:
        answer = {"digest": read(kind, target)}
    except ValueError as error:
        answer = {"refused": type(error).__name__, "message": str(error)}
    if target.with_suffix(".canary").exists():
        answer = {"ran": "code of the file"}
    return answer | {"what": what}


class Forked:
    """In the place of the interpreter that the guard starts: a fork with the guard's own code in it, because starting
    takes a hundred times as long."""

    def __init__(self) -> None:
        read_in, write_in = os.pipe()
        read_out, write_out = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.close(write_in)
            os.close(read_out)
            os.dup2(read_in, 0)
            os.dup2(write_out, 1)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.stdin = os.fdopen(0, closefd=False)
            from vivit_core.data.recording import guard

            try:
                guard.serve()
            finally:
                os._exit(0)
        os.close(read_in)
        os.close(write_out)
        self.stdin, self.stdout = os.fdopen(write_in, "wb", 0), os.fdopen(read_out, "rb", 0)

    def poll(self) -> int | None:
        if self.returncode is None:
            done, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if done else None
        return self.returncode

    def wait(self, timeout: float | None = None) -> int | None:
        """Waits to the end where no time is given, else a second at most."""
        import subprocess
        import time

        end = math.inf if timeout is None else time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > end:
                raise subprocess.TimeoutExpired("guard", timeout or 0)
            time.sleep(0.002)
        return self.returncode

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


def preload() -> None:
    """Import what all of them import."""
    import pynwb
    import shipped  # noqa: F401
    import small_recordings  # noqa: F401
    import tampering  # noqa: F401

    import vivit_core.data.importers.nwb  # noqa: F401

    pynwb.get_manager()
