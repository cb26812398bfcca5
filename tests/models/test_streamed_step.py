"""A stream's step, exported with its state, gives the stream's rates for every kind of model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import BASIS, GRU, MODULATORS, RESIDUAL_STEM, STEM, TUBELET, factorized, resnet, twin, vivit

from vivit_core.models import streamed_step
from vivit_core.models.streamed_step import export_step, noise
from vivit_core.models.streaming import Stream

MODELS: dict[str, Any] = {
    "vivit": vivit(tokenizer=TUBELET | {"patch_size": [3, 4, 4]}, spatial_depth=1, temporal_depth=1, window=8),
    "stem": vivit(tokenizer=RESIDUAL_STEM | {"patch_size": [2, 4, 8]}, frontend=BASIS, window=6, modulator=None),
    "resnet": resnet(tokenizer=STEM | {"patch_size": [2, 4, 4]}, frontend=BASIS),
    "factorized": factorized(),
    "gru": factorized(modulator=MODULATORS["gru"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_exported_steps_give_the_streams_rates(name: str) -> None:
    """On an own stream, from the same gray begin on, for longer than ``export_step`` itself compares."""
    model = twin(MODELS[name])
    made = export_step(model, "a")
    period = model.core.stride
    assert len(made.programs) == period
    own, rng = model.specs["a"], np.random.default_rng(5)
    stream = model.stream("a")
    for _ in range(200 * period):
        stream.step(np.full(own.frame_shape, own.pixel_mean, np.float32), np.array(own.behavior_mean))
    steps, state = [program.module() for program in made.programs], made.state
    ranges = []
    for number in range(10 * period):
        frame, behavior = noise(own, rng)
        with torch.no_grad():
            rates, *state = steps[number % period](torch.as_tensor(frame), torch.as_tensor(behavior), *state)
        expected = stream.step(frame, behavior)
        assert np.abs(rates.numpy() - expected).max() <= 1e-4 * expected.max()
        ranges.append(expected)
    assert np.ptp(ranges, axis=0).min() > 0


def test_a_model_that_never_forgets_is_refused() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streamed_step, "MOST_BINS", 60)
        with pytest.raises(ValueError, match=r"still grows after 60 bins, .* train with a model\.window"):
            export_step(twin(vivit(window=None)), "a")
    with pytest.raises(ValueError, match="acausal"):
        export_step(twin(vivit(causal=False)), "a")


def hidden(stream: Stream) -> Callable[[Any, Any], Any]:
    """A modulator that counts bins where nobody looks: in a dict."""
    before, counted = stream.modulator, {"bins": 0}

    def advance(maps: Any, behavior: Any) -> Any:
        counted["bins"] += 1
        return before(maps, behavior + counted["bins"] % 7)

    return advance


@pytest.mark.slow
def test_a_state_that_is_not_found_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = twin(vivit(tokenizer=TUBELET | {"patch_size": [2, 4, 4]}, window=4, modulator=GRU))
    made = type(model).stream

    def stream(self: Any, name: str) -> Stream:
        own = made(self, name)
        own.modulator = hidden(own)
        return own

    monkeypatch.setattr(type(model), "stream", stream)
    with pytest.raises(ValueError, match=r"Hz from the stream's; one of its parts keeps its state"):
        export_step(model, "a")


def test_a_count_that_does_not_grow_evenly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = twin(vivit(window=8, modulator=None))
    made = type(model).stream

    def stream(self: Any, name: str) -> Stream:
        own, count = made(self, name), 1
        core = own.core

        def doubling(frame: Any) -> Any:
            nonlocal count
            count = count * 2 % 1009
            return core(frame)

        own.core = doubling
        return own

    monkeypatch.setattr(type(model), "stream", stream)
    with pytest.raises(ValueError, match="a number that this model counts does not grow evenly"):
        export_step(model, "a")
