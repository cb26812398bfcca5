"""Plain data that crosses the parts: what a twin knows of a recording, the batch, and the error for a broken file.

Shape letters: B clips, T bins (= frames), C channels, H W pixels, U units, D behavior numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    import torch  # seconds that a process which reads files alone does not wait for

from vivit_core.parts.schema import check_call


class Clips(TypedDict, total=False):
    """The clips of one recording in a batch; raw values, as stored in the file."""

    frames: torch.Tensor  # (B, C, T, H, W) uint8 or float32
    counts: torch.Tensor  # (B, T, U) float32, spikes a bin
    valid: torch.Tensor  # (B, T, U) bool
    behavior: torch.Tensor  # (B, T, D) float32
    # (B, U) bool; whose counts a twin with a history sees, of bins before the one that it predicts. Without it a
    # training draws some, and an evaluation shows none
    observed: torch.Tensor
    score: torch.Tensor  # (B, T) bool; only in evaluation: the bins this clip is scored on
    start: torch.Tensor  # (B,) int64, first frame of the clip in its recording
    # (B,) int64; only in evaluation, where clips that show the same have one row of frames and behavior: which it is
    row: torch.Tensor


Batch = dict[str, Clips]


@dataclass(frozen=True)
class RecordingSpec:
    """What a twin knows of a recording. Plain numbers and strings, so that it can stand in a checkpoint.

    All statistics come from training trials alone.
    """

    recording_id: str
    frame_rate_hz: float
    frame_shape: tuple[int, int, int]  # C, H, W
    unit_ids: tuple[str, ...]
    unit_mean_counts: tuple[float, ...]  # mean spikes a bin, one for each unit
    pixel_mean: float
    pixel_std: float
    behavior: dict[str, int] = field(default_factory=dict)  # name -> width, in the order of the batch's columns
    behavior_mean: tuple[float, ...] = ()
    behavior_std: tuple[float, ...] = ()
    behavior_causal: bool = True  # false where a behavior was made with a basis that looks ahead
    degrees_per_pixel: float | None = None
    unit_position_um: tuple[tuple[float, ...], ...] = ()  # where each unit lies in the tissue, 2 or 3 numbers; or none
    # What the file says of itself, free text, empty where it says nothing.
    subject: str = ""
    species: str = ""
    area: str = ""
    source: str = ""
    licence: str = ""
    stimulus_kind: str = ""

    def __post_init__(self) -> None:
        for name in ("frame_shape", "unit_ids", "unit_mean_counts", "behavior_mean", "behavior_std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        object.__setattr__(self, "unit_position_um", tuple(tuple(row) for row in self.unit_position_um))
        if len(self.unit_mean_counts) != len(self.unit_ids):
            raise ValueError(
                f"recording {self.recording_id}: {len(self.unit_ids)} unit ids but "
                f"{len(self.unit_mean_counts)} mean counts; give one mean for each unit"
            )
        numbers = {len(row) for row in self.unit_position_um}
        if numbers and (len(self.unit_position_um) != len(self.unit_ids) or numbers not in ({2}, {3})):
            raise ValueError(
                f"recording {self.recording_id}: {len(self.unit_ids)} unit ids but {len(self.unit_position_um)} "
                f"positions of {sorted(numbers)} numbers; give 2 or 3 for each unit, or no position"
            )
        if len(self.behavior_mean) != self.behavior_dim or len(self.behavior_std) != self.behavior_dim:
            raise ValueError(
                f"recording {self.recording_id}: behaviors {self.behavior} have {self.behavior_dim} numbers, but "
                f"{len(self.behavior_mean)} means and {len(self.behavior_std)} stds were given"
            )

    @property
    def n_units(self) -> int:
        return len(self.unit_ids)

    @property
    def behavior_dim(self) -> int:
        return sum(self.behavior.values())

    def of_units(self, columns: Sequence[int]) -> RecordingSpec:
        """The same recording with some of its units alone."""
        counts, places = self.unit_mean_counts, self.unit_position_um
        return replace(
            self,
            unit_ids=tuple(self.unit_ids[i] for i in columns),
            unit_mean_counts=tuple(counts[i] for i in columns),
            unit_position_um=tuple(places[i] for i in columns) if places else (),
        )

    def differences(self, other: RecordingSpec, fields: Iterable[str]) -> dict[str, tuple[Any, Any]]:
        """Which of some fields differ, with both values; behaviors in another order differ, and are lists here."""
        pairs = {}
        for name in fields:
            mine, theirs = (
                list(value.items()) if isinstance(value := getattr(spec, name), dict) else value
                for spec in (self, other)
            )
            if mine != theirs:
                pairs[name] = (mine, theirs)
        return pairs

    def to_dict(self) -> dict[str, Any]:
        """Primitives only, lists for tuples: safe in a checkpoint read with ``weights_only=True``."""
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}
        return plain | {"unit_position_um": [list(row) for row in self.unit_position_um]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> RecordingSpec:
        """From a file: names and types are checked, and that all numbers are finite.

        Raises
        ------
        ValueError
            Where something is unknown, missing, of a wrong type or size, or no number.
        """
        problems = list(check_call("recordings", cls, values))
        if problems:
            raise ValueError(f"a recording's description does not fit: {'; '.join(problems)}")
        made = cls(**values)
        numbers = (
            *(made.frame_rate_hz, made.pixel_mean, made.pixel_std, made.degrees_per_pixel or 0.0),
            *(*made.unit_mean_counts, *made.behavior_mean, *made.behavior_std),
        )
        if not all(map(math.isfinite, numbers)):
            raise ValueError(f"recording {made.recording_id}: its statistics are not all finite numbers")
        if made.frame_rate_hz <= 0 or min(made.frame_shape) < 1 or min(made.behavior.values(), default=0) < 0:
            raise ValueError(
                f"recording {made.recording_id}: frame_rate_hz={made.frame_rate_hz}, frame_shape={made.frame_shape} "
                f"and behavior={made.behavior} are no sizes"
            )
        return made


def unread(
    recording_id: str,
    frame_rate_hz: float,
    frame_shape: tuple[int, int, int],
    unit_ids: Sequence[str],
    behavior: Mapping[str, int],
    position_dim: int,
) -> RecordingSpec:
    """A recording of which the sizes are known and nothing was read: its statistics and positions are made up."""
    numbers = sum(behavior.values())
    return RecordingSpec(
        recording_id=recording_id,
        frame_rate_hz=frame_rate_hz,
        frame_shape=frame_shape,
        unit_ids=tuple(unit_ids),
        unit_mean_counts=(0.1,) * len(unit_ids),
        pixel_mean=0.0,
        pixel_std=1.0,
        behavior=dict(behavior),
        behavior_mean=(0.0,) * numbers,
        behavior_std=(1.0,) * numbers,
        unit_position_um=((0.0,) * position_dim,) * len(unit_ids) if position_dim else (),
    )


class RecordingError(ValueError):
    """A recording file that cannot be used: says which file, which field, what is wrong and what to do."""

    def __init__(self, path: object, field: str = "", problem: str = "", remedy: str = "") -> None:
        self.path, self.field, self.problem, self.remedy = str(path), field, problem, remedy
        # A loader's worker hands its error on as text, and torch makes it again from that alone.
        super().__init__(f"{path}: {field}: {problem}. {remedy}" if field else str(path))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.field, self.problem, self.remedy)
