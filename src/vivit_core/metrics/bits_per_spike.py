"""Bits per spike: by how many bits a spike a prediction is a better model than the unit's own mean.

References
----------
Pillow et al. (2008), Nature 454:995.
"""

from __future__ import annotations

import math

import numpy as np

from vivit_core.metrics.base import Totals, UnitMetric


class BitsPerSpike(UnitMetric):
    """The likelihood's gain over the null model, in bits a spike. Not clamped: a bad prediction is negative. NaN for a
    unit without counts, and for one without events, where the likelihood counts these."""

    name = "bps"
    title = "bits per spike"
    method = (
        "bits per spike: (null − nats) / (Σ n · ln 2) over a unit's valid bins, n the count. nats is what the "
        "prediction costs under the likelihood of this training, for Poisson Σ (r̂ − n ln r̂) with r̂ the prediction; "
        "null is what the unit's own mean over the same bins costs (Pillow et al. 2008). A likelihood made for traces "
        "divides by its events (summary.json: event), bins above zero or all bins. Not clamped. A silent unit, "
        "without a spike or without an event, has none, is left out of means, and is counted."
    )

    def score(self, totals: Totals, sums: np.ndarray) -> np.ndarray:
        gained = totals.null_nats - totals.nats
        fired = (totals.counts > 0) & (totals.events > 0)
        return np.where(fired, gained / (totals.events * math.log(2)), np.nan)
