"""Attention through all blocks at once (Abnar & Zuidema 2020).

Shape letters as in ``maps``, S sequences of tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from vivit_core.analysis.attention.maps import AttentionMaps


@dataclass(frozen=True, eq=False)
class Rollout:
    """Where an output looks.

    Attributes
    ----------
    tokens : (T, rows, columns) relevance of each token; sums to one.
    relevance : (F, H, W) the same spread over the frames and pixels that the tokens were cut from; sums to one.
    to_registers : the part that ended at registers, which see no pixels, before what is left was scaled to one.
    """

    tokens: np.ndarray
    relevance: np.ndarray
    to_registers: float


def rollout(
    maps: AttentionMaps,
    place: tuple[int, int] | np.ndarray,
    step: int = -1,
    *,
    clip: int = 0,
    residual: float = 0.5,
) -> Rollout:
    """Attention rollout (Abnar & Zuidema 2020): from an output token to frames and pixels.

    Each block passes on ``residual`` of a token itself and the rest of what it attends to, the heads averaged. From
    the output backwards: through the temporal blocks of each place to its time steps, then, in each time step, through
    the spatial blocks to all places; or through joint blocks to all tokens of the clip. Registers take part in every
    spatial and joint block; what is left at them in the end came from their learned start, not from the clip. It is a
    bookkeeping of attention over tokens: values, feed-forward layers, what convolutions before the tokens bring in from
    farther away, and what a readout or modulator does with the tokens or the map under them are not in it.

    Parameters
    ----------
    maps : whole, as ``extract_attention`` gives them without a choice; ``mean_of_heads`` does.
    place : row and column of the output token, or weights of several, (rows, columns): a unit's ``maps.windows[u]``.
    step : time step of the output; negative from the newest.
    clip : which of the maps' clips.
    residual : 0 for attention alone, 1 for the token itself.

    References
    ----------
    Abnar & Zuidema (2020), Quantifying attention flow in transformers, ACL.

    Raises
    ------
    ValueError
        Where the maps are not whole, and for a place, step or clip that they do not have.
    """
    if not maps.whole:
        raise ValueError(
            "a rollout goes through every layer, time step and place; extract the maps without layers=, steps= and "
            "places= (mean_of_heads=True keeps them small)"
        )
    time, rows, columns = maps.grid.shape
    weights = np.zeros((rows, columns))
    if isinstance(place, np.ndarray):
        if place.shape != (rows, columns) or place.min() < 0 or not place.sum() > 0:
            raise ValueError(
                f"weights of the output's places are {rows}×{columns} numbers, none negative, not all zero"
            )
        weights = place / place.sum()
    elif not (0 <= place[0] < rows and 0 <= place[1] < columns):
        raise ValueError(f"place={place}: the tokens lie on {rows} rows and {columns} columns, counted from 0")
    else:
        weights[place] = 1.0
    if not (-time <= step < time and -len(maps.spatial) <= clip < len(maps.spatial)):
        raise ValueError(f"step={step}, clip={clip}: there are {time} time steps and {len(maps.spatial)} clips")

    def back(relevance: np.ndarray, maps_LhSQK: np.ndarray) -> np.ndarray:
        """(S, Q) of the last block's output to (S, K) of the first one's input."""
        for map_hSQK in maps_LhSQK[::-1]:
            attended = np.einsum("sq,sqk->sk", relevance, map_hSQK.mean(0, dtype=np.float64))
            relevance = residual * relevance + (1 - residual) * attended
        return relevance

    start = np.zeros((rows * columns, time))
    start[:, step] = weights.ravel()
    in_time = back(start, maps.temporal[clip])  # (N, T)
    without_place = np.zeros((time, maps.grid.registers))
    tokens = np.concatenate([without_place, in_time.T], axis=1)  # (T, M)
    for map_hTMTM in maps.joint[clip][::-1]:
        attended = np.einsum("tq,tqsk->sk", tokens, map_hTMTM.mean(0, dtype=np.float64), optimize=True)
        tokens = residual * tokens + (1 - residual) * attended
    tokens = back(tokens, maps.spatial[clip])
    kept = tokens[:, maps.grid.registers :].reshape(time, rows, columns)
    kept = kept / kept.sum()
    lost = tokens[:, : maps.grid.registers].sum() / tokens.sum()
    return Rollout(kept, maps.grid.to_pixels(kept), float(lost))
