"""Weights of a readout on a core that stands still: they are the optimum, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import minimize
from scipy.special import expit
from tiny_models import ASKING, BASIS, FACTORIZED, GAIN, READOUT, RESIDUAL_STEM, resnet, spec, vivit
from tiny_models import twin as make_twin

from vivit_core.data.clips import evaluation_windows
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build
from vivit_core.specs import Batch
from vivit_core.training import readout_fit, regression
from vivit_core.training.readout_fit import fit_readout, look
from vivit_core.training.regression import (
    CURVED,
    EVERY_NTH,
    FIRST,
    LEARNED,
    STEPS,
    Fit,
    Found,
    Prior,
    Ridge,
    Seen,
    best_of,
    difference,
    expected_gain,
    fitted,
    middle,
)

CLIP, BURN_IN, TRIAL, TRIALS = 60, 12, 108, 40
RIDGE = 4.0
MODELS = {
    "gains": vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS, modulator=GAIN),
    "drives": resnet(modulator=None),
}
SOFTPLUS = {"_target_": "vivit_core.models.likelihoods.poisson.Poisson", "output": "softplus"}
SCATTERED = {
    "_target_": "vivit_core.models.likelihoods.negative_binomial.NegativeBinomial",
    "output": "exp",
    "dispersion": 0.5,
}

GAUSSIAN = {"_target_": "vivit_core.models.likelihoods.gaussian.Gaussian", "output": "softplus", "stabilized": False}


def made(model: dict[str, Any], **parts: Any) -> Twin:
    twin = make_twin(model, **{"likelihood": SOFTPLUS, **parts}).eval()
    with torch.no_grad():  # so that what is read matters
        for name, own in twin.readout("a").named_parameters():
            if name.startswith("features"):
                own.normal_(0.0, 0.5, generator=torch.Generator().manual_seed(own[0].numel()))
            if name == "bias":
                own.fill_(0.3)
    return twin


def responses(twin: Twin, frames: np.ndarray, behavior: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Poisson counts at the twin's own rates, trial by trial."""
    counts = []
    for start in range(0, len(frames), TRIAL):
        part = slice(start, start + TRIAL)
        clip = {
            "frames": torch.as_tensor(frames[part])[None, None],
            "behavior": torch.as_tensor(np.concatenate([own[part] for own in behavior.values()], axis=1))[None],
        }
        with torch.no_grad():
            counts.append(rng.poisson(twin({"a": clip})["a"][0].numpy()))
    return np.concatenate(counts).astype(np.uint16)


def recorded(
    folder: Path, counts_of: Callable[..., np.ndarray], valid: np.ndarray | None = None, val: int = 0
) -> Recording:
    rng = np.random.default_rng(0)
    own = spec()
    _, height, width = own.frame_shape
    bins = TRIAL * TRIALS
    frames = rng.integers(0, 256, (bins, height, width), dtype=np.uint8)
    behavior = {name: rng.normal(size=(bins, size)).astype(np.float32) for name, size in own.behavior.items()}
    starts = np.arange(0, bins, TRIAL)
    return Recording(
        write_recording(
            folder / "a.h5",
            recording_id="a",
            frame_rate_hz=own.frame_rate_hz,
            frames=frames,
            counts=counts_of(frames, behavior, rng),
            valid=valid,
            behavior=behavior,
            trials=Trials(
                starts,
                starts + TRIAL,
                np.arange(TRIALS),
                np.array(["train"] * (TRIALS - 8 - val) + ["val"] * val + ["test"] * 8),
            ),
        )
    )


@torch.no_grad()
def nats(twin: Twin, recording: Recording, split: str) -> torch.Tensor:
    """(U,) a bin."""
    total, bins = torch.zeros(()), 0
    for start, stop, scored, _ in evaluation_windows(recording.info.trials, split, CLIP, BURN_IN):
        batch: Batch = {
            "a": {
                "frames": torch.as_tensor(recording.frames(start, stop))[None],
                "behavior": torch.as_tensor(recording.behavior(start, stop, twin.specs["a"].behavior))[None],
            }
        }
        rate = twin(batch)["a"][0, scored - start :]
        total = total + twin.likelihood("a").nats(rate, torch.as_tensor(recording.counts(scored, stop))).sum(0)
        bins += len(rate)
    return total / bins


def blank(twin: Twin) -> None:
    """Rates at a constant."""
    with torch.no_grad():
        for name, own in twin.readout("a").named_parameters():
            if name.startswith("features"):
                own.zero_()


@pytest.mark.parametrize("readout", [READOUT, FACTORIZED, ASKING], ids=["gaussian", "factorized", "attention"])
@pytest.mark.parametrize("model", MODELS)
def test_weights_that_made_the_counts_are_found(model: str, readout: dict[str, Any], tmp_path: Path) -> None:
    twin = made(MODELS[model], readout=readout)
    recording = recorded(tmp_path, lambda *given: responses(twin, *given))
    truth, others = nats(twin, recording, "test"), state_but_weights(twin)
    blank(twin)
    constant = nats(twin, recording, "test")
    assert fit_readout(twin, recording, CLIP, BURN_IN, bins=100_000) == len(truth)
    found = nats(twin, recording, "test")
    assert ((constant - found) > 0.85 * (constant - truth)).all() and (constant > truth).all()
    for name, value in state_but_weights(twin).items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("steps", "short"),
    [(12, 1e-6), (STEPS * (1 + LEARNED), 1e-4), (4, 1e-4)],
    ids=["many", "shipped", "few"],
)
@pytest.mark.parametrize("curved", [CURVED, 700])
def test_it_nears_the_optimum(
    steps: int, short: float, curved: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against a general minimizer, in float64, of the same penalized nats of one unit: at most a part ``short`` of what
    that gains over a constant is left to gain; also where a part of the bins tells the curvature."""
    monkeypatch.setattr(regression, "FIRST", Ridge(RIDGE, RIDGE, RIDGE))
    monkeypatch.setattr(regression, "LEARNED", 0)
    monkeypatch.setattr(regression, "STEPS", steps)
    monkeypatch.setattr(regression, "CURVED", curved)
    twin = made(MODELS["gains"])
    recording = recorded(tmp_path, lambda *given: responses(twin, *given))
    blank(twin)
    fit_readout(twin, recording, CLIP, BURN_IN, bins=100_000)
    windows = evaluation_windows(recording.info.trials, "train", CLIP, BURN_IN)
    choosing = windows[EVERY_NTH - 1 :: EVERY_NTH]
    with torch.no_grad():
        looked = look(twin, recording, [w for w in windows if w not in choosing], choosing, slice(0, 5))
    assert looked is not None
    weights, seen = looked
    for unit in range(5):
        x, y = seen.x_UNK[unit].double().numpy(), seen.counts_NU[:, unit].double().numpy()
        d = seen.drives
        deviation = x.std(0)
        z, y = (x / deviation)[~seen.held_N.numpy()], y[~seen.held_N.numpy()]

        def cost(w: np.ndarray, z: np.ndarray = z, y: np.ndarray = y, d: int = d) -> tuple[float, np.ndarray]:
            """And its gradient."""
            drive, gain = z[:, :d] @ w[:d] + w[-1], np.exp(z[:, d:] @ w[d:-1])
            rate = np.logaddexp(0, drive) * gain
            by_rate = 1 - y / (rate + 1e-6)
            by_drive, by_gain = by_rate * expit(drive) * gain, by_rate * rate
            slope = np.concatenate([by_drive @ z[:, :d], by_gain @ z[:, d:]]) + RIDGE * w[:-1]
            value = float((rate - y * np.log(rate + 1e-6)).sum() + 0.5 * RIDGE * w[:-1] @ w[:-1])
            return value, np.append(slope, by_drive.sum())

        own = weights.of(slice(unit, unit + 1))[0].detach().double().numpy() * np.append(deviation, 1.0)
        best = minimize(cost, own, jac=True, method="BFGS", options={"maxiter": 300}).fun
        constant = np.zeros_like(own)
        constant[-1] = np.log(np.expm1(y.mean()))
        assert cost(own)[0] - best < short * (cost(constant)[0] - best)


def synthetic(weights_UK: torch.Tensor, bins: int, of_core: int, drives: int) -> Seen:
    """What units do with such weights of features that are noise; every fourth bin decides."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(bins, *weights_UK.shape, generator=generator)
    drive, gain = ((x * weights_UK)[..., some].sum(2) for some in (slice(drives), slice(drives, None)))
    counts = torch.poisson(torch.nn.functional.softplus(drive) * gain.exp(), generator=generator)
    held = torch.arange(bins) % 4 == 0
    return Seen(x.transpose(0, 1), counts, torch.ones_like(counts, dtype=torch.bool), held, of_core, drives)


def fit_of(seen: Seen, begun_UK: torch.Tensor | None = None) -> Callable[[slice], Fit]:
    units = seen.counts_NU.shape[1]
    likelihood = build("likelihood", SOFTPLUS, mean_counts=(1.0,) * units)
    begun_UK = torch.zeros(units, seen.x_UNK.shape[2] + 1) if begun_UK is None else begun_UK
    return lambda some: Fit(likelihood.of_units(range(some.start, some.stop)), seen, some, begun_UK[some])


def test_each_kind_of_weight_is_held_by_its_own_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = synthetic(torch.ones(2, 3), 2000, of_core=1, drives=2)
    for kind in range(3):
        ridge = [0.0 if other == kind else 1e9 for other in range(3)]
        monkeypatch.setattr(regression, "FIRST", Ridge(*ridge))
        fit = fit_of(seen)(slice(0, 2))
        moved = fit.stepped(fit.state(torch.tensor([[0.0, 0.0, 0.0, 0.5]] * 2)), seen.first_prior())[0].weights_UK.abs()
        others = [other for other in range(3) if other != kind]
        assert moved[:, kind].min() > 0.1 and moved[:, others].max() < 1e-4, kind
    prior = Prior(torch.tensor([0.3, -0.2, 0.1, 0.0]), torch.tensor([1e9, 1e9, 1e9, 0.0]))
    found = fit.turn(None, prior)
    torch.testing.assert_close(found.scaled_UK[:, :3], prior.mean_K[:3].expand(2, 3), atol=1e-4, rtol=0)


def test_a_kind_that_is_not_there_has_no_ridge() -> None:
    every, own, core = (synthetic(torch.ones(2, 3), 8, *of).kinds() for of in ((1, 2), (0, 3), (3, 3)))
    assert every == list(zip(FIRST, (slice(0, 1), slice(1, 2), slice(2, 3)), strict=True))
    assert own == [(FIRST.own, slice(0, 3))] and core == [(FIRST.core, slice(0, 3))]


def test_units_tell_where_weights_lie_and_how_far_they_differ() -> None:
    """From estimates with errors of their own; a weight that chance alone moves is held tightly. A single unit tells
    little, and what is usual among a kind stands for the others."""
    generator = torch.Generator().manual_seed(0)
    mean, deviation = torch.tensor([0.0, 0.5, -1.0, 0.0]), torch.tensor([0.0, 0.2, 0.05, 0.4])
    prior = synthetic(torch.ones(2, 4), 8, 0, 4).first_prior()
    seen, units, noise = synthetic(torch.ones(2, 4), 8, 0, 4), 4000, 0.04
    truth = mean + deviation * torch.randn(units, 4, generator=generator)
    estimate = truth + noise * torch.randn(units, 4, generator=generator)
    for _ in range(30):  # what an estimate and its variance become under a prior
        variance = 1 / (prior.ridge_K[:-1] + noise**-2)
        weights = variance * (estimate * noise**-2 + prior.ridge_K[:-1] * prior.mean_K[:-1])
        padded = [torch.nn.functional.pad(each, (0, 1)) for each in (weights, variance.expand(units, 4))]
        prior = seen.told(prior, *padded)
    torch.testing.assert_close(prior.mean_K[:-1], mean, atol=0.02, rtol=0.02)
    torch.testing.assert_close(prior.ridge_K[1:4] ** -0.5, deviation[1:], atol=0.005, rtol=0.05)
    assert prior.ridge_K[0] ** -0.5 < 0.03 and prior.ridge_K[-1] == 0
    alone = seen.told(seen.first_prior(), torch.tensor([[1.0, 0.0, 0.0, 0.0, 9.0]]), torch.zeros(1, 5))
    few = regression.FEW  # units at zero, beside the one
    usual = ((few / (1 + few)) ** 2 + few / FIRST.own) / (4 + few)
    torch.testing.assert_close(alone.ridge_K[1:4], torch.full((3,), (1 + few) / (few * usual)))
    unknown = seen.told(seen.first_prior(), torch.zeros(2, 5), torch.full((2, 5), torch.nan))
    torch.testing.assert_close(unknown.ridge_K[:4], torch.full((4,), FIRST.own))


@given(arrays(np.float32, (7, 3), elements=st.floats(-9, 9, width=32)), arrays(np.bool_, (7, 3)))
def test_a_middle_is_torchs_median_of_what_is_known(values: np.ndarray, known: np.ndarray) -> None:
    values_UK, known_UK = torch.as_tensor(values), torch.as_tensor(known)
    found_K = middle(torch.where(known_UK, values_UK, torch.inf), known_UK.sum(0))
    torch.testing.assert_close(
        found_K, torch.where(known_UK, values_UK, torch.nan).nanmedian(0).values.nan_to_num(nan=0.0)
    )


def test_a_unit_that_knows_nothing_or_is_like_no_other_spoils_no_prior() -> None:
    weights = torch.zeros(60, 30)
    weights[:, :2], weights[:, 20] = 1.0, 0.5
    seen = synthetic(weights, 400, of_core=0, drives=20)
    seen.x_UNK[20:, :, 0] = 3.0  # a feature that only some units have
    own = fitted(fit_of(seen), seen, [slice(0, 20)]).weights_RUK[-1][:, 0]
    found = fitted(fit_of(seen), seen, [slice(0, 60)]).weights_RUK[-1]
    assert (found[20:, 0] == 0).all()
    assert (found[:20, 0] - 1.0).square().mean() < 1.1 * (own - 1.0).square().mean()
    variance = torch.full((60, 31), 1e-3)
    mean, ridge = seen.told(seen.first_prior(), found, variance)
    for odd in (60.0, torch.nan):
        found[7] *= odd
        prior = seen.told(seen.first_prior(), found, variance)
        torch.testing.assert_close(prior.mean_K[1:], mean[1:], atol=0.05, rtol=0.05)
        assert (prior.ridge_K[1:-1] > 0.3 * ridge[1:-1]).all()


def test_units_learn_from_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixty units, of whose thirty features three matter, to all alike."""
    weights = torch.zeros(60, 30)
    weights[:, :2], weights[:, 20] = 1.0, 0.5
    seen = synthetic(weights, 400, of_core=0, drives=20)

    def error() -> torch.Tensor:
        found = fitted(fit_of(seen), seen, [slice(0, 32), slice(32, 60)])
        return (found.weights_RUK[-1, :, :-1] - weights).square().sum(1)

    together = error()
    monkeypatch.setattr(regression, "LEARNED", 0)
    alone = error()
    assert together.mean() < 0.4 * alone.mean()


def test_units_may_do_without_the_core() -> None:
    """Where what the core's maps say is chance, which a training has taken for more."""
    truth = torch.zeros(6, 40)
    truth[:, 38:] = 1.0
    seen = synthetic(truth, 2000, of_core=38, drives=39)
    begun = torch.randn(6, 41, generator=torch.Generator().manual_seed(0)) * 0.1
    found = fitted(fit_of(seen, begun), seen, [slice(0, 6)])
    best_UK, took_U = best_of([found], begun)
    assert took_U.all() and best_UK[:, :38].abs().mean() < 0.1 * begun[:, :38].abs().mean()


def test_units_of_chance_keep_what_they_have(tmp_path: Path) -> None:
    twin = made(MODELS["gains"])
    blank(twin)
    recording = recorded(tmp_path, lambda frames, _, rng: rng.poisson(0.5, (len(frames), 5)).astype(np.uint16))
    with torch.no_grad():
        twin.readout("a").bias.fill_(float(torch.log(torch.expm1(torch.tensor(0.5)))))
    before = {name: value.clone() for name, value in twin.state_dict().items()}
    took = fit_readout(twin, recording, CLIP, BURN_IN, bins=100_000)
    assert took == 0
    assert all(torch.equal(value, before[name]) for name, value in twin.state_dict().items())


@pytest.mark.parametrize("chance", [True, False], ids=["chance", "sound"])
def test_validation_trials_choose(chance: bool, tmp_path: Path) -> None:
    """What fits the training trials well is not taken over where the validation trials say otherwise; and that they do
    not say it by being fitted shows in test trials."""
    twin = made(MODELS["gains"])

    def counted(*given: Any) -> np.ndarray:
        counts = responses(twin, *given)
        if chance:
            counts[TRIAL * (TRIALS - 16) : TRIAL * (TRIALS - 8)] = given[2].poisson(
                np.log1p(np.exp(0.3)), (TRIAL * 8, 5)
            )  # as when blank
        return counts

    recording = recorded(tmp_path, counted, val=8)
    best = nats(twin, recording, "test")
    blank(twin)
    constant = nats(twin, recording, "test")
    took = fit_readout(twin, recording, CLIP, BURN_IN, bins=100_000)
    assert took == (0 if chance else 5)
    if not chance:
        assert ((constant - nats(twin, recording, "test")) > 0.8 * (constant - best)).all()


def test_one_prior_for_all_units() -> None:
    """Weights of four units that begin at 0 and are 1 and 2 with two priors; the second is best for all together, the
    third unit becomes worse with it, and the fourth cannot be fitted."""
    weights, begun = torch.arange(1.0, 3.0)[:, None, None].expand(2, 4, 2), torch.zeros(4, 2)
    better = torch.tensor([[1.0, 1.0, 40.0, -torch.inf], [30.0, 29.0, -90.0, -torch.inf]])
    error = torch.full((2, 4), 3.0)
    of = [Found(*(each[:, some] for each in (weights, better, error))) for some in (slice(0, 2), slice(2, 4))]
    best_UK, took_U = best_of(of, begun)
    assert took_U.tolist() == [True, True, False, False]
    assert best_UK[:, 0].tolist() == [2.0, 2.0, 0.0, 0.0]
    best_UK, took_U = best_of([Found(weights, -better.abs(), error)], begun)
    assert not took_U.any() and torch.equal(best_UK, begun)


def test_what_a_unit_seems_to_gain_is_drawn_towards_what_all_do() -> None:
    """Of changes that harm all alike some look better by chance, and of those that help all some look worse."""
    generator = torch.Generator().manual_seed(0)
    error = torch.rand(2000, generator=generator) + 1.0
    for truth in (-1.0, 1.0):
        gain = expected_gain(error * (truth + torch.randn(2000, generator=generator)), error)
        assert ((gain > 0) == (truth > 0)).float().mean() > 0.99
    differ = 3 * torch.randn(2000, generator=generator)  # where units differ much, their own trials say it
    seen = differ + torch.randn(2000, generator=generator)
    gain = expected_gain(error * seen, error)
    best = error * seen * 0.9  # 9 / (9 + 1)
    assert (gain - best).abs().mean() < 0.1 * best.abs().mean()
    assert expected_gain(torch.tensor([2.0]), torch.tensor([4.0])).tolist() == [2.0]  # nobody else to ask
    nothing = expected_gain(torch.tensor([-torch.inf, 0.0]), torch.tensor([torch.nan, 0.0]))
    assert nothing.tolist() == [0.0, 0.0]
    for sign in (1.0, -1.0):  # one that no bin tells of gains like the others; a rate that was none can only be better
        given = torch.tensor([sign * 4.0, sign * 5.0, 0.0, torch.inf]), torch.tensor([1.0, 1.0, 0.0, torch.nan])
        assert (expected_gain(*given) > 0).tolist() == [sign > 0, sign > 0, sign > 0, True]
    two = expected_gain(torch.tensor([2.0, -3.0]), torch.tensor([1.0, 1.0]))
    assert two[0] > 0 > two[1]


def test_the_error_of_a_difference_is_that_of_many_draws() -> None:
    generator = torch.Generator().manual_seed(0)
    own, other = torch.randn(2, 1200, 2000, generator=generator) * 2 + 0.1
    better, error = difference(other, own)
    torch.testing.assert_close(error.mean(), better.std(), rtol=0.05, atol=0)
    torch.testing.assert_close(better, (other - own).sum(0), rtol=1e-3, atol=1e-3)
    lasting = other.repeat_interleave(20, 0), own.repeat_interleave(20, 0)  # as what is left over of responses does
    better, error = difference(*lasting)
    torch.testing.assert_close(error.mean(), better.std(), rtol=0.05, atol=0)
    assert difference(other[:3], own[:3])[1].min() > 0
    own[0, 0] = torch.inf  # a rate of zero, where something was counted
    assert difference(other, own)[0][0] == -torch.inf


def test_silent_and_invalid_units_do_no_harm(tmp_path: Path) -> None:
    twin = made(MODELS["gains"])

    def counted(*given: Any) -> np.ndarray:
        counts = responses(twin, *given)
        counts[:, 3] = 0
        return counts

    valid = np.ones((TRIAL * TRIALS, 5), bool)
    valid[:, 4] = False
    recording = recorded(tmp_path, counted, valid)
    own = weights_of(twin)
    took = fit_readout(twin, recording, CLIP, BURN_IN, bins=100_000)
    assert took is not None and took <= 4
    for name, value in weights_of(twin).items():
        assert value.isfinite().all()
        assert torch.equal(value[4], own[name][4])


def weights_of(twin: Twin) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().clone()
        for name, value in twin.readout("a").named_parameters()
        if name.startswith("features") or name == "bias"
    }


def test_units_may_be_fitted_some_after_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = made(MODELS["gains"])
    recording = recorded(tmp_path, lambda *given: responses(twin, *given))
    state = {name: value.clone() for name, value in twin.state_dict().items()}
    fit_readout(twin, recording, CLIP, BURN_IN, bins=600)
    together = weights_of(twin)
    monkeypatch.setattr(regression, "GROUP", 1)
    twin.load_state_dict(state)
    fit_readout(twin, recording, CLIP, BURN_IN, bins=600)
    for name, value in weights_of(twin).items():
        torch.testing.assert_close(value, together[name], rtol=1e-2, atol=1e-3)
    # With room for fewer numbers than all units see, fewer bins are looked at, and the units by turns.
    monkeypatch.setattr(readout_fit, "MEMORY", 600 * 20)
    seen = []
    monkeypatch.setattr(readout_fit, "look", lambda *given: seen.append(given[2:]) or look(*given))
    twin.load_state_dict(state)
    assert fit_readout(twin, recording, CLIP, BURN_IN, bins=600) is not None
    turns = [given[2] for given in seen[1:]]
    assert len(turns) > 1 and [unit for some in turns for unit in range(some.start, some.stop)] == list(range(5))
    assert all(len(windows) * (CLIP - BURN_IN) < 600 for windows, *_ in seen)


@pytest.mark.parametrize("likelihood", [SCATTERED, GAUSSIAN], ids=["negative_binomial", "gaussian"])
def test_other_likelihoods_are_lowered_too(likelihood: dict[str, Any], tmp_path: Path) -> None:
    source = made(MODELS["gains"])
    recording = recorded(tmp_path, lambda *given: responses(source, *given))
    twin = made(MODELS["gains"], likelihood=likelihood)
    twin.likelihood("a").initialize(
        *(torch.as_tensor(x) for x in (recording.counts(0, 2000), np.ones((2000, 5), bool)))
    )
    blank(twin)
    with torch.no_grad():
        twin.readout("a").bias.copy_(twin.likelihood("a").mean_drive())
    constant = nats(twin, recording, "test")
    fit_readout(twin, recording, CLIP, BURN_IN, bins=100_000)
    assert (nats(twin, recording, "test") < constant).all()


def test_too_few_clips_leave_all_as_it_is(tmp_path: Path) -> None:
    twin = made(MODELS["drives"])
    recording = recorded(tmp_path, lambda frames, _, rng: rng.poisson(0.5, (len(frames), 5)).astype(np.uint16))
    recording.info.trials.split[3:] = "test"
    before = weights_of(twin)
    assert fit_readout(twin, recording, TRIAL, BURN_IN, bins=100_000) is None
    for name, value in weights_of(twin).items():
        assert torch.equal(value, before[name])


def state_but_weights(twin: Twin) -> dict[str, torch.Tensor]:
    own = {name: value.clone() for name, value in twin.state_dict().items()}
    return {
        name: value for name, value in own.items() if not ("readouts" in name and ("feat" in name or "bias" in name))
    }
