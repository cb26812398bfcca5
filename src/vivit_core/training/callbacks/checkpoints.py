"""Checkpoints that are whole: how they are written, which are kept, and which are in the way."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO
from lightning.fabric.utilities.apply_func import convert_tensors_to_scalars
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from vivit_core.system.files import NoRoomError, atomic_write, link_or_copy
from vivit_core.training.budget import BUDGET
from vivit_core.training.metrics_file import MetricsFile
from vivit_core.training.module import TwinModule

SAFE_S = 300.0  # of a training that a killed process may lose
NUMBER = r"-?(?:[\d.]+(?:e[-+]?\d+)?|inf|nan)"


def save_checkpoint(content: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint, whole or not at all.

    Raises
    ------
    NoRoomError
        Where the disk is full; a checkpoint that had this name is still there.
    """
    # Through memory, because torch's own writer hides why a disk refuses.
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with atomic_write(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())


class WholeCheckpointIO(TorchCheckpointIO):
    """How the trainer writes: beside the target, then renamed. Lightning's own way is by TMPDIR, whose file system may
    be another one or full."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        assert storage_options is None
        path = Path(path)
        try:
            save_checkpoint(checkpoint, path)
        except NoRoomError as error:
            there = any(path.parent.glob("*.ckpt"))
            then = (
                "then the same command with resume=auto continues from the last one"
                if there
                else "no checkpoint had been written yet, so begin again then"
            )
            raise NoRoomError(f"the training stops without this checkpoint: {error}; {then}") from error

    def remove_checkpoint(self, path: Any) -> None:
        Path(path).unlink(missing_ok=True)


def goes_on_from(trainer: Trainer, batch_idx: int) -> bool:
    """Whether a checkpoint that is written at the end of this batch continues as if nothing had happened: not in the
    middle of an accumulation, nor where a validation or an epoch's end follows."""
    if (batch_idx + 1) % trainer.accumulate_grad_batches or trainer.is_last_batch:
        return False
    if trainer.global_step >= trainer.max_steps > 0:
        return False
    every = trainer.val_check_batch
    count = batch_idx if trainer.check_val_every_n_epoch is not None else trainer.fit_loop.total_batch_idx
    return not (trainer.enable_validation and every and (count + 1) % every == 0)


def metrics_files(trainer: Trainer) -> list[MetricsFile]:
    return [logger for logger in trainer.loggers if isinstance(logger, MetricsFile)]


def note_step(trainer: Trainer) -> None:
    """Give ``metrics.csv`` the row of this step, which Lightning would write after the hooks of its end."""
    connector = trainer._logger_connector
    if connector.should_update_logs:
        known = convert_tensors_to_scalars(connector.metrics["log"])  # of what a clock measures, the step before's
        numbers = {name: value for name, value in known.items() if not name.startswith("system/")}
        numbers["epoch"] = trainer.current_epoch
        for logger in metrics_files(trainer):
            logger.log_metrics(numbers, trainer.fit_loop.epoch_loop._batches_that_stepped)


class Checkpoints(ModelCheckpoint):
    """Lightning's, but whatever moment the process is killed at, the folder holds what is needed to go on.

    - ``last.ckpt`` is written after every validation, also of an epoch that is not among the best. Where it is, the two
      are one file with two names.
    - It is written between validations too: where the last one is ``SAFE_S`` old, and before the last step, because
      the readouts' fit and the validation that follow it may take long.
    - What falls out of the best is removed when ``last.ckpt`` no longer names it.
    - A continued training writes over what it wrote before, and starts by removing checkpoints that the one it
      continues from does not know: they are of a course that was lost.
    - The run folder may have been moved. A kept checkpoint that has been deleted is no longer among the best.
    - ``metrics.csv`` is on the disk before a checkpoint of the same step is.
    """

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self._enable_version_counter = False  # no epoch…-v1.ckpt beside the one that a lost course had left
        self._outdated: list[str] = []
        self._safe = time.monotonic()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_fit_start(trainer, pl_module)
        if trainer.is_global_zero:
            self.remove_unknown(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        super().on_train_batch_end(trainer, pl_module, outputs, batch, batch_idx)
        if self.save_last and goes_on_from(trainer, batch_idx) and self._is_at_risk(trainer, pl_module):
            note_step(trainer)
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._remove_outdated(trainer)

    def _is_at_risk(self, trainer: Trainer, pl_module: LightningModule) -> bool:
        """Whether more would be lost than should be, alike on all ranks."""
        assert isinstance(pl_module, TwinModule)
        before_last = trainer.global_step == pl_module.steps - 1
        old = time.monotonic() - self._safe > SAFE_S
        return before_last or trainer.strategy.reduce_boolean_decision(old, all=False)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = self._is_due(trainer) and self._should_save_on_train_epoch_end(trainer)
        super().on_train_epoch_end(trainer, pl_module)
        self._complete(trainer, due)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        due = self._is_due(trainer) and not self._should_save_on_train_epoch_end(trainer)
        super().on_validation_end(trainer, pl_module)
        self._complete(trainer, due)

    def _is_due(self, trainer: Trainer) -> bool:
        every = self.every_n_epochs
        return bool(every and (trainer.current_epoch + 1) % every == 0) and not self._should_skip_saving_checkpoint(
            trainer
        )

    def _complete(self, trainer: Trainer, due: bool) -> None:
        if due and self._last_global_step_saved != trainer.global_step:  # it is not among the best
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
        self._remove_outdated(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        self._safe = time.monotonic()
        for logger in metrics_files(trainer):
            logger.flush()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(self.moved(state_dict))

    def moved(self, state: Mapping[str, Any]) -> dict[str, Any]:
        """The state with its files in this folder, without those that are not there."""
        assert self.dirpath is not None
        folder = Path(self.dirpath)

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else ""

        kept: dict[str, Tensor] = {here(path): score for path, score in state["best_k_models"].items()}
        kept = {path: score for path, score in kept.items() if Path(path).is_file()}
        best, score = here(state["best_model_path"]), state["best_model_score"]
        if best and not Path(best).is_file():
            best = (min if self.mode == "min" else max)(kept, key=lambda path: float(kept[path]), default="")
            score = kept.get(best)
        return {
            **state,
            "dirpath": self.dirpath,
            "best_k_models": kept,
            "best_model_path": best,
            "best_model_score": score,
            "kth_best_model_path": here(state["kth_best_model_path"]),
            "last_model_path": here(state["last_model_path"]),
        }

    def _save_last_checkpoint(self, trainer: Trainer, monitor_candidates: dict[str, Tensor]) -> None:
        if not self.save_last:
            return
        newest = self._last_checkpoint_saved if self._last_global_step_saved == trainer.global_step else ""
        self.last_model_path = last = self.format_checkpoint_name(monitor_candidates, self.CHECKPOINT_NAME_LAST)
        if newest in ("", last):
            self._save_checkpoint(trainer, last)
        elif trainer.is_global_zero:
            link_or_copy(Path(newest), Path(last))

    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._outdated.append(filepath)

    def _remove_outdated(self, trainer: Trainer) -> None:
        for path in self._outdated:
            super()._remove_checkpoint(trainer, path)
        self._outdated = []

    def remove_unknown(self, trainer: Trainer) -> None:
        """Remove what none of the trainer's keepers of checkpoints knows, and no person named."""
        assert self.dirpath is not None
        keepers = [keeper for keeper in trainer.checkpoint_callbacks if isinstance(keeper, ModelCheckpoint)]
        known = {
            Path(path).name
            for keeper in keepers
            for path in (*keeper.best_k_models, keeper.best_model_path, keeper.last_model_path, trainer.ckpt_path or "")
        }
        own = name_pattern(self.filename or "{epoch}-{step}", self.CHECKPOINT_NAME_LAST)
        for path in sorted(Path(self.dirpath).glob(f"*{self.FILE_EXTENSION}")):
            if path.name not in known and own.fullmatch(path.stem):
                path.unlink(missing_ok=True)


def name_pattern(template: str, last: str) -> re.Pattern[str]:
    """What the names look like that a template of checkpoints' names makes, and those that Lightning made of them where
    the name was taken; nothing that a person would call a copy."""
    words = [re.escape(word) for word in re.split(r"\{[^}]*\}", template)]
    name = rf"(?:[^=\s]*=)?{NUMBER}".join(words)
    return re.compile(rf"{name}(?:-v\d+)?|{re.escape(last)}-v\d+")


def keeper_state(checkpoint: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the checkpoint knows of the best one: ``best_model_path``, ``best_model_score``; empty where nothing."""
    states = checkpoint.get("callbacks", {}).values()
    return next((state for state in states if "best_model_path" in state), {})


def has_ended(checkpoint: Mapping[str, Any], steps: int) -> bool:
    """Whether the training of this checkpoint was over: all steps were made, or it was stopped early.

    Parameters
    ----------
    checkpoint : content of the last one.
    steps : optimizer steps of the whole training, where its budget had time for all.
    """
    kept = checkpoint.get(BUDGET)
    if kept is not None and kept["steps"] is not None:
        steps = kept["steps"]
    if checkpoint["global_step"] >= steps:
        return True
    return any(
        state.get("stopped_epoch", 0) > 0 or ("patience" in state and state["wait_count"] >= max(1, state["patience"]))
        for state in checkpoint["callbacks"].values()
    )
