"""How good predictions are: for each unit, in float64, exact across ranks. The one home of each formula.

Shape letters: N bins of any number of clips, R repeats, T bins of a stimulus, U units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

CONSTANT = 1e-12
"""A trace counts as constant where its variance is below this part of its mean square (float32 rounding lies near
1e-14)."""

PIECE = 32768  # bins summed at once
RELIABLE = 2.0
"""A unit's normalised correlation enters a summary where its signal power is above this many of its standard errors:
the bias of dividing by the square root of a noisy signal power, about ⅜ / RELIABLE² of the value, stays below a tenth.
"""


class UnitScores(NamedTuple):
    """One number a unit, (U,) float64; NaN where a score is not defined."""

    bps: np.ndarray  # bits per spike; NaN for silent units
    correlation: np.ndarray  # single-trial Pearson correlation; NaN where prediction or measurement is constant
    loss: np.ndarray  # mean Poisson loss; NaN without a bin
    spikes: np.ndarray  # on the evaluated bins
    bins: np.ndarray  # evaluated bins

    @property
    def broken(self) -> int:
        """Units with a prediction that is NaN or infinite: the model's fault, and no silent unit."""
        return int(((self.bins > 0) & ~np.isfinite(self.loss)).sum())

    @property
    def silent(self) -> int:
        """Units without a spike on the evaluated bins."""
        return int((self.spikes == 0).sum())


class UnitMetrics(Metric):
    """Bits per spike and single-trial correlation of one recording's units, from sums that add up exactly over batches
    and ranks.

    Bits per spike (Pillow et al. 2008): by how many bits a spike the prediction is a better Poisson model than the
    unit's own mean on the evaluated bins. It is not clamped: a bad prediction is negative. A silent unit has none.

    Parameters
    ----------
    n_units : units of the recording.
    """

    full_state_update = False
    higher_is_better = True
    sums: Tensor

    def __init__(self, n_units: int) -> None:
        super().__init__()
        self.n_units = n_units
        self.add_state("sums", torch.zeros(7, n_units, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, predicted: Tensor, counts: Tensor, mask: Tensor) -> None:
        """Add bins: expected and measured counts and the pairs that count, each (..., U)."""
        if not predicted.shape == counts.shape == mask.shape or predicted.shape[-1] != self.n_units:
            raise ValueError(
                f"predictions {tuple(predicted.shape)}, counts {tuple(counts.shape)} and mask {tuple(mask.shape)} "
                f"must have one shape, with {self.n_units} units last"
            )
        self.sums += unit_sums(predicted.detach(), counts, mask)

    def compute(self) -> UnitScores:
        return scores_of_sums(self.sums.cpu().numpy())


def unit_scores(predicted: np.ndarray, counts: np.ndarray, mask: np.ndarray) -> UnitScores:
    """The scores of :class:`UnitMetrics` for arrays: expected and measured counts and the pairs that count, each (...,
    U)."""
    flat = [np.reshape(x, (-1, x.shape[-1])) for x in (predicted, counts, mask)]
    sums = np.zeros((7, predicted.shape[-1]))
    for first in range(0, len(flat[0]), PIECE):  # so that the float64 copies are of a piece alone
        sums += unit_sums(*(torch.as_tensor(x[first : first + PIECE]) for x in flat)).numpy()
    return scores_of_sums(sums)


def unit_sums(predicted: Tensor, counts: Tensor, mask: Tensor) -> Tensor:
    """Sums over the bins that count, (7, U) float64: bins, counts, rate, counts·ln rate, counts², rate²,
    counts·rate."""
    units = predicted.shape[-1]
    rate = torch.where(mask, predicted.double(), 1.0).reshape(
        -1, units
    )  # ln 1 = 0, and what is not counted may be anything
    n = torch.where(mask, counts.double(), 0.0).reshape(-1, units)
    m = mask.double().reshape(-1, units)
    n_log_rate = torch.xlogy(n, rate)
    rate = rate * m
    return torch.stack([x.sum(0) for x in (m, n, rate, n_log_rate, n.square(), rate.square(), n * rate)])


def scores_of_sums(sums: np.ndarray) -> UnitScores:
    """Scores from ``unit_sums``."""
    bins, n, rate, n_log_rate, n_square, rate_square, n_rate = sums
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = n / bins
        own = n * np.log(np.where(n > 0, mean, 1.0)) - n
        bps = np.where(n > 0, (n_log_rate - rate - own) / (n * math.log(2)), np.nan)
        correlation = pearson(n_rate / bins, mean, rate / bins, n_square / bins, rate_square / bins)
        loss = (rate - n_log_rate) / bins
    return UnitScores(bps, correlation, loss, n, bins)


def pearson(xy: np.ndarray, x: np.ndarray, y: np.ndarray, xx: np.ndarray, yy: np.ndarray) -> np.ndarray:
    """Pearson correlation from means of products; NaN where x or y is constant."""
    var_x, var_y = xx - x**2, yy - y**2
    moving = (var_x > CONSTANT * xx) & (var_y > CONSTANT * yy)
    return np.where(moving, (xy - x * y) / np.sqrt(np.where(moving, var_x * var_y, 1.0)), np.nan)


def mean_known(values: np.ndarray) -> float:
    """Mean over the units for which a score is defined; NaN where there is none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(known.mean()) if known.size else math.nan


def median_known(values: np.ndarray) -> float:
    """Median over the units for which a score is defined; NaN where there is none."""
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    return float(np.median(known)) if known.size else math.nan


def fraction_of_knowable(bps_model: np.ndarray, bps_truth: np.ndarray) -> float:
    """Which part of the information that the true rates carry a model finds.

    Σ model / Σ truth of bits per spike, over the units for which both are defined and the truth is positive: a mean of
    the units' fractions weighted by what is knowable of each, so that units of which almost nothing is knowable do not
    decide. Not clamped; NaN without such a unit.

    Parameters
    ----------
    bps_model, bps_truth : (U,) bits per spike of the model's and of the true rates, on the same bins.
    """
    use = ~np.isnan(bps_model) & (np.nan_to_num(bps_truth, nan=0.0) > 0)
    return float(np.sum(bps_model[use]) / np.sum(bps_truth[use])) if use.any() else math.nan


class Repeats(NamedTuple):
    """The trials of one repeated stimulus, each (R, T, U)."""

    predicted: np.ndarray  # expected counts; may differ between repeats, as behaviour does
    counts: np.ndarray
    mask: np.ndarray  # pairs that count


class RepeatScores(NamedTuple):
    """One number a unit, (U,) float64; NaN where a score is not defined."""

    correlation_to_average: np.ndarray
    explainable_variance: np.ndarray
    normalised_correlation: np.ndarray
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

    - correlation to the average: Pearson correlation of the mean prediction and the mean count over repeats.
    - signal power S: covariance of the counts with themselves. For one stimulus and equal n it is the signal power
      of Sahani and Linden (2003).
    - explainable variance: S / (S + mean(s²)), s² a bin's unbiased variance over repeats: the part of a single trial's
      variance that the stimulus explains. An estimate for a unit without signal scatters around zero and can be
      negative.
    - normalised correlation, CC_norm of Schoppe et al. (2016) = CC_abs / CC_max (Hsu et al. 2004) = cov(ŷ, y) /
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
        counts = [_centred(s.counts, average(mean), s.mask) for s in stimuli]
        rates = [_centred(s.predicted, average(predicted), s.mask) for s in stimuli]
        signal = _over_pairs(counts, counts, masks)
        of_rate, shared = _over_pairs(rates, rates, masks), _over_pairs(counts, rates, masks)
        total = signal + average(spread)
        varies = (bins >= 2) & (total > CONSTANT * average(mean**2))
        explainable = np.where(varies, signal / total, np.nan)
        knowable = varies & (signal > 0) & (of_rate > 0) & ~np.isnan(correlation)
        normalised = np.where(knowable, shared / np.sqrt(np.where(knowable, of_rate * signal, 1.0)), np.nan)
        variance = sum(_signal_variance(y, m) for y, m in zip(counts, masks, strict=True)) / bins**2
        signal_to_error = np.where(bins >= 2, signal / np.sqrt(variance), np.nan)
    return RepeatScores(correlation, explainable, normalised, bins.astype(np.float64), signal_to_error)


def _centred(x: np.ndarray, mean: np.ndarray, mask: np.ndarray) -> np.ndarray:
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
    the mean over bins) and v its variance over repeats. Noise that outlasts a bin makes neighbouring products vary
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
