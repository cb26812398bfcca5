"""Pictures beside the most exciting one: the least exciting, diverse exciting ones, and the most suppressing surround.

Shape letters: M units, K images of one, H W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.screen import Screen
from vivit_core.analysis.tuning.most_exciting import (
    Ascent,
    More,
    diverse_exciting,
    least_exciting,
    played,
    response,
    suppressing_surround,
)
from vivit_core.analysis.tuning.protocols.base import Site
from vivit_core.stimuli.surrounds import ring


@dataclass(frozen=True, eq=False)
class Found:
    """Pictures of one kind, for some units.

    Attributes
    ----------
    images_MKHW : in contrast.
    compared_MHW : what each unit's images are compared with: the most exciting image, or the center without surround.
    hz_MK, compared_hz_M : the twin's rates to both.
    """

    images_MKHW: Tensor
    compared_MHW: Tensor
    hz_MK: np.ndarray
    compared_hz_M: np.ndarray


def more_pictures(
    kinds: Sequence[More],
    screen: Screen,
    true: Screen | None,
    sites: Sequence[Site],
    most_MHW: Tensor,
    most_hz: np.ndarray,
    ascent: Ascent,
    progress: bool = True,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Seek pictures of some kinds, and show them to the true neurons where they are known.

    Parameters
    ----------
    kinds : which.
    screen, true : the twin's units, and the true neurons before the same screen.
    sites : the units.
    most_MHW, most_hz : their most exciting images, and the rates to them.
    ascent : how to seek.
    progress : show bars.

    Returns
    -------
    A row for each kind and unit, with the rate (the mean over diverse images), that to what it is compared with, their
    ratio, and the same of the true neuron; and the images by kind, (M, K, H, W).
    """
    units = [site.unit for site in sites]
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for kind in kinds:
        found = sought(kind, screen, sites, most_MHW, most_hz, ascent, progress)
        arrays[kind] = found.images_MKHW.numpy()
        truth_hz_MK = truth_compared_MK = np.full((len(units), 1), math.nan)
        if true is not None:
            truth_hz_MK = shown_to(true, units, found.images_MKHW, ascent)
            truth_compared_MK = shown_to(true, units, found.compared_MHW[:, None], ascent)
        for m, unit in enumerate(units):
            hz, compared = float(found.hz_MK[m].mean()), float(found.compared_hz_M[m])
            truth, truth_compared = float(truth_hz_MK[m].mean()), float(truth_compared_MK[m, 0])
            rows.append(
                {
                    "unit": unit,
                    "kind": kind,
                    "hz": hz,
                    "compared_hz": compared,
                    "ratio": hz / compared if compared > 0 else math.nan,
                    "truth_hz": truth,
                    "truth_compared_hz": truth_compared,
                    "truth_ratio": truth / truth_compared if truth_compared > 0 else math.nan,
                }
            )
    return rows, arrays


def sought(
    kind: More,
    screen: Screen,
    sites: Sequence[Site],
    most_MHW: Tensor,
    most_hz: np.ndarray,
    ascent: Ascent,
    progress: bool,
) -> Found:
    """Pictures of one kind."""
    units = [site.unit for site in sites]
    if kind == "least":
        images, hz = least_exciting(screen, units, ascent, progress)
        return Found(images, most_MHW, hz[:, None], most_hz)
    if kind == "diverse":
        images, hz = diverse_exciting(screen, units, ascent, progress)
        return Found(images, most_MHW, hz, most_hz)
    around = torch.stack([ring(screen.frame_size, site.center_px, site.diameter_px) for site in sites])
    centers = most_MHW * (1 - around)
    images, hz, alone = suppressing_surround(screen, units, ascent, centers, around, progress)
    return Found(images[:, None], centers, hz[:, None], alone)


@torch.no_grad()
def shown_to(screen: Screen, units: Sequence[int], images_MKHW: Tensor, ascent: Ascent) -> np.ndarray:
    """Each unit's response to its own images, (M, K) in Hz."""
    bins = screen.bins(ascent.picture_s)
    hz = []
    for unit, images_KHW in zip(units, images_MKHW, strict=True):
        rates = screen.rates(played(screen, images_KHW[:, None], ascent.settle_s, bins))
        hz.append(response(rates, bins, "image")[:, unit].cpu().numpy())
    return np.stack(hz)
