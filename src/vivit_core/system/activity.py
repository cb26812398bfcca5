"""What the program is doing and how far it is, said often enough that nobody has to wonder.

A part says what it does by :func:`stage` and :func:`followed`. That prints nothing by itself: a program that wants to
hear it asks once, by :func:`voice`. On a live terminal what is counted has a bar instead of the lines between.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from vivit_core.system.work import Work

T = TypeVar("T")
EVERY_S = 20.0  # between two lines; silence is then below half a minute, also where a line comes late
LOOK_S = 1.0  # between two looks whether it is time for one
WORTH_S = 2.0  # what is done sooner needs no word at its end
Clock = Callable[[], float]


def duration(seconds: float) -> str:
    """How long something takes: ``2:08 h``, ``14:30 min``."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes}:{seconds:02d} min"


@dataclass(eq=False)
class Activity:
    """Something that takes time.

    Attributes
    ----------
    name : what is done.
    began : when, s.
    done, total : of its pieces; a total of 0 where they are not counted.
    detail : what to say of it, asked when it is said, by another thread.
    spared : part of it was there before, so that its time tells nothing of how long it takes.
    bar : a live terminal shows a bar of it.
    """

    name: str
    began: float
    done: int = 0
    total: int = 0
    detail: Callable[[], str] | None = None
    spared: bool = False
    bar: bool = False

    def line(self, now: float) -> str:
        """How far it is."""
        spent = now - self.began
        if self.detail is not None:
            return f"{self.name}: {self.detail()}, {duration(spent)} so far"
        said = f"{self.name}: " + (f"{self.done} of {self.total}, " if self.total else "") + f"{duration(spent)} so far"
        if 0 < self.done <= self.total:
            said += f", ends in {duration(spent * (self.total - self.done) / self.done)}"
        return said


class Voice:
    """Says what goes on.

    Parameters
    ----------
    say : prints a line.
    live : whether bars show how far things are that have one.
    clock : seconds that pass.
    """

    def __init__(self, say: Callable[[str], None], live: bool, clock: Clock = time.monotonic) -> None:
        self.say, self.live, self.clock = say, live, clock
        self._said = clock()

    def tell(self, line: str) -> None:
        self._said = self.clock()
        self.say(line)

    def tick(self) -> None:
        """Say how far it is, where nothing was said for a while."""
        activities = list(_activities)
        if activities and not (self.live and activities[-1].bar) and self.clock() - self._said >= EVERY_S:
            self.tell(activities[-1].line(self.clock()))


_activities: list[Activity] = []  # the innermost last
_voice: Voice | None = None


@contextmanager
def voice(say: Callable[[str], None], live: bool, name: str, clock: Clock = time.monotonic) -> Iterator[Voice]:
    """Say what goes on inside, by a thread that looks whether it is time to.

    Parameters
    ----------
    say, live, clock : of :class:`Voice`.
    name : what goes on where no part says more.
    """
    global _voice
    before, _voice = _voice, Voice(say, live, clock)
    mine, over = _voice, threading.Event()

    def look() -> None:
        while not over.wait(LOOK_S):
            mine.tick()

    thread = threading.Thread(target=look, daemon=True, name="voice")
    thread.start()
    try:
        with _doing(Activity(name, clock())):
            yield mine
    finally:
        over.set()
        thread.join()
        _voice = before


def said() -> None:
    """A line about the current activity was printed by somebody else, just now."""
    if _voice is not None:
        _voice._said = _voice.clock()


def spared() -> None:
    """Part of the current activity was there before."""
    if _activities:
        _activities[-1].spared = True


@contextmanager
def stage(
    name: str,
    estimate_s: float | None = None,
    *,
    work: Work | None = None,
    most_s: float | None = None,
    unless: str = "",
) -> Iterator[None]:
    """A part of the work that says that it begins, with an estimate, and how long it took.

    Parameters
    ----------
    name : of the part.
    estimate_s : seconds that it will take; None: those that ``work`` takes on this machine.
    work : what is done. How long it took is remembered for the next time, where it took long enough to tell.
    most_s : seconds that it takes at most, for a part of which no estimate is known.
    unless : when it takes no time.
    """
    with _doing(Activity(name, _now())) as activity:
        if _voice is not None:
            expected_s = work.expected_s if estimate_s is None and work is not None else estimate_s
            if expected_s is not None:
                length = f", and takes about {duration(expected_s)}"
            elif most_s is not None:
                length = f", and takes at most {duration(most_s)}"
            else:
                length = "" if work is None else "; how long it takes is unknown"
            _voice.tell(f"{name} begins{length}" + (f", but no time where {unless}" if unless else ""))
        yield
        took = _now() - activity.began
        if took >= WORTH_S:
            if work is not None and not activity.spared:
                work.took(took)
            if _voice is not None:
                _voice.tell(f"{name} took {duration(took)}")


@contextmanager
def doing(name: str, detail: Callable[[], str], bar: bool = False) -> Iterator[None]:
    """Work that knows itself how far it is; ``bar``: and shows it."""
    with _doing(Activity(name, _now(), detail=detail, bar=bar)):
        yield


def followed(sequence: Iterable[T], name: str, total: float | None = None, bar: bool = False) -> Iterator[T]:
    """The items of a sequence, which is work that is counted; ``bar``: by a bar that somebody shows."""
    count = len(sequence) if total is None and isinstance(sequence, Sized) else int(total or 0)
    with _doing(Activity(name, _now(), total=count, bar=bar)) as activity:
        for item in sequence:
            yield item
            activity.done += 1
        if not bar and _voice is not None and (took := _now() - activity.began) >= WORTH_S:
            _voice.tell(f"{name}: {activity.done} in {duration(took)}")


@contextmanager
def _doing(activity: Activity) -> Iterator[Activity]:
    _activities.append(activity)
    try:
        yield activity
    finally:
        _activities.remove(activity)


def _now() -> float:
    return time.monotonic() if _voice is None else _voice.clock()
