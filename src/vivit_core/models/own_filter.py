"""Each unit's own filters, found before the training, as a part of what drives it.

Shape letters: B clips, C channels, T bins, H W pixels, U units, M members of a bank, P pixels of a side, L lags,
K features of a unit.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.ln import LinearFilters, lags_of, laid_into_frame
from vivit_core.rf.energy_pairs import Pairs, bank_of, energies
from vivit_core.specs import RecordingSpec

REACH = 2.5  # standard deviations from a filter's middle to its border
BEND = 3.0  # features follow a response as it is below a third of its usual size, and its logarithm above


class OwnFilters(nn.Module):
    """What simple models know of a recording's units, for a twin to begin with.

    A twin's units share the core's features, and each looks at them through one window. A unit that wants a filter of
    its own shape has to wait until the core has one like it. But two filters are known before a training:

    - the *linear* one, s, of the linear baseline (LN), which every training fits first;
    - where a unit has no linear one (a complex cell), the *pair* of Gabor filters whose energy it follows, with the
      time courses of its neighbors' linear filters (``rf.energy_pairs``).

    Both go into the drive through curves that the training learns: a weight for each half of u = asinh(3 s), for their
    squares, for the logarithms of the pair's energies, for the square of the first, and for motion. With a softplus or
    an exponential behind it a rate may so follow any power of s or of an energy. The filters themselves do not learn.
    Where nothing was found they are zero, and add nothing.

    They see the frames as the recording has them: gray, not shifted, not resized.

    Parameters
    ----------
    spec : of the recording, given by the twin.
    duration_s : length of the time courses, s.
    patch : side of the linear filters' windows, px; odd.
    orientations : of the pairs, evenly spread over half a turn.
    stds_px : standard deviations of the pairs' windows, px.
    cycles_per_std : waves of a pair within that.

    Raises
    ------
    ValueError
        For sizes that are none.
    """

    FEATURES = 8
    bank_M2PP: Tensor
    scale_U: Tensor
    member_U: Tensor
    corner_U2: Tensor
    courses_2L: Tensor
    size_U: Tensor

    def __init__(
        self,
        spec: RecordingSpec,
        duration_s: float,
        patch: int,
        orientations: int,
        stds_px: list[float],
        cycles_per_std: list[float],
    ) -> None:
        super().__init__()
        if patch < 1 or patch % 2 == 0:
            raise ValueError(
                f"model.own_filter.patch={patch}: a window has a middle pixel; give an odd number of pixels"
            )
        if orientations < 1 or not stds_px or not cycles_per_std or not min(*stds_px, *cycles_per_std) > 0:
            raise ValueError(
                f"model.own_filter: orientations={orientations}, stds_px={list(stds_px)} and "
                f"cycles_per_std={list(cycles_per_std)} must all be above 0, and none of them empty"
            )
        units, lags = spec.n_units, max(1, lags_of(duration_s, spec))
        self.linear = LinearFilters(spec, lags, patch, learned=False)
        self.side = 2 * math.ceil(REACH * max(stds_px)) + 1
        bank_M2PP = bank_of(self.side, orientations, stds_px, cycles_per_std)
        self.register_buffer("bank_M2PP", bank_M2PP, persistent=False)
        self.register_buffer("scale_U", torch.zeros(units))  # one over a response's deviation; 0: no linear filter
        self.register_buffer("member_U", torch.zeros(units, dtype=torch.long))  # of the bank
        self.register_buffer("corner_U2", torch.zeros(units, 2, dtype=torch.long))  # row and column
        self.register_buffer("courses_2L", torch.zeros(2, lags))
        self.register_buffer("size_U", torch.zeros(units))  # one over a pair's mean energy; 0: no pair
        self.weight = nn.Parameter(torch.zeros(units, self.FEATURES))

    @torch.no_grad()
    def take_linear(self, found: LinearFilters, shown: Sequence[Tensor]) -> None:
        """Take over linear filters, and the size of their responses to what is shown, frames (B, C, T, H, W)."""
        own = self.linear
        cut = (found.patch - own.patch) // 2
        own.time_UL.copy_(self.newest(found.time_UL))
        space_UPP = found.space_UP.unflatten(1, (found.patch, found.patch))
        own.space_UP.copy_(F.pad(space_UPP, (-cut, -cut, -cut, -cut)).flatten(1))
        own.corner_U2.copy_(found.corner_U2 + cut)
        deviation_U = torch.cat([own.filtered(frames).flatten(0, 1) for frames in shown]).std(0)
        self.scale_U.copy_(torch.where(deviation_U > 1e-6, 1 / deviation_U, 0.0))

    @torch.no_grad()
    def take_pairs(self, found: Pairs, courses_2L: Tensor, shown: Sequence[Tensor]) -> None:
        """Take over pairs with two time courses, and the size of their energy in what is shown."""
        self.courses_2L.copy_(self.newest(courses_2L))
        self.corner_U2.copy_(found.center_U2.flip(1) - self.side // 2)
        self.member_U.copy_(found.member_U.clamp_min(0))
        mean_U = torch.cat([self.energies(frames)[..., :2].sum(-1).flatten(0, 1) for frames in shown]).mean(0)
        self.size_U.copy_(torch.where((found.member_U >= 0) & (mean_U > 1e-9), 1 / mean_U, 0.0))

    @torch.no_grad()
    def begin_anywhere(self) -> None:
        """Random filters of all kinds, for tests."""
        own, units = self.linear, len(self.weight)
        for values in (own.space_UP, own.time_UL, self.courses_2L, self.weight):
            values.copy_(0.3 * torch.randn(values.shape))
        self.scale_U.fill_(0.3)
        self.size_U.fill_(0.3)
        self.member_U.copy_(torch.randint(len(self.bank_M2PP), (units,)))

    def newest(self, course_XL: Tensor) -> Tensor:
        """Time courses of as many lags as the filters have."""
        lags = self.courses_2L.shape[1]
        return F.pad(course_XL[:, -lags:], (max(0, lags - course_XL.shape[1]), 0))

    def pairs(self) -> Tensor:
        """Each unit's pair laid into the frame, even before odd, (2 U, H · W)."""
        space = self.bank_M2PP[self.member_U.clamp(0, len(self.bank_M2PP) - 1)]
        shape = self.linear.spec.frame_shape[1:]
        return laid_into_frame(space.flatten(2).flatten(0, 1), self.corner_U2.repeat_interleave(2, 0), self.side, shape)

    def energies(self, frames_BCTHW: Tensor) -> Tensor:
        """(B, T, U, 3) of the pairs; before the clip there was no contrast."""
        contrast_BTP = self.linear.contrast(frames_BCTHW).flatten(2)
        seen = rearrange(contrast_BTP @ self.pairs().T, "b t s -> (b s) 1 t")
        seen = F.pad(seen, (self.courses_2L.shape[1] - 1, 0))
        responses = F.conv1d(seen, self.courses_2L[:, None])
        return energies(rearrange(responses, "(b u pair) course t -> b t u (course pair)", b=len(frames_BCTHW), pair=2))

    def features(self, s_U: Tensor, energy_U3: Tensor) -> Tensor:
        """What responses (…, U) and energies (…, U, 3) are made of, (…, U, K)."""
        u = torch.asinh(BEND * s_U * self.scale_U)
        halves = torch.stack([u.clamp_min(0), (-u).clamp_min(0)], dim=-1)
        first, late, motion = (energy_U3 * self.size_U[:, None]).unbind(-1)
        levels = torch.stack([torch.log1p(BEND * first), torch.log1p(BEND * late)], dim=-1)
        turned = motion / (0.5 + first + late)
        return torch.cat([halves, halves.square(), levels, levels[..., :1].square(), turned[..., None]], dim=-1)

    def looked(self, frames_BCTHW: Tensor) -> Tensor:
        """(B, T, U, K) of clips: what the weights weigh."""
        with torch.autocast(frames_BCTHW.device.type, enabled=False):  # squares of small numbers
            return self.features(self.linear.filtered(frames_BCTHW), self.energies(frames_BCTHW))

    def forward(self, frames_BCTHW: Tensor) -> Tensor:
        """What is added to the drive, (B, T, U)."""
        return (self.looked(frames_BCTHW) * self.weight).sum(-1)

    def stream(self) -> Callable[[Tensor], Tensor]:
        """Takes frames (1, C, 1, H, W) one by one; gives what is added to the drive of each, (U,)."""
        filtered, pairs = self.linear.stream(), self.pairs()
        seen = pairs.new_zeros(self.courses_2L.shape[1], len(pairs))  # by the pairs, in the last frames, oldest first

        def advance(frame_BCTHW: Tensor) -> Tensor:
            nonlocal seen
            s_U = filtered(frame_BCTHW)
            now = pairs @ self.linear.contrast(frame_BCTHW).flatten()
            seen = torch.cat([seen[1:], now[None]])
            responses = rearrange(self.courses_2L @ seen, "course (u pair) -> u (course pair)", pair=2)
            return (self.features(s_U, energies(responses)) * self.weight).sum(-1)

        return advance
