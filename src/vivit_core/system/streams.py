"""Standard output and error that end no program: a closed terminal, ``| head``, a full disk, an ASCII terminal."""

from __future__ import annotations

import io
import os
import select
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer as Buffer


WAIT_S = 5.0  # for a reader of a non-blocking stream


class Outlet(io.FileIO):
    """A standard stream. What cannot be written any more is lost, and the program goes on."""

    _waits_s = WAIT_S  # none once a reader has kept it waiting, until there is room again: each line would take as long

    def write(self, data: Buffer, /) -> int:
        """As much of ``data`` as there is room for; all is lost where the reader has left, or does not read."""
        try:
            written: int | None = super().write(data)
            if written is None:  # non-blocking and full, which a BufferedWriter would raise
                select.select([], [self], [], self._waits_s)
                written = super().write(data)
            self._waits_s = WAIT_S if written is not None else 0.0
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written


def steady_streams() -> None:
    """Let ``sys.stdout`` and ``sys.stderr`` take any text and survive their reader; where one is closed, open the void.

    A stream that something else has put there (a test, a notebook) is left alone.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:  # closed: else the next file that is opened would get its number, and all that is printed
            void = os.open(os.devnull, os.O_RDWR)
            if void != number:
                os.dup2(void, number)
                os.close(void)
            os.set_inheritable(number, True)
    for number, name in ((1, "stdout"), (2, "stderr")):
        stream = getattr(sys, name)
        if stream is not None:
            try:
                raw = getattr(stream.buffer, "raw", stream.buffer)  # PYTHONUNBUFFERED leaves out what is between
                if stream.fileno() != number or isinstance(raw, Outlet) or not isinstance(raw, io.FileIO):
                    continue
                stream.flush()
            except ValueError:  # no file, or a closed one (io.UnsupportedOperation is one)
                continue
            except AttributeError:
                continue
            except OSError:
                pass  # the reader has left already
        steady = io.TextIOWrapper(
            io.BufferedWriter(Outlet(number, "w", closefd=False)),
            encoding=getattr(stream, "encoding", "utf-8"),
            errors="backslashreplace" if number == 2 else "replace",
            line_buffering=True,
        )
        setattr(sys, name, steady)
