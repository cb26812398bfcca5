"""The behavior that goes with a video: from a csv or npz file, or beside the frames of a recording; what is not there
is at its mean.

Shape letters: N rows given, T bins, D numbers of a behavior.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vivit_core.data.npy import DAMAGED_NPY
from vivit_core.data.resample import segments
from vivit_core.data.transforms import BehaviorTransform, Transform
from vivit_core.names import few
from vivit_core.specs import RecordingSpec
from vivit_core.system.plain import in_a_line
from vivit_core.system.tables import read_table

log = logging.getLogger(__name__)

MOST_BYTES = 1 << 31  # of a file of behavior, which is held in memory
MOST_NAMED = 8  # columns that the model does not see


@dataclass(frozen=True)
class Behavior:
    """A stretch's behavior as the twin takes it.

    Attributes
    ----------
    values_TD : the numbers of ``spec.behavior``, in its order.
    at_mean : names of those that are at their mean.
    """

    values_TD: np.ndarray
    at_mean: tuple[str, ...]


def read_behavior(path: Path, names: set[str]) -> dict[str, np.ndarray]:
    """The behaviors in a csv or npz file, (N, D) each.

    In a csv, a behavior of one number is the column of its name; one of several numbers the columns ``NAME_0``,
    ``NAME_1``, …. In an npz it is the array of its name, (N,) or (N, D).

    Parameters
    ----------
    path : the file.
    names : of the behaviors that are looked for.

    Raises
    ------
    ValueError
        Where the file cannot be read, holds none of them, or something that is no number.
    """
    if not path.is_file():
        raise ValueError(f"{path}: there is no such file of behavior; correct behavior=…")
    if path.suffix.lower() not in (".csv", ".npz"):
        raise ValueError(f"{path}: behavior is read from a .csv or an .npz file; give one of these")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: has {path.stat().st_size / 1e9:.3g} GB; give the video and its behavior in parts")
    stored = columns(path) if path.suffix.lower() == ".csv" else arrays(path)
    found, used = {}, set[str]()
    for name in sorted(names):
        numbered = [f"{name}_{i}" for i in range(len(stored)) if f"{name}_{i}" in stored]
        numbered = numbered if numbered == [f"{name}_{i}" for i in range(len(numbered))] else []
        parts = [name] if name in stored else numbered
        if parts:
            found[name] = np.concatenate([stored[part] for part in parts], axis=1).astype(np.float32)
            used.update(parts)
    if not found:
        raise ValueError(
            f"{path}: holds {few(list(stored)) or 'nothing'}, and the model sees "
            f"{', '.join(sorted(names)) or 'no behavior'}; name columns or arrays so (of several numbers NAME_0, "
            "NAME_1, …), or leave behavior out"
        )
    if left := [name for name in stored if name not in used]:
        more = f" and {len(left) - MOST_NAMED} more" if len(left) > MOST_NAMED else ""
        log.info(
            "%s: not used: %s%s; the model sees %s", path, ", ".join(left[:MOST_NAMED]), more, ", ".join(sorted(names))
        )
    return found


def columns(path: Path) -> dict[str, np.ndarray]:
    try:
        table = read_table(path)
    except (ValueError, OSError) as error:
        raise ValueError(f"{path}: not a readable table ({in_a_line(error)}); its first line names columns") from error
    for name in table.columns:
        if table[name].dtype.kind not in "biuf":
            raise ValueError(f"{path}: column {name} holds text; give numbers, and nothing where one is missing")
    return {str(name): table[name].to_numpy(np.float32)[:, None] for name in table.columns}


def arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
        if size > MOST_BYTES:
            raise ValueError(f"it holds {size / 1e9:.3g} GB")
        with np.load(path, allow_pickle=False) as archive:
            stored = {name: archive[name] for name in archive.files}
    except DAMAGED_NPY as error:
        raise ValueError(f"{path}: not a readable .npz file ({in_a_line(error)}); np.savez writes one") from error
    for name, values in stored.items():
        if values.dtype.kind not in "biuf" or values.ndim not in (1, 2):
            raise ValueError(f"{path}: {name} has shape {values.shape} and type {values.dtype}; give numbers, (N, D)")
    return {name: values if values.ndim == 2 else values[:, None] for name, values in stored.items()}


def sources_of(spec: RecordingSpec, transforms: Mapping[str, Transform]) -> set[str]:
    """What a file of behavior may hold: the behaviors that the twin sees, and those that they are made from."""
    names, waiting = set[str](), list(spec.behavior)
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            made = transforms.get(name)
            waiting += [made.source] if isinstance(made, BehaviorTransform) else []
    return names


def behavior_of(
    given: Mapping[str, np.ndarray],
    spec: RecordingSpec,
    transforms: Mapping[str, Transform],
    ended_T: np.ndarray,
    frames: int,
    where: Path,
) -> Behavior:
    """Behavior for the bins of a stretch.

    Parameters
    ----------
    given : name -> (N, D): a row a bin, or a row a frame of the video, as it was at the frame's end; then a bin has the
        mean of the frames that ended in it, NaN left out, or else the newest that had ended, and is NaN before the
        first has. Where there are as many bins as frames, it is a row a frame.
    spec : the recording, with the behaviors that it wants.
    transforms : with which the twin was trained; they make behaviors from those given.
    ended_T : how many frames of the stretch have ended by the end of each bin.
    frames : of the stretch.
    where : the file, for messages.

    Raises
    ------
    ValueError
        Where a behavior has another number of rows, or of numbers.
    """
    bins = len(ended_T)
    at_bins = {name: brought(name, values, ended_T, frames, where) for name, values in given.items()}

    def made(name: str) -> np.ndarray | None:
        node = transforms.get(name)
        if isinstance(node, BehaviorTransform):
            source = at_bins.get(name) if node.source == name else made(node.source)
            if source is not None:
                return node(source, spec.frame_rate_hz)
        return at_bins.get(name)

    values_TD = np.tile(np.array(spec.behavior_mean, np.float32), (bins, 1))
    at_mean, place = [], 0
    for name, width in spec.behavior.items():
        values = made(name)
        if values is None:
            at_mean.append(name)
        elif values.shape[1] != width:
            raise ValueError(f"{where}: behavior {name} has {values.shape[1]} numbers, and the model sees {width}")
        else:
            values_TD[:, place : place + width] = values
        place += width
    return Behavior(values_TD, tuple(at_mean))


def brought(name: str, values: np.ndarray, ended_T: np.ndarray, frames: int, where: Path) -> np.ndarray:
    """A behavior's rows at the model's bins."""
    bins = len(ended_T)
    if len(values) == frames and not np.array_equal(ended_T, np.arange(1, frames + 1)):
        if bins == frames:  # by chance, where frames are of different lengths
            log.warning(
                "%s: behavior %s has %d rows; the video has as many frames, of different lengths, as the model has "
                "bins, and the rows are taken for frames",
                where,
                name,
                frames,
            )
        low = np.clip(np.append(0, ended_T[:-1]), None, ended_T - 1).clip(0)  # where none ended, the newest that had
        there = np.isfinite(values)
        number = segments(there.astype(np.float32), low, ended_T)
        total = segments(np.where(there, values, 0).astype(np.float32), low, ended_T)
        return np.where((number > 0) & (ended_T > 0)[:, None], total / np.maximum(number, 1), np.nan).astype(np.float32)
    if len(values) != bins:
        raise ValueError(
            f"{where}: behavior {name} has {len(values)} rows; give one for each of the {bins} bins of the model"
            + (f", or for each of the {frames} frames of the video" if frames != bins else "")
        )
    return values.astype(np.float32)
