"""Ends a training whose score no longer rises, and says why it ended."""

from __future__ import annotations

import math
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint

from vivit_core.training.module import TwinModule


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a score that is no number (of units without spikes, say) counts neither for nor against.

    Nor does the one after the last step, when nothing is left to stop: readouts were fitted before it, and a training
    that goes on from there for more epochs has no such score before its own last fit.

    Attributes
    ----------
    best_epoch : of the best score so far, counted from 1; None where no score was a number.
    """

    best_epoch: int | None = None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A training that had ended for this reason, and is continued for what follows it, trains no further."""
        if self.wait_count >= max(1, self.patience):
            trainer.should_stop = True

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count(super().on_validation_end, trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._count(super().on_train_epoch_end, trainer, pl_module)

    def _count(self, count: Any, trainer: Trainer, pl_module: LightningModule) -> None:
        score = trainer.callback_metrics.get(self.monitor)
        last = isinstance(pl_module, TwinModule) and trainer.global_step >= pl_module.steps
        if last or (score is not None and bool(torch.isnan(score))):
            return
        before = self.best_score
        count(trainer, pl_module)
        if self.best_score is not before:
            self.best_epoch = trainer.current_epoch + 1

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best_epoch": self.best_epoch}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.best_epoch = state_dict.get("best_epoch")


def epochs_done(trainer: Trainer) -> int:
    """Epochs that were trained, also by a training that this one continued."""
    return int(trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]


def early_end(trainer: Trainer) -> str | None:
    """Why a training ended before its last step, in words; None where it did not."""
    done, epochs = epochs_done(trainer), trainer.max_epochs
    if epochs is None or done >= epochs or trainer.global_step >= trainer.max_steps > 0:
        return None
    return f"after epoch {done} of {epochs}: {'; '.join(_reasons(trainer)) or 'a callback asked for it'}"


def _reasons(trainer: Trainer) -> list[str]:
    reasons = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, LightningEarlyStopping) and callback.wait_count >= max(1, callback.patience):
            best = "there was none"
            if math.isfinite(float(callback.best_score)):
                epoch = getattr(callback, "best_epoch", None)
                best = f"the best, {float(callback.best_score):.4f}, {f'is of epoch {epoch}' if epoch else 'stays'}"
            reasons.append(
                f"{callback.patience} validations without a better {callback.monitor} "
                f"(callbacks.early_stopping.patience); {best}"
            )
        elif isinstance(callback, LightningEarlyStopping) and callback.stopping_reason_message:
            reasons.append(callback.stopping_reason_message.removesuffix("Signaling Trainer to stop.").strip(" ."))
    return reasons


def never_scored(keeper: ModelCheckpoint) -> bool:
    """Whether no validation score was ever a number, so that no checkpoint is better than another."""
    score = keeper.best_model_score
    return keeper.monitor is not None and (score is None or not math.isfinite(float(score)))
