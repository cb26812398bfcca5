"""Attention: maps beside an independent computation in float64, rollouts beside matrices multiplied out, the task.

Shape letters as in analysis/attention.py.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from PIL import Image
from tiny_models import (
    ABSOLUTE,
    ATTENTION,
    FACTORIZED,
    MODELS_UNDER_CONTRACT,
    RELATIVE,
    RESIDUAL_STEM,
    STEM,
    TUBELET,
    WINDOW,
    batch,
    clips,
    spec,
    twin,
    vivit,
)

from vivit_core.analysis.attention import maps as looking
from vivit_core.analysis.attention import section as attention_section
from vivit_core.analysis.attention import statistics as attention_statistics
from vivit_core.analysis.attention import token_grid
from vivit_core.analysis.attention.attention import study_attention
from vivit_core.analysis.attention.draw import plot_attention, plot_statistics
from vivit_core.analysis.attention.faithful import Newest, relevance_of_tokens
from vivit_core.analysis.attention.maps import AttentionMaps, extract_attention
from vivit_core.analysis.attention.rollout import rollout
from vivit_core.analysis.attention.statistics import measure_attention
from vivit_core.analysis.attention.token_grid import TokenGrid
from vivit_core.cli.tasks import attention as attention_task
from vivit_core.data.recording.format import Trials
from vivit_core.models.attention import rotary
from vivit_core.models.ln import LN as LNModel
from vivit_core.models.readouts.factorized import FactorizedReadout
from vivit_core.models.twin import Twin
from vivit_core.plotting import style as plotting_style
from vivit_core.report.page import publish

# An independent computation ------------------------------------------------------------------------------------------


class Float64:
    """A ViViT's blocks written out once more, from nothing but the weights' names and numbers."""

    def __init__(self, made: Twin, heads: int) -> None:
        self.w = {name: x.double().numpy() for name, x in made.core.state_dict().items()}
        self.heads = heads

    def norm(self, x: np.ndarray, name: str) -> np.ndarray:
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
        return x * self.w[f"{name}.weight"] + self.w[f"{name}.bias"]

    def linear(self, x: np.ndarray, name: str) -> np.ndarray:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def heads_of(self, x: np.ndarray, scale: np.ndarray | None, angles: np.ndarray) -> np.ndarray:
        """Normalize and rotate one head after the other; angles are (N, d / 2)."""
        n, dim = x.shape
        d = dim // self.heads
        made = np.zeros((self.heads, n, d))
        for h in range(self.heads):
            y = x[:, h * d : (h + 1) * d]
            if scale is not None:
                y = y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * scale
            z = (y[:, : d // 2] + 1j * y[:, d // 2 :]) * np.exp(1j * angles)
            made[h] = np.concatenate([z.real, z.imag], axis=1)
        return made

    def block(self, x: np.ndarray, name: str, angles: np.ndarray, sees: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N, D) to the same after the block, and its attention (h, N, N)."""
        dim = x.shape[1]
        q, k, v = np.split(self.linear(self.norm(x, f"{name}.norm_attention"), f"{name}.attention.qkv"), 3, axis=1)
        q, k = (self.heads_of(y, self.w.get(f"{name}.attention.{s}_scale"), angles) for y, s in ((q, "q"), (k, "k")))
        scores = np.where(sees, np.einsum("hqd,hkd->hqk", q, k) / np.sqrt(dim // self.heads), -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        y = np.concatenate([weights[h] @ np.split(v, self.heads, axis=1)[h] for h in range(self.heads)], axis=1)
        x = x + self.linear(y, f"{name}.attention.out")
        y = self.linear(self.norm(x, f"{name}.norm_ff"), f"{name}.ff.fc1")
        erf = torch.erf(torch.as_tensor(y / np.sqrt(2))).numpy()
        return x + self.linear(0.5 * y * (1 + erf), f"{name}.ff.fc2"), weights

    def joint_maps(self, x_TND: np.ndarray, rows: int, columns: int, window: int | None) -> np.ndarray:
        """From tokens of one clip: (L, h, T, M, T, M), causal."""
        time, _, dim = x_TND.shape
        d = dim // self.heads
        registers = self.w.get("registers", np.zeros((0, dim)))
        each = len(registers) + rows * columns
        slow_space, slow_time = (
            100.0 ** (-np.arange(0, d // 4, 2) / (d // 4)),
            1000.0 ** (-np.arange(0, d // 2, 2) / (d // 2)),
        )
        angles, sees = np.zeros((time * each, d // 2)), np.zeros((time * each, time * each), bool)
        for i in range(time * each):
            place = i % each - len(registers)
            y, x = (place // columns, place % columns) if place >= 0 else (0, 0)
            angles[i] = np.concatenate([y * slow_space, x * slow_space, i // each * slow_time])
            for j in range(time * each):
                sees[i, j] = 0 <= i // each - j // each < (window or time)
        x = np.concatenate([np.concatenate([registers, step]) for step in x_TND])
        found = []
        for layer in range(depth_of(self.w, "joint")):
            x, weights = self.block(x, f"joint.{layer}", angles, sees)
            found.append(weights.reshape(self.heads, time, each, time, each))
        return np.array(found)

    def maps(
        self, x_TND: np.ndarray, rows: int, columns: int, window: int | None, causal: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """From tokens of one clip: spatial (L, h, T, M, M) and temporal (L, h, N, T, T)."""
        time, _, dim = x_TND.shape
        d = dim // self.heads
        registers = self.w.get("registers", np.zeros((0, dim)))
        spatial = depth_of(self.w, "spatial")
        temporal = depth_of(self.w, "temporal")
        found: dict[str, list[Any]] = {
            "spatial": [[] for _ in range(spatial)],
            "temporal": [[] for _ in range(temporal)],
        }
        slow = 100.0 ** (-np.arange(0, d // 2, 2) / (d // 2))
        angles = np.zeros((len(registers) + rows * columns, d // 2))
        for i in range(rows * columns):
            angles[len(registers) + i] = np.concatenate([i // columns * slow, i % columns * slow])
        out = np.zeros_like(x_TND)
        for t in range(time):
            x = np.concatenate([registers, x_TND[t]])
            for layer in range(spatial):
                x, weights = self.block(x, f"spatial.{layer}", angles, np.ones((len(x), len(x)), bool))
                found["spatial"][layer].append(weights)
            out[t] = x[len(registers) :]
        sees = np.zeros((time, time), bool)
        for t in range(time):
            for s in range(time):
                sees[t, s] = not causal or (s <= t and (window is None or t - s < window))
        angles = np.arange(time)[:, None] * 1000.0 ** (-np.arange(0, d, 2) / d)
        for n in range(rows * columns):
            x = out[:, n]
            for layer in range(temporal):
                x, weights = self.block(x, f"temporal.{layer}", angles, sees)
                found["temporal"][layer].append(weights)
        return tuple(
            np.array(found[kind]).transpose(0, 2, 1, 3, 4) if found[kind] else np.zeros(0)
            for kind in ("spatial", "temporal")
        )  # type: ignore[return-value]


def depth_of(weights: dict[str, np.ndarray], kind: str) -> int:
    return len({name.split(".")[1] for name in weights if name.startswith(f"{kind}.")})


def tokens_of_tubelets(made: Twin, frames_CTHW: np.ndarray, size: tuple[int, int, int]) -> np.ndarray:
    """(T, N, D): each tubelet of a normalized and padded clip, one after the other."""
    c, f, h, w = frames_CTHW.shape
    pt, ph, pw = size
    old, rows, columns = -f % pt, -h % ph, -w % pw
    padded = np.zeros((c, f + old, h + rows, w + columns))
    padded[:, old:, rows // 2 : rows // 2 + h, columns // 2 : columns // 2 + w] = frames_CTHW
    blocks = rearrange(padded, "c (t pt) (h ph) (w pw) -> t (h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
    weight = {name: x.double().numpy() for name, x in made.core.tokenizer.embed.state_dict().items()}
    return blocks @ weight["weight"].T + weight["bias"]


def lively(made: Twin) -> Twin:
    """Larger weights, so that attention is far from even, and biases and scales that are not at their start."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in made.core.named_parameters():
            if name.startswith(("spatial", "temporal")) and p.dim() == 1:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
            elif ".attention.qkv" in name:
                p.mul_(2.0)
    return made.eval()


GEOMETRIES = [
    (31, 1, 17, [4, 4, 1], {}),
    (37, 50, 17, [4, 8, 8], {"registers": 3, "window": 8}),
    (51, 51, 9, [4, 4, 4], {"registers": 1}),
    (51, 51, 9, [4, 3, 3], {"registers": 2, "window": 5}),  # over 256 tokens: torch's fused kernel
    (12, 16, 18, [2, 4, 4], {"registers": 0, "window": 4, "attention": ATTENTION | {"qk_norm": False}}),
    (12, 16, 17, [4, 4, 4], {"causal": False}),
]


@pytest.mark.parametrize(("height", "width", "bins", "patch", "changes"), GEOMETRIES)
def test_maps_equal_an_independent_computation(height, width, bins, patch, changes):
    of = spec(height=height, width=width, behavior=0)
    model = vivit(tokenizer=TUBELET | {"patch_size": patch}, modulator=None, **changes)
    made = lively(twin(model, of, predict="last" if bins == 18 else "all"))
    given = batch(of, bins=bins)
    maps = extract_attention(made, given)["a"]
    frames = (given["a"]["frames"].double().numpy() - of.pixel_mean) / of.pixel_std
    window = changes.get("window")
    for clip in range(2):
        _, rows, columns = maps.grid.shape
        tokens = tokens_of_tubelets(made, frames[clip], tuple(patch))
        expected = Float64(made, heads=2).maps(
            tokens, rows, columns, None if window is None else -(-window // patch[0]), changes.get("causal", True)
        )
        for ours, theirs in zip((maps.spatial[clip], maps.temporal[clip]), expected, strict=True):
            assert ours.shape == theirs.shape
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
            assert theirs.max() > 2.0 / theirs.shape[-1]  # far from even, else the comparison says little
            np.testing.assert_allclose(ours.sum(-1), 1.0, atol=1e-6)
    steps = maps.temporal.shape[-1]
    future = np.triu_indices(steps, 1)
    assert (maps.temporal[..., future[0], future[1]] == 0).all() == changes.get("causal", True)
    assert maps.grid.is_register.tolist() == [True] * changes.get("registers", 2) + [False] * (rows * columns)


@pytest.mark.parametrize("model", MODELS_UNDER_CONTRACT.values(), ids=MODELS_UNDER_CONTRACT)
def test_every_model_shows_its_attention_or_says_that_it_has_none(model):
    """Whatever the tokenizer; the independent computation starts from its tokens here."""
    made = lively(twin(model))
    given = batch(spec(), count=1)
    if not model["_target_"].endswith("ViViT"):
        with pytest.raises(ValueError, match="has no attention to look at"):
            extract_attention(made, given)
        return
    maps = extract_attention(made, given)["a"]
    with torch.no_grad():
        frames, _ = made.adapt("a", given["a"])
        tokens = made.core.tokenizer(frames if made.core.frontend is None else made.core.frontend(frames))
    x_BTND = made.core.lifted(tokens, made.core.cells(frames)).detach()
    exact, x = Float64(made, heads=2), x_BTND[0].double().numpy()
    expected = exact.maps(x, tokens.height, tokens.width, None, True)
    expected = (*expected, exact.joint_maps(x, tokens.height, tokens.width, None))
    for ours, theirs in zip((maps.spatial[0], maps.temporal[0], maps.joint[0]), expected, strict=True):
        if theirs.size:
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        else:
            assert not ours.size
    assert maps.grid.shape == (*tokens.x_BTND.shape[1:2], tokens.height, tokens.width)

    def on_frame(centers: torch.Tensor, side: int, size: int) -> np.ndarray:
        """Middles of what lies on the frame; the frame's ends belong to the outer tokens."""
        between = (centers[:-1] + centers[1:]).numpy() / 2 + 0.5
        np.testing.assert_allclose(np.diff(centers.numpy()), side)
        edges = np.concatenate([[0], between, [size]])
        return (edges[:-1] + edges[1:]) / 2 - 0.5

    _, down, across = made.core.tokenizer.token_stride
    at = maps.grid.centers_px.reshape(tokens.height, -1, 2)
    np.testing.assert_allclose(at[:, 0, 0], on_frame(tokens.ys, down, 12), atol=1e-6)
    np.testing.assert_allclose(at[0, :, 1], on_frame(tokens.xs, across, 16), atol=1e-6)
    assert maps.grid.ends[0] == tokens.first_end and maps.grid.ends[-1] == 16
    assert rollout(maps, (0, 0)).relevance.sum() == pytest.approx(1.0)


@pytest.mark.parametrize("tokenizer", [TUBELET, STEM])
@pytest.mark.parametrize("predict", ["all", "last"])
def test_predictions_do_not_change(tokenizer, predict):
    made = twin(vivit(tokenizer=tokenizer, window=8), predict=predict).train()
    assert made.core.spatial[0].attention.watch is None
    given = batch(spec())
    with torch.no_grad():
        made.eval()
        before = made(given)["a"]
        seen: list[torch.Tensor] = []
        hook = made.register_forward_hook(lambda module, args, counts: seen.append(counts["a"]))
        made.train()
        extract_attention(made, given)
        hook.remove()
        assert made.training  # as it was
        after = made.eval()(given)["a"]
    assert torch.equal(seen[0], before) and torch.equal(after, before)
    assert all(module.watch is None for module in made.modules() if isinstance(module, rotary.RotaryAttention))


def test_an_error_on_the_way_leaves_nothing_behind():
    made = twin(vivit()).train()
    with pytest.raises(ZeroDivisionError):
        looking.watched_pass(made, batch(spec()), lambda *_: 1 / 0)
    assert made.training
    assert all(module.watch is None for module in made.modules() if isinstance(module, rotary.RotaryAttention))


def test_a_batch_of_several_recordings():
    """Each has its own clips and its own pixels: b's frames are twice as large as the twin's."""
    first, second = spec("a"), spec("b", height=24, width=32)
    made = twin(vivit(frame_size=[12, 16]), first, second).eval()
    given = {"a": clips(first, count=1), "b": clips(second, count=3, seed=1)}
    together = extract_attention(made, given)
    assert {name: len(maps.spatial) for name, maps in together.items()} == {"a": 1, "b": 3}
    for name in given:
        alone = extract_attention(made, {name: given[name]})[name]
        np.testing.assert_allclose(together[name].spatial, alone.spatial, atol=1e-6)
        np.testing.assert_allclose(together[name].temporal, alone.temporal, atol=1e-6)
    assert together["a"].grid.size == (17, 12, 16) and together["b"].grid.size == (17, 24, 32)
    np.testing.assert_array_equal(together["b"].grid.row_edges, 2 * together["a"].grid.row_edges)


def test_a_choice_is_a_part_of_the_whole(monkeypatch):
    made = twin(vivit(spatial_depth=2, temporal_depth=2)).eval()
    given = batch(spec())
    whole = extract_attention(made, given)["a"]
    monkeypatch.setattr(looking, "AT_ONCE", 5000)  # several pieces
    some = extract_attention(made, given, layers=[-1], steps=[0, -2], places=[3, 7, 11], dtype=np.float16)["a"]
    assert (some.layers, some.steps, some.places) == (
        {"spatial": (1,), "temporal": (1,), "joint": ()},
        (0, 3),
        (3, 7, 11),
    )
    assert some.spatial.dtype == np.float16 and whole.whole and not some.whole
    np.testing.assert_allclose(some.spatial, whole.spatial[:, 1:, :, [0, 3]], atol=1e-3)
    np.testing.assert_allclose(some.temporal, whole.temporal[:, 1:, :, [3, 7, 11]], atol=1e-3)
    mean = extract_attention(made, given, mean_of_heads=True)["a"]
    np.testing.assert_allclose(mean.spatial, whole.spatial.mean(2, keepdims=True), atol=1e-6)
    with pytest.raises(ValueError, match="without layers="):
        rollout(some, (0, 0))
    for wrong in ({"layers": [2]}, {"steps": [5]}, {"places": [12]}):
        with pytest.raises(ValueError, match="were asked for"):
            extract_attention(made, given, **wrong)


def test_joint_maps_are_chosen_and_bounded(monkeypatch):
    made = twin(vivit(blocks="joint", spatial_depth=1, temporal_depth=1)).eval()
    given = batch(spec())
    whole = extract_attention(made, given)["a"]
    some = extract_attention(made, given, layers=[-1], steps=[0, -2], mean_of_heads=True)["a"]
    assert whole.whole and not some.whole and whole.joint.shape == (2, 2, 2, 5, 14, 5, 14)
    np.testing.assert_allclose(some.joint, whole.joint[:, 1:, :, [0, 3]].mean(2, keepdims=True), atol=1e-6)
    monkeypatch.setattr(looking, "MOST_JOINT", whole.joint.nbytes - 1)
    with pytest.raises(ValueError, match=r"over 70 tokens would take .* GiB; keep fewer layers= or steps="):
        extract_attention(made, given)


def test_a_core_without_attention_is_refused():
    ln = LNModel([spec()], duration_s=0.05, patch=5, nonlinearity="exp")
    with pytest.raises(ValueError, match="has no attention to look at"):
        extract_attention(ln, batch(spec()))  # type: ignore[arg-type]
    bare = twin(vivit(spatial_depth=0, temporal_depth=0, registers=0))
    with pytest.raises(ValueError, match="has no attention to look at"):
        measure_attention(bare, "a", [clips(spec())])


def test_a_head_that_attends_to_registers_alone_has_a_distance(monkeypatch):
    """Of places that nothing looks at: it was NaN, which no file of numbers takes, after all was computed."""
    made = twin(vivit(registers=2, spatial_depth=1, temporal_depth=1)).eval()
    watched = attention_statistics.watched_pass

    def at_registers(made, given, take):
        def instead(kind, layer, which, weights):
            if kind == "spatial":
                weights = torch.zeros_like(weights)
                weights[..., 0] = 1.0
            take(kind, layer, which, weights)

        watched(made, given, instead)

    monkeypatch.setattr(attention_statistics, "watched_pass", at_registers)
    found = measure_attention(made, "a", [clips(spec())])
    np.testing.assert_allclose(found.to_registers, 1.0)
    np.testing.assert_allclose(found.distance_px, 0.0)


# Where tokens lie ----------------------------------------------------------------------------------------------------


def test_tokens_lie_where_they_were_cut_from():
    """A clip of 18 frames in tokens of 4, padded at its old end; 37×50 px in patches of 8, padded on both sides."""
    of = spec(height=37, width=50, behavior=0)
    made = twin(vivit(tokenizer=TUBELET | {"patch_size": [4, 8, 8]}, modulator=None, temporal_depth=0), of).eval()
    given = batch(of, count=1, bins=18)
    grid = extract_attention(made, given)["a"].grid
    assert grid.step_edges.tolist() == [0, 2, 6, 10, 14, 18] and grid.ends.tolist() == [1, 5, 9, 13, 17]
    assert grid.row_edges.tolist() == [0, 7, 15, 23, 31, 37] and grid.column_edges.tolist() == [
        0,
        5,
        13,
        21,
        29,
        37,
        45,
        50,
    ]
    assert grid.coordinates[2:].tolist()[:8] == [[0, 0], [0, 1], [0, 2], [0, 3], [0, 4], [0, 5], [0, 6], [1, 0]]
    assert grid.coordinates[:2].tolist() == [[-1, -1]] * 2
    assert grid.centers_px[8].tolist() == [10.5, 8.5]
    # A token changes with the pixels of its own block, and with no others.
    core = made.core
    base = torch.zeros(1, 1, 18, 37, 50)
    with torch.no_grad():
        before = core.tokenizer(base).x_BTND
        for frame, y, x in ((0, 0, 0), (1, 6, 4), (2, 7, 5), (17, 36, 49), (9, 22, 20)):
            changed = base.clone()
            changed[0, 0, frame, y, x] = 1.0
            (token,) = torch.argwhere((core.tokenizer(changed).x_BTND - before).abs().amax(-1)[0] > 0).tolist()
            inside = np.zeros(grid.shape)
            inside[token[0]].flat[token[1]] = 1.0
            pixels = grid.to_pixels(inside)
            assert pixels[frame, y, x] > 0 and pixels.sum() == pytest.approx(1.0)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 9), st.integers(1, 40), st.integers(1, 60), st.integers(0, 8))
def test_spread_keeps_the_sum(cells, size, own, before):
    before = min(before, size - 1)
    total = cells * size - before  # of the frame in the twin's pixels
    edges = np.clip((np.arange(cells + 1) * size - before) * own / total, 0, own)
    spread = token_grid.spread(edges, own)
    assert spread.shape == (cells, own) and (spread >= 0).all()
    np.testing.assert_allclose(spread.sum(1), 1.0)


# Rollout -------------------------------------------------------------------------------------------------------------

GRID = TokenGrid(
    registers=1,
    step_edges=np.array([0, 1, 3, 5]),
    row_edges=np.array([0.0, 2.0, 4.0]),
    column_edges=np.array([0.0, 1.0, 3.0]),
)


def made_maps(spatial_LhTMM: np.ndarray, temporal_LhNTT: np.ndarray, grid: TokenGrid = GRID) -> AttentionMaps:
    return AttentionMaps(
        spatial=spatial_LhTMM[None],
        temporal=temporal_LhNTT[None],
        joint=np.zeros((1, 0, 2, 3, 5, 3, 5)),
        grid=grid,
        windows=np.zeros((0, 2, 2)),
        layers={"spatial": (0, 1), "temporal": (0, 1), "joint": ()},
        steps=(0, 1, 2),
        places=(0, 1, 2, 3),
        whole=True,
    )


def test_rollout_of_identity_is_the_token_itself():
    maps = made_maps(np.tile(np.eye(5), (2, 2, 3, 1, 1)), np.tile(np.eye(3), (2, 2, 4, 1, 1)))
    found = rollout(maps, (0, 1), step=1)
    expected = np.zeros((5, 4, 3))
    expected[1:3, 0:2, 1:3] = 1 / 8
    np.testing.assert_allclose(found.relevance, expected, atol=1e-15)
    assert found.to_registers == pytest.approx(0.0)


def test_rollout_of_even_attention_is_even():
    maps = made_maps(np.full((1, 2, 3, 5, 5), 1 / 5), np.full((1, 2, 4, 3, 3), 1 / 3))
    found = rollout(maps, (1, 0), residual=0.0)
    np.testing.assert_allclose(found.tokens, 1 / 12)
    assert found.to_registers == pytest.approx(1 / 5)
    # Half of it stays at each block: ½ at the newest step and ½ even over steps, then the same over places.
    found = rollout(maps, (1, 0))
    in_time = np.array([1, 1, 4]) / 6
    in_space = np.array([1, 1, 6, 1]) / 10
    expected = in_time[:, None] * in_space
    np.testing.assert_allclose(found.tokens.reshape(3, 4), expected / expected.sum())
    assert found.to_registers == pytest.approx(0.1)


@pytest.mark.parametrize("residual", [0.0, 0.5, 0.8])
def test_rollout_equals_the_matrices_multiplied_out(residual):
    """All tokens of a clip in one long vector, each block one large matrix."""
    rng = np.random.default_rng(0)
    spatial = rng.dirichlet(np.ones(5) * 0.3, (2, 2, 3, 5))
    temporal = np.tril(rng.random((2, 2, 4, 3, 3)))
    temporal /= temporal.sum(-1, keepdims=True)
    maps = made_maps(spatial, temporal)
    everything = np.eye(15)  # (time, token) with the register first
    for layer in range(2):
        block = np.zeros((3, 5, 3, 5))
        for t in range(3):
            block[t, :, t, :] = spatial[layer, :, t].mean(0)
        everything = (residual * np.eye(15) + (1 - residual) * block.reshape(15, 15)) @ everything
    for layer in range(2):
        block = np.zeros((3, 5, 3, 5))
        for n in range(4):
            block[:, n + 1, :, n + 1] = temporal[layer, :, n].mean(0)
        block[np.arange(3), 0, np.arange(3), 0] = 1.0
        everything = (residual * np.eye(15) + (1 - residual) * block.reshape(15, 15)) @ everything
    every = everything.reshape(3, 5, 3, 5)
    for step in range(3):
        for n in range(4):
            expected = every[step, n + 1, :, 1:]
            found = rollout(maps, (n // 2, n % 2), step=step, residual=residual)
            np.testing.assert_allclose(found.tokens.reshape(3, 4), expected / expected.sum(), atol=1e-12)
            assert found.to_registers == pytest.approx(1 - expected.sum())
            assert found.relevance.sum() == pytest.approx(1.0)
            assert (found.tokens[step + 1 :] == 0).all()  # nothing from the future
    window = np.array([[0.1, 0.2], [0.3, 0.4]])
    several = sum(window.flat[n] * every[2, n + 1, :, 1:] for n in range(4))
    np.testing.assert_allclose(
        rollout(maps, 2 * window, residual=residual).tokens.reshape(3, 4), several / several.sum(), atol=1e-12
    )


@pytest.mark.parametrize("residual", [0.0, 0.5])
def test_rollout_of_joint_blocks_equals_the_matrices_multiplied_out(residual):
    rng = np.random.default_rng(0)
    joint = rng.dirichlet(np.ones(15) * 0.3, (2, 2, 15))
    maps = dataclasses.replace(
        made_maps(np.zeros((0, 2, 3, 5, 5)), np.zeros((0, 2, 4, 3, 3))), joint=joint.reshape(1, 2, 2, 3, 5, 3, 5)
    )
    everything = np.eye(15)
    for layer in range(2):
        everything = (residual * np.eye(15) + (1 - residual) * joint[layer].mean(0)) @ everything
    for step, n in ((2, 3), (0, 1)):
        expected = everything.reshape(3, 5, 3, 5)[step, n + 1, :, 1:]
        found = rollout(maps, (n // 2, n % 2), step=step, residual=residual)
        np.testing.assert_allclose(found.tokens.reshape(3, 4), expected / expected.sum(), atol=1e-12)
        assert found.to_registers == pytest.approx(1 - expected.sum())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"place": (2, 0)}, "2 rows and 2 columns"),
        ({"place": (0, 0), "step": 3}, "3 time steps"),
        ({"place": (0, 0), "clip": 1}, "1 clips"),
        ({"place": np.zeros((2, 2))}, "not all zero"),
        ({"place": np.ones((2, 3))}, "2×2 numbers"),
    ],
)
def test_rollout_names_what_is_wrong(arguments, named):
    maps = made_maps(np.tile(np.eye(5), (2, 2, 3, 1, 1)), np.tile(np.eye(3), (2, 2, 4, 1, 1)))
    with pytest.raises(ValueError, match=named):
        rollout(maps, **arguments)


# What the heads do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"window": 8}, {"causal": False}, {"registers": 0}])
def test_statistics_equal_those_of_the_maps(changes, monkeypatch):
    of = spec(behavior=0)
    made = lively(twin(vivit(modulator=None, **changes), of))
    given = clips(of, count=3, bins=18)
    maps = extract_attention(made, {"a": given})["a"]
    monkeypatch.setattr(looking, "AT_ONCE", 5000)
    pieces = [{name: x[i : i + 2] for name, x in given.items()} for i in (0, 2)]
    found = measure_attention(made, "a", pieces)  # type: ignore[arg-type]
    registers, steps, causal = changes.get("registers", 2), 5, changes.get("causal", True)
    reach = 2 if "window" in changes else steps
    assert found.clips == 3
    centers = maps.grid.centers_px
    for layer in range(2):
        for head in range(2):
            entropy, distance, to_registers = [], [], []
            for weights in maps.spatial[:, layer, head].astype(np.float64).reshape(-1, registers + 12, registers + 12):
                for n in range(12):
                    row = weights[registers + n]
                    entropy.append(-sum(x * np.log2(x) for x in row if x > 0))
                    far = [np.hypot(*(centers[n] - centers[m])) for m in range(12)]
                    distance.append(np.average(far, weights=row[registers:]))
                    to_registers.append(row[:registers].sum())
            assert found.entropy_bits["spatial"][layer, head] == pytest.approx(np.mean(entropy), rel=1e-5)
            assert found.distance_px[layer, head] == pytest.approx(np.mean(distance), rel=1e-5)
            assert found.to_registers[layer, head] == pytest.approx(np.mean(to_registers), rel=1e-5, abs=1e-9)
            rows = maps.temporal[:, layer, head].astype(np.float64).reshape(-1, steps, steps)
            rows = rows[:, reach - 1 :] if causal else rows
            entropy = [-sum(x * np.log2(x) for x in row if x > 0) for row in rows.reshape(-1, steps)]
            assert found.entropy_bits["temporal"][layer, head] == pytest.approx(np.mean(entropy), rel=1e-5)
            profile: dict[int, list[float]] = {}
            for q in range(rows.shape[1]):
                for k in range(steps):
                    lag = q + (reach - 1 if causal else 0) - k
                    profile.setdefault(lag, []).extend(rows[:, q, k])
            number = rows.shape[0] * rows.shape[1]
            lags = np.round(found.lags_ms / (1e3 * 4 / 120)).astype(int)
            expected = [sum(profile[lag]) / number for lag in lags]
            np.testing.assert_allclose(found.profile[layer, head], expected, rtol=1e-5)
            assert found.lag_ms[layer, head] == pytest.approx(np.abs(lags) @ expected * 1e3 * 4 / 120, rel=1e-5)
    np.testing.assert_allclose(found.profile.sum(-1), 1.0, rtol=1e-5)
    assert len(found.lags_ms) == (reach if causal else 2 * steps - 1)
    ahead = np.abs(np.round(found.lags_ms / (1e3 * 4 / 120)))
    even = np.full(reach, 1 / reach) if causal else (steps - ahead) / steps**2
    np.testing.assert_allclose(found.even_profile, even, rtol=1e-5)


@pytest.mark.parametrize("window", [None, 8])
def test_statistics_of_joint_blocks_equal_those_of_the_maps(window):
    of = spec(behavior=0)
    made = lively(twin(vivit(modulator=None, blocks="joint", spatial_depth=1, temporal_depth=1, window=window), of))
    given = clips(of, count=2, bins=18)
    maps = extract_attention(made, {"a": given})["a"]
    found = measure_attention(made, "a", [given])
    registers, steps, centers, reach = 2, 5, maps.grid.centers_px, 2 if window else 5
    assert found.entropy_bits["spatial"].shape == found.entropy_bits["temporal"].shape == (0, 2)
    for layer in range(2):
        for head in range(2):
            rows = maps.joint[:, layer, head, reach - 1 :, registers:].astype(
                np.float64
            )  # clip, step, place, step, token
            entropy = [-sum(x * np.log2(x) for x in row if x > 0) for row in rows.reshape(-1, steps * 14)]
            assert found.entropy_bits["joint"][layer, head] == pytest.approx(np.mean(entropy), rel=1e-5)
            by_token = rows.sum(3)
            assert found.to_registers[layer, head] == pytest.approx(by_token[..., :registers].sum(-1).mean(), rel=1e-5)
            far = np.hypot(*(centers[:, None] - centers).transpose(2, 0, 1))
            distance = (by_token[..., registers:] * far).sum(-1) / by_token[..., registers:].sum(-1)
            assert found.distance_px[layer, head] == pytest.approx(distance.mean(), rel=1e-5)
            by_step = rows.sum(-1)
            profile = [
                np.mean([by_step[:, q, :, q + reach - 1 - lag] for q in range(by_step.shape[1])])
                for lag in range(reach)
            ]
            np.testing.assert_allclose(found.profile[layer, head], profile, rtol=1e-5)
    assert found.uniform.keys() == {"joint_entropy_bits", "distance_px", "lag_ms"}
    assert found.uniform["joint_entropy_bits"] == pytest.approx(np.log2(reach * 14))


def test_even_heads_of_a_neighborhood_have_its_even_numbers():
    of = spec(behavior=0)
    made = twin(vivit(modulator=None, attention=WINDOW), of)
    with torch.no_grad():
        for name, p in made.core.named_parameters():
            if "_scale" in name:
                p.zero_()
    found = measure_attention(made, "a", [clips(of)])
    np.testing.assert_allclose(found.entropy_bits["spatial"], found.uniform["spatial_entropy_bits"], rtol=1e-5)
    np.testing.assert_allclose(found.distance_px, found.uniform["distance_px"], rtol=1e-5)
    # 3 rows of one column, of which the outer ones see two, and two registers
    assert found.uniform["spatial_entropy_bits"] == pytest.approx((2 * np.log2(4) + np.log2(5)) / 3)


@pytest.mark.parametrize("blocks", ["factorized", "joint"])
@pytest.mark.parametrize("attention", [ABSOLUTE, RELATIVE, WINDOW], ids=["absolute", "relative_bias", "window"])
def test_the_maps_of_every_attention_are_those_that_mix_its_values(attention, blocks):
    """Each block's output again, from its maps and its values alone."""
    of = spec(behavior=0)
    changes = {"modulator": None, "blocks": blocks, "spatial_depth": 1, "temporal_depth": int(blocks == "factorized")}
    made = lively(twin(vivit(attention=attention, window=8, **changes), of))
    seen = {}
    for kind in ("spatial", "temporal", "joint"):
        for block in getattr(made.core, kind):
            block.attention.register_forward_hook(
                lambda module, given, output, kind=kind: seen.update({kind: (module, *given[:2], output)})
            )
    maps = extract_attention(made, batch(of, count=1))["a"]
    assert set(seen) == ({"joint"} if blocks == "joint" else {"spatial", "temporal"})
    for kind, (module, x, positions, output) in seen.items():
        weights = torch.from_numpy(getattr(maps, kind)[0, 0])
        weights = weights.flatten(1, 2).flatten(2)[None] if kind == "joint" else weights.transpose(0, 1)
        values = module.project(x, positions)[2]
        mixed = module.out((weights @ values).transpose(1, 2).flatten(2))
        torch.testing.assert_close(output, mixed, rtol=1e-4, atol=1e-5)


def test_even_heads_have_the_even_heads_numbers():
    of = spec(behavior=0)
    made = twin(vivit(modulator=None), of)
    with torch.no_grad():
        for name, p in made.core.named_parameters():
            if "_scale" in name:
                p.zero_()
    found = measure_attention(made, "a", [clips(of)])
    even = found.uniform
    np.testing.assert_allclose(found.entropy_bits["spatial"], even["spatial_entropy_bits"], rtol=1e-5)
    np.testing.assert_allclose(found.distance_px, even["distance_px"], rtol=1e-5)
    np.testing.assert_allclose(found.entropy_bits["temporal"], even["temporal_entropy_bits"], rtol=1e-5)
    np.testing.assert_allclose(found.lag_ms, even["lag_ms"], rtol=1e-5)
    np.testing.assert_allclose(found.to_registers, 2 / 14, rtol=1e-5)


def test_a_recording_whose_test_trials_are_too_short_is_refused_in_a_sentence(monkeypatch):
    trials = Trials(np.array([0]), np.array([8]), np.array(["s"]), np.array(["test"]))
    recording = SimpleNamespace(recording_id="a", info=SimpleNamespace(trials=trials))
    data = SimpleNamespace(by_id={"a": recording}, evaluation_length=48, evaluation_burn_in=8)
    trained = SimpleNamespace(model=twin(vivit()), recordings=lambda *_: data)
    monkeypatch.setattr(attention_task, "load_trained", lambda path: trained)
    given = {"place": None, "clips": 1, "heads": 1, "units": 1, "megabytes": 1.0}
    with pytest.raises(ValueError, match="recording a has no test trial longer than the burn-in of 8 bins"):
        attention_task.attention(
            SimpleNamespace(device="cpu"), checkpoint=Path("x.ckpt"), data={}, recording=None, trial=0, **given
        )


def test_clips_of_different_lengths_are_refused():
    made = twin(vivit())
    with pytest.raises(ValueError, match="of one length"):
        measure_attention(made, "a", [clips(spec()), clips(spec(), bins=20)])
    with pytest.raises(ValueError, match="no clips"):
        measure_attention(made, "a", [])


# Pictures ------------------------------------------------------------------------------------------------------------


def test_what_is_drawn_are_the_weights(tmp_path, monkeypatch):
    drawn: dict[str, Figure] = {}
    save = plotting_style.save

    def keep(figure: Figure, path: Path) -> Path:
        drawn[path.stem] = figure
        return save(figure, path)

    monkeypatch.setattr("vivit_core.analysis.attention.plots.save", keep)
    of = spec(behavior=0)
    made = lively(twin(vivit(modulator=None), of))
    given = clips(of, count=1)
    maps = extract_attention(made, {"a": given})["a"]
    frames = given["frames"][0].numpy()
    shown = plot_attention(tmp_path, maps, frames, frame_rate_hz=120.0, place=(1, 2))
    assert [path.name for path, _ in shown] == ["attention_heads.png", "attention_rollout.png", "attention.gif"]
    panels = [axes for axes in drawn["attention_heads"].axes if len(axes.images) == 2]
    assert len(panels) == 4
    for axes, (layer, head) in zip(panels, np.ndindex(2, 2), strict=True):
        frame, heat = (image.get_array() for image in axes.images)
        np.testing.assert_array_equal(frame, frames[0, -1])
        weights = maps.spatial[0, layer, head, -1, 2 + 1 * 4 + 2]
        np.testing.assert_allclose(heat[::4, ::4], 14 * weights[2:].reshape(3, 4), rtol=1e-5)  # 4×4 px a token
        assert axes.get_xlabel() == f"{weights[:2].sum():.0%} to registers"
        (box,) = axes.patches
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (8.0, 4.0, 4.0, 4.0)  # type: ignore[attr-defined]
    seen = rollout(maps, (1, 2)).relevance
    collapsed = drawn["attention_rollout"].axes[0].images[1].get_array()
    np.testing.assert_allclose(collapsed, seen.sum(0) * 12 * 16)
    with Image.open(tmp_path / "attention.gif") as film:
        assert film.n_frames == 17 and film.info["duration"] == 100  # type: ignore[attr-defined]
        pixels = [np.asarray(film.convert("RGB"), float) for i in range(2) if film.seek(8 * i) is None]
    assert np.abs(pixels[0] - pixels[1]).max() > 50 and max(x.shape[0] for x in pixels) < 400
    with pytest.raises(ValueError, match="not \\(16, 12, 16\\)"):
        plot_attention(tmp_path, maps, frames[:, 1:], frame_rate_hz=120.0)


def test_a_clip_of_one_step_is_drawn(tmp_path):
    of = spec(behavior=0)
    given = clips(of, count=1, bins=4)
    maps = extract_attention(lively(twin(vivit(modulator=None), of)), {"a": given})["a"]
    assert maps.grid.size[0] == 4 and len(maps.grid.step_edges) == 2
    shown = plot_attention(str(tmp_path), maps, given["frames"][0, 0].numpy(), frame_rate_hz=120.0)
    assert all(path.is_file() for path, _ in shown)


def test_the_even_line_of_an_acausal_twin_falls_with_the_lag(tmp_path, monkeypatch):
    drawn: list[Figure] = []
    monkeypatch.setattr("vivit_core.analysis.attention.plots.save", lambda figure, path: drawn.append(figure) or path)
    made = twin(vivit(modulator=None, causal=False), of := spec(behavior=0))
    found = measure_attention(made, "a", [clips(of, count=1)])
    plot_statistics(tmp_path, found)
    *_, even = drawn[-1].axes[0].lines
    np.testing.assert_array_equal(even.get_ydata(), found.even_profile)
    assert found.even_profile @ np.abs(found.lags_ms) == pytest.approx(found.uniform["lag_ms"])


def test_tokens_of_a_halved_map_cover_the_frame(tmp_path):
    """The default's geometry: the last map's cells lie 2.5 px towards the frame's origin, and no pixel is left out."""
    of = spec(height=36, width=64)
    made = twin(vivit(tokenizer=RESIDUAL_STEM | {"patch_size": [4, 16, 16]}), of).eval()
    given = batch(of, count=1)
    maps = extract_attention(made, given)["a"]
    assert maps.grid.size == (17, 36, 64)
    assert maps.grid.column_edges.tolist() == [0, 13.5, 29.5, 45.5, 64]
    assert maps.grid.row_edges.tolist() == [0, 13.5, 29.5, 36]
    plot_attention(tmp_path, maps, given["a"]["frames"][0, 0].numpy(), frame_rate_hz=120.0)


def test_windows_are_what_readouts_read_of_each_token():
    """Tokens of 8×8 px that write to cells of 4×4: a unit in the middle of a cell reads the token around it."""
    of = spec(height=16, width=24, units=2)
    made = twin(vivit(tokenizer=RESIDUAL_STEM | {"patch_size": [4, 8, 8], "widths": [6]}), of).eval()
    readout = made.readout("a")
    with torch.no_grad():
        readout.mean[0] = torch.tensor([9.5, 5.5])  # x, y: the second token across, the first down
        readout.mean[1] = torch.tensor([15.0, 7.0])  # the corner of four tokens, half a pixel off
        readout.log_std.fill_(np.log(0.3))
    windows = extract_attention(made, batch(of))["a"].windows
    assert windows.shape == (2, 2, 3)
    np.testing.assert_allclose(windows.sum((1, 2)), 1.0, rtol=1e-5)
    assert windows[0, 0, 1] > 0.7
    np.testing.assert_allclose(windows[1, :, 1:], 0.25, atol=1e-3)


def test_windows_know_how_many_cells_a_token_holds():
    """A map of 5×8 cells in tokens of 4×4, of which the lower ones hold a single row."""
    of = spec(height=36, width=64, units=1)
    made = twin(vivit(tokenizer=RESIDUAL_STEM | {"patch_size": [4, 32, 32]}), of).eval()
    readout, given = made.readout("a"), batch(of)
    tokens = token_grid.tokens_of(made, "a", given["a"])
    assert tokens.map is not None and tokens.map.x_BCTHW.shape[3:] == (5, 8) and tokens.cells == (4, 4)
    with torch.no_grad():
        readout.mean[0] = torch.tensor([float(tokens.map.xs[5]), float(tokens.map.ys[3])])  # the fourth row
        readout.log_std.fill_(np.log(0.3))
        cells = readout.window_on(tokens.map)[0].numpy()
    (window,) = extract_attention(made, given)["a"].windows
    expected = [[cells[:4, :4].sum(), cells[:4, 4:].sum()], [cells[4:, :4].sum(), cells[4:, 4:].sum()]]
    np.testing.assert_allclose(window, expected, rtol=1e-5)
    assert window[0, 1] > 0.7


@pytest.mark.slow
@pytest.mark.pictures
@pytest.mark.parametrize(
    ("height", "width", "changes"),
    [
        (31, 1, {"temporal_depth": 0}),
        (12, 16, {"spatial_depth": 0, "registers": 0}),
        (12, 16, {"causal": False}),
        (12, 16, {"blocks": "joint"}),
    ],
)
def test_everything_is_drawn_whatever_the_model(height, width, changes, tmp_path):
    of = spec(height=height, width=width)
    made = twin(vivit(tokenizer=STEM | {"patch_size": [4, 4, min(4, width)], "stride": 1}, **changes), of)
    one = clips(of, count=1)
    summary, drawn = study_attention(
        made, "a", one, [one], beside_truth={}, past=None, out=tmp_path, place=None, heads=1, units=2, megabytes=1.0
    )
    assert all(path.stat().st_size > 2000 for path, _ in drawn)
    section = attention_section.report_section(summary, tmp_path, drawn, "python run.py task=attention")
    assert "token_share" in dict(section.notes[0].rows).keys() == summary["methods"].keys()
    assert len(section.tables[0].rows) == 4 - 2 * ("spatial_depth" in changes or "temporal_depth" in changes)
    assert any("acausal" in words for words in section.text) == (not changes.get("causal", True))
    page = publish(tmp_path, section)
    assert page.read_text().count("<figure>") == len(drawn)
    assert section.explore is not None
    told = section.explore.plain()
    assert told["groups"] == ["a"] and told["names"] == list(of.unit_ids)
    assert all(column["shown"] for column in told["columns"])
    with np.load(tmp_path / "attention.npz") as arrays:
        assert told["columns"][0]["values"] == pytest.approx(arrays["token_share"].tolist(), rel=1e-6)
        np.testing.assert_allclose(arrays["looks"].sum((1, 2)), 1, rtol=1e-5)
        looks = relevance_of_tokens(Newest(made, "a", one), [1])[0].sum(0).reshape(arrays["looks"].shape[1:])
        np.testing.assert_allclose(arrays["looks"][1], looks / looks.sum(), rtol=1e-4)
    assert summary["faithful"].keys() == {"tokens"} and summary["faithful"]["tokens"]["units"] == 5
    masked = section.tables[-1]
    assert [row[0] for row in masked.rows] == [
        f"tokens: {name}" for name in ("rollout", "gradient", "nearest", "random")
    ]
    assert all(png is not None for png in told["panels"][0]["pngs"])


def test_a_readout_that_does_not_say_where_it_looks_is_studied_too(tmp_path, monkeypatch):
    """The middle is drawn, and which tokens count for units; a rollout begins at windows, and is not tried."""
    monkeypatch.setattr(FactorizedReadout, "window_on", lambda readout, feature_map: None)
    made = twin(vivit(temporal_depth=1, spatial_depth=1), readout=FACTORIZED)
    one = clips(spec(), count=1)
    summary, drawn = study_attention(
        made, "a", one, [one], beside_truth={}, past=None, out=tmp_path, place=None, heads=1, units=2, megabytes=1.0
    )
    with np.load(tmp_path / "attention.npz") as arrays:
        assert "windows" not in arrays and arrays["token_share"].shape == (5,)
    assert summary["place"] == [1, 2] and any(path.name == "attention_units.png" for path, _ in drawn)
    assert summary["faithful"] == {}


@pytest.mark.parametrize("bins", [4, 3])
def test_token_share_is_the_tokens_part_of_the_drive(bins):
    """From the first token on; of 17 bins one lies before the first token of three."""
    of, given = spec(), clips(spec())
    made = twin(vivit(tokenizer=STEM | {"patch_size": [bins, 4, 4]}, modulator=None), of).eval()
    readout = made.readout("a")
    assert len(readout.features) == 2  # the stem's map, tokens
    with torch.no_grad():
        readout.features[0][0].zero_()
        readout.features[1][1].zero_()
        for index in range(2):
            readout.features[index][2].zero_()
    share = attention_statistics.token_share(made, "a", given)
    assert share[0] == 1.0 and share[1] == 0.0 and np.isnan(share[2])
    with torch.no_grad():  # nothing lies between these maps and the drive, so that each adds its own
        maps = made.core(made.adapt("a", given)[0])
        added = [
            feature_map.to_bins(readout.reader(index, feature_map)(feature_map.x_BCTHW), 17)
            for index, feature_map in enumerate(maps)
        ]
        of_map, of_tokens = (x[:, maps[-1].first_end :, 3:].flatten(0, 1).double().var(0).numpy() for x in added)
    np.testing.assert_allclose(share[3:], of_tokens / (of_map + of_tokens), rtol=1e-4)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in made.modules())


def test_what_a_window_reads_of_cells_that_tokens_share_counts_for_each_in_part():
    """Cells of 8 px, two by two in a token, which lie a cell apart: an inner cell lies in four tokens."""
    of = spec(height=36, width=64)
    tokenizer = RESIDUAL_STEM | {"patch_size": [4, 16, 16], "token_stride": [4, 8, 8]}
    made = twin(vivit(tokenizer=tokenizer), of).eval()
    readout, given = made.readout("a"), batch(of)
    tokens = token_grid.tokens_of(made, "a", given["a"])
    assert tokens.map is not None and tokens.map.x_BCTHW.shape[3:] == (5, 8) and (tokens.height, tokens.width) == (4, 7)
    with torch.no_grad():
        readout.mean[0] = torch.tensor([float(tokens.map.xs[5]), float(tokens.map.ys[3])])
        cells = readout.window_on(tokens.map)[0].double().numpy()
    found = extract_attention(made, given)["a"]
    holders = np.zeros((5, 8))
    for row, column in np.ndindex(4, 7):
        holders[row : row + 2, column : column + 2] += 1
    assert holders[2, 3] == 4 and holders[0, 0] == 1
    parts = cells / holders
    expected = [[parts[r : r + 2, c : c + 2].sum() for c in range(7)] for r in range(4)]
    np.testing.assert_allclose(found.windows[0], expected, rtol=1e-4, atol=1e-7)
    assert found.windows[0].sum() == pytest.approx(1.0, abs=1e-5)
    assert found.grid.shape == (5, 4, 7)
    np.testing.assert_allclose(np.diff(found.grid.row_edges)[1:-1], 8.0)


def test_what_behavior_does_through_the_modulator_is_not_the_tokens_share():
    of = spec()
    made = twin(vivit(tokenizer=STEM), of)
    with torch.no_grad():
        for index in (0, 1):  # behavior, the stem's map; what is left are the tokens behind the modulator
            made.readout("a").features[index].zero_()
    assert (attention_statistics.token_share(made, "a", clips(of)) < 0.999).all()


def test_tokens_that_say_nothing_have_no_share():
    of = spec()
    made = twin(MODELS_UNDER_CONTRACT["residual-stem"], of)
    unembed = made.core.tokenizer.unembed
    with torch.no_grad():
        unembed.weight.normal_()
        assert (attention_statistics.token_share(made, "a", clips(of)) > 0).all()
        unembed.weight.zero_()
    np.testing.assert_array_equal(attention_statistics.token_share(made, "a", clips(of)), 0.0)
