"""The whole study of attention: maps of a trial, statistics, what readouts look at."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.attention.blocks import attending_core, heads_of
from vivit_core.analysis.attention.draw import (
    LEAST_SHARE,
    Drawn,
    most_read,
    plot_attention,
    plot_readouts,
    plot_statistics,
    plot_surrounds,
)
from vivit_core.analysis.attention.faithful import (
    Newest,
    faithfulness_of_cells,
    faithfulness_of_tokens,
    relevance_of_tokens,
)
from vivit_core.analysis.attention.maps import extract_attention
from vivit_core.analysis.attention.methods import METHODS
from vivit_core.analysis.attention.past import PastBesideTruth, plot_past
from vivit_core.analysis.attention.rollout import rollout
from vivit_core.analysis.attention.statistics import cell_share, measure_attention, token_share
from vivit_core.analysis.attention.surrounds import BesideTruth, median, surround_maps
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

MOST_LOOKS = 16  # units whose relevant tokens are found, or as many as are drawn: those most of whose rate tokens tell
MOST_TRIED = 32  # units whose maps of the surround are tried, those most of whose rate it tells


def study_attention(
    twin: Twin,
    recording_id: str,
    clip: Clips,
    clips: Iterable[Clips],
    *,
    beside_truth: Mapping[str, BesideTruth],
    past: PastBesideTruth | None,
    out: Path,
    place: tuple[int, int] | None,
    heads: int,
    units: int,
    megabytes: float,
) -> tuple[dict[str, Any], Drawn]:
    """Look at a twin's attention: write ``attention.npz``, ``attention.json`` and the pictures (``draw.py``).

    ``attention.npz`` holds of the clip that is drawn: ``spatial`` (L, h, steps, M, M), ``temporal`` (L, h, places, T,
    T) and ``joint`` (L, h, steps, M, T, M) in float16, which ``steps`` and ``places`` those are, ``is_register``,
    ``coordinates`` and the edges of ``TokenGrid``, ``rollout`` (T, rows, columns) of the newest output at ``place``,
    ``unit_ids`` (U,) and each unit's ``token_share`` (U,), and where readouts say where they look their ``windows``
    (U, rows, columns). ``looks`` (U, rows, columns) is how much tokens of each place change a unit's newest rate
    (``relevance_of_tokens``), and sums to one; zeros for a unit that reads no tokens, and beyond the units whose rate
    comes most from tokens (``MOST_LOOKS``, or ``units`` where these are more). Where cells attend to their surround,
    ``cell_share`` (U,) is how much of a unit's rate comes from that, and ``surround_alike`` and ``surround_agree`` (U,
    rows, columns) are its units' maps in the newest frame, on ``cell_y_px`` and ``cell_x_px``.

    Parameters
    ----------
    twin, recording_id : whose attention.
    clip : one clip, to draw.
    clips : clips of one length, to average over.
    beside_truth : what the truth says of units' maps (``maps_beside_truth``); empty where nobody knows it.
    past : what it says of how far back they look (``past_beside_truth``).
    out : folder for the files.
    place : row and column of the token drawn; None: where most readouts look.
    heads : heads drawn, the first ones.
    units : units drawn, those whose rate comes most from the tokens.
    megabytes : of maps in ``attention.npz``, at most; time steps and places are left out evenly until they fit, the
        newest step and the last place excepted.

    Returns
    -------
    The content of ``attention.json``, and the pictures with their captions.
    """
    batch = {recording_id: clip}
    frames = clip["frames"][0].cpu().numpy()
    maps = extract_attention(twin, batch, mean_of_heads=True)[recording_id]
    place = most_read(maps) if place is None else place
    newest = rollout(maps, place)
    statistics = measure_attention(twin, recording_id, clips)
    shares = token_share(twin, recording_id, clip)

    time, rows, columns = maps.grid.shape
    depth = {kind: len(kept) for kind, kept in maps.layers.items()}
    count = heads_of(attending_core(twin))
    half = megabytes * 1e6 / 2
    kept = extract_attention(
        twin,
        batch,
        steps=thinned(
            time, half, 2 * count * (depth["spatial"] + depth["joint"] * time) * maps.grid.is_register.size**2
        ),
        places=thinned(rows * columns, half, 2 * depth["temporal"] * count * time**2),
        dtype=np.float16,
    )[recording_id]
    arrays = {
        "spatial": kept.spatial[0],
        "temporal": kept.temporal[0],
        "joint": kept.joint[0],
        "steps": kept.steps,
        "places": kept.places,
        "is_register": maps.grid.is_register,
        "coordinates": maps.grid.coordinates,
        "step_edges": maps.grid.step_edges,
        "row_edges": maps.grid.row_edges,
        "column_edges": maps.grid.column_edges,
        "rollout": newest.tokens,
        "token_share": shares,
        "unit_ids": np.array(twin.specs[recording_id].unit_ids),
    }
    if maps.windows is not None:
        arrays["windows"] = maps.windows
    most = [int(unit) for unit in np.argsort(-np.nan_to_num(shares), kind="stable")]
    relevance = relevant_tokens(Newest(twin, recording_id, clip), most[: max(units, MOST_LOOKS)])
    arrays["looks"] = np.zeros((len(shares), rows, columns), np.float32)
    for unit, own in relevance.items():
        arrays["looks"][unit] = own.sum(0)
    if (of_cells := cell_share(twin, recording_id, clip)) is not None:
        arrays["cell_share"] = of_cells
    if (around := surround_maps(twin, recording_id, clip)) is not None:
        arrays |= {"surround_alike": around.alike, "surround_agree": around.agree}
        arrays |= {"cell_y_px": around.ys, "cell_x_px": around.xs}
    write_arrays(out / "attention.npz", arrays)
    told = np.zeros(len(shares)) if of_cells is None else np.nan_to_num(of_cells)
    reading = [unit for unit in np.argsort(-told, kind="stable")[:MOST_TRIED].tolist() if told[unit] >= LEAST_SHARE]
    faithful = {
        "cells": faithfulness_of_cells(twin, recording_id, clip, reading),
        "tokens": faithfulness_of_tokens(twin, recording_id, clip, list(relevance)[:MOST_LOOKS]),
    }
    summary = {
        "recording": recording_id,
        "tokens": {"steps": time, "rows": rows, "columns": columns, "registers": maps.grid.registers},
        "causal": twin.causal,
        "place": list(place),
        "token_share_median": median(shares),
        "cell_share_median": None if of_cells is None else median(of_cells),
        "beside_truth": {kind: found.summary() for kind, found in beside_truth.items()},
        "past_beside_truth": None if past is None else past.summary(),
        "faithful": {of: found.summary() for of, found in faithful.items() if found is not None},
        "rollout_to_registers": newest.to_registers,
        "rollout_by_step": newest.tokens.sum((1, 2)).tolist(),
        **statistics.summary(),
        "methods": METHODS,
    }
    write_summary(out / "attention.json", summary)

    folder = out / "pictures"
    rate_hz = twin.specs[recording_id].frame_rate_hz
    drawn = plot_attention(folder, maps, frames, frame_rate_hz=rate_hz, place=place, of_heads=kept, most_heads=heads)
    drawn += plot_statistics(folder, statistics)
    of_drawn = dict(list(relevance.items())[:units])
    drawn += plot_readouts(folder, twin, recording_id, maps.grid, frames, of_drawn, shares)
    if of_cells is not None:
        drawn += plot_surrounds(folder, beside_truth, twin.specs[recording_id].unit_ids, of_cells, units)
    drawn += plot_past(folder, past, twin.specs[recording_id].unit_ids, units)
    return summary, drawn


def relevant_tokens(newest: Newest, units: Sequence[int]) -> dict[int, np.ndarray]:
    """``relevance_of_tokens`` of each unit that reads any, (T, rows, columns), summing to one."""
    tokens = newest.tokens
    found = relevance_of_tokens(newest, units).reshape(len(units), -1, tokens.height, tokens.width)
    return {unit: own / own.sum() for unit, own in zip(units, found, strict=True) if own.sum() > 0}


def thinned(count: int, most: float, each: float) -> list[int]:
    """As many of ``count`` things of ``each`` bytes as fit into ``most``, evenly, the last one always."""
    number = count if each * count <= most else max(1, int(most // each))
    return sorted({count - 1 - round(i * count / number) for i in range(number)})
