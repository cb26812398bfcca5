"""What a user can do, one function each (``TASKS`` lists them). ``main`` composes, and calls one."""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import nullcontext, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import hydra
import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.table import Column, Table

from vivit_core import runs
from vivit_core.analysis import attention as attending
from vivit_core.analysis import compare as comparison
from vivit_core.analysis import pictures
from vivit_core.analysis import receptive_fields as fields
from vivit_core.analysis.evaluate import evaluate as evaluate_twin
from vivit_core.analysis.evaluate import report_section, without_scores
from vivit_core.analysis.inspect import inspect as inspect_recordings
from vivit_core.analysis.inspect import report_section as inspect_section
from vivit_core.analysis.latency import measure_stream
from vivit_core.analysis.predict import refuse_blind
from vivit_core.analysis.report import Section, cell, publish, training_of
from vivit_core.analysis.tuning import report_section as tuning_section
from vivit_core.analysis.tuning import tune
from vivit_core.build import build, build_all
from vivit_core.checkpoint import WRITTEN, read_checkpoint, read_plain, refused, settings_of, written_by
from vivit_core.command import made_here, prepared
from vivit_core.config import Budget, conf_dir, fingerprint, relocated, validate
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.loading import explained
from vivit_core.data.recording import Recording, Trials
from vivit_core.data.transforms import widths
from vivit_core.data.windows import evaluation_windows
from vivit_core.files import link_or_copy, write_text
from vivit_core.groups import class_of
from vivit_core.models.baselines import LN, load_ln
from vivit_core.models.plan import check_geometry
from vivit_core.models.plan import plan as plan_twin
from vivit_core.models.twin import AVERAGE, Twin, load_twin
from vivit_core.names import command, hydra_value, key_name, printable, setting
from vivit_core.specs import Clips, RecordingError, RecordingSpec
from vivit_core.stops import Stopped, exit_code, stoppable
from vivit_core.streams import steady_streams
from vivit_core.sweeps import Job
from vivit_core.terminal import PlainConsole, shown, track
from vivit_core.training.averaging import Averaging
from vivit_core.training.callbacks import TrainingStopped, early_end, never_scored
from vivit_core.training.checkpoints import Checkpoints, WholeCheckpointIO, has_ended, keeper_state, save_checkpoint
from vivit_core.training.ln import fit_ln
from vivit_core.training.machine import (
    bf16_is_native,
    compiles,
    exact_float32,
    give_names,
    keep_freed_memory,
    precision_on_gpu,
)
from vivit_core.training.metrics_file import MetricsFile
from vivit_core.training.module import TwinModule
from vivit_core.training.optim import CORE
from vivit_core.training.ranks import FirstFailed, Ranks, ranks, started_from_outside
from vivit_core.training.requeue import requeue
from vivit_core.training.restore import Begun, check_restorable, restoring
from vivit_core.training.start import start_from_data
from vivit_core.training.tracking import WandbRun, finish_wandb
from vivit_core.training.transfer import Pretrained, adopted_model, load_parts, pretrained
from vivit_core.troubles import trouble

Settings = dict[str, Any]  # a composed, validated, plain configuration
# How clips are cut from recordings, and what they hold.
CUT = (
    "behavior", "transforms", "frame_rate_hz", "clip_length", "burn_in", "evaluation_length", "evaluation_burn_in",
)  # fmt: skip
MOST_SIMULATED_BYTES = 16 << 30  # of the recordings that are made because a checkpoint was trained on such
LOG_WIDTH = 160  # characters of a line in a log file, where no terminal says how many there are
LEAST_WIDTH = 40  # below it a table's columns hold nothing
LN_TARGET = f"{LN.__module__}.{LN.__qualname__}"
OURS: set[str] = set()  # environment variables that main has set
console = PlainConsole()
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
    """Compose, validate, run one task; returns the number that a sweep maximises (of a training, ``val/bps_mean``)."""
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


def job_of_sweep() -> Job | None:
    """This job of a sweep; None outside of one."""
    config = HydraConfig.get()
    return Job(Path(config.sweep.dir).absolute(), config.job.num) if config.mode == RunMode.MULTIRUN else None


def score_name(cfg: DictConfig) -> str | None:
    """Which number a task returns to a sweep, as far as an unchecked configuration says; None where it returns none."""
    split = cfg.get("split")
    names = {"train": "val/bps_mean", "evaluate": f"{split}/bps_mean", "compare": f"{split}/bps_gain_mean"}
    return names.get(str(cfg.get("task")))


def note(job: Job | None, **changes: Any) -> None:
    if job is not None and is_first_rank():
        score = changes.get("score")
        job.note(**changes | ({"score": None} if score is not None and not math.isfinite(score) else {}))


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


# Train --------------------------------------------------------------------------------------------------------------


def train(settings: Settings) -> float | None:
    """Train a twin, or continue an interrupted training; evaluate its best checkpoint on the test split."""
    refuse_sweep_of_ranks(settings)
    trainer = settings["trainer"]
    with ranks(machine_of(trainer)[0], trainer["devices"], trainer["num_nodes"]) as together:
        console.quiet = together.rank > 0
        settings = with_model_of_init_from(settings)
        run, checkpoint = together.first(lambda: where_to_train(settings))
        note(job_of_sweep(), run=str(run.path))
        if checkpoint is None and run.finished:
            return run.score
        with run.held() if together.rank == 0 else nullcontext():
            if together.rank == 0:
                run.remove_leftovers()
            settings = relocated(settings, str(run.path))
            if checkpoint is None or settings["model"]["_target_"] == LN_TARGET:
                describe(run, settings, continues=checkpoint is not None)
            # Any other continuation is noted when it goes on (KeepSettings), because it may yet be refused.
            try:
                score = fit(settings, run, checkpoint, together)
                if together.rank == 0:
                    run.finish(score)
                return score
            except BaseException as error:
                if together.rank == 0:
                    note_failure(run, error)
                raise
            finally:
                finish_wandb(failed=sys.exc_info()[0] is not None)


def note_failure(run: runs.Run, error: BaseException) -> None:
    """Why a training ended, into its run's record; and how to go on, where there is a checkpoint."""
    go_on = f"continue with {setting('resume', run.last)} (resume=auto finds it)" if run.last.is_file() else ""
    if isinstance(error, Stopped):
        error.remedy = go_on or error.remedy
    elif isinstance(error, Exception) and not isinstance(error, TrainingStopped) and go_on:
        console.print(f"the training failed; when what follows is mended, {go_on}", markup=False)
    runs.note_end(run, (str(error) or type(error).__name__).splitlines()[0])


def with_model_of_init_from(settings: Settings) -> Settings:
    """The settings with the model that comes with ``init_from`` in the place of the composed one."""
    path, experiment = settings["init_from"], HydraConfig.get().runtime.choices.get("experiment")
    if path is None:
        if experiment == "finetune" or settings["optim"].get("core_lr_scale") == 0:
            raise ValueError(
                "what is to be finetuned? Say init_from=CHECKPOINT: a core that is not trained cannot stay"
            )
        return settings
    words = [key.replace("/", ".").split(".", 1) for key in overridden()]
    said = {word[1] if len(word) > 1 else "" for word in words if word[0] == "model"}
    if experiment not in (None, "finetune"):
        said = {""}  # a recipe for a model of its own
    return {**settings, "model": adopted_model(read_checkpoint(path), settings["model"], said, path)}


def where_to_train(settings: Settings) -> tuple[runs.Run, Path | None]:
    """The run folder, and the checkpoint to continue from."""
    new, resume = runs.Run(Path(settings["run_dir"])), settings["resume"]
    if resume not in (None, "auto", "never"):
        return run_of(Path(resume), settings)
    if new.has_results:  # a scheduler has stopped this job, and started it again
        return again(new, settings)
    new.refuse_other(fingerprint(settings))
    if resume is None and job_of_sweep() is not None:
        resume = "auto"
    if resume in (None, "never"):
        return new, None
    same = runs.same_runs(Path(settings["outputs"]), fingerprint(settings))
    runs.remove_leftovers_of_killed(same)
    for found in runs.unfinished(same):
        if (checkpoint := found.newest_whole(tell)) is not None:
            return continued(found, checkpoint)
        tell(f"resume=auto: no checkpoint of {found.path} reads, so it cannot be continued")
    if (finished := next((run for run in same if run.finished), None)) is not None:
        console.print(f"resume=auto: the training of this configuration had already finished, in {finished.path}")
        return finished, None
    console.print("resume=auto: there is no unfinished run of this configuration to continue; a new one starts")
    return new, None


def run_of(resume: Path, settings: Settings) -> tuple[runs.Run, Path | None]:
    """The run that wrote a checkpoint, to be continued from there."""
    checkpoint, run = resume, runs.Run(resume.resolve().parent.parent)
    in_its_run = bool(run.environment)
    if in_its_run and run.finished and run.is_of(fingerprint(settings)):
        console.print(f"the training in {run.path} had already finished")
        return run, None
    if in_its_run and checkpoint.resolve() == run.last and checkpoint.is_file():
        whole = run.newest_whole(tell)
        if whole is None:
            raise ValueError(
                f"resume={resume}: no checkpoint in {run.last.parent} reads, so this training cannot be continued; "
                "resume=never begins it anew"
            )
        checkpoint = whole
    content = read_checkpoint(checkpoint)
    if not in_its_run:
        raise ValueError(
            f"resume={resume}: a training continues in its own run folder, and {run.path} is none; "
            "give the path of a checkpoint where the training wrote it (…/checkpoints/last.ckpt), or resume=auto"
        )
    seen, epochs = epochs_of(content), machine_of(settings["trainer"])[1].epochs
    if seen > epochs:
        raise ValueError(
            f"resume={resume}: the checkpoint has seen {seen} epochs, and trainer.epochs is {epochs}; "
            f"set trainer.epochs={seen} or more"
        )
    return continued(run, checkpoint)


def epochs_of(content: Mapping[str, Any]) -> int:
    """The epochs that a checkpoint's training has begun; 0 of an LN."""
    try:
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):  # of an LN; or a file that check_restorable will have a word for
        return 0


def continued(run: runs.Run, checkpoint: Path) -> tuple[runs.Run, Path]:
    console.print(f"continues the run {run.path} from {checkpoint.name}")
    return run, checkpoint


def tell(line: str) -> None:
    console.print(line, markup=False)


def again(run: runs.Run, settings: Settings) -> tuple[runs.Run, Path | None]:
    """The same job once more, in the folder where it was before."""
    run.refuse_other(fingerprint(settings))
    if run.finished:
        console.print(f"the training in {run.path} had already finished")
        return run, None
    if (checkpoint := run.newest_whole(tell)) is None:
        tell(f"no checkpoint of {run.path} reads, so its training begins anew there")
        return run, None
    return continued(run, checkpoint)


def fit(settings: Settings, run: runs.Run, checkpoint: Path | None, together: Ranks) -> float | None:
    """The training itself: data, baseline, twin, Lightning, evaluation."""
    check_scorable(settings)
    lightning.seed_everything(settings["seed"], workers=True, verbose=False)
    device, budget = machine_of(settings["trainer"], announce=True)
    data = settings["data"]
    alone = settings["model"]["_target_"] == LN_TARGET
    if not alone and data["recordings"] is None and data["root"] is None:
        # The sizes of recordings that are yet to be simulated are known: what cannot be is refused first.
        check_geometry(settings["model"], settings["readout"], **expected_sizes(data))
    if device == "cpu" and not settings["model"].get("checkpointing"):  # which is asked for where memory is short
        keep_freed_memory()
    # Where algorithms are deterministic, torch by default fills all new memory first, some 4 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    datamodule = make_datamodule(data)
    datamodule.configure(
        batch_size=budget.batch_size,
        batches_per_epoch=budget.steps_per_epoch * budget.accumulate,
        pin_memory=device == "cuda",
    )
    specs = together.first(lambda: specs_of(datamodule))
    if together.rank > 0:
        datamodule.configure(specs=specs)
        datamodule.setup()

    if alone:
        return together.first(lambda: fit_baseline_alone(settings, run, datamodule, device, checkpoint))
    twin = Twin(settings["model"], settings["readout"], datamodule.specs, predict=settings["predict"])
    twin.check_geometry(datamodule.clip_length)
    optimization = build("optim", settings["optim"])
    source = settings["init_from"]
    trained = pretrained(twin, read_checkpoint(source), source) if source is not None else None
    passes = budget.epochs * budget.steps_per_epoch * budget.accumulate
    if optimization.core_lr_scale > 0 and compiles(twin.core.compile_choice, device, passes):
        console.print(
            "the blocks are compiled: the first step takes about a minute (model.compile=false leaves it out)"
        )
        twin.core.compile_blocks()
    ln: LN | None = None
    content = read_checkpoint(checkpoint) if checkpoint is not None else None
    if checkpoint is not None and content is not None:
        ln = load_ln(checkpoint, content)
    else:
        # In the first process alone, whose weights all take over when Lightning starts.
        ln = together.first(lambda: start(twin, settings, datamodule, trained))

    module = TwinModule(
        twin,
        optimization,
        burn_in=datamodule.burn_in,
        epochs=budget.epochs,
        steps_per_epoch=budget.steps_per_epoch,
        gradient_clip=settings["trainer"]["gradient_clip"],
        seed=settings["seed"],
        scaled=CORE if trained is None else trained.parts,
    )
    module.ln = ln.to_checkpoint() if ln is not None else None
    begun = Begun()
    check_monitors(settings["callbacks"], list(twin.specs))
    keep = KeepSettings(settings, run, checkpoint is not None)
    callbacks: list[Callback] = [*build_all("callbacks", settings["callbacks"]).values(), keep, begun]
    if budget.max_minutes != float("inf"):
        callbacks.append(Timer(timedelta(minutes=budget.max_minutes), interval="epoch", verbose=False))
    trainer = lightning.Trainer(
        accelerator="gpu" if device == "cuda" else "cpu",
        devices=settings["trainer"]["devices"],
        num_nodes=settings["trainer"]["num_nodes"],
        strategy=together.strategy(len(twin.specs)),
        plugins=[together.environment, WholeCheckpointIO()],
        precision=budget.precision,
        max_epochs=budget.epochs,
        accumulate_grad_batches=budget.accumulate,
        # Where torch only warns, attention's backward pass on a GPU is not deterministic, though it could be.
        deterministic=settings["trainer"]["deterministic"],
        enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in callbacks),
        enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,  # the sampler gives each rank its own part
        log_every_n_steps=min(20, budget.steps_per_epoch),
        default_root_dir=run.path,
        logger=make_loggers(settings, content),
        callbacks=callbacks,
    )
    keeper = trainer.checkpoint_callback
    if content is not None and is_trained(run, content, settings, budget):
        console.print("its training is complete; what follows a training is done again")
        if isinstance(keeper, Checkpoints):
            keeper.load_state_dict(dict(keeper_state(content)))
            if together.rank == 0:
                keeper.remove_unknown(trainer)
    else:
        if together.rank == 0:
            run.begin_training()
        if checkpoint is not None and content is not None:
            check_restorable(checkpoint, content, module)
        with restoring(checkpoint, content, begun):
            trainer.fit(module, datamodule=datamodule, ckpt_path=checkpoint, weights_only=True)
        ended = early_end(trainer)
        if together.rank == 0:
            run.end_training(trainer.global_step)
            if ended is not None:
                console.print(f"the training ended {ended}", markup=False)
            runs.note_end(run, ended)
        if not isinstance(keeper, ModelCheckpoint):
            trainer.save_checkpoint(run.best)  # all processes together
    state = keeper.state_dict() if isinstance(keeper, ModelCheckpoint) else {}
    if together.rank == 0 and isinstance(keeper, ModelCheckpoint) and never_scored(keeper):
        console.print(
            f"no validation score ({keeper.monitor}) was ever a number, so best.ckpt holds the weights of the end; "
            "do the validation trials have spikes? (task=inspect looks)",
            markup=False,
        )
        state["best_model_path"] = ""
    best = None if state.get("best_model_score") is None else float(state["best_model_score"])

    def conclude() -> float | None:
        keep_best(run, state)
        if (metrics := run.path / "metrics.csv").is_file():
            pictures.learning_curve(run.path / "pictures" / "learning_curve.png", metrics)
        if not datamodule.scorable("test"):
            conclude_without_score(run, datamodule, twin.causal)
            send_results(trainer.loggers, run, best)
            return best
        if AVERAGE in read_checkpoint(run.best):
            averaged = load_twin(run.best, average=True)
            scores = evaluate_twin(
                averaged, datamodule, ln=ln, device=device, out=run.path / AVERAGE, checkpoint=str(run.best)
            )
            console.print("With the averaged weights (task=evaluate average=true):", table_of(scores, "test"))
        report(run, datamodule, load_twin(run.best), ln, device=device, split="test", checkpoint=run.best)
        send_results(trainer.loggers, run, best)
        return best

    return together.first(conclude)


def conclude_without_score(run: runs.Run, datamodule: RecordingsDataModule, causal: bool) -> None:
    """The end of a training whose recordings have nothing to score; said at its start too."""
    without_scores(datamodule, split="test", out=run.path, checkpoint=str(run.best), causal=causal)
    console.print(
        "no recording can be scored on its test split; the training ends without a score "
        f"(task=evaluate split=val scores {run.best} on what chose it)",
        markup=False,
    )
    console.print(f"run folder: {run.path}", markup=False)


def is_trained(run: runs.Run, content: Mapping[str, Any], settings: Settings, budget: Budget) -> bool:
    """Whether the training of these settings was over at this checkpoint, and what is missing comes after it."""
    if fingerprint(content["settings"]) != fingerprint(settings):
        return False  # continued under other settings, for example for more epochs
    return run.ended_at(content["global_step"]) or has_ended(content, budget.epochs * budget.steps_per_epoch)


def specs_of(datamodule: RecordingsDataModule) -> list[RecordingSpec]:
    """Make the recordings where they are simulated, check them, and compute their statistics."""
    datamodule.prepare_data()
    datamodule.setup()
    for lines in datamodule.check_start().values():
        for line in lines:
            console.print(line, markup=False)
    return datamodule.specs


def start(twin: Twin, settings: Settings, datamodule: RecordingsDataModule, trained: Pretrained | None) -> LN | None:
    """Fit the baseline, and let the twin start from data and from what is trained already."""
    if trained is not None:
        path, scale = settings["init_from"], settings["optim"]["core_lr_scale"]
        loaded = load_parts(twin, read_checkpoint(path), trained.parts, path)
        fresh = ["the readouts", *([trained.fresh] if trained.fresh else [])]
        how = f"learns at {scale:g} of the readouts' rate" if scale else "is frozen, and without dropout"
        console.print(
            f"init_from={path}: loaded {loaded}; what was loaded {how} (optim.core_lr_scale); fresh: {', '.join(fresh)}"
        )
    node = settings.get("baseline")
    ln = fit_ln(datamodule, **arguments(node)) if node is not None else None
    start_from_data(twin, datamodule.recordings, ln, readouts_only=trained is not None)
    return ln


def check_scorable(settings: Settings) -> None:
    """A twin that predicts a window's newest bin alone must not learn that at its first validation."""
    length, burn_in = settings["data"]["evaluation_length"], settings["data"]["evaluation_burn_in"]
    if settings["predict"] == "last" and burn_in != length - 1:
        raise ValueError(
            f"predict=last predicts the newest bin of a window alone, but data.evaluation_burn_in={burn_in} asks for "
            f"{length - burn_in} bins of each window of {length}; set data.evaluation_burn_in={length - 1}"
        )


def fit_baseline_alone(
    settings: Settings, run: runs.Run, datamodule: RecordingsDataModule, device: str, checkpoint: Path | None
) -> float | None:
    """``model=ln``: the fit, a checkpoint, the evaluation; the evaluation alone where there is a checkpoint."""
    if checkpoint is not None:
        fitted = load_ln(checkpoint, read_checkpoint(checkpoint))
        assert fitted is not None
        ln = fitted
    else:
        ln = fit_ln(datamodule, **arguments(settings["model"]))
        weights = {f"twin.{name}": value for name, value in ln.state_dict().items()}
        save_checkpoint(
            {
                WRITTEN: written_by(),
                "twin": ln.description(),
                "state_dict": weights,
                "ln": ln.to_checkpoint(),
                "settings": settings,
            },
            run.best,
        )
    if datamodule.scorable("test"):
        report(run, datamodule, ln, None, device=device, split="test", checkpoint=run.best)
    else:
        conclude_without_score(run, datamodule, causal=True)
    # It has no epochs whose validation a sweep could select by.
    scores = evaluate_twin(
        ln, datamodule, ln=None, split="val", device=device, out=run.path / "validation", checkpoint=str(run.best)
    )
    bps: float | None = scores["bps_mean"]
    return bps


def check_monitors(nodes: Mapping[str, Mapping[str, Any] | None], recordings: Sequence[str]) -> None:
    """What callbacks watch is a number of the validations, and they know which end of it is good.

    Raises
    ------
    ValueError
        Names the key; Lightning would say so after the first epoch, or keep the worst checkpoints without a word.
    """
    averaged = any(
        node is not None and class_of(f"callbacks.{name}", node["_target_"]) is Averaging
        for name, node in nodes.items()
    )
    better = {"loss": "min", "units_silent": "min", "bps_mean": "max", "corr_mean": "max"}
    better |= {f"bps_{key_name(recording_id)}": "max" for recording_id in recordings}
    known = {f"{kind}/{name}": end for kind in ("val", "val_ema")[: 1 + averaged] for name, end in better.items()}
    for name, node in nodes.items():
        if node is None or node.get("monitor") is None:
            continue
        if node["monitor"] not in known:
            without = "" if averaged else "; val_ema/… comes with callbacks=ema"
            raise ValueError(
                f"callbacks.{name}.monitor={node['monitor']} is no number of a validation; set it to one of "
                f"{', '.join(known)}{without}"
            )
        if (end := known[node["monitor"]]) != node.get("mode", "min"):
            raise ValueError(
                f"callbacks.{name}.mode={node.get('mode', 'min')} would keep the worst {node['monitor']}; "
                f"set callbacks.{name}.mode={end}"
            )


class KeepSettings(Callback):
    """Keeps the plain configuration in each checkpoint, so that a checkpoint alone can be evaluated; and notes in the
    run folder that a training continues, once the checkpoint has proved to be this model's."""

    def __init__(self, settings: Settings, run: runs.Run, continues: bool) -> None:
        self.settings, self.run, self.continues = settings, run, continues

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        if self.continues:
            describe(self.run, self.settings, continues=True)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["settings"] = self.settings


def machine_of(trainer: Mapping[str, Any], announce: bool = False) -> tuple[str, Budget]:
    """The device and its budget; ``announce`` says in one line what was chosen and why."""
    there = torch.cuda.is_available()
    device, why = str(trainer["device"]), f"trainer.device={trainer['device']}"
    if device == "cuda" and not there:
        raise ValueError("trainer.device=cuda, but torch sees no GPU here; trainer.device=auto takes what there is")
    if device == "auto":
        device, why = ("cuda", torch.cuda.get_device_name()) if there else ("cpu", "no GPU here")
    budget = Budget(
        **{name: value if trainer[name] is None else trainer[name] for name, value in trainer[device].items()}
    )
    if device == "cuda":
        exact_float32()
        precision = precision_on_gpu(trainer["precision"], budget.precision, bf16_is_native())
        if precision != budget.precision:
            budget, why = replace(budget, precision=precision), f"{why}, which does not compute in bfloat16"
    if announce:
        processes = trainer["devices"] * trainer["num_nodes"]
        where = f"{device} with {processes} processes" if processes > 1 else device
        passes = f"{budget.accumulate} × {budget.batch_size}" if budget.accumulate > 1 else f"{budget.batch_size}"
        limit = "" if budget.max_minutes == float("inf") else f", at most {budget.max_minutes:g} minutes"
        console.print(
            f"{why}: training on {where}, {budget.epochs} epochs of {budget.steps_per_epoch} steps of {passes} clips, "
            f"{budget.precision}{limit} (trainer.epochs=… and the like change it)"
        )
    return device, budget


def refuse_sweep_of_ranks(settings: Settings) -> None:
    trainer, sweep = settings["trainer"], HydraConfig.get().mode == RunMode.MULTIRUN
    if sweep and trainer["devices"] * trainer["num_nodes"] > 1 and started_from_outside() is None:
        raise ValueError(
            "a sweep (-m) with trainer.devices above 1 would run the whole sweep again in every process; "
            "sweep with trainer.devices=1, or let SLURM or torchrun start the processes"
        )


def keep_best(run: runs.Run, state: Mapping[str, Any]) -> None:
    """``best.ckpt`` is the best checkpoint under a name that can be told beforehand; the last one where no validation
    score was ever a number.

    Parameters
    ----------
    run : the training's.
    state : of its ``ModelCheckpoint``; empty where it had none.
    """
    path = str(state.get("best_model_path", ""))
    source = run.best.with_name(Path(path).name) if path else run.last
    if source.is_file():
        link_or_copy(source, run.best)


# Loggers ------------------------------------------------------------------------------------------------------------


def make_loggers(settings: Settings, continued_from: Mapping[str, Any] | None) -> list[Logger]:
    loggers: list[Logger] = [*build_all("logger", settings["logger"]).values()]
    for logger in loggers:
        if isinstance(logger, MetricsFile) and continued_from is not None:
            logger.continue_from(continued_from["global_step"])
        if isinstance(logger, WandbRun):
            logger.log_settings(settings)
    return loggers


def send_results(loggers: Sequence[Logger], run: runs.Run, best: float | None) -> None:
    """The end of a training to W&B, where it is one of the loggers; ``best`` is its best ``val/bps_mean``."""
    for logger in loggers:
        if isinstance(logger, WandbRun):
            summary = read_plain(run.path / "summary.json")
            drawn = sorted(p for p in (run.path / "pictures").glob("*.png") if not p.name.startswith("validation_"))
            logger.log_results(summary, best, drawn, run.best)


# Evaluate -----------------------------------------------------------------------------------------------------------


def evaluate(settings: Settings) -> float | None:
    """Evaluate a checkpoint on recordings of the units it knows."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    ln = load_ln(path, content)
    twin: Twin | LN
    if is_ln(content) and not settings["average"]:
        twin, ln = model_of(path, content), None
    else:
        twin = load_twin(path, average=settings["average"])
    if settings["behavior_controls"]:
        refuse_blind(twin)
    device, budget = machine_of(settings["trainer"])
    run, datamodule = data_of_checkpoint(settings, content, twin, budget)
    for line in datamodule.unscored(settings["split"]):
        tell(line)
    return report(
        run,
        datamodule,
        twin,
        ln,
        device=device,
        split=settings["split"],
        checkpoint=path,
        average=settings["average"],
        with_behavior_controls=settings["behavior_controls"],
        seed=settings["seed"],
    )


def data_of_checkpoint(
    settings: Settings, content: Mapping[str, Any], twin: Twin | LN, budget: Budget
) -> tuple[runs.Run, RecordingsDataModule]:
    """A run folder, described, and the data that a checkpoint's model is to be shown."""
    trained = settings_of(settings["checkpoint"], content)
    settings = {**settings, "data": data_of_evaluation(settings["data"], trained, overridden())}
    run = runs.Run(Path(settings["run_dir"]))
    describe(run, settings)
    return run, data_for(settings["data"], twin, budget)


def data_for(data: Mapping[str, Any], twin: Twin | LN, budget: Budget) -> RecordingsDataModule:
    """The recordings that a model knows, ready to be read."""
    datamodule = make_datamodule(data)
    datamodule.configure(batch_size=budget.batch_size, specs=list(twin.specs.values()))
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def data_of_evaluation(now: Settings, trained: Settings | None, said: set[str]) -> Settings:
    """The data's settings for an evaluation.

    Parameters
    ----------
    now : the data node of this command.
    trained : the configuration of the training; None where the checkpoint holds none.
    said : keys on the command line.

    Returns
    -------
    Where this command chooses ``data=…``, that, but with clips cut as in training; else the training's data; and in
    both cases with what the command sets key by key. Where simulated recordings are kept and by how many processes
    clips are read is this command's alone: a checkpoint says nothing of what is written here.

    Raises
    ------
    ValueError
        Where the checkpoint would have recordings simulated that are larger than ``MOST_SIMULATED_BYTES``.
    """
    if trained is None:
        return now
    own = {key[len("data.") :].split(".")[0] for key in said if key.startswith(("data.", "data/"))}
    if "data" in said:
        cut = {key: trained["data"][key] for key in CUT if key not in own and key in trained["data"]}
        return {**now, **cut}
    data = {**trained["data"], **{key: now[key] for key in now.keys() & (own | {"cache", "num_workers"})}}
    if data["recordings"] is None and data["root"] is None and data["simulator"] is not None and "simulator" not in own:
        size = build("data.simulator", data["simulator"]).n_bytes
        if size > MOST_SIMULATED_BYTES:
            raise ValueError(
                f"the checkpoint's recordings are simulated ones of {size / 2**30:.3g} GiB; to have them made here, "
                "say so with data.simulator.recordings=… and the like, or give others with data.recordings=[FILES]"
            )
    if "root" in own and "recordings" not in own:
        data["recordings"] = None
    return data


def report(
    run: runs.Run,
    datamodule: RecordingsDataModule,
    twin: Twin | LN,
    ln: LN | None,
    *,
    device: str,
    split: Literal["train", "val", "test"],
    checkpoint: Path,
    average: bool = False,
    with_behavior_controls: bool = False,
    seed: int = 0,
) -> float | None:
    """Evaluate, print the table, write the report; returns the mean bits per spike.

    Averaged weights leave the report beside the checkpoint alone: it is of the others.
    """
    summary = evaluate_twin(
        twin,
        datamodule,
        ln=ln,
        split=split,
        device=device,
        out=run.path,
        checkpoint=str(checkpoint),
        with_behavior_controls=with_behavior_controls,
        seed=seed,
    )
    # The evaluation that ends a training is done again by evaluating its checkpoint.
    evaluation = (
        command_line()
        if checkpoint != run.best
        else command(["task=evaluate", f"checkpoint={hydra_value(checkpoint)}"])
    )
    console.print(table_of(summary, split))
    for name, share in summary["behavior"].items():
        left = "–" if share["bps_mean"] is None else f"{share['bps_mean']:.3f}"
        console.print(f"with behaviour {name.replace('_', ' ')}: {left} bits/spike")
    section = report_section(summary, run.path / "pictures", evaluation)
    page = publish(run.path, section, None if average else checkpoint)
    console.print(f"report: {page}")
    console.print(f"run folder: {run.path}")
    bps: float | None = summary["bps_mean"]
    return bps


def table_of(summary: Mapping[str, Any], split: str) -> Table:
    """Per recording: units, bits per spike, the LN baseline's, and the fraction of the knowable information."""
    table = Table(
        Column("recording", overflow="fold"),
        title=f"{split} split, bins after the first {summary['burn_in']} of a trial",
    )
    for name in ("units", "bits/spike", "LN bits/spike", "of knowable", "correlation"):
        table.add_column(name, justify="right", no_wrap=True)

    def number(value: float | None, form: str = ".3f") -> str:
        return "–" if value is None else format(value, form)

    rows = [*summary["recordings"].items(), ("all", summary)]
    for i, (name, scores) in enumerate(rows, 1):
        if i == len(rows):
            table.add_section()
        table.add_row(
            shown(name),
            str(scores["units"]),
            number(scores["bps_mean"]),
            number(scores["ln_bps_mean"]),
            number(scores["knowable_fraction"]),
            number(scores["corr_mean"]),
        )
    return table


# Look inside --------------------------------------------------------------------------------------------------------


def model_of(path: Path, content: Mapping[str, Any]) -> Twin | LN:
    """The model in a checkpoint: a twin, or an LN model that was fitted alone."""
    if not is_ln(content):
        return load_twin(path)
    ln = load_ln(path, content)
    if ln is None:
        raise refused(path, content, "it says that it holds an LN model, and holds none")
    return ln


def is_ln(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of model=ln, and has no twin."""
    return content["twin"].get("_target_") == LN_TARGET


def receptive_fields(settings: Settings) -> None:
    """Receptive fields of every unit, by several methods, beside the truth where it is known."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    model = model_of(path, content)
    noise = None if settings["noise"] is None else build("noise", settings["noise"])
    device, budget = machine_of(settings["trainer"])
    run, datamodule = data_of_checkpoint(settings, content, model, budget)
    summary = fields.receptive_fields(
        model,
        datamodule,
        noise=noise,
        duration_s=settings["duration_s"],
        clips=settings["gradient_clips"],
        clip_s=settings["gradient_clip_s"],
        measured=settings["measured"],
        out=run.path,
        known=fields.known_fractions(training_of(path)),
        device=device,
    )
    section = fields.report_section(summary, run.path, command_line())
    announce(section, run, path)


def announce(section: Section, run: runs.Run, checkpoint: Path) -> None:
    """The end of an analysis: its section on the console and in the reports, and where they are."""
    show(section)
    console.print(f"report: {publish(run.path, section, checkpoint)}")
    console.print(f"run folder: {run.path}")


def attention(settings: Settings) -> None:
    """Look at a checkpoint's attention; write ``attention.npz``, ``attention.json``, pictures and a report."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    twin = model_of(path, content)
    attending.attending_core(twin)
    assert isinstance(twin, Twin)
    device, budget = machine_of(settings["trainer"])
    twin.to(device)
    run, datamodule = data_of_checkpoint(settings, content, twin, budget)
    recording, trials = tested(datamodule, settings["recording"])
    name, length = recording.recording_id, datamodule.evaluation_length
    if not 0 <= settings["trial"] < len(trials):
        raise ValueError(f"trial={settings['trial']}: recording {name} has {len(trials)} test trials, counted from 0")

    def clips_at(start: int, stop: int) -> Clips:
        read = recording.read(start, stop, twin.specs[name].behavior)
        return Clips(frames=torch.as_tensor(read["frames"])[None], behavior=torch.as_tensor(read["behavior"])[None])

    start, stop = int(trials.start[settings["trial"]]), int(trials.stop[settings["trial"]])
    windows = evaluation_windows(trials, "test", length, datamodule.evaluation_burn_in)
    longest = max(window.stop - window.start for window in windows)
    windows = [window for window in windows if window.stop - window.start == longest]
    number = min(settings["clips"], len(windows))
    averaged = [windows[i * len(windows) // number] for i in range(number)]
    summary, drawn = attending.study_attention(
        twin,
        name,
        clips_at(start, min(stop, start + length)),
        (clips_at(w.start, w.stop) for w in track(averaged, "attention")),
        out=run.path,
        place=settings["place"] and (settings["place"][0], settings["place"][1]),
        heads=settings["heads"],
        units=settings["units"],
        megabytes=settings["megabytes"],
    )
    section = attending.report_section(summary, drawn, command_line())
    announce(section, run, path)


def tuning(settings: Settings) -> None:
    """Tuning of every unit to gratings, and the pictures that excite a few units most."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    model = model_of(path, content)
    gratings = build("gratings", settings["gratings"])
    mei = None if settings["mei"] is None else build("mei", settings["mei"])
    device, budget = machine_of(settings["trainer"])
    run, datamodule = data_of_checkpoint(settings, content, model, budget)
    summary = tune(
        model,
        datamodule,
        gratings=gratings,
        mei=mei,
        mei_units=settings["mei_units"],
        natural=settings["natural"],
        out=run.path,
        known=fields.known_fractions(training_of(path)),
        device=device,
    )
    section = tuning_section(summary, run.path, command_line())
    announce(section, run, path)


def show(section: Section) -> None:
    """Print a section's tables."""
    for found in section.tables:
        table = Table(title=shown(found.title))
        for i, name in enumerate(found.columns):
            # Folded where there is no room, because a number that is cut off is lost.
            table.add_column(shown(name), justify="right" if i else "left", overflow="fold")
        for row in found.rows:
            table.add_row(*(shown(cell(value)) for value in row))
        console.print(table)


# Compare ------------------------------------------------------------------------------------------------------------


def compare(settings: Settings) -> float | None:
    """Several checkpoints on the same test bins; returns by how many bits per spike the last is above the first."""
    paths = [Path(path) for path in settings["checkpoints"]]
    names = settings["names"] or names_of(paths)
    if len(names) != len(paths):
        raise ValueError(f"names={names}: {len(names)} names for {len(paths)} checkpoints; give one for each, or null")
    device, budget = machine_of(settings["trainer"])
    run = runs.Run(Path(settings["run_dir"]))
    contenders = []
    for name, path in zip(names, paths, strict=True):
        content = read_checkpoint(path)
        model = model_of(path, content)
        data = data_of_evaluation(settings["data"], settings_of(path, content), overridden())
        contenders.append(comparison.Contender(name, str(path), model, data_for(data, model, budget)))
    describe(run, settings)
    summary = comparison.compare(
        contenders,
        split=settings["split"],
        device=device,
        out=run.path,
        resamples=settings["resamples"],
        piece_s=settings["piece_s"],
        seed=settings["seed"],
    )
    section = comparison.report_section(summary, run.path / "pictures", command_line())
    show(section)
    console.print(f"report: {publish(run.path, section, paths)}")
    console.print(f"run folder: {run.path}")
    gain: float | None = summary["pairs"][len(paths) - 2]["bps_gain_mean"]
    return gain


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short distinct names for checkpoints: the folders' in which their paths differ, or the whole paths."""
    folders = [p.parent.parent.name if p.parent.name == "checkpoints" else p.stem for p in map(Path.resolve, paths)]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]


# Stream -------------------------------------------------------------------------------------------------------------


def stream(settings: Settings) -> None:
    """Predict a test trial bin by bin; print the distribution of the times, draw them, write ``stream.json``."""
    if settings["bins"] < 2:
        raise ValueError(f"bins={settings['bins']}: a stream to be timed has at least 2 bins")
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    if is_ln(content):
        raise ValueError(f"checkpoint={path}: model=ln has no stream; give the checkpoint of a twin")
    device, budget = machine_of(settings["trainer"])
    twin = load_twin(path, device)
    run, datamodule = data_of_checkpoint(settings, content, twin, budget)
    recording, trials = tested(datamodule, settings["recording"])
    name = recording.recording_id
    longest = int((trials.stop - trials.start).argmax())
    start = int(trials.start[longest])
    stop = min(int(trials.stop[longest]), start + settings["bins"])
    clips = recording.read(start, stop, twin.specs[name].behavior)
    bin_s = 1.0 / twin.specs[name].frame_rate_hz
    measured = measure_stream(twin, name, clips["frames"], clips["behavior"])
    summary = {"recording": name, "device": device, "bin_ms": bin_s * 1e3, **measured.summary()}
    write_text(run.path / "stream.json", json.dumps(summary, indent=2) + "\n")
    pictures.latency(run.path / "pictures" / "latency.png", measured.seconds, measured.clip_seconds, bin_s)
    title = f"{name}, {measured.bins} bins of {bin_s * 1e3:.2f} ms, on {device}"
    table = Table("time of a bin, ms", title=shown(title))
    for heading in ("mean", "median", "95 %", "99 %", "most"):
        table.add_column(heading, justify="right")
    table.add_row("stream", *(f"{summary[k]:.2f}" for k in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "most_ms")))
    console.print(table)
    console.print(
        f"{summary['bins_per_s']:.0f} bins/s; running the clip again takes {summary['clip_ms']:.1f} ms, "
        f"{1 / summary['stream_over_clip']:.0f} times a bin of the stream; "
        f"largest difference from the clip's rates {summary['largest_difference']:.1e} of the largest rate"
    )
    console.print(f"run folder: {run.path}")


def tested(datamodule: RecordingsDataModule, name: str | None) -> tuple[Recording, Trials]:
    """The recording of a name (None: the first), and its test trials, of which there are some."""
    known = {recording.recording_id: recording for recording in datamodule.recordings}
    name = name or next(iter(known))
    if name not in known:
        others = " or ".join(setting("recording", other) for other in sorted(known))
        raise ValueError(f"recording={name}: the data has no such recording; say {others}")
    trials = known[name].info.trials.of("test")
    if not len(trials):
        raise ValueError(f"recording {name} has no test trial; choose another with recording=…")
    return known[name], trials


# Plan, import -------------------------------------------------------------------------------------------------------


def plan(settings: Settings) -> None:
    """Print shapes, tokens, parameters, FLOPs and memory of a training step, without reading any frames.

    Of recordings that are named it reads the headers; of simulated ones ``data.geometry`` knows the sizes.
    """
    if settings["model"]["_target_"] == LN_TARGET:
        raise ValueError(
            "model=ln is fitted in one go and has no training step to plan; plan a ViViT, for example model=vivit_small"
        )
    sizes, recordings, units = expected_recordings(settings)
    device, budget = machine_of(settings["trainer"])
    planned = plan_twin(
        settings["model"],
        settings["readout"],
        **sizes,
        recordings=recordings,
        units=units,
        batch_size=budget.batch_size,
        predict=settings["predict"],
        precision=budget.precision,
        device=device,
    )
    table = Table(
        "stage", "shape that leaves it", title=f"{budget.batch_size} clips of {sizes['clip_length']} bins, on {device}"
    )
    table.add_column("tokens a clip", justify="right")
    table.add_column("parameters", justify="right")
    for stage in planned.stages:
        table.add_row(stage.name, stage.shape, f"{stage.tokens:,}" if stage.tokens else "", f"{stage.parameters:,}")
    console.print(table)
    console.print(f"parameters            {planned.parameters:,}")
    console.print(
        f"FLOPs of a step       {planned.flops * budget.accumulate:.3g} "
        f"({budget.accumulate} forward and backward passes of {planned.flops:.3g})"
    )
    console.print(
        f"memory to expect      {planned.memory_bytes / 2**30:.2f} GiB: {planned.weight_bytes / 2**30:.2f} for "
        f"weights, gradients and moments, {planned.activation_bytes / 2**30:.2f} for what a pass of "
        f"{budget.batch_size} clips keeps"
    )


def expected_recordings(settings: Settings) -> tuple[dict[str, Any], int, int]:
    """The sizes of clips, the number of recordings, and of units in each: the mean where they differ."""
    data, datamodule = settings["data"], None
    if data["recordings"] is not None or data["root"] is not None:
        datamodule = make_datamodule(data)
        try:
            datamodule.paths()
        except ValueError as error:
            if overridden() & {"data.recordings", "data.root"}:
                raise
            console.print(f"{error}\nThe plan is of what data.geometry expects of them.")
            datamodule = None
    if datamodule is None:
        return expected_sizes(data), data["geometry"]["recordings"], data["geometry"]["units"]
    infos, widths_of = datamodule.headers()
    shapes = sorted({info.frame_shape for info in infos})
    if len(shapes) > 1 and settings["model"].get("frame_size") is None:
        raise ValueError(
            f"recordings have frames of different shapes {shapes}; set model.frame_size=[height,width] to bring them "
            "to one"
        )
    units = math.ceil(sum(info.n_units for info in infos) / len(infos))
    console.print(
        f"of {len(infos)} recordings: frames {shapes[-1]} (channels, height, width) at {infos[0].frame_rate_hz:g} Hz, "
        f"{units} units each in the mean"
    )
    sizes = {"frame_shape": shapes[-1], "behavior_dim": sum(widths_of.values()), "clip_length": data["clip_length"]}
    return sizes, len(infos), units


def expected_sizes(data: Settings) -> dict[str, Any]:
    """The sizes of clips as ``data.geometry`` gives them, without reading any."""
    geometry = data["geometry"]
    transforms = build_all("data.transforms", data.get("transforms", {}))
    numbers = widths(transforms, geometry["behavior"])
    unknown = [name for name in data["behavior"] if name not in numbers]
    if unknown:
        raise ValueError(
            f"data.geometry.behavior does not say how many numbers {unknown} have, or what they are made from; it says "
            f"{geometry['behavior']}"
        )
    return {
        "frame_shape": tuple(geometry["frame_shape"]),
        "behavior_dim": sum(numbers[name] for name in data["behavior"]),
        "clip_length": data["clip_length"],
    }


def inspect(settings: Settings) -> None:
    """Look at recordings before anything is trained on them."""
    paths = make_datamodule(settings["data"]).paths()
    run = runs.Run(Path(settings["run_dir"]))
    describe(run, settings)
    summary = inspect_recordings(
        paths,
        duration_s=settings["duration_s"],
        max_frames=settings["max_frames"],
        out=run.path,
        burn_in=settings["data"]["evaluation_burn_in"],
        frame_rate_hz=settings["data"]["frame_rate_hz"],
    )
    section = inspect_section(summary, command_line())
    show(section)
    console.print(section.text[0])
    console.print(f"report: {publish(run.path, section)}")
    console.print(f"run folder: {run.path}")


def import_recording(settings: Settings) -> None:
    """Make recording files from a foreign format."""
    if settings.get("importer") is None:
        known = sorted(path.stem for path in (conf_dir() / "importer").glob("*.yaml"))
        raise ValueError(f"task=import needs an importer; choose one: importer={' | importer='.join(known)}")
    build("importer", settings["importer"])(Path(settings["source"]), Path(settings["out"]))


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


# What the tasks share -----------------------------------------------------------------------------------------------


def make_datamodule(data: Mapping[str, Any]) -> RecordingsDataModule:
    datamodule = build("data", {key: value for key, value in data.items() if key != "geometry"})
    assert isinstance(datamodule, RecordingsDataModule)
    return datamodule


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "_target_"}


def is_first_rank() -> bool:
    """Whether this process is the one, of those that train together, that writes files."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def describe(run: runs.Run, settings: Settings, continues: bool = False) -> None:
    if is_first_rank():
        runs.describe(run, settings, HydraConfig.get().overrides.task, fingerprint(settings), continues)


def command_line() -> str:
    """The command that does this run again."""
    return command(HydraConfig.get().overrides.task)


def overridden() -> set[str]:
    """The keys on this command line."""
    return {override.lstrip("+~").split("=", 1)[0].split("@")[0] for override in HydraConfig.get().overrides.task}
