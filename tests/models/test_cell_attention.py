"""Cells that compare themselves with what is around them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from test_energy import FRAMES, SIDE, core, grating
from tiny_models import ENERGY
from torch import Tensor

from vivit_core.models.cores.cell_attention import ALIKE, LEAST_SCALE, REST, STRONG, CellAttention
from vivit_core.models.energy import TINY

LOW, STEEP, LEVEL, LOW_LEVEL, STEEP_LEVEL, AGREE, AGREED = 0, 1, 4, 2, 3, 5, 6  # the gain's numbers


def told(video: Tensor, **changes: Any) -> Tensor:
    """What cells are told in the last frame, (R, S, C), before it is standardized."""
    made = core(**changes)
    assert made.energy is not None and made.cell_attention is not None
    with torch.no_grad():
        cells, _ = made.energy.cells(video, None)
        return made.cell_attention.told(made.cell_attention.faded(cells), torch.tensor(5.0))[0, -1]


def patched(inner: Tensor, outer: Tensor) -> Tensor:
    """One video in the middle of another one."""
    video = outer.clone()
    video[..., 10:22, 10:22] = inner[..., 10:22, 10:22]
    return video


MIDDLE = SIDE // 4 // 2  # cells are 4 px wide


def test_a_gate_opens_where_center_and_surround_are_alike() -> None:
    same = told(grating(0.0))[MIDDLE, MIDDLE]
    other = told(patched(grating(math.pi / 2), grating(0.0)))[MIDDLE, MIDDLE]
    assert same[LOW] > 0.7 and same[STEEP] > 0.5
    assert other[LOW] == other[STEEP] == 0
    assert same[LOW_LEVEL] == same[LOW] * same[LEVEL] and other[LEVEL] > 0.5


def test_a_level_tells_how_much_there_is_around() -> None:
    levels = [float(told(grating(0.3, contrast=size))[MIDDLE, MIDDLE, LEVEL]) for size in (0.0, 0.1, 1.0)]
    assert levels[0] == 0 and levels[0] < levels[1] < levels[2]


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, math.pi / 2])
def test_motion_agrees_with_the_surround_s(angle: float) -> None:
    with_it = told(grating(angle, px_per_frame=0.7))[MIDDLE, MIDDLE]
    against = told(patched(grating(angle, px_per_frame=-0.7), grating(angle, px_per_frame=0.7)))
    alone = told(patched(grating(angle, px_per_frame=0.7), torch.zeros(1, 1, FRAMES, SIDE, SIDE)))[MIDDLE, MIDDLE]
    at_rest = told(grating(angle))[MIDDLE, MIDDLE]
    assert with_it[AGREE] > 0.8 and with_it[AGREED] == with_it[AGREE].square()
    assert against[MIDDLE, MIDDLE, AGREE] < -0.3
    assert abs(at_rest[AGREE]) < 0.05
    assert alone[AGREE] > 0.5  # the patch itself is all that moves


def test_the_past_fades() -> None:
    made = core()
    attention, cells = made.cell_attention, torch.zeros(1, 20, 6, 2, 3)
    assert attention is not None
    cells[:, 5] = 1.0
    tau = 0.5 * 8  # frames: half a token's
    weights = torch.exp(-torch.arange(12) / tau)
    expected = torch.zeros(20)
    expected[5:17] = weights / weights.sum()
    torch.testing.assert_close(attention.faded(cells)[0, :, 3, 1, 2], expected)


def test_numbers_are_those_of_every_pair_of_cells() -> None:
    """Beside a slow reference, which compares each cell with each other one."""
    made = core()
    attention = made.cell_attention
    assert attention is not None
    attention = attention.double()
    torch.manual_seed(0)
    rows, columns, orientations = 3, 5, 4
    cells = torch.rand(1, 1, orientations + 2, rows, columns, dtype=torch.float64)
    cells[:, :, orientations:] -= 0.5
    with torch.no_grad():
        attention.alike_OO.add_(0.1 * torch.randn(orientations, orientations))
        attention.agree_22.add_(0.1 * torch.randn(2, 2))
        found = attention.told(cells, torch.tensor(2.0, dtype=torch.float64))[0, 0]
    energy, motion = cells[0, 0].split([orientations, 2])

    def like(r: int, c: int) -> Tensor:
        tuned = (energy[:, r, c] + TINY).sqrt()
        tuned = tuned - tuned.mean()
        return tuned / (tuned.square().sum() + TINY).sqrt()

    def direction(r: int, c: int) -> Tensor:
        near = [(y, x) for y in range(r - 1, r + 2) for x in range(c - 1, c + 2) if 0 <= y < rows and 0 <= x < columns]
        moves = torch.stack([motion[:, y, x] for y, x in near]).mean(0)
        rest = REST * torch.stack([energy[:, y, x].sum() for y, x in near]).mean() + TINY
        return moves / (moves.norm() + rest)

    where = [(r, c) for r in range(rows) for c in range(columns)]
    for r, c in where:
        weights, alike, level, moves, speeds = 0.0, 0.0, 0.0, torch.zeros(2).double(), 0.0
        for y, x in where:
            # Cells are 4 px apart, and the surround's deviation is 2 tokens of 8 px.
            weight = math.exp(-0.5 * ((y - r) ** 2 + (x - c) ** 2) * (4 / 16) ** 2)
            weights += weight
            alike += weight * float(like(r, c) @ attention.alike_OO.detach() @ like(y, x))
            level += weight * float(energy[:, y, x].sum())
            moves += weight * motion[:, y, x]
            speeds += weight * float(motion[:, y, x].norm() + REST * energy[:, y, x].sum())
        agree = float(direction(r, c) @ attention.agree_22.detach() @ moves / (speeds + 2.0 * TINY * weights))
        gates = [max(0.0, alike / weights - start) for start in ALIKE]
        around = math.log1p(STRONG * level / weights / 2.0)
        expected = [*gates, *(gate * around for gate in gates), around, agree, agree**2]
        torch.testing.assert_close(found[r, c], torch.tensor(expected, dtype=torch.float64), rtol=1e-5, atol=1e-6)


def test_numbers_are_standardized_by_what_is_shown() -> None:
    made = core()
    videos = [grating(angle, px_per_frame=speed) for angle, speed in ((0.0, 0.5), (1.0, 0.0), (2.0, -0.7))]
    made.normalize(iter(videos))
    assert made.energy is not None and made.cell_attention is not None
    with torch.no_grad():
        cells = torch.cat([made.energy.cells(video, None)[0] for video in videos])
        numbers = made.cell_attention(cells, made.energy.usual).flatten(0, 3)
        raw = made.cell_attention.told(made.cell_attention.faded(cells), made.energy.usual).flatten(0, 3)
    varied = raw.std(0) > LEAST_SCALE
    assert varied[[LEVEL, AGREE]].all()
    torch.testing.assert_close(numbers.mean(0), torch.zeros(CellAttention.CHANNELS), atol=1e-4, rtol=0)
    torch.testing.assert_close(numbers.std(0)[varied], torch.ones(int(varied.sum())), atol=1e-3, rtol=0)
    torch.testing.assert_close(numbers.std(0)[~varied], raw.std(0)[~varied] / LEAST_SCALE, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shown", [0.0, 1.0])
def test_what_hardly_varied_before_stays_in_bounds(shown: float) -> None:
    """Where only gray or only a still picture was shown, and then things move."""
    made = core()
    made.normalize([shown * grating(0.0)])
    assert made.energy is not None and made.cell_attention is not None
    torch.manual_seed(0)
    with torch.no_grad():
        cells, _ = made.energy.cells(torch.randn(1, 1, FRAMES, SIDE, SIDE), None)
        assert made.cell_attention(cells, made.energy.usual).abs().max() < 100


def test_the_gain_lies_where_cells_do() -> None:
    made = core()
    of_cells = made(torch.randn(1, 1, FRAMES, 30, SIDE))[-2]
    assert of_cells.gain and (of_cells.first_end, of_cells.stride, of_cells.cell) == (0, 1, 2.0)
    assert of_cells.x_BCTHW.shape == (1, CellAttention.CHANNELS, FRAMES, 8, 8)
    assert of_cells.ys[:2].tolist() == of_cells.xs[:2].tolist() == [1.5, 5.5]


def test_without_a_reach_cells_compare_nothing() -> None:
    made = core(energy=ENERGY | {"reach": None})
    assert made.energy is not None and made.cell_attention is None
    assert len(made.map_channels) == len(core().map_channels) - 1


@pytest.mark.parametrize("wrong", [{"reach": 0.0}, {"fading": 0.0}, {"reach": -1.0}])
def test_sizes_that_are_none_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"model\.energy: fading=.* and reach=.* must be above 0"):
        core(energy=ENERGY | wrong)
