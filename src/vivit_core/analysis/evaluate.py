"""Evaluate a twin, and the LN baseline beside it, on a split: units.csv, summary.json, pictures.

Shape letters: N scored bins of a recording, U units, R repeats, T bins of a stimulus, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis import pictures
from vivit_core.analysis.predict import (
    Predictions,
    Split,
    behavior_controls,
    columns_of,
    predict_split,
    refuse_blind,
    refuse_broken,
)
from vivit_core.analysis.report import Section, Table
from vivit_core.analysis.tables import write_summary, write_units
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording import Recording
from vivit_core.models.baselines import LN
from vivit_core.models.twin import Twin
from vivit_core.names import file_name, short
from vivit_core.training.metrics import (
    RELIABLE,
    Repeats,
    RepeatScores,
    UnitScores,
    fraction_of_knowable,
    mean_known,
    median_known,
    repeat_scores,
    unit_scores,
)

CLIP_S = 5.0  # s of a trial shown in the pictures
QUALITIES = {"good": 0.9, "middling": 0.5, "poor": 0.1}  # quantiles of bits per spike of the units that are drawn
EXTREMES = 2  # best and worst units whose rasters are drawn
STIMULI = 3  # repeated stimuli whose averages are drawn
RECORDINGS_SHOWN = 4  # recordings whose own pictures stand in the report
NEAR_PX = 2.0  # a readout nearer to the true centre than this looks at the right place
HALF = 0.5  # of the knowable information: units that a twin knows well enough to say where it looks

METHODS = {  # what units.csv and summary.json hold
    "bps": "bits per spike: Σ [(n ln r̂ − r̂) − (n ln n̄ − n̄)] / (Σ n · ln 2) over a unit's valid "
    "bins, n the count, r̂ the prediction, n̄ the unit's own mean over the same bins (Pillow "
    "et al. 2008). Not clamped. A silent unit has none, is left out of means, and is counted.",
    "corr": "Pearson correlation of prediction and count over a unit's valid bins, single trials; "
    "none where one is constant.",
    "truth_bps": "the knowable information: bits per spike of the simulation's true rate, without its shared noise.",
    "knowable_fraction": "of a unit bps / truth_bps; in means Σ bps / Σ truth_bps over units with a positive "
    "truth_bps.",
    "corr_to_average": "Pearson correlation of the mean prediction and the mean count over repeats, over bins "
    "with at least two valid repeats. Few repeats leave noise in the mean, which lowers it.",
    "explainable_variance": "S / (S + mean s²), S the signal power: the covariance over bins of counts in different "
    "repeats of the stimulus, unbiased for any number of repeats and noise of any speed (for one stimulus and equal "
    "numbers of repeats that of Sahani and Linden 2003); s² the unbiased variance over repeats.",
    "normalised_corr": "CC_norm of Schoppe et al. 2016: covariance of prediction and count in different repeats over "
    "√(the prediction's own · S), so that neither few repeats lower it nor behaviour that a repeat's prediction and "
    "count share raises it. None where S ≤ 0. Dividing by the root of a noisy S biases it upwards, so means are over "
    f"the units whose S is more than {RELIABLE:g} standard errors above zero (signal_to_error).",
    "center_error_px": "distance of the readout's centre from the true receptive field's, in pixels of the "
    "recording's own frame; LN's is the centre of gravity of its squared spatial filter.",
    "border_px": "distance of the readout's centre from the nearest border of the recording's own frame, in pixels.",
    "missing_behavior_fraction": "share of the scored bins' numbers of behaviour that are missing (NaN) in the file; "
    "their mean over the training trials stands in.",
    "behavior": "the same bins predicted with another behaviour in the place of the animal's. shuffled: "
    "the time course of another trial, of another stimulus where there is one. none: the "
    "training trials' mean. frozen_gaze: eye_ behaviours held at their trial's mean, their "
    "velocities zero. Frames stay as they were: where they move with the gaze, the model "
    "still sees the movement.",
}


def evaluate(
    twin: Twin | LN,
    datamodule: RecordingsDataModule,
    *,
    ln: LN | None,
    split: Split = "test",
    device: str = "cpu",
    out: Path,
    checkpoint: str,
    with_behavior_controls: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a twin on every bin of a split, burn-in left out; write ``units.csv``, ``summary.json``, ``pictures/``.

    Memory holds one recording's predictions at a time.

    Parameters
    ----------
    twin : a twin, or an LN model in its place.
    datamodule : set up; its recordings are among those the twin knows, matched by id, their units by unit id.
    ln : the baseline; None leaves its values empty.
    split : the split to score.
    device : where to compute, in float32.
    out : folder for the files.
    checkpoint : where the twin came from, for the summary.
    with_behavior_controls : predict with other behaviours too, see :func:`predict.behavior_controls`.
    seed : of the behaviour that is shuffled across trials.
    progress : show a bar.

    Returns
    -------
    dict
        The content of ``summary.json``; a number that is not defined is None.

    Raises
    ------
    ValueError
        Where a model does not know a recording or some of its units, predicts what is no number, or sees no behaviour
        that could be controlled.
    """
    controls = {}
    if with_behavior_controls:
        refuse_blind(twin)
        controls = behavior_controls(datamodule, split, seed)
    rows: list[dict[str, Any]] = []
    recordings: dict[str, Any] = {}
    by_id = {
        spec.recording_id: recording for recording, spec in zip(datamodule.recordings, datamodule.specs, strict=True)
    }
    bins = 0
    found = predict_split(twin, datamodule, ln=ln, split=split, device=device, progress=progress, controls=controls)
    missing = 0.0
    for recording_id, own in found:
        refuse_broken(own, recording_id, f"checkpoint {checkpoint}")
        recording = by_id[recording_id]
        scored = score_recording(twin, ln, recording, recording_id, own, split)
        shares = {"missing_behavior_fraction": own.missing_behavior}
        recordings[recording_id] = summarise(scored, len(own.bins_N)) | shares
        missing += own.missing_behavior * len(own.bins_N)
        draw_recording(twin, recording, recording_id, own, scored, split, out / "pictures")
        rows += scored
        bins += len(own.bins_N)
    causal = bool(getattr(twin, "causal", True)) and all(spec.behavior_causal for spec in datamodule.specs)
    common = {"burn_in": datamodule.evaluation_burn_in, "causal": causal, "checkpoint": checkpoint, "split": split}
    summary = summarise(rows, bins) | common | {"recordings": {name: s | common for name, s in recordings.items()}}
    summary["missing_behavior_fraction"] = missing / max(1, bins)
    summary["left_out"] = [name for name in by_id if name not in recordings]
    summary["calcium"] = [name for name in recordings if by_id[name].info.kind == "calcium"]
    summary = without_nan(summary | {"methods": METHODS})

    write_units(out / "units.csv", rows)
    write_summary(out / "summary.json", summary)
    draw_units(rows, out / "pictures")
    return summary


def without_scores(
    datamodule: RecordingsDataModule, *, split: Split, out: Path, checkpoint: str, causal: bool
) -> dict[str, Any]:
    """``summary.json`` of a training whose recordings have nothing to score in a split: every score is None."""
    scores = ("bps_mean", "bps_median", "corr_mean", "corr_median", "ln_bps_mean", "ln_corr_median")
    summary = dict.fromkeys((*scores, "knowable_fraction")) | {
        "units": sum(spec.n_units for spec in datamodule.specs),
        "units_silent": 0,
        "bins": 0,
        "burn_in": datamodule.evaluation_burn_in,
        "causal": causal and all(spec.behavior_causal for spec in datamodule.specs),
        "checkpoint": checkpoint,
        "split": split,
        "recordings": {},
        "left_out": [spec.recording_id for spec in datamodule.specs],
    }
    write_summary(out / "summary.json", summary)
    return summary


def score_recording(
    twin: Twin | LN, ln: LN | None, recording: Recording, recording_id: str, found: Predictions, split: str
) -> list[dict[str, Any]]:
    """A row for each unit of ``units.csv``."""
    units = found.counts_NU.shape[1]
    unknown = np.full(units, np.nan)

    def scores(predicted_NU: np.ndarray | None) -> UnitScores:
        if predicted_NU is None:
            return UnitScores(unknown, unknown, unknown, unknown, unknown)
        return unit_scores(predicted_NU, found.counts_NU, found.valid_NU)

    def scores_over_repeats(predicted_NU: np.ndarray | None) -> RepeatScores:
        if predicted_NU is None or not (stimuli := repeats(recording, found, predicted_NU, split)):
            return RepeatScores(unknown, unknown, unknown, np.zeros(units), unknown)
        return repeat_scores(stimuli)

    own, baseline = scores(found.predicted_NU), scores(found.ln_NU)
    truth_bps = unknown
    if recording.info.has_truth:
        truth_NU = np.concatenate([recording.truth("rate", a, b) for a, b in runs(found.bins_N)])
        truth_bps = scores(truth_NU.astype(np.float32)).bps
    repeated, ln_repeated = scores_over_repeats(found.predicted_NU), scores_over_repeats(found.ln_NU)
    place_U2 = centers_px(twin, recording, recording_id)
    ln_place_U2 = np.full((units, 2), np.nan) if ln is None else centers_px(ln, recording, recording_id)
    _, height, width = recording.info.frame_shape
    border_px = np.minimum(place_U2, np.array([width, height]) - 1 - place_U2).min(1) + 0.5
    true_U2 = recording.truth("center_px") if "center_px" in recording.truths else np.full((units, 2), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_rate_hz = own.spikes / own.bins * recording.info.frame_rate_hz
        knowable, ln_knowable = (np.where(truth_bps > 0, bps / truth_bps, np.nan) for bps in (own.bps, baseline.bps))
    columns = {
        "bins": own.bins.astype(int),
        "spikes": own.spikes,
        "mean_rate_hz": mean_rate_hz,
        "bps": own.bps,
        "ln_bps": baseline.bps,
        "truth_bps": truth_bps,
        "knowable_fraction": knowable,
        "ln_knowable_fraction": ln_knowable,
        "corr": own.correlation,
        "ln_corr": baseline.correlation,
        "repeated_bins": repeated.bins.astype(int),
        "corr_to_average": repeated.correlation_to_average,
        "ln_corr_to_average": ln_repeated.correlation_to_average,
        "explainable_variance": repeated.explainable_variance,
        "signal_to_error": repeated.signal_to_error,
        "normalised_corr": repeated.normalised_correlation,
        "ln_normalised_corr": ln_repeated.normalised_correlation,
        "readout_x_px": place_U2[:, 0],
        "readout_y_px": place_U2[:, 1],
        "border_px": border_px,
        "center_error_px": np.linalg.norm(place_U2 - true_U2, axis=1),
        "ln_center_error_px": np.linalg.norm(ln_place_U2 - true_U2, axis=1),
    }
    for name, controlled_NU in found.controls.items():
        controlled = scores(controlled_NU)
        columns |= {f"{name}_bps": controlled.bps, f"{name}_corr": controlled.correlation}
    return [
        {"recording": recording_id, "unit": unit} | {name: column[i].item() for name, column in columns.items()}
        for i, unit in enumerate(recording.info.unit_ids)
    ]


def centers_px(model: Twin | LN, recording: Recording, recording_id: str) -> np.ndarray:
    """Where a model looks for each unit of a recording, (U, 2) as x, y in pixels of the recording's own frame.

    A twin's is its readout's mean, LN's the centre of gravity of its squared spatial filter.
    """
    own = columns_of(model, recording_id, recording.info.unit_ids)
    if isinstance(model, Twin):
        return gaussians_px(model, recording, recording_id)["mean_px"][own]
    if not isinstance(model, LN):
        return np.full((len(own), 2), np.nan)
    head = model.head(recording_id)
    index_UP, inside_UP = (x.cpu().numpy() for x in head.window_index())
    weight_UP = head.space_UP.detach().double().cpu().numpy() ** 2 * inside_UP
    total_U = weight_UP.sum(1)
    width = recording.info.frame_shape[2]
    with np.errstate(invalid="ignore"):
        x, y = ((weight_UP * place_UP).sum(1) / total_U for place_UP in (index_UP % width, index_UP // width))
    return np.stack([x, y], 1)[own]


def gaussians_px(twin: Twin, recording: Recording, recording_id: str) -> dict[str, np.ndarray]:
    """The readouts' Gaussians, in the model's order of units, in pixels of the recording's own frame.

    They live on the twin's common frame, to which a recording's own may have been resized.
    """
    _, height, width = recording.info.frame_shape
    scale = np.array([width / twin.frame_size[1], height / twin.frame_size[0]])
    gaussians = twin.readout_gaussians(recording_id)
    return {
        "mean_px": (gaussians["mean_px"] + 0.5) * scale - 0.5,
        "std_px": gaussians["std_px"] * scale.mean(),
        "angle_deg": gaussians["angle_deg"],
    }


def runs(bins_N: np.ndarray) -> list[tuple[int, int]]:
    """Half open ranges of consecutive bins."""
    breaks = np.flatnonzero(np.diff(bins_N) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(bins_N, breaks)]


def repeated_rows(recording: Recording, bins_N: np.ndarray, split: str) -> dict[str, list[slice]]:
    """For each stimulus that was shown more than once in a split, its showings' rows among the scored bins.

    Burn-in is left out of each trial alike, so the rows of all showings line up; the rest of a longer one has no
    partner and is left out.
    """
    trials = recording.info.trials.of(split)
    first_N, last_N = (np.searchsorted(bins_N, edges).tolist() for edges in (trials.start, trials.stop))
    rows = {}
    for stimulus, own in trials.by_stimulus().items():
        shown = [(first_N[n], last_N[n]) for n in own if last_N[n] > first_N[n]]
        if len(shown) >= 2:
            bins = min(last - first for first, last in shown)
            rows[stimulus] = [slice(first, first + bins) for first, _ in shown]
    return rows


def repeats(recording: Recording, found: Predictions, predicted_NU: np.ndarray, split: str) -> list[Repeats]:
    """The scored bins of stimuli that were shown more than once in the split."""
    return [
        Repeats(*(np.stack([x[rows] for rows in shown]) for x in (predicted_NU, found.counts_NU, found.valid_NU)))
        for shown in repeated_rows(recording, found.bins_N, split).values()
    ]


def summarise(rows: Sequence[dict[str, Any]], bins: int) -> dict[str, Any]:
    """Means and medians over units for which a score is defined."""
    of = columns_of_rows(rows)
    reliable = np.nan_to_num(of["signal_to_error"]) > RELIABLE
    half = np.nan_to_num(of["knowable_fraction"]) >= HALF
    near = of["center_error_px"][half & ~np.isnan(of["center_error_px"])] <= NEAR_PX
    summary: dict[str, Any] = {}
    for name in ("bps", "corr", "corr_to_average", "normalised_corr"):
        use = reliable if name == "normalised_corr" else slice(None)
        for column in (name, f"ln_{name}"):
            summary[f"{column}_mean"] = mean_known(of[column][use])
            summary[f"{column}_median"] = median_known(of[column][use])
    return summary | {
        "truth_bps_mean": mean_known(of["truth_bps"]),
        "knowable_fraction": fraction_of_knowable(of["bps"], of["truth_bps"]),
        "ln_knowable_fraction": fraction_of_knowable(of["ln_bps"], of["truth_bps"]),
        "explainable_variance_mean": mean_known(of["explainable_variance"]),
        "center_error_px_median": median_known(of["center_error_px"]),
        "ln_center_error_px_median": median_known(of["ln_center_error_px"]),
        "units_half_known": int(half.sum()),
        "units_half_known_near": float(near.mean()) if len(near) else math.nan,
        "behavior": {
            name: {
                "bps_mean": mean_known(of[f"{name}_bps"]),
                "bps_median": median_known(of[f"{name}_bps"]),
                "corr_mean": mean_known(of[f"{name}_corr"]),
                "corr_median": median_known(of[f"{name}_corr"]),
                "bps_lost_mean": mean_known(of["bps"] - of[f"{name}_bps"]),
            }
            for name in controls_of(of)
        },
        "units": len(rows),
        "units_silent": int((of["spikes"] == 0).sum()),
        "units_reliable": int(reliable.sum()),
        "bins": bins,
    }


def columns_of_rows(rows: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """Each number of all units, (U,) float64."""
    return {
        name: np.array([row[name] for row in rows], np.float64) for name in rows[0] if name not in ("recording", "unit")
    }


def controls_of(columns: Iterable[str]) -> list[str]:
    """Names of the behaviours that stood in for the animal's."""
    return [
        name.removesuffix("_bps") for name in columns if name.endswith("_bps") and name not in ("ln_bps", "truth_bps")
    ]


def without_nan(value: Any) -> Any:
    """The same with None for each NaN: JSON knows none."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw_recording(
    twin: Twin | LN,
    recording: Recording,
    recording_id: str,
    found: Predictions,
    rows: Sequence[dict[str, Any]],
    split: str,
    folder: Path,
) -> None:
    """The pictures of one recording."""
    name, shown_id = file_name(recording_id), short(recording_id)
    rate_hz = recording.info.frame_rate_hz
    first, last = runs(found.bins_N)[0]
    order = [int(i) for i in np.argsort([row["bps"] for row in rows]) if not math.isnan(rows[i]["bps"])]
    chosen = {quality: order[round(q * (len(order) - 1))] for quality, q in QUALITIES.items()} if order else {}
    titles = [
        f"{quality}: unit {short(rows[i]['unit'])}, {rows[i]['bps']:.2f} bits per spike"
        for quality, i in chosen.items()
    ]
    units = list(chosen.values())
    if order:
        shown = slice(0, min(last - first, round(CLIP_S * rate_hz)))
        pictures.rates(
            folder / f"rates_{name}.png",
            times_s=np.arange(shown.stop) / rate_hz,
            measured_hz=found.counts_NU[shown][:, units] * rate_hz,
            predicted_hz=found.predicted_NU[shown][:, units] * rate_hz,
            ln_hz=None if found.ln_NU is None else found.ln_NU[shown][:, units] * rate_hz,
            titles=titles,
            title=f"{shown_id}: a clip of the {split} split",
        )
    stimuli = repeated_rows(recording, found.bins_N, split)
    if order and stimuli:
        stimuli = dict(sorted(stimuli.items(), key=lambda item: -len(item[1])))  # most repeats first
        traces = {stimulus: over_repeats(found, shown, rate_hz) for stimulus, shown in list(stimuli.items())[:STIMULI]}
        most = next(iter(traces.values()))
        extremes = list(dict.fromkeys([*reversed(order[-EXTREMES:]), *reversed(order[:EXTREMES])]))
        pictures.rasters(
            folder / f"rasters_{name}.png",
            bin_s=1.0 / rate_hz,
            trials_hz=most["trials"][..., extremes],
            predicted_hz=most["predicted"][:, extremes],
            ln_hz=most["ln"][:, extremes] if "ln" in most else None,
            titles=[f"unit {short(rows[i]['unit'])}: {rows[i]['bps']:.2f} bits per spike" for i in extremes],
            title=f"{shown_id}: best and worst units, repeats of stimulus {short(next(iter(traces)))}",
        )
        pictures.averages(
            folder / f"repeats_{name}.png",
            bin_s=1.0 / rate_hz,
            trials_hz={name: trace["trials"][..., units] for name, trace in traces.items()},
            predicted_hz={name: trace["predicted"][:, units] for name, trace in traces.items()},
            ln_hz={name: trace["ln"][:, units] for name, trace in traces.items() if "ln" in trace},
            titles=titles,
            title=f"{shown_id}: averages over repeats",
        )
    if isinstance(twin, Twin):
        pictures.receptive_fields(
            folder / f"receptive_fields_{name}.png",
            frame=recording.frames(first, first + 1)[:, 0].mean(0),
            **gaussians_px(twin, recording, recording_id),
            title=f"{shown_id}: where the readouts look",
        )


def over_repeats(found: Predictions, shown: Sequence[slice], rate_hz: float) -> dict[str, np.ndarray]:
    """One stimulus: its ``trials`` (R, T, U), NaN where invalid, and mean predictions (T, U); all in Hz."""
    bins = round(CLIP_S * rate_hz)
    shown = [slice(rows.start, min(rows.stop, rows.start + bins)) for rows in shown]
    valid = np.stack([found.valid_NU[rows] for rows in shown])
    traces = {
        "trials": np.where(valid, np.stack([found.counts_NU[rows] for rows in shown]) * rate_hz, np.nan),
        "predicted": np.mean([found.predicted_NU[rows] for rows in shown], axis=0) * rate_hz,
    }
    if found.ln_NU is not None:
        traces["ln"] = np.mean([found.ln_NU[rows] for rows in shown], axis=0) * rate_hz
    return traces


def draw_units(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """The pictures of all units of all recordings."""
    of = columns_of_rows(rows)

    def known(name: str) -> bool:
        return bool((~np.isnan(of[name])).any())

    reliable = np.where(np.nan_to_num(of["signal_to_error"]) > RELIABLE, 1.0, np.nan)
    normalised = {"twin": of["normalised_corr"] * reliable, "LN": of["ln_normalised_corr"] * reliable}
    pictures.distributions(
        folder / "distribution.png",
        panels={
            "bits per spike": {"twin": of["bps"], "LN": of["ln_bps"], "true rate": of["truth_bps"]},
            "correlation, single trials": {"twin": of["corr"], "LN": of["ln_corr"]},
            "normalised correlation": normalised,
        },
    )
    if known("ln_bps"):
        pictures.twin_against_ln(
            folder / "twin_against_ln.png",
            twin_bps=of["bps"],
            ln_bps=of["ln_bps"],
            recording=[row["recording"] for row in rows],
        )
    if known("border_px"):
        fraction = {"part of the knowable information": of["knowable_fraction"]} if known("knowable_fraction") else {}
        pictures.performance(
            folder / "performance.png",
            against={
                "readout's distance from the frame's border (px)": of["border_px"],
                "mean rate (Hz)": of["mean_rate_hz"],
            },
            scores={"bits per spike": of["bps"]} | fraction,
        )
    if known("center_error_px"):
        pictures.center_errors(
            folder / "center_errors.png",
            error_px=of["center_error_px"],
            ln_error_px=of["ln_center_error_px"] if known("ln_center_error_px") else None,
            knowable_fraction=of["knowable_fraction"],
            near_px=NEAR_PX,
            half=HALF,
        )
    if controls := controls_of(of):
        pictures.behavior_share(
            folder / "behavior_share.png", bps=of["bps"], controls={name: of[f"{name}_bps"] for name in controls}
        )


CAPTIONS = {  # in the order of the report, by how a picture's name begins
    "distribution": "The distribution of each score over units; the mark is its median. Of the normalised "
    "correlation, units whose signal is certain enough.",
    "twin_against_ln": "Bits per spike of the twin against the linear-nonlinear model fitted to the same trials,"
    " a point a unit.",
    "performance": "Scores by how far a unit's readout lies from the frame's border, and by its rate; the "
    "line is a running median.",
    "center_errors": "How far the readouts' centres lie from the true receptive fields' centres, and that "
    "error beside what the twin knows of each unit.",
    "behavior_share": "What each unit loses where another behaviour stands in for the animal's.",
    "rasters": "The best and the worst units: spikes in each repeat, and the average over repeats, "
    "measured and predicted.",
    "repeats": "A good, a middling and a poor unit: averages over repeats, measured (with their standard"
    " error) and predicted.",
    "rates": "A good, a middling and a poor unit in single trials: what was measured, smoothed, and "
    "what was predicted.",
    "receptive_fields": "The readouts' Gaussians on a frame of the stimulus.",
}


def report_section(summary: dict[str, Any], folder: Path, command: str) -> Section:
    """What an evaluation adds to a twin's report, from its ``summary.json`` and the pictures in its folder."""
    scores = {
        "units": "units",
        "units_silent": "silent",
        "bps_mean": "bits per spike",
        "ln_bps_mean": "LN's",
        "truth_bps_mean": "knowable",
        "knowable_fraction": "fraction known",
        "ln_knowable_fraction": "LN's",
        "corr_mean": "correlation",
        "ln_corr_mean": "LN's",
    }
    repeated = {
        "corr_to_average_mean": "correlation to average",
        "ln_corr_to_average_mean": "LN's",
        "explainable_variance_mean": "explainable variance",
        "normalised_corr_mean": "normalised correlation",
        "ln_normalised_corr_mean": "LN's",
        "units_reliable": "over units",
    }
    places = {
        "center_error_px_median": "centre's error, median (px)",
        "ln_center_error_px_median": "LN's",
        "units_half_known": f"units with {HALF:.0%} known",
        "units_half_known_near": f"of these within {NEAR_PX:g} px",
    }
    of = [*summary["recordings"].items(), ("all", summary)]

    def table(title: str, shown: dict[str, str]) -> Table:
        # A column of which nothing is known, such as the truth of what was not simulated, is left out.
        shown = {key: name for key, name in shown.items() if any(own[key] is not None for _, own in of)}
        return Table(title, ("recording", *shown.values()), [(name, *(own[key] for key in shown)) for name, own in of])

    text = [
        f"{summary['bins']:,} bins of the {summary['split']} split were predicted, each once: those after the first "
        f"{summary['burn_in']} of each trial. "
        + {
            "test": "Training never read this split.",
            "val": "This split chose the checkpoint, so its scores are too good.",
            "train": "The twin was trained on this split.",
        }[summary["split"]]
    ]
    if summary["left_out"]:
        text.append(
            "Left out of every number, because no trial of this split is longer than the burn-in "
            f"(data.evaluation_burn_in): {', '.join(summary['left_out'])}."
        )
    if summary["calcium"]:
        text.append(
            f"In {', '.join(summary['calcium'])} responses are a calcium signal, not spikes: bits per spike are the "
            "same formula on that signal, Hz the signal a second. They rank models of one recording; across "
            "recordings, or beside spikes, compare correlations."
        )
    tables = [table("Means over units", scores)]
    if summary["corr_to_average_mean"] is not None:
        tables.append(table("On repeated stimuli, means over units", repeated))
    if summary["center_error_px_median"] is not None:
        tables.append(table("Where the readouts look, beside the simulation's truth", places))
    if summary["behavior"]:
        shares = {"the animal's own": summary, **summary["behavior"]}
        rows = [
            (name.replace("_", " "), own["bps_mean"], own["corr_mean"], own.get("bps_lost_mean"))
            for name, own in shares.items()
        ]
        columns = ("behaviour", "bits per spike", "correlation", "bits per spike lost")
        tables.append(Table("Behaviour's share, means over units", columns, rows))
    methods = [(name, method) for name, method in METHODS.items() if name != "behavior" or summary["behavior"]]
    notes = [Table("How the numbers are defined", ("number", "method"), methods)]
    shown = list(summary["recordings"])[:RECORDINGS_SHOWN]
    if (more := len(summary["recordings"]) - len(shown)) > 0:
        text.append(f"Pictures of the first {len(shown)} recordings follow; those of {more} more are in {folder}.")
    drawn = [
        (path, caption)
        for name, caption in CAPTIONS.items()
        for path in [folder / f"{name}.png", *(folder / f"{name}_{file_name(recording)}.png" for recording in shown)]
        if path.is_file()
    ]
    return Section("evaluate", "How well it predicts", text, tables, drawn, command, notes)
