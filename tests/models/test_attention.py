"""Attention against plain softmax, and positions against their differences."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from vivit_core.models.attention.base import AttentionMask
from vivit_core.models.attention.rotary import RotaryAttention, apply_rope, rope_space, rope_time, rotation
from vivit_core.models.dropout import draw_seeds

MASKS = {"all": AttentionMask(False), "causal": AttentionMask(True), "window": AttentionMask(True, window=3)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("path", ["plain", "fused"])
def test_attention_is_softmax_of_scores(
    mask: AttentionMask, qk_norm: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivit_core.models.attention.base.PLAIN_UP_TO", 0 if path == "fused" else 256)
    torch.manual_seed(0)
    attention = RotaryAttention(24, 3, qk_norm, 0.0, 100.0, 1000.0).double()
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
    rope = rope_time(torch.arange(7), 8, 1000.0)
    found = attention(x, rope, mask, draw_seeds(device=x.device))
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
    grid = rope_space(4, 6, 2, 8, 100.0, torch.device("cpu"))
    turned = apply_rope(one.expand(26, 1, 8), grid)[:, 0]
    torch.testing.assert_close(turned[:2], one.expand(2, 8))  # registers have no place
    turned = turned[2:].view(4, 6, 8)
    score = torch.einsum("ijd,kld->ijkl", turned, turned)
    torch.testing.assert_close(score[0, 0, 1, 2], score[2, 3, 3, 5], rtol=1e-4, atol=1e-4)
    assert abs(float(score[0, 0, 1, 2] - score[0, 0, 2, 1])) > 1e-6  # rows and columns are told apart
