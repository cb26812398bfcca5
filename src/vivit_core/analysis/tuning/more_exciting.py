"""Pictures beside the most exciting one: the least exciting, diverse exciting ones, and the most suppressing surround.

Shape letters: M units, K pictures of one, T bins of a clip (1 for an image), H W pixels, B clips of the training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.screen import AnyScreen, Screen
from vivit_core.analysis.tuning.most_exciting import (
    Ascent,
    Kind,
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
    """Pictures of one sort, for some units.

    Attributes
    ----------
    pictures_MKTHW : in contrast.
    compared_MTHW : what each unit's are compared with: the most exciting one, or the center without surround.
    hz_MK, compared_hz_M : the twin's rates to both.
    """

    pictures_MKTHW: Tensor
    compared_MTHW: Tensor
    hz_MK: np.ndarray
    compared_hz_M: np.ndarray


def more_pictures(
    sorts: Sequence[More],
    kind: Kind,
    screen: Screen,
    true: AnyScreen | None,
    seen_BTHW: Tensor,
    sites: Sequence[Site],
    most_MTHW: Tensor,
    most_hz: np.ndarray,
    ascent: Ascent,
    progress: bool,
) -> tuple[list[dict[str, Any]], dict[str, np.ndarray]]:
    """Seek pictures of some sorts, and show them to the true neurons where they are known.

    Parameters
    ----------
    sorts : which. A suppressing surround is an image, and is left out of clips.
    kind : images or clips.
    screen, true : the twin's units, and the true neurons before the same screen.
    seen_BTHW : clips that the model was trained on, see
        :func:`~vivit_core.analysis.tuning.most_exciting.most_exciting`.
    sites : the units.
    most_MTHW, most_hz : their most exciting pictures of this kind, T = 1 for images, and the rates to them.
    ascent : how to seek.
    progress : show bars.

    Returns
    -------
    A row for each sort and unit, with the rate (the mean over diverse pictures), that to what it is compared with,
    their ratio, and the same of the true neuron; and the pictures by sort, (M, K, T, H, W).
    """
    units = [site.unit for site in sites]
    rows: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    for sort in sorts:
        if kind == "clip" and sort == "surround":
            continue
        found = sought(sort, kind, screen, seen_BTHW, sites, most_MTHW, most_hz, ascent, progress)
        arrays[sort] = found.pictures_MKTHW.numpy()
        truth_hz_MK = truth_compared_MK = np.full((len(units), 1), math.nan)
        if true is not None:
            truth_hz_MK = shown_to(true, units, found.pictures_MKTHW, kind, ascent)
            truth_compared_MK = shown_to(true, units, found.compared_MTHW[:, None], kind, ascent)
        for m, unit in enumerate(units):
            hz, compared = float(found.hz_MK[m].mean()), float(found.compared_hz_M[m])
            truth, truth_compared = float(truth_hz_MK[m].mean()), float(truth_compared_MK[m, 0])
            rows.append(
                {
                    "unit": unit,
                    "sort": sort,
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
    sort: More,
    kind: Kind,
    screen: Screen,
    seen_BTHW: Tensor,
    sites: Sequence[Site],
    most_MTHW: Tensor,
    most_hz: np.ndarray,
    ascent: Ascent,
    progress: bool,
) -> Found:
    """Pictures of one sort."""
    units = [site.unit for site in sites]
    if sort == "least":
        pictures, hz = least_exciting(screen, seen_BTHW, units, ascent, kind, progress)
        return Found(pictures[:, None], most_MTHW, hz[:, None], most_hz)
    if sort == "diverse":
        pictures, hz = diverse_exciting(screen, seen_BTHW, units, ascent, kind, progress)
        return Found(pictures, most_MTHW, hz, most_hz)
    around = torch.stack([ring(screen.frame_size, site.center_px, site.diameter_px) for site in sites])
    centers = most_MTHW[:, 0] * (1 - around)
    images, hz, alone = suppressing_surround(screen, seen_BTHW, units, ascent, centers, around, progress)
    return Found(images[:, None], centers[:, None], hz[:, None], alone)


@torch.no_grad()
def shown_to(screen: AnyScreen, units: Sequence[int], pictures_MKTHW: Tensor, kind: Kind, ascent: Ascent) -> np.ndarray:
    """Each unit's response to its own pictures, (M, K) in Hz."""
    bins = screen.bins(ascent.picture_s)
    hz = []
    for unit, pictures_KTHW in zip(units, pictures_MKTHW, strict=True):
        rates = screen.rates(played(screen, pictures_KTHW, ascent.settle_s, bins))
        hz.append(response(rates, bins, kind)[:, unit].cpu().numpy())
    return np.stack(hz)
