"""The attack's time, and the table that it prints at its end.

ATTACK_MINUTES (15) bounds all of it. ATTACK_SEED (0) says where the samples begin. ATTACK_ONLY repeats a single try, as
the line of its fault says; ATTACK_TRIES is the most tries of each kind.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import pytest
from forks import Forks

MINUTES = float(os.environ.get("ATTACK_MINUTES", "15"))
SEED = int(os.environ.get("ATTACK_SEED", "0"))
ONLY = os.environ.get("ATTACK_ONLY")
TRYING = 0.85  # of the time; starting, and doing all once undisturbed, takes the rest
TIMEOUT = pytest.mark.timeout(int(60 * MINUTES) + 900)
T = TypeVar("T")


def spread(n: int, seed: int) -> list[int]:
    """0 … n-1, so that the first k of them are spread evenly, for each k: the digits of van der Corput's sequence."""
    bits = max(1, (n - 1).bit_length())
    turned = (int(format(i, f"0{bits}b")[::-1], 2) for i in range(1 << bits))
    return [(i + seed) % n for i in turned if i < n]


@dataclass
class Row:
    """What was tried of a kind."""

    what: str
    planned: int = 0
    tries: int = 0
    faults: list[str] = field(default_factory=list)
    note: str = ""
    seconds: float = 0.0


class Attack:
    """Tries something many times, in forks, until all is tried or the time is over."""

    def __init__(self, rows: list[Row], forks: SimpleQueue[Forks], cores: int) -> None:
        self.rows, self.forks, self.cores = rows, forks, cores
        self.saved = 0.0  # seconds that the kinds before did not need
        self.counted: Counter[str] = Counter()  # what an attempt may count, for the table

    def __call__(
        self, what: str, share: float, tries: Sequence[T], attempt: Callable[[Forks, int, T], list[str]]
    ) -> None:
        """Try ``attempt(forks, number, one)``, which returns what is wrong, with each of ``tries`` in an even order.

        Parameters
        ----------
        what : the row in the table.
        share : of the time for tries; what the kinds before did not need comes on top.
        tries : what is tried; the number of one is its place here.
        """
        began = time.monotonic()
        seconds = share * TRYING * MINUTES * 60 + self.saved
        self.counted = Counter()
        row = Row(what, planned=len(tries))
        self.rows.append(row)
        numbers = spread(len(tries), SEED)
        if ONLY is not None:
            name, _, number = ONLY.rpartition("/")
            numbers = [int(number)] if name == what else []
        if "ATTACK_TRIES" in os.environ:  # while one works on it
            numbers = numbers[: int(os.environ["ATTACK_TRIES"])]

        def work(number: int) -> None:
            if time.monotonic() - began > seconds and ONLY is None:
                return
            with self.fork() as forks:
                try:
                    wrong = attempt(forks, number, tries[number])
                except Exception as error:
                    wrong = [f"the try itself failed: {type(error).__name__}: {error}"]
            row.tries += 1
            row.note = ", ".join(f"{many} {how}" for how, many in sorted(self.counted.items()))
            if wrong:
                again = f"ATTACK_ONLY='{what}/{number}' make attack"
                row.faults.append(f"{what}, {tries[number]}: {'; '.join(wrong)[:1500]}   [again: {again}]")

        with ThreadPoolExecutor(self.cores) as pool:
            list(pool.map(work, numbers))
        row.seconds = time.monotonic() - began
        self.saved = max(0.0, seconds - row.seconds)
        assert not row.faults, "\n".join(row.faults)

    @contextmanager
    def fork(self) -> Iterator[Forks]:
        """One of the processes that fork, for a while."""
        forks = self.forks.get()
        try:
            yield forks
        finally:
            self.forks.put(forks)

    def each(self, do: Callable[[Forks], None]) -> None:
        """Do something in all of them."""
        with ExitStack() as stack:
            for forks in [stack.enter_context(self.fork()) for _ in range(self.cores)]:
                do(forks)

    def skip(self, what: str, why: str) -> None:
        self.rows.append(Row(what, note=f"skipped: {why}"))
        pytest.skip(why)


@contextmanager
def running(rows: list[Row], notes: Path) -> Iterator[Attack]:
    """An attack with a process that forks for each of two cores.

    Parameters
    ----------
    rows : where it writes down what it tried.
    notes : a folder for what the program remembers of files.
    """
    cores = min(2, len(os.sched_getaffinity(0)))
    free: SimpleQueue[Forks] = SimpleQueue()
    with ExitStack() as stack:
        for _ in range(cores):
            free.put(stack.enter_context(Forks({"XDG_CACHE_HOME": str(notes)})))
        yield Attack(rows, free, cores)


def table(rows: Sequence[Row]) -> list[str]:
    width = max(len(row.what) for row in rows)
    lines = [f"{'what':{width}}   tries  survived  faults  left out  seconds"]
    for row in [*rows, total(rows)]:
        counts = f"{row.tries:7}  {row.tries - len(row.faults):8}  {len(row.faults):6}  {row.planned - row.tries:8}"
        lines.append(f"{row.what:{width}} {counts}  {row.seconds:7.0f}  {row.note}".rstrip())
    return lines + [fault for row in rows for fault in row.faults]


def total(rows: Sequence[Row]) -> Row:
    return Row(
        "all",
        sum(row.planned for row in rows),
        sum(row.tries for row in rows),
        [fault for row in rows for fault in row.faults],
        seconds=sum(row.seconds for row in rows),
    )
