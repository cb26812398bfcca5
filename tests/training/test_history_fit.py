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
from vivit_core.models.histories.base import bounded
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.training.history_fit import Clip, deciding_nats, fit_history, left_over
from vivit_core.training.readout_fit import done, fitted_and_deciding, shown

SPIKES = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 3, "lags": 9, "shown": 0.5}
POPULATION = {
    "_target_": "vivit_core.models.histories.population.Population",
    "bases": 3,
    "lags": 12,
    "rank": 2,
    "shown": 0.5,
}
BINS = 100_000


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
    assert fit_history(twin, recording, CLIP, BURN_IN, BINS) == 5
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
    assert fit_history(twin, recording, CLIP, BURN_IN, BINS) == 5
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
    fit_history(twin, recording, CLIP, BURN_IN, BINS)
    history = twin.history("a")
    kept = {name: value.clone() for name, value in history.state_dict().items()}

    def nonsense(left_over: Any) -> bool:
        history.get_parameter("encode_UR").data[:] = 0.0
        return True

    monkeypatch.setattr(history, "find", nonsense)
    fit_history(twin, recording, CLIP, BURN_IN, BINS)
    torch.testing.assert_close(history.state_dict()["encode_UR"], kept["encode_UR"], rtol=0, atol=0)


def test_where_past_counts_tell_nothing_they_get_no_weight(tmp_path: Path) -> None:
    twin = remembering(SPIKES)
    history = twin.history("a")
    history.take(torch.zeros(5, 4))
    recording = recorded(tmp_path, lambda *given: fed_back(twin, *given))
    none = nats(twin, recording)
    fit_history(twin, recording, CLIP, BURN_IN, BINS)
    assert nats(twin, recording) - none < 3
    assert history.weights().abs().max() < 0.1


def test_few_clips_change_nothing(tmp_path: Path) -> None:
    twin = remembering(SPIKES)
    recording = recorded(tmp_path, lambda *given: fed_back(twin, *given))
    twin.history("a").take(torch.ones(5, 4))
    windows, _ = fitted_and_deciding(recording, TRIAL + 1, TRIAL)  # no trial has a bin after so many
    assert windows == [] and fit_history(twin, recording, TRIAL + 1, TRIAL, BINS) is None
    assert torch.equal(twin.history("a").weights(), torch.ones(5, 4))


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
    clip = Clip(drive["a"].each(lambda x: x[0].detach()), counts, valid, 8, True)
    with torch.no_grad():
        rest_TU, past_PU = left_over(history, likelihood, clip)
        rate = likelihood.rate(*clip.drive)
        expected = ((counts - rate) / rate.sqrt())[8:].nan_to_num(nan=0.0)
        torch.testing.assert_close(rest_TU, expected)
        assert past_PU.shape == (12 - 1 + history.lags, 5)
        gain = bounded(history.gain(*history.before(counts[None], valid[None])))[0]
        own = likelihood.nats(likelihood.rate(*clip.drive.with_gain(gain)), counts)
        assert deciding_nats(history, likelihood, [clip]) == pytest.approx(float(own[8:][valid[8:]].sum()), rel=1e-5)
        assert deciding_nats(history, likelihood, [clip._replace(decides=False)]) == 0.0
