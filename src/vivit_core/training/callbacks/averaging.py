"""An average of the weights beside the training."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.models.likelihoods.loss import counted
from vivit_core.models.load import AVERAGE, weights_in
from vivit_core.models.twin import Twin
from vivit_core.training.module import TwinModule, validation_numbers


class Averaging(Callback):
    """Keeps an exponential moving average of the twin's weights (Polyak & Juditsky 1992) and validates it beside them.

    Nothing of the training changes. Validation reports the average's numbers as ``val_ema/…``, on the same batches, and
    each checkpoint holds both; ``load_twin(path, average=True)`` loads the average. The first step's weights are taken
    whole, so that the random start is not in it. After the last step it is fitted as the trained twin is, on its own
    core (``callbacks/readouts.py``).

    Parameters
    ----------
    decay : part of the average that stays at each optimizer step; it reaches back over about 1 / (1 - decay) steps.

    Raises
    ------
    ValueError
        For a decay out of (0, 1); where a training is continued from a checkpoint without an average.
    """

    def __init__(self, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"callbacks.averaging.decay={decay} must lie between 0 and 1, for example 0.99")
        self.decay = decay
        self.average: AveragedModel | None = None
        self.metrics: dict[str, StreamedScores] = {}
        self._step = 0  # the last optimizer step in the average

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        assert isinstance(pl_module, TwinModule)
        self.average = AveragedModel(pl_module.twin, multi_avg_fn=get_ema_multi_avg_fn(self.decay)).eval()
        twin = self.twin
        self.metrics = {name: StreamedScores(spec.n_units, twin.likelihood(name)) for name, spec in twin.specs.items()}

    @property
    def twin(self) -> Twin:
        """The twin of averaged weights, from the setup on."""
        assert self.average is not None and isinstance(self.average.module, Twin)
        return self.average.module

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for module in (self.average, *self.metrics.values()):
            assert module is not None
            module.to(pl_module.device)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._follow(trainer, pl_module)

    def _follow(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in the weights of a step that has just been made."""
        assert self.average is not None and isinstance(pl_module, TwinModule)
        if trainer.global_step > self._step:
            self.average.update_parameters(pl_module.twin)
            self._step = trainer.global_step

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        assert self.average is not None and isinstance(pl_module, TwinModule)
        with trainer.precision_plugin.val_step_context():
            predictions = self.average(batch)
        for name, predicted in predictions.items():
            self.metrics[name].update(*counted(predicted, batch[name], pl_module.burn_in))

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for name, value in validation_numbers(self.metrics).items():
            pl_module.log(f"val_ema/{name}", value, batch_size=1, rank_zero_only=False)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert self.average is not None
        self._follow(trainer, pl_module)  # where a callback before this one saves, at the end of a step
        weights = {f"twin.{name}": value for name, value in self.average.module.state_dict().items()}
        checkpoint[AVERAGE] = {"state_dict": weights, "steps": int(self.average.n_averaged), "last_step": self._step}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert self.average is not None
        if AVERAGE not in checkpoint:
            raise ValueError(
                "the checkpoint holds no averaged weights; continue with the callbacks that it was trained with"
            )
        kept = checkpoint[AVERAGE]
        self.average.module.load_state_dict(weights_in(kept["state_dict"]))
        self.average.n_averaged.copy_(torch.tensor(kept["steps"]))
        self._step = kept["last_step"]
