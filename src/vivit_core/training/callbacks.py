"""What Lightning's own callbacks do not do: a stop that can be continued exactly, an early stop that no missing score
hastens, a progress bar for the whole training, and pictures of its validations."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EarlyStopping as LightningEarlyStopping
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.utilities import rank_zero_only
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from vivit_core.analysis import pictures
from vivit_core.models.twin import Twin
from vivit_core.names import file_name, key_name, setting, short
from vivit_core.specs import Batch, Clips
from vivit_core.stops import STOPS, Stopped


class TrainingStopped(Exception):
    """The training was stopped from outside; ``checkpoint`` continues it exactly.

    Attributes
    ----------
    checkpoint : what to continue from.
    signals : what had been received, by any of the ranks.
    """

    def __init__(self, checkpoint: Path, summary: str, signals: frozenset[signal.Signals]) -> None:
        self.checkpoint, self.signals = checkpoint, signals
        super().__init__(summary)


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
            return  # a loader's worker, to which Ctrl-C goes too: it reads on, and ends with the training
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
        if (batch_idx + 1) % trainer.accumulate_grad_batches or _validation_follows(trainer, batch_idx):
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
            f"{_best(trainer)}continue with {setting('resume', path)} (resume=auto finds it)",
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


class EarlyStopping(LightningEarlyStopping):
    """Lightning's, but a score that is no number (of units without spikes, say) counts neither for nor against.

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
        if score is not None and bool(torch.isnan(score)):
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
    """Why a training ended before its last epoch, in words; None where it did not."""
    done, epochs = epochs_done(trainer), trainer.max_epochs
    if epochs is None or done >= epochs:
        return None
    return f"after epoch {done} of {epochs}: {'; '.join(_reasons(trainer)) or 'a callback asked for it'}"


def _reasons(trainer: Trainer) -> list[str]:
    reasons = []
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer) and (left := callback.time_remaining()) is not None and left <= 0:
            minutes = (callback.time_elapsed() + left) / 60
            reasons.append(f"the {minutes:g} minutes of trainer.max_minutes are over")
        elif isinstance(callback, LightningEarlyStopping) and callback.wait_count >= max(1, callback.patience):
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


class ValidationPictures(Callback):
    """After a validation, draws what the twin makes of the first validation clip it saw of each recording.

    The picture stands in the run folder and goes to every logger that takes images, as ``val/rates_<recording>``. Clip
    and units are the same each time, so that the pictures of a training can be leafed through.

    Parameters
    ----------
    folder : for the PNG files; the newest replaces the one before.
    every_n_epochs : validations of the other epochs are not drawn.
    recordings : the first ones, so many of them.
    units : of each recording, those with most spikes in the clip.
    """

    def __init__(self, folder: str | Path, every_n_epochs: int, recordings: int, units: int) -> None:
        if min(every_n_epochs, recordings, units) < 1:
            raise ValueError(
                f"callbacks.pictures: every_n_epochs={every_n_epochs}, recordings={recordings} and units={units} must "
                "be 1 or more; callbacks.pictures=null leaves the pictures out"
            )
        self.folder, self.every_n_epochs, self.recordings, self.units = Path(folder), every_n_epochs, recordings, units
        self._clips: dict[str, Clips] = {}

    @rank_zero_only
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        for recording_id, clips in batch.items():
            if recording_id not in self._clips and len(self._clips) < self.recordings:
                kept = {name: clips[name][:1].clone() for name in ("frames", "behavior", "counts", "valid")}
                self._clips[recording_id] = cast(Clips, kept)

    @rank_zero_only
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        twin = pl_module.twin
        assert isinstance(twin, Twin)
        if twin.predict == "last" or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        for recording_id, clips in self._clips.items():
            measured = torch.where(clips["valid"], clips["counts"], 0.0)[0]
            chosen = measured.sum(0).argsort(descending=True, stable=True)[: self.units]
            with torch.no_grad():
                predicted = twin({recording_id: clips})[recording_id][0]
            spec = twin.specs[recording_id]
            path = pictures.rates(
                self.folder / f"validation_{file_name(recording_id)}.png",
                times_s=np.arange(len(measured)) / spec.frame_rate_hz,
                measured_hz=(measured[:, chosen] * spec.frame_rate_hz).cpu().numpy(),
                predicted_hz=(predicted[:, chosen].float() * spec.frame_rate_hz).cpu().numpy(),
                ln_hz=None,
                titles=[f"unit {short(spec.unit_ids[i])}" for i in chosen.tolist()],
                title=f"{short(recording_id)}: a validation clip after step {trainer.global_step}",
            )
            for logger in trainer.loggers:
                if (log_image := getattr(logger, "log_image", None)) is not None:
                    log_image(f"val/rates_{key_name(recording_id)}", [str(path)], step=trainer.global_step)
