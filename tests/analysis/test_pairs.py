"""Noise correlations that a latent predicts, beside those of counts that share a known gain."""

from __future__ import annotations

import dataclasses
import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import spec, twin, vivit

from vivit_core.analysis.evaluate.pairs import in_windows, noise_correlations
from vivit_core.analysis.predict import Predictions
from vivit_core.data.recording.reader import runs

UNITS, HOLD, BINS, RUNS = 12, 10, 300, 20
STARTS = np.arange(RUNS) * (BINS + 7)
WEIGHTS = np.random.default_rng(0).uniform(-0.4, 0.9, UNITS)


@pytest.fixture(scope="module")
def found() -> Predictions:
    """Trials that share one slow gain, with a gap between them; a tenth of the bins was not measured."""
    rng = np.random.default_rng(1)
    rate = np.exp(rng.normal(-0.5, 0.3, (RUNS, BINS, UNITS)))
    z, keep = np.zeros((RUNS, BINS)), math.exp(-1 / 100)
    z[:, 0] = rng.standard_normal(RUNS)
    for t in range(1, BINS):
        z[:, t] = keep * z[:, t - 1] + math.sqrt(1 - keep**2) * rng.standard_normal(RUNS)
    counts = rng.poisson(rate * np.exp(z[..., None] * WEIGHTS - WEIGHTS**2 / 2)).astype(np.float32)
    valid = np.repeat(rng.random((RUNS, BINS // HOLD, UNITS)) < 0.9, HOLD, axis=1)
    counts[~valid] = 50
    bins = (np.arange(RUNS)[:, None] * (BINS + 7) + np.arange(BINS)).ravel()
    flat = [x.reshape(-1, UNITS) for x in (counts, valid, rate.astype(np.float32))]
    return Predictions(bins, *flat, ln_NU=None)


def scored(
    weights: np.ndarray, found: Predictions, order: Any = slice(None), starts: np.ndarray = STARTS
) -> dict[str, Any]:
    node = {
        "_target_": "vivit_core.models.latents.shared_gain.SharedGain",
        "rank": 1,
        "hold": HOLD,
        "memory": 10.0,
        "std": 0.1,
    }
    model = twin(vivit(latent=node), spec("a", units=UNITS))
    latent = model.latent("a")
    with torch.no_grad():
        latent.weight_UR.copy_(torch.as_tensor(weights)[:, None])
    unit_ids, trials = np.array(model.specs["a"].unit_ids)[order], SimpleNamespace(start=starts)
    recording: Any = SimpleNamespace(info=SimpleNamespace(unit_ids=unit_ids, trials=trials))
    some = Predictions(
        found.bins_N, *(x[:, order] for x in (found.counts_NU, found.valid_NU, found.predicted_NU)), ln_NU=None
    )
    own = noise_correlations(model, recording, "a", some)
    assert own is not None
    return own


def test_the_right_weights_predict_what_is_measured(found: Predictions) -> None:
    own = scored(WEIGHTS, found)
    assert json.loads(json.dumps(own)) == own
    assert own["pairs"] == UNITS * (UNITS - 1) // 2 and own["window_bins"] == HOLD
    assert own["correlation"] > 0.95 and own["predicted_mean"] == pytest.approx(own["measured_mean"], abs=0.03)
    shuffled = scored(np.random.default_rng(3).permutation(WEIGHTS), found)
    assert shuffled["correlation"] < 0.5 and shuffled["joint_bits"] < own["joint_bits"] > 0.02
    assert scored(0.0 * WEIGHTS, found)["joint_bits"] == pytest.approx(0.0, abs=1e-4)


def test_units_in_another_order_are_told_apart(found: Predictions) -> None:
    order = np.array([7, 2, 11, 0, 5])
    own = scored(WEIGHTS, found, order)
    assert own["pairs"] == 10 and own["correlation"] > 0.9


def test_windows_do_not_cross_trials(found: Predictions) -> None:
    trials = runs(found.bins_N, STARTS)
    rate, counts, known = in_windows(found, trials, HOLD)
    assert rate.shape == (RUNS * BINS // HOLD, UNITS)
    np.testing.assert_allclose(rate[30], found.predicted_NU[300:310].sum(0), rtol=1e-6)  # the second trial's first
    assert np.array_equal(known[30], found.valid_NU[300:310].all(0))
    assert np.array_equal(counts[31], found.counts_NU[310:320].sum(0))
    assert in_windows(found, trials, 7)[0].shape[0] == RUNS * (BINS // 7)


def test_nor_where_trials_follow_each_other_without_a_gap(found: Predictions) -> None:
    """As with evaluation_burn_in=0; of trials of 300 bins windows of 7 leave the last 6 out."""
    close = dataclasses.replace(found, bins_N=np.arange(RUNS * BINS))
    starts = np.arange(RUNS) * BINS
    assert runs(close.bins_N, starts) == [(start, start + BINS) for start in starts]
    assert runs(close.bins_N) == [(0, RUNS * BINS)]
    assert scored(WEIGHTS, close, starts=starts) == scored(WEIGHTS, found)


def test_a_twin_without_a_latent_has_none(found: Predictions) -> None:
    model = twin(vivit(), spec("a", units=UNITS))
    recording: Any = SimpleNamespace(info=SimpleNamespace(unit_ids=model.specs["a"].unit_ids))
    assert noise_correlations(model, recording, "a", found) is None
