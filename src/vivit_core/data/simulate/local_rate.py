"""The best local rate: what an observer can say of a rate who knows nothing of the context.

Shape letters: N trials, T bins, U units.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

from vivit_core.data.simulate.cells import FloatArray

STEPS, FOLDS = 400, 4  # levels of drive, and groups of stimuli


def local_rate(
    rate_NTU: FloatArray, drive_NTU: FloatArray, gain_NTU: FloatArray, stimulus_N: NDArray[np.str_]
) -> FloatArray:
    """The best that an observer can say of the rate who knows the local drive and the eye's gain alone: (N, T, U).

    Unit by unit, the rate over the gain is regressed on the drive (isotonic regression, weighted by the gain, which is
    the maximum of the Poisson likelihood). Each stimulus is predicted by what the others show; a single one by itself.

    Parameters
    ----------
    rate_NTU
        True rates.
    drive_NTU, gain_NTU
        What the observer knows.
    stimulus_N
        Names of the trials' stimuli, by which they are divided.
    """
    group_N = np.unique(stimulus_N, return_inverse=True)[1] % FOLDS
    groups = np.unique(group_N)
    best_NTU = np.empty_like(rate_NTU)
    for unit in range(rate_NTU.shape[-1]):
        rate, drive, gain = (a[..., unit].astype(np.float64) for a in (rate_NTU, drive_NTU, gain_NTU))
        edges = np.quantile(drive, np.arange(1, STEPS) / STEPS)
        step = np.searchsorted(edges, drive)
        sums = np.zeros((3, len(groups), STEPS))
        for g, group in enumerate(groups):
            own = group_N == group
            for row, values in enumerate((gain, rate, gain * drive)):
                sums[row, g] = np.bincount(step[own].ravel(), values[own].ravel(), STEPS)
        for g, group in enumerate(groups):
            own = group_N == group
            others = sums.sum(1) if len(groups) == 1 else sums.sum(1) - sums[:, g]
            weight, spikes, driven = others[:, others[0] > 1e-9 * others[0].sum()]
            curve = isotonic_regression(spikes / weight, weights=weight).x
            place = driven / weight
            # Beyond the last level the curve goes on in proportion.
            beyond = np.maximum(drive[own] / max(place[-1], 1e-30), 1)
            best_NTU[own, :, unit] = gain[own] * np.interp(drive[own], place, curve) * beyond
    return best_NTU
