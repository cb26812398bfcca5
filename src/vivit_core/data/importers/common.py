"""What all importers share: from a source to checked recording files, and a word on what was left out.

An importer says where the recordings of a source are and what stands in each (:class:`SourceRecording`), with large
arrays that are read when they are written. Writing in bounded memory, going on where a killed import stopped, passing
over what is imported already, reading back, and the report are here.

Shape letters: T frames, U units, D behavior numbers.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import tokenize
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from vivit_core.data.recording.checksum import may_be_ours
from vivit_core.data.recording.format import SPLITS, RecordingInfo, Trials
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.hdf5 import open_hdf5
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.resumable import Sliceable, check_writable, pieces, remove_journal
from vivit_core.data.recording.validate import check_holes, check_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.names import printable
from vivit_core.specs import RecordingError

# What numpy raises where the bytes of an .npy or .npz file are damaged, or are pickled objects.
DAMAGED_NPY = (
    *(OSError, ValueError, EOFError, SyntaxError, OverflowError, MemoryError, KeyError, NotImplementedError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
VERSION = 1  # of what importers make; another number imports everything again
_IMPORTS_S = 60.0  # of computing that the libraries of a format may take to start
_PIECE_BYTES = 1 << 24  # what is held of one array at a time


@dataclass(frozen=True, eq=False)
class SourceRecording:
    """A recording in a source. Its large arrays need a shape, a dtype and slices along time, no more."""

    recording_id: str
    frame_rate_hz: float
    frames: Sliceable  # (T, H, W) or (T, H, W, C)
    counts: Sliceable  # (T, U)
    trials: Trials
    units: Mapping[str, Any]  # name -> (U, ...); holds "id"
    valid: Sliceable | None = None  # (T, U) or (T, 1) bool
    behavior: Mapping[str, Sliceable] = field(default_factory=dict)  # name -> (T, D)
    behavior_units: Mapping[str, str] = field(default_factory=dict)
    behavior_names: Mapping[str, Sequence[str]] = field(default_factory=dict)
    kind: Literal["spikes", "calcium"] = "spikes"
    about: Mapping[str, str] = field(default_factory=dict)  # what the source says of subject, area, species, …
    left_out: Sequence[str] = ()  # what was left out, and why; a line each
    notes: Sequence[str] = ()  # what was changed or chosen, and why; a line each


@dataclass(frozen=True, kw_only=True)
class Importer(ABC):
    """From a source to recording files; subclasses know one format each."""

    degrees_per_pixel: float | None = None  # visual angle of a pixel
    subject: str = ""  # free text, like the next four; empty takes what the source says
    area: str = ""
    species: str = ""
    source: str = ""  # who recorded it, where it was published
    licence: str = ""
    # Whether the format's reader is C code that can hang or crash in a damaged file: then a source is read through in a
    # process of its own first.
    guarded: ClassVar[bool] = False

    def recordings(self, source: Path, out: Path) -> list[tuple[Path, Path]]:
        """The recordings in a source, each with the file to be made of it."""
        return [(source, out)]

    def files(self, source: Path) -> list[Path]:
        """The files that a recording is read from."""
        return sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]

    @abstractmethod
    def read(self, source: Path) -> AbstractContextManager[SourceRecording]:
        """What stands in the source of one recording, while it is open."""

    def __call__(self, source: str | Path, out: str | Path) -> list[Path]:
        """Import all recordings of ``source`` and say on the console what was written and what left out.

        One that is imported already, by these settings from these files, is passed over; one that a killed import left
        half-written is completed.

        Parameters
        ----------
        source : a file or a folder, as the format has it.
        out : the recording file to write; a folder where the source holds several recordings.

        Returns
        -------
        list of Path
            The recording files.

        Raises
        ------
        ValueError
            Where the source does not fit the settings.
        RecordingError
            Where a file of the source is missing or broken, or cannot make a recording (negative counts, NaN, …).
        """
        source, out = Path(source), Path(out)
        if not source.exists():
            raise ValueError(f"{source}: there is no such file or folder (seen from {Path.cwd()}); correct source=…")
        return [self._import(one, path) for one, path in self.recordings(source, out)]

    def _import(self, source: Path, path: Path) -> Path:
        key = self._key(source)
        if _imported_under(path) == key:
            remove_journal(path)
            say(f"{path} is imported already, by these settings from these files")
            return path
        check_writable(path)
        for file in self.files(source):
            check_holes(file)
        if self.guarded:
            with Guard() as guard:
                importer = f"{type(self).__module__}:{type(self).__name__}"
                arguments = {"importer": importer, "settings": asdict(self), "source": str(source)}
                guard.run(source, f"{__name__}:read_through", arguments, more_s=_IMPORTS_S)
        with self.read(source) as found:
            about: dict[str, Any] = {
                name: getattr(self, name) or found.about.get(name, "")
                for name in ("subject", "area", "species", "source", "licence")
            }
            write_recording(
                path,
                recording_id=found.recording_id,
                frame_rate_hz=found.frame_rate_hz,
                frames=found.frames,
                counts=found.counts,
                valid=found.valid,
                trials=found.trials,
                behavior=found.behavior,
                behavior_units=found.behavior_units,
                behavior_names=found.behavior_names,
                units=found.units,
                kind=found.kind,
                degrees_per_pixel=self.degrees_per_pixel,
                import_key=key,
                progress=path.name,
                **about,
            )
            _report(path, found)
        return path

    def _key(self, source: Path) -> str:
        """Identifies the settings and the files: an import under the same key makes the same recording."""
        files = [(os.path.relpath(path, source), path.stat().st_size, path.stat().st_mtime_ns) for path in
                 self.files(source)]  # fmt: skip
        said = {"version": VERSION, "importer": type(self).__name__, "settings": asdict(self), "files": files}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:32]


def read_through(importer: str, settings: Mapping[str, Any], source: str) -> None:
    """What :class:`guard.Guard` calls: read all that an import will read. What is wrong with the source the import
    itself says; here it only must not hang, crash or take all memory."""
    module, _, name = importer.partition(":")
    made: Importer = getattr(importlib.import_module(module), name)(**settings)
    try:
        with made.read(Path(source)) as found:
            for values in (found.frames, found.counts, found.valid, *found.behavior.values()):
                if values is not None:
                    row_bytes = max(1, int(np.prod(values.shape[1:])) * np.dtype(values.dtype).itemsize)
                    for start, stop in pieces(values.shape[0], row_bytes, _PIECE_BYTES):
                        np.asarray(values[start:stop])
    except ValueError:
        return


def _imported_under(path: Path) -> str | None:
    """The key under which a file was imported; None where there is no whole one, and a line where it is damaged.

    Raises
    ------
    RecordingError
        Where something stands there that no import made.
    """
    if not path.exists():
        return None
    try:
        check_recording(path)
        with open_hdf5(path) as file:
            return str(file.attrs.get("import_key", ""))
    except RecordingError as error:
        if may_be_ours(path) and error.field != "attribute format":
            say(f"{path}: {error.field}: {error.problem}. It is imported anew")
            return None
        raise RecordingError(
            path,
            "file",
            "stands there already, and no import made it",
            "Name another file by out=…, or delete this one",
        ) from error


def _report(path: Path, found: SourceRecording) -> None:
    """Say what a recording file holds, as read back, and what of its source it does not."""
    recording = Recording(path)
    info, trials = recording.info, recording.info.trials
    total, measured = 0.0, 0
    for start, stop in pieces(info.n_frames, 4 * info.n_units, _PIECE_BYTES):
        valid = recording.valid(start, stop)
        total += float((recording.counts(start, stop) * valid).sum(dtype=np.float64))
        measured += int(valid.sum())
    recording.close()
    mean = f"{total / max(1, measured) * info.frame_rate_hz:.2f} Hz on average" if info.kind == "spikes" else "calcium"
    say(
        f"wrote {path}: recording {info.recording_id!r}, {info.n_frames} frames of {_size_of(info)} "
        f"({info.n_frames / info.frame_rate_hz:.0f} s at {info.frame_rate_hz:g} Hz), {info.n_units} units, {mean}; "
        "read back and compared"
    )
    sizes = [f"{name} {len(trials.of(name))} ({trials.of(name).n_bins} bins)" for name in SPLITS]
    say(f"  trials: {', '.join(sizes)}; {len(set(trials.stimulus_id.tolist()))} distinct stimuli")
    if info.behavior:
        say(f"  behavior: {', '.join(f'{name} ({width})' for name, width in info.behavior.items())}")
    share = measured / max(1, info.n_frames * info.n_units)
    if share < 1:
        say(f"  valid: {share:.2%} of the bins of all units")
    for line in found.notes:
        say(f"  {line}")
    for line in found.left_out or ["nothing"]:
        say(f"  left out: {line}")


def say(line: str) -> None:
    """A line on the console, whatever names the source has."""
    print(printable(line))


def _size_of(info: RecordingInfo) -> str:
    channels, height, width = info.frame_shape
    return f"{height}×{width}" + (f"×{channels}" if channels > 1 else "")


# --- large arrays ----------------------------------------------------------------------------------------------------


class Computed:
    """A (T, ...) array that is made where it is read: ``read(start, stop)`` gives its rows."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, read: Callable[[int, int], np.ndarray]) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, step = key.indices(self.shape[0])
        assert step == 1
        return self._read(start, stop)


class Joined:
    """A (T, ...) array made of parts, one after the other; ``read(part)`` gives a part, and the last one is kept."""

    def __init__(
        self, lengths: Sequence[int], inner: tuple[int, ...], dtype: Any, read: Callable[[int], np.ndarray]
    ) -> None:
        self._ends = np.cumsum(lengths)
        self.shape, self.dtype, self._read = (int(self._ends[-1]), *inner), np.dtype(dtype), read
        self._last: tuple[int, np.ndarray] | None = None

    def __getitem__(self, key: slice) -> np.ndarray:
        start, stop, step = key.indices(self.shape[0])
        assert step == 1
        rows = np.empty((max(0, stop - start), *self.shape[1:]), self.dtype)
        place = start
        while place < stop:
            part = int(np.searchsorted(self._ends, place, side="right"))
            end = min(stop, int(self._ends[part]))
            first = int(self._ends[part - 1]) if part else 0
            if self._last is None or self._last[0] != part:
                self._last = (part, self._read(part))
            rows[place - start : end - start] = self._last[1][place - first : end - first]
            place = end
        return rows


def converted(values: Sliceable, dtype: Any) -> Sliceable:
    """The same array in another type, converted where it is read."""
    if values.dtype == np.dtype(dtype):
        return values
    return Computed(tuple(values.shape), dtype, lambda start, stop: np.asarray(values[start:stop]).astype(dtype))


def span(values: Sliceable) -> tuple[float, float, bool]:
    """The least and the largest value, NaN left out, and whether all are whole numbers. Reads in pieces."""
    least, most, whole = np.inf, -np.inf, True
    row_bytes = int(np.prod(values.shape[1:])) * np.dtype(values.dtype).itemsize
    for start, stop in pieces(values.shape[0], row_bytes, _PIECE_BYTES):
        piece = np.asarray(values[start:stop])
        if piece.dtype.kind == "f":
            whole = whole and bool((piece == np.rint(piece)).all())  # which NaN is not
            piece = piece[~np.isnan(piece)]
        if piece.size:
            least, most = min(least, float(piece.min())), max(most, float(piece.max()))
    return least, most, whole


def pixel_type(values: Sliceable) -> type[np.uint8] | type[np.float32]:
    """uint8 where all values are whole and fit, else float32."""
    if np.dtype(values.dtype).kind == "b" or values.dtype == np.uint8:
        return np.uint8
    least, most, whole = span(values)
    return np.uint8 if whole and least >= 0 and most <= 255 else np.float32


def held(values_TD: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Put the newest earlier finite value of its column in the place of each NaN or inf; 0 where there is none.

    Returns
    -------
    values (T, D), and (T,) bool, whether a row had such a gap.
    """
    finite = np.isfinite(values_TD)
    rows = np.where(finite, np.arange(len(values_TD))[:, None], -1)
    newest = np.maximum.accumulate(rows, axis=0) if len(rows) else rows
    filled = np.take_along_axis(np.where(finite, values_TD, 0), np.maximum(newest, 0), axis=0)
    return np.where(newest >= 0, filled, 0), ~finite.all(1)


# --- reading the sources' files --------------------------------------------------------------------------------------


def open_npy(folder: Path, name: str, ndim: Sequence[int], kinds: str, what: str) -> np.ndarray:
    """Map a .npy file of a folder into memory; nothing in it is unpickled.

    Parameters
    ----------
    folder : its folder; links that lead out of it are refused.
    name : the file's path inside.
    ndim, kinds : ranks and kinds of numpy types that will do.
    what : the array that ought to be there, for the error.

    Raises
    ------
    RecordingError
        Where the file is missing, truncated, pickled, of another shape or type, or elsewhere.
    """
    path = folder / name
    require_file(folder, path, what)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED_NPY as error:
        raise RecordingError(
            path, "array", f"cannot be read: {error}", f"Write it again by np.save(…, allow_pickle=False): {what}"
        ) from error
    if not isinstance(array, np.ndarray):  # an .npz under another name
        array.close()
        raise RecordingError(path, "array", "is an archive of several arrays", f"Write by np.save: {what}")
    if array.ndim not in ndim or array.dtype.kind not in kinds:
        raise RecordingError(path, "array", f"has shape {array.shape} and type {array.dtype}", f"It ought to be {what}")
    return array


def require_file(folder: Path, path: Path, what: str) -> None:
    """Refuse a file that is missing or lies, by a link, outside of the folder."""
    if not path.is_file():
        dangling = " (a link that leads nowhere)" if path.is_symlink() else ""
        raise RecordingError(path, "file", f"missing{dangling}", f"Complete the source; it ought to hold {what}")
    if not path.resolve().is_relative_to(folder.resolve()):
        raise RecordingError(
            path, "file", f"is a link out of {folder}", "Copy the file into the folder; such links are not followed"
        )


def split_by_stimulus(
    stimulus_id: np.ndarray, val_fraction: float, test_fraction: float, seed: int, remedy: str
) -> np.ndarray:
    """Give each trial to train, val or test; all repeats of a stimulus go to the same.

    Parameters
    ----------
    stimulus_id : (N,), equal for repeats.
    val_fraction, test_fraction : of the distinct stimuli, rounded, but at least one where the fraction is not 0.
    seed : of the draw.
    remedy : what the importer's user can do where there are too few stimuli.

    Returns
    -------
    (N,) array of "train", "val", "test".

    Raises
    ------
    ValueError
        Where a fraction is negative, or nothing is left for training.
    """
    stimuli = list(dict.fromkeys(np.asarray(stimulus_id).tolist()))
    if val_fraction < 0 or test_fraction < 0:
        raise ValueError(f"val_fraction {val_fraction} and test_fraction {test_fraction} must not be negative")
    n_val, n_test = (max(1, round(f * len(stimuli))) if f > 0 else 0 for f in (val_fraction, test_fraction))
    if n_val + n_test >= len(stimuli):
        raise ValueError(
            f"{len(stimuli)} distinct stimuli cannot give {n_val} to val, {n_test} to test and some to train; {remedy}"
        )
    order = np.random.default_rng(seed).permutation(len(stimuli))
    of = dict.fromkeys(stimuli, "train")
    of |= {stimuli[i]: "val" for i in order[:n_val]} | {stimuli[i]: "test" for i in order[n_val : n_val + n_test]}
    return np.array([of[s] for s in np.asarray(stimulus_id).tolist()])
