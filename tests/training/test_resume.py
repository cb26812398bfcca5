"""Interrupted and resumed equals uninterrupted, to the bit."""

from __future__ import annotations

import csv
import signal
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from tiny_training import MUON, SignalAt, make_batch, spoil, train

from vivit_core.system.stops import STOPS, TrainingStopped
from vivit_core.training.callbacks import checkpoints
from vivit_core.training.metrics_file import MetricsFile


def outcome(module, trainer):
    keep = trainer.checkpoint_callback
    return {
        "weights": module.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "schedule": trainer.lr_scheduler_configs[0].scheduler.last_epoch,
        "best": float(keep.best_model_score),
        "kept": sorted((Path(path).name, float(score)) for path, score in keep.best_k_models.items()),
        "patience": trainer.early_stopping_callback.wait_count,
        "skipped": module.skipped_steps,
        "step": trainer.global_step,
        "epoch": trainer.current_epoch,
        "loader": trainer.train_dataloader.state_dict(),
    }


def same(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return a == b


def assert_continues(folder, stops, epochs=3, steps=4, **options):
    """Train in one go, and with an interruption at each of ``stops`` (epoch, batch)."""
    whole = train(folder / "whole", epochs, steps, **options)
    resume = None
    for stop in stops:
        with pytest.raises(TrainingStopped) as caught:
            train(
                folder / "parts",
                epochs,
                steps,
                resume=resume,
                **{**options, "callbacks": [*options.get("callbacks", []), SignalAt(*stop)]},
            )
        resume = caught.value.checkpoint
        assert resume == folder / "parts" / "last.ckpt"
    parts = train(folder / "parts", epochs, steps, resume=resume, **options)
    expected, got = outcome(*whole[:2]), outcome(*parts[:2])
    for name in expected:
        assert same(expected[name], got[name]), f"{name}: {expected[name]} in one go, {got[name]} resumed"
    assert whole[2].losses[len(whole[2].losses) - len(parts[2].losses) :] == parts[2].losses
    assert whole[2].scores[len(whole[2].scores) - len(parts[2].scores) :] == parts[2].scores
    assert names(folder / "parts") == names(folder / "whole")
    assert rows(folder / "parts") == rows(folder / "whole")
    return whole, parts


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def rows(folder):
    """What metrics.csv says, without what a clock measured."""
    with (folder / "metrics.csv").open(newline="") as file:
        found = [{k: v for k, v in row.items() if v and not k.startswith("system/")} for row in csv.DictReader(file)]
    steps = [int(row["step"]) for row in found]
    assert steps == list(range(len(steps)))  # each once
    return found


@pytest.mark.parametrize(
    ("accumulate", "stops"),
    [
        (1, [(0, 0)]),
        (1, [(1, 1), (1, 2), (2, 0)]),
        (1, [(1, 3)]),  # an epoch's last step: put off until the validation has counted
        (2, [(1, 2)]),  # in the middle of an accumulation
        (3, [(0, 1), (2, 7)]),
    ],
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, accumulate, stops):
    assert_continues(tmp_path, stops, accumulate=accumulate)


def test_muon_and_a_cool_down_resume(tmp_path):
    assert_continues(tmp_path, [(1, 1)], optim=MUON | {"cooldown_fraction": 0.4})


def test_a_scheduler_stops_it_after_the_last_step_too(tmp_path):
    """Because what follows may take longer than is left; Ctrl-C lets a training end there."""
    assert_continues(tmp_path, [(1, 2, signal.SIGUSR2), (2, 3, signal.SIGTERM)])
    train(tmp_path / "ended", callbacks=[SignalAt(2, 3, signal.SIGINT)])


def test_a_scheduler_may_send_several_signals(tmp_path):
    """Before a job is killed, SLURM sends SIGCONT and SIGTERM, and SIGUSR2 where it is asked to."""
    several = [SignalAt(1, 1, number) for number in (signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM)]
    with pytest.raises(TrainingStopped, match="after step 6 of 12") as stopped:
        train(tmp_path, callbacks=several)
    assert stopped.value.signals == {signal.SIGTERM, signal.SIGUSR2}


@pytest.mark.parametrize("stop", [(1, 0), (1, 1), (1, 2)])
def test_resume_around_validations_within_an_epoch(tmp_path, stop):
    whole, _ = assert_continues(tmp_path, [stop], val_check_interval=0.5)
    assert len(whole[2].scores) == 6


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1])
def test_other_signals_stop_like_ctrl_c(tmp_path, number):
    before = [signal.getsignal(number) for number in STOPS]
    with pytest.raises(TrainingStopped, match=r"after step 6 of 12 .*resume=auto"):
        train(tmp_path, callbacks=[SignalAt(1, 1, number)])
    assert [signal.getsignal(number) for number in STOPS] == before


def test_resume_from_the_checkpoint_of_an_epoch(tmp_path):
    """After a crash there is only what ModelCheckpoint wrote at the end of an epoch."""
    whole = train(tmp_path / "whole")

    class Crash(SignalAt):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            if (trainer.current_epoch, batch_idx) == self.at:
                raise RuntimeError("power failure")

    with pytest.raises(RuntimeError, match="power failure"):
        train(tmp_path / "parts", callbacks=[Crash(2, 1)])
    parts = train(tmp_path / "parts", resume=tmp_path / "parts" / "last.ckpt")
    expected, got = outcome(*whole[:2]), outcome(*parts[:2])
    for name in expected:
        assert same(expected[name], got[name]), name


class Killed(Callback):
    """A power failure in the last validation, or as a batch begins; what a clean end would write is not written."""

    def __init__(self, at=None):
        self.at = at

    def on_validation_start(self, trainer, module):
        if self.at is None and trainer.global_step == module.steps:
            raise RuntimeError("power failure")

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise RuntimeError("power failure")


@pytest.mark.parametrize(("accumulate", "safe_s", "at", "left"), [
    (1, 300.0, None, 11),  # before the last step, after which readouts are fitted
    (2, 300.0, None, 11),
    (1, 0.0, (1, 2), 6),  # after each step, but the one that has not ended
    (2, 0.0, (1, 5), 6),
])  # fmt: skip
def test_a_killed_training_loses_little(tmp_path, monkeypatch, accumulate, safe_s, at, left):
    whole = train(tmp_path / "whole", accumulate=accumulate)
    with monkeypatch.context() as patched, pytest.raises(RuntimeError, match="power failure"):
        patched.setattr(checkpoints, "SAFE_S", safe_s)
        patched.setattr(MetricsFile, "finalize", lambda *_: None)
        patched.setattr(MetricsFile, "save", lambda *_: None)  # it is written with checkpoints alone
        train(tmp_path / "parts", accumulate=accumulate, callbacks=[Killed(at)])
    last = tmp_path / "parts" / "last.ckpt"
    assert torch.load(last, weights_only=True)["global_step"] == left
    parts = train(tmp_path / "parts", accumulate=accumulate, resume=last)
    expected, got = outcome(*whole[:2]), outcome(*parts[:2])
    for name in expected:
        assert same(expected[name], got[name]), name
    assert names(tmp_path / "parts") == names(tmp_path / "whole")
    assert rows(tmp_path / "parts") == rows(tmp_path / "whole")


def test_resume_keeps_the_count_of_skipped_steps(tmp_path):
    def batches(k):
        batch = make_batch(k)
        if k == 1:
            spoil(batch)
        return batch

    _, parts = assert_continues(tmp_path, [(1, 0)], batches=batches)
    assert parts[0].skipped_steps == 1
