"""An adapter, and a test pulse some time after it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivit_core.stimuli.base import Stimulus, negative, not_positive, refuse, unseen
from vivit_core.stimuli.gratings import aperture
from vivit_core.stimuli.surrounds import Drift


@dataclass(frozen=True)
class AdapterAndTest(Stimulus):
    """Gray, an adapting grating in a disc, gray for a delay, a short test grating there, gray.

    Parameters
    ----------
    adapter, test : what drifts; None leaves its time gray.
    center_px, diameter_px : the disc.
    before_s : gray at first, s.
    adapter_s : time of the adapter, s.
    delay_s : gray between the adapter's end and the test, s.
    test_s : time of the test, s.
    after_s : gray at last, s.

    Raises
    ------
    ValueError
        Where a time is negative, or frames are asked for at a rate at which no bin would show a grating.
    """

    adapter: Drift | None
    test: Drift | None
    center_px: tuple[float, float]
    diameter_px: float
    before_s: float
    adapter_s: float
    delay_s: float
    test_s: float
    after_s: float

    def __post_init__(self) -> None:
        problems = not_positive(self, "diameter_px", "adapter_s", "test_s")
        refuse(self, problems + negative(self, "before_s", "delay_s", "after_s"))

    @property
    def test_at_s(self) -> float:
        """When the test begins, s from the clip's start."""
        return self.before_s + self.adapter_s + self.delay_s

    @property
    def duration_s(self) -> float:  # type: ignore[override]
        return self.test_at_s + self.test_s + self.after_s

    def frames(self, size: tuple[int, int], rate_hz: float) -> Tensor:
        clip = torch.zeros(self.bins(rate_hz), *size)
        disc = aperture(size, np.asarray(self.center_px), self.diameter_px)
        for name, drift, begins_s, lasts_s in (
            ("adapter_s", self.adapter, self.before_s, self.adapter_s),
            ("test_s", self.test, self.test_at_s, self.test_s),
        ):
            if drift is not None:
                first, last = (round(t * rate_hz) for t in (begins_s, begins_s + lasts_s))
                if last <= first:
                    refuse(self, [unseen(self, name, rate_hz)])
                clip[first:last] = disc * drift.over(size, np.arange(last - first) / rate_hz)
        return clip
