"""Chooses what of a twin's attention is drawn, and draws it.

Shape letters: L layers, h heads, M keys, T time steps, F frames, H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vivit_core.analysis.attention import plots as pictures
from vivit_core.analysis.attention.maps import AttentionMaps
from vivit_core.analysis.attention.rollout import rollout
from vivit_core.analysis.attention.statistics import AttentionStatistics
from vivit_core.analysis.attention.surrounds import BesideTruth
from vivit_core.analysis.attention.token_grid import TokenGrid
from vivit_core.models.twin import Twin
from vivit_core.names import short

Drawn = list[tuple[Path, str]]
"""Pictures and their captions."""

LEAST_SHARE = 0.01  # of a unit's rate, that its surround has to tell for its map to mean something


def plot_attention(
    folder: str | Path,
    maps: AttentionMaps,
    frames: np.ndarray,
    *,
    frame_rate_hz: float,
    place: tuple[int, int] | None = None,
    clip: int = 0,
    of_heads: AttentionMaps | None = None,
    most_heads: int = 8,
) -> Drawn:
    """Attention on the stimulus: each head's, the rollout's, and the rollout as a film.

    Parameters
    ----------
    folder : where ``attention_heads.png``, ``attention_rollout.png`` and ``attention.gif`` are written.
    maps : whole (of the heads, or of their mean).
    frames : (F, H, W) or (C, F, H, W) of the clip, as recorded.
    frame_rate_hz : of the recording.
    place : row and column of the token that looks; None: where most readouts look.
    clip : which of the maps' clips.
    of_heads : maps that hold the heads one by one, and the newest time step; None: ``maps``.
    most_heads : heads drawn, the first ones.

    Returns
    -------
    Pictures and their captions.
    """
    folder = Path(folder)
    frames_FHW = gray_of(frames)
    if frames_FHW.shape != maps.grid.size:
        raise ValueError(f"the maps are of a clip of (frames, height, width) {maps.grid.size}, not {frames_FHW.shape}")
    place = most_read(maps) if place is None else place
    newest = rollout(maps, place, clip=clip)  # says what is wrong with the place
    row, column = place
    box = (
        maps.grid.column_edges[column],
        maps.grid.row_edges[row],
        maps.grid.column_edges[column + 1],
        maps.grid.row_edges[row + 1],
    )
    time, rows, columns = maps.grid.shape
    frame_ms = 1e3 / frame_rate_hz
    where = f"row {row}, column {column}"
    drawn: Drawn = []
    single = maps if of_heads is None else of_heads
    registers = maps.grid.registers
    looking = registers + row * columns + column
    in_space = single.spatial[clip, :, :most_heads, -1, looking].astype(np.float64)  # (L, h, M)
    words = "in its own time step"
    if single.joint.shape[1]:
        in_space = single.joint[clip, :, :most_heads, -1, looking].sum(2, dtype=np.float64)
        words = "in all time steps together"
    if len(in_space):
        weights = in_space
        on_places = weights[..., registers:].reshape(*weights.shape[:2], rows, columns)
        even = maps.grid.columns_to_pixels(np.full((rows, columns), 1.0 / weights.shape[-1]))
        seen = np.array([[maps.grid.columns_to_pixels(head) for head in layer] for layer in on_places]) / even
        path = pictures.heads(
            folder / "attention_heads.png",
            frame_HW=frames_FHW[-1],
            weights_LhHW=seen,
            to_registers_Lh=weights[..., :registers].sum(-1),
            box=box,
            title=f"attention in space of the newest token at {where}",
        )
        drawn.append((path, f"Where the token in the box ({where}) looks {words}, by block and head."))
    path = pictures.rolled(
        folder / "attention_rollout.png",
        frames_FHW=frames_FHW,
        relevance_FHW=newest.relevance,
        step_edges=maps.grid.step_edges,
        step=time - 1,
        frame_ms=frame_ms,
        box=box,
        title=f"rollout of the newest output at {where}",
    )
    note = f" {newest.to_registers:.0%} of it ended at registers and is left out." if maps.grid.registers else ""
    drawn.append(
        (
            path,
            "Rollout (Abnar & Zuidema 2020) of attention over tokens from the newest output in the box; what "
            f"convolutions before the tokens bring in from farther away is not in it.{note}",
        )
    )
    path = pictures.film(
        folder / "attention.gif",
        frames_FHW=frames_FHW,
        relevance_TFHW=[rollout(maps, place, step, clip=clip).relevance for step in range(time)],
        step_edges=maps.grid.step_edges,
        frame_ms=frame_ms,
        box=box,
    )
    drawn.append((path, f"The same as time goes on: where, and at which frames, the output at {where} looks."))
    return drawn


def gray_of(frames: np.ndarray) -> np.ndarray:
    """Frames (F, H, W) float32, colors averaged."""
    frames = np.asarray(frames, np.float32)
    return frames.mean(0) if frames.ndim == 4 else frames


def most_read(maps: AttentionMaps) -> tuple[int, int]:
    """Row and column of the place that all readouts together read most; the middle where they do not say."""
    if maps.windows is None:
        _, rows, columns = maps.grid.shape
        return rows // 2, columns // 2
    row, column = np.unravel_index(int(maps.windows.sum(0).argmax()), maps.windows.shape[1:])
    return int(row), int(column)


def plot_statistics(folder: str | Path, statistics: AttentionStatistics) -> Drawn:
    """Entropy, distance and lags of each head: ``attention_by_head.png`` and ``attention_lags.png``."""
    folder = Path(folder)
    even, degrees = statistics.uniform, statistics.degrees_per_pixel
    by, unit = (1.0, "px") if degrees is None else (degrees, "degrees")
    path = pictures.by_head(
        folder / "attention_by_head.png",
        measures=[
            *(
                (f"{kind} entropy (bits)", entropy, even.get(f"{kind}_entropy_bits"))
                for kind, entropy in statistics.entropy_bits.items()
            ),
            (f"spatial distance ({unit})", statistics.distance_px * by, even.get("distance_px", 0.0) * by),
            ("mean lag (ms)", statistics.lag_ms, even.get("lag_ms")),
        ],
    )
    drawn = [(path, f"Each head (a point) and their mean (line), over {statistics.clips} test clips.")]
    if statistics.profile.size:
        path = pictures.lags(
            folder / "attention_lags.png",
            lags_ms=statistics.lags_ms,
            profile_LhT=statistics.profile,
            even_T=statistics.even_profile,
        )
        drawn.append((path, "How far back each head of the blocks over time looks."))
    return drawn


def plot_readouts(
    folder: Path,
    twin: Twin,
    recording_id: str,
    grid: TokenGrid,
    frames: np.ndarray,
    relevance: Mapping[int, np.ndarray],
    shares: np.ndarray,
) -> Drawn:
    """Which tokens change some units' rates: ``attention_units.png``.

    Parameters
    ----------
    folder : where it is written.
    twin, recording_id : whose units.
    grid : where tokens lie.
    frames : (F, H, W) or (C, F, H, W) of the clip.
    relevance : of each unit by its number, (T, rows, columns), sums to one (``relevance_of_tokens``).
    shares : (U,) of all units, from ``token_share``.
    """
    if not relevance:
        return []
    frames_FHW = gray_of(frames)
    spec, chosen = twin.specs[recording_id], list(relevance)
    gaussians = twin.gaussians_px(recording_id)
    windows = None if gaussians is None else {name: values[chosen] for name, values in gaussians.items()}
    found = [grid.to_pixels(own) for own in relevance.values()]
    path = pictures.readouts(
        folder / "attention_units.png",
        frame_HW=frames_FHW[-1],
        relevance_UHW=np.stack([own.sum(0) for own in found]),
        in_time_UF=np.stack([own.sum((1, 2)) for own in found]),
        frame_ms=1e3 / spec.frame_rate_hz,
        windows=windows,
        names=[f"unit {short(spec.unit_ids[unit], 20)}, {shares[unit]:.0%} from tokens" for unit in chosen],
        title=f"{short(recording_id)}: which tokens change units' rates",
    )
    return [
        (
            path,
            "How much each token's presence changes the newest rate (the gradient's size), and where readouts look "
            "(ellipses, 1 standard deviation).",
        )
    ]


def plot_surrounds(
    folder: Path, beside_truth: Mapping[str, BesideTruth], names: Sequence[str], share_U: np.ndarray, units: int
) -> Drawn:
    """Maps of the surround beside the true ones: ``attention_surround_KIND.png`` for each kind of context.

    Parameters
    ----------
    folder : where they are written.
    beside_truth : from ``maps_beside_truth``.
    names : of all units.
    share_U : how much of each unit's rate comes from attention among cells; those with most are drawn.
    units : drawn of each kind.
    """
    drawn = []
    for kind, found in beside_truth.items():
        most = np.argsort(-np.nan_to_num(share_U[found.units]), kind="stable")[:units]
        path = pictures.surrounds(
            folder / f"attention_surround_{kind}.png",
            maps_NRC=found.maps[most],
            true_NRC=found.true[most],
            names=labels([names[unit] for unit in found.units[most]], share_U[found.units[most]]),
            correlation_N=found.correlation[most],
        )
        drawn.append(
            (
                path,
                f"Units with {kind}: where a unit's cells find likes of theirs (left), and the truth (right), in bin "
                f"{found.bin}. Correlations are means over moments.",
            )
        )
    return drawn


def labels(names: Sequence[str], share_U: np.ndarray) -> list[str]:
    """Units' names, and how much of their rate their surround tells, or that it tells nothing."""
    return [
        f"{short(name, 20)}: " + (f"{share:.0%} of its rate" if share >= LEAST_SHARE else "uses no surround")
        for name, share in zip(names, share_U, strict=True)
    ]
