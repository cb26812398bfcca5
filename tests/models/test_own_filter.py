"""Units' own filters: what is taken over, what they add to the drive, and what of them learns."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tiny_models import OWN_FILTER, clips, spec, twin, vivit

from vivit_core.models.ln import LN, LinearFilters
from vivit_core.models.own_filter import AT_ONCE, OwnFilters, slow_means
from vivit_core.models.pairs import Pairs, energies
from vivit_core.parts.build import build
from vivit_core.testing.twins import begin_anywhere


def made(**changes: Any) -> OwnFilters:
    own = build("model.own_filter", OWN_FILTER | changes, spec=spec())
    assert isinstance(own, OwnFilters)
    return own


def found(duration_s: float, patch: int) -> LinearFilters:
    readout = LN([spec()], duration_s, patch, "exp").readout("a")
    with torch.no_grad():
        readout.space_UP.normal_()
        readout.time_UL.normal_()
        readout.corner_U2.copy_(torch.tensor([[-1, 2], [3, 4], [7, 11], [0, 0], [5, 5]]))
    return readout


def test_linear_filters_respond_as_those_they_were_taken_from() -> None:
    """Also where they have fewer pixels and lags, or more, than what they are taken from has."""
    shown = clips(spec())["frames"]
    small = found(0.025, 3)
    own = made()
    own.take_linear(small, [shown])
    torch.testing.assert_close(own.linear.filtered(shown), small.filtered(shown))
    deviation = small.filtered(shown).flatten(0, 1).std(0)
    torch.testing.assert_close(own.scale_U, 1 / deviation)

    large = found(0.1, 9)
    own.take_linear(large, [shown])
    with torch.no_grad():
        large.time_UL[:, : -own.linear.time_UL.shape[1]] = 0
        rim = torch.ones(9, 9, dtype=torch.bool)
        rim[2:7, 2:7] = False
        large.space_UP[:, rim.flatten()] = 0
    torch.testing.assert_close(own.linear.filtered(shown), large.filtered(shown))


def test_sizes_are_those_while_pictures_are_shown() -> None:
    """Gray between pictures changes no response's usual size; where nothing but gray is shown, gray counts."""
    small, own, lags = found(0.05, 3), made(), 20
    pictures = clips(spec(), bins=lags)["frames"].float()
    gray = torch.full_like(pictures[:, :, :1], 90.0).expand(-1, -1, 10 * lags, -1, -1)
    uneven = gray + 1e-4 * torch.randn_like(gray)  # as a shifter's rounding makes it
    shown = [torch.cat([pictures, uneven], dim=2)]
    own.take_linear(small, shown)
    reach = lags + own.courses_U2L.shape[2] - 1
    deviation = own.linear.filtered(shown[0])[:, :reach].flatten(0, 1).std(0)
    torch.testing.assert_close(own.scale_U, 1 / deviation)
    own.take_pools(torch.zeros(5, 2), shown)
    pool_BTU = own.pool_of(own.pools(shown[0]))
    torch.testing.assert_close(own.pool_U, 1 / pool_BTU[:, :reach].flatten(0, 1).mean(0))
    own.take_pools(torch.zeros(5, 2), [gray])
    torch.testing.assert_close(own.pool_U, 1 / own.pool_of(own.pools(gray)).flatten(0, 1).mean(0))


def test_what_was_not_found_adds_nothing() -> None:
    shown = clips(spec())["frames"]
    own = made()
    with torch.no_grad():
        own.weight.fill_(1.0)
        own.gain.fill_(1.0)
    for added in own(shown):
        assert torch.equal(added, torch.zeros(2, shown.shape[2], 5))
    own.take_pairs(Pairs(torch.tensor([-1, 2, -1, 0, -1]), torch.full((5, 2), 6)), torch.randn(2, 4), [shown])
    for added in own(shown):
        assert (added.abs().amax((0, 1)) == 0).tolist() == [True, False, True, False, True]


def test_an_energy_is_the_sum_of_squares_of_what_a_pair_sees() -> None:
    """In slow float64, at a window that lies over the frame's border."""
    shown = clips(spec())["frames"]
    own = made()
    courses = torch.randn(2, 6)
    centers = torch.tensor([[0, 1], [6, 6], [15, 11], [3, 9], [8, 2]])
    own.take_pairs(Pairs(torch.arange(5) % 4, centers), courses, [shown])
    contrast, bank = own.linear.contrast(shown).double(), own.shapes().pairs(own.side).double()
    got = energies(own.responses(shown))
    for unit, (x, y) in enumerate(centers.tolist()):
        seen = torch.zeros(2, contrast.shape[1], 2, dtype=torch.float64)
        for dy in range(own.side):
            for dx in range(own.side):
                row, column = y + dy - own.side // 2, x + dx - own.side // 2
                if 0 <= row < 12 and 0 <= column < 16:
                    seen += contrast[:, :, row, column, None] * bank[unit % 4, :, dy, dx]
        first = torch.zeros(2, contrast.shape[1], dtype=torch.float64)
        for t in range(contrast.shape[1]):
            responses = sum(courses[0, 5 - lag] * seen[:, t - lag] for lag in range(min(t, 5) + 1))
            first[:, t] = responses.square().sum(-1)
        torch.testing.assert_close(got[:, :, unit, 0].double(), first, rtol=1e-4, atol=1e-5)


def test_a_pair_stands_for_a_linear_filter_that_it_is_like() -> None:
    """Of the same place, orientation and phase, beyond the frame's border too; the others' filters stay."""
    shown = clips(spec())["frames"]
    own, like = made(patch=9), [3, 0, 1]
    bank = own.shapes().pairs(own.side)
    with torch.no_grad():
        own.linear.space_UP.normal_()
        own.linear.time_UL.normal_()
        own.linear.corner_U2.copy_(torch.tensor([[-3, 2], [3, 4], [5, 9], [0, 0], [2, 2]]))
        space_UPP = own.linear.space_UP.view(5, 9, 9)
        for unit, member in zip(like, (1, 2, 3), strict=True):
            space_UPP[unit] = 0.0
            space_UPP[unit, 2:, 1:-1] = 0.5 * bank[member, 0] - 2.0 * bank[member, 1]  # a pixel below the middle
    before, seen = [each.clone() for each in own.learned()], own.linear.filtered(shown)
    members = own.take_shapes(like, [shown])
    assert members[like].tolist() == [1, 2, 3]
    now = own.linear.filtered(shown) + (own.responses(shown) * own.mix_U4).sum(-1)
    torch.testing.assert_close(now, seen, rtol=1e-3, atol=1e-3)
    assert own.size_U.gt(0).tolist() == [True, True, False, True, False]
    for was, each in zip(before, own.learned(), strict=True):
        assert torch.equal(was[[2, 4]], each[[2, 4]])


def test_a_pair_says_where_it_lies() -> None:
    """Also where it lies partly beyond the frame; a unit without one has no place."""
    own = made()
    at = torch.tensor([[3.0, 5.0], [10.0, 2.0], [0.0, 0.0]])
    own.pair_U2PP[:3] = own.shapes().of(torch.zeros(3, dtype=torch.long)).pairs(own.side)
    own.corner_U2[:3] = at.flip(1).long() - own.side // 2
    own.size_U[:4] = 1.0  # the fourth was not better with one
    with torch.no_grad():
        own.weight[:3] = 0.1
    places_U2 = own.places()
    torch.testing.assert_close(places_U2[:3], at, atol=1e-4, rtol=0)
    assert places_U2[3:].isnan().all()


def test_a_pool_is_the_energy_of_all_orientations_and_fades() -> None:
    """A flash of noise at a unit's place, and one far away; a place beyond the frame's end is the last one."""
    own, frames = made(stds_px=[1.0, 2.0]), torch.full((1, 1, 20, 12, 16), 120.0)
    assert own.pool_apart == [1, 3]  # px between the places at which a pool of each size is seen
    centers = torch.tensor([[4.0, 4.0], [14.0, 10.0], [40.0, 3.0], [4.0, 4.0], [0.0, 0.0]])
    own.take_pools(centers, [frames])
    assert own.place_U3.tolist() == [[1, 1, 1], [1, 3, 5], [1, 1, 5], [1, 1, 1], [1, 0, 0]]  # of a middling size
    assert torch.equal(own.pool_U, torch.zeros(5))  # nothing was shown
    flash = 60 * torch.randn(7, 7)  # the first place is three pixels from the edge
    frames[:, :, 5, :7, :7] += flash
    own.take_pools(centers, [frames])
    seen = own.pool_of(own.pools(frames))[0]
    assert (seen[5, 0] > 0).all() and torch.equal(seen[5, 0], seen[5, 3])
    assert seen[torch.arange(20) != 5].abs().max() < 1e-6 and seen[5, 1] < 1e-2 * seen[5, 0]
    mean_U = seen[5 : 5 + own.courses_U2L.shape[2]].mean(0)  # while filters reach back to the flash
    torch.testing.assert_close(mean_U * own.pool_U, (mean_U > 1e-9).float())
    faded = own.faded(own.pool_of(own.pools(frames)))[0, :, 0]
    assert torch.equal(faded[:5], torch.zeros(5))
    torch.testing.assert_close(faded[6] / faded[5], torch.tensor(math.exp(-1 / (0.02 * 120))))
    total = torch.nn.functional.pad(own.pool_of(own.pools(frames)).transpose(1, 2), (0, 20)).transpose(1, 2)
    torch.testing.assert_close(own.faded(total)[0, :, 0].sum(0), seen[5, 0])  # nothing is lost
    turned = frames.clone()
    turned[0, 0, 5, :7, :7] = 120.0 + torch.rot90(flash)
    about = own.pool_of(own.pools(turned))[0, 5, 0]  # the place's middle
    torch.testing.assert_close(about, seen[5, 0], rtol=0.02, atol=0)


def test_a_pool_lies_where_the_pair_does_and_is_as_large() -> None:
    shown = [clips(spec())["frames"]]
    own = made(stds_px=[1.0, 1.5, 2.2, 3.2])
    sizes = own.shapes().of(torch.tensor([2, 14, 9, 0, 0])).pairs(own.side)
    own.pair_U2PP.copy_(sizes)
    own.corner_U2.copy_(torch.tensor([[3, 5], [6, 9], [4, 4], [0, 0], [0, 0]]) - own.side // 2)
    own.size_U[:3] = 1.0
    middles_U2, std_U = own.middles()
    torch.testing.assert_close(middles_U2[:3], torch.tensor([[5.0, 3.0], [9.0, 6.0], [4.0, 4.0]]), atol=1e-3, rtol=0)
    torch.testing.assert_close(std_U[:3], torch.tensor([1.0, 3.2, 2.2]), rtol=0.15, atol=0)
    own.take_pools(torch.zeros(5, 2), shown)
    assert own.place_U3.tolist() == [[0, 3, 5], [3, 2, 2], [2, 1, 1], [2, 0, 0], [2, 0, 0]]


def test_features_are_divided_by_the_pool() -> None:
    """What is around divides responses and energies; motion one way is more than the other; a unit for whom nothing
    was found has none."""
    own = made()
    own.scale_U[:3], own.size_U[:3], own.pool_U[:3] = 1.0, 1.0, 1.0
    s_U, energy_U3 = torch.ones(5), torch.tensor([1.0, 0.5, 0.2]).expand(5, 3)
    alone, divided = (own.features(s_U, energy_U3, pool * torch.ones(5)) for pool in (0.0, 1.5))
    assert alone.shape == (5, OwnFilters.FEATURES) and (alone[3:] == 0).all()
    for found, by in ((alone, 0.5), (divided, 2.0)):
        u = math.asinh(3 / math.sqrt(by))
        levels = [math.log1p(30 * energy / by) / math.log(31) for energy in (1.0, 1.9, 1.1)]
        squares = [level**2 for level in levels]
        assert found[0].tolist() == pytest.approx([u, 0.0, u**2, 0.0, *levels, *squares, math.log1p(3 * (by - 0.5))])


def test_a_gain_follows_slow_means_of_the_energy() -> None:
    """Beside a slow reference, over more bins than are computed together; what came after changes nothing."""
    torch.manual_seed(0)
    energy, keep = torch.rand(2, 2 * AT_ONCE + 9, 3, dtype=torch.float64), torch.tensor([0.5, 0.999]).double()
    mean, expected = torch.zeros(2, 3, 2, dtype=torch.float64), []
    for now in energy.unbind(1):
        mean = keep * mean + (1 - keep) * now[..., None]
        expected.append(mean)
    torch.testing.assert_close(slow_means(energy, keep), torch.stack(expected, dim=1))


def test_a_unit_s_gain_falls_with_what_its_own_pair_has_seen() -> None:
    own = made(slow_tau_s=[0.1])
    shown = clips(spec(), count=2, bins=40)["frames"].clone()
    shown[:, :, :20] = 128  # gray, then something
    own.pair_U2PP[:2] = own.shapes().of(torch.zeros(2, dtype=torch.long)).pairs(own.side)
    own.courses_U2L[:, :, -1] = 1.0
    own.corner_U2[:] = 2
    own.size_U[0] = 0.1  # the second unit has no pair
    with torch.no_grad():
        own.gain.fill_(-1.0)
        added = own(shown)
    assert added.log_gain is not None
    assert (added.log_gain[:, :20].abs() < 1e-3).all() and (added.log_gain[:, -1, 0] < -0.01).all()
    assert (added.log_gain[..., 1:] == 0).all()


def test_filters_stand_still_and_pixels_have_a_gradient_through_them() -> None:
    """Analyses ask a twin how its rates move with pixels."""
    model = twin(vivit(own_filter=OWN_FILTER, modulator=None), spec())
    own = model.own_filter("a")
    assert own is not None
    begin_anywhere(own)
    assert [name for name, _ in own.named_parameters()] == ["weight", "gain"]
    shown = clips(spec())
    frames = shown["frames"].float().requires_grad_()
    own(frames).value[:, -1].sum().backward()
    assert frames.grad is not None and frames.grad[:, :, -1].abs().sum() > 0


def test_sizes_that_are_none_are_refused() -> None:
    for changes, word in (
        ({"patch": 4}, "odd"),
        ({"stds_px": []}, "stds_px"),
        ({"cycles_per_std": [0.0]}, "above 0"),
        ({"pool_width": 0.0}, "pool_width"),
        ({"pool_width": float("inf")}, "pool_width"),
        ({"pool_tau_s": float("nan")}, "pool_tau_s"),
        ({"orientations": 10**9}, "at most 1024"),
        ({"slow_tau_s": []}, "slow_tau_s"),
        ({"slow_tau_s": [0.3, 0.0]}, "slow_tau_s"),
    ):
        with pytest.raises(ValueError, match=word):
            made(**changes)
