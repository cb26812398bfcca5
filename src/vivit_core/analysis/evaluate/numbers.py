"""The scores of units, and what a summary makes of them.

Shape letters: N scored bins of a recording, U units, R repeats, T bins of a stimulus.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.attention.lesions import UNMIXED
from vivit_core.analysis.predict import Predictions, scorer_of
from vivit_core.analysis.tables import columns_of_rows, write_summary
from vivit_core.analysis.truth import HALF_KNOWN, NEAR_PX, centers_px
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Split
from vivit_core.data.recording.reader import Recording
from vivit_core.metrics.averages import mean_known, median_known
from vivit_core.metrics.oracle import share_of_context, share_of_oracle
from vivit_core.metrics.repeats import RELIABLE, Repeats, RepeatScores, repeat_scores
from vivit_core.metrics.unit_scores import UnitScores, all_metrics
from vivit_core.models.predictor import Predictor

LESIONED = "attention_"  # how the columns of units.csv begin that score a twin without what its attention finds
OBSERVED = "observed_"  # how those begin that score a twin which is told past counts
LOCAL = "local"  # the kind of the simulated units without context


def without_scores(
    datamodule: RecordingsDataModule, *, split: Split, out: Path, checkpoint: str, causal: bool
) -> dict[str, Any]:
    """``summary.json`` of a training whose recordings have nothing to score in a split: every score is None."""
    scores = [key for metric in all_metrics() for key in keys_of(metric.name)]
    summary = dict.fromkeys((*scores, "knowable_fraction", "contextual_fraction")) | {
        "units": sum(spec.n_units for spec in datamodule.specs),
        "units_silent": 0,
        "bins": 0,
        "burn_in": datamodule.evaluation_burn_in,
        "causal": causal and all(spec.behavior_causal for spec in datamodule.specs),
        "checkpoint": checkpoint,
        "average": False,
        "split": split,
        "subjects": {},
        "bps_mean_of_subjects": None,
        "recordings": {},
        "left_out": [spec.recording_id for spec in datamodule.specs],
    }
    return write_summary(out / "summary.json", summary)


def score_recording(
    twin: Predictor, ln: Predictor | None, recording: Recording, recording_id: str, found: Predictions, split: str
) -> list[dict[str, Any]]:
    """A row for each unit of ``units.csv``."""
    units = found.counts_NU.shape[1]
    unknown = np.full(units, np.nan)

    scorer = scorer_of(twin, recording_id, recording.info.unit_ids)
    names = [metric.name for metric in scorer.metrics]

    def scores(predicted_NU: np.ndarray | None) -> UnitScores:
        if predicted_NU is None:
            return UnitScores(dict.fromkeys(names, unknown), unknown, unknown, unknown, unknown)
        return scorer.scores_of(predicted_NU, found.counts_NU, found.valid_NU)

    def scores_over_repeats(predicted_NU: np.ndarray | None) -> RepeatScores:
        if predicted_NU is None or not (stimuli := repeats(recording, found, predicted_NU, split)):
            return RepeatScores(unknown, unknown, unknown, np.zeros(units), unknown)
        return repeat_scores(stimuli)

    def truth_bps_of(name: str) -> np.ndarray:
        if name not in recording.truths:
            return unknown
        return scores(recording.truth_at(found.bins_N, name)).by_name["bps"]

    own, baseline = scores(found.predicted_NU), scores(found.ln_NU)
    bps, ln_bps = own.by_name["bps"], baseline.by_name["bps"]
    truth_bps, local_bps = truth_bps_of("rate"), truth_bps_of("rate_local")
    kinds = recording.unit_column("context") if "rate_local" in recording.truths else None
    kind_U = np.full(units, "") if kinds is None else kinds
    repeated, ln_repeated = scores_over_repeats(found.predicted_NU), scores_over_repeats(found.ln_NU)
    place_U2 = centers_px(twin, recording, recording_id)
    ln_place_U2 = np.full((units, 2), np.nan) if ln is None else centers_px(ln, recording, recording_id)
    _, height, width = recording.info.frame_shape
    border_px = np.minimum(place_U2, np.array([width, height]) - 1 - place_U2).min(1) + 0.5
    true_U2 = recording.truth("center_px") if "center_px" in recording.truths else np.full((units, 2), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_rate_hz = own.spikes / own.bins * recording.info.frame_rate_hz
        knowable, ln_knowable = (
            np.where(truth_bps > 0, of.by_name["bps"] / truth_bps, np.nan) for of in (own, baseline)
        )
    contextual = share_of_context(*(x[:, None] for x in (bps, truth_bps, local_bps)))
    contextual[kind_U == LOCAL] = np.nan
    columns = {
        "bins": own.bins.astype(int),
        "spikes": own.spikes,
        "mean_rate_hz": mean_rate_hz,
        "bps": bps,
        "ln_bps": ln_bps,
        "truth_bps": truth_bps,
        "knowable_fraction": knowable,
        "ln_knowable_fraction": ln_knowable,
        "local_bps": local_bps,
        "contextual_fraction": contextual,
        **{f"{whose}{name}": of.by_name[name] for name in names[1:] for whose, of in (("", own), ("ln_", baseline))},
        "repeated_bins": repeated.bins.astype(int),
        "corr_to_average": repeated.correlation_to_average,
        "ln_corr_to_average": ln_repeated.correlation_to_average,
        "explainable_variance": repeated.explainable_variance,
        "signal_to_error": repeated.signal_to_error,
        "normalized_corr": repeated.normalized_correlation,
        "ln_normalized_corr": ln_repeated.normalized_correlation,
        "readout_x_px": place_U2[:, 0],
        "readout_y_px": place_U2[:, 1],
        "border_px": border_px,
        "center_error_px": np.linalg.norm(place_U2 - true_U2, axis=1),
        "ln_center_error_px": np.linalg.norm(ln_place_U2 - true_U2, axis=1),
    }
    for name, controlled_NU in found.controls.items():
        controlled = scores(controlled_NU)
        columns |= {f"{name}_{metric}": controlled.by_name[metric] for metric in names}
    if found.observed_NU is not None:
        observed = scores(found.observed_NU)
        columns |= {f"{OBSERVED}{metric}": observed.by_name[metric] for metric in names}
    for name, lesioned_NU in found.lesions.items():
        columns[f"{LESIONED}{name}_bps"] = scores(lesioned_NU).by_name["bps"]
    if UNMIXED in found.lesions:
        columns["context_gain"] = bps - columns[f"{LESIONED}{UNMIXED}_bps"]
    return [
        {"recording": recording_id, "unit": unit, "context": str(kind_U[i])}
        | {name: column[i].item() for name, column in columns.items()}
        for i, unit in enumerate(recording.info.unit_ids)
    ]


def repeated_rows(recording: Recording, bins_N: np.ndarray, split: str) -> dict[str, list[slice]]:
    """For each stimulus that was shown more than once in a split, its showings' rows among the scored bins, each with
    its own length.

    Burn-in is left out of each trial alike, so the rows of all showings line up from their first.
    """
    trials = recording.info.trials.of(split)
    first_N, last_N = (np.searchsorted(bins_N, edges).tolist() for edges in (trials.start, trials.stop))
    rows = {}
    for stimulus, own in trials.by_stimulus().items():
        shown = [(first_N[n], last_N[n]) for n in own if last_N[n] > first_N[n]]
        if len(shown) >= 2:
            rows[stimulus] = [slice(*ends) for ends in shown]
    return rows


def side_by_side(values_NU: np.ndarray, shown: Sequence[slice], after: float) -> np.ndarray:
    """The showings' rows (R, T, U), as long as the longest; a shorter one has ``after`` behind its end."""
    longest = max(rows.stop - rows.start for rows in shown)
    values_RTU = np.full((len(shown), longest, values_NU.shape[1]), after, values_NU.dtype)
    for own_TU, rows in zip(values_RTU, shown, strict=True):
        own_TU[: rows.stop - rows.start] = values_NU[rows]
    return values_RTU


def repeats(recording: Recording, found: Predictions, predicted_NU: np.ndarray, split: str) -> list[Repeats]:
    """The scored bins of stimuli that were shown more than once in the split. What is behind a short showing's end is
    not valid: a bin counts where two others reach it."""
    return [
        Repeats(*(side_by_side(x, shown, 0) for x in (predicted_NU, found.counts_NU, found.valid_NU)))
        for shown in repeated_rows(recording, found.bins_N, split).values()
    ]


def summarize(rows: Sequence[dict[str, Any]], bins: int | None) -> dict[str, Any]:
    """Means and medians over units for which a score is defined; ``bins`` were scored, None: of several recordings."""
    of = columns_of_rows(rows)
    reliable = np.nan_to_num(of["signal_to_error"]) > RELIABLE
    half = np.nan_to_num(of["knowable_fraction"]) >= HALF_KNOWN
    near = of["center_error_px"][half & ~np.isnan(of["center_error_px"])] <= NEAR_PX
    summary: dict[str, Any] = {}
    metrics = [metric.name for metric in all_metrics()]
    for name in (*metrics, "corr_to_average", "normalized_corr"):
        use = reliable if name == "normalized_corr" else slice(None)
        for column in (name, f"ln_{name}"):
            summary |= mean_and_median(column, of[column][use])
    return summary | {
        "truth_bps_mean": mean_known(of["truth_bps"]),
        "knowable_fraction": share_of_oracle(of["bps"], of["truth_bps"]),
        "ln_knowable_fraction": share_of_oracle(of["ln_bps"], of["truth_bps"]),
        "explainable_variance_mean": mean_known(of["explainable_variance"]),
        "center_error_px_median": median_known(of["center_error_px"]),
        "ln_center_error_px_median": median_known(of["ln_center_error_px"]),
        "units_half_known": int(half.sum()),
        "units_half_known_near": float(near.mean()) if len(near) else math.nan,
        "behavior": {
            name: {
                key: value
                for metric in metrics
                for key, value in mean_and_median(metric, of[f"{name}_{metric}"]).items()
            }
            | {"bps_lost_mean": mean_known(of["bps"] - of[f"{name}_bps"])}
            for name in controls_of(of)
        },
        "history": {
            key: value
            for metric in metrics
            if f"{OBSERVED}{metric}" in of
            for key, value in mean_and_median(metric, of[f"{OBSERVED}{metric}"]).items()
        },
        "units": len(rows),
        "units_silent": int(np.isnan(of["bps"]).sum()),
        "units_reliable": int(reliable.sum()),
        "bins": bins,
    }


def by_subject(rows_of: Mapping[str, Sequence[dict[str, Any]]], subjects: Mapping[str, str]) -> dict[str, Any]:
    """The scores of each subject, over the units of all its recordings; nothing where no recording names one.

    Parameters
    ----------
    rows_of : recording -> the rows of its units.
    subjects : recording -> its subject; an empty one stands under the recording's id.
    """
    if not any(subjects[name] for name in rows_of):
        return {}
    whose: dict[str, list[str]] = {}
    for name in rows_of:
        whose.setdefault(subjects[name] or name, []).append(name)
    return {
        subject: summarize([row for name in own for row in rows_of[name]], None) | {"recordings": own}
        for subject, own in whose.items()
    }


def mean_and_median(name: str, values: np.ndarray) -> dict[str, float]:
    """Mean and median under their keys."""
    return {f"{name}_mean": mean_known(values), f"{name}_median": median_known(values)}


def keys_of(metric: str) -> list[str]:
    """A metric's numbers in a summary: its mean and LN's, its median and LN's."""
    return [f"{whose}{metric}_{of}" for of in ("mean", "median") for whose in ("", "ln_")]


def controls_of(columns: Iterable[str]) -> list[str]:
    """Names of the behaviors that stood in for the animal's."""
    others = ("ln_bps", "truth_bps", "local_bps", f"{OBSERVED}bps")
    scores = [name for name in columns if name.endswith("_bps") and not name.startswith(LESIONED)]
    return [name.removesuffix("_bps") for name in scores if name not in others]
