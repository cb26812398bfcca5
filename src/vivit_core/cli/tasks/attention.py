"""task=attention: where a checkpoint's heads and readouts look."""

from __future__ import annotations

from pathlib import Path

import torch

from vivit_core.analysis.attention import blocks
from vivit_core.analysis.attention import section as attention_section
from vivit_core.analysis.attention import study as attention_study
from vivit_core.cli.context import Settings, announce, command_line, data_of_checkpoint, machine_of, model_of, tested
from vivit_core.data.clips import evaluation_windows
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.system.terminal import track


def attention(settings: Settings) -> None:
    """Look at a checkpoint's attention; write ``attention.npz``, ``attention.json``, pictures and a report."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    twin = model_of(path, content)
    blocks.attending_core(twin)
    assert isinstance(twin, Twin)
    device, budget = machine_of(settings["trainer"])
    twin.to(device)
    run, datamodule = data_of_checkpoint(settings, content, twin, budget)
    recording, trials = tested(datamodule, settings["recording"])
    name, length = recording.recording_id, datamodule.evaluation_length
    if not 0 <= settings["trial"] < len(trials):
        raise ValueError(f"trial={settings['trial']}: recording {name} has {len(trials)} test trials, counted from 0")

    def clips_at(start: int, stop: int) -> Clips:
        read = recording.read(start, stop, twin.specs[name].behavior)
        return Clips(frames=torch.as_tensor(read["frames"])[None], behavior=torch.as_tensor(read["behavior"])[None])

    start, stop = int(trials.start[settings["trial"]]), int(trials.stop[settings["trial"]])
    windows = evaluation_windows(trials, "test", length, datamodule.evaluation_burn_in)
    longest = max(window.stop - window.start for window in windows)
    windows = [window for window in windows if window.stop - window.start == longest]
    number = min(settings["clips"], len(windows))
    averaged = [windows[i * len(windows) // number] for i in range(number)]
    summary, drawn = attention_study.study_attention(
        twin,
        name,
        clips_at(start, min(stop, start + length)),
        (clips_at(w.start, w.stop) for w in track(averaged, "attention")),
        out=run.path,
        place=settings["place"] and (settings["place"][0], settings["place"][1]),
        heads=settings["heads"],
        units=settings["units"],
        megabytes=settings["megabytes"],
    )
    section = attention_section.report_section(summary, drawn, command_line())
    announce(section, run, path)
