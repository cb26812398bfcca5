"""What is said of a training's length before it begins."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from vivit_core.cli.foretold import Foretold, evaluation_s, foretold
from vivit_core.cli.schema import Budget
from vivit_core.system.work import Work
from vivit_core.training.budget import Plan, TimeBudget


@pytest.fixture
def ahead(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return lambda most_s, baseline=True, scored=True: Foretold(
        baseline=Work("LN", 10) if baseline else None,
        start=Work("starting values", 10),
        training=Work("training x", 100),
        evaluation=Work("evaluation x", 10) if scored else None,
        most_s=most_s,
    )


def test_a_machine_that_has_done_nothing_knows_the_limit_alone(ahead):
    assert ahead(870).line() == (
        "expected from here on: 14:30 min and what is unknown (the linear baseline (LN) unknown, starting values "
        "unknown, the training at most 14:30 min, the evaluation unknown)"
    )
    assert ahead(math.inf, baseline=False, scored=False).line() == (
        "expected from here on: unknown, because this machine has done nothing like it yet (starting values unknown, "
        "the training unknown)"
    )


def test_what_it_did_last_is_scaled_and_the_limit_cuts_it(ahead):
    for kind, amount, seconds in (("LN", 5, 30), ("starting values", 10, 3), ("training x", 50, 100)):
        Work(kind, amount).took(seconds)
    Work("evaluation x", 20).took(50.0)
    found = "the linear baseline (LN) 1:00 min, starting values 0:03 min, the training"
    assert ahead(math.inf).line() == f"expected from here on: 4:48 min ({found} 3:20 min, the evaluation 0:25 min)"
    assert ahead(60).line() == f"expected from here on: 2:28 min ({found} 1:00 min, the evaluation 0:25 min)"
    Work("evaluation y", 20).took(50.0)
    assert ahead(60, scored=False).line() == f"expected from here on: 2:03 min ({found} 1:00 min)"


def test_a_continued_training_takes_what_is_left_of_it():
    trials = SimpleNamespace(of=lambda split: SimpleNamespace(n_bins=1000))
    info = SimpleNamespace(frame_shape=(1, 3, 4), trials=trials, n_units=5)
    data = SimpleNamespace(
        recordings=[SimpleNamespace(info=info)], clip_length=10, scorable=lambda split: True,
        evaluation_dataloader=lambda split: range(7),
    )  # fmt: skip
    budget = Budget(4, 25, 2, 1, "32-true", 5.0)
    whole = foretold({}, {}, data, budget, "1 cpu", None)
    left = foretold({}, {}, data, budget, "1 cpu", {"global_step": 75, "budget": {"spent": 100.0}})
    assert whole.baseline is not None and whole.start is not None and whole.most_s == 300
    assert left.baseline is None and left.start is None and left.most_s == 200
    assert left.training.kind == whole.training.kind and left.training.amount == whole.training.amount / 4
    assert foretold({}, {}, data, budget, "4 cuda", None).training.kind != whole.training.kind
    assert "starting values" not in left.line()
    decided = {"spent": 310.0, "limit_s": 300.0, "most": 100, "steps": 80, "step_s": 2.0}
    late = foretold({}, {}, data, budget, "1 cpu", {"global_step": 75, "budget": decided})
    assert late.estimate_s == 10 and "the training 0:10 min" in late.line()
    found = TimeBudget(300.0, 100)
    assert evaluation_s(found, budget, data, 1) is None
    found.take(Plan(100, 2.0, 1.0))
    assert evaluation_s(found, budget, data, 4) == pytest.approx(4 * evaluation_s(found, budget, data, 1))
