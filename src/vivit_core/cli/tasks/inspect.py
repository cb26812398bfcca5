"""task=inspect: what is in the recordings, and what may be wrong with them."""

from __future__ import annotations

from vivit_core.analysis.inspect.inspect import inspect as inspect_recordings
from vivit_core.analysis.inspect.section import report_section
from vivit_core.cli.console import show
from vivit_core.cli.context import RunContext
from vivit_core.cli.recordings import make_datamodule
from vivit_core.parts.schema import Count, Node, Positive

FOLLOWS_RECORDINGS = True


def inspect(context: RunContext, *, data: Node, duration_s: Positive, max_frames: Count) -> None:
    """Look at recordings before anything is trained on them.

    Parameters
    ----------
    context : the run.
    data : the recordings.
    duration_s : history of the receptive fields, s.
    max_frames : most training frames that receptive fields and alignment use.

    Raises
    ------
    ValueError
        Where a recording cannot be used.
    """
    paths = make_datamodule(data).paths()
    context.describe()
    summary = inspect_recordings(
        paths,
        duration_s=duration_s,
        max_frames=max_frames,
        out=context.run.path,
        burn_in=data["evaluation_burn_in"],
        frame_rate_hz=data["frame_rate_hz"],
    )
    section = report_section(summary, context.command_line)
    show(section)
    context.console.print(section.text[0])
    context.publish(section)
