"""Readouts against windows integrated by hand."""

from __future__ import annotations

import math
from typing import Literal

import pytest
import torch

from vivit_core.models.feature_map import FeatureMap, cell_centers
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.readouts.gaussian import GaussianReadout


def readout(channels: list[int], units: int = 4, **changes: object) -> GaussianReadout:
    torch.manual_seed(0)
    settings = {"std_px": 1.5, "std_min_px": 0.3, "std_max_px": 6.0, "std_settle": 0.5, "l1": 0.1}
    drive = torch.tensor([0.1, 0.2, 0.3, 0.4])[:units].log()
    made = GaussianReadout(channels, (12, 16), drive, **(settings | changes))  # type: ignore
    with torch.no_grad():
        made.mean.add_(torch.randn(units, 2) * 2)
        made.angle.normal_()
        made.log_std.add_(torch.randn(units, 2) * 0.3)
    return made


def test_readout_equals_the_window_integrated_by_hand() -> None:
    made = readout([3, 2]).double()
    maps = [
        FeatureMap(
            torch.randn(2, 3, 8, 12, 16).double(),
            0,
            1,
            cell_centers(12, 1, 0, torch.device("cpu")),
            cell_centers(16, 1, 0, torch.device("cpu")),
            1.0,
        ),
        FeatureMap(
            torch.randn(2, 2, 2, 3, 4).double(),
            3,
            4,
            cell_centers(3, 4, 0, torch.device("cpu")),
            cell_centers(4, 4, 0, torch.device("cpu")),
            4.0,
        ),
    ]
    drives, log_gain = made(maps, 8, last=False)
    assert log_gain is None
    gaussian = made.gaussians()
    for u in range(4):
        (mx, my), (sx, sy), angle = (
            gaussian["mean_px"][u],
            gaussian["std_px"][u],
            math.radians(float(gaussian["angle_deg"][u])),
        )
        for t in (0, 3, 7):
            drive = made.bias[u].clone()
            for index, feature_map in enumerate(maps):
                step = (t - feature_map.first_end) // feature_map.stride
                if step < 0:
                    continue
                weights = torch.zeros(len(feature_map.ys), len(feature_map.xs), dtype=torch.float64)
                for i, y in enumerate(feature_map.ys):
                    for j, x in enumerate(feature_map.xs):
                        along = (x - mx) * math.cos(angle) + (y - my) * math.sin(angle)
                        across = (y - my) * math.cos(angle) - (x - mx) * math.sin(angle)
                        floor = (feature_map.cell / 2) ** 2
                        weights[i, j] = torch.exp(-0.5 * (along**2 / (sx**2 + floor) + across**2 / (sy**2 + floor)))
                weights = weights / weights.sum()
                seen = torch.einsum("chw,hw->c", feature_map.x_BCTHW[1, :, step], weights)
                drive = drive + seen @ made.features[index][u]
            torch.testing.assert_close(drives[1, t, u], drive, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("output", ["exp", "softplus"])
def test_readouts_start_at_the_mean_rate(output: Literal["exp", "softplus"]) -> None:
    likelihood = Poisson((0.01, 0.5), output)
    made = GaussianReadout([3], (12, 16), likelihood.mean_drive(), 1.5, 0.3, 6.0, 0.5, 0.0)
    feature_map = FeatureMap(torch.zeros(1, 3, 4, 12, 16), 0, 1, torch.arange(12.0), torch.arange(16.0), 1.0)
    rate = likelihood.rate(*made([feature_map], 4, last=True))[0]
    torch.testing.assert_close(rate, torch.tensor([0.01, 0.5]), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("output", ["exp", "softplus"])
def test_maps_of_a_gain_multiply_the_rate(output: Literal["exp", "softplus"]) -> None:
    """And they are read where the others are; bins before a map's first step have a gain of one."""
    made = readout([3, 2]).double()
    ys, xs = cell_centers(3, 4, 0, torch.device("cpu")), cell_centers(4, 4, 0, torch.device("cpu"))
    drive_map = FeatureMap(torch.randn(2, 3, 8, 3, 4).double(), 0, 1, ys, xs, 4.0)
    gain_map = FeatureMap(torch.randn(2, 2, 2, 3, 4).double(), 3, 4, ys, xs, 4.0, gain=True)
    likelihood = Poisson((0.1, 0.2, 0.3, 0.4), output)
    drive, log_gain = made([drive_map, gain_map], 8, last=False)
    assert log_gain is not None
    rate = likelihood.rate(drive, log_gain)
    read = torch.einsum(
        "btchw,uhw,uc->btu", gain_map.x_BCTHW.transpose(1, 2), made.window_on(gain_map), made.features[1]
    )
    expected = torch.cat([torch.zeros(2, 3, 4), read[:, :1].expand(2, 4, 4), read[:, 1:]], dim=1).exp()
    torch.testing.assert_close(rate / likelihood.rate(drive), expected, rtol=1e-5, atol=1e-9)


def test_readout_windows_settle_and_stay_on_the_frame() -> None:
    made = readout([3])
    with torch.no_grad():
        made.log_std.fill_(math.log(100.0))
        made.mean.fill_(-5.0)
    made.set_progress(0.25)
    halfway = float(made.gaussians()["std_px"].max())
    made.set_progress(0.5)
    assert 6.0 < halfway < 16.0 and float(made.gaussians()["std_px"].max()) == pytest.approx(6.0)
    assert float(made.mean.min()) == 0.0
    made.initialize(torch.tensor([[100.0, 3.0]] * 4))
    assert made.gaussians()["mean_px"][0].tolist() == [15.0, 3.0]
    with pytest.raises(ValueError, match="std_min_px"):
        readout([3], std_px=0.1)


def test_a_readouts_regularizer_is_per_unit() -> None:
    made = readout([3, 2])
    expected = sum(float(f.abs().sum()) for f in made.features) / 4 * 0.1
    assert float(made.regularizer()) == pytest.approx(expected, rel=1e-5)
