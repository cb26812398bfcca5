"""Reads batches ahead, in worker processes: how many there is room for, and what it means when one falls silent. What
is in a batch is :mod:`batches`'s to say."""

from __future__ import annotations

import atexit
import functools
import logging
import multiprocessing
import resource
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed
from torch.utils.data import DataLoader, Dataset, get_worker_info

from vivit_core.data.batches import EvaluationBatches, TrainingBatches
from vivit_core.specs import Batch
from vivit_core.system.stops import STOPS

log = logging.getLogger(__name__)
AHEAD = 2  # batches that each worker reads ahead
SHARED = Path("/dev/shm")  # through which they pass
_OTHER_FILES = 64  # that a process may have open besides
_LOOK_S = 1.0  # seconds between two looks whether the workers live
_readers: set[BaseProcess] = set()  # workers that may be alive

_NO_ROOM = (
    "shared memory (/dev/shm) is full: make it larger (`docker run --shm-size=8g …`), set a smaller data.num_workers, "
    "or data.num_workers=0 to read in the training process"
)


class Batches(Protocol):
    """A data set whose items are batches."""

    batch_bytes: int  # of the largest
    batch_tensors: int  # at most in one

    def __getitem__(self, item: int, /) -> Batch: ...


def read_ahead(batches: Batches, order: range, num_workers: int, pin_memory: bool, timeout_s: float) -> Iterator[Batch]:
    """Read the items of ``order``, each a whole batch, in worker processes with one thread each.

    Workers live for one pass: those of validation would otherwise wait, with their memory, through every epoch.

    They are forked from a process that is kept for that (multiprocessing's forkserver) and has done nothing but import
    what they need. A fork of the training itself may hang before its first line: whatever lock another thread (of
    autograd, OpenMP, gloo, a compiler) holds at that moment stays closed in it for ever. A new interpreter for each
    worker would be as safe, but imports torch each time.

    Parameters
    ----------
    batches, order : the data set, which can be pickled, and its items in the order in which they are wanted.
    num_workers : processes; fewer, and a line says so, where shared memory or the limit of open files has no room.
    pin_memory : copy batches to where a GPU fetches them by itself.
    timeout_s : seconds to wait for a batch from them; 0 for ever.

    Raises
    ------
    ValueError
        Where a worker ended, was silent for too long, or found no shared memory; and what it raised itself.
    """
    workers = affordable(num_workers, batches.batch_bytes, batches.batch_tensors)
    loader = DataLoader(
        _Told(batches),
        batch_size=None,
        sampler=order,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        timeout=_LOOK_S if workers else 0,
        collate_fn=_as_it_is,
        pin_memory=pin_memory,
        generator=torch.Generator(),  # a loader draws a seed for its workers; not from the generator of the training
        multiprocessing_context=_from_a_clean_process() if workers else None,
    )
    with _unstoppable() if workers else nullcontext():
        passing = iter(loader)
    own: list[BaseProcess] = getattr(passing, "_workers", [])
    _readers.update(own)
    asked = time.monotonic()
    try:
        while True:
            try:
                batch = next(passing)
            except StopIteration:
                return
            except (RuntimeError, EOFError, OSError) as error:
                if "DataLoader timed out" in str(error) and not 0 < timeout_s <= time.monotonic() - asked:
                    continue
                if isinstance(error, EOFError | OSError):  # of one that is about to be known as dead
                    wait([worker.sentinel for worker in own], _LOOK_S)
                if (said := explained(error, [worker.exitcode for worker in own])) is None:
                    raise
                _kill(own)  # one that is stuck ends in no other way, and this process would wait for it at its own end
                raise ValueError(said) from error
            if isinstance(batch, _Failed):
                raise batch.error
            yield batch
            asked = time.monotonic()
    finally:
        if own:
            passing._shutdown_workers()  # type: ignore[attr-defined]  # gently, else a killed one may hold a lock
            _kill(own)


def _from_a_clean_process() -> Any:
    """Where workers are forked: a process with one thread, which has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["__main__", __name__])
    return context


@contextmanager
def _unstoppable() -> Iterator[None]:
    """Processes that are started here do not notice the signals that stop a program.

    A terminal and a scheduler send them to all processes. Those that read go on, so that the training can end its step,
    and end with it.
    """
    resource_tracker.ensure_running()  # multiprocessing's own helper, whose start lets signals through again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _kill(workers: Sequence[BaseProcess]) -> None:
    """End workers for certain."""
    for worker in workers:
        worker.kill()
    _readers.difference_update(workers)


@atexit.register  # after multiprocessing's own, which asks workers to end and waits for ever, so that it runs before
def _kill_all() -> None:
    _kill(list(_readers))


def affordable(num_workers: int, batch_bytes: int, batch_tensors: int) -> int:
    """How many workers there is room for: their batches lie in shared memory, and each tensor there is an open file."""
    if num_workers == 0:
        return 0
    batch_bytes += batch_tensors * resource.getpagesize()  # each tensor takes whole pages
    fits, why = num_workers, ""
    if SHARED.is_dir():
        free = shutil.disk_usage(SHARED).free
        fits = max(0, min(fits, (free - batch_bytes) // (AHEAD * max(1, batch_bytes))))
        why = f"{SHARED} has {free / 2**20:.3g} MiB free, and each takes {AHEAD * batch_bytes / 2**20:.3g} MiB"
        why += " (`docker run --shm-size=8g …` gives more)"
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _OTHER_FILES + (1 + AHEAD * num_workers) * batch_tensors
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(hard, needed)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))  # anyone may raise it up to the hard limit
        few = max(0, (soft - _OTHER_FILES - batch_tensors) // (AHEAD * batch_tensors))
        if few < fits:
            fits, why = few, f"this process may open {soft} files, and each takes {AHEAD * batch_tensors} (`ulimit -n`)"
    if fits < num_workers:
        _say_fewer(f"data.num_workers={num_workers}: there is room for {fits} that read ahead: {why}")
    return fits


@functools.cache
def _say_fewer(line: str) -> None:
    log.warning("%s", line)


def explained(error: BaseException, exits: Sequence[int | None] = ()) -> str | None:
    """What torch's words about a worker mean, and what to do; None for other errors.

    Parameters
    ----------
    error : what torch raised.
    exits : how the workers ended, as multiprocessing says it: minus a signal's number; None of those that live.
    """
    said = str(error)
    ended = [code for code in exits if code is not None]
    signals = [signal.Signals(-code) for code in ended if code < 0]
    if signal.SIGBUS in signals:
        return f"A process that reads clips ended: {_NO_ROOM}"
    if ended:
        return (
            f"A process that reads clips ended ({signals[0].name if signals else 'without a word'}), most often for "
            "want of memory: set a smaller data.num_workers, or data.num_workers=0 to read in the training process, or "
            "give the job more memory; resume=auto goes on from the last checkpoint"
        )
    if "DataLoader timed out" in said:
        return (
            "No batch came from the processes that read clips within data.worker_timeout_s: look whether the disk with "
            "the recordings answers; if it is only slow, set a larger data.worker_timeout_s, or data.num_workers=0 to "
            "read in the training process"
        )
    if "Too many open files" in said or "items of ancdata" in said:
        return (
            "Too many files are open to take batches from other processes: allow more (`ulimit -n 4096`), or set a "
            "smaller data.num_workers"
        )
    return None


class _Failed:
    """A user's mistake that a worker met. It comes back as it is: torch would make it again from a traceback's text."""

    def __init__(self, error: ValueError) -> None:
        self.error = error


class _Told(Dataset[Any]):
    """The batches, in shared memory where a worker reads them; or what is wrong with their files."""

    def __init__(self, batches: Batches) -> None:
        self.batches = batches

    def __getitem__(self, item: int) -> Any:
        try:
            batch = self.batches[item]
            return batch if get_worker_info() is None else _shared(batch)
        except ValueError as error:
            return _Failed(error)


def _shared(batch: Batch) -> Batch:
    """Where there is no room this fails here; left to torch it would fail in a thread, and the batch never come."""
    try:
        for clips in batch.values():
            for tensor in clips.values():
                assert isinstance(tensor, torch.Tensor)
                tensor.share_memory_()
    except (RuntimeError, OSError) as error:
        raise ValueError(f"A process that reads clips: {explained(error) or f'{_NO_ROOM} ({error})'}") from error
    return batch


def _as_it_is(batch: Any) -> Any:
    return batch


class TrainingLoader:
    """Training batches, ``batches_per_epoch`` at a time; its whole state is the number of the next sample.

    The state counts batches handed out, not those that workers read ahead. Epochs are the trainer's business: an epoch
    that was interrupted goes on with the next sample, and the trainer knows when it is full.
    """

    def __init__(
        self,
        batches: TrainingBatches,
        batch_size: int,
        batches_per_epoch: int,
        num_workers: int,
        pin_memory: bool = False,
        next_sample: int = 0,
        timeout_s: float = 0,
    ) -> None:
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.next_sample = next_sample
        self._batches, self._num_workers = batches, num_workers
        self._pin_memory, self._timeout_s = pin_memory, timeout_s

    def __len__(self) -> int:
        return self.batches_per_epoch

    def __iter__(self) -> Iterator[Batch]:
        last = self.next_sample + self.batches_per_epoch * self.batch_size
        order = range(self.next_sample, last, self.batch_size)
        for batch in read_ahead(self._batches, order, self._num_workers, self._pin_memory, self._timeout_s):
            self.next_sample += self.batch_size
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"next_sample": self.next_sample}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        self.next_sample = int(state_dict["next_sample"])


class EvaluationLoader:
    """Evaluation batches. Not a torch DataLoader: Lightning would replace its sampler where several processes train."""

    def __init__(
        self, batches: EvaluationBatches, num_workers: int, pin_memory: bool = False, timeout_s: float = 0
    ) -> None:
        self._batches, self._num_workers = batches, num_workers
        self._pin_memory, self._timeout_s = pin_memory, timeout_s

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[Batch]:
        order = range(len(self._batches))
        return read_ahead(self._batches, order, self._num_workers, self._pin_memory, self._timeout_s)
