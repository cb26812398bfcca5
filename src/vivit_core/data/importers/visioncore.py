"""From the data sets of VisionCore (github.com/Yates-Lab/VisionCore) to a recording file.

A folder holds a file for each type of stimulus, ``backimage.dset``, ``gaborium.dset``, …: ``torch.save`` of
``{"covariates": {name: tensor}, "metadata": {…}}``, in bins of 1/240 s, where the covariates are

    stim (T, H, W) uint8      what fell on the receptive fields, by the measured gaze
    robs (T, U)               spike counts
    eyepos (T, 2)             degrees
    dpi_valid (T,)            above 0 where the eye tracker saw the eye
    trial_inds (T,)           the trial's number
    t_bins (T,)               seconds
    psth_inds (T,)            for repeats: the bin's place in the stimulus; NaN where it is not known
    dfs (T,) or (T, U)        optional: a mask besides dpi_valid

Session files (YAML) list columns of ``robs``: ``visual`` those that respond, ``qcmissing`` and ``qccontam`` those that
*pass* the tests for missing spikes and for contamination, ``cids`` those of the lab's own choice.

Shape letters: T bins, H W pixels, U units, D behavior numbers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from einops import rearrange, reduce

from vivit_core.data.importers.common import Importer, SourceRecording
from vivit_core.data.importers.sliceable import Joined, held, pixel_type, span
from vivit_core.data.importers.sources import split_by_stimulus
from vivit_core.data.npy import require_file
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.inputs import unknown_stimuli
from vivit_core.parts.schema import Count, NotNegative, Positive, SplitFraction
from vivit_core.specs import RecordingError
from vivit_core.system.terminal import track

APART = 0.01  # by how much importer.rate_hz may differ from the rate of t_bins, as a fraction
NEEDED = {"stim": (3, 4), "robs": (2,), "trial_inds": (1, 2), "t_bins": (1, 2)}  # covariate -> ranks
# What numpy arrays and numbers in the metadata are made of; nothing else than tensors and plain values is unpickled.
_MADE_BY: dict[str, Any] = {"_reconstruct": np.zeros(1).__reduce__()[0], "scalar": np.float64(0).__reduce__()[0]}
NUMPY: list[Any] = [
    np.ndarray,
    np.dtype,
    *{type(np.dtype(t)) for t in "?bBhHiIlLqQefdSUO"},
    *((made, f"numpy.{core}.multiarray.{name}") for core in ("core", "_core") for name, made in _MADE_BY.items()),
]


@dataclass(frozen=True)
class Part:
    """A stretch of a trial without a gap: bins start … start + bins · pool of its file become ``bins`` bins."""

    type: str
    trial: str
    stimulus: str
    start: int
    bins: int


@dataclass(frozen=True)
class VisionCoreImporter(Importer):
    """Import a folder of ``{type}.dset`` files into one recording."""

    types: list[str]  # stimulus types, in this order
    repeats: list[str]  # types whose trials show one sequence again and again: test
    rate_hz: Positive  # bins a second of the source
    pool: Count  # bins of the source in one bin
    behavior: list[str]  # covariates that are kept as behaviors
    units_file: str | None  # YAML with lists of columns of robs
    unit_lists: list[str]  # a unit is kept where it is in all of these lists
    min_rate_hz: NotNegative  # a unit that fires less, in valid bins, is left out
    val_fraction: SplitFraction  # of the trials that are not repeats
    test_fraction: SplitFraction
    seed: int  # of that draw

    def name_of(self, source: Path) -> str:
        """The folder's; of datasets/ the one above."""
        folder = source.resolve()
        return folder.parent.name if folder.name == "datasets" else folder.name

    def files(self, source: Path) -> list[Path]:
        found = [source / f"{name}.dset" for name in self.types]
        return [path for path in [*found, *([Path(self.units_file)] if self.units_file else [])] if path.is_file()]

    @contextmanager
    def read(self, source: Path) -> Iterator[SourceRecording]:
        if unknown := set(self.repeats) - set(self.types):
            raise ValueError(f"importer.repeats names {sorted(unknown)}, which are not in importer.types={self.types}")
        if not source.is_dir():
            raise RecordingError(source, "source", "is no folder", "Give the folder that holds the .dset files")
        data, left_out, notes = {}, [], []
        for name in self.types:
            if (source / f"{name}.dset").exists():
                data[name] = _load(source, f"{name}.dset", self.behavior)
                self._check_rate(source / f"{name}.dset", data[name]["t_bins"])
            else:
                left_out.append(f"type {name}: there is no {name}.dset")
        if not data:
            there = sorted(path.name for path in source.glob("*.dset"))
            raise RecordingError(
                source, "source", f"holds none of {', '.join(f'{t}.dset' for t in self.types)}; there are {there}",
                "Correct source=… or importer.types",
            )  # fmt: skip
        n_units, size = self._agree(source, data)
        parts = [part for name, covariates in data.items() for part in self._parts(name, covariates, left_out)]
        if not parts:
            raise RecordingError(source, "trial_inds", f"no trial has {self.pool} bins", "Set a smaller importer.pool")
        lengths = [part.bins for part in parts]

        def source_bins(name: str, i: int) -> np.ndarray:
            """The source's bins of a part, (T · pool, …)."""
            part = parts[i]
            return data[part.type][name][part.start : part.start + part.bins * self.pool]

        def valid(i: int) -> np.ndarray:
            """Where all pooled bins are."""
            own = np.isfinite(source_bins("robs", i))
            for mask in ("dpi_valid", "dfs"):
                if mask in data[parts[i].type]:
                    own = own & (source_bins(mask, i) > 0)
            for name in self.behavior:
                own = own & ~held(source_bins(name, i))[1][:, None]
            return reduce(own, "(t pool) u -> t u", "min", pool=self.pool)[:, kept]

        def counts(i: int) -> np.ndarray:
            own = source_bins("robs", i)
            return reduce(np.where(np.isfinite(own), own, 0), "(t pool) u -> t u", "sum", pool=self.pool)[:, kept]

        def newest(name: str, i: int) -> np.ndarray:
            return source_bins(name, i)[self.pool - 1 :: self.pool]

        def behavior(name: str) -> Joined:
            width = next(iter(data.values()))[name].shape[1]
            return Joined(
                lengths, (width,), np.float32, lambda i: held(source_bins(name, i))[0][self.pool - 1 :: self.pool]
            )

        kept = np.arange(n_units)
        kept = self._kept(n_units, lengths, valid, counts, left_out)
        largest = [span(covariates["robs"]) for covariates in data.values()]
        small = all(least >= 0 and whole and most * self.pool <= 255 for least, most, whole in largest)
        dtype = np.uint8 if {pixel_type(d["stim"]) for d in data.values()} == {np.uint8} else np.float32
        stops = np.cumsum(lengths)
        if self.pool > 1:
            notes.append(
                f"{self.pool} bins of {1e3 / self.rate_hz:.2f} ms make one: counts summed, the newest frame and "
                f"behavior kept, valid where all {self.pool} are"
            )
        yield SourceRecording(
            recording_id=self.id_of(source),
            frame_rate_hz=self.rate_hz / self.pool,
            frames=Joined(lengths, size, dtype, lambda i: newest("stim", i)),
            counts=Joined(lengths, (len(kept),), np.uint8 if small else np.float32, counts),
            valid=Joined(lengths, (len(kept),), bool, valid),
            trials=Trials(stops - lengths, stops, np.array([p.stimulus for p in parts]), self._split(parts)),
            units={"id": [str(u) for u in kept], "column": kept},
            behavior={name: behavior(name) for name in self.behavior},
            behavior_units={"eyepos": "degrees"} if "eyepos" in self.behavior else {},
            about={"species": "marmoset", "area": "primary visual cortex"},
            left_out=left_out,
            notes=notes,
        )

    def _check_rate(self, path: Path, times: np.ndarray) -> None:
        """Refuse a rate that is not that of the clock."""
        if len(times) < 2:
            return
        step = np.diff(times)
        median = float(np.median(step))
        if not median > 0:
            raise RecordingError(path, "covariates/t_bins", "does not rise", "Write the time of each bin in seconds")
        # The mean of steps without a gap, because times may be rounded so that no single step has the right length.
        own_hz = float(1 / step[np.abs(step / median - 1) < 0.5].mean())
        if abs(own_hz / self.rate_hz - 1) > APART:
            pool = max(1, round(own_hz * self.pool / self.rate_hz))
            raise RecordingError(
                path, "covariates/t_bins",
                f"has {own_hz:.6g} bins a second (if it is in seconds), and importer.rate_hz is {self.rate_hz:g}",
                f"Give importer.rate_hz={own_hz:.6g} importer.pool={pool}, which makes {own_hz / pool:g} Hz",
            )  # fmt: skip

    def _agree(self, source: Path, data: Mapping[str, Mapping[str, np.ndarray]]) -> tuple[int, tuple[int, ...]]:
        """The number of units and the size of a frame, which must be the same in all types."""
        first = next(iter(data))
        units, size = data[first]["robs"].shape[1], data[first]["stim"].shape[1:]
        for name, covariates in data.items():
            for field, mine, theirs in (
                ("robs", covariates["robs"].shape[1], units),
                ("stim", covariates["stim"].shape[1:], size),
                *((b, covariates[b].shape[1], data[first][b].shape[1]) for b in self.behavior),
            ):
                if mine != theirs:
                    raise RecordingError(
                        source / f"{name}.dset", field, f"has {mine} in each bin, and {first}.dset {theirs}",
                        "Import types of one recording; leave the others out of importer.types",
                    )  # fmt: skip
        return units, size

    def _parts(self, name: str, covariates: Mapping[str, np.ndarray], left_out: list[str]) -> list[Part]:
        """Cut at new trials and at gaps of the clock; what does not fill a bin is left out."""
        trial, times, places = covariates["trial_inds"], covariates["t_bins"], covariates.get("psth_inds")
        jump = np.abs(np.diff(times) * self.rate_hz - 1) > 0.5
        starts = np.concatenate([[0], np.flatnonzero((np.diff(trial) != 0) | jump) + 1])
        stops = np.append(starts[1:], len(trial))
        parts, seen, rest, short, unknown, began_s = [], Counter[str](), 0, 0, 0, 0.0
        gaps = int((jump & (np.diff(trial) == 0)).sum())
        for start, stop in zip(starts.tolist(), stops.tolist(), strict=True):
            own = f"{name} trial {trial[start]:g}"
            stimulus = own if not seen[own] else f"{own} part {seen[own] + 1}"
            seen[own] += 1
            if start == 0 or trial[start] != trial[start - 1]:
                began_s = times[start]
            if name in self.repeats:
                place = places[start] if places is not None else round((times[start] - began_s) * self.rate_hz)
                if np.isfinite(place):
                    skip = min(-int(place) % self.pool, stop - start)  # so that the bins of all repeats are the same
                    start, rest = start + skip, rest + skip
                    stimulus = f"{name} from bin {(int(place) + skip) // self.pool}"
                else:  # which part of the stimulus it is nobody knows: it repeats none
                    unknown += 1
            bins = (stop - start) // self.pool
            rest += (stop - start) % self.pool
            if bins:
                parts.append(Part(name, own, stimulus, start, bins))
            else:
                short += 1
        if gaps:
            left_out.append(f"type {name}: nothing at {gaps} gaps of t_bins inside a trial, but the trial is cut there")
        if name in self.repeats and places is None:
            left_out.append(
                f"type {name}: psth_inds, which is missing: each trial counts as shown from the first bin on"
            )
        left_out.extend(f"type {name}: {line}" for line in unknown_stimuli(unknown, "number in psth_inds"))
        if rest:
            left_out.append(f"type {name}: {rest} bins at trials' borders that do not fill a bin of {self.pool}")
        if short:
            left_out.append(f"type {name}: {short} trials shorter than a bin")
        return parts

    def _split(self, parts: list[Part]) -> np.ndarray:
        """Repeats are test; of the others, whole trials are drawn."""
        split = np.array(["test" if part.type in self.repeats else "train" for part in parts], dtype="U5")
        others = split == "train"
        if others.any():
            trials = np.array([part.trial for part in parts])[others]
            split[others] = split_by_stimulus(
                trials,
                self.val_fraction,
                self.test_fraction,
                self.seed,
                "put all but repeats into train by importer.val_fraction=0 importer.test_fraction=0",
            )
        return split

    def _kept(self, n_units: int, lengths: list[int], valid: Any, counts: Any, left_out: list[str]) -> np.ndarray:
        """The columns of robs that are kept."""
        kept = np.ones(n_units, bool)
        if self.units_file is not None:
            for name, columns in _unit_lists(Path(self.units_file), self.unit_lists, n_units).items():
                absent = kept & ~np.isin(np.arange(n_units), columns)
                left_out.append(f"{absent.sum()} units that are not in {name} of {self.units_file}")
                kept &= ~absent
        if self.min_rate_hz > 0:
            spikes, bins = np.zeros(n_units), np.zeros(n_units)
            for i in track(range(len(lengths)), "count spikes"):
                own = valid(i)
                spikes += (counts(i) * own).sum(0)
                bins += own.sum(0)
            slow = kept & ~(spikes * self.rate_hz / self.pool >= self.min_rate_hz * np.maximum(bins, 1))
            left_out.append(f"{slow.sum()} units that fire below importer.min_rate_hz={self.min_rate_hz:g}")
            kept &= ~slow
        if not kept.any():
            raise ValueError(
                f"no unit is left: {'; '.join(left_out)}; change importer.unit_lists or importer.min_rate_hz"
            )
        return np.flatnonzero(kept)


def _unit_lists(path: Path, names: list[str], n_units: int) -> dict[str, np.ndarray]:
    require_file(path.parent, path, f"YAML lists {', '.join(names)} of columns of robs")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecordingError(
            path, "file", f"is no YAML: {error}", "Correct the file, or importer.units_file"
        ) from error
    lists = {}
    for name in names:
        listed = content.get(name) if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(u, int) and 0 <= u < n_units for u in listed):
            raise RecordingError(
                path, name, f"is {'missing' if listed is None else 'not a list of columns'}",
                f"Write a list of numbers in 0 … {n_units - 1}, or leave {name} out of importer.unit_lists",
            )  # fmt: skip
        lists[name] = np.array(listed, int)
    return lists


def _load(source: Path, file: str, behavior: list[str]) -> dict[str, np.ndarray]:
    """The covariates that are used, mapped into memory, not read; (T, H, W[, C]) frames, (T, D) behaviors."""
    path = source / file
    require_file(source, path, "a data set saved by torch.save")
    try:
        with torch.serialization.safe_globals(NUMPY):
            content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises half a dozen kinds for files that are damaged or not its own
        problem, remedy = _why(path, error)
        raise RecordingError(path, "file", problem, remedy) from error
    covariates = content.get("covariates") if isinstance(content, dict) else None
    if not isinstance(covariates, dict):
        raise RecordingError(path, "covariates", "missing", "Save {'covariates': {…}, 'metadata': {…}} by torch.save")
    ranks: dict[str, tuple[int, ...]] = NEEDED | dict.fromkeys(behavior, (1, 2, 3))
    ranks |= {name: (1, 2) for name in ("dpi_valid", "dfs", "psth_inds") if name in covariates}
    n_bins, arrays = None, {}
    for name, ndim in ranks.items():
        values = covariates.get(name)
        if not isinstance(values, torch.Tensor):
            raise RecordingError(path, f"covariates/{name}", "missing, or no tensor", f"There are {sorted(covariates)}")
        if values.ndim not in ndim or 0 in values.shape or values.dtype.is_complex or values.is_sparse:
            raise RecordingError(
                path, f"covariates/{name}", f"has shape {tuple(values.shape)} and type {values.dtype}",
                f"It ought to be numbers with {' or '.join(map(str, ndim))} axes, time first",
            )  # fmt: skip
        if values.numel() * values.element_size() > values.untyped_storage().nbytes():
            raise RecordingError(path, f"covariates/{name}", "declares more numbers than the file holds", "Save a copy")
        if n_bins is not None and len(values) != n_bins:
            raise RecordingError(
                path, f"covariates/{name}", f"has {len(values)} bins, and stim {n_bins}", "Give all the same length"
            )
        n_bins = len(values)
        arrays[name] = (values.float() if values.dtype == torch.bfloat16 else values.detach()).numpy()
    for name in ("trial_inds", "t_bins", "psth_inds"):
        if name in arrays:
            arrays[name] = arrays[name].reshape(len(arrays[name]), -1)[:, 0].astype(np.float64)
            if name != "psth_inds" and not np.isfinite(arrays[name]).all():  # without a place a bin repeats none
                bad = int(np.flatnonzero(~np.isfinite(arrays[name]))[0])
                raise RecordingError(path, f"covariates/{name}", f"bin {bad} is {arrays[name][bad]}", "Write a number")
    for name in [*behavior, *(mask for mask in ("dpi_valid", "dfs") if mask in arrays)]:
        arrays[name] = arrays[name].reshape(len(arrays[name]), -1)
    if arrays["stim"].ndim == 4:
        arrays["stim"] = rearrange(arrays["stim"], "t c h w -> t h w c")
    if "dfs" in arrays and arrays["dfs"].shape[1] not in (1, arrays["robs"].shape[1]):
        raise RecordingError(
            path, "covariates/dfs", f"has {arrays['dfs'].shape[1]} columns", "Give one, or one for each column of robs"
        )
    return arrays


def _why(path: Path, error: Exception) -> tuple[str, str]:
    """What is wrong with a file that torch does not load, and the remedy."""
    again = (
        "d = torch.load(FILE, weights_only=False); torch.save({'covariates': d['covariates'], 'metadata': {}}, FILE)"
    )
    try:
        with torch.serialization.safe_globals(NUMPY):
            foreign = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # as above: then the file itself is broken
        foreign = []
    if foreign:
        return (
            f"holds objects of {', '.join(sorted(foreign))}, and only tensors, arrays and plain values are unpickled",
            f"If you trust it, save it again without them: {again}",
        )
    if "mmap can only be used" in str(error):
        return "is in torch's format of before 2020", f"If you trust it, save it again: {again}"
    said = str(error).splitlines()[0] if str(error) else type(error).__name__
    return f"is damaged, or not saved by torch.save ({said})", "Copy it again"
