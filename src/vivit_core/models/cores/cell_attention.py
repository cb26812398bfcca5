"""What every cell of the frame is like beside what surrounds it, frame by frame: linear attention among cells.

Tokens are means over some frames, which they are held for as well, so that what blocks say of the surround comes late;
and a token is as large as a receptive field. But what a surround does to a neuron follows the picture within 40 ms, and
depends on what is at the neuron's own place. So cells, which are smaller than tokens and seen in every frame, compare
themselves with all cells around them at once. Softmax over all pairs would cost the square of their number. Here a
cell's likeness to another one is a product of a query and a key, without softmax, and so that with the mean of all is a
product with the mean key (Katharopoulos et al. 2020, "Transformers are RNNs").

Shape letters: B clips, T frames, O orientations, K = O + 2 numbers of a cell, R S rows and columns of cells, C channels
of the gain, L lags, N cells of all clips, U windows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.energy import TINY, OrientedEnergy, likeness_of, size_of
from vivit_core.models.feature_map import FeatureMap
from vivit_core.models.layers import fading_weights

REST = 0.01  # radians a frame: a pattern whose phase turns more slowly is at rest
STRONG = 3.0  # a mean energy follows what is below a third of the usual one, and its logarithm above
LEAST_SCALE = 0.1  # of a number, where what was shown hardly varies in it
ALIKE = (0.0, 0.2)  # likeness to the surround from which on it counts, to begin with: a gate, and a steeper one


class CellAttention(nn.Module):
    """A gain for every cell and frame: what is around it, and whether it is like that.

    Each cell has a query and a key of its orientations (its tuned amplitudes, of length 1), and of its motion. What it
    is told of the surround, a mean that falls off with the distance:

    - ``alike``: its likeness in orientation, as two gates. Center and surround that are one surface suppress, others do
      not (Coen-Cagli, Kohn & Schwartz 2015);
    - ``level``: how much energy there is;
    - each gate times the level;
    - ``agree``: whether it moves as the surround does, and the square of that (Ölveczky, Baccus & Meister 2003).

    Units read all of them, standardized, as a part of their gain. The products that compare begin as identities, and
    learn with the blocks.

    Parameters
    ----------
    energy : whose cells are compared.
    fading : time in which what a cell sees fades to a part of 1/e, in a token's frames.
    reach : standard deviation of the surround, in a token's sides.

    Raises
    ------
    ValueError
        For a time or a reach that is not above 0.
    """

    CHANNELS = 7
    LEVEL = 4  # which of them needs no comparison
    fading_L: Tensor
    mean_C: Tensor
    scale_C: Tensor

    def __init__(self, energy: OrientedEnergy, fading: float, reach: float) -> None:
        super().__init__()
        if not (fading > 0 and reach > 0):
            raise ValueError(f"model.energy: fading={fading} and reach={reach} must be above 0")
        self.orientations, self.apart = energy.orientations, energy.apart
        self.std_px = [reach * side for side in energy.side]
        self.register_buffer("fading_L", fading_weights(fading * energy.frames), persistent=False)
        self.alike_OO = nn.Parameter(torch.eye(energy.orientations))
        self.agree_22 = nn.Parameter(torch.eye(2))
        self.from_2 = nn.Parameter(torch.tensor(ALIKE))
        self.register_buffer("mean_C", torch.zeros(self.CHANNELS))
        self.register_buffer("scale_C", torch.ones(self.CHANNELS))

    def forward(self, cells_BTKRS: Tensor, usual: Tensor) -> Tensor:
        """The gain's numbers (B, T, R, S, C) of cells in every frame of a clip, before which nothing was shown;
        ``usual`` is the energy that a cell has on average."""
        with torch.autocast(cells_BTKRS.device.type, enabled=False):  # differences of what is nearly the same
            return self.compared(self.faded(cells_BTKRS), usual)

    def compared(self, faded_BTKRS: Tensor, usual: Tensor) -> Tensor:
        return (self.told(faded_BTKRS, usual) - self.mean_C) / self.scale_C

    def faded(self, cells_BTKRS: Tensor) -> Tensor:
        """The mean of the frames before, the newest of which count most."""
        b, t, k, rows, columns = cells_BTKRS.shape
        past = F.pad(cells_BTKRS.permute(0, 2, 3, 4, 1).reshape(-1, 1, t), (len(self.fading_L) - 1, 0))
        return F.conv1d(past, self.fading_L[None, None]).view(b, k, rows, columns, t).permute(0, 4, 1, 2, 3)

    @torch.no_grad()
    def normalize(self, shown: Iterable[Tensor], usual: Tensor) -> None:
        """Standardize the gain's numbers by the cells of videos."""
        told_NC = torch.cat([self.told(self.faded(cells_BTKRS), usual).flatten(0, 3) for cells_BTKRS in shown])
        self.mean_C.copy_(told_NC.mean(0))
        self.scale_C.copy_(told_NC.std(0).clamp_min(LEAST_SCALE))

    def told(self, faded_BTKRS: Tensor, usual: Tensor) -> Tensor:
        """The numbers (B, T, R, S, C) before they are standardized."""
        like_BTORS, moves_BT2RS = self.queries(faded_BTKRS)
        around = self.around(torch.cat(self.keys(faded_BTKRS), dim=2))
        like_around, level, motion_around, speed = around.split([self.orientations, 1, 2, 1], dim=2)
        alike = torch.einsum("btors,op,btprs->btrs", like_BTORS, self.alike_OO, like_around)
        agree = torch.einsum("btars,ac,btcrs->btrs", moves_BT2RS, self.agree_22, motion_around / (speed + TINY * usual))
        level = torch.log1p(STRONG * level[:, :, 0] / usual)
        gates = F.relu(alike[..., None] - self.from_2)
        rest = torch.stack([level, agree, agree.square()], dim=-1)
        return torch.cat([gates, gates * level[..., None], rest], dim=-1)

    def seen_from(self, window_URS: Tensor, faded_KRS: Tensor) -> tuple[Tensor, Tensor]:
        """How much each cell of a frame counts as alike for those in each window, in orientation and in motion,
        (U, R, S) each. Unlike ones count below zero."""
        like, moves = (x[0, 0] for x in self.queries(faded_KRS[None, None]))
        like_keys, _, motion, speed = (x[0, 0] for x in self.keys(faded_KRS[None, None]))
        rows, columns = (self.nearness(number, axis) for axis, number in enumerate(window_URS.shape[1:]))

        def counted(queries: Tensor, products: Tensor, keys: Tensor) -> Tensor:
            wanted = torch.einsum("urs,ors,op->uprs", window_URS, queries, products)
            return (torch.einsum("uors,rp,sq->uopq", wanted, rows, columns) * keys).sum(1)

        return (
            counted(like, self.alike_OO, like_keys),
            counted(moves, self.agree_22, motion / (speed + TINY)),
        )

    def queries(self, faded_BTKRS: Tensor) -> tuple[Tensor, Tensor]:
        """What a cell compares with others: its orientations (B, T, O, R, S), and the direction (B, T, 2, R, S) in
        which it and its neighbors move."""
        energy = faded_BTKRS[:, :, : self.orientations]
        near = F.avg_pool2d(faded_BTKRS.flatten(0, 1), 3, stride=1, padding=1, count_include_pad=False)
        near_energy, near_motion = near.unflatten(0, faded_BTKRS.shape[:2]).split([self.orientations, 2], dim=2)
        rest = REST * near_energy.sum(2, keepdim=True) + TINY
        return likeness_of(energy, 2), near_motion / (size_of(near_motion, 2) + rest)

    def keys(self, faded_BTKRS: Tensor) -> tuple[Tensor, ...]:
        """What cells are compared by: orientations (B, T, O, R, S), energy (…, 1, R, S), motion (…, 2, R, S) and speed
        (…, 1, R, S), these two times the energy."""
        energy, motion = faded_BTKRS.split([self.orientations, 2], dim=2)
        total = energy.sum(2, keepdim=True)
        return likeness_of(energy, 2), total, motion, size_of(motion, 2) + REST * total

    def around(self, x_BTKRS: Tensor) -> Tensor:
        """The mean over each cell's surround."""
        rows, columns = (self.nearness(number, axis).to(x_BTKRS) for axis, number in enumerate(x_BTKRS.shape[3:]))
        return torch.einsum("btkrs,pr,qs->btkpq", x_BTKRS, rows, columns)

    def nearness(self, number: int, axis: int) -> Tensor:
        """How much each cell (row) counts in another one's surround along one axis; rows sum to one."""
        at = torch.arange(number, device=self.fading_L.device) * self.apart[axis] / self.std_px[axis]
        return torch.softmax(-0.5 * (at - at[:, None]).square(), dim=1)

    def as_map(self, x_BTRSC: Tensor) -> FeatureMap:
        ys, xs = (
            torch.arange(number, device=x_BTRSC.device) * apart + (apart - 1) / 2
            for number, apart in zip(x_BTRSC.shape[2:4], self.apart, strict=True)
        )
        x_BCTRS = x_BTRSC.movedim(-1, 1)
        # What a cell is told depends on its own place. A window as wide as a cell would mix that of its neighbors in.
        cell = math.sqrt(math.prod(self.apart)) / 2
        return FeatureMap(x_BCTRS, first_end=0, stride=1, ys=ys, xs=xs, cell=cell, gain=True)

    def stream(self, usual: Tensor) -> Callable[[Tensor], Tensor]:
        """Takes the cells (1, 1, K, R, S) of one frame after the other; gives the gain's numbers (1, 1, R, S, C)."""
        waiting: list[Tensor] = []

        def advance(cells: Tensor) -> Tensor:
            waiting.append(cells)
            del waiting[: -len(self.fading_L)]  # before the first frame there is nothing
            faded = torch.tensordot(self.fading_L[-len(waiting) :], torch.stack(waiting), dims=1)
            return self.compared(faded, usual)

        return advance
