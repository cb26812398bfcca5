"""The whole evaluation: predict, score, write tables, draw.

Shape letters: N scored bins of a recording, R resamplings, M metrics, U units.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.attention.blocks import attending_core
from vivit_core.analysis.attention.lesions import Lesioned, lesions
from vivit_core.analysis.behavior_controls import behavior_controls, refuse_blind
from vivit_core.analysis.bootstrap import Sums, enough_pieces, intervals, resampled
from vivit_core.analysis.evaluate.attention import attention_sums, summarize_attention
from vivit_core.analysis.evaluate.context import RESAMPLES, context_sums, summarize_context, sums_of
from vivit_core.analysis.evaluate.draw import draw_recording, draw_units
from vivit_core.analysis.evaluate.methods import methods
from vivit_core.analysis.evaluate.numbers import by_subject, score_recording, summarize
from vivit_core.analysis.evaluate.pairs import noise_correlations
from vivit_core.analysis.evaluate.responses import responses_of
from vivit_core.analysis.predict import Predictions, predict_split, refuse_broken, unit_columns
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import ABOUT, Split
from vivit_core.data.recording.reader import Recording
from vivit_core.metrics.averages import mean_known
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import weights_of
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.system.tables import write_table


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
        unit_columns(twin, spec.recording_id, spec.unit_ids)  # which refuses what the twin does not know
    for batch in datamodule.evaluation_dataloader(split):
        for recording_id, clips in batch.items():
            if recording_id not in first:  # each stimulus once: a batch may hold any number of its repeats
                first[recording_id] = Clips(frames=clips["frames"], behavior=clips["behavior"])
        if len(first) == len(datamodule.specs):
            break
    return lesions(twin.to(device), [{recording_id: clips} for recording_id, clips in first.items()])
