"""How far a training is: a bar where there is a terminal; elsewhere a line an epoch, and those between
(:mod:`vivit_core.system.activity`) where the program wants them."""

from __future__ import annotations

import math
import time
from contextlib import ExitStack
from typing import Any, cast

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.system.activity import doing, duration, said
from vivit_core.training.budget import FORWARD
from vivit_core.training.module import TwinModule

KNOWN_S = 5.0  # for which what was last known of a training is said


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
        self._doing = ExitStack()
        self._far, self._known = "", 0.0  # how far it is, and since when that is known
        self._means = [f"val/{metric.name}_mean" for metric in all_metrics()]

    def enable(self) -> None:
        self._shown = True

    def disable(self) -> None:
        self._shown = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._first_step = time.monotonic(), trainer.global_step
        self._stop()
        live = self._shown and self._wanted and self._console.is_terminal
        if self._shown:
            self._far, self._known = f"step {trainer.global_step}/{steps_of(trainer)}", self._began
            self._doing.enter_context(doing("training", lambda: self._far, bar=live))
        if live:
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
        # Now and then, because a look at the numbers waits for the GPU.
        if self._shown and time.monotonic() - self._known > KNOWN_S:
            self._far, self._known = self._line(trainer, "train/loss", "val/bps_mean"), time.monotonic()
        if self._bar is not None:
            self._bar.update(
                self._task,
                completed=trainer.global_step,
                total=steps_of(trainer),
                rate=f"{self._rate(trainer):.2f} steps/s",
                left=duration(self._left(trainer)),
                numbers=_numbers(trainer, "train/loss", "val/bps_mean"),
            )

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        batches = int(sum(trainer.num_val_batches))
        self._far = f"step {trainer.global_step}/{steps_of(trainer)}  validation {batch_idx + 1}/{batches}"

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._shown:
            return
        print(self._line(trainer, "train/loss", "val/loss", *self._means), flush=True)
        said()

    def _line(self, trainer: Trainer, *names: str) -> str:
        """How far it is, with these numbers."""
        steps = steps_of(trainer)
        epochs = math.ceil(steps / (int(trainer.num_training_batches) / trainer.accumulate_grad_batches))
        rate = self._rate(trainer)
        left = f"{rate:.2f} steps/s  ends in {duration(self._left(trainer))}"
        words = (
            f"epoch {trainer.current_epoch + 1}/{epochs}  step {trainer.global_step}/{steps}",
            _numbers(trainer, *names),
            left,
        )
        return "  ".join(word for word in words if word)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()

    def _stop(self) -> None:
        self._doing.close()
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _rate(self, trainer: Trainer) -> float:
        """Optimizer steps a second since the start of this run, validation included."""
        return (trainer.global_step - self._first_step) / max(time.monotonic() - self._began, 1e-9)

    def _left(self, trainer: Trainer) -> float:
        """Seconds until the end, the readouts' last fit included; while a budget is not decided, what it leaves at
        most."""
        rate, module = self._rate(trainer), cast(TwinModule, trainer.lightning_module)
        steps = max(0, steps_of(trainer) - trainer.global_step)
        left = (steps + FORWARD * module.last_share * module.last_passes) / rate if rate > 0 and steps else 0.0
        budget = module.budget
        return (
            left if budget is None or budget.steps is not None else min(left, max(0.0, budget.limit_s - budget.spent))
        )


def steps_of(trainer: Trainer) -> int:
    """Optimizer steps of the whole training, as far as they are decided."""
    return int(trainer.estimated_stepping_batches)


def _numbers(trainer: Trainer, *names: str) -> str:
    known = trainer.callback_metrics
    return "  ".join(f"{name} {float(known[name]):.4f}" for name in names if name in known)
