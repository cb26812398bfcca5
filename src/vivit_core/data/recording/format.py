"""The fields of a recording file and their limits.

Shape letters: U units, M moments, R C rows and columns of a grid over the frame, L lags.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from vivit_core.data.recording.inputs import MISSING_ID, UNNAMED

FORMAT = "vivit-core recording"
FORMAT_VERSION = 1
Split = Literal["train", "val", "test"]  # of trials
SPLITS: tuple[Split, ...] = get_args(Split)
Kind = Literal["spikes", "calcium"]  # of responses
KINDS: tuple[Kind, ...] = get_args(Kind)
COPY_BYTES = 1 << 24  # what the writer and the validator hold of one array at a time
Verify = Literal["known", "always"]  # which files are read to their end before use: those not known yet, or all
ABOUT = ("subject", "area", "species", "source", "licence", "stimulus_kind")  # free text, each empty where unknown
TEXT_ATTRS = ("recording_id", *ABOUT)

# What truth/ holds beside rates (`is_rate`) and what has one row a unit. The axes of each: U units, M moments, R C rows
# and columns of a grid over the frame, L lags. They come together or not at all.
CONTEXT_AXES = {
    "context_bins": "M",  # the bin of each moment
    "context_y_px": "R",
    "context_x_px": "C",
    "context_lag_s": "L",  # how long before the moment each stretch of the past begins, counted backwards
    "context_weights": "UMRC",  # how much each place counts for the unit's context
    "context_shares": "UMRC",  # which part of what reaches the unit comes from there
    "context_lag_shares": "UML",  # which part comes from which stretch of the past
}

SHIFT = "shift_px"  # in truth/, (T, 2) x and y: how far frames must be shifted to lie where the eye saw them

POSITION = "position_um"  # among the columns of units/: where a unit lies in the tissue
POSITION_NUMBERS = (2, 3)  # of a position


def is_rate(truth: str) -> bool:
    """Whether this truth is a rate for each bin and unit: ``rate``, ``rate_local``, ``rate_without_…``."""
    return truth == "rate" or truth.startswith("rate_")


def has_bins(truth: str) -> bool:
    """Whether this truth has one row a bin."""
    return is_rate(truth) or truth == SHIFT


def as_strings(values: Any) -> np.ndarray:
    """A flat array of str from str, bytes or numbers."""
    return np.array([as_text(v) for v in np.asarray(values).tolist()], dtype=str)


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
            object.__setattr__(self, name, as_strings(getattr(self, name)))
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

    @property
    def in_several_splits(self) -> dict[str, list[str]]:
        """The splits of each stimulus whose repeats lie in more than one."""
        splits = {stimulus: set(self.split[rows].tolist()) for stimulus, rows in self.by_stimulus().items()}
        return {stimulus: sorted(found, key=SPLITS.index) for stimulus, found in splits.items() if len(found) > 1}

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
    position_dim: int  # numbers of a unit's position in the tissue, units/position_um; 0 where it is not there
    behavior: dict[str, int]  # name -> width
    behavior_causal: dict[str, bool]  # name -> false where its basis looks ahead
    kind: Kind
    trials: Trials
    has_truth: bool  # truth/rate is there: a simulated recording
    degrees_per_pixel: float | None
    subject: str
    area: str
    species: str
    source: str
    licence: str
    stimulus_kind: str

    @property
    def n_units(self) -> int:
        return len(self.unit_ids)


@dataclass(frozen=True, eq=False)
class ContextWeights:
    """Where the contexts of simulated units lie at some moments of test trials.

    Shape letters: U units, M moments, R C rows and columns of a coarse grid over the frame, L lags.
    """

    bins_M: np.ndarray  # bins of the recording
    y_px_R: np.ndarray
    x_px_C: np.ndarray
    lag_s_L: np.ndarray  # where each stretch of the past begins, counted back from the moment
    weights_UMRC: np.ndarray  # how much each place counts; sums to 1, or is 0 for a unit without context
    shares_UMRC: np.ndarray  # which part of the context's signal comes from there: weight times what it shows
    lag_shares_UML: np.ndarray  # which part comes from which stretch of the past


def as_text(value: Any) -> str:
    """As h5py reads text: what is not UTF-8 becomes surrogates, for :func:`check_names` to find."""
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)
