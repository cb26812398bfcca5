"""Past counts as a gain: of the past alone, recovered where the truth is known, with none, some or all of the units."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import LIKELIHOOD, READOUT, clips, spec, twin, vivit

from vivit_core.models.histories.base import History, Past, most_bases, past_cosines
from vivit_core.models.histories.population import Population
from vivit_core.models.histories.spikes import OwnSpikes
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.plan import plan
from vivit_core.models.readouts.base import Drive

SPIKES = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 3, "lags": 6, "shown": 0.75}
POPULATION = SPIKES | {"_target_": "vivit_core.models.histories.population.Population", "rank": 2}


def test_a_basis_is_finer_near_the_present() -> None:
    basis_KL = past_cosines(5, 24)
    torch.testing.assert_close(basis_KL.norm(dim=1), torch.ones(5))
    peaks = 23 - basis_KL.argmax(1)  # lags, from the newest one on
    assert peaks[0] == 0 and peaks[-1] == 23 and (peaks.diff() > 0).all() and (peaks.diff().diff() >= 0).all()
    width = (basis_KL > basis_KL.amax(1, keepdim=True) / 2).sum(1)[:-1]  # the last one goes on beyond the lags
    assert (width.diff() >= 0).all() and width[-1] > width[0]
    assert past_cosines(1, 4).shape == (1, 4)
    for bases, lags, shown, named in ((7, 6, 0.5, "bases=7"), (0, 6, 0.5, "bases=0"), (2, 6, 0.0, "shown=0")):
        with pytest.raises(ValueError, match=named):
            OwnSpikes([1.0], bases, lags, shown)
    with pytest.raises(ValueError, match="rank=0"):
        Population([1.0], 2, 6, 0, 0.5)


@pytest.mark.parametrize("lags", [1, 2, 3, 12, 24, 48])
def test_there_are_no_more_functions_than_see_a_lag(lags: int) -> None:
    most = most_bases(lags)
    OwnSpikes([1.0], most, lags, 0.5)
    for bases in range(1, most + 1):
        torch.testing.assert_close(past_cosines(bases, lags).norm(dim=1), torch.ones(bases))
    if most < lags:
        with pytest.raises(ValueError, match=rf"bases={most + 1}, lags={lags}: .* see none; give at most {most}"):
            OwnSpikes([1.0], most + 1, lags, 0.5)


@pytest.mark.parametrize("kind", ["own", "population"])
def test_a_gain_follows_the_bins_before_and_no_others(kind: str) -> None:
    torch.manual_seed(0)
    made: History = OwnSpikes([0.5] * 4, 3, 6, 1.0) if kind == "own" else Population([0.5] * 4, 3, 6, 2, 1.0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(torch.randn(parameter.shape))
    counts, known = torch.poisson(torch.full((1, 30, 4), 0.5)), torch.ones(1, 30, 4, dtype=torch.bool)
    more = counts.clone()
    more[:, 10, 1] += 2
    changed_TU = (made(more, known) - made(counts, known))[0].abs() > 1e-6
    assert changed_TU.any(1).nonzero()[:, 0].tolist() == list(range(11, 17))  # six lags
    assert changed_TU.any(0).tolist() == ([False, True, False, False] if kind == "own" else [True] * 4)
    # What is not known is as if it were the mean.
    hidden = known.clone()
    hidden[:, 10, 1] = False
    torch.testing.assert_close(made(more, hidden), made(counts, hidden))
    assert torch.equal(made(counts, torch.zeros_like(known)), torch.zeros(1, 30, 4))


def drawn(log_rate_TU: np.ndarray, kernel_LU: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Counts whose own past multiplies their rate, and these rates; the kernel's newest lag stands last."""
    rng, lags = np.random.default_rng(seed), len(kernel_LU)
    counts, rates = np.zeros_like(log_rate_TU), np.zeros_like(log_rate_TU)
    for t in range(len(counts)):
        past = counts[max(0, t - lags) : t]
        rates[t] = np.exp(log_rate_TU[t] + (past * kernel_LU[lags - len(past) :]).sum(0))
        counts[t] = rng.poisson(rates[t])
    return counts, rates


def fit(history: History, base: Drive, counts: torch.Tensor, steps: int, lr: float) -> None:
    """By Adam, with units shown as in a training."""
    optimizer = torch.optim.Adam(history.parameters(), lr=lr)
    likelihood = Poisson((), "exp")
    for _ in range(steps):
        optimizer.zero_grad()
        known = history.drawn(len(counts))[:, None].expand(counts.shape)
        likelihood.nats(likelihood.rate(base.value, history(counts, known)), counts).mean().backward()
        optimizer.step()


def bits(rate: torch.Tensor, counts: torch.Tensor) -> float:
    return float((torch.xlogy(counts, rate) - rate).sum() / counts.sum() / math.log(2))


def test_a_unit_s_kernel_is_found_and_gains_what_the_truth_gains() -> None:
    """A refractory unit, one that adapts, and one without history."""
    lags, clip = 12, 400
    kernel_LU = np.zeros((lags, 3))
    kernel_LU[-3:, 0] = [-0.7, -1.5, -2.5]
    kernel_LU[:, 1] = -0.6
    log_rate = np.log(np.array([0.4, 0.4, 0.25])) + 0.3 * np.random.default_rng(0).standard_normal((16_000, 3))
    (first, _), (second, truth) = (drawn(log_rate, kernel_LU, seed) for seed in (1, 2))
    shaped = [torch.as_tensor(x, dtype=torch.float32).view(-1, clip, 3) for x in (log_rate, first, second, truth)]
    drive, counts, new, truth_BTU = Drive(shaped[0]), *shaped[1:]
    made = OwnSpikes(first.mean(0).tolist(), bases=5, lags=lags, shown=1.0)
    made.initialize(torch.as_tensor(first), torch.ones(first.shape, dtype=torch.bool))
    np.testing.assert_allclose(made.std_U, first.std(0), rtol=1e-3)
    fit(made, drive, counts, steps=80, lr=0.06)
    with torch.no_grad():
        found_UL = made.weight_UK @ made.basis_KL / made.std_U[:, None]
        assert float(found_UL[0, -1]) < -1.5 and float(found_UL[0, :6].abs().max()) < 0.3
        assert -0.75 < float(found_UL[1].mean()) < -0.4 and float(found_UL[2].abs().max()) < 0.25
        known = torch.ones_like(new, dtype=torch.bool)
        likelihood = Poisson((), "exp")
        plain, informed = likelihood.rate(drive.value), likelihood.rate(drive.value, made(new, known))
    inside = slice(lags, None)  # a clip's first bins have no past
    for unit in (0, 1):
        pair = [bits(x[:, inside, unit], new[:, inside, unit]) for x in (plain, informed, truth_BTU)]
        assert pair[2] > pair[0] + 0.05 and pair[1] > pair[0] + 0.8 * (pair[2] - pair[0]), pair


def test_a_population_tells_a_shared_gain_with_none_some_or_all_observed() -> None:
    rng = np.random.default_rng(0)
    clip, count, units, lags = 200, 60, 30, 40
    noise, latent = rng.standard_normal((count, clip)), np.zeros((count, clip))
    latent[:, 0] = noise[:, 0]
    for t in range(1, clip):  # a second long at 120 Hz, and as much in each clip
        latent[:, t] = 0.98 * latent[:, t - 1] + math.sqrt(1 - 0.98**2) * noise[:, t]
    weight_U = rng.uniform(-0.2, 0.8, units)
    log_rate = np.log(rng.uniform(0.2, 0.6, units)) + latent[..., None] * weight_U
    counts = torch.as_tensor(rng.poisson(np.exp(log_rate)), dtype=torch.float32)
    train, test = counts[:40], counts[40:]
    mean_U = train.mean((0, 1))
    torch.manual_seed(0)
    made = Population(mean_U.tolist(), bases=4, lags=lags, rank=2, shown=0.75)
    drive = Drive(mean_U.log().expand(train.shape))
    fit(made, drive, train, steps=110, lr=0.03)

    @torch.no_grad()
    def gained(observed: int) -> tuple[float, torch.Tensor]:
        known = torch.zeros_like(test, dtype=torch.bool)
        known[..., :observed] = True
        log_gain = made(test, known)
        rate = mean_U * log_gain.exp()
        inside, others = slice(lags, None), slice(20, None)  # of units that some do not observe
        plain = mean_U.expand(test.shape)[:, inside, others]
        return bits(rate[:, inside, others], test[:, inside, others]) - bits(plain, test[:, inside, others]), log_gain

    none, some, whole = (gained(n)[0] for n in (0, 8, units))
    assert none == 0 < some < whole, (none, some, whole)
    log_gain = gained(units)[1][:, lags:, int(weight_U.argmax())].flatten()
    known = torch.as_tensor(latent[40:, lags:]).flatten()
    assert torch.corrcoef(torch.stack([log_gain.double(), known]))[0, 1] > 0.75
    oracle = torch.as_tensor(np.exp(log_rate[40:]), dtype=torch.float32)[:, lags:, 20:]
    knowable = bits(oracle, test[:, lags:, 20:]) - bits(mean_U.expand(test.shape)[:, lags:, 20:], test[:, lags:, 20:])
    assert whole > 0.4 * knowable, (whole, knowable)


def test_what_a_training_shows() -> None:
    torch.manual_seed(0)
    own, all_of_them = OwnSpikes([0.2] * 30, 2, 4, 0.6), Population([0.2] * 30, 2, 4, 2, 0.6)
    for made in (own, all_of_them):
        shown_BU = made.drawn(2000)
        assert float(shown_BU.any(1).float().mean()) == pytest.approx(0.6, abs=0.05)
    assert set(own.drawn(500).float().mean(1).tolist()) == {0.0, 1.0}
    part = all_of_them.drawn(2000).float().mean(1)
    assert all(float(((part > low) & (part <= low + 0.25)).float().mean()) > 0.08 for low in (0.0, 0.25, 0.5, 0.75))


def test_a_training_draws_and_an_evaluation_sees_what_it_is_shown() -> None:
    made, of = twin(vivit(history=SPIKES | {"shown": 0.5}, modulator=None)), spec()
    with torch.no_grad():
        made.history("a").weight_UK.fill_(0.5)
    shown = clips(of, count=40)
    del shown["observed"]
    plain = {key: shown[key] for key in ("frames", "behavior")}
    with torch.no_grad():
        made.train()
        torch.manual_seed(0)
        changed_B = (made({"a": shown})["a"] != made({"a": plain})["a"]).flatten(1).any(1)
        assert 8 < int(changed_B.sum()) < 32, "about half of the clips show past counts"
        made.eval()
        without = made({"a": plain})["a"]
        assert torch.equal(made({"a": shown})["a"], without), "an evaluation sees no count that it is not shown"
        shown["observed"] = torch.ones(40, of.n_units, dtype=torch.bool)
        assert ((made({"a": shown})["a"] != without).flatten(1).any(1)).all()
        shown["observed"][:, 1:] = False
        assert ((made({"a": shown})["a"] != without).flatten(0, 1).any(0)).tolist() == [True] + [False] * 4


def test_a_twin_that_is_fed_its_own_counts_stays_bounded() -> None:
    """The gain of a unit whose spikes drive it is bounded, so that samples do not run away."""
    made = OwnSpikes([0.3], bases=1, lags=10, shown=1.0)
    with torch.no_grad():
        made.weight_UK.fill_(50.0)
    past = Past(made, Poisson((0.3,), "exp"), "samples", (0,))
    rates = []
    with torch.no_grad():
        past.rate(Drive(torch.zeros(1, 1)))
        past.observe(torch.full((1, 1), 9.0))  # a burst, which goes on of itself
        for _ in range(100):
            rates.append(float(past.rate(Drive(torch.full((1, 1), math.log(0.3))))))
    assert max(rates) == rates[-1] == pytest.approx(0.3 * math.exp(3.0), rel=1e-3)


def test_counts_are_told_where_they_can_be() -> None:
    with_history, without = twin(vivit(history=POPULATION)), twin(vivit())
    one = clips(spec(), count=1)
    frames, behavior, counts = (one[key][0].numpy() for key in ("frames", "behavior", "counts"))
    assert with_history.observes == "population" and without.observes is None
    with pytest.raises(ValueError, match="model/history=spikes or population"):
        without.rates("a", frames, behavior, counts=counts)
    with pytest.raises(ValueError, match="model/history=spikes or population"):
        without.stream("a").observe(counts[0])
    with pytest.raises(ValueError, match=r"counts of shape \(17, 5\), bins and units, not \(17, 4\)"):
        with_history.rates("a", frames, behavior, counts=counts[:, :4])
    with pytest.raises(ValueError, match="piece by piece, and counts at once"):
        with_history.rates("a", iter([frames]), iter([behavior]), counts=counts)  # type: ignore[call-overload]
    stream = with_history.stream("a")
    with pytest.raises(ValueError, match="followed by one observe"):
        stream.observe(counts[0])
    stream.step(frames[:, 0], behavior[0])
    with pytest.raises(ValueError, match=r"of shape \(3,\)"):
        stream.observe(counts[0, :3])
    stream.observe(counts[0])
    with pytest.raises(ValueError, match="followed by one observe"):
        stream.observe(counts[0])
    with_history.predict, with_history.feedback = "last", "samples"
    with pytest.raises(ValueError, match="predict=last"):
        with_history.rates("a", frames, behavior)


def test_what_is_observed_and_what_stands_in_meet() -> None:
    """Where some counts are told, the twin's own stand in for the others alone."""
    made = twin(vivit(history=SPIKES, modulator=None))
    with torch.no_grad():
        made.history("a").weight_UK.fill_(0.5)
    one = clips(spec(), count=1)
    frames, behavior, counts = (one[key][0].numpy() for key in ("frames", "behavior", "counts"))
    told = made.rates("a", frames, behavior, counts=counts)
    counts[:, 0] = np.nan
    made.feedback, made.seed = "samples", 3
    mixed = made.rates("a", frames, behavior, counts=counts)
    np.testing.assert_allclose(mixed[:, 1:], told[:, 1:], rtol=1e-4)
    assert not np.allclose(mixed[:, 0], told[:, 0])


def test_a_plan_knows_a_history() -> None:
    sizes: dict[str, Any] = {
        "frame_shape": (1, 12, 16), "recordings": 1, "units": 700, "behavior": {}, "position_dim": 0,
        "clip_length": 16, "batch_size": 2, "frame_rate_hz": 120.0,
    }  # fmt: skip
    model = vivit(modulator=None, registers=0)
    without, made = (plan(model | {"history": node}, READOUT, LIKELIHOOD, **sizes) for node in (None, POPULATION))
    (stage,) = [stage for stage in made.stages if stage.name == "1 histories"]
    assert stage.shape == "(2, 16, 700)" and stage.parameters == made.parameters - without.parameters > 0
    assert made.activation_bytes > without.activation_bytes
