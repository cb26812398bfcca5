"""A saturating power law through scores of more and more data: score(x) = ceiling - amount * (x / unit)^-exponent.

Shape letters: N runs, R resamplings, U units, X places.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

EXPONENTS = (0.05, 4.0)  # the range that is searched; at its lower end the law is a logarithm, which has no ceiling
SEARCHED = 161  # exponents of the first search, in steps of equal ratio
NARROWED = 36  # times that the second search takes a third from the interval between them
NUMBERS = 3  # that the law has
DRAWN = 1 << 22  # units that are drawn at once, over all resamplings
ENOUGH = 4  # different amounts of data, at least, that can test the law; three are fitted by any


@dataclass(frozen=True)
class Law:
    """Laws, one a resampling.

    Attributes
    ----------
    ceiling_R : bits per spike that no amount of data exceeds.
    amount_R : what is missing of them at ``unit``; 0 where scores do not rise.
    exponent_R : how fast that falls; within ``EXPONENTS``.
    unit : amount of data at which ``amount_R`` is said.
    """

    ceiling_R: np.ndarray
    amount_R: np.ndarray
    exponent_R: np.ndarray
    unit: float

    def at(self, x_X: np.ndarray) -> np.ndarray:
        """Bits per spike at these amounts of data, (R, X)."""
        missing_RX = (np.asarray(x_X, float) / self.unit)[None] ** -self.exponent_R[:, None]
        scores: np.ndarray = self.ceiling_R[:, None] - self.amount_R[:, None] * missing_RX
        return scores

    def gain(self, x: float, times: float = 2.0) -> np.ndarray:
        """What ``times`` as much data as ``x`` adds, (R,)."""
        scores_R2 = self.at(np.array([x, times * x]))
        gained: np.ndarray = scores_R2[:, 1] - scores_R2[:, 0]
        return gained

    def amount_for(self, scores_R: np.ndarray) -> np.ndarray:
        """How much data each law needs for its row's score, (R,): infinitely much at the ceiling and above."""
        missing_R = self.ceiling_R - scores_R
        with np.errstate(divide="ignore"):
            needed_R = self.unit * (np.maximum(missing_R, 0) / self.amount_R) ** (-1 / self.exponent_R)
        found: np.ndarray = np.where(self.amount_R > 0, needed_R, np.where(missing_R > 0, 0.0, np.inf))
        return found

    @property
    def endless(self) -> np.ndarray:
        """Where the law found no end of the rise, because the exponent lies at its least; (R,) bool."""
        found: np.ndarray = (self.amount_R > 0) & (self.exponent_R < EXPONENTS[0] * 1.01)
        return found


def fit(x_N: np.ndarray, scores_RN: np.ndarray) -> Law:
    """The least squares' law of each row of scores.

    Given the exponent, ceiling and amount are a straight line's; so the exponent alone is searched: over all of
    ``EXPONENTS``, and then between the neighbors of the best.

    Parameters
    ----------
    x_N : amounts of data, above 0; at least three different ones.
    scores_RN : the scores there, bits per spike.

    Raises
    ------
    ValueError
        Where there are fewer amounts, or one is not above 0.
    """
    x_N, scores_RN = np.asarray(x_N, float), np.atleast_2d(np.asarray(scores_RN, float))
    if not (x_N > 0).all() or len(np.unique(x_N)) < NUMBERS:
        raise ValueError(f"a law takes at least {NUMBERS} different amounts of data above 0, not {np.unique(x_N)}")
    unit = float(np.exp(np.log(x_N).mean()))
    log_N = np.log(x_N / unit)

    def line(exponent_R1: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ceiling, amount and squared error, (R,) each, at an exponent for each row."""
        z_RN = np.exp(-exponent_R1 * log_N)
        z_mean_R1, mean_R1 = z_RN.mean(1, keepdims=True), scores_RN.mean(1, keepdims=True)
        z_RN, rest_RN = z_RN - z_mean_R1, scores_RN - mean_R1
        slope_R1 = (z_RN * rest_RN).sum(1, keepdims=True) / (z_RN**2).sum(1, keepdims=True)
        amount_R1 = np.maximum(-slope_R1, 0)  # more data are never worse
        error_R = ((rest_RN + amount_R1 * z_RN) ** 2).sum(1)
        return (mean_R1 + amount_R1 * z_mean_R1)[:, 0], amount_R1[:, 0], error_R

    tried = np.geomspace(*EXPONENTS, SEARCHED)
    rows = len(scores_RN)
    best_R = np.argmin([line(np.full((rows, 1), exponent))[2] for exponent in tried], axis=0)
    low_R1 = np.log(tried[np.maximum(best_R - 1, 0)])[:, None]
    high_R1 = np.log(tried[np.minimum(best_R + 1, SEARCHED - 1)])[:, None]
    for _ in range(NARROWED):
        left_R1, right_R1 = low_R1 + (high_R1 - low_R1) / 3, high_R1 - (high_R1 - low_R1) / 3
        first_R1 = (line(np.exp(left_R1))[2] <= line(np.exp(right_R1))[2])[:, None]
        low_R1, high_R1 = np.where(first_R1, low_R1, left_R1), np.where(first_R1, right_R1, high_R1)
    exponent_R1 = np.exp((low_R1 + high_R1) / 2)
    ceiling_R, amount_R, _ = line(exponent_R1)
    return Law(ceiling_R, amount_R, exponent_R1[:, 0], unit)


def resample(
    x_N: np.ndarray,
    bps_NU: np.ndarray,
    law: Law,
    resamples: int,
    seed: int,
    beyond_N: np.ndarray | None = None,
    wider: float = 1.0,
) -> np.ndarray:
    """Mean scores as other units and other trainings might have given them, (R, N).

    Units are drawn with replacement, the same for all runs. What the law leaves (the seeds' and the minutes' luck, and
    where the law is wrong) is drawn from the residuals of the runs that it was fitted to, made larger for the numbers
    that were fitted to them; up to three runs leave nothing, and then only units are drawn.

    Parameters
    ----------
    x_N, bps_NU : amounts of data, and each unit's bits per spike there.
    law : the one of the means.
    resamples : how many.
    seed : of the drawing.
    beyond_N : runs that the law was not fitted to, (N,) bool: they are drawn around their own means. None: no run.
    wider : times what the law leaves.
    """
    runs, units = bps_NU.shape
    rng = np.random.default_rng(seed)
    fitted_N = np.ones(runs, bool) if beyond_N is None else ~beyond_N
    mean_N = bps_NU.mean(1)
    center_N = np.where(fitted_N, law.at(x_N)[0], mean_N)
    each_U, rest_UN = np.full(units, 1 / units), (bps_NU - mean_N[:, None]).T
    at_once = max(1, DRAWN // units)
    parts = [  # the same numbers as all at once, which many units have no memory for
        rng.multinomial(units, each_U, size=min(at_once, resamples - begun)) / units @ rest_UN
        for begun in range(0, resamples, at_once)
    ]
    scores_RN: np.ndarray = center_N + np.concatenate(parts)
    if (number := int(fitted_N.sum())) > NUMBERS:
        residuals = (mean_N - center_N)[fitted_N] * np.sqrt(number / (number - NUMBERS)) * wider
        scores_RN = scores_RN + rng.choice(residuals, size=(resamples, runs))
    return scores_RN
