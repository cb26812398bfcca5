"""Where the surround lies that cells compare themselves with, unit by unit, and whether it lies where it truly does.

A unit reads the gain that attention among cells makes at its own place (``CellAttention``). So at each moment its map
over the frame is that of the cells in its window: how alike each other cell is to them, in orientation or in motion,
and how near. What is at the unit's own place is no surround, and is left out.

Simulated recordings know at some test moments how much each place counted for a unit's context. Map and truth are
correlated over the places that count for the unit at any moment, so that knowing how far a surround reaches is worth
nothing. Chance is told twice: by the same unit's maps at *other moments*, and by the truths of *other units* of its
kind at the same moment. Cells compare what a training does not change much, so the maps of a twin that was not trained
are like these; what it learns is which units read them.

Shape letters: U units, M moments, O orientations, R S rows and columns of cells, Q C those of the truth, N units of one
kind, X Y any number of maps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vivit_core.analysis.attention.blocks import attending_core, on_device
from vivit_core.data.recording.reader import Recording
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips

KINDS = {"surround": "alike", "motion": "agree"}  # the simulator's, and the map that is to tell it
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
    frames, _ = twin.adapt(recording_id, on_device(clip, next(twin.parameters()).device))
    cells, _ = energy.cells(frames, None)
    gain = attention.as_map(attention(cells, energy.usual))
    if (window_URS := twin.readout(recording_id).window_on(gain)) is None:
        return None
    alike, agree = attention.seen_from(window_URS, attention.faded(cells)[0, -1])
    scale = twin.scale(recording_id)
    ys, xs = ((own.cpu().numpy() + 0.5) * by - 0.5 for own, by in ((gain.ys, scale[1]), (gain.xs, scale[0])))
    center_U2 = twin.centers_px(recording_id)
    away_URS = np.hypot(xs - center_U2[:, 0, None, None], ys[:, None] - center_U2[:, 1, None, None])

    def of_units(found_URS: torch.Tensor) -> np.ndarray:
        weights_URS = np.where(away_URS > OWN_PX, found_URS.clamp_min(0).cpu().numpy(), 0.0)
        return weights_URS / np.maximum(weights_URS.sum((1, 2), keepdims=True), 1e-12)

    return SurroundMaps(of_units(alike), of_units(agree), ys, xs)


@dataclass(frozen=True, eq=False)
class BesideTruth:
    """How the maps of one kind of units correlate with the truth.

    Attributes
    ----------
    units : (N,) of the kind.
    correlation : (N,) of their maps with the true weights, the mean over moments; NaN where there were none.
    other_moments, other_units : (N,) the same with the truths of other moments, and of the kind's other units.
    maps, true : (N, Q, C) of the last moment, on the truth's places, each unit's to be seen beside each other.
    bin : of that moment.
    """

    units: np.ndarray
    correlation: np.ndarray
    other_moments: np.ndarray
    other_units: np.ndarray
    maps: np.ndarray
    true: np.ndarray
    bin: int

    def summary(self) -> dict[str, float | int | None]:
        means = {name: median(getattr(self, name)) for name in ("correlation", "other_moments", "other_units")}
        return {"units": len(self.units), **means}


def maps_beside_truth(twin: Twin, recording: Recording) -> dict[str, BesideTruth]:
    """The maps of a recording's units beside the truth, by kind of context; empty where nobody knows it, or where there
    are no maps."""
    truth, kinds = recording.context_weights(), recording.unit_column("context")
    attention = attending_core(twin).cell_attention
    if truth is None or kinds is None or attention is None or not len(truth.bins_M):
        return {}
    name, trials = recording.info.recording_id, recording.info.trials
    made: dict[str, list[np.ndarray]] = {which: [] for which in KINDS.values()}
    for now in truth.bins_M.tolist():
        start = max(int(trials.start[trials.start <= now].max()), now - len(attention.fading_L))
        behavior = recording.behavior(start, now + 1, twin.specs[name].behavior)
        clip = Clips(
            frames=torch.as_tensor(recording.frames(start, now + 1))[None], behavior=torch.as_tensor(behavior)[None]
        )
        if (maps := surround_maps(twin, name, clip)) is None:
            return {}
        rows, columns = (
            np.abs(at[:, None] - own).argmin(1) for at, own in ((truth.y_px_R, maps.ys), (truth.x_px_C, maps.xs))
        )
        for which, own in made.items():
            own.append(getattr(maps, which)[:, rows][:, :, columns])
    found = {}
    for kind, which in KINDS.items():
        if not len(units := np.flatnonzero(kinds == kind)):
            continue
        map_NMQC, true_NMQC = np.stack(made[which], axis=1)[units], truth.weights_UMRC[units]
        correlation, other_moments, other_units = beside_truth(map_NMQC, true_NMQC, np.asarray((true_NMQC > 0).any(1)))
        found[kind] = BesideTruth(
            units=units,
            correlation=correlation,
            other_moments=other_moments,
            other_units=other_units,
            maps=map_NMQC[:, -1],
            true=true_NMQC[:, -1],
            bin=int(truth.bins_M[-1]),
        )
    return found


def beside_truth(
    map_NMQC: np.ndarray, true_NMQC: np.ndarray, counts_NQC: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(N,) each: how maps of one kind's units, at moments M, correlate with their truth, with that of other moments,
    and with that of other units, over the places that count for the unit; NaN where nothing can be said."""
    same, moments, others = [], [], []
    for unit, (own_MQC, counts_QC) in enumerate(zip(map_NMQC, counts_NQC, strict=True)):
        in_time = correlations(own_MQC, true_NMQC[unit], counts_QC)  # (M, M)
        same.append(mean_of(np.diag(in_time)))
        moments.append(mean_of(np.where(np.eye(len(own_MQC), dtype=bool), np.nan, in_time)))
        rest_MXQC = np.delete(true_NMQC, unit, axis=0).swapaxes(0, 1)
        pairs = zip(own_MQC, rest_MXQC, strict=True)
        others.append(mean_of(np.array([correlations(own[None], rest, counts_QC)[0] for own, rest in pairs])))
    return np.array(same), np.array(moments), np.array(others)


def median(values: np.ndarray) -> float | None:
    """Of those that are numbers; None where none is."""
    return float(np.nanmedian(values)) if np.isfinite(values).any() else None


def mean_of(values: np.ndarray) -> float:
    """Of those that are numbers; NaN where none is."""
    return float(np.nanmean(values)) if np.isfinite(values).any() else np.nan


def correlations(maps_XQC: np.ndarray, true_YQC: np.ndarray, counts_QC: np.ndarray) -> np.ndarray:
    """(X, Y) of each map with each truth over the places that count; NaN where one is flat."""
    x, y = (values[:, counts_QC].astype(np.float64) for values in (maps_XQC, true_YQC))
    x, y = x - x.mean(1, keepdims=True), y - y.mean(1, keepdims=True)
    size = np.sqrt((x**2).sum(1)[:, None] * (y**2).sum(1))
    return np.divide(x @ y.T, size, out=np.full(size.shape, np.nan), where=size > 1e-12)
