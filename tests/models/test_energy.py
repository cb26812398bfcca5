"""Energies of tokens against gratings that are known, and the comparisons of them that blocks begin with."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from tiny_models import ABSOLUTE, ATTENTION, BASIS, ENERGY, RELATIVE, RESIDUAL_STEM, WINDOW, vivit
from torch import Tensor

from vivit_core.models.attention.base import AttentionMask, Positions
from vivit_core.models.attention.rotary import RotaryAttention
from vivit_core.models.cores.comparisons import Numbers
from vivit_core.models.cores.vivit import ViViT
from vivit_core.models.tokenizers.tubelet import Tubelet
from vivit_core.parts.build import build
from vivit_core.parts.groups import BESIDE_THE_CORE

FRAMES, SIDE, PATCH = 24, 32, 8
FOUR = ENERGY | {"orientations": 4, "std_px": 2.5, "cycles_per_std": 0.4}
PERIOD_PX = 2.5 / 0.4


def grating(angle: float, px_per_frame: float = 0.0, phase: float = 0.0, contrast: float = 1.0) -> Tensor:
    """(1, 1, T, H, W): waves along an angle (from x to y), which move along it."""
    y, x = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    along = x * math.cos(angle) + y * math.sin(angle)
    moved = along - px_per_frame * torch.arange(FRAMES)[:, None, None]
    return contrast * torch.cos(2 * math.pi / PERIOD_PX * moved + phase)[None, None]


def core(**changes: Any) -> ViViT:
    torch.manual_seed(0)
    tokenizer = RESIDUAL_STEM | {"patch_size": [8, PATCH, PATCH], "widths": [6], "context": 24}
    node = vivit(tokenizer=tokenizer, frontend=BASIS, embedding_dim=64, energy=FOUR, registers=0) | changes
    others = (*BESIDE_THE_CORE, "frame_size")
    made: ViViT = build("model", {key: value for key, value in node.items() if key not in others}, in_channels=1)
    return made.eval()


def numbers(made: ViViT, video: Tensor) -> Tensor:
    """Of the last step's tokens, (N, E)."""
    assert made.energy is not None and made.frontend is not None
    with torch.no_grad():
        found: Tensor = made.energy(made.cells(video), made.tokenizer(made.frontend(video)))[0, -1]
    return found


@pytest.mark.parametrize("orientation", range(4))
def test_energies_tell_orientations_whatever_the_phase(orientation: int) -> None:
    made = core()
    assert made.energy is not None
    angle = orientation * math.pi / 4
    shown = [numbers(made, grating(angle, phase=phase)) for phase in (0.0, 1.0, 2.0)]
    inner = torch.arange(16).view(4, 4)[1:3, 1:3].flatten()  # tokens that see no border
    for each in shown:
        assert (each[inner][:, list(made.energy.energy)].argmax(1) == orientation).all()
        torch.testing.assert_close(each[inner], shown[0][inner], rtol=0.05, atol=0.05)
    other = numbers(made, grating(angle + math.pi / 2))
    like = list(made.energy.likeness)
    assert (shown[0][inner][:, like] * shown[1][inner][:, like]).sum(1).min() > 0.99
    assert (shown[0][inner][:, like] * other[inner][:, like]).sum(1).max() < 0.0
    weak = numbers(made, grating(angle, contrast=0.1))
    torch.testing.assert_close(weak[inner][:, like], shown[0][inner][:, like], rtol=0.01, atol=0.01)


@pytest.mark.parametrize("angle", [0.0, math.pi / 4, math.pi / 2, 3.0])
@pytest.mark.parametrize("way", [1, -1])
def test_motion_points_where_the_pattern_goes(angle: float, way: int) -> None:
    made = core()
    assert made.energy is not None
    told = numbers(made, grating(angle, px_per_frame=way * 0.7))[:, list(made.energy.direction)]
    wanted = way * torch.tensor([math.cos(angle), math.sin(angle)])
    assert (told.view(4, 4, 2)[1:3, 1:3] @ wanted).min() > 0.97


def gates(made: ViViT, video: Tensor) -> Tensor:
    """What the heads over space write of the last step's tokens, (4, 4, 3)."""
    assert made.energy is not None and made.frontend is not None
    at = Numbers(made.energy)
    with torch.no_grad():
        tokens = made.tokenizer(made.frontend(video))
        x = made.attend_space(made.lifted(tokens, made.cells(video)), tokens.height, tokens.width)
    return (x[0, -1][:, list(at.gates)] - x[0, -1][:, at.zero, None]).view(4, 4, 3)


def test_a_gate_opens_where_others_are_alike() -> None:
    made = core()
    alike, apart = grating(0.0), grating(math.pi / 2)
    apart[..., :16, :16] = alike[..., :16, :16]
    apart[..., 16:, 16:] = grating(math.pi / 4)[..., 16:, 16:]
    everywhere, some = gates(made, alike), gates(made, apart)
    assert everywhere[0, 0, 0] > some[0, 0, 0] + 0.2 > 0.2
    assert everywhere[..., 0].max() <= 2.0 + 1e-4  # a gate is a share of the attention


def test_a_gate_of_motion_opens_where_all_move_alike() -> None:
    made = core()
    together, apart = grating(0.0, 0.7), grating(0.0, -0.7)
    apart[..., :16, :16] = together[..., :16, :16]
    assert gates(made, together)[0, 0, 2] > gates(made, apart)[0, 0, 2] + 0.2


def test_what_is_compared_is_written_by_nothing_else() -> None:
    made = core()
    assert made.energy is not None and made.frontend is not None
    video = torch.randn(1, 1, FRAMES, SIDE, SIDE)
    with torch.no_grad():
        tokens = made.tokenizer(made.frontend(video))
        before = made.lifted(tokens, made.cells(video))
        after = made.attend_time(made.attend_space(before, tokens.height, tokens.width))
    torch.testing.assert_close(after[..., : made.energy.numbers], before[..., : made.energy.numbers])


def test_units_read_comparisons_first() -> None:
    made = core()
    assert made.energy is not None
    at, energies = Numbers(made.energy), list(made.energy.energy)
    weight = made.tokenizer.unembed.weight.unflatten(0, (24, -1))
    for row, number in zip(weight, [*energies, *at.gates, *at.pasts], strict=False):
        assert (row[:, number] == 1).all() and (row[:, at.zero] == -1).all() and row.count_nonzero() == 2 * len(row)


@pytest.mark.parametrize("steps", [2.0, 8.0, 20.0])
def test_attention_looks_back_over_so_many_steps(steps: float) -> None:
    made = RotaryAttention(32, AttentionMask("time", True), 1, True, 0.0, 100.0, 1000.0)
    own = made.looks_back(steps)
    with torch.no_grad():
        made.qkv.weight.zero_()
        made.qkv.bias[[own, 32 + own]] = 4.0
        at = torch.arange(round(8 * steps))  # what fast pairs tell repeats beyond
        positions = Positions(at * 0, at * 0, at)._replace(made=made.make(Positions(at * 0, at * 0, at), 1, 1))
        q, k, _ = made.project(torch.randn(1, len(at), 32), positions)
        weights = made.weights(q, k, positions, positions)[0, 0, -1].flip(0)
    reach = int((weights > weights[0] / math.e).sum())
    assert 0.7 * steps <= reach <= 1.5 * steps + 1


KINDS = {"rotary": ATTENTION, "absolute": ABSOLUTE, "relative_bias": RELATIVE | {"steps": 9}, "window": WINDOW}


@pytest.mark.parametrize("kind", KINDS)
def test_every_head_can_learn_where_it_looks(kind: str) -> None:
    """Queries and keys that are alike in all tokens have no gradient where positions do not turn them."""
    attention = KINDS[kind] | {"heads": 4} | ({"places": [8, 8], "steps": 20} if kind == "absolute" else {})
    made = core(attention=attention)
    video = torch.randn(1, 1, 6 * PATCH, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    maps = made(video)
    noise = torch.Generator().manual_seed(1)
    sum((each.x_BCTHW * torch.randn(each.x_BCTHW.shape, generator=noise)).sum() for each in maps).backward()
    for block in (made.spatial[0], made.temporal[0]):
        slope = block.attention.qkv.weight.grad.unflatten(0, (3, 4, -1)).abs().amax((2, 3))  # q, k, v of each head
        assert (slope > 1e-5 * slope.max()).all(), (kind, slope)


def test_a_learned_bias_begins_by_averaging_the_past() -> None:
    made = core(attention=KINDS["relative_bias"] | {"heads": 4}, window=9 * 8)
    first, second = made.temporal[0].attention.time_Th[:, :2].T.tolist()
    window = 9
    for falls, share in ((first, 1 / 8), (second, 1 / 2)):
        assert falls == pytest.approx([-lag / (window * share) for lag in range(len(falls))])


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"embedding_dim": 24}, r"model\.embedding_dim=24 .*from 26 on"),
        ({"attention": vivit()["attention"] | {"heads": 1}}, r"model\.attention\.heads=1 of 64 .*at least 2 heads"),
        ({"attention": vivit()["attention"] | {"heads": 16}}, r"model\.attention\.heads=16 of 4 numbers"),
    ],
)
def test_tokens_without_room_for_comparisons_hold_no_energies_and_say_why(changes: dict[str, Any], says: str) -> None:
    made = core(**changes)
    assert re.search(says, made.left_out) and made.energy is None and made.registers is None and made.context() == []
    assert core().left_out == ""


def test_without_room_a_core_is_the_one_without_energies() -> None:
    given, without = (core(embedding_dim=24, energy=energy).state_dict() for energy in (FOUR, None))
    assert given.keys() == without.keys()
    for name, value in given.items():
        torch.testing.assert_close(value, without[name], rtol=0, atol=0)


def test_one_kind_of_blocks_is_enough() -> None:
    assert core(spatial_depth=0).registers is None
    assert len(core(temporal_depth=0, registers=2).registers) == 3


def test_energies_are_scaled_by_what_they_will_see() -> None:
    made = core()
    assert made.energy is not None
    video = 3 * torch.randn(2, 1, FRAMES, SIDE, SIDE)
    made.normalize(iter([video]))
    assert made.frontend is not None
    with torch.no_grad():
        told = made.energy(made.cells(video), made.tokenizer(made.frontend(video)))
    rest = told[..., made.energy.energy.start :].flatten(0, 2)
    torch.testing.assert_close(rest.mean(0), torch.zeros(5), atol=1e-3, rtol=0)
    torch.testing.assert_close(rest.std(0), torch.ones(5), atol=1e-2, rtol=0)


def test_tubelets_without_a_local_path_hold_energies_too() -> None:
    made = core(tokenizer={"_target_": f"{Tubelet.__module__}.Tubelet", "patch_size": [8, 8, 8], "token_stride": None})
    assert made.context() == []  # what drives units learns as blocks do that begin at random
    assert len(core().context()) > 0
