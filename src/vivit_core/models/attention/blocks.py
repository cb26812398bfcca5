"""A transformer block: attention, then a feed-forward net, each added to what comes in.

Shape letters as in ``base``.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.attention.base import Attention, Cache, Positions
from vivit_core.models.dropout import drop
from vivit_core.models.layers import init_linear


class FeedForward(nn.Module):
    """Two linear layers with a GELU between them, dropout after each."""

    def __init__(self, dim: int, ratio: float, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.fc1, self.fc2 = nn.Linear(dim, int(dim * ratio)), nn.Linear(int(dim * ratio), dim)

    def forward(self, x: Tensor, seeds: Tensor) -> Tensor:
        hidden = F.gelu(self.fc1(x))
        if not self.training or not self.dropout:
            return self.fc2(hidden)
        return drop(self.fc2(drop(hidden, self.dropout, seeds[0])), self.dropout, seeds[1])


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
                closes_a_branch = module is self.attention.out or module is self.ff.fc2
                init_linear(module, residual_scale if closes_a_branch else 1.0)

    def forward(self, x_BND: Tensor, positions: Positions, seeds: Tensor) -> Tensor:
        x_BND = x_BND + self.branch(self.attention(self.norm_attention(x_BND), positions, seeds[0]), seeds[1])
        return x_BND + self.branch(self.ff(self.norm_ff(x_BND), seeds[2:4]), seeds[4])

    def branch(self, y_BND: Tensor, seed: Tensor) -> Tensor:
        if not self.training or not self.drops_paths:
            return y_BND
        return drop(y_BND, self.drop_path, seed, shape=(len(y_BND), 1, 1))

    def step(self, x_BND: Tensor, positions: Positions, cache: Cache) -> Tensor:
        """The newest time step's tokens alone; what was before is in the cache."""
        x_BND = x_BND + self.attention.step(self.norm_attention(x_BND), positions, cache)
        return x_BND + self.ff(self.norm_ff(x_BND), x_BND.new_empty(0))
