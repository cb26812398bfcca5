"""Tokens from a convolutional stem that is causal in time.

Shape letters: B clips, C channels, T frames, H W pixels, F fields, K filters in time, P pixels of a side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.dropout import check_probability, draw_seeds, drop
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.from_data import FieldsWanted
from vivit_core.models.layers import Call, call_block, channel_scales, init_linear, roughness
from vivit_core.models.tokenizers.base import Tokenizer, Tokens
from vivit_core.parts.schema import Count


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
        stride: Count,
        dropout: float,
        smoothness: float,
    ) -> None:
        super().__init__(patch_size, dim)
        check_probability(dropout=dropout)
        _, ph, pw = self.patch_size
        # A residual stem has a stem of this kind within, so that no key's whole name is known here.
        if kernel % 2 == 0 or kernel < 1:
            raise ValueError(f"the stem's kernel={kernel} must be odd, so that a receptive field has a center")
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
        self.map_channels = [channels]
        self.embed = nn.Linear(channels * self.patch_size[0], dim)
        for module in (self.fields, self.mix, self.embed):
            init_linear(module)

    def fields_wanted(self) -> FieldsWanted:
        return FieldsWanted(self.fields.out_channels, self.kernel)

    @torch.no_grad()
    def initialize(self, fields_FKPP: Tensor) -> None:
        """Take over receptive fields of at most the kernel's size; the channels beyond their number stay random."""
        number, _, height, width = fields_FKPP.shape
        top, left = (self.kernel - height) // 2, (self.kernel - width) // 2
        self.fields.weight[:number] = F.pad(
            fields_FKPP.to(self.fields.weight), (left, self.kernel - width - left, top, self.kernel - height - top)
        )

    @torch.no_grad()
    def normalize(self, clips: Iterable[Tensor]) -> None:
        """Scale the fields, then the mix, to unit variance of each channel (Salimans & Kingma 2016) on these clips
        (B, C, T, H, W) together, which may differ in length.

        Without it the small responses that oriented fields give to natural images would meet only the straight part
        of the rectifier.
        """
        shown = [self.same(x)[0] for x in clips]
        self.fields.weight /= channel_scales([self.fields(x) for x in shown])[:, None, None, None]
        mixed = [self.mix(self.rectify(self.fields(x))) for x in shown]
        self.mix.weight /= channel_scales(mixed)[:, None, None, None]

    def regularizer(self) -> Tensor:
        """The roughness of the receptive fields."""
        weight = self.fields.weight
        return self.smoothness * roughness(weight) if self.smoothness else weight.new_zeros(())

    def same(self, x_BCTHW: Tensor) -> tuple[Tensor, tuple[int, int, int]]:
        """Frames (B·T, C, H, W), padded so that the map's cell i lies over pixels i·stride … (i+1)·stride-1.

        Where kernel and stride are not both odd or both even, the kernel's middle is half a pixel before the cell's.
        """
        x, before = self.pad(x_BCTHW)
        overhang = self.kernel - self.stride
        low, high = overhang // 2 + overhang % 2, overhang // 2
        x = rearrange(F.pad(x[:, :, before[0] :], (low, high, low, high)), "b c t h w -> (b t) c h w")
        return x.contiguous(memory_format=torch.channels_last), before

    @staticmethod
    def rectify(x: Tensor) -> Tensor:
        """Each sign through its own rectifier: their sum, like a complex cell, takes a field and its negative alike."""
        # In place, because the backward pass then has the exponential already; a copy less, too.
        return F.elu(torch.cat([x, -x], dim=1), inplace=True)

    def forward(self, x_BCTHW: Tensor, call: Call = call_block) -> Tokens:
        feature_map, before = self.fine(x_BCTHW)
        pooled = F.pad(self.pool(feature_map), (0, 0, 0, 0, 0, 0, before[0], 0))
        return self.tokens(pooled, before, [feature_map])

    def fine(self, x_BCTHW: Tensor) -> tuple[FeatureMap, tuple[int, int, int]]:
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
        return FeatureMap(rearrange(x, "(b t) c h w -> b c t h w", b=b), 0, 1, ys, xs, float(self.stride)), before

    def pool(self, feature_map: FeatureMap) -> Tensor:
        """A patch's cells averaged in space, (B, T, H', W', C): place is the map's business."""
        _, ph, pw = self.patch_size
        b = feature_map.x_BCTHW.shape[0]
        x = F.avg_pool2d(
            rearrange(feature_map.x_BCTHW, "b c t h w -> (b t) c h w"), (ph // self.stride, pw // self.stride)
        )
        return rearrange(x, "(b t) c h w -> b t h w c", b=b)

    def tokens(self, pooled_BTHWC: Tensor, before: tuple[int, int, int], maps: list[FeatureMap]) -> Tokens:
        """A patch's frames side by side in one token."""
        _, _, height, width, _ = pooled_BTHWC.shape
        x = rearrange(pooled_BTHWC, "b (t pt) h w c -> b t (h w) (pt c)", pt=self.patch_size[0])
        return self.place(self.embed(x), height, width, before, maps)

    def stream(self, old: int) -> Callable[[Tensor], tuple[list[FeatureMap | None], Tokens | None]]:
        waiting: list[Tensor] = []

        def advance(frame: Tensor) -> tuple[list[FeatureMap | None], Tokens | None]:
            nonlocal old
            feature_map, (_, top, left) = self.fine(frame)
            pooled = self.pool(feature_map)
            waiting.extend([torch.zeros_like(pooled)] * old + [pooled])
            old = 0
            if len(waiting) < self.patch_size[0]:
                return [feature_map], None
            tokens = self.tokens(torch.cat(waiting, dim=1), (0, top, left), [])
            waiting.clear()
            return [feature_map], tokens

        return advance
