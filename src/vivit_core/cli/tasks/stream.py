"""task=stream: a trial bin by bin, with the time of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import numpy as np
from rich.table import Table

from vivit_core.analysis.predict import unit_columns
from vivit_core.analysis.stream import plots
from vivit_core.analysis.stream.numbers import distribution, export_of, measure_export, measure_stream
from vivit_core.cli.context import RunContext
from vivit_core.cli.recordings import tested
from vivit_core.cli.schema import TwoOrMore
from vivit_core.cli.trained import load_trained
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.twin import Twin
from vivit_core.parts.schema import Node
from vivit_core.system.files import write_text
from vivit_core.system.terminal import shown


def stream(
    context: RunContext,
    *,
    checkpoint: Path,
    data: Node,
    recording: str | None,
    bins: TwoOrMore,
    exports: list[Path],
    history: Literal["observed", "none", "expected", "samples"],
) -> None:
    """Predict a test trial bin by bin; print the distribution of the times, draw them, write ``stream.json``.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or an ensemble.
    data : recordings, where they are not the training's.
    recording : id of the one whose longest test trial is streamed; None: the first.
    bins : of the stream, two or more; fewer where the trial is shorter.
    history : of a twin with model/history, past counts: the trial's, or what stands in for them.
    exports : folders that task=export wrote, of the same recording, whose bins are timed too.

    Raises
    ------
    ValueError
        Where the checkpoint is of no twin, or a recording or an export cannot be used.
    """
    trained = load_trained(checkpoint)
    if not isinstance(trained.model, Twin | Ensemble):
        raise ValueError(f"checkpoint={checkpoint}: a model of kind {trained.model.kind} has no stream; give a twin's")
    device = context.device
    twin = trained.model.to(device)
    chosen, trials = tested(trained.recordings(context, data), recording)
    name = chosen.recording_id
    exported = {str(path): export_of(path, twin, name) for path in exports}  # refused before anything is timed
    longest = int((trials.stop - trials.start).argmax())
    start = int(trials.start[longest])
    stop = min(int(trials.stop[longest]), start + bins)
    clips = chosen.read(start, stop, twin.specs[name].behavior)
    counts = None
    if history != "observed":
        twin.feedback, twin.seed = history, context.seed
    elif twin.observes is not None:
        counts = np.full((stop - start, twin.specs[name].n_units), np.nan, np.float32)
        counts[:, unit_columns(twin, name, chosen.info.unit_ids)] = np.where(clips["valid"], clips["counts"], np.nan)
    bin_s = 1.0 / twin.specs[name].frame_rate_hz
    measured = measure_stream(twin, name, clips["frames"], clips["behavior"], counts=counts)
    summary = {
        "recording": name,
        "history": None if twin.observes is None else history,
        "device": device,
        "bin_ms": bin_s * 1e3,
        **measured.summary(bin_s),
    }
    seconds = {"stream": measured.seconds}
    rows, summary["exports"] = {"stream": summary}, {}
    for path, export in exported.items():
        label = f"{export.kind}, {path}"
        seconds[label] = measure_export(export, clips["frames"], clips["behavior"])
        rows[label] = summary["exports"][path] = {"kind": export.kind, **distribution(seconds[label], bin_s)}
    folder = context.run.path
    write_text(folder / "stream.json", json.dumps(summary, indent=2) + "\n")
    plots.latency(folder / "pictures" / "latency.png", seconds, measured.clip_seconds, bin_s)
    title = f"{name}, {measured.bins} bins of {bin_s * 1e3:.2f} ms, on {device}"
    table = Table("time of a bin, ms", title=shown(title))
    for heading in ("mean", "median", "95 %", "99 %", "99.9 %", "most", "late bins"):
        table.add_column(heading, justify="right")
    for label, own in rows.items():
        times = (f"{own[k]:.2f}" for k in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "p999_ms", "most_ms"))
        table.add_row(shown(label), *times, f"{own['late_fraction']:.2%}")
    context.console.print(table)
    context.console.print(
        f"{summary['bins_per_s']:.0f} bins/s; running the clip again takes {summary['clip_ms']:.1f} ms, "
        f"{1 / summary['stream_over_clip']:.0f} times a bin of the stream; "
        f"largest difference from the clip's rates {summary['largest_difference']:.1e} of the largest rate"
    )
    context.console.print(f"run folder: {folder}")
