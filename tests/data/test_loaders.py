"""Worker processes: room for them, and what is said when one is silent or gone."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from vivit_core.cli.main import message_of
from vivit_core.data import loaders
from vivit_core.data.loaders import affordable, explained, read_ahead
from vivit_core.specs import Batch, RecordingError
from vivit_core.system.stops import STOPS as STOPS


class Numbers:
    """Batches of one tensor; item 2 does what is said."""

    batch_bytes, batch_tensors = 4000, 1

    def __init__(self, second: Any = None) -> None:
        self.second = second

    def __getitem__(self, item: int) -> Batch:
        if item == 2 and self.second is not None:
            self.second()
        return {"a": {"counts": torch.full((1, 10, 100), float(item))}}


def dies() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def bus_error() -> None:
    os.kill(os.getpid(), signal.SIGBUS)


def sleeps() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # as one that hangs before Python runs
    time.sleep(1000)


def refuses() -> None:
    raise RecordingError("a.h5", "responses/counts", "row 3 is negative", "Count again")


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order(workers: int) -> None:
    read = [int(batch["a"]["counts"][0, 0, 0]) for batch in read_ahead(Numbers(), range(7), workers, False, 60)]
    assert read == list(range(7))


@pytest.mark.timeout(120)
@pytest.mark.parametrize(
    ("second", "timeout_s", "says"),
    [
        (dies, 100, r"ended \(SIGKILL\).*data\.num_workers=0"),
        (bus_error, 100, r"shared memory .*--shm-size.*data\.num_workers=0"),
        (sleeps, 3, r"within data\.worker_timeout_s.*data\.num_workers=0"),
        (refuses, 100, r"^a\.h5: responses/counts: row 3 is negative\. Count again$"),
    ],
)
def test_a_worker_that_ends_or_sleeps_becomes_one_line(second: Any, timeout_s: float, says: str) -> None:
    with pytest.raises(ValueError) as caught:
        for _ in read_ahead(Numbers(second), range(7), 2, False, timeout_s):
            pass
    said = message_of(caught.value)
    assert said is not None and "\n" not in said
    assert re.search(says, said), said


STUBBORN = """
import os, signal, sys
from test_loaders import STOPS, Numbers, read_ahead, sleeps

told = []
if __name__ == "__main__":
    for number in STOPS:
        signal.signal(number, lambda number, frame: told.append(number))
    batches = read_ahead(Numbers(), range(40), 2, False, 60)
    next(batches)
    for number in STOPS:
        os.killpg(0, number)
    print("read", 1 + len(list(batches)), "told", sorted(told) == sorted(STOPS), flush=True)
    try:
        list(read_ahead(Numbers(sleeps), range(7), 2, False, 3))
    except ValueError as error:
        print("silent", error, flush=True)
    batches = read_ahead(Numbers(sleeps), range(7), 1, False, 60)
    next(batches)
    raise LookupError("a mistake elsewhere")  # its traceback, and the batches with it, live to the end of the process
"""


@pytest.mark.slow
def test_a_process_ends_whatever_its_workers_do(tmp_path: Path) -> None:
    """Signals to the whole group leave them reading; one that hangs, and does not heed SIGTERM, holds up nothing."""
    (tmp_path / "stubborn.py").write_text(STUBBORN)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    process = subprocess.Popen(
        [sys.executable, "stubborn.py"], cwd=tmp_path, env=environment, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        printed, _ = process.communicate(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 1, printed
    assert "read 40 told True" in printed and "LookupError: a mistake elsewhere" in printed, printed
    assert re.search(r"silent No batch came .*data\.worker_timeout_s", printed), printed


def test_shared_memory_that_is_full_is_said_by_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: torch.Tensor) -> None:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(torch.Tensor, "share_memory_", full)
    with pytest.raises(ValueError, match=r"/dev/shm\) is full: make it larger .*data\.num_workers=0.*No space left"):
        loaders._shared(Numbers()[0])


@pytest.mark.parametrize(("free_mib", "workers"), [(0.0625, 0), (3.1, 1), (5.1, 2), (1000, 4)])
def test_workers_are_as_many_as_shared_memory_has_room_for(
    free_mib: float, workers: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    usage = type(shutil.disk_usage("/"))(0, 0, int(free_mib * 2**20))
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda place: usage)
    loaders._say_fewer.cache_clear()
    assert affordable(4, 1 << 20, 4) == workers
    if workers < 4:
        assert f"data.num_workers=4: there is room for {workers}" in caplog.text and "--shm-size" in caplog.text


def test_shared_memory_is_taken_in_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten tensors of a byte take ten pages: three batches of them, of one worker and of the training, are 120 kB."""
    usage = type(shutil.disk_usage("/"))(0, 0, 29 * resource.getpagesize())
    monkeypatch.setattr(loaders.shutil, "disk_usage", lambda place: usage)
    assert affordable(1, 10, 10) == 0


def test_workers_are_as_many_as_open_files_allow(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    raised = []
    monkeypatch.setattr(resource, "setrlimit", lambda what, limits: raised.append(limits))
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 4096))
    assert affordable(4, 1000, 256) == 4 and raised == [(64 + 9 * 256, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda what: (1024, 1024))
    assert affordable(4, 1000, 256) == 1
    monkeypatch.setattr(resource, "getrlimit", lambda what: (64, 64))
    assert affordable(4, 1000, 4) == 0
    assert "ulimit -n" in caplog.text


def test_other_errors_are_not_explained() -> None:
    assert explained(RuntimeError("shapes differ")) is None
