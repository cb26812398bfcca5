"""From an NWB file (Neurodata Without Borders, nwb.org) to a recording file.

The stimulus gives the clock: bins lie between the onsets of its frames, so that jitter moves bins with their frames. A
frame that stays for n bins (an image shown for longer, or one whose successors were dropped: the screen keeps it) is
repeated n times, and its time is divided evenly. A frame that stays longer than ``longest_frame_s`` is followed by a
gap, where a trial is cut. Bins in no trial are left out.

Clocks (8 bytes a frame or sample) are held in memory; pictures, spikes and behavior are read in blocks of bins.

Shape letters: T bins, F frames, S samples, H W pixels, C colors, U units, D behavior numbers.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from einops import rearrange

from vivit_core.data.importers.common import Computed, Importer, SourceRecording, pixel_type, split_by_stimulus
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.inputs import own_stimuli, unknown_stimuli
from vivit_core.names import short
from vivit_core.specs import RecordingError
from vivit_core.system.terminal import track

BLOCK = 4096  # bins that are made at once
_WORDS = 300  # characters shown of what the library of NWB says; it may be the whole table
STRAY = 0.25  # a bin that is this much shorter or longer than the others, as a fraction, is not valid


@dataclass(frozen=True, eq=False)
class Clock:
    """When each bin starts and stops (s), which frame it shows, and after which bins there is a gap."""

    start_s: np.ndarray  # (T,)
    stop_s: np.ndarray  # (T,)
    frame: np.ndarray  # (T,)
    gap_after: np.ndarray  # (T,) bool
    rate_hz: float

    def of(self, bins: np.ndarray) -> Clock:
        return Clock(self.start_s[bins], self.stop_s[bins], self.frame[bins], self.gap_after[bins], self.rate_hz)


@dataclass(frozen=True)
class NwbImporter(Importer):
    """Import an NWB file: units' spike times, an ImageSeries or IndexSeries stimulus, trials, behavior."""

    guarded = True

    recording_id: str | None  # None: the file's name
    stimulus: str | None  # name of the series among the file's stimuli; None: the only one
    axes: Literal["t h w", "t w h"]  # order of the axes of its pictures
    frame_rate_hz: float | None  # bins a second; None: the stimulus' own
    longest_frame_s: float  # a frame that stays longer is followed by a gap
    stimulus_column: str | None  # of the trials' table: equal for repeats; None: every trial another
    split_column: str | None  # of the trials' table: train, val or test; None: by the fractions
    trial_s: float | None  # cuts a file without trials; None: at gaps alone
    keep_units: dict[str, list[str]]  # column of the units' table -> values, as text; others are left out
    behavior: list[str] | None  # names of time series; None: all that are found
    longest_hold_s: float  # a behavior's newest sample stands for at most this long
    val_fraction: float  # of the distinct stimuli
    test_fraction: float
    seed: int  # of that draw

    @contextmanager
    def read(self, source: Path) -> Iterator[SourceRecording]:
        with _opened(source) as nwb:
            left_out: list[str] = []
            notes: list[str] = []
            series = self._series(source, nwb)
            size, dtype, pictures = _pictures(source, series, self.axes)
            clock = make_clock(
                _times(source, series, f"stimulus/{series.name}"), self.frame_rate_hz, self.longest_frame_s, notes
            )
            bins, trials = self._trials(source, nwb, clock, left_out, notes)
            clock = clock.of(bins)
            n_bins = len(bins)
            rows = self._rows(source, nwb, left_out)
            counts, observed = _spikes(source, nwb.units, rows, clock)
            behavior, units_of, present = self._behavior(source, nwb, clock, left_out)
            stray = np.abs((clock.stop_s - clock.start_s) * clock.rate_hz - 1) > STRAY
            if stray.any():
                notes.append(f"{stray.sum()} bins differ in length by over {STRAY:.0%} and are not valid")

            def valid(start: int, stop: int) -> np.ndarray:
                own = ~stray[start:stop, None]
                for there in present:
                    own = own & there(start, stop)[:, None]
                return own & observed(start, stop) if observed is not None else own

            columns = len(rows) if observed is not None else 1
            yield SourceRecording(
                recording_id=self.recording_id or source.stem,
                frame_rate_hz=clock.rate_hz,
                frames=Computed((n_bins, *size), dtype, lambda start, stop: pictures(clock.frame[start:stop])),
                counts=Computed((n_bins, len(rows)), np.uint16, counts),
                valid=Computed((n_bins, columns), bool, valid),
                trials=trials,
                units=_table(nwb.units, rows, left_out),
                behavior=behavior,
                behavior_units=units_of,
                about=_about(nwb),
                left_out=left_out,
                notes=notes,
            )

    def _series(self, source: Path, nwb: Any) -> Any:
        """The stimulus."""
        from pynwb.image import ImageSeries, IndexSeries

        known = {s.name: s for s in nwb.stimulus.values() if isinstance(s, ImageSeries | IndexSeries)}
        if self.stimulus is None and len(known) != 1:
            raise RecordingError(
                source, "stimulus/presentation", f"holds {len(known)} series of pictures: {sorted(known)}",
                "Name one by importer.stimulus=…" if known else
                "Store the frames as an ImageSeries, or as an IndexSeries of Images; or use importer=arrays",
            )  # fmt: skip
        name = self.stimulus if self.stimulus is not None else next(iter(known))
        if name not in known:
            raise RecordingError(
                source, f"stimulus/presentation/{name}", "missing", f"There are {sorted(known)} (importer.stimulus)"
            )
        return known[name]

    def _trials(
        self, source: Path, nwb: Any, clock: Clock, left_out: list[str], notes: list[str]
    ) -> tuple[np.ndarray, Trials]:
        """The bins that are kept, and the trials they make, cut at gaps."""
        middle = (clock.start_s + clock.stop_s) / 2
        table = nwb.trials
        for column in (self.stimulus_column, self.split_column):
            if column is not None and (table is None or column not in table.colnames):
                there = "there are no trials" if table is None else f"the columns are {list(table.colnames)}"
                raise RecordingError(
                    source, f"intervals/trials/{column}", f"missing; {there}", "Correct importer.…_column, or null"
                )
        if table is None:
            starts = np.concatenate([[0], np.flatnonzero(clock.gap_after[:-1]) + 1])
            ends = np.append(starts[1:], len(middle))
            notes.append("no table of trials: the stimulus is cut at its gaps" + (
                f" and every {self.trial_s:g} s" if self.trial_s else ""
            ))  # fmt: skip
            length = max(1, round(self.trial_s * clock.rate_hz)) if self.trial_s else len(middle)
            ranges = [(s, min(s + length, e)) for a, e in zip(starts, ends, strict=True) for s in range(a, e, length)]
            ids, given = [f"trial {i}" for i in range(len(ranges))], None
        else:
            begin, end = (np.asarray(table[name][:], float) for name in ("start_time", "stop_time"))
            order = np.argsort(begin, kind="stable")  # NaN last
            known = order[np.isfinite(begin[order]) & np.isfinite(end[order])]
            if len(known) < len(begin):
                left_out.append(f"{len(begin) - len(known)} trials without a start or a stop")
            overlap = np.flatnonzero(begin[known][1:] < end[known][:-1] - 0.5 / clock.rate_hz)
            if len(overlap):
                one, other = known[overlap[0]], known[overlap[0] + 1]
                raise RecordingError(
                    source, "intervals/trials", f"row {other} starts before row {one} ends", "Let trials not overlap"
                )
            ranges = list(zip(np.searchsorted(middle, begin[known]), np.searchsorted(middle, end[known]), strict=True))
            ids = [f"trial {row}" for row in known]
            if self.stimulus_column is not None:
                column = np.asarray(table[self.stimulus_column][:])[known]
                named, unknown = own_stimuli(column)
                ids = named.tolist()
                notes.extend(unknown_stimuli(unknown, f"{self.stimulus_column} (importer.stimulus_column)"))
            given = None if self.split_column is None else \
                [_word(v) for v in np.asarray(table[self.split_column][:])[known]]  # fmt: skip
        bins, starts_, stimuli, groups, splits, at, empty, parts = [], [0], [], [], [], 0, 0, 0
        for i, (first, last) in enumerate(ranges):
            if last <= first:
                empty += 1
                continue
            cuts = first + 1 + np.flatnonzero(clock.gap_after[first : last - 1])
            parts += len(cuts)
            for n, part in enumerate(np.split(np.arange(first, last), cuts - first)):
                bins.append(part)
                at += len(part)
                starts_.append(at)
                stimuli.append(ids[i] if n == 0 else f"{ids[i]} part {n + 1}")
                groups.append(ids[i])
                splits.append(given[i] if given is not None else "")
        if not bins:
            raise RecordingError(
                source, "intervals/trials", "no trial holds a frame of the stimulus",
                f"The stimulus lasts from {clock.start_s[0]:g} to {clock.stop_s[-1]:g} s; compare the trials' times",
            )  # fmt: skip
        if empty:
            left_out.append(f"{empty} trials in which no frame begins")
        if parts:
            notes.append(f"{parts} gaps of the stimulus cut trials in two")
        if at < len(middle):
            left_out.append(f"{len(middle) - at} bins in no trial")
        split = np.array(splits) if given is not None else \
            split_by_stimulus(
                np.array(groups), self.val_fraction, self.test_fraction, self.seed,
                ("cut it into trials by importer.trial_s=… (seconds), or " if table is None else "")
                + "put all into train by importer.val_fraction=0 importer.test_fraction=0",
            )  # fmt: skip
        try:
            trials = Trials(np.array(starts_[:-1]), np.array(starts_[1:]), np.array(stimuli), split)
        except ValueError as error:
            raise RecordingError(
                source,
                f"intervals/trials/{self.split_column}",
                str(error),
                "Correct the column, or importer.split_column",
            ) from error
        return np.concatenate(bins), trials

    def _rows(self, source: Path, nwb: Any, left_out: list[str]) -> np.ndarray:
        """The rows of the units' table that are kept."""
        units = nwb.units
        if units is None or "spike_times" not in units.colnames:
            raise RecordingError(
                source, "units/spike_times", "missing", "An NWB file with sorted spikes has a table of units"
            )
        kept = np.ones(len(units), bool)
        for column, values in self.keep_units.items():
            if column not in units.colnames:
                raise RecordingError(
                    source,
                    f"units/{column}",
                    f"missing; the columns are {list(units.colnames)}",
                    "Correct importer.keep_units",
                )
            own = np.array([_word(v) in values for v in units[column][:]])
            left_out.append(f"{(kept & ~own).sum()} units whose {column} is not {' or '.join(values)}")
            kept &= own
        if not kept.any():
            raise RecordingError(source, "units", f"none is left; {left_out[-1:]}", "Change importer.keep_units")
        return np.flatnonzero(kept)

    def _behavior(
        self, source: Path, nwb: Any, clock: Clock, left_out: list[str]
    ) -> tuple[dict[str, Computed], dict[str, str], list[Callable[[int, int], np.ndarray]]]:
        """The behaviors, their units, and functions that say in which bins each is known."""
        found = _behavior_series(nwb)
        wanted = list(found) if self.behavior is None else self.behavior
        if unknown := [name for name in wanted if name not in found]:
            raise RecordingError(
                source, "processing", f"has no time series {unknown}", f"There are {sorted(found)} (importer.behavior)"
            )
        values: dict[str, Computed] = {}
        units: dict[str, str] = {}
        present: list[Callable[[int, int], np.ndarray]] = []
        for name in wanted:
            series = found[name]
            data = _own(source, f"processing/…/{name}", series.data)
            if data.ndim not in (1, 2) or np.dtype(data.dtype).kind not in "iufb":
                left_out.append(f"behavior {name}: {data.dtype} {data.shape}, not numbers with one or two axes")
                continue
            times = _times(source, series, f"processing/…/{name}")
            scale, shift = float(series.conversion or 1.0), float(getattr(series, "offset", 0.0) or 0.0)
            sampled = Sampled(data, times, clock.stop_s, self.longest_hold_s, scale, shift)
            width = data.shape[1] if data.ndim == 2 else 1
            values[name] = Computed((len(clock.stop_s), width), np.float32, sampled.values)
            units[name] = str(series.unit or "")
            present.append(sampled.known)
        if left := [name for name in found if name not in wanted]:
            left_out.append(f"time series {', '.join(left)}: not in importer.behavior")
        return values, units, present


def make_clock(times_F: np.ndarray, rate_hz: float | None, longest_frame_s: float, notes: list[str]) -> Clock:
    """Bins between the onsets of frames.

    Parameters
    ----------
    times_F : onsets, s, rising.
    rate_hz : bins a second; None for one bin in the median time between frames.
    longest_frame_s : a frame that stays longer is shown for the median time and followed by a gap.
    notes : lines on what was repeated are added.

    Raises
    ------
    ValueError
        Where the frames come faster than the bins.
    """
    stay_F = np.diff(times_F)
    median = float(np.median(stay_F)) if len(stay_F) else 1.0 / (rate_hz or 1.0)
    rate = rate_hz or 1.0 / median
    if median * rate < 0.75:
        raise ValueError(
            f"importer.frame_rate_hz={rate:g}, but the stimulus has {1 / median:g} frames a second; import at its own "
            "rate (null), and let data.frame_rate_hz bring it down"
        )
    gap_F = np.append(stay_F > longest_frame_s, False)
    stay_F = np.append(stay_F, median)
    stay_F[gap_F] = median
    bins_F = np.rint(stay_F * rate).astype(np.int64)
    own = np.rint(median * rate)
    if (longer := int((bins_F > own).sum())) and own == 1:
        notes.append(f"{longer} frames stayed for more than one bin (dropped successors) and are repeated")
    if (shorter := int((bins_F == 0).sum())) > 0:
        notes.append(f"{shorter} frames were replaced within half a bin and are not shown")
    frame = np.repeat(np.arange(len(times_F)), bins_F)
    first = np.repeat(np.cumsum(bins_F) - bins_F, bins_F)
    within = np.arange(len(frame)) - first
    length = stay_F[frame] / bins_F[frame]
    start = times_F[frame] + within * length
    last = within == bins_F[frame] - 1
    # The time of a frame that is not shown is no bin's.
    return Clock(start, start + length, frame, gap_F[frame] & last, rate)


class Sampled:
    """A behavior at the ends of bins: its newest sample then, so that nothing later is known.

    Parameters
    ----------
    data : (S,) or (S, D), sliceable.
    times_S : s, rising.
    ends_T : ends of the bins, s.
    longest_s : a sample stands for at most this long; after that, and before the first, the behavior is unknown.
    scale, shift : value = scale · data + shift.
    """

    def __init__(
        self, data: Any, times_S: np.ndarray, ends_T: np.ndarray, longest_s: float, scale: float, shift: float
    ) -> None:
        self.data, self.times_S, self.ends_T = data, times_S, ends_T
        self.longest_s, self.scale, self.shift = longest_s, scale, shift

    def values(self, start: int, stop: int) -> np.ndarray:
        """(T, D) float32; the last value known, or 0, where it is unknown."""
        return np.concatenate([self._block(a, b)[0] for a, b in _blocks(start, stop)])

    def known(self, start: int, stop: int) -> np.ndarray:
        """(T,) bool."""
        return np.concatenate([self._block(a, b)[1] for a, b in _blocks(start, stop)])

    def _block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        ends = self.ends_T[start:stop]
        newest = np.searchsorted(self.times_S, ends, side="right") - 1
        first = max(0, int(np.searchsorted(self.times_S, ends[0] - self.longest_s)))
        last = int(newest[-1]) + 1
        width = self.data.shape[1] if len(self.data.shape) == 2 else 1
        if last <= first:
            return np.zeros((len(ends), width), np.float32), np.zeros(len(ends), bool)
        read = np.asarray(self.data[first:last], np.float64).reshape(last - first, width) * self.scale + self.shift
        rows = np.maximum.accumulate(np.where(np.isfinite(read).all(1), np.arange(last - first), -1))
        pick = np.where(newest >= first, rows[np.clip(newest - first, 0, None)], -1)
        some = pick >= 0
        known = some & (ends - self.times_S[np.maximum(pick, 0) + first] <= self.longest_s)
        return np.where(some[:, None], read[np.maximum(pick, 0)], 0).astype(np.float32), known


def _spikes(
    source: Path, units: Any, rows: np.ndarray, clock: Clock
) -> tuple[Callable[[int, int], np.ndarray], Callable[[int, int], np.ndarray] | None]:
    """Functions that count the spikes of bins, (T, U), and say whether the unit was observed; None where all were."""
    index = units["spike_times"]
    times = _own(source, "units/spike_times", index.target.data)
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
    spans = np.asarray(_own(source, "units/obs_intervals", intervals.target.data)[:], np.float64)
    last = np.asarray(intervals.data[:], np.int64)
    of_unit = [spans[(last[row - 1] if row else 0) : last[row]] for row in rows]

    def observed(start: int, stop: int) -> np.ndarray:
        """A bin that lies wholly in one interval."""
        first_s, last_s = clock.start_s[start:stop, None], clock.stop_s[start:stop, None]
        slack = 1e-6
        return np.stack([((first_s >= own[:, 0] - slack) & (last_s <= own[:, 1] + slack)).any(1) for own in of_unit], 1)

    return counts, observed


def _pictures(
    source: Path, series: Any, axes: str
) -> tuple[tuple[int, ...], type[np.uint8] | type[np.float32], Callable[[np.ndarray], np.ndarray]]:
    """The size of a picture, its type, and a function that reads the pictures shown at frames of the series."""
    from pynwb.image import IndexSeries

    field = f"stimulus/presentation/{series.name}"
    turned = "t w h ... -> t h w ..." if axes == "t w h" else "t h w ... -> t h w ..."
    if not isinstance(series, IndexSeries):
        stored = _stored(source, field, series)
        return tuple(rearrange(np.empty((1, *stored.shape[1:]), bool), turned).shape[1:]), pixel_type(stored), (
            lambda frames: rearrange(_rows_of(stored, frames), turned)
        )  # fmt: skip
    index = np.asarray(_own(source, field, series.data)[:], np.int64)
    if series.indexed_timeseries is not None:
        stored = _stored(source, f"{field}/indexed_timeseries", series.indexed_timeseries)
        number, dtype, one = len(stored), pixel_type(stored), None
    else:
        images = series.indexed_images
        listed = (
            list(images.order_of_images.data[:]) if images.order_of_images is not None else list(images.images.values())
        )
        one = [_own(source, f"{field}/indexed_images/{image.name}", image.data) for image in listed]
        shapes = {tuple(image.shape) for image in one}
        if len(shapes) != 1:
            raise RecordingError(
                source, f"{field}/indexed_images", f"has images of sizes {sorted(shapes)}", "Give all one size"
            )
        number, stored = len(one), None
        dtype = np.uint8 if all(image.dtype == np.uint8 for image in one) else np.float32
    if len(index) and not (index.min() >= 0 and index.max() < number):
        raise RecordingError(
            source, field, f"asks for image {index.min()} … {index.max()} of {number}", "Correct the index"
        )

    def read(ids: np.ndarray) -> np.ndarray:
        if one is None:
            return _rows_of(stored, ids)
        unique, back = np.unique(ids, return_inverse=True)
        return np.stack([np.asarray(one[i][()]) for i in unique])[back]

    size = tuple(rearrange(read(np.zeros(1, np.int64)), turned).shape[1:])
    return size, dtype, lambda frames: rearrange(read(index[frames]), turned)


def _stored(source: Path, field: str, series: Any) -> Any:
    """The pictures of an ImageSeries, in this file."""
    if series.external_file is not None and len(series.external_file):
        raise RecordingError(
            source, field, f"its frames lie in {series.external_file[0]}",
            "Store the frames in the file (data), decoded; or use importer=arrays",
        )  # fmt: skip
    data = _own(source, f"{field}/data", series.data)
    if data.ndim not in (3, 4) or 0 in data.shape or np.dtype(data.dtype).kind not in "biuf":
        raise RecordingError(
            source, f"{field}/data", f"has shape {data.shape} and type {data.dtype}", "Store (T, H, W[, C]) numbers"
        )
    return data


def _rows_of(data: Any, rows: np.ndarray) -> np.ndarray:
    """Rows of an array on disk, in any order and repeated, each read once."""
    unique, back = np.unique(rows, return_inverse=True)
    low, high = int(unique[0]), int(unique[-1]) + 1
    if high - low <= 2 * len(unique):
        return np.asarray(data[low:high])[unique - low][back]
    return np.asarray(data[unique])[back]


def _times(source: Path, series: Any, field: str) -> np.ndarray:
    """The times of a series' samples, s."""
    n = len(series.data)
    if series.timestamps is not None:
        times = np.asarray(_own(source, f"{field}/timestamps", series.timestamps)[:], np.float64)
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


def _own(source: Path, field: str, data: Any) -> Any:
    """An array of this very file; those that lie in others are refused."""
    if isinstance(data, h5py.Dataset):
        elsewhere = Path(data.file.filename).resolve() != source.resolve() or data.external or data.is_virtual
        if elsewhere:
            raise RecordingError(source, field, "lies in another file", "Export the NWB file with its data inside")
        return data
    return np.asarray(data)


def _behavior_series(nwb: Any) -> dict[str, Any]:
    """The time series of behavior by name; two of one name get their containers' in front."""
    from pynwb.base import TimeSeries
    from pynwb.behavior import BehavioralTimeSeries, CompassDirection, EyeTracking, Position, PupilTracking

    listed = []
    for module in nwb.processing.values():
        for interface in module.data_interfaces.values():
            if isinstance(interface, TimeSeries) and module.name == "behavior":
                listed.append((module.name, interface))
            elif isinstance(interface, BehavioralTimeSeries | PupilTracking):
                listed += [(interface.name, series) for series in interface.time_series.values()]
            elif isinstance(interface, EyeTracking | Position | CompassDirection):
                listed += [(interface.name, series) for series in interface.spatial_series.values()]
    names = [series.name for _, series in listed]
    return {
        (s.name if names.count(s.name) == 1 else f"{box}_{s.name}").replace("/", "_"): s for box, s in listed
    }  # fmt: skip


def _table(units: Any, rows: np.ndarray, left_out: list[str]) -> dict[str, Any]:
    """The simple columns of the units' table."""
    table: dict[str, Any] = {"id": [str(i) for i in np.asarray(units.id[:])[rows]]}
    others = []
    for name in units.colnames:
        column = units[name]
        if name in ("spike_times", "obs_intervals", "id"):
            continue
        data = getattr(column, "data", None)
        values = np.asarray(data[:]) if data is not None and type(column).__name__ == "VectorData" else None
        if values is not None and values.dtype.kind == "O":
            words = (
                [_word(v) for v in values.tolist()]
                if all(isinstance(v, str | bytes) for v in values.tolist())
                else None
            )
            values = np.array(words) if words is not None else None
        if values is None or values.dtype.kind not in "biufUS" or values.ndim > 3 or len(values) != len(units):
            others.append(name)
        else:
            table[name.replace("/", "_")] = values[rows]
    if others:
        left_out.append(f"columns {', '.join(others)} of units: not one number or word a unit")
    return table


def _about(nwb: Any) -> Mapping[str, str]:
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
def _opened(source: Path) -> Iterator[Any]:
    try:
        from pynwb import NWBHDF5IO
    except ImportError as error:
        raise ValueError("importer=nwb needs pynwb: pip install 'vivit-core[nwb]'") from error
    if not source.is_file() or not h5py.is_hdf5(source):
        raise RecordingError(source, "file", "is not an NWB file in HDF5", "Give the path of a whole .nwb file")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions; what cannot be used is an error below
        try:
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


def _broken(source: Path, error: Exception) -> RecordingError:
    said = str(error).strip().splitlines()
    return RecordingError(
        source, "file", f"cannot be read as NWB ({short(said[0], _WORDS) if said else type(error).__name__})",
        "Copy it again; `python -m pynwb.validate FILE` says more",
    )  # fmt: skip


def _blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, BLOCK):
        yield first, min(first + BLOCK, stop)


def _word(value: Any) -> str:
    """A table's entry as text; 3.0 is "3"."""
    if isinstance(value, bytes):
        return value.decode()
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)
