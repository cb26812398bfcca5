"""What a person at the terminal sees: the progress, Ctrl-C once, Ctrl-C twice."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer
from rich.console import Console
from tiny_training import SignalAt, train

from vivit_core.training.callbacks import StopSignals, TrainingProgress

TESTS = Path(__file__).parent


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
    with pytest.raises(SystemExit) as left:
        train(tmp_path, callbacks=[Hang(0, 1)])
    assert left.value.code == 1 and time.monotonic() - began < 30
    assert not (tmp_path / "last.ckpt").exists()
    signal.signal(signal.SIGINT, before)


def test_no_signal_no_stop(tmp_path):
    before = [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]
    _, trainer, _ = train(tmp_path, epochs=1)
    assert trainer.global_step == 4
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == before


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


def test_a_worker_of_the_loader_takes_no_notice(capfd):
    """Ctrl-C goes to the whole process group, and workers are forked with the handler in place."""
    stop = StopSignals()
    stop._process = os.getpid() + 1
    stop._receive(signal.SIGINT, None)
    stop._receive(signal.SIGINT, None)
    assert not stop.received and capfd.readouterr().err == ""
