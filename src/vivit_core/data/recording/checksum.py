"""Whether a file is what was written: a checksum of the whole file in HDF5's user block, its first 512 bytes. It finds
damage, not malice: anyone can write a checksum (:mod:`guard`)."""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path

import rich.progress

from vivit_core.specs import RecordingError
from vivit_core.system.terminal import bar_text

BLOCK = 512  # bytes that HDF5 leaves to the program
_MARK = b"vivit-core recording: HDF5 from byte 512 on, "
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 18  # bytes read at once
_LONG = 1 << 30  # bytes from which on reading shows a bar


def write_checksum(path: str | Path) -> None:
    """Note length and checksum in the file's user block; a file that has none is left as it is."""
    with open(path, "rb+") as file:
        if file.read(len(_HDF5)) == _HDF5:
            return
        text = _text_of(path)
        file.seek(0)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())


def checksum_holds(path: Path) -> bool | None:
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


def seal_of(path: Path) -> str | None:
    """What stands in the file of its length and checksum, unread and unchecked; None where it was never sealed."""
    with path.open("rb") as file:
        block = file.read(BLOCK)
    return block[len(_MARK) :].rstrip(b"\0\n").decode(errors="replace") if block.startswith(_MARK) else None


def may_be_ours(path: Path) -> bool:
    """Whether a file, damaged as it may be, looks like one that this package wrote, or like nothing yet."""
    with path.open("rb") as file:
        start = file.read(BLOCK + len(_HDF5))
    return not start or start.startswith((_MARK, _HDF5)) or start.endswith(_HDF5)


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
