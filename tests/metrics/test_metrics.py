"""Scores against independent float64 computations on cases made by hand."""

from __future__ import annotations

import math
import sys
import tracemalloc
from importlib.machinery import ModuleSpec
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.signal import lfilter
from tiny_models import POISSON, unit_scores

from vivit_core.metrics import unit_scores as metrics_unit_scores
from vivit_core.metrics.averages import mean_known, median_known
from vivit_core.metrics.base import UnitMetric
from vivit_core.metrics.calibration import probability_integral
from vivit_core.metrics.correlation import pearson
from vivit_core.metrics.oracle import share_of_oracle
from vivit_core.metrics.repeats import UNITS_AT_ONCE, Repeats, repeat_scores
from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.metrics.unit_scores import METRICS, Scorer, all_metrics
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.likelihoods.zero_inflated_gamma import ZeroInflatedGamma
from vivit_core.parts.groups import consent
from vivit_core.testing import check_metric


def bps_reference(rate, counts):
    """Log-likelihood ratio against the unit's own mean, by scipy's Poisson, in bits a spike."""
    model = stats.poisson.logpmf(counts, rate).sum()
    own = stats.poisson.logpmf(counts, counts.mean()).sum()
    return (model - own) / (counts.sum() * math.log(2))


def assert_same(got, expected):
    for name in ("loss", "spikes", "bins"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-12)
    assert got.by_name.keys() == expected.by_name.keys()
    for name, scores in expected.by_name.items():
        np.testing.assert_allclose(got.by_name[name], scores, rtol=1e-12)


@given(st.integers(0, 10**6), st.integers(1, 4), st.integers(5, 40))
@settings(max_examples=40, deadline=None)
def test_unit_scores_are_the_textbook_ones(seed, units, bins):
    rng = np.random.default_rng(seed)
    rate = rng.uniform(0.05, 3, (bins, units))
    counts = rng.poisson(rate).astype(float)
    counts[:2] = [[0.0], [2.0]]
    mask = rng.random(rate.shape) < 0.7
    mask[:3] = True
    dirty = np.where(mask, counts, np.nan)
    scores = unit_scores(np.where(mask, rate, np.nan), dirty, mask)
    for u in range(units):
        m = mask[:, u]
        bps, corr = (scores.by_name[name][u] for name in ("bps", "corr"))
        assert bps == pytest.approx(bps_reference(rate[m, u], counts[m, u]), rel=1e-9, abs=1e-12)
        assert corr == pytest.approx(np.corrcoef(rate[m, u], counts[m, u])[0, 1], rel=1e-7, abs=1e-9)
        assert scores.loss[u] == pytest.approx(np.mean(rate[m, u] - counts[m, u] * np.log(rate[m, u])), rel=1e-9)
        assert scores.bins[u] == m.sum() and scores.spikes[u] == counts[m, u].sum()


def test_bits_per_spike_by_hand():
    """Two bins, spikes only in the second: knowing that is worth one bit a spike; the wrong way round costs without
    bound."""
    counts = np.array([[0.0], [4.0]])
    ones = np.ones((2, 1), bool)
    assert unit_scores(np.array([[1e-12], [4.0]]), counts, ones).by_name["bps"][0] == pytest.approx(1.0, abs=1e-9)
    assert unit_scores(np.array([[2.0], [2.0]]), counts, ones).by_name["bps"][0] == pytest.approx(0.0, abs=1e-12)
    assert unit_scores(np.array([[4.0], [0.01]]), counts, ones).by_name["bps"][0] < -5


def test_silent_units_are_left_out_and_counted_and_constant_predictions_have_no_correlation():
    """A constant prediction says nothing of counts that vary: its correlation is 0. Were it none, a model's mean would
    leave out the very units that it could not fit."""
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.1, 2, (50, 5))
    counts = rng.poisson(rate).astype(float)
    counts[:, 1] = 0.0  # silent
    counts[:, 2] = 3.0  # constant, with spikes
    rate[:, 3] = 0.7  # a constant prediction …
    rate[:, 4] = np.float32(0.7) + np.float32(1e-8) * rng.normal(size=50)  # … but for rounding
    scores = unit_scores(rate, counts, np.ones((50, 5), bool))
    assert np.isnan(scores.by_name["bps"]).tolist() == [False, True, False, False, False]
    assert np.isnan(scores.by_name["corr"]).tolist() == [False, True, True, False, False]
    assert scores.by_name["corr"][3:].tolist() == [0.0, 0.0]
    assert scores.silent == 1
    assert mean_known(scores.by_name["bps"]) == pytest.approx(np.mean(scores.by_name["bps"][[0, 2, 3, 4]]))
    assert mean_known(scores.by_name["corr"]) == pytest.approx(scores.by_name["corr"][0] / 3)
    assert median_known(scores.by_name["bps"]) == pytest.approx(np.median(scores.by_name["bps"][[0, 2, 3, 4]]))
    assert math.isnan(mean_known(np.array([np.nan]))) and math.isnan(median_known(np.array([])))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_prediction_that_is_no_number_is_not_taken_for_a_constant_one(value):
    counts, rate = np.array([[0.0], [1.0], [2.0]]), np.full((3, 1), value)
    assert np.isnan(unit_scores(rate, counts, np.ones((3, 1), bool)).by_name["corr"]).all()


def test_a_unit_with_counts_but_without_an_event_is_silent():
    """Under a likelihood for traces that counts bins above a floor. Its bits would be divided by no event."""
    rng = np.random.default_rng(0)
    counts = np.where(rng.random((500, 3)) < 0.1, rng.gamma(2, 1, (500, 3)), 0.01)
    counts[:, 2] = rng.uniform(0, 0.004, 500)  # all below the floor
    scorer = Scorer(ZeroInflatedGamma((0.2,) * 3, "exp", 0.05))
    scores = scorer.scores_of(rng.uniform(0.1, 0.2, counts.shape), counts, np.ones(counts.shape, bool))
    assert np.isfinite(scores.by_name["bps"]).tolist() == scores.fired.tolist() == [True, True, False]
    assert np.isnan(scores.by_name["bps"][2]) and (scores.spikes > 0).all() and scores.silent == 1


def test_sums_add_up_over_batches_and_resets():
    rng = np.random.default_rng(1)
    rate, counts = rng.uniform(0.1, 2, (6, 10, 3)), rng.poisson(1.0, (6, 10, 3)).astype(float)
    mask = rng.random(rate.shape) < 0.5
    metric = StreamedScores(3, POISSON)
    for i in range(6):
        metric.update(*(torch.as_tensor(x[i]) for x in (rate, counts, mask)))
    whole = unit_scores(rate, counts, mask)
    assert_same(metric.compute(), whole)
    metric.reset()
    assert metric.sums.abs().sum() == 0 and metric.sums.dtype == torch.float64


def test_sums_stay_float64_where_float32_would_fail():
    """A million bins, then one spike: float32 sums of the rate would have lost it."""
    metric = StreamedScores(1, POISSON)
    for value in (3e7, 1.0):
        metric.update(torch.tensor([[value]]), torch.tensor([[value]]), torch.tensor([[True]]))
    assert metric.compute().spikes[0] == 3e7 + 1.0


def test_one_unit_stays_an_array():
    metric = StreamedScores(1, POISSON)
    metric.update(torch.tensor([[0.5], [1.0]]), torch.tensor([[0.0], [1.0]]), torch.ones(2, 1, dtype=torch.bool))
    assert metric.compute().by_name["bps"].shape == (1,)


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="3 units last"):
        StreamedScores(3, POISSON).update(torch.ones(2, 2), torch.ones(2, 2), torch.ones(2, 2, dtype=torch.bool))


@given(st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_poisson_s_numbers_are_to_the_last_digit_those_of_its_own_formula(seed):
    """As they were before likelihoods scored themselves."""
    rng = np.random.default_rng(seed)
    rate, counts = rng.uniform(0.0, 2, (50, 3)), rng.poisson(1.0, (50, 3)).astype(float)
    rate[:3], counts[:, 2] = 0.1, 0
    mask = rng.random(rate.shape) < 0.7
    r, n = (torch.where(torch.as_tensor(mask), torch.as_tensor(x), y) for x, y in ((rate, 1.0), (counts, 0.0)))
    m = torch.as_tensor(mask).double()
    rows = (m, n, r * m, torch.xlogy(n, r), n.square(), (r * m).square(), n * (r * m))
    bins, spikes, rates, n_log_rate, n_square, rate_square, n_rate = (x.sum(0).numpy() for x in rows)
    with np.errstate(all="ignore"):
        null = spikes - spikes * np.log(np.where(spikes > 0, spikes / bins, 1.0))
        bps = np.where(spikes > 0, (n_log_rate - rates + null) / (spikes * math.log(2)), np.nan)
        corr = pearson(n_rate / bins, spikes / bins, rates / bins, n_square / bins, rate_square / bins)
    scores = unit_scores(rate, counts, mask)
    assert np.array_equal(scores.by_name["bps"], bps, equal_nan=True)
    assert np.array_equal(scores.by_name["corr"], corr, equal_nan=True)
    assert np.array_equal(scores.loss, (rates - n_log_rate) / bins)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_metrics_keep_their_contract(metric):
    check_metric(metric)


class Named(UnitMetric):
    name = title = method = "mine"

    def score(self, totals, sums):
        return totals.counts


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"score": lambda self, totals, sums: totals.bins - totals.counts.sum()}, "depends on the other units"),
        ({"terms": lambda self, rate, counts: (rate * len(rate),)}, "sums of parts"),
        ({"score": lambda self, totals, sums: totals.counts.sum(-1)}, "and should give"),
        (
            {"score": lambda self, totals, sums: np.diff(sums[0], prepend=0.0, axis=0)},
            "each alone|depends on the other",
        ),
        ({"score": lambda self, totals, sums: np.log(-totals.bins)}, "should give numbers"),
        ({"title": None}, "needs title"),
    ],
)
def test_a_metric_that_breaks_its_contract_is_told(changes, says):
    check_metric(Named())
    base = {"terms": lambda self, rate, counts: (counts,), "score": lambda self, totals, sums: sums[0]}
    with pytest.raises(AssertionError, match=says):
        check_metric(type("Broken", (Named,), base | changes)())


@pytest.mark.parametrize(
    ("name", "says"),
    [("mine", None), ("corr", "taken"), ("ln_mine", "taken"), ("border_px", "taken"), ("My score", "small letters")],
)
def test_a_package_s_metrics_join_ours_where_the_user_consents(name, says, monkeypatch):
    module = ModuleType("somelab.metrics")
    module.METRICS = (type("Mine", (Named,), {"name": name})(),)
    module.__spec__ = ModuleSpec("somelab.metrics", None)
    for word, made in (("somelab", ModuleType("somelab")), ("somelab.metrics", module)):
        monkeypatch.setitem(sys.modules, word, made)
    assert all_metrics() == METRICS
    with consent(["somelab"]):
        if says is None:
            assert all_metrics() == (*METRICS, *module.METRICS)
            assert list(Scorer(POISSON).scores_of(*np.ones((2, 3, 1)), np.ones((3, 1), bool)).by_name)[-1] == name
            return
        with pytest.raises(ValueError, match=says):
            all_metrics()
    module.METRICS = (Named,)
    with consent(["somelab"]), pytest.raises(ValueError, match="tuple of UnitMetric objects"):
        all_metrics()


def test_a_likelihood_stays_a_part_of_its_twin_alone():
    """A metric that took it in would keep its parameters in the checkpoint a second time."""
    likelihood = Poisson((1.0, 1.0), "exp")
    likelihood.dispersion = torch.nn.Parameter(torch.ones(2))
    metric = StreamedScores(2, likelihood)
    assert not list(metric.parameters()) and not metric.state_dict()


def test_share_of_oracle_is_a_ratio_of_sums():
    model = np.array([0.5, 0.2, np.nan, 0.4, -0.1])
    truth = np.array([1.0, 0.5, 0.7, -0.2, 0.1])
    assert share_of_oracle(model, truth) == pytest.approx((0.5 + 0.2 - 0.1) / (1.0 + 0.5 + 0.1))
    assert share_of_oracle(truth[:3], truth[:3]) == 1.0
    assert math.isnan(share_of_oracle(np.array([0.1]), np.array([np.nan])))


def test_counts_that_scatter_as_predicted_fill_all_classes_alike():
    rng = np.random.default_rng(0)
    rate = rng.uniform(0.2, 5, 40_000)
    counts = rng.poisson(rate)

    def shares(drawn, said):
        return probability_integral(said.cdf(drawn - 1), said.cdf(drawn), 10)

    np.testing.assert_allclose(shares(counts, stats.poisson(rate)), 0.1, atol=0.005)
    scattered = stats.nbinom(rate, 0.5).rvs(random_state=rng)  # twice the variance
    wide = shares(scattered, stats.poisson(rate))
    assert wide[0] > 0.13 < wide[-1] and wide[3:7].max() < 0.1
    np.testing.assert_allclose(shares(scattered, stats.nbinom(rate, 0.5)), 0.1, atol=0.005)
    # One count that takes up the probabilities from .25 to .75.
    np.testing.assert_allclose(probability_integral(np.array([0.25]), np.array([0.75]), 4), [0, 0.5, 0.5, 0])


# Repeats


def shared_by_repeats(stimuli, x, y, u):
    """Covariance over bins of what two different repeats have in common: all pairs of trials, one by one."""
    products = []
    trials_x, trials_y, own_weight = [], [], []
    for k, s in enumerate(stimuli):
        m = np.asarray(s.mask, bool)[..., u]
        sum_x, sum_y, weight = (np.zeros(len(m)) for _ in range(3))
        for t in np.flatnonzero(m.sum(0) >= 2):
            shown = np.flatnonzero(m[:, t])
            products.append(np.mean([x[k][r, t, u] * y[k][q, t, u] for r in shown for q in shown if r != q]))
            for r in shown:
                sum_x[r] += x[k][r, t, u] / len(shown)
                sum_y[r] += y[k][r, t, u] / len(shown)
                weight[r] += 1 / len(shown)
        trials_x.append(sum_x), trials_y.append(sum_y), own_weight.append(weight)
    bins = len(products)
    mean = 0.0
    for a, (xa, wa) in enumerate(zip(trials_x, own_weight, strict=True)):
        for b, (yb, wb) in enumerate(zip(trials_y, own_weight, strict=True)):
            if a != b:
                mean += xa.sum() * yb.sum()
            elif wa.sum():
                pairs = [(r, q) for r in range(len(wa)) for q in range(len(wb)) if r != q]
                share = sum(wa[r] * wb[q] for r, q in pairs) / wa.sum() ** 2
                mean += sum(xa[r] * yb[q] for r, q in pairs) / share
    return (np.mean(products) - mean / bins**2) * bins / (bins - 1)


def repeat_reference(stimuli, u):
    means, predictions, spreads = [], [], []
    for s in stimuli:
        for t in range(s.counts.shape[1]):
            m = np.asarray(s.mask, bool)[:, t, u]
            if m.sum() >= 2:
                means.append(np.mean(s.counts[m, t, u]))
                predictions.append(np.mean(s.predicted[m, t, u]))
                spreads.append(np.var(s.counts[m, t, u], ddof=1))
    y = [s.counts - np.mean(means) for s in stimuli]
    p = [s.predicted - np.mean(predictions) for s in stimuli]
    signal, of_rate, both = (shared_by_repeats(stimuli, a, b, u) for a, b in ((y, y), (p, p), (y, p)))
    normalized = both / np.sqrt(of_rate * signal) if signal > 0 and of_rate > 0 else math.nan
    return np.corrcoef(predictions, means)[0, 1], signal / (signal + np.mean(spreads)), normalized, len(means)


def planted(rng, repeats, bins, units, noise=1.0):
    rate = rng.uniform(0.5, 6, (bins, units))
    counts = rate + noise * rng.normal(size=(repeats, bins, units))
    return Repeats(np.broadcast_to(rate, counts.shape), counts, np.ones(counts.shape, bool))


@given(st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_repeat_scores_with_unequal_repeats_and_masked_bins(seed):
    rng = np.random.default_rng(seed)
    stimuli = []
    for repeats, bins in ((2, 12), (5, 7), (3, 9)):
        s = planted(rng, repeats, bins, 3)
        mask = rng.random(s.counts.shape) < 0.8
        dirty = np.where(mask, s.counts, np.nan)
        stimuli.append(Repeats(s.predicted + 0.5 * rng.normal(size=s.predicted.shape), dirty, mask))
    scores = repeat_scores(stimuli)
    for u in range(3):
        for got, expected in zip((x[u] for x in scores[:4]), repeat_reference(stimuli, u), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_repeats_of_many_units_take_the_memory_of_some():
    rng = np.random.default_rng(0)
    units = 10 * UNITS_AT_ONCE + 2
    rate = rng.random((4, 50, units), np.float32)
    one = Repeats(rate, rng.poisson(rate).astype(np.float32), rng.random(rate.shape) > 0.1)
    tracemalloc.start()
    scores = repeat_scores([one])
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 100 * rate.size / units * UNITS_AT_ONCE
    for unit in (0, UNITS_AT_ONCE, units - 1):
        alone = repeat_scores([Repeats(*(x[..., unit : unit + 1] for x in one))])
        np.testing.assert_allclose([x[unit] for x in scores], np.concatenate(alone), rtol=1e-9)


def test_signal_power_is_unbiased_and_the_truth_has_normalized_correlation_one():
    """Few and unequal repeats bias the correlation to the average downwards, but neither the variance nor the
    normalized correlation."""
    rng = np.random.default_rng(3)
    true = 5.5**2 / 12 / (5.5**2 / 12 + 4.0)  # variance of the uniform rates over that of a trial
    stimuli = [planted(rng, r, 400, 200, noise=2.0) for r in (2, 6)]
    scores = repeat_scores(stimuli)
    assert np.mean(scores.explainable_variance) == pytest.approx(true, abs=0.01)
    assert np.mean(scores.normalized_correlation) == pytest.approx(1.0, abs=0.01)
    assert np.mean(scores.correlation_to_average) < 0.9


def slow(rng, repeats, bins, units, tau):
    """Noise of unit variance that forgets in ``tau`` bins."""
    kept, noise, x = math.exp(-1 / tau), np.empty((repeats, bins, units)), rng.normal(size=(repeats, units))
    for t in range(bins):
        noise[:, t] = x
        x = kept * x + math.sqrt(1 - kept**2) * rng.normal(size=x.shape)
    return noise


@pytest.mark.parametrize("tau", [0.01, 30.0, 1e9])
@pytest.mark.parametrize("repeats", [3, 8])
def test_slow_noise_is_no_signal_and_hides_none(tau, repeats):
    """Whether noise forgets within a bin, in 30, or never within a trial: the true signal's normalized correlation is
    one, and hardly a unit without signal counts as reliable."""
    rng = np.random.default_rng(11)
    signal, noise = 0.3 * slow(rng, 1, 600, 200, 5.0), 0.5 * slow(rng, repeats, 600, 200, tau)
    noise += 0.3 * rng.normal(size=noise.shape)
    mask = np.ones(noise.shape, bool)
    truth = np.broadcast_to(signal, noise.shape)
    scores = repeat_scores([Repeats(truth, signal + noise, mask)])
    assert np.median(scores.normalized_correlation[scores.reliable]) == pytest.approx(1.0, abs=0.06)
    assert scores.reliable.mean() > 0.5
    assert repeat_scores([Repeats(truth, noise, mask)]).reliable.mean() < 0.06


def test_behavior_that_a_prediction_knows_does_not_raise_the_normalized_correlation():
    """The true rate, with the animal's state of each repeat in it, correlates with the endless average by one."""
    rng = np.random.default_rng(12)
    stimulus, state = np.exp(0.6 * slow(rng, 1, 600, 200, 5.0)), np.exp(0.3 * slow(rng, 5, 600, 200, 60.0))
    rate = stimulus * state
    scores = repeat_scores([Repeats(rate, rng.poisson(rate).astype(float), np.ones(rate.shape, bool))])
    assert scores.reliable.mean() > 0.9
    assert np.mean(scores.normalized_correlation[scores.reliable]) == pytest.approx(1.0, abs=0.02)


def test_signal_to_error_tells_signal_from_noise_and_is_rather_too_small():
    """The standard error of the signal power, from one data set, is not below its scatter over many; a unit without
    signal is not reliable, one with it is."""
    rng = np.random.default_rng(5)
    for rate, few in ((rng.uniform(0.2, 3, 300), 4), (np.full(300, 0.5), 4)):
        counts = rng.poisson(rate[None, :, None], (few, 300, 400)).astype(float)
        mask = rng.random(counts.shape) < 0.9
        scores = repeat_scores([Repeats(np.ones(counts.shape), counts, mask)])
        signal = np.empty(400)
        for u in range(400):
            own = np.where(mask[..., u], counts[..., u], np.nan)
            n = mask[..., u].sum(0)
            own, n = own[:, n >= 2], n[n >= 2]
            signal[u] = np.nanmean(own, 0).var(ddof=1) - np.mean(np.nanvar(own, 0, ddof=1) / n)
        error = np.median(signal / scores.signal_to_error)
        assert signal.std() < error < 2 * signal.std()
        assert scores.reliable.mean() == 1.0 if rate.std() > 0 else scores.reliable.mean() < 0.05


@pytest.mark.parametrize("size", [0.0, 0.5])
def test_signal_to_error_knows_noise_that_lasts_for_many_bins(size):
    """Such noise is common to neighboring bins, which say less together than as many apart: the standard error follows
    what the signal power does over units that differ in nothing but their noise."""
    rng, keep = np.random.default_rng(0), 0.9
    noise = lfilter([math.sqrt(1 - keep**2)], [1, -keep], rng.standard_normal((4, 350, 400)), axis=1)[:, 50:]
    counts = noise + size * rng.standard_normal((1, 300, 1))
    scores = repeat_scores([Repeats(np.ones(counts.shape), counts, np.ones(counts.shape, bool))])
    explained = scores.explainable_variance
    signal = counts.var(0, ddof=1).mean(0) * explained / (1 - explained)
    assert 0.95 * signal.std() < np.median(signal / scores.signal_to_error) < 1.5 * signal.std()


def test_scores_do_not_depend_on_how_bins_are_pieced(monkeypatch):
    rng = np.random.default_rng(2)
    rate, counts = rng.uniform(0.1, 2, (3, 50, 4)), rng.poisson(1.0, (3, 50, 4)).astype(float)
    mask = rng.random(rate.shape) < 0.5
    whole = unit_scores(rate, counts, mask)
    monkeypatch.setattr(metrics_unit_scores, "PIECE", 7)
    assert_same(unit_scores(rate, counts, mask), whole)


def test_unit_without_signal_has_no_normalized_correlation():
    counts = np.array([[1.0, 0.0, 1.0, 0.0], [0.0, 1.0, 0.0, 1.0]])[..., None]
    rate = np.broadcast_to(np.array([1.0, 2.0, 3.0, 4.0])[:, None], counts.shape)
    scores = repeat_scores([Repeats(rate, counts, np.ones(counts.shape, bool))])
    assert scores.explainable_variance[0] < 0
    assert math.isnan(scores.normalized_correlation[0]) and math.isnan(scores.correlation_to_average[0])


def test_silent_constant_and_noiseless_units_over_repeats():
    """A silent or constant unit has no score; one without noise has all its variance explained; a constant prediction
    correlates with nothing, which is 0 of what there was to predict, and the measurement's own scores stay."""
    rng = np.random.default_rng(4)
    rate = np.broadcast_to(rng.uniform(0.5, 4, (1, 40, 4)), (3, 40, 4)).copy()
    counts = rng.poisson(rate).astype(float)
    counts[..., 0] = 0.0  # silent
    counts[..., 1] = 2.0  # constant
    counts[..., 2] = counts[:1, :, 2]  # every repeat the same
    rate[..., 3] = 0.7  # a constant prediction
    mask = np.ones(counts.shape, bool)
    mask[1, ::3] = False
    scores = repeat_scores([Repeats(rate, counts, mask)])
    assert np.isnan(scores.correlation_to_average).tolist() == [True, True, False, False]
    assert np.isnan(scores.explainable_variance).tolist() == [True, True, False, False]
    assert np.isnan(scores.normalized_correlation).tolist() == [True, True, False, False]
    assert scores.correlation_to_average[3] == scores.normalized_correlation[3] == 0.0
    assert scores.explainable_variance[2] == 1.0
    assert scores.normalized_correlation[2] == pytest.approx(scores.correlation_to_average[2], abs=0.01)
    assert scores.reliable.tolist()[:3] == [False, False, True]
    expected = repeat_reference([Repeats(rate, counts, mask)], 3)
    assert scores.explainable_variance[3] == pytest.approx(expected[1])


def test_a_single_repeat_says_nothing():
    s = planted(np.random.default_rng(0), 1, 10, 2)
    scores = repeat_scores([s])
    assert all(np.isnan(x).all() for x in scores[:3]) and (scores.bins == 0).all() and not scores.reliable.any()
    with pytest.raises(ValueError, match="at least one"):
        repeat_scores([])
