"""What every attention keeps, and what it sees: multi-head self-attention over the tokens of a step or of a place.

Shape letters: B sequences, N tokens, D embedding, h heads, d numbers of a head, W tokens of a window.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.dropout import check_probability, drop
from vivit_core.models.layers import at_least_float32

Positions = tuple[Tensor, ...]
"""Where tokens lie, as an attention's own ``space`` or ``time`` says it; all blocks of a kind get the same."""

# On a CPU, torch's fused attention is slow in its backward pass (two thirds of a bf16 step at 38 tokens), and scores of
# so few tokens are no larger than the activations around them. Longer sequences would fill the memory.
PLAIN_UP_TO = 256  # tokens


@dataclass(frozen=True)
class AttentionMask:
    """Which tokens a token sees: all; or, ``causal``, itself and what was before, ``window`` tokens in all."""

    causal: bool
    window: int | None = None

    def matrix(self, tokens: int, device: torch.device) -> Tensor | None:
        """(N, N), true where the query (row) sees the key (column); None where all see all."""
        if not self.causal:
            return None
        lag = torch.arange(tokens, device=device)
        lag = lag[:, None] - lag
        return lag >= 0 if self.covers(tokens) else (lag >= 0) & (lag < (self.window or tokens))

    def covers(self, tokens: int) -> bool:
        """Whether the window takes nothing away from so many tokens."""
        return self.window is None or self.window >= tokens


class Attention(nn.Module, ABC):
    """Self-attention: what all kinds share, but for how they see where tokens lie.

    A core's blocks attend in two ways: in space, among the registers and places of one time step; and in time, among
    the steps of one place, causally and within a window.

    What a subclass has to do
    -------------------------
    - take ``dim`` in its constructor, given by the core, and hand it on with ``heads`` and ``dropout``; all other
      arguments are its YAML's keys;
    - ``space`` and ``time``: the positions of tokens, made once for all blocks;
    - ``project``: queries, keys and values at these positions. Scores may depend on positions by differences alone, or
      an endless stream will not go on as it began.

    What the contract tests check (``vivit_core.testing.check_attention``)
    ---------------------------------------------------------------------
    Odd grids, no look ahead, a gradient for every parameter, the same numbers on every path (kept, computed again,
    compiled), a stream with and without a window that equals the clip, the round trip through a checkpoint.

    Parameters
    ----------
    dim : width of a token.
    heads : number of heads.
    dropout : probability with which an attention weight is dropped in training.

    Attributes
    ----------
    multiple : numbers of which those of a head are a multiple.
    watch : called in each forward pass with its queries, keys and mask, by whoever wants to see the weights
        (``analysis.attention``); they are what ``weights`` makes of them, on every path.
    mix : in the place of attention, a function of the values (B, h, N, d) and the mask that gives each token's mixture,
        for whoever asks what attention is worth (``analysis.attention.lesions``).
    as_on_gpu : take torch's fused attention on a CPU too, as a GPU's memory is planned (``models.plan``).
    """

    multiple: int = 1
    watch: Callable[[Tensor, Tensor, AttentionMask], None] | None = None
    mix: Callable[[Tensor, AttentionMask], Tensor] | None = None
    as_on_gpu: bool = False

    def __init__(self, dim: int, heads: int, dropout: float) -> None:
        super().__init__()
        check_probability(dropout=dropout)
        if heads < 1 or dim % heads or (dim // heads) % self.multiple:
            # Bounded, because a tampered checkpoint's width may be huge.
            fitting = [h for h in range(1, min(dim, 256) + 1) if dim % h == 0 and (dim // h) % self.multiple == 0]
            raise ValueError(
                f"embedding_dim={dim} does not split into {heads} heads of a multiple of {self.multiple} numbers; "
                f"heads that fit: {fitting or f'none (embedding_dim must be a multiple of {self.multiple})'}"
            )
        self.heads, self.head_dim, self.dropout = heads, dim // heads, dropout
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    @abstractmethod
    def space(self, height: int, width: int, registers: int, device: torch.device) -> Positions:
        """Of the tokens of a time step: registers first, then the places, row by row."""

    @abstractmethod
    def time(self, steps: Tensor) -> Positions:
        """Of the tokens of a place; ``steps`` (N,) counts them from the start of the clip or stream."""

    @abstractmethod
    def project(self, x_BND: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, h, N, d)."""

    def split(self, x_BND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (B, N, h, d), before anything is known of positions."""
        q, k, v = rearrange(self.qkv(x_BND), "b n (three h d) -> b n three h d", three=3, h=self.heads).unbind(2)
        return q, k, v

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d), (B, h, N, N), float32."""
        scores = at_least_float32(q @ k.transpose(-1, -2)) * self.head_dim**-0.5
        return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)

    def forward(self, x_BND: Tensor, positions: Positions, mask: AttentionMask, seed: Tensor) -> Tensor:
        """Each token's mixture of what it sees, (B, N, D); ``seed`` is the dropout's."""
        q, k, v = self.project(x_BND, positions)
        if self.watch is not None:
            self.watch(q, k, mask)
        tokens, dropout = x_BND.shape[1], self.dropout if self.training else 0.0
        if self.mix is not None:
            y = self.mix(v, mask)
        elif x_BND.device.type == "cpu" and not self.as_on_gpu and (tokens <= PLAIN_UP_TO or dropout):
            weights = self.weights(q, k, mask.matrix(tokens, x_BND.device))
            y = (drop(weights, dropout, seed) if dropout else weights).to(v.dtype) @ v
        else:
            whole = mask.covers(tokens)  # only then the flash kernel can be used
            matrix = None if whole else mask.matrix(tokens, x_BND.device)
            y = F.scaled_dot_product_attention(q, k, v, matrix, dropout, is_causal=mask.causal and whole)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))

    def step(self, x_B1D: Tensor, positions: Positions, cache: Cache) -> Tensor:
        """The newest token alone; what was before is in the cache."""
        q, k, v = self.project(x_B1D, positions)
        keys, values = cache.add(k, v)
        y = (self.weights(q, keys, None).to(v.dtype) @ values).transpose(1, 2).flatten(2)
        return self.out(y)


class Cache:
    """Keys and values of the last ``window`` tokens, oldest first; the keys are already rotated."""

    def __init__(self, window: int | None) -> None:
        self.window = window
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one token, (B, h, 1, d) each; returns those of the window, (B, h, W, d) each."""
        first = 0 if self.window is None else -self.window
        self.keys = k if self.keys is None else torch.cat([self.keys, k], dim=2)[:, :, first:]
        self.values = v if self.values is None else torch.cat([self.values, v], dim=2)[:, :, first:]
        return self.keys, self.values
