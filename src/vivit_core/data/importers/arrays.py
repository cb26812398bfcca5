"""From plain arrays, in an .npz file or a folder of .npy files, to a recording file.

Shape letters: T frames, H W pixels, C channels, U units, D behavior numbers, N trials.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from vivit_core.data.importers.common import Importer, SourceRecording
from vivit_core.data.importers.sliceable import converted, pixel_type
from vivit_core.data.importers.sources import split_by_stimulus
from vivit_core.data.npy import DAMAGED_NPY, open_npy
from vivit_core.data.recording.format import Kind, Split, Trials
from vivit_core.data.recording.inputs import (
    check_behavior,
    check_counts,
    check_frames,
    check_marks,
    check_unit_table,
    own_stimuli,
    unknown_stimuli,
)
from vivit_core.parts.schema import Count, Positive, SplitFraction


@dataclass(frozen=True)
class ArraysImporter(Importer):
    """Import plain arrays: an .npz file, or a folder of .npy files for arrays larger than memory.

    There are ``frames`` (T, H, W) or (T, H, W, C) and ``counts`` (see ``counts_axis``); optionally ``valid`` (like
    ``counts``, (T,) or (T, 1)), ``trial_start`` (N,) the first frame of each trial, ``stimulus_id`` (N,), ``split``
    (N,), ``behavior_<name>`` (T,) or (T, D), and ``unit_<name>`` (U, ...) such as ``unit_id``. Nothing is unpickled.
    """

    frame_rate_hz: Positive  # frames a second; counts have one bin a frame
    counts_axis: Literal["time_unit", "unit_time"]  # order of the axes of counts, and of valid where it is like them
    trial_length: Count | None  # frames; cuts the recording into trials where the source has no trial_start
    split: Split | None  # puts all trials into one split
    val_fraction: SplitFraction  # of the distinct stimuli; whole trials, repeats of a stimulus stay together
    test_fraction: SplitFraction  # as val_fraction
    seed: int  # of the draw of val and test trials
    kind: Kind  # what counts holds

    @contextmanager
    def read(self, source: Path) -> Iterator[SourceRecording]:
        arrays = _load(source)
        frames, counts = arrays.pop("frames"), arrays.pop("counts")
        check_counts(source, counts, "counts")
        # Which axis of counts is time is told by the frames, so these may come in another order only where no axis of
        # counts is as long as they say.
        n_bins = counts.shape[0 if self.counts_axis == "time_unit" else 1]
        known = frames.ndim > 0 and len(frames) in counts.shape
        check_frames(source, frames, n_bins if not known and n_bins in frames.shape else None, "frames")
        n_frames = len(frames)
        counts = self._time_first(counts, n_frames, source)
        valid = arrays.pop("valid", None)
        if valid is not None:
            valid = self._marks(valid, counts, source)
        starts, stops = self._trials(arrays.pop("trial_start", None), n_frames, source)
        stimulus_id = _per_trial(arrays.pop("stimulus_id", None), len(starts), "stimulus_id", source)
        given_split = _per_trial(arrays.pop("split", None), len(starts), "split", source)
        left_out: list[str] = []
        notes: list[str] = []
        if stimulus_id is None:
            stimulus_id = np.array([f"trial {i}" for i in range(len(starts))])
        else:
            stimulus_id, unknown = own_stimuli(stimulus_id)
            notes += unknown_stimuli(unknown, "stimulus_id")
        if self.split is not None:
            split = np.full(len(starts), self.split)
        elif given_split is not None:
            split = given_split
        else:
            remedy = (
                "cut it shorter with importer.trial_length=…, or make all one split: importer.split=train, val or test"
                if self.trial_length is not None
                else "make all one split: importer.split=train, val or test"
            )
            split = split_by_stimulus(stimulus_id, self.val_fraction, self.test_fraction, self.seed, remedy)
        try:
            trials = Trials(starts, stops, stimulus_id, split)
        except ValueError as error:
            raise ValueError(f"{source}: {error}") from error
        behavior = {}
        units = {"id": np.array([str(u) for u in range(counts.shape[1])])}
        for name in list(arrays):
            kind, _, rest = name.partition("_")
            if kind == "behavior" and rest:
                check_behavior(source, arrays[name], name)
                behavior[rest] = arrays[name] if arrays[name].ndim == 2 else arrays[name].reshape(-1, 1)
            elif kind == "unit" and rest:
                check_unit_table(source, arrays[name], name)
                units[rest] = np.asarray(arrays[name])
            else:
                left_out.append(
                    f"{name} {arrays[name].shape}: not a name this importer knows; "
                    "unit_<name> and behavior_<name> are kept"
                )
        if starts[0] > 0:
            left_out.append(f"frames 0:{starts[0]} belong to no trial")
        if self.split is not None and given_split is not None:
            left_out.append(f"split: importer.split={self.split} stands above the source's")
        lengths = stops - starts
        if len(lengths) > 1 and lengths[-1] < lengths[0] and self.trial_length is not None:
            notes.append(f"the last trial has {lengths[-1]} bins: what {self.trial_length} did not divide")
        yield SourceRecording(
            recording_id=self.id_of(source),
            frame_rate_hz=self.frame_rate_hz,
            frames=converted(frames, pixel_type(frames)),
            counts=counts,
            valid=None if valid is None else converted(valid, bool),
            trials=trials,
            behavior=behavior,
            units=units,
            kind=self.kind,
            left_out=left_out,
            notes=notes,
        )

    def _time_first(self, counts: np.ndarray, n_frames: int, source: Path) -> np.ndarray:
        counts = counts.T if self.counts_axis == "unit_time" else counts
        if len(counts) != n_frames:
            other = {"time_unit": "unit_time", "unit_time": "time_unit"}[self.counts_axis]
            hint = f"set importer.counts_axis={other}" if counts.shape[1] == n_frames else "give one bin a frame"
            raise ValueError(
                f"{source}: with counts_axis={self.counts_axis}, counts has {len(counts)} bins "
                f"for {n_frames} frames; {hint}"
            )
        return counts

    def _marks(self, valid: np.ndarray, counts_TU: np.ndarray, source: Path) -> np.ndarray:
        """``valid`` as (T, U) or (T, 1)."""
        column, turned = (len(counts_TU), 1), self.counts_axis == "unit_time"
        marks = valid[:, None] if valid.ndim == 1 else valid.T if turned and valid.shape != column else valid
        if marks.shape not in (counts_TU.shape, column):
            like = counts_TU.shape[::-1] if turned else counts_TU.shape
            raise ValueError(
                f"{source}: valid has shape {valid.shape}; give it like counts {like}, or ({column[0]},) for all units"
            )
        check_marks(source, marks, "valid")
        return marks

    def _trials(
        self, trial_start: np.ndarray | None, n_frames: int, source: str | Path
    ) -> tuple[np.ndarray, np.ndarray]:
        if trial_start is not None:
            if self.trial_length is not None:
                raise ValueError(f"{source} has trial_start; set importer.trial_length=null")
            starts = np.asarray(trial_start).ravel()
            if starts.dtype.kind not in "iu" or not len(starts) or (np.diff(starts.astype(np.int64)) <= 0).any():
                raise ValueError(f"{source}: trial_start must be rising frame numbers (not ms or s), one a trial")
            starts = starts.astype(np.int64)
            if starts[0] < 0 or starts[-1] >= n_frames:
                raise ValueError(
                    f"{source}: trial_start {starts[0]} … {starts[-1]} is not inside 0:{n_frames} (frame numbers, not "
                    "ms or s)"
                )
        elif self.trial_length is not None:
            starts = np.arange(0, n_frames, self.trial_length)
        elif self.split is not None:
            starts = np.zeros(1, np.int64)
        else:
            raise ValueError(
                f"{source} has no trial_start, and one trial cannot be split: give importer.trial_length=… "
                "(frames), or importer.split=train, val or test for the whole"
            )
        return starts, np.append(starts[1:], n_frames)


def _load(source: Path) -> dict[str, np.ndarray]:
    """The arrays by name; those of a folder stay on the disk."""
    if source.is_dir():
        what = "an array of numbers, or of text for ids"
        names = sorted(path.stem for path in source.glob("*.npy"))
        arrays = {name: open_npy(source, f"{name}.npy", range(5), "biufUS", what) for name in names}
    else:
        if not zipfile.is_zipfile(source):
            raise ValueError(
                f"{source} is not a whole .npz file (np.savez writes one), nor a folder of .npy files (np.save)"
            )
        _check_memory(source)
        try:
            with np.load(source, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except DAMAGED_NPY as error:
            raise ValueError(f"{source} cannot be read: {error}") from error
    missing = {"frames", "counts"} - set(arrays)
    if missing:
        raise ValueError(
            f"{source} lacks {sorted(missing)}; it holds {sorted(arrays)}: save the arrays under the names that "
            "docs/recordings.md lists, such as np.savez(FILE, frames=…, counts=…)"
        )
    return arrays


def _check_memory(source: Path) -> None:
    """Refuse an archive whose arrays, inflated, do not fit into memory: some kilobytes can hold terabytes of zeros."""
    with suppress(zipfile.BadZipFile), zipfile.ZipFile(source) as archive:  # which np.load says better
        size = sum(member.file_size for member in archive.infolist())
        if size > (free := free_memory()):
            raise ValueError(
                f"{source} holds arrays of {size / 1e9:.3g} GB, and {free / 1e9:.3g} GB of memory are free; save each "
                "array by np.save into a folder, and give the folder as source: such files are read in pieces"
            )


def free_memory() -> int:
    """Bytes of memory that are free on this machine; of all memory where the system does not say."""
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _per_trial(values: np.ndarray | None, n_trials: int, name: str, source: str | Path) -> np.ndarray | None:
    if values is None:
        return None
    if values.shape != (n_trials,):
        raise ValueError(f"{source}: {name} has shape {values.shape}; give one value for each of the {n_trials} trials")
    return values
