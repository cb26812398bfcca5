"""Attention with learned positions: a vector for each place, and one for each age.

Shape letters as in ``base``, P learned places, r c rows and columns of them.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vivit_core.models.attention.base import Attention, AttentionMask, Positions

SPREAD = 0.02  # standard deviation of learned positions at the start


class AbsoluteAttention(Attention):
    """Self-attention with learned positions (Arnab et al. 2021, "positional embeddings"; Dosovitskiy et al. 2021).

    A place has a vector that is added to its tokens. A grid of other sides than the learned one interpolates between
    the learned vectors, as Dosovitskiy et al. do for larger images.

    Departures from the paper. Each block has its own positions (Carion et al. 2020). A position in time is a token's
    age as the token that looks sees it: 0 is its own time step. A clip is cut anywhere, and a stream has no end, so a
    position that counts from the start would say nothing about the movie, and would run out. An age has a vector that
    is added to the keys of each head (Shaw et al. 2018). So a stream of any length works, as long as no token sees
    further back than the learned ages.

    Parameters
    ----------
    dim, mask : given by the core.
    heads : number of heads.
    qk_norm : normalize queries and keys for each head.
    dropout : probability with which an attention weight is dropped in training.
    places : rows and columns of learned places.
    steps : learned ages, in time steps; at least those of the window, or of a clip where there is no window.

    Raises
    ------
    ValueError
        For sizes below one, models that are not causal, and in ``check_positions`` where a token sees further back.
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
        if len(places) != 2 or min(places) < 1:
            raise ValueError(f"model.attention.places={list(places)} must be two positive numbers: [rows, columns]")
        if steps < 1:
            raise ValueError(f"model.attention.steps={steps} must be at least 1")
        self.sides, self.steps = (places[0], places[1]), steps
        ages = steps if mask.window is None else min(steps, mask.window)
        self.place_PD = nn.Parameter(SPREAD * torch.randn(math.prod(places), dim)) if mask.over != "time" else None
        self.age_hAd = nn.Parameter(SPREAD * torch.randn(heads, ages, self.head_dim)) if mask.over != "space" else None

    def check_positions(self, height: int, width: int, steps: int) -> None:
        if self.mask.over != "space" and steps > self.steps:
            raise ValueError(
                f"a token sees {steps} time steps, and positions are learned for model.attention.steps={self.steps}; "
                f"set model.attention.steps={steps}, or a model.window of at most {self.steps} tokens' frames"
            )

    def make(self, positions: Positions, height: int, width: int) -> tuple[Tensor, ...]:
        """How much of each learned place a token has, (N, P); rows of registers are zero."""
        if self.place_PD is None:
            return ()
        device = positions.rows.device
        down, across = (interpolation(*sides, device) for sides in zip((height, width), self.sides, strict=True))
        found_Nrc = down[positions.rows.clamp_min(0), :, None] * across[positions.columns.clamp_min(0), None]
        return (found_Nrc.flatten(1) * (positions.rows >= 0)[:, None],)

    def project(self, x_BND: Tensor, positions: Positions) -> tuple[Tensor, Tensor, Tensor]:
        if self.place_PD is not None:
            (shares_NP,) = positions.made
            x_BND = x_BND + shares_NP.to(self.place_PD.dtype) @ self.place_PD
        return self.normalized(x_BND)

    def bias(self, q: Tensor, queries: Positions, keys: Positions) -> Tensor | None:
        """Of each query with the age of each key: (B, h, Q, K)."""
        if self.age_hAd is None:
            return None
        by_age = (q @ self.age_hAd.to(q.dtype).transpose(1, 2)) * self.head_dim**-0.5  # (B, h, Q, A)
        ages = (queries.steps[:, None] - keys.steps).clamp(0, self.age_hAd.shape[1] - 1)  # others are not seen
        return by_age.gather(-1, ages.expand(*by_age.shape[:2], -1, -1))


def interpolation(cells: int, learned: int, device: torch.device) -> Tensor:
    """How much each of ``cells`` along a side takes of each learned one, (cells, learned); rows sum to one.

    Linear between the learned ones' middles; where cells are fewer, over all that lie in one.
    """
    middles = (torch.arange(cells, device=device) + 0.5) * learned / cells - 0.5
    away = (middles[:, None] - torch.arange(learned, device=device)).abs() / max(1.0, learned / cells)
    near = (1 - away).clamp_min(0)
    return near / near.sum(1, keepdim=True)
