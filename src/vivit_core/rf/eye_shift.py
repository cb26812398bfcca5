"""How eye position shifts what all units of a recording see, from data.

Where an eye tracker has a wrong gain, or is turned, frames lie elsewhere than where the eye looked, and by how much is
linear in eye position. All units' receptive fields move over the frames together. So bins of alike eye position are put
into groups, and each unit gets a map from each group. How alike two groups' maps are when one is moved against the
other says how far apart the groups' fields lie. The slope is the one at which all pairs of groups are most alike, of
many tries all around and then nearer and nearer to the best, so that shifts larger than the fields are found too.

Shape letters: T bins, E numbers of eye position, G groups of bins, N pairs of groups, U units, L lags, H W pixels,
I J moves down and across, S slopes, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
import torch
from einops import einsum, reduce, repeat
from torch import Tensor
from torch.nn import functional as F

from vivit_core.data.recording.reader import Recording
from vivit_core.models.layers import normalized
from vivit_core.models.ln import lags_of
from vivit_core.rf.blurring import blur
from vivit_core.rf.placing import (
    MAP_LAGS,
    contrast,
    contrast_energies,
    cosines,
    kernels,
    rest,
    varies,
)
from vivit_core.rf.stretches import TrialStretches, stretches
from vivit_core.specs import RecordingSpec

CELLS = 2400  # most pixels of a map; larger frames are made smaller, which places well enough for a start


UNITS = 64  # most units that are looked at, those of the largest variance of responses


HALVINGS = 5  # of the bins by eye position, so 32 groups


# How many slopes are tried, how far from the best ones, and how much moves are blurred then, in pixels of the maps
STAGES = ((20_000, 6.0, 2.0), (2000, 1.5, 1.5), (2000, 0.5, 1.0), (2000, 0.2, 1.0))


LEAST = 0.5  # share of two maps that lies over each other, below which likeness is not scaled up further


BEST = 10  # slopes that are kept of each stage


APART = 2.0  # pixels of the maps, by which numbers of the two halves' slopes may differ; chance puts them farther apart


def shift_by_position(
    recording: Recording, spec: RecordingSpec, eye: slice, *, duration_s: float, max_frames: int
) -> np.ndarray:
    """How far windows must look to the right and down for one standard deviation of each number of eye position.

    Parameters
    ----------
    recording : its file; only training trials are read.
    spec : its statistics.
    eye : the columns of behavior that hold eye position.
    duration_s : how much of the past responses are related to, s.
    max_frames : most training frames to use.

    Returns
    -------
    (E, 2) in pixels of the recording's frames; zeros where the data do not tell: too little is shown, or the two
    halves of the recording do not agree.
    """
    nothing = np.zeros((eye.stop - eye.start, 2), np.float32)
    lags = lags_of(duration_s, spec)
    data = TrialStretches.read(recording, "train", lags, max_frames)
    pool = max(1, lags // MAP_LAGS)
    frames_THW, rest_TU = torch.cat(list(contrast(data, spec, pool))), rest(data, pool)
    position_TE = eye_position(recording, spec, stretches(recording, "train", lags, max_frames), eye)
    position_TE = reduce(position_TE[: len(frames_THW) * pool], "(t k) e -> t e", "mean", k=pool)
    power_U = rest_TU.square().sum(0)
    units = [unit for unit in power_U.argsort(descending=True)[:UNITS].tolist() if power_U[unit] > 0]
    if not units or len(frames_THW) < 2**HALVINGS or not varies(frames_THW) or not varies(position_TE):
        return nothing
    larger = int(np.ceil((frames_THW[0].numel() / CELLS) ** 0.5))
    cell_2 = [min(larger, size) for size in frames_THW.shape[1:]]  # down, across
    frames_THW = F.avg_pool2d(frames_THW[:, None], cell_2)[:, 0]
    groups = alike(position_TE.numpy(), HALVINGS)
    position_GE = torch.stack([position_TE[bins].mean(0) for bins in groups])
    rest_TU = rest_TU[:, units] / power_U[units].sqrt()
    maps = list(maps_of(frames_THW, rest_TU, -(-lags // pool), groups))
    first_E2, second_E2 = (steepest([own[half] for own in maps], position_GE) for half in (0, 1))
    if (first_E2 - second_E2).abs().max() > APART:
        return nothing
    found: np.ndarray = steepest([own.sum(0) for own in maps], position_GE).numpy()
    return found * np.array(cell_2[::-1], np.float32)


def eye_position(recording: Recording, spec: RecordingSpec, spans: list[tuple[int, int]], eye: slice) -> Tensor:
    """Of the bins of all stretches, (T, E), in standard deviations from its mean, as a twin sees it."""
    told_TE = np.concatenate([recording.behavior(a, b, spec.behavior)[:, eye] for a, b in spans])
    mean, std = (torch.tensor(values[eye], dtype=torch.float32) for values in (spec.behavior_mean, spec.behavior_std))
    return normalized(torch.as_tensor(told_TE), mean, std)


def alike(position_TE: np.ndarray, halvings: int) -> list[np.ndarray]:
    """Bins in groups of equal size and alike eye position; neighbors in the list are the more alike."""
    groups = [np.arange(len(position_TE))]
    for _ in range(halvings):
        halves = []
        for bins in groups:
            widest = position_TE[bins].var(0).argmax()
            ordered = bins[position_TE[bins, widest].argsort(kind="stable")]
            halves += [ordered[: len(ordered) // 2], ordered[len(ordered) // 2 :]]
        groups = halves
    return groups


def maps_of(frames_THW: Tensor, rest_TU: Tensor, lags: int, groups: list[np.ndarray]) -> Iterator[Tensor]:
    """What was shown to each group before responses, in the recording's first half and its second, (2, G, U, H, W)
    each: contrast through the units' two most common time courses, and contrast energy at two scales through one."""
    middle = len(frames_THW) // 2
    halves = [[bins[bins < middle] for bins in groups], [bins[bins >= middle] for bins in groups]]
    height, width = frames_THW.shape[1:]
    energies = contrast_energies(frames_THW)
    for x_THW, ridge, number in ((frames_THW, 0.5, 2), *((energy, 100.0, 1) for energy in energies)):
        shown_THW = white(x_THW)
        i, j = (-(-size // own) for size, own in zip((height, width), x_THW.shape[1:], strict=True))
        for course_L in common_courses(x_THW, rest_TU, lags, ridge)[:number]:
            # What came of each frame: so a frame is in the group of the eye's position when it was shown.
            came_UT = F.conv1d(F.pad(rest_TU.T[:, None], (0, lags - 1)), course_L.flip(0)[None, None])[:, 0]
            maps = []
            for bins in (bins for half in halves for bins in half):
                # What a group saw on average, and what came on average, do not belong together.
                own_UT = came_UT[:, bins] - came_UT[:, bins].mean(1, keepdim=True)
                maps.append(einsum(own_UT.nan_to_num(), shown_THW[bins], "u t, t h w -> u h w"))
            large = repeat(torch.stack(maps), "(n g) u h w -> n g u (h i) (w j)", n=2, i=i, j=j) / (i * j) ** 0.5
            yield large[..., :height, :width]


def common_courses(x_THW: Tensor, rest_TU: Tensor, lags: int, ridge: float) -> Tensor:
    """The time courses (L, L), oldest lag first, that all units' kernels have in common, the most common one first.

    They are told wherever a unit looks, so also where its map is blurred by a shift.
    """
    units = rest_TU.shape[1]
    both_TU = torch.cat([rest_TU, rest_TU.roll(len(rest_TU) // 2, 0)], dim=1)
    real_LUHW, chance_LUHW = kernels(x_THW, both_TU, lags, ridge).split(units, dim=1)
    power_LL, noise_LL = (einsum(w, w, "l u h w, m u h w -> l m") for w in (real_LUHW, chance_LUHW))
    return torch.linalg.eigh(power_LL - noise_LL)[1].flip(1).T


def white(x_THW: Tensor) -> Tensor:
    """A movie whose spatial frequencies are all about equally strong, of variance one."""
    rows, columns = cosines(x_THW.shape[1]), cosines(x_THW.shape[2])
    waves_THW = rows @ (x_THW - x_THW.mean(0)) @ columns.T
    power_HW = waves_THW.square().mean(0)
    found = rows.T @ (waves_THW / (power_HW + 0.5 * power_HW.mean()).sqrt()) @ columns
    return found / found.std().clamp_min(1e-12)


def steepest(maps: Iterable[Tensor], position_GE: Tensor) -> Tensor:
    """The slope (E, 2) at which the groups' maps (G, U, H, W) are most alike."""
    first_N, second_N = torch.triu_indices(len(position_GE), len(position_GE), 1)
    apart_NE = position_GE[first_N] - position_GE[second_N]
    alike_NIJ = torch.stack([likeness(own_GUHW, first_N, second_N) for own_GUHW in maps]).sum(0)
    varying_E1 = (position_GE.var(0) > 0)[:, None]  # nothing is told of a number that stands still
    random = torch.Generator().manual_seed(0)
    best_SE2 = torch.zeros(1, position_GE.shape[1], 2)
    for number, spread, blurred in STAGES:
        rows, columns = (blur(size, blurred) for size in alike_NIJ.shape[1:])
        smooth_NIJ = rows @ alike_NIJ @ columns.T
        around_SE2 = best_SE2.repeat(number // len(best_SE2), 1, 1)
        around_SE2 = around_SE2 + spread * varying_E1 * torch.randn(around_SE2.shape, generator=random)
        tried_SE2 = torch.cat([best_SE2, around_SE2])
        score_S = torch.cat([fit(smooth_NIJ, slopes_SE2, apart_NE) for slopes_SE2 in tried_SE2.split(500)])
        best_SE2 = tried_SE2[score_S.argsort(descending=True, stable=True)[:BEST]]
    return best_SE2[0]


def fit(alike_NIJ: Tensor, slopes_SE2: Tensor, apart_NE: Tensor) -> Tensor:
    """How alike all pairs of groups are together, (S,), where each slope says how far they are moved."""
    down, across = (size // 2 for size in alike_NIJ.shape[1:])  # the farthest moves
    move_SN2 = (apart_NE @ slopes_SE2).round().long()
    i, j = move_SN2[..., 1] + down, move_SN2[..., 0] + across
    inside = (i >= 0) & (i <= 2 * down) & (j >= 0) & (j <= 2 * across)
    alike_SN = alike_NIJ[torch.arange(len(apart_NE)), i.clamp(0, 2 * down), j.clamp(0, 2 * across)]
    return (alike_SN * inside).sum(1)


def likeness(maps_GUHW: Tensor, first_N: Tensor, second_N: Tensor) -> Tensor:
    """Products, summed over units and pixels, of the first group's maps moved against the second's: (N, I, J), from
    as far up and to the left as maps go."""
    height, width = maps_GUHW.shape[-2:]
    waves_GUHW = torch.fft.rfft2(maps_GUHW, s=(2 * height, 2 * width))
    pairs = zip(first_N.tolist(), second_N.tolist(), strict=True)
    waves_NHW = torch.stack([(waves_GUHW[a] * waves_GUHW[b].conj()).sum(0) for a, b in pairs])
    moved_NIJ = torch.fft.irfft2(waves_NHW, s=(2 * height, 2 * width))
    # Less of the maps lies over each other the further they are moved.
    rows, columns = (1 - torch.arange(1 - size, size).abs() / size for size in (height, width))
    return torch.fft.fftshift(moved_NIJ, dim=(1, 2))[:, 1:, 1:] / (rows[:, None] * columns).clamp_min(LEAST)
