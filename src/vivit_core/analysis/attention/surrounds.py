"""Where the surround lies that cells compare themselves with, unit by unit, and whether it lies where it truly does.

A unit reads the gain that attention among cells makes at its own place (``CellAttention``). So at each moment its map
over the frame is that of the cells in its window: how alike each other cell is to them, in orientation or in motion,
and how near. What is at the unit's own place is no surround, and is left out.

Simulated recordings know at some test moments how much each place counted for a unit's context. The correlation of map
and truth over places is compared with chance: the same maps beside the truths of other units of the same kind, at the
same moment.

Shape letters: U units, M moments, J cells (R · S rows and columns), Q R and C rows and columns of the truth.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vivit_core.analysis.attention.blocks import attending_core
from vivit_core.data.recording.reader import Recording
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

KINDS = {"surround": "alike", "motion": "agree"}  # the simulator's, and the map that is to tell it
CLIP_BINS = 64  # before a moment; cells forget sooner
OWN_PX = 10.0  # as near as this to a unit's center is its own place


@dataclass(frozen=True, eq=False)
class SurroundMaps:
    """Of one clip's newest frame.

    Attributes
    ----------
    alike, agree : (U, R, S) by orientation and by motion, each unit's sums to one; 0 at its own place.
    ys, xs : (R,), (S,) where cells lie, px of the recording's frame.
    """

    alike: np.ndarray
    agree: np.ndarray
    ys: np.ndarray
    xs: np.ndarray


@torch.no_grad()
def surround_maps(twin: Twin, recording_id: str, clip: Clips) -> SurroundMaps | None:
    """The maps of a clip's newest frame; None where the twin's cells compare nothing, or its readout does not say where
    it looks."""
    core = attending_core(twin)
    attention, energy = core.cell_attention, core.energy
    if attention is None or energy is None:
        return None
    frames, _ = twin.adapt(recording_id, clip)
    cells, _ = energy.cells(frames, None)
    gain = attention.as_map(attention(cells, energy.usual))
    if (window_URS := twin.readout(recording_id).window_on(gain)) is None:
        return None
    alike, agree = (own[0, 0] for own in attention.weights(attention.faded(cells)[:, -1:]))
    scale = twin.scale(recording_id)
    ys, xs = ((own.cpu().numpy() + 0.5) * by - 0.5 for own, by in ((gain.ys, scale[1]), (gain.xs, scale[0])))
    center_U2 = twin.centers_px(recording_id)
    away_URS = np.hypot(xs - center_U2[:, 0, None, None], ys[:, None] - center_U2[:, 1, None, None])

    def of_units(weights_JJ: torch.Tensor) -> np.ndarray:
        weights_URS = (window_URS.flatten(1) @ weights_JJ).clamp_min(0).view_as(window_URS).cpu().numpy()
        weights_URS = np.where(away_URS > OWN_PX, weights_URS, 0.0)
        return weights_URS / np.maximum(weights_URS.sum((1, 2), keepdims=True), 1e-12)

    return SurroundMaps(of_units(alike), of_units(agree), ys, xs)


@dataclass(frozen=True, eq=False)
class BesideTruth:
    """How the maps of one kind of units correlate with the truth.

    Attributes
    ----------
    units : (N,) of the kind.
    correlation : (N,) of their maps with the true weights, the mean over moments; NaN where there were none.
    chance : (N,) the same with the truths of the kind's other units.
    maps, true : (N, R, C) of the last moment, on the truth's places, each unit's to be seen beside each other.
    bin : of that moment.
    """

    units: np.ndarray
    correlation: np.ndarray
    chance: np.ndarray
    maps: np.ndarray
    true: np.ndarray
    bin: int

    def summary(self) -> dict[str, float | int | None]:
        return {"units": len(self.units), "correlation": median(self.correlation), "chance": median(self.chance)}


def maps_beside_truth(twin: Twin, recording: Recording) -> dict[str, BesideTruth]:
    """The maps of a recording's units beside the truth, by kind of context; empty where nobody knows it, or where there
    are no maps."""
    truth, kinds = recording.context_weights(), recording.unit_column("context")
    if truth is None or kinds is None:
        return {}
    name, trials = recording.info.recording_id, recording.info.trials
    center_U2, found = twin.centers_px(name), {}
    beyond_URC = (
        np.hypot(
            truth.x_px_C - center_U2[:, 0, None, None],
            truth.y_px_R[:, None] - center_U2[:, 1, None, None],
        )
        > OWN_PX
    )
    made = []
    for now in truth.bins_M.tolist():
        start = max(int(trials.start[trials.start <= now].max()), now + 1 - CLIP_BINS)
        behavior = recording.behavior(start, now + 1, twin.specs[name].behavior)
        clip = Clips(
            frames=torch.as_tensor(recording.frames(start, now + 1))[None], behavior=torch.as_tensor(behavior)[None]
        )
        if (maps := surround_maps(twin, name, clip)) is None:
            return {}
        made.append(maps)
    for kind, which in KINDS.items():
        units = np.flatnonzero(kinds == kind)
        correlation, chance = np.full((2, len(made), len(units)), np.nan)
        for moment, maps in enumerate(made):
            rows, columns = (
                np.abs(at[:, None] - own).argmin(1) for at, own in ((truth.y_px_R, maps.ys), (truth.x_px_C, maps.xs))
            )
            map_NRC = getattr(maps, which)[units][:, rows][:, :, columns]
            true_NRC = truth.weights_UMRC[units, moment]
            both_NN = correlations(map_NRC, true_NRC, beyond_URC[units])
            correlation[moment] = np.diag(both_NN)
            chance[moment] = mean_of(np.where(np.eye(len(units), dtype=bool), np.nan, both_NN), 1)
        if made and len(units):
            bin = int(truth.bins_M[-1])
            found[kind] = BesideTruth(units, mean_of(correlation, 0), mean_of(chance, 0), map_NRC, true_NRC, bin)
    return found


def median(values: np.ndarray) -> float | None:
    """Of those that are numbers; None where none is."""
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def mean_of(values: np.ndarray, axis: int) -> np.ndarray:
    """The mean of those that are numbers; NaN where none is."""
    known = np.isfinite(values)
    total, number = np.where(known, values, 0.0).sum(axis), known.sum(axis)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def correlations(map_NRC: np.ndarray, true_NRC: np.ndarray, counts_NRC: np.ndarray) -> np.ndarray:
    """(N, N) of each map with each truth, over the places that count for the map's unit; NaN where one is flat."""
    number = len(map_NRC)
    found = np.full((number, number), np.nan)
    flat = true_NRC.reshape(number, -1).astype(np.float64)
    for row, (own, counts) in enumerate(zip(map_NRC, counts_NRC, strict=True)):
        x, y = own[counts].astype(np.float64), flat[:, counts.ravel()]
        x, y = x - x.mean(), y - y.mean(1, keepdims=True)
        size = np.sqrt((x**2).sum() * (y**2).sum(1))
        np.divide(y @ x, size, out=found[row], where=size > 1e-12)
    return found
