"""``rates`` of a video that comes piece by piece are those of one pass."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import BASIS, LN, RESIDUAL_STEM, resnet, spec, twin, vivit

from vivit_core.models.ln import LN as LNModel

BINS = 45
RNG = np.random.default_rng(0)
FRAMES = RNG.integers(0, 255, (BINS, 12, 16), dtype=np.uint8)
BEHAVIOR = RNG.standard_normal((BINS, 3)).astype(np.float32)


def ln() -> LNModel:
    model = LNModel([spec()], duration_s=0.05, patch=5, nonlinearity=LN["nonlinearity"])
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0))
    return model


MODELS: dict[str, Any] = {
    "vivit": lambda: twin(vivit()),
    "stem": lambda: twin(vivit(tokenizer=RESIDUAL_STEM, frontend=BASIS)),
    "resnet": lambda: twin(resnet()),
    "ln": ln,
}


def cut(values: np.ndarray, *at: int) -> Any:
    return iter(np.split(values, at))


@pytest.mark.parametrize("at", [(20,), (1, 2, 3, 30), (0, 45)])
@pytest.mark.parametrize("kind", MODELS)
def test_pieces_of_any_length_give_the_rates_of_one_pass(kind: str, at: tuple[int, ...]) -> None:
    model = MODELS[kind]()
    whole = model.rates("a", FRAMES, BEHAVIOR)
    pieces = list(model.rates("a", cut(FRAMES, *at), cut(BEHAVIOR, *at), clip_length=BINS))
    assert [len(piece) for piece in pieces] == [len(piece) for piece in np.split(FRAMES, at)]
    assert np.abs(np.concatenate(pieces) - whole).max() <= 1e-4 * whole.max() and np.ptp(whole) > 0
    first = next(model.rates("a", (frame[None] for frame in FRAMES), (now[None] for now in BEHAVIOR), BINS))
    assert first == pytest.approx(whole[:1], rel=1e-4)


def test_rates_leave_each_part_in_training_or_evaluation_as_it_was() -> None:
    """A frozen core computes as in evaluation while the readouts train; after a refusal too."""
    model = MODELS["vivit"]().train()
    model.core.eval()
    modes = [part.training for part in model.modules()]
    model.rates("a", FRAMES[:9], BEHAVIOR[:9])
    assert [part.training for part in model.modules()] == modes and len(set(modes)) == 2
    model.core.norm.register_forward_hook(lambda *_: pytest.fail("as it should"))
    with pytest.raises(pytest.fail.Exception):
        model.rates("a", FRAMES[:9], BEHAVIOR[:9])
    assert [part.training for part in model.modules()] == modes


@pytest.mark.parametrize("kind", MODELS)
def test_no_frames_have_no_rates(kind: str) -> None:
    model = MODELS[kind]()
    whole, streamed = model.rates("a", FRAMES[:0], BEHAVIOR[:0]), model.stream("a").run(FRAMES[:0], BEHAVIOR[:0])
    assert whole.shape == streamed.shape == (0, 5) and whole.dtype == streamed.dtype
    model.predict = "last"
    with pytest.raises(ValueError, match="a video without a frame has no newest bin"):
        model.rates("a", FRAMES[:0], BEHAVIOR[:0])


def test_pieces_that_do_not_belong_together_are_refused() -> None:
    model = MODELS["vivit"]()
    with pytest.raises(ValueError, match="frames come piece by piece, and behavior at once"):
        model.rates("a", cut(FRAMES, 20), BEHAVIOR)
    with pytest.raises(ValueError, match="behavior comes piece by piece, and frames at once"):
        model.rates("a", FRAMES, cut(BEHAVIOR, 20))
    with pytest.raises(ValueError, match="behavior ends after 2 pieces"):
        list(model.rates("a", cut(FRAMES, 20, 30), cut(BEHAVIOR[:30], 20)))
    with pytest.raises(ValueError, match="the video ends, and behavior goes on"):
        list(model.rates("a", cut(FRAMES, 20), cut(np.tile(BEHAVIOR, (2, 1)), 20, BINS)))
    with pytest.raises(ValueError, match="20 bins of behavior, and 21 frames"):
        list(model.rates("a", cut(FRAMES, 21), cut(BEHAVIOR, 20)))
    with pytest.raises(ValueError, match=r"give \(bins, height, width\)"):
        list(model.rates("a", iter([FRAMES[0]]), iter([BEHAVIOR[:1]])))
    with pytest.raises(ValueError, match="does not know recording 'z'"):
        model.rates("z", cut(FRAMES, 20))
