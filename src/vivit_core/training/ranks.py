"""Processes that train together: who starts them, how many there must be, and what the first does for all.

One process for each device. They are started by torchrun, by SLURM's ``srun``, by submitit, or, on one machine, by the
command itself through Lightning. Each runs the whole program; what has to be done or decided once is
:meth:`ProcessGroup.first`.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.strategies import DDPStrategy, Strategy

from vivit_core.system.processes import FirstFailed, started_from_outside
from vivit_core.system.stops import TrainingStopped

T = TypeVar("T")
# What gloo and NCCL say where a process is gone that they exchange with.
GONE = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "remote process exited")
PATIENCE = timedelta(days=7)  # how long the others wait for the first, which may fit baselines or simulate recordings


class PeerLost(ValueError):
    """Another of the processes that train together is gone, so this one cannot go on."""


def lost_peer(error: BaseException, processes: ProcessGroup) -> BaseException:
    """:class:`PeerLost` in the place of what the exchange says where a process is gone; any other error as it is."""
    if processes.size == 1 or not (isinstance(error, RuntimeError) and any(word in str(error) for word in GONE)):
        return error
    return PeerLost(
        f"process {processes.rank} of {processes.size} (the first is 0) ends, because another one, with which it "
        "trains, is gone: what that one printed, or the system's log, says why (an error of its own, memory that was "
        "full, a machine that stopped); start all again with resume=auto"
    )


def check_started(device: str, devices: int, num_nodes: int) -> None:
    """Refuse a number of processes that is not the number of devices.

    Raises
    ------
    ValueError
        Says what was started, what is needed, and how to start that. Lightning would train with another number of
        processes than asked for, or wait forever for those that are missing.
    """
    if devices < 1 or num_nodes < 1:
        raise ValueError(f"trainer.devices={devices} and trainer.num_nodes={num_nodes} must be 1 or more")
    wanted, started = devices * num_nodes, started_from_outside()
    asked = f"trainer.devices={devices} and trainer.num_nodes={num_nodes} need {wanted}"
    if started is None:
        if num_nodes > 1:
            raise ValueError(
                f"{asked} processes on {num_nodes} machines, which this one cannot start: start one on each with "
                f"torchrun --nnodes={num_nodes} --nproc-per-node={devices} …, or with SLURM (docs/cluster.md)"
            )
    elif (started.nodes, started.processes) != (num_nodes, wanted):
        per_node = max(1, started.processes // started.nodes)
        how = {
            "torchrun": f"torchrun --nnodes={num_nodes} --nproc-per-node={devices} run.py …",
            "submitit": f"hydra.launcher.tasks_per_node={devices}",
            "SLURM": f"srun --nodes={num_nodes} --ntasks-per-node={devices} python run.py …, or with submitit "
            f"hydra.launcher.nodes={num_nodes} hydra.launcher.tasks_per_node={devices}",
        }[started.by]
        raise ValueError(
            f"{started.by} started {started.processes} on {started.nodes} machine(s), but {asked} processes, one for "
            f"each device; start them with {how}, or set trainer.devices={per_node} trainer.num_nodes={started.nodes}"
        )
    elif started.by == "SLURM" and wanted > 1 and "SLURM_NTASKS_PER_NODE" not in os.environ:
        raise ValueError(f"give srun --ntasks-per-node={devices} instead of -n: from that Lightning knows the ranks")
    if device == "cuda" and devices > torch.cuda.device_count():
        raise ValueError(
            f"trainer.devices={devices}, but this process sees {torch.cuda.device_count()} GPU(s); every process must "
            "see all GPUs of its machine (with SLURM: --gpus-per-node, and neither --gpus-per-task nor --gpu-bind)"
        )


def environment_of(wanted: int) -> ClusterEnvironment:
    """How Lightning gets to know the ranks. It never requeues a SLURM job: that is the launcher's business."""
    started = started_from_outside()
    if wanted == 1 or started is None:
        return LightningEnvironment()
    if started.by == "torchrun":
        return TorchElasticEnvironment()
    if started.by == "SLURM":
        return SLURMEnvironment(auto_requeue=False)
    # submitit's tasks on this machine: the same words that torchrun would have used
    os.environ["LOCAL_RANK"] = os.environ["RANK"] = os.environ["SUBMITIT_LOCAL_GLOBALID"]
    os.environ["MASTER_ADDR"] = "127.0.0.1"
    os.environ["MASTER_PORT"] = str(20_000 + int(os.environ["SUBMITIT_LOCAL_JOB_ID"]) % 20_000)
    return LightningEnvironment()


@dataclass
class ProcessGroup:
    """The processes of one training. With one process, all of this does nothing.

    Attributes
    ----------
    rank, size : this process's number, and how many there are.
    environment : for Lightning's trainer.
    """

    rank: int
    size: int
    environment: ClusterEnvironment
    waiting: Any = None  # the group in which the others wait

    def first(self, function: Callable[[], T]) -> T:
        """What the function returns in the first process, in all of them; the others wait for it.

        Raises
        ------
        FirstFailed
            In the others, where it raised in the first.
        """
        if self.size == 1:
            return function()
        answer: list[Any] = [None, True]
        try:
            if self.rank == 0:
                answer = [function(), False]
        finally:
            dist.broadcast_object_list(answer, src=0, group=self.waiting)
        if answer[1]:
            raise FirstFailed
        value: T = answer[0]
        return value

    def strategy(self, recordings: int) -> Strategy | str:
        """Of Lightning's trainer, for a twin of so many recordings."""
        if self.size == 1:
            return "auto"
        # A rank's share of a batch may lack a recording, whose readout then has no gradient there. Where no rank has a
        # clip of it, it has none at all, as in one process.
        return PatientStrategy(self, find_unused_parameters=recordings > 1, forward_sync_buffers=False)


class PatientStrategy(DDPStrategy):
    """Lightning's, in which the others wait for what one process tells as long as :meth:`ProcessGroup.first` lets them:
    it may have fitted all readouts before."""

    def __init__(self, processes: ProcessGroup, **options: Any) -> None:
        super().__init__(**options)
        self.processes = processes  # and not its group, which has to end with the training

    def broadcast(self, obj: T, src: int = 0) -> T:
        told = [obj]
        dist.broadcast_object_list(told, src, group=self.processes.waiting)
        return told[0]


@contextmanager
def process_group(device: str, devices: int, num_nodes: int) -> Iterator[ProcessGroup]:
    """Start the processes that are to train together, or join them.

    Parameters
    ----------
    device : "cpu" or "cuda".
    devices : processes on each machine.
    num_nodes : machines.

    Raises
    ------
    ValueError
        Where other processes were started than these numbers need.
    """
    check_started(device, devices, num_nodes)
    environment = environment_of(devices * num_nodes)
    if devices * num_nodes == 1:
        yield ProcessGroup(0, 1, environment)
        return
    fabric = Fabric(accelerator=device, devices=devices, num_nodes=num_nodes, strategy="ddp", plugins=environment)
    fabric.launch()
    waiting = dist.new_group(backend="gloo", timeout=PATIENCE)
    processes = ProcessGroup(fabric.global_rank, fabric.world_size, environment, waiting)
    del waiting
    try:
        yield processes
        part(processes)
    except TrainingStopped:
        part(processes)
        raise  # all have stopped
    except BaseException as error:
        for process in getattr(fabric.strategy.launcher, "procs", []):  # else they would wait for this one
            process.kill()
        if (told := lost_peer(error, processes)) is not error:
            raise told from None
        raise


def part(processes: ProcessGroup) -> None:
    """End the threads of the process groups.

    One that still lets go of the last exchange's tensors while Python ends aborts the process, and with it, under
    torchrun, a training that had gone well. They end when nothing holds their group any more.
    """
    processes.waiting = None
    gc.collect()  # the trainer's strategy holds one
    dist.destroy_process_group()
