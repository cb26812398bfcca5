"""A process of its own for files that nobody vouches for: HDF5 and its like can hang, crash or eat the memory in a file
that is damaged or made to do harm.

The process is a new interpreter, not a fork: a fork of a process with threads (torch, OpenMP) can hang in a lock that
one of them held. It imports no torch, so it starts in a fraction of a second, and it examines file after file. What it
says comes back as JSON, never as a pickle: a hostile file may have got hold of it. Its computing time is bounded by the
kernel, where no stalled disk and no busy machine counts; the time on the clock is bounded by the process that waits.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.specs import RecordingError

SECONDS, SECONDS_A_GIGABYTE = 8.0, 60.0  # of computing that a file may take, and more for each gigabyte stored


SLOWER = 4.0  # so much longer it may take on the clock, on a busy machine or a slow disk, and
PATIENCE_S = 30.0  # so many seconds more
START_S = 300.0  # within which the process has started; pynwb takes seconds, a busy machine many more
MEMORY = 4 << 30  # bytes that it may take beyond those of its start
_ANSWER_BYTES = 1 << 20


_SERVE = (
    "import sys, json; sys.path[:] = json.loads(sys.argv[1]); "
    "from vivit_core.data.recording import guard; guard.serve()"
)


def stored_bytes(path: Path) -> int:
    """What a file or folder takes on the disk: of a file with holes, less than its size.

    Some file systems count no blocks; there the size stands in.
    """
    paths = [inner for inner in path.rglob("*") if inner.is_file()] if path.is_dir() else [path]
    states = [inner.stat() for inner in paths]
    return sum(min(s.st_size, s.st_blocks * 512) if s.st_blocks else s.st_size for s in states)


class Guard:
    """Runs functions on files in another process, which starts when it is first needed and ends with the context."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guard:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def run(self, path: Path, function: str, arguments: Mapping[str, Any], more_s: float = 0.0) -> Any:
        """Call ``function`` on the file ``path``.

        Parameters
        ----------
        path : the file, or folder, whose size bounds the time, and which an error names.
        function : "module:name", of this package.
        arguments : plain values.
        more_s : seconds of computing beside those that the size allows.

        Returns
        -------
        Any
            What the function returns, as JSON has it.

        Raises
        ------
        RecordingError
            What the function raises; or where the process crashed, took too long or too much memory.
        """
        allowed_s = more_s + SECONDS + SECONDS_A_GIGABYTE * stored_bytes(path) / 2**30
        try:
            answer = self._ask({"function": function, "arguments": dict(arguments), "seconds": allowed_s})
        except OSError as error:
            self._end()
            raise _not_examined(path, str(error)) from error
        except BaseException:
            self._end()
            raise
        if answer is None:
            raise self._verdict(path, allowed_s)
        if "error" in answer:
            self._end()  # who knows what a damaged file has left behind in it
            raise RecordingError(answer["error"].pop("path", None) or path, **answer["error"])
        return answer["value"]

    def _ask(self, question: Mapping[str, Any]) -> dict[str, Any] | None:
        """The answer; None where there is none."""
        if self._process is None:
            self._process = _started()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        self._said, self._began = b"", False
        if self._line(START_S) is None:  # "began"
            return None
        self._began = True
        line = self._line(PATIENCE_S + SLOWER * question["seconds"])
        try:
            return None if line is None else json.loads(line)
        except ValueError:
            return None

    def _line(self, seconds: float) -> bytes | None:
        """The next line it says; None where it ends, says too much, or says nothing in time."""
        assert self._process is not None and self._process.stdout is not None
        end, pipe = time.monotonic() + seconds, self._process.stdout
        while b"\n" not in self._said and len(self._said) < _ANSWER_BYTES:
            left = end - time.monotonic()
            if left <= 0 or not select.select([pipe], [], [], left)[0]:
                return None
            if not (piece := os.read(pipe.fileno(), 65536)):
                return None
            self._said += piece
        line, _, self._said = self._said.partition(b"\n")
        return line

    def _verdict(self, path: Path, allowed_s: float) -> RecordingError:
        """What it means that there was no answer."""
        assert self._process is not None
        again = "Copy or import it again"
        with contextlib.suppress(subprocess.TimeoutExpired):  # it is about to end, or hangs
            self._process.wait(1.0)
        code = self._process.poll()
        began = self._began
        self._end()
        if not began:
            said = "it said nothing" if code is None else f"it ended with code {code}"
            return _not_examined(path, said)
        if code == -signal.SIGPROF:
            return RecordingError(path, "file", f"damaged: it could not be read within {allowed_s:.0f} s", again)
        if code is None:
            seconds = PATIENCE_S + SLOWER * allowed_s
            return RecordingError(
                path, "file", f"it could not be read within {seconds:.0f} s", f"Look whether its disk answers. {again}"
            )
        if -code in (signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT, signal.SIGFPE, signal.SIGILL):
            return RecordingError(path, "file", "damaged: HDF5 crashed while reading it", again)
        return RecordingError(
            path,
            "file",
            f"the process that examined it was ended from outside (code {code}), perhaps for want of memory",
            "Start again where more memory is free",
        )

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            for pipe in (self._process.stdin, self._process.stdout):
                with contextlib.suppress(OSError):
                    assert pipe is not None
                    pipe.close()
            self._process.wait()
            self._process = None


def _not_examined(path: Path, why: str) -> RecordingError:
    return RecordingError(
        path,
        "file",
        f"it could not be examined: the process for it did not start ({why})",
        "Look what keeps this machine from starting processes (memory, ulimit -u, ulimit -n), and start again",
    )


def _started() -> subprocess.Popen[bytes]:
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-I", "-c", _SERVE, json.dumps([str(place) for place in sys.path])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # the C library's last words on a crash
        env={**os.environ, **one_thread},
    )


def serve() -> None:
    """Answer questions until there are no more."""
    for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)  # meant for the process that waits
    tell = os.dup(1)
    os.dup2(2, 1)  # whatever a library prints
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    limited = False
    for line in sys.stdin.buffer:
        question = json.loads(line)
        module, _, name = question["function"].partition(":")
        function = getattr(importlib.import_module(module), name)
        if not limited:
            limited = True
            _limit_memory()
        _say(tell, {})
        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_PROF, question["seconds"])  # ends it, in C code too
        # Where the process that waits is gone.
        signal.alarm(int(2 * PATIENCE_S + SLOWER * question["seconds"]))
        _say(tell, _answer(function, question["arguments"]))
        signal.alarm(0)
        signal.setitimer(signal.ITIMER_PROF, 0)


def _limit_memory() -> None:
    with contextlib.suppress(OSError, ValueError):  # no /proc, or a system without such limits: time alone is bounded
        taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        most = taken + MEMORY
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _answer(function: Any, arguments: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {"value": function(**arguments)}
    except RecordingError as error:
        path, field, problem, remedy = error.path, error.field, error.problem, error.remedy
    except MemoryError:
        path, field, remedy = "", "file", "Copy or import it again; if it is whole, store it in smaller chunks"
        problem = f"it takes more than {MEMORY / 2**30:.0f} GiB of memory to read"
    except BaseException as error:  # whatever it is, it must become one line of the process that waits
        path, field, remedy = "", "file", "Copy or import it again"
        problem = f"cannot be read ({type(error).__name__}: {error})"
    # Of a damaged file these may be of any length.
    said = {"path": path[:4096], "field": field[:1000], "problem": problem[:4000], "remedy": remedy[:4000]}
    return {"error": said}


def _say(tell: int, said: Mapping[str, Any]) -> None:
    line = json.dumps(said).encode() + b"\n"
    while line:
        line = line[os.write(tell, line) :]
