"""Residual blocks in stages, for the ResNet and the residual stem.

Shape letters: B clips, C channels, T steps in time, H W cells.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import cast

from torch import Tensor, nn

from vivit_core.models.convolution import ChannelNorm, Conv3d, ResidualBlock, Step, in_turn
from vivit_core.models.dropout import check_probability, draw_seeds
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import Call, call_block, init_linear


class Stages:
    """Residual stages over a map, for a core or a tokenizer; each after the first halves the map's sides."""

    stages: nn.ModuleList
    down: nn.ModuleList
    norms: nn.ModuleList

    def make_stages(
        self, widths: list[int], depth: int, kernel: list[int], causal: bool, dropout: float, drop_path: float
    ) -> None:
        """``depth`` blocks for each of ``widths``; the probability ``drop_path`` rises linearly over all of them."""
        check_probability(dropout=dropout, drop_path=drop_path)
        if not widths or min(widths) < 1 or depth < 1:
            raise ValueError(f"widths={list(widths)}, depth={depth}: a stage has channels and blocks")
        total = len(widths) * depth
        path = [drop_path * i / max(1, total - 1) for i in range(total)]
        self.stages = nn.ModuleList(
            residual_blocks(width, kernel, causal, dropout, path[i * depth : (i + 1) * depth], total)
            for i, width in enumerate(widths)
        )
        self.down = nn.ModuleList(
            Conv3d(narrow, wide, (1, 3), stride=2, causal=causal) for narrow, wide in pairwise(widths)
        )
        for convolution in self.down:
            init_linear(convolution)
        self.norms = nn.ModuleList(ChannelNorm(width) for width in widths)

    def blocks(self) -> list[list[ResidualBlock]]:
        """The blocks of each stage."""
        return [cast(list[ResidualBlock], list(cast(nn.ModuleList, stage))) for stage in self.stages]

    def stage_streams(self) -> list[Step]:
        """Each stage as a stream."""
        return [in_turn([block.stream() for block in stage]) for stage in self.blocks()]

    def climb(self, feature_map: FeatureMap, stages: list[Step]) -> list[FeatureMap]:
        """Through all stages; a map from each."""
        maps = []
        for i, (stage, norm) in enumerate(zip(stages, self.norms, strict=True)):
            if i:
                x = self.down[i - 1](feature_map.x_BCTHW)
                feature_map = replace(
                    feature_map, x_BCTHW=x, ys=feature_map.ys[::2], xs=feature_map.xs[::2], cell=2 * feature_map.cell
                )
            feature_map = replace(feature_map, x_BCTHW=stage(feature_map.x_BCTHW))
            maps.append(replace(feature_map, x_BCTHW=norm(feature_map.x_BCTHW)))
        return maps


def run_blocks(blocks: list[ResidualBlock], x_BCTHW: Tensor, call: Call = call_block) -> Tensor:
    """One block after the other, each called by ``call``."""
    seeds = draw_seeds(len(blocks), ResidualBlock.SEEDS, device=x_BCTHW.device)
    for block, own in zip(blocks, seeds, strict=True):
        x_BCTHW = call(block, x_BCTHW, own)
    return x_BCTHW


def residual_blocks(
    width: int, kernel: list[int], causal: bool, dropout: float, drop_path: list[float], depth: int
) -> nn.ModuleList:
    """A stage: one block for each probability of ``drop_path``; ``depth`` counts the blocks of the whole network."""
    if len(kernel) != 2:
        raise ValueError(f"kernel={list(kernel)} must be two numbers: [time steps, cells down and across]")
    size = (kernel[0], kernel[1])
    return nn.ModuleList(
        ResidualBlock(width, size, causal, dropout, path, residual_scale=(2 * depth) ** -0.5) for path in drop_path
    )
