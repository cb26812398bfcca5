"""Ends a training that others of its search have left behind."""

from __future__ import annotations

import math
from typing import Any, Protocol

from lightning.pytorch import Callback, Trainer


class Judge(Protocol):
    """Who compares trainings."""

    def falls_behind(self, score: float, epoch: int) -> bool:
        """Whether a training with this score after an epoch, counted from 1, is to be stopped."""


class Pruning(Callback):
    """After each validation the score is reported, and the training ends with a checkpoint where it falls behind.

    The first process asks, and all do what it says. A score that is no number is not reported. Nor is the one after the
    last step: nothing is left to stop, and it follows the readouts' last fit, while of another training, for which a
    limit of time leaves more epochs, the score at this one does not. The search gets it when the training has ended.

    Parameters
    ----------
    judge : compares; None in the other processes.
    monitor : the number of the validations.

    Attributes
    ----------
    reason : why the training ended; None where it did not for this reason.
    score : the best so far; None where none was a number.
    """

    def __init__(self, judge: Judge | None, monitor: str) -> None:
        self.judge, self.monitor = judge, monitor
        self.reason: str | None = None
        self.score: float | None = None

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        score = math.nan if value is None else float(value)
        epoch, over = trainer.current_epoch + 1, trainer.global_step >= pl_module.steps
        behind = False
        if math.isfinite(score):
            self.score = score if self.score is None else max(self.score, score)
            behind = not over and self.judge is not None and self.judge.falls_behind(score, epoch)
        if trainer.strategy.broadcast(behind):
            self.reason = (
                f"pruned after epoch {epoch} of {trainer.max_epochs}: {self.monitor}={score:.4f} falls behind the "
                f"other trials ({self.judge or 'hydra.sweeper.pruner'})"
            )
            trainer.should_stop = True
