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
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from vivit_core.data.importers.remote import Remote, is_remote
from vivit_core.data.recording.checksum import may_be_ours
from vivit_core.data.recording.format import ABOUT, SPLITS, Kind, RecordingInfo, Trials
from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.hdf5 import open_hdf5
from vivit_core.data.recording.limits import check_holes
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.resumable import Sliceable, check_writable, pieces, remove_journal
from vivit_core.data.recording.validate import check_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.data.repeats import leak
from vivit_core.names import printable
from vivit_core.parts.schema import Positive
from vivit_core.specs import RecordingError
from vivit_core.system.files import matching

VERSION = 5  # of what importers make; another number imports everything again
_IMPORTS_S = 60.0  # of computing that the libraries of a format may take to start
_SECONDS_A_FILM_BYTE = 1e-5  # of computing that decoding may take; a film of a megabyte may have thousands of frames
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
    kind: Kind = "spikes"
    about: Mapping[str, str] = field(default_factory=dict)  # what the source says of subject, area, species, …
    left_out: Sequence[str] = ()  # what was left out, and why; a line each
    notes: Sequence[str] = ()  # what was changed or chosen, and why; a line each


@dataclass(frozen=True, kw_only=True)
class Importer(ABC):
    """From a source to recording files; subclasses know one format each."""

    recording_id: str | None  # None: the name that the source has
    degrees_per_pixel: Positive | None  # visual angle of a pixel
    subject: str  # free text, like the next five; empty takes what the source says
    area: str
    species: str
    source: str  # who recorded it, where it was published
    licence: str
    stimulus_kind: str  # what was shown, for example natural movies
    # Whether the format's reader is C code that can hang or crash in a damaged file: then a source is read through in a
    # process of its own first.
    guarded: ClassVar[bool] = False

    def name_of(self, source: Path) -> str:
        """The name that the source of one recording has."""
        return source.resolve().name if source.is_dir() else source.stem

    def id_of(self, source: Path | Remote) -> str:
        """What the recording is called."""
        return self.recording_id or (source.stem if isinstance(source, Remote) else self.name_of(source))

    def recordings(self, source: Path, out: Path) -> list[tuple[Path, Path]]:
        """The recordings in a source, each with the file to be made of it."""
        return [(source, out)]

    def files(self, source: Path) -> list[Path]:
        """The files that a recording is read from."""
        return sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]

    @abstractmethod
    def read(self, source: Path) -> AbstractContextManager[SourceRecording]:
        """What stands in the source of one recording, while it is open."""

    def read_remote(self, source: Remote) -> AbstractContextManager[SourceRecording]:
        """What stands in a source on a server, for importers of a format that can be read in parts.

        Raises
        ------
        ValueError
            Where it cannot.
        """
        raise ValueError(
            f"source={source}: this importer reads files, and importer=nwb alone reads from a server; download it"
        )

    def __call__(self, source: str | Path, out: str | Path) -> list[Path]:
        """Import all recordings of ``source`` and say on the console what was written and what left out.

        One that is imported already, by these settings from these files, is passed over; one that a killed import left
        half-written is completed. One that cannot be imported keeps no other from being.

        Parameters
        ----------
        source : a file or a folder, as the format has it; or a pattern of several, such as ``sessions/*.npz``. For some
            formats also an address, ``https://…`` or ``dandi://DANDISET/PATH``.
        out : the recording file to write; a folder where the source is a pattern or holds several recordings.

        Returns
        -------
        list of Path
            The recording files.

        Raises
        ------
        ValueError
            Where the source does not fit the settings, or several recordings cannot be imported.
        RecordingError
            Where a file of the source is missing or broken, or cannot make a recording (negative counts, NaN, …).
        """
        found = self._found(str(source), Path(out))
        written, problems = list[Path](), list[ValueError | OSError]()
        for one, path in found:
            try:
                written.append(self._import(one, path))
            except (ValueError, OSError) as error:  # such as a file that this user may not read
                problems.append(error)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ValueError(
                f"{len(problems)} of {len(found)} recordings cannot be imported:\n"
                + "\n".join(f"- {error}" for error in problems)
            )
        return written

    def _found(self, source: str, out: Path) -> list[tuple[Path | Remote, Path]]:
        """The recordings that a source or a pattern names, each with its file; several in a folder by their names."""
        if is_remote(source):
            return [(Remote(source), out)]
        matches = matching(source)
        if not matches:
            raise ValueError(
                f"{source}: there is no such file or folder (seen from {Path.cwd()}), and nothing of this pattern; "
                "correct source=…"
            )
        found = [pair for match in matches for pair in self.recordings(match, out)]
        if matches != [Path(source)]:
            found = [(one, out / f"{self.name_of(one)}.h5") for one, _ in found]
        elif len(found) == 1:
            return [*found]
        if out.suffix == ".h5":
            raise ValueError(f"out={out}: {source} may give several recordings (now {len(found)}); name a folder")
        if self.recording_id is not None:
            raise ValueError(
                f"importer.recording_id={self.recording_id}: {source} gives {len(found)} recordings; leave it out "
                "(null), and each gets the name of its source"
            )
        by_path: dict[Path, Path] = {}
        for one, path in found:
            if by_path.setdefault(path, one) != one:
                raise ValueError(
                    f"{by_path[path]} and {one} would both become {path}; import them one by one, each with an "
                    "importer.recording_id and an out of its own"
                )
        return [*found]

    def _import(self, source: Path | Remote, path: Path) -> Path:
        if path.suffix != ".h5":  # data.root would not find it
            wanted = path.with_suffix(".h5") if path.suffix else path / f"{self.id_of(source)}.h5"
            raise ValueError(f"out={path}: a recording file ends in .h5; write out={wanted}")
        key = self._key(source)
        if _imported_under(path) == key:
            remove_journal(path)
            say(f"{path} is imported already, by these settings from these files")
            return path
        check_writable(path)
        files = self.files(source) if isinstance(source, Path) else []
        for file in files:
            check_holes(file)
        if self.guarded and isinstance(source, Path):
            with Guard() as guard:
                importer = f"{type(self).__module__}:{type(self).__name__}"
                arguments = {"importer": importer, "settings": asdict(self), "source": str(source)}
                outside = sum(file.stat().st_size for file in files if not file.is_relative_to(source))
                more_s = _IMPORTS_S + _SECONDS_A_FILM_BYTE * outside
                guard.run(source, f"{__name__}:read_through", arguments, more_s=more_s)
        with self.read(source) if isinstance(source, Path) else self.read_remote(source) as found:
            about: dict[str, Any] = {name: getattr(self, name) or found.about.get(name, "") for name in ABOUT}
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
            if isinstance(source, Remote):
                read = source.file
                say(f"  read {read.loaded / 1e6:.1f} MB of {read.size / 1e6:.1f} MB in {read.requests} requests")
        return path

    def _key(self, source: Path | Remote) -> str:
        """Identifies the settings and the files: an import under the same key makes the same recording."""
        files: list[tuple[Any, ...]] = [(str(source), source.file.state)] if isinstance(source, Remote) else [
            (os.path.relpath(path, source), path.stat().st_size, path.stat().st_mtime_ns)
            for path in self.files(source)
        ]  # fmt: skip
        settings = asdict(self) | {"recording_id": self.id_of(source)}
        said = {"version": VERSION, "importer": type(self).__name__, "settings": settings, "files": files}
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
    of_another = RecordingError(
        path, "file", "stands there already, and no import made it", "Name another file by out=…, or delete this one"
    )
    try:
        check_recording(path)
        with open_hdf5(path) as file:
            key = file.attrs.get("import_key")
    except RecordingError as error:
        if may_be_ours(path) and error.field != "attribute format":
            say(f"{path}: {error.field}: {error.problem}. It is imported anew")
            return None
        raise of_another from error
    if key is None:  # such as one that write_recording or the simulator made
        raise of_another
    return str(key)


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
    if (leaking := leak(trials)) is not None:
        say(f"  it {leaking}")
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
