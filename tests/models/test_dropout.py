"""What is dropped: how much, independently of what, and never in evaluation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import ATTENTION, STEM, batch, spec, twin, vivit

from vivit_core.models.dropout import draw_seeds, drop


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
        {"attention": ATTENTION | {"dropout": 0.5}},
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
