"""Scores on repeated stimuli: explainable variance, correlation to the average, normalized correlation.

Shape letters: R repeats, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from vivit_core.metrics.correlation import CONSTANT, constant, pearson

RELIABLE = 2.0
"""A unit's normalized correlation enters a summary where its signal power is above this many of its standard errors:
the bias of dividing by the square root of a noisy signal power, about ⅜ / RELIABLE² of the value, stays below a tenth.
"""


UNITS_AT_ONCE = 64  # whose repeats are copied to float64 together; a score takes some ten copies of them


class Repeats(NamedTuple):
    """The trials of one repeated stimulus, each (R, T, U)."""

    predicted: np.ndarray  # expected counts; may differ between repeats, as behavior does
    counts: np.ndarray
    mask: np.ndarray  # pairs that count


class RepeatScores(NamedTuple):
    """One number a unit, (U,) float64; NaN where a score is not defined."""

    correlation_to_average: np.ndarray
    explainable_variance: np.ndarray
    normalized_correlation: np.ndarray
    bins: np.ndarray  # bins with at least two repeats
    signal_to_error: np.ndarray  # signal power over its standard error

    @property
    def reliable(self) -> np.ndarray:
        """Units whose signal power is far enough above zero to divide by."""
        return np.nan_to_num(self.signal_to_error) > RELIABLE


def repeat_scores(stimuli: Sequence[Repeats]) -> RepeatScores:
    """Scores on repeated stimuli; the bins of all stimuli are taken together, and those with at least two valid repeats
    count.

    What differs between repeats (noise, the animal's state) may be slow, and a prediction that knows the animal's state
    shares it. So every product is of two *different* repeats, in which nothing but the stimulus is common: with n
    repeats of a bin and sums Σ over them, E[x y] = (Σx Σy − Σxy) / (n (n − 1)); and the covariance over bins is
    the mean of that less the same of the trials' means. It is unbiased for any number of repeats and noise of any
    speed, where repeats are independent.

    - correlation to the average: Pearson correlation of the mean prediction and the mean count over repeats. Like the
      normalized one it is 0 where that prediction is constant, and NaN where the mean count is.
    - signal power S: covariance of the counts with themselves. For one stimulus and equal n it is the signal power
      of Sahani and Linden (2003).
    - explainable variance: S / (S + mean(s²)), s² a bin's unbiased variance over repeats: the part of a single trial's
      variance that the stimulus explains. An estimate for a unit without signal scatters around zero and can be
      negative.
    - normalized correlation, CC_norm of Schoppe et al. (2016) = CC_abs / CC_max (Hsu et al. 2004) = cov(ŷ, y) /
      √(var(ŷ) · S): the correlation of the means that infinitely many repeats would have. Not clamped; NaN where S
      is not positive. Where S is small it is noisy, and dividing by its root biases it upwards; ``reliable`` says for
      which units S is large enough.
    - signal to error: S over its standard error, from how strong and how slow the noise is (``_signal_variance``).

    References
    ----------
    Hsu, Borst, Theunissen (2004), Network 15:91. Sahani, Linden (2003), NIPS 15. Schoppe et al. (2016), Front. Comput.
    Neurosci. 10:10.
    """
    if not stimuli:
        raise ValueError("no repeated stimulus to score; give at least one")
    units = np.shape(stimuli[0].counts)[-1]
    some = [slice(first, first + UNITS_AT_ONCE) for first in range(0, max(units, 1), UNITS_AT_ONCE)]
    found = [_scores([Repeats(*(np.asarray(x)[..., own] for x in s)) for s in stimuli]) for own in some]
    return RepeatScores(*(np.concatenate(parts) for parts in zip(*found, strict=True)))


def _scores(stimuli: Sequence[Repeats]) -> RepeatScores:
    """Scores of some units."""
    n, mean, spread, predicted = (
        np.concatenate(rows) for rows in zip(*(_over_repeats(s) for s in stimuli), strict=True)
    )
    use = n >= 2
    bins = use.sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):

        def average(x: np.ndarray) -> np.ndarray:
            return np.where(use, x, 0.0).sum(0) / bins

        correlation = pearson(
            average(mean * predicted), average(mean), average(predicted), average(mean**2), average(predicted**2)
        )
        masks = [np.asarray(s.mask, bool) for s in stimuli]
        counts = [_centered(s.counts, average(mean), s.mask) for s in stimuli]
        rates = [_centered(s.predicted, average(predicted), s.mask) for s in stimuli]
        signal = _over_pairs(counts, counts, masks)
        of_rate, shared = _over_pairs(rates, rates, masks), _over_pairs(counts, rates, masks)
        total = signal + average(spread)
        varies = (bins >= 2) & (total > CONSTANT * average(mean**2))
        explainable = np.where(varies, signal / total, np.nan)
        there = varies & (signal > 0) & ~np.isnan(correlation)
        still = constant(average(predicted), average(predicted**2))
        defined = there & ~still & (of_rate > 0)
        normalized = np.where(defined, shared / np.sqrt(np.where(defined, of_rate * signal, 1.0)), np.nan)
        normalized[there & still] = 0.0
        variance = sum(_signal_variance(y, m) for y, m in zip(counts, masks, strict=True)) / bins**2
        signal_to_error = np.where(bins >= 2, signal / np.sqrt(variance), np.nan)
    return RepeatScores(correlation, explainable, normalized, bins.astype(np.float64), signal_to_error)


def _centered(x: np.ndarray, mean: np.ndarray, mask: np.ndarray) -> np.ndarray:
    return np.where(mask, np.asarray(x, np.float64) - mean, 0.0)


def _over_pairs(x: Sequence[np.ndarray], y: Sequence[np.ndarray], masks: Sequence[np.ndarray]) -> np.ndarray:
    """Covariance over all stimuli's bins of what two different repeats of x and y share, (U,).

    x and y (R, T, U) of each stimulus have mean zero over the bins with two repeats, and are zero where masked. Where
    a unit's valid repeats change within a trial, the trials' weights are those over the whole trial.
    """
    products, means, bins = 0.0, 0.0, 0.0
    for a, b, mask in zip(x, y, masks, strict=True):
        n = mask.sum(0)
        use = n >= 2
        pairs = (a.sum(0) * b.sum(0) - (a * b).sum(0)) / np.where(use, n * (n - 1), 1)
        products = products + np.where(use, pairs, 0.0).sum(0)
        weight = np.where(mask & use, 1 / np.maximum(n, 1), 0.0)  # of each repeat in its bin
        a_RU, b_RU, weight_RU = ((weight * z).sum(1) for z in (a, b, np.ones_like(a)))
        own = weight_RU.sum(0)
        different = 1 - (weight_RU**2).sum(0) / np.maximum(own, 1) ** 2
        apart = (a_RU.sum(0) * b_RU.sum(0) - (a_RU * b_RU).sum(0)) / np.where(own > 0, different, 1.0)
        means = means + apart - a_RU.sum(0) * b_RU.sum(0)
        bins = bins + own
    return np.asarray((products / bins - means / bins**2) * bins / (bins - 1))


def _signal_variance(y: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Variance of a stimulus's part of the sum over bins whose mean is the signal power, (U,).

    The product of two different repeats has variance 4 m² v / n + 2 v² / (n (n − 1)), with m a bin's true mean (about
    the mean over bins) and v its variance over repeats. Noise that outlasts a bin makes neighboring products vary
    together: covariances of lag k, c of the noise and M of the signal, add 2 (4 M c / n + 2 c² / (n (n − 1))). Lags
    are followed until a unit's noise is not correlated any more, by two standard errors.
    """
    n = mask.sum(0)
    use = n >= 2
    mean = y.sum(0) / np.maximum(n, 1)
    residual = np.where(mask & use, y - mean, 0.0)
    spread = (residual**2).sum(0) / np.maximum(n - 1, 1)
    pairs = 2 * spread**2 / (n * np.maximum(n - 1, 1))
    variance = np.where(use, 4 * np.maximum(mean**2 - spread / n, 0.0) * spread / n + pairs, 0.0).sum(0)
    counted = (mask & use).astype(np.float64)
    # A trial's mean is no noise: products of trials' means are taken out of the signal power.
    residual -= counted * (residual.sum(1) / np.maximum(counted.sum(1), 1))[:, None]
    repeats = np.where(use, n, 0).sum(0) / np.maximum(use.sum(0), 1)
    power = (residual**2).sum((0, 1)) / counted.sum((0, 1))
    slow = use.any(0)
    for lag in range(1, y.shape[1] // 2):
        both = (counted[:, :-lag] * counted[:, lag:]).sum((0, 1))
        found = (residual[:, :-lag] * residual[:, lag:]).sum((0, 1)) / both
        slow &= found > 2 * power / np.sqrt(both * (repeats - 1) / repeats)
        if not slow.any():
            break
        noise = found * repeats / (repeats - 1)
        bins = (use[:-lag] & use[lag:]).sum(0)
        signal = np.where(use[:-lag] & use[lag:], mean[:-lag] * mean[lag:], 0.0).sum(0) - bins * noise / repeats
        added = 4 * np.maximum(signal, 0.0) * noise / repeats + 2 * bins * noise**2 / (repeats * (repeats - 1))
        variance += np.where(slow, 2 * added, 0.0)
    return np.asarray(variance)


def _over_repeats(stimulus: Repeats) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each bin and unit (T, U): repeats, mean counts, their unbiased variance, mean prediction."""
    mask = np.asarray(stimulus.mask, bool)
    counts = np.where(mask, np.asarray(stimulus.counts, np.float64), 0.0)
    rate = np.where(mask, np.asarray(stimulus.predicted, np.float64), 0.0)
    n = mask.sum(0)
    mean = counts.sum(0) / np.maximum(n, 1)
    spread = np.where(mask, (counts - mean) ** 2, 0.0).sum(0) / np.maximum(n - 1, 1)
    return n, mean, spread, rate.sum(0) / np.maximum(n, 1)
