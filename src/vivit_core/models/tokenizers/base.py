"""Tokenizers: video to tokens.

A tokenizer turns a video (B, C, T, H, W) into tokens (B, T', N, D) on a grid H'·W' = N, and says where they lie. The
clip is padded at its old end to whole tubelets in time and around the frame to whole patches in space: nothing is
dropped. Tubelets may overlap: a stride below their size has a token end, and lie, every so many frames and pixels.

Shape letters: B clips, C channels, T frames, H W pixels, N tokens a time step, D embedding; p a tubelet's size, s its
stride, P channels times cells of a token.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.feature_map import FeatureMap, cell_centers
from vivit_core.models.from_data import FromData
from vivit_core.models.layers import Call, call_block, no_regularizer


@dataclass
class Tokens:
    """Tokens and their geometry.

    ``maps`` are feature maps that a readout looks at as well; ``map`` is the one that the tokens were cut from, where
    ``Tokenizer.restore`` makes a map of the same cells, and ``cells`` how many of them, down and across, a token holds,
    ``apart`` how many lie from one token to the next.
    """

    x_BTND: Tensor
    height: int
    width: int
    first_end: int
    stride: int
    ys: Tensor
    xs: Tensor
    cell: float
    maps: list[FeatureMap] = field(default_factory=list)
    map: FeatureMap | None = None
    cells: tuple[int, int] = (1, 1)
    apart: tuple[int, int] = (1, 1)

    def as_map(self, x_BTND: Tensor) -> FeatureMap:
        x = rearrange(x_BTND, "b t (h w) d -> b d t h w", h=self.height)
        return FeatureMap(x, self.first_end, self.stride, self.ys, self.xs, self.cell)


class Tokenizer(FromData, nn.Module, ABC):
    """Video in, tokens out, and back to a feature map.

    The base class holds what all share: the size of a tubelet, the padding, and the check of the geometry.

    What a subclass has to do
    -------------------------
    - take ``in_channels`` and ``dim`` in its constructor, given by the core; all other arguments are its YAML's keys,
      ``patch_size`` among them;
    - set ``map_channels``, and ``out_channels`` where ``restore`` makes something else than the tokens' own grid;
    - name ``embed`` the linear layer that makes a token of what was cut (``begin_with`` keeps numbers of it free);
    - ``forward``: a token knows no frame after its tubelet's last, and its place is where its tubelet lies (``place``
      puts it there);
    - ``stream``: the same tokens, frame by frame.

    What it may do
    --------------
    Begin from data (``FromData``); ``restore`` and what belongs to it, ``regularizer``.

    What the contract tests check (``vivit_core.testing.check_tokenizer``)
    ---------------------------------------------------------------------
    Odd sizes, no look ahead, a gradient for every parameter, the same gradients computed again and compiled, a stream
    that equals the clip, the round trip through a checkpoint; the fields that it wants are taken.

    Parameters
    ----------
    patch_size : frames, pixels down and pixels across of a tubelet.
    dim : numbers of a token.
    token_stride : frames, pixels down and pixels across from one token to the next, none larger than the tubelet's;
        None: the tubelet's own, so that none overlap.

    Attributes
    ----------
    map_channels : channels of the finer maps that come with the tokens.
    out_channels : channels of the map that ``restore`` makes.
    embed : the layer that makes tokens of what was cut.
    gain : ``restore`` makes a gain; what drives units is in the finer maps.
    off_middle : pixels from the middle of a cell's own pixels to the middle of what it sees.
    multiple : pixels of which a tubelet's sides are multiples.
    any_side : the settings with which ``multiple`` is one.
    """

    map_channels: list[int]
    out_channels: int
    embed: nn.Linear
    gain: bool = False
    off_middle: float = 0.0
    multiple: int = 1
    any_side: str = ""

    def __init__(self, patch_size: list[int], dim: int, token_stride: list[int] | None = None) -> None:
        super().__init__()
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise ValueError(
                f"model.tokenizer.patch_size={list(patch_size)} must be three positive numbers: [frames, "
                "pixels down, pixels across]"
            )
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        stride = self.patch_size if token_stride is None else token_stride
        if len(stride) != 3 or not all(1 <= own <= size for own, size in zip(stride, self.patch_size, strict=True)):
            raise ValueError(
                f"model.tokenizer.token_stride={list(stride)} must be three positive numbers, none above those of "
                f"model.tokenizer.patch_size={list(patch_size)}, or pixels between tokens would be seen by none; set "
                "model.tokenizer.token_stride=null, where none overlap"
            )
        self.token_stride = (stride[0], stride[1], stride[2])
        self.out_channels = dim

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens in time, down and across.

        Raises
        ------
        ValueError
            Where a clip makes fewer than two time steps, or a tubelet is larger than the frame.
        """
        pt, ph, pw = self.patch_size
        every, *_ = self.token_stride
        if ph > height or pw > width:
            largest = min(ph, height), min(pw, width)
            down, across = (side // self.multiple * self.multiple for side in largest)
            first = ""
            if not down or not across:
                (down, across), first = largest, f"{self.any_side} and "
            if self.token_stride[1] > down or self.token_stride[2] > across:
                first += "model.tokenizer.token_stride=null and " if self.token_stride != self.patch_size else ""
            raise ValueError(
                f"a tubelet of {ph}×{pw} px is larger than the frame of {height}×{width} px; "
                f"set {first}model.tokenizer.patch_size=[{pt},{down},{across}]"
            )
        steps = math.ceil(frames / every)
        if steps < 2:
            shorter = max(1, frames // 2)
            key = f"patch_size=[{shorter},{ph},{pw}]"
            if every < pt:
                key = f"token_stride=[{shorter},{self.token_stride[1]},{self.token_stride[2]}]"
            instead = (
                f"or model.tokenizer.{key} or shorter" if frames > 1 else "and give training trials of as many bins"
            )
            raise ValueError(
                f"a clip of {frames} frames makes {steps} time step of {every} frames, which has nothing before it; "
                f"set data.clip_length to at least {2 * every} {instead}"
            )
        down, across = (
            cells_on(side, size, stride)
            for side, size, stride in zip((height, width), (ph, pw), self.token_stride[1:], strict=True)
        )
        return steps, down, across

    def pad(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Pad to whole tubelets; returns the video and what was put before (time, rows, columns).

        In time to whole strides. What a first, overlapping tubelet reaches back beyond its stride is not put before
        here (``reaching_back``).
        """
        old = -x_BCTHW.shape[2] % self.token_stride[0]
        rows, columns = (
            (cells_on(side, size, stride) - 1) * stride + size - side
            for side, size, stride in zip(x_BCTHW.shape[3:], self.patch_size[1:], self.token_stride[1:], strict=True)
        )
        top, left = rows // 2, columns // 2
        if old or rows or columns:
            x_BCTHW = F.pad(x_BCTHW, (left, columns - left, top, rows - top, old, 0))
        return x_BCTHW, (old, top, left)

    @property
    def reaching_back(self) -> int:
        """Frames that a tubelet has in common with those before it: before a clip's first one they are zero."""
        return self.patch_size[0] - self.token_stride[0]

    @abstractmethod
    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        """Cut the tokens; blocks on the way are called by ``call``, the core's way of calling its own."""

    def restore(self, tokens: Tokens, x_BTND: Tensor) -> FeatureMap:
        """The feature map that readouts see of what the blocks made of the tokens: (B, out_channels, T', H', W')."""
        return tokens.as_map(x_BTND)

    @torch.no_grad()
    def begin_with(self, free: int, told: list[int], zero: int) -> None:
        """Leave the first numbers of every token to others, and let units begin to read some of them.

        Parameters
        ----------
        free : how many numbers of a token ``forward`` leaves at 0, to begin with.
        told, zero : which numbers of what comes back ``restore`` gives on to begin with, as many as it has room for,
            each less the number ``zero``; where units read tokens as they are, nothing is to be done.
        """
        self.embed.weight[:free] = 0.0

    def learns_with_blocks(self) -> list[nn.Parameter]:
        """Parameters between maps and blocks, which learn as fast as blocks that begin with comparisons."""
        return list(self.embed.parameters())

    @abstractmethod
    def stream(self, old: int) -> Callable[[Tensor], tuple[list[FeatureMap | None], Tokens | None]]:
        """A function that takes frames (1, C, 1, H, W) one by one, and gives the finer maps at each, and the tokens
        where some have ended (else None).

        ``old`` frames of padding stand before the first.
        """

    def regularizer(self) -> Tensor:
        """What the tokenizer adds to the loss, already weighted: nothing, unless it says otherwise."""
        return no_regularizer(self)

    def place(
        self, x_BTND: Tensor, height: int, width: int, before: tuple[int, int, int], maps: list[FeatureMap]
    ) -> Tokens:
        _, ph, pw = self.patch_size
        every, down, across = self.token_stride
        old, top, left = before
        # Half of what overlaps lies before a token's own stride of pixels.
        ys = self.middles(height, down, top - (ph - down) / 2, x_BTND.device)
        xs = self.middles(width, across, left - (pw - across) / 2, x_BTND.device)
        return Tokens(x_BTND, height, width, every - 1 - old, every, ys, xs, math.sqrt(down * across), maps)

    def middles(self, cells: int, size: int, before: float, device: torch.device) -> Tensor:
        """Where cells of ``size`` pixels look, px; the first one's pixels start at ``-before``."""
        return cell_centers(cells, size, before, device) + self.off_middle


def cells_on(side: int, size: int, stride: int) -> int:
    """How many cells of a size, a stride from one to the next, cover a side."""
    return max(0, math.ceil((side - size) / stride)) + 1


def folded(x_BPN: Tensor, tokens: Tokens) -> Tensor:
    """The sum of what tokens give the cells that they hold, (B, C, H, W); P are channels times cells of a token."""
    (h, w), (down, across) = tokens.cells, tokens.apart
    size = ((tokens.height - 1) * down + h, (tokens.width - 1) * across + w)
    return F.fold(x_BPN, size, kernel_size=(h, w), stride=(down, across))
