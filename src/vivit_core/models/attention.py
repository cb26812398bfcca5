"""Multi-head attention and the pre-norm transformer block.

Departures from Vaswani et al. 2017: one fused projection for queries, keys and values; queries and keys may be
normalised for each head before they are rotated (Dehghani et al. 2023), which keeps bf16 training stable; positions
enter only by rotation, so that scores depend on differences of positions.

Shape letters: B sequences, N tokens, D embedding, h heads.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.layers import DropPath, check_probability, init_linear, rotate

Rope = tuple[Tensor, Tensor]


class Attention(nn.Module):
    """Self-attention with rotary positions.

    Parameters
    ----------
    dim : embedding width, given by the model.
    heads : number of heads; ``dim / heads`` must be a multiple of 4 (two axes of pairs).
    qk_norm : normalise queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    rope_base_space, rope_base_time : longest wavelength of the rotation is about 2π times this, in tokens.
    """

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
            fitting = [h for h in range(1, dim + 1) if dim % h == 0 and (dim // h) % 4 == 0]
            raise ValueError(
                f"embedding_dim={dim} does not split into {heads} heads of a multiple of 4 numbers; "
                f"heads that fit: {fitting or 'none (embedding_dim must be a multiple of 4)'}"
            )
        self.heads, self.head_dim, self.dropout = heads, dim // heads, dropout
        self.rope_base_space, self.rope_base_time = rope_base_space, rope_base_time
        self.qkv = nn.Linear(dim, 3 * dim)
        self.q_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.k_norm = nn.RMSNorm(self.head_dim, eps=1e-6) if qk_norm else nn.Identity()
        self.out = nn.Linear(dim, dim)

    def forward(self, x_BND: Tensor, rope: Rope, causal: bool) -> Tensor:
        q, k, v = rearrange(self.qkv(x_BND), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        q, k = rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope)
        dropout = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), dropout_p=dropout, is_causal=causal)
        return self.out(rearrange(y, "b h n d -> b n (h d)"))


class FeedForward(nn.Sequential):
    def __init__(self, dim: int, ratio: float, dropout: float) -> None:
        hidden = int(dim * ratio)
        super().__init__(
            nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dim), nn.Dropout(dropout)
        )


class Block(nn.Module):
    """Pre-norm attention and feed-forward, each in a residual branch that drop path may leave out."""

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
        self.drop_path = DropPath(drop_path)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                closes_a_branch = module is self.attention.out or module is self.ff[3]
                init_linear(module, residual_scale if closes_a_branch else 1.0)

    def forward(self, x_BND: Tensor, rope: Rope, causal: bool) -> Tensor:
        x_BND = x_BND + self.drop_path(self.attention(self.norm_attention(x_BND), rope, causal))
        return x_BND + self.drop_path(self.ff(self.norm_ff(x_BND)))


def run_block(block: nn.Module, x_BND: Tensor, rope: Rope, causal: bool, checkpoint: bool) -> Tensor:
    """The block; with ``checkpoint`` the whole of it is computed again in the backward pass instead of being stored."""
    if checkpoint and torch.is_grad_enabled():
        return torch.utils.checkpoint.checkpoint(block, x_BND, rope, causal, use_reentrant=False)
    return block(x_BND, rope, causal)
