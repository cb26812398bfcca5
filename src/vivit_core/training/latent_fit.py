"""What units share beyond a twin's rates, fitted where these rates stand.

While a twin learns its rates, what they lack looks like something that units share, and it changes with every step. So
when readouts have had their last fit (``readout_fit``), a latent is fitted to what is left over.

Shape letters: B pieces, T bins of a piece, U units.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vivit_core.models.latents.base import Latent
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.training.predicted_clips import Clip
from vivit_core.training.regression import EVERY_NTH

log = logging.getLogger(__name__)

STEPS = 150  # of Adam, each on all pieces
RATE = 0.05  # at its peak
PIECE = 300  # bins of a clip that are taken as one; the work of a piece grows with the cube of its steps
WORK = 2**27  # of all pieces; as much takes a minute of a core with 64 units

Counted = tuple[Tensor, Tensor, Tensor]
"""Rates, counts and which of them are valid, (B, T, U) each, of pieces of one length."""


@torch.no_grad()
def fit_latent(latent: Latent, likelihood: Likelihood, clips: Sequence[Clip]) -> bool:
    """Let a latent follow the gradient of what counts of clips cost together.

    Parameters
    ----------
    latent, likelihood : of a recording's units; only the latent changes.
    clips : of these units; fewer are fitted to where they are more than ``WORK``.

    Returns
    -------
    Whether it changed: where the clips that decide cost less afterwards. It stays as it is where one clip is more than
    can be worked on.
    """
    fitted = [clip for clip in clips if not clip.decides]
    work = max(PIECE // latent.hold, 1) ** 3 * latent.rank**3
    most = WORK // work  # pieces
    pieces = sum(math.ceil(len(clip.drive.value) / PIECE) for clip in fitted)
    if most < EVERY_NTH:
        log.warning(
            "the latent has no last fit: %d bins of it are more work than it may take with model.latent.rank=%d and "
            "model.latent.hold=%d; lower the rank, or hold it for more bins",
            *(PIECE, latent.rank, latent.hold),
        )
        return False
    fitted = fitted[:: max(1, math.ceil(pieces / most))]
    learned = counted(likelihood, fitted)
    deciding = counted(likelihood, [clip for clip in clips if clip.decides])
    begun, before = copy.deepcopy(latent.state_dict()), float(cost(latent, deciding))
    follow(latent, learned)
    if float(cost(latent, deciding)) < before:
        return True
    latent.load_state_dict(begun)
    return False


def counted(likelihood: Likelihood, clips: Sequence[Clip]) -> list[Counted]:
    """All pieces of clips, those of one length together."""
    alike: dict[int, list[Counted]] = {}
    for clip in clips:
        whole = likelihood.rate(*clip.drive), *clip.scored()
        for rate_TU, counts_TU, valid_TU in zip(*(x.split(PIECE) for x in whole), strict=True):
            alike.setdefault(len(rate_TU), []).append((rate_TU, counts_TU, valid_TU))
    return [(stacked(own, 0), stacked(own, 1), stacked(own, 2)) for own in alike.values()]


def stacked(pieces: Sequence[Counted], part: int) -> Tensor:
    return torch.stack([own[part] for own in pieces])


def follow(latent: Latent, fitted: Sequence[Counted]) -> None:
    scored = sum(int(valid_BTU.sum()) for *_, valid_BTU in fitted)
    learned = [each for each in latent.parameters() if each.requires_grad]
    optimizer = torch.optim.Adam(learned, lr=RATE)
    with torch.enable_grad():
        for step in range(STEPS):
            optimizer.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))
            optimizer.zero_grad()
            (cost(latent, fitted) / max(1, scored)).backward()
            if all(each.grad is not None and each.grad.isfinite().all() for each in learned):
                optimizer.step()


def cost(latent: Latent, of: Sequence[Counted]) -> Tensor:
    """Nats of all counts together, less what they cost one by one."""
    return torch.stack([latent.more_nats(*own) for own in of]).sum()
