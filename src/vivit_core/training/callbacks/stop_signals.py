"""What Lightning's own callbacks do not do: a stop that can be continued exactly, an early stop that no missing score
hastens, a progress bar for the whole training, and pictures of its validations."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from vivit_core.names import setting
from vivit_core.system.stops import STOPS, Stopped, TrainingStopped
from vivit_core.training.callbacks.checkpoints import goes_on_from


class StopSignals(Callback):
    """Ctrl-C or another of ``STOPS`` stops the training at the end of an optimizer step, with a checkpoint; a second
    Ctrl-C leaves at once. A closed terminal (SIGHUP) stops no training that nohup protects.

    The step where it stops is the first that is followed by neither a validation nor an epoch's end: there, and not in
    the middle of an accumulation, the checkpoint continues as if nothing had happened. ``fit`` then raises
    :class:`TrainingStopped`. On several ranks a signal to any of them stops all, at the same step. After the last step
    that qualifies, Ctrl-C lets the training simply end; the other signals stop it there too, because what follows a
    training may take longer than is left.
    """

    def __init__(self) -> None:
        self.received: set[signal.Signals] = set()
        self._before: dict[signal.Signals, Any] = {}
        self._began, self._process = 0.0, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began, self._process = time.monotonic(), os.getpid()
        # Here, because Lightning sets its own handler of SIGTERM just before: it would stop within an accumulation.
        if threading.current_thread() is threading.main_thread():
            self._before = {
                number: signal.signal(number, self._receive)
                for number in STOPS
                if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN
            }

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()
        received = self._of_all_ranks(trainer)
        if received - {signal.SIGINT}:
            self._stop(trainer, self._last(trainer), received)
        if received and trainer.is_global_zero:
            print("the training was at its end already; Ctrl-C once more leaves out what follows", flush=True)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a process forked from this one, to which Ctrl-C goes too: it ends with the training
        if number == signal.SIGINT and number in self.received:
            raise Stopped(number)
        # A scheduler may send several, one after the other: only a person who repeats Ctrl-C wants to leave at once.
        first, received = not self.received, signal.Signals(number)
        self.received.add(received)
        if first:
            # os.write, because print is not safe in a handler that may have interrupted a print
            at_once = "; Ctrl-C once more leaves at once" if received == signal.SIGINT else ""
            os.write(2, f"\n{received.name}: stopping after this step, with a checkpoint{at_once}\n".encode())

    def _of_all_ranks(self, trainer: Trainer) -> frozenset[signal.Signals]:
        """What any of the ranks has received."""
        if not trainer.strategy.reduce_boolean_decision(bool(self.received), all=False):
            return frozenset()
        return frozenset(
            number for number in STOPS if trainer.strategy.reduce_boolean_decision(number in self.received, all=False)
        )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not goes_on_from(trainer, batch_idx):
            return
        if received := self._of_all_ranks(trainer):
            # The rest of this step, which Lightning would do after this hook: else metrics.csv would lack its row.
            pl_module.on_train_batch_end(outputs, batch, batch_idx)
            trainer._logger_connector.on_batch_end()
            trainer._logger_connector.update_train_step_metrics()
            self._stop(trainer, self._save(trainer), received)

    def _stop(self, trainer: Trainer, path: Path, received: frozenset[signal.Signals]) -> NoReturn:
        total = trainer.estimated_stepping_batches
        minutes = (time.monotonic() - self._began) / 60
        raise TrainingStopped(
            path,
            f"stopped after step {trainer.global_step} of {total:.0f} "
            f"(epoch {min(trainer.current_epoch + 1, trainer.max_epochs or 1)}, {minutes:.1f} min in this run); "
            f"{_best(trainer)}continue with the same words and {setting('resume', path)} (resume=auto finds it)",
            received,
        )

    def _last(self, trainer: Trainer) -> Path:
        """Where the newest checkpoint lies."""
        keeper = trainer.checkpoint_callback
        if not isinstance(keeper, ModelCheckpoint) or keeper.dirpath is None:
            raise ValueError(
                "StopSignals saves where ModelCheckpoint does, and the trainer has none; add it to the callbacks"
            )
        return Path(keeper.dirpath) / f"{keeper.CHECKPOINT_NAME_LAST}{keeper.FILE_EXTENSION}"

    def _save(self, trainer: Trainer) -> Path:
        path = self._last(trainer)
        keeper = trainer.checkpoint_callback
        assert isinstance(keeper, ModelCheckpoint)
        # Else the resumed run would take the file for another run's, and write last-v1.
        keeper.last_model_path = str(path)
        trainer.save_checkpoint(path)
        return path


def _best(trainer: Trainer) -> str:
    keeper = trainer.checkpoint_callback
    score = getattr(keeper, "best_model_score", None)
    return f"best {getattr(keeper, 'monitor', '')} {float(score):.4f}; " if score is not None else ""
