"""The recording file: one HDF5 file a recording. Writer, validator, reader; docs/design.md lists its fields.

Shape letters: T bins (= frames), H W pixels, C channels, U units, D behaviour numbers, N trials.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast
from weakref import WeakValueDictionary

import h5py
import numpy as np
from einops import rearrange

from vivit_core.data.given import MISSING_ID, UNNAMED, check_arrays
from vivit_core.data.guard import Guard, stored_bytes
from vivit_core.data.hdf5 import held_elsewhere, open_hdf5
from vivit_core.data.partial import Sliceable, pieces, write_in_pieces
from vivit_core.data.seal import difference, seal, seal_holds
from vivit_core.files import known_whole, remember_whole, state_of
from vivit_core.names import LONGEST, problem_of, short
from vivit_core.specs import RecordingError

log = logging.getLogger(__name__)

FORMAT = "vivit-core recording"
FORMAT_VERSION = 1
SPLITS = ("train", "val", "test")
KINDS = ("spikes", "calcium")

_COPY_BYTES = 1 << 24  # what the writer and the validator hold of one array at a time
# What no recording has, and a damaged or hostile file may claim.
_MOST_BYTES = 1 << 30  # of an array, and of all together, beside
_INFLATION = 1032  # times what is stored of it, which is the most that deflate can compress
_MOST_HOLES = 100  # times the bytes that a file takes on the disk is its size; file systems that compress stay below
_HOLES_BYTES = 1 << 26  # size from which on holes are looked for
_MOST_ROW_BYTES = 1 << 28  # one frame, or all units' numbers of one bin
_MOST_CHUNK_BYTES = 1 << 30  # HDF5 reads whole chunks
_MOST_TABLE_BYTES = 1 << 28  # trials/…, units/… and truth/… but its rate
_MOST_TRIALS = 1 << 20
_MOST_NAMES = 10_000  # of behaviours, of columns of units, of truths
_MOST_ATTRIBUTE_BYTES = 1 << 16
Verify = Literal["known", "always"]  # which files are read to their end before use: those not known yet, or all
_TEXT_ATTRS = ("recording_id", "subject", "area", "species", "source", "licence")


def _strings(values: Any) -> np.ndarray:
    """A flat array of str from str, bytes or numbers."""
    return np.array([_text(v) for v in np.asarray(values).tolist()], dtype=str)


@dataclass(frozen=True, eq=False)
class Trials:
    """The trials of a recording, in the order of time.

    Parameters
    ----------
    start, stop : (N,) int64
        Half open ranges of frames, sorted, disjoint and not empty.
    stimulus_id : (N,) str
        Trials with equal ids showed the same stimulus (repeats). Numbers are kept as text. A trial whose id is missing
        (empty, or what programs write for that: ``MISSING_ID``) showed a stimulus of its own, which is named after its
        first frame.
    split : (N,) str
        "train", "val" or "test".

    Raises
    ------
    ValueError
        Where a trial breaks one of these rules; names the row.
    """

    start: np.ndarray
    stop: np.ndarray
    stimulus_id: np.ndarray
    split: np.ndarray

    def __post_init__(self) -> None:
        for name in ("start", "stop"):
            given = np.asarray(getattr(self, name))
            if given.size and given.dtype.kind not in "iu":
                raise ValueError(f"trials/{name}: frame numbers are integers, not {given.dtype}")
            object.__setattr__(self, name, given.astype(np.int64))
        for name in ("stimulus_id", "split"):
            object.__setattr__(self, name, _strings(getattr(self, name)))
        if self.stimulus_id.shape == self.start.shape:
            named = [
                f"{UNNAMED}first frame {start}" if stimulus.strip() in MISSING_ID else stimulus
                for start, stimulus in zip(self.start.tolist(), self.stimulus_id.tolist(), strict=True)
            ]
            object.__setattr__(self, "stimulus_id", np.array(named, dtype=str))
        shapes = {name: getattr(self, name).shape for name in ("start", "stop", "stimulus_id", "split")}
        if len(set(shapes.values())) > 1 or len(self.start.shape) != 1:
            raise ValueError(f"trials: one number a trial in each field; the shapes are {shapes}")
        for row, (start, stop, split) in enumerate(zip(self.start, self.stop, self.split, strict=True)):
            if start < 0 or stop <= start:
                raise ValueError(
                    f"trials/stop: row {row} is the range {start}:{stop}; "
                    "a trial starts at 0 or later and ends after its start"
                )
            if row and start < self.stop[row - 1]:
                raise ValueError(
                    f"trials/start: row {row} starts at {start}, before row {row - 1} ends ({self.stop[row - 1]}); "
                    "sort the trials by start and let none overlap"
                )
            if split not in SPLITS:
                raise ValueError(f"trials/split: row {row} says {str(split)!r}; write one of {', '.join(SPLITS)}")

    def __len__(self) -> int:
        return len(self.start)

    @property
    def n_bins(self) -> int:
        return int((self.stop - self.start).sum())

    @property
    def unnamed(self) -> int:
        """Trials whose stimulus has no id in the source."""
        return sum(stimulus.startswith(UNNAMED) for stimulus in self.stimulus_id.tolist())

    def by_stimulus(self) -> dict[str, list[int]]:
        """The rows of each stimulus' trials, in the order of time: those of one are repeats of each other."""
        rows: dict[str, list[int]] = {}
        for row, stimulus in enumerate(self.stimulus_id.tolist()):
            rows.setdefault(stimulus, []).append(row)
        return rows

    def of(self, split: str) -> Trials:
        """The trials of one split."""
        rows = self.split == split
        return Trials(self.start[rows], self.stop[rows], self.stimulus_id[rows], self.split[rows])


@dataclass(frozen=True, eq=False)
class RecordingInfo:
    """What a recording file says of itself, without its large arrays."""

    path: Path
    recording_id: str
    frame_rate_hz: float
    n_frames: int
    frame_shape: tuple[int, int, int]  # C, H, W
    frame_dtype: str  # "uint8" or "float32"
    unit_ids: tuple[str, ...]
    behavior: dict[str, int]  # name -> width
    behavior_causal: dict[str, bool]  # name -> false where its basis looks ahead
    kind: Literal["spikes", "calcium"]
    trials: Trials
    has_truth: bool  # truth/rate is there: a simulated recording
    degrees_per_pixel: float | None
    subject: str
    area: str
    species: str
    source: str
    licence: str

    @property
    def n_units(self) -> int:
        return len(self.unit_ids)


# --- writing ---------------------------------------------------------------------------------------------------------


def write_recording(
    path: str | Path,
    *,
    recording_id: str,
    frame_rate_hz: float,
    frames: Sliceable,
    counts: Sliceable,
    trials: Trials,
    valid: Sliceable | None = None,
    behavior: Mapping[str, Sliceable] | None = None,
    behavior_units: Mapping[str, str] | None = None,
    behavior_names: Mapping[str, Sequence[str]] | None = None,
    behavior_causal: Mapping[str, bool] | None = None,
    units: Mapping[str, Any] | None = None,
    truth: Mapping[str, Sliceable] | None = None,
    kind: Literal["spikes", "calcium"] = "spikes",
    subject: str = "",
    area: str = "",
    species: str = "",
    source: str = "",
    licence: str = "",
    degrees_per_pixel: float | None = None,
    import_key: str | None = None,
    progress: str | None = None,
) -> Path:
    """Write a recording file, whole or not at all.

    The file is written beside ``path`` under a temporary name, read back and compared, validated, synced to disk and
    renamed. Large arrays may be anything that can be sliced along time; they are copied in pieces.

    Parameters
    ----------
    path : where to write; an existing file is replaced.
    recording_id : name of the recording, unique among those trained together.
    frame_rate_hz : frames, and bins, a second.
    frames : (T, H, W) or (T, H, W, C); uint8, or a float type that is stored as float32.
    counts : (T, U); spikes a bin (or a non-negative calcium signal, see ``kind``). Integers keep their type.
    trials : the trials, sorted by time.
    valid : (T, U) or (T, 1) bool, or 1 and 0; false where a bin of a unit must not be used; None for all valid.
    behavior : name -> (T,) or (T, D) numbers.
    behavior_units, behavior_names, behavior_causal : by the behaviour's name: its unit, its columns' names, and false
        where it was made with a basis that looks ahead in time.
    units : name -> (U, ...); must hold ``id`` (unique). None names the units "0", "1", ….
    truth : only for simulated recordings: ``rate`` (T, U), expected counts a bin; anything else has one row a unit.
    kind : what ``counts`` holds.
    subject, area, species, source, licence : free text.
    degrees_per_pixel : visual angle of a pixel.
    import_key : identifies the source and how it is read; kept in the file. A process that was killed leaves its
        partial file, and a later write under the same key goes on where it stopped. None always starts anew.
    progress : what a progress bar says; None shows none.

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    RecordingError
        Where the result would not be a valid recording (see :func:`validate_recording`).
    """
    path = Path(path)
    behavior = behavior or {}
    for option, given in (("units", behavior_units), ("names", behavior_names), ("causal", behavior_causal)):
        unknown = sorted(set(given or {}) - set(behavior))
        if unknown:
            raise ValueError(f"behavior_{option} names {unknown}, but the behaviours are {sorted(behavior)}")
    _check_id(path, recording_id)
    for name in behavior:
        _check_names(path, "behavior", [name])
        if "/" in name or name in (".", ".."):
            raise RecordingError(path, "behavior", f"the name {name!r} is a path to HDF5", "Write it without a slash")
    _check_names(path, "units/id", np.asarray([] if units is None or "id" not in units else units["id"]).tolist())
    _check_names(path, "trials/stimulus_id", [s or "none" for s in trials.stimulus_id.tolist()], longest=None)
    for field, text in {
        "subject": subject,
        "area": area,
        "species": species,
        "source": source,
        "licence": licence,
    }.items():
        _check_free_text(path, f"attribute {field}", text)
    if units is None:
        units = {"id": [str(u) for u in range(counts.shape[1] if len(counts.shape) == 2 else 0)]}
    check_arrays(path, frames, counts, behavior, units, valid)
    attrs: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "recording_id": recording_id,
        "frame_rate_hz": float(frame_rate_hz),
        "subject": subject,
        "area": area,
        "species": species,
        "source": source,
        "licence": licence,
    }
    if degrees_per_pixel is not None:
        attrs["degrees_per_pixel"] = float(degrees_per_pixel)

    if import_key is not None:
        attrs["import_key"] = import_key

    columns = {
        name: values if len(values.shape) == 2 else np.asarray(values)[:, None] for name, values in behavior.items()
    }
    float32 = np.dtype(np.float32)
    large: dict[str, tuple[Sliceable, np.dtype]] = {
        "stimulus/frames": (frames, _stored_dtype(np.dtype(frames.dtype))),
        "responses/counts": (counts, _stored_dtype(np.dtype(counts.dtype))),
    }
    marks = np.ones((frames.shape[0], 1), bool) if valid is None else valid
    large["responses/valid"] = (marks, np.dtype(bool))
    large |= {f"behavior/{name}": (values, float32) for name, values in columns.items()}
    if truth is not None and "rate" in truth:
        large["truth/rate"] = (truth["rate"], float32)

    def layout(file: h5py.File) -> None:
        file.attrs.update(attrs)
        file["responses/counts"].attrs["kind"] = kind
        for name, values in columns.items():
            file[f"behavior/{name}"].attrs.update(
                unit=(behavior_units or {}).get(name, ""),
                names=list((behavior_names or {}).get(name, [f"{name}_{d}" for d in range(values.shape[1])])),
                causal=(behavior_causal or {}).get(name, True),
            )
        for name in ("start", "stop", "stimulus_id", "split"):
            _small(file, f"trials/{name}", getattr(trials, name))
        for name, values in units.items():
            _small(file, f"units/{name}", values)
        for name, values in (truth or {}).items():
            if name != "rate":
                _small(file, f"truth/{name}", values)

    def check(written: Path) -> None:
        try:
            _examine(written, whole=True)
            seal(written)
        except RecordingError as error:
            raise RecordingError(path, error.field, error.problem, error.remedy) from None

    write_in_pieces(path, layout, large, check, piece_bytes=_COPY_BYTES, key=import_key, progress=progress)
    remember_whole(path)  # it was read back to its end
    return path


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Floats of any width are stored as float32; other types as they are, for the validator to judge."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def _small(file: h5py.File, name: str, values: Any) -> None:
    array = np.asarray(values)
    if array.dtype.kind in "USO":
        file.create_dataset(name, data=_strings(array).astype(object), dtype=h5py.string_dtype())
    else:
        file.create_dataset(name, data=array)


# --- checking --------------------------------------------------------------------------------------------------------


@contextmanager
def _open(path: Path) -> Iterator[h5py.File]:
    """Open for reading; whatever HDF5 says of a broken file becomes a RecordingError."""
    if not path.is_file():
        raise RecordingError(path, "file", "there is no such file", "Check the path")
    try:
        with open_hdf5(path) as file:
            yield file
    except RecordingError:
        raise
    # What h5py raises where the inside of a file is damaged.
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError, MemoryError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> RecordingError:
    if not path.is_file():
        return RecordingError(path, "file", "it is gone", "Put it back, and continue with resume=auto")
    if isinstance(error, PermissionError):
        return RecordingError(path, "file", "you may not read it", "Ask its owner for the right to read it")
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return RecordingError(
            path, "file", f"too many files are open ({error})", "Allow more (`ulimit -n 1024`), and start again"
        )
    if (held := held_elsewhere(path, error)) is not None:
        return held
    if not h5py.is_hdf5(path):
        return RecordingError(
            path,
            "file",
            "this is not an HDF5 file",
            "Import your data with `python run.py task=import importer=arrays …`",
        )
    return RecordingError(
        path, "file", f"truncated or damaged ({error})", "Copy or import it again; a whole file can be read to its end"
    )


def _dataset(file: h5py.File, path: Path, name: str, ndim: tuple[int, ...], kinds: str, what: str) -> h5py.Dataset:
    """The dataset ``name``, checked for being inside this file, its rank and its type."""
    parts = name.split("/")
    for depth in range(1, len(parts) + 1):
        part = "/".join(parts[:depth])
        link = file.get(part, getlink=True)
        if link is None:
            raise RecordingError(path, name, "missing", f"Write it: {what}")
        if not isinstance(link, h5py.HardLink):
            raise RecordingError(
                path, part, "is a link to somewhere else", "Store the data in this file itself; links are not followed"
            )
    dataset = file[name]
    if not isinstance(dataset, h5py.Dataset):
        raise RecordingError(path, name, "is a group", f"Write a dataset there: {what}")
    if dataset.external or dataset.is_virtual:
        raise RecordingError(path, name, "its data lie in another file", "Store the data in this file itself")
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    kind = "s" if is_text else dataset.dtype.kind
    if len(dataset.shape or ()) not in ndim or dataset.shape is None:
        raise RecordingError(path, name, f"has shape {dataset.shape}", f"Write {what}")
    if kind not in kinds:
        raise RecordingError(path, name, f"has type {dataset.dtype}", f"Write {what}")
    _check_size(path, name, dataset)
    return dataset


def _check_size(path: Path, name: str, dataset: h5py.Dataset) -> None:
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
    if dataset.chunks is not None and (chunk := int(np.prod(dataset.chunks, dtype=object)) * item) > _MOST_CHUNK_BYTES:
        raise RecordingError(
            path, name, f"is stored in chunks of {chunk:.3g} bytes", "Write it in chunks of about a megabyte"
        )
    along_time = name in ("stimulus/frames", "responses/counts", "responses/valid", "truth/rate") or name.startswith(
        "behavior/"
    )
    if not along_time:
        if size > _MOST_TABLE_BYTES:
            raise claims("a table", size, _MOST_TABLE_BYTES)
        if name.startswith("trials/") and dataset.shape[0] > _MOST_TRIALS:
            raise RecordingError(
                path, name, f"claims {dataset.shape[0]} trials; at most {_MOST_TRIALS} are read", "Write longer trials"
            )
        return
    row = int(np.prod(dataset.shape[1:], dtype=object)) * item
    if row > _MOST_ROW_BYTES:
        raise claims("a bin", row, _MOST_ROW_BYTES)
    most = _MOST_BYTES + _INFLATION * min(dataset.id.get_storage_size(), stored_bytes(path))
    if size > most:
        raise claims("content", size, most)


def _check_sizes(path: Path, datasets: Sequence[h5py.Dataset]) -> None:
    """:func:`_check_size` for all datasets together: many small claims make a large one."""
    size = sum(int(np.prod(d.shape, dtype=object)) * max(1, d.dtype.itemsize) for d in datasets)
    stored, on_disk = sum(d.id.get_storage_size() for d in datasets), stored_bytes(path)
    remedy = "Copy or import it again; a file that claims so much is damaged"
    if stored > path.stat().st_size:
        raise RecordingError(
            path, "file", f"claims that {stored:.3g} bytes are stored in its {path.stat().st_size:.3g}", remedy
        )
    most = _MOST_BYTES + _INFLATION * min(stored, on_disk)
    if size > most:
        raise RecordingError(path, "file", f"claims {size:.3g} bytes in all; at most {most:.3g} are read", remedy)


def check_holes(path: Path) -> None:
    """Refuse a file that is little more than holes, which cost its maker nothing and a reader hours."""
    size, on_disk = path.stat().st_size, stored_bytes(path)
    if size > _HOLES_BYTES and size > _MOST_HOLES * on_disk:
        raise RecordingError(
            path,
            "file",
            f"truncated or damaged: of its {size:.3g} bytes only {on_disk:.3g} are on the disk",
            "Copy or import it again; a copy that was cut short leaves such holes",
        )


def _length(path: Path, name: str, n: int, expected: int, of: str) -> None:
    if n != expected:
        raise RecordingError(path, name, f"has {n} rows, but {of} has {expected}", "Give both the same length")


def _group_names(file: h5py.File, path: Path, name: str) -> list[str]:
    link = file.get(name, getlink=True)
    if link is None:
        return []
    if not isinstance(link, h5py.HardLink):
        raise RecordingError(
            path, name, "is a link to somewhere else", "Store the data in this file itself; links are not followed"
        )
    group = file[name]
    if not isinstance(group, h5py.Group):
        raise RecordingError(path, name, "is a dataset", "Make it a group with one dataset for each name")
    if len(group) > _MOST_NAMES:
        raise RecordingError(
            path, name, f"claims {len(group)} names; at most {_MOST_NAMES} are read", "Join some into one, as columns"
        )
    names = list(group)
    _check_names(path, name, names)
    return [str(member) for member in names]


def _attribute(path: Path, item: h5py.File | h5py.Dataset, name: str, default: Any = None) -> Any:
    """The value of an attribute, which is never large."""
    if name not in item.attrs:
        return default
    value = None
    if item.attrs.get_id(name).get_storage_size() <= _MOST_ATTRIBUTE_BYTES:
        value = item.attrs[name]
        words = value.ravel().tolist() if isinstance(value, np.ndarray) and value.dtype.kind == "O" else [value]
        if sum(len(word) for word in words if isinstance(word, str | bytes)) > _MOST_ATTRIBUTE_BYTES:
            value = None
    if value is None:
        raise RecordingError(
            path,
            f"attribute {name}" if isinstance(item, h5py.File) else f"{item.name.lstrip('/')} attribute {name}",
            f"is larger than {_MOST_ATTRIBUTE_BYTES} bytes",
            "Write a short one",
        )
    return value


def _table(path: Path, dataset: h5py.Dataset) -> np.ndarray:
    """A whole small dataset; texts of any length, which claim nothing of their size, are read in pieces."""
    if h5py.check_string_dtype(dataset.dtype) is None or dataset.ndim != 1:
        return dataset[()]
    words: list[Any] = []
    longest = 0
    for start in range(0, len(dataset), 256):
        words += dataset[start : start + 256].tolist()
        longest = max(longest, *(len(word) for word in words[start:]))
        if 4 * longest * len(words) > _MOST_TABLE_BYTES:  # an array of str gives each the place of the longest
            raise RecordingError(
                path,
                dataset.name.lstrip("/"),
                f"holds a text of {longest} characters",
                "Write short texts; a file that holds such long ones is damaged",
            )
    return np.array(words, dtype=object)


def _text(value: Any) -> str:
    """As h5py reads text: what is not UTF-8 becomes surrogates, for :func:`_check_names` to find."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _check_id(path: Path, recording_id: Any) -> None:
    _check_names(path, "attribute recording_id", [recording_id], how="; importer.recording_id=… chooses another")


def _check_names(path: Path, field: str, names: Sequence[Any], *, longest: int | None = LONGEST, how: str = "") -> None:
    """Refuse names that could not be shown or used as one word; numbers may stand for names."""
    for row, name in enumerate(map(_text, names)):
        if (problem := problem_of(name, longest)) is not None:
            raise RecordingError(
                path,
                field,
                (f"row {row}, '{short(name)}', " if len(names) > 1 else f"'{short(name)}' ") + problem,
                f"Write it in UTF-8, in one line of at most {LONGEST} characters, without control characters{how}",
            )


def _check_free_text(path: Path, field: str, text: str) -> None:
    """Refuse what HDF5 cannot keep as text."""
    if "\0" in text or any("\ud800" <= c <= "\udfff" for c in text):
        raise RecordingError(path, field, f"'{short(text)}' has a NUL, or is not UTF-8", "Write it in UTF-8")


def _describe(file: h5py.File, path: Path) -> RecordingInfo:
    """Check everything but the values of the large arrays, and say what the file holds."""
    said = _text(_attribute(path, file, "format", "nothing"))
    if said != FORMAT:
        raise RecordingError(
            path,
            "attribute format",
            f"this HDF5 file is not a recording: it says {said!r}, not {FORMAT!r}",
            "Import it with `python run.py task=import …`",
        )
    version = _attribute(path, file, "format_version")
    if version is None or not np.isscalar(version) or _text(version) != str(FORMAT_VERSION):
        raise RecordingError(
            path,
            "attribute format_version",
            f"is {version}, and this vivit-core reads version {FORMAT_VERSION}",
            "Import the recording again, or use the vivit-core that wrote it",
        )
    recording_id = _text(_attribute(path, file, "recording_id", ""))
    if not recording_id:
        raise RecordingError(path, "attribute recording_id", "missing or empty", "Give the recording a name")
    _check_id(path, recording_id)
    frame_rate_hz = _positive(file, path, "frame_rate_hz")
    degrees_per_pixel = _positive(file, path, "degrees_per_pixel") if "degrees_per_pixel" in file.attrs else None

    frames = _dataset(file, path, "stimulus/frames", (3, 4), "uf", "(T, H, W) or (T, H, W, C) uint8 or float32")
    if frames.dtype not in (np.uint8, np.float32):
        raise RecordingError(path, "stimulus/frames", f"has type {frames.dtype}", "Store uint8 or float32")
    if 0 in frames.shape:
        raise RecordingError(path, "stimulus/frames", f"is empty: shape {frames.shape}", "Store at least one frame")
    n_frames, height, width = frames.shape[:3]
    channels = frames.shape[3] if len(frames.shape) == 4 else 1

    counts = _dataset(file, path, "responses/counts", (2,), "iuf", "(T, U) numbers")
    _length(path, "responses/counts", counts.shape[0], n_frames, "stimulus/frames")
    n_units = counts.shape[1]
    if n_units == 0:
        raise RecordingError(path, "responses/counts", "has no units", "A recording has at least one unit")
    kind = _text(_attribute(path, counts, "kind", ""))
    if kind not in KINDS:
        raise RecordingError(
            path, "responses/counts attribute kind", f"is {kind!r}", f"Write one of {', '.join(KINDS)}"
        )
    valid = _dataset(file, path, "responses/valid", (2,), "b", "(T, U) or (T, 1) bool")
    _length(path, "responses/valid", valid.shape[0], n_frames, "stimulus/frames")
    if valid.shape[1] not in (1, n_units):
        raise RecordingError(
            path,
            "responses/valid",
            f"has {valid.shape[1]} columns for {n_units} units",
            "Give one column, or one a unit",
        )

    behavior, causal = {}, {}
    for name in _group_names(file, path, "behavior"):
        field = f"behavior/{name}"
        dataset = _dataset(file, path, field, (2,), "f", "(T, D) float32")
        _length(path, field, dataset.shape[0], n_frames, "stimulus/frames")
        behavior[name] = int(dataset.shape[1])
        causal[name] = bool(_attribute(path, dataset, "causal", True))

    for name, kinds in (("start", "iu"), ("stop", "iu"), ("stimulus_id", "siu"), ("split", "s")):
        _dataset(
            file, path, f"trials/{name}", (1,), kinds, "one value a trial: integers for start and stop, text for split"
        )
    try:
        trials = Trials(*(_table(path, file[f"trials/{name}"]) for name in ("start", "stop", "stimulus_id", "split")))
    except ValueError as error:
        field, _, problem = str(error).partition(": ")
        raise RecordingError(path, field, problem, "Write the trials again") from None
    _check_names(path, "trials/stimulus_id", [s or "none" for s in trials.stimulus_id.tolist()], longest=None)
    if not len(trials):
        raise RecordingError(path, "trials", "there are none", "Write at least one trial")
    if trials.stop[-1] > n_frames:
        row = int(np.argmax(trials.stop > n_frames))
        raise RecordingError(
            path,
            "trials/stop",
            f"row {row} ends at frame {trials.stop[row]} of {n_frames}",
            "End every trial inside the recording",
        )

    _dataset(file, path, "units/id", (1,), "siu", "one id a unit")
    unit_ids = _strings(_table(path, file["units/id"]))
    _check_names(path, "units/id", unit_ids.tolist())
    names, repeats = np.unique(unit_ids, return_counts=True)
    if (repeats > 1).any():
        twice = names[repeats > 1][0]
        rows = np.flatnonzero(unit_ids == twice)[:2].tolist()
        raise RecordingError(
            path, "units/id", f"rows {rows[0]} and {rows[1]} are both {str(twice)!r}", "Give each unit its own id"
        )
    for name in _group_names(file, path, "units"):
        dataset = _dataset(file, path, f"units/{name}", (1, 2, 3), "siufb", "one row a unit")
        _length(path, f"units/{name}", dataset.shape[0], n_units, "responses/counts' second axis")
    for name in _group_names(file, path, "truth"):
        if name == "rate":
            rate = _dataset(file, path, "truth/rate", (2,), "f", "(T, U) float32, expected counts a bin")
            if rate.shape != counts.shape:
                raise RecordingError(
                    path,
                    "truth/rate",
                    f"has shape {rate.shape}, not {counts.shape}",
                    "Give it the shape of responses/counts",
                )
        else:
            dataset = _dataset(file, path, f"truth/{name}", (1, 2, 3), "siufb", "one row a unit")
            _length(path, f"truth/{name}", dataset.shape[0], n_units, "responses/counts' second axis")

    _check_sizes(path, [file[name] for name in _names(file)])
    return RecordingInfo(
        path=path,
        frame_rate_hz=frame_rate_hz,
        n_frames=int(n_frames),
        frame_shape=(int(channels), int(height), int(width)),
        frame_dtype=str(frames.dtype),
        unit_ids=tuple(str(u) for u in unit_ids),
        behavior=behavior,
        behavior_causal=causal,
        kind=cast(Literal["spikes", "calcium"], kind),
        trials=trials,
        has_truth="truth/rate" in file,
        degrees_per_pixel=degrees_per_pixel,
        **{name: _text(_attribute(path, file, name, "")) for name in _TEXT_ATTRS},
    )


def _names(file: h5py.File) -> list[str]:
    """The datasets of a recording whose structure is checked."""
    named = ["stimulus/frames", "responses/counts", "responses/valid"]
    named += [f"trials/{name}" for name in ("start", "stop", "stimulus_id", "split")]
    return named + [
        f"{group}/{name}" for group in ("behavior", "units", "truth") if group in file for name in file[group]
    ]


def _positive(file: h5py.File, path: Path, name: str) -> float:
    value = _attribute(path, file, name)
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not (np.isfinite(number) and number > 0):
        raise RecordingError(path, f"attribute {name}", f"is {value}", "Write a positive number")
    return number


def _check_values(
    path: Path, file: h5py.File, name: str, non_negative: bool, remedy: str, may_miss: bool = False
) -> None:
    """Stream through a (T, ...) array and name the first row with a bad number; ``may_miss``: NaN is a missing one."""
    dataset = file[name]
    if dataset.dtype.kind == "u":
        return
    bad = np.isinf if may_miss else lambda values: ~np.isfinite(values)
    for start, piece in _streamed(dataset):
        if piece.dtype.kind == "f" and bad(piece).any():
            where = np.argwhere(bad(piece))[0]
            raise RecordingError(
                path, name, f"row {start + where[0]}, index {where[1:].tolist()} is {piece[tuple(where)]}", remedy
            )
        if non_negative and piece.size and piece.min() < 0:
            where = np.argwhere(piece < 0)[0]
            raise RecordingError(
                path, name, f"row {start + where[0]}, unit {where[1]} is negative ({piece[tuple(where)]})", remedy
            )


def _streamed(dataset: h5py.Dataset) -> Iterator[tuple[int, np.ndarray]]:
    """A (T, ...) array in pieces of whole chunks, so that none is inflated twice: first row and values of each."""
    row_bytes = max(1, int(np.prod(dataset.shape[1:])) * dataset.dtype.itemsize)
    rows = max(1, _COPY_BYTES // row_bytes)
    if dataset.chunks is not None and dataset.chunks[0] * row_bytes <= _MOST_CHUNK_BYTES:
        rows = max(dataset.chunks[0], rows // dataset.chunks[0] * dataset.chunks[0])
    for start, stop in pieces(dataset.shape[0], row_bytes, rows * row_bytes):
        yield start, dataset[start:stop]


def _examine(path: Path, whole: bool) -> RecordingInfo:
    """Check structure, counts and behaviour; with ``whole`` also each frame, and read whatever a task could read."""
    with _open(path) as file:
        info = _describe(file, path)
        _check_values(
            path,
            file,
            "responses/counts",
            True,
            "Store finite numbers ≥ 0; put 0 and mark the bin in responses/valid where nothing was measured",
        )
        for name in info.behavior:
            _check_values(
                path,
                file,
                f"behavior/{name}",
                False,
                "Store finite numbers, and NaN where a value is missing: a twin then sees the mean",
                may_miss=True,
            )
        if info.has_truth:
            _check_values(path, file, "truth/rate", True, "Store finite rates ≥ 0")
        if whole:
            _check_values(path, file, "stimulus/frames", False, "Store finite pixel values")
            for name in _names(file):
                dataset = file[name]
                if dataset.dtype.kind in "ub" and dataset.ndim > 1:
                    for _ in _streamed(dataset):  # that every chunk can be read
                        pass
                elif name.startswith(("units/", "truth/")) and name != "truth/rate":
                    _table(path, dataset)
                for attribute in dataset.attrs:
                    _attribute(path, dataset, attribute)
            _attribute(path, file, "import_key")
    return info


def examine(path: str) -> None:
    """What :class:`guard.Guard` calls: read a file to its end."""
    _examine(Path(path), whole=True)


def validate_recording(path: str | Path) -> RecordingInfo:
    """Check a recording file: its checksum, its structure, and every number in it. Memory use does not depend on its
    size, and a file that is damaged or made to do harm meets HDF5 in a process of its own (:mod:`guard`).

    Raises
    ------
    RecordingError
        The first thing that is wrong: file, field, row, and what to do about it.
    """
    return check_recording(path, verify="always")


def check_recordings(
    paths: Sequence[str | Path], *, verify: Verify = "known"
) -> tuple[list[RecordingInfo], list[RecordingError]]:
    """:func:`check_recording` for many files: what the good ones hold, and what is wrong with the others."""
    infos, problems = [], []
    with Guard() as guard:
        for path in paths:
            try:
                infos.append(_checked(Path(path), guard, verify))
            except RecordingError as error:
                problems.append(error)
    return infos, problems


def check_recording(path: str | Path, *, verify: Verify = "known") -> RecordingInfo:
    """:func:`validate_recording` for the start of a training: a file is read to its end the first time that it is seen,
    and again after it has changed; otherwise its structure, counts and behaviour are checked.

    Parameters
    ----------
    path : the file.
    verify : "always" reads it to its end each time: damage of the disk changes neither size nor time of a file.

    Raises
    ------
    RecordingError
        As :func:`validate_recording`.
    """
    with Guard() as guard:
        return _checked(Path(path), guard, verify)


def _checked(path: Path, guard: Guard, verify: Verify) -> RecordingInfo:
    if not path.is_file():
        raise RecordingError(path, "file", "there is no such file", "Check the path")
    if verify == "known" and known_whole(path):
        return _examine(path, whole=False)
    try:
        before = state_of(path)
        check_holes(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    sealed = seal_holds(path)
    try:
        guard.run(path, "vivit_core.data.recording:examine", {"path": str(path)})
    except RecordingError as error:
        if sealed is not False or error.field not in ("file", "attribute format"):
            raise
    if sealed is False:
        raise RecordingError(
            path,
            "file",
            difference(path),
            "Copy or import it again; if you changed it yourself, call vivit_core.data.recording.seal(path)",
        )
    if not path.is_file() or state_of(path) != before:
        raise RecordingError(path, "file", "it changed while it was read", "Start again when nothing writes to it")
    remember_whole(path)
    with _open(path) as file:
        return _describe(file, path)


# --- reading ---------------------------------------------------------------------------------------------------------


# The recordings whose files this process has open, the one that was read last at the end.
_open_now: WeakValueDictionary[int, Recording] = WeakValueDictionary()


def _most_open() -> int:
    """Files that are kept open: each takes one of those that a process may open, and megabytes of cache."""
    allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 128 if allowed == resource.RLIM_INFINITY else max(4, min(128, allowed // 4))


def _close_all_but(most: int) -> None:
    """Close the files that were not read for longest."""
    open_now = list(_open_now.values())
    for recording in open_now[: max(0, len(open_now) - most)]:
        recording.close()


class Recording:
    """A recording file, opened when first read, once in each process. Can be pickled and forked. Of many, those
    that were not read for longest are closed, so that no limit of open files is met.

    Parameters
    ----------
    path : the file.
    recording_id : the name under which it is used; None for its own.
    unit_ids : its units in the order in which they are wanted (a permutation of the file's); None for the file's order.

    Raises
    ------
    RecordingError
        Where the file is not a recording, or ``unit_ids`` are not its units.
    """

    def __init__(
        self, path: str | Path, recording_id: str | None = None, unit_ids: Sequence[str] | None = None
    ) -> None:
        self.path = Path(path)
        if not known_whole(self.path):
            check_recording(self.path)
        with _open(self.path) as file:
            info = _describe(file, self.path)
        self._state = state_of(self.path)
        self._order: np.ndarray | None = None  # the file's column of each unit, where it differs from the file's order
        if unit_ids is not None and tuple(unit_ids) != info.unit_ids:
            missing = sorted(set(unit_ids) - set(info.unit_ids))
            extra = sorted(set(info.unit_ids) - set(unit_ids))
            if missing or extra or len(unit_ids) != info.n_units:
                raise RecordingError(
                    self.path,
                    "units/id",
                    f"other units than expected: missing {_few(missing)}, not expected {_few(extra)}",
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
                raise _unreadable(self.path, error) from error
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

    def _slice(self, name: str, start: int, stop: int) -> np.ndarray:
        file = self._opened()
        try:
            if name not in self._datasets:
                self._datasets[name] = file[name]
            return self._datasets[name][start:stop]
        except (OSError, KeyError, RuntimeError, ValueError) as error:
            raise RecordingError(
                self.path, name, f"frames {start}:{stop} cannot be read ({error})", "Copy or import the file again"
            ) from error

    def _units(self, values: np.ndarray, axis: int) -> np.ndarray:
        return values if self._order is None else np.take(values, self._order, axis)

    def read(self, start: int, stop: int, behavior: Mapping[str, int]) -> dict[str, np.ndarray]:
        """Read bins start … stop-1.

        Parameters
        ----------
        start, stop : half open range of frames inside the recording.
        behavior : name -> width of the behaviours wanted, in the order of their columns. One that the recording lacks
            is filled with zeros.

        Returns
        -------
        dict
            ``frames`` (C, T, H, W) as stored, ``counts`` (T, U) float32, ``valid`` (T, U) bool,
            ``behavior`` (T, D) float32.

        Raises
        ------
        ValueError
            Where the range leaves the recording, or a behaviour has another width.
        RecordingError
            Where the file cannot be read there, or a frame holds NaN.
        """
        if not 0 <= start <= stop <= self.info.n_frames:
            raise ValueError(f"{self.path}: frames {start}:{stop} are not inside 0:{self.info.n_frames}")
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
        if valid.shape[1] == self.info.n_units:
            return self._units(valid, 1)
        return np.repeat(valid, self.info.n_units, axis=1)

    def behavior(self, start: int, stop: int, behavior: Mapping[str, int]) -> np.ndarray:
        """(T, D) float32, the behaviours side by side."""
        columns = [np.zeros((stop - start, 0), np.float32)]
        for name, width in behavior.items():
            if name not in self.info.behavior:
                if name not in self._told:
                    self._told.add(name)
                    log.warning("%s has no behaviour %r: zeros stand in for its %d numbers", self.path, name, width)
                columns.append(np.zeros((stop - start, width), np.float32))
                continue
            if self.info.behavior[name] != width:
                raise ValueError(
                    f"{self.path}: behaviour {name!r} has {self.info.behavior[name]} numbers, and {width} are expected"
                )
            columns.append(self._slice(f"behavior/{name}", start, stop).astype(np.float32, copy=False))
        return np.concatenate(columns, axis=1)

    @property
    def truths(self) -> list[str]:
        """Names for ``truth``; none where the recording was not simulated."""
        file = self._opened()
        return sorted(file["truth"]) if "truth" in file else []

    def truth(self, name: str = "rate", start: int = 0, stop: int | None = None) -> np.ndarray:
        """What the simulator knows: ``rate`` (T, U) over start … stop-1, any other name (U, ...).

        Raises
        ------
        ValueError
            Where the recording has no such truth.
        """
        file = self._opened()
        if name not in self.truths:
            known = self.truths or "nothing: it was not simulated"
            raise ValueError(f"{self.path}: no truth/{name}; it knows {known}")
        if name == "rate":
            return self._units(self._slice("truth/rate", start, self.info.n_frames if stop is None else stop), 1)
        values = file[f"truth/{name}"][()]
        return self._units(_strings(values) if values.dtype.kind in "OS" else values, 0)


def _few(names: Sequence[str], most: int = 8) -> str:
    return ("none" if not names else ", ".join(names[:most])) + (
        f" … ({len(names)} in all)" if len(names) > most else ""
    )
