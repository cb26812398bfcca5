"""Where tokens lie in the frame and in time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from vivit_core.analysis.attention.blocks import attending_core, on_device
from vivit_core.models.readouts.base import Readout
from vivit_core.models.tokenizers.base import Tokens, folded
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips


@dataclass(frozen=True, eq=False)
class TokenGrid:
    """Which frames and pixels of a clip each token was cut from; what was padded belongs to no token.

    Where tubelets overlap, a pixel belongs to the token whose middle is nearest, and a frame to the first that ends
    with or after it.

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
    def centers_px(self) -> np.ndarray:
        """(N, 2) y and x of the places' centers, in pixels of the recording's frames."""
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


def windows_on(tokens: Tokens, readout: Readout) -> np.ndarray | None:
    """How much of each token's place each unit's readout reads, (U, rows, columns); sums to one for each unit. None for
    readouts that cannot say it.

    Where tokens give each cell of a map its gain, a token's place is its cells of that map; cells that several share
    count for each of them in part.
    """
    read = readout.window_on(tokens.map or tokens.as_map(tokens.x_BTND))
    if read is None:
        return None
    cells = math.prod(tokens.cells)
    tokens_of_cell = folded(read.new_ones(1, cells, tokens.height * tokens.width), tokens)[0]
    height, width = tokens_of_cell.shape[1:]
    read = F.pad(read, (0, width - read.shape[2], 0, height - read.shape[1])) / tokens_of_cell
    of_token = F.unfold(read[:, None], tokens.cells, stride=tokens.apart).sum(1)
    return of_token.unflatten(1, (tokens.height, tokens.width)).cpu().numpy()


def token_grid(twin: Twin, recording_id: str, tokens: Tokens, frames: int) -> TokenGrid:
    """Where tokens lie in a recording's clips of so many frames."""
    core, feature_map = attending_core(twin), tokens.as_map(tokens.x_BTND)
    _, rows_px, columns_px = core.tokenizer.token_stride
    _, height, width = twin.specs[recording_id].frame_shape

    def edges(centers: Tensor, cell: int, common: int, own: int) -> np.ndarray:
        first = float(centers[0]) - cell / 2 + 0.5
        found = np.clip((first + cell * np.arange(len(centers) + 1)) * own / common, 0, own)
        # A residual stem's last map may end a little before the frame, which it sees all the same.
        found[[0, -1]] = 0, own
        return found

    steps = feature_map.first_end + 1 + feature_map.stride * np.arange(-1, feature_map.x_BCTHW.shape[2])
    return TokenGrid(
        registers=0 if core.registers is None else len(core.registers),
        step_edges=np.clip(steps, 0, frames),
        row_edges=edges(feature_map.ys, rows_px, twin.frame_size[0], height),
        column_edges=edges(feature_map.xs, columns_px, twin.frame_size[1], width),
    )
