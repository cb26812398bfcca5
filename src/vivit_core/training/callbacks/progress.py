"""How far a training is: a bar where there is a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn


def duration(seconds: float) -> str:
    """How long something takes: ``2:08 h``, ``14:30 min``."""
    minutes, seconds = divmod(max(0, round(seconds)), 60)
    return f"{minutes // 60}:{minutes % 60:02d} h" if minutes >= 60 else f"{minutes}:{seconds:02d} min"


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
                TextColumn("{task.fields[rate]}  ends in {task.fields[left]}"),
                TextColumn("{task.fields[numbers]}"),
            )
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(
                "", total=self._steps, completed=trainer.global_step, rate="", left="?", numbers=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                rate=f"{self._rate(trainer):.2f} steps/s",
                left=duration(self._left(trainer)),
                numbers=_numbers(trainer, "train/loss", "val/bps_mean"),
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._shown:
            return
        rate = self._rate(trainer)
        print(
            f"epoch {trainer.current_epoch + 1}/{trainer.max_epochs}  step {trainer.global_step}/{self._steps}  "
            f"{_numbers(trainer, 'train/loss', 'val/loss', 'val/bps_mean', 'val/corr_mean')}  "
            f"{rate:.2f} steps/s  ends in {duration(self._left(trainer))}",
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

    def _left(self, trainer: Trainer) -> float:
        """Seconds until the last step, or until the end of the epoch in which ``trainer.max_minutes`` are over."""
        steps, rate = self._steps - trainer.global_step, self._rate(trainer)
        if rate <= 0:
            return 0.0
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, Timer) and (seconds := callback.time_remaining()) is not None:
                epoch = max(1, self._steps // (trainer.max_epochs or 1))
                over = trainer.global_step + max(0.0, seconds) * rate  # the step at which they are over
                steps = min(steps, math.ceil(over / epoch) * epoch - trainer.global_step)
        return max(0, steps) / rate


def _numbers(trainer: Trainer, *names: str) -> str:
    known = trainer.callback_metrics
    return "  ".join(f"{name} {float(known[name]):.4f}" for name in names if name in known)
