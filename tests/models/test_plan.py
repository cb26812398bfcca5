"""The plan says what then happens."""

from __future__ import annotations

import pytest
import torch
from tiny_models import READOUT, STEM, batch, spec, twin, vivit

from vivit_core.models.plan import plan

SIZES = {"frame_shape": (1, 12, 16), "recordings": 2, "units": 5, "behavior_dim": 3, "clip_length": 16, "batch_size": 4}


@pytest.fixture(scope="module")
def bare():
    return plan(vivit(registers=0), READOUT, **SIZES)


def test_stages_have_the_shapes_of_the_real_pass(bare) -> None:
    shapes = {stage.name: stage.shape for stage in bare.stages}
    assert shapes["tokenizer"] == "(4, 4, 12, 16)"
    assert shapes["2 spatial blocks"] == "(16, 12, 16)"
    assert shapes["2 temporal blocks"] == "(48, 4, 16)"
    assert shapes["core"] == "(4, 16, 4, 3, 4)"
    assert shapes["2 readouts"] == "(2, 16, 5)"
    made = twin(vivit(registers=0), spec("a"), spec("b"))
    assert bare.parameters == sum(p.numel() for p in made.parameters())
    assert {stage.name: stage.tokens for stage in bare.stages}["tokenizer"] == 48


def test_flops_are_those_counted_by_hand() -> None:
    sizes = SIZES | {"behavior_dim": 0, "recordings": 1, "batch_size": 1}
    made = plan(vivit(registers=0, modulator=None), READOUT, **sizes)
    tokens, dim = 4 * 12, 16
    linear = tokens * (64 * dim + 4 * (3 * dim * dim + dim * dim + 8 * dim * dim))
    attention = 2 * (4 * 2 * 12 * 12 * dim) + 2 * (12 * 2 * 4 * 4 * dim)
    readout = 4 * 12 * dim * 5
    forward = 2 * (linear + attention + readout)
    of_the_video = 2 * tokens * 64 * dim  # the first layer's input needs no gradient
    assert made.flops == 3 * forward - of_the_video


def test_activations_are_those_the_pass_keeps() -> None:
    model = vivit(tokenizer=STEM, registers=0)
    made = twin(model, spec("a"), spec("b"))
    own = {p.untyped_storage().data_ptr() for p in made.parameters()}
    kept: dict[int, torch.Tensor] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        if x.untyped_storage().data_ptr() not in own:
            kept[x.untyped_storage().data_ptr()] = x
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        made(batch(spec("a"), spec("b"), bins=16))
    measured = sum(x.untyped_storage().nbytes() for x in kept.values())
    assert plan(model, READOUT, **SIZES).activation_bytes == pytest.approx(measured, rel=0.2)


def test_impossible_geometry_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="clip_length"):
        plan(vivit(), READOUT, **SIZES | {"clip_length": 4})
