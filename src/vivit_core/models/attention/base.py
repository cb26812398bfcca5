"""What every attention keeps, and what it sees: multi-head self-attention over the tokens of a step, of a place, or of
a whole span of time.

Shape letters: B sequences, N tokens, Q queries, K keys, D embedding, h heads, d numbers of a head.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.dropout import check_probability, drop
from vivit_core.models.layers import at_least_float32

# On a CPU, torch's fused attention is slow in its backward pass (two thirds of a bf16 step at 38 tokens), and scores of
# so few tokens are no larger than the activations around them. Longer sequences would fill the memory.
PLAIN_UP_TO = 256  # tokens

Over = Literal["space", "time", "space_time"]
"""Which tokens make a sequence: those of a time step, those of a place, or all of a clip."""


@dataclass(frozen=True)
class AttentionMask:
    """Which tokens a token may see.

    Attributes
    ----------
    over : which tokens make a sequence.
    causal : a token sees its own time step and what was before; in space there is one step alone.
    window : time steps that it sees, its own included; None: all.
    """

    over: Over
    causal: bool = False
    window: int | None = None

    def matrix(self, queries: Tensor, keys: Tensor) -> Tensor | None:
        """(Q, K), true where the query (row) sees the key (column), from their time steps; None where all see all."""
        if not self.causal:
            return None
        lag = queries[:, None] - keys
        return lag >= 0 if self.window is None else (lag >= 0) & (lag < self.window)

    def is_triangle(self, tokens: int) -> bool:
        """Whether each of so many tokens sees itself and all that stand before it, and no more."""
        return self.over == "time" and self.causal and (self.window is None or self.window >= tokens)


class Positions(NamedTuple):
    """Where the tokens of a sequence lie, (N,) each: made once for all blocks of a kind.

    Attributes
    ----------
    rows, columns : on the grid of places; -1 for registers, which have no place. All 0 over time alone.
    steps : time steps from the start of the clip or stream. All 0 over space alone.
    made : what the attention itself has made of them (``Attention.make``).
    """

    rows: Tensor
    columns: Tensor
    steps: Tensor
    made: tuple[Tensor, ...] = ()


class Attention(nn.Module, ABC):
    """Self-attention: what all kinds share, but for how they see where tokens lie.

    A core's blocks attend in space, among the registers and places of one time step; in time, among the steps of one
    place, causally and within a window; or in both at once.

    What a subclass has to do
    -------------------------
    - take ``dim`` and ``mask`` in its constructor, given by the core, and hand them on with ``heads``, ``qk_norm`` and
      ``dropout``; all other arguments are its YAML's keys;
    - ``project``: queries, keys and values at their positions. Scores may depend on time steps by differences alone, or
      an endless stream will not go on as it began.

    What it may do
    --------------
    - ``make``: numbers that are made of positions once for all blocks;
    - ``bias``: what is added to the scores;
    - ``seen``: leave out more than the mask does;
    - ``check_positions``: refuse grids and spans that its positions do not reach;
    - ``steady`` and ``looks_back``: how a block may begin with a comparison, where positions come into scores.

    What the contract tests check (``vivit_core.testing.check_attention``)
    ---------------------------------------------------------------------
    In separate blocks of space and time, and in joint ones: odd grids, no look ahead, a gradient for every parameter,
    the same numbers on every path (kept, computed again, compiled), a stream with and without a window that equals the
    clip, the round trip through a checkpoint.

    Parameters
    ----------
    dim : width of a token.
    mask : which tokens a token may see.
    heads : number of heads.
    qk_norm : normalize queries and keys for each head (Dehghani et al. 2023).
    dropout : probability with which an attention weight is dropped in training.
    multiple : numbers of which those of a head are a multiple.

    Attributes
    ----------
    both_ways : positions tell what lies ahead in time from what lies behind, as a model that is not causal needs.
    watch : called in each forward pass with its queries, keys and positions, by whoever wants to see the weights
        (``analysis.attention``); they are what ``weights`` makes of them, on every path.
    reweigh : a function of the weights (B, h, N, N), of the positions and of what is seen (N, N; None: all) that gives
        the weights to take instead, for whoever asks what attention is worth (``analysis.attention.lesions``).
    as_on_gpu : take torch's fused attention on a CPU too, as a GPU's memory is planned (``models.plan``).
    """

    both_ways: bool = True
    watch: Callable[[Tensor, Tensor, Positions], None] | None = None
    reweigh: Callable[[Tensor, Positions, Tensor | None], Tensor] | None = None
    as_on_gpu: bool = False

    def __init__(
        self, dim: int, mask: AttentionMask, heads: int, qk_norm: bool, dropout: float, multiple: int = 1
    ) -> None:
        super().__init__()
        check_probability(dropout=dropout)
        if heads < 1 or dim % heads or (dim // heads) % multiple:
            # Bounded, because a tampered checkpoint's width may be huge.
            fitting = [h for h in range(1, min(dim, 256) + 1) if dim % h == 0 and (dim // h) % multiple == 0]
            step = max(heads, 1) * multiple
            widths = [width for width in (dim // step * step, dim // step * step + step) if width]
            raise ValueError(
                f"embedding_dim={dim} does not split into {heads} heads of a multiple of {multiple} numbers; "
                f"widths that do: {' and '.join(map(str, widths))}; "
                f"heads that fit: {fitting or f'none (embedding_dim must be a multiple of {multiple})'}"
            )
        if not self.both_ways and mask.over != "space" and not mask.causal:
            raise ValueError(
                f"positions of {type(self).__name__} do not tell what lies ahead from what lies behind, which a model "
                "that is not causal sees; set model.causal=true or model/attention=rotary"
            )
        self.mask, self.heads, self.head_dim, self.dropout = mask, heads, dim // heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)
        self.q_scale = nn.Parameter(torch.ones(self.head_dim)) if qk_norm else None
        self.k_scale = nn.Parameter(torch.ones(self.head_dim)) if qk_norm else None

    @abstractmethod
    def project(self, x_BND: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, h, N, d)."""

    def positions(self, height: int, width: int, registers: int, steps: Tensor) -> Positions:
        """Of the tokens of a sequence on a grid of places; ``steps`` (T,) counts from the start of the clip or stream.

        A time step's registers come first, then its places, row by row; over space and time, one step after the other.
        """
        at = torch.arange(height * width, device=steps.device)
        without = at.new_full((registers,), -1)
        rows, columns = torch.cat([without, at // width]), torch.cat([without, at % width])
        if self.mask.over == "time":
            found = Positions(torch.zeros_like(steps), torch.zeros_like(steps), steps)
        elif self.mask.over == "space":
            found = Positions(rows, columns, torch.zeros_like(rows))
        else:
            found = Positions(rows.repeat(len(steps)), columns.repeat(len(steps)), steps.repeat_interleave(len(rows)))
        return found._replace(made=self.make(found, height, width))

    def make(self, positions: Positions, height: int, width: int) -> tuple[Tensor, ...]:
        """What is made of positions on a grid of places, once for all blocks: nothing."""
        return ()

    def steady(self) -> list[int]:
        """The numbers of a head, those first whose products positions change least."""
        return list(range(self.head_dim))

    def looks_back(self, steps: float) -> int | None:
        """Which number of a head, alone and alike in all queries and keys, makes attention in time fall to a part of
        1/e over so many steps; None: none does. An attention whose positions turn queries and keys has to say, because
        of one that does not each number is taken for one that no position changes."""
        return None

    def fade(self, head: int, steps: float) -> None:
        """Where ``looks_back`` knows no number: let a head's attention in time begin to fall to a part of 1/e over so
        many steps by what this attention knows of positions. If it cannot, the head attends about alike to all."""

    def check_positions(self, height: int, width: int, steps: int) -> None:
        """Raise ValueError, with a remedy, where positions do not reach over a grid, or over the steps that a token
        sees at most."""

    def seen(self, queries: Positions, keys: Positions) -> Tensor | None:
        """(Q, K), true where the query (row) sees the key (column); None where all see all."""
        return self.mask.matrix(queries.steps, keys.steps)

    def bias(self, q: Tensor, queries: Positions, keys: Positions) -> Tensor | None:
        """What is added to the scores, (h, Q, K) or (B, h, Q, K); None: nothing."""
        return None

    def split(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, N, h, d), before anything is known of positions."""
        q, k, v = rearrange(self.qkv(x_BND), "b n (three h d) -> b n three h d", three=3, h=self.heads).unbind(2)
        return q, k, v

    def normalized(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (normalized) and values, each (B, h, N, d), before anything is known of positions."""
        q, k, v = self.split(x_BND)
        q, k = to_unit_mean_square(q, self.q_scale), to_unit_mean_square(k, self.k_scale)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor, queries: Positions, keys: Positions) -> Tensor:
        """softmax(q kᵀ / √d + bias) over what is seen, (B, h, Q, K), float32."""
        scores = at_least_float32(q @ k.transpose(-1, -2)) * self.head_dim**-0.5
        bias, seen = self.bias(q, queries, keys), self.seen(queries, keys)
        scores = scores if bias is None else scores + bias
        return torch.softmax(scores if seen is None else scores.masked_fill(~seen, -torch.inf), dim=-1)

    def forward(self, x_BND: Tensor, positions: Positions, seed: Tensor) -> Tensor:
        """Each token's mixture of what it sees, (B, N, D); ``seed`` is the dropout's."""
        q, k, v = self.project(x_BND, positions)
        if self.watch is not None:
            self.watch(q, k, positions)
        tokens, dropout = x_BND.shape[1], self.dropout if self.training else 0.0
        if self.reweigh is not None:
            weights, seen = self.weights(q, k, positions, positions), self.seen(positions, positions)
            y = self.reweigh(weights, positions, seen).to(v.dtype) @ v
        elif x_BND.device.type == "cpu" and not self.as_on_gpu and (tokens <= PLAIN_UP_TO or dropout):
            weights = self.weights(q, k, positions, positions)
            y = (drop(weights, dropout, seed) if dropout else weights).to(v.dtype) @ v
        else:
            bias, triangle = self.bias(q, positions, positions), self.mask.is_triangle(tokens)
            added = None  # only then the flash kernel can be used
            if bias is not None or not triangle:
                added, triangle = added_to_scores(bias, self.seen(positions, positions)), False
            added = added.to(q.dtype) if added is not None and added.is_floating_point() else added
            y = F.scaled_dot_product_attention(q, k, v, added, dropout, is_causal=triangle)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))

    def step(self, x_BND: Tensor, positions: Positions, cache: Cache) -> Tensor:
        """The newest time step's tokens alone; what was before is in the cache."""
        q, k, v = self.project(x_BND, positions)
        keys, values = cache.add(k, v)
        steps = keys.shape[2] // k.shape[2]
        lags = torch.arange(steps - 1, -1, -1, device=k.device).repeat_interleave(k.shape[2])
        before = Positions(
            positions.rows.repeat(steps), positions.columns.repeat(steps), positions.steps.repeat(steps) - lags
        )
        y = (self.weights(q, keys, positions, before).to(v.dtype) @ values).transpose(1, 2).flatten(2)
        return self.out(y)


def to_unit_mean_square(x_BNhd: Tensor, scale_d: Tensor | None) -> Tensor:
    """Each head's numbers at unit mean square, times a scale; as they are without one."""
    if scale_d is None:
        return x_BNhd
    x = at_least_float32(x_BNhd)
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * scale_d).to(x_BNhd.dtype)


def added_to_scores(bias: Tensor | None, seen: Tensor | None) -> Tensor | None:
    """Both as one: true where seen, or what is added to the scores, -∞ where nothing is seen."""
    if bias is None or seen is None:
        return seen if bias is None else bias
    return bias.masked_fill(~seen, -torch.inf)


class Cache:
    """Keys and values of the tokens of the last ``window`` time steps, oldest first, as ``project`` made them."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one time step's tokens, (B, h, n, d) each; returns those of the window, (B, h, K, d) each."""
        first = 0 if self.window is None else -self.window * k.shape[2]
        self.keys = k if self.keys is None else torch.cat([self.keys, k], dim=2)[:, :, first:]
        self.values = v if self.values is None else torch.cat([self.values, v], dim=2)[:, :, first:]
        return self.keys, self.values
