"""task=scaling: how more data would help, from the trainings of sweeps."""

from __future__ import annotations

from pathlib import Path

from vivit_core.analysis.scaling.numbers import Over
from vivit_core.analysis.scaling.scaling import scaling as scaling_of
from vivit_core.analysis.scaling.section import report_section
from vivit_core.cli.context import RunContext
from vivit_core.cli.scaled import runs_of
from vivit_core.parts.schema import Count
from vivit_core.system.terminal import shown


def scaling(context: RunContext, *, sweeps: list[Path], over: Over, resamples: Count) -> None:
    """A law through the scores of sweeps' trainings, with its uncertainty. Trains nothing.

    Parameters
    ----------
    context : the run.
    sweeps : folders of sweeps, finished or not; several are drawn together.
    over : what grows.
    resamples : of units and of what the law leaves, for the intervals.

    Raises
    ------
    ValueError
        Where a folder is no sweep's, or its trainings make no curve.
    """
    runs, left_out, differ = runs_of(sweeps, over)
    context.describe()
    out = context.run.path
    summary = scaling_of(
        runs, over=over, resamples=resamples, out=out, seed=context.seed, left_out=left_out, differ=differ
    )
    section = report_section(summary, out / "pictures" / "scaling.png", context.command_line)
    for paragraph in section.text:
        context.console.print(shown(paragraph))
    context.announce(section)
