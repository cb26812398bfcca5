"""Evaluate a twin, and the LN baseline beside it, on a split: units.csv, summary.json, pictures.

Shape letters: N scored bins of a recording, B clips, T bins of a clip, U units.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from einops import rearrange
from rich.progress import track

from vivit_core.analysis import pictures
from vivit_core.analysis.report import Section, Table
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording import Recording
from vivit_core.models.baselines import LN
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.training.metrics import (
    Repeats,
    UnitScores,
    fraction_of_knowable,
    mean_known,
    median_known,
    repeat_scores,
    unit_scores,
)

CLIP_S = 5.0  # s of a trial shown in the pictures
QUALITIES = {"good": 0.9, "middling": 0.5, "poor": 0.1}  # quantiles of bits per spike of the units that are drawn


@dataclass
class Predictions:
    """What was measured and predicted in a split of one recording, in the order of time."""

    bins_N: np.ndarray  # frames of the recording
    counts_NU: np.ndarray
    valid_NU: np.ndarray
    predicted_NU: np.ndarray  # expected counts a bin, float32
    ln_NU: np.ndarray | None


def evaluate(
    twin: Twin | LN,
    datamodule: RecordingsDataModule,
    *,
    ln: LN | None,
    split: Literal["train", "val", "test"] = "test",
    device: str = "cpu",
    out: Path,
    checkpoint: str,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a twin on every bin of a split, burn-in left out; write ``units.csv``, ``summary.json``, ``pictures/``.

    Parameters
    ----------
    twin : a twin, or an LN model in its place.
    datamodule : set up; its recordings are among those the twin knows, matched by id, their units by unit id.
    ln : the baseline; None leaves its values empty.
    split : the split to score.
    device : where to compute, in float32.
    out : folder for the files.
    checkpoint : where the twin came from, for the summary.
    progress : show a bar.

    Returns
    -------
    dict
        The content of ``summary.json``; a number that is not defined is None.

    Raises
    ------
    ValueError
        Where a model does not know a recording or some of its units.
    """
    predictions = predict_split(twin, datamodule, ln=ln, split=split, device=device, progress=progress)
    rows: list[dict[str, Any]] = []
    recordings: dict[str, Any] = {}
    by_id = {
        spec.recording_id: recording for recording, spec in zip(datamodule.recordings, datamodule.specs, strict=True)
    }
    for recording_id, found in predictions.items():
        own = score_recording(by_id[recording_id], recording_id, found, split)
        recordings[recording_id] = summarise(own, len(found.bins_N))
        rows += own
    causal = bool(getattr(twin, "causal", True)) and all(spec.behavior_causal for spec in datamodule.specs)
    common = {"burn_in": datamodule.evaluation_burn_in, "causal": causal, "checkpoint": checkpoint, "split": split}
    bins = sum(len(found.bins_N) for found in predictions.values())
    summary = summarise(rows, bins) | common | {"recordings": {name: s | common for name, s in recordings.items()}}

    out.mkdir(parents=True, exist_ok=True)
    with (out / "units.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {k: "" if isinstance(v, float) and math.isnan(v) else v for k, v in row.items()} for row in rows
        )
    summary = without_nan(summary)
    (out / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
    draw(twin, by_id, predictions, rows, split, out / "pictures")
    return summary


@torch.no_grad()
def predict_split(
    twin: Twin | LN,
    datamodule: RecordingsDataModule,
    *,
    ln: LN | None,
    split: Literal["train", "val", "test"],
    device: str,
    progress: bool,
) -> dict[str, Predictions]:
    """Run the models over a split; for each recording, every scored bin once, in the order of time."""
    models: list[Twin | LN] = [twin] if ln is None else [twin, ln]
    columns = {
        spec.recording_id: [columns_of(model, spec.recording_id, spec.unit_ids) for model in models]
        for spec in datamodule.specs
    }
    training = [model.training for model in models]
    for model in models:
        model.to(device).eval()
    parts: dict[str, list[tuple[np.ndarray, ...]]] = {}
    loader = datamodule.evaluation_dataloader(split)
    for batch in track(loader, f"evaluate on {split}", total=len(loader), disable=not progress):
        batch = {name: to_device(clips, device) for name, clips in batch.items()}
        outputs = [model(batch) for model in models]
        for recording_id, clips in batch.items():
            score_BT = clips["score"]
            clip_bins = score_BT.shape[1]
            start_B1 = rearrange(clips["start"], "b -> b 1")
            bins_BT = start_B1 + torch.arange(clip_bins, device=start_B1.device)
            collected = [bins_BT[score_BT], clips["counts"][score_BT], clips["valid"][score_BT]]
            for model, output, own in zip(models, outputs, columns[recording_id], strict=True):
                counts = output[recording_id].float()[..., own]
                collected.append(counts[score_BT] if model.predict == "all" else newest(counts, score_BT, recording_id))
            parts.setdefault(recording_id, []).append(tuple(x.cpu().numpy() for x in collected))
    for model, was in zip(models, training, strict=True):
        model.train(was)
    return {name: assembled(pieces) for name, pieces in parts.items()}


def to_device(clips: Clips, device: str) -> Clips:
    values: dict[str, Any] = dict(clips)
    return cast(Clips, {name: value.to(device) for name, value in values.items()})


def newest(counts_BU: torch.Tensor, score_BT: torch.Tensor, recording_id: str) -> torch.Tensor:
    """The clips' newest bins, where they are scored; a model with ``predict="last"`` has no others."""
    if score_BT[:, :-1].any():
        raise ValueError(
            f"recording {recording_id}: this model predicts a clip's newest bin alone (predict=last), "
            "but clips are scored on more bins; set data.evaluation_burn_in to data.evaluation_length - 1"
        )
    return counts_BU[score_BT[:, -1]]


def columns_of(model: Twin | LN, recording_id: str, unit_ids: Sequence[str]) -> list[int]:
    """Where a recording's units stand among those the model knows under its id."""
    if recording_id not in model.specs:
        raise ValueError(f"the model knows no recording {recording_id!r}; it knows {list(model.specs)}")
    place = {unit: i for i, unit in enumerate(model.specs[recording_id].unit_ids)}
    missing = [unit for unit in unit_ids if unit not in place]
    if missing:
        raise ValueError(
            f"recording {recording_id}: the model does not know {len(missing)} of its {len(unit_ids)} units: "
            f"{', '.join(missing[:8])}{' …' if len(missing) > 8 else ''}; "
            "evaluate a recording of the units it was trained on"
        )
    return [place[unit] for unit in unit_ids]


def assembled(pieces: Sequence[tuple[np.ndarray, ...]]) -> Predictions:
    """One time line from the pieces of all batches."""
    bins_N, *values = (np.concatenate(column) for column in zip(*pieces, strict=True))
    order = np.argsort(bins_N, kind="stable")
    assert (np.diff(bins_N[order]) > 0).all(), "a bin was scored twice"
    counts, valid, predicted, *rest = (value[order] for value in values)
    return Predictions(bins_N[order], counts, valid, predicted, rest[0] if rest else None)


def score_recording(recording: Recording, recording_id: str, found: Predictions, split: str) -> list[dict[str, Any]]:
    """A row for each unit of ``units.csv``."""
    units = found.counts_NU.shape[1]
    unknown = np.full(units, np.nan)
    own = unit_scores(found.predicted_NU, found.counts_NU, found.valid_NU)
    ln: UnitScores | None = None if found.ln_NU is None else unit_scores(found.ln_NU, found.counts_NU, found.valid_NU)
    truth_bps = unknown
    if recording.info.has_truth:
        truth_NU = np.concatenate([recording.truth("rate", a, b) for a, b in runs(found.bins_N)])
        truth_bps = unit_scores(truth_NU.astype(np.float32), found.counts_NU, found.valid_NU).bps
    stimuli = repeats(recording, found, split)
    repeated = repeat_scores(stimuli) if stimuli else None
    with np.errstate(divide="ignore", invalid="ignore"):
        mean_rate_hz = own.spikes / own.bins * recording.info.frame_rate_hz
        knowable = np.where(truth_bps > 0, own.bps / truth_bps, np.nan)
    columns = {
        "bins": own.bins.astype(int),
        "spikes": own.spikes,
        "mean_rate_hz": mean_rate_hz,
        "bps": own.bps,
        "corr": own.correlation,
        "ln_bps": unknown if ln is None else ln.bps,
        "ln_corr": unknown if ln is None else ln.correlation,
        "truth_bps": truth_bps,
        "knowable_fraction": knowable,
        "corr_to_average": unknown if repeated is None else repeated.correlation_to_average,
        "explainable_variance": unknown if repeated is None else repeated.explainable_variance,
        "normalised_corr": unknown if repeated is None else repeated.normalised_correlation,
    }
    return [
        {"recording": recording_id, "unit": unit} | {name: column[i].item() for name, column in columns.items()}
        for i, unit in enumerate(recording.info.unit_ids)
    ]


def runs(bins_N: np.ndarray) -> list[tuple[int, int]]:
    """Half open ranges of consecutive bins."""
    breaks = np.flatnonzero(np.diff(bins_N) > 1) + 1
    return [(int(part[0]), int(part[-1]) + 1) for part in np.split(bins_N, breaks)]


def repeats(recording: Recording, found: Predictions, split: str) -> list[Repeats]:
    """The scored bins of stimuli that were shown more than once in the split."""
    trials = recording.info.trials
    by_stimulus: dict[str, list[tuple[int, int]]] = {}
    for start, stop, stimulus, own in zip(trials.start, trials.stop, trials.stimulus_id, trials.split, strict=True):
        first, last = np.searchsorted(found.bins_N, [start, stop])
        if own == split and last > first:
            by_stimulus.setdefault(str(stimulus), []).append((int(first), int(last)))
    stimuli = []
    for shown in by_stimulus.values():
        if len(shown) < 2:
            continue
        # Burn-in is left out of each trial alike, so rows line up; the rest of a longer showing has no partner.
        bins = min(last - first for first, last in shown)
        columns = (
            np.stack([x[first : first + bins] for first, _ in shown])
            for x in (found.predicted_NU, found.counts_NU, found.valid_NU)
        )
        stimuli.append(Repeats(*columns))
    return stimuli


def summarise(rows: Sequence[dict[str, Any]], bins: int) -> dict[str, Any]:
    """Means and medians over units for which a score is defined."""
    of = {
        name: np.array([row[name] for row in rows], np.float64) for name in rows[0] if name not in ("recording", "unit")
    }
    return {
        "bps_mean": mean_known(of["bps"]),
        "bps_median": median_known(of["bps"]),
        "corr_mean": mean_known(of["corr"]),
        "corr_median": median_known(of["corr"]),
        "ln_bps_mean": mean_known(of["ln_bps"]),
        "ln_bps_median": median_known(of["ln_bps"]),
        "ln_corr_mean": mean_known(of["ln_corr"]),
        "ln_corr_median": median_known(of["ln_corr"]),
        "truth_bps_mean": mean_known(of["truth_bps"]),
        "knowable_fraction": fraction_of_knowable(of["bps"], of["truth_bps"]),
        "ln_knowable_fraction": fraction_of_knowable(of["ln_bps"], of["truth_bps"]),
        "corr_to_average_mean": mean_known(of["corr_to_average"]),
        "explainable_variance_mean": mean_known(of["explainable_variance"]),
        "normalised_corr_mean": mean_known(of["normalised_corr"]),
        "units": len(rows),
        "units_silent": int((of["spikes"] == 0).sum()),
        "bins": bins,
    }


def without_nan(value: Any) -> Any:
    """The same with None for each NaN: JSON knows none."""
    if isinstance(value, dict):
        return {key: without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def draw(
    twin: Twin | LN,
    recordings: dict[str, Recording],
    predictions: dict[str, Predictions],
    rows: Sequence[dict[str, Any]],
    split: str,
    folder: Path,
) -> None:
    """The pictures of an evaluation."""
    for recording_id, found in predictions.items():
        recording = recordings[recording_id]
        own = [row for row in rows if row["recording"] == recording_id]
        first, last = runs(found.bins_N)[0]
        rate_hz = recording.info.frame_rate_hz
        shown = slice(0, min(last - first, round(CLIP_S * rate_hz)))
        order = [i for i in np.argsort([row["bps"] for row in own]) if not math.isnan(own[i]["bps"])]
        if order:
            chosen = {quality: order[round(q * (len(order) - 1))] for quality, q in QUALITIES.items()}
            pictures.rates(
                folder / f"rates_{recording_id}.png",
                times_s=np.arange(shown.stop) / rate_hz,
                measured_hz=found.counts_NU[shown][:, list(chosen.values())] * rate_hz,
                predicted_hz=found.predicted_NU[shown][:, list(chosen.values())] * rate_hz,
                ln_hz=None if found.ln_NU is None else found.ln_NU[shown][:, list(chosen.values())] * rate_hz,
                titles=[
                    f"{quality}: unit {own[i]['unit']}, {own[i]['bps']:.2f} bits per spike"
                    for quality, i in chosen.items()
                ],
                title=f"{recording_id}: a clip of the {split} split",
            )
        if isinstance(twin, Twin):
            gaussians = twin.readout_gaussians(recording_id)
            frame = recording.frames(first, first + 1)[:, 0].mean(0)
            # Gaussians live on the twin's common frame, which a recording's own frames may have been resized to.
            scale = np.array([frame.shape[1] / twin.frame_size[1], frame.shape[0] / twin.frame_size[0]])
            pictures.receptive_fields(
                folder / f"receptive_fields_{recording_id}.png",
                frame=frame,
                mean_px=(gaussians["mean_px"] + 0.5) * scale - 0.5,
                std_px=gaussians["std_px"] * scale.mean(),
                angle_deg=gaussians["angle_deg"],
                title=f"{recording_id}: where the readouts look",
            )
    if any(found.ln_NU is not None for found in predictions.values()):
        pictures.twin_against_ln(
            folder / "twin_against_ln.png",
            twin_bps=np.array([row["bps"] for row in rows]),
            ln_bps=np.array([row["ln_bps"] for row in rows]),
            recording=[row["recording"] for row in rows],
        )


def report_section(summary: dict[str, Any], folder: Path, command: str) -> Section:
    """What an evaluation adds to a twin's report, from its ``summary.json`` and the pictures in its folder."""
    columns = {
        "units": "units",
        "units_silent": "silent",
        "bps_mean": "bits per spike",
        "ln_bps_mean": "LN's",
        "knowable_fraction": "of the knowable",
        "corr_mean": "correlation",
        "ln_corr_mean": "LN's",
    }
    rows = [(name, *(of[key] for key in columns)) for name, of in [*summary["recordings"].items(), ("all", summary)]]
    text = [
        f"{summary['bins']:,} bins of the {summary['split']} split were predicted, each once, "
        f"those after the first {summary['burn_in']} of a trial."
    ]
    drawn = [(path, path.stem.replace("_", " ")) for path in sorted((folder / "pictures").glob("*.png"))]
    table = Table("Means over units", ("recording", *columns.values()), rows)
    return Section("evaluate", "How well it predicts", text, [table], drawn, command)
