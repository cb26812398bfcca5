"""Files of predicted rates: HDF5, .npz or csv, written a piece at a time, so that they may be larger than memory.

Shape letters: N bins, T bins of a piece, U units, V columns of numbers.
"""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import h5py
import numpy as np

from vivit_core.data.recording.hdf5 import open_hdf5
from vivit_core.data.recording.resumable import check_room
from vivit_core.names import csv_text, file_name, key_name
from vivit_core.system.files import atomic_write

FORMAT, FORMAT_VERSION = "vivit-core rates", 1
KINDS = (".h5", ".npz", ".csv")
CELL_BYTES = 14  # of a number in a csv, at most


@dataclass(frozen=True)
class PredictedRates:
    """Rates of one recording's units, which are there when they are asked for.

    Attributes
    ----------
    recording_id, unit_ids, frame_rate_hz : of the recording whose units they are.
    time_s_N : when each bin begins, s from its stretch's begin.
    trial_N : number of the stretch; 0 where the video is one.
    frame_N : the video's frame that the bin shows.
    pieces : what is written, by name, (T, U) in Hz each, N bins in all: ``rates``, and where several models predict
        them the ``spread``.
    names : of what each piece holds.
    """

    recording_id: str
    unit_ids: Sequence[str]
    frame_rate_hz: float
    time_s_N: np.ndarray
    trial_N: np.ndarray
    frame_N: np.ndarray
    pieces: Iterator[Mapping[str, np.ndarray]]
    names: tuple[str, ...] = ("rates",)

    @property
    def beside(self) -> dict[str, np.ndarray]:
        """What stands beside the rates of each bin."""
        return {"time_s": self.time_s_N, "trial": self.trial_N, "frame": self.frame_N}

    @property
    def n_bytes(self) -> int:
        return len(self.time_s_N) * (4 * len(self.unit_ids) * len(self.names) + 8 * len(self.beside))


def check_out(out: Path) -> None:
    """Refuse a name that says no format, or that a file has already.

    Raises
    ------
    ValueError
        Says what would do.
    """
    if out.suffix not in KINDS:
        raise ValueError(f"out={out}: rates are written as {', '.join(KINDS)}; end the name so")
    if out.exists():
        raise ValueError(f"out={out}: stands there already; name another file, or delete this one")


def write_rates(out: Path, recordings: Sequence[PredictedRates], about: Callable[[], Mapping[str, Any]]) -> list[Path]:
    """Write rates, all of them or none.

    Parameters
    ----------
    out : the file; its ending says the format. A csv has one recording, so several make ``NAME_<recording>.csv``.
    recordings : predicted while they are written, one after the other.
    about : says how they were made, in plain values, once they are; a csv does not hold it.

    Returns
    -------
    The files.

    Raises
    ------
    ValueError
        As :func:`check_out`.
    OSError
        Where the disk is full.
    """
    check_out(out)
    if out.suffix != ".csv":
        with atomic_write(out) as temporary:
            size = sum(rates.n_bytes for rates in recordings)
            check_room(temporary, size)
            (write_h5 if out.suffix == ".h5" else write_npz)(temporary, recordings, about)
        return [out]
    files = [out]
    if len(recordings) > 1:
        files = [out.with_name(f"{out.stem}_{file_name(rates.recording_id)}.csv") for rates in recordings]
        for file in files:
            check_out(file)
    made: list[Path] = []
    try:
        for file, rates in zip(files, recordings, strict=True):
            with atomic_write(file) as temporary:
                write_csv(temporary, rates)
            made.append(file)
    except BaseException:
        for file in made:  # which were not there before
            file.unlink(missing_ok=True)
        raise
    return files


def write_h5(path: Path, recordings: Sequence[PredictedRates], about: Callable[[], Mapping[str, Any]]) -> None:
    """``recordings/<name>/rates`` (N, U) float32 in Hz, beside it ``unit_ids``, ``time_s``, ``trial`` and ``frame``;
    ``spread`` as ``rates``, where there is one."""
    with open_hdf5(path, "w") as file:
        file.attrs.update(format=FORMAT, format_version=FORMAT_VERSION)
        for rates in recordings:
            group = file.create_group(f"recordings/{key_name(rates.recording_id)}")
            group.attrs.update(recording_id=rates.recording_id, frame_rate_hz=rates.frame_rate_hz)
            group.create_dataset("unit_ids", data=list(rates.unit_ids), dtype=h5py.string_dtype())
            for name, values in rates.beside.items():
                group.create_dataset(name, data=values)
            for name in rates.names:
                group.create_dataset(name, (len(rates.time_s_N), len(rates.unit_ids)), np.float32).attrs["unit"] = "Hz"
            at = 0
            for piece in rates.pieces:
                rows = slice(at, at := at + len(piece["rates"]))
                for name in rates.names:
                    group[name][rows] = piece[name]
        file.attrs["about"] = json.dumps(about())


def write_npz(path: Path, recordings: Sequence[PredictedRates], about: Callable[[], Mapping[str, Any]]) -> None:
    """``rates_<name>`` (N, U) float32 in Hz, ``unit_ids_<name>``, ``time_s_<name>``, ``trial_<name>``,
    ``frame_<name>``, and ``about`` as JSON; ``spread_<name>`` as ``rates_<name>``, where there is one.
    ``numpy.load`` reads it without unpickling."""
    with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
        for rates in recordings:
            key = key_name(rates.recording_id)
            shape = (len(rates.time_s_N), len(rates.unit_ids))
            header = {"descr": "<f4", "fortran_order": False, "shape": shape}
            with ExitStack() as opened:
                # An archive takes one array after the other, so those but the first wait in files of their own.
                waiting = {name: opened.enter_context(TemporaryFile(dir=path.parent)) for name in rates.names[1:]}
                with archive.open(f"{rates.names[0]}_{key}.npy", "w", force_zip64=True) as file:
                    np.lib.format.write_array_header_1_0(file, header)
                    for piece in rates.pieces:
                        for name, place in {rates.names[0]: file, **waiting}.items():
                            place.write(np.ascontiguousarray(piece[name], "<f4").tobytes())
                for name, written in waiting.items():
                    written.seek(0)
                    with archive.open(f"{name}_{key}.npy", "w", force_zip64=True) as file:
                        np.lib.format.write_array_header_1_0(file, header)
                        shutil.copyfileobj(written, file)
            for name, values in {"unit_ids": np.array(rates.unit_ids, dtype=str), **rates.beside}.items():
                with archive.open(f"{name}_{key}.npy", "w") as file:
                    np.lib.format.write_array(file, values, allow_pickle=False)
        with archive.open("about.npy", "w") as file:
            np.lib.format.write_array(file, np.array(json.dumps(about())), allow_pickle=False)


def write_csv(path: Path, rates: PredictedRates) -> None:
    """A row a bin: ``time_s``, ``trial``, ``frame``, and a column for each unit's rate in Hz; after those, where there
    is a spread, a column ``<unit> spread`` for each."""
    columns = [*rates.unit_ids, *(f"{unit} {name}" for name in rates.names[1:] for unit in rates.unit_ids)]
    check_room(path, len(rates.time_s_N) * CELL_BYTES * (len(columns) + len(rates.beside)))
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow([*rates.beside, *map(csv_text, columns)])
        at = 0
        for piece in rates.pieces:
            rows = slice(at, at := at + len(piece["rates"]))
            values_TV = np.concatenate([piece[name] for name in rates.names], axis=1)
            beside = zip(*(values[rows].tolist() for values in rates.beside.values()), strict=True)
            for (time_s, trial, frame), row in zip(beside, values_TV.tolist(), strict=True):
                table.writerow([f"{time_s:.6f}", trial, frame, *(f"{rate:.6g}" for rate in row)])
