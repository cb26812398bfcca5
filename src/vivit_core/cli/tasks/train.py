"""task=train: from a configuration to a run folder with weights, scores and a report."""

from __future__ import annotations

import logging
import math
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import torch
from lightning.pytorch import seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint

from vivit_core.analysis.evaluate.evaluate import evaluate as evaluate_twin
from vivit_core.cli import runs
from vivit_core.cli.asked import Asked
from vivit_core.cli.conclusion import conclude, conclude_without_score
from vivit_core.cli.console import console, tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.evaluation import report
from vivit_core.cli.foretold import Foretold, evaluation_s, foretold, time_budget
from vivit_core.cli.machine import announce
from vivit_core.cli.recordings import check_responses, make_datamodule, read_to_train_on
from vivit_core.cli.refusal import refuse_settings
from vivit_core.cli.resume import KeepSettings, is_trained, note_failure, refuse_other_recordings, where_to_train
from vivit_core.cli.scaled import trained_on
from vivit_core.cli.schema import PathName, Share
from vivit_core.cli.search import trial_of
from vivit_core.cli.trained import is_fitted_alone, teacher_in
from vivit_core.cli.unfit import refuse_unfit
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.ln import LN
from vivit_core.models.load import baseline_in, checkpoint_of, predictor_in, read_trained
from vivit_core.models.predictor import Predict, Predictor
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build, build_all
from vivit_core.parts.schema import Node
from vivit_core.system.activity import stage
from vivit_core.system.kept import user_kept
from vivit_core.system.processes import started_from_outside
from vivit_core.system.stops import TrainingPruned
from vivit_core.training.baseline import fit_baseline
from vivit_core.training.callbacks.checkpoints import Checkpoints, keeper_state, save_checkpoint
from vivit_core.training.callbacks.early_stopping import early_end, never_scored
from vivit_core.training.callbacks.pruning import Pruning
from vivit_core.training.data import TrainingData
from vivit_core.training.distillation import Teacher
from vivit_core.training.initialize import initialize_from_data
from vivit_core.training.loggers import begin_loggers
from vivit_core.training.machine import compiles, keep_freed_memory
from vivit_core.training.module import SCORES, TwinModule
from vivit_core.training.optim import CORE, Optimization
from vivit_core.training.ranks import ProcessGroup, lost_peer, process_group
from vivit_core.training.restore import Begun, check_restorable, restoring
from vivit_core.training.surround import fit_alone
from vivit_core.training.tracking import finish_wandb
from vivit_core.training.trainer import make_trainer
from vivit_core.training.transfer import Pretrained, adopted_model, load_parts, pretrained

for name in ("lightning.pytorch", "lightning.fabric"):  # its advertisements; here, because its import sets the level
    logging.getLogger(name).setLevel(logging.WARNING)

SCORE = SCORES[0]  # of the checkpoint that was kept
FOLLOWS_RECORDINGS = True


def train(
    context: RunContext,
    *,
    predict: Predict,
    model: Node,
    readout: Node,
    likelihood: Node,
    baseline: Node | None,
    data: Node,
    optim: Node,
    callbacks: dict[str, Node | None],
    logger: dict[str, Node | None],
    init_from: Path | None,
    teacher: Path | None,
    teacher_share: Share,
    resume: PathName | None,
) -> float | None:
    """Train a twin, or continue an interrupted training; evaluate its best checkpoint on the test split.

    Parameters
    ----------
    context : the run.
    predict : every bin of a clip in one pass, or its newest bin alone.
    model, readout, likelihood : the twin's parts. With ``init_from`` the model is that checkpoint's.
    baseline : what the twin is compared with; None leaves it out.
    data, optim : what it learns from, and how.
    callbacks, logger : by name; None leaves one out.
    init_from : checkpoint whose trained core new readouts start on; None: start anew.
    teacher : checkpoint of a model, mostly an ensemble's, whose rates are the targets of the loss; None: counts are.
    teacher_share : of the loss that these rates have; the rest is that of the counts.
    resume : "auto", "never", or the checkpoint to continue from; None: auto in a sweep, else never.

    Returns
    -------
    The kept checkpoint's mean bits per spike in its validation; None where no score was ever a number.

    Raises
    ------
    ValueError
        Where what is asked for cannot be trained, or cannot be continued.
    """
    refuse_sweep_of_ranks(context)
    machine = context.settings["trainer"]
    with process_group(context.device, machine["devices"], machine["num_nodes"]) as processes:
        console.quiet = processes.rank > 0
        check_init_from(context, init_from, optim)
        if init_from is not None:
            model = adopted(context, init_from, model)
            context = context.with_settings(model=model)
        asked = Asked(predict, model, readout, likelihood, baseline, data, optim, callbacks, logger, init_from)
        taught = teacher_in(teacher, teacher_share, context, model, data)
        run, checkpoint = processes.first(lambda: where_to_train(context, resume))
        context.note(run=str(run.path))
        if checkpoint is None and run.finished:
            return run.score
        with run.held() if processes.rank == 0 else nullcontext():
            if processes.rank == 0:
                run.remove_leftovers()
            planned = str(context.run.path)
            context = context.moved_to(run)
            if checkpoint is None or is_fitted_alone(model):
                context.describe(trains=True, continues=checkpoint is not None)
            # Any other continuation is noted when it goes on (KeepSettings), because it may yet be refused.
            try:
                score = fit(context, run, checkpoint, processes, asked.moved(planned, str(run.path)), taught)
                if processes.rank == 0:
                    run.finish(score)
                return score
            except BaseException as error:
                if processes.rank == 0:
                    note_failure(run, lost_peer(error, processes))
                raise
            finally:
                finish_wandb(failed=not isinstance(sys.exception(), TrainingPruned | None))


def refuse_sweep_of_ranks(context: RunContext) -> None:
    """A sweep in this process would be one in each of those that it starts."""
    machine = context.settings["trainer"]
    if context.job is not None and machine["devices"] * machine["num_nodes"] > 1 and started_from_outside() is None:
        raise ValueError(
            "a sweep (-m) with trainer.devices above 1 would run the whole sweep again in every process; "
            "sweep with trainer.devices=1, or let SLURM or torchrun start the processes"
        )


def check_init_from(context: RunContext, init_from: Path | None, optim: Node) -> None:
    """A finetuning begins with something."""
    stays = optim.get("core_lr_scale") == 0 or optim.get("readouts_first")
    if init_from is None and (context.experiment == "finetune" or stays):
        raise ValueError("what is to be finetuned? Say init_from=CHECKPOINT: a core that is not trained cannot stay")


def adopted(context: RunContext, init_from: Path, model: Node) -> Node:
    """The model that comes with a checkpoint, with what the command line and the recipe say of it key by key."""
    words = [key.replace("/", ".").split(".", 1) for key in context.overridden]
    said = {word[1] if len(word) > 1 else "" for word in words if word[0] == "model"} | context.recipe_says
    follows = [key.removeprefix("model.") for key in context.follows if key.startswith("model.")]
    return cast(Node, adopted_model(read_trained(init_from), model, said, init_from, follows))


def fit(
    context: RunContext,
    run: runs.RunFolder,
    checkpoint: Path | None,
    processes: ProcessGroup,
    asked: Asked,
    teacher: Teacher | None,
) -> float | None:
    """The training itself: data, baseline, twin, Lightning, evaluation.

    Parameters
    ----------
    context, run : this run, and its folder.
    checkpoint : that it continues from; None where it begins.
    processes : the processes that train.
    asked : what is trained, on what, and how.
    teacher : whose rates are learned; None: counts are.
    """
    model, likelihood, init_from = asked.model, asked.likelihood, asked.init_from
    refuse_settings(asked.predict, model, asked.data)
    seed_everything(context.seed, workers=True, verbose=False)
    machine = context.settings["trainer"]
    device, budget = context.machine
    announce(machine)
    alone, optimization = is_fitted_alone(model), cast(Optimization, build("optim", asked.optim))
    datamodule = make_datamodule(asked.data)
    # Made here, because they too may refuse their settings.
    watching, loggers = build_all("callbacks", asked.callbacks), build_all("logger", asked.logger)
    processes.first(lambda: refuse_unfit(datamodule, optimization, asked, device, teacher))
    if device == "cpu" and not model.get("checkpointing"):  # which is asked for where memory is short
        keep_freed_memory()
    # Where algorithms are deterministic, torch by default fills all new memory first, some 4 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    read_to_train_on(datamodule, budget, device, processes)
    if alone:
        return processes.first(lambda: fit_baseline_alone(context, run, model, datamodule, checkpoint))
    check_responses(datamodule, likelihood)
    twin = Twin(model, asked.readout, likelihood, datamodule.specs, predict=asked.predict)
    twin.check_geometry(datamodule.clip_length)
    optimization.check(twin)
    if teacher is not None:
        teacher.check(twin)
        tell(f"learns from {teacher}")
    trained = pretrained(twin, read_trained(init_from), init_from) if init_from is not None else None
    passes = budget.epochs * budget.steps_per_epoch * budget.accumulate
    if optimization.core_lr_scale > 0 and compiles(twin.core.compile_choice, device, passes):
        console.print(
            "the blocks are compiled within the first step, which says when it is done; how long that takes is unknown "
            "(model.compile=false leaves it out)"
        )
        twin.core.compile_blocks()
    content = read_checkpoint(checkpoint) if checkpoint is not None else None
    if checkpoint is not None and content is not None:
        refuse_other_recordings(checkpoint, content, twin.specs)
    complete = content is not None and is_trained(run, content, context.settings, budget)
    ahead = foretold(model, asked.baseline, datamodule, budget, f"{processes.size} {device}", content)
    if not complete:
        tell(ahead.line())
    if checkpoint is not None and content is not None:
        ln = baseline_in(checkpoint, content)
    else:
        # In the first process alone, whose weights all take over when Lightning starts.
        ln = processes.first(lambda: initialize(twin, datamodule, asked, trained, optimization, ahead))
        if teacher is not None:
            teacher.hand_over(twin)

    module = TwinModule(
        twin,
        optimization,
        burn_in=datamodule.burn_in,
        epochs=budget.epochs,
        steps_per_epoch=budget.steps_per_epoch,
        gradient_clip=machine["gradient_clip"],
        seed=context.seed,
        scaled=CORE if trained is None else trained.parts,
        budget=time_budget(run, budget, processes, datamodule),
        teacher=teacher,
        ln=ln,
    )
    begun = Begun()
    searched = [] if context.job is None else [Pruning(trial_of(context.job) if processes.rank == 0 else None, SCORE)]
    trainer = make_trainer(
        processes,
        device=device,
        devices=machine["devices"],
        num_nodes=machine["num_nodes"],
        precision=budget.precision,
        deterministic=machine["deterministic"],
        epochs=budget.epochs,
        steps_per_epoch=budget.steps_per_epoch,
        accumulate=budget.accumulate,
        recordings=len(twin.specs),
        folder=run.path,
        callbacks=[
            *watching.values(),
            KeepSettings(context, run, checkpoint is not None, trained_on(twin, datamodule, context.follows)),
            begun,
            *searched,
        ],
        loggers=begin_loggers(loggers.values(), context.settings, None if content is None else content["global_step"]),
    )
    keeper = trainer.checkpoint_callback
    if content is not None and complete:
        console.print("its training is complete; what follows a training is done again")
        if isinstance(keeper, Checkpoints):
            keeper.load_state_dict(dict(keeper_state(content)))
            if processes.rank == 0:
                keeper.remove_unknown(trainer)
    else:
        if checkpoint is not None and content is not None:
            check_restorable(checkpoint, content, module)
        began, before = time.monotonic(), content["global_step"] if content is not None else 0
        most_s = None if math.isinf(ahead.most_s) else ahead.most_s
        named = stage("the training", ahead.estimate_s, most_s=most_s)
        with restoring(checkpoint, content, begun), named if processes.rank == 0 else nullcontext():
            trainer.fit(module, datamodule=TrainingData(datamodule), ckpt_path=checkpoint, weights_only=True)
        ended = early_end(trainer)
        if processes.rank == 0:
            made = (trainer.global_step - before) / max(1, budget.epochs * budget.steps_per_epoch - before)
            ahead.training.took(time.monotonic() - began, made)
        for pruning in searched:
            if pruning.reason is not None:  # it is not over: whoever wants it goes on from its checkpoint
                raise TrainingPruned(pruning.reason, pruning.score)
        if processes.rank == 0:
            run.end_training(trainer.global_step)
            if ended is not None:
                tell(f"the training ended {ended}")
            runs.note_in_run(run, "ended", ended)
        if not isinstance(keeper, ModelCheckpoint):
            trainer.save_checkpoint(run.best)  # all processes together
    state = keeper.state_dict() if isinstance(keeper, ModelCheckpoint) else {}
    if processes.rank == 0 and isinstance(keeper, ModelCheckpoint) and never_scored(keeper):
        tell(
            f"no validation score ({keeper.monitor}) was ever a number, so best.ckpt holds the weights of the end; "
            "do the validation trials have spikes? (task=inspect looks)"
        )
        state["best_model_path"] = ""
    seconds = evaluation_s(module.budget, budget, datamodule, processes.size)
    return processes.first(
        lambda: conclude(context, trainer.loggers, datamodule, ln, twin.causal, state, seconds, ahead.evaluation)
    )


def initialize(
    twin: Twin,
    datamodule: RecordingsDataModule,
    asked: Asked,
    trained: Pretrained | None,
    optimization: Optimization,
    ahead: Foretold,
) -> LN | None:
    """Fit the baseline, and let the twin start from data and from what is trained already."""
    if trained is not None and (init_from := asked.init_from) is not None:
        scale = optimization.core_lr_scale
        loaded = load_parts(twin, read_trained(init_from), trained.parts, init_from)
        fresh = ["the readouts", *([trained.fresh] if trained.fresh else [])]
        how = f"learns at {scale:g} of the readouts' rate" if scale else "is frozen, and without dropout"
        if optimization.readouts_first:
            how += f" after {optimization.readouts_first:.0%} of the steps"
        console.print(
            f"init_from={init_from}: loaded {loaded}; what was loaded {how} (optim.core_lr_scale); "
            f"fresh: {', '.join(fresh)}"
        )
    ln = None
    if asked.baseline is not None:
        with stage("the linear baseline (LN)", work=ahead.baseline, unless="it was fitted before"):
            ln = fit_baseline(datamodule, asked.baseline)
    parts, unless = trained.parts if trained else (), "filters were found before" if twin.own_filters else ""
    with stage("starting values from data", work=ahead.start, unless=unless):
        initialize_from_data(twin, datamodule.recordings, ln, parts, kept=user_kept("own_filters"))
    return ln


def fit_baseline_alone(
    context: RunContext, run: runs.RunFolder, model: Node, datamodule: RecordingsDataModule, checkpoint: Path | None
) -> float | None:
    """``model=ln``: the fit, a checkpoint, the evaluation; the evaluation alone where there is a checkpoint."""
    ln: Predictor
    if checkpoint is not None:
        ln = predictor_in(checkpoint, read_checkpoint(checkpoint))
    else:
        ln = fit_alone(datamodule, model)
        save_checkpoint({**checkpoint_of(ln), "settings": context.settings}, run.best)
    if datamodule.scorable("test"):
        report(context, datamodule, ln, None, split="test", checkpoint=run.best)
    else:
        conclude_without_score(run, datamodule, causal=True)
    # It has no epochs whose validation a sweep could select by.
    scores = evaluate_twin(
        ln, datamodule, ln=None, split="val", device=context.device, out=run.path / "validation",
        checkpoint=str(run.best),
    )  # fmt: skip
    bps: float | None = scores["bps_mean"]
    return bps
