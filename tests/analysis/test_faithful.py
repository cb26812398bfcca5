"""Masks on what a unit's map names: beside the twin itself, and beside maps that are right and wrong."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from test_surrounds import seeing, stripes
from tiny_models import MODELS_UNDER_CONTRACT, RESIDUAL_STEM, batch, clips, spec, twin, vivit

from vivit_core.analysis.attention import faithful
from vivit_core.analysis.attention.faithful import (
    Newest,
    faithfulness_of_cells,
    faithfulness_of_tokens,
    highest,
    moved,
    parts_of,
    relevance_of_tokens,
)
from vivit_core.models.cores.vivit import ViViT
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

ATTENDING = {name: model for name, model in MODELS_UNDER_CONTRACT.items() if "ViViT" in model["_target_"]}


def newest_log_rates(made: Twin, given: Clips) -> torch.Tensor:
    with torch.no_grad():
        return made({"a": given})["a"][:, -1].log()


def lively(made: Twin) -> Twin:
    """Of which every number is read."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return made.eval()


@pytest.mark.parametrize("model", ATTENDING.values(), ids=ATTENDING)
def test_with_nothing_masked_the_newest_rate_is_the_twin_s(model):
    made = lively(twin(model))
    if not isinstance(made.core, ViViT) or made.predict != "all" or made.histories is not None:
        pytest.skip("no newest bin of its own")
    given = clips(spec(), count=1)
    newest = Newest(made, "a", given)
    with torch.no_grad():
        found = newest.with_tokens(torch.ones(2, *newest.x_BTND.shape[1:3]))
        torch.testing.assert_close(found, newest_log_rates(made, given).expand(2, -1))
        if newest.faded is not None:
            found = newest.with_cells(torch.ones(2, *newest.faded.shape[-2:]))
            torch.testing.assert_close(found, newest_log_rates(made, given).expand(2, -1))


def test_masked_tokens_are_zeros_before_the_blocks():
    made, given = lively(twin(vivit(tokenizer=RESIDUAL_STEM))), clips(spec(), count=1)
    newest = Newest(made, "a", given)
    mask = (torch.rand(1, *newest.x_BTND.shape[1:3]) > 0.5).float()
    hook = made.core.tokenizer.register_forward_hook(
        lambda part, inputs, tokens: replace(tokens, x_BTND=tokens.x_BTND * mask[..., None])
    )
    try:
        expected = newest_log_rates(made, given)
    finally:
        hook.remove()
    with torch.no_grad():
        torch.testing.assert_close(newest.with_tokens(mask), expected)
    assert not torch.allclose(expected, newest_log_rates(made, given))


def test_relevance_is_the_slope_of_the_log_rate(monkeypatch):
    """Beside differences, in several passes as in one; blocks are left as they were."""
    made, given = lively(twin(vivit(tokenizer=RESIDUAL_STEM))), clips(spec(), count=1)
    newest = Newest(made, "a", given)
    found = relevance_of_tokens(newest, [3, 0, 4])
    assert found.shape == (3, *newest.x_BTND.shape[1:3]) and found.max() > 0 and not made.core.checkpointing
    step, mask = 0.02, torch.ones(1, *newest.x_BTND.shape[1:3])
    with torch.no_grad():
        for at in np.ndindex(*mask.shape[1:]):
            more, less = mask.clone(), mask.clone()
            more[0, *at] += step
            less[0, *at] -= step
            slope_U = (newest.with_tokens(more) - newest.with_tokens(less))[0] / (2 * step)
            np.testing.assert_allclose(found[:, *at], slope_U[[3, 0, 4]].abs(), atol=2e-3 * found.max())
    monkeypatch.setattr(faithful, "AT_ONCE", 2)
    np.testing.assert_allclose(relevance_of_tokens(newest, [3, 0, 4]), found, rtol=1e-4, atol=1e-7)


def test_a_tenth_of_what_is_allowed_is_masked():
    scores, allowed = np.arange(60.0).reshape(2, 5, 6), np.ones((2, 5, 6), bool)
    allowed[0, 4] = False
    found = highest(scores, allowed)
    assert found.sum((1, 2)).tolist() == [3, 3]
    assert scores[0][found[0]].tolist() == [21, 22, 23] and scores[1][found[1]].tolist() == [57, 58, 59]
    allowed[:] = False
    allowed[0, 0, 0] = True
    assert highest(scores, allowed).sum() == 1


def test_a_right_map_moves_the_rate_and_a_wrong_one_does_not(monkeypatch):
    """Two units that depend on one place each."""
    monkeypatch.setattr(faithful, "AT_ONCE", 1)
    of_unit = torch.zeros(2, 4, 5)
    of_unit[0, 1, 2], of_unit[1, 3, 3] = 1.0, 2.0
    right = of_unit.numpy()
    allowed = np.ones(right.shape, bool)
    found = moved(
        lambda mask: torch.einsum("brs,urs->bu", mask, of_unit),
        [0, 1],
        {"right": right, "wrong": -right},
        allowed,
        np.random.default_rng(0),
    )
    np.testing.assert_allclose(found["right"], [1, 2])
    np.testing.assert_allclose(found["wrong"], 0)
    assert (found["random"] <= [0.5, 1.0]).all()


def test_cells_that_are_alike_count_for_a_unit_that_reads_them():
    """Bars lie around the unit on the left, and stand on the right."""
    of = spec(height=32, width=64)
    made = seeing(of)
    right = np.broadcast_to(np.arange(64) >= 40, (32, 64))
    with torch.no_grad():
        made.readout("a").mean.copy_(torch.tensor([[20.0, 16.0]]).expand(5, 2))
        (gains,) = (own for own in made.readout("a").features if own.shape[1] == 7)
        for own in made.readout("a").features:
            own.zero_()
        gains[:, 0] = 1.0  # the gate of what is alike
    frames = torch.as_tensor(stripes(32, 64, right)).expand(1, 1, 16, 32, 64)
    clip = Clips(frames=frames, behavior=clips(of, count=1, bins=16)["behavior"])
    found = faithfulness_of_cells(made, "a", clip, [0, 3])
    assert found is not None
    told = found.summary()
    assert told["units"] == 2 and told["above_random"]["alike"] == 1.0
    assert told["moved"]["alike"] > 1.3 * told["moved"]["random"] > 0
    assert faithfulness_of_cells(made, "a", clip, []) is None
    assert faithfulness_of_cells(seeing(of, reach=None), "a", clip, [0]) is None


def test_tokens_of_the_gradient_count_more_than_random_ones():
    made = lively(twin(vivit(tokenizer=RESIDUAL_STEM), spec(height=32, width=48)))
    given = batch(spec(height=32, width=48), count=1)["a"]
    found = faithfulness_of_tokens(made, "a", given, [1, 2, 4])
    assert found is not None and set(found.named) == {"rollout", "gradient"}
    assert found.summary()["above_random"]["gradient"] == 1.0
    again = faithfulness_of_tokens(made, "a", given, [1, 2, 4])
    assert again is not None and again.random.tolist() == found.random.tolist()


def test_moments_lie_in_a_clip_s_second_half():
    given = clips(spec(), count=2, bins=17)
    parts = parts_of(given, 4)
    assert [part["frames"].shape[2] for part in parts] == [11, 13, 15, 17]
    assert all(len(part["frames"]) == 1 and part["behavior"].shape[1] == part["frames"].shape[2] for part in parts)
