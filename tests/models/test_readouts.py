"""Readouts against windows integrated by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import pytest
import torch
from tiny_models import RETINOTOPIC, spec, twin, vivit

from vivit_core.models.attention.rotary import apply_rope
from vivit_core.models.feature_map import FeatureMap, cell_centers
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.readouts import attention
from vivit_core.models.readouts.attention import AttentionReadout
from vivit_core.models.readouts.factorized import FactorizedReadout
from vivit_core.models.readouts.gaussian import GaussianReadout
from vivit_core.models.readouts.retinotopic import RetinotopicReadout

DRIVE = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
CLEAR = torch.ones(4)


def readout(channels: list[int], units: int = 4, **changes: object) -> GaussianReadout:
    torch.manual_seed(0)
    settings = {"std_px": 1.5, "std_min_px": 0.3, "std_max_px": 6.0, "std_settle": 0.5, "l1": 0.1}
    made = GaussianReadout(channels, (12, 16), DRIVE[:units], **(settings | changes))  # type: ignore
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
    made.initialize(torch.tensor([[100.0, 3.0]] * 4), CLEAR)
    assert made.gaussians()["mean_px"][0].tolist() == [15.0, 3.0]
    with pytest.raises(ValueError, match="std_min_px"):
        readout([3], std_px=0.1)


def test_a_readouts_regularizer_is_per_unit() -> None:
    made = readout([3, 2])
    expected = sum(float(f.abs().sum()) for f in made.features) / 4 * 0.1
    assert float(made.regularizer()) == pytest.approx(expected, rel=1e-5)


# Masks


def grid(rows: int, columns: int, cell: float, channels: int = 3) -> FeatureMap:
    """A map whose cells begin at the frame's corner."""
    ys, xs = (cell_centers(n, cell, 0, torch.device("cpu")) for n in (rows, columns))
    return FeatureMap(torch.randn(2, channels, 4, rows, columns), 0, 1, ys, xs, cell)


def factorized(**changes: float) -> FactorizedReadout:
    torch.manual_seed(0)
    settings = {"cell_px": 2.0, "std_px": 2.0, "mask_l1": 0.0, "mask_smooth": 0.0, "l1": 0.0} | changes
    made = FactorizedReadout([3], (12, 16), DRIVE, **settings)
    with torch.no_grad():
        made.mask.copy_(torch.rand(4, 6, 8))
    return made


def test_a_mask_times_features_is_the_drive() -> None:
    made, same = factorized(), grid(6, 8, 2.0)
    drive, _ = made([same], 4, last=False)
    expected = torch.einsum("bcthw,uhw,uc->btu", same.x_BCTHW, made.peak * made.mask, made.features[0]) + made.bias
    torch.testing.assert_close(drive, expected)


def test_every_map_sees_a_mask_whole_and_in_its_place() -> None:
    """Also one of coarser cells, of finer ones, and of a single one."""
    made = factorized()
    with torch.no_grad():
        made.mask[:, 0], made.mask[:, -1], made.mask[:, :, 0], made.mask[:, :, -1] = 0, 0, 0, 0
    total, centers = made.peak * made.mask.sum((1, 2)), made.centers()
    for seen in (grid(3, 4, 4.0), grid(12, 16, 1.0), grid(6, 8, 2.0)):
        mask_UHW = made.seen_by(seen)
        torch.testing.assert_close(mask_UHW.sum((1, 2)), total)
        window_UHW = made.window_on(seen)
        torch.testing.assert_close(window_UHW.sum((1, 2)), torch.ones(4))
        found = torch.stack([(window_UHW.sum(1) * seen.xs).sum(1), (window_UHW.sum(2) * seen.ys).sum(1)], 1)
        torch.testing.assert_close(found, centers, rtol=0, atol=0.02)
    torch.testing.assert_close(made.seen_by(grid(1, 1, 1.0))[:, 0, 0], total)
    with torch.no_grad():
        made.mask.fill_(1.0)
    inside = made.seen_by(grid(24, 32, 0.5))[:, 7:-7, 7:-7]
    assert inside.max() < 1.001 * inside.min()  # cells between those of the mask are not left out


def test_masks_begin_at_their_places_and_stay_positive() -> None:
    made = factorized(std_px=1.5)
    places = torch.tensor([[3.0, 3.0], [8.4, 6.2], [13.0, 8.0], [-5.0, 40.0]])
    made.initialize(places, CLEAR)
    torch.testing.assert_close(made.peak * made.mask.sum((1, 2)), torch.ones(4))
    torch.testing.assert_close(made.centers()[:3], places[:3], rtol=0, atol=0.2)
    assert made.mask[3].argmax() == 5 * 8  # the corner, where the place lies beside the frame
    narrow = factorized(std_px=0.1)
    narrow.initialize(places, CLEAR)
    assert narrow.mask[1].max() * narrow.peak == 1.0
    with torch.no_grad():
        made.mask[0, 0] = -1.0
    made.set_progress(0.1)
    assert made.mask.min() == 0.0
    with torch.no_grad():
        made.mask[1] = 0.0
    torch.testing.assert_close(made.window_on(grid(3, 4, 4.0))[1], torch.full((3, 4), 1 / 12))
    with pytest.raises(ValueError, match=r"readout.cell_px=0.0 must be above zero"):
        factorized(cell_px=0.0)


def test_a_masks_regularizers_are_sums_and_roughness() -> None:
    made = factorized(mask_l1=0.1)
    assert float(made.regularizer()) == pytest.approx(0.1 * float(made.mask.sum()) * made.peak / 4, rel=1e-5)
    smooth = factorized(mask_smooth=1.0, std_px=5.0)
    rough = float(smooth.regularizer())
    smooth.initialize(torch.tensor([[8.0, 6.0]] * 4), CLEAR)
    assert float(smooth.regularizer()) < 0.2 * rough
    other = factorized(l1=0.1)
    assert float(other.regularizer()) == pytest.approx(0.1 * float(other.features[0].abs().sum()) / 4, rel=1e-5)


# Queries


def asking(channels: int = 3, **changes: float) -> AttentionReadout:
    torch.manual_seed(0)
    settings = {"heads": 2, "head_dim": 16, "wavelength_px": 12.0, "std_px": 1.5, "l1": 0.1} | changes
    made = AttentionReadout([2, channels], (12, 16), DRIVE, **settings)  # type: ignore[arg-type]
    made.initialize(torch.tensor([[3.0, 3.0], [8.4, 6.2], [13.0, 8.0], [7.0, 2.0]]), CLEAR)
    with torch.no_grad():
        made.keys.normal_()
    return made


def test_a_query_is_turned_keys_and_features_by_hand() -> None:
    """Unit by unit and cell by cell, in complex numbers."""
    made, seen = asking(), grid(6, 8, 2.0)
    read = made.reader(1, seen)(seen.x_BCTHW)
    longest, pairs = 64.0, 4
    rates = [2 * math.pi / 12.0 * (12.0 / longest) ** (i / (pairs - 1)) for i in range(pairs)]

    def numbers(x: torch.Tensor) -> torch.Tensor:
        return torch.complex(*x.chunk(2, dim=-1))

    keys_NhC = []
    for y in seen.ys:
        for x in seen.xs:
            turn = torch.polar(
                torch.ones(8), torch.tensor([r * float(y) for r in rates] + [r * float(x) for r in rates])
            )
            keys_NhC.append(turn)
    x_NC = seen.x_BCTHW[1, :, 2].flatten(1).T
    for u in range(4):
        total = torch.zeros(())
        for h in range(2):
            scores = []
            for turn, x_C in zip(keys_NhC, x_NC, strict=True):
                key = numbers(made.place[h] + x_C @ made.keys[2:, h]) * turn
                scores.append((numbers(made.queries[u, h]).conj() * key).real.sum())
            total = total + torch.softmax(torch.stack(scores), 0) @ x_NC @ made.features[1][u, h]
        torch.testing.assert_close(read[1, 2, u], total, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("block", [97, 1000])
def test_work_in_blocks_changes_no_number(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither values nor gradients; and no block is larger than it may be, unless one unit's own cells are."""
    seen, found = grid(6, 8, 2.0), []
    for size in (attention.BLOCK, block):
        monkeypatch.setattr(attention, "BLOCK", size)
        made = asking()
        values = made.reader(1, seen)(seen.x_BCTHW)
        values.square().sum().backward()
        found.append([values.detach(), *(p.grad for p in (made.queries, made.place, made.keys, made.features[1]))])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    blocks = list(made.blocks(8, slice(0, 4), 48))
    sizes = [(steps.stop - steps.start) * (units.stop - units.start) * 2 * 48 for steps, units in blocks]
    assert sum(sizes) == 8 * 4 * 2 * 48 and max(sizes) <= max(block, 2 * 48)


def test_what_a_training_pass_keeps_does_not_grow_with_units_times_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = grid(24, 32, 2.0)

    def kept() -> int:
        numbers: dict[int, int] = {}

        def keep(x: torch.Tensor) -> torch.Tensor:
            numbers[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // 4
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            asking().reader(1, seen)(seen.x_BCTHW)
        return sum(numbers.values())

    whole = 8 * 4 * 2 * 24 * 32
    before = kept()
    monkeypatch.setattr(attention, "BLOCK", whole // 8)
    assert kept() < before - whole


def test_a_query_names_a_place_and_a_feature_may_draw_it_away() -> None:
    made, seen = asking(), grid(12, 16, 1.0)
    window_UHW = made.window_on(seen)
    torch.testing.assert_close(window_UHW.sum((1, 2)), torch.ones(4))
    places = torch.tensor([[3.0, 3.0], [8.4, 6.2], [13.0, 8.0], [7.0, 2.0]])
    torch.testing.assert_close(made.centers(), places, rtol=0, atol=0.6)
    with torch.no_grad():
        made.features[1].fill_(1.0)
        made.features[1][:, :, 1:] = 0.0
        made.keys.zero_()
        seen.x_BCTHW[:, 0] = seen.xs  # the feature that is read says where
        still = made.reader(1, seen)(seen.x_BCTHW)[0, 0] / 2
        torch.testing.assert_close(still, (window_UHW.sum(1) * seen.xs).sum(1), rtol=1e-4, atol=1e-4)
        # Channel 2 has the key that, turned by its place at (12, 6), is what unit 1 asks for.
        back = made.turns(torch.tensor([-6.0]), torch.tensor([-12.0]))
        made.keys[4] = 20 * apply_rope(made.queries[1][None], back)[0] / made.queries[1, 0].square().sum()
        seen.x_BCTHW[:, 2] = 0.0
        seen.x_BCTHW[:, 2, :, 6, 12] = 1.0
        drawn = made.reader(1, seen)(seen.x_BCTHW)[0, 0] / 2
    assert float(still[1]) == pytest.approx(8.4, abs=0.3) and float(drawn[1]) == pytest.approx(12.0, abs=0.1)


def test_queries_that_cannot_be() -> None:
    for wrong, message in (
        ({"heads": 0}, r"readout.heads=0"),
        ({"head_dim": 10}, r"readout.head_dim=10 must be a multiple of 4"),
        ({"head_dim": 4}, r"at least 8"),
        ({"wavelength_px": 64.0}, r"below 64"),
        ({"std_px": 0.0}, r"readout.std_px=0.0"),
    ):
        with pytest.raises(ValueError, match=message):
            asking(**wrong)


# Retinotopy

UNITS = 60


def placed(**changes: object) -> tuple[RetinotopicReadout, torch.Tensor]:
    """A readout of units whose true places (U, 2) are a bent map of where they lie, scattered by half a pixel."""
    rng = torch.Generator().manual_seed(0)
    position = torch.rand(UNITS, 3, generator=rng) * torch.tensor([900.0, 600.0, 400.0])
    u, v = position[:, 0] / 900, position[:, 1] / 600
    places = torch.stack([4 + 40 * u + 14 * u * v, 30 - 22 * v + 6 * u.square()], dim=1)
    places = places + 0.5 * torch.randn(UNITS, 2, generator=rng)
    torch.manual_seed(0)
    settings = {"hidden": 16, "deviation_l2": 0.1, "l1": 0.0} | changes
    std = {"std_px": 1.0, "std_min_px": 0.3, "std_max_px": 6.0, "std_settle": 0.5}
    made = RetinotopicReadout([3], (36, 64), torch.zeros(UNITS), position, **settings, **std)  # type: ignore[arg-type]
    return made, places


def test_units_with_unclear_fields_are_placed_by_their_neighbors() -> None:
    """A third are mistakes anywhere in the frame; where a mistake happens to be clear, it is believed."""
    made, places = placed()
    clear = torch.full((UNITS,), 3.0)
    clear[:40:2] = 0.5
    found = places.clone()
    found[:40:2] = torch.rand(20, 2, generator=torch.Generator().manual_seed(1)) * torch.tensor([63.0, 35.0])
    made.initialize(found, clear)
    error = (made.centers() - places).norm(dim=1)
    assert float(error[:40:2].median()) < 2.0 and float(error[1:40:2].max()) < 0.1
    assert float((found - places)[:40:2].norm(dim=1).median()) > 15.0
    clear[0] = 3.0
    made.initialize(found, clear)
    torch.testing.assert_close(made.centers()[0], found[0], atol=1e-3, rtol=0)
    assert float((made.centers() - places).norm(dim=1)[2:40:2].median()) < 2.0


def test_where_no_field_is_clear_all_units_begin_in_the_middle() -> None:
    made, places = placed()
    made.initialize(places, torch.zeros(UNITS))
    torch.testing.assert_close(made.centers(), torch.tensor([[31.5, 17.5]]).expand(UNITS, 2))


def test_deviations_cost_and_stay_on_the_frame() -> None:
    made, places = placed()
    made.initialize(places, torch.full((UNITS,), 3.0))
    torch.testing.assert_close(made.regularizer(), 0.1 * made.mean.square().sum(1).mean())
    with torch.no_grad():
        made.mean.add_(-100.0)
    made.set_progress(0.1)
    torch.testing.assert_close(made.centers(), torch.zeros(UNITS, 2), atol=1e-4, rtol=0)
    torch.testing.assert_close(made.gaussians()["mean_px"], made.centers())
    with pytest.raises(ValueError, match=r"readout.hidden=0"):
        placed(hidden=0)


def test_units_whose_place_is_not_known_are_refused_with_the_remedy() -> None:
    nowhere = replace(spec(), unit_position_um=())
    with pytest.raises(ValueError, match=r"recording a does not say where its units lie.*units/position_um"):
        twin(vivit(), nowhere, readout=RETINOTOPIC)
    assert twin(vivit(), nowhere).specs["a"].unit_position_um == ()
