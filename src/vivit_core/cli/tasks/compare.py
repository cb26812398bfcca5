"""task=compare: several checkpoints on the same bins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vivit_core.analysis.compare.compare import compare as compare_contenders
from vivit_core.analysis.compare.numbers import Contender, shared_recordings
from vivit_core.analysis.compare.section import report_section
from vivit_core.cli.context import RunContext
from vivit_core.cli.schema import Count, Positive
from vivit_core.cli.trained import load_trained
from vivit_core.parts.schema import Node

SCORE = "{split}/bps_gain_mean"


def compare(
    context: RunContext,
    *,
    checkpoints: list[Path],
    data: Node,
    names: list[str] | None,
    split: Literal["val", "test"],
    resamples: Count,
    piece_s: Positive,
) -> float | None:
    """Several checkpoints on the same bins; each one's clips are cut as in its training.

    Parameters
    ----------
    context : the run.
    checkpoints : at least two; gains are over the first.
    data : recordings, where they are not the trainings'.
    names : of the checkpoints, in tables and pictures; None: their run folders'.
    split : whose bins are scored.
    resamples : resamplings of the stimuli's pieces, from which the intervals are.
    piece_s : most length of a piece, s.

    Returns
    -------
    By how many bits per spike the last is above the first.

    Raises
    ------
    ValueError
        Where names and checkpoints are not equally many, or a checkpoint or a recording cannot be used.
    """
    names = names or names_of(checkpoints)
    if len(names) != len(checkpoints):
        raise ValueError(
            f"names={names}: {len(names)} names for {len(checkpoints)} checkpoints; give one for each, or null"
        )
    models = [load_trained(path) for path in checkpoints]
    # Before recordings are simulated for nothing.
    known = {name: list(trained.model.specs) for name, trained in zip(names, models, strict=True)}
    shared = shared_recordings(known)
    # A model that lacks one of the others' would refuse its file, or take it for its own of the same unit ids.
    foreign = {rid for own in known.values() for rid in own} - set(shared)
    contenders = [
        Contender(name, str(trained.path), trained.model, trained.recordings(context, data, False, foreign))
        for name, trained in zip(names, models, strict=True)
    ]
    context.describe()
    summary = compare_contenders(
        contenders,
        split=split,
        device=context.device,
        out=context.run.path,
        resamples=resamples,
        piece_s=piece_s,
        seed=context.seed,
    )
    section = report_section(summary, context.run.path / "pictures", context.command_line)
    context.announce(section, checkpoints)
    gain: float | None = summary["pairs"][len(checkpoints) - 2]["bps_gain_mean"]
    return gain


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short distinct names for checkpoints: the folders' in which their paths differ, or the whole paths."""
    folders = [p.parent.parent.name if p.parent.name == "checkpoints" else p.stem for p in map(Path.resolve, paths)]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]
