"""Each unit's own filters, found before the training, as a part of what drives it.

Shape letters: B clips, C channels, T bins, H W pixels, U units, M members of a bank or all pools, S sizes of pools, P
pixels of a side, L lags, K features of a unit, F filters of a size, G time constants, N filters or shapes of all units
or places, X time courses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from vivit_core.models.layers import fading_weights
from vivit_core.models.ln import LinearFilters, lags_of, laid_into_frame
from vivit_core.models.pairs import Gabors, Pairs, bank_of, energies, newest, round_gabors, through
from vivit_core.models.readouts.base import Drive
from vivit_core.specs import RecordingSpec

MOST_MEMBERS = 1024  # of a bank
REACH = 2.5  # standard deviations from a filter's middle to its border
POOL_REACH = 1.8  # of a pool's filters: beyond 25 px a convolution is slow
POOL_ORIENTATIONS = 4  # of them
MOST_WIDTH = 8  # of a pool, in standard deviations of a pair
HALF = 0.5  # of its usual size: a pool that halves energies
BEND = 3.0  # a feature follows a response as it is below a third of its usual size, and its logarithm above
FINE = 30.0  # the same of a normalized energy: a unit is silent at less than a thirtieth
MOST = 1e4  # of an energy, so that a bin does not stay in the means for good
UNEVEN = 1e-3  # of the pixels' deviation: a shifter's rounding makes gray uneven by less
AT_ONCE = 256  # bins whose slow means are computed together


class Looked(NamedTuple):
    """What own filters make of clips: what the weights of the drive weigh (B, T, U, K), and those of the gain
    (B, T, U, G)."""

    drive: Tensor
    gain: Tensor


class OwnFilters(nn.Module):
    """What simple models know of a recording's units, for a twin to begin with.

    A twin's units share the core's features, and each looks at them through one window. A unit that wants a filter of
    its own shape has to wait until the core has one like it. But two filters are known before a training:

    - the *linear* one, s, of the linear baseline (LN), which every training fits first;
    - where LN finds none (a complex cell), the *pair* of Gabor filters whose energy it follows, with two time courses
      (``rf.energy_pairs``).

    Both are made finer by what the unit did, before the first step (``training.finer_filters``). A linear filter may
    then become a weighted sum of the four responses of a pair, whose energies come with it.

    Both are *normalized* (Heeger 1992). A unit's pool is the energy of all orientations in a larger window at the
    place of its pair, of waves as wide as the pair's, smoothed over some bins. There is one for each size in
    ``stds_px``, and units take the nearest. With all in their usual size a response is s / sqrt(1/2 + pool), and an
    energy e / (1/2 + pool). Units that are better predicted without have no pool.

    All go into the drive through curves that the training learns: a weight for each half of u = asinh(3 s) and for its
    square; for log(1 + 30 e) / log 31 and for its square, of the energy of the pair's first time course, and of the
    energies of motion in one direction and in the other (Adelson & Bergen 1985); and for the logarithm of the pool.
    With a softplus or an exponential behind it a rate may so follow any power of a normalized response, and saturate.
    In the training the filters stay as they are. Where nothing was found they are zero, and add nothing.

    What a unit's own filter has shown to it in the last seconds changes its gain (contrast adaptation: Ohzawa, Sclar &
    Freeman 1985; of the feature and not of the neuron: Benucci, Saleem & Carandini 2013). So the logarithms of slow
    means of the pair's energy multiply the rate, by weights that begin at zero. Before a clip there was no energy.

    They see the frames in the recording's own size, gray, and shifted where the twin has a shifter (``Twin.seen``).

    Parameters
    ----------
    spec : of the recording, given by the twin.
    duration_s : length of the time courses, s.
    patch : side of the linear filters' windows, px; odd.
    orientations : of the pairs, evenly spread over half a turn.
    stds_px : standard deviations of the pairs' windows, px.
    cycles_per_std : waves of a pair within that.
    pool_width : standard deviation of a pool's window, in that of the pair.
    pool_tau_s : time in which a pool falls to a part of 1/e, s.
    slow_tau_s : times in which the slow means of energy fall to a part of 1/e, s.

    Raises
    ------
    ValueError
        For sizes that are none.
    """

    FEATURES = 11
    scale_U: Tensor
    pair_U2PP: Tensor
    corner_U2: Tensor
    courses_U2L: Tensor
    mix_U4: Tensor
    size_U: Tensor
    before_S: Tensor
    columns_S: Tensor
    fading_L: Tensor
    slow_G: Tensor
    place_U3: Tensor
    pool_U: Tensor

    def __init__(
        self,
        spec: RecordingSpec,
        duration_s: float,
        patch: int,
        orientations: int,
        stds_px: list[float],
        cycles_per_std: list[float],
        pool_width: float,
        pool_tau_s: float,
        slow_tau_s: list[float],
    ) -> None:
        super().__init__()
        if patch < 1 or patch % 2 == 0:
            raise ValueError(
                f"model.own_filter.patch={patch}: a window has a middle pixel; give an odd number of pixels"
            )
        if orientations < 1 or not stds_px or not cycles_per_std or not min(*stds_px, *cycles_per_std) > 0:
            raise ValueError(
                f"model.own_filter: orientations={orientations}, stds_px={list(stds_px)[:9]} and "
                f"cycles_per_std={list(cycles_per_std)[:9]} must all be above 0, and none of them empty"
            )
        if (members := orientations * len(stds_px) * len(cycles_per_std)) > MOST_MEMBERS:
            raise ValueError(
                f"model.own_filter: {members} pairs would be tried for each unit, and at most {MOST_MEMBERS} may be; "
                "give fewer orientations, stds_px or cycles_per_std"
            )
        if not (0 < pool_width <= MOST_WIDTH and 0 < pool_tau_s < math.inf):
            raise ValueError(
                f"model.own_filter: pool_width={pool_width} must be above 0 and at most {MOST_WIDTH}, and "
                f"pool_tau_s={pool_tau_s} a time above 0"
            )
        if not slow_tau_s or not min(slow_tau_s) > 0:
            raise ValueError(f"model.own_filter.slow_tau_s={list(slow_tau_s)[:9]} must be times above 0, at least one")
        units, lags = spec.n_units, max(1, lags_of(duration_s, spec))
        self.linear = LinearFilters(spec, lags, patch, learned=False)
        self.side = 2 * math.ceil(REACH * max(stds_px)) + 1
        self.bank = orientations, stds_px, cycles_per_std
        self.register_buffer("scale_U", torch.zeros(units))  # one over a response's deviation; 0: no linear filter
        self.register_buffer("pair_U2PP", torch.zeros(units, 2, self.side, self.side))
        self.register_buffer("corner_U2", torch.zeros(units, 2, dtype=torch.long))  # row and column
        self.register_buffer("courses_U2L", torch.zeros(units, 2, lags))
        self.register_buffer("mix_U4", torch.zeros(units, 4))  # of a pair's responses, in the unit's linear one
        self.register_buffer("size_U", torch.zeros(units))  # one over a pair's mean energy; 0: no pair
        cycles = pool_width * sum(cycles_per_std) / len(cycles_per_std)
        self.pool_apart = [max(1, int(pool_width * std)) for std in stds_px]  # px between places at which each is seen
        for size, std in enumerate(stds_px):
            reach = 2 * math.ceil(POOL_REACH * pool_width * std) + 1
            filters_M2PP = bank_of(reach, POOL_ORIENTATIONS, [pool_width * std], [cycles])
            self.register_buffer(f"pool_filters_{size}", filters_M2PP.flatten(0, 1)[:, None], persistent=False)
        # Of the pools of all sizes side by side: how many are before those of each size, and in each of its rows.
        rows_S, columns_S = (
            torch.tensor([(side - 1) // apart + 1 for apart in self.pool_apart]) for side in spec.frame_shape[1:]
        )
        self.register_buffer("before_S", (rows_S * columns_S).cumsum(0) - rows_S * columns_S, persistent=False)
        self.register_buffer("columns_S", columns_S, persistent=False)
        self.register_buffer("fading_L", fading_weights(pool_tau_s * spec.frame_rate_hz), persistent=False)
        # Which of the sizes a unit's pool has, and where: the row and the column among the places of that size.
        self.register_buffer("place_U3", torch.zeros(units, 3, dtype=torch.long))
        self.register_buffer("pool_U", torch.zeros(units))  # one over the mean of a pool; 0: none is known
        slow_G = torch.exp(-1 / (torch.tensor(slow_tau_s) * spec.frame_rate_hz))
        self.register_buffer("slow_G", slow_G, persistent=False)  # what of a mean is left a bin later
        self.weight = nn.Parameter(torch.zeros(units, self.FEATURES))
        self.gain = nn.Parameter(torch.zeros(units, len(slow_tau_s)))

    @torch.no_grad()
    def take_linear(self, found: LinearFilters, shown: Sequence[Tensor]) -> None:
        """Take over linear filters, and the size of their responses to what is shown, frames (B, C, T, H, W)."""
        own = self.linear
        cut = (found.patch - own.patch) // 2
        own.time_UL.copy_(self.newest(found.time_UL))
        space_UPP = found.space_UP.unflatten(1, (found.patch, found.patch))
        own.space_UP.copy_(F.pad(space_UPP, (-cut, -cut, -cut, -cut)).flatten(1))
        own.corner_U2.copy_(found.corner_U2 + cut)
        deviation_U = self.while_shown(own.filtered, shown).std(0)
        self.scale_U.copy_(torch.where(deviation_U > 1e-6, 1 / deviation_U, 0.0))

    def while_shown(self, seen: Callable[[Tensor], Tensor], shown: Sequence[Tensor]) -> Tensor:
        """What is seen (B, T, U) of frames (B, C, T, H, W), (N, U): in bins for which filters reach back to a picture,
        or in all where there is none. Else the usual size of a response to short and rare pictures would be gray's."""
        lags = self.courses_U2L.shape[2]
        least = UNEVEN * self.linear.spec.pixel_std
        pictures = [(x.amax((3, 4)).float() - x.amin((3, 4)) > least).any(1).float() for x in shown]
        recent = [F.max_pool1d(F.pad(each, (lags - 1, 0)), lags, 1) > 0 for each in pictures]
        ever = any(each.any() for each in recent)
        return torch.cat([seen(x)[each | (not ever)] for x, each in zip(shown, recent, strict=True)])

    def learned(self) -> tuple[Tensor, ...]:
        """What data of units tell of each of them, the unit first."""
        pairs = self.pair_U2PP, self.corner_U2, self.courses_U2L, self.mix_U4, self.size_U
        return self.linear.space_UP, self.linear.time_UL, *pairs, self.place_U3, self.pool_U, self.weight

    def shapes(self) -> Gabors:
        """Of the pairs that are tried for each unit."""
        return round_gabors(*self.bank)

    @torch.no_grad()
    def take_pairs(self, found: Pairs, courses_2L: Tensor, shown: Sequence[Tensor]) -> None:
        """Take over pairs with two time courses, and the size of their energy in what is shown."""
        self.courses_U2L.copy_(self.newest(courses_2L))
        self.corner_U2.copy_(found.center_U2.flip(1) - self.side // 2)
        self.pair_U2PP.copy_(self.shapes().of(found.member_U.clamp_min(0)).pairs(self.side))
        self.size_U.copy_(torch.where(found.member_U.to(self.size_U.device) >= 0, self.sizes(shown), 0.0))

    def sizes(self, shown: Sequence[Tensor]) -> Tensor:
        """One over the mean energy of each pair in what is shown; zero where there is none."""
        mean_U = self.while_shown(lambda frames: energies(self.responses(frames))[..., :2].sum(-1), shown).mean(0)
        return torch.where(mean_U > 1e-9, 1 / mean_U, 0.0)

    @torch.no_grad()
    def take_shapes(self, units: Sequence[int], shown: Sequence[Tensor]) -> Tensor:
        """Let pairs stand for the linear filters of some units: the shape and the place that are most like each.

        Where a pair's second time course, the slope of the first, gets a part in the mixture as well, a filter prefers
        a direction of motion, which none of one space times one time course can.

        Returns
        -------
        Which of ``shapes()`` each unit's pair is, (U,); zero for the others.
        """
        linear, middle = self.linear, self.side // 2
        bank_M2PP = self.shapes().pairs(self.side).to(linear.space_UP.device)
        within_UP = linear.space_UP * linear.window_index()[1]  # what lies beyond the frame says nothing
        members_U = torch.zeros(len(self.size_U), dtype=torch.long)
        for unit in units:
            like = F.conv2d(
                within_UP[unit].view(1, 1, linear.patch, -1), bank_M2PP.flatten(0, 1)[:, None], padding=middle
            )
            like_N2 = rearrange(like, "1 (m pair) y x -> (m y x) pair", pair=2)
            best = int(like_N2.square().sum(-1).argmax())
            members_U[unit], place = divmod(best, linear.patch**2)
            row, column = divmod(place, linear.patch)
            self.pair_U2PP[unit] = bank_M2PP[members_U[unit]]
            moved_2 = torch.tensor([row - middle, column - middle], device=self.corner_U2.device)
            self.corner_U2[unit] = linear.corner_U2[unit] + moved_2
            course_L = linear.time_UL[unit]
            slope_L = F.pad(course_L[1:], (0, 1)) - F.pad(course_L[:-1], (1, 0))
            slope_L = F.normalize(slope_L, dim=0) * course_L.norm()
            self.courses_U2L[unit] = torch.stack([course_L, slope_L])
            self.mix_U4[unit] = F.pad(like_N2[best], (0, 2))
        self.size_U[units] = self.sizes(shown)[units]
        linear.space_UP[units] *= (self.size_U[units] == 0)[:, None]  # a pair that sees nothing stands for nothing
        self.mix_U4[units] *= (self.size_U[units] > 0)[:, None]
        return members_U

    @torch.no_grad()
    def take_pools(self, centers_U2: Tensor, shown: Sequence[Tensor]) -> None:
        """Be normalized by what is seen at each pair's place, in its size; without a pair at these places, x and y in
        pixels, and in a middling size. Pools have the size that they have in what is shown."""
        middle_U2, std_U = self.middles()
        paired_U = (self.size_U > 0) & middle_U2.isfinite().all(1)
        middle_U2 = torch.where(paired_U[:, None], middle_U2, centers_U2.to(middle_U2))
        stds = torch.tensor(self.bank[1], device=std_U.device)
        std_U = torch.where(paired_U, std_U, stds[len(stds) // 2])
        self.place_U3[:, 0] = (std_U[:, None].log() - stds.log()).abs().argmin(1)
        apart_U1 = torch.tensor(self.pool_apart, device=std_U.device)[self.place_U3[:, 0], None]
        most_U2 = (torch.tensor(self.linear.spec.frame_shape[1:], device=std_U.device) - 1) // apart_U1
        self.place_U3[:, 1:] = (middle_U2.flip(1) / apart_U1).round().long().clamp_min(0).minimum(most_U2)
        mean_U = self.while_shown(lambda frames: self.pool_of(self.pools(frames)), shown).mean(0)
        self.pool_U.copy_(torch.where(mean_U > 1e-9, 1 / mean_U, 0.0))

    @torch.no_grad()
    def middles(self) -> tuple[Tensor, Tensor]:
        """Where the energy of each pair lies, (U, 2) x and y in pixels, and the standard deviation of its window, (U,)
        px; NaN where there is no pair."""
        energy_UPP = self.pair_U2PP.square().sum(1)
        energy_UPP = energy_UPP / energy_UPP.sum((1, 2), keepdim=True)
        at_P = torch.arange(self.side, device=energy_UPP.device)
        along_U2P = torch.stack([energy_UPP.sum(1), energy_UPP.sum(2)], dim=1)
        middle_U2 = (along_U2P * at_P).sum(2)
        variance_U2 = (along_U2P * (at_P - middle_U2[..., None]).square()).sum(2)  # of a Gaussian's square: half of its
        return self.corner_U2.flip(1) + middle_U2, (2 * variance_U2.mean(1)).sqrt()

    def places(self) -> Tensor:
        """The middle of each pair's energy, (U, 2) x and y in pixels; NaN where a unit has none that tells."""
        tells_U = (self.size_U > 0) & self.weight.any(1)
        return torch.where(tells_U[:, None], self.middles()[0], torch.nan)

    def newest(self, course_XL: Tensor) -> Tensor:
        """Time courses of as many lags as the filters have."""
        return newest(course_XL, self.courses_U2L.shape[2])

    def pairs(self) -> Tensor:
        """Each unit's pair laid into the frame, even before odd, (2 U, H · W)."""
        shape = self.linear.spec.frame_shape[1:]
        filters_NP = self.pair_U2PP.flatten(2).flatten(0, 1)
        return laid_into_frame(filters_NP, self.corner_U2.repeat_interleave(2, 0), self.side, shape)

    def responses(self, frames_BCTHW: Tensor) -> Tensor:
        """(B, T, U, 4) of the pairs, see :func:`through`; before the clip there was no contrast."""
        contrast_BTP = self.linear.contrast(frames_BCTHW).flatten(2)
        return through(rearrange(contrast_BTP @ self.pairs().T, "b t (u p) -> b t u p", p=2), self.courses_U2L)

    def pools(self, frames_BCTHW: Tensor) -> Tensor:
        """Energy of all orientations as it is in each bin, (B, T, M): in pools of each size, at each of its places."""
        x = rearrange(self.linear.contrast(frames_BCTHW), "b t h w -> (b t) 1 h w")
        seen = []
        for size, apart in enumerate(self.pool_apart):
            filters_F1PP = self.get_buffer(f"pool_filters_{size}")
            y = F.conv2d(x, filters_F1PP, stride=apart, padding=filters_F1PP.shape[-1] // 2)
            seen.append(y.square().sum(1).flatten(1))
        return torch.cat(seen, dim=1).unflatten(0, (len(frames_BCTHW), -1))

    def pool_of(self, pools_BTM: Tensor) -> Tensor:
        """Of these, in any precision, the one by which each unit is normalized, (B, T, U)."""
        size_U, row_U, column_U = self.place_U3.unbind(1)
        return pools_BTM[..., self.before_S[size_U] + row_U * self.columns_S[size_U] + column_U].float()

    def faded(self, pool_BTU: Tensor) -> Tensor:
        """Smoothed over the bins before; before the clip nothing was shown."""
        b = len(pool_BTU)
        past = F.pad(rearrange(pool_BTU, "b t u -> (b u) 1 t"), (len(self.fading_L) - 1, 0))
        return rearrange(F.conv1d(past, self.fading_L[None, None]), "(b u) 1 t -> b t u", b=b)

    def features(self, s_U: Tensor, energy_U3: Tensor, pool_U: Tensor, units: Sequence[int] | None = None) -> Tensor:
        """What responses (…, U), energies (…, U, 3) and smooth pools (…, U) of some units are made of, (…, U, K)."""
        sizes = self.scale_U, self.size_U, self.pool_U
        scale_U, size_U, usual_U = sizes if units is None else (size[units] for size in sizes)
        pool_U, s_U = pool_U * usual_U, s_U * scale_U
        first, late, motion = (energy_U3 * size_U[:, None]).unbind(-1)
        u = torch.asinh(BEND * s_U / (HALF + pool_U).sqrt())
        halves = torch.stack([u.clamp_min(0), (-u).clamp_min(0)], dim=-1)
        both = first + late
        # Of quadrature pairs; where time courses are others, a difference may be less than nothing.
        ways = (both + 2 * motion).clamp_min(0), (both - 2 * motion).clamp_min(0)
        normalized = torch.stack([first, *ways], dim=-1) / (HALF + pool_U)[..., None]
        levels, pooled = torch.log1p(FINE * normalized) / math.log1p(FINE), torch.log1p(BEND * pool_U)[..., None]
        return torch.cat([halves, halves.square(), levels, levels.square(), pooled], dim=-1)

    def gains(self, slow_UG: Tensor) -> Tensor:
        """What slow means of energy (…, U, G) are made of."""
        return torch.log1p(BEND * slow_UG)

    def level(self, energy_U3: Tensor) -> Tensor:
        """The energy (…, U) of both time courses, 1 on average as the pair was found."""
        return (energy_U3[..., :2].sum(-1) * self.size_U).clamp_max(MOST)

    def responded(self, frames_BCTHW: Tensor, pools_BTM: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Linear responses (B, T, U), energies (B, T, U, 3) and smooth pools (B, T, U) to clips; their pools may be
        given."""
        pool_BTU = self.faded(self.pool_of(self.pools(frames_BCTHW) if pools_BTM is None else pools_BTM))
        responses_BTU4 = self.responses(frames_BCTHW)
        s_BTU = self.linear.filtered(frames_BCTHW) + (responses_BTU4 * self.mix_U4).sum(-1)
        return s_BTU, energies(responses_BTU4), pool_BTU

    def looked(self, frames_BCTHW: Tensor) -> Looked:
        """What the weights weigh, of clips."""
        with torch.autocast(frames_BCTHW.device.type, enabled=False):  # squares of small numbers
            s_BTU, energy_BTU3, pool_BTU = self.responded(frames_BCTHW)
            slow_BTUG = slow_means(self.level(energy_BTU3), self.slow_G)
            return Looked(self.features(s_BTU, energy_BTU3, pool_BTU), self.gains(slow_BTUG))

    def forward(self, frames_BCTHW: Tensor) -> Drive:
        """What is added to the drive, and to the logarithm of the gain, (B, T, U) each."""
        looked = self.looked(frames_BCTHW)
        return Drive((looked.drive * self.weight).sum(-1), (looked.gain * self.gain).sum(-1))

    def stream(self) -> Callable[[Tensor], Drive]:
        """Takes frames (1, C, 1, H, W) one by one; gives what each adds to the drive and to the gain, (U,)."""
        filtered, pairs = self.linear.stream(), self.pairs()
        seen = pairs.new_zeros(self.courses_U2L.shape[2], len(pairs))  # by the pairs, in the last frames, oldest first
        pool = pairs.new_zeros(len(self.fading_L), len(self.pool_U))
        slow_UG = torch.zeros_like(self.gain)

        def advance(frame_BCTHW: Tensor) -> Drive:
            nonlocal seen, pool, slow_UG
            s_U = filtered(frame_BCTHW)
            now = pairs @ self.linear.contrast(frame_BCTHW).flatten()
            seen = torch.cat([seen[1:], now[None]])
            seen_LU2 = seen.unflatten(1, (-1, 2))
            responses_U4 = torch.einsum("ucl,lup->ucp", self.courses_U2L, seen_LU2).flatten(1)
            s_U = s_U + (responses_U4 * self.mix_U4).sum(-1)
            pool = torch.cat([pool[1:], self.pool_of(self.pools(frame_BCTHW))[0]])
            energy_U3 = energies(responses_U4)
            slow_UG = self.slow_G * slow_UG + (1 - self.slow_G) * self.level(energy_U3)[:, None]
            drive_U = (self.features(s_U, energy_U3, self.fading_L @ pool) * self.weight).sum(-1)
            return Drive(drive_U, (self.gains(slow_UG) * self.gain).sum(-1))

        return advance


def slow_means(x_BTU: Tensor, keep_G: Tensor) -> Tensor:
    """Means (B, T, U, G) of the past, each of which keeps a part of the bin before's; nothing was before the clip."""
    means: list[Tensor] = []
    last_BUG = x_BTU.new_zeros(len(x_BTU), x_BTU.shape[2], len(keep_G))
    for piece_BTU in x_BTU.split(AT_ONCE, dim=1):
        bins = torch.arange(piece_BTU.shape[1], device=x_BTU.device)
        lag_TT = bins[:, None] - bins
        kept_GTT = torch.where(lag_TT >= 0, keep_G[:, None, None] ** lag_TT.clamp_min(0), 0.0)
        new = torch.einsum("gts,bsu->btug", kept_GTT * (1 - keep_G)[:, None, None], piece_BTU)
        means.append(new + last_BUG[:, None] * keep_G ** (bins[:, None, None] + 1))
        last_BUG = means[-1][:, -1]
    return torch.cat(means, dim=1)
