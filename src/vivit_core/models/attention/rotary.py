"""Attention with rotary positions.

Departures from Vaswani et al. 2017: one fused projection for queries, keys and values; queries and keys may be
normalized for each head before they are rotated (Dehghani et al. 2023), which keeps bf16 training stable; positions
enter only by rotation (Su et al. 2021), so that scores depend on differences of positions.

Shape letters: B sequences, N tokens, D embedding, h heads, d numbers of a head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vivit_core.models.attention.base import Attention, Positions
from vivit_core.models.attention.rope import apply_rope, rope_space, rope_time


class RotaryAttention(Attention):
    """Self-attention with rotary positions: axial in space, along one axis in time.

    Parameters
    ----------
    dim : embedding width, given by the model.
    heads : number of heads; ``dim / heads`` must be a multiple of 4 (two axes of pairs).
    qk_norm : normalize queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    rope_base_space, rope_base_time : longest wavelength of the rotation is about 2π times this, in tokens.
    """

    multiple = 4

    def __init__(
        self,
        dim: int,
        heads: int,
        qk_norm: bool = True,
        dropout: float = 0.0,
        rope_base_space: float = 100.0,
        rope_base_time: float = 1000.0,
    ) -> None:
        super().__init__(dim, heads, dropout)
        self.rope_base_space, self.rope_base_time = rope_base_space, rope_base_time
        self.q_scale = nn.Parameter(torch.ones(self.head_dim)) if qk_norm else None
        self.k_scale = nn.Parameter(torch.ones(self.head_dim)) if qk_norm else None

    def space(self, height: int, width: int, registers: int, device: torch.device) -> Positions:
        return rope_space(height, width, registers, self.head_dim, self.rope_base_space, device)

    def time(self, steps: Tensor) -> Positions:
        return rope_time(steps, self.head_dim, self.rope_base_time)

    def project(self, x_BND: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys (normalized and rotated) and values, each (B, h, N, d)."""
        q, k, v = self.split(x_BND)
        cos, sin = positions
        q, k = apply_rope(q, (cos, sin), self.q_scale), apply_rope(k, (cos, sin), self.k_scale)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)
