"""What every core keeps: from video to feature maps.

Shape letters: B clips, C channels, T frames, H W pixels.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.from_data import FromData
from vivit_core.models.layers import Call, call_block, no_regularizer


class Core(FromData, nn.Module, ABC):
    """Video in, feature maps out, finest first; the part of a twin that its recordings share.

    Frames come normalized, at one size, oldest first, as (B, C, T, H, W). Each map says where its cells lie and with
    which frames its steps end (``FeatureMap``): a step that ends at frame e knows no later frame, and serves the bins
    from e on until the next one ends. A clip that is no whole number of steps is padded with zeros at its *old* end.

    What a subclass has to do
    -------------------------
    - take ``in_channels`` in its constructor, given by the recordings; all other arguments are its YAML's keys, among
      them those below where the user is to choose;
    - set ``map_channels`` and ``stride``;
    - ``forward``, with each block called by ``self.call``, so that it can be computed again or compiled;
    - ``stream``: the same numbers, frame by frame, or ``refuse_acausal_stream``;
    - ``check_geometry``: refuse clips that do not fit, with a remedy, before anything is computed.

    What it may do
    --------------
    Begin from data (``FromData``); ``regularizer``. A front end before a tokenizer is its attribute ``frontend``.

    What the contract tests check (``vivit_core.testing.check_core``)
    ----------------------------------------------------------------
    Odd sizes, no look ahead, a gradient for every parameter, the same gradients computed again and compiled, a stream
    that equals the clip, the round trip through a checkpoint; the fields that it wants are taken.

    Parameters
    ----------
    causal : no step of a map sees a later frame.
    checkpointing : compute each block again in the backward pass instead of keeping its activations.
    compile : whether the blocks are compiled for training (``compile_blocks``); "auto": the training decides.

    Attributes
    ----------
    map_channels : channels of each map.
    stride : frames a step of the last map, on which modulators act.
    left_out : why a part that was asked for is left out, because there is no room for it; empty: none is.
    """

    map_channels: list[int]
    stride: int
    left_out: str = ""

    def __init__(self, causal: bool, checkpointing: bool, compile: bool | Literal["auto"]) -> None:
        super().__init__()
        self.causal, self.checkpointing, self.compile_choice = causal, checkpointing, compile
        self.compiled: Call | None = None

    @abstractmethod
    def forward(self, x_BCTHW: Tensor) -> list[FeatureMap]:
        """(B, C, T, H, W) to feature maps, finest first."""

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

    @abstractmethod
    def stream(self, old: int) -> Callable[[Tensor], list[FeatureMap | None]]:
        """A function that takes frames (1, C, 1, H, W) one by one, and gives what each changes of the maps (None:
        nothing).

        ``old`` frames of padding stand before the first.
        """

    def refuse_acausal_stream(self) -> None:
        if not self.causal:
            raise ValueError("an acausal model (model.causal=false) sees later frames, and cannot be streamed")

    @abstractmethod
    def check_geometry(self, frames: int, height: int, width: int) -> None:
        """Raise ValueError, with a remedy, where a clip of this size leaves a stage nothing to do."""

    def context(self) -> list[nn.Parameter]:
        """Parameters of what begins as something that works, and learns at ``optim.context_lr_scale``: none."""
        return []

    def regularizer(self) -> Tensor:
        """What the core adds to the loss, already weighted: nothing, unless it says otherwise."""
        return no_regularizer(self)
