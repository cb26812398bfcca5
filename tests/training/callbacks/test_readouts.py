"""The readouts' last fit: when the last step is made, once, and what it may cost."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from test_history_fit import SPIKES, shared
from test_latent_fit import NODE as LATENT
from test_latent_fit import sharing
from test_readout_fit import BURN_IN, CLIP, blank, recorded
from tiny_training import make_twin, optimization
from torch.optim.swa_utils import AveragedModel

from vivit_core.models.twin import Twin
from vivit_core.training import latent_fit
from vivit_core.training.beside_rates import fit_beside_rates
from vivit_core.training.budget import AFTER, FORWARD, Plan, TimeBudget
from vivit_core.training.callbacks import readouts
from vivit_core.training.callbacks.averaging import Averaging
from vivit_core.training.callbacks.readouts import FitReadouts
from vivit_core.training.module import TwinModule
from vivit_core.training.readout_fit import fit_readout

TWIN = [
    "model.embedding_dim=24", "model.attention.heads=2", "model.spatial_depth=1", "model.temporal_depth=1",
    "model.tokenizer.stem.channels=4", "model.tokenizer.widths=[4]", "model.compile=false", "baseline=null",
    "trainer.device=cpu", "trainer.epochs=2", "trainer.steps_per_epoch=6", "trainer.batch_size=4",
    "trainer.max_minutes=inf", "callbacks.pictures=null",
]  # fmt: skip


def weights(run: Path, average: bool = False) -> dict[str, torch.Tensor]:
    content: dict[str, Any] = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    own: dict[str, torch.Tensor] = (content["average"] if average else content)["state_dict"]
    return own


@pytest.mark.slow
def test_the_last_step_is_followed_by_a_fit_and_then_by_a_validation(
    command: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    scores = {}
    for name, words in {"fitted": ["callbacks.readouts.bins=4000"], "plain": ["callbacks.readouts=null"]}.items():
        code, printed = command(*tiny, *TWIN, "callbacks=ema", *words, f"hydra.run.dir={name}")
        assert code == 0, printed
        assert printed.count("the readouts' last fit begins") == (name == "fitted")
        lines = [line for line in printed.splitlines() if line.startswith("epoch ")]
        scores[name] = [line.split("val/bps_mean")[1].split()[0] for line in lines]
    assert scores["fitted"][0] == scores["plain"][0] and float(scores["fitted"][1]) != float(scores["plain"][1])
    for average in (False, True):
        fitted, plain = weights(tmp_path / "fitted", average), weights(tmp_path / "plain", average)
        moved = {name for name in plain if not torch.equal(plain[name], fitted[name])}
        readouts = {name for name in moved if ".readouts." in name and (".features." in name or ".bias" in name)}
        filters = {name for name in moved if ".own_filters." in name and name.endswith((".weight", ".gain"))}
        assert readouts and filters and readouts | filters == moved


@pytest.mark.parametrize("bins", [0, -1])
def test_a_number_below_one_is_refused(bins: int) -> None:
    with pytest.raises(ValueError, match=r"callbacks\.readouts\.bins=.*callbacks\.readouts=null"):
        FitReadouts(bins)


def test_time_is_kept_for_it() -> None:
    """Of 1000 steps of a second each, 100 fit into 100 s; less what follows the last one, at most six tenths."""

    def planned(last_passes: float, fits: int = 1, most: int = 1000) -> Plan:
        now = [0.0]
        budget = TimeBudget(100.0, most, clock=lambda: now[0])
        budget.begin(0)
        for step in range(1, 11):
            now[0] += 1.0
            asked = budget.made(step)
        assert asked
        proposal = budget.proposal(10, 0.0, last_passes, every=10, fits=fits)
        assert proposal is not None
        return proposal

    def steps(last_passes: float, fits: int = 1) -> int:
        return planned(last_passes, fits).steps

    assert steps(0.0) == 100 and planned(0.0).share == 1.0
    assert steps(10.0) == 100 - math.ceil(10 * FORWARD)
    assert steps(1e6) == 100 - 100 * AFTER
    assert steps(10.0, fits=2) == steps(10.0)
    for_one, for_two = 100 - steps(1e6), 100 - steps(1e6, fits=2)
    assert for_two / steps(1e6, fits=2) == pytest.approx(2 * for_one / steps(1e6), rel=0.05)  # each beside its steps
    assert planned(10.0).share == 1.0
    assert planned(100 * 2 * AFTER / FORWARD).share == pytest.approx(0.5)
    few = planned(80 / FORWARD, most=30)  # steps leave more time than its share
    assert (few.steps, few.share) == (30, pytest.approx(70 / 80))


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


class Module:
    """What the callback asks a training's module for."""

    steps, teacher, budget = 10, None, None
    last_passes, last_fits, follow_with, last_share = 0.0, 1, TwinModule.follow_with, TwinModule.last_share

    def __init__(self, twin: Twin) -> None:
        self.twin = twin


def trainer(zero: bool = True, sent: Callable[[Any], Any] = lambda own: own, *callbacks: Any) -> Any:
    """The same of its trainer, in one of two processes."""
    return SimpleNamespace(
        sanity_checking=False, global_step=10, is_global_zero=zero, strategy=SimpleNamespace(broadcast=sent),
        world_size=2, accumulate_grad_batches=1, callbacks=callbacks,
    )  # fmt: skip


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was fitted of which twin, to what, in clips of how many bins, and to how many."""
    called: list[tuple[Any, ...]] = []
    trials = SimpleNamespace(of=lambda split: SimpleNamespace(n_bins=5000))
    recordings = [SimpleNamespace(info=SimpleNamespace(trials=trials, recording_id=name)) for name in "ab"]
    data = SimpleNamespace(
        recordings=recordings, clip_length=60, burn_in=20, evaluation_length=240, evaluation_burn_in=20, batch_size=4
    )
    monkeypatch.setattr(readouts, "data_of", lambda trainer: data)
    monkeypatch.setattr(readouts, "TwinModule", Module)
    for name in ("fit_readout", "fit_beside_rates"):
        monkeypatch.setattr(
            readouts, name, lambda twin, recording, *clips, name=name: called.append((name, recording, *clips, twin))
        )
    return called


def test_the_first_process_fits_readouts_and_then_what_is_beside_the_rates(fits: list[tuple[Any, ...]]) -> None:
    callback = FitReadouts(700)
    callback.on_validation_start(trainer(), Module(make_twin(history=SPIKES)))  # type: ignore[arg-type]
    assert [(name, recording.info.recording_id) for name, recording, *_ in fits] == [
        ("fit_readout", "a"), ("fit_beside_rates", "a"), ("fit_readout", "b"), ("fit_beside_rates", "b"),
    ]  # fmt: skip
    assert {(name, *clips) for name, _, *clips, _ in fits} == {
        ("fit_readout", 240, 20, 700), ("fit_beside_rates", 240, 20, 350),
    }  # fmt: skip
    fits.clear()
    FitReadouts(100_000).on_validation_start(trainer(), Module(make_twin()))  # type: ignore[arg-type]
    assert {bins for *_, bins, _ in fits} == {5000, 2500}  # all that there are
    fits.clear()
    hurried = Module(make_twin())
    hurried.budget = SimpleNamespace(steps=10, step_s=1.0, share=0.3)  # type: ignore[assignment]
    FitReadouts(100_000).on_validation_start(trainer(), hurried)  # type: ignore[arg-type]
    assert {bins for *_, bins, _ in fits} == {1500, 750}
    fits.clear()
    taught = Module(make_twin())
    taught.teacher = object()  # type: ignore[assignment]
    callback.on_validation_start(trainer(), taught)  # type: ignore[arg-type]
    assert fits == []


def averaging_of(twin: Twin) -> Averaging:
    """As a training has it whose steps were all of these weights."""
    averaging = Averaging(0.9)
    averaging.average = AveragedModel(twin)
    return averaging


def test_an_average_is_fitted_too(fits: list[tuple[Any, ...]]) -> None:
    module = Module(make_twin(history=SPIKES))
    averaging = averaging_of(module.twin)
    FitReadouts(700).on_validation_start(trainer(True, lambda own: own, averaging), module)  # type: ignore[arg-type]
    trained, averaged = fits[:4], fits[4:]
    assert [own[:-1] for own in averaged] == [own[:-1] for own in trained] and len(averaged) == 4
    assert {own[-1] for own in trained} == {module.twin} and {own[-1] for own in averaged} == {averaging.twin}


def test_an_average_takes_the_weights_that_fit_its_own_core(
    tmp_path: Path, fits: list[tuple[Any, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those of what units share, for which gradients are followed."""
    monkeypatch.setattr(latent_fit, "STEPS", 3)
    twin = sharing()
    module = TwinModule(twin, optimization(), BURN_IN, 1, 4)
    averaging = Averaging(0.9)
    averaging.setup(None, module, "fit")  # type: ignore[arg-type]
    blank(averaging.twin)
    for own in averaging.twin.core.parameters():  # a core of its own
        own.data.mul_(1.1)
    expected = copy.deepcopy(averaging.twin)
    data = readouts.data_of(trainer())
    data.recordings = [recorded(tmp_path, lambda *given: shared(twin, *given))]
    data.evaluation_length, data.evaluation_burn_in = CLIP, BURN_IN
    bins = min(700, data.recordings[0].info.trials.of("train").n_bins)
    for name, fit in {"fit_readout": fit_readout, "fit_beside_rates": fit_beside_rates}.items():
        monkeypatch.setattr(readouts, name, fit)
        fit(expected, data.recordings[0], CLIP, BURN_IN, bins if name == "fit_readout" else bins // 2)
    monkeypatch.setattr(readouts, "TwinModule", TwinModule)
    FitReadouts(700).on_validation_start(trainer(True, lambda own: own, averaging), module)
    for name, value in expected.state_dict().items():
        assert torch.equal(averaging.twin.state_dict()[name], value), name
    for part in ("readouts", "latents"):
        trained, averaged = (next(getattr(own, part).parameters()) for own in (twin, averaging.twin))
        assert not torch.equal(trained, averaged), part


@pytest.mark.parametrize("averaged", [False, True])
def test_other_processes_take_over_all_that_was_fitted(fits: list[tuple[Any, ...]], averaged: bool) -> None:
    module = Module(make_twin(history=SPIKES, latent=LATENT))
    averaging = averaging_of(module.twin)
    twin = averaging.twin if averaged else module.twin
    before = {name: x.clone() for name, x in twin.state_dict().items()}

    def sent(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: x + 1 if x.is_floating_point() else x for name, x in own.items()}

    FitReadouts(700).on_validation_start(trainer(False, sent, averaging), module)  # type: ignore[arg-type]
    assert fits == []
    for name, value in twin.state_dict().items():
        same = torch.equal(value, before[name])
        assert same != (name.startswith(("readouts.", "histories.", "latents.")) and value.is_floating_point()), name


@pytest.mark.parametrize("parts", [{"history": SPIKES}, {"latent": LATENT}, {"history": SPIKES, "latent": LATENT}])
def test_what_is_fitted_beside_the_rates_costs_a_pass_of_half_the_clips_more(
    parts: dict[str, Any], fits: list[tuple[Any, ...]]
) -> None:
    module, plain = Module(make_twin(**parts)), Module(make_twin())
    for each in (module, plain):
        FitReadouts(100_000).reckon(trainer(), each)  # type: ignore[arg-type]
    assert plain.last_passes > 0
    assert module.last_passes == pytest.approx(plain.last_passes * (1.1 + 0.5) / 1.1, rel=0.01)
    alone = module.last_passes
    FitReadouts(100_000).reckon(trainer(True, lambda own: own, Averaging(0.9)), module)  # type: ignore[arg-type]
    assert module.last_passes == pytest.approx(2 * alone) and (module.last_fits, plain.last_fits) == (2, 1)
