"""task=train: from a configuration to a run folder with weights, scores and a report."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import lightning
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, Timer
from lightning.pytorch.loggers import Logger

from vivit_core.analysis.evaluate.evaluate import evaluate as evaluate_twin
from vivit_core.analysis.evaluate.numbers import without_scores
from vivit_core.cli import runs
from vivit_core.cli.context import (
    LN_TARGET,
    Settings,
    arguments,
    console,
    describe,
    expected_sizes,
    job_of_sweep,
    machine_of,
    make_datamodule,
    note,
    overridden,
    tell,
)
from vivit_core.cli.schema import Budget
from vivit_core.cli.tasks.evaluate import report, table_of
from vivit_core.cli.validate import fingerprint, relocated
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.checkpoint import WRITTEN, read_checkpoint, read_plain, written_by
from vivit_core.models.ln import LN, load_ln
from vivit_core.models.load import AVERAGE, load_twin
from vivit_core.models.plan import check_geometry
from vivit_core.models.twin import Twin
from vivit_core.names import key_name, setting
from vivit_core.parts.build import build, build_all
from vivit_core.parts.groups import class_of
from vivit_core.plotting import learning_curve
from vivit_core.specs import RecordingSpec
from vivit_core.system.files import link_or_copy
from vivit_core.system.stops import Stopped
from vivit_core.training.baseline import fit_ln
from vivit_core.training.callbacks.averaging import Averaging
from vivit_core.training.callbacks.checkpoints import (
    Checkpoints,
    WholeCheckpointIO,
    has_ended,
    keeper_state,
    save_checkpoint,
)
from vivit_core.training.callbacks.early_stopping import early_end, never_scored
from vivit_core.training.callbacks.stop_signals import TrainingStopped
from vivit_core.training.initialize import initialize_from_data
from vivit_core.training.machine import (
    compiles,
    keep_freed_memory,
)
from vivit_core.training.metrics_file import MetricsFile
from vivit_core.training.module import TwinModule
from vivit_core.training.optim import CORE
from vivit_core.training.ranks import ProcessGroup, process_group, started_from_outside
from vivit_core.training.restore import Begun, check_restorable, restoring
from vivit_core.training.tracking import WandbRun, finish_wandb
from vivit_core.training.transfer import Pretrained, adopted_model, load_parts, pretrained


# Train --------------------------------------------------------------------------------------------------------------
def train(settings: Settings) -> float | None:
    """Train a twin, or continue an interrupted training; evaluate its best checkpoint on the test split."""
    refuse_sweep_of_ranks(settings)
    trainer = settings["trainer"]
    with process_group(machine_of(trainer)[0], trainer["devices"], trainer["num_nodes"]) as together:
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


def fit(settings: Settings, run: runs.Run, checkpoint: Path | None, together: ProcessGroup) -> float | None:
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
            learning_curve.learning_curve(run.path / "pictures" / "learning_curve.png", metrics)
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
    initialize_from_data(twin, datamodule.recordings, ln, readouts_only=trained is not None)
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
