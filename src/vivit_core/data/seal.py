"""Whether a file is what was written: a checksum of the whole file in HDF5's user block, its first 512 bytes; and a
process of its own for files that nobody vouches for."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import signal
import time
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import rich.progress

from vivit_core.specs import RecordingError
from vivit_core.terminal import bar_text

BLOCK = 512  # bytes that HDF5 leaves to the program
_MARK = b"vivit-core recording: HDF5 from byte 512 on, "
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 18  # bytes read at once
_LONG = 1 << 30  # bytes from which on reading shows a bar
_SECONDS, _SECONDS_A_GIGABYTE = 8.0, 60.0  # that examining a file may take, and more for each gigabyte of it
_MEMORY = 4 << 30  # bytes that examining may take


def seal(path: str | Path) -> None:
    """Note length and checksum in the file's user block; a file that has none is left as it is."""
    with open(path, "rb+") as file:
        if file.read(len(_HDF5)) == _HDF5:
            return
        text = _text_of(path)
        file.seek(0)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def seal_holds(path: Path) -> bool | None:
    """Whether the file is, byte for byte, what was sealed; None where it never was."""
    try:
        with path.open("rb") as file:
            block, next_block = file.read(BLOCK), file.read(len(_HDF5))
        if block.startswith(_MARK) or (next_block == _HDF5 and not block.startswith(_HDF5)):
            return block == _text_of(path)
        return None
    except PermissionError as error:
        raise RecordingError(path, "file", "you may not read it", "Ask its owner for the right to read it") from error
    except OSError as error:
        raise RecordingError(path, "file", f"cannot be read ({error})", "Check the disk, or copy it again") from error


def difference(path: Path) -> str:
    """What a broken seal tells of the damage."""
    with path.open("rb") as file:
        said = re.search(rb"(\d+) bytes in all", file.read(BLOCK))
    size = path.stat().st_size
    if said and int(said[1]) != size:
        return f"truncated or damaged: it has {size} bytes, and {int(said[1])} were written"
    return "truncated or damaged: its checksum differs from what was written"


def _text_of(path: str | Path) -> bytes:
    crc, short = 0, os.path.getsize(path) < _LONG
    bar = bar_text(f"checksum of {Path(path).name}")
    with rich.progress.open(path, "rb", description=bar, transient=True, disable=short) as file:
        file.seek(BLOCK)
        while piece := file.read(_PIECE):
            crc = zlib.crc32(piece, crc)
        size = file.tell()
    return (_MARK + f"{size} bytes in all, CRC-32 {crc:08x}\n".encode()).ljust(BLOCK, b"\0")


def in_another_process(path: Path, examine: Callable[[], Any]) -> None:
    """Call ``examine`` in a fork of this process, with bounds on its time and memory.

    Raises
    ------
    RecordingError
        What ``examine`` raises; or where the process crashed, took too long or too much memory.
    """
    allowed = _SECONDS + _SECONDS_A_GIGABYTE * path.stat().st_size / 2**30
    listen, tell = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads of this process are not needed in the other
        child = os.fork()
    if child == 0:
        _answer(tell, examine, allowed)
    os.close(tell)
    end, answer = time.monotonic() + allowed, b""
    with os.fdopen(listen, "rb", buffering=0) as pipe:
        while (left := end - time.monotonic()) > 0 and select.select([pipe], [], [], left)[0]:
            if not (piece := pipe.read(65536)):
                break
            answer += piece
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if answer == b"{}":
        return
    again = "Copy or import it again"
    if answer:
        raise RecordingError(path, **json.loads(answer))
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        raise RecordingError(path, "file", f"damaged: it could not be read within {allowed:.0f} s", again)
    raise RecordingError(path, "file", "damaged: HDF5 crashed while reading it", again)


def _answer(tell: int, examine: Callable[[], Any], allowed: float) -> None:
    """In the fork: examine, tell, and end without whatever this process would do at its end."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.alarm(int(allowed) + 2)  # ends it, in C code too, where the process that waits for it is gone
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the C library's last words on a crash
        taken = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + _MEMORY, taken + _MEMORY))
    except (OSError, ValueError):
        pass  # no /proc: time alone is bounded
    told: dict[str, str] = {}
    try:
        examine()
    except RecordingError as error:
        told = {"field": error.field, "problem": error.problem, "remedy": error.remedy}
    except BaseException as error:
        told = {
            "field": "file",
            "problem": f"cannot be read ({type(error).__name__}: {error})",
            "remedy": "Copy it again",
        }
    os.write(tell, json.dumps(told).encode()[:60000])
    os._exit(0)
