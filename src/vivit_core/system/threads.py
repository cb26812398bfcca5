"""Threads of this process that compute, a core each.

Threads inside a small product wait for each other more than they work, and for the one whose core is shared most.
Threads that each have a unit, or a recording, of their own need not.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
R = TypeVar("R")
_entering = threading.Lock()
_given_up = threading.Event()


class Stopped(RuntimeError):  # not this thread's error
    """What this thread computes is no longer wanted."""


class _Cores:
    """The threads in use now, and by how many."""

    pool: ThreadPoolExecutor | None = None
    users = 0
    before = 1


@contextmanager
def a_core_each() -> Iterator[ThreadPoolExecutor]:
    """As many threads as torch has, with one core each. Who enters while others are inside shares theirs."""
    import torch  # takes seconds

    with _entering:
        if _Cores.pool is None:
            _Cores.before = torch.get_num_threads()
            torch.set_num_threads(1)
            _Cores.pool = ThreadPoolExecutor(_Cores.before)
        _Cores.users += 1
        pool = _Cores.pool
    try:
        yield pool
    finally:
        with _entering:
            _Cores.users -= 1
            last = not _Cores.users
            if last:  # within the lock, or who enters next takes the 1 for what torch had
                _Cores.pool = None
                torch.set_num_threads(_Cores.before)
        if last:
            pool.shutdown()


@contextmanager
def mapping_on(device: torch.device) -> Iterator[Callable[..., Iterable[Any]]]:
    """``map`` for what is computed on a device: by :func:`a_core_each` on the CPU, in the calling thread on a GPU.

    A GPU's threads are its own, and small kernels that several threads of Python start wait for each other. Nor may
    threads be the first that do linear algebra there: torch then loads a library, and whoever comes meanwhile fails
    with "lazy wrapper should be called at most once" (pytorch#90613).
    """
    if device.type != "cpu":
        yield map
        return
    with a_core_each() as pool:
        yield pool.map


def cores() -> int:
    """How many threads all that runs now shares: torch's, also inside :func:`a_core_each`, where each has one."""
    import torch

    with _entering:
        return torch.get_num_threads() if _Cores.pool is None else _Cores.before


def side_by_side(do: Callable[[T], R], each: Sequence[T], at_once: int) -> list[R]:
    """What ``do`` makes of each, in their order.

    An error, or Ctrl-C, ends the others at their next :func:`go_on`. With one thread, or one thing to do, it is done
    in this thread, which then has all cores.

    Parameters
    ----------
    do : its gradients and the like are switched on and off for the thread that it runs in alone.
    each : what it is given.
    at_once : so many at once at most: each takes memory.
    """
    number = min(len(each), at_once, cores())
    if number < 2:
        return [do(one) for one in each]
    failed: list[BaseException] = []

    def begin(one: T) -> R:
        go_on()
        try:
            return do(one)
        except BaseException as error:
            failed.append(error)
            _given_up.set()
            raise

    with a_core_each(), ThreadPoolExecutor(number) as pool:
        try:
            futures = [pool.submit(begin, one) for one in each]
            wait(futures, return_when=FIRST_EXCEPTION)
            if not failed:
                return [future.result() for future in futures]
        except BaseException:
            _given_up.set()
            raise
        finally:
            try:
                pool.shutdown(cancel_futures=True)
            finally:  # also where Ctrl-C comes once more
                _given_up.clear()
    raise failed[0]


def go_on() -> None:
    """Ask, within what takes long, whether it is still wanted.

    Raises
    ------
    Stopped
        Where it is not.
    """
    if _given_up.is_set():
        raise Stopped("another thread failed, or the program is to end")
