"""What Lightning's own callbacks do not do: a stop that can be continued exactly, and a progress bar for the whole
training."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn


class TrainingStopped(Exception):
    """The training was stopped from outside; ``checkpoint`` continues it exactly."""

    def __init__(self, checkpoint: Path, summary: str) -> None:
        self.checkpoint = checkpoint
        super().__init__(summary)


class StopSignals(Callback):
    """Ctrl-C or SIGTERM stops the training at the end of an optimizer step, with a checkpoint; a second one leaves at
    once.

    The step where it stops is the first that is followed by neither a validation nor an epoch's end: there, and not in
    the middle of an accumulation, the checkpoint continues as if nothing had happened. ``fit`` then raises
    :class:`TrainingStopped`. On several ranks a signal to any of them stops all, at the same step. After the last step
    that qualifies, a stopped training simply ends.
    """

    def __init__(self) -> None:
        self.received: signal.Signals | None = None
        self._before: dict[signal.Signals, Any] = {}
        self._began, self._process = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._process = time.monotonic(), os.getpid()
        # Here, because Lightning sets its own handler of SIGTERM just before: it would stop within an accumulation.
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._receive) for number in (signal.SIGINT, signal.SIGTERM)}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a loader's worker, to which Ctrl-C goes too: it reads on, and ends with the training
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)
        # os.write, because print is not safe in a handler that may have interrupted a print
        os.write(
            2,
            f"\n{self.received.name}: stopping after this step, with a checkpoint; once more leaves at once\n".encode(),
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if (batch_idx + 1) % trainer.accumulate_grad_batches or _validation_follows(trainer, batch_idx):
            return
        if not trainer.strategy.reduce_boolean_decision(self.received is not None, all=False):
            return
        path = self._save(trainer)
        total = trainer.estimated_stepping_batches
        minutes = (time.monotonic() - self._began) / 60
        raise TrainingStopped(
            path,
            f"stopped after step {trainer.global_step} of {total:.0f} "
            f"(epoch {trainer.current_epoch + 1}, {minutes:.1f} min in this run); "
            f"{_best(trainer)}continue from {path} (resume=auto finds it)",
        )

    def _save(self, trainer: Trainer) -> Path:
        keeper = trainer.checkpoint_callback
        if not isinstance(keeper, ModelCheckpoint) or keeper.dirpath is None:
            raise ValueError(
                "StopSignals saves where ModelCheckpoint does, and the trainer has none; add it to the callbacks"
            )
        path = Path(keeper.dirpath) / f"{keeper.CHECKPOINT_NAME_LAST}{keeper.FILE_EXTENSION}"
        # Else the resumed run would take the file for another run's, and write last-v1.
        keeper.last_model_path = str(path)
        trainer.save_checkpoint(path)
        return path


def _validation_follows(trainer: Trainer, batch_idx: int) -> bool:
    if trainer.is_last_batch:
        return True
    every = trainer.val_check_batch
    count = batch_idx if trainer.check_val_every_n_epoch is not None else trainer.fit_loop.total_batch_idx
    return bool(trainer.enable_validation and every and (count + 1) % every == 0)


def _best(trainer: Trainer) -> str:
    keeper = trainer.checkpoint_callback
    score = getattr(keeper, "best_model_score", None)
    return f"best {getattr(keeper, 'monitor', '')} {float(score):.4f}; " if score is not None else ""


class TrainingProgress(ProgressBar):
    """One bar for the whole training, with rate and end; and a line an epoch, which is all that a log file gets.

    Parameters
    ----------
    bar : false shows the lines alone, in a terminal too.
    """

    def __init__(self, bar: bool = True) -> None:
        super().__init__()
        self._wanted = bar
        self._console = Console()
        self._shown = True
        self._bar: Progress | None = None
        self._task = TaskID(0)
        self._began, self._first_step, self._steps = 0.0, 0, 0

    def enable(self) -> None:
        self._shown = True

    def disable(self) -> None:
        self._shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._first_step = time.monotonic(), trainer.global_step
        self._steps = int(trainer.estimated_stepping_batches)
        if self._shown and self._wanted and self._console.is_terminal:
            columns = (
                TextColumn("step"),
                MofNCompleteColumn(),
                BarColumn(),
                TextColumn("{task.fields[rate]}  ends in"),
                TimeRemainingColumn(elapsed_when_finished=True),
                TextColumn("{task.fields[numbers]}"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task("", total=self._steps, completed=trainer.global_step, rate="", numbers="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                rate=f"{self._rate(trainer):.2f} steps/s",
                numbers=_numbers(trainer, "train/loss", "val/bps_mean"),
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._shown:
            return
        rate = self._rate(trainer)
        left = (self._steps - trainer.global_step) / rate if rate > 0 else 0.0
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}/{self._steps}  "
            f"{_numbers(trainer, 'train/loss', 'val/loss', 'val/bps_mean', 'val/corr_mean')}  "
            f"{rate:.2f} steps/s  ends in {int(left) // 60}:{int(left) % 60:02d} min",
            flush=True,
        )

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _rate(self, trainer: Trainer) -> float:
        """Optimizer steps a second since the start of this run, validation included."""
        return (trainer.global_step - self._first_step) / max(time.monotonic() - self._began, 1e-9)


def _numbers(trainer: Trainer, *names: str) -> str:
    known = trainer.callback_metrics
    return "  ".join(f"{name} {float(known[name]):.4f}" for name in names if name in known)
