"""Back into the queue: what a job does when its scheduler has stopped it.

submitit owns the requeue: its handler of SIGUSR2 keeps the job for the next start and tells the scheduler to queue it
again. The training only stops first, with a checkpoint (``callbacks.StopSignals``), and then hands over.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Set

from vivit_core.system.plain import in_a_line
from vivit_core.system.processes import is_first_rank

TRIES, TRY_S, PAUSE_S = 3, 7.0, 1.0  # of squeue: together less than the 30 s that SLURM leaves between SIGTERM and kill


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
    """Whether SLURM still counts this job as running: it has been signalled, but neither cancelled nor preempted.

    Where SLURM does not answer, a line says that the job was not queued again.
    """
    if os.environ["SUBMITIT_EXECUTOR"] != "slurm":
        return False
    question = ["squeue", "--noheader", "--jobs", os.environ["SLURM_JOB_ID"], "--format", "%T"]
    for left in reversed(range(TRIES)):
        try:
            answer = subprocess.run(question, capture_output=True, text=True, timeout=TRY_S, encoding="utf-8")
            if answer.returncode == 0:
                return answer.stdout.strip() == "RUNNING"
            reason: Exception = RuntimeError(answer.stderr.strip() or f"exit code {answer.returncode}")
        except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError) as error:
            reason = error
        time.sleep(PAUSE_S if left else 0)
    print(
        f"squeue does not say whether this job still runs ({in_a_line(reason)}), so it is not queued again; "
        "resume=auto continues the training",
        flush=True,
    )
    return False
