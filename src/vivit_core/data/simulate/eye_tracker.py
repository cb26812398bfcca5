"""An eye tracker that is wrong, as real ones are: what it says of the eye's position, and where frames come to lie.

Shape letters: N trials, T bins (= frames), 2 = (x, y).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

from vivit_core.data.simulate.population import ornstein_uhlenbeck

FloatArray = NDArray[np.float32]

MOST_DRIFT = 3.0  # standard deviations; drift goes no further
LEAST_ROOM = 0.25  # of a scene's room that the eye keeps, so that what the tracker says lies in the scene too


@dataclass(frozen=True)
class EyeTracker:
    """How wrong the trackers of a data set are; each recording has errors of its own.

    What is told is (1 + G) p + o + d, with p the true position, G a matrix (gain and turning), o an offset and d a
    drift that goes on through the recording.

    Parameters
    ----------
    offset_deg : standard deviation of the offset along each axis, degrees.
    gain : standard deviation of each number of G.
    drift_deg : standard deviation of the drift along each axis, degrees.
    drift_s : time in which the drift is forgotten, seconds.

    Raises
    ------
    ValueError
        For a number out of its range.
    """

    offset_deg: float
    gain: float
    drift_deg: float
    drift_s: float

    def __post_init__(self) -> None:
        if min(self.offset_deg, self.gain, self.drift_deg) < 0 or not self.drift_s > 0:
            raise ValueError(
                f"the simulator's eye_tracker: offset_deg={self.offset_deg}, gain={self.gain} and "
                f"drift_deg={self.drift_deg} must be at least 0, and drift_s={self.drift_s} above 0"
            )

    def draw(self, n_trials: int, n_bins: int, frame_rate_hz: float, rng: np.random.Generator) -> Tracked:
        """The errors of one recording's tracker."""
        matrix = np.eye(2) + self.gain * rng.normal(size=(2, 2))
        offset = self.offset_deg * rng.normal(size=2)
        drift = ornstein_uhlenbeck((1, n_trials * n_bins, 2), self.drift_s, frame_rate_hz, rng)
        drift_NT2 = rearrange(drift[0].clip(-MOST_DRIFT, MOST_DRIFT), "(n t) d -> n t d", n=n_trials)
        return Tracked(matrix, offset, (self.drift_deg * drift_NT2).astype(np.float32), MOST_DRIFT * self.drift_deg)


@dataclass(frozen=True, eq=False)
class Tracked:
    """The errors of one tracker."""

    matrix: NDArray[np.float64]  # (2, 2)
    offset_deg: NDArray[np.float64]  # (2,)
    drift_deg_NT2: FloatArray
    most_drift_deg: float

    def told(self, position_T2: FloatArray, trial: int) -> FloatArray:
        """What the tracker says of the eye in a trial, degrees: (T, 2)."""
        told: FloatArray = position_T2 @ self.matrix.T + self.offset_deg + self.drift_deg_NT2[trial]
        return told.astype(np.float32)

    def room(self, room_deg: tuple[float, float]) -> tuple[float, float]:
        """How far the eye may go, (x, y) in degrees, where what the tracker says may go as far as ``room_deg``.

        Raises
        ------
        ValueError
            Where little is left.
        """
        x, y = room_deg
        left = np.array([x, y]) - np.abs(self.offset_deg) - self.most_drift_deg
        part = min(1.0, float((left / (np.abs(self.matrix) @ [x, y])).min()))
        if part < LEAST_ROOM:
            raise ValueError(
                f"the simulator's eye_tracker is wrong by so much that the eye could use {max(part, 0.0):.2f} of a "
                f"scene, and should {LEAST_ROOM}: set smaller data.simulator.eye_tracker.offset_deg, drift_deg or gain"
            )
        return part * x, part * y
