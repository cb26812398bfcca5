"""Receptive fields' section of the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.analysis.receptive_fields.explore import unit_explorer
from vivit_core.analysis.receptive_fields.numbers import METHODS
from vivit_core.analysis.truth import NEAR_PX, ORIENTED_DEG
from vivit_core.report.section import Section, Table, captioned, definitions


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Errors by group of units and method, where the truth is known; signal to noise elsewhere."""
    columns = ["units", "number", "method", "median SNR", "center error (px)", f"within {NEAR_PX:g} px"]
    columns += ["orientation error (°)", f"within {ORIENTED_DEG:g}°"]
    rows = []
    for group, of in summary["groups"].items():
        for method in ("readout", *METHODS):
            values = (
                of.get(f"{method}_snr_median"),
                of[f"{method}_center_error_px_median"],
                of[f"{method}_center_within_{NEAR_PX:g}px"],
                of.get(f"{method}_orientation_error_deg_median"),
                of.get(f"{method}_orientation_within_{ORIENTED_DEG:g}deg"),
            )
            if any(value is not None for value in values):
                rows.append((group, of["units"], method, *values))
    return Table("Receptive fields", columns, rows)


def report_section(summary: Mapping[str, Any], folder: Path, command: str) -> Section:
    """What the receptive fields add to a twin's report, from their summary and the pictures in ``folder``."""
    text = [
        "Where each readout looks; the twin's receptive fields in silico, by the gradient of a unit's log rate at "
        "natural clips of the test split and by reverse correlation on noise; and the fields measured from the data, "
        "where the recording's stimulus is white noise. Signal to noise is the energy of a map's strongest pixel over "
        "that of the strongest pixel of a map made by chance (half the difference of two halves' maps): 1 is chance.",
        "The gradient's place and orientation come from its energy over clips, so they hold for complex cells too; "
        "reverse correlation shows only what is linear in a response, blurred by the noise's checks and the time for "
        "which frames hold. Orientations are of the preferred bars, counterclockwise from horizontal.",
    ]
    everyone = summary["groups"]["all"]
    without = {method: everyone[f"{method}_without_field"] for method in METHODS if everyone[f"{method}_without_field"]}
    if without:
        told = ", ".join(f"{number} by {method}" for method, number in without.items())
        text.append(
            f"Of {everyone['units']} units, maps hold nothing beyond rounding, or are the same all over the "
            f"frame, for {told}. These units have no place, size or orientation by that method, and are left out of "
            "its numbers."
        )
    if (measured := everyone["sta_measured_cosine_median"]) is not None:
        text.append(
            f"The median cosine (not the correlation: no means are taken away) of the twin's map on noise with the "
            f"measured one is {measured:.2f}. Measured maps use all trials, those that the twin was trained on among "
            "them, so this likeness is in-sample."
        )
    captions = {
        "readouts": "The readouts' windows on a frame of the stimulus",
        "fields": "Fields of a few units, by method",
        "errors": "How far places and orientations are from the truth",
    }
    drawn = captioned(folder, captions, summary["recordings"])
    tables, explore = [summary_table(summary)], unit_explorer(folder)
    notes = [definitions(summary["methods"])]
    return Section("receptive_fields", "Receptive fields", text, tables, drawn, command, notes, explore)
