"""task=tuning: in-silico gratings and most exciting images."""

from __future__ import annotations

from pathlib import Path

from vivit_core.analysis.receptive_fields import numbers as fields
from vivit_core.analysis.tuning.section import report_section as tuning_section
from vivit_core.analysis.tuning.tune import tune
from vivit_core.cli.context import Settings, announce, command_line, data_of_checkpoint, machine_of, model_of
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.parts.build import build
from vivit_core.report.training import training_of


def tuning(settings: Settings) -> None:
    """Tuning of every unit to gratings, and the pictures that excite a few units most."""
    path = Path(settings["checkpoint"])
    content = read_checkpoint(path)
    model = model_of(path, content)
    gratings = build("gratings", settings["gratings"])
    mei = None if settings["mei"] is None else build("mei", settings["mei"])
    device, budget = machine_of(settings["trainer"])
    run, datamodule = data_of_checkpoint(settings, content, model, budget)
    summary = tune(
        model,
        datamodule,
        gratings=gratings,
        mei=mei,
        mei_units=settings["mei_units"],
        natural=settings["natural"],
        out=run.path,
        known=fields.known_fractions(training_of(path)),
        device=device,
    )
    section = tuning_section(summary, run.path, command_line())
    announce(section, run, path)
