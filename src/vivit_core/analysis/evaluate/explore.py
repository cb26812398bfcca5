"""What a reader can explore of an evaluation: its units' scores, rates and places, from the files that it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from vivit_core.analysis.attention.lesions import UNMIXED
from vivit_core.analysis.evaluate.numbers import LESIONED, controls_of
from vivit_core.analysis.evaluate.responses import clip_of
from vivit_core.analysis.explore import UNITS, explorer_columns
from vivit_core.analysis.tables import WORDS, read_arrays
from vivit_core.metrics.unit_scores import all_metrics
from vivit_core.names import key_name
from vivit_core.report.explore import Explorer, Panel, Place, Scores, Series
from vivit_core.system.tables import read_table

TITLES = {
    "context": "context",
    "mean_rate_hz": "mean rate (Hz)",
    "truth_bps": "oracle",
    "local_bps": "best local observer",
    "knowable_fraction": "of the oracle",
    "ln_knowable_fraction": "of the oracle, LN",
    "contextual_fraction": "of context",
    "corr_to_average": "correlation to average",
    "ln_corr_to_average": "correlation to average, LN",
    "explainable_variance": "explainable variance",
    "normalized_corr": "normalized correlation",
    "ln_normalized_corr": "normalized correlation, LN",
    "context_gain": "bits lost without attention",
    "border_px": "distance from border (px)",
    "center_error_px": "error of the center (px)",
    "ln_center_error_px": "error of the center, LN (px)",
    "readout_x_px": "center x (px)",
    "readout_y_px": "center y (px)",
}
SHOWN = (  # columns of the table at first, in its order
    "bps", "ln_bps", "knowable_fraction", "contextual_fraction", "context_gain", "corr", "normalized_corr",
    "mean_rate_hz",
)  # fmt: skip


def unit_explorer(folder: Path) -> Explorer | None:
    """The units of an evaluation, from ``units.csv`` and ``responses.npz`` in its folder; None where it lists none."""
    path = folder / "units.csv"
    if not path.is_file():
        return None
    table = read_table(path, text=WORDS)
    metrics = all_metrics()
    titles = dict(TITLES)
    quantity: dict[str, str] = {}
    for metric in metrics:
        titles |= {metric.name: metric.title, f"ln_{metric.name}": f"{metric.title}, LN"}
        quantity |= dict.fromkeys((metric.name, f"ln_{metric.name}"), metric.title)
    bits = metrics[0]
    quantity |= dict.fromkeys(("truth_bps", "local_bps"), bits.title)
    columns = explorer_columns(table, titles, SHOWN, quantity)
    known = [column.key for column in columns]
    if bits.name not in known:
        return None  # nothing was scored
    groups, names = table["recording"].tolist(), table["unit"].tolist()
    panels: list[Panel] = [scores_of(known)]
    responses = folder / "responses.npz"
    if responses.is_file():
        panels += panels_of(read_arrays(responses), list(dict.fromkeys(groups)))
    against = f"ln_{bits.name}" if f"ln_{bits.name}" in known else "mean_rate_hz"
    axes = (against, bits.name)
    return Explorer(UNITS, "Units", "recording", "unit", groups, names, columns, axes, bits.name, panels)


def scores_of(known: list[str]) -> Scores:
    """The scores of one unit beside LN's and the oracle's, what attention and behavior are worth to it."""
    rows: list[tuple[str, list[tuple[str, str, str]]]] = []
    for metric in all_metrics():
        of = [("twin", "twin", metric.name), ("LN", "ln", f"ln_{metric.name}")]
        if not rows:
            of += [("best local observer", "local", "local_bps"), ("oracle", "truth", "truth_bps")]
        rows.append((metric.title, of))
    rows += [
        (TITLES[name], [("twin", "twin", name), ("LN", "ln", f"ln_{name}")])
        for name in ("normalized_corr", "corr_to_average", "knowable_fraction", "contextual_fraction", "context_gain")
    ]
    lesions = [name for name in known if name.startswith(LESIONED)]
    if lesions:
        without = [(name.removeprefix(LESIONED).removesuffix("_bps").replace("_", " "), name) for name in lesions]
        colors = {f"{LESIONED}{UNMIXED}_bps": "ln"}
        rows.append(
            (
                "bits per spike without what attention finds",
                [("as it is", "twin", "bps"), *((word, colors.get(name, "local"), name) for word, name in without)],
            )
        )
    if controls := controls_of(known):
        rows.append(
            (
                "bits per spike with another behavior",
                [("the animal's", "twin", "bps"), *((n.replace("_", " "), "local", f"{n}_bps") for n in controls)],
            )
        )
    return Scores("Scores", [(title, [o for o in of if o[2] in known]) for title, of in rows if of[0][2] in known])


def panels_of(arrays: Mapping[str, np.ndarray], recordings: list[str]) -> list[Panel]:
    """Rates over time, and where units look, from ``responses.npz``."""
    clips, frames, windows = {}, {}, []
    for recording in recordings:
        key = key_name(recording)
        models = {("twin", "twin"): arrays[f"{key}/predicted"]}
        if f"{key}/ln" in arrays:
            models["LN", "ln"] = arrays[f"{key}/ln"]
        clips[recording] = clip_of(arrays, recording, models)
        frames[recording] = arrays[f"{key}/frame"]
        windows.append(arrays[f"{key}/window"])
    return [Series("Rates on repeats", clips), Place("Where it looks", frames, np.concatenate(windows))]
