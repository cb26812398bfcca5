"""Multi-head attention and the pre-norm transformer block.

Departures from Vaswani et al. 2017: one fused projection for queries, keys and values; queries and keys may be
normalised for each head before they are rotated (Dehghani et al. 2023), which keeps bf16 training stable; positions
enter only by rotation, so that scores depend on differences of positions.

Shape letters: B sequences, N tokens, D embedding, h heads, d numbers of a head.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.dropout import check_probability, drop
from vivit_core.models.layers import Rope, at_least_float32, init_linear, turn

# On a CPU, torch's fused attention is slow in its backward pass (two thirds of a bf16 step at 38 tokens), and scores of
# so few tokens are no larger than the activations around them. Longer sequences would fill the memory.
PLAIN_UP_TO = 256  # tokens


@dataclass(frozen=True)
class Reach:
    """Which tokens a token sees: all; or, ``causal``, itself and what was before, ``window`` tokens in all."""

    causal: bool
    window: int | None = None

    def mask(self, tokens: int, device: torch.device) -> Tensor | None:
        """(N, N), true where the query (row) sees the key (column); None where all see all."""
        if not self.causal:
            return None
        lag = torch.arange(tokens, device=device)
        lag = lag[:, None] - lag
        return lag >= 0 if self.covers(tokens) else (lag >= 0) & (lag < (self.window or tokens))

    def covers(self, tokens: int) -> bool:
        """Whether the window takes nothing away from so many tokens."""
        return self.window is None or self.window >= tokens


class Attention(nn.Module):
    """Self-attention with rotary positions.

    Parameters
    ----------
    dim : embedding width, given by the model.
    heads : number of heads; ``dim / heads`` must be a multiple of 4 (two axes of pairs).
    qk_norm : normalise queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    rope_base_space, rope_base_time : longest wavelength of the rotation is about 2π times this, in tokens.

    Attributes
    ----------
    watch : called in each forward pass with its queries, keys and reach, by whoever wants to see the weights
        (``analysis.attention``); they are what ``weights`` makes of them, on every path.
    as_on_gpu : take torch's fused attention on a CPU too, as a GPU's memory is planned (``models.plan``).
    """

    watch: Callable[[Tensor, Tensor, Reach], None] | None = None
    as_on_gpu: bool = False

    def __init__(
        self,
        dim: int,
        heads: int,
        qk_norm: bool = True,
        dropout: float = 0.0,
        rope_base_space: float = 100.0,
        rope_base_time: float = 1000.0,
    ) -> None:
        super().__init__()
        check_probability(dropout=dropout)
        if heads < 1 or dim % heads or (dim // heads) % 4:
            # Bounded, because a tampered checkpoint's width may be huge.
            fitting = [h for h in range(1, min(dim, 256) + 1) if dim % h == 0 and (dim // h) % 4 == 0]
            raise ValueError(
                f"embedding_dim={dim} does not split into {heads} heads of a multiple of 4 numbers; "
                f"heads that fit: {fitting or 'none (embedding_dim must be a multiple of 4)'}"
            )
        self.heads, self.head_dim, self.dropout = heads, dim // heads, dropout
        self.rope_base_space, self.rope_base_time = rope_base_space, rope_base_time
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_scale = nn.Parameter(torch.ones(self.head_dim)) if qk_norm else None
        self.k_scale = nn.Parameter(torch.ones(self.head_dim)) if qk_norm else None
        self.out = nn.Linear(dim, dim)

    def project(self, x_BND: Tensor, rope: Rope) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (normalised and rotated) and values, each (B, h, N, d)."""
        q, k, v = rearrange(self.qkv(x_BND), "b n (three h d) -> b n three h d", three=3, h=self.heads).unbind(2)
        q, k = turn(q, rope, self.q_scale), turn(k, rope, self.k_scale)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d), (B, h, N, N), float32."""
        scores = at_least_float32(q @ k.transpose(-1, -2)) * self.head_dim**-0.5
        return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)

    def forward(self, x_BND: Tensor, rope: Rope, reach: Reach, seed: Tensor) -> Tensor:
        q, k, v = self.project(x_BND, rope)
        if self.watch is not None:
            self.watch(q, k, reach)
        tokens, dropout = x_BND.shape[1], self.dropout if self.training else 0.0
        if x_BND.device.type == "cpu" and not self.as_on_gpu and (tokens <= PLAIN_UP_TO or dropout):
            weights = self.weights(q, k, reach.mask(tokens, x_BND.device))
            y = (drop(weights, dropout, seed) if dropout else weights).to(v.dtype) @ v
        else:
            whole = reach.covers(tokens)  # only then the flash kernel can be used
            mask = None if whole else reach.mask(tokens, x_BND.device)
            y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=reach.causal and whole)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, dropout after each."""

    def __init__(self, dim: int, ratio: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.enter, self.leave = nn.Linear(dim, int(dim * ratio)), nn.Linear(int(dim * ratio), dim)

    def forward(self, x: Tensor, seeds: Tensor) -> Tensor:
        hidden = F.gelu(self.enter(x))
        if not self.training or not self.dropout:
            return self.leave(hidden)
        return drop(self.leave(drop(hidden, self.dropout, seeds[0])), self.dropout, seeds[1])


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each in a residual branch that drop path may leave out.

    Parameters
    ----------
    attention, dim : the attention and its width.
    ff_ratio : width of the feed-forward layers, in embedding widths.
    ff_dropout : dropout in the feed-forward layers.
    drop_path : probability with which a branch is left out for a whole sequence (Huang et al. 2016).
    residual_scale : of the weights that close a branch, at the start.
    """

    SEEDS = 5  # of one pass
    drop_path: Tensor

    def __init__(
        self,
        attention: Attention,
        dim: int,
        ff_ratio: float,
        ff_dropout: float,
        drop_path: float,
        residual_scale: float,
    ) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(dim)
        self.attention = attention
        self.norm_ff = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, ff_ratio, ff_dropout)
        # A tensor, because the number differs between blocks, which are to share their compiled code.
        self.register_buffer("drop_path", torch.tensor(drop_path), persistent=False)
        self.drops_paths = drop_path > 0
        for module in self.modules():
            if isinstance(module, nn.Linear):
                closes_a_branch = module is self.attention.out or module is self.ff.leave
                init_linear(module, residual_scale if closes_a_branch else 1.0)

    def forward(self, x_BND: Tensor, rope: Rope, reach: Reach, seeds: Tensor) -> Tensor:
        x_BND = x_BND + self.branch(self.attention(self.norm_attention(x_BND), rope, reach, seeds[0]), seeds[1])
        return x_BND + self.branch(self.ff(self.norm_ff(x_BND), seeds[2:4]), seeds[4])

    def branch(self, y_BND: Tensor, seed: Tensor) -> Tensor:
        if not self.training or not self.drops_paths:
            return y_BND
        return drop(y_BND, self.drop_path, seed, shape=(len(y_BND), 1, 1))

    def step(self, x_B1D: Tensor, rope: Rope, cache: Cache) -> Tensor:
        """The newest token alone; what was before is in the cache."""
        q, k, v = self.attention.project(self.norm_attention(x_B1D), rope)
        keys, values = cache.add(k, v)
        y = (self.attention.weights(q, keys, None).to(v.dtype) @ values).transpose(1, 2).flatten(2)
        x_B1D = x_B1D + self.attention.out(y)
        return x_B1D + self.ff(self.norm_ff(x_B1D), x_B1D.new_empty(0))


class Cache:
    """Keys and values of the last ``window`` tokens. Keys are already rotated, so their order does not matter."""

    def __init__(self, window: int | None) -> None:
        self.window, self.seen = window, 0
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Take in one token, (B, h, 1, d) each; returns those of the window, (B, h, W, d) each."""
        if self.keys is None or self.values is None:
            b, h, _, d = k.shape
            room = self.window or 64
            self.keys, self.values = k.new_empty(b, h, room, d), v.new_empty(b, h, room, d)
        room = self.keys.shape[2]
        if self.window is None and self.seen == room:  # no window: grows without end
            self.keys, self.values = (torch.cat([x, torch.empty_like(x)], dim=2) for x in (self.keys, self.values))
            room *= 2
        place = self.seen % room
        self.keys[:, :, place], self.values[:, :, place] = k[:, :, 0], v[:, :, 0]
        self.seen += 1
        filled = min(self.seen, room)
        return self.keys[:, :, :filled], self.values[:, :, :filled]
