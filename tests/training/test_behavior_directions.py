"""Gains of behavior begin with the directions that tell most of units' rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_own_filters import NODE as OWN_FILTER
from tiny_models import GAIN, LIKELIHOOD, READOUT, vivit

from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.modulators.behavior_gain import BehaviorGain
from vivit_core.models.twin import Twin
from vivit_core.specs import RecordingSpec
from vivit_core.testing.small import GRU as CONVGRU
from vivit_core.training.behavior_directions import begin_behavior_gains, directions, slopes_left_over
from vivit_core.training.initialize import initialize_from_data

BINS, UNITS, NUMBERS = 12_000, 8, 5
SHARED = np.array([[0.6, 0.0, -0.8, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0, 0.0]])  # of normalized behavior


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    """Units whose rates two directions multiply, one more than the other; behavior is of any mean and size."""
    rng = np.random.default_rng(0)
    behavior = rng.standard_normal((BINS, NUMBERS)).astype(np.float32)
    weights = rng.standard_normal((UNITS, 2)) * [0.4, 0.2]
    counts = rng.poisson(0.3 * np.exp(behavior @ SHARED.T @ weights.T)).astype(np.uint8)
    counts[:500] = 200  # which do not count
    starts = np.arange(4) * (BINS // 4)
    path = write_recording(
        tmp_path_factory.mktemp("directions") / "a.h5",
        recording_id="a",
        frame_rate_hz=60.0,
        frames=rng.integers(0, 256, (BINS, 12, 16), dtype=np.uint8),
        counts=counts,
        valid=(np.arange(BINS) >= 500)[:, None],
        behavior={"eye": 10 + 3 * behavior},
        trials=Trials(starts, starts + BINS // 4, np.arange(4).astype(str), np.array(["train"] * 2 + ["val", "test"])),
    )
    return Recording(path)


def made(recording: Recording, own_filter: dict[str, Any] | None = None, **changes: Any) -> Twin:
    modulator = changes.pop("modulator", GAIN) | changes
    means = (0.33,) * UNITS
    spec = RecordingSpec(
        "a", 60.0, (1, 12, 16), recording.info.unit_ids, means, 127.5, 74.0, {"eye": NUMBERS}, (10.0,) * 5, (3.0,) * 5
    )
    torch.manual_seed(0)
    return Twin(vivit(modulator=modulator, own_filter=own_filter), READOUT, LIKELIHOOD, [spec])


def test_shared_directions_come_first(recording: Recording) -> None:
    twin = made(recording)
    begin_behavior_gains(twin, [recording])
    gain = twin.modulator
    assert isinstance(gain, BehaviorGain) and gain.directions is not None
    found = gain.directions.weight.detach().numpy()
    assert found.shape == (GAIN["numbers"], NUMBERS)
    within = np.linalg.norm(SHARED @ found[:2].T, axis=1)  # of length one where they lie in the first two
    assert within == pytest.approx([1.0, 1.0], abs=0.07)
    assert np.abs(SHARED @ found[2:].T).max() < 0.3
    shown = torch.randn(1, 7, NUMBERS)
    (feature_map,) = gain.gain(shown)
    torch.testing.assert_close(feature_map.x_BCTHW[0, :, :, 0, 0].T, (shown[0] @ torch.as_tensor(found.T)))


def test_more_numbers_than_directions_begin_at_zero(recording: Recording) -> None:
    twin = made(recording, numbers=NUMBERS + 2)
    begin_behavior_gains(twin, [recording])
    assert isinstance(twin.modulator, BehaviorGain) and twin.modulator.directions is not None
    weight = twin.modulator.directions.weight
    assert (weight[NUMBERS:] == 0).all() and weight[:NUMBERS].abs().sum(1).min() > 0


def test_directions_have_variance_one_in_behaviors_that_go_together() -> None:
    """Behavior that does not vary, or repeats another one, has no direction of its own."""
    torch.manual_seed(0)
    seen = torch.randn(5000, 3) @ torch.randn(3, 4)
    seen = torch.cat([seen, seen[:, :1], torch.zeros(5000, 1)], dim=1)
    covariance = seen.T @ seen / len(seen)
    found = directions(torch.randn(40, 6) @ covariance, covariance)
    assert found.shape == (3, 6) and torch.isfinite(found).all()
    torch.testing.assert_close(found @ covariance @ found.T, torch.eye(3), atol=1e-3, rtol=0)


def test_a_unit_in_large_numbers_counts_as_others(recording: Recording, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses are told in the scatter that they have, whatever their unit: ten thousand times the counts of one."""
    twin, counts = made(recording), recording.counts
    before, _ = slopes_left_over(twin, recording)
    times = np.where(np.arange(UNITS) == 0, 1e4, 1.0)
    monkeypatch.setattr(recording, "counts", lambda start, stop: (counts(start, stop) * times).astype(np.float32))
    after, _ = slopes_left_over(twin, recording)
    torch.testing.assert_close(after[1:], before[1:])
    torch.testing.assert_close(after[0], before[0], rtol=0.2, atol=3.0)
    assert before[0].abs().max() > 5


@pytest.mark.slow
@pytest.mark.parametrize("modulator", [GAIN, CONVGRU], ids=["gain", "convgru"])
def test_a_twin_that_starts_from_data_has_them(recording: Recording, modulator: dict[str, Any]) -> None:
    """Also where the gain stands beside another modulator; not where the modulator is trained already. What own filters
    tell is left out."""
    for trained in ((), ("core",), ("core", "modulator")):
        twin = made(recording, modulator=modulator, own_filter=OWN_FILTER)
        initialize_from_data(twin, [recording], None, trained)
        gains = [part for part in twin.modulator.modules() if isinstance(part, BehaviorGain)]  # type: ignore[union-attr]
        assert len(gains) == 1 and gains[0].directions is not None
        found = gains[0].directions.weight.detach().numpy()
        if "modulator" in trained:
            assert (found == 0).all()
        else:
            assert np.linalg.norm(SHARED @ found[:2].T, axis=1) == pytest.approx([1.0, 1.0], abs=0.1)


def test_own_filters_and_all_recordings_have_a_say(recording: Recording) -> None:
    """What own filters predict is subtracted; the slopes of every recording's units stand together."""
    twin = made(recording, own_filter=OWN_FILTER)
    own = twin.own_filter("a")
    assert own is not None
    before, _ = slopes_left_over(twin, recording)
    with torch.no_grad():
        own.place_U3.zero_()
        own.pool_U.fill_(1.0)
        own.weight[:, -1] = 1.0  # the pool alone drives
    after, covariance = slopes_left_over(twin, recording)
    assert before.shape == (UNITS, NUMBERS) and not torch.allclose(before, after)
    torch.testing.assert_close(covariance, torch.eye(NUMBERS), atol=0.1, rtol=0)


def test_twins_without_such_gains_begin_without() -> None:
    """A twin that sees no behavior, and one without a modulator."""
    blind = Twin(
        vivit(modulator=GAIN), READOUT, LIKELIHOOD, [RecordingSpec("a", 60.0, (1, 12, 16), ("u",), (0.3,), 127.5, 74.0)]
    )
    without = Twin(vivit(modulator=None), READOUT, LIKELIHOOD, list(blind.specs.values()))
    for twin in (blind, without):
        begin_behavior_gains(twin, [])
