"""What a recording goes through on its way to a twin: behaviors made from stored ones, pixels, training targets.
``data.transforms`` chooses them, :class:`vivit_core.data.resample.ResampledRecording` applies them.

Shape letters: T bins, D numbers of a behavior, N basis functions, C channels, H W pixels, U units, L lags.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from scipy.ndimage import gaussian_filter

from vivit_core.data.behavior import Basis, FloatArray, cosines_over, expand, raised_cosine_basis, split_by_sign
from vivit_core.names import setting

MEMORY = 5.0  # time constants after which an exponential is cut off: what is left is below 1 %
BLOCK = 256  # bins smoothed at once


class Transform:
    """The base of all that ``data.transforms`` may name; each is of one of the three kinds below."""


@runtime_checkable
class BehaviorTransform(Protocol):
    """Makes a behavior from another one, inside a trial."""

    @property
    def source(self) -> str:
        """Name of the behavior it is made from: a stored one, or one that another transform makes."""
        ...

    def width(self, numbers: int) -> int:
        """How many numbers it makes of so many."""
        ...

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        """Bins of the past, and of the future, that a bin depends on."""
        ...

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        """A stretch of one trial, oldest first; beyond its ends there is nothing. A missing value is NaN, and so is
        what cannot be made without it, within the transform's reach."""
        ...


@runtime_checkable
class FrameTransform(Protocol):
    """Changes the pixels of each frame by itself."""

    def pixels(self, frames_CTHW: np.ndarray) -> FloatArray: ...


@runtime_checkable
class TargetTransform(Protocol):
    """Changes what training aims at. Validation, test and the LN baseline keep what was measured."""

    def reach(self, frame_rate_hz: float) -> tuple[int, int]: ...

    def targets(self, counts_TU: FloatArray, valid_TU: np.ndarray, frame_rate_hz: float) -> FloatArray: ...


def widths(transforms: Mapping[str, Transform], stored: Mapping[str, int]) -> dict[str, int]:
    """Numbers of each behavior, stored or made, of a recording that stores these; what cannot be made is left out.

    Raises
    ------
    ValueError
        Where behaviors are made from each other in a circle.
    """
    known = dict(stored)
    for name in transforms:
        for made in reversed(chain(transforms, name)):
            node = transforms[made]
            assert isinstance(node, BehaviorTransform)
            numbers = stored.get(made) if node.source == made else known.get(node.source)
            if numbers is None:
                known.pop(made, None)
                break
            known[made] = node.width(numbers)
    return known


def chain(transforms: Mapping[str, Transform], name: str) -> list[str]:
    """The transforms behind a behavior, the last one first; a transform of its own name's stored behavior ends it."""
    found: list[str] = []
    while isinstance(node := transforms.get(name), BehaviorTransform):
        if name in found:
            raise ValueError(
                f"data.transforms: {' ← '.join([*found, name])} is a circle; let one of them have a stored "
                "behavior as its source"
            )
        found.append(name)
        if node.source == name:
            break
        name = node.source
    return found


def finished(transforms: Mapping[str, Transform], stored: Mapping[str, int]) -> list[str]:
    """The behaviors of a recording that stores these, but what is made only so that another can be made from it."""
    steps = {node.source for node in transforms.values() if isinstance(node, BehaviorTransform)}
    return [name for name in widths(transforms, stored) if name in stored or name not in steps]


def refuse_unseen(transforms: Mapping[str, Transform], behavior: Sequence[str]) -> None:
    """Refuse transforms that do nothing, because neither ``data.behavior`` nor another of them names what they make."""
    used = {made for name in behavior for made in chain(transforms, name)}
    unseen = [name for name, node in transforms.items() if isinstance(node, BehaviorTransform) and name not in used]
    if unseen:
        raise ValueError(
            f"data.transforms makes {', '.join(unseen)}, and data.behavior, which says what the twin sees, does not "
            f"name it: set {setting('data.behavior', [*behavior, *unseen])} or a part of that; data/transforms=none "
            "makes none"
        )


def positive(values: Mapping[str, float]) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}; give a number above 0")


MOST = {"n": 1000, "duration_s": 600.0, "std_px": 1000.0}


def at_most(**values: float) -> None:
    """A transform comes with a checkpoint too; it must not ask for more memory than any sensible one."""
    for name, value in values.items():
        if not value <= MOST[name]:
            raise ValueError(f"{name} is {value}; give at most {MOST[name]}")


# --- behavior -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Velocity(Transform):
    """Change a second, from the bin before; 0 in a trial's first bin. Of eye position, of pupil size, of a wheel."""

    source: str

    def width(self, numbers: int) -> int:
        return numbers

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        return 1, 0

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        return (np.diff(trace_TD, axis=0, prepend=trace_TD[:1]) * frame_rate_hz).astype(np.float32)


@dataclass(frozen=True)
class Speed(Transform):
    """The length of the source's numbers taken as one vector: running speed, eye speed. One number."""

    source: str

    def width(self, numbers: int) -> int:
        return 1

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        return 0, 0

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        return np.linalg.norm(trace_TD, axis=1, keepdims=True).astype(np.float32)


@dataclass(frozen=True)
class SplitBySign(Transform):
    """The positive parts, then the negative parts as positive numbers."""

    source: str

    def width(self, numbers: int) -> int:
        return 2 * numbers

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        return 0, 0

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        return split_by_sign(trace_TD)


@dataclass(frozen=True)
class Smooth(Transform):
    """A running mean with exponential weights, of the values that are there; a trial begins with what there is."""

    source: str
    tau_s: float  # time constant, s

    def __post_init__(self) -> None:
        positive({"tau_s": self.tau_s})

    def width(self, numbers: int) -> int:
        return numbers

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        return memory(self.tau_s, frame_rate_hz), 0

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        return smoothed(trace_TD, np.isfinite(trace_TD), self.tau_s, frame_rate_hz, nothing=np.nan)


@dataclass(frozen=True)
class RaisedCosines(Transform):
    """The source smoothed by ``n`` raised cosines over lags (:func:`behavior.raised_cosine_basis`)."""

    source: str
    n: int  # cosines
    duration_s: float  # from the first cosine's center to the last one's, s
    causal: bool  # false: the lags also run into the future, and every report of the run says so

    def __post_init__(self) -> None:
        at_most(n=self.n, duration_s=self.duration_s)

    def width(self, numbers: int) -> int:
        return numbers * self.n

    def basis(self, frame_rate_hz: float) -> Basis:
        return raised_cosine_basis(self.n, self.duration_s, frame_rate_hz, self.causal)

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        basis = self.basis(frame_rate_hz)
        return basis.first_lag + len(basis.weights) - 1, -basis.first_lag

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        return expand(trace_TD, self.basis(frame_rate_hz), Whole(len(trace_TD)))


@dataclass(frozen=True)
class PositionBasis(Transform):
    """Where in a span each number lies: ``n`` raised cosines that add up to 1, for example over the eye's range."""

    source: str
    n: int  # cosines
    low: float  # center of the first, in the source's unit; below it, it stays 1
    high: float  # center of the last

    def __post_init__(self) -> None:
        at_most(n=self.n)
        if self.n < 2 or not self.low < self.high:
            raise ValueError(f"n is {self.n}, low {self.low}, high {self.high}; give 2 or more cosines and low < high")

    def width(self, numbers: int) -> int:
        return numbers * self.n

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        return 0, 0

    def __call__(self, trace_TD: FloatArray, frame_rate_hz: float) -> FloatArray:
        values = cosines_over(np.clip(trace_TD, self.low, self.high).ravel(), self.low, self.high, self.n)
        return values.reshape(len(trace_TD), -1)


class Whole:
    """One trial that is all there is."""

    def __init__(self, n_bins: int) -> None:
        self.start, self.stop = np.array([0]), np.array([n_bins])


# --- pixels ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contrast(Transform):
    """Each frame less its mean, divided by its standard deviation, over the frame or around each pixel.

    The twin divides by the recording's own standard deviation in any case; this one takes out what changes from frame
    to frame: brightness and contrast. Frame by frame, so it is causal.

    References
    ----------
    Jarrett et al. 2009, What is the best multi-stage architecture for object recognition? (local normalization)
    """

    std_px: float | None  # of the Gaussian neighborhood, px; null: the whole frame
    floor: float  # added to the standard deviation, in pixel units, so that flat frames stay flat

    def __post_init__(self) -> None:
        at_most(std_px=self.std_px or 0.0)
        positive({"floor": self.floor} | ({} if self.std_px is None else {"std_px": self.std_px}))

    def pixels(self, frames_CTHW: np.ndarray) -> FloatArray:
        x: FloatArray = frames_CTHW.astype(np.float32)
        x = x - self.around(x)
        x /= np.sqrt(np.maximum(self.around(x**2), 0)) + np.float32(self.floor)
        return x

    def around(self, x_CTHW: FloatArray) -> FloatArray:
        if self.std_px is None:
            mean: FloatArray = x_CTHW.mean((2, 3), keepdims=True)
            return mean
        near: FloatArray = gaussian_filter(x_CTHW, (0, 0, self.std_px, self.std_px), mode="nearest")
        return near


# --- training targets ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SmoothTargets(Transform):
    """Training aims at a running mean of the responses with exponential weights; for calcium, whose noise is fast."""

    tau_s: float  # time constant, s

    def __post_init__(self) -> None:
        positive({"tau_s": self.tau_s})

    def reach(self, frame_rate_hz: float) -> tuple[int, int]:
        return memory(self.tau_s, frame_rate_hz), 0

    def targets(self, counts_TU: FloatArray, valid_TU: np.ndarray, frame_rate_hz: float) -> FloatArray:
        return smoothed(counts_TU, valid_TU, self.tau_s, frame_rate_hz)


def memory(tau_s: float, frame_rate_hz: float) -> int:
    return int(np.ceil(MEMORY * tau_s * frame_rate_hz))


def smoothed(
    trace_TD: FloatArray, valid_TD: np.ndarray, tau_s: float, frame_rate_hz: float, nothing: float = 0.0
) -> FloatArray:
    """The mean of the valid bins up to each one, weighted by exp(-age / tau); ``nothing`` where there is none."""
    lags = memory(tau_s, frame_rate_hz)
    out_TD = np.empty(trace_TD.shape, np.float32)
    for start in range(0, len(trace_TD), BLOCK):
        stop = min(start + BLOCK, len(trace_TD))
        first = max(0, start - lags)
        age = np.arange(start, stop)[:, None] - np.arange(first, stop)
        kept = (age >= 0) & (age <= lags)
        weights_TT = np.where(kept, np.exp(-np.maximum(age, 0) / (tau_s * frame_rate_hz)), 0).astype(np.float32)
        valid = valid_TD[first:stop].astype(np.float32)
        total = weights_TT @ valid
        mean = (weights_TT @ np.where(valid_TD[first:stop], trace_TD[first:stop], 0)) / np.maximum(total, 1e-9)
        out_TD[start:stop] = np.where(total > 0, mean, nothing)
    return out_TD
