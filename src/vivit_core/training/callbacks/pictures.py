"""Pictures of measured and predicted rates of a few units, after each validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from vivit_core.models.predictor import Predictor
from vivit_core.names import file_name, key_name, short
from vivit_core.plotting import rates as plotting_rates
from vivit_core.specs import Batch, Clips


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
        assert isinstance(twin, Predictor)
        if twin.predict == "last" or (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        for recording_id, clips in self._clips.items():
            measured = torch.where(clips["valid"], clips["counts"], torch.nan)[0]
            chosen = measured.nansum(0).argsort(descending=True, stable=True)[: self.units]
            with torch.no_grad():
                predicted = twin({recording_id: clips})[recording_id][0]
            spec = twin.specs[recording_id]
            path = plotting_rates.rates(
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
