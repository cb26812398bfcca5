"""task=stream: a trial bin by bin, with the time of each."""

from __future__ import annotations

import json
from pathlib import Path

from rich.table import Table

from vivit_core.analysis.stream import plots as stream_plots
from vivit_core.analysis.stream.numbers import measure_stream
from vivit_core.cli.context import Settings, console, data_of_checkpoint, is_ln, machine_of, tested
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.load import load_twin
from vivit_core.system.files import write_text
from vivit_core.system.terminal import shown


def stream(settings: Settings) -> None:
    """Predict a test trial bin by bin; print the distribution of the times, draw them, write ``stream.json``."""
    if settings["bins"] < 2:
        raise ValueError(f"bins={settings['bins']}: a stream to be timed has at least 2 bins")
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    if is_ln(content):
        raise ValueError(f"checkpoint={path}: model=ln has no stream; give the checkpoint of a twin")
    device, budget = machine_of(settings["trainer"])
    twin = load_twin(path, device)
    run, datamodule = data_of_checkpoint(settings, content, twin, budget)
    recording, trials = tested(datamodule, settings["recording"])
    name = recording.recording_id
    longest = int((trials.stop - trials.start).argmax())
    start = int(trials.start[longest])
    stop = min(int(trials.stop[longest]), start + settings["bins"])
    clips = recording.read(start, stop, twin.specs[name].behavior)
    bin_s = 1.0 / twin.specs[name].frame_rate_hz
    measured = measure_stream(twin, name, clips["frames"], clips["behavior"])
    summary = {"recording": name, "device": device, "bin_ms": bin_s * 1e3, **measured.summary()}
    write_text(run.path / "stream.json", json.dumps(summary, indent=2) + "\n")
    stream_plots.latency(run.path / "pictures" / "latency.png", measured.seconds, measured.clip_seconds, bin_s)
    title = f"{name}, {measured.bins} bins of {bin_s * 1e3:.2f} ms, on {device}"
    table = Table("time of a bin, ms", title=shown(title))
    for heading in ("mean", "median", "95 %", "99 %", "most"):
        table.add_column(heading, justify="right")
    table.add_row("stream", *(f"{summary[k]:.2f}" for k in ("mean_ms", "p50_ms", "p95_ms", "p99_ms", "most_ms")))
    console.print(table)
    console.print(
        f"{summary['bins_per_s']:.0f} bins/s; running the clip again takes {summary['clip_ms']:.1f} ms, "
        f"{1 / summary['stream_over_clip']:.0f} times a bin of the stream; "
        f"largest difference from the clip's rates {summary['largest_difference']:.1e} of the largest rate"
    )
    console.print(f"run folder: {run.path}")
