"""The parts, against slow and plain computations."""

from __future__ import annotations

import itertools
import math
from typing import Literal

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import BASIS, RESIDUAL_STEM, STEM, TUBELET, batch, spec, twin, vivit

from vivit_core.models.attention.base import AttentionMask
from vivit_core.models.attention.rope import apply_rope, rope_space, rope_time, rotation
from vivit_core.models.attention.rotary import RotaryAttention
from vivit_core.models.dropout import draw_seeds, drop
from vivit_core.models.feature_map import FeatureMap, cell_centers
from vivit_core.models.frontends.temporal_basis import TemporalBasis, raised_cosines
from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.modulators.convgru import ConvGRU
from vivit_core.models.readouts.gaussian import GaussianReadout
from vivit_core.models.tokenizers.residual_stem import ResidualStem
from vivit_core.models.tokenizers.stem import ConvStem
from vivit_core.models.tokenizers.tubelet import Tubelet
from vivit_core.parts.build import build

QUICK_START = {"bare": TUBELET}


def test_quick_start_shapes_to_the_letter() -> None:
    tubelet = Tubelet(in_channels=1, dim=192, patch_size=[4, 4, 4])
    tokens = tubelet(torch.randn(2, 1, 32, 36, 64))
    assert tokens.x_BTND.shape == (2, 8, 144, 192)
    attention = {"_target_": "vivit_core.models.attention.rotary.RotaryAttention", "heads": 6}
    of = spec(height=36, width=64, units=100)
    small = twin(vivit(embedding_dim=192, attention=attention, spatial_depth=1, temporal_depth=1), of, predict="last")
    assert small.core(torch.randn(2, 1, 32, 36, 64))[-1].x_BCTHW.shape == (2, 192, 8, 9, 16)
    assert small(batch(of, bins=32))["a"].shape == (2, 100)
    baseline = twin(
        vivit(embedding_dim=384, attention=attention, spatial_depth=1, temporal_depth=1), of, predict="last"
    )
    video = torch.randn(1, 1, 300, 36, 64)
    assert baseline.core.tokenizer(video).x_BTND.shape == (1, 75, 144, 384)
    with torch.no_grad():
        assert baseline.core(video)[-1].x_BCTHW.shape == (1, 384, 75, 9, 16)


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
    tokenizer = ConvStem(1, 3, size, channels=2, kernel=3) if stem else Tubelet(1, 3, size)
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
    stem = ConvStem(1, 4, [2, 4, 4], channels=1, kernel=5, stride=stride)
    with torch.no_grad():
        stem.fields.weight.fill_(1.0)
        stem.mix.weight.fill_(1.0)
    x = torch.zeros(1, 1, 2, 13, 18)
    x[..., 6, 11] = 1.0
    level = stem(x).levels[0]
    seen = level.x_BCTHW[0, 0, 0]
    weight = seen / seen.sum()
    assert float((weight.sum(1) * level.ys).sum()) == pytest.approx(6, abs=1e-5)
    assert float((weight.sum(0) * level.xs).sum()) == pytest.approx(11, abs=1e-5)


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
def test_a_token_writes_to_its_own_patch_of_the_map_alone() -> None:
    """Cells within the 16×16 px of one token change, all others stay; the frame is no whole number of tokens."""
    stem = residual_stem(patch_size=[4, 16, 16])
    tokens = stem(torch.randn(2, 1, 18, 37, 50))
    assert (tokens.height, tokens.width, tokens.x_BTND.shape[:3]) == (3, 4, (2, 5, 12))
    x = torch.zeros_like(tokens.x_BTND)
    without = stem.restore(tokens, x)
    assert without.x_BCTHW.shape == (2, 6, 5, 5, 7)  # cells of 8 px, of which the last token across holds one
    x[1, 3, 1 * 4 + 2] = 100 * torch.randn(16)
    level = stem.restore(tokens, x)
    b, t, h, w = (level.x_BCTHW != without.x_BCTHW).any(1).nonzero(as_tuple=True)
    assert set(b.tolist()) == {1} and set(t.tolist()) == {3} and len(b) == 4
    assert (level.ys[h] - tokens.ys[1]).abs().tolist() == (level.xs[w] - tokens.xs[2]).abs().tolist() == [4.0] * 4


@torch.no_grad()
def test_a_token_is_cut_from_its_own_patch_of_the_map() -> None:
    stem = residual_stem(patch_size=[4, 16, 16])
    tokens = stem(torch.randn(1, 1, 8, 37, 50))
    level = tokens.map
    assert level is not None
    middle = (level.ys[2:4].mean(), level.xs[4:6].mean())
    assert middle == (tokens.ys[1], tokens.xs[2])
    cells = rearrange(level.x_BCTHW[0, :, 1, 2:4, 4:6], "c h w -> (c h w)")
    torch.testing.assert_close(stem.embed(cells), tokens.x_BTND[0, 1, 1 * 4 + 2])


def test_bins_are_served_once_by_the_newest_ended_token() -> None:
    level = FeatureMap(
        torch.zeros(1, 1, 3, 1, 1), first_end=1, stride=4, ys=torch.zeros(1), xs=torch.zeros(1), cell=4.0
    )
    served = level.to_bins(torch.tensor([1.0, 2.0, 3.0])[None, :, None], 10)
    assert served[0, :, 0].tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_temporal_basis_is_a_causal_convolution() -> None:
    basis = TemporalBasis(in_channels=2, bases=3, lags=5)
    with torch.no_grad():
        basis.weight_KL.normal_()
    x = torch.randn(2, 2, 9, 3, 4)
    y = rearrange(basis(x), "b (c k) t h w -> b c k t h w", k=3)
    expected = torch.zeros_like(y)
    for t in range(9):
        for lag in range(5):
            if t - lag >= 0:
                expected[:, :, :, t] += torch.einsum("k,bchw->bckhw", basis.weight_KL[:, 4 - lag], x[:, :, t - lag])
    torch.testing.assert_close(y, expected, rtol=1e-5, atol=1e-5)
    filters = torch.randn(3, 5)
    basis.initialize(filters)
    torch.testing.assert_close(basis.weight_KL.norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="shape"):
        basis.initialize(filters[:2])
    with pytest.raises(ValueError, match="1 <= bases <= lags"):
        TemporalBasis(1, 6, 5)
    assert raised_cosines(4, 16).argmax(1).tolist() == sorted(raised_cosines(4, 16).argmax(1).tolist(), reverse=True)


MASKS = {"all": AttentionMask(False), "causal": AttentionMask(True), "window": AttentionMask(True, window=3)}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("path", ["plain", "fused"])
def test_attention_is_softmax_of_scores(
    mask: AttentionMask, qk_norm: bool, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vivit_core.models.attention.base.PLAIN_UP_TO", 0 if path == "fused" else 256)
    torch.manual_seed(0)
    attention = RotaryAttention(dim=24, heads=3, qk_norm=qk_norm).double()
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


@settings(deadline=None, max_examples=30)
@given(p=st.floats(0.01, 0.95), seed=st.integers(0, 2**31 - 1))
def test_drop_drops_its_share_and_keeps_the_mean(p: float, seed: int) -> None:
    n = 40_000
    torch.manual_seed(seed)
    of = draw_seeds(device=torch.device("cpu"))
    dropped = drop(torch.ones(n), p, of)
    assert (
        float(dropped[dropped > 0].max()) == float(dropped[dropped > 0].min()) == pytest.approx(1 / (1 - p), rel=1e-3)
    )
    share = float((dropped == 0).double().mean())
    assert abs(share - p) < 5 * math.sqrt(p * (1 - p) / n) + 2**-16
    assert torch.equal(dropped, drop(torch.ones(n), p, of))  # a function of the seed
    assert torch.equal(dropped > 0, drop(torch.ones(n), torch.tensor(p, dtype=torch.float64), of) > 0)


def test_fates_are_independent() -> None:
    seeds = draw_seeds(64, device=torch.device("cpu"))
    kept = torch.stack([drop(torch.ones(4096), 0.5, seed) > 0 for seed in seeds]).double()
    centered = kept - 0.5
    between = centered @ centered.T / 4096 * 4  # correlation between seeds
    assert float((between - torch.eye(64)).abs().max()) < 6 / math.sqrt(4096)
    for lag in (1, 2, 3, 7, 16, 64, 192, 768):  # along the tensor
        assert abs(float((centered[:, lag:] * centered[:, :-lag]).mean()) * 4) < 6 / math.sqrt(64 * 4096)


def test_shared_fates() -> None:
    seed = draw_seeds(device=torch.device("cpu"))
    dropped = drop(torch.ones(400, 3, 5), 0.5, seed, shape=(400, 1, 1))
    assert ((dropped == 0).all((1, 2)) | (dropped == 2).all((1, 2))).all()
    assert 0.3 < float((dropped == 0).double().mean()) < 0.7


@pytest.mark.parametrize(
    "changes",
    [
        {"ff_dropout": 0.5},
        {"drop_path": 0.5},
        {"patch_dropout": 0.5},
        {"attention": {"_target_": "vivit_core.models.attention.rotary.RotaryAttention", "heads": 2, "dropout": 0.5}},
        {"tokenizer": STEM | {"dropout": 0.5}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_each_regularizer_changes_training_and_not_evaluation(changes: dict) -> None:
    plain, changed = twin(vivit(tokenizer=STEM, modulator=None)), twin(vivit(tokenizer=STEM, modulator=None) | changes)
    clips = batch(spec())
    with torch.no_grad():
        torch.testing.assert_close(changed.eval()(clips)["a"], plain.eval()(clips)["a"])
        assert (changed.train()(clips)["a"] - changed(clips)["a"]).abs().max() > 0
        assert (plain.train()(clips)["a"] - plain(clips)["a"]).abs().max() == 0


def test_drop_path_rises_to_its_value() -> None:
    core = twin(vivit(drop_path=0.3)).core
    assert [float(b.drop_path) for b in (*core.spatial, *core.temporal)] == pytest.approx([0.0, 0.1, 0.2, 0.3])


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
    levels = [
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
    drives = made(levels, 8, last=False)
    gaussian = made.gaussians()
    for u in range(4):
        (mx, my), (sx, sy), angle = (
            gaussian["mean_px"][u],
            gaussian["std_px"][u],
            math.radians(float(gaussian["angle_deg"][u])),
        )
        for t in (0, 3, 7):
            drive = made.bias[u].clone()
            for index, level in enumerate(levels):
                step = (t - level.first_end) // level.stride
                if step < 0:
                    continue
                weights = torch.zeros(len(level.ys), len(level.xs), dtype=torch.float64)
                for i, y in enumerate(level.ys):
                    for j, x in enumerate(level.xs):
                        along = (x - mx) * math.cos(angle) + (y - my) * math.sin(angle)
                        across = (y - my) * math.cos(angle) - (x - mx) * math.sin(angle)
                        floor = (level.cell / 2) ** 2
                        weights[i, j] = torch.exp(-0.5 * (along**2 / (sx**2 + floor) + across**2 / (sy**2 + floor)))
                weights = weights / weights.sum()
                seen = torch.einsum("chw,hw->c", level.x_BCTHW[1, :, step], weights)
                drive = drive + seen @ made.features[index][u]
            torch.testing.assert_close(drives[1, t, u], drive, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("output", ["exp", "softplus"])
def test_readouts_start_at_the_mean_rate(output: Literal["exp", "softplus"]) -> None:
    likelihood = Poisson((0.01, 0.5), output)
    made = GaussianReadout([3], (12, 16), likelihood.mean_drive(), 1.5, 0.3, 6.0, 0.5, 0.0)
    level = FeatureMap(torch.zeros(1, 3, 4, 12, 16), 0, 1, torch.arange(12.0), torch.arange(16.0), 1.0)
    rate = likelihood.rate(made([level], 4, last=True))[0]
    torch.testing.assert_close(rate, torch.tensor([0.01, 0.5]), rtol=1e-3, atol=1e-5)


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


def test_the_stems_regularizer_prefers_smooth_fields() -> None:
    stem = ConvStem(1, 4, [2, 4, 4], channels=2, kernel=7, smoothness=1.0)
    rough = float(stem.regularizer())
    with torch.no_grad():
        ramp = torch.arange(7.0)
        stem.fields.weight.copy_(
            torch.exp(-0.5 * ((ramp - 3) / 2) ** 2)
            .outer(torch.exp(-0.5 * ((ramp - 3) / 2) ** 2))
            .expand_as(stem.fields.weight)
        )
    assert float(stem.regularizer()) < 0.3 * rough


def test_convgru_equals_its_equations_stepped() -> None:
    torch.manual_seed(0)
    gru = ConvGRU(channels=4, behavior_dim=3, stride=2, hidden=5, gain=0).double()
    x, behavior = torch.randn(2, 4, 3, 4, 5).double(), torch.randn(2, 5, 3).double()  # 5 bins: padded at the old end
    level = FeatureMap(x, 0, 2, torch.arange(4.0), torch.arange(5.0), 2.0)
    changed = gru([level], behavior)[-1].x_BCTHW
    padded = torch.cat([torch.zeros(2, 1, 3).double(), behavior], dim=1)
    state = torch.zeros(2, 5, 4, 5).double()
    for s in range(3):
        drive = gru.input(x[:, :, s]) + gru.behavior(padded[:, 2 * s : 2 * s + 2].flatten(1))[..., None, None]
        recurrent = gru.recur(state)
        z = torch.sigmoid(drive[:, :5] + recurrent[:, :5])
        r = torch.sigmoid(drive[:, 5:10] + recurrent[:, 5:10])
        n = torch.tanh(drive[:, 10:] + r * recurrent[:, 10:])
        state = (1 - z) * n + z * state
        torch.testing.assert_close(changed[:, :, s], x[:, :, s] + gru.out(state))


def test_bf16_stays_close() -> None:
    made = twin(vivit(tokenizer=STEM, frontend=BASIS)).eval()
    with torch.no_grad():
        exact = made(batch(spec()))["a"]
        with torch.autocast("cpu", torch.bfloat16):
            coarse = made(batch(spec()))["a"]
    assert coarse.dtype == torch.float32
    assert float(((coarse - exact).abs() / exact).max()) < 0.1
