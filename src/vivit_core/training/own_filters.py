"""What units' own filters begin with: the linear baseline's, pairs whose energy units follow, and their weights.

Shape letters: T bins of a trial, N bins of all, U units, K features of a unit's filters, L lags.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models.ln import LNReadout
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.pairs import usual_courses
from vivit_core.models.twin import Twin
from vivit_core.rf.energy_pairs import energy_pairs
from vivit_core.training.finer_filters import Shown, refine
from vivit_core.training.readout_fit import GROUP, HELD_OUT, Fit, Seen, best_of, parts

PIECE_FRAMES = 600  # of a trial that are looked at together, at most
LEAST_PIECES = 4
SCALE_FRAMES = 2_400  # of a recording, in which responses have their usual size
SEARCH_FRAMES = 12_000  # in which pairs are looked for
SEARCH_WORK = 2**22  # times the units for which they are looked for: it takes a time in proportion
SEARCH_PIXELS = 2**27  # of them at most, two bytes each
LEAST_FRAMES = 400  # less is not fitted to: a dozen weights find what is not there
FIT_FRAMES = 32_000  # on which weights are fitted
FIT_NUMBERS = 2**28  # of all units' features in them at most, two bytes each


@torch.no_grad()
def begin_own_filters(
    twin: Twin,
    recording: Recording,
    found: LNReadout | None,
    hidden: Sequence[int],
    centers_U2: np.ndarray,
    courses_2L: np.ndarray | None,
    steps: int,
) -> None:
    """Let a recording's units begin with filters of their own, and with what these alone predict.

    Parameters
    ----------
    twin : with own filters.
    recording : of its trials those for training are fitted to. Its validation trials say which units' filters are made
        finer; without any, none are.
    found : LN of its units; None: there are no linear filters.
    hidden : units without a linear filter, for which pairs are looked for.
    centers_U2 : where units look, x and y in pixels.
    courses_2L : time courses of the pairs; None: the usual ones.
    steps : in which they are made finer (``finer_filters.steps_for``).
    """
    name = recording.info.recording_id
    own = twin.own_filter(name)
    assert own is not None
    device = own.weight.device
    pieces = spread(recording, SCALE_FRAMES)
    frames = [torch.as_tensor(recording.frames(*piece), device=device)[None] for piece in pieces]
    own.take_places(torch.as_tensor(centers_U2), frames)
    if found is not None:
        own.take_linear(found, frames)
    members_U = torch.full((len(own.scale_U),), -1)
    if hidden:
        usual = usual_courses(own.courses_U2L.shape[2], recording.info.frame_rate_hz)
        courses = usual if courses_2L is None else own.newest(torch.as_tensor(courses_2L))
        shown = seen_and_done(recording, own, SEARCH_WORK // len(hidden))
        bank_M2PP = own.shapes().pairs(own.side)
        pairs = energy_pairs(shown, hidden, torch.as_tensor(centers_U2), courses, bank_M2PP)
        own.take_pairs(pairs, courses, frames)
        members_U = pairs.member_U
    if recording.info.trials.of("train").n_bins < LEAST_FRAMES:
        return
    bias_U = twin.readout(name).bias
    fit_own_filters(twin, recording, own)
    before_U = validation_nats(twin, recording, own)
    if before_U is None:
        return
    begun = [each.clone() for each in (*own.learned(), bias_U)]
    refine(own, twin.likelihood(name), bias_U, members_U.clamp_min(0), pieces_shown(recording, own), steps)
    fit_own_filters(twin, recording, own)
    after_U = validation_nats(twin, recording, own)
    assert after_U is not None
    keeps_U = ~(after_U < before_U)
    for each, was in zip((*own.learned(), bias_U), begun, strict=True):
        each[keeps_U] = was[keeps_U]


def pieces_shown(recording: Recording, own: OwnFilters) -> Shown:
    """What units saw and did in pieces spread over the training trials, as many as fit into memory."""
    _, height, width = own.linear.spec.frame_shape
    device, most = own.weight.device, min(FIT_FRAMES, FIT_NUMBERS // own.weight.numel())
    shown = Shown([], [], [], [])
    for start, stop in spread(recording, max(1, min(most, SEARCH_PIXELS // (height * width)))):
        frames = torch.as_tensor(recording.frames(start, stop), device=device)[None]
        counts_TU, valid = (
            torch.as_tensor(x, device=device) for x in (recording.counts(start, stop), recording.valid(start, stop))
        )
        shown.contrast.append(own.linear.contrast(frames)[0].half())
        shown.around.append(own.faded(own.around(frames))[0])
        shown.counts.append(counts_TU)
        shown.valid.append(valid.expand(counts_TU.shape))
    return shown


def validation_nats(twin: Twin, recording: Recording, own: OwnFilters) -> Tensor | None:
    """(U,) of pieces spread over the validation trials, by what filters alone predict; None where there are none."""
    name, device, total = recording.info.recording_id, own.weight.device, None
    if not len(recording.info.trials.of("val").start):
        return None
    for start, stop in spread(recording, max(1, min(FIT_FRAMES, FIT_NUMBERS // own.weight.numel())), "val"):
        drive_TU = own(torch.as_tensor(recording.frames(start, stop), device=device)[None])[0]
        rate_TU = twin.likelihood(name).rate(drive_TU + twin.readout(name).bias)
        counts_TU, valid = (
            torch.as_tensor(x, device=device) for x in (recording.counts(start, stop), recording.valid(start, stop))
        )
        counts_TU = torch.where(valid, counts_TU, 0.0)
        nats_U = torch.where(valid, twin.likelihood(name).nats(rate_TU, counts_TU), 0.0).sum(0)
        total = nats_U if total is None else total + nats_U
    return total


def spread(recording: Recording, frames: int, split: str = "train") -> list[tuple[int, int]]:
    """Starts and stops of pieces of a split's trials, spread over the recording, of about so many frames together.

    A trial is cut into equal pieces, of which there are ``LEAST_PIECES`` where the recording has so many bins.
    """
    trials = recording.info.trials.of(split)
    total = trials.n_bins
    longest = max(1, min(PIECE_FRAMES, min(frames, total) // LEAST_PIECES))
    pieces: list[tuple[int, int]] = []
    for start, stop in zip(trials.start.tolist(), trials.stop.tolist(), strict=True):
        edges = np.linspace(start, stop, -(-(stop - start) // longest) + 1).round().astype(int).tolist()
        pieces.extend(pairwise(edges))
    number = max(1, min(len(pieces), round(len(pieces) * frames / total)))
    return [pieces[int(index)] for index in np.linspace(0, len(pieces) - 1, number)]


def seen_and_done(recording: Recording, own: OwnFilters, most: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Contrast (T, H, W) and counts less their mean (T, U) of training trials, zero where they do not count."""
    mean_U = torch.tensor(own.linear.spec.unit_mean_counts)
    _, height, width = own.linear.spec.frame_shape
    for start, stop in spread(recording, max(1, min(SEARCH_FRAMES, SEARCH_PIXELS // (height * width), most))):
        contrast_THW = own.linear.contrast(torch.as_tensor(recording.frames(start, stop))[None])[0].half()
        counts_TU, valid = torch.as_tensor(recording.counts(start, stop)), torch.as_tensor(recording.valid(start, stop))
        yield contrast_THW, torch.where(valid, counts_TU - mean_U, 0.0)


def fit_own_filters(twin: Twin, recording: Recording, own: OwnFilters) -> None:
    """Fit the filters' weights and the readout's bias, as if nothing else drove a unit."""
    name = recording.info.recording_id
    bias_U, device = twin.readout(name).bias, next(twin.parameters()).device
    columns: list[tuple[Tensor, ...]] = []
    most = min(FIT_FRAMES, FIT_NUMBERS // own.weight.numel())
    pieces = spread(recording, max(1, most))
    chooses = np.random.default_rng(0).permutation(len(pieces)) % HELD_OUT == HELD_OUT - 1  # not in step with trials
    for (start, stop), held in zip(pieces, chooses.tolist(), strict=True):
        x_TUK = own.looked(torch.as_tensor(recording.frames(start, stop), device=device)[None])[0].half()
        counts_TU, valid = (
            torch.as_tensor(x, device=device) for x in (recording.counts(start, stop), recording.valid(start, stop))
        )
        held_T = torch.full((stop - start,), held, device=device)
        columns.append((x_TUK, counts_TU, valid.expand(counts_TU.shape), held_T))
    x_NUK, counts_NU, valid_NU, held_N = (torch.cat(column) for column in zip(*columns, strict=True))
    seen = Seen(x_NUK, counts_NU, valid_NU, held_N, 0, x_NUK.shape[2])
    found = []
    for units in parts(slice(0, len(bias_U)), GROUP // max(1, x_NUK[:, 0].numel())):
        begun_UK = torch.cat([own.weight[units], bias_U[units, None]], dim=1)
        likelihood = twin.likelihood(name).of_units(range(units.start, units.stop))
        found.append(Fit(likelihood, seen, units, begun_UK).found())
    fitted_UK, _ = best_of(found)
    own.weight.copy_(fitted_UK[:, :-1])
    bias_U.copy_(fitted_UK[:, -1])
