"""The time of an NWB file: bins between the onsets of frames, and what a behavior was at their ends.

Shape letters: T bins, F frames, S samples, D behavior numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

BLOCK = 4096  # bins that are made at once
LEAST = 0.75  # bins that most frames have to last for
APART = 0.01  # by how much the bins' rate may differ from the one that is asked for, as a fraction


@dataclass(frozen=True, eq=False)
class Clock:
    """When each bin starts and stops (s), which frame it shows, and after which bins there is a gap."""

    start_s: np.ndarray  # (T,)
    stop_s: np.ndarray  # (T,)
    frame: np.ndarray  # (T,)
    gap_after: np.ndarray  # (T,) bool
    rate_hz: float

    def of(self, bins: np.ndarray) -> Clock:
        """Some of the bins, rising."""
        return Clock(self.start_s[bins], self.stop_s[bins], self.frame[bins], self.gap_after[bins], self.rate_hz)


def make_clock(
    times_F: np.ndarray, rate_hz: float | None, longest_frame_s: float | np.ndarray, notes: list[str]
) -> Clock:
    """Bins between the onsets of frames.

    Parameters
    ----------
    times_F : onsets, s, rising.
    rate_hz : bins a second, about; None for one bin in the median time between frames.
    longest_frame_s : a frame that stays longer is shown for the median time of the others, and followed by a gap; one
        number, or one a frame.
    notes : lines on what was repeated are added.

    Raises
    ------
    ValueError
        Where the frames come faster than the bins, or cannot be cut into whole numbers of bins at this rate.
    """
    stay_F = np.diff(times_F)
    median = float(np.median(stay_F)) if len(stay_F) else 1.0 / (rate_hz or 1.0)
    rate = rate_hz or 1.0 / median
    if median * rate < LEAST:
        raise ValueError(
            f"importer.frame_rate_hz={rate:g}, but the stimulus has {1 / median:g} frames a second; import at its own "
            "rate (null), and let data.frame_rate_hz bring it down"
        )
    gap_F = np.append(stay_F > np.broadcast_to(longest_frame_s, times_F.shape)[:-1], False)
    bins_F = np.rint(np.append(stay_F, 0.0) * rate).astype(np.int64)
    timed_F = np.append(~gap_F[:-1], False)  # how long others were shown, before a gap or at the end, nobody knows
    timed = (stay_F[timed_F[:-1]], bins_F[timed_F]) if bins_F[timed_F].any() else None
    own_hz = _rate_of(*timed) if timed else rate
    if rate_hz is not None and timed and abs(own_hz - rate_hz) > APART * rate_hz:
        raise ValueError(
            f"importer.frame_rate_hz: {rate_hz:g} bins a second do not fit the stimulus: a frame stays for a whole "
            f"number of bins, which makes {own_hz:g} of them; {_that_fit(timed[0], median, rate_hz)}, and let "
            "data.frame_rate_hz bring it down"
        )
    # Whole bins of the others' length: a median between two stays may be none. A gap may be shorter than a picture.
    own = max(1, round((float(np.median(timed[0])) if timed else median) * own_hz))
    stay_F = np.append(stay_F, np.inf)
    bins_F[~timed_F] = np.clip(np.minimum(stay_F[~timed_F] * own_hz, own), 1, None).astype(np.int64)
    stay_F[~timed_F] = bins_F[~timed_F] / own_hz
    if (longer := int((bins_F > own).sum())) and own == 1:
        notes.append(f"{longer} frames stayed for more than one bin (dropped successors) and are repeated")
    if (shorter := int((bins_F == 0).sum())) > 0:
        notes.append(f"{shorter} frames were replaced within half a bin and are not shown")
    frame = np.repeat(np.arange(len(times_F)), bins_F)
    first = np.repeat(np.cumsum(bins_F) - bins_F, bins_F)
    within = np.arange(len(frame)) - first
    length = stay_F[frame] / bins_F[frame]
    start = times_F[frame] + within * length
    last = within == bins_F[frame] - 1
    # The time of a frame that is not shown is no bin's.
    return Clock(start, start + length, frame, gap_F[frame] & last, own_hz)


def _rate_of(stay_F: np.ndarray, bins_F: np.ndarray) -> float:
    """Bins a second where frames are cut into so many: of the mean bin, because times may be rounded to milliseconds,
    and then no single one has the right length; to a millionth."""
    shown = bins_F > 0
    return round(float(bins_F[shown].sum() / stay_F[shown].sum()), 6)


def _that_fit(stay_F: np.ndarray, median: float, rate_hz: float) -> str:
    """The nearest rates below and above into which frames that stay so long can be cut, as a remedy."""
    some_F = np.sort(stay_F)[:: -(-len(stay_F) // 300)]  # evenly by length: enough to tell

    def of(rate: float) -> float:
        enough = median * rate >= LEAST
        return _rate_of(some_F, np.rint(some_F * rate).astype(np.int64)) if enough else np.nan

    near = (float(f"{of(rate):g}") for rate in rate_hz * np.geomspace(0.5, 2, 101))
    fit = [rate for rate in near if abs(of(rate) - rate) <= APART * rate]
    below, above = [rate for rate in fit if rate < rate_hz], [rate for rate in fit if rate > rate_hz]
    nearest = [f"{rate:g}" for rate in (*sorted(below)[-1:], *sorted(above)[:1])]
    return f"give {' or '.join(nearest)}" if nearest else "give a much higher one"


class Sampled:
    """A behavior at the ends of bins: its newest sample then, so that nothing later is known.

    Parameters
    ----------
    data : (S,) or (S, D), sliceable.
    times_S : s, rising.
    ends_T : ends of the bins, s.
    longest_s : a sample stands for at most this long; after that, and before the first, the behavior is unknown.
    scale, shift : value = scale · data + shift.
    """

    def __init__(
        self, data: Any, times_S: np.ndarray, ends_T: np.ndarray, longest_s: float, scale: float, shift: float
    ) -> None:
        self.data, self.times_S, self.ends_T = data, times_S, ends_T
        self.longest_s, self.scale, self.shift = longest_s, scale, shift

    def values(self, start: int, stop: int) -> np.ndarray:
        """(T, D) float32; NaN where it is unknown."""
        return np.concatenate([self._block(a, b)[0] for a, b in blocks(start, stop)])

    def known(self, start: int, stop: int) -> np.ndarray:
        """(T,) bool."""
        return np.concatenate([self._block(a, b)[1] for a, b in blocks(start, stop)])

    def _block(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        ends = self.ends_T[start:stop]
        newest = np.searchsorted(self.times_S, ends, side="right") - 1
        first = max(0, int(np.searchsorted(self.times_S, ends[0] - self.longest_s)))
        last = int(newest[-1]) + 1
        width = self.data.shape[1] if len(self.data.shape) == 2 else 1
        if last <= first:
            return np.full((len(ends), width), np.nan, np.float32), np.zeros(len(ends), bool)
        read = np.asarray(self.data[first:last], np.float64).reshape(last - first, width) * self.scale + self.shift
        rows = np.maximum.accumulate(np.where(np.isfinite(read).all(1), np.arange(last - first), -1))
        pick = np.where(newest >= first, rows[np.clip(newest - first, 0, None)], -1)
        known = (pick >= 0) & (ends - self.times_S[np.maximum(pick, 0) + first] <= self.longest_s)
        return np.where(known[:, None], read[np.maximum(pick, 0)], np.nan).astype(np.float32), known


def blocks(start: int, stop: int) -> Iterator[tuple[int, int]]:
    for first in range(start, stop, BLOCK):
        yield first, min(first + BLOCK, stop)
