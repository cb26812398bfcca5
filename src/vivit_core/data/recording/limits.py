"""What no recording has, and a damaged or hostile file may claim: a few bytes can ask for any memory and any time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np

from vivit_core.data.recording.format import has_bins
from vivit_core.data.recording.guard import stored_bytes
from vivit_core.specs import RecordingError

MOST_BYTES = 1 << 30  # of an array, and of all together, beside
INFLATION = 1032  # times what is stored of it, which is the most that deflate can compress
MOST_HOLES = 100  # times the bytes that a file takes on the disk is its size; file systems that compress stay below
HOLES_BYTES = 1 << 26  # size from which on holes are looked for
MOST_ROW_BYTES = 1 << 28  # one frame, or all units' numbers of one bin
MOST_CHUNK_BYTES = 1 << 30  # HDF5 reads whole chunks
MOST_TABLE_BYTES = 1 << 28  # trials/…, units/… and truth/… but its rates
MOST_TRIALS = 1 << 20
MOST_NAMES = 10_000  # of behaviors, of columns of units, of truths
MOST_ATTRIBUTE_BYTES = 1 << 16


def along_time(name: str) -> bool:
    """Whether a dataset of this name has one row a bin."""
    group, _, member = name.partition("/")
    return group in ("stimulus", "responses", "behavior") or (group == "truth" and has_bins(member))


def check_size(path: Path, name: str, dataset: h5py.Dataset) -> None:
    """Refuse what could not be read in bounded memory and time: a few bytes of a file can claim anything."""

    def claims(what: str, size: int, most: int) -> RecordingError:
        return RecordingError(
            path,
            name,
            f"claims {what} of {size:.3g} bytes; at most {most:.3g} are read",
            "Write the file again with what was recorded; a file that claims so much is damaged",
        )

    item = max(1, dataset.dtype.itemsize)
    size = int(np.prod(dataset.shape, dtype=object)) * item
    if dataset.chunks is not None and (chunk := int(np.prod(dataset.chunks, dtype=object)) * item) > MOST_CHUNK_BYTES:
        raise RecordingError(
            path, name, f"is stored in chunks of {chunk:.3g} bytes", "Write it in chunks of about a megabyte"
        )
    if not along_time(name):
        if size > MOST_TABLE_BYTES:
            raise claims("a table", size, MOST_TABLE_BYTES)
        if name.startswith("trials/") and dataset.shape[0] > MOST_TRIALS:
            raise RecordingError(
                path, name, f"claims {dataset.shape[0]} trials; at most {MOST_TRIALS} are read", "Write longer trials"
            )
        return
    row = int(np.prod(dataset.shape[1:], dtype=object)) * item
    if row > MOST_ROW_BYTES:
        raise claims("a bin", row, MOST_ROW_BYTES)
    most = MOST_BYTES + INFLATION * min(dataset.id.get_storage_size(), stored_bytes(path))
    if size > most:
        raise claims("content", size, most)


def check_sizes(path: Path, datasets: Sequence[h5py.Dataset]) -> None:
    """:func:`check_size` for all datasets together: many small claims make a large one."""
    size = sum(int(np.prod(d.shape, dtype=object)) * max(1, d.dtype.itemsize) for d in datasets)
    stored, on_disk = sum(d.id.get_storage_size() for d in datasets), stored_bytes(path)
    remedy = "Copy or import it again; a file that claims so much is damaged"
    if stored > path.stat().st_size:
        raise RecordingError(
            path, "file", f"claims that {stored:.3g} bytes are stored in its {path.stat().st_size:.3g}", remedy
        )
    most = MOST_BYTES + INFLATION * min(stored, on_disk)
    if size > most:
        raise RecordingError(path, "file", f"claims {size:.3g} bytes in all; at most {most:.3g} are read", remedy)


def check_holes(path: Path) -> None:
    """Refuse a file that is little more than holes, which cost its maker nothing and a reader hours."""
    size, on_disk = path.stat().st_size, stored_bytes(path)
    if size > HOLES_BYTES and size > MOST_HOLES * on_disk:
        raise RecordingError(
            path,
            "file",
            f"truncated or damaged: of its {size:.3g} bytes only {on_disk:.3g} are on the disk",
            "Copy or import it again; a copy that was cut short leaves such holes",
        )
