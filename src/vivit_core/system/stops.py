"""Signals that ask a program to stop. During training steps ``training.callbacks.StopSignals`` answers them instead."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# Ctrl-C; what kill, schedulers and machines that shut down send; a closed terminal; what batch scripts ask SLURM to
# send before the time is up; what SLURM sends on submitit's behalf, then and before it takes the machine away.
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Stopped(BaseException):
    """A signal asked the program to stop; like KeyboardInterrupt, it is no Exception, so that nothing holds it up.

    Attributes
    ----------
    signal : which one.
    remedy : how to go on with what was stopped.
    """

    def __init__(self, number: int) -> None:
        self.signal = signal.Signals(number)
        self.remedy = "the same command starts it again"
        super().__init__(number)

    def __str__(self) -> str:
        return f"stopped by {self.signal.name} before its end; {self.remedy}"


class TrainingStopped(Exception):
    """The training was stopped from outside; ``checkpoint`` continues it exactly.

    Attributes
    ----------
    checkpoint : what to continue from.
    signals : what had been received, by any of the ranks.
    """

    def __init__(self, checkpoint: Path, summary: str, signals: frozenset[signal.Signals]) -> None:
        self.checkpoint, self.signals = checkpoint, signals
        super().__init__(summary)


class TrainingPruned(Exception):
    """The training was stopped because others of its search are ahead; it left a checkpoint.

    Attributes
    ----------
    score : its best so far; None where none was a number.
    """

    def __init__(self, reason: str, score: float | None) -> None:
        self.score = score
        super().__init__(reason)


def exit_code(signals: Set[signal.Signals]) -> int:
    """What a shell expects of a program that signals stopped: 128 and the signal's number, here the largest."""
    return 128 + max(signals)


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise :class:`Stopped` where one of ``STOPS`` comes: temporary files go, and the program says what is left.

    What somebody else handles, as submitit does in its jobs, or ignores, as nohup does for SIGHUP, stays as it is.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()
    received: set[int] = set()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a process forked from this one
            if number == signal.SIGTERM:  # meant for it alone
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return  # else it was sent to the whole group, and the process ends with its owner
        # A scheduler may send several, one after the other: only a person who repeats Ctrl-C wants to leave at once.
        if not received or number == signal.SIGINT:
            received.add(number)
            raise Stopped(number)

    before = {
        number: signal.signal(number, stop)
        for number in STOPS
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
