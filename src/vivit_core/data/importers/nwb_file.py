"""What is read from an NWB file: its tables, its times and spikes. Nothing of other files.

Shape letters: T bins, S samples, U units.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vivit_core.data.importers.nwb_clock import BLOCK, Clock
from vivit_core.data.importers.remote import Remote
from vivit_core.names import short
from vivit_core.specs import RecordingError
from vivit_core.system.terminal import track

_WORDS = 300  # characters shown of what the library of NWB says; it may be the whole table


def spikes_of(
    source: Path | Remote, units: Any, rows: np.ndarray, clock: Clock
) -> tuple[Callable[[int, int], np.ndarray], Callable[[int, int], np.ndarray] | None]:
    """Functions that count the spikes of bins, (T, U), and say whether the unit was observed; None where all were."""
    index = units["spike_times"]
    times = own_array(source, "units/spike_times", index.target.data)
    ends = np.asarray(index.data[:], np.int64)
    begins = np.concatenate([[0], ends[:-1]])
    edges = np.append(clock.start_s[::BLOCK], np.inf)
    places = np.zeros((len(edges), len(rows)), np.int64)  # of the first spike at or after the start of each block
    for u, row in enumerate(track(rows, f"{source.name}: look through the spikes")):
        own = np.asarray(times[begins[row] : ends[row]], np.float64)
        if not np.isfinite(own).all() or (np.diff(own) < 0).any():
            raise RecordingError(
                source,
                f"units/spike_times, row {row}",
                "has times that fall, or are no numbers",
                "Sort the unit's spikes",
            )
        places[:, u] = begins[row] + np.searchsorted(own, edges)

    def counts(start: int, stop: int) -> np.ndarray:
        out = np.zeros((stop - start, len(rows)), np.uint16)
        low, high = start // BLOCK, -(-stop // BLOCK)
        for u in range(len(rows)):
            own = np.asarray(times[places[low, u] : places[high, u]], np.float64)
            at = np.searchsorted(clock.start_s, own, side="right") - 1
            inside = (own < clock.stop_s[at]) & (at >= start) & (at < stop)
            out[:, u] = np.bincount(at[inside] - start, minlength=stop - start)
        return out

    if "obs_intervals" not in units.colnames:
        return counts, None
    intervals = units["obs_intervals"]
    spans = np.asarray(own_array(source, "units/obs_intervals", intervals.target.data)[:], np.float64)
    last = np.asarray(intervals.data[:], np.int64)
    of_unit = [spans[(last[row - 1] if row else 0) : last[row]] for row in rows]

    def observed(start: int, stop: int) -> np.ndarray:
        """A bin that lies wholly in one interval."""
        first_s, last_s = clock.start_s[start:stop, None], clock.stop_s[start:stop, None]
        slack = 1e-6
        return np.stack([((first_s >= own[:, 0] - slack) & (last_s <= own[:, 1] + slack)).any(1) for own in of_unit], 1)

    return counts, observed


def times_of(source: Path | Remote, series: Any, field: str, n: int) -> np.ndarray:
    """The times of a series' n samples, s."""
    if series.timestamps is not None:
        times = np.asarray(own_array(source, f"{field}/timestamps", series.timestamps)[:], np.float64)
    elif series.rate:
        times = float(series.starting_time or 0.0) + np.arange(n) / float(series.rate)
    else:
        raise RecordingError(source, field, "has neither timestamps nor a rate", "Store one of them")
    if len(times) != n or not n:
        raise RecordingError(
            source, f"{field}/timestamps", f"has {len(times)} entries for {n} samples", "Give one a sample"
        )
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        bad = int(np.flatnonzero(~(np.diff(times) > 0))[0]) + 1 if n > 1 else 0
        raise RecordingError(
            source, f"{field}/timestamps", f"do not rise at entry {bad}", "Write rising times in seconds"
        )
    return times


def own_array(source: Path | Remote, field: str, data: Any) -> Any:
    """An array of this very file; those that lie in others are refused."""
    if isinstance(data, h5py.Dataset):
        name = data.file.filename
        own = name == str(source) if isinstance(source, Remote) else Path(name).resolve() == source.resolve()
        if not own or data.external or data.is_virtual:
            raise RecordingError(source, field, "lies in another file", "Export the NWB file with its data inside")
        return data
    return np.asarray(data)


def one_a_row(source: Path | Remote, table: Any, name: str) -> np.ndarray:
    """A column of one number or word a row."""
    values = table[name][:]
    if not isinstance(values, list | np.ndarray) or any(isinstance(v, list | tuple | np.ndarray) for v in values):
        raise RecordingError(
            source, f"intervals/{table.name}/{name}", "has several entries a row",
            "Name a column with one number or word a row, or null",
        )  # fmt: skip
    return np.asarray(values)


def behavior_series(source: Path | Remote, nwb: Any) -> dict[str, Any]:
    """The time series of behavior by name; two of one name get their containers' in front, and their modules' where
    that is one name still.

    Raises
    ------
    RecordingError
        Where even these are one.
    """
    from pynwb.base import TimeSeries
    from pynwb.behavior import BehavioralTimeSeries, CompassDirection, EyeTracking, Position, PupilTracking

    def said(path: tuple[str, ...]) -> str:
        return "_".join(path).replace("/", "_")

    listed: list[tuple[tuple[str, ...], Any]] = []  # names of module, container and series; and the series
    for module in nwb.processing.values():
        for interface in module.data_interfaces.values():
            if isinstance(interface, TimeSeries) and module.name == "behavior":
                listed.append(((module.name, interface.name), interface))
            elif isinstance(interface, BehavioralTimeSeries | PupilTracking):
                own = interface.time_series.values()
                listed += [((module.name, interface.name, series.name), series) for series in own]
            elif isinstance(interface, EyeTracking | Position | CompassDirection):
                own = interface.spatial_series.values()
                listed += [((module.name, interface.name, series.name), series) for series in own]
    names = [said(path[-1:]) for path, _ in listed]
    for parts in (2, 3):
        one = Counter(names)
        names = [name if one[name] == 1 else said(path[-parts:]) for name, (path, _) in zip(names, listed, strict=True)]
    if several := [name for name, times in Counter(names).items() if times > 1]:
        raise RecordingError(
            source, "processing", f"has several time series {several[0]}", "Give one, or its container, another name"
        )
    return dict(zip(names, (series for _, series in listed), strict=True))


def unit_ids(units: Any, rows: np.ndarray, notes: list[str]) -> list[str]:
    """The ids of some rows; of several rows with one id those after the first get their row behind it."""
    said = [str(i) for i in units.id[:]]
    first = {one: row for row, one in reversed([*enumerate(said)])}
    ids = [said[row] if first[said[row]] == row else f"{said[row]} row {row}" for row in rows.tolist()]
    if renamed := [one for one in ids if " row " in one]:
        notes.append(f"{len(renamed)} units have the id of an earlier row, and are called {', '.join(renamed[:5])}"
                     + (", …" if len(renamed) > 5 else ""))  # fmt: skip
    return ids


def unit_table(units: Any, rows: np.ndarray, left_out: list[str], notes: list[str]) -> dict[str, Any]:
    """The simple columns of the units' table."""
    table: dict[str, Any] = {"id": unit_ids(units, rows, notes)}
    others = []
    for name in units.colnames:
        column = units[name]
        if name in ("spike_times", "obs_intervals", "id"):
            continue
        data = getattr(column, "data", None)
        values = np.asarray(data[:]) if data is not None and type(column).__name__ == "VectorData" else None
        if values is not None and values.dtype.kind == "O":
            words = (
                [word(v) for v in values.tolist()] if all(isinstance(v, str | bytes) for v in values.tolist()) else None
            )
            values = np.array(words) if words is not None else None
        if values is None or values.dtype.kind not in "biufUS" or values.ndim > 3 or len(values) != len(units):
            others.append(name)
        else:
            table[name.replace("/", "_")] = values[rows]
    if others:
        left_out.append(f"columns {', '.join(others)} of units: not one number or word a unit")
    return table


def about(nwb: Any) -> Mapping[str, str]:
    places = sorted({str(p) for p in nwb.electrodes["location"][:]}) if nwb.electrodes is not None else []
    subject = nwb.subject
    who = [word for word in (nwb.institution, nwb.lab, nwb.identifier) if word]
    return {
        "subject": str(getattr(subject, "subject_id", None) or ""),
        "species": str(getattr(subject, "species", None) or ""),
        "area": ", ".join(place for place in places if place and place != "unknown"),
        "source": ", ".join(map(str, who)),
    }


@contextmanager
def opened(source: Path | Remote) -> Iterator[Any]:
    """The NWB file, while it is open."""
    try:
        from pynwb import NWBHDF5IO
    except ImportError as error:
        raise ValueError("importer=nwb needs pynwb: pip install 'vivit-core[nwb]'") from error
    if isinstance(source, Path) and (not source.is_file() or not h5py.is_hdf5(source)):
        raise RecordingError(source, "file", "is not an NWB file in HDF5", "Give the path of a whole .nwb file")
    with warnings.catch_warnings(), ExitStack() as stack:
        warnings.simplefilter("ignore")  # of versions; what cannot be used is an error below
        if isinstance(source, Remote):
            stack.enter_context(_said_by_server(source))
        try:
            if isinstance(source, Remote):
                io = NWBHDF5IO(file=stack.enter_context(h5py.File(source.file, "r")), mode="r")
            else:
                io = NWBHDF5IO(str(source), "r")
        except Exception as error:  # hdmf raises a dozen kinds for files that are broken or no NWB
            raise _broken(source, error) from error
        with io:
            try:
                nwb = io.read()
            except Exception as error:  # as above
                raise _broken(source, error) from error
            try:
                yield nwb
            except (OSError, KeyError) as error:  # h5py's words for damage met later
                raise _broken(source, error) from error


@contextmanager
def _said_by_server(source: Remote) -> Iterator[None]:
    """Where reading from a server failed, that is the error, whatever the libraries between made of it."""
    try:
        yield
    except Exception as error:
        if source.file.failure is not None and error is not source.file.failure:
            raise source.file.failure from error
        raise
    finally:
        source.file.close()


def _broken(source: Path | Remote, error: Exception) -> RecordingError:
    said = str(error).strip().splitlines()
    return RecordingError(
        source, "file", f"cannot be read as NWB ({short(said[0], _WORDS) if said else type(error).__name__})",
        "Copy it again; `python -m pynwb.validate FILE` says more",
    )  # fmt: skip


def word(value: Any) -> str:
    """A table's entry as text; 3.0 is "3"."""
    if isinstance(value, bytes):
        return value.decode()
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
