"""What code that reads a damaged file may do, for test_guard.py."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from vivit_core.specs import RecordingError


def spins() -> None:
    while True:
        pass


def sleeps() -> None:
    time.sleep(1000)


def crashes() -> None:
    os.kill(os.getpid(), signal.SIGSEGV)


def eats() -> None:
    bytearray(1 << 36)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def raises() -> None:
    raise ZeroDivisionError


def refuses() -> None:
    path = __file__.replace("bad_readers", "test_guard")
    raise RecordingError(path, "responses/counts", "row 3 is negative", "Count again")


def prints() -> dict[str, Any]:
    print("hello")
    os.write(1, b"hello from C\n")
    return {"torch": "torch" in sys.modules}
