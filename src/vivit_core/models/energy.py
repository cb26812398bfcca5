"""Oriented energy and motion of every token's pixels: what blocks compare places and moments by.

Shape letters: B clips, C channels, T frames, T' time steps, H W pixels, R S rows and columns of cells, N tokens a time
step, O orientations, E numbers of a token, K numbers of a cell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.tokenizers.base import Tokens

REACH = 3.0  # standard deviations from a filter's middle to its border
LOGARITHM = 0.5  # size of standardized numbers in a token, beside those of length 1
LEAST = 1e-2  # of the usual energy, where hardly anything was shown
TINY = 1e-6  # of an energy of normalized pixels; less is nothing


class OrientedEnergy(nn.Module):
    """What complex cells would say of a token's pixels: how strong each orientation is, and where the pattern moves.

    Pairs of Gabor filters, a quarter of a wave apart, look at the video itself. The sum of a pair's squares is the
    energy of its orientation, whatever the phase (Adelson & Bergen 1985); by how much the phase turns from frame to
    frame, times the energy, tells the motion across the orientation, and the sum of these vectors the motion of the
    pattern. Both are means over a token's frames and over the cells around its middle. The filters do not learn.

    A token's numbers, in this order:

    - ``likeness``: the tuned part of the amplitudes over orientations, of length 1, so that a product of two tokens is
      their likeness;
    - ``direction``: of the motion, (x, y), of length 1;
    - ``energy``: the logarithm of each orientation's energy, standardized;
    - ``speed``: the turn of the phase a frame, standardized.

    Parameters
    ----------
    in_channels, patch_size, token_stride : given by the core.
    orientations : how many, evenly spread over half a turn.
    std_px : standard deviation of a filter's window, px.
    cycles_per_std : waves of a filter within that.
    fading, reach : of the attention among cells (``CellAttention``); where ``reach`` is None, there is none.
    """

    mean_E: Tensor
    scale_E: Tensor
    usual_O: Tensor
    filters: Tensor
    across_O2: Tensor

    def __init__(
        self,
        in_channels: int,
        patch_size: tuple[int, int, int],
        token_stride: tuple[int, int, int],
        orientations: int,
        std_px: float,
        cycles_per_std: float,
        fading: float,
        reach: float | None,
    ) -> None:
        super().__init__()
        self.fading, self.reach = fading, reach
        self.in_channels, self.frames, self.orientations = in_channels, patch_size[0], orientations
        self.every = token_stride[0]
        self.apart = tuple(max(1, side // 2) for side in token_stride[1:])  # px from cell to cell
        self.side = token_stride[1:]
        self.numbers = 2 * orientations + 3
        angle_O = torch.arange(orientations) * (math.pi / orientations)
        across_O2 = torch.stack([angle_O.cos(), angle_O.sin()], dim=1)
        at_y, at_x = (self._at(apart, std_px) for apart in self.apart)
        y_HW, x_HW = torch.meshgrid(at_y, at_x, indexing="ij")
        window_HW = torch.exp(-(x_HW.square() + y_HW.square()) / (2 * std_px**2))
        along_OHW = torch.einsum("oa,ahw->ohw", across_O2, torch.stack([x_HW, y_HW]))
        phase_OHW = 2 * math.pi * cycles_per_std / std_px * along_OHW
        filters = window_HW * torch.stack([phase_OHW.cos(), -phase_OHW.sin()], dim=1)  # (O, 2, H, W)
        filters = filters - window_HW * (filters.sum((-2, -1)) / window_HW.sum())[..., None, None]
        filters = filters / filters.square().sum((-2, -1), keepdim=True).sqrt()
        self.register_buffer("filters", filters.flatten(0, 1)[:, None], persistent=False)
        self.register_buffer("across_O2", across_O2, persistent=False)
        self.register_buffer("usual_O", torch.ones(orientations))
        self.register_buffer("mean_E", torch.zeros(orientations + 1))
        self.register_buffer("scale_E", torch.ones(orientations + 1))

    @property
    def likeness(self) -> range:
        """Which of a token's numbers tell its orientations."""
        return range(self.orientations)

    @property
    def direction(self) -> range:
        """Which tell where it moves."""
        return range(self.orientations, self.orientations + 2)

    @property
    def energy(self) -> range:
        """Which tell how strong each orientation is."""
        return range(self.orientations + 2, 2 * self.orientations + 2)

    def sizes(self) -> Tensor:
        """(E,) by how much each of them is scaled in a token to begin with, so that none outweighs the others."""
        return torch.tensor([1.0] * (self.orientations + 2) + [LOGARITHM] * (self.orientations + 1))

    @property
    def usual(self) -> Tensor:
        """The energy that a cell has on average, of all orientations."""
        return self.usual_O.sum()

    @staticmethod
    def _at(apart: int, std_px: float) -> Tensor:
        size = math.ceil(2 * REACH * std_px)
        size += (size - apart) % 2
        return torch.arange(size) - (size - 1) / 2

    def cells(self, x_BCTHW: Tensor, before: Tensor | None) -> tuple[Tensor, Tensor]:
        """Energies and motion (B, T, O + 2, R, S) at the full frame rate, and the last responses."""
        with torch.autocast(x_BCTHW.device.type, enabled=False):  # squares of small numbers
            b, c, t, h, w = x_BCTHW.shape
            x = x_BCTHW.float().transpose(1, 2).reshape(b * t * c, 1, h, w)
            (dy, dx), (ky, kx) = self.apart, self.filters.shape[2:]
            rows, columns = math.ceil(h / dy), math.ceil(w / dx)
            top, left = (ky - dy) // 2, (kx - dx) // 2
            x = F.pad(x, (left, (columns - 1) * dx + kx - w - left, top, (rows - 1) * dy + ky - h - top))
            y = F.conv2d(x, self.filters, stride=(dy, dx)).view(b, t, c, self.orientations, 2, rows, columns)
            real, imaginary = y.unbind(4)
            last = y[:, -1:]
            first = torch.zeros_like(last) if before is None else before
            earlier = torch.cat([first, y[:, :-1]], dim=1)
            energy = (real.square() + imaginary.square()).sum(2)
            turn = (earlier[:, :, :, :, 1] * real - earlier[:, :, :, :, 0] * imaginary).sum(2)
            motion = torch.einsum("btors,oa->btars", turn, self.across_O2)
            return torch.cat([energy, motion], dim=2), last

    def pooled(self, cells_BTKRS: Tensor, tokens: Tokens) -> Tensor:
        """The mean of the cells around the tokens' middles, (B, T, N, K)."""
        rows, columns = cells_BTKRS.shape[3:]
        windows = []
        axes = zip((rows, columns), self.apart, self.side, (tokens.ys, tokens.xs), strict=True)
        for number, apart, side, middles in axes:
            at = torch.arange(number, device=middles.device) * apart + (apart - 1) / 2
            windows.append(torch.softmax(-0.5 * ((at - middles[:, None]) / (side / 3)).square(), dim=1).float())
        y = torch.einsum("btkrs,hr,ws->bthwk", cells_BTKRS, *windows)
        return y.flatten(2, 3)

    def numbers_of(self, mean_BTNK: Tensor) -> Tensor:
        """A token's numbers from its mean energies and motion."""
        energy, motion = mean_BTNK.split([self.orientations, 2], dim=-1)
        total = energy.sum(-1, keepdim=True)
        size = size_of(motion, -1)
        direction = motion / (size + 1e-3 * total + TINY)
        rest = torch.cat([torch.log1p(energy / self.usual_O), size / (total + TINY)], dim=-1)
        return torch.cat([likeness_of(energy, -1), direction, (rest - self.mean_E) / self.scale_E], dim=-1)

    def forward(self, cells_BTKRS: Tensor, tokens: Tokens) -> Tensor:
        """The numbers of these tokens, (B, T', N, E), from the cells of the video that they were cut from."""
        with torch.autocast(cells_BTKRS.device.type, enabled=False):  # differences of what is nearly the same
            return self.numbers_of(self.means(cells_BTKRS, tokens))

    def means(self, cells_BTKRS: Tensor, tokens: Tokens) -> Tensor:
        """Energies and motion over each token's frames and around its middle, (B, T', N, O + 2)."""
        x = self.pooled(cells_BTKRS, tokens)
        x = F.pad(x, (0, 0, 0, 0, self.frames - 1 - tokens.first_end, 0))  # nothing was shown before the clip
        return x.unfold(1, self.frames, self.every)[:, : tokens.x_BTND.shape[1]].mean(-1)

    @torch.no_grad()
    def normalize(self, shown: Iterable[tuple[Tensor, Tokens]]) -> None:
        """Standardize energies and speed by the cells of videos and their tokens."""
        mean_NK = torch.cat([self.means(cells_BTKRS, tokens).flatten(0, 2) for cells_BTKRS, tokens in shown])
        self.usual_O.copy_(mean_NK[:, : self.orientations].mean(0).clamp_min(LEAST))
        self.mean_E.zero_()
        self.scale_E.fill_(1.0)
        rest_NE = self.numbers_of(mean_NK)[:, self.energy.start :]
        self.mean_E.copy_(rest_NE.mean(0))
        self.scale_E.copy_(rest_NE.std(0).clamp_min(1e-3))

    def stream_cells(self) -> Callable[[Tensor], Tensor]:
        """Takes frames (1, C, 1, H, W) one by one; gives the cells of each."""
        last: Tensor | None = None

        def advance(frame: Tensor) -> Tensor:
            nonlocal last
            cells, last = self.cells(frame, last)
            return cells

        return advance

    def stream(self) -> Callable[[Tensor, Tokens | None], Tensor | None]:
        """Takes the cells of frames one by one, and the tokens that end with them (None: none do); gives these
        tokens' numbers."""
        waiting: list[Tensor] = []

        def advance(cells: Tensor, tokens: Tokens | None) -> Tensor | None:
            waiting.append(cells)
            del waiting[: -self.frames]
            if tokens is None:
                return None
            mean = torch.stack(waiting).sum(0) / self.frames  # before the first frame there is nothing
            return self.numbers_of(self.pooled(mean, tokens))

        return advance


def likeness_of(energy: Tensor, dim: int) -> Tensor:
    """The tuned part of the amplitudes over orientations, of length 1: places are alike as their products."""
    amplitude = (energy + TINY).sqrt()
    tuned = amplitude - amplitude.mean(dim, keepdim=True)
    return tuned / (tuned.square().sum(dim, keepdim=True) + TINY).sqrt()


def size_of(motion: Tensor, dim: int) -> Tensor:
    """Length of the vectors, with a gradient where it is 0."""
    return (motion.square().sum(dim, keepdim=True) + TINY**2).sqrt()
