"""Residual 3-D CNN: as a core, the ViViT's rival, and as a stem whose map the ViViT's tokens are cut from.

    video (B, C, T, H, W)
      front end      optional causal temporal filters
      tokenizer      the strided first convolution → (B, C, T', H', W')
      stages         residual blocks of causal 3-D convolutions; each stage after the first halves the map's sides
      norm           → a map from each stage

Front end and tokenizer are the ViViT's own, so that the two differ in nothing but what they compute from the same
features: convolutions here, attention there.

Shape letters: B clips, C channels, T frames, T' time steps, H W pixels or cells, N tokens a time step, D embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

from torch import Tensor

from vivit_core.models.cores.base import Core
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.frontends.base import Frontend
from vivit_core.models.layers import Part
from vivit_core.models.residual import Stages, run_blocks
from vivit_core.models.tokenizers.base import Tokenizer
from vivit_core.models.tokenizers.residual_stem import ResidualStem


class ResNet(Core, Stages):
    """Residual CNN over space and time, causal (after He et al. 2016 and Tran et al. 2018).

    Parameters
    ----------
    in_channels : channels of the video, given by the recordings.
    widths : channels of each stage.
    depth : residual blocks of each stage.
    kernel : time steps, and cells down and across, of a block's convolutions.
    tokenizer, frontend : constructors that take the sizes (``parts.build.part``); ``frontend=None`` for bare pixels.
    dropout : probability, between a block's convolutions.
    drop_path : probability of leaving out the last block's branch; rises linearly from 0 at the first.
    checkpointing, causal, compile : see ``Core``.

    Raises
    ------
    ValueError
        For a tokenizer that waits for attention, and sizes that do not fit each other.
    """

    def __init__(
        self,
        in_channels: int,
        widths: list[int],
        depth: int,
        kernel: list[int],
        tokenizer: Part,
        frontend: Part | None,
        dropout: float,
        drop_path: float,
        checkpointing: bool,
        causal: bool,
        compile: bool | Literal["auto"],
    ) -> None:
        super().__init__(causal, checkpointing, compile)
        self.frontend: Frontend | None = frontend(in_channels=in_channels) if frontend is not None else None
        channels = self.frontend.out_channels if self.frontend is not None else in_channels
        self.tokenizer: Tokenizer = tokenizer(in_channels=channels, dim=widths[0] if widths else 1)
        if isinstance(self.tokenizer, ResidualStem):  # the weights of its gain would never be used
            raise ValueError(
                "model.tokenizer: a residual stem's tokens become a gain after attention, which a ResNet lacks; "
                "set model/tokenizer=stem or model/tokenizer=tubelet"
            )
        self.make_stages(widths, depth, kernel, causal, dropout, drop_path)
        self.map_channels = [*self.tokenizer.map_channels, *widths]
        self.stride = self.tokenizer.token_stride[0]

    def forward(self, x_BCTHW: Tensor) -> list[FeatureMap]:
        """Feature maps, finest first; the last is the last stage's."""
        if self.frontend is not None:
            x_BCTHW = self.frontend(x_BCTHW)
        tokens = self.tokenizer(x_BCTHW)
        feature_map = tokens.as_map(tokens.x_BTND)
        return [
            *tokens.maps,
            *self.climb(feature_map, [partial(run_blocks, each, call=self.call) for each in self.blocks()]),
        ]

    def stream(self, old: int) -> Callable[[Tensor], list[FeatureMap | None]]:
        self.refuse_acausal_stream()
        filtered = self.frontend.stream() if self.frontend is not None else None
        cut = self.tokenizer.stream(old)
        stages = self.stage_streams()

        def advance(frame: Tensor) -> list[FeatureMap | None]:
            maps, tokens = cut(frame if filtered is None else filtered(frame))
            if tokens is None:
                return [*maps, *[None] * len(stages)]
            return [*maps, *self.climb(tokens.as_map(tokens.x_BTND), stages)]

        return advance

    def check_geometry(self, frames: int, height: int, width: int) -> None:
        self.tokenizer.grid(frames, height, width)

    def regularizer(self) -> Tensor:
        return self.tokenizer.regularizer()
