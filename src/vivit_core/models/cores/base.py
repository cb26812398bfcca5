"""What every core keeps, so that twins, streams, trainings and plans need not know which one they have.

Shape letters: B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import Call, call_block


class Core(nn.Module):
    """Video (B, C, T, H, W) to feature levels, finest first.

    Parameters
    ----------
    causal : no step of a level sees a later frame.
    checkpointing : compute each block again in the backward pass instead of keeping its activations.
    compile : whether the blocks are compiled for training (``compile_blocks``); "auto": the training decides.

    Attributes
    ----------
    level_channels : channels of each level.
    stride : frames a step of the last level, on which modulators act.
    """

    level_channels: list[int]
    stride: int

    def __init__(self, causal: bool, checkpointing: bool, compile: bool | Literal["auto"]) -> None:
        super().__init__()
        self.causal, self.checkpointing, self.compile_choice = causal, checkpointing, compile
        self.compiled: Call | None = None

    def forward(self, x_BCTHW: Tensor) -> list[FeatureMap]:
        raise NotImplementedError

    def call(self, block: nn.Module, *inputs: Any) -> Tensor:
        """A block's output, as ``checkpointing`` and ``compile_blocks`` say."""
        # Evaluation meets many lengths, each of which would be compiled anew.
        call = self.compiled if self.compiled is not None and self.training else call_block
        if self.checkpointing and torch.is_grad_enabled():
            y: Tensor = torch.utils.checkpoint.checkpoint(call, block, *inputs, use_reentrant=False)
            return y
        return call(block, *inputs)

    def compile_blocks(self) -> None:
        """From now on train with one compiled code for all blocks of a kind."""
        self.compiled = torch.compile(call_block, dynamic=False)

    def stream(self, old: int) -> Callable[[Tensor], list[FeatureMap | None]]:
        """See ``streaming.Stream``: takes frames (1, C, 1, H, W) one by one and gives the levels that each one changes.

        ``old`` frames of padding stand before the first.
        """
        raise NotImplementedError

    def refuse_acausal_stream(self) -> None:
        if not self.causal:
            raise ValueError("an acausal model (model.causal=false) sees later frames, and cannot be streamed")

    def check_geometry(self, frames: int, height: int, width: int) -> None:
        """Raise ValueError, with a remedy, where a clip of this size leaves a stage nothing to do."""
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """What the core adds to the loss, already weighted."""
        raise NotImplementedError
