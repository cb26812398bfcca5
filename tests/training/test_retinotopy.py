"""Where units with a minute of data are placed, with and without where they lie in the tissue."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from shipped import simulator
from tiny_models import BASIS, LIKELIHOOD, READOUT, RETINOTOPIC, STEM, resnet
from tiny_training import optimization

from vivit_core.data.recording.reader import Recording
from vivit_core.data.statistics import training_statistics
from vivit_core.models.likelihoods.loss import summed_loss
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.training.initialize import initialize_from_data

STEPS, CLIPS, BINS, BURN_IN = 60, 4, 100, 20
WINDOWS: dict[str, Any] = {"std_px": 1.0, "std_max_px": 8.0, "l1": 1e-4}
PLAIN = READOUT | WINDOWS
PRIOR = RETINOTOPIC | WINDOWS | {"hidden": 16, "deviation_l2": 1e-4}


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Twelve training trials of 5 s."""
    few = {"recordings": 1, "units": 48, "train_trials": 12, "val_trials": 1, "test_trials": 1, "repeated_stimuli": 0}
    return Recording(simulator(**few).make(tmp_path_factory.mktemp("cache"))[0])


def errors(recording: Recording, readout: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Distances (U,) of the readout's places from the true ones, px: at the start, and after a short training."""
    spec = training_statistics(recording, {})
    torch.manual_seed(0)
    stem = STEM | {"channels": 16, "kernel": 9}
    model = resnet(tokenizer=stem, frontend=BASIS, modulator=None, widths=[12], depth=1)
    twin = Twin(model, readout, LIKELIHOOD | {"output": "softplus"}, [spec])
    initialize_from_data(twin, [recording], ln=None)
    found = [twin.centers_px("sim0")]
    optimizer, schedule = optimization(window_lr_scale=10.0).build(twin, 1, STEPS)
    rng = np.random.default_rng(0)
    train = recording.info.trials.of("train")
    for step in range(STEPS):
        starts = [int(rng.integers(a, b - BINS)) for a, b in zip(train.start, train.stop, strict=True)]
        read = [recording.read(start, start + BINS, {}) for start in rng.choice(starts, CLIPS, replace=False)]
        batch = {"sim0": Clips(**{name: torch.from_numpy(np.stack([c[name] for c in read])) for name in read[0]})}
        total, pairs = summed_loss(twin(batch), batch, BURN_IN, twin.likelihood)
        optimizer.zero_grad()
        (total / pairs + twin.regularizer()).backward()
        optimizer.step()
        schedule.step()
        twin.set_progress((step + 1) / STEPS)
    found.append(twin.centers_px("sim0"))
    start, end = (np.linalg.norm(places - recording.truth("center_px"), axis=1) for places in found)
    return start, end


@pytest.mark.long
def test_units_with_a_minute_of_data_are_placed_better_with_the_prior(recording: Recording) -> None:
    plain, prior = errors(recording, PLAIN), errors(recording, PRIOR)
    for when, without, with_prior in zip(("start", "end"), plain, prior, strict=True):
        told = f"{when}: median {np.median(without):.2f} px without, {np.median(with_prior):.2f} px with the prior; "
        told += f"mean {without.mean():.2f} and {with_prior.mean():.2f}"
        print(told)
        assert np.median(with_prior) < 0.9 * np.median(without), told
        assert with_prior.mean() < 0.5 * without.mean(), told
