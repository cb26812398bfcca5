"""The readouts' last fit: when the last step is made, once, and what it may cost."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from vivit_core.training.budget import AFTER, FORWARD, TimeBudget
from vivit_core.training.callbacks.readouts import FitReadouts

TWIN = [
    "model.embedding_dim=24", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1",
    "model.tokenizer.stem.channels=4", "model.tokenizer.widths=[4]", "model.compile=false", "baseline=null",
    "trainer.device=cpu", "trainer.epochs=2", "trainer.steps_per_epoch=6", "trainer.batch_size=4",
    "trainer.max_minutes=inf", "callbacks.pictures=null",
]  # fmt: skip


def weights(run: Path, name: str = "last") -> dict[str, torch.Tensor]:
    content: dict[str, torch.Tensor] = torch.load(run / "checkpoints" / f"{name}.ckpt", weights_only=True)["state_dict"]
    return content


@pytest.mark.slow
def test_the_last_step_is_followed_by_a_fit_and_then_by_a_validation(
    command: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    scores = {}
    for name, words in {"fitted": ["callbacks.readouts.bins=4000"], "plain": ["callbacks.readouts=null"]}.items():
        code, printed = command(*tiny, *TWIN, *words, f"hydra.run.dir={name}")
        assert code == 0, printed
        assert printed.count("the readouts' last fit begins") == (name == "fitted")
        lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
        scores[name] = [line.split("val/bps_mean")[1].split()[0] for line in lines]
    assert scores["fitted"][0] == scores["plain"][0] and float(scores["fitted"][1]) != float(scores["plain"][1])
    fitted, plain = weights(tmp_path / "fitted"), weights(tmp_path / "plain")
    moved = {name for name in plain if not torch.equal(plain[name], fitted[name])}
    readouts = {name for name in moved if ".readouts." in name and (".features." in name or ".bias" in name)}
    filters = {name for name in moved if ".own_filters." in name and name.endswith((".weight", ".gain"))}
    assert readouts and filters and readouts | filters == moved


@pytest.mark.parametrize("bins", [0, -1])
def test_a_number_below_one_is_refused(bins: int) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.readouts\.bins=.*callbacks\.readouts=null"):
        FitReadouts(bins)


def test_time_is_kept_for_it() -> None:
    """Of 1000 steps of a second each, 100 fit into 100 s; less what follows the last one, at most three tenths."""

    def steps(last_passes: float) -> int:
        now = [0.0]
        budget = TimeBudget(100.0, 1000, clock=lambda: now[0])
        budget.begin(0)
        for step in range(1, 11):
            now[0] += 1.0
            asked = budget.made(step)
        assert asked
        proposal = budget.proposal(10, 0.0, last_passes, every=10)
        assert proposal is not None
        return proposal[0]

    assert steps(0.0) == 100
    assert steps(10.0) == 100 - math.ceil(10 * FORWARD)
    assert steps(1e6) == 100 - 100 * AFTER


def test_time_is_kept_for_it_where_the_machine_becomes_slower() -> None:
    """Of 90 planned steps, 70 are left that would end 114 s after the beginning: soon enough but for the fit's 13 s."""
    now = [0.0]
    budget = TimeBudget(100.0, 1000, clock=lambda: now[0])
    budget.begin(0)
    for step in range(1, 21):
        now[0] += 1.0 if step <= 10 else 1.3
        if budget.made(step):
            proposal = budget.proposal(step, 0.0, last_passes=25.0, every=10)
            assert proposal is not None
            budget.take(proposal)
            assert budget.steps == (90 if step == 10 else 20 + int((110 - 13 - 23) / 1.3))


def test_twins_whose_weights_are_no_regression_have_none() -> None:
    class Module:
        teacher: Any = None

    plain, taught = Module(), Module()
    taught.teacher = object()
    fit = FitReadouts(100)
    assert [fit.fits(module) for module in (plain, taught)] == [True, False]  # type: ignore[arg-type]
