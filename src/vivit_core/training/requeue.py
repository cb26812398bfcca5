"""Back into the queue: what a job does when its scheduler has stopped it.

submitit owns the requeue: its handler of SIGUSR2 keeps the job for the next start and tells the scheduler to queue it
again. The training only stops first, with a checkpoint (``callbacks.StopSignals``), and then hands over.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Set

from vivit_core.system.processes import is_first_rank


def requeue(signals: Set[signal.Signals]) -> None:
    """Queue this job again where a scheduler wants that; then it does not return.

    Does nothing outside of submitit's jobs, after Ctrl-C or a closed terminal, and after SIGTERM where the job was
    cancelled, or where SLURM queues it again by itself.

    Parameters
    ----------
    signals : what has stopped the training.

    Raises
    ------
    submitit.core.utils.UncompletedJobError
        Where the job's time was up more often than ``hydra.launcher.max_num_timeout``.
    """
    if "SUBMITIT_EXECUTOR" not in os.environ or signals <= {signal.SIGINT, signal.SIGHUP}:
        return
    if not is_first_rank():
        raise SystemExit(0)  # not a return, which submitit would take for a result; the first rank queues the job again
    owner = signal.getsignal(signal.SIGUSR2)
    if callable(owner) and (signal.SIGUSR2 in signals or runs_on()):
        for number in (signal.SIGUSR2, signal.SIGTERM):  # schedulers repeat themselves, and once is enough for submitit
            signal.signal(number, signal.SIG_IGN)
        owner(signal.SIGUSR2, None)


def runs_on() -> bool:
    """Whether SLURM still counts this job as running: it has been signalled, but neither cancelled nor preempted."""
    if os.environ["SUBMITIT_EXECUTOR"] != "slurm":
        return False
    question = ["squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format", "%T"]
    answer = subprocess.run(question, capture_output=True, text=True, timeout=60, check=False, encoding="utf-8")
    return answer.stdout.strip() == "RUNNING"
