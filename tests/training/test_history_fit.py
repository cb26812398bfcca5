"""Past counts are weighed as they were when counts were made, and what is predicted without them stands."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_readout_fit import BURN_IN, CLIP, MODELS, TRIAL, made, recorded

from vivit_core.data.recording.reader import Recording
from vivit_core.models.histories import population
from vivit_core.models.histories.base import bounded
from vivit_core.models.histories.population import Population
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.training.beside_rates import fit_beside_rates
from vivit_core.training.history_fit import deciding_nats, fit_history, left_over
from vivit_core.training.predicted_clips import Clip, predicted_clips
from vivit_core.training.readout_fit import done, shown

SPIKES = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 3, "lags": 9, "shown": 0.5}
POPULATION = {
    "_target_": "vivit_core.models.histories.population.Population",
    "bases": 3,
    "lags": 12,
    "rank": 2,
    "shown": 0.5,
}
BINS = 100_000


def clips_of(twin: Twin, recording: Recording, before: int = TRIAL) -> list[Clip]:
    return predicted_clips(twin, recording, CLIP, BURN_IN, BINS, before)


def fit_beside(twin: Twin, recording: Recording) -> int:
    return fit_history(twin.history("a"), twin.likelihood("a"), clips_of(twin, recording, twin.history("a").lags))


def remembering(history: Mapping[str, Any], model: str = "gains") -> Twin:
    return made(MODELS[model] | {"history": dict(history)})


def state_but_history(twin: Twin) -> dict[str, torch.Tensor]:
    return {name: x.clone() for name, x in twin.state_dict().items() if not name.startswith("histories.")}


@torch.no_grad()
def drives(twin: Twin, frames: np.ndarray, behavior: Mapping[str, np.ndarray]) -> list[Any]:
    """Of each trial, (T, U)."""
    every = []
    for start in range(0, len(frames), TRIAL):
        clip: Clips = {
            "frames": torch.as_tensor(frames[start : start + TRIAL])[None, None],
            "behavior": torch.as_tensor(np.concatenate([x[start : start + TRIAL] for x in behavior.values()], 1))[None],
        }
        every.append(twin.drives({"a": clip}, last=False)["a"].each(lambda x: x[0]))
    return every


@torch.no_grad()
def fed_back(twin: Twin, frames: np.ndarray, behavior: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Counts that follow the twin's rates, which follow these counts."""
    counts = []
    for drive in drives(twin, frames, behavior):
        past = twin.past("a")
        for t in range(len(drive.value)):
            counts.append(rng.poisson(past.rate(drive.each(lambda x, t=t: x[None, t])).numpy()))
            past.observe(torch.as_tensor(counts[-1], dtype=torch.float32))
    return np.concatenate(counts).astype(np.uint16)


@torch.no_grad()
def shared(twin: Twin, frames: np.ndarray, behavior: dict[str, np.ndarray], rng: np.random.Generator) -> np.ndarray:
    """Counts at the twin's rates times a slow gain of all units."""
    counts = []
    for drive in drives(twin, frames, behavior):
        gain = np.zeros(len(drive.value))
        for t in range(1, len(gain)):
            gain[t] = 0.95 * gain[t - 1] + 0.25 * rng.normal()
        counts.append(rng.poisson(twin.likelihood("a").rate(*drive).numpy() * np.exp(gain)[:, None]))
    return np.concatenate(counts).astype(np.uint16)


@torch.no_grad()
def nats(twin: Twin, recording: Recording, known: bool = True) -> float:
    """Of the test trials, where past counts are known, or none are."""
    total = 0.0
    trials = recording.info.trials.of("test")
    for start, stop in zip(trials.start.tolist(), trials.stop.tolist(), strict=True):
        drive = twin.drives({"a": shown(twin, recording, start, stop)}, last=False)["a"]
        counts_TU, valid_TU = done(recording, start, stop, torch.device("cpu"))
        log_gain = twin.history("a")(counts_TU[None], valid_TU[None] & known)
        own = twin.likelihood("a").nats(twin.likelihood("a").rate(*drive.with_gain(log_gain))[0], counts_TU)
        total += float(own[BURN_IN:].sum())
    return total


@pytest.mark.slow
@pytest.mark.parametrize("model", MODELS)
def test_the_kernel_that_made_the_counts_is_found(model: str, tmp_path: Path) -> None:
    """From one that is far too large, as after a training whose readouts knew less."""
    twin = remembering(SPIKES, model)
    history = twin.history("a")
    truth_UW = torch.tensor([[-0.8, -0.2, 0.1, 0.0], [0.12, 0.05, 0.0, 0.1]])[torch.arange(5) % 2]
    history.take(truth_UW)
    recording = recorded(tmp_path, lambda *given: fed_back(twin, *given))
    best, others = nats(twin, recording), state_but_history(twin)
    history.take(torch.zeros_like(truth_UW))
    none = nats(twin, recording)
    history.take(3 * truth_UW)
    assert fit_beside(twin, recording) == 5
    found = nats(twin, recording)
    assert none - best > 1000 and found - best < 5
    torch.testing.assert_close(history.weights()[:, 0], truth_UW[:, 0], atol=0.2, rtol=0)
    for name, value in state_but_history(twin).items():
        torch.testing.assert_close(value, others[name], rtol=0, atol=0)


def test_a_gain_that_units_share_is_found_in_what_the_others_did(tmp_path: Path) -> None:
    twin = remembering(POPULATION)
    history = twin.history("a")
    recording = recorded(tmp_path, lambda *given: shared(twin, *given))
    history.take(torch.zeros_like(history.weights()))
    none = nats(twin, recording)
    begun = {name: value.clone() for name, value in history.state_dict().items()}
    assert fit_beside(twin, recording) == 5
    assert nats(twin, recording) < none - 100
    assert not torch.equal(history.state_dict()["encode_UR"], begun["encode_UR"])
    weights_U = history.state_dict()["encode_UR"][:, 0]
    assert (weights_U.sign() == weights_U[0].sign()).all()  # all units tell of it in the same way
    assert nats(twin, recording, known=False) == pytest.approx(none)


def test_a_code_that_the_training_found_is_kept_where_it_tells_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = remembering(POPULATION)
    recording = recorded(tmp_path, lambda *given: shared(twin, *given))
    fit_beside(twin, recording)
    history = twin.history("a")
    kept = {name: value.clone() for name, value in history.state_dict().items()}

    def nonsense(left_over: Any) -> bool:
        history.get_parameter("encode_UR").data[:] = 0.0
        return True

    monkeypatch.setattr(history, "find", nonsense)
    fit_beside(twin, recording)
    torch.testing.assert_close(history.state_dict()["encode_UR"], kept["encode_UR"], rtol=0, atol=0)


@pytest.mark.slow
def test_where_past_counts_tell_nothing_they_lose_their_weight(tmp_path: Path) -> None:
    twin = remembering(SPIKES)
    history = twin.history("a")
    history.take(torch.zeros(5, 4))
    recording = recorded(tmp_path, lambda *given: fed_back(twin, *given))
    none = nats(twin, recording)
    history.take(torch.full((5, 4), 0.3))
    assert nats(twin, recording) > none + 100
    assert fit_beside(twin, recording) == 5
    assert nats(twin, recording) - none < 3
    assert history.weights().abs().max() < 0.1


@pytest.mark.slow
def test_a_twin_is_fitted_beside_its_rates_as_its_parts_are(tmp_path: Path) -> None:
    """Bins before those that count are kept as far as they are looked back at; where clips are few nothing changes."""
    twin = remembering(SPIKES)
    recording = recorded(tmp_path, lambda *given: fed_back(twin, *given))
    history = twin.history("a")
    history.take(torch.ones(5, 4))
    fit_beside_rates(twin, recording, TRIAL + 1, TRIAL, BINS)  # no trial has a bin after so many
    assert torch.equal(history.weights(), torch.ones(5, 4))
    short, long = (clips_of(twin, recording, before) for before in (history.lags, TRIAL))
    assert [clip.first for clip in short[:2]] == [history.lags] * 2 and long[0].first == BURN_IN
    torch.testing.assert_close(
        deciding_nats(history, twin.likelihood("a"), short), deciding_nats(history, twin.likelihood("a"), long)
    )
    fit_history(history, twin.likelihood("a"), long)
    found = history.weights().clone()
    history.take(torch.ones(5, 4))
    fit_beside_rates(twin, recording, CLIP, BURN_IN, BINS)
    torch.testing.assert_close(history.weights(), found, atol=1e-4, rtol=1e-3)
    plain = made(MODELS["gains"])
    before = {name: x.clone() for name, x in plain.state_dict().items()}
    fit_beside_rates(plain, recording, CLIP, BURN_IN, BINS)
    assert all(torch.equal(x, before[name]) for name, x in plain.state_dict().items())


@pytest.mark.parametrize("broken", ["silent", "a rate that is none", "many units"])
def test_a_code_is_looked_for_only_where_there_may_be_one(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    twin = remembering(POPULATION)
    history = twin.history("a")
    assert isinstance(history, Population)
    rest, past = torch.ones(20, 5), torch.rand(20 + history.lags - 1, 5)
    if broken == "silent":
        rest, past = torch.zeros_like(rest), torch.zeros_like(past)
    elif broken == "many units":
        monkeypatch.setattr(population, "MOST_UNITS", 4)
    else:
        rest[3, 2] = torch.inf
    before = {name: x.clone() for name, x in history.state_dict().items()}
    assert not history.find([(rest, past)])
    assert all(torch.equal(x, before[name]) for name, x in history.state_dict().items())


def test_a_code_is_that_of_the_singular_vectors(tmp_path: Path) -> None:
    """Of the whole matrix, in float64; what of it is noise is what units have by themselves."""
    twin = remembering(POPULATION)
    history = twin.history("a")
    rng = np.random.default_rng(0)
    left = [
        (torch.as_tensor(rng.normal(size=(60, 5))).float(), torch.as_tensor(rng.normal(size=(71, 5))).float())
        for _ in range(2)
    ]
    assert history.find(left)
    basis = history.basis_KL.double().numpy()
    seen = [np.stack([[past[t : t + 12].double().numpy().T @ k for k in basis] for t in range(60)]) for _, past in left]
    along = sum(np.einsum("tv,tku->vuk", rest.double().numpy(), x) for (rest, _), x in zip(left, seen, strict=True))
    along[range(5), range(5)] = 0
    size = np.sqrt(sum(np.square(x).sum(0) for x in seen).T)
    _, _, vectors = np.linalg.svd((along / size).reshape(5, -1), full_matrices=False)
    for number in range(2):
        of_unit, _, of_basis = np.linalg.svd(vectors[number].reshape(5, 3) / size)
        own = np.outer(of_unit[:, 0], of_basis[0])
        found = np.outer(history.encode_UR[:, number].detach(), history.weight_RK[number].detach())
        np.testing.assert_allclose(np.sign(found[0, 0] * own[0, 0]) * found, own, atol=1e-3)  # either may be less
    code = [x.transpose(0, 2, 1) @ history.weight_RK[0].detach().double().numpy() for x in seen]
    encode = history.encode_UR[:, 0].detach().double().numpy()
    alone = sum(np.square(x * encode).sum() for x in code)
    together = sum(np.square(x @ encode).sum() for x in code) - alone
    expected = np.log(alone / together) if together * 100 > alone else np.log(100)
    assert float(history.log_noise.detach()) == pytest.approx(expected, rel=1e-3)


def test_what_is_left_over_and_the_nats_that_decide(tmp_path: Path) -> None:
    """By hand; a bin that is not valid is neither in the one nor in the other."""
    twin = remembering(SPIKES)
    history, likelihood = twin.history("a"), twin.likelihood("a")
    history.take(torch.full((5, 4), 0.1))
    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.ones(20, 5), generator=generator)
    valid = torch.ones(20, 5, dtype=torch.bool)
    valid[12, 2] = False
    counts[12, 2] = torch.nan
    drive = twin.drives(
        {"a": {"frames": torch.zeros(1, 1, 20, *twin.frame_size), "behavior": torch.zeros(1, 20, 3)}}, False
    )
    clip = Clip(drive["a"].each(lambda x: x[0, 8:].detach()), counts, valid, True)
    with torch.no_grad():
        rest_TU, past_PU = left_over(history, likelihood, clip)
        rate = likelihood.rate(*clip.drive)
        expected = ((counts[8:] - rate) / rate.sqrt()).nan_to_num(nan=0.0)
        torch.testing.assert_close(rest_TU, expected)
        assert past_PU.shape == (12 - 1 + history.lags, 5)
        gain = bounded(history.gain(*history.before(counts[None], valid[None])))[0, 8:]
        own = likelihood.nats(likelihood.rate(*clip.drive.with_gain(gain)), counts[8:])
        assert deciding_nats(history, likelihood, [clip]) == pytest.approx(float(own[valid[8:]].sum()), rel=1e-5)
        assert deciding_nats(history, likelihood, [clip._replace(decides=False)]) == 0.0
