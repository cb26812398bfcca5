"""Things done side by side are what they are in turn; an error or Ctrl-C ends the others soon."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from vivit_core.system import threads
from vivit_core.system.threads import Stopped, a_core_each, cores, go_on, side_by_side

MOST_S = 20.0


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def test_results_are_in_order_and_threads_are_given_back() -> None:
    together = threading.Barrier(3, timeout=MOST_S)

    def do(number: int) -> tuple[int, int]:
        together.wait()  # three at once, or the barrier breaks
        assert (torch.get_num_threads(), cores()) == (1, 3)
        with a_core_each() as pool:
            return number, sum(pool.map(lambda x: x * torch.get_num_threads(), range(number)))

    assert side_by_side(do, range(6), at_once=3) == [(n, n * (n - 1) // 2) for n in range(6)]
    assert torch.get_num_threads() == cores() == 3


def test_one_thing_has_all_cores_and_no_more_are_done_at_once_than_may_be() -> None:
    assert side_by_side(lambda _: torch.get_num_threads(), ["a"], 4) == [3]
    assert side_by_side(lambda _: torch.get_num_threads(), ["a", "b"], 1) == [3, 3]
    now, most, entering = 0, 0, threading.Lock()

    def do(_: int) -> None:
        nonlocal now, most
        with entering:
            now += 1
            most = max(most, now)
        threading.Event().wait(0.01)
        with entering:
            now -= 1

    side_by_side(do, range(8), at_once=2)
    assert most <= 2


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_ends_the_others(error: type[BaseException]) -> None:
    """Also of those that wait for a unit's threads, and what was not begun is not."""
    begun: list[int] = []
    both = threading.Barrier(2, timeout=MOST_S)

    def ever(_: int) -> None:
        while True:
            go_on()

    def do(number: int) -> None:
        begun.append(number)
        both.wait()
        if number == 0:
            raise error("of the first")
        with a_core_each() as pool:
            list(pool.map(ever, range(2)))

    with pytest.raises(error, match="of the first"):
        side_by_side(do, range(5), at_once=2)
    assert sorted(begun) == [0, 1] and torch.get_num_threads() == 3
    go_on()  # what comes next is wanted
    assert side_by_side(lambda x: x, range(4), at_once=2) == [0, 1, 2, 3]


def test_ctrl_c_ends_all_that_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """It reaches the thread that waits."""
    ended: list[int] = []

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def do(number: int) -> None:
        try:
            while True:
                go_on()
        except Stopped:
            ended.append(number)
            raise

    monkeypatch.setattr(threads, "wait", interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(do, range(2), at_once=2)
    assert len(ended) in (1, 2)  # one may not have begun


def test_ctrl_c_twice_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait, cancel_futures=cancel_futures)
            if cancel_futures:
                raise KeyboardInterrupt

    monkeypatch.setattr(threads, "ThreadPoolExecutor", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        side_by_side(lambda number: 1 // number, range(2), at_once=2)
    go_on()
