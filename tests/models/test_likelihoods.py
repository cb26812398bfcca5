"""The loss against a plain float64 reference, and what its scale does not depend on."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_training import BINS, BURN_IN, make_batch, make_twin

from vivit_core.models.likelihoods.loss import counted, summed_loss
from vivit_core.models.likelihoods.poisson import Poisson
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
