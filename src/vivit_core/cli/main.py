"""The program. It composes a configuration, checks it, and runs one task (``cli/tasks``, one file each)."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from vivit_core.cli.command import made_here, prepared
from vivit_core.cli.console import console, tell
from vivit_core.cli.context import RunContext, Settings
from vivit_core.cli.memory import ran_out, remedy
from vivit_core.cli.runs import Held
from vivit_core.cli.schema import ConfigError, conf_dir
from vivit_core.cli.sweeps import Job, job_of, note_job, took
from vivit_core.cli.task import call, follows_recordings, paths_in, score_of, task_named
from vivit_core.cli.validate import validate
from vivit_core.names import nearest, printable
from vivit_core.parts.groups import class_of, consent, group_of, lies_in
from vivit_core.parts.schema import Geometry, suggestion, types_of, values_of
from vivit_core.specs import RecordingError
from vivit_core.system.activity import voice
from vivit_core.system.processes import FirstFailed, is_first_rank, started_from_outside
from vivit_core.system.stops import Stopped, TrainingPruned, TrainingStopped, exit_code, stoppable
from vivit_core.system.streams import steady_streams
from vivit_core.system.troubles import trouble
from vivit_core.system.user import give_names
from vivit_core.training.requeue import requeue

OURS: set[str] = set()  # environment variables that main has set

# Lightning's notices of what is not there; what matters we say ourselves.
for message in (
    ".*treespec, LeafSpec.*",
    "Checkpoint directory .* exists and is not empty",
    "Experiment logs directory .* exists and is not empty",
    "The ``compute`` method of metric StreamedScores",  # nothing to validate: said
    r"Found .* module\(s\) in eval mode",  # a frozen core
    # Validation's numbers are the same in all processes already, and 1×1 kernels have two ways to be laid out.
    "It is recommended to use .*sync_dist=True",
    "Grad strides do not match bucket view strides",
    "The `srun` command is available on your system but is not used",
):
    warnings.filterwarnings("ignore", message=message)


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
        print(words_of(error), file=sys.stderr)
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


def words_of(error: CompactHydraException) -> str:
    """What Hydra refuses before a task begins; of a key that does not exist, our own line and not its advice to add
    that key nevertheless."""
    cause = error.__cause__
    if isinstance(cause, ConfigKeyError | ConfigAttributeError) and isinstance(cause.full_key, str):
        path, _, key = cause.full_key.rpartition(".")
        known = set(map(str, cause.parent_node or ())) - {"_target_"}
        if takes_entries(path, cause.parent_node):
            meant = suggestion(path, key, known) if known else ""
            new = f"; a new entry is said with +{cause.full_key}=VALUE"
            return str(ConfigError([f"{cause.full_key} does not exist{meant}{new}"]))
        group = (path or key).replace(".", "/")
        if not (path and cause.parent_node) and (folder := conf_dir() / group).is_dir():
            options = ", ".join(sorted(file.stem for file in folder.glob("*.yaml")))
            return str(ConfigError([f"no {path or key} is chosen; say {group}=NAME, of {options}"]))
        return str(ConfigError([f"{cause.full_key} does not exist{suggestion(path, key, known)}"]))
    said = [str(error)]
    if isinstance(cause, OmegaConfBaseException):
        said.append(str(cause))
    if isinstance(error, MissingConfigException) and (nearest := nearest_option(error)) is not None:
        said.append(f"did you mean {nearest}?")
    return "\n".join(said)


def takes_entries(path: str, node: Any) -> bool:
    """Whether the keys at ``path`` are the user's own: those of a dict, as of parts by name."""
    if not isinstance(node, DictConfig) or "_target_" in node:
        return False
    if group_of(f"{path}.*") is not None:
        return True
    # OmegaConf has put an empty node where a plain value was, so that the schema alone knows.
    owner, _, name = path.rpartition(".")
    above = node._get_parent()
    target = above.get("_target_") if isinstance(above, DictConfig) else None
    with suppress(ValueError):  # of a class that is none, which the check says
        schema: Callable[..., Any] = Geometry if owner == "data.geometry" else class_of(owner, target)
        return values_of(types_of(schema).get(name)) is not None
    return False


def nearest_option(error: MissingConfigException) -> str | None:
    """``GROUP=NAME`` that was probably meant where a group has no file of a name; None where nothing is like it."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    close = nearest(name, error.options or ())
    return f"{group}={close}" if close else None


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
    with stoppable():
        return run_noted(cfg, job_of_sweep())


def run_noted(cfg: DictConfig, job: Job | None) -> float | None:
    began, run = time.monotonic(), HydraConfig.get().runtime.output_dir
    settings: Settings | None = None
    try:
        # Before what imports torch, which takes seconds; how many jobs a sweep has is known in its own process alone.
        if is_first_rank():
            tell(f"task={cfg.get('task')} begins" + ("" if job is None else f": {job_of(job.number)}"))
        with consent(packages_of(cfg)), voice(tell, console.is_terminal, f"task={cfg.get('task')}"):
            named, trained = score_name(cfg), cfg.get("task") == "train"
            note_job(job, status="running", reason=None, run=run, score_name=named, trained=trained)
            settings = validate(cfg)
            refuse_several_processes(settings["task"])
            task = task_named(settings["task"])
            context = context_of(settings, job)
            if follows_recordings(task):
                from vivit_core.cli.planned import followers, following  # which reads recordings
                from vivit_core.cli.recipes import said_of_model

                settings = following(cfg, settings, context.overridden)
                asked = None if settings.get("init_from") is None else context.experiment
                says = said_of_model(asked, config_folders())
                context = replace(context, settings=settings, follows=followers(cfg), recipe_says=says)
            score = call(task, context, settings)
            note_job(job, status="finished", score=score)
            return score
    except TrainingPruned as pruned:
        console.print(str(pruned), markup=False)
        note_job(job, status="pruned", reason=str(pruned), score=pruned.score)
        return float("nan")
    except TrainingStopped as stopped:
        console.print(str(stopped))
        note_job(job, status="interrupted", reason=str(stopped))
        requeue(stopped.signals)
        raise SystemExit(code_of(stopped.signals)) from None
    except Stopped as stopped:
        tell(f"task={cfg.get('task')} is {stopped}")
        note_job(job, status="interrupted", reason=str(stopped))
        raise SystemExit(code_of({stopped.signal})) from None
    except FirstFailed:
        if job is not None:
            return float("nan")  # as in the first process
        raise SystemExit(0) from None
    except Exception as error:
        short = settings is not None and ran_out(error)
        message = remedy(error, settings or {}) if short else message_of(error, places_of(cfg), packages_of(cfg))
        if job is not None:
            if message is None:
                traceback.print_exc()
                note_job(job, status="failed", reason="".join(traceback.format_exception_only(error)).strip())
            elif isinstance(error, Held) and error.path.resolve() == Path(run).resolve():
                console.print(message)  # what this job came to is for the process to say that works on it
            else:
                console.print(message)
                note_job(job, status="failed" if short or isinstance(error, OSError) else "refused", reason=message)
            return float("nan")
        if cfg.get("debug") is True or message is None:
            raise
        # Printed here, and no Exception, which Hydra would wrap into words of its own.
        print(printable(message, lines=True), "(debug=true adds the traceback)", sep="\n", file=sys.stderr)
        raise SystemExit(1) from error
    finally:
        took(time.monotonic() - began)
        folder = Path(run)
        if made_here(folder):  # by Hydra; where nothing was written into it, it goes
            with suppress(OSError):
                folder.rmdir()


def code_of(signals: Set[signal.Signals]) -> int:
    """The exit code of a stopped program; Lightning would kill the first process where one that it started has one."""
    return exit_code(signals) if is_first_rank() or started_from_outside() is not None else 0


def job_of_sweep() -> Job | None:
    """This job of a sweep; None outside of one."""
    config = HydraConfig.get()
    return Job(Path(config.sweep.dir).absolute(), config.job.num) if config.mode == RunMode.MULTIRUN else None


def context_of(settings: Settings, job: Job | None) -> RunContext:
    """What Hydra knows of this run, for its task."""
    config = HydraConfig.get()
    return RunContext(settings, tuple(config.overrides.task), config.runtime.choices.get("experiment"), job)


def config_folders() -> list[Path]:
    """Where configurations lie, in the order in which Hydra looks."""
    return [Path(source.path) for source in HydraConfig.get().runtime.config_sources if source.schema == "file"]


def packages_of(cfg: DictConfig) -> list[str]:
    """The packages of others that the user consents to; none where ``packages`` is no list of words, which the check
    says."""
    said = OmegaConf.select(cfg, "packages", throw_on_missing=False, throw_on_resolution_failure=False)
    words = list(said) if isinstance(said, ListConfig) else []
    return words if all(isinstance(word, str) for word in words) else []


def places_of(cfg: DictConfig) -> dict[str, Path]:
    """Setting -> the place that it chooses, for the remedy of what the system refuses there."""
    run = Path(HydraConfig.get().runtime.output_dir)
    places = {"outputs=FOLDER (or hydra.run.dir=FOLDER)": run}
    keys = ["outputs", "data.cache", "data.root"]
    with suppress(ValueError), consent(packages_of(cfg)):  # which the message itself may be about
        keys += paths_in(task_named(str(cfg.get("task"))))
    for key in keys:
        value = OmegaConf.select(cfg, key, throw_on_missing=False, throw_on_resolution_failure=False)
        if isinstance(value, str) and value:
            places[f"{key}=…"] = Path(value)
    return places


def score_name(cfg: DictConfig) -> str | None:
    """Which number a task returns to a sweep, as far as an unchecked configuration says; None where it returns none."""
    try:
        return score_of(task_named(str(cfg.get("task"))), cfg)
    except ConfigError:  # no such task, which the check will say
        return None


def message_of(
    error: BaseException, places: Mapping[str, Path] | None = None, packages: Sequence[str] = ()
) -> str | None:
    """The message of a user's mistake (a ValueError that this package raised, or one that the user consented to) or of
    what the system refused (an OSError that names a file, a full disk); None for anything else.

    Parameters
    ----------
    error : what was raised.
    places : setting -> the place that it chooses.
    packages : other people's packages that the user consented to.
    """
    if isinstance(error, OSError):
        return trouble(error, places)
    if isinstance(error, RecordingError):  # also from a loader's worker, whose traceback ends in torch
        return str(error)
    if not isinstance(error, ValueError):
        return None
    frames = list(traceback.walk_tb(error.__traceback__))
    module = str(frames[-1][0].f_globals.get("__name__", "")) if frames else ""
    return str(error) if lies_in(f"{module}.", ("vivit_core", *packages)) else None
