"""Raised cosines: causal unless asked otherwise, inside trials, equal to the plain sum."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_core.data.behavior import Basis, expand, raised_cosine_basis, split_by_sign


def ranges(*pairs: tuple[int, int]) -> SimpleNamespace:
    start, stop = np.array(pairs).T
    return SimpleNamespace(start=start, stop=stop)


def slow_expand(trace, basis, trials):
    n_functions = basis.weights.shape[1]
    out = np.zeros((len(trace), trace.shape[1] * n_functions))
    for start, stop in zip(trials.start, trials.stop, strict=True):
        for t in range(start, stop):
            for i, weights in enumerate(basis.weights.astype(np.float64)):
                source = t - (basis.first_lag + i)
                if start <= source < stop:
                    for d in range(trace.shape[1]):
                        for n in range(n_functions):
                            out[t, d * n_functions + n] += weights[n] * float(trace[source, d])
    return out


def test_the_quick_starts_basis_is_causal_and_adds_up_to_one():
    basis = raised_cosine_basis(10, 0.2, 120)
    assert basis.weights.shape == (25, 10)
    assert basis.causal
    assert basis.first_lag == 0
    np.testing.assert_allclose(basis.weights.sum(1), 1, atol=1e-6)
    assert (np.diff(basis.weights.argmax(0)) > 0).all()  # the first function looks at the newest bins


def test_an_acausal_basis_has_to_be_asked_for_and_says_so():
    basis = raised_cosine_basis(10, 0.2, 120, causal=False)
    assert not basis.causal
    assert basis.first_lag == -24
    assert basis.weights.shape == (49, 10)
    np.testing.assert_allclose(basis.weights, basis.weights[::-1, ::-1], atol=1e-6)


@pytest.mark.parametrize("n", [1, 26])
def test_a_basis_that_does_not_fit_is_refused(n):
    with pytest.raises(ValueError, match="give n between 2 and 25"):
        raised_cosine_basis(n, 0.2, 120)


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=3),
    gap=st.integers(0, 2),
    causal=st.booleans(),
    seed=st.integers(0, 99),
)
def test_expand_equals_the_plain_sum(lengths, gap, causal, seed):
    edges, pairs = 1, []
    for length in lengths:
        pairs.append((edges, edges + length))
        edges += length + gap
    trace = np.random.default_rng(seed).normal(size=(edges + 2, 2)).astype(np.float32)
    basis = raised_cosine_basis(3, 0.5, 10, causal=causal)
    expected = slow_expand(trace, basis, ranges(*pairs))
    np.testing.assert_allclose(expand(trace, basis, ranges(*pairs)), expected, atol=1e-5)


def test_neither_the_future_nor_another_trial_reaches_a_bin():
    trials, basis = ranges((0, 50), (50, 100)), raised_cosine_basis(4, 0.1, 120)
    trace = np.random.default_rng(0).normal(size=(100, 1)).astype(np.float32)
    changed = trace.copy()
    changed[70:] += 5
    before, after = expand(trace, basis, trials), expand(changed, basis, trials)
    np.testing.assert_array_equal(before[:70], after[:70])
    assert not np.array_equal(before[70], after[70])
    changed = trace.copy()
    changed[:50] += 5
    np.testing.assert_array_equal(before[50:], expand(changed, basis, trials)[50:])
    acausal = raised_cosine_basis(4, 0.1, 120, causal=False)
    changed = trace.copy()
    changed[70] += 5
    assert not np.array_equal(expand(trace, acausal, trials)[:70], expand(changed, acausal, trials)[:70])


def test_a_step_is_seen_whole():
    trace = np.zeros((40, 1), np.float32)
    trace[10:] = 3
    basis = Basis(weights=np.ones((5, 1), np.float32) / 5, first_lag=0)
    np.testing.assert_allclose(
        expand(trace, basis, ranges((0, 40)))[8:16, 0], [0, 0, 0.6, 1.2, 1.8, 2.4, 3, 3], rtol=1e-6
    )


def test_split_by_sign_loses_nothing():
    trace = np.array([[1.0, -2.0], [0.0, 3.0], [-4.0, 0.5]], np.float32)
    split = split_by_sign(trace)
    np.testing.assert_array_equal(split, [[1, 0, 0, 2], [0, 3, 0, 0], [0, 0.5, 4, 0]])
    np.testing.assert_array_equal(split[:, :2] - split[:, 2:], trace)
