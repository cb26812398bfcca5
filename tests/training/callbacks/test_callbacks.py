"""What a person at the terminal sees: the progress, Ctrl-C once, Ctrl-C twice."""

from __future__ import annotations

import io
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from rich.console import Console
from tiny_training import SignalAt, train

from vivit_core.system.stops import STOPS, Stopped, TrainingStopped
from vivit_core.training.callbacks.early_stopping import EarlyStopping, early_end, never_scored
from vivit_core.training.callbacks.progress import TrainingProgress
from vivit_core.training.callbacks.stop_signals import StopSignals

TESTS = Path(__file__).parents[1]


def start(folder):
    """A training in another process, when it has made its first steps."""
    process = subprocess.Popen(
        [sys.executable, TESTS / "tiny_training.py", folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("step 3"):
            return process
    raise AssertionError(process.stderr.read())


@pytest.mark.slow
def test_one_ctrl_c_stops_with_a_checkpoint_and_a_summary(tmp_path):
    process = start(tmp_path)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "SIGINT: stopping after this step" in err
    step = int(re.search(r"stopped: stopped after step (\d+) of 40000 .*last.ckpt", out).group(1))
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == step


def test_a_second_ctrl_c_leaves_at_once(tmp_path):
    class Hang(SignalAt):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            if (trainer.current_epoch, batch_idx) == self.at:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(60)

    before = signal.getsignal(signal.SIGINT)
    began = time.monotonic()
    with pytest.raises(Stopped) as left:
        train(tmp_path, callbacks=[Hang(0, 1)])
    assert left.value.signal == signal.SIGINT and time.monotonic() - began < 30
    assert not (tmp_path / "last.ckpt").exists()
    assert signal.getsignal(signal.SIGINT) == before


def test_no_signal_no_stop(tmp_path):
    before = [signal.getsignal(s) for s in STOPS]
    _, trainer, _ = train(tmp_path, epochs=1)
    assert trainer.global_step == 4 and early_end(trainer) is None
    assert [signal.getsignal(s) for s in STOPS] == before


def test_a_closed_terminal_stops_no_training_that_nohup_protects(tmp_path):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        _, trainer, _ = train(tmp_path, epochs=1, callbacks=[SignalAt(0, 1, signal.SIGHUP)])
        assert trainer.global_step == 4 and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)
    with pytest.raises(TrainingStopped, match="after step 2 of 4"):
        train(tmp_path, epochs=1, callbacks=[SignalAt(0, 1, signal.SIGHUP)])


# Ends before the last epoch -----------------------------------------------------------------------------------------


NAN = math.nan


@pytest.mark.parametrize(
    ("scores", "patience", "done", "said"),
    [
        ((0.1, 0.3, 0.2, 0.25, 0.4), 2, 4, "2 validations without a better score .*; the best, 0.3000, is of epoch 2"),
        ((0.1, NAN, NAN, NAN, NAN), 1, 5, None),
        ((NAN, NAN, NAN, NAN, NAN), 1, 5, None),
        ((NAN, 0.2, NAN, 0.1, 0.5), 1, 4, "1 validations .*; the best, 0.2000, is of epoch 2"),
    ],
)
def test_patience_counts_numbers_alone_and_says_so(scores, patience, done, said):
    """Through the hooks that Lightning calls, with its bookkeeping of epochs in small."""
    stop, trained = EarlyStopping("score", mode="max", patience=patience), 0
    trainer = fake_trainer(epochs=len(scores), callbacks=[stop])
    stop.setup(trainer, None, "fit")
    for epoch, score in enumerate(scores):
        trainer.current_epoch, trainer.callback_metrics = epoch, {"score": torch.tensor(score)}
        stop.on_validation_end(trainer, None)
        trained = trainer.fit_loop.epoch_progress.current.processed = epoch + 1
        stop.on_train_epoch_end(trainer, None)
        if trainer.should_stop:
            break
    assert trained == done
    assert (
        early_end(trainer) is None
        if said is None
        else re.search(f"^after epoch {done} of 5: {said}$", early_end(trainer))
    )
    again = EarlyStopping("score", mode="max", patience=patience)
    again.load_state_dict(stop.state_dict())
    assert again.best_epoch == stop.best_epoch
    trainer.should_stop = False
    again.on_fit_start(trainer, None)
    assert trainer.should_stop == (said is not None)  # and trains no further where it goes on with what follows


def test_the_score_after_the_last_fit_is_no_measure_of_a_training_that_goes_on(tmp_path):
    """Readouts that are fitted after the last step have a score that more epochs may not reach before theirs."""

    class Fitted(Callback):
        def on_validation_end(self, trainer, module):
            if trainer.global_step == module.steps:
                trainer.callback_metrics["val/bps_mean"] += 9.0

    def stopping(trainer):
        return next(callback for callback in trainer.callbacks if isinstance(callback, EarlyStopping))

    _, trainer, scored = train(tmp_path, epochs=2, steps=1, callbacks=[Fitted()])
    kept = stopping(trainer).best_score, stopping(trainer).wait_count
    assert scored.scores[1] > 5 and kept == (pytest.approx(scored.scores[0]), 0)
    _, longer, _ = train(tmp_path, epochs=4, steps=1, resume=tmp_path / "last.ckpt")
    assert stopping(longer).wait_count < 2 and stopping(longer).best_score < 5


def fake_trainer(epochs, callbacks):
    return SimpleNamespace(
        current_epoch=0,
        max_epochs=epochs,
        callback_metrics={},
        callbacks=callbacks,
        should_stop=False,
        fast_dev_run=False,
        sanity_checking=False,
        val_check_interval=1.0,
        check_val_every_n_epoch=1,
        global_step=0,
        max_steps=-1,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        strategy=SimpleNamespace(reduce_boolean_decision=lambda decision, all: decision),
        fit_loop=SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0))),
    )


@pytest.mark.parametrize(("score", "never"), [(None, True), (-math.inf, True), (NAN, True), (-0.2, False)])
def test_a_training_whose_scores_were_no_numbers_has_no_best(tmp_path, score, never):
    keeper = ModelCheckpoint(tmp_path, monitor="val/bps_mean", mode="max")
    keeper.best_model_score = None if score is None else torch.tensor(score)
    assert never_scored(keeper) == never
    assert not never_scored(ModelCheckpoint(tmp_path))  # which chooses by no score


def test_a_callback_ends_a_training_with_a_word(tmp_path):
    class Enough(Callback):
        def on_train_epoch_end(self, trainer, module):
            trainer.should_stop = True

    _, trainer, _ = train(tmp_path / "asked", callbacks=[Enough()])
    assert early_end(trainer) == "after epoch 1 of 3: a callback asked for it"


@pytest.mark.parametrize(
    ("step", "elapsed_s", "left_s"),
    [(10, 100.0, 900.0), (100, 1000.0, 0.0), (0, 0.0, 0.0)],  # at last nothing is known yet
)
def test_the_estimate(monkeypatch, step, elapsed_s, left_s):
    bar, trainer = TrainingProgress(), fake_trainer(10, [])
    trainer.estimated_stepping_batches, trainer.global_step, now = 100, step, time.monotonic()
    bar._began = now - elapsed_s
    trainer.lightning_module = SimpleNamespace(last_passes=0.0, last_share=1.0, budget=None)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    assert bar._left(trainer) == pytest.approx(left_s, abs=1e-3)
    trainer.lightning_module.last_passes = 5.0  # the readouts' last fit
    after_s = 0.4 * 5 * elapsed_s / step if 0 < step < 100 else 0.0  # after the last step it is over
    assert bar._left(trainer) == pytest.approx(left_s + after_s, abs=1e-3)
    trainer.lightning_module.last_share = 0.5
    assert bar._left(trainer) == pytest.approx(left_s + after_s / 2, abs=1e-3)
    trainer.lightning_module.last_share = 1.0
    trainer.lightning_module.budget = SimpleNamespace(steps=None, limit_s=300.0, spent=100.0)
    assert bar._left(trainer) == pytest.approx(min(left_s + after_s, 200.0), abs=1e-3)


def test_stop_signals_need_a_place_to_save():
    trainer = Trainer(logger=False, enable_checkpointing=False, accelerator="cpu")
    with pytest.raises(ValueError, match="ModelCheckpoint"):
        StopSignals()._save(trainer)


def test_a_log_file_gets_a_readable_line_an_epoch(tmp_path, capsys):
    train(tmp_path, epochs=2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for epoch, line in enumerate(lines, 1):
        assert line.startswith(f"epoch {epoch}/2  step {4 * epoch}/8  train/loss ")
        assert re.search(r"val/bps_mean -?\d+\.\d{4}  .* \d+\.\d\d steps/s  ends in \d+:\d\d min$", line)
        assert "\x1b" not in line


@pytest.mark.parametrize("wanted", [True, False])
def test_a_terminal_gets_a_bar_over_the_whole_training(tmp_path, capsys, wanted):
    bar = TrainingProgress(wanted)
    bar._console = Console(file=io.StringIO(), force_terminal=True, width=160)
    train(tmp_path, epochs=2, progress=bar)
    drawn = bar._console.file.getvalue()
    assert ("8/8" in drawn and "steps/s" in drawn and "ends in" in drawn) == wanted
    assert bar._bar is None
    assert "epoch 2/2" in capsys.readouterr().out + drawn


def test_a_fork_takes_no_notice(capfd):
    """Ctrl-C goes to the whole process group, also to a process that was forked with the handler in place."""
    stop = StopSignals()
    stop._process = os.getpid() + 1
    stop._receive(signal.SIGINT, None)
    stop._receive(signal.SIGINT, None)
    assert not stop.received and capfd.readouterr().err == ""
