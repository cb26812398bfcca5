"""Tries that are cheap: a process imports everything once, and forks itself for each.

    python forks.py     # reads jobs from stdin, a line of JSON each; answers each with a line of JSON

A job calls a function in a fork, in a folder, with an environment and with limits; it may be killed at its n-th write
event, or some microseconds after it. Python tells of the events by its audit hooks. The process itself starts no
threads and computes nothing, because forks of a process with threads can hang.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = ("os.rename", "os.link", "os.symlink", "os.rmdir", "os.truncate")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


# In the fork ---------------------------------------------------------------------------------------------------------


def is_write(event: str, args: Sequence[Any]) -> bool:
    """Whether an event of Python's audit hooks changes the file system."""
    if event == "open":
        path, mode, flags = args
        writes = isinstance(mode, str) and any(letter in mode for letter in "wax+")
        return isinstance(path, str | bytes) and (writes or (isinstance(flags, int) and bool(flags & WRITES)))
    if event in ("os.mkdir", "os.remove"):  # which many call to no effect
        return os.path.lexists(args[0]) == (event == "os.remove")
    return event in CHANGES


def watch(under: Sequence[str], at: int, after_us: int, events: list[str]) -> None:
    """From now on note each write event below the folders ``under``; end the process at event ``at`` (from 1; 0: never)
    before it happens, or ``after_us`` later."""
    me = os.getpid()

    def hook(event: str, args: Sequence[Any]) -> None:
        if not is_write(event, args) or os.getpid() != me:
            return
        paths = [os.path.abspath(os.fsdecode(arg)) for arg in args[:2] if isinstance(arg, str | bytes | os.PathLike)]
        paths = paths[:1] if event == "open" else paths
        if not any(path.startswith(folder) for path in paths for folder in under):
            return
        events.append(f"{event} {' '.join(os.path.basename(path) for path in paths)}")
        if len(events) == at and after_us == 0:
            os.kill(me, signal.SIGKILL)
        elif len(events) == at:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, after_us / 1e6)

    sys.addaudithook(hook)


def taken_bytes() -> int:
    """Address space of this process."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()


def limit(which: int, most: int) -> None:
    resource.setrlimit(which, (most, resource.getrlimit(which)[1]))


def command(words: Sequence[str]) -> Any:
    """The command line."""
    from vivit_core.cli.main import main

    sys.argv = ["run.py", *words]
    main()


def run(job: dict[str, Any], tell: int) -> None:
    """In the fork: what the job asks for. Never returns."""
    code, events = 1, []
    try:
        os.setsid()
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.chdir(job["folder"])
        os.environ.update(job["environment"])
        if "memory" in job:
            limit(resource.RLIMIT_AS, taken_bytes() + job["memory"])
        if "file_bytes" in job:
            limit(resource.RLIMIT_FSIZE, job["file_bytes"])
        if job.get("blank"):  # what is in a picture is not what is tried, and takes most of the time
            import matplotlib.figure

            matplotlib.figure.Figure.draw = lambda self, renderer: None  # type: ignore[assignment, method-assign]
        if "under" in job:
            watch(job["under"], job.get("at", 0), job.get("after_us", 0), events)
        module, _, name = job["function"].partition(":")
        value = getattr(importlib.import_module(module), name)(*job["arguments"])
        said = {"value": value, "events": events, "modules": list(sys.modules) if job.get("warm") else []}
        with open(tell, "wb") as file:
            file.write(json.dumps(said).encode())
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            atexit._run_exitfuncs()
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


# In the process that forks ------------------------------------------------------------------------------------------


def answered(job: dict[str, Any]) -> dict[str, Any]:
    """Fork, wait, and say what became of it.

    Returns
    -------
    dict
        ``code``, of its exit, minus the signal that ended it, None where it took longer than the job's ``seconds``;
        ``value`` of the function; its write ``events``; ``took_s``.
    """
    listen, tell = os.pipe()
    began = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(listen)
        run(job, tell)
    os.close(tell)
    said, status = b"", None
    os.set_blocking(listen, False)
    while time.monotonic() - began < job["seconds"] and status is None:
        with contextlib.suppress(BlockingIOError):
            said += os.read(listen, 1 << 16)
        done, found = os.waitpid(pid, os.WNOHANG)
        status = os.waitstatus_to_exitcode(found) if done else None
        if status is None:
            time.sleep(0.002)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # and what it has started
    if status is None:
        os.waitpid(pid, 0)
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(listen, 1 << 16):
            said += piece
    os.close(listen)
    answer = {"value": None, "events": [], "modules": []}
    with contextlib.suppress(ValueError):  # cut off where it was killed while it told
        answer |= json.loads(said)
    for name in answer.pop("modules") if job.get("warm") else ():
        if name not in sys.modules and not name.startswith("__mp"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    answer.pop("modules", None)
    return answer | {"code": status, "took_s": time.monotonic() - began}


def serve() -> None:
    tell = os.dup(1)
    os.dup2(2, 1)
    import torch

    torch.set_num_threads(1)
    from vivit_core.cli.task import TASKS, names_in, task_named

    importlib.import_module("vivit_core.cli.main")
    for name in names_in(TASKS):
        task_named(name)  # with all that it imports

    with open(tell, "wb", buffering=0) as file:
        for line in sys.stdin.buffer:
            try:
                answer = answered(json.loads(line))
            except Exception:
                answer = {"broken": traceback.format_exc()}
            file.write(json.dumps(answer).encode() + b"\n")


# In the test ----------------------------------------------------------------------------------------------------------


class Forks:
    """The process that forks; of whoever starts it."""

    def __init__(self, environment: dict[str, str]) -> None:
        here = Path(__file__).resolve().parent
        places = [*(here.parent / name for name in ("data", "models")), here, here.parents[1] / "src"]
        path = os.pathsep.join([*map(str, places), os.environ.get("PYTHONPATH", "")])
        self.environment = {**os.environ, **ONE_THREAD, "PYTHONPATH": path, **environment}
        self.process = self.started()

    def started(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, __file__], env=self.environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def ask(
        self, function: str | Callable[..., Any], *arguments: Any, folder: Path, seconds: float = 120.0, **job: Any
    ) -> dict[str, Any]:
        """What became of the function (its name as module:name) in a fork; ``said`` is what it printed.

        Parameters
        ----------
        function, arguments : what is called.
        folder : where it is called; it is made.
        seconds : after which it hangs.
        job : output (a file that what it prints is added to), environment, memory and file_bytes (limits, bytes),
            under, at and after_us (:func:`watch`), blank (whether pictures stay blank), warm (whether what it imports
            is imported once for all).
        """
        folder.mkdir(parents=True, exist_ok=True)
        output = Path(job.pop("output", folder.with_name(folder.name + ".out")))
        before = output.stat().st_size if output.is_file() else 0
        line = {"function": function, "arguments": arguments, "folder": str(folder), "seconds": seconds}
        line |= {"output": str(output), "environment": {}, **job}
        assert self.process.stdin is not None and self.process.stdout is not None
        said = b""
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(json.dumps(line, default=str).encode() + b"\n")
            self.process.stdin.flush()
            said = self.process.stdout.readline()
        if not said:  # one fault of the attack's own, not one in each try that follows
            ended, self.process = self.process.wait(), self.started()
            raise RuntimeError(f"the process that forks ended with {ended}; another goes on")
        answer = json.loads(said)
        if "broken" in answer:
            raise RuntimeError(f"the process that forks could not: {answer['broken']}")
        with output.open("rb") as file:
            file.seek(before)
            return answer | {"said": file.read().decode(errors="replace")}


if __name__ == "__main__":
    del sys.path[0]  # the folder stands in the path again, behind others
    sys.modules["forks"] = sys.modules["__main__"]
    serve()
