"""The runs of sweeps, brought to the same units, and a law through each curve of them.

Shape letters: N runs of a curve, R resamplings, U units.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vivit_core.analysis.bootstrap import INTERVAL, interval
from vivit_core.analysis.scaling.law import ENOUGH, NUMBERS, Law, fit, resample
from vivit_core.metrics.oracle import share_of_oracle

if TYPE_CHECKING:
    import pandas

Over = Literal["minutes", "recordings", "units", "parameters"]
NOTHING = "from nothing"  # how the name of a curve begins whose cores were not trained before
SCORED = ["bps", "bins", "spikes", "truth_bps"]  # those that are read of it


@dataclass(frozen=True)
class TrainedRun:
    """A training that has finished.

    Attributes
    ----------
    name : for messages, for example its sweep and job.
    path : its run folder.
    curve : which curve it is a point of.
    amounts : what it was trained on: ``minutes`` of a recording, ``recordings``, ``units`` of all of them, and the
        ``parameters`` of its core.
    seed : of its weights.
    likelihood : whose bits per spike its scores are.
    units : its ``units.csv``, with recording and unit as the index: ``bps``, ``bins``, ``spikes`` and ``truth_bps``.
    """

    name: str
    path: Path
    curve: str
    amounts: Mapping[Over, float]
    seed: int
    likelihood: str
    units: pandas.DataFrame


@dataclass(frozen=True)
class Curve:
    """The runs of one kind, over what grows.

    Attributes
    ----------
    runs : least first.
    x_N, bps_NU : how much each had, and its units' scores.
    law, drawn : through the means, and through resamplings of them; None where there are fewer than three different
        amounts.
    """

    runs: list[TrainedRun]
    x_N: np.ndarray
    bps_NU: np.ndarray
    law: Law | None = None
    drawn: Law | None = None

    @property
    def amounts(self) -> np.ndarray:
        """The different amounts, least first."""
        return np.unique(self.x_N)

    @property
    def mean_N(self) -> np.ndarray:
        return self.bps_NU.mean(1)


@dataclass(frozen=True)
class Curves:
    """All curves, on the same units.

    Attributes
    ----------
    curves : by name.
    truth_U : the true rates' bits per spike; NaN where they are not known.
    left_out : units that not all runs score.
    recordings : how many units of each recording are compared.
    """

    curves: dict[str, Curve]
    truth_U: np.ndarray
    left_out: int
    recordings: dict[str, int] = field(default_factory=dict)

    @property
    def oracle(self) -> float:
        """The true rates' mean bits per spike; NaN where it is not known of all units."""
        return float(self.truth_U.mean())


def curves_of(runs: Sequence[TrainedRun], over: Over, resamples: int, seed: int) -> Curves:
    """Bring runs to the units that all of them score, and put a law through each curve.

    Parameters
    ----------
    runs : that have finished.
    over : what grows.
    resamples : of units and residuals.
    seed : of the resampling.

    Raises
    ------
    ValueError
        Where the runs share no scored unit, were scored on different bins or by different likelihoods, or where
        nothing grows.
    """
    refuse_unlike(runs)
    first = runs[0].units
    known = [run.units.index[np.isfinite(run.units["bps"])] for run in runs]
    shared = [unit for unit in known[0] if all(unit in own for own in known[1:])]
    if not shared:
        raise ValueError(
            f"{runs[0].name} and the other runs share no unit with a score, so no curve can be drawn; give sweeps "
            "whose runs are tested on the same recordings"
        )
    for run in runs[1:]:
        for column in ("bins", "spikes"):
            if not np.array_equal(first.loc[shared, column], run.units.loc[shared, column]):
                raise ValueError(
                    f"{runs[0].name} and {run.name} were scored on different test trials ({column} differ in units.csv)"
                    "; give sweeps of the same recordings and the same evaluation"
                )
    made = {}
    for name in dict.fromkeys(run.curve for run in runs):
        own = sorted((run for run in runs if run.curve == name), key=lambda run: (run.amounts[over], run.seed))
        x_N = np.array([rounded(run.amounts[over]) for run in own])
        bps_NU = np.stack([run.units.loc[shared, "bps"].to_numpy(float) for run in own])
        made[name] = with_law(Curve(own, x_N, bps_NU), resamples, seed)
    if all(len(curve.amounts) < 2 for curve in made.values()):
        amount = next(iter(made.values())).amounts[0]
        if any(curve.amounts[0] != amount for curve in made.values()):
            raise ValueError(
                f"over={over}: each of the {len(runs)} runs is a curve of its own, because they differ in more than "
                f"what grows: {'; '.join(list(made)[:4])}{'; …' if len(made) > 4 else ''}; sweep {SWEPT[over]} alone"
            )
        raise ValueError(
            f"over={over}: all {len(runs)} runs that finished have {amount:g}, so nothing grows; sweep "
            f"{SWEPT[over]}, or choose what the sweep changes by over=minutes|recordings|units|parameters"
        )
    everywhere = {unit for run in runs for unit in run.units.index}
    truth_U = first.loc[shared, "truth_bps"].to_numpy(float)
    recordings: dict[str, int] = {}
    for recording, _ in shared:
        recordings[recording] = recordings.get(recording, 0) + 1
    return Curves(made, truth_U, len(everywhere) - len(shared), recordings)


SWEPT: dict[Over, str] = {  # what a sweep changes for each
    "minutes": "data.train_minutes (hparams_search=scaling)",
    "recordings": "data.recordings or data.simulator.recordings",
    "units": "data.most_units (hparams_search=scaling_units) or data.recordings",
    "parameters": "the model's size (hparams_search=embedding_dim)",
}


def refuse_unlike(runs: Sequence[TrainedRun]) -> None:
    """Raise ValueError where bits per spike of the runs are not of one kind."""
    of: dict[str, str] = {}
    for run in runs:
        of.setdefault(run.likelihood, run.name)
    if len(of) > 1:
        said = ", ".join(f"{name} by {likelihood}" for likelihood, name in of.items())
        raise ValueError(f"the runs were scored by different likelihoods, whose bits have different zeros: {said}")


def rounded(amount: float) -> float:
    """Four digits: minutes of two seeds may differ by a bin."""
    return float(f"{amount:.4g}")


def with_law(curve: Curve, resamples: int, seed: int) -> Curve:
    """The curve with its law, where it has enough points for one."""
    if len(curve.amounts) < NUMBERS:
        return curve
    law = fit(curve.x_N, curve.mean_N)
    drawn = fit(curve.x_N, resample(curve.x_N, curve.bps_NU, law, resamples, seed))
    return Curve(curve.runs, curve.x_N, curve.bps_NU, law, drawn)


def ceiling_of(curve: Curve) -> dict[str, Any]:
    """Where a curve ends, and whether its runs tell: ``ceiling`` and ``left``, how far the largest amount is below it,
    each with its interval (infinite above: without end); and ``ceiling_known``.

    It is known where surely no more is left than half the rise that was seen. Three amounts of data never tell it,
    because a law goes through any three.
    """
    assert curve.law is not None and curve.drawn is not None
    rise = float(np.diff(curve.law.at(curve.amounts[[0, -1]])[0])[0])
    at = curve.amounts[-1:]
    left_R = curve.drawn.ceiling_R - curve.drawn.at(at)[:, 0]

    def bounds(values_R: np.ndarray) -> list[float]:
        without_end_R = np.where(curve.drawn.endless, math.inf, values_R)  # type: ignore[union-attr]
        return [float(bound) for bound in np.quantile(without_end_R, np.array(INTERVAL) / 100, method="higher")]

    left = bounds(left_R)
    known = len(curve.amounts) >= ENOUGH and not curve.law.endless[0] and left[1] <= rise / 2
    return {
        "ceiling": float(curve.law.ceiling_R[0]),
        "ceiling_interval": bounds(curve.drawn.ceiling_R),
        "left": float(curve.law.ceiling_R[0] - curve.law.at(at)[0, 0]),
        "left_interval": left,
        "ceiling_known": bool(known),
    }


def foretold_of(curve: Curve, resamples: int, seed: int) -> dict[str, Any] | None:
    """What the law of all but the largest amount says of that one, beside what was measured there; None where too few
    are left.

    ``foretold_interval`` is a prediction's: where 95 % of the differences between law and measurement lie, drawn for
    the same units on both sides and with the luck of as many runs as were measured. Few runs say only roughly how large
    luck is; so it is drawn as much larger as 95 % of Student's distribution are wider than of a normal one. ``held``
    says whether what was measured lies in the interval. Where no more than three runs are left, which say nothing of
    luck, both are not known.
    """
    from scipy.special import ndtri, stdtrit

    last_N = curve.x_N == curve.amounts[-1]
    x_N = curve.x_N[~last_N]
    if len(np.unique(x_N)) < NUMBERS:
        return None
    at = curve.amounts[-1:]
    law = fit(x_N, curve.mean_N[~last_N])
    found: dict[str, Any] = {
        "at": float(at[0]),
        "foretold": float(law.at(at)[0, 0]),
        "foretold_interval": [math.nan, math.nan],
        "measured": float(curve.mean_N[last_N].mean()),
        "held": None,
    }
    if len(x_N) > NUMBERS:
        top = INTERVAL[1] / 100
        wider = float(stdtrit(len(x_N) - NUMBERS, top) / ndtri(top))
        drawn_RN = resample(curve.x_N, curve.bps_NU, law, resamples, seed, beyond_N=last_N, wider=wider)
        above_R = fit(x_N, drawn_RN[:, ~last_N]).at(at)[:, 0] - drawn_RN[:, last_N].mean(1)
        low, high = (found["measured"] + bound for bound in interval(above_R))
        found |= {"foretold_interval": [low, high], "held": bool(low <= found["measured"] <= high)}
    return found


def numbers_of(curve: Curve, truth_U: np.ndarray, resamples: int, seed: int) -> dict[str, Any]:
    """What ``summary.json`` says of a curve."""
    means = [curve.mean_N[curve.x_N == x] for x in curve.amounts]
    of_best = curve.bps_NU[curve.x_N == curve.amounts[-1]].mean(0)
    found: dict[str, Any] = {
        "runs": len(curve.runs),
        "seeds": len({run.seed for run in curve.runs}),
        "at": curve.amounts.tolist(),
        "bps_mean": [float(own.mean()) for own in means],
        "knowable_fraction": share_of_oracle(of_best, truth_U),
        "law": None,
    }
    if curve.law is None or curve.drawn is None:
        return found
    most = float(curve.amounts[-1])
    law = curve.law
    found["law"] = {
        **ceiling_of(curve),
        "amount": float(law.amount_R[0] * law.unit ** law.exponent_R[0]),
        "exponent": float(law.exponent_R[0]),
        "exponent_interval": interval(curve.drawn.exponent_R),
        "rises": bool(law.amount_R[0] > 0),
        "residual": float(np.sqrt(np.mean((curve.mean_N - law.at(curve.x_N)[0]) ** 2))),
        "gain_of_twice": float(law.gain(most)[0]),
        "gain_of_twice_interval": interval(curve.drawn.gain(most)),
        "trainings_drawn": len(curve.runs) > NUMBERS,
        "test": foretold_of(curve, resamples, seed),
    }
    return found


def worth_of(curves: Mapping[str, Curve]) -> list[dict[str, Any]]:
    """What a trained core is worth: how many minutes from nothing score as much as each amount on it. By the curves'
    laws, whose resamplings draw the same units; None where a curve has none, or not one curve is from nothing.

    A number above twice the most minutes from nothing, or below half of the least, is None: there nothing was measured.
    ``outside`` says for the number and the ends of its interval which of them that is: "over", "under" or None.
    """
    plain = [curve for name, curve in curves.items() if name.startswith(NOTHING)]
    if len(plain) != 1 or plain[0].law is None or plain[0].drawn is None:
        return []
    least, most = float(plain[0].amounts[0]) / 2, 2 * float(plain[0].amounts[-1])
    rows = []
    for name, curve in curves.items():
        if curve.law is None or curve.drawn is None or name.startswith(NOTHING):
            continue
        for x in curve.amounts:
            at = np.array([x])
            needed = float(plain[0].law.amount_for(curve.law.at(at)[:, 0])[0])
            drawn_R = plain[0].drawn.amount_for(curve.drawn.at(at)[:, 0])
            low, high = (float(bound) for bound in np.quantile(drawn_R, np.array(INTERVAL) / 100, method="higher"))
            outside = ["over" if n > most else "under" if n < least else None for n in (needed, low, high)]
            numbers = [n if where is None else None for n, where in zip((needed, low, high), outside, strict=True)]
            rows.append(
                {
                    "curve": name,
                    "at": float(x),
                    "as": numbers[0],
                    "as_interval": numbers[1:],
                    "outside": outside,
                    "least": least,
                    "most": most,
                }
            )
    return rows


def rows_of(curves: Curves, over: Over) -> list[dict[str, Any]]:
    """The rows of ``scaling.csv``, one a run."""
    rows: list[dict[str, Any]] = []
    for name, curve in curves.curves.items():
        for run, x, bps_U in zip(curve.runs, curve.x_N, curve.bps_NU, strict=True):
            rows.append(
                {
                    "curve": name,
                    "job": run.name,
                    **{str(what): amount for what, amount in run.amounts.items()},
                    "seed": run.seed,
                    "units_scored": len(bps_U),
                    "bps_mean": float(bps_U.mean()),
                    "bps_median": float(np.median(bps_U)),
                    "law_bps": None if curve.law is None else float(curve.law.at(np.array([x]))[0, 0]),
                    "truth_bps_mean": curves.oracle,
                    "knowable_fraction": share_of_oracle(bps_U, curves.truth_U),
                    "run": str(run.path),
                }
            )
    return rows
