"""task=evaluate: the scores of a checkpoint, with their report."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vivit_core.analysis.attention.blocks import attending_core
from vivit_core.analysis.behavior_controls import refuse_blind
from vivit_core.cli.console import tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.evaluation import report
from vivit_core.cli.trained import load_trained
from vivit_core.parts.schema import Node

SCORE = "{split}/bps_mean"


def evaluate(
    context: RunContext,
    *,
    checkpoint: Path,
    data: Node,
    split: Literal["val", "test"],
    average: bool,
    behavior_controls: bool,
    attention_controls: bool,
) -> float | None:
    """Evaluate a checkpoint on recordings of the units it knows.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or of an LN model.
    data : recordings, where they are not the training's.
    split : whose bins are scored.
    average : take the averaged weights, which ``callbacks=ema`` keeps.
    behavior_controls : score it also with behavior shuffled across trials, without any, and with the gaze frozen.
    attention_controls : score it also without what its attention finds.

    Returns
    -------
    The mean bits per spike; None where nothing could be scored.

    Raises
    ------
    ValueError
        Where the checkpoint or a recording cannot be used, or a model that sees no behavior, or has no attention, is to
        be controlled for it.
    """
    trained = load_trained(checkpoint, average)
    ln = trained.baseline
    if behavior_controls:
        refuse_blind(trained.model)
    if attention_controls:
        attending_core(trained.model)
    recordings = trained.recordings(context, data)
    for line in recordings.unscored(split):
        tell(line)
    return report(
        context,
        recordings,
        trained.model,
        ln,
        split=split,
        checkpoint=checkpoint,
        average=average,
        with_behavior_controls=behavior_controls,
        with_attention_controls=attention_controls,
    )
