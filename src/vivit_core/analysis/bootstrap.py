"""Intervals by resampling pieces of stimuli.

Shape letters: U units, K pieces, R resamplings, S sums of ``Scorer.sums``, M metrics, N scored bins of a recording.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from einops import einsum

from vivit_core.analysis.predict import Predictions
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.repeats import content
from vivit_core.metrics.averages import mean_known
from vivit_core.metrics.unit_scores import Scorer, all_metrics
from vivit_core.system.terminal import track

INTERVAL = (2.5, 97.5)  # percentiles of the resamplings


AT_ONCE = 2**24  # numbers of the weighted sums that are in memory at once


FEWEST = 10  # pieces of a recording; with fewer, intervals are much too narrow


@dataclass(kw_only=True)
class Sums:
    """What one model's predictions of one recording add up to, piece by piece."""

    scorer: Scorer
    sums_KSU: np.ndarray
    truth_KSU: np.ndarray | None = None
    shown_K: Sequence[bytes]  # what each piece showed, as a digest: see ``shown_in``
    trials: int
    stimuli: int
    bins: int


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


def shown_in(recording: Recording, cuts: Sequence[Sequence[tuple[int, int]]]) -> list[bytes]:
    """A digest of the frames of each piece, of a trial that showed all of it."""
    return [content(recording, {}, *max(parts, key=lambda ends: ends[1] - ends[0])) for parts in cuts]


def piece_sums(
    scorer: Scorer, found: Predictions, predicted_NU: np.ndarray, cuts: Sequence[Sequence[tuple[int, int]]]
) -> np.ndarray:
    """``Scorer.sums`` of each piece, (K, S, U)."""
    sums = np.zeros((len(cuts), scorer.n_sums, found.counts_NU.shape[1]))
    for k, parts in enumerate(cuts):
        for start, stop in parts:
            rows = slice(*np.searchsorted(found.bins_N, [start, stop]))
            values = (torch.as_tensor(x[rows]) for x in (predicted_NU, found.counts_NU, found.valid_NU))
            sums[k] += scorer.sums(*values).numpy()
    return sums


def sums_over_pieces(
    scorer: Scorer,
    recording: Recording,
    found: Predictions,
    rates: Mapping[str, np.ndarray],
    *,
    split: str,
    burn_in: int,
    piece_s: float,
    truth_NU: np.ndarray | None = None,
) -> dict[str, Sums]:
    """Sums of each of these rates (N, U), by name, and of the true ones, over pieces of stimuli.

    Parameters
    ----------
    scorer : of the units.
    recording, found : what was measured in the bins that count.
    rates : in these bins, by name.
    split : whose trials they are.
    burn_in : a trial's first bins, which do not count.
    piece_s : s; pieces are at most as long.
    truth_NU : the true rates, where they are known.
    """
    trials = recording.info.trials.of(split)
    cuts = pieces(trials, burn_in, piece_s * recording.info.frame_rate_hz)
    shown_K = shown_in(recording, cuts)
    truth_KSU = None if truth_NU is None else piece_sums(scorer, found, truth_NU, cuts)
    return {
        name: Sums(
            scorer=scorer,
            sums_KSU=piece_sums(scorer, found, rate_NU, cuts),
            truth_KSU=truth_KSU,
            shown_K=shown_K,
            trials=len(trials),
            stimuli=len(trials.by_stimulus()),
            bins=len(found.bins_N),
        )
        for name, rate_NU in rates.items()
    }


def draws(shown_K: Sequence[bytes], resamples: int, seed: int) -> np.ndarray:
    """How often each piece is drawn in each resampling, (R, K).

    Recordings that show the same films, in whatever order, draw the same ones: what a model cannot predict in a film it
    cannot predict in any of them. Drawn apart, that luck would average out over recordings, and intervals of their
    mean would be too narrow. Others are drawn independently.
    """
    order = sorted(range(len(shown_K)), key=lambda k: shown_K[k])
    films = hashlib.blake2b(b"".join(shown_K[k] for k in order), digest_size=16)
    rng = np.random.default_rng([seed, int.from_bytes(films.digest(), "big")])
    drawn_RK = np.zeros((resamples, len(order)))
    drawn_RK[:, order] = rng.multinomial(len(order), np.full(len(order), 1 / len(order)), size=resamples)
    return drawn_RK


def resampled(
    found: Mapping[str, Mapping[str, Sums]], resamples: int, seed: int, progress: bool
) -> dict[str, np.ndarray]:
    """Each metric in each resampling of the pieces, (R, M, U) for each model; ``draws`` are the same for all models."""
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in found}
    first_model = next(iter(found.values()))
    for rid in track(list(first_model), "bootstrap", disable=not progress):
        _, n_sums, units = first_model[rid].sums_KSU.shape
        weights_RK = draws(first_model[rid].shown_K, resamples, seed)
        size = max(1, AT_ONCE // (n_sums * units))
        for name, own in found.items():
            parts = []
            for first in range(0, resamples, size):
                sums_SRU = einsum(weights_RK[first : first + size], own[rid].sums_KSU, "r k, k s u -> s r u")
                scores = own[rid].scorer.scores(sums_SRU).by_name
                parts.append(np.stack(list(scores.values()), axis=1).astype(np.float32))
            drawn[name].append(np.concatenate(parts))
    return {name: np.concatenate(parts, axis=2) for name, parts in drawn.items()}


def bps_drawn(
    sums: Mapping[str, Mapping[str, Sums]], resamples: int, seed: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, np.ndarray]]]:
    """Bits per spike in each resampling (R, U), by name: of all recordings' units, and by recording.

    Parameters
    ----------
    sums : recording -> name -> its sums; the same names in each.
    resamples, seed : of :func:`resampled`.
    """
    names = next(iter(sums.values()), {})
    if not names:
        return {}, {rid: {} for rid in sums}
    found = {name: {rid: own[name] for rid, own in sums.items()} for name in names}
    drawn = {name: values[:, 0] for name, values in resampled(found, resamples, seed, progress=False).items()}
    first, by_recording = 0, {}
    for rid, own in sums.items():
        units = slice(first, first := first + next(iter(own.values())).sums_KSU.shape[-1])
        by_recording[rid] = {name: bps_RU[:, units] for name, bps_RU in drawn.items()}
    return drawn, by_recording


def means_over_units(values_RU: np.ndarray) -> np.ndarray:
    """Mean over units in each resampling, (R,); NaN where no unit has a score."""
    return np.array([mean_known(values_U) for values_U in values_RU])


def interval(values: np.ndarray) -> list[float]:
    """Where 95 % of the resamplings lie; a bound is infinite where so many of them are that they reach it."""
    known = values[~np.isnan(values)]
    if not known.size:
        return [math.nan, math.nan]
    if np.isfinite(known).all():
        return [float(x) for x in np.percentile(known, INTERVAL)]
    # Nothing lies between a number and infinity: the next resampling outwards.
    low, high = INTERVAL
    return [float(np.percentile(known, low, method="lower")), float(np.percentile(known, high, method="higher"))]


def intervals(values_RU: np.ndarray, enough_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same for each unit; NaN where no resampling has a score, and for units without ``enough_pieces``."""
    some = enough_U & ~np.isnan(values_RU).all(0)
    bounds = np.full((2, values_RU.shape[1]), np.nan)
    infinite = np.isinf(values_RU).any(0)
    bounds[:, some & ~infinite] = np.nanpercentile(values_RU[:, some & ~infinite], INTERVAL, axis=0)
    for unit in np.flatnonzero(some & infinite):
        bounds[:, unit] = interval(values_RU[:, unit])
    return bounds[0], bounds[1]


def enough_pieces(sums: Sums) -> np.ndarray:
    """Units that spike (or have an event, see ``UnitScores.fired``) in so many pieces that drawing those says how
    uncertain a score is; (U,) bool."""
    return sums.scorer.scores(sums.sums_KSU.swapaxes(0, 1)).fired.sum(0) >= FEWEST


def difference(
    a: str, b: str, point: dict[str, np.ndarray], drawn: dict[str, np.ndarray], enough_U: np.ndarray
) -> dict[str, Any]:
    """How much better b is than a, paired over units and resamplings."""
    gained: dict[str, Any] = {"of": b, "to": a}
    for index, metric in enumerate(all_metrics()):
        gain_U = point[b][index] - point[a][index]
        gain_RU = drawn[b][:, index] - drawn[a][:, index]
        low_U, high_U = intervals(gain_RU, enough_U)
        risen, fallen = ("better", "worse") if metric.higher_is_better else ("worse", "better")
        gained |= {
            f"{metric.name}_gain_mean": mean_known(gain_U),
            f"{metric.name}_gain_interval": interval(means_over_units(gain_RU)),
            f"{metric.name}_units_{risen}": int((gain_U > 0).sum()),
            f"{metric.name}_units_{fallen}": int((gain_U < 0).sum()),
            f"{metric.name}_units_surely_{risen}": int((low_U > 0).sum()),
            f"{metric.name}_units_surely_{fallen}": int((high_U < 0).sum()),
        }
    return gained
