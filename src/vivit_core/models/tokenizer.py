"""Tokenizers: video to tokens.

A tokenizer turns a video (B, C, T, H, W) into tokens (B, T', N, D) on a grid H'·W' = N, and says where they lie. The
clip is padded at its old end to whole tubelets in time and around the frame to whole patches in space: nothing is
dropped.

Shape letters: B clips, C channels, T frames, H W pixels, N tokens a time step, D embedding; p a tubelet's size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.core import Call, call_block
from vivit_core.models.dropout import check_probability, draw_seeds, drop
from vivit_core.models.layers import Level, centres, channel_scales, init_linear, roughness


@dataclass
class Tokens:
    """Tokens and their geometry.

    ``levels`` are finer feature maps that a readout may look at as well; ``map`` is the one that the tokens were cut
    from, where ``Tokenizer.restore`` writes back to it, and ``cells`` how many of its cells, down and across, a token
    holds.
    """

    x_BTND: Tensor
    height: int
    width: int
    first_end: int
    stride: int
    ys: Tensor
    xs: Tensor
    cell: float
    levels: list[Level] = field(default_factory=list)
    map: Level | None = None
    cells: tuple[int, int] = (1, 1)

    def as_level(self, x_BTND: Tensor) -> Level:
        x = rearrange(x_BTND, "b t (h w) d -> b d t h w", h=self.height)
        return Level(x, self.first_end, self.stride, self.ys, self.xs, self.cell)


class Tokenizer(nn.Module):
    """What all tokenizers share: the size of a tubelet, the padding, and the check of the geometry.

    Parameters
    ----------
    patch_size : frames, pixels down and pixels across of a tubelet.
    dim : numbers of a token.

    Attributes
    ----------
    level_channels : channels of the finer levels that come with the tokens.
    out_channels : channels of the level that ``restore`` makes.
    off_middle : pixels from the middle of a cell's own pixels to the middle of what it sees.
    multiple : pixels of which a tubelet's sides are multiples.
    any_side : the settings with which ``multiple`` is one.
    """

    level_channels: list[int]
    out_channels: int
    off_middle: float = 0.0
    multiple: int = 1
    any_side: str = ""

    def __init__(self, patch_size: list[int], dim: int) -> None:
        super().__init__()
        if len(patch_size) != 3 or min(patch_size) < 1:
            raise ValueError(
                f"model.tokenizer.patch_size={list(patch_size)} must be three positive numbers: [frames, "
                "pixels down, pixels across]"
            )
        self.patch_size = (patch_size[0], patch_size[1], patch_size[2])
        self.out_channels = dim

    def grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Tokens in time, down and across.

        Raises
        ------
        ValueError
            Where a clip makes fewer than two time steps, or a tubelet is larger than the frame.
        """
        pt, ph, pw = self.patch_size
        if ph > height or pw > width:
            largest = min(ph, height), min(pw, width)
            down, across = (side // self.multiple * self.multiple for side in largest)
            first = ""
            if not down or not across:
                (down, across), first = largest, f"{self.any_side} and "
            raise ValueError(
                f"a tubelet of {ph}×{pw} px is larger than the frame of {height}×{width} px; "
                f"set {first}model.tokenizer.patch_size=[{pt},{down},{across}]"
            )
        steps = math.ceil(frames / pt)
        if steps < 2:
            raise ValueError(
                f"a clip of {frames} frames makes {steps} time step of {pt} frames, which has nothing before it; "
                f"set data.clip_length to at least {2 * pt} or "
                f"model.tokenizer.patch_size=[{max(1, frames // 2)},{ph},{pw}] or shorter"
            )
        return steps, math.ceil(height / ph), math.ceil(width / pw)

    def pad(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Pad to whole tubelets; returns the video and what was put before (time, rows, columns)."""
        *_, t, h, w = x_BCTHW.shape
        pt, ph, pw = self.patch_size
        old, rows, columns = -t % pt, -h % ph, -w % pw
        top, left = rows // 2, columns // 2
        if old or rows or columns:
            x_BCTHW = F.pad(x_BCTHW, (left, columns - left, top, rows - top, old, 0))
        return x_BCTHW, (old, top, left)

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        """Cut the tokens; blocks on the way are called by ``call``, the core's way of calling its own."""
        raise NotImplementedError

    def restore(self, tokens: Tokens, x_BTND: Tensor) -> Level:
        """The feature level that readouts see of what the blocks made of the tokens: (B, out_channels, T', H', W')."""
        return tokens.as_level(x_BTND)

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[Level | None], Tokens | None]]:
        """Takes frames (1, C, 1, H, W) one by one; gives the finer levels at each, and tokens where some have ended.

        ``old`` frames of padding stand before the first.
        """
        raise NotImplementedError

    def penalty(self) -> Tensor:
        """What the tokenizer adds to the loss: nothing, unless it says otherwise."""
        return torch.zeros(())

    def place(
        self, x_BTND: Tensor, height: int, width: int, before: tuple[int, int, int], levels: list[Level]
    ) -> Tokens:
        pt, ph, pw = self.patch_size
        old, top, left = before
        ys, xs = self.middles(height, ph, top, x_BTND.device), self.middles(width, pw, left, x_BTND.device)
        return Tokens(x_BTND, height, width, pt - 1 - old, pt, ys, xs, math.sqrt(ph * pw), levels)

    def middles(self, cells: int, size: int, before: int, device: torch.device) -> Tensor:
        """Where cells of ``size`` pixels look, px; the first one's pixels start at ``-before``."""
        return centres(cells, size, before, device) + self.off_middle


class Tubelet(Tokenizer):
    """Bare tubelets: each token is a linear map of its own block of pixels (Arnab et al. 2021, "tubelet embedding").

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a tubelet.
    """

    def __init__(self, in_channels: int, dim: int, patch_size: list[int]) -> None:
        super().__init__(patch_size, dim)
        self.embed = nn.Linear(in_channels * math.prod(self.patch_size), dim)
        self.level_channels = []
        init_linear(self.embed)

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        x, before = self.pad(x_BCTHW)
        pt, ph, pw = self.patch_size
        height, width = x.shape[3] // ph, x.shape[4] // pw
        x = rearrange(x, "b c (t pt) (h ph) (w pw) -> b t (h w) (c pt ph pw)", pt=pt, ph=ph, pw=pw)
        return self.place(self.embed(x), height, width, before, [])

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[Level | None], Tokens | None]]:
        waiting: list[Tensor] = []

        def advance(frame: Tensor) -> tuple[list[Level | None], Tokens | None]:
            nonlocal old
            waiting.extend([torch.zeros_like(frame)] * old + [frame])
            old = 0
            if len(waiting) < self.patch_size[0]:
                return [], None
            clip = torch.cat(waiting, dim=2)
            waiting.clear()
            return [], self(clip)

        return advance


class ConvStem(Tokenizer):
    """A shallow convolutional stem at the full frame rate; tokens are cut from its map, and readouts see it too.

    Each frame (after the front end's temporal filters) is filtered by local receptive fields, rectified in both
    signs, and mixed. Readouts that look at this fine map keep places that a grid of tokens blurs; the tokens carry
    what is around in space and before in time.

    Parameters
    ----------
    in_channels, dim : given by the model.
    patch_size : frames, pixels down and pixels across of a tubelet; the pixels are multiples of ``stride``.
    channels : number of local receptive fields, and of the map's channels.
    kernel : side of the receptive fields, px; odd.
    stride : pixels between the map's cells.
    dropout : probability with which a channel of the map is silenced, for a whole clip, in training.
    smoothness : weight of the squared Laplacian of the receptive fields in the loss.
    """

    def __init__(
        self,
        in_channels: int,
        dim: int,
        patch_size: list[int],
        channels: int,
        kernel: int,
        stride: int = 1,
        dropout: float = 0.0,
        smoothness: float = 0.0,
    ) -> None:
        super().__init__(patch_size, dim)
        check_probability(dropout=dropout)
        _, ph, pw = self.patch_size
        # A residual stem has a stem of this kind within, so that no key's whole name is known here.
        if kernel % 2 == 0 or kernel < 1:
            raise ValueError(f"the stem's kernel={kernel} must be odd, so that a receptive field has a centre")
        if stride < 1:
            raise ValueError(f"the stem's stride={stride} must be at least one pixel")
        if ph % stride or pw % stride:
            raise ValueError(
                f"model.tokenizer.patch_size={list(patch_size)}: its pixels must be multiples of the stem's "
                f"stride={stride}"
            )
        self.kernel, self.stride, self.dropout, self.smoothness = kernel, stride, dropout, smoothness
        self.multiple, self.any_side = stride, "model.tokenizer.stride=1"
        # An odd kernel has a pixel for its middle, an even number of pixels has none.
        self.off_middle = -((kernel - stride) % 2) / 2
        self.fields = nn.Conv2d(in_channels, channels, kernel, stride=stride, bias=True)
        self.mix = nn.Conv2d(2 * channels, channels, 1)
        self.level_channels = [channels]
        self.embed = nn.Linear(channels * self.patch_size[0], dim)
        for module in (self.fields, self.mix, self.embed):
            init_linear(module)

    @torch.no_grad()
    def start(self, fields_OIHW: Tensor) -> None:
        """Take over receptive fields of at most the kernel's size; the channels beyond their number stay random."""
        number, _, height, width = fields_OIHW.shape
        top, left = (self.kernel - height) // 2, (self.kernel - width) // 2
        self.fields.weight[:number] = F.pad(
            fields_OIHW.to(self.fields.weight), (left, self.kernel - width - left, top, self.kernel - height - top)
        )

    @torch.no_grad()
    def normalise(self, clips: Sequence[Tensor]) -> None:
        """Scale the fields, then the mix, to unit variance of each channel (Salimans & Kingma 2016) on these clips
        (B, C, T, H, W) together, which may differ in length.

        Without it the small responses that oriented fields give to natural images would meet only the straight part
        of the rectifier.
        """
        shown = [self.same(x)[0] for x in clips]
        self.fields.weight /= channel_scales([self.fields(x) for x in shown])[:, None, None, None]
        mixed = [self.mix(self.rectify(self.fields(x))) for x in shown]
        self.mix.weight /= channel_scales(mixed)[:, None, None, None]

    def penalty(self) -> Tensor:
        """The roughness of the receptive fields."""
        weight = self.fields.weight
        return self.smoothness * roughness(weight) if self.smoothness else weight.new_zeros(())

    def same(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Frames (B·T, C, H, W), padded so that the map's cell i lies over pixels i·stride … (i+1)·stride-1.

        Where kernel and stride are not both odd or both even, the kernel's middle is half a pixel before the cell's.
        """
        x, before = self.pad(x_BCTHW)
        reach = self.kernel - self.stride
        low, high = reach // 2 + reach % 2, reach // 2
        x = rearrange(F.pad(x[:, :, before[0] :], (low, high, low, high)), "b c t h w -> (b t) c h w")
        return x.contiguous(memory_format=torch.channels_last), before

    @staticmethod
    def rectify(x: Tensor) -> Tensor:
        """Each sign through its own rectifier: their sum, like a complex cell, takes a field and its negative alike."""
        # In place, because the backward pass then has the exponential already; a copy less, too.
        return F.elu(torch.cat([x, -x], dim=1), inplace=True)

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        level, before = self.fine(x_BCTHW)
        pooled = F.pad(self.pool(level), (0, 0, 0, 0, 0, 0, before[0], 0))
        return self.tokens(pooled, before, [level])

    def fine(self, x_BCTHW: Tensor) -> tuple[Level, tuple[int, int, int]]:
        """The map, (B, C, T, H, W), and what was padded before (time, rows, columns)."""
        b = x_BCTHW.shape[0]
        x, before = self.same(x_BCTHW)
        x = F.elu(self.mix(self.rectify(self.fields(x))), inplace=True)
        if self.training and self.dropout:
            x = rearrange(x, "(b t) c h w -> b t c h w", b=b)
            silent = (b, 1, x.shape[2], 1, 1)
            x = drop(x, self.dropout, draw_seeds(device=x.device), shape=silent).flatten(0, 1)
        height, width = x.shape[2:]
        _, top, left = before
        ys, xs = (self.middles(n, self.stride, b, x.device) for n, b in ((height, top), (width, left)))
        return Level(rearrange(x, "(b t) c h w -> b c t h w", b=b), 0, 1, ys, xs, float(self.stride)), before

    def pool(self, level: Level) -> Tensor:
        """A patch's cells averaged in space, (B, T, H', W', C): place is the map's business."""
        _, ph, pw = self.patch_size
        b = level.x_BCTHW.shape[0]
        x = F.avg_pool2d(rearrange(level.x_BCTHW, "b c t h w -> (b t) c h w"), (ph // self.stride, pw // self.stride))
        return rearrange(x, "(b t) c h w -> b t h w c", b=b)

    def tokens(self, pooled_BTHWC: Tensor, before: tuple[int, int, int], levels: list[Level]) -> Tokens:
        """A patch's frames side by side in one token."""
        _, _, height, width, _ = pooled_BTHWC.shape
        x = rearrange(pooled_BTHWC, "b (t pt) h w c -> b t (h w) (pt c)", pt=self.patch_size[0])
        return self.place(self.embed(x), height, width, before, levels)

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[Level | None], Tokens | None]]:
        waiting: list[Tensor] = []

        def advance(frame: Tensor) -> tuple[list[Level | None], Tokens | None]:
            nonlocal old
            level, (_, top, left) = self.fine(frame)
            pooled = self.pool(level)
            waiting.extend([torch.zeros_like(pooled)] * old + [pooled])
            old = 0
            if len(waiting) < self.patch_size[0]:
                return [level], None
            tokens = self.tokens(torch.cat(waiting, dim=1), (0, top, left), [])
            waiting.clear()
            return [level], tokens

        return advance
