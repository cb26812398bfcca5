"""What Lightning trains: a twin, its loss, its schedule, and the numbers it reports."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Collection, Mapping
from typing import Any, cast

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim import Optimizer

from vivit_core.metrics.averages import mean_known
from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.metrics.unit_scores import UnitScores, all_metrics
from vivit_core.models.checkpoint import WRITTEN, written_by
from vivit_core.models.likelihoods.loss import counted, summed_loss
from vivit_core.models.ln import LN
from vivit_core.models.twin import Twin
from vivit_core.names import key_name
from vivit_core.specs import Batch
from vivit_core.training.budget import BUDGET, TimeBudget
from vivit_core.training.distillation import Teacher
from vivit_core.training.optim import CORE, Optimization, readouts_rate

log = logging.getLogger(__name__)

SCORES = ("val/bps_mean", "val_ema/bps_mean")  # of the trained weights, and of their average


class TwinModule(LightningModule):
    """Trains a twin.

    - One optimizer step follows the gradient of the mean loss over all its valid (bin, unit) pairs, plus the twin's
      regularizer, however its clips were dealt to accumulated batches and to ranks: each batch's loss is a *sum*, and
      the gradient is divided once, by the pairs of them all.
    - Dropout at a batch, and which clips see past counts, is a pure function of (seed, epoch, batch, rank), as the
      sampler's clips are of (seed, k). So nothing about random numbers has to be saved, and ranks do not draw alike. To
      resume, the weights, the optimizer and a few counters are enough.
    - A step with a non-finite loss or gradient changes nothing. One NaN on any rank, in any of the accumulated batches,
      is in the summed gradient of every rank, so all ranks decide alike without asking each other.

    Parameters
    ----------
    twin : the model.
    optimization : learning rate and its course.
    burn_in : bins at the start of a clip that do not count.
    epochs, steps_per_epoch : length of the training in optimizer steps, which the schedules need. They are arguments
        because asking the trainer (``estimated_stepping_batches``) makes it start the loader before the loader's state
        is restored.
    gradient_clip : largest norm of a step's gradient, over all parameters together; 0: not clipped. The module clips,
        because Lightning refuses to where a fused optimizer meets mixed precision.
    seed : of the dropout.
    scaled : parts of the twin that learn at ``core_lr_scale``. Where that is 0 they are frozen: nothing of them
        changes, and they compute as in evaluation, without dropout. So they are, too, while ``readouts_first`` lasts.
    max_skipped : this many skipped steps in a row stop the run.
    budget : decides how many of the steps there is time for; None: all are made.
    teacher : whose rates are the targets of the loss; None: the counts alone are. Validations score counts as ever.
    ln : the baseline, which checkpoints keep; None: there is none, or a checkpoint that is loaded says.

    Attributes
    ----------
    steps : optimizer steps of the whole training, which the schedules span: all, or those that the budget has time for.
    last_passes, last_fits : of :meth:`follow_with`; there are none where no callback says so.
    ln : what checkpoints keep of LN, primitives and tensors, or None.

    Raises
    ------
    ValueError
        At the start where the trainer's length is not the one given; in training where ``max_skipped`` is reached.
    """

    def __init__(
        self,
        twin: Twin,
        optimization: Optimization,
        burn_in: int,
        epochs: int,
        steps_per_epoch: int,
        gradient_clip: float = 0.0,
        seed: int = 0,
        scaled: Collection[str] = CORE,
        max_skipped: int = 20,
        budget: TimeBudget | None = None,
        teacher: Teacher | None = None,
        ln: LN | None = None,
    ) -> None:
        super().__init__()
        self.twin = twin
        self.optimization = optimization
        self.burn_in, self.seed, self.max_skipped = burn_in, seed, max_skipped
        self.gradient_clip = gradient_clip
        self.epochs, self.steps_per_epoch = epochs, steps_per_epoch
        self.steps, self.budget = epochs * steps_per_epoch, budget
        self.scaled, self.teacher = scaled, teacher
        self.last_passes, self.last_fits = 0.0, 1
        parts = [getattr(twin, name) for name in scaled] if optimization.core_lr_scale == 0 else []
        self.frozen: list[nn.Module] = [part for part in parts if part is not None]
        for part in self.frozen:
            part.requires_grad_(False)
        early = optimization.readouts_first > 0
        self.waiting = [part for name in scaled if early and (part := getattr(twin, name)) is not None]
        self.train()
        self.ln = None if ln is None else {"description": ln.description(), "weights": ln.state_dict()}
        self.skipped_steps = 0
        self.skipped_in_a_row = 0
        self.unit_metrics = nn.ModuleList(
            StreamedScores(spec.n_units, twin.likelihood(spec.recording_id)) for spec in twin.specs.values()
        )
        self._step_totals: Tensor | None = None  # (2,) loss and pairs of the step's batches so far
        self._step_clips, self._step_seconds, self._step_wait = 0, 0.0, 0.0
        self._clock = 0.0

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Expected counts a bin for each recording."""
        predicted: dict[str, Tensor] = self.twin(batch)
        return predicted

    # Training

    def train(self, mode: bool = True) -> TwinModule:
        super().train(mode)
        for part in self.frozen:
            part.eval()
        return self

    def follow_with(self, passes: float, fits: int) -> None:
        """Let the budget keep time for what a callback does after the last step, or for a share of it
        (:attr:`last_share`).

        Parameters
        ----------
        passes : without gradients, in steps, where there is time for all of them.
        fits : how many twins they are to fit.
        """
        self.last_passes, self.last_fits = passes, fits

    @property
    def last_share(self) -> float:
        """Of the passes after the last step, those for which the budget has kept time."""
        return 1.0 if self.budget is None else self.budget.share

    @property
    def core_waits(self) -> bool:
        """Whether the readouts learn alone in this step: a function of its number, so that nothing has to be saved."""
        return bool(self.waiting) and self.trainer.global_step < self.optimization.core_begins(self.steps)

    def on_train_start(self) -> None:
        trainer = self.trainer
        steps = math.ceil(trainer.num_training_batches / trainer.accumulate_grad_batches)
        if (trainer.max_epochs, steps) != (self.epochs, self.steps_per_epoch):
            raise ValueError(
                f"the module's schedules were made for {self.epochs} epochs of {self.steps_per_epoch} steps, "
                f"but the trainer will run {trainer.max_epochs} of {steps}; give both the same numbers"
            )
        self.twin.set_progress(trainer.global_step / self.steps)
        if self.budget is not None:
            self.budget.begin(trainer.global_step)

    def on_train_epoch_start(self) -> None:
        self._clock = time.perf_counter()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        if self._clock:
            self._step_wait += now - self._clock
            self._step_seconds += now - self._clock
        self._clock = now
        waits = self.core_waits
        for part in self.waiting:
            if part.training == waits:
                part.train(not waits)
        torch.manual_seed(_mixed(self.seed, self.current_epoch, batch_idx, self.global_rank))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        predicted = self(batch)
        if self.teacher is None:
            total, pairs = summed_loss(predicted, batch, self.burn_in, self.twin.likelihood)
            total = total + self.twin.more_nats(predicted, batch, self.burn_in)
        else:
            total, pairs = self.teacher.summed_loss(predicted, batch, self.burn_in, self.twin.likelihood)
        totals = torch.stack([total.detach(), pairs.to(total.dtype)])
        self._step_totals = totals if self._step_totals is None else self._step_totals + totals
        self._step_clips += sum(len(clips["frames"]) for clips in batch.values())
        loss = total + pairs * self.twin.regularizer()
        # The mark of a non-finite loss on the gradients, where it would leave them finite.
        mark = torch.where(loss.detach().isfinite(), 1.0, torch.nan).to(loss.dtype)
        return loss * mark

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        assert self._step_totals is not None
        totals, self._step_totals = self._step_totals, None
        if self.trainer.world_size > 1:
            totals = self.trainer.strategy.reduce(totals, reduce_op="sum")
        # Lightning divided each batch's loss by the number of accumulated batches, and DDP the gradients by the number
        # of ranks.
        scale = self.trainer.accumulate_grad_batches * self.trainer.world_size / totals[1]
        if self.core_waits:
            # Without gradients the optimizer leaves weights, moments and decay alone. They are computed, so that all
            # steps take as long: a limit of time is planned from the first ones.
            for part in self.waiting:
                part.zero_grad(set_to_none=True)
        learned = [p for p in self.twin.parameters() if p.grad is not None]
        gradients = [cast(Tensor, p.grad) for p in learned]
        torch._foreach_mul_(gradients, scale)
        norm = nn.utils.get_total_norm(gradients)
        if norm.isfinite():
            self.skipped_in_a_row = 0
            if self.gradient_clip > 0:
                nn.utils.clip_grads_with_norm_(learned, self.gradient_clip, norm)
            self.log("train/loss", totals[0] / totals[1])
            self.log("train/grad_norm", norm)
        else:
            optimizer.zero_grad(set_to_none=True)  # without gradients AdamW leaves weights, moments and decay alone
            self.skipped_steps += 1
            self.skipped_in_a_row += 1
        self.log("train/skipped_steps", float(self.skipped_steps))
        rate = readouts_rate(optimizer)
        self.log("train/lr", rate)
        if self.skipped_in_a_row >= self.max_skipped:
            raise ValueError(
                f"{self.skipped_in_a_row} steps in a row had a non-finite loss or gradient, or not one valid bin "
                f"(the last is step {self.trainer.global_step}, lr {rate:.2g}). "
                "The weights are still those before them. Lower optim.lr, lengthen optim.warmup_epochs, "
                "lower trainer.gradient_clip, or set trainer.precision=32-true"
            )

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Optimizer | LightningOptimizer, optimizer_closure: Any = None
    ) -> None:
        super().optimizer_step(epoch, batch_idx, optimizer, optimizer_closure)
        # Here, and not in a later hook, so that no checkpoint sees weights that the schedule has not bounded yet, and
        # the next step's learning rate is of the length that is decided now.
        step = self.trainer.global_step + 1
        if self.budget is not None and self.budget.made(step):
            strategy = self.trainer.strategy
            proposal = None
            if self.global_rank == 0:
                proposal = self.budget.proposal(
                    step, self._validation_passes(), self.last_passes, self.steps_per_epoch, self.last_fits
                )
            if (proposal := strategy.broadcast(proposal)) is not None:
                self.budget.take(proposal)
                self._shorten()
        if step >= self.steps < self.epochs * self.steps_per_epoch:
            self.trainer.should_stop = True  # and validates before it does
        self.twin.set_progress(step / self.steps)

    def _validation_passes(self) -> float:
        """Passes of the validations for each optimizer step, in steps."""
        return sum(self.trainer.num_val_batches) / (self.steps_per_epoch * self.trainer.accumulate_grad_batches)

    def _shorten(self) -> None:
        """Let training and schedules end with the steps that the budget has decided."""
        if self.budget is not None and self.budget.steps is not None:
            self.steps = self.budget.steps
            self.trainer.fit_loop.epoch_loop.max_steps = self.steps  # where Lightning keeps its own max_steps

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        now = time.perf_counter()
        self._step_seconds += now - self._clock
        self._clock = now
        if self._step_totals is not None:
            return  # the step is not over
        clips = self._step_clips * self.trainer.world_size
        self.log("system/samples_per_sec", clips / max(self._step_seconds, 1e-9))
        self.log("system/data_wait_frac", self._step_wait / max(self._step_seconds, 1e-9))
        if self.device.type == "cuda":
            self.log("system/gpu_memory", torch.cuda.max_memory_allocated(self.device) / 2**30)
        self._step_clips, self._step_seconds, self._step_wait = 0, 0.0, 0.0

    # Validation

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        for recording_id, predicted in self(batch).items():
            rate, counts, mask = counted(predicted, batch[recording_id], self.burn_in)
            self._metric(recording_id).update(rate, counts, mask)

    def on_validation_epoch_end(self) -> None:
        # float64 sums are the same on every rank already: nothing to reduce
        for name, value in validation_numbers({name: self._metric(name) for name in self.twin.specs}).items():
            self.log(f"val/{name}", value, batch_size=1, rank_zero_only=False)

    def on_validation_start(self) -> None:
        if self.budget is not None:
            self.budget.validation_begins()

    def on_validation_end(self) -> None:
        if self.budget is not None:
            self.budget.validation_ends()
        self._clock = time.perf_counter()  # validation is no waiting for data

    def _metric(self, recording_id: str) -> StreamedScores:
        metric = self.unit_metrics[self.twin.index(recording_id)]
        assert isinstance(metric, StreamedScores)
        return metric

    # Optimizer and checkpoint

    def configure_optimizers(self) -> OptimizerLRSchedulerConfig:
        optimizer, schedule = self.optimization.build(
            self.twin, self.epochs, self.steps_per_epoch, self.scaled, lambda: self.steps
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["twin"] = self.twin.description()
        checkpoint[WRITTEN] = written_by(checkpoint["twin"], checkpoint.get("settings"))
        checkpoint["ln"] = self.ln
        checkpoint["burn_in"] = self.burn_in
        checkpoint[BUDGET] = None if self.budget is None else self.budget.state_dict()
        checkpoint["teacher"] = None if self.teacher is None else self.teacher.checksum
        checkpoint["skipped_steps"] = [self.skipped_steps, self.skipped_in_a_row]
        known = self.trainer.callback_metrics  # of the newest validation, whatever number the checkpoint is kept by
        checkpoint["scores"] = {name: float(known[name]) for name in SCORES if name in known}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if checkpoint["twin"] != self.twin.description():
            raise ValueError(
                "the checkpoint's twin is another one than this run's (its model, readout, recordings or their "
                "statistics differ); resume with the settings and the data it was trained with"
            )
        if checkpoint.get("teacher") != (None if self.teacher is None else self.teacher.checksum):
            raise ValueError(
                "the checkpoint's training had another teacher than this one (its weights differ, or one has none)"
                "; resume with the file that it was taught by"
            )
        self.ln = checkpoint["ln"]
        self.skipped_steps, self.skipped_in_a_row = checkpoint["skipped_steps"]
        if self.budget is not None and checkpoint[BUDGET] is not None:
            self.budget.load_state_dict(checkpoint[BUDGET])
            self._shorten()


def validation_numbers(metrics: Mapping[str, StreamedScores]) -> dict[str, float]:
    """What a validation reports of each recording's metrics and of all units together; empties the metrics.

    A model that predicts NaN or infinite rates has no score: its means are NaN, not those of the other units.
    """
    scores: dict[str, UnitScores] = {}
    for recording_id, metric in metrics.items():
        scores[recording_id] = metric.compute()
        metric.reset()
    loss, bins = (np.concatenate([getattr(s, name) for s in scores.values()]) for name in ("loss", "bins"))
    names = [metric.name for metric in all_metrics()]
    means = {name: mean_known(np.concatenate([s.by_name[name] for s in scores.values()])) for name in names}
    broken = {recording_id: own.broken for recording_id, own in scores.items() if own.broken}
    if broken:
        log.warning(
            "validation: predictions are NaN or infinite for units of %s; the training has diverged (lower optim.lr), "
            "and this checkpoint has no score",
            ", ".join(f"{recording_id} ({units})" for recording_id, units in broken.items()),
        )
    all_known = math.nan if broken else 1.0
    return {
        **{
            f"bps_{key_name(recording_id)}": math.nan if own.broken else mean_known(own.by_name["bps"])
            for recording_id, own in scores.items()
        },
        "loss": all_known * float(np.nansum(loss * bins) / bins.sum()) if bins.any() else math.nan,
        **{f"{name}_mean": all_known * mean for name, mean in means.items()},
        "units_silent": float(sum(s.silent for s in scores.values())),
    }


def _mixed(*numbers: int) -> int:
    """One seed from several numbers, none of which may be swapped or shifted into another."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
