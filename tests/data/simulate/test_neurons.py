"""A simulated recording's neurons, made again from its file, fire as they did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from shipped import simulator

from vivit_core.cli.schema import conf_dir
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.neurons import TrueNeurons, gain_of, true_neurons
from vivit_core.data.simulate.simulate import Simulator
from vivit_core.parts.build import build

CONTEXT = yaml.safe_load((conf_dir() / "data" / "simulator" / "context" / "default.yaml").read_text())
LOCAL = simulator(recordings=2, units=12, train_trials=3, val_trials=1, test_trials=1, repeated_stimuli=0, trial_s=1.0)


@pytest.fixture(scope="module", params=["local", "in context"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings: Simulator = LOCAL
    if request.param == "in context":
        settings = replace(LOCAL, context=build("data.simulator.context", CONTEXT))
    return settings.make(tmp_path_factory.mktemp("cache"))[1]


@pytest.fixture(scope="module")
def neurons(path: Path) -> TrueNeurons:
    found = true_neurons(path)
    assert found is not None
    return found


def test_they_fire_as_the_file_says_in_trials_that_nothing_was_taken_from(path: Path, neurons: TrueNeurons) -> None:
    recording = Recording(path)
    trials = recording.info.trials.of("test")
    start, stop = int(trials.start[0]), int(trials.stop[0])
    true_TU = recording.truth("rate", start, stop) * recording.info.frame_rate_hz
    true_TU *= neurons.gain_U / gain_of(neurons.population, recording, start, stop)
    fired_TU = neurons.rates(recording.frames(start, stop))[0]
    error_U = np.sqrt(np.square(fired_TU - true_TU).mean(0) / np.square(true_TU).mean(0))
    assert error_U.max() < 0.01
    assert neurons.unit_ids == tuple(recording.info.unit_ids) and neurons.frame_shape == recording.info.frame_shape[1:]


def test_at_gray_they_fire_at_their_baseline(neurons: TrueNeurons) -> None:
    rates_TU = neurons.rates(np.full((1, 20, *neurons.frame_shape), 127.5, np.float32))[0]
    baseline_U = neurons.gain_U * neurons.population.baseline * neurons.population.mean_rate_hz
    np.testing.assert_allclose(rates_TU, np.broadcast_to(baseline_U, rates_TU.shape), rtol=1e-4)


def test_files_without_their_settings_have_none(path: Path, tmp_path: Path) -> None:
    alone = tmp_path / "sim1.h5"
    shutil.copyfile(path, alone)
    assert true_neurons(alone) is None
    # Settings of another simulation, in a folder of their name: they do not give this file's rates.
    other = replace(LOCAL, seed=LOCAL.seed + 1)
    folder = tmp_path / other.name
    folder.mkdir()
    shutil.copyfile(path, folder / "sim1.h5")
    (folder / "simulator.json").write_text(json.dumps(other._fields()))
    assert true_neurons(folder / "sim1.h5") is None
    (folder / "simulator.json").write_text('{"version": 0}')
    assert true_neurons(folder / "sim1.h5") is None


def test_a_measured_recording_has_none(tmp_path: Path) -> None:
    from small_recordings import rich

    assert true_neurons(rich(tmp_path)) is None
