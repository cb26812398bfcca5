"""What an option is made for is found by a whole training: noise that units share, counts that scatter more than
Poisson's, and units' own pasts, each put into small simulated recordings, so that its truth is known.

Shape letters: N bins, U units.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from brief_training import BARE, BURN_IN, SMALL, rewritten, trained
from shipped import simulator
from test_histories import drawn

from vivit_core import load_twin
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.population import SHARED_STD
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.likelihoods.negative_binomial import NegativeBinomial
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.twin import Twin

SIMULATOR = simulator(**SMALL | {"units": 16, "train_trials": 60, "height": 16, "width": 32})
FIRST, SECOND = slice(0, 6), slice(6, 12)  # groups of units, for noise correlations of pairs of both
POISSON = Poisson((), "exp")
QUICKLY = ["optim.lr=2e-2", "optim.core_lr_scale=0.2"]  # a kernel has far to go, and the last fit leaves it as it is


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    (path,) = SIMULATOR.make(tmp_path_factory.mktemp("simulated"))
    return Recording(path)


def twin_of(folder: Path) -> Twin:
    found = load_twin(folder / "run/checkpoints/best.ckpt")
    assert isinstance(found, Twin)
    return found


def all_rates(recording: Recording) -> np.ndarray:
    """The true rates of all bins, (N, U), counts a bin."""
    rates: np.ndarray = recording.truth("rate", 0, int(recording.info.trials.stop[-1])).astype(np.float64)
    return rates


def scored_bins(recording: Recording) -> np.ndarray:
    """The bins of test trials that are scored."""
    test = recording.info.trials.of("test")
    return np.concatenate([np.arange(a + BURN_IN, b) for a, b in zip(test.start, test.stop, strict=True)])


def nats(likelihood: Likelihood, rate_NU: np.ndarray, counts_NU: np.ndarray) -> np.ndarray:
    """The mean over bins of what counts cost, (U,)."""
    with torch.no_grad():
        each = likelihood.nats(*(torch.as_tensor(x, dtype=torch.float64) for x in (rate_NU, counts_NU)))
    return np.asarray(each.mean(0))


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_shared_gain_tells_how_pairs_that_were_never_seen_together_scatter(
    recording: Recording, tmp_path: Path
) -> None:
    """Units of the first group were measured in one half of the training trials, those of the second in the other."""
    train = recording.info.trials.of("train")
    valid_NU = np.ones(all_rates(recording).shape, bool)
    for trial, (start, stop) in enumerate(zip(train.start, train.stop, strict=True)):
        valid_NU[start:stop, FIRST if trial % 2 else SECOND] = False
    path = rewritten(recording.path, tmp_path / "sim0.h5", valid=valid_NU)
    summary = trained(tmp_path / "shared", path, *BARE, "model/latent=shared_gain")
    weight_U = SHARED_STD * SIMULATOR.population(0).coupling
    with torch.no_grad():
        found = twin_of(tmp_path / "shared").latent("sim0").log_covariance().numpy()[FIRST, SECOND].ravel()
    true = np.outer(weight_U, weight_U)[FIRST, SECOND].ravel()
    alike, slope = float(np.corrcoef(found, true)[0, 1]), float((found * true).sum() / np.square(true).sum())
    pairs = summary["recordings"]["sim0"]["noise_correlations"]
    print(f"covariances of held-out pairs: r {alike:.3f}, slope {slope:.3f}; of the test trials: {pairs}")
    assert alike > 0.6
    assert slope == pytest.approx(1.0, abs=0.4)
    assert pairs["predicted_mean"] == pytest.approx(pairs["measured_mean"], rel=0.4)
    assert pairs["joint_bits"] > 0


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_a_negative_binomial_wins_on_counts_of_fano_factor_2_by_what_the_truth_wins(
    recording: Recording, tmp_path: Path
) -> None:
    """At a unit's mean rate its counts' variance is twice the mean."""
    rate_NU = all_rates(recording)
    dispersion_U = 1 / rate_NU.mean(0)
    counts_NU = np.random.default_rng(0).negative_binomial(1 / dispersion_U, 1 / (1 + dispersion_U * rate_NU))
    path = rewritten(recording.path, tmp_path / "sim0.h5", counts=counts_NU.astype(np.uint8))
    bins = scored_bins(recording)
    costs = []
    for name in ("poisson", "negative_binomial"):
        trained(tmp_path / name, path, *BARE, f"likelihood={name}")
        twin, test = twin_of(tmp_path / name), recording.info.trials.of("test")
        behaviors, predicted = twin.specs["sim0"].behavior, []
        for start, stop in zip(test.start, test.stop, strict=True):
            hz_NU = twin.rates("sim0", recording.frames(start, stop), recording.behavior(start, stop, behaviors))
            predicted.append(hz_NU[BURN_IN:] / recording.info.frame_rate_hz)
        likelihood = twin.likelihood("sim0")
        costs.append(nats(likelihood, np.concatenate(predicted), counts_NU[bins]))
    assert isinstance(likelihood, NegativeBinomial)
    of_dispersion = np.log(likelihood.dispersion_U.detach().numpy() / dispersion_U)
    right = NegativeBinomial(rate_NU.mean(0).tolist(), "exp", dispersion=1.0)
    with torch.no_grad():
        right.log_dispersion_U.copy_(torch.as_tensor(np.log(dispersion_U)))
    expected_U = nats(POISSON, rate_NU[bins], counts_NU[bins]) - nats(right, rate_NU[bins], counts_NU[bins])
    won_U = costs[0] - costs[1]
    print(f"won {won_U.mean():.4f} nats a bin, the truth {expected_U.mean():.4f}; off by {won_U - expected_U}")
    print(f"logarithm of found over true dispersion: {of_dispersion.mean():.3f}, std {of_dispersion.std():.3f}")
    assert expected_U.mean() > 0.02
    assert won_U.mean() == pytest.approx(expected_U.mean(), rel=0.15)
    assert abs(of_dispersion.mean()) < 0.2


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_past_spikes_win_back_what_the_truth_wins_by_them(recording: Recording, tmp_path: Path) -> None:
    """Every other unit is refractory, and the others adapt."""
    rate_NU = all_rates(recording)
    kernel_LU = np.zeros((8, rate_NU.shape[1]))
    kernel_LU[-3:, ::2] = np.array([-0.7, -1.5, -2.5])[:, None]
    kernel_LU[:, 1::2] = -0.4
    counts_NU, informed_NU = drawn(np.log(3 * rate_NU), kernel_LU, 0)
    path = rewritten(
        recording.path, tmp_path / "sim0.h5", counts=counts_NU.astype(np.uint8), truth={"rate": informed_NU}
    )
    summary = trained(tmp_path / "spikes", path, *BARE, "model/history=spikes", *QUICKLY)
    bins = scored_bins(recording)
    plain_NU = rate_NU * informed_NU[bins].mean(0) / rate_NU[bins].mean(0)
    costs = [nats(POISSON, x[bins], counts_NU[bins]) for x in (plain_NU, informed_NU)]
    worth = (costs[0] - costs[1]) / counts_NU[bins].mean(0) / math.log(2)
    won = summary["history"]["bps_mean"] - summary["bps_mean"]
    print(f"past spikes are worth {worth.mean():.3f} bits per spike, and the twin wins {won:.3f} by them")
    print(f"{summary['bps_mean']:.3f} without, {summary['history']['bps_mean']:.3f} with")
    assert worth.mean() > 0.05
    assert won == pytest.approx(worth.mean(), rel=0.25)
