"""Writes a recording file, atomically."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.format import COPY_BYTES, FORMAT, FORMAT_VERSION, Kind, Trials, as_strings, is_rate
from vivit_core.data.recording.inputs import check_arrays
from vivit_core.data.recording.resumable import TABLE_BYTES, Sliceable, write_in_pieces
from vivit_core.data.recording.structure import check_free_text, check_id, check_names
from vivit_core.data.recording.validate import examine_here
from vivit_core.specs import RecordingError
from vivit_core.system.files import remember_whole

_COMPRESSED_ROWS = 8192  # of a chunk
_TEXT_BYTES = 64  # HDF5's own of a text


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
    kind: Kind = "spikes",
    subject: str = "",
    area: str = "",
    species: str = "",
    source: str = "",
    licence: str = "",
    stimulus_kind: str = "",
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
    counts : (T, U); spikes a bin (or a calcium signal, see ``kind``), finite and not negative; a NaN where ``valid`` is
        false is stored as 0. Integers keep their type.
    trials : the trials, sorted by time.
    valid : (T, U) or (T, 1) bool, or 1 and 0; false where a bin of a unit must not be used; None for all valid.
    behavior : name -> (T,) or (T, D) numbers.
    behavior_units, behavior_names, behavior_causal : by the behavior's name: its unit, its columns' names, and false
        where it was made with a basis that looks ahead in time.
    units : name -> (U, ...); must hold ``id`` (unique). None names the units "0", "1", ….
    truth : only for simulated recordings: ``rate`` (T, U), expected counts a bin, and more rates of the same shape,
        whose names begin with ``rate_``; ``shift_px`` (T, 2); ``context_…`` as in ``format.CONTEXT_AXES``;
        anything else has one row a unit.
    kind : what ``counts`` holds.
    subject, area, species, source, licence, stimulus_kind : free text; the last says what was shown.
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
            raise ValueError(f"behavior_{option} names {unknown}, but the behaviors are {sorted(behavior)}")
    check_id(path, recording_id)
    for name in behavior:
        check_names(path, "behavior", [name])
        if "/" in name or name in (".", ".."):
            raise RecordingError(path, "behavior", f"the name {name!r} is a path to HDF5", "Write it without a slash")
    check_names(path, "units/id", np.asarray([] if units is None or "id" not in units else units["id"]).tolist())
    check_names(path, "trials/stimulus_id", [s or "none" for s in trials.stimulus_id.tolist()], longest=None)
    about = {
        "subject": subject,
        "area": area,
        "species": species,
        "source": source,
        "licence": licence,
        "stimulus_kind": stimulus_kind,
    }
    for field, text in about.items():
        check_free_text(path, f"attribute {field}", text)
    if units is None:
        units = {"id": [str(u) for u in range(counts.shape[1] if len(counts.shape) == 2 else 0)]}
    check_arrays(path, frames, counts, behavior, units, valid)
    attrs: dict[str, Any] = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "recording_id": recording_id,
        "frame_rate_hz": float(frame_rate_hz),
        **about,
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
        "responses/counts": (
            counts if valid is None else _Measured(counts, valid),
            _stored_dtype(np.dtype(counts.dtype)),
        ),
    }
    marks = np.ones((frames.shape[0], 1), bool) if valid is None else valid
    large["responses/valid"] = (marks, np.dtype(bool))
    large |= {f"behavior/{name}": (values, float32) for name, values in columns.items()}
    if truth is not None and "rate" in truth:
        large["truth/rate"] = (truth["rate"], float32)

    tables = {f"trials/{name}": getattr(trials, name) for name in ("start", "stop", "stimulus_id", "split")}
    tables |= {f"units/{name}": values for name, values in units.items()}
    tables |= {f"truth/{name}": values for name, values in (truth or {}).items() if name != "rate"}
    said = (attrs, behavior_units, behavior_names)

    def layout(file: h5py.File) -> None:
        file.attrs.update(attrs)
        file["responses/counts"].attrs["kind"] = kind
        for name, values in columns.items():
            file[f"behavior/{name}"].attrs.update(
                unit=(behavior_units or {}).get(name, ""),
                names=list((behavior_names or {}).get(name, [f"{name}_{d}" for d in range(values.shape[1])])),
                causal=(behavior_causal or {}).get(name, True),
            )
        for name, values in tables.items():
            _small(file, name, values, compress=name.startswith("truth/") and is_rate(name.removeprefix("truth/")))

    def check(written: Path) -> None:
        try:
            examine_here(written, whole=True)
            write_checksum(written)
        except RecordingError as error:
            raise RecordingError(path, error.field, error.problem, error.remedy) from None

    layout_bytes = sum(map(_table_bytes, tables.values())) + len(repr(said).encode()) + len(columns) * TABLE_BYTES
    write_in_pieces(
        path,
        layout,
        large,
        check,
        layout_bytes=layout_bytes,
        piece_bytes=COPY_BYTES,
        key=import_key,
        progress=progress,
    )
    remember_whole(path)  # it was read back to its end
    return path


class _Measured:
    """Counts with 0 in the place of a NaN that is not valid: a product with ``valid`` is then a number everywhere."""

    def __init__(self, counts: Sliceable, valid: Sliceable) -> None:
        self.shape, self.dtype = counts.shape, np.dtype(counts.dtype)
        self._counts, self._valid = counts, valid

    def __getitem__(self, key: slice, /) -> np.ndarray:
        counts = np.asarray(self._counts[key])
        if self.dtype.kind != "f":
            return counts
        return np.where(np.isnan(counts) & ~np.asarray(self._valid[key], bool), 0, counts)


def _stored_dtype(dtype: np.dtype) -> np.dtype:
    """Floats of any width are stored as float32; other types as they are, for the validator to judge."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype


def _table_bytes(values: Any) -> int:
    """What :func:`_small` takes in the file, at most."""
    array = np.asarray(values)
    if array.dtype.kind in "USO":
        return TABLE_BYTES + sum(
            len(text.encode("utf-8", "surrogateescape")) + _TEXT_BYTES for text in as_strings(array)
        )
    return TABLE_BYTES + array.nbytes + array.nbytes // 64  # also what does not compress, with the places of its chunks


def _small(file: h5py.File, name: str, values: Any, compress: bool = False) -> None:
    array = np.asarray(values)
    if array.dtype.kind in "USO":
        file.create_dataset(name, data=as_strings(array).astype(object), dtype=h5py.string_dtype())
    elif compress and array.size:
        chunks = (min(len(array), _COMPRESSED_ROWS), 1)
        file.create_dataset(name, data=array, chunks=chunks, compression=1, shuffle=True)
    else:
        file.create_dataset(name, data=array)
