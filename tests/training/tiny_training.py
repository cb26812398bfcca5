"""A real twin and a real training, so small that a run takes about a second. Tests import it; other processes run it.

python tiny_training.py FOLDER          train until a signal comes; prints "step N" and how it ended
python tiny_training.py FOLDER ddp      the same steps on two processes; saves what came out as FOLDER/result.pt
python tiny_training.py FOLDER ddp taught   the same by a teacher's rates, without what goes wrong
"""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningDataModule, Trainer, seed_everything

from vivit_core.models.ensemble import Ensemble
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch, Clips, RecordingSpec
from vivit_core.system.stops import TrainingStopped
from vivit_core.testing.small import ATTENTION, TUBELET
from vivit_core.training.callbacks.checkpoints import Checkpoints, WholeCheckpointIO
from vivit_core.training.callbacks.early_stopping import EarlyStopping
from vivit_core.training.callbacks.progress import TrainingProgress
from vivit_core.training.callbacks.stop_signals import StopSignals
from vivit_core.training.distillation import Teacher
from vivit_core.training.metrics_file import MetricsFile
from vivit_core.training.module import TwinModule
from vivit_core.training.optim import MuonOptimization, Optimization

BINS, SIDE, BURN_IN = 8, 8, 2
UNITS = {"a": 3, "b": 2}
MODEL: dict[str, Any] = {
    "_target_": "vivit_core.models.cores.vivit.ViViT",
    "embedding_dim": 8,
    "blocks": "factorized",
    "spatial_depth": 1,
    "temporal_depth": 1,
    "tokenizer": TUBELET | {"patch_size": [2, 4, 4]},
    "attention": ATTENTION | {"dropout": 0.1},
    "frontend": {"_target_": "vivit_core.models.frontends.temporal_basis.TemporalBasis", "bases": 2, "lags": 3},
    "energy": None,
    "modulator": {"_target_": "vivit_core.models.modulators.convgru.ConvGRU", "hidden": 4, "kernel": 3, "gain": 4},
    "registers": 1,
    "ff_dropout": 0.2,
    "drop_path": 0.2,
    "patch_dropout": 0.1,
    "ff_ratio": 4.0,
    "checkpointing": False,
    "causal": True,
    "window": None,
    "compile": "auto",
}
READOUT: dict[str, Any] = {
    "_target_": "vivit_core.models.readouts.gaussian.GaussianReadout",
    "std_px": 1.5,
    "std_min_px": 0.5,
    "std_max_px": 2.0,
    "std_settle": 0.5,
    "l1": 0.01,
}
LIKELIHOOD: dict[str, Any] = {"_target_": "vivit_core.models.likelihoods.poisson.Poisson", "output": "softplus"}


def specs() -> list[RecordingSpec]:
    return [
        RecordingSpec(
            rid,
            30.0,
            (1, SIDE, SIDE),
            tuple(f"u{i}" for i in range(n)),
            (0.5,) * n,
            0.0,
            1.0,
            {"run": 2},
            (0.0, 0.0),
            (1.0, 1.0),
        )
        for rid, n in UNITS.items()
    ]


def make_twin(seed: int = 0, predict: str = "all", **model: Any) -> Twin:
    torch.manual_seed(seed)
    return Twin({**MODEL, **model}, READOUT, LIKELIHOOD, specs(), predict=predict)


def make_batch(k: int, clips: int = 2, score: bool = False, ids: tuple[str, ...] = ("a", "b")) -> Batch:
    """Batch k: a pure function of k. The counts follow the mean of the frame; recordings differ in their share of valid
    bins."""
    rng = np.random.default_rng([7, k])
    batch: Batch = {}
    for rid in ids:
        frames = rng.normal(size=(clips, 1, BINS, SIDE, SIDE)).astype(np.float32)
        frames += rng.normal(size=(clips, 1, BINS, 1, 1)).astype(np.float32)
        rate = np.exp(0.7 * frames.mean((1, 3, 4)))[..., None].repeat(UNITS[rid], -1)
        batch[rid] = Clips(
            frames=torch.from_numpy(frames),
            counts=torch.from_numpy(rng.poisson(rate).astype(np.float32)),
            valid=torch.from_numpy(rng.random(rate.shape) < (0.9 if rid == "a" else 0.5)),
            behavior=torch.from_numpy(rng.normal(size=(clips, BINS, 2)).astype(np.float32)),
        )
        if score:
            batch[rid]["score"] = torch.from_numpy(np.tile(np.arange(BINS) >= BURN_IN, (clips, 1)))
    return batch


def spoil(batch: Batch) -> None:
    """One count that is not a number and counts: the loss of such a batch is none either."""
    batch["a"]["counts"][0, -1, 0], batch["a"]["valid"][0, -1, 0] = torch.nan, True


def rows(batch: Batch, clips: slice) -> Batch:
    return {rid: {name: value[clips] for name, value in c.items()} for rid, c in batch.items()}  # type: ignore[misc]


class Loader:
    """Keeps the data module's promise: batch k of the training is a function of k, the state is the next k."""

    def __init__(self, per_epoch: int, batches: Any, start: int) -> None:
        self.per_epoch, self.batches, self.next = per_epoch, batches, start

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[Batch]:
        for _ in range(self.per_epoch - self.next % self.per_epoch):
            self.next += 1
            yield self.batches(self.next - 1)

    def state_dict(self) -> dict[str, int]:
        return {"next": self.next}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.next = state["next"]


class Data(LightningDataModule):
    def __init__(self, per_epoch: int, batches: Any, validation: Any) -> None:
        super().__init__()
        self.per_epoch, self.batches, self.validation = per_epoch, batches, validation
        self.loader: Loader | None = None
        self.start = 0

    def train_dataloader(self) -> Loader:
        self.loader = Loader(self.per_epoch, self.batches, self.start)
        return self.loader

    def val_dataloader(self) -> Any:
        return self.validation

    def state_dict(self) -> dict[str, int]:
        assert self.loader is not None
        return self.loader.state_dict()

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.start = state["next"]


class Validation:
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Batch]:
        return (make_batch(1000 + k, score=True) for k in range(2))


MUON: dict[str, Any] = {"muon_lr": 1e-2, "muon_momentum": 0.9}


def optimization(**changed: Any) -> Optimization:
    kind = MuonOptimization if "muon_lr" in changed else Optimization
    return kind(
        **{
            "lr": 1e-2,
            "weight_decay": 0.1,
            "betas": [0.9, 0.95],
            "core_lr_scale": 0.5,
            "attention_lr_scale": 1.0,
            "context_lr_scale": 1.0,
            "window_lr_scale": 1.0,
            "warmup_epochs": 0.5,
            "min_lr_fraction": 0.1,
            "cooldown_fraction": None,
            "readouts_first": 0.0,
            **changed,
        }
    )


class Record(Callback):
    """What one looks at from outside: the losses of the steps and the scores of the validations."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.learning_rates: list[float] = []

    def on_train_batch_end(self, trainer: Trainer, module: Any, *args: Any) -> None:
        metrics = trainer.callback_metrics
        if "train/loss" in metrics:
            self.losses.append(float(metrics["train/loss"]))
            self.learning_rates.append(float(metrics["train/lr"]))

    def on_validation_end(self, trainer: Trainer, module: Any) -> None:
        self.scores.append(float(trainer.callback_metrics["val/bps_mean"]))


def train(
    folder: Path,
    epochs: int = 3,
    steps: int = 4,
    accumulate: int = 1,
    resume: Path | None = None,
    callbacks: list[Callback] | None = None,
    batches: Any = make_batch,
    twin: Twin | None = None,
    optim: dict[str, Any] | None = None,
    module: dict[str, Any] | None = None,
    datamodule: Any = None,
    validation: Any = None,
    progress: TrainingProgress | None = None,
    keep: dict[str, Any] | None = None,
    **trainer_options: Any,
) -> tuple[TwinModule, Trainer, Record]:
    """One training; a resumed one starts from other weights and another seed, so that it has nothing but its
    checkpoint."""
    warnings.filterwarnings("ignore")
    seed_everything(0 if resume is None else 99, verbose=False)
    twin = twin or make_twin(0 if resume is None else 5)
    lit = TwinModule(
        twin, optimization(**(optim or {})), BURN_IN, epochs, steps, **{"gradient_clip": 1.0, **(module or {})}
    )
    record = Record()
    kept = {"filename": "{epoch}-{step}", "monitor": "val/bps_mean", "mode": "max", "save_top_k": 3, "save_last": True}
    keeper = Checkpoints(folder, **{**kept, **(keep or {})})
    metrics = MetricsFile(str(folder), flush_logs_every_n_steps=1)
    if resume is not None:
        metrics.continue_from(torch.load(resume, weights_only=True)["global_step"])
    stop_early = EarlyStopping("val/bps_mean", mode="max", patience=50)
    trainer = Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": epochs,
            "accumulate_grad_batches": accumulate,
            "logger": metrics,
            "plugins": [WholeCheckpointIO()],
            "num_sanity_val_steps": 0,
            "log_every_n_steps": 1,
            "enable_model_summary": False,
            "callbacks": [
                *(callbacks or []),
                StopSignals(),
                progress or TrainingProgress(),
                keeper,
                stop_early,
                record,
            ],
            **trainer_options,
        }
    )
    datamodule = datamodule or Data(steps * accumulate, batches, validation or Validation())
    trainer.fit(lit, datamodule, ckpt_path=resume)
    return lit, trainer, record


def until_signal(folder: Path) -> None:
    class Tell(Callback):
        def on_train_batch_end(self, trainer: Trainer, *args: Any) -> None:
            print(f"step {trainer.global_step}", flush=True)

    try:
        train(folder, epochs=10000, callbacks=[Tell()])
    except TrainingStopped as stopped:
        print(f"stopped: {stopped}", flush=True)


def ddp_batches(k: int) -> Batch:
    """This rank's share of batch k; batch 2 is broken on rank 1 alone, and of batch 1 it has no clip of recording b."""
    rank = torch.distributed.get_rank()
    batch = rows(make_batch(k, ids=("a",) if (k, rank) == (1, 1) else ("a", "b")), slice(rank, rank + 1))
    if k == 2 and rank == 1:
        spoil(batch)
    return batch


class DdpValidation:
    """Rank 1 has no clips of recording b."""

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        rank = torch.distributed.get_rank()
        yield rows(make_batch(1000, score=True, ids=("a", "b") if rank == 0 else ("a",)), slice(rank, rank + 1))


SMALL_STEPS = {"lr": 1e-4}  # AdamW makes whole steps even of gradients that are little more than rounding


def moments(trainer: Trainer) -> list[torch.Tensor]:
    """AdamW's first moments: running means of the gradients."""
    return [state["exp_avg"] for state in trainer.optimizers[0].state_dict()["state"].values()]


def share_of_rank(k: int) -> Batch:
    """This rank's clip of each recording of batch k."""
    rank = torch.distributed.get_rank()
    return rows(make_batch(k), slice(rank, rank + 1))


def make_teacher(share: float = 1.0, model: Any = None) -> Teacher:
    """An ensemble's rates, or another model's, in the place of counts."""
    made = Teacher(model or Ensemble([make_twin(seed) for seed in (11, 12)]), "both.ckpt", share)
    made.check(make_twin())
    return made


def ddp(folder: Path, taught: bool) -> None:
    _, trainer, record = train(
        folder,
        epochs=1,
        batches=share_of_rank if taught else ddp_batches,
        validation=DdpValidation(),
        module={"teacher": make_teacher(0.5) if taught else None},
        optim=SMALL_STEPS,
        twin=make_twin(**WITHOUT_DROPOUT),
        devices=2,
        strategy="ddp_find_unused_parameters_true",
        use_distributed_sampler=False,
    )
    if trainer.is_global_zero:
        metrics = {
            name: float(value) for name, value in trainer.callback_metrics.items() if not name.startswith("system")
        }
        torch.save({"moments": moments(trainer), "losses": record.losses, "metrics": metrics}, folder / "result.pt")


WITHOUT_DROPOUT: dict[str, Any] = {
    "ff_dropout": 0.0,
    "drop_path": 0.0,
    "patch_dropout": 0.0,
    "attention": ATTENTION,
}


class SignalAt(Callback):
    """Sends this process a real signal while batch ``batch`` of epoch ``epoch`` is computed."""

    def __init__(self, epoch: int, batch: int, number: signal.Signals = signal.SIGINT) -> None:
        self.at, self.number = (epoch, batch), number

    def on_train_batch_start(self, trainer: Trainer, module: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == self.at:
            os.kill(os.getpid(), self.number)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[2:3] == ["ddp"]:
        ddp(Path(sys.argv[1]), taught="taught" in sys.argv)
    else:
        until_signal(Path(sys.argv[1]))
