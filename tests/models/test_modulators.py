"""Modulators against their equations, stepped."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.modulators.concat import Concat
from vivit_core.models.modulators.convgru import ConvGRU
from vivit_core.models.modulators.film import FiLM
from vivit_core.models.modulators.gru import GRU


def test_convgru_equals_its_equations_stepped() -> None:
    torch.manual_seed(0)
    gru = ConvGRU(channels=4, behavior_dim=3, stride=2, hidden=5, kernel=3, gain=0).double()
    x, behavior = torch.randn(2, 4, 3, 4, 5).double(), torch.randn(2, 5, 3).double()  # 5 bins: padded at the old end
    feature_map = FeatureMap(x, 0, 2, torch.arange(4.0), torch.arange(5.0), 2.0)
    changed = gru([feature_map], behavior)[-1].x_BCTHW
    padded = torch.cat([torch.zeros(2, 1, 3).double(), behavior], dim=1)
    state = torch.zeros(2, 5, 4, 5).double()
    for s in range(3):
        drive = gru.input(x[:, :, s]) + gru.behavior(padded[:, 2 * s : 2 * s + 2].flatten(1))[..., None, None]
        recurrent = gru.recur(state)
        z = torch.sigmoid(drive[:, :5] + recurrent[:, :5])
        r = torch.sigmoid(drive[:, 5:10] + recurrent[:, 5:10])
        n = torch.tanh(drive[:, 10:] + r * recurrent[:, 10:])
        state = (1 - z) * n + z * state
        torch.testing.assert_close(changed[:, :, s], x[:, :, s] + gru.out(state))


def test_film_scales_and_shifts_by_each_steps_own_behavior() -> None:
    torch.manual_seed(0)
    film = FiLM(channels=4, behavior_dim=3, stride=2, hidden=5).double()
    x, behavior = torch.randn(2, 4, 3, 4, 5).double(), torch.randn(2, 5, 3).double()  # 5 bins: padded at the old end
    feature_map = FeatureMap(x, 0, 2, torch.arange(4.0), torch.arange(5.0), 2.0)
    (changed,) = film([feature_map], behavior)
    padded = torch.cat([torch.zeros(2, 1, 3).double(), behavior], dim=1)
    assert film.net is not None
    for s in range(3):
        scale, shift = film.net(padded[:, 2 * s : 2 * s + 2].flatten(1))[..., None, None].split(4, dim=1)
        torch.testing.assert_close(changed.x_BCTHW[:, :, s], (1 + scale) * x[:, :, s] + shift)


def test_gru_equals_its_equations_stepped() -> None:
    torch.manual_seed(0)
    gru = GRU(channels=4, behavior_dim=3, stride=2, hidden=5).double()
    x, behavior = torch.randn(2, 4, 3, 4, 5).double(), torch.randn(2, 5, 3).double()  # 5 bins: padded at the old end
    (changed,) = gru([FeatureMap(x, 0, 2, torch.arange(4.0), torch.arange(5.0), 2.0)], behavior)
    padded = torch.cat([torch.zeros(2, 1, 3).double(), behavior], dim=1)
    weights = dict(gru.recur.named_parameters())
    state = torch.zeros(2, 5).double()
    for s in range(3):
        seen = torch.cat([x[:, :, s].mean((2, 3)), padded[:, 2 * s : 2 * s + 2].flatten(1)], dim=1)
        drive = seen @ weights["weight_ih_l0"].T + weights["bias_ih_l0"]
        recurrent = state @ weights["weight_hh_l0"].T + weights["bias_hh_l0"]
        r, z = torch.sigmoid(drive[:, :10] + recurrent[:, :10]).split(5, dim=1)
        n = torch.tanh(drive[:, 10:] + r * recurrent[:, 10:])
        state = (1 - z) * n + z * state
        scale, shift = gru.out(state)[..., None, None].split(4, dim=1)
        torch.testing.assert_close(changed.x_BCTHW[:, :, s], (1 + scale) * x[:, :, s] + shift)


def test_concat_mixes_each_cell_with_the_behavior_of_its_step() -> None:
    torch.manual_seed(0)
    concat = Concat(channels=4, behavior_dim=3, stride=2, hidden=5).double()
    x, behavior = torch.randn(2, 4, 3, 4, 5).double(), torch.randn(2, 5, 3).double()  # 5 bins: padded at the old end
    (changed,) = concat([FeatureMap(x, 0, 2, torch.arange(4.0), torch.arange(5.0), 2.0)], behavior)
    padded = torch.cat([torch.zeros(2, 1, 3).double(), behavior], dim=1)
    assert concat.net is not None
    for s in range(3):
        past = padded[:, 2 * s : 2 * s + 2].flatten(1)
        for row in range(4):
            for column in range(5):
                cell = x[:, :, s, row, column]
                expected = cell + concat.net(torch.cat([cell, past], dim=1))
                torch.testing.assert_close(changed.x_BCTHW[:, :, s, row, column], expected)


@pytest.mark.parametrize("made", [FiLM, GRU, Concat], ids=lambda made: made.__name__)
def test_where_there_is_no_behavior_only_a_memory_of_features_changes_anything(made: Any) -> None:
    x = torch.randn(2, 4, 3, 4, 5)
    (changed,) = made(channels=4, behavior_dim=0, stride=2, hidden=5)(
        [FeatureMap(x, 0, 2, torch.arange(4.0), torch.arange(5.0), 2.0)], torch.zeros(2, 5, 0)
    )
    assert torch.equal(changed.x_BCTHW, x) == (made is not GRU)
