"""The scores of a twin, as its evaluation left them, with intervals for a model card.

Shape letters: U units, R resamplings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.bootstrap import interval
from vivit_core.analysis.tables import IDS
from vivit_core.metrics.averages import mean_known
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import weights_of
from vivit_core.system.plain import read_plain
from vivit_core.system.tables import read_table

RESAMPLES = 2000
SCORES = {  # and what a card calls them; EVENT is what the likelihood counts bits by
    "bps": "bits/EVENT",
    "ln_bps": "LN bits/EVENT",
    "truth_bps": "oracle bits/EVENT",
    "corr": "correlation",
}


@dataclass(frozen=True)
class Score:
    """A mean over units, and where it lies for 95 % of resamplings of the units."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


@dataclass(frozen=True)
class Scores:
    """What an evaluation found.

    Attributes
    ----------
    summary : of its ``summary.json``.
    of : recording -> score's name (of ``SCORES``) -> its mean with an interval; None where no unit has one.
    folder : the run folder that they stand in.
    """

    summary: Mapping[str, Any]
    of: Mapping[str, Mapping[str, Score | None]]
    folder: Path


def scores_in(folder: Path, model: Predictor, how: str) -> Scores:
    """The scores that an evaluation of a model left in its run folder.

    Parameters
    ----------
    folder : of ``task=evaluate``, or of the training, which ends with an evaluation.
    model : that they should be of.
    how : the words that name it on the command line.

    Raises
    ------
    ValueError
        Where none are there, or they are of other weights.
    """
    lacking = [name for name in ("summary.json", "units.csv") if not (folder / name).is_file()]
    if lacking:
        raise ValueError(
            f"{folder}: has no {' and no '.join(lacking)}, and a twin is published with its scores; run task=evaluate "
            f"{how}, and give its run folder by evaluation=FOLDER"
        )
    summary = read_plain(folder / "summary.json")
    if summary.get("weights") != weights_of(model):  # evaluations from before this key do not say it
        raise ValueError(
            f"{folder}: its scores are not of these weights, as far as its summary.json says (it names "
            f"{str(summary.get('checkpoint'))[:300]}{' average=true' if summary.get('average') else ''}); run "
            f"task=evaluate {how}, and give its run folder by evaluation=FOLDER"
        )
    table = read_table(folder / "units.csv", text=IDS)
    rng = np.random.default_rng(0)
    return Scores(
        summary,
        {
            str(name): {
                score: resampled(rows[score].to_numpy(float), rng) if score in rows else None for score in SCORES
            }
            for name, rows in table.groupby("recording", sort=False)
        },
        folder,
    )


def resampled(values_U: np.ndarray, rng: np.random.Generator) -> Score | None:
    """The mean over units that have a score, and its interval."""
    known_U = values_U[np.isfinite(values_U)]
    mean = mean_known(known_U)
    if mean is None or not len(known_U):
        return None
    means_R = known_U[rng.integers(0, len(known_U), (RESAMPLES, len(known_U)))].mean(1)
    return Score(float(mean), *interval(means_R))
