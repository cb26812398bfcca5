"""Attention: the maps of a forward pass, what they say of each head, and where an output looks (rollout).

A twin's ViViT attends in two ways: in each time step every token sees all tokens of the step (spatial, with the
registers before the places), and at each place every token sees itself and what was before (temporal). Or it does both
at once (joint).

    maps = extract_attention(twin, batch)["sim0"]      # softmax(q kᵀ / √d) of this very pass
    seen = rollout(maps, place=(1, 2))                 # (frames, height, width), sums to one
    plot_attention(folder, maps, frames)               # pictures and a film

Shape letters: B clips, L layers, h heads, T time steps, R registers, N places of a time step, M = R + N its tokens, Q
queries, K keys, F frames, H W pixels, U units, S sequences of tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.attention.blocks import (
    Kind,
    attending_core,
    blocks_of,
    chosen,
    core_with_blocks,
    heads_of,
    on_device,
)
from vivit_core.analysis.attention.token_grid import TokenGrid, token_grid, tokens_of, windows_on
from vivit_core.models.attention.base import Attention, Positions
from vivit_core.models.cores.vivit import ViViT
from vivit_core.models.layers import evaluating
from vivit_core.models.twin import Twin
from vivit_core.specs import Batch

MOST_JOINT = 2 * 2**30  # bytes of joint maps, which grow with the square of a clip's tokens
AT_ONCE = 64 * 2**20  # bytes of weights that are made at once, whatever the model and the clip


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights of one recording's clips.

    Attributes
    ----------
    spatial : (B, L, h, T, M, M) clip, layer, head, time step, query, key; registers first (``grid.is_register``),
        then the places, row by row (``grid.coordinates``).
    temporal : (B, L, h, N, T, T) clip, layer, head, place, query, key; oldest step first.
    joint : (B, L, h, T, M, T, M) clip, layer, head, then time step and token of the query, and of the key.
    grid : where the tokens lie.
    windows : (U, rows, columns) how much of each place each unit's readout reads; None where it cannot say.
    layers, steps, places : which ones the maps hold, of those the model has.
    whole : every layer, time step and place is there, as ``rollout`` needs them.
    """

    spatial: np.ndarray
    temporal: np.ndarray
    joint: np.ndarray
    grid: TokenGrid
    windows: np.ndarray | None
    layers: dict[Kind, tuple[int, ...]]
    steps: tuple[int, ...]
    places: tuple[int, ...]
    whole: bool


@torch.no_grad()
def extract_attention(
    twin: Twin,
    batch: Batch,
    *,
    layers: Sequence[int] | None = None,
    steps: Sequence[int] | None = None,
    places: Sequence[int] | None = None,
    mean_of_heads: bool = False,
    dtype: type[np.floating] = np.float32,
) -> dict[str, AttentionMaps]:
    """The attention weights of a forward pass, softmax(q kᵀ / √d + bias), for each recording of the batch.

    The pass is the model's own, in evaluation: each ``Attention`` shows the queries and keys that it goes on with
    (after normalization and rotation) and their positions, so that nothing is computed twice in two ways, and
    the predictions do not change. On the path that writes attention out they are the very numbers; a fused kernel
    never makes its weights, so there they are made from its queries and keys.

    Memory: the maps, ``B · L · h · (T · M² + N · T²)`` numbers if everything is kept, ``B · L · h · (T · M)²`` of joint
    blocks, and 64 MiB while they are made.
    For long clips keep some ``layers``, ``steps`` and ``places``, the mean of the heads, or ``dtype=np.float16``; to
    keep none, ``measure_attention`` sums up as it goes.

    Parameters
    ----------
    twin : with a ViViT core.
    batch : clips of some recordings, as ``twin`` takes them; counts are not needed.
    layers : blocks to keep, counted within each kind; negative from the end.
    steps : time steps whose spatial maps are kept, and the queries of joint maps; negative from the newest.
    places : places (row · columns + column) whose temporal maps are kept.
    mean_of_heads : keep the heads' mean alone: h = 1.
    dtype : of the maps; computed in float32.

    Raises
    ------
    ValueError
        For a core without attention, for layers, steps or places that it does not have, and for joint maps of over
        2 GiB.
    """
    core = core_with_blocks(twin)
    rows = [len(clips["frames"]) for clips in batch.values()]
    frames = next(iter(batch.values()))["frames"].shape[2]
    cut = tokens_of(twin, *next(iter(batch.items())))
    grids = {name: token_grid(twin, name, cut, frames) for name in batch}
    grid = next(iter(grids.values()))
    time, down, across = grid.shape
    blocks = blocks_of(core)
    kept_layers = {kind: chosen(layers if own else None, len(own), f"{kind} blocks") for kind, own in blocks.items()}
    kept_steps, kept_places = chosen(steps, time, "time steps"), chosen(places, down * across, "places")
    kept = {"spatial": kept_steps, "temporal": kept_places, "joint": (0,)}
    sequences = {"spatial": time, "temporal": down * across, "joint": 1}  # of a clip
    each = grid.is_register.size  # tokens of a time step
    one = {"spatial": (each, each), "temporal": (time, time), "joint": (len(kept_steps), each, time, each)}
    heads = 1 if mean_of_heads else heads_of(core)
    shapes = {
        kind: (sum(rows), len(own), heads, *((len(kept[kind]),) if kind != "joint" else ()), *one[kind])
        for kind, own in kept_layers.items()
    }
    if (size := math.prod(shapes["joint"]) * np.dtype(dtype).itemsize) > MOST_JOINT:
        raise ValueError(
            f"maps of joint blocks over {time * each} tokens would take {size / 2**30:.1f} GiB; keep fewer layers= or "
            "steps=, or give shorter clips (data.clip_length)"
        )
    maps = {kind: np.zeros(shape, dtype) for kind, shape in shapes.items()}

    def wanted(kind: Kind, layer: int) -> np.ndarray:
        if layer not in kept_layers[kind]:
            return np.zeros(0, int)
        return (np.arange(sum(rows))[:, None] * sequences[kind] + np.array(kept[kind], int)).ravel()

    def take(kind: Kind, layer: int, which: np.ndarray, weights_ShQK: Tensor) -> None:
        made = weights_ShQK.mean(1, keepdim=True) if mean_of_heads else weights_ShQK
        clip, sequence = np.divmod(which, sequences[kind])
        if kind == "joint":
            by_step = made.unflatten(3, (time, each)).unflatten(2, (time, each))[:, :, list(kept_steps)]
            maps[kind][clip, kept_layers[kind].index(layer)] = by_step.cpu().numpy()
            return
        place = np.searchsorted(kept[kind], sequence)
        maps[kind][clip, kept_layers[kind].index(layer), :, place] = made.cpu().numpy()

    watched_pass(twin, batch, take, wanted)
    whole = (len(kept_steps), len(kept_places)) == (time, down * across) and all(
        len(kept_layers[kind]) == len(own) for kind, own in blocks.items()
    )
    found, first = {}, 0
    for name, number in zip(batch, rows, strict=True):
        own = slice(first, first := first + number)
        found[name] = AttentionMaps(
            spatial=maps["spatial"][own],
            temporal=maps["temporal"][own],
            joint=maps["joint"][own],
            grid=grids[name],
            windows=windows_on(cut, twin.readout(name)),
            layers=kept_layers,
            steps=kept_steps,
            places=kept_places,
            whole=whole,
        )
    return found


Take = Callable[[Kind, int, np.ndarray, Tensor], None]
"""Receives kind, layer, the numbers of some sequences (clip · sequences of a clip + own number) and their weights,
(S, h, Q, K) float32."""


def watched_pass(twin: Twin, batch: Batch, take: Take, wanted: Callable[[Kind, int], np.ndarray] | None = None) -> None:
    """Predict a batch in evaluation while ``take`` sees the attention weights, a few sequences at a time.

    Parameters
    ----------
    twin, batch : what to predict.
    take : what to do with the weights.
    wanted : the numbers of the sequences that ``take`` is to see of a kind and layer; None: all.
    """
    device = next(twin.parameters()).device
    with evaluating(twin), watched(attending_core(twin), take, wanted):
        twin({name: on_device(clips, device) for name, clips in batch.items()})


@contextmanager
def watched(core: ViViT, take: Take, wanted: Callable[[Kind, int], np.ndarray] | None) -> Iterator[None]:
    def watcher(kind: Kind, layer: int, attention: Attention) -> Callable[[Tensor, Tensor, Positions], None]:
        def watch(q: Tensor, k: Tensor, positions: Positions) -> None:
            sequences, heads, tokens, _ = q.shape
            which = np.arange(sequences) if wanted is None else wanted(kind, layer)
            several = max(1, AT_ONCE // (4 * heads * tokens**2))
            for first in range(0, len(which), several):
                some = which[first : first + several]
                rows = torch.as_tensor(some, device=q.device)
                take(kind, layer, some, attention.weights(q[rows], k[rows], positions, positions))

        return watch

    attentions = blocks_of(core)
    try:
        for kind, own in attentions.items():
            for layer, attention in enumerate(own):
                attention.watch = watcher(kind, layer, attention)
        yield
    finally:
        for own in attentions.values():
            for attention in own:
                attention.watch = None
