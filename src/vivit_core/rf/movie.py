"""What a unit's window shows, bin by bin, and causal filters in time of it.

Shape letters: T bins (= frames), H W pixels, U units, L lags (oldest first), K axes of a prior over windows, P = H · W.
"""

from __future__ import annotations

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from vivit_core.rf.stretches import TrialStretches

PART = 3  # one in so many pieces of the training frames finds the filters roughly


BLOCK = 2048  # bins that are worked on at once: what they take stays in a core's cache


BAND = 16  # bins that one banded matrix filters in many columns


TRACE_BAND = 64  # the same in a single trace


class Stimulus:
    """A split of a recording, as all units' fits share it."""

    def __init__(self, data: TrialStretches) -> None:
        _, height, width = data.frames_THW.shape
        # A window is then a few long runs of memory.
        frames_PT = torch.as_tensor(data.frames_THW).flatten(1).T.contiguous()
        self.frames_HWT = frames_PT.unflatten(0, (height, width))
        self.counts_UT = torch.as_tensor(np.ascontiguousarray(data.counts_TU.T))
        self.use_UT = torch.as_tensor(np.ascontiguousarray(data.use_TU.T)).float()


class Movie:
    """What one unit's window shows in a split, on the axes of the prior, and what the unit did."""

    def __init__(self, axes: int, lags: int, counts_T: Tensor, use_T: Tensor) -> None:
        self.counts_T, self.use_T, self.lags = counts_T, use_T, lags
        # The zeros before the first bin, and as many rows as whole bands take.
        self.padded_TK = torch.zeros(lags - 1 + -(-len(counts_T) // BAND) * BAND, axes)

    @property
    def x_TK(self) -> Tensor:
        return self.padded_TK[self.lags - 1 :][: len(self.counts_T)]

    @property
    def mean(self) -> Tensor:
        """Counts a bin."""
        return (self.counts_T * self.use_T).sum() / self.use_T.sum()

    def part(self) -> Movie:
        """One in ``PART`` pieces; the first bins of each, whose past is in another piece, do not count."""
        length = 16 * self.lags
        pieces = len(self.counts_T) // (PART * length)
        if pieces < 2:  # too few to leave any out
            return self

        def taken(values: Tensor) -> Tensor:
            whole = values[: pieces * PART * length]
            return rearrange(whole, "(n k b) ... -> n k b ...", k=PART, b=length)[:, 0].flatten(0, 1)

        use_T = taken(self.use_T) * (torch.arange(pieces * length) % length >= self.lags - 1)
        if not (taken(self.counts_T) * use_T).any():  # a unit that fires seldom
            return self
        made = Movie(self.padded_TK.shape[1], self.lags, taken(self.counts_T), use_T)
        made.x_TK[:] = taken(self.x_TK)
        return made


def blocks(bins: int) -> list[slice]:
    return [slice(start, min(bins, start + BLOCK)) for start in range(0, bins, BLOCK)]


def band(filter_L: Tensor, bins: int) -> Tensor:
    """The matrix (bins, bins + L - 1) that filters so many bins, oldest lag first."""
    length = bins + len(filter_L) - 1
    return F.pad(filter_L, (0, bins)).repeat(bins)[: bins * length].reshape(bins, length)


def filtered(movie: Movie, banded: Tensor, block: slice) -> Tensor:
    """A block's bins of each column through a causal filter; it begins at a multiple of ``BAND``."""
    rows, axes = -(-(block.stop - block.start) // BAND), movie.padded_TK.shape[1]
    length = banded.shape[1]
    # Overlapping pieces of the movie times a banded matrix: matrix products in place of many passes over memory.
    pieces = movie.padded_TK.as_strided((rows, length, axes), (BAND * axes, axes, 1), block.start * axes)
    return torch.bmm(banded.expand(rows, BAND, length), pieces).flatten(0, 1)[: block.stop - block.start]


def through_time(movie: Movie, filter_L: Tensor) -> Tensor:
    """Causal filter of each column, zeros before the first bin; oldest lag first."""
    return filtered(movie, band(filter_L, BAND), slice(0, len(movie.counts_T)))


def trace_through_time(x_T: Tensor, filter_L: Tensor) -> Tensor:
    """The same of one trace."""
    bins, lags = len(x_T), len(filter_L)
    pieces = F.pad(x_T, (lags - 1, -bins % TRACE_BAND)).unfold(0, TRACE_BAND + lags - 1, TRACE_BAND)
    return (pieces @ band(filter_L, TRACE_BAND).T).flatten()[:bins]
