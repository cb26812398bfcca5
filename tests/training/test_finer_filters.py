"""Own filters follow what their units do: what windows see, and that shapes and time courses are found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import LIKELIHOOD, spec
from torch import Tensor

from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.pairs import Gabors, Pairs, energies, through
from vivit_core.parts.build import build
from vivit_core.specs import RecordingSpec
from vivit_core.training import finer_filters
from vivit_core.training.finer_filters import (
    BATCH,
    LEAST_STEPS,
    MOST_UNITS,
    STEPS,
    Finer,
    Shown,
    filled,
    refine,
    steps_for,
    through_spectra,
    windows,
)

NODE: dict[str, Any] = {
    "_target_": "vivit_core.models.own_filter.OwnFilters",
    "duration_s": 0.08,
    "patch": 5,
    "orientations": 4,
    "stds_px": [2.0],
    "cycles_per_std": [0.3],
    "pool_width": 1.5,
    "pool_tau_s": 0.02,
    "slow_tau_s": [0.05, 0.3],
}
PIECES, BINS = 24, 200
SIMPLE, COMPLEX, CHANCE = 0, 1, 2
UNITS = 5  # of the tiny recording; the last two have no filter
EVERY = torch.ones(UNITS, dtype=torch.bool)


def own_filters(of: RecordingSpec) -> OwnFilters:
    own = build("model.own_filter", NODE, spec=of)
    assert isinstance(own, OwnFilters)
    return own


def likelihood_of(of: RecordingSpec) -> Likelihood:
    made = build("likelihood", LIKELIHOOD, mean_counts=of.unit_mean_counts)
    assert isinstance(made, Likelihood)
    return made


def noise(generator: torch.Generator) -> Tensor:
    _, height, width = spec().frame_shape
    return torch.randint(0, 256, (PIECES, 1, BINS, height, width), generator=generator).float()


@pytest.mark.parametrize("corner", [(3, 4), (-2, -1), (9, 13), (-9, 2), (40, 40)])
def test_windows_are_what_a_filter_laid_into_the_frame_sees(corner: tuple[int, int]) -> None:
    contrast = torch.randn(2, 3, 12, 16)
    seen = windows(contrast, torch.tensor([corner]), 5).unflatten(-1, (5, 5))
    assert seen.shape == (1, 2, 3, 5, 5)
    for y in range(5):
        for x in range(5):
            row, column = corner[0] + y, corner[1] + x
            inside = 0 <= row < 12 and 0 <= column < 16
            expected = contrast[:, :, row, column] if inside else torch.zeros(2, 3)
            assert torch.equal(seen[0, :, :, y, x], expected)


def test_a_step_sees_whole_pieces_and_fills_them_up() -> None:
    """However short trials are: about as many bins, and no more zeros than the longest of them needs."""
    lengths = [4, 2000, *[10] * 1000]
    of = [torch.ones(length, 2) for length in lengths]
    shown = Shown(of, of, of, of)
    for seed in range(8):
        some = shown.some(np.random.default_rng(seed))
        bins = [lengths[piece] for piece in some]
        assert BATCH <= sum(bins) < BATCH + bins[-1] + 1 and len(set(some)) == len(some)
        together = filled(of, some)
        assert together.shape == (len(some), max(bins), 2) and together.sum() == 2 * sum(bins)
    assert sorted(Shown(of[:2], of, of, of).some(np.random.default_rng(0))) == [0, 1]


class Made:
    """Filters as a search leaves them, and units that do what other ones would."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        of = spec()
        self.own, self.likelihood = own_filters(of), likelihood_of(of)
        frames = noise(generator)
        lags = self.own.courses_U2L.shape[2]
        courses = torch.zeros(2, lags)
        courses[0, -2], courses[1, -3] = 1.0, 1.0
        pieces = list(frames[:, None])
        centers = torch.tensor([[8, 6]] * UNITS)
        self.own.take_pairs(Pairs(torch.tensor([-1, 1, 1, -1, -1]), centers), courses, pieces[:4])
        with torch.no_grad():
            linear = self.own.linear
            linear.corner_U2[:] = torch.tensor([4, 6])
            linear.space_UP[SIMPLE] = torch.randn(25, generator=generator) * 0.3
            linear.space_UP[SIMPLE, 12] += 1.0
            linear.time_UL[SIMPLE, -2] = 1.0
            self.own.scale_U[SIMPLE] = 0.5
        self.contrast = torch.cat([linear.contrast(piece) for piece in pieces])
        # What the units do: one pixel, a pair of another orientation, place and time course, and nothing.
        sizes = torch.tensor([[0.6], [-2.0], [0.1]])
        true = Gabors(torch.tensor([[0.7, -0.6]]), torch.tensor([0.25 * torch.pi + 0.2]), *sizes)
        self.pair = true.pairs(self.own.side)
        self.course = torch.zeros(1, 2, lags)
        self.course[0, 0, -4:], self.course[0, 1, -1] = torch.tensor([0.5, 0.8, 0.3, -0.1]), 1.0
        seen = windows(self.contrast, torch.tensor([[6, 8]]) - self.own.side // 2, self.own.side)[0]
        energy = energies(through((seen @ self.pair.flatten(2)[0].T)[:, :, None], self.course))[..., 0, 0]
        simple = torch.roll(self.contrast[:, :, 6, 8], 1, dims=1).exp()
        rates = torch.stack([0.3 * simple, 0.5 * energy / energy.mean(), torch.full_like(simple, 0.4)], dim=-1)
        self.counts = torch.poisson(torch.cat([rates, rates[..., 2:].expand(-1, -1, 2)], dim=-1), generator=generator)
        self.bias = self.likelihood.mean_drive().clone()
        pool, valid = torch.zeros(PIECES, BINS, UNITS), torch.ones_like(self.counts, dtype=torch.bool)
        self.shown = Shown(*(list(each) for each in (self.contrast.half(), pool, self.counts, valid)))
        with torch.no_grad():
            self.own.weight[SIMPLE, 0], self.own.weight[COMPLEX, 4] = 0.5, 0.5


@pytest.mark.parametrize("cut", [False, True], ids=["whole-frames", "windows"])
def test_it_begins_with_what_the_filters_say(cut: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Windows or the whole frame: the same responses."""
    monkeypatch.setattr(finer_filters, "LARGE", 0 if cut else 10**6)
    made = Made()
    frames = made.contrast[:2, None] * made.own.linear.spec.pixel_std + made.own.linear.spec.pixel_mean
    for units, paired in (([SIMPLE], False), ([COMPLEX, CHANCE], True)):
        finer = Finer(made.own, made.likelihood.of_units(units), made.bias, torch.ones(UNITS).long(), units, paired)
        if paired:
            got, expected = finer.responses(made.contrast[:2]), made.own.responses(frames)[:, :, units]
        else:
            got, expected = finer.filtered(made.contrast[:2]), made.own.linear.filtered(frames)[:, :, units]
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-4)


@settings(max_examples=30, deadline=None)
@given(bins=st.integers(1, 70), lags=st.integers(1, 20), units=st.integers(1, 3), pieces=st.integers(1, 3))
def test_spectra_are_a_convolution(bins: int, lags: int, units: int, pieces: int) -> None:
    """Its responses, and its gradients by what was seen and by time courses."""
    generator = torch.Generator().manual_seed(bins + 100 * lags)
    seen, courses = (
        torch.randn(*shape, generator=generator, dtype=torch.float64, requires_grad=True)
        for shape in ((pieces, bins, units, 2), (units, 2, lags))
    )
    weights = torch.randn(pieces, bins, units, 4, generator=generator, dtype=torch.float64)
    got, expected = through_spectra(seen, courses), through(seen, courses)
    torch.testing.assert_close(got, expected)
    for ours, theirs in zip(
        *(torch.autograd.grad((each * weights).sum(), (seen, courses)) for each in (got, expected)), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_shapes_courses_and_filters_come_near_what_made_the_counts() -> None:
    made = Made()
    begun = [each.clone() for each in made.own.learned()]

    def alike() -> tuple[float, float, float]:
        """Of the pair's plane with the true one, of its first time course, and of the linear filter."""
        plane = torch.einsum("phw,qhw->pq", made.own.pair_U2PP[COMPLEX], made.pair[0]).square().sum() / 2
        first = torch.cosine_similarity(made.own.courses_U2L[COMPLEX, 0], made.course[0, 0], dim=0)
        linear = made.own.linear.space_UP[SIMPLE, 12] / made.own.linear.space_UP[SIMPLE].norm()
        return float(plane), float(first), float(linear)

    before = alike()
    refine(made.own, made.likelihood, made.bias, torch.ones(UNITS).long(), EVERY, made.shown)
    after = alike()
    assert before[0] < 0.9 < 0.99 < after[0], (before, after)
    assert before[1] < 0.5 < 0.97 < after[1], (before, after)
    assert before[2] < 0.35 < 0.5 < after[2], (before, after)
    for was, now in zip(begun, made.own.learned(), strict=True):
        assert torch.isfinite(now).all() and torch.equal(was[3:], now[3:])  # of units without filters
    linear = made.own.linear
    assert torch.equal(begun[0][COMPLEX], linear.space_UP[COMPLEX])
    assert torch.equal(begun[2][SIMPLE], made.own.pair_U2PP[SIMPLE])
    assert not any(each.requires_grad for each in made.own.learned()[:-1])


def test_a_pair_gives_a_linear_filter_its_direction() -> None:
    """Of motion, which none of one space times one time course has: the pair's slower course comes in."""
    made = Made()
    own, linear = made.own, made.own.linear
    frames = [each[None, None] * linear.spec.pixel_std + linear.spec.pixel_mean for each in made.contrast]
    pair = own.shapes().pairs(own.side)[2]
    seen = windows(made.contrast, torch.tensor([[6, 8]]) - own.side // 2, own.side)[0] @ pair.flatten(1).T
    moving = torch.roll(seen[..., 0], 1, dims=1) - torch.roll(seen[..., 1], 3, dims=1)
    rate = 0.3 * (0.8 * moving / moving.std()).exp()
    made.counts[..., SIMPLE] = torch.poisson(rate, generator=torch.Generator().manual_seed(1))
    cut = (own.side - linear.patch) // 2
    with torch.no_grad():
        linear.space_UP[SIMPLE] = pair[0, cut:-cut, cut:-cut].flatten()
        own.weight[SIMPLE, 0] = 1.0  # about as a fit of the weights leaves it
    members = own.take_shapes([SIMPLE], frames[:4])
    refine(own, made.likelihood, made.bias, members, EVERY, made.shown)
    found = torch.cat([linear.filtered(each) + (own.responses(each) * own.mix_U4).sum(-1) for each in frames])
    expected = moving[:, 5:].flatten()

    def corr(x: Tensor) -> float:
        return float(torch.corrcoef(torch.stack([x, expected]))[0, 1])

    # One space times one time has half of its variance at most.
    assert corr(seen[:, 4:-1, 0].flatten()) < 0.75 < 0.88 < corr(found[:, 5:, SIMPLE].flatten())


def test_units_that_are_not_wanted_stay_as_they_are() -> None:
    made = Made()
    begun = [each.clone() for each in made.own.learned()]
    wanted = torch.arange(UNITS) == CHANCE
    refine(made.own, made.likelihood, made.bias, torch.ones(UNITS).long(), wanted, made.shown, steps=3)
    changed = [(was != now).view(UNITS, -1).any(1) for was, now in zip(begun, made.own.learned(), strict=True)]
    assert torch.stack(changed).any(0).tolist() == wanted.tolist()


def test_a_step_depends_on_no_other_unit() -> None:
    """A neighbor whose filter is a hundred times as large, and says the same."""
    found = []
    for larger in (1.0, 100.0):
        made = Made()
        linear = made.own.linear
        with torch.no_grad():
            for each in (linear.space_UP, linear.time_UL, linear.corner_U2, made.own.scale_U, made.own.weight):
                each[3] = each[SIMPLE]
            linear.space_UP[3] *= larger
            made.own.scale_U[3] /= larger
        refine(made.own, made.likelihood, made.bias, torch.ones(UNITS).long(), EVERY, made.shown, steps=20)
        found.append((linear.space_UP[SIMPLE].clone(), linear.space_UP[3] / larger))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


def test_counts_that_do_not_count_may_be_anything() -> None:
    made = Made()
    made.shown.counts[0][5:9, SIMPLE] = torch.nan
    made.shown.valid[0][5:9, SIMPLE] = False
    refine(made.own, made.likelihood, made.bias, torch.ones(UNITS).long(), EVERY, made.shown, steps=3)
    assert torch.isfinite(made.own.linear.space_UP).all() and torch.isfinite(made.own.weight).all()


def test_very_many_units_are_given_fewer_steps() -> None:
    assert steps_for(1) == steps_for(MOST_UNITS) == STEPS
    assert steps_for(2 * MOST_UNITS) == STEPS // 2 and steps_for(10**6) == LEAST_STEPS
