"""Most exciting images and clips, and others of their kind: gradient ascent on a unit's response, under a budget.

After Walker et al. 2019 and Bashivan et al. 2019, with the budget in the recording's own pixels: the picture stays
inside their range, and its contrast below a bound. The bound follows the spectrum of the frames that the model was
trained on (``naturalness``): a frequency that they have little of costs more. Among pictures of one Gaussian density,
which knows of natural frames nothing but their spectrum, that is the most exciting.

Shape letters: M units (each with a picture of its own), K diverse ones of one unit, B clips, T bins of a clip (1 for an
image), H W pixels, F spatial frequencies along x of a real transform, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vivit_core.analysis.screen import BINS_AT_ONCE, AnyScreen, Screen
from vivit_core.system.terminal import track

RARE = 1e-3  # of the mean power: a frequency with less is hardly used to bring a picture into the pixels' range
CANDIDATES = 4  # natural pictures of each unit that are shown once more, after gray

Kind = Literal["image", "clip"]
More = Literal["least", "diverse", "surround"]


@dataclass(frozen=True)
class Ascent:
    """How pictures are sought.

    Parameters
    ----------
    steps : of gradient ascent.
    step : length of the first step, in the budget's norm; it sinks to a tenth by the last.
    budget : largest root mean square contrast over the frame (of a clip: over all its frames), as a share of that of
        the training trials' pixels. With ``naturalness`` it bounds the picture before its frequencies are weighted.
    jitter_px : the picture is shifted at random by up to this much in each step, px, so that nothing is made of single
        pixels' accidents.
    naturalness : from 0 to 1, how far the spectrum of the training trials' frames weights the picture's frequencies in
        space and time. With 0 all cost alike, and a linear unit's picture is its filter. With 1 each costs contrast
        over what the frames have of it, and a linear unit's picture is the average of natural ones before its spikes.
    settle_s : gray before the picture, s, for the rates that are told; the steps begin with the picture.
    picture_s : length of the picture, s. An image stands still for as long.
    diverse : pictures of a unit, where diverse ones are sought.
    diversity : weight of the distance between the nearest two of them, in units of the budget, against their log rates.
    seed : of the start and the jitter.
    """

    steps: int
    step: float
    budget: float
    jitter_px: int
    naturalness: float
    settle_s: float
    picture_s: float
    diverse: int
    diversity: float
    seed: int

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)} is not above 0"
            for name in ("steps", "step", "budget", "picture_s")
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name}={getattr(self, name)} is below 0"
            for name in ("jitter_px", "settle_s", "diversity")
            if getattr(self, name) < 0
        ]
        if not 0 <= self.naturalness <= 1:
            problems.append(f"naturalness={self.naturalness} is not from 0 to 1")
        if self.diverse < 2:
            problems.append(f"diverse={self.diverse} is below 2")
        if problems:
            raise ValueError("mei: " + "; ".join(problems))


def played(screen: AnyScreen, picture_MTHW: Tensor, settle_s: float, bins: int) -> Tensor:
    """Gray, then the picture: a clip of ``bins`` frames, or an image that stands still for as long. (M, T, H, W)"""
    gray = picture_MTHW.new_zeros(len(picture_MTHW), screen.bins(settle_s) if settle_s else 0, *screen.frame_size)
    return torch.cat([gray, picture_MTHW.expand(-1, bins, -1, -1)], 1)


def response(rates_MTU: Tensor, bins: int, kind: Kind) -> Tensor:
    """What is made large, (M, U) in Hz: the mean rate while an image stands; the rate in a clip's last bin."""
    return rates_MTU[:, -bins:].mean(1) if kind == "image" else rates_MTU[:, -1]


def most_exciting(
    screen: Screen, seen_BTHW: Tensor, units: Sequence[int], ascent: Ascent, kind: Kind, progress: bool
) -> tuple[Tensor, np.ndarray]:
    """The picture that drives each of some units most.

    Parameters
    ----------
    screen : the units' screen.
    seen_BTHW : clips that the model was trained on, in contrast, of ``ascent.picture_s``; their spectrum weights the
        picture's frequencies. Of an image the last frames count.
    units : indices of the units; each gets a picture of its own, all of them in one pass.
    ascent, kind : how to seek, and whether an image or a clip.
    progress : show a bar.

    Returns
    -------
    pictures (M, T, H, W) in contrast, T = 1 for images, and the response to each, (M,) in Hz, unshifted.
    """
    return climb(screen, seen_BTHW, units, ascent, kind, f"exciting {kind}s", progress)


def least_exciting(
    screen: Screen, seen_BTHW: Tensor, units: Sequence[int], ascent: Ascent, kind: Kind, progress: bool
) -> tuple[Tensor, np.ndarray]:
    """The picture that drives each unit least, with just the contrast of the budget, but for what the pixels' range
    cuts off: gray would say nothing.

    Parameters and returns as of :func:`most_exciting`.
    """
    what = f"least exciting {kind}s"
    return climb(screen, seen_BTHW, units, ascent, kind, what, progress, sign=-1.0, whole_budget=True)


def diverse_exciting(
    screen: Screen, seen_BTHW: Tensor, units: Sequence[int], ascent: Ascent, kind: Kind, progress: bool
) -> tuple[Tensor, np.ndarray]:
    """``ascent.diverse`` pictures for each unit, which drive it and are unlike each other.

    What is made large is the sum of the log rates of a unit's pictures, plus ``ascent.diversity`` times the distance,
    in units of the budget, between the two that are nearest to each other.

    Parameters
    ----------
    screen, seen_BTHW, units, ascent, kind, progress : see :func:`most_exciting`.

    Returns
    -------
    pictures (M, K, T, H, W) in contrast, T = 1 for images, and the response to each, (M, K) in Hz.

    References
    ----------
    Cadena et al. 2018 (Diverse feature visualizations reveal invariances in early layers of deep neural networks);
    Ding et al. 2023 (diverse exciting inputs in mouse V1).
    """
    many = [unit for unit in units for _ in range(ascent.diverse)]
    pictures, hz = climb(screen, seen_BTHW, many, ascent, kind, f"diverse {kind}s", progress, alike=ascent.diverse)
    return rearrange(pictures, "(m k) t h w -> m k t h w", k=ascent.diverse), hz.reshape(-1, ascent.diverse)


def suppressing_surround(
    screen: Screen,
    seen_BTHW: Tensor,
    units: Sequence[int],
    ascent: Ascent,
    centers_MHW: Tensor,
    around_MHW: Tensor,
    progress: bool,
) -> tuple[Tensor, np.ndarray, np.ndarray]:
    """The surround that suppresses each unit's response to a center most.

    Parameters
    ----------
    screen, seen_BTHW, units, ascent, progress : see :func:`most_exciting`. The budget bounds the surround's contrast
        over the surround.
    centers_MHW : what stands in each unit's center, zero elsewhere.
    around_MHW : one where the surround may be, zero in the center.

    Returns
    -------
    centers with surrounds (M, 1, H, W) in contrast; the response to each, and to the center alone, (M,) in Hz.

    References
    ----------
    Fu et al. 2024 (surrounds of most exciting images in mouse V1).
    """
    center, around = centers_MHW[:, None], around_MHW[:, None]
    what = "suppressing surrounds"
    found, hz = climb(
        screen, seen_BTHW, units, ascent, "image", what, progress, sign=-1.0, center=center, around=around
    )
    bins = screen.bins(ascent.picture_s)
    with torch.no_grad():
        alone_MU = response(screen.rates(played(screen, center, ascent.settle_s, bins)), bins, "image").cpu()
    alone = alone_MU.gather(1, torch.as_tensor(list(units))[:, None])[:, 0].numpy()
    return found, hz, alone


def climb(
    screen: Screen,
    seen_BTHW: Tensor,
    units: Sequence[int],
    ascent: Ascent,
    kind: Kind,
    what: str,
    progress: bool,
    *,
    sign: float = 1.0,
    alike: int = 1,
    whole_budget: bool = False,
    center: Tensor | None = None,
    around: Tensor | None = None,
) -> tuple[Tensor, np.ndarray]:
    """Ascent of the log rate, one picture for each entry of ``units``.

    Parameters
    ----------
    screen, seen_BTHW, units, ascent, kind, progress : see :func:`most_exciting`.
    what : is sought, for the bar.
    sign : 1 makes the rate large, −1 small.
    alike : so many entries in a row are of one unit, and are pushed apart.
    whole_budget : pictures are shown with just the budget's contrast, however their frequencies are weighted.
    center, around : (M, 1, H, W); what stands still, and where the picture may be.

    Returns
    -------
    As :func:`most_exciting`; with a center, it is part of the pictures.
    """
    bins = screen.bins(ascent.picture_s)
    frames = 1 if kind == "image" else bins
    shape = (len(units), frames, *screen.frame_size)
    room = room_of(shape[1:])
    generator = torch.Generator().manual_seed(ascent.seed)
    area_M = torch.full((len(units),), float(np.prod(shape[1:])))
    if around is not None:
        area_M = around.flatten(1).sum(1) * frames
    norm_M = (ascent.budget * screen.natural_contrast * area_M.sqrt())[:, None, None, None]
    column = torch.as_tensor(list(units), device=screen.device)
    weight_THF = natural_power(seen_BTHW[:, -frames:]) ** (ascent.naturalness / 2)

    # The inverse of the weights, but for frequencies that natural frames have next to nothing of.
    back_THF = weight_THF / (weight_THF.square() + RARE)

    def filtered(z: Tensor, by_THF: Tensor) -> Tensor:
        x = torch.fft.irfftn(torch.fft.rfftn(z, s=room, dim=(1, 2, 3)) * by_THF, s=room, dim=(1, 2, 3))
        return x[:, : shape[1], : shape[2], : shape[3]]

    def weighted(z: Tensor) -> Tensor:
        """What of a picture may be shown: its frequencies weighted, where it may be."""
        x = filtered(z, weight_THF)
        return x if around is None else x * around

    def picture(z: Tensor) -> Tensor:
        x = weighted(z)
        x = (x * norm_M / length(x).clamp_min(1e-12) if whole_budget else x).clamp(-1.0, 1.0)
        return x if center is None else (center + x).clamp(-1.0, 1.0)  # the border shows both

    def within(z: Tensor) -> Tensor:
        """In the pixels' range, so that nothing of the budget is spent on what is cut off; then in the budget."""
        x = weighted(z)
        z = z + filtered(x.clamp(-1.0, 1.0) - x, back_THF)
        scale = norm_M / length(z).clamp_min(1e-12)
        return z * (scale if whole_budget else scale.clamp(max=1.0))

    def own(x: Tensor, settle_s: float) -> Tensor:
        rates_MTU = screen.rates(played(screen, x, settle_s, bins))
        return response(rates_MTU, bins, kind).gather(1, column[:, None])[:, 0]

    z = torch.randn(shape, generator=generator)
    z = 0.1 * norm_M * z / length(z).clamp_min(1e-12)
    for i in track(range(ascent.steps), f"{what} {screen.spec.recording_id}", disable=not progress):
        shift = torch.randint(-ascent.jitter_px, ascent.jitter_px + 1, (2,), generator=generator).tolist()
        z = z.detach().requires_grad_()
        # What a model has not seen counts as gray, so the steps do without the gray before, which costs as much again.
        goal = sign * own(torch.roll(picture(z), shift, (2, 3)), 0.0).clamp_min(1e-6).log().cpu().sum()
        if alike > 1:
            goal = goal + ascent.diversity * nearest(z / norm_M, alike).sum()
        (slope,) = torch.autograd.grad(goal, z)
        slope = slope / length(slope).clamp_min(1e-12)
        along = 0.1 ** (i / max(1, ascent.steps - 1))
        z = within(z.detach() + ascent.step * along * norm_M * slope)
    with torch.no_grad():
        x = picture(z.detach())
        return x, own(x, ascent.settle_s).cpu().numpy()


def room_of(size: Sequence[int]) -> list[int]:
    """Frames, height and width in which frequencies are weighted: twice as much as is shown, because what leaves the
    frame at a border would come in again at the other one."""
    return [2 * side if side > 1 else 1 for side in size]


def natural_power(seen_BTHW: Tensor) -> Tensor:
    """The mean power of clips at each frequency in space and time, (T, H, F) for ``rfftn`` in ``room_of`` their size;
    over all frequencies its mean is one.

    Each clip fades out towards its ends (a Hann window), because a border that does not go on at the other side would
    count as an edge. Clips without any contrast say nothing of frequencies, which then weigh alike.
    """
    fading = [torch.hann_window(size + 2, periodic=False)[1:-1] for size in seen_BTHW.shape[1:]]
    window_THW = fading[0][:, None, None] * fading[1][:, None] * fading[2]
    room, power_THW = room_of(seen_BTHW.shape[1:]), torch.zeros(())
    for clip_THW in seen_BTHW:  # one after the other: a recording's frames may be large
        power_THW = power_THW + torch.fft.fftn(clip_THW * window_THW, s=room).abs().square()
    mean = power_THW.mean()
    power_THW = power_THW / mean if mean > 0 else torch.ones(room)
    return power_THW[..., : room[-1] // 2 + 1]


def length(x_MTHW: Tensor) -> Tensor:
    """Norm of each picture, (M, 1, 1, 1)."""
    return x_MTHW.flatten(1).norm(dim=1)[:, None, None, None]


def nearest(x_MTHW: Tensor, alike: int) -> Tensor:
    """The smallest distance between two pictures of a unit, for each unit; ``alike`` in a row are of one."""
    flat = rearrange(x_MTHW, "(m k) t h w -> m k (t h w)", k=alike)
    first, second = torch.triu_indices(alike, alike, 1).unbind()
    return (flat[:, first] - flat[:, second]).square().sum(-1).add(1e-12).sqrt().amin(1)


@torch.no_grad()
def best_natural(
    screen: Screen, natural_BTHW: Tensor, units: Sequence[int], ascent: Ascent, kind: Kind, progress: bool
) -> tuple[Tensor, np.ndarray]:
    """The natural picture that drives each of some units most, shown in the same way: gray, then the picture.

    Parameters
    ----------
    screen : the recording's.
    natural_BTHW : clips of ``ascent.picture_s``; of an image, the last frame stands still. They keep their own
        contrast, which the budget does not bound.
    units, ascent, kind, progress : as ``most_exciting`` takes them.

    Returns
    -------
    As ``most_exciting``.
    """
    bins = screen.bins(ascent.picture_s)
    pictures = natural_BTHW[:, -1:] if kind == "image" else natural_BTHW

    def responses(shown_BTHW: Tensor, settle_s: float, what: str) -> Tensor:
        at_once = max(1, BINS_AT_ONCE // (bins + screen.bins(settle_s)))
        pieces = track(shown_BTHW.split(at_once), f"{what} {screen.spec.recording_id}", disable=not progress)
        found = [response(screen.rates(played(screen, piece, settle_s, bins)), bins, kind).cpu() for piece in pieces]
        return torch.cat(found)[:, list(units)]

    # As in an ascent, only what is told needs the gray before: few pictures can be the best.
    first_BM = responses(pictures, 0.0, f"natural {kind}s")
    few = first_BM.topk(min(CANDIDATES, len(first_BM)), 0).indices.unique()
    told_BM = responses(pictures[few], ascent.settle_s, f"best natural {kind}s")
    return pictures[few[told_BM.argmax(0)]], told_BM.amax(0).numpy()
