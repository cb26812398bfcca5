"""task=attention: where a checkpoint's heads and readouts look."""

from __future__ import annotations

from pathlib import Path

import torch

from vivit_core.analysis.attention.attention import study_attention
from vivit_core.analysis.attention.blocks import core_with_blocks
from vivit_core.analysis.attention.past import past_beside_truth
from vivit_core.analysis.attention.section import report_section
from vivit_core.analysis.attention.surrounds import maps_beside_truth
from vivit_core.cli.context import RunContext
from vivit_core.cli.recordings import tested
from vivit_core.cli.schema import CountOrZero
from vivit_core.cli.trained import load_trained
from vivit_core.data.clips import evaluation_windows
from vivit_core.models.twin import Twin
from vivit_core.parts.schema import Count, Node, Positive
from vivit_core.specs import Clips
from vivit_core.system.terminal import track


def attention(
    context: RunContext,
    *,
    checkpoint: Path,
    data: Node,
    recording: str | None,
    trial: CountOrZero,
    place: tuple[int, int] | None,
    clips: Count,
    heads: Count,
    units: Count,
    megabytes: Positive,
) -> None:
    """Look at a checkpoint's attention; write ``attention.npz``, ``attention.json``, pictures and a report.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin whose core attends.
    data : recordings, where they are not the training's.
    recording : id of the one that is shown; None: the first.
    trial : test trial that is drawn, in the order of time.
    place : row and column of the token that is drawn; None: where most readouts look.
    clips : test clips over which each head's numbers are averaged; fewer where there are fewer.
    heads, units : how many are drawn.
    megabytes : at most, of the maps that are kept.

    Raises
    ------
    ValueError
        Where the model does not attend, there is no such recording, trial or place, or a recording cannot be used.
    """
    trained = load_trained(checkpoint)
    core_with_blocks(trained.model)
    twin = trained.model
    assert isinstance(twin, Twin)
    twin.to(context.device)
    recordings = trained.recordings(context, data)
    chosen, trials = tested(recordings, recording)
    name, length = chosen.recording_id, recordings.evaluation_length
    if not 0 <= trial < len(trials):
        raise ValueError(f"trial={trial}: recording {name} has {len(trials)} test trials, counted from 0")

    def clips_at(start: int, stop: int) -> Clips:
        read = chosen.read(start, stop, twin.specs[name].behavior)
        return Clips(frames=torch.as_tensor(read["frames"])[None], behavior=torch.as_tensor(read["behavior"])[None])

    start, stop = int(trials.start[trial]), int(trials.stop[trial])
    windows = evaluation_windows(trials, "test", length, recordings.evaluation_burn_in)
    if not windows:
        raise ValueError(
            f"recording {name} has no test trial longer than the burn-in of {recordings.evaluation_burn_in} bins "
            "(trials/split); choose another with recording=…, or set a shorter data.evaluation_burn_in"
        )
    longest = max(window.stop - window.start for window in windows)
    windows = [window for window in windows if window.stop - window.start == longest]
    number = min(clips, len(windows))
    averaged = [windows[i * len(windows) // number] for i in range(number)]
    summary, drawn = study_attention(
        twin,
        name,
        clips_at(start, min(stop, start + length)),
        (clips_at(w.start, w.stop) for w in track(averaged, "attention")),
        beside_truth=maps_beside_truth(twin, chosen),
        past=past_beside_truth(twin, chosen),
        out=context.run.path,
        place=place,
        heads=heads,
        units=units,
        megabytes=megabytes,
    )
    context.announce(report_section(summary, context.run.path, drawn, context.command_line), checkpoint)
