"""Measured and predicted rates over time."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter1d

from vivit_core.plotting.style import BASELINE, MEASURED, TWIN, save

RATES_HZ = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)  # ticks of a logarithmic axis


SMOOTHING_S = 0.025  # standard deviation of the Gaussian over measured counts


def rates(
    path: Path,
    *,
    times_s: np.ndarray,
    measured_hz: np.ndarray,
    predicted_hz: np.ndarray,
    ln_hz: np.ndarray | None,
    titles: Sequence[str],
    title: str,
) -> Path:
    """Measured (smoothed) and predicted rates of a few units, one below the other.

    Parameters
    ----------
    path : of the PNG.
    times_s : (T,) evenly spaced.
    measured_hz, predicted_hz, ln_hz : (T, U); measured NaN where not valid.
    titles : one a unit.
    title : above all.
    """
    bin_s = times_s[1] - times_s[0] if len(times_s) > 1 else SMOOTHING_S
    smooth_hz = smoothed(measured_hz, bin_s, axis=0)
    figure = Figure(figsize=(10, 2.1 * len(titles) + 0.6), layout="constrained")
    for unit, axes in enumerate(figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]):
        axes.fill_between(times_s, smooth_hz[:, unit], color=MEASURED, alpha=0.3, lw=0, label="measured, smoothed")
        if ln_hz is not None:
            axes.plot(times_s, ln_hz[:, unit], color=BASELINE, lw=1.0, alpha=0.9, label="LN")
        axes.plot(times_s, predicted_hz[:, unit], color=TWIN, lw=1.4, label="predicted")
        axes.set_title(titles[unit], loc="left", fontsize=10)
        axes.set(ylabel="rate (Hz)", xlim=(times_s[0], times_s[-1] + bin_s), ylim=(0, None))
        if unit == 0:
            axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98), fontsize=9)
        if unit == len(titles) - 1:
            axes.set_xlabel("time (s)")
    figure.suptitle(title)
    return save(figure, path)


def smoothed(values: np.ndarray, bin_s: float, axis: int) -> np.ndarray:
    """By a Gaussian over bins; NaN counts for nothing, and where there is nothing else it stays."""
    valid, sigma = ~np.isnan(values), SMOOTHING_S / bin_s
    weight = gaussian_filter1d(valid.astype(np.float64), sigma, axis=axis)
    value = gaussian_filter1d(np.where(valid, values, 0.0).astype(np.float64), sigma, axis=axis)
    return np.where(weight > 1e-3, value / np.maximum(weight, 1e-3), np.nan)


def smoothed_average(trials_hz: np.ndarray, bin_s: float) -> tuple[np.ndarray, np.ndarray]:
    """Mean over repeats and its standard error, (T,) each, from smoothed (R, T); NaN counts for nothing. One repeat has
    no error: NaN."""
    smooth = smoothed(trials_hz, bin_s, axis=1)
    n = (~np.isnan(smooth)).sum(0)
    mean = np.where(n > 0, np.nansum(smooth, 0) / np.maximum(n, 1), np.nan)
    spread = np.nansum((smooth - mean) ** 2, 0) / np.maximum(n - 1, 1)
    return mean, np.where(n > 1, np.sqrt(spread / np.maximum(n, 1)), np.nan)
