"""Tokens: which pixels they see, where they lie, and which bins they serve."""

from __future__ import annotations

import math

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import RESIDUAL_STEM

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.tokenizers.residual_stem import ResidualStem
from vivit_core.models.tokenizers.stem import ConvStem
from vivit_core.models.tokenizers.tubelet import Tubelet
from vivit_core.parts.build import build


@settings(deadline=None, max_examples=30)
@given(
    frames=st.integers(2, 20), height=st.integers(1, 20), width=st.integers(1, 20),
    pt=st.integers(1, 5), ph=st.integers(1, 6), pw=st.integers(1, 6), stem=st.booleans(),
)  # fmt: skip
def test_every_pixel_reaches_a_token(
    frames: int, height: int, width: int, pt: int, ph: int, pw: int, stem: bool
) -> None:
    ph, pw = min(ph, height), min(pw, width)
    size = [pt, ph, pw]
    fine = {"channels": 2, "kernel": 3, "stride": 1, "dropout": 0.0, "smoothness": 0.0}
    tokenizer = ConvStem(1, 3, size, **fine) if stem else Tubelet(1, 3, size, None)
    x = torch.randn(1, 1, frames, height, width, requires_grad=True)
    tokens = tokenizer(x)
    assert tokens.x_BTND.shape == (1, math.ceil(frames / pt), math.ceil(height / ph) * math.ceil(width / pw), 3)
    assert tokens.first_end == frames - 1 - (tokens.x_BTND.shape[1] - 1) * pt
    (tokens.x_BTND * torch.randn_like(tokens.x_BTND)).sum().backward()
    assert (x.grad != 0).float().mean() > 0.99  # a random gradient may be zero by chance behind an ELU, not whole rows
    assert (x.grad != 0).any((0, 1, 3, 4)).all()
    # the cells lie evenly around the frame's middle, up to the half pixel that uneven padding leaves
    assert abs(float(tokens.ys.mean()) - (height - 1) / 2) <= 0.5
    assert abs(float(tokens.xs.mean()) - (width - 1) / 2) <= 0.5


@pytest.mark.parametrize("stride", [1, 2])
def test_the_stems_cells_lie_where_they_say(stride: int) -> None:
    stem = ConvStem(1, 4, [2, 4, 4], channels=1, kernel=5, stride=stride, dropout=0.0, smoothness=0.0)
    with torch.no_grad():
        stem.fields.weight.fill_(1.0)
        stem.mix.weight.fill_(1.0)
    x = torch.zeros(1, 1, 2, 13, 18)
    x[..., 6, 11] = 1.0
    feature_map = stem(x).maps[0]
    seen = feature_map.x_BCTHW[0, 0, 0]
    weight = seen / seen.sum()
    assert float((weight.sum(1) * feature_map.ys).sum()) == pytest.approx(6, abs=1e-5)
    assert float((weight.sum(0) * feature_map.xs).sum()) == pytest.approx(11, abs=1e-5)


OVERLAPS = [
    ([4, 4, 4], [2, 2, 3], [11, 9, 13]),
    ([5, 3, 6], [3, 1, 6], [14, 3, 20]),
    ([4, 6, 2], [1, 4, 1], [7, 13, 5]),
    ([3, 4, 4], [3, 4, 4], [8, 10, 9]),
]


@torch.no_grad()
@pytest.mark.parametrize(("size", "stride", "clip"), OVERLAPS)
def test_overlapping_tubelets_end_and_lie_a_stride_apart(
    size: list[int], stride: list[int], clip: tuple[int, ...]
) -> None:
    """Each token beside its own box of pixels, cut by hand; the newest token ends with the clip."""
    tokenizer = Tubelet(1, 3, size, stride).double()
    x = torch.randn(1, 1, *clip, dtype=torch.float64)
    tokens = tokenizer(x)
    steps, height, width = tokenizer.grid(*clip)
    assert tokens.x_BTND.shape == (1, steps, height * width, 3) and (tokens.height, tokens.width) == (height, width)
    assert tokens.stride == stride[0] and tokens.first_end == clip[0] - 1 - (steps - 1) * stride[0]
    assert 0 <= tokens.first_end < stride[0]  # so that each bin from there on is served by the newest that had ended
    for sides, at, of, by in ((clip[1], tokens.ys, size[1], stride[1]), (clip[2], tokens.xs, size[2], stride[2])):
        assert at.diff().tolist() == [by] * (len(at) - 1)
        assert float(at[0]) - of / 2 <= -0.5 and float(at[-1]) + of / 2 >= sides - 0.5  # no pixel is left out
        assert float(at[0]) + of / 2 > -0.5 and float(at[-1]) - of / 2 < sides - 0.5  # and no token is empty
    padded = torch.nn.functional.pad(x, [20] * 6)[0, 0]
    for t in range(steps):
        end = tokens.first_end + t * stride[0] + 1
        for row, y in enumerate(tokens.ys.tolist()):
            for column, across in enumerate(tokens.xs.tolist()):
                top, left = round(y + 0.5 - size[1] / 2) + 20, round(across + 0.5 - size[2] / 2) + 20
                box = padded[end - size[0] + 20 : end + 20, top : top + size[1], left : left + size[2]]
                expected = tokenizer.embed(box.flatten())
                torch.testing.assert_close(tokens.x_BTND[0, t, row * width + column], expected)


@pytest.mark.parametrize("stride", [[5, 4, 4], [4, 0, 4], [4, 4], [4, 4, 5]])
def test_a_stride_above_the_size_is_refused(stride: list[int]) -> None:
    with pytest.raises(ValueError, match=r"model.tokenizer.token_stride=\[.*set model.tokenizer.token_stride=null"):
        Tubelet(1, 3, [4, 4, 4], stride)


def test_overlapping_tokens_are_refused_with_what_works() -> None:
    overlapping = Tubelet(1, 3, [8, 4, 4], [2, 4, 4])
    with pytest.raises(ValueError, match=r"clip_length to at least 4 or model.tokenizer.token_stride=\[1,4,4\]"):
        overlapping.grid(2, 8, 8)
    assert overlapping.grid(3, 8, 8) == (2, 2, 2)
    with pytest.raises(ValueError, match=r"token_stride=null and model.tokenizer.patch_size=\[8,4,2\]"):
        overlapping.grid(20, 8, 2)
    with pytest.raises(ValueError, match=r"of 4 px; set model.tokenizer.token_stride=\[4,4,8\]"):
        residual_stem(patch_size=[4, 8, 16], token_stride=[4, 3, 8])
    residual_stem(patch_size=[4, 8, 16], token_stride=[4, 4, 8])


@torch.no_grad()
def test_a_residual_stems_overlapping_tokens_share_cells() -> None:
    """Tokens of 16×16 px and two steps, 8 px and one step of 4 frames apart: from, and for, their own cells."""
    stem = residual_stem(patch_size=[8, 16, 16], token_stride=[4, 8, 8])
    tokens = stem(torch.randn(2, 1, 18, 37, 50))
    feature_map = tokens.map
    assert feature_map is not None and feature_map.x_BCTHW.shape[2:] == (5, 5, 7)  # cells of 8 px
    assert (tokens.height, tokens.width, tokens.cells, tokens.apart) == (4, 6, (2, 2), (1, 1))
    assert (tokens.stride, tokens.first_end) == (4, 1)
    assert tokens.ys.diff().tolist() == [8.0] * 3 and float(tokens.ys[1]) == float(feature_map.ys[1:3].mean())
    padded = torch.nn.functional.pad(feature_map.x_BCTHW, (0, 0, 0, 0, 1, 0))  # the first token reaches back to zeros
    for t in (0, 3):
        cells = padded[0, :, t : t + 2, 1:3, 4:6]
        torch.testing.assert_close(stem.embed(cells.flatten()), tokens.x_BTND[0, t, 1 * 6 + 4])
    x = torch.zeros_like(tokens.x_BTND)
    without = stem.restore(tokens, x)
    assert without.x_BCTHW.shape == (2, 3, 5, 5, 7) and without.stride == 4 and without.first_end == 1
    x[1, 3, 1 * 6 + 4] = 100 * torch.randn(16)
    changed = stem.restore(tokens, x).x_BCTHW - without.x_BCTHW
    b, t, h, w = changed.any(1).nonzero(as_tuple=True)
    assert set(b.tolist()) == {1} and set(t.tolist()) == {3}
    assert sorted(zip(h.tolist(), w.tolist(), strict=True)) == [(1, 4), (1, 5), (2, 4), (2, 5)]
    own = rearrange(stem.unembed(x[1, 3, 10]) - stem.unembed.bias, "(c h w) -> c h w", h=2, w=2)
    torch.testing.assert_close(changed[1, :, 3, 1:3, 4:6], own / 4)  # each of these cells lies in four tokens


def residual_stem(**changes: object) -> ResidualStem:
    made = build("model.tokenizer", RESIDUAL_STEM | changes, in_channels=1, dim=16)
    assert isinstance(made, ResidualStem)
    return made.eval()


@pytest.mark.parametrize(
    ("patch", "cell", "expected"),
    [([4, 8, 16], 4, (4, 4)), ([4, 12, 8], 4, (2, 4)), ([4, 24, 16], 8, (4, 8)), ([4, 4, 8], 4, (2, 4))],
)
def test_cells_fill_tokens(patch: list[int], cell: int, expected: tuple[int, int]) -> None:
    stem = residual_stem(patch_size=patch, cell=cell)
    assert stem.stem.patch_size == (4, *expected)
    assert stem.cells == (patch[1] // expected[0] // 2, patch[2] // expected[1] // 2)  # a second stage halves the map


@torch.no_grad()
def test_a_token_gives_a_gain_to_its_own_patch_of_the_map_alone() -> None:
    """Cells within the 16×16 px of one token change, all others stay; the frame is no whole number of tokens."""
    stem = residual_stem(patch_size=[4, 16, 16])
    tokens = stem(torch.randn(2, 1, 18, 37, 50))
    assert (tokens.height, tokens.width, tokens.x_BTND.shape[:3]) == (3, 4, (2, 5, 12))
    x = torch.zeros_like(tokens.x_BTND)
    without = stem.restore(tokens, x)
    assert without.x_BCTHW.shape == (2, 3, 5, 5, 7)  # cells of 8 px, of which the last token across holds one
    x[1, 3, 1 * 4 + 2] = 100 * torch.randn(16)
    feature_map = stem.restore(tokens, x)
    b, t, h, w = (feature_map.x_BCTHW != without.x_BCTHW).any(1).nonzero(as_tuple=True)
    assert set(b.tolist()) == {1} and set(t.tolist()) == {3} and len(b) == 4
    assert (
        (feature_map.ys[h] - tokens.ys[1]).abs().tolist()
        == (feature_map.xs[w] - tokens.xs[2]).abs().tolist()
        == [4.0] * 4
    )


@torch.no_grad()
def test_a_token_is_cut_from_its_own_patch_of_the_map() -> None:
    stem = residual_stem(patch_size=[4, 16, 16])
    tokens = stem(torch.randn(1, 1, 8, 37, 50))
    feature_map = tokens.map
    assert feature_map is not None
    middle = (feature_map.ys[2:4].mean(), feature_map.xs[4:6].mean())
    assert middle == (tokens.ys[1], tokens.xs[2])
    cells = rearrange(feature_map.x_BCTHW[0, :, 1, 2:4, 4:6], "c h w -> (c h w)")
    torch.testing.assert_close(stem.embed(cells), tokens.x_BTND[0, 1, 1 * 4 + 2])


def test_bins_are_served_once_by_the_newest_ended_token() -> None:
    feature_map = FeatureMap(
        torch.zeros(1, 1, 3, 1, 1), first_end=1, stride=4, ys=torch.zeros(1), xs=torch.zeros(1), cell=4.0
    )
    served = feature_map.to_bins(torch.tensor([1.0, 2.0, 3.0])[None, :, None], 10)
    assert served[0, :, 0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_the_stems_regularizer_prefers_smooth_fields() -> None:
    stem = ConvStem(1, 4, [2, 4, 4], channels=2, kernel=7, stride=1, dropout=0.0, smoothness=1.0)
    rough = float(stem.regularizer())
    with torch.no_grad():
        ramp = torch.arange(7.0)
        stem.fields.weight.copy_(
            torch.exp(-0.5 * ((ramp - 3) / 2) ** 2)
            .outer(torch.exp(-0.5 * ((ramp - 3) / 2) ** 2))
            .expand_as(stem.fields.weight)
        )
    assert float(stem.regularizer()) < 0.3 * rough
