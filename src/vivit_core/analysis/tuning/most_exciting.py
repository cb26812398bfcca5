"""Most exciting images and clips: gradient ascent on a unit's response, under a budget.

After Walker et al. 2019 and Bashivan et al. 2019, with the budget in the recording's own pixels: the picture stays
inside their range, and its root mean square contrast over the frame below a bound.

Shape letters: M units (each with a picture of its own), T bins of a clip (1 for an image), H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.screen import BINS_AT_ONCE, Screen
from vivit_core.system.terminal import track

Kind = Literal["image", "clip"]


@dataclass(frozen=True)
class Ascent:
    """How pictures are sought.

    Parameters
    ----------
    steps : of gradient ascent.
    step : length of the first step, in the budget's norm; it sinks to a tenth by the last.
    budget : largest root mean square contrast over the frame (of a clip: over all its frames), as a share of that of
        the training trials' pixels.
    jitter_px : the picture is shifted at random by up to this much in each step, px, so that nothing is made of single
        pixels' accidents.
    total_variation : weight of the picture's total variation (mean slope over mean contrast) against the log rate.
    max_cycles_per_px : spatial frequencies above are taken out.
    settle_s : gray before the picture, s.
    picture_s : length of the picture, s. An image stands still for as long.
    seed : of the start and the jitter.
    """

    steps: int
    step: float
    budget: float
    jitter_px: int
    total_variation: float
    max_cycles_per_px: float
    settle_s: float
    picture_s: float
    seed: int

    def __post_init__(self) -> None:
        problems = [
            f"{name}={getattr(self, name)} is not above 0"
            for name in ("steps", "step", "budget", "max_cycles_per_px", "picture_s")
            if not getattr(self, name) > 0
        ]
        problems += [
            f"{name}={getattr(self, name)} is below 0"
            for name in ("jitter_px", "total_variation", "settle_s")
            if getattr(self, name) < 0
        ]
        if problems:
            raise ValueError("mei: " + "; ".join(problems))


def played(screen: Screen, picture_MTHW: Tensor, settle_s: float, bins: int) -> Tensor:
    """Gray, then the picture: a clip of ``bins`` frames, or an image that stands still for as long. (M, T, H, W)"""
    gray = picture_MTHW.new_zeros(len(picture_MTHW), screen.bins(settle_s) if settle_s else 0, *screen.frame_size)
    return torch.cat([gray, picture_MTHW.expand(-1, bins, -1, -1)], 1)


def response(rates_MTU: Tensor, bins: int, kind: Kind) -> Tensor:
    """What is made large, (M, U) in Hz: the mean rate while an image stands; the rate in a clip's last bin."""
    return rates_MTU[:, -bins:].mean(1) if kind == "image" else rates_MTU[:, -1]


def most_exciting(
    screen: Screen, units: Sequence[int], ascent: Ascent, kind: Kind, progress: bool = True
) -> tuple[Tensor, np.ndarray]:
    """The picture that drives each of some units most.

    Parameters
    ----------
    screen : the units' screen.
    units : indices of the units; each gets a picture of its own, all of them in one pass.
    ascent, kind : how to seek, and whether an image or a clip.
    progress : show a bar.

    Returns
    -------
    pictures (M, T, H, W) in contrast, T = 1 for images, and the response to each, (M,) in Hz, unshifted.
    """
    bins = screen.bins(ascent.picture_s)
    frames = 1 if kind == "image" else bins
    shape = (len(units), frames, *screen.frame_size)
    generator = torch.Generator().manual_seed(ascent.seed)
    norm = ascent.budget * screen.natural_contrast * float(np.prod(shape[1:])) ** 0.5
    column = torch.as_tensor(list(units), device=screen.device)
    smooth = low_pass(screen.frame_size, ascent.max_cycles_per_px)

    def within(x: Tensor) -> Tensor:
        """The frequency limit, then the pixels' range, then the budget."""
        x = torch.fft.irfft2(torch.fft.rfft2(x) * smooth, s=screen.frame_size).clamp(-1.0, 1.0)
        size = x.flatten(1).norm(dim=1).clamp_min(1e-12)
        return x * (norm / size).clamp(max=1.0)[:, None, None, None]

    x = within(torch.randn(shape, generator=generator))
    x = 0.1 * norm * x / x.flatten(1).norm(dim=1)[:, None, None, None]
    for i in track(range(ascent.steps), f"exciting {kind}s {screen.spec.recording_id}", disable=not progress):
        shift = torch.randint(-ascent.jitter_px, ascent.jitter_px + 1, (2,), generator=generator).tolist()
        x = x.detach().requires_grad_()
        moved = torch.roll(x, shift, (2, 3))
        rates_MTU = screen.rates(played(screen, moved, ascent.settle_s, bins))
        own_M = response(rates_MTU, bins, kind).gather(1, column[:, None])[:, 0]
        goal_M = own_M.clamp_min(1e-6).log().cpu()
        if ascent.total_variation:
            goal_M = goal_M - ascent.total_variation * roughness(x)
        (slope,) = torch.autograd.grad(goal_M.sum(), x)
        slope = torch.fft.irfft2(torch.fft.rfft2(slope) * smooth, s=screen.frame_size)
        slope = slope / slope.flatten(1).norm(dim=1).clamp_min(1e-12)[:, None, None, None]
        along = 0.1 ** (i / max(1, ascent.steps - 1))
        x = within(x.detach() + ascent.step * along * norm * slope)
    x = x.detach()
    with torch.no_grad():
        own_M = response(screen.rates(played(screen, x, ascent.settle_s, bins)), bins, kind)
    return x, own_M.gather(1, column[:, None])[:, 0].cpu().numpy()


def low_pass(size: tuple[int, int], cycles_per_px: float) -> Tensor:
    """For ``rfft2``: one below the limit, zero above."""
    fy, fx = torch.fft.fftfreq(size[0]), torch.fft.rfftfreq(size[1])
    return (fy[:, None].square() + fx.square() <= cycles_per_px**2).float()


def roughness(x_MTHW: Tensor) -> Tensor:
    """Mean slope over mean contrast, (M,): it says how rough a picture is, whatever its contrast."""
    height, width = x_MTHW.shape[2:]
    rows, columns = max(1, height - 1), max(1, width - 1)
    square = torch.zeros_like(x_MTHW[:, :, :rows, :columns])
    for axis, size in ((2, height), (3, width)):
        if size > 1:  # there is no slope across a line of pixels
            square = square + torch.diff(x_MTHW, dim=axis)[:, :, :rows, :columns].square()
    slope = (square + 1e-8).sqrt().flatten(1).mean(1)
    return slope / x_MTHW.square().mean((1, 2, 3)).add(1e-8).sqrt()


@torch.no_grad()
def best_natural(
    screen: Screen, natural_BTHW: Tensor, units: Sequence[int], ascent: Ascent, kind: Kind, progress: bool = True
) -> tuple[Tensor, np.ndarray]:
    """The natural picture that drives each of some units most, shown in the same way: gray, then the picture.

    Parameters
    ----------
    natural_BTHW : clips of ``ascent.picture_s``; of an image, the last frame stands still. They keep their own
        contrast, which the budget does not bound.

    Returns
    -------
    As ``most_exciting``.
    """
    bins = screen.bins(ascent.picture_s)
    pictures = natural_BTHW[:, -1:] if kind == "image" else natural_BTHW
    at_once = max(1, BINS_AT_ONCE // (bins + screen.bins(ascent.settle_s)))
    found = []
    pieces = pictures.split(at_once)
    for piece in track(pieces, f"natural {kind}s {screen.spec.recording_id}", disable=not progress):
        found.append(response(screen.rates(played(screen, piece, ascent.settle_s, bins)), bins, kind).cpu())
    own_BM = torch.cat(found)[:, list(units)]
    best_M = own_BM.argmax(0)
    return pictures[best_M], own_BM.amax(0).numpy()
