"""White and sparse noise, for reverse correlation in the model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Noise:
    """Checkerboard noise for reverse correlation.

    Parameters
    ----------
    kind : "white": every check is dark or light, with even chances; "sparse": a check is gray but with probability
        ``density``, when it is dark or light.
    contrast : of a dark or light check; 1 is the largest step from gray that the pixels can make.
    density : probability that a check of sparse noise is not gray.
    check_px : side of a check, px; each frame's checks are shifted at random, so that the pixels stay the resolution.
    hold_bins : bins for which a frame stands still.
    clips, clip_s : how many clips, and how long, s.
    seed : of the noise.
    """

    kind: Literal["white", "sparse"]
    contrast: float
    density: float
    check_px: int
    hold_bins: int
    clips: int
    clip_s: float
    seed: int

    def __post_init__(self) -> None:
        problems = [f"contrast={self.contrast} is not in 0 … 1"] if not 0 < self.contrast <= 1 else []
        problems += [f"density={self.density} is not in 0 … 1"] if not 0 < self.density <= 1 else []
        problems += [
            f"{name}={getattr(self, name)} is below {least}"
            for name, least in (("check_px", 1), ("hold_bins", 1), ("clips", 2))
            if getattr(self, name) < least
        ]
        if problems:
            raise ValueError("noise: " + "; ".join(problems))

    @property
    def variance(self) -> float:
        """Of a pixel, in squared contrast."""
        return self.contrast**2 * (1.0 if self.kind == "white" else self.density)

    def make(self, bins: int, height: int, width: int) -> Iterator[Tensor]:
        """``clips`` clips (T, H, W) of contrast; the same ones for a seed."""
        rng = np.random.default_rng(self.seed)
        check, frames = self.check_px, -(-bins // self.hold_bins)
        rows, columns = (-(-size // check) + 1 for size in (height, width))
        for _ in range(self.clips):
            coarse = rng.choice(np.array([-1, 1], np.int8), (frames, rows, columns))
            if self.kind == "sparse":
                coarse *= rng.random(coarse.shape) < self.density
            fine = coarse.repeat(check, 1).repeat(check, 2)
            shift = rng.integers(0, check, (frames, 2))
            noise = np.stack([f[y : y + height, x : x + width] for f, (y, x) in zip(fine, shift, strict=True)])
            yield self.contrast * torch.as_tensor(noise.repeat(self.hold_bins, 0)[:bins]).float()
