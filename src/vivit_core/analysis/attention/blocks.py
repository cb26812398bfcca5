"""The blocks of a core that attend, and their heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import nn

from vivit_core.models.attention.base import Attention
from vivit_core.models.attention.blocks import Block
from vivit_core.models.cores.vivit import ViViT
from vivit_core.models.ensemble import Ensemble
from vivit_core.specs import Clips

Kind = Literal["spatial", "temporal", "joint"]


def attending_core(twin: nn.Module) -> ViViT:
    """The twin's ViViT, whose blocks or whose cells attend.

    Raises
    ------
    ValueError
        Where its core does not attend.
    """
    if isinstance(twin, Ensemble):
        raise ValueError(
            f"an {twin.kind} has no attention of its own; look at a member: give the checkpoint that it was made of"
        )
    core = getattr(twin, "core", None)
    if not isinstance(core, ViViT) or not (has_blocks(core) or core.cell_attention is not None):
        raise ValueError(
            f"a core of {type(core if core is not None else twin).__name__} has no attention to look at; "
            "give a twin with a ViViT core, for example of model=vivit_small"
        )
    return core


def has_blocks(core: ViViT) -> bool:
    return any(map(len, (core.spatial, core.temporal, core.joint)))


def core_with_blocks(twin: nn.Module) -> ViViT:
    """The same, where tokens attend.

    Raises
    ------
    ValueError
        Where none do.
    """
    core = attending_core(twin)
    if not has_blocks(core):
        raise ValueError(
            "this twin has no blocks: its cells attend, its tokens do not. What that is worth, task=evaluate "
            "attention_controls=true says; maps need a twin with model.spatial_depth or model.temporal_depth above 0"
        )
    return core


def blocks_of(core: ViViT) -> dict[Kind, list[Attention]]:
    """The attention of each block, by kind; a core has spatial and temporal ones, or joint ones."""

    def attentions(blocks: nn.ModuleList) -> list[Attention]:
        return [block.attention for block in blocks if isinstance(block, Block)]

    own: dict[Kind, nn.ModuleList] = {"spatial": core.spatial, "temporal": core.temporal, "joint": core.joint}
    return {kind: attentions(blocks) for kind, blocks in own.items()}


def heads_of(core: ViViT) -> int:
    """All blocks have the same number."""
    return next(attention.heads for own in blocks_of(core).values() for attention in own)


def chosen(given: Sequence[int] | None, count: int, what: str) -> tuple[int, ...]:
    """The wanted ones of ``count`` things, in their order."""
    if given is None:
        return tuple(range(count))
    if any(not -count <= i < count for i in given):
        raise ValueError(f"the model has {count} {what}, and {list(given)} were asked for; give numbers below {count}")
    return tuple(sorted({i % count for i in given}))


def on_device(clips: Clips, device: torch.device) -> Clips:
    """What the twin predicts from, and no more."""
    return Clips(frames=clips["frames"].to(device), behavior=clips["behavior"].to(device))
