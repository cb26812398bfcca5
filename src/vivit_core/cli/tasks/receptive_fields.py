"""task=receptive_fields: the field of every unit, by gradients, by noise, and from the data."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from vivit_core.analysis.receptive_fields.receptive_fields import receptive_fields as measure_receptive_fields
from vivit_core.analysis.receptive_fields.section import report_section
from vivit_core.analysis.truth import known_fractions
from vivit_core.cli.context import RunContext
from vivit_core.cli.schema import TwoOrMore
from vivit_core.cli.trained import load_trained
from vivit_core.parts.schema import Node, Positive
from vivit_core.report.training import training_of
from vivit_core.stimuli.noise import Noise
from vivit_core.training.machine import keep_freed_memory


def receptive_fields(
    context: RunContext,
    *,
    checkpoint: Path,
    data: Node,
    duration_s: Positive,
    gradient_clips: TwoOrMore,
    gradient_clip_s: Positive,
    measured: bool | Literal["auto"],
    noise: Noise | None,
) -> None:
    """Receptive fields of every unit, by several methods, beside the truth where it is known.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or of an LN model.
    data : recordings for its natural clips, where they are not the training's.
    duration_s : history of a field, s.
    gradient_clips : natural clips of the test split at whose last bin gradients are taken; two or more, whose
        differences are the noise.
    gradient_clip_s : their length, s; at least ``duration_s``.
    measured : whether the recordings' own stimulus is white noise, so that fields can be measured from the data.
    noise : what is shown for reverse correlation; None leaves it out.

    Raises
    ------
    ValueError
        Where the checkpoint or a recording cannot be used, or the times do not fit each other.
    """
    if context.device == "cpu":
        keep_freed_memory()
    trained = load_trained(checkpoint)
    recordings = trained.recordings(context, data)
    summary = measure_receptive_fields(
        trained.model,
        recordings,
        noise=noise,
        duration_s=duration_s,
        clips=gradient_clips,
        clip_s=gradient_clip_s,
        measured=measured,
        out=context.run.path,
        known=known_fractions(training_of(checkpoint)),
        device=context.device,
    )
    context.announce(report_section(summary, context.run.path, context.command_line), checkpoint)
