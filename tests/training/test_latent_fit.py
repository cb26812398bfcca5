"""What units share is found beside rates that stand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from test_history_fit import clips_of, shared
from test_readout_fit import BURN_IN, CLIP, MODELS, made, recorded, responses

from vivit_core.models.latents.base import Latent
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.twin import Twin
from vivit_core.training import latent_fit
from vivit_core.training.beside_rates import fit_beside_rates
from vivit_core.training.latent_fit import fit_latent

NODE = {
    "_target_": "vivit_core.models.latents.shared_gain.SharedGain",
    "rank": 1,
    "hold": 3,
    "memory": 2.0,
    "std": 0.1,
}
VARIANCE = 0.25**2 / (1 - 0.95**2)  # of the gain's logarithm in ``shared``


def sharing(std: float = 0.1) -> Twin:
    torch.manual_seed(0)
    return made(MODELS["gains"] | {"latent": NODE | {"std": std}})


def parts(twin: Twin) -> tuple[Latent, Likelihood]:
    latent = twin.latent("a")
    assert latent is not None
    return latent, twin.likelihood("a")


def covariances(twin: Twin) -> torch.Tensor:
    """Of the logarithms of units' gains, pair by pair."""
    latent, _ = parts(twin)
    return latent.log_covariance()[*torch.triu_indices(5, 5, 1)].detach()


def test_a_gain_that_all_units_share_is_found_and_nothing_else_changes(tmp_path: Path) -> None:
    twin = sharing()
    recording = recorded(tmp_path, lambda *given: shared(twin, *given))
    before = {name: x.clone() for name, x in twin.state_dict().items()}
    assert covariances(twin).max() < 0.1 * VARIANCE
    fit_beside_rates(twin, recording, CLIP, BURN_IN, bins=100_000)
    found = covariances(twin)
    assert ((found > 0.6 * VARIANCE) & (found < 1.5 * VARIANCE)).all()
    for name, value in twin.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("latents."), name


@pytest.mark.slow
def test_what_is_not_shared_is_unlearned(tmp_path: Path) -> None:
    twin = sharing(std=0.6)
    recording = recorded(tmp_path, lambda *given: responses(twin, *given))
    assert covariances(twin).min() > 0.2 * VARIANCE
    assert fit_latent(*parts(twin), clips_of(twin, recording)) is True
    assert covariances(twin).abs().max() < 0.1 * VARIANCE and covariances(twin).abs().mean() < 0.03 * VARIANCE


def test_what_costs_the_clips_that_decide_more_is_not_taken_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    twin = sharing()
    recording = recorded(tmp_path, lambda *given: shared(twin, *given))

    def worse(latent: torch.nn.Module, fitted: object) -> None:
        with torch.no_grad():
            latent.get_parameter("weight_UR").copy_(torch.tensor([[-1.0], [1.0], [-1.0], [1.0], [-1.0]]))

    before = covariances(twin)
    monkeypatch.setattr(latent_fit, "follow", worse)
    assert fit_latent(*parts(twin), clips_of(twin, recording)) is False
    assert torch.equal(covariances(twin), before)


def test_work_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """By fewer clips; where a few are too many, by none, and a line says so."""
    twin = sharing()
    recording = recorded(tmp_path, lambda *given: shared(twin, *given))
    clips, fitted = clips_of(twin, recording), []
    monkeypatch.setattr(latent_fit, "PIECE", 24)  # two pieces of a clip's 48 bins that count, of 8 steps each
    monkeypatch.setattr(
        latent_fit, "follow", lambda latent, learned: fitted.append(sum(len(own[0]) for own in learned))
    )
    of_fit = sum(not clip.decides for clip in clips)
    for most, expected in ((10_000, 2 * of_fit), (of_fit, of_fit), (3, None)):
        fitted.clear()
        monkeypatch.setattr(latent_fit, "WORK", most * 8**3)
        fit_latent(*parts(twin), clips)
        assert fitted == ([] if expected is None else [expected])
        assert ("the latent has no last fit" in caplog.text) == (expected is None)
