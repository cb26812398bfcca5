"""Pairs whose energy units follow: a bank's, an energy's, and the one that made the counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from vivit_core.models.pairs import bank_of, energies, usual_courses
from vivit_core.rf.energy_pairs import energy_pairs, explained

STDS, CYCLES, ORIENTATIONS, SIDE = [1.2, 2.0], [0.25, 0.4], 4, 11
COURSES = torch.tensor([[0.0, 0.2, 1.0, 0.5], [0.3, 1.0, -0.4, -0.2]])


@pytest.fixture(scope="module")
def bank() -> Tensor:
    return bank_of(SIDE, ORIENTATIONS, STDS, CYCLES)


def test_a_banks_pairs_are_blind_to_gray_and_of_unit_norm(bank: Tensor) -> None:
    assert bank.shape == (len(STDS) * len(CYCLES) * ORIENTATIONS, 2, SIDE, SIDE)
    torch.testing.assert_close(bank.square().sum((2, 3)), torch.ones(bank.shape[:2]))
    assert bank.sum((2, 3)).abs().max() < 1e-5
    assert (bank[:, 0] * bank[:, 1]).sum((1, 2)).abs().max() < 1e-5  # a quarter of a wave apart


def test_windows_below_a_pixel_are_no_numbers_that_are_none() -> None:
    assert torch.isfinite(bank_of(3, 8, [0.05], [0.4])).all()


def test_usual_courses_are_biphasic_and_apart() -> None:
    fast, slow = usual_courses(60, 240.0)
    torch.testing.assert_close(usual_courses(60, 240.0).norm(dim=1), torch.ones(2))
    assert (fast > 0.1).any() and (fast < -0.1).any() and abs(float(fast @ slow)) < 0.6
    assert fast.argmax() > slow.argmax()  # nearer to the bin itself


def test_energy_does_not_know_the_phase_and_motion_its_direction(bank: Tensor) -> None:
    """A wave that moves along a pair has the same energy at every moment; the other way, motion has the other sign."""
    at = torch.arange(SIDE) - SIDE // 2
    member = bank[0]  # bars that lie flat: it looks at changes down the frame
    cycles = CYCLES[0] / STDS[0]
    quarter = torch.tensor([[0.0, 1.0], [1.0, 0.0]])  # two courses, here of a frame each: now, and one before
    turn = 0.5 * math.pi  # a quarter of a wave a frame
    found = {}
    for way in (1, -1):
        phase = 2 * math.pi * cycles * at[None, :, None] - way * turn * torch.arange(40.0)[:, None, None]
        movie = phase.cos().expand(40, SIDE, SIDE)
        seen = torch.einsum("thw,phw->tp", movie, member)
        responses = torch.stack([seen[1:] if course[1] else seen[:-1] for course in quarter], 1).flatten(1)
        found[way] = energies(responses)
    assert found[1][:, 0].std() < 0.02 * found[1][:, 0].mean()
    torch.testing.assert_close(found[1][:, 2].mean(), -found[-1][:, 2].mean(), rtol=1e-3, atol=1e-4)
    assert found[1][:, 2].abs().mean() > 0.9 * found[1][:, 0].mean()


@pytest.mark.parametrize("off", [(0, 0), (1, -1)])
def test_it_finds_the_pair_that_made_the_counts(bank: Tensor, off: tuple[int, int]) -> None:
    """From white noise and Poisson counts; the center it is told may be a pixel away from the true one. Units that
    nobody asked for have none."""
    rng = np.random.default_rng(0)
    movie = torch.as_tensor(rng.normal(size=(6, 500, 14, 20)).astype(np.float32))
    true, wanted = {1: (5, (8, 6)), 2: (12, (11, 7))}, [1, 2]
    counts = torch.zeros(6, 500, 4)
    for unit, (member, (x, y)) in true.items():
        half = SIDE // 2
        seen = F.conv2d(movie.flatten(0, 1)[:, None], bank[member][:, None], padding=half)[:, :, y, x]
        seen = F.pad(seen.view(6, 500, 2).permute(0, 2, 1).reshape(12, 1, 500), (COURSES.shape[1] - 1, 0))
        responses = F.conv1d(seen, COURSES[:, None]).view(6, 2, 2, 500).permute(0, 3, 2, 1).flatten(2)
        energy = energies(responses)[..., 0]
        counts[..., unit] = torch.as_tensor(rng.poisson(0.4 * (energy / energy.mean()).numpy()).astype(np.float32))
    centers = torch.tensor([[3.0, 3.0], [8.0, 6.0], [11.0, 7.0], [4.0, 4.0]]) + torch.tensor(off)
    trials = list(zip(movie, counts - counts.mean((0, 1)), strict=True))
    found = energy_pairs(trials, wanted, centers, COURSES, bank)
    assert found.member_U.tolist() == [-1, 5, 12, -1]
    assert [tuple(found.center_U2[unit].tolist()) for unit in wanted] == [true[unit][1] for unit in wanted]


def test_where_nothing_is_counted_there_is_no_pair(bank: Tensor) -> None:
    movie = torch.randn(2, 50, 9, 9)
    found = energy_pairs([(x, torch.zeros(50, 1)) for x in movie], [0], torch.tensor([[4.0, 4.0]]), COURSES, bank)
    assert found.member_U.tolist() == [-1]


@pytest.mark.parametrize("first", [0.0, 0.03])
def test_a_gray_trial_may_come_first(bank: Tensor, first: float) -> None:
    """It knows nothing of how large energies are: what is explained does not depend on the order of trials."""
    rng = np.random.default_rng(0)
    movie = torch.as_tensor(rng.normal(size=(4, 200, 14, 20)).astype(np.float32))
    movie[0] *= first
    rest = torch.as_tensor(rng.normal(size=(4, 200, 1)).astype(np.float32))
    trials, place = list(zip(movie, rest, strict=True)), torch.tensor([9, 7])
    found, turned = (explained(each, 0, place, COURSES, bank) for each in (trials, trials[::-1]))
    torch.testing.assert_close(found, turned, rtol=1e-3, atol=1e-4)
