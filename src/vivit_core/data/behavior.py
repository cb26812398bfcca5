"""Behavior as a model reads it: traces split by sign and smoothed by a few raised cosines, inside trials.

Shape letters: T bins (= frames), D numbers of a trace, L lags, N basis functions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from einops import rearrange
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


class TrialRanges(Protocol):
    """Anything with half open frame ranges: `recording.Trials` is one."""

    @property
    def start(self) -> NDArray[np.int64]: ...

    @property
    def stop(self) -> NDArray[np.int64]: ...


@dataclass(frozen=True)
class Basis:
    """Smoothing weights over lags: row i weighs the trace `first_lag + i` bins before the present."""

    weights: FloatArray  # (L, N)
    first_lag: int  # 0 for a causal basis, negative where it looks ahead

    @property
    def causal(self) -> bool:
        return self.first_lag >= 0


def raised_cosine_basis(n: int, duration_s: float, frame_rate_hz: float, causal: bool = True) -> Basis:
    """Evenly spaced raised cosines that add up to 1 at every lag.

    Parameters
    ----------
    n
        Number of cosines, at least 2.
    duration_s
        From the center of the first cosine (lag 0) to the center of the last, in seconds.
    frame_rate_hz
        Bins a second.
    causal
        ``False`` mirrors the span, so that the centers run from ``duration_s`` ahead to ``duration_s`` back. A model
        that reads such a behavior knows the future; it has to be asked for.

    Returns
    -------
    Basis
        weights (L, n), with L = round(duration_s · frame_rate_hz) + 1 lags if causal.

    Raises
    ------
    ValueError
        Where fewer than 2 cosines are asked for, or more than there are lags.

    References
    ----------
    Pillow et al. 2008, Nature 454:995 (raised cosines as a temporal basis; there on a logarithmic axis).
    """
    last = round(duration_s * frame_rate_hz)
    first = 0 if causal else -last
    if n < 2 or n > last - first + 1:
        raise ValueError(
            f"{n} raised cosines do not fit {last - first + 1} lags ({duration_s} s at {frame_rate_hz} Hz): "
            f"give n between 2 and {max(last - first + 1, 2)} or a longer duration_s"
        )
    return Basis(weights=cosines_over(np.arange(first, last + 1), first, last, n), first_lag=first)


def cosines_over(places: NDArray, first: float, last: float, n: int) -> FloatArray:
    """Raised cosines with centers from ``first`` to ``last``, which add up to 1 in between, at some places: (…, n)."""
    centers, spacing = np.linspace(first, last, n, retstep=True)
    distance = np.minimum(np.abs(places[:, None] - centers) / spacing, 1)
    return (0.5 + 0.5 * np.cos(np.pi * distance)).astype(np.float32)


def split_by_sign(trace_TD: FloatArray) -> FloatArray:
    """The positive parts, then the negative parts as positive numbers: (T, D) → (T, 2 D)."""
    return np.concatenate([np.maximum(trace_TD, 0), np.maximum(-trace_TD, 0)], axis=1)


def expand(trace_TD: FloatArray, basis: Basis, trials: TrialRanges) -> FloatArray:
    """Smooth each number of a trace by each function of a basis, never across a trial's border.

    Parameters
    ----------
    trace_TD
        (T, D)
    basis
        N weights over lags.
    trials
        Half open ranges; bins outside every trial stay 0, and inside a trial the trace counts as 0 beyond its borders.

    Returns
    -------
    array (T, D · N) float32, all functions of the first number first.
    """
    n_lags, n_functions = basis.weights.shape
    out_TDN = np.zeros((*trace_TD.shape, n_functions), np.float32)
    for start, stop in zip(trials.start, trials.stop, strict=True):
        length = stop - start
        for i in range(n_lags):
            lag = basis.first_lag + i
            if abs(lag) >= length:
                continue
            source = trace_TD[start + max(-lag, 0) : stop - max(lag, 0)]
            out_TDN[start + max(lag, 0) : stop - max(-lag, 0)] += source[:, :, None] * basis.weights[i]
    return rearrange(out_TDN, "t d n -> t (d n)")
