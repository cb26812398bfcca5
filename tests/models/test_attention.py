"""Attention against plain softmax, and positions against their differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ABSOLUTE, ATTENTION, RELATIVE, WINDOW, clips, spec, twin, vivit

from vivit_core.models.attention.base import Attention, AttentionMask
from vivit_core.models.attention.rotary import RotaryAttention, apply_rope, rope_time, rotation
from vivit_core.models.dropout import draw_seeds
from vivit_core.parts.build import build

MASKS = {
    "all": AttentionMask("time"),
    "causal": AttentionMask("time", True),
    "window": AttentionMask("time", True, window=3),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("path", ["plain", "fused"])
def test_attention_is_softmax_of_scores(
    mask: AttentionMask, qk_norm: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivit_core.models.attention.base.PLAIN_UP_TO", 0 if path == "fused" else 256)
    torch.manual_seed(0)
    attention = RotaryAttention(24, mask, 3, qk_norm, 0.0, 100.0, 1000.0).double()
    if qk_norm:
        with torch.no_grad():
            attention.q_scale.uniform_(0.5, 2.0)
            attention.k_scale.uniform_(0.5, 2.0)
    x = torch.randn(2, 7, 24, dtype=torch.float64)
    angle = rotation(torch.arange(7), 8, 1000.0)
    q, k, v = attention.qkv(x).chunk(3, dim=-1)
    expected = torch.zeros(2, 7, 24, dtype=torch.float64)
    for b in range(2):
        for h in range(3):
            part = slice(8 * h, 8 * h + 8)
            turned = []
            for y, scale in ((q[b, :, part], attention.q_scale), (k[b, :, part], attention.k_scale)):
                if scale is not None:
                    y = y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale
                first, second = y[:, :4], y[:, 4:]
                turned.append(
                    torch.cat(
                        [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], 1
                    )
                )
            score = turned[0] @ turned[1].T / math.sqrt(8)
            for query, key in itertools.product(range(7), range(7)):
                lag = query - key
                if mask.causal and (lag < 0 or lag >= (mask.window or 7)):
                    score[query, key] = -math.inf
            expected[b, :, part] = score.softmax(-1) @ v[b, :, part]
    found = attention(x, attention.positions(1, 1, 0, torch.arange(7)), draw_seeds(device=x.device))
    torch.testing.assert_close(found, attention.out(expected), rtol=1e-5, atol=1e-6)


@settings(deadline=None, max_examples=20)
@given(shift=st.integers(1, 5))
def test_scores_depend_on_differences_of_positions_alone(shift: int) -> None:
    generator = torch.Generator().manual_seed(shift)
    q, k = torch.randn(12, 8, generator=generator), torch.randn(12, 8, generator=generator)
    positions = torch.arange(12)

    def scores(first: int) -> torch.Tensor:
        rope = rope_time(positions + first, 8, 1000.0)
        return apply_rope(q[:, None], rope)[:, 0] @ apply_rope(k[:, None], rope)[:, 0].T

    torch.testing.assert_close(scores(0), scores(shift), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores(0), scores(10**9 + shift), rtol=1e-4, atol=1e-4)  # an endless stream

    one = torch.randn(8, generator=generator)
    attention = RotaryAttention(8, AttentionMask("space"), 1, False, 0.0, 100.0, 1000.0)
    grid = attention.positions(4, 6, 2, torch.zeros(1)).made
    turned = apply_rope(one.expand(26, 1, 8), grid)[:, 0]
    torch.testing.assert_close(turned[:2], one.expand(2, 8))  # registers have no place
    turned = turned[2:].view(4, 6, 8)
    score = torch.einsum("ijd,kld->ijkl", turned, turned)
    torch.testing.assert_close(score[0, 0, 1, 2], score[2, 3, 3, 5], rtol=1e-4, atol=1e-4)
    assert abs(float(score[0, 0, 1, 2] - score[0, 0, 2, 1])) > 1e-6  # rows and columns are told apart


# Each kind beside its definition, over space, over time, and over both ----------------------------------------------

KINDS = {"rotary": ATTENTION, "absolute": ABSOLUTE, "relative_bias": RELATIVE, "window": WINDOW}
OVER = {
    "space": AttentionMask("space"),
    "time": AttentionMask("time", True, 3),
    "time-all": AttentionMask("time", True),
    "space_time": AttentionMask("space_time", True, 2),
    "space_time-all": AttentionMask("space_time", True),
}
HEIGHT, WIDTH, REGISTERS, STEPS = 3, 4, 2, 4


def made(node: dict[str, object], mask: AttentionMask) -> Attention:
    torch.manual_seed(0)
    attention: Attention = build("model.attention", node, dim=16, mask=mask)
    with torch.no_grad():
        for name, p in attention.named_parameters():
            if name in ("place_PD", "age_hAd", "space_Ph", "time_Th", "q_scale", "k_scale"):
                p.uniform_(-3.0, 3.0)
    return attention.double()


def tokens_of(mask: AttentionMask) -> list[tuple[int, int | None, int, int]]:
    """(step, register or None, row, column) of each token, one after the other."""
    if mask.over == "time":
        return [(t, None, 0, 0) for t in range(STEPS)]
    found: list[tuple[int, int | None, int, int]] = []
    for t in range(1 if mask.over == "space" else STEPS):
        found += [(t, r, -1, -1) for r in range(REGISTERS)]
        found += [(t, None, y, x) for y in range(HEIGHT) for x in range(WIDTH)]
    return found


def expected_weights(kind: str, attention: Attention, x_ND: torch.Tensor) -> torch.Tensor:
    """(h, N, N), one pair after the other, from the definition."""
    mask, where, d = attention.mask, tokens_of(attention.mask), attention.head_dim
    if kind == "absolute" and mask.over != "time":
        # 2 × 3 learned places on 3 × 4 tokens: by torch's own resizing of a picture of vectors
        picture = attention.place_PD.T.reshape(1, 16, 2, 3)
        sized = torch.nn.functional.interpolate(picture, (HEIGHT, WIDTH), mode="bilinear", antialias=True)[0]
        x_ND = torch.stack([
            x if register is not None else x + sized[:, row, column]
            for x, (_, register, row, column) in zip(x_ND, where, strict=True)
        ])  # fmt: skip
    q, k, _ = (y.unflatten(-1, (2, d)) for y in attention.qkv(x_ND).chunk(3, dim=-1))
    q, k = (y / (y.square().mean(-1, keepdim=True) + 1e-6).sqrt() * scale for y, scale in
            ((q, attention.q_scale), (k, attention.k_scale)))  # fmt: skip
    if kind in ("rotary", "window"):

        def turned(y_hd: torch.Tensor, at: tuple[int, int | None, int, int]) -> torch.Tensor:
            step, _, row, column = at

            def angles(position: int, numbers: int, base: float) -> list[float]:
                return [max(0, position) * base ** (-2 * i / numbers) for i in range(numbers // 2)]

            of_space = {"space": d, "time": 0, "space_time": d // 2}[mask.over]
            angle = angles(row, of_space // 2, 100.0) + angles(column, of_space // 2, 100.0)
            angle = torch.tensor(angle + angles(step, d - of_space, 1000.0), dtype=torch.float64)
            first, second = y_hd[:, : d // 2], y_hd[:, d // 2 :]
            return torch.cat(
                [first * angle.cos() - second * angle.sin(), second * angle.cos() + first * angle.sin()], 1
            )

        q, k = (torch.stack([turned(y, at) for y, at in zip(z, where, strict=True)]) for z in (q, k))
    scores = torch.full((2, len(where), len(where)), -math.inf, dtype=torch.float64)
    for i, (t, r, y, x) in enumerate(where):
        for j, (s, of, v, u) in enumerate(where):
            if mask.causal and not 0 <= t - s < (mask.window or STEPS):
                continue
            if kind == "window" and mask.over != "time" and r is None and of is None and (abs(y - v) > 1 or x != u):
                continue
            for h in range(2):
                score = q[i, h] @ k[j, h] / math.sqrt(d)
                if kind == "absolute" and mask.over != "space":
                    score = score + q[i, h] @ attention.age_hAd[h, t - s] / math.sqrt(d)
                if kind == "relative_bias" and mask.over != "time" and r is None and of is None:
                    down, across = max(-1, min(1, y - v)), max(-2, min(2, x - u))
                    score = score + attention.space_Ph[(down + 1) * 5 + across + 2, h]
                if kind == "relative_bias" and mask.over != "space":
                    score = score + attention.time_Th[min(t - s, len(attention.time_Th) - 1), h]
                scores[h, i, j] = score
    return scores.softmax(-1)


@torch.no_grad()
@pytest.mark.parametrize("mask", OVER.values(), ids=OVER)
@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_is_what_it_says(kind: str, mask: AttentionMask, monkeypatch: pytest.MonkeyPatch) -> None:
    attention = made(KINDS[kind], mask)
    steps = torch.zeros(1, dtype=torch.long) if mask.over == "space" else torch.arange(STEPS)
    positions = attention.positions(HEIGHT, WIDTH, REGISTERS, steps)
    x = torch.randn(1, len(positions.steps), 16, dtype=torch.float64)
    expected = expected_weights(kind, attention, x[0])
    q, k, v = attention.project(x, positions)
    torch.testing.assert_close(
        attention.weights(q, k, positions, positions)[0].double(), expected, rtol=1e-5, atol=1e-6
    )
    mixed = attention.out((expected @ v[0]).transpose(0, 1).flatten(1))[None]
    for most in (256, 0):  # written out, and torch's fused attention
        monkeypatch.setattr("vivit_core.models.attention.base.PLAIN_UP_TO", most)
        found = attention(x, positions, draw_seeds(device=x.device))
        torch.testing.assert_close(found, mixed, rtol=1e-5, atol=1e-5)
    assert expected.max() > 2 / expected.shape[-1]


def test_a_grid_as_large_as_the_learned_one_has_its_own_places() -> None:
    attention = made(ABSOLUTE, OVER["space"])
    (shares,) = attention.positions(2, 3, 1, torch.zeros(1)).made
    assert torch.equal(shares, torch.cat([torch.zeros(1, 6), torch.eye(6)]))
    (shares,) = attention.positions(31, 1, 0, torch.zeros(1)).made
    torch.testing.assert_close(shares.sum(1), torch.ones(31))
    assert (shares.sum(0) > 0).all()  # every learned place is used on every grid


def test_absolute_positions_end_and_say_what_helps() -> None:
    """16 learned ages; tokens of 4 frames."""
    one = clips(spec(), count=1, bins=72)
    model = twin(vivit(attention=ABSOLUTE))
    model.check_geometry(64)
    with pytest.raises(ValueError, match=r"sees 17 time steps.*steps=16; set model.attention.steps=17, or a model.win"):
        model.check_geometry(65)
    with pytest.raises(ValueError, match="sees 18 time steps"):
        model({"a": one})
    stream = model.stream("a")
    with pytest.raises(ValueError, match="sees 17 time steps"):
        stream.run(one["frames"][0].numpy(), one["behavior"][0].numpy())
    twin(vivit(attention=ABSOLUTE | {"steps": 18})).check_geometry(72)
    windowed = twin(vivit(attention=ABSOLUTE, window=64))
    windowed.check_geometry(10**6)
    assert windowed.stream("a").run(one["frames"][0].numpy(), one["behavior"][0].numpy()).shape == (72, 5)
    with pytest.raises(ValueError, match="sees 20 time steps"):
        twin(vivit(attention=ABSOLUTE, window=80)).check_geometry(128)


@pytest.mark.parametrize("attention", [ABSOLUTE, RELATIVE])
@pytest.mark.parametrize("blocks", ["factorized", "joint"])
def test_positions_of_the_past_refuse_a_model_that_sees_ahead(attention: dict[str, object], blocks: str) -> None:
    with pytest.raises(ValueError, match=r"set model.causal=true or model/attention=rotary"):
        twin(vivit(attention=attention, causal=False, blocks=blocks))


@pytest.mark.parametrize(
    ("node", "named"),
    [
        (ABSOLUTE | {"places": [3]}, "attention.places"),
        (ABSOLUTE | {"places": [0, 3]}, "attention.places"),
        (ABSOLUTE | {"steps": 0}, "attention.steps"),
        (RELATIVE | {"places": [-1, 2]}, "attention.places"),
        (RELATIVE | {"steps": -1}, "attention.steps"),
        (WINDOW | {"neighborhood": [1]}, "attention.neighborhood"),
        (WINDOW | {"neighborhood": [1, -1]}, "attention.neighborhood"),
    ],
)
def test_wrong_sizes_are_named(node: dict[str, object], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        made(node, OVER["time"])


def test_joint_blocks_turn_three_axes() -> None:
    words = "2 heads of a multiple of 8 numbers; widths that do: 16 and 32; heads that fit: "
    with pytest.raises(ValueError, match=words):
        twin(vivit(blocks="joint", embedding_dim=24))
    with pytest.raises(ValueError, match=r"set model.registers=0"):
        twin(vivit(blocks="joint", spatial_depth=0, temporal_depth=0))
