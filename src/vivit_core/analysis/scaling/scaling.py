"""The whole analysis: from the runs of sweeps to a law, tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_core.analysis.evaluate.numbers import without_nan
from vivit_core.analysis.scaling.numbers import Over, TrainedRun, curves_of, numbers_of, rows_of, worth_of
from vivit_core.analysis.scaling.plots import growth
from vivit_core.analysis.scaling.section import WORD
from vivit_core.analysis.tables import write_summary
from vivit_core.system.tables import write_table


def scaling(
    runs: Sequence[TrainedRun],
    *,
    over: Over,
    resamples: int,
    out: Path,
    seed: int = 0,
    left_out: Sequence[Mapping[str, str]] = (),
    differ: Sequence[str] = (),
) -> dict[str, Any]:
    """Fit laws to runs with more and more data; write ``scaling.csv``, ``summary.json`` and ``pictures/scaling.png``.

    Parameters
    ----------
    runs : that have finished, of all curves.
    over : what grows.
    resamples : of units and residuals, for the intervals.
    out : folder for the files.
    seed : of the resampling.
    left_out : jobs that are none of the runs: ``job`` and ``reason``.
    differ : settings in which curves differ, and which their names do not say.

    Returns
    -------
    dict
        The content of ``summary.json``; a number that is not defined, or has no bound, is None.

    Raises
    ------
    ValueError
        As :func:`vivit_core.analysis.scaling.numbers.curves_of`; or without a resampling.
    """
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: give at least 1")
    made = curves_of(runs, over, resamples, seed)
    found = {name: numbers_of(curve, made.truth_U, resamples, seed) for name, curve in made.curves.items()}
    summary: dict[str, Any] = without_nan(
        {
            "over": over,
            "curves": found,
            "worth": worth_of(made.curves) if over == "minutes" else [],
            "oracle": made.oracle,
            "units": len(made.truth_U),
            "units_left_out": made.left_out,
            "recordings": made.recordings,
            "left_out": [dict(job) for job in left_out],
            "differ": list(differ),
            "resamples": resamples,
            "likelihood": runs[0].likelihood,
        }
    )
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "scaling.csv", rows_of(made, over))
    write_summary(out / "summary.json", summary)
    growth(out / "pictures" / "scaling.png", curves=made.curves, found=found, oracle=made.oracle, label=WORD[over][1])
    return summary
