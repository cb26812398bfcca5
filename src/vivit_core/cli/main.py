"""What a user can do, one function each (``TASKS`` lists them). ``main`` composes, and calls one."""

from __future__ import annotations

import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Set
from contextlib import suppress
from pathlib import Path

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from vivit_core.cli.command import made_here, prepared
from vivit_core.cli.context import LEAST_WIDTH, LOG_WIDTH, Settings, console, is_first_rank, job_of_sweep, note
from vivit_core.cli.schema import conf_dir
from vivit_core.cli.sweeps import Job
from vivit_core.cli.tasks.attention import attention
from vivit_core.cli.tasks.compare import compare
from vivit_core.cli.tasks.evaluate import evaluate
from vivit_core.cli.tasks.import_ import import_recording
from vivit_core.cli.tasks.inspect import inspect
from vivit_core.cli.tasks.plan import plan
from vivit_core.cli.tasks.receptive_fields import receptive_fields
from vivit_core.cli.tasks.stream import stream
from vivit_core.cli.tasks.train import train
from vivit_core.cli.tasks.tuning import tuning
from vivit_core.cli.validate import validate
from vivit_core.data.loaders import explained
from vivit_core.names import printable
from vivit_core.specs import RecordingError
from vivit_core.system.stops import Stopped, exit_code, stoppable
from vivit_core.system.streams import steady_streams
from vivit_core.system.troubles import trouble
from vivit_core.training.callbacks.stop_signals import TrainingStopped
from vivit_core.training.machine import (
    give_names,
)
from vivit_core.training.ranks import FirstFailed, started_from_outside
from vivit_core.training.requeue import requeue

OURS: set[str] = set()  # environment variables that main has set


if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = LOG_WIDTH


if console.width < LEAST_WIDTH:
    console.width = LEAST_WIDTH


# Lightning's advertisements and its notices of what is not there; what matters we say ourselves.
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)


warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*")


warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")


warnings.filterwarnings("ignore", message="Experiment logs directory .* exists and is not empty")


warnings.filterwarnings("ignore", message="The ``compute`` method of metric UnitMetrics")  # nothing to validate: said


warnings.filterwarnings("ignore", message=r"Found .* module\(s\) in eval mode")  # a frozen core


# Validation's numbers are the same in all processes already, and 1×1 kernels have two ways to be laid out.
logging.getLogger("lightning.fabric").setLevel(logging.WARNING)


warnings.filterwarnings("ignore", message="It is recommended to use .*sync_dist=True")


warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")


warnings.filterwarnings("ignore", message="The `srun` command is available on your system but is not used")


@hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
def composed(cfg: DictConfig) -> float | None:
    """Compose, validate, run one task; returns the number that a sweep maximizes (of a training, ``val/bps_mean``)."""
    return run_task(cfg)  # and no more, because submitit takes this function apart to send it to another machine


def main() -> None:
    """The program: ``vivit-core``, ``python -m vivit_core`` and ``run.py`` are this.

    What the system refuses to Hydra before a task begins (the run folder) is one line too.
    """
    steady_streams()
    sys.argv[1:] = prepared(sys.argv[1:])
    if "HYDRA_FULL_ERROR" in os.environ:
        composed()
        return
    # Else Hydra prints the traceback of any error but its own; a task, which has its own way with errors, unsets it.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    OURS.add("HYDRA_FULL_ERROR")
    try:
        composed()
    except CompactHydraException as error:
        causes = [error.__cause__] if isinstance(error.__cause__, OmegaConfBaseException) else []
        print(*(str(one) for one in (error, *causes)), sep="\n", file=sys.stderr)
        raise SystemExit(1) from None
    except OSError as error:
        if (message := trouble(error)) is None:
            raise
        print(message, file=sys.stderr)
        raise SystemExit(1) from None
    finally:
        unset_ours()


def unset_ours() -> None:
    """Unset what ``main`` has set; what the user has set stays."""
    while OURS:
        os.environ.pop(OURS.pop(), None)


def refuse_several_processes(task: str) -> None:
    """What only training shares among processes: anything else each of them would do, into the same folder."""
    started = started_from_outside()
    if task != "train" and started is not None and started.processes > 1:
        raise ValueError(
            f"task={task} is one process's work, but {started.by} started {started.processes}; start it with "
            "python run.py alone (with SLURM: srun --ntasks=1)"
        )


def run_task(cfg: DictConfig) -> float | None:
    """One task, and what its end means to whoever asked for it.

    As a job of a sweep, it writes down what it came to, and returns NaN where it came to nothing: the other jobs go on.
    """
    unset_ours()
    give_names()
    job = job_of_sweep()
    with stoppable():
        return run_noted(cfg, job)


def run_noted(cfg: DictConfig, job: Job | None) -> float | None:
    try:
        run = HydraConfig.get().runtime.output_dir
        named, trained = score_name(cfg), cfg.get("task") == "train"
        note(job, status="running", reason=None, run=run, score_name=named, trained=trained)
        settings = validate(cfg)
        refuse_several_processes(settings["task"])
        score = TASKS[settings["task"]](settings)
        note(job, status="finished", score=score)
        return score
    except TrainingStopped as stopped:
        console.print(str(stopped))
        note(job, status="interrupted", reason=str(stopped))
        requeue(stopped.signals)
        raise SystemExit(code_of(stopped.signals)) from None
    except Stopped as stopped:
        console.print(f"task={cfg.get('task')} is {stopped}", markup=False)
        note(job, status="interrupted", reason=str(stopped))
        raise SystemExit(code_of({stopped.signal})) from None
    except FirstFailed:
        if job is not None:
            return float("nan")  # as in the first process
        raise SystemExit(0) from None
    except Exception as error:
        message = message_of(error, places_of(cfg))
        if job is not None:
            if message is None:
                traceback.print_exc()
                note(job, status="failed", reason="".join(traceback.format_exception_only(error)).strip())
            else:
                console.print(message)
                note(job, status="failed" if isinstance(error, OSError) else "refused", reason=message)
            return float("nan")
        if cfg.get("debug") is True or message is None:
            raise
        # Hydra shows the message without a traceback, and exits with 1.
        raise CompactHydraException(printable(message, lines=True)) from error
    finally:
        folder = Path(HydraConfig.get().runtime.output_dir)
        if made_here(folder):  # by Hydra; where nothing was written into it, it goes
            with suppress(OSError):
                folder.rmdir()


def code_of(signals: Set[signal.Signals]) -> int:
    """The exit code of a stopped program; Lightning would kill the first process where one that it started has one."""
    return exit_code(signals) if is_first_rank() or started_from_outside() is not None else 0


def places_of(cfg: DictConfig) -> dict[str, Path]:
    """Setting -> the place that it chooses, for the remedy of what the system refuses there."""
    run = Path(HydraConfig.get().runtime.output_dir)
    places = {"outputs=FOLDER (or hydra.run.dir=FOLDER)": run}
    for key in ("outputs", "data.cache", "data.root", "checkpoint", "init_from", "source", "out"):
        value = OmegaConf.select(cfg, key, throw_on_missing=False, throw_on_resolution_failure=False)
        if isinstance(value, str) and value:
            places[f"{key}=…"] = Path(value)
    return places


def score_name(cfg: DictConfig) -> str | None:
    """Which number a task returns to a sweep, as far as an unchecked configuration says; None where it returns none."""
    split = cfg.get("split")
    names = {"train": "val/bps_mean", "evaluate": f"{split}/bps_mean", "compare": f"{split}/bps_gain_mean"}
    return names.get(str(cfg.get("task")))


def message_of(error: BaseException, places: Mapping[str, Path] | None = None) -> str | None:
    """The message of a user's mistake (a ValueError that this package raised) or of what the system refused (an OSError
    that names a file, a full disk); None for anything else.

    Parameters
    ----------
    error : what was raised.
    places : setting -> the place that it chooses.
    """
    if isinstance(error, OSError):
        return trouble(error, places)
    if isinstance(error, RecordingError):  # also from a loader's worker, whose traceback ends in torch
        return str(error)
    if isinstance(error, RuntimeError) and (said := explained(error)) is not None:  # torch raises it wherever we are
        return said
    if not isinstance(error, ValueError):
        return None
    frames = list(traceback.walk_tb(error.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
    return str(error) if module.startswith("vivit_core") else None


TASKS: dict[str, Callable[[Settings], float | None]] = {
    "train": train,
    "evaluate": evaluate,
    "receptive_fields": receptive_fields,
    "tuning": tuning,
    "compare": compare,
    "stream": stream,
    "attention": attention,
    "plan": plan,
    "inspect": inspect,
    "import": import_recording,
}
