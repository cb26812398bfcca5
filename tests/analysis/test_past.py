"""How far back the gain of units that adapt looks: beside formulas, and beside a truth that the twin knows."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from tiny_models import OWN_FILTER, spec, twin, vivit

from vivit_core.analysis.attention import past
from vivit_core.analysis.attention.past import (
    PastBesideTruth,
    falls,
    in_stretches,
    past_beside_truth,
    plot_past,
    rank_correlation,
    time_constants,
)
from vivit_core.analysis.attention.section import table_of_past
from vivit_core.data.recording.format import ContextWeights
from vivit_core.data.recording.reader import Recording
from vivit_core.models.own_filter import BEND, OwnFilters
from vivit_core.models.twin import Twin

RATE_HZ, TRIAL, UNITS = 40.0, 80, 5
SPEC = replace(spec(units=UNITS), frame_rate_hz=RATE_HZ)
TAU_S = np.array([0.1, 0.2, 0.4, 0.8])
OF_UNIT = np.array([0, 3, 1, 2, 0])  # which of the slow means each unit follows
KINDS = np.array(["adaptation"] * 4 + ["local"])
LAG_S = np.arange(8) * 0.25
OWN = OWN_FILTER | {"slow_tau_s": TAU_S.tolist()}


def adapting() -> Twin:
    """A twin whose first four units adapt, each over a time of its own."""
    made = twin(vivit(own_filter=OWN), SPEC).eval()
    own = made.own_filter("a")
    assert isinstance(own, OwnFilters)
    with torch.no_grad():
        own.gain[torch.arange(4), torch.as_tensor(OF_UNIT[:4])] = -0.5
    return made


def energies_of(trials: int) -> torch.Tensor:
    """(T, U) of trials one after the other, that go up and down slowly, as scenes do."""
    generator = torch.Generator().manual_seed(0)
    return torch.rand(trials * TRIAL // 8, UNITS, generator=generator).pow(3).repeat_interleave(8, 0)


def recording_of(energy_TU: torch.Tensor, trials: int) -> Recording:
    """One that knows that its units adapt as ``adapting`` does; as far as the analysis asks."""
    bins = np.concatenate([trial * TRIAL + np.array([50, 63, 79]) for trial in range(trials)])
    shares = np.zeros((UNITS, len(bins), len(LAG_S)), np.float32)
    for moment, now in enumerate(bins):
        for unit in range(4):
            for back in range(now % TRIAL + 1):
                kept = np.exp(-back / (TAU_S[OF_UNIT[unit]] * RATE_HZ))
                shares[unit, moment, back // 10] += kept * float(energy_TU[now - back, unit])
    shares /= np.maximum(shares.sum(2, keepdims=True), 1e-12)
    places = np.zeros((UNITS, len(bins), 1, 1), np.float32)
    truth = ContextWeights(bins, np.zeros(1), np.zeros(1), LAG_S.astype(np.float32), places, places, shares)
    known = {"rate": 0.3, "rate_without_adaptation": 0.4}

    def told(name: str, start: int = 0, stop: int | None = None) -> np.ndarray:
        if name == "context_tau_s":
            return np.append(TAU_S[OF_UNIT[:4]], 0.0)
        return np.full((cast(int, stop) - start, UNITS), known[name])

    info = SimpleNamespace(
        recording_id="a",
        frame_rate_hz=RATE_HZ,
        trials=SimpleNamespace(start=np.arange(trials) * TRIAL),
    )
    made = SimpleNamespace(info=info, context_weights=lambda: truth, unit_column=lambda name: KINDS, truth=told)
    return cast(Recording, made)


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> PastBesideTruth:
    energy_TU = energies_of(3)
    monkeypatch.setattr(past, "own_energy", lambda twin, recording, start, stop: energy_TU[start:stop])
    made = past_beside_truth(adapting(), recording_of(energy_TU, 3))
    assert made is not None
    return made


def test_a_fall_is_the_slope_of_the_log_gain_by_the_log_of_an_energy() -> None:
    """In slow float64, with slow means that work against each other."""
    own = adapting().own_filter("a")
    assert own is not None
    with torch.no_grad():
        own.gain.copy_(torch.randn(UNITS, 4, generator=torch.Generator().manual_seed(1)))
    energy_TU = energies_of(1)
    found_TU = falls(own, own.gain, energy_TU)
    w, e = own.gain.detach().double().numpy(), energy_TU.double().numpy()
    keep = np.exp(-1 / (TAU_S * RATE_HZ))
    for unit in range(UNITS):
        expected = np.zeros(TRIAL)
        for g in range(4):
            parts = (1 - keep[g]) * keep[g] ** np.arange(TRIAL)[::-1] * e[:, unit]
            expected -= w[unit, g] * BEND * parts / (1 + BEND * parts.sum())
        np.testing.assert_allclose(found_TU[:, unit], expected, rtol=1e-3, atol=1e-6)


def test_stretches_are_counted_back_from_the_newest_bin() -> None:
    falls_TU = np.arange(1.0, 8.0)[:, None] * [1, 10]
    assert in_stretches(falls_TU, np.array([0, 2, 5, 9])).tolist() == [[13, 12, 3, 0], [130, 120, 30, 0]]


def test_a_time_constant_is_the_mean_lag_of_the_fall() -> None:
    own = adapting().own_filter("a")
    assert own is not None
    with torch.no_grad():
        own.gain[3].copy_(torch.tensor([-0.3, 0.0, 0.0, -0.1]))
    tau_s = time_constants(own, RATE_HZ)
    np.testing.assert_allclose(tau_s[:4], [0.1, 0.8, 0.2, (0.3 * 0.1 + 0.1 * 0.8) / 0.4], rtol=1e-4)
    assert np.isnan(tau_s[4])  # its past does not make it fall


def test_ranks_are_of_those_that_have_both() -> None:
    x, y = np.array([1.0, 5.0, 2.0, np.nan]), np.array([10.0, 90.0, 80.0, 0.0])
    assert rank_correlation(x, y) == pytest.approx(1) and rank_correlation(-x, y) == pytest.approx(-1)
    assert rank_correlation(x[2:], y[2:]) is None and rank_correlation(np.ones(4), y) is None


def test_units_that_adapt_as_the_truth_does_have_its_profiles(found: PastBesideTruth) -> None:
    """And other moments, and other units, have others."""
    assert found.units.tolist() == [0, 1, 2, 3]
    np.testing.assert_allclose(found.correlation, 1, atol=1e-3)
    np.testing.assert_allclose(found.profile, found.true, atol=1e-3)
    np.testing.assert_allclose(found.tau_s, found.true_tau_s, rtol=1e-4)
    told = found.summary()
    assert (
        told["tau_rank"] == pytest.approx(1) and told["told_apart"] == 1.0 and told["true_fall"] == pytest.approx(0.25)
    )
    assert cast(float, told["fall"]) > 0.1 and told["fall_of_others"] == 0.0
    for chance in ("other_moments", "other_units"):
        assert cast(float, told[chance]) < 0.7
    assert cast(float, told["in_common"]) < 0.99


def test_a_profile_is_drawn_and_reported(found: PastBesideTruth, tmp_path: Path) -> None:
    drawn = plot_past(tmp_path, found, SPEC.unit_ids, 3)
    assert [path.name for path, _ in drawn] == ["attention_past_adaptation.png"] and drawn[0][0].is_file()
    table = table_of_past(found.summary())
    assert "4 units" in table.title and table.rows[0][1] == pytest.approx(1, abs=1e-3)
    assert plot_past(tmp_path, None, [], 3) == []


def test_without_a_truth_or_own_filters_there_is_no_profile() -> None:
    recording = recording_of(energies_of(1), 1)
    assert past_beside_truth(twin(vivit(), SPEC), recording) is None
    cast(Any, recording).context_weights = lambda: None
    assert past_beside_truth(adapting(), recording) is None


def test_an_energy_is_what_the_pair_of_the_unit_sees() -> None:
    """Of a recording's frames: nothing where a unit has no pair."""
    made = adapting()
    own = made.own_filter("a")
    assert own is not None
    of = made.specs["a"]
    frames = torch.randint(0, 256, (1, 30, *of.frame_shape[1:]), dtype=torch.uint8).numpy()
    with torch.no_grad():
        own.pair_U2PP[1].normal_()
        own.courses_U2L.normal_()
        own.size_U[1] = 2.0
    stub = SimpleNamespace(
        info=SimpleNamespace(recording_id="a"),
        frames=lambda start, stop: frames[:, start:stop],
        behavior=lambda start, stop, wanted: np.zeros((stop - start, of.behavior_dim), np.float32),
    )
    energy_TU = past.own_energy(made, cast(Recording, stub), 0, 30)
    assert energy_TU.shape == (30, UNITS) and (energy_TU[:, 1] > 0).any() and not energy_TU[:, [0, 2, 3, 4]].any()
    torch.testing.assert_close(past.own_energy(made, cast(Recording, stub), 0, 20), energy_TU[:20])
