"""Where the numbers of a training go: the loggers of the configuration, at its start and at its end."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger

from vivit_core.system.plain import read_plain
from vivit_core.training.metrics_file import MetricsFile
from vivit_core.training.tracking import WandbRun


def begin_loggers(made: Iterable[Logger], settings: Mapping[str, Any], step: int | None) -> list[Logger]:
    """The loggers of a training, ready for what it logs.

    Parameters
    ----------
    made : of the configuration.
    settings : the whole configuration, which W&B shows.
    step : that the training continues from; None where it begins.
    """
    loggers = list(made)
    for logger in loggers:
        if isinstance(logger, MetricsFile) and step is not None:
            logger.continue_from(step)
        if isinstance(logger, WandbRun):
            logger.log_settings(dict(settings))
    return loggers


def send_results(loggers: Sequence[Logger], run: Path, checkpoint: Path, best: float | None) -> None:
    """The end of a training to W&B, where it is one of the loggers.

    Parameters
    ----------
    loggers : the training's.
    run : its folder, with the summary of its evaluation and pictures.
    checkpoint : the one that was kept.
    best : its ``val/bps_mean``; None where no validation score was a number.
    """
    for logger in loggers:
        if isinstance(logger, WandbRun):
            summary = read_plain(run / "summary.json")
            drawn = sorted(p for p in (run / "pictures").glob("*.png") if not p.name.startswith("validation_"))
            logger.log_results(summary, best, drawn, checkpoint)
