"""What units share beyond a twin's rates, fitted where these rates stand.

While a twin learns its rates, what they lack looks like something that units share, and it changes with every step. So
when readouts have had their last fit (``readout_fit``), a latent is fitted to what is left over.

Shape letters: B clips, T bins, U units.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models.latents.base import Latent
from vivit_core.models.twin import Twin
from vivit_core.training.predicted_clips import Clip, predicted_clips
from vivit_core.training.readout_fit import MEMORY

STEPS = 150  # of Adam, each on all clips
RATE = 0.05  # at its peak

Counted = tuple[Tensor, Tensor, Tensor]
"""Rates, counts and which of them are valid, (B, T, U) each, of clips of one length."""


def fit_latent(twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int) -> bool | None:
    """Let a recording's latent follow the gradient of what its training trials' counts cost together.

    Parameters
    ----------
    twin : with a latent, in evaluation, wherever it lies. Only this recording's latent changes, and only where the
        clips that decide cost less afterwards.
    recording, clip_length, burn_in : as for :func:`~vivit_core.training.predicted_clips.predicted_clips`.
    bins : about so many count; fewer where all units together see more than half of ``MEMORY`` numbers in them.

    Returns
    -------
    Whether it changed; None where there are too few clips.
    """
    name = recording.info.recording_id
    latent, likelihood = twin.latent(name), twin.likelihood(name)
    assert latent is not None
    clips = predicted_clips(twin, recording, clip_length, burn_in, min(bins, MEMORY // 2 // recording.info.n_units))
    if not clips:
        return None

    def counted(some: Sequence[Clip]) -> list[Counted]:
        def stacked(alike: Sequence[Counted], part: int) -> Tensor:
            return torch.stack([own[part] for own in alike])

        each = [(likelihood.rate(*own.scored()), own.counts[own.first :], own.valid[own.first :]) for own in some]
        lengths = sorted({len(rate_TU) for rate_TU, *_ in each})
        alike = ([own for own in each if len(own[0]) == length] for length in lengths)
        return [(stacked(own, 0), stacked(own, 1), stacked(own, 2)) for own in alike]

    with torch.no_grad():
        fitted, deciding = (counted([own for own in clips if own.decides == decides]) for decides in (False, True))
        begun, before = copy.deepcopy(latent.state_dict()), float(cost(latent, deciding))
    follow(latent, fitted)
    with torch.no_grad():
        if float(cost(latent, deciding)) < before:
            return True
    latent.load_state_dict(begun)
    return False


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
