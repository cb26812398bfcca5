"""A finding, and what all looks at recordings share.

Shape letters: N trials, U units, L lags, K frames, H W pixels, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from vivit_core.data.recording.reader import Recording

BINS = 4096  # bins of responses and behavior read at once


PIXELS = 48e6  # most pixels of a recording that the maps are made from


SAMPLED_FRAMES = 2048  # frames looked at one by one


TRIAL_FRAMES = 8  # frames by which trials are compared first


UNITS = 128  # units mapped at once


ALIGNED_UNITS = 128  # most active units that alignment is judged by


BLOCKS = 48  # places of a frame that alignment is judged by


WINDOW_S = 0.4  # lags looked at, to both sides


LATE_S = {"spikes": 0.25, "calcium": 0.8}  # responses that peak later than this are suspected of being shifted


STEADY = 3.0  # standard deviations of a rank correlation of rate with time


ENOUGH_S = 60.0  # of stimulus, after which responses that do not follow it are a fault


EXPECTED = 20.0  # spikes that must be missing before a unit counts as silent


@dataclass(frozen=True)
class Finding:
    """Something to know of a recording: ``fault`` where it is likely to spoil a training, else ``note``."""

    check: str
    level: Literal["fault", "note"]
    where: str  # units, trials, fields
    what: str
    remedy: str


@dataclass
class Look:
    """What was seen of a recording. Arrays are for the pictures; ``summary`` is for the file."""

    summary: dict[str, Any]
    findings: list[Finding]
    rate_NU: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # mean counts a bin of each trial
    split_N: np.ndarray = field(default_factory=lambda: np.zeros(0, str))
    mean_rate_hz_U: np.ndarray = field(default_factory=lambda: np.zeros(0))
    snr_U: np.ndarray = field(default_factory=lambda: np.zeros(0))
    map_UHW: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1)))  # that placed the clearest units
    mapped_units: list[int] = field(default_factory=list)
    mapped_ids: list[str] = field(default_factory=list)
    center_U2: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    lag_s_L: np.ndarray = field(default_factory=lambda: np.zeros(0))
    link_L: np.ndarray = field(
        default_factory=lambda: np.zeros(0)
    )  # stimulus-response link, in null standard deviations
    frames_KHW: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1)))

    def find(self, check: str, level: Literal["fault", "note"], where: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(check, level, where, what, remedy))


def quantiles(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    names = ("q05", "median", "q95")
    return dict(zip(names, np.quantile(known, [0.05, 0.5, 0.95]).tolist() if len(known) else [np.nan] * 3, strict=True))


def pieces(recording: Recording) -> Iterator[tuple[int, int, int]]:
    """Trial, first and last bin of every piece of every trial."""
    trials = recording.info.trials
    for n, (first, last) in enumerate(zip(trials.start.tolist(), trials.stop.tolist(), strict=True)):
        for start in range(first, last, BINS):
            yield n, start, min(start + BINS, last)
