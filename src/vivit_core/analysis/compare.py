"""Compare models on the same test bins, unit by unit, with intervals by a bootstrap over trials, beside what they cost.

Scores follow from sums that add up over bins (``metrics.unit_sums``), so a resampling is a weighted sum. What is drawn
are pieces of stimuli: all repeats of a stimulus together, because a model errs alike in each of them, and long trials
in parts, because a recording of one film has one trial, and drawing that again and again says nothing.

Shape letters: N scored bins of a recording, U units, K pieces, R resamplings, 7 sums of ``unit_sums``.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import einsum
from torch.utils.flop_counter import FlopCounterMode

from vivit_core.analysis import pictures
from vivit_core.analysis.evaluate import METHODS, runs, without_nan
from vivit_core.analysis.predict import Predictions, Split, predict_split, refuse_broken, to_device
from vivit_core.analysis.report import Section, Table, counted
from vivit_core.analysis.tables import write_rows, write_summary
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording import Trials
from vivit_core.models.baselines import LN
from vivit_core.models.plan import ATTENTION_ON_CPU
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch
from vivit_core.terminal import track
from vivit_core.training.metrics import fraction_of_knowable, mean_known, scores_of_sums, unit_sums

INTERVAL = (2.5, 97.5)  # percentiles of the resamplings
AT_ONCE = 2**24  # numbers of the weighted sums that are in memory at once
MEASURED_S = 2.0  # s for which each model's speed is measured
ROUNDS = 5  # rounds in which the models take turns at it
FEWEST = 10  # pieces of a recording; with fewer, intervals are much too narrow
SAME = slice(0, 2)  # of the sums, those that depend on the data alone: bins and counts …
SQUARES = 4  # … and squared counts


@dataclass
class Contender:
    """A model that is compared, with the data cut as it was in its training."""

    name: str
    checkpoint: str
    model: Twin | LN
    datamodule: RecordingsDataModule

    @property
    def kind(self) -> str:
        """Its core's class."""
        return type(self.model.core if isinstance(self.model, Twin) else self.model).__name__


@dataclass
class Sums:
    """What one model's predictions of one recording add up to, piece by piece."""

    unit_ids: tuple[str, ...]
    trials: int
    stimuli: int
    bins: int
    sums_K7U: np.ndarray
    truth_K7U: np.ndarray | None


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
    """Score models on the bins that all of them can predict; write ``compare.csv``, ``compare.json``, ``pictures/``.

    Units are matched by recording id and unit id; bins are those after the longest burn-in of all. Recordings or units
    that not all models know are left out and counted. Differences are to the first model. Stimuli with all their
    repeats, long ones in pieces, are drawn with replacement within each recording, the same for all models; of a score,
    the interval is where 95 % of the resamplings lie. A unit that is silent or not measured in all but a few pieces has
    none.

    Parameters
    ----------
    contenders : at least two, by distinct names.
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
    found = {c.name: sums_of(c, burn_in, split, piece_s, device, progress) for c in contenders}
    shared, units_left_out = matched(found)
    known = {spec.recording_id for contender in contenders for spec in contender.datamodule.specs}
    scores = {name: {rid: scores_of_pieces(own[rid].sums_K7U) for rid in shared} for name, own in found.items()}
    drawn = resampled(
        {name: {rid: own[rid] for rid in shared} for name, own in found.items()}, resamples, seed, progress
    )
    first = found[names[0]]
    truth_U = np.concatenate(
        [
            np.full(len(units), np.nan) if (truth := first[rid].truth_K7U) is None else scores_of_pieces(truth)[0]
            for rid, units in shared.items()
        ]
    )

    point = {name: np.concatenate([own[rid] for rid in shared], axis=1) for name, own in scores.items()}  # (2, U)
    costs = cost_of(contenders, list(shared), device, split, progress)
    models = {
        c.name: {
            "checkpoint": c.checkpoint,
            "model": c.kind,
            "causal": bool(getattr(c.model, "causal", True)) and all(s.behavior_causal for s in c.datamodule.specs),
            "bps_mean": mean_known(point[c.name][0]),
            "bps_interval": interval(np.nanmean(drawn[c.name][:, 0], axis=1)),
            "corr_mean": mean_known(point[c.name][1]),
            "corr_interval": interval(np.nanmean(drawn[c.name][:, 1], axis=1)),
            "knowable_fraction": fraction_of_knowable(point[c.name][0], truth_U),
            **costs[c.name],
        }
        for c in contenders
    }
    enough_U = np.concatenate([enough_pieces(first[rid].sums_K7U) for rid in shared])
    pairs = [difference(a, b, point, drawn, enough_U) for a, b in itertools.combinations(names, 2)]
    summary: dict[str, Any] = {
        "models": models,
        "pairs": pairs,
        "split": split,
        "burn_in": burn_in,
        "recordings": {
            rid: {"units": len(units), "trials": own.trials, "stimuli": own.stimuli, "pieces": len(own.sums_K7U)}
            for rid, units in shared.items()
            for own in [first[rid]]
        },
        "units": int(truth_U.size),
        "units_without_interval": int((~enough_U).sum()),
        "left_out": {"recordings": len(known - set(shared)), "units": units_left_out},
        "bins": sum(first[rid].bins for rid in shared),
        "resamples": resamples,
        "device": device_name(device),
        "methods": {
            **{name: METHODS[name] for name in ("bps", "corr", "knowable_fraction")},
            "interval": f"{INTERVAL[0]:g} and {INTERVAL[1]:g} percentiles over {resamples} resamplings, with "
            f"replacement, of each recording's stimuli in at least {FEWEST} pieces of at most {piece_s:g} s, "
            "the same for all models. Repeats of a stimulus are drawn together. A unit that spikes in fewer "
            f"than {FEWEST} pieces has no interval of its own.",
            "flops_per_bin": "floating-point operations of matrix products, convolutions and attention in the forward "
            "pass of evaluation clips, divided by the bins scored in them, burn-in left out",
            "bins_per_s": "scored bins of evaluation clips a second: the median of rounds in which the models took "
            "turns, after one to warm up",
        },
    }
    summary = without_nan(summary)
    out.mkdir(parents=True, exist_ok=True)
    write_units(out / "compare.csv", shared, point, drawn, truth_U, enough_U)
    write_summary(out / "compare.json", summary)
    draw(summary, point, drawn, enough_U, out / "pictures")
    return summary


# Scores -------------------------------------------------------------------------------------------------------------


def sums_of(
    contender: Contender, burn_in: int, split: Split, piece_s: float, device: str, progress: bool
) -> dict[str, Sums]:
    """Each recording's sums, over the bins after a trial's first ``burn_in``."""
    data = contender.datamodule
    by_id = {spec.recording_id: recording for recording, spec in zip(data.recordings, data.specs, strict=True)}
    sums = {}
    for rid, own in predict_split(
        contender.model, data, ln=None, split=split, device=device, progress=progress, label=contender.name
    ):
        refuse_broken(own, rid, f"{contender.name} ({contender.checkpoint})")
        info = by_id[rid].info
        truth_NU = None
        if info.has_truth:
            truth_NU = np.concatenate([by_id[rid].truth("rate", a, b) for a, b in runs(own.bins_N)])
        trials = info.trials.of(split)
        after = trials.start[np.searchsorted(trials.start, own.bins_N, side="right") - 1] + burn_in
        cuts = pieces(trials, burn_in, piece_s * info.frame_rate_hz)
        sums[rid] = Sums(
            info.unit_ids,
            len(trials.start),
            len(trials.by_stimulus()),
            int((own.bins_N >= after).sum()),
            piece_sums(own, own.predicted_NU, cuts),
            None if truth_NU is None else piece_sums(own, truth_NU.astype(np.float32), cuts),
        )
    return sums


def pieces(trials: Trials, burn_in: int, longest: float) -> list[list[tuple[int, int]]]:
    """First bin and end of each piece in every trial that showed it; a trial's first ``burn_in`` bins are left out.

    A stimulus is cut evenly into pieces of at most ``longest`` bins, and of fewer where there are not ``FEWEST``.
    """
    shown = [
        [
            (int(trials.start[n]) + burn_in, int(trials.stop[n]))
            for n in own
            if trials.start[n] + burn_in < trials.stop[n]
        ]
        for own in trials.by_stimulus().values()
    ]
    shown = [own for own in shown if own]
    lengths = [max(stop - start for start, stop in own) for own in shown]
    longest = max(1.0, min(longest, sum(lengths) / FEWEST))
    cuts = []
    for own, length in zip(shown, lengths, strict=True):
        edges = np.linspace(0, length, math.ceil(length / longest) + 1).round().astype(int).tolist()
        for first, last in itertools.pairwise(edges):
            cuts.append([(start + first, min(start + last, stop)) for start, stop in own if start + first < stop])
    return cuts


def piece_sums(found: Predictions, predicted_NU: np.ndarray, cuts: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
    """``unit_sums`` of each piece, (K, 7, U)."""
    sums = np.zeros((len(cuts), 7, found.counts_NU.shape[1]))
    for k, parts in enumerate(cuts):
        for start, stop in parts:
            rows = slice(*np.searchsorted(found.bins_N, [start, stop]))
            values = (torch.as_tensor(x[rows]) for x in (predicted_NU, found.counts_NU, found.valid_NU))
            sums[k] += unit_sums(*values).numpy()
    return sums


def matched(found: dict[str, dict[str, Sums]]) -> tuple[dict[str, list[str]], int]:
    """The units of each recording that all models know, their sums brought to that order, and how many are left out.

    Raises
    ------
    ValueError
        Where nothing is shared, or the measured data differ.
    """
    names = list(found)
    every = list(dict.fromkeys(rid for own in found.values() for rid in own))
    common = [rid for rid in every if all(rid in own for own in found.values())]
    if not common:
        known = "; ".join(f"{name}: {', '.join(own)}" for name, own in found.items())
        raise ValueError(f"these models share no recording, so there is nothing to compare ({known})")
    shared: dict[str, list[str]] = {}
    left_out = 0
    for rid in common:
        ids = [set(own[rid].unit_ids) for own in found.values()]
        units = [unit for unit in found[names[0]][rid].unit_ids if all(unit in known for known in ids)]
        left_out += len(set().union(*ids)) - len(units)
        if not units:
            raise ValueError(f"recording {rid}: these models know none of the same units, so they cannot be compared")
        for own in found.values():
            place = {unit: i for i, unit in enumerate(own[rid].unit_ids)}
            columns = [place[unit] for unit in units]
            own[rid].sums_K7U = own[rid].sums_K7U[..., columns]
            if (truth := own[rid].truth_K7U) is not None:
                own[rid].truth_K7U = truth[..., columns]
            own[rid].unit_ids = tuple(units)
        first = found[names[0]][rid].sums_K7U
        for name in names[1:]:
            other = found[name][rid].sums_K7U
            same = first.shape == other.shape and all(
                np.array_equal(first[:, rows], other[:, rows]) for rows in (SAME, SQUARES)
            )
            if not same:
                raise ValueError(
                    f"recording {rid}: the test data of {names[0]} and of {name} differ, though they have one name; "
                    "give both the same files with data.recordings=[…]"
                )
        if first[:, 0].any():  # else the longest burn-in, or responses/valid, leaves no bin
            shared[rid] = units
    if not shared:
        raise ValueError(
            f"the longest burn-in of these models (data.evaluation_burn_in) leaves no valid bin of {', '.join(common)}"
        )
    return shared, left_out


def scores_of_pieces(sums_K7U: np.ndarray) -> np.ndarray:
    """Bits per spike and correlation over all pieces, (2, U)."""
    scores = scores_of_sums(sums_K7U.sum(0))
    return np.stack([scores.bps, scores.correlation])


def resampled(found: dict[str, dict[str, Sums]], resamples: int, seed: int, progress: bool) -> dict[str, np.ndarray]:
    """Bits per spike and correlation in each resampling of the pieces, (R, 2, U) for each model."""
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in found}
    recordings = list(next(iter(found.values())))
    for index, rid in enumerate(track(recordings, "bootstrap", disable=not progress)):
        number, _, units = next(iter(found.values()))[rid].sums_K7U.shape
        rng = np.random.default_rng([seed, index])
        weights_RK = rng.multinomial(number, np.full(number, 1 / number), size=resamples).astype(np.float64)
        size = max(1, AT_ONCE // (7 * units))
        for name, own in found.items():
            pieces = []
            for first in range(0, resamples, size):
                sums_7RU = einsum(weights_RK[first : first + size], own[rid].sums_K7U, "r k, k s u -> s r u")
                scores = scores_of_sums(sums_7RU)
                pieces.append(np.stack([scores.bps, scores.correlation], axis=1).astype(np.float32))
            drawn[name].append(np.concatenate(pieces))
    return {name: np.concatenate(pieces, axis=2) for name, pieces in drawn.items()}


def interval(values: np.ndarray) -> list[float]:
    """Where 95 % of the resamplings lie."""
    known = values[~np.isnan(values)]
    return [float(x) for x in np.percentile(known, INTERVAL)] if known.size else [math.nan, math.nan]


def intervals(values_RU: np.ndarray, enough_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for each unit; NaN where no resampling has a score, and for units without ``enough_pieces``."""
    some = enough_U & ~np.isnan(values_RU).all(0)
    bounds = np.full((2, values_RU.shape[1]), np.nan)
    bounds[:, some] = np.nanpercentile(values_RU[:, some], INTERVAL, axis=0)
    return bounds[0], bounds[1]


def enough_pieces(sums_K7U: np.ndarray) -> np.ndarray:
    """Units that spike in so many pieces that drawing those says how uncertain a score is; (U,) bool."""
    return (sums_K7U[:, 1] > 0).sum(0) >= FEWEST


def difference(
    a: str, b: str, point: dict[str, np.ndarray], drawn: dict[str, np.ndarray], enough_U: np.ndarray
) -> dict[str, Any]:
    """How much better b is than a, paired over units and resamplings."""
    gained: dict[str, Any] = {"of": b, "to": a}
    for index, score in enumerate(("bps", "corr")):
        gain_U = point[b][index] - point[a][index]
        gain_RU = drawn[b][:, index] - drawn[a][:, index]
        low_U, high_U = intervals(gain_RU, enough_U)
        gained |= {
            f"{score}_gain_mean": mean_known(gain_U),
            f"{score}_gain_interval": interval(np.nanmean(gain_RU, axis=1)),
            f"{score}_units_better": int((gain_U > 0).sum()),
            f"{score}_units_worse": int((gain_U < 0).sum()),
            f"{score}_units_surely_better": int((low_U > 0).sum()),
            f"{score}_units_surely_worse": int((high_U < 0).sum()),
        }
    return gained


# Cost ---------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cost_of(
    contenders: Sequence[Contender], recordings: Sequence[str], device: str, split: Split, progress: bool
) -> dict[str, dict[str, Any]]:
    """Parameters, operations and speed of each model, on evaluation clips of the first recording that all know."""
    costs: dict[str, dict[str, Any]] = {}
    clips: dict[str, tuple[Batch, int]] = {}
    for c in contenders:
        c.model.to(device).eval()
        own = next(batch for batch in c.datamodule.evaluation_dataloader(split) if recordings[0] in batch)
        batch: Batch = {recordings[0]: to_device(own[recordings[0]], device)}
        bins = int(own[recordings[0]]["score"].sum())  # a model that predicts the newest bin alone gives one a clip
        with FlopCounterMode(display=False, custom_mapping=ATTENTION_ON_CPU) as counter:
            c.model(batch)
        clips[c.name] = (batch, bins)
        costs[c.name] = {
            "parameters": sum(p.numel() for p in c.model.parameters()),
            "flops_per_bin": counter.get_total_flops() / bins,
            "clip_bins": own[recordings[0]]["frames"].shape[2],
            "clips_at_once": len(own[recordings[0]]["frames"]),
        }
    speeds: dict[str, list[float]] = {c.name: [] for c in contenders}
    for turn in track(range(ROUNDS + 1), "speed", disable=not progress):  # the first warms up
        for c in contenders:
            batch, bins = clips[c.name]
            passes, seconds = 0, 0.0
            while passes == 0 or (turn > 0 and seconds < MEASURED_S / ROUNDS):
                seconds += clocked(c.model, batch)
                passes += 1
            if turn > 0:
                speeds[c.name].append(passes * bins / seconds)
    for name, measured in speeds.items():
        costs[name]["bins_per_s"] = float(np.median(measured))
    return costs


def clocked(model: Twin | LN, batch: Batch) -> float:
    """Seconds of one pass, with a GPU's work done."""
    on_gpu = next(model.parameters()).is_cuda
    if on_gpu:
        torch.cuda.synchronize()
    start = time.perf_counter()
    model(batch)
    if on_gpu:
        torch.cuda.synchronize()
    return time.perf_counter() - start


def device_name(device: str) -> str:
    return torch.cuda.get_device_name() if device == "cuda" else f"cpu, {torch.get_num_threads()} threads"


# What is written ----------------------------------------------------------------------------------------------------


def write_units(
    path: Path,
    shared: dict[str, list[str]],
    point: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    truth_U: np.ndarray,
    enough_U: np.ndarray,
) -> None:
    """A row a unit: each model's scores, and each one's gain over the first with its interval."""
    names = list(point)
    columns: dict[str, np.ndarray] = {"truth_bps": truth_U}
    for name in names:
        columns |= {f"{name}_bps": point[name][0], f"{name}_corr": point[name][1]}
    for name in names[1:]:
        low_U, high_U = intervals(drawn[name][:, 0] - drawn[names[0]][:, 0], enough_U)
        gain_U = point[name][0] - point[names[0]][0]
        columns |= {f"{name}_bps_gain": gain_U, f"{name}_bps_gain_low": low_U, f"{name}_bps_gain_high": high_U}
    units = [(rid, unit) for rid, own in shared.items() for unit in own]
    rows = [[rid, unit, *(float(column[u]) for column in columns.values())] for u, (rid, unit) in enumerate(units)]
    write_rows(path, [["recording", "unit", *columns], *rows])


def draw(
    summary: dict[str, Any],
    point: dict[str, np.ndarray],
    drawn: dict[str, np.ndarray],
    enough_U: np.ndarray,
    folder: Path,
) -> None:
    names = list(point)
    gains = {name: intervals(drawn[name][:, 0] - drawn[names[0]][:, 0], enough_U) for name in names[1:]}
    pictures.against_first(
        folder / "compare_units.png",
        first=(names[0], point[names[0]][0]),
        others={name: point[name][0] for name in names[1:]},
        sure={name: np.where(low > 0, 1, np.where(high < 0, -1, 0)) for name, (low, high) in gains.items()},
    )
    pictures.scores_and_costs(folder / "compare_costs.png", models=summary["models"])


def report_section(summary: dict[str, Any], folder: Path, command: str) -> Section:
    """What a comparison adds to the reports of the models that were compared."""
    models, left_out = summary["models"], summary["left_out"]
    text = [
        f"{counted(len(models), 'model')} on the same {summary['bins']:,} bins of the {summary['split']} split, those "
        f"after the first {summary['burn_in']} of each trial, and the same {counted(summary['units'], 'unit')} of "
        f"{counted(len(summary['recordings']), 'recording')}; means over units, with 95 % intervals by a bootstrap "
        f"over {counted(sum(own['pieces'] for own in summary['recordings'].values()), 'piece')} of stimuli, repeats "
        f"together ({summary['resamples']:,} resamplings). They say how far scores would differ with other stimuli of "
        "this kind, for these units. A unit is surely better or worse where its own interval excludes zero: of two "
        "equally good models, one unit in twenty would be one or the other by chance. "
        f"Speed was measured on {summary['device']}.",
    ]
    if summary["split"] == "val":
        text.append("This split chose the checkpoints, so its scores are too good.")
    if summary["units_without_interval"]:
        text.append(
            f"{counted(summary['units_without_interval'], 'unit')} spiked in fewer than {FEWEST} pieces: too few for "
            "an interval, so surely neither better nor worse."
        )
    if any(left_out.values()):
        text.append(
            f"{counted(left_out['recordings'], 'recording')} and {counted(left_out['units'], 'unit')} are left out, "
            "because not all models know them, or because no trial is longer than the burn-in."
        )
    rows = [
        (
            name,
            own["model"] + ("" if own["causal"] else ", not causal"),
            with_interval(own["bps_mean"], own["bps_interval"]),
            own["knowable_fraction"],
            with_interval(own["corr_mean"], own["corr_interval"]),
            own["parameters"],
            own["flops_per_bin"],
            own["bins_per_s"],
        )
        for name, own in models.items()
    ]
    columns = (
        "name",
        "model",
        "bits per spike",
        "fraction known",
        "correlation",
        "parameters",
        "FLOPs a bin",
        "bins/s",
    )
    gains = [
        (
            pair["of"],
            pair["to"],
            with_interval(pair["bps_gain_mean"], pair["bps_gain_interval"]),
            f"{pair['bps_units_better']} ({pair['bps_units_surely_better']})",
            f"{pair['bps_units_worse']} ({pair['bps_units_surely_worse']})",
            with_interval(pair["corr_gain_mean"], pair["corr_gain_interval"]),
        )
        for pair in summary["pairs"]
    ]
    headings = (
        "of",
        "over",
        "gain in bits per spike",
        "units better (surely)",
        "units worse (surely)",
        "in correlation",
    )
    tables = [
        Table("Models", columns, rows),
        Table("Gains, unit by unit", headings, gains),
    ]
    notes = [
        Table("Checkpoints", ("name", "checkpoint"), [(name, own["checkpoint"]) for name, own in models.items()]),
        Table("How the numbers are defined", ("number", "method"), list(summary["methods"].items())),
    ]
    drawn = [
        (folder / "compare_units.png", "Bits per spike, a point a unit; filled where the interval excludes zero."),
        (
            folder / "compare_costs.png",
            "Mean bits per spike with its interval, beside parameters, operations and speed.",
        ),
    ]
    return Section("compare", "Compared with what", text, tables, drawn, command, notes)


def with_interval(value: float | None, bounds: Sequence[float | None]) -> str:
    if value is None or bounds[0] is None:
        return "–" if value is None else f"{value:.3f}"
    return f"{value:.3f} [{bounds[0]:.3f}, {bounds[1]:.3f}]"
