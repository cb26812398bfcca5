"""Lightning's trainer, made for one training of a twin."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from vivit_core.training.callbacks.checkpoints import WholeCheckpointIO
from vivit_core.training.ranks import ProcessGroup


def make_trainer(
    processes: ProcessGroup,
    *,
    device: str,
    devices: int,
    num_nodes: int,
    precision: Any,
    deterministic: bool,
    epochs: int,
    steps_per_epoch: int,
    accumulate: int,
    recordings: int,
    folder: Path,
    callbacks: Sequence[Callback],
    loggers: Sequence[Logger],
) -> Trainer:
    """A trainer that counts optimizer steps, and writes whole checkpoints.

    Parameters
    ----------
    processes : the processes that train.
    device : "cpu" or "cuda".
    devices, num_nodes : processes on each machine, and machines.
    precision : of the computing, "32-true" or "bf16-mixed".
    deterministic : the same numbers from the same seed, also on a GPU.
    epochs, steps_per_epoch, accumulate : optimizer steps, and passes in each of them.
    recordings : of the twin.
    folder : the run's.
    callbacks, loggers : of the configuration, and the program's own.
    """
    return Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=devices,
        num_nodes=num_nodes,
        strategy=processes.strategy(recordings),
        plugins=[processes.environment, WholeCheckpointIO()],
        precision=precision,
        max_epochs=epochs,
        accumulate_grad_batches=accumulate,
        # Where torch only warns, attention's backward pass on a GPU is not deterministic, though it could be.
        deterministic=deterministic,
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the sampler gives each rank its own part
        log_every_n_steps=min(20, steps_per_epoch),
        default_root_dir=folder,
        logger=list(loggers),
        callbacks=list(callbacks),
    )
