"""The evaluation's section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vivit_core.analysis.evaluate.draw import RECORDINGS_SHOWN
from vivit_core.analysis.evaluate.explore import unit_explorer
from vivit_core.analysis.evaluate.methods import methods
from vivit_core.analysis.evaluate.numbers import keys_of
from vivit_core.analysis.truth import HALF_KNOWN, NEAR_PX
from vivit_core.data.recording.format import ABOUT
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.names import file_name
from vivit_core.plotting.rates import SMOOTHING_S
from vivit_core.report.section import Section, Table, between, definitions

SMOOTHED = f"smoothed by a Gaussian of {1e3 * SMOOTHING_S:g} ms"
CAPTIONS = {  # in the order of the report, by how a picture's name begins
    "distribution": "The distribution of each score over units; the mark is its median. Of the normalized "
    "correlation, units whose signal is certain enough.",
    "twin_against_ln": "Bits per spike of the twin against the linear-nonlinear model fitted to the same trials,"
    " a point a unit.",
    "performance": "Scores by how far a unit's readout lies from the frame's border, and by its rate; the "
    "line is a running median.",
    "center_errors": "How far the readouts' centers lie from the true receptive fields' centers, and that "
    "error beside what the twin knows of each unit.",
    "behavior_share": "What each unit loses where another behavior stands in for the animal's.",
    "rasters": "The best and the worst units: spikes in each repeat, and the average over repeats, "
    f"measured ({SMOOTHED}) and predicted.",
    "repeats": f"A good, a middling and a poor unit: averages over repeats, measured ({SMOOTHED}, with their standard "
    "error) and predicted.",
    "rates": f"A good, a middling and a poor unit in single trials: what was measured, {SMOOTHED}, and what was "
    "predicted.",
    "receptive_fields": "The readouts' Gaussians on a frame of the stimulus.",
    "calibration": "Whether counts scatter around the prediction as the likelihood says: then each class of predicted "
    "probability holds the same share of them. High outer classes: they scatter more.",
}

PAST = {
    "own": "each unit's own counts of earlier bins",
    "population": "the counts of earlier bins of all units of the recording",
}


def report_section(summary: dict[str, Any], folder: Path, command: str, meaning: str | None = None) -> Section:
    """What an evaluation adds to a twin's report, from its ``summary.json``, the pictures in its folder, and the
    ``units.csv`` and ``responses.npz`` beside that.

    ``meaning`` is the sentence of :func:`vivit_core.analysis.evaluate.verdict.verdict`.
    """
    metrics = all_metrics()
    bits, *others = (
        dict(zip(keys_of(metric.name), (metric.title, "LN's", "median", "LN's"), strict=True)) for metric in metrics
    )
    shares = {
        "truth_bps_mean": "oracle",
        "knowable_fraction": "of the oracle",
        "ln_knowable_fraction": "LN's",
        "contextual_fraction": "of context",
    }
    scores = {"units": "units", "units_silent": "silent", **bits, **shares}
    for other in others:
        scores |= other
    repeated = {
        "corr_to_average_mean": "correlation to average",
        "ln_corr_to_average_mean": "LN's",
        "explainable_variance_mean": "explainable variance",
        "normalized_corr_mean": "normalized correlation",
        "ln_normalized_corr_mean": "LN's",
        "units_reliable": "over units",
    }
    places = {
        "center_error_px_median": "center's error, median (px)",
        "ln_center_error_px_median": "LN's",
        "units_half_known": f"units with {HALF_KNOWN:.0%} known",
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
    if meaning is not None:
        text.insert(0, meaning)
    if summary["trials_left_out"]:
        text.append(
            f"{summary['trials']} trials were scored, and {summary['trials_left_out']} more of this split left out "
            "(data.most_trials): the numbers say that everything runs, and not how well."
        )
    if summary["left_out"]:
        text.append(
            "Left out of every number, because no trial of this split is longer than the burn-in "
            f"(data.evaluation_burn_in): {', '.join(summary['left_out'])}."
        )
    if summary["history"]:
        text.append(
            f"This twin can be told {PAST[summary['history']['observed']]}. Where nothing is said, its scores are "
            "without, so that they compare with LN, with the oracle and with other twins; those with past counts "
            "observed stand apart."
        )
    if summary["calcium"]:
        text.append(
            f"In {', '.join(summary['calcium'])} responses are a calcium signal, not spikes, Hz the signal a second. "
            + (
                "Bits per spike are the same formula on that signal, and depend on its unit. "
                if summary["event"] == "spike"
                else f"Bits per spike are bits per {summary['event']}. "
            )
            + "They rank models of one recording with one likelihood; across recordings, or beside spikes, compare "
            "correlations."
        )
    tables = [table("Means and medians over units", scores)]
    if summary["subjects"]:
        tables.append(subjects_table(summary))
    if any(any(own["about"].values()) for own in summary["recordings"].values()):
        tables.append(about_table(summary))
    if summary["corr_to_average_mean"] is not None:
        tables.append(table("On repeated stimuli, means over units", repeated))
    if summary["center_error_px_median"] is not None:
        tables.append(table("Where the readouts look, beside the simulation's truth", places))
    if summary["context"]:
        tables.append(context_table(summary))
    if summary["attention"]:
        tables.append(attention_table(summary))
    if summary["history"]:
        tables.append(history_table(summary))
    if summary["noise_correlations"]:
        tables.append(pairs_table(summary))
    if summary["behavior"]:
        behaviors = {"the animal's own": summary, **summary["behavior"]}
        rows = [
            (name.replace("_", " "), *(own[f"{m.name}_mean"] for m in metrics), own.get("bps_lost_mean"))
            for name, own in behaviors.items()
        ]
        columns = ("behavior", *(metric.title for metric in metrics), "bits per spike lost")
        tables.append(Table("Behavior's share, means over units", columns, rows))
    asked = {name: name for name in ("history", "noise_correlations", "behavior", "attention")}
    asked["context_gain"] = "attention"
    said = {name: method for name, method in methods().items() if name not in asked or summary[asked[name]]}
    notes = [definitions(said)]
    shown = list(summary["recordings"])[:RECORDINGS_SHOWN]
    if (more := len(summary["recordings"]) - len(shown)) > 0:
        text.append(f"Pictures of the first {len(shown)} recordings follow; those of {more} more are in {folder}.")
    drawn = [
        (path, caption)
        for name, caption in CAPTIONS.items()
        for path in [folder / f"{name}.png", *(folder / f"{name}_{file_name(recording)}.png" for recording in shown)]
        if path.is_file()
    ]
    explore = unit_explorer(folder.parent)
    return Section("evaluate", "How well it predicts", text, tables, drawn, command, notes, explore)


def subjects_table(summary: dict[str, Any]) -> Table:
    """The scores of each subject, and their mean, in which each subject counts alike."""
    keys = {"bps_mean": "bits per spike", "ln_bps_mean": "LN's", "corr_mean": "correlation", "ln_corr_mean": "LN's"}
    rows: list[tuple[Any, ...]] = [
        (name, ", ".join(own["recordings"]), own["units"], *(own[key] for key in keys))
        for name, own in summary["subjects"].items()
    ]
    rows.append(("mean of subjects", None, None, summary["bps_mean_of_subjects"], None, None, None))
    return Table("Subjects, means over units", ("subject", "recordings", "units", *keys.values()), rows)


def about_table(summary: dict[str, Any]) -> Table:
    """What the recordings' files say of themselves; what none of them says is left out."""
    of = {name: own["about"] for name, own in summary["recordings"].items()}
    words = [word for word in ABOUT if any(own[word] for own in of.values())]
    columns = ("recording", *(word.replace("_", " ") for word in words))
    return Table(
        "What was recorded", columns, [(name, *(own[word] or None for word in words)) for name, own in of.items()]
    )


def history_table(summary: dict[str, Any]) -> Table:
    """What the twin predicts without and with past counts, of all recordings and of each."""
    metrics = all_metrics()
    rows: list[tuple[Any, ...]] = []
    for recording, own in [("all", summary), *summary["recordings"].items()]:
        for observed, scores in (("none", own), (own["history"]["observed"], own["history"])):
            rows.append((observed, recording, *(scores[f"{metric.name}_mean"] for metric in metrics)))
    columns = ("past counts observed", "recording", *(metric.title for metric in metrics))
    return Table("Without and with past counts, means over units", columns, rows)


def pairs_table(summary: dict[str, Any]) -> Table:
    """How units scatter together, recording by recording."""
    keys = ("pairs", "correlation", "predicted_mean", "measured_mean", "joint_bits")
    rows = [(name, *(own["noise_correlations"][key] for key in keys)) for name, own in summary["recordings"].items()]
    columns = ("recording", "pairs", "predicted with measured, r", "predicted, mean", "measured, mean", "joint bits")
    return Table("Noise correlations, over pairs of units", columns, rows)


def context_table(summary: dict[str, Any]) -> Table:
    """How much of context's information is found, by kind of context."""
    columns = ("context", "units", "bits per spike", "best local observer", "oracle", "of context", "95 % interval")

    def row(name: str, own: dict[str, Any]) -> tuple[Any, ...]:
        scores = (own["bps_mean"], own["local_bps_mean"], own["truth_bps_mean"], own["contextual_fraction"])
        return (name, own["units"], *scores, between(own["contextual_fraction_interval"]))

    return Table("What context tells, means over units", columns, [row(*item) for item in summary["context"].items()])


def attention_table(summary: dict[str, Any]) -> Table:
    """What is lost without what attention finds, of all recordings and of each."""
    columns = ("attention", "recording", "bits per spike", "lost", "95 % interval")
    rows: list[tuple[Any, ...]] = []
    for recording, own in [("all", summary), *summary["recordings"].items()]:
        for name, scores in own["attention"].items():
            lost = (scores["bps_lost_mean"], between(scores["bps_lost_interval"]))
            rows.append((name.replace("_", " "), recording, scores["bps_mean"], *lost))
    return Table("What attention is worth, means over units", columns, rows)
