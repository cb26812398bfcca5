"""The card of a published twin: what it is, what it was trained on, how good it is, and what it is not good for."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from vivit_core.analysis.publish.scores import SCORES, Scores
from vivit_core.models.predictor import Predictor
from vivit_core.models.published import CONFIG, WEIGHTS
from vivit_core.names import printable
from vivit_core.specs import RecordingSpec

TOLD = ("subject", "species", "area", "stimulus_kind", "source")  # of each recording, where its file says it


@dataclass(frozen=True)
class About:
    """What nobody but who publishes knows.

    Attributes
    ----------
    title : of the card.
    authors, license, cite : None where nothing was said; ``license`` is of the weights, as the Hub calls it.
    note : a paragraph more.
    """

    title: str
    authors: str | None
    license: str | None
    cite: str | None
    note: str | None


def card(
    model: Predictor,
    scores: Scores,
    about: About,
    *,
    simulated: bool,
    pictures: Sequence[tuple[str, str]],
    version: str,
) -> str:
    """The card, Markdown with the Hub's header.

    Parameters
    ----------
    model : the twin.
    scores : of its evaluation.
    about : what is said by who publishes.
    simulated : whether its recordings were.
    pictures : paths in the folder, with captions.
    version : of this package.
    """
    specs = list(model.specs.values())
    causal = model.causal and all(spec.behavior_causal for spec in specs)
    areas = " and ".join(dict.fromkeys(text(spec.area) for spec in specs if spec.area))
    behavior = model.sees_behavior and any(spec.behavior_dim for spec in specs)
    seen = "a video and what the animal did" if behavior else "a video"
    parts = [
        header_of(about),
        f"# {text(about.title)}",
        f"A digital twin of {areas or 'neurons'}: it is shown {seen}, and predicts the rates of "
        f"{sum(spec.n_units for spec in specs)} units in {len(specs)} recording{'s' * (len(specs) > 1)}. "
        f"It is a {model.kind} with {sum(p.numel() for p in model.parameters()):,} parameters, made with vivit-core "
        f"{version}."
        + (" Its weights are an average over the steps of its training." if scores.summary.get("average") else ""),
        *([text(about.note)] if about.note else []),
        "## Use\n```python\nfrom vivit_core import load_twin\n\ntwin = load_twin(FOLDER)  # or hf://user/name\n"
        f"rates = twin.rates({json.dumps(specs[0].recording_id)}, frames, behavior)  # (bins, units), in Hz\n```\n"
        f"The weights are `{WEIGHTS}`, the description is `{CONFIG}`. Neither can run code.",
        "## Data\n" + data_of(specs, simulated),
        "## Scores\n" + scores_of(scores, model.likelihood(specs[0].recording_id).event),
        "## Causality\n"
        + (
            "A prediction for a bin uses frames and behavior up to that bin, and none that come later."
            if causal
            else "**This model is not causal**: a prediction for a bin also uses what comes later. It cannot run in an "
            "experiment as it goes on."
        ),
        "## Intended use\nTo predict what these units do under stimuli and behavior like those of the recordings, to "
        "plan experiments with them, to compare models, and to start the training for new recordings "
        "(`experiment=finetune init_from=FOLDER`).",
        "## Limits\n"
        "- It knows these units alone. A new recording needs a readout of its own.\n"
        "- Under stimuli unlike those of the training (other contrasts, sizes, speeds, flashes) it extrapolates.\n"
        "- Scores are means over units; some units are predicted badly. A rate is an expectation, not a spike train.\n"
        "- It describes responses. What it attends to is no evidence for a mechanism.\n"
        "- It is not for clinical use, nor for decisions about people.",
        *(["## Pictures\n" + "\n\n".join(map(picture, pictures))] if pictures else []),
        "## License\n"
        + (f"Of the weights: {text(about.license)}" if about.license else "None was given.")
        + licences(specs),
        "## How to cite\n"
        + (text(about.cite) if about.cite else f"{text(about.authors or 'The authors')}, {text(about.title)}.")
        + f" Made with vivit-core {version}.",
    ]
    return "\n\n".join(parts) + "\n"


def picture(of: tuple[str, str]) -> str:
    path, caption = of
    return f"![{caption}]({path})\n\n{caption}"


def header_of(about: About) -> str:
    """What the Hub reads: YAML, whose texts are written as JSON."""
    lines = ["library_name: vivit-core", "tags: [neuroscience, digital-twin, vision]"]
    if about.license:
        lines.append(f"license: {json.dumps(about.license)}")
    return "\n".join(["---", *lines, "---"])


def data_of(specs: Sequence[RecordingSpec], simulated: bool) -> str:
    told = (
        "The recordings are simulated by vivit-core: photographs seen by a moving eye, and populations of units whose "
        "true rates are known. No animal was recorded.\n\n"
        if simulated
        else ""
    )
    rows = []
    for spec in specs:
        behavior = ", ".join(f"{text(name)} ({width})" for name, width in spec.behavior.items()) or "none"
        angle = f", {spec.degrees_per_pixel:g}° a pixel" if spec.degrees_per_pixel is not None else ""
        frame = " × ".join(map(str, spec.frame_shape[1:])) + f" px{angle}"
        known = [text(getattr(spec, name)) for name in TOLD]
        rows.append([text(spec.recording_id), spec.n_units, f"{spec.frame_rate_hz:g}", frame, behavior, *known])
    columns = ["recording", "units", "bins a second", "frames", "behavior"]
    columns += [name.replace("_", " ") for name in TOLD]
    return told + table(columns, rows)


def scores_of(scores: Scores, event: str) -> str:
    summary = scores.summary
    some = [name for name in SCORES if any(own[name] is not None for own in scores.of.values())]
    rows = [[text(name), *(own[score] or "" for score in some)] for name, own in scores.of.items()]
    used = "neither the training nor the choice of the model has used"
    if summary.get("split") != "test":
        used = "the training did not use, and which chose the model, so that these scores are too high"
    told = (
        f"On the {text(str(summary.get('split')))} split, which {used}; {summary.get('bins')} bins after the first "
        f"{summary.get('burn_in')} of each trial. Means over units, and in brackets where 95 % of resamplings of the "
        "units lie. LN is a linear-nonlinear model of each unit, fitted to the same trials."
    )
    if "truth_bps" in some:
        told += " The oracle is the simulation's true rate."
        share = summary.get("knowable_fraction")
        told += f" The twin finds {share:.3f} of it." if isinstance(share, float) else ""
    silent = summary.get("units_silent")
    told += f" {silent} silent units are left out." if silent else ""
    return f"{told}\n\n{table(['recording', *(SCORES[name].replace('EVENT', event) for name in some)], rows)}"


def licences(specs: Sequence[RecordingSpec]) -> str:
    given = {spec.recording_id: spec.licence for spec in specs if spec.licence}
    return "".join(f"\n\nOf the recording {text(name)}: {text(licence)}" for name, licence in given.items())


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A Markdown table of safe text, without the columns in which nothing stands."""
    kept = [i for i, _ in enumerate(columns) if i == 0 or any(str(row[i]) for row in rows)]
    lines = [[columns[i] for i in kept], ["---"] * len(kept), *([str(row[i]) for i in kept] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def text(words: str) -> str:
    """Text that is nothing else in Markdown: no HTML, no link, no picture, and one line."""
    return re.sub(r"([\\`*_\[\]<>#|$])", r"\\\1", printable(" ".join(words.split())))
