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

    With ȳ a bin's mean over its repeats, ŷ the mean prediction over the same repeats, s² the unbiased variance over the
    repeats and n their number, where bins may have different n:

    - correlation to the average: Pearson correlation of ŷ and ȳ.
    - signal power S = var(ȳ) − mean(s² / n): the variance of the means less what noise is left in them, an unbiased
      estimate whatever the repeats' numbers and however the noise depends on the bin. With equal n it is the signal
      power of Sahani and Linden (2003), without their subtraction of each trial's mean.
    - explainable variance: S / (S + mean(s²)), the part of a single trial's variance that the stimulus explains. An
      estimate for a unit without signal scatters around zero and can be negative.
    - normalised correlation, CC_norm of Schoppe et al. (2016) = CC_abs / CC_max (Hsu et al. 2004) = cov(ŷ, ȳ) /
      √(var(ŷ) · S): the correlation with the mean that infinitely many repeats would have. Covariance, variance and S
      are each unbiased, so few repeats do not lower it. Not clamped; NaN where S is not positive. Where S is small it
      is noisy, and dividing by its root biases it upwards; ``reliable`` says for which units S is large enough.
    - signal to error: S over its standard error. With m a bin's true mean about the mean over bins, and v its variance
      over repeats, ȳ² − s²/n is the mean product of two different repeats, whose variance is 4 m² v / n +
      2 v² / (n (n − 1)) whatever the noise, if repeats are independent. With s² for v the error is rather too large.

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

        correction = bins / (bins - 1)  # variances and covariances over bins are unbiased too
        m, p = mean - average(mean), predicted - average(predicted)
        correlation = pearson(
            average(mean * predicted), average(mean), average(predicted), average(mean**2), average(predicted**2)
        )
        noise = average(spread)
        signal = correction * average(m**2) - average(spread / n)
        explainable = np.where(bins >= 2, signal / (signal + noise), np.nan)
        knowable = (signal > 0) & ~np.isnan(correlation)
        normalised = correction * average(m * p) / np.sqrt(np.where(knowable, correction * average(p**2) * signal, 1.0))
        pairs = np.where(use, 2 * spread**2 / (n * np.maximum(n - 1, 1)), 0.0)
        error = np.sqrt(np.where(use, 4 * np.maximum(m**2 - spread / n, 0.0) * spread / n + pairs, 0.0).sum(0)) / bins
        signal_to_error = np.where(bins >= 2, signal / error, np.nan)
    normalised = np.where(knowable, normalised, np.nan)
    return RepeatScores(correlation, explainable, normalised, bins.astype(np.float64), signal_to_error)


def _over_repeats(stimulus: Repeats) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """For each bin and unit (T, U): repeats, mean counts, their unbiased variance, mean prediction."""
    mask = np.asarray(stimulus.mask, bool)
    counts = np.where(mask, np.asarray(stimulus.counts, np.float64), 0.0)
    rate = np.where(mask, np.asarray(stimulus.predicted, np.float64), 0.0)
    n = mask.sum(0)
    mean = counts.sum(0) / np.maximum(n, 1)
    spread = np.where(mask, (counts - mean) ** 2, 0.0).sum(0) / np.maximum(n - 1, 1)
    return n, mean, spread, rate.sum(0) / np.maximum(n, 1)
