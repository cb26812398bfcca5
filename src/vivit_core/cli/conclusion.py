"""What follows a training: its best checkpoint under one name, the evaluation with its report, the pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from vivit_core.analysis.evaluate.evaluate import evaluate as evaluate_twin
from vivit_core.analysis.evaluate.numbers import without_scores
from vivit_core.cli import runs
from vivit_core.cli.console import console, tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.evaluation import report, table_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.load import AVERAGE, load_predictor
from vivit_core.models.predictor import Predictor
from vivit_core.plotting.learning_curve import learning_curve
from vivit_core.system.activity import stage
from vivit_core.system.files import link_or_copy
from vivit_core.system.work import Work
from vivit_core.training.loggers import send_results
from vivit_core.training.module import SCORES


def conclude(
    context: RunContext,
    loggers: Sequence[Logger],
    datamodule: RecordingsDataModule,
    ln: Predictor | None,
    causal: bool,
    state: Mapping[str, Any],
    evaluation_s: float | None,
    work: Work | None,
) -> float | None:
    """What follows the training: its best checkpoint under that name, the evaluation, the pictures.

    Parameters
    ----------
    context : of the training's run.
    loggers : the training's.
    datamodule : its recordings.
    ln : the baseline; None without one.
    causal : whether the twin knows nothing of the future.
    state : of its ``ModelCheckpoint``; empty where it had none.
    evaluation_s : how long the evaluation will take; None where the training's steps did not tell.
    work : the evaluation's; None where nothing can be scored.

    Returns
    -------
    The kept checkpoint's score.
    """
    run = context.run
    keep_best(run, state)
    content = read_checkpoint(run.best)
    best = score_of(content, state)
    if (metrics := run.path / "metrics.csv").is_file():
        learning_curve(run.path / "pictures" / "learning_curve.png", metrics, content["global_step"])
    if not datamodule.scorable("test"):
        conclude_without_score(run, datamodule, causal)
    else:
        with stage("the evaluation", evaluation_s, work=work):
            evaluated(context, datamodule, ln)
    send_results(loggers, run.path, run.best, best)
    return best


def score_of(content: Mapping[str, Any], state: Mapping[str, Any]) -> float | None:
    """The mean bits per spike of the checkpoint that was kept, whatever number chose it: a sweep maximizes them. They
    are the averaged weights' where one of their numbers chose it; None where none did, or they are not known.

    Parameters
    ----------
    content : of the checkpoint.
    state : of the ``ModelCheckpoint`` that kept it.
    """
    if not state.get("best_model_path"):
        return None
    own, averaged = SCORES
    chosen = averaged if str(state["monitor"]).startswith("val_ema/") else own
    score: float | None = content.get("scores", {}).get(chosen)
    return score if score is not None and math.isfinite(score) else None


def evaluated(context: RunContext, datamodule: RecordingsDataModule, ln: Predictor | None) -> None:
    """Evaluate the best checkpoint on the test split, with its averaged weights too where it holds some."""
    run = context.run
    if AVERAGE in read_checkpoint(run.best):
        averaged = load_predictor(run.best, average=True)
        scores = evaluate_twin(
            averaged,
            datamodule,
            ln=ln,
            device=context.device,
            out=run.path / AVERAGE,
            checkpoint=str(run.best),
            average=True,
        )
        console.print(
            "With the averaged weights (task=evaluate average=true):", table_of(scores, "test", console.width)
        )
    report(context, datamodule, load_predictor(run.best), ln, split="test", checkpoint=run.best)


def keep_best(run: runs.RunFolder, state: Mapping[str, Any]) -> None:
    """``best.ckpt`` is the best checkpoint under a name that can be told beforehand; the last one where no validation
    score was ever a number."""
    path = str(state.get("best_model_path", ""))
    source = run.best.with_name(Path(path).name) if path else run.last
    if source.is_file():
        link_or_copy(source, run.best)


def conclude_without_score(run: runs.RunFolder, datamodule: RecordingsDataModule, causal: bool) -> None:
    """The end of a training whose recordings have nothing to score; said at its start too."""
    without_scores(datamodule, split="test", out=run.path, checkpoint=str(run.best), causal=causal)
    tell(
        "no recording can be scored on its test split; the training ends without a score "
        f"(task=evaluate split=val scores {run.best} on what chose it)"
    )
    tell(f"run folder: {run.path}")
