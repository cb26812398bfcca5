"""From the folders of the Sensorium 2023 competition to recording files.

Turishcheva et al. 2023, "The Dynamic Sensorium competition for predicting large-scale mouse visual cortex activity
from videos", arXiv:2305.19654. A folder ``dynamic*-Video-*`` holds one recording:

    data/videos/<trial>.npy        (H, W, T) 0-255, NaN after the last frame
    data/responses/<trial>.npy     (U, T) deconvolved calcium; zeros, or nothing, where the organizers keep them
    data/behavior/<trial>.npy      (2, T) pupil dilation, running speed
    data/pupil_center/<trial>.npy  (2, T)
    meta/trials/tiers.npy          (N,) train, oracle, live_test_main, …
    meta/neurons/unit_ids.npy, cell_motor_coordinates.npy, …

The statistics in meta/statistics are not used: they are of single frames by mistake, and the data module computes those
of training trials itself.

Shape letters: T frames, H W pixels, U units, D behavior numbers, N trials.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from einops import rearrange

from vivit_core.data.importers.common import Importer, SourceRecording
from vivit_core.data.importers.sliceable import Joined, held
from vivit_core.data.importers.sources import split_by_stimulus
from vivit_core.data.npy import open_npy
from vivit_core.data.recording.format import POSITION, POSITION_NUMBERS, Split, Trials
from vivit_core.parts.schema import Positive, SplitFraction
from vivit_core.specs import RecordingError
from vivit_core.system.terminal import track

BEHAVIOR = {  # name -> file, its rows, their names
    "pupil": ("behavior", slice(0, 1), ["pupil"]),
    "running_speed": ("behavior", slice(1, 2), ["running_speed"]),
    "pupil_center": ("pupil_center", slice(0, 2), ["x", "y"]),
}
POSITIONS = "cell_motor_coordinates"  # the file of where cells lie, in micrometers
PAPER = "Turishcheva et al. 2023, arXiv:2305.19654"


@dataclass(frozen=True)
class Shown:
    """A trial that is imported."""

    trial: int
    split: str
    frames: int  # valid ones
    stimulus: str  # a hash of its frames


@dataclass(frozen=True)
class Sensorium2023Importer(Importer):
    """Import a ``dynamic*-Video-*`` folder, or each of those that a folder holds."""

    frame_rate_hz: Positive
    tiers: dict[str, Split]  # tier -> split; trials of other tiers are left out
    test_from_val: SplitFraction  # fraction of the distinct val videos put into test where no test trial has responses
    seed: int  # of that draw

    def name_of(self, source: Path) -> str:
        return name_of(source)

    def recordings(self, source: Path, out: Path) -> list[tuple[Path, Path]]:
        folders = folders_of(source)
        return [(source, out)] if folders == [source] else [(one, out / f"{name_of(one)}.h5") for one in folders]

    @contextmanager
    def read(self, source: Path) -> Iterator[SourceRecording]:
        unit_ids = unit_ids_of(source)
        units = {"id": unit_ids}
        left_out: list[str] = []
        notes: list[str] = []
        for path in sorted((source / "meta" / "neurons").glob("*.npy")):
            if path.stem != "unit_ids":
                try:
                    values = open_npy(source, f"meta/neurons/{path.name}", [1, 2, 3], "biufSU", "(U, …)")
                except RecordingError as error:
                    left_out.append(f"meta/neurons/{path.name}: {error.problem}")
                    continue
                if len(values) != len(unit_ids):
                    left_out.append(f"meta/neurons/{path.name} {values.shape}: not one row a unit")
                elif path.stem == POSITIONS and are_positions(values):
                    units[POSITION] = np.asarray(values)
                    notes.append(f"meta/neurons/{path.name} says where units lie: units/{POSITION}")
                else:
                    units[path.stem] = np.asarray(values)
        shown, dtype, size = self._scan(source, len(unit_ids), left_out, notes)

        lengths = [s.frames for s in shown]
        stops = np.cumsum(lengths)

        def frames(i: int) -> np.ndarray:
            return video_of(source, shown[i].trial)[: shown[i].frames]

        def counts(i: int) -> np.ndarray:
            responses = held(series_of(source, "responses", shown[i].trial)[: shown[i].frames])[0]
            return np.fmax(responses, 0)  # also where none was before: counts hold no NaN, and the bin is not valid

        def valid(i: int) -> np.ndarray:
            responses = np.isfinite(series_of(source, "responses", shown[i].trial)[: shown[i].frames])
            gaps = [held(series_of(source, file, shown[i].trial)[: shown[i].frames])[1] for file in behavior_files()]
            return responses & ~np.logical_or.reduce(gaps)[:, None]

        def behavior(name: str, i: int) -> np.ndarray:
            file, rows, _ = BEHAVIOR[name]
            return held(series_of(source, file, shown[i].trial)[: shown[i].frames])[0][:, rows]

        def joined(name: str) -> Joined:
            return Joined(lengths, (len(BEHAVIOR[name][2]),), np.float32, lambda i: behavior(name, i))

        yield SourceRecording(
            recording_id=self.id_of(source),
            frame_rate_hz=self.frame_rate_hz,
            frames=Joined(lengths, size, dtype, frames),
            counts=Joined(lengths, (len(unit_ids),), np.float32, counts),
            valid=Joined(lengths, (len(unit_ids),), bool, valid),
            trials=Trials(
                stops - lengths, stops, np.array([s.stimulus for s in shown]), np.array([s.split for s in shown])
            ),
            units=units,
            behavior={name: joined(name) for name in BEHAVIOR},
            behavior_names={name: names for name, (_, _, names) in BEHAVIOR.items()},
            kind="calcium",
            about={
                "species": "mouse",
                "area": "primary visual cortex",
                "source": PAPER,
                "stimulus_kind": "natural movies",
            },
            left_out=left_out,
            notes=notes,
        )

    def _scan(
        self, source: Path, n_units: int, left_out: list[str], notes: list[str]
    ) -> tuple[list[Shown], type[np.uint8] | type[np.float32], tuple[int, int]]:
        """Read everything once: what each trial shows, for how long, and in which split; the pixels' type and size."""
        tiers = tiers_of(source)
        wanted = [trial for trial, tier in enumerate(tiers) if tier in self.tiers]
        for tier, n in Counter(t for t in tiers.tolist() if t not in self.tiers).items():
            left_out.append(f"{n} trials of tier {tier or '(none)'!r}: importer.tiers gives it no split")
        shown: list[Shown] = []
        kept: Counter[str] = Counter()
        size: tuple[int, int] | None = None
        whole, shorter, negative, gaps, held_bins = True, 0, 0, 0, 0
        for trial in track(wanted, f"{source.name}: look through the trials"):
            tier = str(tiers[trial])
            split = self.tiers[tier]
            if split == "test" and not _has_responses(source, trial):
                kept[tier] += 1
                continue
            video, responses = video_of(source, trial), series_of(source, "responses", trial)
            if responses.shape[1] != n_units:
                raise RecordingError(
                    source / f"data/responses/{trial}.npy",
                    "array",
                    f"has {responses.shape[1]} rows, and meta/neurons/unit_ids.npy names {n_units} units",
                    "Unzip the recording again",
                )
            ends = {"videos": end_of(video), "responses": end_of(responses)}
            ends |= {file: end_of(series_of(source, file, trial)) for file in behavior_files()}
            frames = min(ends.values())
            if not frames:
                raise RecordingError(
                    source / f"data/{min(ends, key=lambda name: ends[name])}/{trial}.npy",
                    "array",
                    f"nothing in it is a number, though tier {tier!r} has responses",
                    "Unzip the recording again",
                )
            shorter += len(set(ends.values())) > 1
            if size not in (None, video.shape[1:]):
                raise RecordingError(
                    source / f"data/videos/{trial}.npy",
                    "array",
                    f"its frames have size {video.shape[1:]}, others {size}",
                    "Import videos of one size",
                )
            size = video.shape[1:]
            picture = video[: ends["videos"]]
            if not np.isfinite(picture).all():
                frame = int(np.argwhere(~np.isfinite(picture))[0][0])
                raise RecordingError(
                    source / f"data/videos/{trial}.npy",
                    "array",
                    f"frame {frame} is NaN in part, before the video's end",
                    "Unzip the recording again, or leave the trial's tier out (importer.tiers)",
                )
            whole = whole and bool((picture == np.rint(picture)).all() and picture.min() >= 0 and picture.max() <= 255)
            negative += int((responses[:frames] < 0).sum())
            gaps += int((~np.isfinite(responses[:frames])).sum())
            held_bins += int(
                np.logical_or.reduce([held(series_of(source, f, trial)[:frames])[1] for f in behavior_files()]).sum()
            )
            stimulus = hashlib.sha256(np.ascontiguousarray(picture, np.float32).data).hexdigest()[:12]
            shown.append(Shown(trial, split, frames, stimulus))
        for tier, n in kept.items():
            left_out.append(f"{n} trials of tier {tier!r}: their responses are not released (missing, or all 0)")
        if not shown or size is None:
            raise RecordingError(
                source, "meta/trials/tiers.npy", f"no trial of the tiers {list(self.tiers)} has responses",
                f"Choose others with importer.tiers; there are {sorted(set(tiers.tolist()))}",
            )  # fmt: skip
        if shorter:
            notes.append(f"{shorter} trials end where the shortest of video, responses and behavior ends")
        if negative:
            notes.append(f"{negative} negative responses are set to 0")
        if gaps:
            notes.append(f"{gaps} responses that are NaN before a trial's end are not valid")
        if held_bins:
            notes.append(
                f"{held_bins} bins lack a behavior before a trial's end: not valid, and the value before stands in, "
                "NaN where there is none"
            )
        shown = self._with_test(shown, notes)
        return shown, np.uint8 if whole else np.float32, size

    def _with_test(self, shown: list[Shown], notes: list[str]) -> list[Shown]:
        """Take some videos of val for test where there is no other."""
        val = [s for s in shown if s.split == "val"]
        if any(s.split == "test" for s in shown) or self.test_from_val == 0 or len({s.stimulus for s in val}) < 2:
            return shown
        drawn = split_by_stimulus(
            np.array([s.stimulus for s in val]),
            0.0,
            self.test_from_val,
            self.seed,
            "leave more of them to val by a smaller importer.test_from_val, or all by importer.test_from_val=0",
        )
        test = {s.stimulus for s, split in zip(val, drawn, strict=True) if split == "test"}
        notes.append(
            f"no test trial has responses: {len(test)} of the {len({s.stimulus for s in val})} distinct val videos "
            f"are test (importer.test_from_val={self.test_from_val:g})"
        )
        return [Shown(s.trial, "test", s.frames, s.stimulus) if s in val and s.stimulus in test else s for s in shown]


def name_of(folder: Path) -> str:
    """What the recording of a folder is called: the folder's name up to -Video-."""
    return folder.resolve().name.partition("-Video-")[0]


def folders_of(source: Path) -> list[Path]:
    """The folders of recordings: the source itself, or those in it.

    Raises
    ------
    RecordingError
        Where there are none.
    """
    if (source / "data").is_dir() and (source / "meta").is_dir():
        return [source]
    if source.is_file():
        raise RecordingError(source, "source", "is a file", "Unzip it, and give the folder dynamic*-Video-*")
    folders = sorted(path for path in source.glob("dynamic*-Video-*") if path.is_dir())
    if not folders:
        raise RecordingError(
            source,
            "source",
            "holds neither data/ and meta/ nor folders dynamic*-Video-*",
            "Give the folder that unzipping made, or the one above",
        )
    return folders


def tiers_of(folder: Path) -> np.ndarray:
    """(N,) str, the tier of each trial."""
    return open_npy(folder, "meta/trials/tiers.npy", [1], "SU", "(N,) the tier of each trial").astype(str)


def unit_ids_of(folder: Path) -> np.ndarray:
    """(U,), in the order of the responses."""
    return np.asarray(open_npy(folder, "meta/neurons/unit_ids.npy", [1], "iuSU", "(U,) the units' ids"))


def are_positions(values: np.ndarray) -> bool:
    """Whether these can be places in the tissue, one for each unit."""
    numbers = values.ndim == 2 and values.shape[1] in POSITION_NUMBERS and values.dtype.kind in "iuf"
    return numbers and bool(np.isfinite(values).all())


def behavior_files() -> list[str]:
    """The files of behavior, each once."""
    return list(dict.fromkeys(file for file, _, _ in BEHAVIOR.values()))


def video_of(source: Path, trial: int) -> np.ndarray:
    """(T, H, W), as stored."""
    video = open_npy(source, f"data/videos/{trial}.npy", [3], "uif", "(H, W, T) pixels")
    return np.ascontiguousarray(rearrange(video, "h w t -> t h w"))


def series_of(source: Path, what: str, trial: int) -> np.ndarray:
    """(T, rows) of responses, behavior or pupil_center."""
    series = open_npy(source, f"data/{what}/{trial}.npy", [2], "uif", "(rows, T) numbers")
    rows = max((s.stop for file, s, _ in BEHAVIOR.values() if file == what), default=0)
    if series.shape[0] < rows:
        raise RecordingError(
            source / f"data/{what}/{trial}.npy", "array", f"has shape {series.shape}", f"It ought to be ({rows}, T)"
        )
    return np.ascontiguousarray(rearrange(series, "rows t -> t rows"))


def _has_responses(source: Path, trial: int) -> bool:
    """Whether the responses of a trial were released: others lack the file, or hold 0 or NaN alone."""
    if not (source / f"data/responses/{trial}.npy").exists():
        return False
    return bool(np.nan_to_num(series_of(source, "responses", trial)).any())


def end_of(values: np.ndarray) -> int:
    """The length without the NaN tail: rows up to the last that holds any number."""
    if values.dtype.kind != "f":
        return len(values)
    some = np.flatnonzero(np.isfinite(values).reshape(len(values), -1).any(1))
    return int(some[-1]) + 1 if len(some) else 0
