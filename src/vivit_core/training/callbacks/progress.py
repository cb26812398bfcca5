"""How far a training is: a bar where there is a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import math
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
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
        self._began, self._first_step = 0.0, 0

    def enable(self) -> None:
        self._shown = True

    def disable(self) -> None:
        self._shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._first_step = time.monotonic(), trainer.global_step
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
                "", total=steps_of(trainer), completed=trainer.global_step, rate="", left="?", numbers=""
            )
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                total=steps_of(trainer),
                rate=f"{self._rate(trainer):.2f} steps/s",
                left=duration(self._left(trainer)),
                numbers=_numbers(trainer, "train/loss", "val/bps_mean"),
            )

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._shown:
            return
        rate, steps = self._rate(trainer), steps_of(trainer)
        epochs = math.ceil(steps / (int(trainer.num_training_batches) / trainer.accumulate_grad_batches))
        print(
            f"epoch {trainer.current_epoch + 1}/{epochs}  step {trainer.global_step}/{steps}  "
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
        """Seconds until the last step."""
        rate = self._rate(trainer)
        return max(0, steps_of(trainer) - trainer.global_step) / rate if rate > 0 else 0.0


def steps_of(trainer: Trainer) -> int:
    """Optimizer steps of the whole training, as far as they are decided."""
    return int(trainer.estimated_stepping_batches)


def _numbers(trainer: Trainer, *names: str) -> str:
    known = trainer.callback_metrics
    return "  ".join(f"{name} {float(known[name]):.4f}" for name in names if name in known)
