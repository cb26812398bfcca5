"""Attention with a learned bias for each offset in space and in time.

Shape letters as in ``base``, P offsets in space, T offsets in time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.attention.base import Attention, AttentionMask, Positions

SPREAD = 0.02  # standard deviation of learned biases at the start


class RelativeBiasAttention(Attention):
    """Self-attention whose scores get a learned number for the offset between query and key, one for each head.

    The offset in space is how many rows and columns lie between two places (Liu et al. 2021, "Swin transformer"), that
    in time how many time steps (Raffel et al. 2020, T5). Larger offsets than the largest learned one count as that one
    (Shaw et al. 2018), so that grids, clips and streams of every size work. Over space and time together both numbers
    are added. Registers have no place, and get none in space.

    Parameters
    ----------
    dim, mask : given by the core.
    heads : number of heads.
    qk_norm : normalize queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    places : largest learned offset down or up, and across, in tokens.
    steps : largest learned offset in time, in time steps.

    Raises
    ------
    ValueError
        For negative offsets, and models that are not causal.
    """

    both_ways = False

    def __init__(
        self,
        dim: int,
        mask: AttentionMask,
        heads: int,
        qk_norm: bool,
        dropout: float,
        places: list[int],
        steps: int,
    ) -> None:
        super().__init__(dim, mask, heads, qk_norm, dropout)
        if len(places) != 2 or min(places) < 0:
            raise ValueError(f"model.attention.places={list(places)} must be two numbers from 0: [rows, columns]")
        if steps < 0:
            raise ValueError(f"model.attention.steps={steps} must be at least 0")
        self.farthest = (places[0], places[1])
        oldest = steps if mask.window is None else min(steps, mask.window - 1)
        offsets = (2 * places[0] + 1) * (2 * places[1] + 1)
        self.space_Ph = nn.Parameter(SPREAD * torch.randn(offsets, heads)) if mask.over != "time" else None
        self.time_Th = nn.Parameter(SPREAD * torch.randn(oldest + 1, heads)) if mask.over != "space" else None

    def fade(self, head: int, steps: float) -> None:
        if self.time_Th is not None:
            self.time_Th[:, head] = -torch.arange(len(self.time_Th)) / steps

    def project(self, x_BND: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        return self.normalized(x_BND)

    def bias(self, q: Tensor, queries: Positions, keys: Positions) -> Tensor | None:
        """Of each query with each key: (h, Q, K)."""
        found_QKh = torch.zeros((), device=q.device)
        if self.space_Ph is not None:
            rows, columns = (
                (mine[:, None] - theirs).clamp(-most, most) + most
                for mine, theirs, most in zip(queries[:2], keys[:2], self.farthest, strict=True)
            )
            placed = (queries.rows >= 0)[:, None] & (keys.rows >= 0)
            in_space = F.embedding(rows * (2 * self.farthest[1] + 1) + columns, self.space_Ph)
            found_QKh = found_QKh + in_space * placed[..., None]
        if self.time_Th is not None:
            lags = (queries.steps[:, None] - keys.steps).clamp(0, len(self.time_Th) - 1)  # later ones are not seen
            found_QKh = found_QKh + F.embedding(lags, self.time_Th)
        return found_QKh.permute(2, 0, 1)
