"""The whole analysis: from the runs of sweeps to a law, tables and a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_core.analysis.scaling.numbers import Over, TrainedRun, curves_of, numbers_of, rows_of, worth_of
from vivit_core.analysis.scaling.plots import growth
from vivit_core.analysis.scaling.section import WORD
from vivit_core.analysis.tables import write_summary
from vivit_core.system.tables import write_table

METHODS = {
    "law": "bps_mean = ceiling − amount / x^exponent, the least squares' one of the runs' means over units; x is what "
    "grows. It never falls.",
    "…_interval": "95 % of the resamplings of units and of what the law leaves of each run lie in it; it knows of no "
    "other test stimuli.",
    "ceiling": "where the law ends. ceiling_known: at least four different amounts, and surely (97.5 %) no more is "
    "left to it than half the rise that was seen.",
    "left": "ceiling less the law at the largest amount.",
    "residual": "root mean square of the runs' means less the law, in bits per spike.",
    "gain_of_twice": "the law at twice the largest amount less the law at the largest.",
    "test": "the law of all smaller amounts at the largest one (foretold), beside what was measured there; held says "
    "whether that lies in foretold_interval, a prediction's for as many runs.",
    "worth": "minutes from nothing at which the law says what the curve's own law says of each amount.",
    "oracle": "mean bits per spike of the true rates on the same units.",
    "knowable_fraction": "at the largest amount, bits per spike over those of the true rate.",
}


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
    out.mkdir(parents=True, exist_ok=True)
    write_table(out / "scaling.csv", rows_of(made, over))
    summary = write_summary(
        out / "summary.json",
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
            "methods": METHODS,
        },
    )
    growth(out / "pictures" / "scaling.png", curves=made.curves, found=found, oracle=made.oracle, label=WORD[over][1])
    return summary
