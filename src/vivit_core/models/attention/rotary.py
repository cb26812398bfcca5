"""Multi-head attention and the pre-norm transformer block.

Departures from Vaswani et al. 2017: one fused projection for queries, keys and values; queries and keys may be
normalized for each head before they are rotated (Dehghani et al. 2023), which keeps bf16 training stable; positions
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

from vivit_core.models.attention.rope import Rope, apply_rope
from vivit_core.models.dropout import check_probability, drop
from vivit_core.models.layers import at_least_float32

# On a CPU, torch's fused attention is slow in its backward pass (two thirds of a bf16 step at 38 tokens), and scores of
# so few tokens are no larger than the activations around them. Longer sequences would fill the memory.
PLAIN_UP_TO = 256  # tokens


@dataclass(frozen=True)
class AttentionMask:
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
    qk_norm : normalize queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    rope_base_space, rope_base_time : longest wavelength of the rotation is about 2π times this, in tokens.

    Attributes
    ----------
    watch : called in each forward pass with its queries, keys and reach, by whoever wants to see the weights
        (``analysis.attention``); they are what ``weights`` makes of them, on every path.
    as_on_gpu : take torch's fused attention on a CPU too, as a GPU's memory is planned (``models.plan``).
    """

    watch: Callable[[Tensor, Tensor, AttentionMask], None] | None = None
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
        """Queries, keys (normalized and rotated) and values, each (B, h, N, d)."""
        q, k, v = rearrange(self.qkv(x_BND), "b n (three h d) -> b n three h d", three=3, h=self.heads).unbind(2)
        q, k = apply_rope(q, rope, self.q_scale), apply_rope(k, rope, self.k_scale)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def weights(self, q: Tensor, k: Tensor, mask: Tensor | None) -> Tensor:
        """softmax(q kᵀ / √d), (B, h, N, N), float32."""
        scores = at_least_float32(q @ k.transpose(-1, -2)) * self.head_dim**-0.5
        return torch.softmax(scores if mask is None else scores.masked_fill(~mask, -torch.inf), dim=-1)

    def forward(self, x_BND: Tensor, rope: Rope, reach: AttentionMask, seed: Tensor) -> Tensor:
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
