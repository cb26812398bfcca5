"""The average of the weights: against a plain float64 average, beside an undisturbed training, and resumed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from test_resume import outcome, same
from tiny_training import BURN_IN, SignalAt, Validation, make_twin, optimization, train

from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.likelihoods.loss import counted
from vivit_core.models.load import load_twin
from vivit_core.system.stops import TrainingStopped
from vivit_core.training.callbacks.averaging import Averaging
from vivit_core.training.module import TwinModule, validation_numbers

DECAY = 0.8


class Weights(Callback):
    """The weights after each step; saves a checkpoint then, before the average has taken them in."""

    def __init__(self, path: Any) -> None:
        self.path = path
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *args: Any) -> None:
        if trainer.global_step > len(self.steps):
            self.steps.append({name: p.detach().double().clone() for name, p in module.twin.named_parameters()})
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_average_is_that_of_the_steps(tmp_path, accumulate):
    weights = Weights(tmp_path / "step.ckpt")
    lit, _, _ = train(tmp_path, accumulate=accumulate, callbacks=[weights, Averaging(DECAY)])
    plain, _, _ = train(tmp_path / "plain", accumulate=accumulate)
    assert same(lit.state_dict(), plain.state_dict())  # the training goes its way

    assert len(weights.steps) == 12
    expected = weights.steps[0]
    for step in weights.steps[1:]:
        expected = {name: DECAY * expected[name] + (1 - DECAY) * value for name, value in step.items()}
    for checkpoint in ("last.ckpt", "step.ckpt"):
        average = dict(load_twin(tmp_path / checkpoint, average=True).named_parameters())
        for name, value in expected.items():
            torch.testing.assert_close(average[name].double(), value, rtol=1e-5, atol=1e-6)
    assert same(load_twin(tmp_path / "last.ckpt").state_dict(), lit.twin.state_dict())


def test_both_are_validated(tmp_path):
    _, trainer, _ = train(tmp_path, callbacks=[Averaging(DECAY)])
    for prefix, average in (("val", False), ("val_ema", True)):
        twin = load_twin(tmp_path / "last.ckpt", average=average)
        metrics = {name: StreamedScores(spec.n_units, twin.likelihood(name)) for name, spec in twin.specs.items()}
        for batch in Validation():
            with torch.no_grad():
                for name, predicted in twin(batch).items():
                    metrics[name].update(*counted(predicted, batch[name], BURN_IN))
        expected = validation_numbers(metrics)
        assert {"bps_a", "bps_b", "bps_mean", "corr_mean", "loss", "units_silent"} == set(expected)
        for name, value in expected.items():
            assert float(trainer.callback_metrics[f"{prefix}/{name}"]) == pytest.approx(value, rel=1e-5), name
    assert trainer.callback_metrics["val/bps_mean"] != trainer.callback_metrics["val_ema/bps_mean"]


def test_the_average_resumes_exactly(tmp_path):
    whole = train(tmp_path / "whole", callbacks=[Averaging(DECAY)])
    with pytest.raises(TrainingStopped) as caught:
        train(tmp_path / "parts", callbacks=[Averaging(DECAY), SignalAt(1, 1)])
    parts = train(tmp_path / "parts", callbacks=[Averaging(DECAY)], resume=caught.value.checkpoint)
    assert same(outcome(*whole[:2]), outcome(*parts[:2]))
    averages = [read_checkpoint(tmp_path / run / "last.ckpt")["average"] for run in ("whole", "parts")]
    assert same(*averages) and averages[0]["steps"] == 12
    scores = [run[1].callback_metrics["val_ema/bps_mean"] for run in (whole, parts)]
    assert scores[0] == scores[1]


def test_half_a_step_after_going_on_is_no_step():
    """Where batches are accumulated, the first of them after a checkpoint has not changed the weights."""
    lit, checkpoint = TwinModule(make_twin(), optimization(), BURN_IN, 1, 4), dict[str, Any]()
    before, after = Averaging(DECAY), Averaging(DECAY)
    for averaging, steps in ((before, [1, 2]), (after, [2, 3])):
        averaging.setup(None, lit, "fit")
        if averaging is after:
            averaging.on_load_checkpoint(None, lit, checkpoint)
        for step in steps:
            averaging.on_train_batch_end(SimpleNamespace(global_step=step), lit, None, None, 0)
        averaging.on_save_checkpoint(SimpleNamespace(global_step=steps[-1]), lit, checkpoint)
    assert checkpoint["average"]["steps"] == checkpoint["average"]["last_step"] == 3


def test_where_there_is_no_average_it_is_said(tmp_path):
    train(tmp_path, epochs=1, steps=1)
    with pytest.raises(ValueError, match="holds no averaged weights; callbacks=ema"):
        load_twin(tmp_path / "last.ckpt", average=True)
    with pytest.raises(ValueError, match="continue with the callbacks"):
        train(tmp_path, epochs=1, steps=1, callbacks=[Averaging(DECAY)], resume=tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"decay=1 must lie between 0 and 1"):
        Averaging(1)
