"""The whole comparison: predict with each, pair the bins, score, draw.

Shape letters as in ``numbers``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis import bootstrap
from vivit_core.analysis.bootstrap import (
    INTERVAL,
    difference,
    enough_pieces,
    interval,
    intervals,
    means_over_units,
    resampled,
)
from vivit_core.analysis.compare import plots as compare_plots
from vivit_core.analysis.compare.cost import cost_of, device_name
from vivit_core.analysis.compare.foreign import Foreign
from vivit_core.analysis.compare.numbers import (
    Contender,
    left_out,
    refuse_other_views,
    scores_of_pieces,
    shared_units,
    sums_of,
    with_bins,
)
from vivit_core.analysis.compare.tables import responses_of_all, write_units
from vivit_core.analysis.evaluate.methods import methods
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.data.recording.format import Split
from vivit_core.metrics.averages import mean_known
from vivit_core.metrics.oracle import share_of_oracle
from vivit_core.metrics.unit_scores import all_metrics


def compare(
    contenders: Sequence[Contender],
    *,
    split: Split = "test",
    device: str = "cpu",
    out: Path,
    resamples: int,
    piece_s: float,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Score models on the bins that all of them can predict; write ``compare.csv``, ``compare.json``, ``responses.npz``
    and ``pictures/``.

    Units are matched by recording id and unit id; bins are those after the longest burn-in of all. Recordings or units
    that not all models know are left out and counted. Differences are to the first model, and its likelihood scores
    all of them. Stimuli with all their repeats, long ones in pieces, are drawn with replacement within each recording,
    the same for all models; of a score, the interval is where 95 % of the resamplings lie. A unit that is silent or not
    measured in all but a few pieces has none.

    Parameters
    ----------
    contenders : at least two, by distinct names; the first is a model.
    split : the split to score.
    device : where to compute, in float32.
    out : folder for the files.
    resamples : of the pieces.
    piece_s : s; pieces are at most as long, and shorter where a recording has fewer than ten of them.
    seed : of the resampling.
    progress : show bars.

    Returns
    -------
    dict
        The content of ``compare.json``; a number that is not defined is None.

    Raises
    ------
    ValueError
        Where the models share no recording or unit, or were shown different data under the same name.
    """
    names = [contender.name for contender in contenders]
    if len(names) < 2 or len(set(names)) < len(names):
        raise ValueError(f"a comparison takes at least two models by distinct names, not {names}")
    if "truth" in names:
        raise ValueError("names: truth is the true rate's name in compare.csv; give the model another with names=[…]")
    if resamples < 1:
        raise ValueError(f"resamples={resamples}: give at least 1")
    if not piece_s > 0:
        raise ValueError(f"piece_s={piece_s:g} s: a piece has a length")
    burn_in = max(contender.datamodule.evaluation_burn_in for contender in contenders)
    judge, shared = contenders[0].model, shared_units(contenders)
    if isinstance(judge, Foreign):
        raise ValueError(f"{names[0]}: another program's predictions come after a model, whose likelihood scores them")
    refuse_other_views(contenders, shared, split)
    made = {c.name: sums_of(c, judge, shared, burn_in, split, piece_s, device, progress) for c in contenders}
    found, rates = {name: sums for name, (sums, _) in made.items()}, {name: own for name, (_, own) in made.items()}
    shared = {rid: shared[rid] for rid in with_bins(found, split)}
    metrics = [metric.name for metric in all_metrics()]
    scores = {
        name: {rid: scores_of_pieces(own[rid].scorer, own[rid].sums_KSU) for rid in shared}
        for name, own in found.items()
    }
    drawn = resampled(
        {name: {rid: own[rid] for rid in shared} for name, own in found.items()}, resamples, seed, progress
    )
    first = found[names[0]]
    truth_U = np.concatenate(
        [
            np.full(len(units), np.nan) if (truth := own.truth_KSU) is None else scores_of_pieces(own.scorer, truth)[0]
            for rid, units in shared.items()
            for own in [first[rid]]
        ]
    )

    point = {name: np.concatenate([own[rid] for rid in shared], axis=1) for name, own in scores.items()}  # (M, U)
    costs = cost_of(contenders, list(shared), device, split, progress)
    models = {
        c.name: {
            "checkpoint": c.checkpoint,
            "model": c.kind,
            "history": getattr(c.model, "observes", None),
            "causal": c.causal,
            **{f"{metric}_mean": mean_known(point[c.name][m]) for m, metric in enumerate(metrics)},
            **{
                f"{metric}_interval": interval(means_over_units(drawn[c.name][:, m]))
                for m, metric in enumerate(metrics)
            },
            "knowable_fraction": share_of_oracle(point[c.name][0], truth_U),
            **costs[c.name],
        }
        for c in contenders
    }
    enough_U = np.concatenate([enough_pieces(first[rid]) for rid in shared])
    pairs = [difference(a, b, point, drawn, enough_U) for a, b in itertools.combinations(names, 2)]
    summary: dict[str, Any] = {
        "models": models,
        "pairs": pairs,
        "split": split,
        "burn_in": burn_in,
        "recordings": {
            rid: {"units": len(units), "trials": own.trials, "stimuli": own.stimuli, "pieces": len(own.sums_KSU)}
            for rid, units in shared.items()
            for own in [first[rid]]
        },
        "units": int(truth_U.size),
        "units_without_interval": int((~enough_U).sum()),
        "left_out": left_out(contenders, shared),
        "bins": sum(first[rid].bins for rid in shared),
        "resamples": resamples,
        "device": device_name(device),
        "observed": "none",
        "likelihood": type(judge.likelihood(next(iter(shared)))).__name__,
        "methods": {
            **{name: method for name, method in methods().items() if name in (*metrics, "knowable_fraction")},
            "interval": f"{INTERVAL[0]:g} and {INTERVAL[1]:g} percentiles over {resamples} resamplings, with "
            f"replacement, of each recording's stimuli in at least {bootstrap.FEWEST} pieces of at most {piece_s:g} s, "
            "the same for all models, and for recordings that show the same frames. Repeats of a stimulus are drawn "
            f"together. A unit that spikes in fewer than {bootstrap.FEWEST} pieces has no interval of its own.",
            "flops_per_bin": "floating-point operations of matrix products, convolutions and attention in the forward "
            "pass of evaluation clips, divided by the bins scored in them, burn-in left out",
            "bins_per_s": "scored bins of evaluation clips a second: the median of rounds in which the models took "
            "turns, after one to warm up",
        },
    }
    out.mkdir(parents=True, exist_ok=True)
    write_units(out / "compare.csv", shared, point, drawn, truth_U, enough_U)
    write_arrays(out / "responses.npz", responses_of_all(shared, rates))
    summary = write_summary(out / "compare.json", summary)
    draw(summary, point, drawn, enough_U, out / "pictures")
    return summary


def draw(
    summary: dict[str, Any],
    point: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    enough_U: np.ndarray,
    folder: Path,
) -> None:
    """The pictures: gains unit by unit, and scores beside costs."""
    names = list(point)
    gains = {name: intervals(drawn[name][:, 0] - drawn[names[0]][:, 0], enough_U) for name in names[1:]}
    compare_plots.against_first(
        folder / "compare_units.png",
        first=(names[0], point[names[0]][0]),
        others={name: point[name][0] for name in names[1:]},
        sure={name: np.where(low > 0, 1, np.where(high < 0, -1, 0)) for name, (low, high) in gains.items()},
    )
    compare_plots.scores_and_costs(folder / "compare_costs.png", models=summary["models"])
