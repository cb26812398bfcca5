"""task=receptive_fields: the field of every unit, by gradients, by noise, and from the data."""

from __future__ import annotations

from pathlib import Path

from vivit_core.analysis.receptive_fields import numbers as fields
from vivit_core.analysis.receptive_fields import section as receptive_fields_section
from vivit_core.cli.context import Settings, announce, command_line, data_of_checkpoint, machine_of, model_of
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.parts.build import build
from vivit_core.report.training import training_of


def receptive_fields(settings: Settings) -> None:
    """Receptive fields of every unit, by several methods, beside the truth where it is known."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    model = model_of(path, content)
    noise = None if settings["noise"] is None else build("noise", settings["noise"])
    device, budget = machine_of(settings["trainer"])
    run, datamodule = data_of_checkpoint(settings, content, model, budget)
    summary = fields.receptive_fields(
        model,
        datamodule,
        noise=noise,
        duration_s=settings["duration_s"],
        clips=settings["gradient_clips"],
        clip_s=settings["gradient_clip_s"],
        measured=settings["measured"],
        out=run.path,
        known=fields.known_fractions(training_of(path)),
        device=device,
    )
    section = receptive_fields_section.report_section(summary, run.path, command_line())
    announce(section, run, path)
