"""Modulators against their equations, stepped."""

from __future__ import annotations

import torch

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.modulators.convgru import ConvGRU
from vivit_core.models.modulators.film import FiLM


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
