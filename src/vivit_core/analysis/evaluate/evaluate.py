"""The whole evaluation: predict, score, write tables, draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.attention.blocks import attending_core
from vivit_core.analysis.attention.lesions import Lesioned, lesions
from vivit_core.analysis.behavior_controls import behavior_controls, refuse_blind
from vivit_core.analysis.bootstrap import FEWEST, INTERVAL, Sums, enough_pieces, intervals, resampled
from vivit_core.analysis.evaluate.attention import attention_sums, summarize_attention
from vivit_core.analysis.evaluate.context import PIECE_S, RESAMPLES, context_sums, summarize_context, sums_of
from vivit_core.analysis.evaluate.draw import draw_recording, draw_units
from vivit_core.analysis.evaluate.numbers import by_subject, score_recording, summarize
from vivit_core.analysis.evaluate.pairs import noise_correlations
from vivit_core.analysis.evaluate.responses import responses_of
from vivit_core.analysis.predict import (
    Predictions,
    Split,
    columns_of,
    predict_split,
    refuse_broken,
)
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import ABOUT
from vivit_core.data.recording.reader import Recording
from vivit_core.metrics.averages import mean_known
from vivit_core.metrics.repeats import RELIABLE
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import weights_of
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.system.tables import write_table

METHODS = {  # what units.csv and summary.json hold, besides the metrics
    "weights": "a hash of the weights that were scored; task=publish knows by it whose scores these are.",
    "bps_low": f"and bps_high: where {INTERVAL[1] - INTERVAL[0]:g} % of {RESAMPLES} resamplings of the recording's "
    f"stimuli put a unit's bits per spike, in at least {FEWEST} pieces of at most {PIECE_S:g} s, repeats together. A "
    f"unit that spikes in fewer than {FEWEST} pieces has none.",
    "local_bps": "the same of the best rate that an observer could say who knows the unit's own field, and not its "
    "context; in simulated recordings with context alone.",
    "contextual_fraction": "(bps − local_bps) / (truth_bps − local_bps): the part of context's information that is "
    "found. Of several units, the ratio of the sums over the units with context. Its interval holds "
    f"{INTERVAL[1] - INTERVAL[0]:g} % of {RESAMPLES} resamplings of each recording's stimuli, in at least {FEWEST} "
    f"pieces of at most {PIECE_S:g} s, repeats together; recordings that show the same frames are drawn alike.",
    "truth_bps": "the oracle: bits per spike of the simulation's true rate, without its shared noise.",
    "knowable_fraction": "of a unit bps / truth_bps; in means Σ bps / Σ truth_bps over units with a positive "
    "truth_bps.",
    "corr_to_average": "Pearson correlation of the mean prediction and the mean count over repeats, over bins "
    "with at least two valid repeats. Few repeats leave noise in the mean, which lowers it. 0 where the prediction is "
    "constant.",
    "explainable_variance": "S / (S + mean s²), S the signal power: the covariance over bins of counts in different "
    "repeats of the stimulus, unbiased for any number of repeats and noise of any speed (for one stimulus and equal "
    "numbers of repeats that of Sahani and Linden 2003); s² the unbiased variance over repeats.",
    "normalized_corr": "CC_norm of Schoppe et al. 2016: covariance of prediction and count in different repeats over "
    "√(the prediction's own · S), so that neither few repeats lower it nor behavior that a repeat's prediction and "
    "count share raises it. None where S ≤ 0, 0 where the prediction is constant. Dividing by the root of a noisy S "
    f"biases it upwards, so means are over the units whose S is more than {RELIABLE:g} standard errors above zero "
    "(signal_to_error).",
    "center_error_px": "distance of the readout's center from the true receptive field's, in pixels of the "
    "recording's own frame; LN's is the center of gravity of its squared spatial filter.",
    "border_px": "distance of the readout's center from the nearest border of the recording's own frame, in pixels.",
    "bps_mean_of_subjects": "the mean over subjects of their bps_mean, so that one with many units counts no more. "
    "None where no recording names its subject.",
    "trials": "those of the split that have a scored bin; trials_left_out counts those that data.most_trials left out.",
    "missing_behavior_fraction": "share of the scored bins' numbers of behavior that are missing (NaN) in the file; "
    "their mean over the training trials stands in.",
    "attention": "the same bins predicted without what attention finds. held: the blocks' output at its mean over "
    "a batch of clips of each recording, their times and places. unmixed: the same of each attention's output, so that "
    "the blocks know of each token by itself. uniform: every token attends alike to all that it may attend to. "
    "own_place: to no other place. newest: to no earlier time.",
    "history": "the same bins predicted where the counts of earlier bins of the trial are observed, of the own unit or "
    "of all of the recording's units, as history.observed says. The bin itself and later ones never are. All other "
    "scores are without (observed: none), as LN's and the oracle's are. What the stimulus tells and what neurons tell "
    "of each other are two questions: compare like with like.",
    "noise_correlations": "of a twin with model/latent, over pairs of units of a recording: counts less the "
    "prediction, summed over windows of window_bins, in which the latent stands still, and correlated (measured); the "
    "same as the latent's covariance and the predicted rates say (predicted). correlation is theirs over pairs, and of "
    "several recordings the mean. joint_bits: bits per spike that all counts cost less together than one by one.",
    "context_gain": "bits per spike that are lost where nothing is mixed (unmixed): what tokens take in of each other, "
    "and not what blocks know of each by itself. Intervals are those of contextual_fraction.",
    "behavior": "the same bins predicted with another behavior in the place of the animal's. shuffled: "
    "the time course of another trial, of another stimulus where there is one. none: the "
    "training trials' mean. frozen_gaze: eye_ behaviors held at their trial's mean, their "
    "velocities zero. Frames stay as they were: where they move with the gaze, the model "
    "still sees the movement.",
}


def methods() -> dict[str, str]:
    """How each number is defined."""
    return {metric.name: metric.method for metric in all_metrics()} | METHODS


def evaluate(
    twin: Predictor,
    datamodule: RecordingsDataModule,
    *,
    ln: Predictor | None,
    split: Split = "test",
    device: str = "cpu",
    out: Path,
    checkpoint: str,
    average: bool = False,
    with_behavior_controls: bool = False,
    with_attention_controls: bool = False,
    seed: int = 0,
    progress: bool = True,
) -> dict[str, Any]:
    """Score a twin on every bin of a split, burn-in left out; write ``units.csv``, ``summary.json``, ``responses.npz``
    (:func:`responses_of`) and ``pictures/``.

    Memory holds one recording's predictions at a time.

    Parameters
    ----------
    twin : the model: a twin, or another predictor in its place.
    datamodule : set up; its recordings are among those the twin knows, matched by id, their units by unit id.
    ln : the baseline; None leaves its values empty.
    split : the split to score.
    device : where to compute, in float32.
    out : folder for the files.
    checkpoint : where the twin came from, for the summary.
    average : whether it has that checkpoint's averaged weights, for the summary.
    with_behavior_controls : predict with other behaviors too, see :func:`behavior_controls`.
    with_attention_controls : predict without what attention finds too, see :mod:`attention.lesions`.
    seed : of the behavior that is shuffled across trials, and of the intervals' resampling.
    progress : show a bar.

    Returns
    -------
    dict
        The content of ``summary.json``; a number that is not defined is None.

    Raises
    ------
    ValueError
        Where a model does not know a recording or some of its units, predicts what is no number, sees no behavior
        that could be controlled, or has no attention.
    """
    lesioned = lesions_of(twin, datamodule, split, device) if with_attention_controls else {}
    controls = {}
    if with_behavior_controls:
        refuse_blind(twin)
        controls = behavior_controls(datamodule, split, seed)
    rows: list[dict[str, Any]] = []
    rows_of: dict[str, list[dict[str, Any]]] = {}
    sums: dict[str, dict[str, Sums]] = {}
    attention: dict[str, dict[str, Sums]] = {}
    responses: dict[str, np.ndarray] = {}
    recordings: dict[str, Any] = {}
    by_id = datamodule.by_id
    bins = 0
    found = predict_split(
        twin,
        datamodule,
        ln=ln,
        split=split,
        device=device,
        progress=progress,
        controls=controls,
        lesions=lesioned,
        observing=twin.observes is not None,
    )
    missing = 0.0
    for recording_id, own in found:
        refuse_broken(own, recording_id, f"checkpoint {checkpoint}")
        recording = by_id[recording_id]
        scored = score_recording(twin, ln, recording, recording_id, own, split)
        add_intervals(scored, twin, recording, own, split, datamodule.evaluation_burn_in, seed)
        responses |= responses_of(twin, recording, recording_id, own, split)
        shares = {"missing_behavior_fraction": own.missing_behavior}
        start = recording.info.trials.of(split).start
        trials = {
            "trials": len(np.unique(np.searchsorted(start, own.bins_N, side="right"))),
            "trials_left_out": recording.trials_left_out(split),
        }
        recordings[recording_id] = summarize(scored, len(own.bins_N)) | shares | trials
        recordings[recording_id]["noise_correlations"] = noise_correlations(twin, recording, recording_id, own)
        missing += own.missing_behavior * len(own.bins_N)
        draw_recording(twin, recording, recording_id, own, scored, split, out / "pictures")
        if (own_sums := context_sums(twin, recording, own, split, datamodule.evaluation_burn_in)) is not None:
            sums[recording_id] = own_sums
        attention[recording_id] = attention_sums(twin, recording, own, split, datamodule.evaluation_burn_in)
        rows_of[recording_id] = scored
        rows += scored
        bins += len(own.bins_N)
    of_all, of_each = summarize_context(rows_of, sums, seed)
    attention_of_all, attention_of_each = summarize_attention(rows_of, attention, seed)
    recordings = {name: own | of_each[name] | attention_of_each[name] for name, own in recordings.items()}
    causal = twin.causal and all(spec.behavior_causal for spec in datamodule.specs)
    likelihood = twin.likelihood(datamodule.specs[0].recording_id)
    common = {
        "burn_in": datamodule.evaluation_burn_in,
        "causal": causal,
        "checkpoint": checkpoint,
        "average": average,
        "split": split,
        "likelihood": type(likelihood).__name__,
        "event": likelihood.event,
        "observed": "none",
    }
    summary = summarize(rows, bins) | of_all | attention_of_all | common | {"weights": weights_of(twin)}
    specs = {spec.recording_id: spec for spec in datamodule.specs}
    summary["recordings"] = {
        name: own | common | {"about": {word: getattr(specs[name], word) for word in ABOUT}}
        for name, own in recordings.items()
    }
    summary["subjects"] = by_subject(rows_of, {name: spec.subject for name, spec in specs.items()})
    summary["bps_mean_of_subjects"] = mean_known(np.array([own["bps_mean"] for own in summary["subjects"].values()]))
    if together := [pairs["correlation"] for own in recordings.values() if (pairs := own["noise_correlations"])]:
        summary["noise_correlations"] = {"correlation": mean_known(np.array(together))}
    else:
        summary["noise_correlations"] = None
    for own in (summary, *summary["recordings"].values()):
        own["history"] = own["history"] and {"observed": twin.observes} | own["history"]
    for name in ("trials", "trials_left_out"):
        summary[name] = sum(own[name] for own in recordings.values())
    summary["missing_behavior_fraction"] = missing / max(1, bins)
    summary["left_out"] = [name for name in by_id if name not in recordings]
    summary["calcium"] = [name for name in recordings if by_id[name].info.kind == "calcium"]
    write_table(out / "units.csv", rows)
    write_arrays(out / "responses.npz", responses)
    summary = write_summary(out / "summary.json", summary | {"methods": methods()})
    draw_units(rows, out / "pictures")
    return summary


def add_intervals(
    rows: list[dict[str, Any]],
    twin: Predictor,
    recording: Recording,
    found: Predictions,
    split: Split,
    burn_in: int,
    seed: int,
) -> None:
    """Bound the bits per spike of a recording's units, in their rows; NaN for a unit that spikes in too few pieces."""
    sums = sums_of({"twin": found.predicted_NU}, twin, recording, found, split, burn_in)["twin"]
    drawn_RMU = resampled({"twin": {"": sums}}, RESAMPLES, seed, progress=False)["twin"]
    low_U, high_U = intervals(drawn_RMU[:, 0], enough_pieces(sums))
    for row, low, high in zip(rows, low_U.tolist(), high_U.tolist(), strict=True):
        row |= {"bps_low": low, "bps_high": high}


def lesions_of(twin: Predictor, datamodule: RecordingsDataModule, split: Split, device: str) -> dict[str, Lesioned]:
    """The twin without what attention finds; the blocks' output is averaged over one batch of each recording."""
    attending_core(twin)
    assert isinstance(twin, Twin)  # nothing else attends
    first: dict[str, Clips] = {}
    for spec in datamodule.specs:
        columns_of(twin, spec.recording_id, spec.unit_ids)  # which refuses what the twin does not know
    for batch in datamodule.evaluation_dataloader(split):
        for recording_id, clips in batch.items():
            if recording_id not in first:  # each stimulus once: a batch may hold any number of its repeats
                first[recording_id] = Clips(frames=clips["frames"], behavior=clips["behavior"])
        if len(first) == len(datamodule.specs):
            break
    return lesions(twin.to(device), [{recording_id: clips} for recording_id, clips in first.items()])
