"""Which of several processes this one is, and who started them. Asked of the environment alone, so that a program that
trains nothing need not load what trains."""

from __future__ import annotations

import os
from typing import NamedTuple

# As Lightning asks, in this order: SLURM counts processes also where something else shares out the work.
RANKS = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")


class FirstFailed(Exception):
    """What the first process was to do for all has failed there, and it says why."""


class Started(NamedTuple):
    """Processes that something else than this program started."""

    by: str
    nodes: int
    processes: int


def is_first_rank() -> bool:
    """Whether this process is the one, of those that train together, that writes files."""
    return int(next((os.environ[name] for name in RANKS if name in os.environ), 0)) == 0


def started_from_outside() -> Started | None:
    """Who started several processes, or may have; None where this process is alone, as from a shell."""
    if "TORCHELASTIC_RUN_ID" in os.environ:
        processes = int(os.environ["WORLD_SIZE"])
        return Started("torchrun", processes // int(os.environ["LOCAL_WORLD_SIZE"]), processes)
    if os.environ.get("SUBMITIT_EXECUTOR") == "local":
        return Started("submitit", 1, int(os.environ["SUBMITIT_LOCAL_NTASKS"]))
    interactive = os.environ.get("SLURM_JOB_NAME") in ("bash", "interactive")  # a shell that SLURM opened
    if os.environ.get("SLURM_JOB_ID", "").isdecimal() and not interactive:
        # Of the step, not of the job: a script without srun has the job's tasks in its environment, but runs once.
        return Started(
            "SLURM", int(os.environ.get("SLURM_STEP_NUM_NODES", 1)), int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))
        )
    return None
