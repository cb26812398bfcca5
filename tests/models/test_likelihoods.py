"""The loss against a plain float64 reference, and what its scale does not depend on."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats
from scipy.signal import lfilter
from tiny_training import BINS, BURN_IN, make_batch, make_twin

from vivit_core.metrics.bits_per_spike import BitsPerSpike
from vivit_core.metrics.calibration import probability_integral
from vivit_core.metrics.unit_scores import Scorer
from vivit_core.models.likelihoods.gaussian import Gaussian, Squared
from vivit_core.models.likelihoods.loss import counted, summed_loss
from vivit_core.models.likelihoods.negative_binomial import NegativeBinomial
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.likelihoods.zero_inflated_gamma import ZeroInflatedGamma
from vivit_core.specs import Clips


def clips(counts, valid, **more):
    return Clips(counts=torch.as_tensor(counts, dtype=torch.float32), valid=torch.as_tensor(valid), **more)


def random_case(rng, b, t, units):
    rate = {f"r{i}": rng.uniform(0.01, 5, (b, t, u)) for i, u in enumerate(units)}
    batch = {rid: clips(rng.poisson(r), rng.random(r.shape) < 0.7) for rid, r in rate.items()}
    return rate, batch


def poisson(recording_id):
    return Poisson((), "exp")


def mean_loss(rate, batch, burn_in):
    total, pairs = summed_loss(
        {rid: torch.as_tensor(r, dtype=torch.float32) for rid, r in rate.items()}, batch, burn_in, poisson
    )
    return float(total / pairs)


def reference(rate, batch, burn_in):
    """Pair by pair, in Python's floats."""
    total, pairs = 0.0, 0
    for rid, r in rate.items():
        for i, t, u in np.ndindex(*r.shape):
            if t >= burn_in and bool(batch[rid]["valid"][i, t, u]):
                total += r[i, t, u] - float(batch[rid]["counts"][i, t, u]) * math.log(r[i, t, u])
                pairs += 1
    return total / pairs


@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(3, 6), st.lists(st.integers(1, 5), min_size=1, max_size=3))
@settings(max_examples=40, deadline=None)
def test_loss_is_the_mean_over_valid_pairs_of_all_recordings(seed, b, t, units):
    rate, batch = random_case(np.random.default_rng(seed), b, t, units)
    for clips_ in batch.values():
        clips_["valid"][0, -1, 0] = True
    assert mean_loss(rate, batch, 2) == pytest.approx(reference(rate, batch, 2), rel=2e-5, abs=1e-6)


@given(st.integers(0, 10**6), st.sampled_from(["batch", "time", "units", "recordings"]), st.integers(2, 4))
@settings(max_examples=40, deadline=None)
def test_scale_does_not_depend_on_batch_time_or_units(seed, what, times):
    """The same data several times over, along any axis, has the same loss."""
    rate, batch = random_case(np.random.default_rng(seed), 2, 4, [3])
    batch["r0"]["valid"][0, 0, 0] = True
    once = mean_loss(rate, batch, 0)
    if what == "recordings":
        rate, batch = ({f"copy{i}": x["r0"] for i in range(times)} for x in (rate, batch))
    else:
        axis = {"batch": 0, "time": 1, "units": 2}[what]
        rate = {"r0": np.concatenate([rate["r0"]] * times, axis)}
        batch = {"r0": {name: torch.cat([x] * times, axis) for name, x in batch["r0"].items()}}
    assert mean_loss(rate, batch, 0) == pytest.approx(once, rel=1e-5)


def test_not_a_mean_of_means():
    """A recording of one unit must not weigh as much as one of nine."""
    rate = {"one": np.full((1, 1, 1), 1.0), "nine": np.full((1, 1, 9), 2.0)}
    batch = {rid: clips(np.zeros(r.shape), np.ones(r.shape, bool)) for rid, r in rate.items()}
    assert mean_loss(rate, batch, 0) == pytest.approx((1 * 1 + 9 * 2) / 10)


def test_what_does_not_count_may_be_anything_and_has_no_gradient():
    rate = torch.full((1, 3, 2), 0.5, requires_grad=True)
    counts = torch.tensor([[[9.0, 9.0], [1.0, math.nan], [2.0, 0.0]]])
    valid = torch.tensor([[[True, True], [True, False], [True, True]]])
    total, pairs = summed_loss({"a": rate}, {"a": clips(counts, valid)}, 1, poisson)
    assert pairs == 3
    assert float(total.detach()) == pytest.approx(3 * 0.5 - 3 * math.log(0.5))
    total.backward()
    assert torch.equal(rate.grad, torch.tensor([[[0.0, 0.0], [-1.0, 0.0], [-3.0, 1.0]]]))


def test_newest_bin_alone_and_score():
    rate = torch.full((2, 1), 0.5)
    counts, valid = torch.tensor([[[1.0], [2.0]], [[3.0], [4.0]]]), torch.ones(2, 2, 1, dtype=torch.bool)
    _, newest, mask = counted(rate, clips(counts, valid), 1)
    assert newest.tolist() == [[2.0], [4.0]] and mask.all()
    score = torch.tensor([[True, False], [False, True]])
    _, _, mask = counted(torch.full((2, 2, 1), 0.5), clips(counts, valid, score=score), 1)
    assert mask[..., 0].tolist() == score.tolist(), "in evaluation the clips say what counts, burn-in or not"


def test_loss_is_computed_in_float32_under_autocast():
    twin = make_twin().eval()
    batch = make_batch(0)
    with torch.autocast("cpu", torch.bfloat16):
        predicted = twin(batch)
        total, _ = summed_loss({rid: p.bfloat16() for rid, p in predicted.items()}, batch, BURN_IN, poisson)
    assert total.dtype == torch.float32
    exact, _ = summed_loss({rid: p.bfloat16().double() for rid, p in predicted.items()}, batch, BURN_IN, poisson)
    assert float(total) == pytest.approx(float(exact), rel=1e-5)


def test_burn_in_as_long_as_the_clip_is_refused():
    with pytest.raises(ValueError, match="nothing left after a burn-in of 8"):
        summed_loss(make_twin()(make_batch(0)), make_batch(0), BINS, poisson)


def gain_of_fano_2(mean):
    """What a count tells more by a negative binomial of Fano factor 2 than by Poisson's of the same mean, in nats: its
    expectation and its standard deviation."""
    n = np.arange(400)
    right = stats.nbinom(mean, 0.5)
    gained = right.logpmf(n) - stats.poisson(mean).logpmf(n)
    expected = float((right.pmf(n) * gained).sum())
    return expected, math.sqrt(float((right.pmf(n) * gained**2).sum()) - expected**2)


def fit(likelihood, rate, counts):
    """Its own parameters, where the rate is known."""
    optimizer = torch.optim.LBFGS(likelihood.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = likelihood.nats(rate, counts).mean()
        loss.backward()
        return loss

    optimizer.step(closure)


@pytest.mark.parametrize("make", [Poisson, partial(NegativeBinomial, dispersion=0.5)])
def test_a_drive_says_large_counts_in_parts_of_their_mean(make):
    """So that the same course takes the same drive; counts of at most one a bin are said as they are."""
    drive = torch.linspace(-4, 4, 9)[:, None]
    small, large = make([0.3, 1.0], "softplus"), make([0.3, 50.0], "softplus")
    assert small.scale_U is None and large.scale_U.tolist() == [1.0, 50.0]
    torch.testing.assert_close(large.rate(drive), small.rate(drive) * torch.tensor([1.0, 50.0]))
    gained = large.rate(drive, torch.full((9, 1), 0.5))
    torch.testing.assert_close(gained, large.rate(drive) * math.exp(0.5))
    torch.testing.assert_close(large.rate(large.mean_drive()), torch.tensor([0.3, 50.0]), rtol=1e-4, atol=1e-5)
    assert large.of_units([1]).rate(drive).shape == (9, 1) and large.of_units([1]).scale_U.tolist() == [50.0]
    assert make([0.3, 50.0], "exp").scale_U is None
    again = make([0.3, 50.0], "softplus")
    again.load_state_dict(large.state_dict())
    with pytest.raises(RuntimeError, match="scale_U"):  # of a checkpoint from before
        again.load_state_dict({name: value for name, value in large.state_dict().items() if name != "scale_U"})


def test_negative_binomial_wins_on_counts_of_fano_factor_2_by_what_theory_says():
    means, bins = np.array([0.3, 1.0, 4.0]), 20_000
    counts = torch.as_tensor(stats.nbinom(means, 0.5).rvs((2, bins, 3), np.random.default_rng(0)), dtype=torch.float32)
    assert torch.allclose(counts.var((0, 1)) / counts.mean((0, 1)), torch.tensor(2.0), rtol=0.05)
    rate = torch.as_tensor(means, dtype=torch.float32).expand(bins, 3)
    made = NegativeBinomial(means.tolist(), "exp", dispersion=0.1)
    fit(made, rate, counts[0])
    np.testing.assert_allclose(made.dispersion_U.detach(), 1 / means, rtol=0.15)
    with torch.no_grad():
        gained = (poisson("a").nats(rate, counts[1]) - made.nats(rate, counts[1])).double().mean(0)
    for mean, won in zip(means, gained.tolist(), strict=True):
        expected, spread = gain_of_fano_2(mean)
        assert won == pytest.approx(expected, abs=4 * spread / math.sqrt(bins)) and expected > 0.02
    low, high = (made.distribution(means).ppf(level) for level in (0.05, 0.95))
    inside = ((counts[1].numpy() >= low) & (counts[1].numpy() <= high)).mean(0)
    exact = stats.nbinom(means, 0.5)
    np.testing.assert_allclose(inside, exact.cdf(high) - exact.cdf(low - 1), atol=0.01)


def test_a_dispersion_begins_where_counts_tell_it_whatever_the_rate_does():
    """Of a rate that wanders; chance is no dispersion, and what is not valid is not looked at."""
    rng, bins = np.random.default_rng(0), 20_000
    log_rate = lfilter([math.sqrt(1 - 0.97**2)], [1, -0.97], rng.standard_normal((bins, 3)), axis=0)
    rate = np.array([0.3, 1.0, 4.0]) * np.exp(0.5 * log_rate - 0.125)
    a = np.array([3.0, 1.0, 0.25])
    scattered = rng.negative_binomial(1 / a, 1 / (1 + a * rate))
    counts = torch.as_tensor(np.concatenate([scattered, rng.poisson(rate), np.zeros((bins, 1))], 1)).float()
    valid = torch.rand(counts.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    made = NegativeBinomial(counts.mean(0).tolist(), "exp", dispersion=0.07)
    made.initialize(torch.where(valid, counts, math.nan), valid)
    np.testing.assert_allclose(made.dispersion_U.detach()[:3], a, rtol=0.2)
    assert (made.dispersion_U.detach()[3:] <= 0.0701).all()
    before = made.dispersion_U.detach().clone()
    made.initialize(counts[:1], valid[:1])
    torch.testing.assert_close(made.dispersion_U.detach(), before)


def test_negative_binomial_of_little_dispersion_is_poisson_s():
    rng = np.random.default_rng(0)
    rate = torch.as_tensor(rng.uniform(0.01, 5, (50, 2)), dtype=torch.float32)
    counts = torch.as_tensor(rng.poisson(2.0, (50, 2)), dtype=torch.float32)
    made = NegativeBinomial((1.0, 1.0), "exp", dispersion=1e-7)
    torch.testing.assert_close(made.nats(rate, counts), poisson("a").nats(rate, counts), rtol=1e-4, atol=1e-4)
    for dispersion in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="likelihood=poisson"):
            NegativeBinomial((1.0,), "exp", dispersion=dispersion)


def test_nats_are_scipy_s_to_a_constant_of_the_count():
    counts, rate = np.arange(30.0)[:, None], np.array([0.2, 1.0, 7.0])
    made = NegativeBinomial(rate.tolist(), "exp", dispersion=0.7)
    with torch.no_grad():
        nats = made.nats(torch.as_tensor(rate), torch.as_tensor(counts)).numpy()
    expected = -stats.nbinom.logpmf(counts, 1 / 0.7, 1 / (1 + 0.7 * rate)) - special.gammaln(counts + 1)
    np.testing.assert_allclose(nats, expected, rtol=1e-5, atol=1e-6)
    deviance = made.deviance(torch.as_tensor(rate), torch.as_tensor(rate)).detach()
    assert deviance.abs().max() < 1e-6


# Traces

MEANS = np.array([0.02, 1.0, 300.0])  # a trace has any unit
BINS_DRAWN = 6000
EDGES = np.arange(0.0, 5.0, 0.2)[:, None] * MEANS


def trace_likelihood(name, means=MEANS):
    if name == "zero_inflated_gamma":
        return ZeroInflatedGamma(list(means), "softplus", floor=0.01)
    return Gaussian(list(means), "softplus", stabilized=name == "stabilized")


def true_likelihood(name):
    """One whose parameters are known: of each unit other ones."""
    made = trace_likelihood(name)
    with torch.no_grad():
        if name == "zero_inflated_gamma":
            made.log_size_U.copy_(torch.tensor([0.5, 1.0, 3.0]).log())
            made.log_shape_U.copy_(torch.tensor([0.8, 1.5, 4.0]).log())
        else:
            made.sd_U.copy_(torch.tensor([0.08, 0.1, 0.12]))
    return made


def parameters_of(likelihood):
    names = ("size_U", "shape_U") if isinstance(likelihood, ZeroInflatedGamma) else ("std_U",)
    return np.stack([getattr(likelihood, name).detach().numpy() for name in names])


def known_rates():
    return np.random.default_rng(1).uniform(0.4, 3.0, (BINS_DRAWN, 3)) * MEANS


def drawn_from(likelihood, rate, seed):
    return np.maximum(likelihood.distribution(rate).ppf(np.random.default_rng(seed).random(rate.shape)), 0.0)


def cell_logs(likelihood, rate):
    """Logarithms of the probability of each cell between EDGES, (cells, N, U): what densities and points share."""
    upper = np.stack([likelihood.distribution(rate).cdf(edge * (1 + 1e-9)) for edge in EDGES])
    return np.log(np.maximum(np.diff(upper, axis=0, prepend=0.0, append=1.0), 1e-12))


TRACES = ("zero_inflated_gamma", "gaussian", "stabilized")


@pytest.fixture(scope="module")
def fitted():
    """By what was drawn from: the truth, its rate, new draws, and each likelihood fitted to other draws."""
    rate, found = known_rates(), {}
    for name in TRACES:
        truth = true_likelihood(name)
        first, new = (torch.as_tensor(drawn_from(truth, rate, seed), dtype=torch.float32) for seed in (2, 3))
        models = {}
        for other in TRACES:
            models[other] = trace_likelihood(other)
            models[other].initialize(first, torch.ones_like(first, dtype=torch.bool))
            fit(models[other], torch.as_tensor(rate, dtype=torch.float32), first)
        found[name] = (truth, rate, new.numpy().astype(float), models)
    return found


@pytest.mark.parametrize("name", TRACES)
def test_the_right_likelihood_of_a_trace_wins_by_what_theory_says(name, fitted):
    """Theory says: by the Kullback-Leibler divergence of the wrong one from the truth, response by response."""
    truth, rate, new, models = fitted[name]
    np.testing.assert_allclose(parameters_of(models[name]), parameters_of(truth), rtol=0.1)
    logs = {other: cell_logs(model, rate) for other, model in models.items()}
    true_logs = cell_logs(truth, rate)
    cell = (new > EDGES[:, None] * (1 + 1e-9)).sum(0)
    for other in set(TRACES) - {name}:
        gain = logs[name] - logs[other]
        won = np.take_along_axis(gain, cell[None], 0)[0]
        expected = (np.exp(true_logs) * gain).sum(0)
        spread = np.sqrt((np.exp(true_logs) * gain**2).sum(0) - expected**2)
        off = (won - expected).sum(0) / np.sqrt((spread**2).sum(0))
        assert np.abs(off).max() < 4, (other, off)
        assert (won.sum(0) > 0).all() and (expected.mean(0) > 0.005).all(), (other, expected.mean(0))


@pytest.mark.parametrize("name", TRACES)
def test_predicted_quantiles_are_calibrated_where_the_likelihood_is_right(name, fitted):
    _, rate, new, models = fitted[name]
    for other, model in models.items():
        share = probability_integral(*(p.ravel() for p in model.probabilities(rate, new)), 10)
        alike = other == name or "zero_inflated_gamma" not in (name, other)  # over all units two Gaussians look alike
        assert (np.abs(share - 0.1).max() < 0.012) == alike, (other, share)
    levels = np.linspace(0.02, 0.98, 25)[:, None, None]
    scatter = models[name].distribution(rate[:7])
    found = scatter.cdf(scatter.ppf(levels))
    np.testing.assert_allclose(np.where(scatter.ppf(levels) > 0, found - levels, 0.0), 0.0, atol=1e-6)


@pytest.mark.parametrize("name", TRACES)
def test_a_distribution_has_the_moments_of_its_draws(name):
    truth = true_likelihood(name)
    rate = np.broadcast_to(MEANS, (40_000, 3))
    draws, scatter = drawn_from(truth, rate, 5), truth.distribution(MEANS)
    np.testing.assert_allclose(scatter.mean(), MEANS, rtol=1e-5)
    np.testing.assert_allclose(draws.mean(0), MEANS, rtol=0.05)
    np.testing.assert_allclose(draws.var(0), scatter.var(), rtol=0.1)


def test_the_square_of_a_root_has_its_moments():
    """A root of mean 1 and variance ¼: its square, less 1, has mean ¼ and variance (4 + ½) / 4; here in parts of 2."""
    scatter = Squared(stats.norm(1.0, 0.5), np.array([2.0]))
    assert scatter.mean() == pytest.approx([2 * 0.25]) and scatter.var() == pytest.approx([4 * 1.125])


@pytest.mark.parametrize("name", TRACES)
def test_a_deviance_differs_between_rates_by_twice_their_nats(name):
    made, rate = true_likelihood(name), torch.as_tensor(known_rates()[:50])
    counts = torch.as_tensor(drawn_from(made, rate.numpy(), 7))
    with torch.no_grad():
        deviance, nats = (f(rate, counts) - f(1.3 * rate, counts) for f in (made.deviance, made.nats))
    torch.testing.assert_close(deviance, 2 * nats, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_begins_where_its_parameters_fit(name):
    """At a constant rate these are the truth's; a unit without a response is like the others."""
    truth = true_likelihood(name)
    rate = np.broadcast_to(MEANS, (20_000, 3))
    counts = torch.as_tensor(drawn_from(truth, rate, 4))
    valid = torch.rand(counts.shape, generator=torch.Generator().manual_seed(0)) < 0.8
    silent = torch.cat([torch.where(valid, counts, math.nan), torch.zeros(len(counts), 1)], 1)
    made = trace_likelihood(name, [*MEANS, 0.0])
    made.initialize(silent, torch.cat([valid, torch.ones(len(counts), 1, dtype=torch.bool)], 1))
    found = parameters_of(made)
    np.testing.assert_allclose(found[:, :3], parameters_of(truth), rtol=0.12)
    np.testing.assert_allclose(found[:, 3], np.median(found[:, :3], 1), rtol=1e-5)
    nothing = trace_likelihood(name)
    nothing.initialize(torch.zeros(50, 3), torch.ones(50, 3, dtype=torch.bool))
    assert np.isfinite(parameters_of(nothing)).all()


@pytest.mark.parametrize(("name", "true_bits"), [("zero_inflated_gamma", 2.7), ("stabilized", 3.4)])
def test_of_very_skewed_rates_less_than_the_mean_scores_above_zero(name, true_bits):
    """As docs/analyses.md says: the null model's scatter is that around the rates, not that around a constant."""
    rng = np.random.default_rng(0)
    rate = np.exp(rng.normal(0, 1.5, (20000, 1)))
    rate *= 0.5 / rate.mean()
    likelihood = trace_likelihood(name, (0.5,))
    with torch.no_grad():
        if name == "zero_inflated_gamma":
            likelihood.floor = 0.0
            likelihood.log_size_U.fill_(0.0)
            likelihood.log_shape_U.fill_(math.log(2.0))
        else:
            likelihood.sd_U.fill_(0.05**0.5)
    counts = drawn_from(likelihood, rate, 1)
    scorer = Scorer(likelihood, [BitsPerSpike()])

    def scored(predicted):
        return scorer.scores_of(predicted, counts, np.ones(counts.shape, bool)).by_name["bps"][0]

    assert scored(np.full_like(rate, counts.mean())) == pytest.approx(0.0, abs=1e-6)
    assert scored(np.full_like(rate, 0.8 * counts.mean())) == pytest.approx(0.09, abs=0.02)
    assert scored(rate) == pytest.approx(true_bits, rel=0.05)


@pytest.mark.parametrize("name", TRACES)
def test_gradients_are_numbers_at_zeros_and_at_tiny_and_huge_rates(name):
    made = trace_likelihood(name, [0.0, 1.0, 1000.0])
    drive = torch.tensor([-30.0, -3.0, 0.0, 3.0, 30.0])[:, None].expand(5, 3).clone().requires_grad_()
    for counts in (torch.zeros(5, 3), torch.tensor([1e-4, 1.0, 1e3]).expand(5, 3)):
        made.nats(made.rate(drive), counts).sum().backward()
        grads = [drive.grad, *(parameter.grad for parameter in made.parameters())]
        assert all(torch.isfinite(grad).all() for grad in grads)
    assert drive.grad[1:4].abs().min() > 0


@pytest.mark.parametrize("name", TRACES)
def test_a_trace_s_unit_changes_nothing(name):
    """Neither what a drive learns, nor bits per event."""
    truth, rate = true_likelihood(name), known_rates()
    counts = drawn_from(truth, rate, 6)
    scores, gradients = [], []
    for unit in (1.0, 1000.0):
        made = trace_likelihood(name, unit * MEANS)
        made.initialize(torch.as_tensor(unit * counts), torch.ones(counts.shape, dtype=torch.bool))
        scores.append(Scorer(made).scores_of(unit * rate, unit * counts, np.ones(counts.shape, bool)).by_name["bps"])
        drive = torch.full((len(counts), 3), 0.3, requires_grad=True)
        made.nats(made.rate(drive), torch.as_tensor(unit * counts, dtype=torch.float32)).mean().backward()
        gradients.append(drive.grad)
    np.testing.assert_allclose(*scores, rtol=1e-3)
    assert (scores[0] > 0.005).all()
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-9)
    fired = (counts > 0.01 * MEANS).sum(0) if name == "zero_inflated_gamma" else len(counts)
    made = trace_likelihood(name)
    with torch.no_grad():
        terms = made.terms(torch.as_tensor(rate), torch.as_tensor(counts))
    sums = np.stack([x.sum(0) for x in terms])
    np.testing.assert_allclose(made.events(np.full(3, float(len(counts))), counts.sum(0), sums), fired)


def test_a_floor_is_a_part_of_the_mean():
    for floor in (-0.1, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"likelihood\.floor="):
            ZeroInflatedGamma((1.0,), "exp", floor=floor)
    made = ZeroInflatedGamma((2.0,), "exp", floor=0.1)
    with torch.no_grad():
        at, below, above = (made.nats(torch.tensor([1.0]), torch.tensor([y])) for y in (0.2, 0.0, 0.3))
    assert at == below and above != at


def test_a_response_up_to_the_floor_takes_up_all_that_lies_below():
    """As one of zero does; a larger one is a point."""
    made = ZeroInflatedGamma((2.0,), "exp", floor=0.1)
    below, up_to = (p.ravel() for p in made.probabilities(np.ones((4, 1)), np.array([[0.0], [0.1], [0.2], [0.5]])))
    none = math.exp(-0.5 / 1.1)  # a rate of half the mean, in events of size 1.1
    assert below[:3].tolist() == [0.0, 0.0, 0.0] and up_to[:3] == pytest.approx([none] * 3)
    assert below[3] == up_to[3] > none
