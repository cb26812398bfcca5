"""A time limit becomes a number of steps, over which the learning rate falls; the clock is faked."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from test_resume import outcome, same
from tiny_training import SignalAt, train

from vivit_core.system.stops import TrainingStopped
from vivit_core.training.budget import DECIDES_AT, LATEST, Plan, TimeBudget
from vivit_core.training.callbacks.checkpoints import has_ended
from vivit_core.training.callbacks.early_stopping import early_end

EPOCHS, STEPS = 5, 8  # at most 40


class Clock(Callback):
    """Time that passes with the training alone: ``step_s(step)`` for each step, ``validation_s`` for each batch of a
    validation."""

    def __init__(self, step_s: Any = lambda step: 1.0, validation_s: float = 0.4) -> None:
        self.now, self.step_s, self.validation_s = 1000.0, step_s, validation_s

    def __call__(self) -> float:
        return self.now

    def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
        self.now += self.step_s(trainer.global_step)

    def on_validation_batch_end(self, *args: Any, **options: Any) -> None:
        self.now += self.validation_s


def trained(folder: Path, limit_s: float, clock: Clock | None = None, **options: Any) -> tuple[Any, ...]:
    """A training under a limit; what it said of its steps comes last."""
    clock, said = clock or Clock(), []
    budget = TimeBudget(limit_s, EPOCHS * STEPS, lambda budget, line: said.append(line), clock)
    callbacks = [clock, *options.pop("callbacks", [])]
    settings = {"module": {"budget": budget}, "callbacks": callbacks, **options}
    return *train(folder, EPOCHS, STEPS, **settings), clock, said


@pytest.mark.parametrize(("limit_s", "steps"), [(30.0, 26), (12.0, 11), (1.0, 11), (1000.0, 40)])
def test_it_ends_in_time_and_cooled_down(tmp_path: Path, limit_s: float, steps: int) -> None:
    module, trainer, record, clock, said = trained(tmp_path, limit_s)
    assert trainer.global_step == module.steps == steps and early_end(trainer) is None
    # A step takes 1 s, two batches of validation for eight steps 0.1 s a step.
    kept = "in at most" if limit_s > 1 else "no fewer: about 0:12 min"
    assert (
        said[0].replace(",", "").startswith(f"{steps}{' of 40' if steps < 40 else ''} steps {kept}") and len(said) == 1
    )
    assert clock.now - 1000 <= max(limit_s, DECIDES_AT + 1) + 2 * 0.8  # the last validations are whole
    lr, least = record.learning_rates, 0.1 * module.optimization.lr
    assert lr[-1] == pytest.approx(least) and max(lr) == pytest.approx(module.optimization.lr, rel=0.1)
    assert len(record.scores) == math.ceil(steps / STEPS)  # one of them at the last step
    last = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert last["global_step"] == steps and has_ended(last, EPOCHS * STEPS)


@pytest.mark.slow
def test_without_a_limit_or_with_time_for_all_nothing_is_another(tmp_path: Path) -> None:
    plain = train(tmp_path / "plain", EPOCHS, STEPS)
    module, trainer, record, *_ = trained(tmp_path / "all", 1000.0)
    assert same(outcome(*plain[:2]), outcome(module, trainer)) and plain[2].learning_rates == record.learning_rates


@pytest.mark.parametrize(
    "stops", [[(0, 1)], [(0, 3), (1, 0)], [(1, 1)], [(1, 3), (2, 2)], [(0, 0), (0, 2), (0, 4), (0, 6), (1, 2)]]
)
def test_interrupted_at_any_step_it_ends_as_one_that_decided_the_same(tmp_path: Path, stops: Any) -> None:
    """Before the decision, at it (its last step is the second epoch's second), and after it."""
    whole = trained(tmp_path / "whole", 30.0)
    resume, decisions = None, []
    for stop in stops:
        with pytest.raises(TrainingStopped) as caught:
            *_, said = trained(tmp_path / "parts", 30.0, callbacks=[SignalAt(*stop)], resume=resume)
        resume = caught.value.checkpoint
    *parts, record, _, said = trained(tmp_path / "parts", 30.0, resume=resume)
    decisions += said
    assert parts[0].steps == whole[0].steps and len(decisions) <= 1
    expected, got = outcome(*whole[:2]), outcome(*parts)
    for name in expected:
        assert same(expected[name], got[name]), name
    assert record.learning_rates[-3:] == whole[2].learning_rates[-3:]


def followed(
    stops: set[int], step_s: Any, limit_s: float = 126.0, every: int = 108, validation_s: float = 8.0,
    reckoned_s: float | None = None, said: list[str] | None = None,
) -> tuple[int, float]:  # fmt: skip
    """Steps and seconds of a training that is stopped and continued after some steps, without a training."""
    now, passes = [0.0], (validation_s if reckoned_s is None else reckoned_s) / 0.4 / every
    lost, lines = 0.0, [] if said is None else said
    most, resume = 648, None

    def made() -> TimeBudget:
        return TimeBudget(limit_s, most, lambda budget, line: lines.append(line), lambda: now[0])

    budget = made()
    budget.begin(0)
    for step in range(1, most + 1):
        now[0] += step_s(step)
        if budget.made(step) and (proposal := budget.proposal(step, passes, 0.0, every)) is not None:
            budget.take(proposal)
        if step % every == 0 or step == budget.steps:
            budget.validation_begins()
            now[0] += validation_s
            budget.validation_ends()
        if step == budget.steps:
            break
        if step in stops:
            resume, now[0], lost = budget.state_dict(), now[0] + 1000, lost + 1000
            budget = made()
            budget.load_state_dict(resume)
            budget.begin(step)
    assert budget.steps is not None
    return budget.steps, now[0] - lost


def test_the_share_of_what_follows_is_kept_with_the_steps() -> None:
    said: list[str] = []
    budget = TimeBudget(100.0, 1000, lambda budget, line: said.append(line))
    budget.take(Plan(20, 1.0, 0.4))
    assert said[0].endswith("; the last fit has time for 40% of its training trials")
    state, again, other = budget.state_dict(), TimeBudget(100.0, 1000), TimeBudget(200.0, 1000)
    again.load_state_dict(state)
    other.load_state_dict(state)  # which decides for itself
    assert (again.steps, again.share, other.steps, other.share) == (20, 0.4, None, 1.0)


def test_neither_an_interruption_nor_a_slow_step_shortens_it() -> None:
    """Wherever it is stopped: before a validation that takes as long as eight steps, and after it."""

    def evenly(step: int) -> float:
        return 1.0

    whole, _ = followed(set(), evenly)
    assert whole == 110
    assert {followed({stop}, evenly)[0] for stop in range(1, whole)} == {whole}
    assert followed({67}, lambda step: 4.0 if step == 70 else 1.0)[0] == whole
    assert followed({67}, lambda step: 1.0 if step < 70 else 3.0)[0] < 100  # a machine that has become slower


def test_validations_that_take_longer_than_reckoned_shorten_it_once() -> None:
    said: list[str] = []
    steps, took_s = followed(set(), lambda step: 1.0, 600.0, 20, 40.0, reckoned_s=8.0, said=said)
    assert len(said) == 2 and "it takes longer than was reckoned (3 s a step" in said[1]
    assert 190 < steps < 230 and took_s <= LATEST * 600


def test_what_compiling_takes_does_not_count(tmp_path: Path) -> None:
    module, *_ = trained(tmp_path, 85.0, Clock(lambda step: 50.0 if step == 0 else 1.0, 0.0))
    assert module.steps == 36  # 59 s for ten steps, then 1 s each; the first validation took no time


@pytest.mark.parametrize("slower", [1.15, 2.0, 6.0])
def test_a_machine_that_becomes_slower_ends_late_by_a_stated_share_and_cooled_down(
    tmp_path: Path, slower: float
) -> None:
    clock = Clock(lambda step: 1.0 if step < 12 else slower)
    module, trainer, record, clock, said = trained(tmp_path, 40.0, clock)
    took = clock.now - 1000
    assert record.learning_rates[-1] == pytest.approx(0.1 * module.optimization.lr)
    assert (len(said) > 1) == (slower > 1.2) and trainer.global_step == module.steps
    assert took <= LATEST * 40 + 2 * DECIDES_AT * slower  # it looks every ten steps, and cools down over as many
    if slower > 1.2:
        assert "it takes longer than was reckoned" in said[1] and f"{module.steps} steps instead of 36" in said[-1]


def test_another_limit_is_another_decision(tmp_path: Path) -> None:
    with pytest.raises(TrainingStopped) as caught:
        trained(tmp_path, 30.0, callbacks=[SignalAt(1, 4)])
    module, trainer, _, _, said = trained(tmp_path, 1000.0, resume=caught.value.checkpoint)
    assert module.steps == trainer.global_step == 40 and len(said) == 1


def test_a_budget_that_cannot_be_is_refused() -> None:
    budget = TimeBudget(30.0, 40)
    with pytest.raises(ValueError, match="a budget of 41 of 40 steps"):
        budget.load_state_dict({**budget.state_dict(), "steps": 41})
    with pytest.raises(ValueError, match=r"keeps time for 1\.5 of the last fit"):
        budget.load_state_dict({**budget.state_dict(), "share": 1.5})
