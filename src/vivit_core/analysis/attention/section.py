"""Attention's section of the report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.attention.draw import Drawn
from vivit_core.analysis.attention.explore import unit_explorer
from vivit_core.report.section import Section, Table, definitions


def table_by_block(summary: dict[str, Any]) -> Table:
    """Means over the heads of each block."""
    spatial, temporal = summary["spatial"], summary["temporal"]
    degrees = spatial["distance_deg"] is not None
    distance = spatial["distance_deg" if degrees else "distance_px"]
    rows: list[list[str | float | None]] = []
    for kind in ("spatial", "temporal", "joint"):
        for layer, entropy in enumerate(summary[kind]["entropy_bits"]):
            far = to_registers = lag = None
            if kind != "temporal":
                far = float(np.mean(distance[layer]))
                to_registers = (
                    float(np.mean(spatial["to_registers"][layer])) if summary["tokens"]["registers"] else None
                )
            if kind != "spatial":
                lag = float(np.mean(temporal["lag_ms"][layer]))
            rows.append([f"{kind} {layer}", float(np.mean(entropy)), far, to_registers, lag])
    even = summary["uniform"]
    entropies = " and ".join(f"{bits:.2f}" for name, bits in even.items() if name.endswith("_entropy_bits"))
    lag_ms = f", {even['lag_ms']:.0f} ms" if "lag_ms" in even else ""
    columns = ["block", "entropy (bits)", f"distance ({'deg' if degrees else 'px'})", "to registers", "mean lag (ms)"]
    return Table(
        f"Means over heads (even attention: {entropies} bits{lag_ms})",
        columns,
        rows,
    )


def table_of_masks(faithful: dict[str, Any]) -> list[Table]:
    """How far the median unit's log rate moves where a tenth of the tokens, or cells, is masked; no table where nothing
    was."""
    rows: list[list[str | float | None]] = [
        [f"{of}: {name}", found["units"], moved, found["above_random"].get(name)]
        for of, found in faithful.items()
        for name, moved in found["moved"].items()
    ]
    columns = ["masked are those named by", "units", "log rate moves by (median)", "part of units above random"]
    return (
        [
            Table(
                "A tenth masked, at the units that read most of it: what a faithful map names, the rate depends on",
                columns,
                rows,
            )
        ]
        if rows
        else []
    )


def table_of_past(past: dict[str, Any]) -> Table:
    """How far back the gain of units that adapt looks, beside the truth, and what chance is."""
    rows: list[list[str | float | None]] = [
        ["correlation with the true shares of the past (median)", past["correlation"], None],
        ["the same with the truth of other moments: what fading alone is worth", past["other_moments"], None],
        ["the same with the truth of other units", past["other_units"], None],
        ["the same where all of them have the mean of their weights", past["in_common"], None],
        ["time constant (s, median)", past["tau_s"], past["true_tau_s"]],
        ["rank correlation of the time constants over units (chance: 0)", past["tau_rank"], 1.0],
        ["fall of the log gain with the log of what was shown (median)", past["fall"], past["true_fall"]],
        ["the same in units that do not adapt", past["fall_of_others"], 0.0],
        ["pairs in which the unit that adapts falls more (chance: 0.5)", past["told_apart"], 1.0],
    ]
    return Table(f"What the past counts for the {past['units']} units that adapt", ["", "twin", "truth"], rows)


def report_section(summary: dict[str, Any], folder: Path, drawn: Drawn, command: str) -> Section:
    """What a look at the attention adds to a twin's report, from its summary, its files in ``folder`` and pictures."""
    tokens = summary["tokens"]
    share = summary["token_share_median"]
    text = [
        f"Recording {summary['recording']}: {tokens['steps']} time steps of {tokens['rows']}×{tokens['columns']} tokens"
        f" and {tokens['registers']} registers a clip. Numbers are over {summary['clips']} test clips; pictures are of "
        "one. The weights are softmax(q kᵀ / √d + bias) of the model's own forward pass; 1 in a picture is what even "
        "attention would give.",
        "Rollout follows attention and residual paths over the tokens alone; what convolutions before the tokens bring "
        "in from farther away is not in it, and it does not say what an output made of what it attended to. "
        "In causal attention it piles up at the oldest steps, to which all later ones pass on a part of theirs."
        + (
            ""
            if share is None
            else f" Of the median unit's log rate {share:.0%} of the variance is from what blocks made of the tokens."
        ),
    ]
    if not summary["causal"]:
        text.append("This model is acausal: temporal attention also sees later tokens.")
    if (of_cells := summary["cell_share_median"]) is not None:
        text.append(
            f"Of the median unit's log rate {of_cells:.0%} of the variance is from attention among cells, which "
            "compare themselves with their surround in every frame."
        )
    tables = [table_by_block(summary)]
    if summary["beside_truth"]:
        rows: list[list[str | float | None]] = [
            [kind, *(found[name] for name in ("units", "correlation", "other_moments", "other_units"))]
            for kind, found in summary["beside_truth"].items()
        ]
        text.append(
            "Maps and truth are correlated over the places that ever count for a unit. What cells compare is known "
            "before a training and hardly changes in it, so that a twin that was not trained has such maps too; what a "
            "training learns is which units read them."
        )
        columns = ["context", "units", "correlation (median)", "with other moments", "with other units"]
        tables.append(Table("Units' maps of their surround beside the simulator's true weights", columns, rows))
    if (past := summary["past_beside_truth"]) is not None:
        tables.append(table_of_past(past))
    tables += table_of_masks(summary["faithful"])
    notes = [definitions(summary["methods"])]
    explore = unit_explorer(folder, summary["recording"])
    return Section("attention", "Where it attends", text, tables, drawn, command, notes, explore)
