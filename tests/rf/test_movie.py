"""Filters in time are what convolution says, and the part of a movie on which filters are first found."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from vivit_core.rf.movie import BAND, BLOCK, PART, Movie, band, blocks, filtered, through_time, trace_through_time


def movie_of(bins: int, lags: int, columns: int = 2) -> Movie:
    generator = torch.Generator().manual_seed(1)
    movie = Movie(columns, lags, torch.rand(bins, generator=generator), torch.ones(bins))
    movie.x_TK[:] = torch.randn(bins, columns, generator=generator)
    return movie


@pytest.mark.parametrize("lags", [1, 5, 40])
@pytest.mark.parametrize("bins", [3, BAND, 150, BLOCK + 3])
def test_filters_in_time_are_causal_convolutions(bins: int, lags: int) -> None:
    movie, filter_L = movie_of(bins, lags), torch.randn(lags, generator=torch.Generator().manual_seed(2))
    back = filter_L.flip(0).double()
    expected = np.stack([np.convolve(movie.x_TK[:, k].double(), back)[:bins] for k in range(2)], 1)
    np.testing.assert_allclose(through_time(movie, filter_L), expected, atol=1e-4)
    np.testing.assert_allclose(trace_through_time(movie.x_TK[:, 1], filter_L), expected[:, 1], atol=1e-4)
    pieces = torch.cat([filtered(movie, band(filter_L, BAND), block) for block in blocks(bins)])
    np.testing.assert_allclose(pieces, expected, atol=1e-4)


def test_a_part_of_a_movie_has_whole_pasts_alone() -> None:
    lags = 4
    length = 16 * lags
    movie = movie_of(2 * PART * length + 10, lags)
    movie.use_T[5] = 0.0
    part = movie.part()
    assert len(part.counts_T) == 2 * length
    assert torch.equal(part.x_TK[length:], movie.x_TK[PART * length :][:length])
    assert torch.equal(part.counts_T[length:], movie.counts_T[PART * length :][:length])
    unused = torch.zeros(2 * length, dtype=torch.bool)
    unused[: lags - 1] = unused[length : length + lags - 1] = unused[5] = True
    assert torch.equal(part.use_T == 0, unused)
    # Too short, or without a spike: all of it.
    assert (short := movie_of(2 * PART * length - 1, lags)).part() is short
    movie.counts_T[:] = 0.0
    movie.counts_T[length] = 1.0
    assert movie.part() is movie
