"""Chooses the units and trials that an evaluation draws, and draws them.

Shape letters: N scored bins of a recording, U units.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.evaluate import plots as evaluate_plots
from vivit_core.analysis.evaluate.numbers import controls_of, repeated_rows
from vivit_core.analysis.evaluate.responses import CLIP_S, over_repeats
from vivit_core.analysis.predict import Predictions, scorer_of
from vivit_core.analysis.tables import columns_of_rows
from vivit_core.analysis.truth import HALF_KNOWN, NEAR_PX
from vivit_core.data.recording.reader import Recording, runs
from vivit_core.metrics.calibration import probability_integral
from vivit_core.metrics.repeats import RELIABLE
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.models.predictor import Predictor
from vivit_core.names import file_name, short
from vivit_core.plotting import rates as plotting_rates

QUALITIES = {"good": 0.9, "middling": 0.5, "poor": 0.1}  # quantiles of bits per spike of the units that are drawn


EXTREMES = 2  # best and worst units whose rasters are drawn


STIMULI = 3  # repeated stimuli whose averages are drawn


CLASSES = 10  # of predicted probability, in the picture of the calibration


MOST_COUNTS = 200_000  # of a recording, evenly spaced over its bins, whose predicted probability is computed


RECORDINGS_SHOWN = 4  # recordings whose own pictures stand in the report


def draw_recording(
    twin: Predictor,
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
        plotting_rates.rates(
            folder / f"rates_{name}.png",
            times_s=np.arange(shown.stop) / rate_hz,
            measured_hz=np.where(found.valid_NU, found.counts_NU, np.nan)[shown][:, units] * rate_hz,
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
        evaluate_plots.rasters(
            folder / f"rasters_{name}.png",
            kind=recording.info.kind,
            bin_s=1.0 / rate_hz,
            trials_hz=most["trials"][..., extremes],
            predicted_hz=most["predicted"][:, extremes],
            ln_hz=most["ln"][:, extremes] if "ln" in most else None,
            titles=[f"unit {short(rows[i]['unit'])}: {rows[i]['bps']:.2f} bits per spike" for i in extremes],
            title=f"{shown_id}: best and worst units, repeats of stimulus {short(next(iter(traces)))}",
        )
        evaluate_plots.averages(
            folder / f"repeats_{name}.png",
            bin_s=1.0 / rate_hz,
            trials_hz={name: trace["trials"][..., units] for name, trace in traces.items()},
            predicted_hz={name: trace["predicted"][:, units] for name, trace in traces.items()},
            ln_hz={name: trace["ln"][:, units] for name, trace in traces.items() if "ln" in trace},
            titles=titles,
            title=f"{shown_id}: averages over repeats",
        )
    if (share := calibration_of(twin, recording, recording_id, found)) is not None:
        evaluate_plots.calibration(
            folder / f"calibration_{name}.png", share=share, title=f"{shown_id}: do counts scatter as predicted?"
        )
    if (gaussians := twin.gaussians_px(recording_id)) is not None:
        evaluate_plots.receptive_fields(
            folder / f"receptive_fields_{name}.png",
            frame=recording.frames(first, first + 1)[:, 0].mean(0),
            **gaussians,
            title=f"{shown_id}: where the readouts look",
        )


def calibration_of(twin: Predictor, recording: Recording, recording_id: str, found: Predictions) -> np.ndarray | None:
    """The share of counts in each class of predicted probability; None where the twin's likelihood tells none, or
    nothing was counted."""
    every = slice(None, None, -(-found.counts_NU.size // MOST_COUNTS))
    valid, counts = found.valid_NU[every], found.counts_NU[every]
    likelihood = scorer_of(twin, recording_id, recording.info.unit_ids).likelihood
    said = likelihood.probabilities(found.predicted_NU[every].astype(np.float64), counts)
    if said is None or recording.info.kind not in likelihood.made_for or not valid.any():
        return None
    below, up_to = (np.broadcast_to(p, counts.shape)[valid] for p in said)
    return probability_integral(below, up_to, CLASSES)


def draw_units(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """The pictures of all units of all recordings."""
    of = columns_of_rows(rows)

    def known(name: str) -> bool:
        return bool((~np.isnan(of[name])).any())

    reliable = np.where(np.nan_to_num(of["signal_to_error"]) > RELIABLE, 1.0, np.nan)
    normalized = {"twin": of["normalized_corr"] * reliable, "LN": of["ln_normalized_corr"] * reliable}
    panels = {metric.title: {"twin": of[metric.name], "LN": of[f"ln_{metric.name}"]} for metric in all_metrics()}
    panels["bits per spike"]["true rate"] = of["truth_bps"]
    evaluate_plots.distributions(folder / "distribution.png", panels=panels | {"normalized correlation": normalized})
    if known("ln_bps"):
        evaluate_plots.twin_against_ln(
            folder / "twin_against_ln.png",
            twin_bps=of["bps"],
            ln_bps=of["ln_bps"],
            recording=[row["recording"] for row in rows],
        )
    if known("border_px"):
        fraction = {"share of the oracle": of["knowable_fraction"]} if known("knowable_fraction") else {}
        evaluate_plots.performance(
            folder / "performance.png",
            against={
                "readout's distance from the frame's border (px)": of["border_px"],
                "mean rate (Hz)": of["mean_rate_hz"],
            },
            scores={"bits per spike": of["bps"]} | fraction,
        )
    if known("center_error_px"):
        evaluate_plots.center_errors(
            folder / "center_errors.png",
            error_px=of["center_error_px"],
            ln_error_px=of["ln_center_error_px"] if known("ln_center_error_px") else None,
            knowable_fraction=of["knowable_fraction"],
            near_px=NEAR_PX,
            half=HALF_KNOWN,
        )
    if controls := controls_of(of):
        evaluate_plots.behavior_share(
            folder / "behavior_share.png", bps=of["bps"], controls={name: of[f"{name}_bps"] for name in controls}
        )
