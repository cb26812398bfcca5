"""Reads windows of a recording file, lazily and in each worker anew.

Shape letters: T bins in a row, N any bins, U units.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import h5py
import numpy as np
from einops import rearrange

from vivit_core.data.recording.format import CONTEXT_AXES, ContextWeights, RecordingInfo, as_strings, has_bins, is_rate
from vivit_core.data.recording.hdf5 import open_hdf5, open_recording, unreadable
from vivit_core.data.recording.structure import describe
from vivit_core.data.recording.validate import check_recording
from vivit_core.names import few
from vivit_core.specs import RecordingError
from vivit_core.system.files import known_whole, state_of

log = logging.getLogger(__name__)


# The recordings whose files this process has open, the one that was read last at the end.
_open_now: WeakValueDictionary[int, Recording] = WeakValueDictionary()

_reading = threading.RLock()  # a thread that opens a file may close another's; HDF5 reads one at a time anyway


def _most_open() -> int:
    """Files that are kept open: each takes one of those that a process may open, and megabytes of cache."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 128 if allowed == resource.RLIM_INFINITY else max(4, min(128, allowed // 4))


def _close_all_but(most: int) -> None:
    """Close the files that were not read for longest."""
    open_now = list(_open_now.values())
    for recording in open_now[: max(0, len(open_now) - most)]:
        recording.close()


def header(path: Path) -> RecordingInfo:
    """What a recording file says of itself; its large arrays are not read.

    Raises
    ------
    RecordingError
        Where the file is not a recording.
    """
    with open_recording(path) as file:
        return describe(file, path)


class Recording:
    """A recording file, opened when first read, once in each process. Can be pickled and forked. Of many, those
    that were not read for longest are closed, so that no limit of open files is met.

    Parameters
    ----------
    path : the file.
    recording_id : the name under which it is used; None for its own.
    unit_ids : its units in the order in which they are wanted (a permutation of those used); None for the file's order.
    used : which of the file's units are used, from their ids; None for all.

    Raises
    ------
    RecordingError
        Where the file is not a recording, or ``unit_ids`` are not its units.
    """

    def __init__(
        self,
        path: str | Path,
        recording_id: str | None = None,
        unit_ids: Sequence[str] | None = None,
        used: Callable[[tuple[str, ...]], tuple[str, ...]] | None = None,
    ) -> None:
        self.path = Path(path)
        if not known_whole(self.path):
            check_recording(self.path)
        with open_recording(self.path) as file:
            info = describe(file, self.path)
        self._state = state_of(self.path)
        self._order: np.ndarray | None = None  # the file's column of each unit, where it differs from the file's order
        self._stored_units, self._stored_frames = info.n_units, info.n_frames
        there = info.unit_ids if used is None else used(info.unit_ids)
        unit_ids = there if unit_ids is None else unit_ids
        if tuple(unit_ids) != info.unit_ids:
            missing = sorted(set(unit_ids) - set(there))
            extra = sorted(set(there) - set(unit_ids))
            if missing or extra or len(unit_ids) != len(there):
                raise RecordingError(
                    self.path,
                    "units/id",
                    f"other units than expected: missing {few(missing) or 'none'}, not expected {few(extra) or 'none'}",
                    "Use the recording whose units the twin was trained on",
                )
            column = {unit: u for u, unit in enumerate(info.unit_ids)}
            self._order = np.array([column[unit] for unit in unit_ids])
            info = replace(info, unit_ids=tuple(unit_ids))
        self.info = info if recording_id is None else replace(info, recording_id=recording_id)
        self._file: h5py.File | None = None
        self._datasets: dict[str, h5py.Dataset] = {}  # kept open: each has a cache of chunks
        self._pid = -1
        self._told: set[str] = set()

    def __repr__(self) -> str:
        return f"Recording({str(self.path)!r}, {self.info.recording_id!r})"

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_file": None, "_datasets": {}, "_pid": -1}

    @property
    def recording_id(self) -> str:
        return self.info.recording_id

    def close(self) -> None:
        """Close the file; it opens again when read."""
        _open_now.pop(id(self), None)
        if self._file is not None and self._pid == os.getpid():
            self._file.close()
        self._file, self._datasets = None, {}

    def _opened(self) -> h5py.File:
        # A file that was opened before a fork belongs to the parent.
        if self._file is None or self._pid != os.getpid():
            _close_all_but(_most_open() - 1)
            try:
                self._file, self._datasets = self._open_again(), {}
            except OSError as error:
                raise unreadable(self.path, error) from error
            self._pid = os.getpid()
        _open_now.pop(id(self), None)
        _open_now[id(self)] = self
        return self._file

    def _open_again(self) -> h5py.File:
        if state_of(self.path).split()[:3] != self._state.split()[:3]:
            raise RecordingError(
                self.path,
                "file",
                "it has changed since it was checked",
                "Start again, and it is checked anew; a training goes on with resume=auto",
            )
        try:
            return open_hdf5(self.path)
        except OSError as error:
            if error.errno != errno.EMFILE or not _open_now:
                raise
            _close_all_but(0)  # others have taken the files that this process may open
            return open_hdf5(self.path)

    def _check_inside(self, start: int, stop: int, n_frames: int) -> None:
        """Refuse a range that leaves the recording, of which HDF5 and numpy would give what there is."""
        if not 0 <= start <= stop <= n_frames:
            raise ValueError(f"{self.path}: frames {start}:{stop} are not inside 0:{n_frames}")

    def _slice(self, name: str, start: int, stop: int) -> np.ndarray:
        self._check_inside(start, stop, self._stored_frames)
        try:
            with _reading:
                file = self._opened()
                if name not in self._datasets:
                    self._datasets[name] = file[name]
                return self._datasets[name][start:stop]
        except RecordingError:
            raise
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise RecordingError(
                self.path, name, f"frames {start}:{stop} cannot be read ({error})", "Copy or import the file again"
            ) from error

    def _units(self, values: np.ndarray, axis: int) -> np.ndarray:
        return values if self._order is None else np.take(values, self._order, axis)

    def read(self, start: int, stop: int, behavior: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Read bins start … stop-1; the methods below read one field each, and refuse the same ranges.

        Parameters
        ----------
        start, stop : half open range of frames inside the recording.
        behavior : name -> width of the behaviors wanted, in the order of their columns. One that the recording lacks
            is filled with zeros.

        Returns
        -------
        dict
            ``frames`` (C, T, H, W) as stored, ``counts`` (T, U) float32, ``valid`` (T, U) bool,
            ``behavior`` (T, D) float32.

        Raises
        ------
        ValueError
            Where the range leaves the recording, or a behavior has another width.
        RecordingError
            Where the file cannot be read there, or a frame holds NaN.
        """
        return {
            "frames": self.frames(start, stop),
            "counts": self.counts(start, stop),
            "valid": self.valid(start, stop),
            "behavior": self.behavior(start, stop, behavior),
        }

    def frames(self, start: int, stop: int) -> np.ndarray:
        """(C, T, H, W), as stored."""
        frames = self._slice("stimulus/frames", start, stop)
        if frames.dtype.kind == "f" and not np.isfinite(frames).all():
            row = start + int(np.argwhere(~np.isfinite(frames))[0][0])
            raise RecordingError(self.path, "stimulus/frames", f"row {row} is not finite", "Store finite pixel values")
        return frames[None] if frames.ndim == 3 else np.ascontiguousarray(rearrange(frames, "t h w c -> c t h w"))

    def counts(self, start: int, stop: int) -> np.ndarray:
        """(T, U) float32."""
        return self._units(self._slice("responses/counts", start, stop), 1).astype(np.float32, copy=False)

    def valid(self, start: int, stop: int) -> np.ndarray:
        """(T, U) bool."""
        valid = self._slice("responses/valid", start, stop)
        if valid.shape[1] == self._stored_units:
            return self._units(valid, 1)
        return np.repeat(valid, self.info.n_units, axis=1)

    def behavior(self, start: int, stop: int, behavior: Mapping[str, int]) -> np.ndarray:
        """(T, D) float32, the behaviors side by side."""
        self._check_inside(start, stop, self.info.n_frames)
        columns = [np.zeros((stop - start, 0), np.float32)]
        for name, width in behavior.items():
            there = self.info.behavior.get(name)
            if there is None:
                columns.append(np.broadcast_to(self._stand_in(name, width), (stop - start, width)))
            elif there == width:
                columns.append(self._trace(name, start, stop))
            else:
                raise ValueError(f"{self.path}: behavior {name!r} has {there} numbers, and {width} are expected")
        return np.concatenate(columns, axis=1)

    def _stand_in(self, name: str, width: int) -> np.ndarray:
        """What is taken for a behavior that the file lacks, float32."""
        if name not in self._told:
            self._told.add(name)
            log.warning("%s has no behavior %r: zeros stand in for its %d numbers", self.path, name, width)
        return np.zeros(width, np.float32)

    def _trace(self, name: str, start: int, stop: int) -> np.ndarray:
        """One behavior that is there, (T, numbers)."""
        return self._slice(f"behavior/{name}", start, stop).astype(np.float32, copy=False)

    @property
    def truths(self) -> list[str]:
        """Names for ``truth``; none where the recording was not simulated."""
        with _reading:
            file = self._opened()
            return sorted(file["truth"]) if "truth" in file else []

    def truth(self, name: str = "rate", start: int = 0, stop: int | None = None) -> np.ndarray:
        """What the simulator knows: ``rate`` (T, U) and ``shift_px`` (T, 2) over start … stop-1, any other name
        (U, ...).

        Raises
        ------
        ValueError
            Where the recording has no such truth.
        """
        if name not in self.truths:
            known = self.truths or "nothing: it was not simulated"
            raise ValueError(f"{self.path}: no truth/{name}; it knows {known}")
        if has_bins(name):
            rows = self._slice(f"truth/{name}", start, self.info.n_frames if stop is None else stop)
            return (self._units(rows, 1) if is_rate(name) else rows).astype(np.float32, copy=False)
        values = self._table(f"truth/{name}")
        return values if CONTEXT_AXES.get(name, "U")[0] != "U" else self._units(values, 0)

    def truth_at(self, bins_N: np.ndarray, name: str = "rate") -> np.ndarray:
        """A truth that has bins, at some of them: (N, U) of a rate, (N, 2) of ``shift_px``."""
        return np.concatenate([self.truth(name, start, stop) for start, stop in runs(bins_N)])

    def context_weights(self) -> ContextWeights | None:
        """Where the units' contexts lie at some moments; None where nobody knows it."""
        if "context_weights" not in self.truths:
            return None
        found = {name: self.truth(name) for name in CONTEXT_AXES}
        return ContextWeights(*(v.astype(np.float32) if v.dtype == np.float16 else v for v in found.values()))

    def unit_column(self, name: str) -> np.ndarray | None:
        """What the recording says of its units under a name beside ``id``, (U, ...); None where it says nothing."""
        with _reading:
            known = name in self._opened()["units"]
        return self._units(self._table(f"units/{name}"), 0) if known else None

    def _table(self, name: str) -> np.ndarray:
        with _reading:
            values = self._opened()[name][()]
        return as_strings(values) if values.dtype.kind in "OS" else values


def runs(bins_N: np.ndarray, starts: np.ndarray | None = None) -> list[tuple[int, int]]:
    """Half open ranges of consecutive bins; those at which trials start, where they are given, begin another one."""
    begins = np.diff(bins_N) > 1
    if starts is not None:
        begins |= np.isin(bins_N[1:], starts)
    breaks = np.flatnonzero(begins) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(bins_N, breaks)]
