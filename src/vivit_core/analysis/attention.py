"""Attention: the maps of a forward pass, what they say of each head, and where an output looks (rollout).

A twin's ViViT attends in two ways: in each time step every token sees all tokens of the step (spatial, with the
registers before the places), and at each place every token sees itself and what was before (temporal).

    maps = extract_attention(twin, batch)["sim0"]      # softmax(q kᵀ / √d) of this very pass
    seen = rollout(maps, place=(1, 2))                 # (frames, height, width), sums to one
    plot_attention(folder, maps, frames)               # pictures and a film

Shape letters: B clips, L layers, h heads, T time steps, R registers, N places of a time step, M = R + N its tokens,
Q queries, K keys, F frames, H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import einsum, reduce
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.analysis import attention_pictures as pictures
from vivit_core.analysis.report import Section, Table
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.models.attention import Attention, Block, Reach
from vivit_core.models.layers import Level
from vivit_core.models.readout import GaussianReadout
from vivit_core.models.tokenizer import Tokens
from vivit_core.models.twin import Twin
from vivit_core.models.vivit import ViViT
from vivit_core.names import short
from vivit_core.specs import Batch, Clips

Kind = Literal["spatial", "temporal"]
AT_ONCE = 64 * 2**20  # bytes of weights that are made at once, whatever the model and the clip


# Where the tokens lie -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Which frames and pixels of a clip each token was cut from; what was padded belongs to no token.

    Convolutions before the tokens let each see more than its own block: a stem half a kernel around it, the blocks of
    a residual stem several cells around and several steps before, and a temporal front end its lags before it.

    Attributes
    ----------
    registers : tokens without a place, which stand before the others in spatial maps.
    step_edges : (T + 1,) frames; step t is cut from frames ``step_edges[t]`` … ``step_edges[t + 1] - 1``.
    row_edges, column_edges : pixels of the recording's own frames, pixel y reaching from y to y + 1.
    """

    registers: int
    step_edges: np.ndarray
    row_edges: np.ndarray
    column_edges: np.ndarray

    @property
    def shape(self) -> tuple[int, int, int]:
        """Time steps, rows and columns of tokens."""
        return len(self.step_edges) - 1, len(self.row_edges) - 1, len(self.column_edges) - 1

    @property
    def size(self) -> tuple[int, int, int]:
        """Frames, height and width of the clip."""
        return int(self.step_edges[-1]), round(self.row_edges[-1]), round(self.column_edges[-1])

    @property
    def is_register(self) -> np.ndarray:
        """(M,) true for the registers among a spatial map's queries and keys."""
        _, rows, columns = self.shape
        return np.arange(self.registers + rows * columns) < self.registers

    @property
    def coordinates(self) -> np.ndarray:
        """(M, 2) row and column of each token of a spatial map, -1 for registers. Temporal maps hold places alone."""
        _, rows, columns = self.shape
        places = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1)
        return np.concatenate([np.full((self.registers, 2), -1), places])

    @property
    def centres_px(self) -> np.ndarray:
        """(N, 2) y and x of the places' centres, in pixels of the recording's frames."""
        y, x = ((edges[:-1] + edges[1:] - 1) / 2 for edges in (self.row_edges, self.column_edges))
        return np.stack([np.repeat(y, len(x)), np.tile(x, len(y))], axis=1)

    @property
    def ends(self) -> np.ndarray:
        """(T,) the newest frame of each step; from then on it is read out."""
        return self.step_edges[1:].astype(int) - 1

    @cached_property
    def _blocks(self) -> list[np.ndarray]:
        """For time, rows and columns: (tokens, frames or pixels), each token spread evenly over its own."""
        return [
            spread(edges, size)
            for edges, size in zip((self.step_edges, self.row_edges, self.column_edges), self.size, strict=True)
        ]

    def to_pixels(self, relevance: np.ndarray) -> np.ndarray:
        """Spread what each token has over its frames and pixels: (T, rows, columns) to (F, H, W), the sum kept."""
        in_time, down, across = self._blocks
        return np.einsum("trc,tf,rh,cw->fhw", relevance, in_time, down, across, optimize=True)

    def columns_to_pixels(self, weights: np.ndarray) -> np.ndarray:
        """The same for one moment: (rows, columns) to (H, W)."""
        _, down, across = self._blocks
        return down.T @ weights @ across


def spread(edges: np.ndarray, size: int) -> np.ndarray:
    """(cells, size): the part of each cell, between two edges, that lies in each unit interval; rows sum to one."""
    unit = np.arange(size)
    inside = np.minimum(edges[1:, None], unit + 1) - np.maximum(edges[:-1, None], unit)
    inside = np.clip(inside, 0.0, None)
    return inside / inside.sum(axis=1, keepdims=True)


def tokens_of(twin: Twin, recording_id: str, clips: Clips) -> Tokens:
    """The tokens of one clip before any block: where they lie is the tokenizer's to say."""
    core = attending_core(twin)
    one = Clips(frames=clips["frames"][:1], behavior=clips["behavior"][:1])
    frames, _ = twin.adapt(recording_id, on_device(one, next(twin.parameters()).device))
    tokens: Tokens = core.tokenizer(frames if core.frontend is None else core.frontend(frames))
    return tokens


def windows_on(tokens: Tokens, readout: GaussianReadout) -> np.ndarray:
    """How much of each token's place each unit's readout reads, (U, rows, columns); sums to one for each unit.

    Where tokens write back to the map that they were cut from, a token's place is its cells of that map.
    """
    read = readout.window(tokens.map or tokens.as_level(tokens.x_BTND))
    down, across = tokens.cells
    padding = (0, tokens.width * across - read.shape[2], 0, tokens.height * down - read.shape[1])
    return reduce(F.pad(read, padding), "u (h ph) (w pw) -> u h w", "sum", ph=down, pw=across).cpu().numpy()


def token_grid(twin: Twin, recording_id: str, tokens: Tokens, frames: int) -> TokenGrid:
    """Where tokens lie in a recording's clips of so many frames."""
    core, level = attending_core(twin), tokens.as_level(tokens.x_BTND)
    _, rows_px, columns_px = core.tokenizer.patch_size
    _, height, width = twin.specs[recording_id].frame_shape

    def edges(centres: Tensor, cell: int, common: int, own: int) -> np.ndarray:
        first = float(centres[0]) - cell / 2 + 0.5
        found = np.clip((first + cell * np.arange(len(centres) + 1)) * own / common, 0, own)
        # A residual stem's last map may end a little before the frame, which it sees all the same.
        found[[0, -1]] = 0, own
        return found

    steps = level.first_end + 1 + level.stride * np.arange(-1, level.x_BCTHW.shape[2])
    return TokenGrid(
        registers=0 if core.registers is None else len(core.registers),
        step_edges=np.clip(steps, 0, frames),
        row_edges=edges(level.ys, rows_px, twin.frame_size[0], height),
        column_edges=edges(level.xs, columns_px, twin.frame_size[1], width),
    )


# The maps -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """Attention weights of one recording's clips.

    Attributes
    ----------
    spatial : (B, L, h, T, M, M) clip, layer, head, time step, query, key; registers first (``grid.is_register``),
        then the places, row by row (``grid.coordinates``).
    temporal : (B, L, h, N, T, T) clip, layer, head, place, query, key; oldest step first.
    grid : where the tokens lie.
    windows : (U, rows, columns) how much of each place each unit's readout reads.
    layers, steps, places : which ones the maps hold, of those the model has.
    whole : every layer, time step and place is there, as ``rollout`` needs them.
    """

    spatial: np.ndarray
    temporal: np.ndarray
    grid: TokenGrid
    windows: np.ndarray
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
    """The attention weights of a forward pass, softmax(q kᵀ / √d), for each recording of the batch.

    The pass is the model's own, in evaluation: each ``Attention`` shows the queries and keys that it goes on with
    (after normalisation and rotation) and the mask of its reach, so that nothing is computed twice in two ways, and
    the predictions do not change. On the path that writes attention out they are the very numbers; a fused kernel
    never makes its weights, so there they are made from its queries and keys.

    Memory: the maps, ``B · L · h · (T · M² + N · T²)`` numbers if everything is kept, and 64 MiB while they are made.
    For long clips keep some ``layers``, ``steps`` and ``places``, the mean of the heads, or ``dtype=np.float16``; to
    keep none, ``measure_attention`` sums up as it goes.

    Parameters
    ----------
    twin : with a ViViT core.
    batch : clips of some recordings, as ``twin`` takes them; counts are not needed.
    layers : blocks to keep, counted within the spatial and within the temporal ones; negative from the end.
    steps : time steps whose spatial maps are kept; negative from the newest.
    places : places (row · columns + column) whose temporal maps are kept.
    mean_of_heads : keep the heads' mean alone: h = 1.
    dtype : of the maps; computed in float32.

    Raises
    ------
    ValueError
        For a core without attention, and for layers, steps or places that it does not have.
    """
    core = attending_core(twin)
    rows = [len(clips["frames"]) for clips in batch.values()]
    frames = next(iter(batch.values()))["frames"].shape[2]
    cut = tokens_of(twin, *next(iter(batch.items())))
    grids = {name: token_grid(twin, name, cut, frames) for name in batch}
    grid = next(iter(grids.values()))
    time, down, across = grid.shape
    blocks = blocks_of(core)
    kept_layers = {kind: chosen(layers, len(own), f"{kind} blocks") for kind, own in blocks.items()}
    kept = {"spatial": chosen(steps, time, "time steps"), "temporal": chosen(places, down * across, "places")}
    sequences = {"spatial": time, "temporal": down * across}  # of a clip
    tokens = {"spatial": grid.is_register.size, "temporal": time}
    heads = 1 if mean_of_heads else heads_of(core)
    maps = {
        kind: np.zeros((sum(rows), len(kept_layers[kind]), heads, len(kept[kind]), *(tokens[kind],) * 2), dtype)
        for kind in blocks
    }

    def wanted(kind: Kind, layer: int) -> np.ndarray:
        if layer not in kept_layers[kind]:
            return np.zeros(0, int)
        return (np.arange(sum(rows))[:, None] * sequences[kind] + np.array(kept[kind], int)).ravel()

    def take(kind: Kind, layer: int, which: np.ndarray, weights_ShQK: Tensor) -> None:
        made = weights_ShQK.mean(1, keepdim=True) if mean_of_heads else weights_ShQK
        clip, sequence = np.divmod(which, sequences[kind])
        place = np.searchsorted(kept[kind], sequence)
        maps[kind][clip, kept_layers[kind].index(layer), :, place] = made.cpu().numpy()

    watched_pass(twin, batch, take, wanted)
    whole = all(len(kept_layers[kind]) == len(blocks[kind]) and len(kept[kind]) == sequences[kind] for kind in blocks)
    found, first = {}, 0
    for name, number in zip(batch, rows, strict=True):
        own = slice(first, first := first + number)
        found[name] = AttentionMaps(
            spatial=maps["spatial"][own],
            temporal=maps["temporal"][own],
            grid=grids[name],
            windows=windows_on(cut, twin.readout(name)),
            layers=kept_layers,
            steps=kept["spatial"],
            places=kept["temporal"],
            whole=whole,
        )
    return found


def attending_core(twin: nn.Module) -> ViViT:
    """The twin's ViViT.

    Raises
    ------
    ValueError
        Where its core does not attend.
    """
    core = getattr(twin, "core", None)
    if not isinstance(core, ViViT) or not (len(core.spatial) or len(core.temporal)):
        raise ValueError(
            f"a core of {type(core if core is not None else twin).__name__} has no attention to look at; "
            "give a twin with a ViViT core, for example of model=vivit_small"
        )
    return core


def blocks_of(core: ViViT) -> dict[Kind, list[Attention]]:
    def attentions(blocks: nn.ModuleList) -> list[Attention]:
        return [block.attention for block in blocks if isinstance(block, Block)]

    return {"spatial": attentions(core.spatial), "temporal": attentions(core.temporal)}


def heads_of(core: ViViT) -> int:
    """All blocks have the same number."""
    return next(attention.heads for own in blocks_of(core).values() for attention in own)


def chosen(given: Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    """The wanted ones of ``count`` things, in their order."""
    if given is None:
        return tuple(range(count))
    if any(not -count <= i < count for i in given):
        raise ValueError(f"the model has {count} {what}, and {list(given)} were asked for; give numbers below {count}")
    return tuple(sorted({i % count for i in given}))


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
    training, device = twin.training, next(twin.parameters()).device
    twin.eval()
    try:
        with watched(attending_core(twin), take, wanted):
            twin({name: on_device(clips, device) for name, clips in batch.items()})
    finally:
        twin.train(training)


@contextmanager
def watched(core: ViViT, take: Take, wanted: Callable[[Kind, int], np.ndarray] | None) -> Iterator[None]:
    def watcher(kind: Kind, layer: int, attention: Attention) -> Callable[[Tensor, Tensor, Reach], None]:
        def watch(q: Tensor, k: Tensor, reach: Reach) -> None:
            sequences, heads, tokens, _ = q.shape
            mask = reach.mask(tokens, q.device)
            which = np.arange(sequences) if wanted is None else wanted(kind, layer)
            several = max(1, AT_ONCE // (4 * heads * tokens**2))
            for first in range(0, len(which), several):
                some = which[first : first + several]
                rows = torch.as_tensor(some, device=q.device)
                take(kind, layer, some, attention.weights(q[rows], k[rows], mask))

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


def on_device(clips: Clips, device: torch.device) -> Clips:
    """What the twin predicts from, and no more."""
    return Clips(frames=clips["frames"].to(device), behavior=clips["behavior"].to(device))


# What the heads do --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class AttentionStatistics:
    """What each head does on average, over clips, time steps and places.

    Attributes
    ----------
    clips : that were averaged over.
    entropy_bits : of a query's weights, by kind, (L, h). Of spatial heads over all tokens, registers included.
    distance_px : (L, h) mean distance between the centres of query and key, in pixels of the recording, weighted by
        attention; keys that are registers are left out.
    to_registers : (L, h) attention that goes to registers.
    lag_ms : (L, h) mean distance in time, weighted by attention.
    lags_ms : (lags,) how far back the steps lie; negative where they lie ahead, which only an acausal model sees.
    profile : (L, h, lags) attention by lag; sums to one.
    uniform : what a head that attends evenly would have: ``spatial_entropy_bits``, ``distance_px``,
        ``temporal_entropy_bits``, ``lag_ms``.
    degrees_per_pixel : of the recording, where known.
    """

    clips: int
    entropy_bits: dict[Kind, np.ndarray]
    distance_px: np.ndarray
    to_registers: np.ndarray
    lag_ms: np.ndarray
    lags_ms: np.ndarray
    profile: np.ndarray
    uniform: dict[str, float]
    degrees_per_pixel: float | None

    def summary(self) -> dict[str, Any]:
        """Plain lists, a row a layer, a number a head."""
        degrees = self.degrees_per_pixel
        return {
            "clips": self.clips,
            "spatial": {
                "entropy_bits": self.entropy_bits["spatial"].tolist(),
                "distance_px": self.distance_px.tolist(),
                "distance_deg": None if degrees is None else (self.distance_px * degrees).tolist(),
                "to_registers": self.to_registers.tolist(),
            },
            "temporal": {
                "entropy_bits": self.entropy_bits["temporal"].tolist(),
                "lag_ms": self.lag_ms.tolist(),
                "lags_ms": self.lags_ms.tolist(),
                "profile": self.profile.tolist(),
            },
            "uniform": self.uniform,
        }


@torch.no_grad()
def measure_attention(twin: Twin, recording_id: str, clips: Iterable[Clips]) -> AttentionStatistics:
    """Entropy, distance and lags of each head, summed up on the way: no map is kept.

    Temporal numbers are of queries that have their whole reach before them (the window, or the clip), so that each
    had the same choice.

    Parameters
    ----------
    twin : with a ViViT core.
    recording_id : whose clips.
    clips : some clips at a time, all of one length.

    Raises
    ------
    ValueError
        For a core without attention, and for clips of different lengths.
    """
    core, spec = attending_core(twin), twin.specs[recording_id]
    device = next(twin.parameters()).device
    rest = iter(clips)
    some = next(rest, None)
    if some is None:
        raise ValueError(f"recording {recording_id}: there are no clips to look at")
    length, seen = some["frames"].shape[2], 0
    grid = token_grid(twin, recording_id, tokens_of(twin, recording_id, some), length)
    time, *_ = grid.shape
    reach = time if core.reach.window is None else min(time, core.reach.window)
    lags = torch.arange(0 if core.causal else 1 - time, reach, device=device)
    lag_QK = torch.arange(time, device=device)[:, None] - torch.arange(time, device=device)
    of_lag = (lag_QK == lags[:, None, None]).float()  # (lags, Q, K)
    distance_NN = torch.as_tensor(distances(grid.centres_px), dtype=torch.float32, device=device)
    shape = {kind: (len(own), heads_of(core)) for kind, own in blocks_of(core).items()}
    entropy = {kind: np.zeros(own) for kind, own in shape.items()}
    distance, to_registers = np.zeros(shape["spatial"]), np.zeros(shape["spatial"])
    profile = np.zeros((*shape["temporal"], len(lags)))
    queries = {kind: np.zeros((depth, 1)) for kind, (depth, _) in shape.items()}

    def take(kind: Kind, layer: int, which: np.ndarray, weights_ShQK: Tensor) -> None:
        first = grid.registers if kind == "spatial" else reach - 1 if core.causal else 0
        w = weights_ShQK[:, :, first:]
        queries[kind][layer] += w.shape[0] * w.shape[2]
        entropy[kind][layer] -= summed(torch.special.xlogy(w, w), "s h q k -> h") / np.log(2)
        if kind == "spatial":
            places = w[..., grid.registers :]
            to_registers[layer] += summed(w[..., : grid.registers], "s h q k -> h")
            distance[layer] += summed((places * distance_NN).sum(-1) / places.sum(-1), "s h q -> h")
        else:
            profile[layer] += einsum(w.sum(0), of_lag[:, first:], "h q k, lag q k -> h lag").double().cpu().numpy()

    while some is not None:
        if some["frames"].shape[2] != length:
            raise ValueError(f"heads are compared over clips of one length; got {length} and {some['frames'].shape[2]}")
        seen += len(some["frames"])
        watched_pass(twin, {recording_id: some}, take)
        some = next(rest, None)

    step_ms = 1e3 * core.stride / spec.frame_rate_hz
    back = lags.cpu().numpy()
    even = np.ones(len(back)) if core.causal else time - np.abs(back)
    profile /= np.maximum(queries["temporal"], 1)[..., None]
    return AttentionStatistics(
        clips=seen,
        entropy_bits={kind: entropy[kind] / np.maximum(queries[kind], 1) for kind in shape},
        distance_px=distance / np.maximum(queries["spatial"], 1),
        to_registers=to_registers / np.maximum(queries["spatial"], 1),
        lag_ms=profile @ np.abs(back) * step_ms,
        lags_ms=back * step_ms,
        profile=profile,
        uniform={
            "spatial_entropy_bits": float(np.log2(grid.is_register.size)),
            "distance_px": float(distance_NN.mean()),
            "temporal_entropy_bits": float(np.log2(reach)),
            "lag_ms": float(even @ np.abs(back) / even.sum() * step_ms),
        },
        degrees_per_pixel=spec.degrees_per_pixel,
    )


def summed(values: Tensor, pattern: str) -> np.ndarray:
    return reduce(values.double(), pattern, "sum").cpu().numpy()


def distances(centres_px: np.ndarray) -> np.ndarray:
    """(N, N) between the places' centres."""
    return np.linalg.norm(centres_px[:, None] - centres_px, axis=-1)


# Rollout ------------------------------------------------------------------------------------------------------------


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
    """Attention rollout (Abnar & Zuidema 2020) of a factorised model: from an output token to frames and pixels.

    Each block passes on ``residual`` of a token itself and the rest of what it attends to, the heads averaged. From
    the output backwards: through the temporal blocks of each place to its time steps, then, in each time step, through
    the spatial blocks to all places. Registers take part in every spatial block; what is left at them in the end came
    from their learned start, not from the clip. It is a bookkeeping of attention over tokens: values, feed-forward
    layers, what convolutions before the tokens bring in from farther away, and what a readout or modulator does with
    the tokens or the map under them are not in it.

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
    tokens = back(np.concatenate([without_place, in_time.T], axis=1), maps.spatial[clip])  # (T, M)
    kept = tokens[:, maps.grid.registers :].reshape(time, rows, columns)
    kept = kept / kept.sum()
    lost = tokens[:, : maps.grid.registers].sum() / tokens.sum()
    return Rollout(kept, maps.grid.to_pixels(kept), float(lost))


# Pictures -----------------------------------------------------------------------------------------------------------

Drawn = list[tuple[Path, str]]
"""Pictures and their captions."""


def plot_attention(
    folder: Path,
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
    frames_FHW = np.asarray(frames, np.float32)
    frames_FHW = frames_FHW.mean(0) if frames_FHW.ndim == 4 else frames_FHW
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
    if single.spatial.shape[1]:
        registers = maps.grid.registers
        weights = single.spatial[clip, :, :most_heads, -1, registers + row * columns + column].astype(np.float64)
        on_places = weights[..., registers:].reshape(*weights.shape[:2], rows, columns)
        even = maps.grid.columns_to_pixels(np.full((rows, columns), 1.0 / weights.shape[-1]))
        seen = np.array([[maps.grid.columns_to_pixels(head) for head in layer] for layer in on_places]) / even
        path = pictures.heads(
            folder / "attention_heads.png",
            frame_HW=frames_FHW[-1],
            weights_LhHW=seen,
            to_registers_Lh=weights[..., :registers].sum(-1),
            box=box,
            title=f"spatial attention of the newest token at {where}",
        )
        drawn.append((path, f"Where the token in the box ({where}) looks in its own time step, by block and head."))
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


def most_read(maps: AttentionMaps) -> tuple[int, int]:
    """Row and column of the place that all readouts together read most."""
    row, column = np.unravel_index(int(maps.windows.sum(0).argmax()), maps.windows.shape[1:])
    return int(row), int(column)


def plot_statistics(folder: Path, statistics: AttentionStatistics) -> Drawn:
    """Entropy, distance and lags of each head: ``attention_by_head.png`` and ``attention_lags.png``."""
    even, degrees = statistics.uniform, statistics.degrees_per_pixel
    by, unit = (1.0, "px") if degrees is None else (degrees, "degrees")
    path = pictures.by_head(
        folder / "attention_by_head.png",
        measures=[
            ("spatial entropy (bits)", statistics.entropy_bits["spatial"], even["spatial_entropy_bits"]),
            (f"spatial distance ({unit})", statistics.distance_px * by, even["distance_px"] * by),
            ("temporal entropy (bits)", statistics.entropy_bits["temporal"], even["temporal_entropy_bits"]),
            ("mean lag (ms)", statistics.lag_ms, even["lag_ms"]),
        ],
    )
    drawn = [(path, f"Each head (a point) and their mean (line), over {statistics.clips} test clips.")]
    if statistics.profile.size:
        path = pictures.lags(folder / "attention_lags.png", lags_ms=statistics.lags_ms, profile_LhT=statistics.profile)
        drawn.append((path, "How far back each head of the temporal blocks looks."))
    return drawn


@torch.no_grad()
def token_share(twin: Twin, recording_id: str, clips: Clips) -> np.ndarray:
    """How much of each unit's drive comes from the tokens.

    A readout reads several levels, and convolutions or behaviour feed all of them, the one that the tokens write to as
    well. So the twin runs once as it is and once with zeros in place of what the blocks made of the tokens. This is the
    variance over the clips' bins of the difference that it makes to the drive, as a part of the sum of it and the
    variance of what is left. What behaviour does through the modulator is left, and does not count.

    Returns
    -------
    (U,) from 0 to 1; NaN for a unit that nothing drives.
    """
    readout, drives = twin.readout(recording_id), []

    def look(module: nn.Module, given: tuple[list[Level], int], keywords: dict[str, Any]) -> None:
        levels, bins = given
        drive = readout.drive(levels, bins, last=False)[:, max(0, levels[-1].first_end) :]
        drives.append(drive.double().flatten(0, 1))

    def run() -> None:
        watched_pass(twin, {recording_id: clips}, lambda *_: None, lambda *_: np.zeros(0, int))

    looking = readout.register_forward_pre_hook(look, with_kwargs=True)
    try:
        run()
        silence = attending_core(twin).norm.register_forward_hook(lambda module, given, made: torch.zeros_like(made))
        try:
            run()
        finally:
            silence.remove()
    finally:
        looking.remove()
    whole, without = drives
    of_tokens, left = (whole - without).var(0), without.var(0)
    return (of_tokens / (of_tokens + left)).cpu().numpy()  # 0 / 0 is NaN


def plot_readouts(
    folder: Path,
    twin: Twin,
    recording_id: str,
    maps: AttentionMaps,
    frames: np.ndarray,
    units: Sequence[int],
    shares: np.ndarray,
    *,
    clip: int = 0,
) -> Drawn:
    """Where some units look through the attention: their windows on the tokens pulled back through the rollout.

    Parameters
    ----------
    folder : where ``attention_units.png`` is written.
    twin, recording_id : whose readouts.
    maps : whole.
    frames : (F, H, W) or (C, F, H, W) of the clip.
    units : numbers of the units.
    shares : (U,) of all units, from ``token_share``.
    clip : which of the maps' clips.
    """
    frames_FHW = np.asarray(frames, np.float32)
    frames_FHW = frames_FHW.mean(0) if frames_FHW.ndim == 4 else frames_FHW
    spec, gaussians = twin.specs[recording_id], twin.readout_gaussians(recording_id)
    found = [rollout(maps, maps.windows[unit].astype(np.float64), clip=clip).relevance for unit in units]
    # Gaussians live on the twin's common frame, which the recording's own frames may have been resized to.
    scale = np.array([spec.frame_shape[2] / twin.frame_size[1], spec.frame_shape[1] / twin.frame_size[0]])
    path = pictures.readouts(
        folder / "attention_units.png",
        frame_HW=frames_FHW[-1],
        relevance_UHW=np.stack([relevance.sum(0) for relevance in found]),
        in_time_UF=np.stack([relevance.sum((1, 2)) for relevance in found]),
        frame_ms=1e3 / spec.frame_rate_hz,
        mean_px=(gaussians["mean_px"][list(units)] + 0.5) * scale - 0.5,
        std_px=gaussians["std_px"][list(units)] * scale.mean(),
        angle_deg=gaussians["angle_deg"][list(units)],
        names=[f"unit {short(spec.unit_ids[unit], 20)}, {shares[unit]:.0%} from tokens" for unit in units],
        title=f"{short(recording_id)}: where readouts look through the attention",
    )
    return [
        (path, "Readout windows (ellipses, 1 standard deviation) pulled back through the rollout of the newest token.")
    ]


# All of it -----------------------------------------------------------------------------------------------------------


def study_attention(
    twin: Twin,
    recording_id: str,
    clip: Clips,
    clips: Iterable[Clips],
    *,
    out: Path,
    place: tuple[int, int] | None,
    heads: int,
    units: int,
    megabytes: float,
) -> tuple[dict[str, Any], Drawn]:
    """Look at a twin's attention: write ``attention.npz``, ``attention.json`` and the pictures of all the above.

    ``attention.npz`` holds of the clip that is drawn: ``spatial`` (L, h, steps, M, M) and ``temporal``
    (L, h, places, T, T) in float16, which ``steps`` and ``places`` those are, ``is_register``, ``coordinates`` and the
    edges of ``TokenGrid``, ``rollout`` (T, rows, columns) of the newest output at ``place``, and the readouts'
    ``windows`` (U, rows, columns) with their ``token_share`` (U,).

    Parameters
    ----------
    twin, recording_id : whose attention.
    clip : one clip, to draw.
    clips : clips of one length, to average over.
    out : folder for the files.
    place : row and column of the token drawn; None: where most readouts look.
    heads : heads drawn, the first ones.
    units : units drawn, those whose drive comes most from the tokens.
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
        steps=thinned(time, half, 2 * depth["spatial"] * count * maps.grid.is_register.size**2),
        places=thinned(rows * columns, half, 2 * depth["temporal"] * count * time**2),
        dtype=np.float16,
    )[recording_id]
    arrays = {
        "spatial": kept.spatial[0],
        "temporal": kept.temporal[0],
        "steps": kept.steps,
        "places": kept.places,
        "is_register": maps.grid.is_register,
        "coordinates": maps.grid.coordinates,
        "step_edges": maps.grid.step_edges,
        "row_edges": maps.grid.row_edges,
        "column_edges": maps.grid.column_edges,
        "rollout": newest.tokens,
        "windows": maps.windows,
        "token_share": shares,
    }
    write_arrays(out / "attention.npz", arrays)
    summary = {
        "recording": recording_id,
        "tokens": {"steps": time, "rows": rows, "columns": columns, "registers": maps.grid.registers},
        "causal": twin.causal,
        "place": list(place),
        "token_share_median": float(np.nanmedian(shares)) if np.isfinite(shares).any() else None,
        "rollout_to_registers": newest.to_registers,
        "rollout_by_step": newest.tokens.sum((1, 2)).tolist(),
        **statistics.summary(),
    }
    write_summary(out / "attention.json", summary)

    folder = out / "pictures"
    rate_hz = twin.specs[recording_id].frame_rate_hz
    drawn = plot_attention(folder, maps, frames, frame_rate_hz=rate_hz, place=place, of_heads=kept, most_heads=heads)
    drawn += plot_statistics(folder, statistics)
    most = np.argsort(np.nan_to_num(-shares), kind="stable")[:units]
    drawn += plot_readouts(folder, twin, recording_id, maps, frames, [int(unit) for unit in most], shares)
    return summary, drawn


def thinned(count: int, most: float, each: float) -> list[int]:
    """As many of ``count`` things of ``each`` bytes as fit into ``most``, evenly, the last one always."""
    number = count if each * count <= most else max(1, int(most // each))
    return sorted({count - 1 - round(i * count / number) for i in range(number)})


def table_by_block(summary: dict[str, Any]) -> Table:
    """Means over the heads of each block."""
    spatial, temporal = summary["spatial"], summary["temporal"]
    degrees = spatial["distance_deg"] is not None
    distance = spatial["distance_deg" if degrees else "distance_px"]
    rows: list[list[str | float | None]] = []
    for layer, entropy in enumerate(spatial["entropy_bits"]):
        to_registers = float(np.mean(spatial["to_registers"][layer])) if summary["tokens"]["registers"] else None
        rows.append([f"spatial {layer}", float(np.mean(entropy)), float(np.mean(distance[layer])), to_registers, None])
    for layer, entropy in enumerate(temporal["entropy_bits"]):
        lag = float(np.mean(temporal["lag_ms"][layer]))
        rows.append([f"temporal {layer}", float(np.mean(entropy)), None, None, lag])
    even = summary["uniform"]
    columns = ["block", "entropy (bits)", f"distance ({'deg' if degrees else 'px'})", "to registers", "mean lag (ms)"]
    return Table(
        f"Means over heads (even attention: {even['spatial_entropy_bits']:.2f} and "
        f"{even['temporal_entropy_bits']:.2f} bits, {even['lag_ms']:.0f} ms)",
        columns,
        rows,
    )


def report_section(summary: dict[str, Any], drawn: Drawn, command: str) -> Section:
    """What a look at the attention adds to a twin's report."""
    tokens = summary["tokens"]
    share = summary["token_share_median"]
    text = [
        f"Recording {summary['recording']}: {tokens['steps']} time steps of {tokens['rows']}×{tokens['columns']} tokens"
        f" and {tokens['registers']} registers a clip. Numbers are over {summary['clips']} test clips; pictures are of "
        "one. The weights are softmax(q kᵀ / √d) of the model's own forward pass; 1 in a picture is what even "
        "attention would give.",
        "Rollout follows attention and residual paths over the tokens alone; what convolutions before the tokens bring "
        "in from farther away is not in it, and it does not say what an output made of what it attended to. "
        "In causal attention it piles up at the oldest steps, to which all later ones pass on a part of theirs."
        + (
            ""
            if share is None
            else f" Of the median unit's drive {share:.0%} of the variance comes from what blocks made of the tokens."
        ),
    ]
    if not summary["causal"]:
        text.append("This model is acausal: temporal attention also sees later tokens.")
    return Section("attention", "Where it attends", text, [table_by_block(summary)], drawn, command)
