"""Attention within a neighborhood in space."""

from __future__ import annotations

from torch import Tensor

from vivit_core.models.attention.base import AttentionMask, Positions
from vivit_core.models.attention.rotary import RotaryAttention


class WindowAttention(RotaryAttention):
    """Rotary attention in which a place sees the places around it alone (after Liu et al. 2021, "Swin transformer").

    The window slides with the token that looks (Beltagy et al. 2020, "Longformer"), where Swin's are fixed tiles, so
    that every token has the same neighborhood, cut at the frame's edge. Registers see all places, and all see them. In
    time nothing changes. It limits what is seen, not what is computed: a frame has few tokens, and their scores are
    made and then left out.

    Parameters
    ----------
    dim, mask : given by the core.
    heads, qk_norm, dropout, rope_base_space, rope_base_time : as ``RotaryAttention``'s.
    neighborhood : rows up and down, and columns left and right, that a token sees beside its own.

    Raises
    ------
    ValueError
        For negative numbers.
    """

    def __init__(
        self,
        dim: int,
        mask: AttentionMask,
        heads: int,
        qk_norm: bool,
        dropout: float,
        rope_base_space: float,
        rope_base_time: float,
        neighborhood: list[int],
    ) -> None:
        super().__init__(dim, mask, heads, qk_norm, dropout, rope_base_space, rope_base_time)
        if len(neighborhood) != 2 or min(neighborhood) < 0:
            raise ValueError(
                f"model.attention.neighborhood={list(neighborhood)} must be two numbers from 0: [rows, columns]"
            )
        self.neighborhood = (neighborhood[0], neighborhood[1])

    def seen(self, queries: Positions, keys: Positions) -> Tensor | None:
        earlier = super().seen(queries, keys)
        if self.mask.over == "time":
            return earlier
        down, across = ((mine[:, None] - theirs).abs() for mine, theirs in zip(queries[:2], keys[:2], strict=True))
        near = (down <= self.neighborhood[0]) & (across <= self.neighborhood[1])
        near = near | (queries.rows < 0)[:, None] | (keys.rows < 0)
        return near if earlier is None else near & earlier
