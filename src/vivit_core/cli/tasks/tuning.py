"""task=tuning: in-silico gratings and most exciting images."""

from __future__ import annotations

from pathlib import Path

from vivit_core.analysis.receptive_fields.numbers import known_fractions
from vivit_core.analysis.tuning.most_exciting import Ascent
from vivit_core.analysis.tuning.section import report_section
from vivit_core.analysis.tuning.tune import tune
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.parts.schema import Node
from vivit_core.report.training import training_of
from vivit_core.stimuli.gratings import Gratings


def tuning(
    context: RunContext,
    *,
    checkpoint: Path,
    data: Node,
    gratings: Gratings,
    mei: Ascent | None,
    mei_units: int,
    natural: int,
) -> None:
    """Tuning of every unit to gratings, and the pictures that excite a few units most.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or of an LN model.
    data : recordings for its natural pictures, where they are not the training's.
    gratings : what is shown.
    mei : how most exciting pictures are sought; None leaves them out.
    mei_units : units of each recording for which they are sought.
    natural : natural pictures of the test split with which they are compared.

    Raises
    ------
    ValueError
        Where the checkpoint or a recording cannot be used, or a grating does not fit the model's frame rate.
    """
    trained = load_trained(checkpoint)
    recordings = trained.recordings(context, data)
    summary = tune(
        trained.model,
        recordings,
        gratings=gratings,
        mei=mei,
        mei_units=mei_units,
        natural=natural,
        out=context.run.path,
        known=known_fractions(training_of(checkpoint)),
        device=context.device,
    )
    context.announce(report_section(summary, context.run.path, context.command_line), checkpoint)
