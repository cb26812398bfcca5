"""From an NWB file (Neurodata Without Borders, nwb.org) to a recording file.

The stimulus gives the clock: bins lie between the onsets of its frames, so that jitter moves bins with their frames. A
frame that stays for n bins (an image shown for longer, or one whose successors were dropped: the screen keeps it) is
repeated n times, and its time is divided evenly. A frame that stays longer than ``longest_frame_s`` is followed by a
gap, where a trial is cut. Bins in no trial are left out. A table of presentations says also when each picture ends:
between two of them the screen is empty.

Clocks (8 bytes a frame or sample) are held in memory; pictures, spikes and behavior are read in blocks of bins.

Shape letters: T bins, F frames, S samples, H W pixels, C colors, U units, D behavior numbers, P parts of trials.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vivit_core.data.importers.common import Importer, SourceRecording
from vivit_core.data.importers.nwb_clock import Clock, Sampled, make_clock
from vivit_core.data.importers.nwb_file import (
    about,
    behavior_series,
    one_a_row,
    opened,
    own_array,
    spikes_of,
    times_of,
    unit_table,
    word,
)
from vivit_core.data.importers.nwb_films import Films, films_of
from vivit_core.data.importers.nwb_pictures import (
    BLANK,
    UNKNOWN,
    Pictures,
    Shown,
    pictures_of,
    shown_by_series,
    shown_by_table,
)
from vivit_core.data.importers.nwb_trials import blocks, by_pictures, kept_together, restarts, shared_pictures
from vivit_core.data.importers.remote import Remote
from vivit_core.data.importers.sliceable import Computed
from vivit_core.data.importers.sources import split_by_stimulus
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.inputs import own_stimuli, unknown_stimuli
from vivit_core.parts.schema import Positive, SplitFraction
from vivit_core.specs import RecordingError

STRAY = 0.25  # a bin that is this much shorter or longer than the others, as a fraction, is not valid


@dataclass(frozen=True)
class NwbImporter(Importer):
    """Import an NWB file: units' spike times, pictures and when they are shown, trials, behavior."""

    guarded = True

    stimulus: str | None  # name of the series among the file's stimuli, or of the template; None: the only one
    axes: Literal["t h w", "t w h"]  # order of the axes of its stored pictures
    films: str | None  # folder of films outside the file; None: the file's own
    film_channels: Literal[1, 3]  # of such a film
    presentations: str | None  # table of intervals that shows a template's pictures; None: the series itself does
    picture_column: str | None  # of that table: number or name of the picture, or references to a template's stretches
    keep_presentations: dict[str, list[str]]  # column of that table -> values, as text; others leave a gap
    blank_pictures: list[str]  # entries of that column that mean the empty screen, beside -1 and nothing
    background: float  # pixel value of the empty screen
    frame_rate_hz: Positive | None  # bins a second, whole numbers of them a picture; None: the stimulus' own
    longest_frame_s: Positive  # a frame that stays longer is followed by a gap
    stimulus_column: str | None  # of the trials' table: equal for repeats; None: numbered pictures tell, else none is
    split_column: str | None  # of the trials' table: train, val or test; None: by the fractions
    trial_s: Positive | None  # cuts a file without trials; None: at gaps alone
    keep_units: dict[str, list[str]]  # column of the units' table -> values, as text; others are left out
    behavior: list[str] | None  # names of time series; None: all that are found
    longest_hold_s: Positive  # a behavior's newest sample stands for at most this long
    val_fraction: SplitFraction  # of the distinct stimuli
    test_fraction: SplitFraction
    seed: int  # of that draw

    def __post_init__(self) -> None:
        if (self.presentations is None) != (self.picture_column is None):
            raise ValueError(
                "importer.presentations names a table, and importer.picture_column its column of pictures; give both, "
                "or none"
            )
        if self.presentations is None and (self.keep_presentations or self.blank_pictures):
            name = "keep_presentations" if self.keep_presentations else "blank_pictures"
            raise ValueError(
                f"importer.{name} is about rows of a table, and no table is named; name it by "
                "importer.presentations=TABLE importer.picture_column=COLUMN, or leave it out"
            )

    def _films(self) -> Path | None:
        return None if self.films is None else Path(self.films)

    def files(self, source: Path) -> list[Path]:
        """The NWB file, and the films that it names."""
        return [source, *films_of(source, self._films())]

    def read_remote(self, source: Remote) -> AbstractContextManager[SourceRecording]:
        return self.read(source)

    @contextmanager
    def read(self, source: Path | Remote) -> Iterator[SourceRecording]:
        with opened(source) as nwb:
            left_out: list[str] = []
            notes: list[str] = []
            shown = self._shown(source, nwb, left_out, notes)
            clock = self._clock(shown, notes)
            bins, trials = self._trials(source, nwb, clock, shown, left_out, notes)
            clock = clock.of(bins)
            n_bins = len(bins)
            pictures = shown.pictures
            if (shown.picture_F == BLANK).any() and not isinstance(pictures.read, Films):
                self._check_background(source, shown)
            whole = self.background == round(self.background) and 0 <= self.background <= 255
            dtype = pictures.dtype if whole or not (shown.picture_F == BLANK).any() else np.float32

            def frames(start: int, stop: int) -> np.ndarray:
                numbers = shown.picture_F[clock.frame[start:stop]]
                out = np.full((stop - start, *pictures.size), self.background, dtype)
                if (some := numbers >= 0).any():
                    out[some] = pictures.read(numbers[some])
                return out

            rows = self._rows(source, nwb, left_out)
            counts, observed = spikes_of(source, nwb.units, rows, clock)
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
                recording_id=self.id_of(source),
                frame_rate_hz=clock.rate_hz,
                frames=Computed((n_bins, *pictures.size), dtype, frames),
                counts=Computed((n_bins, len(rows)), np.uint16, counts),
                valid=Computed((n_bins, columns), bool, valid),
                trials=trials,
                units=unit_table(nwb.units, rows, left_out, notes),
                behavior=behavior,
                behavior_units=units_of,
                about=about(nwb),
                left_out=left_out,
                notes=notes,
            )

    def _shown(self, source: Path | Remote, nwb: Any, left_out: list[str], notes: list[str]) -> Shown:
        """The pictures, and which of them stands from when on."""
        from pynwb.base import Images
        from pynwb.image import ImageSeries, IndexSeries

        def pictures(field: str, holder: Any) -> Pictures:
            return pictures_of(source, field, holder, self.axes, self._films(), self.film_channels, notes)

        stimuli = {s.name: s for s in nwb.stimulus.values() if isinstance(s, ImageSeries | IndexSeries)}
        templates = {s.name: s for s in nwb.stimulus_template.values() if isinstance(s, ImageSeries | Images)}
        tables = {table.name: table for table in (nwb.intervals or {}).values()}
        if self.presentations is None:
            shows = [name for name, table in tables.items() if templates and name not in ("trials", "epochs")]
            return shown_by_series(
                source,
                self._chosen(source, "presentation", stimuli, (
                    f"Say which table shows the templates {sorted(templates)} by importer.presentations=TABLE and "
                    f"importer.picture_column=COLUMN; there are {sorted(shows)}" if shows else
                    "Store the frames as an ImageSeries, or as an IndexSeries of Images; or use importer=arrays"
                )),
                pictures,
            )  # fmt: skip
        if self.presentations not in tables:
            raise RecordingError(
                source, f"intervals/{self.presentations}", "missing",
                f"There are {sorted(tables)} (importer.presentations)",
            )  # fmt: skip
        known = {**{name: s for name, s in stimuli.items() if isinstance(s, ImageSeries)}, **templates}
        holder = self._chosen(source, "templates", known, "Store the pictures as Images or as an ImageSeries")
        assert self.picture_column is not None
        return shown_by_table(
            source, tables[self.presentations], self.picture_column, self.keep_presentations, self.blank_pictures,
            holder, pictures(f"stimulus/{holder.name}", holder), self.frame_rate_hz, left_out, notes,
        )  # fmt: skip

    def _check_background(self, source: Path | Remote, shown: Shown) -> None:
        """Refuse an empty screen of another range than the pictures, as 127 where they go from 0 to 1."""
        seen = np.unique(shown.picture_F[shown.picture_F >= 0])
        some = shown.pictures.read(seen[:: max(1, len(seen) // 16)])
        low, high = float(some.min()), float(some.max())
        if high <= 1 < self.background:
            raise RecordingError(
                source, "pictures", f"have values from {low:g} to {high:g}, and the empty screen has "
                f"{self.background:g}", "Give its value in their range by importer.background=…",
            )  # fmt: skip

    def _chosen(self, source: Path | Remote, place: str, known: dict[str, Any], remedy: str) -> Any:
        """The series or template that is said, or the only one."""
        if self.stimulus is None and len(known) != 1:
            raise RecordingError(
                source, f"stimulus/{place}", f"holds {len(known)} series of pictures: {sorted(known)}",
                "Name one by importer.stimulus=…" if known else remedy,
            )  # fmt: skip
        name = self.stimulus if self.stimulus is not None else next(iter(known))
        if name not in known:
            raise RecordingError(
                source, f"stimulus/{place}/{name}", "missing", f"There are {sorted(known)} (importer.stimulus)"
            )
        return known[name]

    def _clock(self, shown: Shown, notes: list[str]) -> Clock:
        """The bins of what is imported."""
        if self.presentations is None:
            return make_clock(shown.times_F, self.frame_rate_hz, self.longest_frame_s, notes)
        rate = self.frame_rate_hz
        if rate is None:  # the shorter of what a picture and what the empty screen takes is a bin
            stay = np.diff(shown.times_F)
            kinds = [stay[shown.picture_F[:-1] >= 0], stay[shown.picture_F[:-1] == BLANK]]
            rate = 1 / min(float(np.median(kind)) for kind in kinds if len(kind))
            notes.append(f"{rate:g} bins a second, one in the time of a picture or of the empty screen between")
        # The table says how long a picture stays, so that only an empty screen can be a gap.
        longest = np.where(shown.picture_F >= 0, np.inf, self.longest_frame_s)
        clock = make_clock(shown.times_F, rate, longest, [])  # how long a picture stays is meant so
        if unseen := int((shown.picture_F >= 0).sum()) - len(np.unique(clock.frame[shown.picture_F[clock.frame] >= 0])):
            notes.append(f"{unseen} pictures were replaced within half a bin and are not shown")
        kept = shown.picture_F[clock.frame] != UNKNOWN
        clock.gap_after[:-1] |= ~kept[1:]
        return clock.of(np.flatnonzero(kept))

    def _trials(
        self, source: Path | Remote, nwb: Any, clock: Clock, shown: Shown, left_out: list[str], notes: list[str]
    ) -> tuple[np.ndarray, Trials]:
        """The bins that are kept, and the trials they make, cut at gaps."""
        middle = (clock.start_s + clock.stop_s) / 2
        picture_T, again = shown.picture_F[clock.frame], np.zeros(0, np.int64)
        table = nwb.trials
        for column in (self.stimulus_column, self.split_column):
            if column is not None and (table is None or column not in table.colnames):
                there = "there are no trials" if table is None else f"the columns are {list(table.colnames)}"
                raise RecordingError(
                    source, f"intervals/trials/{column}", f"missing; {there}", "Correct importer.…_column, or null"
                )
        if table is None:
            again = restarts(picture_T) if shown.indexed else again
            starts = np.unique(np.concatenate([[0], np.flatnonzero(clock.gap_after[:-1]) + 1, again]))
            notes.append("no table of trials: the stimulus is cut at its gaps" + (
                ", where its film begins anew (equal parts are repeats)" if len(again) else ""
            ) + (f" and every {self.trial_s:g} s" if self.trial_s else ""))  # fmt: skip
            length = max(1, round(self.trial_s * clock.rate_hz)) if self.trial_s else len(middle)
            if len(again):
                starts = np.union1d(starts, blocks(picture_T, starts, length))
                ranges = list(zip(starts, [*starts[1:], len(middle)], strict=True))
            else:
                ends = np.append(starts[1:], len(middle))
                ranges = [(s, min(s + length, e)) for a, e in zip(starts, ends, strict=True)
                          for s in range(a, e, length)]  # fmt: skip
            ids = [f"trial {i}" for i in range(len(ranges))]
            given = None
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
                column = one_a_row(source, table, self.stimulus_column)[known]
                named, unknown = own_stimuli(column)
                ids = named.tolist()
                notes.extend(unknown_stimuli(unknown, f"{self.stimulus_column} (importer.stimulus_column)"))
            given = None if self.split_column is None else \
                [word(v) for v in one_a_row(source, table, self.split_column)[known]]  # fmt: skip
        bins, stimuli, trial_P, empty, taken = list[np.ndarray](), list[str](), list[int](), 0, 0
        for i, (first, last) in enumerate(ranges):
            first = max(first, taken)  # where trials overlap by part of a bin, the earlier one has it
            if last <= first:
                empty += 1
                continue
            taken = last
            cuts = first + 1 + np.flatnonzero(clock.gap_after[first : last - 1])
            for part in np.split(np.arange(first, last), cuts - first):
                bins.append(part)
                trial_P.append(i)
                # What a later part shows depends on where and on how long after the trial's start it begins.
                place = part[0] - first
                late = round((clock.start_s[part[0]] - clock.start_s[first]) * clock.rate_hz) - place
                stimuli.append(f"{ids[i]} from bin {place}, {late} late" if place else ids[i])
        if not bins:
            raise RecordingError(
                source, "intervals/trials", "no trial holds a frame of the stimulus",
                f"The stimulus lasts from {clock.start_s[0]:g} to {clock.stop_s[-1]:g} s; compare the trials' times",
            )  # fmt: skip
        if empty:
            left_out.append(f"{empty} trials in which no frame begins")
        if cut := len(bins) - len(set(trial_P)):
            notes.append(f"{cut} gaps of the stimulus cut trials in two")
        stops = np.cumsum([len(part) for part in bins])
        if stops[-1] < len(middle):
            left_out.append(f"{len(middle) - stops[-1]} bins in no trial")
        pictures, kin = [picture_T[part] for part in bins], [ids[i] for i in trial_P]
        if shown.indexed and self.stimulus_column is None:
            stimuli, groups = by_pictures(pictures, trial_P)
            kin = groups if len(again) else kept_together(groups, stimuli, trial_P)
        split = np.array([given[i] for i in trial_P]) if given is not None else \
            split_by_stimulus(
                np.array(kin), self.val_fraction, self.test_fraction, self.seed,
                ("cut it into trials by importer.trial_s=… (seconds), or " if table is None else "")
                + "put all into train by importer.val_fraction=0 importer.test_fraction=0",
            )  # fmt: skip
        if shown.indexed:
            notes.extend(shared_pictures(pictures, split))
        try:
            trials = Trials(np.append(0, stops[:-1]), stops, np.array(stimuli), split)
        except ValueError as error:
            raise RecordingError(
                source,
                f"intervals/trials/{self.split_column}",
                str(error),
                "Correct the column, or importer.split_column",
            ) from error
        return np.concatenate(bins), trials

    def _rows(self, source: Path | Remote, nwb: Any, left_out: list[str]) -> np.ndarray:
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
            own = np.array([word(v) in values for v in units[column][:]])
            left_out.append(f"{(kept & ~own).sum()} units whose {column} is not {' or '.join(values)}")
            kept &= own
        if not kept.any():
            raise RecordingError(source, "units", f"none is left; {left_out[-1:]}", "Change importer.keep_units")
        return np.flatnonzero(kept)

    def _behavior(
        self, source: Path | Remote, nwb: Any, clock: Clock, left_out: list[str]
    ) -> tuple[dict[str, Computed], dict[str, str], list[Callable[[int, int], np.ndarray]]]:
        """The behaviors, their units, and functions that say in which bins each is known."""
        found = behavior_series(source, nwb)
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
            try:
                data = own_array(source, f"processing/…/{name}", series.data)
                if data.ndim not in (1, 2) or 0 in data.shape[1:] or np.dtype(data.dtype).kind not in "iufb":
                    left_out.append(f"behavior {name}: {data.dtype} {data.shape}, not numbers with one or two axes")
                    continue
                times = times_of(source, series, f"processing/…/{name}", len(data))
            except RecordingError as error:
                if self.behavior is None:
                    left_out.append(f"behavior {name}: {error.field}: {error.problem}")
                    continue
                remedy = f"{error.remedy}, or leave it out of importer.behavior"
                raise RecordingError(source, error.field, error.problem, remedy) from error
            scale, shift = float(series.conversion or 1.0), float(getattr(series, "offset", 0.0) or 0.0)
            sampled = Sampled(data, times, clock.stop_s, self.longest_hold_s, scale, shift)
            width = data.shape[1] if data.ndim == 2 else 1
            values[name] = Computed((len(clock.stop_s), width), np.float32, sampled.values)
            units[name] = str(series.unit or "")
            present.append(sampled.known)
        if left := [name for name in found if name not in wanted]:
            left_out.append(f"time series {', '.join(left)}: not in importer.behavior")
        return values, units, present
