"""task=compare: several checkpoints, and other programs' predictions, on the same bins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from vivit_core.analysis.compare.compare import compare as compare_contenders
from vivit_core.analysis.compare.foreign import read_foreign
from vivit_core.analysis.compare.numbers import Contender, shared_recordings
from vivit_core.analysis.compare.section import report_section
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.parts.schema import Count, Node, Positive

SCORE = "{split}/bps_gain_mean"


def compare(
    context: RunContext,
    *,
    checkpoints: list[Path],
    predictions: list[Path],
    data: Node,
    names: list[str] | None,
    split: Literal["val", "test"],
    resamples: Count,
    piece_s: Positive,
) -> float | None:
    """Several checkpoints, and other programs' predictions, on the same bins; each checkpoint's clips are cut as in its
    training.

    Parameters
    ----------
    context : the run.
    checkpoints : at least one.
    predictions : npz files of rates that other programs predicted, after the checkpoints.
    data : recordings, where they are not the trainings'.
    names : of the checkpoints and then of the predictions, in tables and pictures; None: their run folders', or files'.
    split : whose bins are scored.
    resamples : resamplings of the stimuli's pieces, from which the intervals are.
    piece_s : most length of a piece, s.

    Returns
    -------
    By how many bits per spike the last is above the first.

    Raises
    ------
    ValueError
        Where names are not as many as what is compared, or a file or a recording cannot be used.
    """
    if not checkpoints:
        raise ValueError("checkpoints=[] names no model; give one at least, whose likelihood scores")
    names = names or names_of([*checkpoints, *predictions])
    if len(names) != len(checkpoints) + len(predictions):
        files = f"{len(checkpoints)} checkpoints" + f" and {len(predictions)} predictions" * bool(predictions)
        raise ValueError(f"names={names}: {len(names)} names for {files}; give one for each, or null")
    models, foreign = [load_trained(path) for path in checkpoints], [read_foreign(path) for path in predictions]
    # Before recordings are simulated for nothing.
    ids = [*(list(trained.model.specs) for trained in models), *(list(each.rates) for each in foreign)]
    known = dict(zip(names, ids, strict=True))
    shared = shared_recordings(known)
    # A model that lacks one of the others' would refuse its file, or take it for its own of the same unit ids.
    others = {rid for own in known.values() for rid in own} - set(shared)
    contenders = [
        Contender(name, str(trained.path), trained.model, trained.recordings(context, data, False, others))
        for name, trained in zip(names, models, strict=False)
    ]
    seen = contenders[0].datamodule
    contenders += [
        Contender(name, str(each.path), each, seen) for name, each in zip(names[len(models) :], foreign, strict=True)
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
    gain: float | None = summary["pairs"][len(names) - 2]["bps_gain_mean"]
    return gain


def names_of(paths: Sequence[Path]) -> list[str]:
    """Short distinct names for checkpoints: the folders' in which their paths differ, or the whole paths."""
    folders = [p.parent.parent.name if p.parent.name == "checkpoints" else p.stem for p in map(Path.resolve, paths)]
    return folders if len(set(folders)) == len(folders) else [str(path) for path in paths]
