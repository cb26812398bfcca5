"""What units' own filters begin with: the linear baseline's, pairs whose energy units follow, and their weights.

Shape letters: T bins of a trial, N bins of all, U units, K features of a unit's filters, L lags, M pools, B clips (one
at a time), P pixels of a side.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, pairwise
from types import ModuleType
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models import layers, ln, own_filter, pairs, solving
from vivit_core.models.likelihoods.base import Likelihood
from vivit_core.models.ln import LNReadout
from vivit_core.models.own_filter import OwnFilters
from vivit_core.models.pairs import usual_courses
from vivit_core.models.twin import Twin
from vivit_core.rf import energy_pairs as search
from vivit_core.rf.energy_pairs import energy_pairs
from vivit_core.specs import Clips
from vivit_core.system.kept import Arrays, Kept, digest
from vivit_core.system.threads import go_on
from vivit_core.training import finer_filters, regression
from vivit_core.training.finer_filters import Shown, refine
from vivit_core.training.regression import (
    EVERY_NTH,
    Fit,
    Seen,
    best_of,
    difference,
    expected_gain,
    fitted,
    in_groups,
)

# That decides what is found; and a likelihood's (code_of).
CODE = (sys.modules[__name__], layers, ln, solving, own_filter, pairs, search, finer_filters, regression)
PIECE_FRAMES = 600  # of a trial that are looked at together, at most
LEAST_PIECES = 4
SCALE_FRAMES = 2_400  # of a recording, in which responses have their usual size
SEARCH_FRAMES = 12_000  # in which pairs are looked for
SEARCH_WORK = 2**22  # times the units for which they are looked for: it takes a time in proportion
SEARCH_PIXELS = 2**27  # of them at most, two bytes each
LEAST_FRAMES = 400  # less is not fitted to: a dozen weights find what is not there
FIT_FRAMES = 32_000  # on which weights are fitted
FIT_NUMBERS = 2**28  # of all units' features in them at most, two bytes each
KEPT_BYTES = 2**28  # of these frames, and of what is seen there whatever filters are
MOST_POOL = 6e4  # in half precision


@dataclass
class Known:
    """What is known of a recording's units before their own filters are looked for.

    Attributes
    ----------
    linear : LN of the units; None: there are no linear filters.
    hidden : units without a linear filter, for which pairs are looked for.
    centers_U2 : where units look, x and y in pixels.
    courses_2L : time courses of the pairs; None: the usual ones.
    """

    linear: LNReadout | None
    hidden: list[int]
    centers_U2: np.ndarray
    courses_2L: np.ndarray | None


class Retina:
    """A recording as a twin's own filters see it: its frames are shifted by eye position where the twin has a shifter,
    by as much as the shifter begins with."""

    def __init__(self, twin: Twin, recording: Recording) -> None:
        self.twin, self.recording, self.info = twin, recording, recording.info
        self.counts, self.valid = recording.counts, recording.valid

    def frames(self, start: int, stop: int) -> np.ndarray:
        frames, name = self.recording.frames(start, stop), self.info.recording_id
        if self.twin.shifters is None:
            return frames
        behavior = self.recording.behavior(start, stop, self.twin.specs[name].behavior)
        device = next(self.twin.parameters()).device
        shown, moved = (torch.as_tensor(each, device=device)[None] for each in (frames, behavior))
        return self.twin.seen(name, Clips(frames=shown, behavior=moved))[0].detach().cpu().numpy()


@torch.no_grad()
def begin_own_filters(twin: Twin, recording: Recording, known: Known, steps: int, kept: Kept | None = None) -> bool:
    """Let a recording's units begin with filters of their own, and with what these alone predict.

    Parameters
    ----------
    twin : with own filters.
    recording : of its trials those for training are fitted to. Its validation trials say which units keep what was
        fitted, and whose filters are made finer; one without any keeps it, and its filters as they are.
    known : of the units.
    steps : in which filters are made finer (``finer_filters.steps_for``).
    kept : where what was found is kept and looked up; None: nowhere.

    Returns
    -------
    Whether it was found before.
    """
    name, retina = recording.info.recording_id, Retina(twin, recording)
    own, bias_U = twin.own_filter(name), twin.readout(name).bias
    assert own is not None
    if kept is None:
        find_own_filters(twin, retina, own, known, steps)
        return False
    found = {**own.state_dict(), "bias": bias_U}

    def arrays() -> Arrays:
        return {part: value.detach().cpu().numpy() for part, value in found.items()}

    def make() -> Arrays:
        find_own_filters(twin, retina, own, known, steps)
        return arrays()

    made, old = kept.get(key_of(twin, retina, own, known, steps), arrays(), make)
    for part, value in found.items():
        value.copy_(torch.as_tensor(made[part]))
    return old


def key_of(twin: Twin, recording: Retina, own: OwnFilters, known: Known, steps: int) -> str:
    """A hash of all that a recording's own filters depend on: what it shows and what the units do in the trials that
    are looked at, what is known of them, the settings, and the code."""
    name, nodes = recording.info.recording_id, twin.description()
    settings = [nodes["model"]["own_filter"], nodes["likelihood"], twin.specs[name].to_dict(), known.hidden, steps]
    parts = [twin.likelihood(name), *([] if known.linear is None else [known.linear])]
    values = [twin.readout(name).bias, *(value for part in parts for value in part.state_dict().values())]
    arrays = [value.detach().cpu().numpy() for value in values]
    arrays += [known.centers_U2, *([] if known.courses_2L is None else [known.courses_2L])]
    pieces = [*spread(recording, fitted_frames(own)), *spread(recording, fitted_frames(own), "val")]
    pieces += [*spread(recording, searched_frames(own, known)), *spread(recording, SCALE_FRAMES)]
    looked_at = (of(*piece) for piece in pieces for of in (recording.frames, recording.counts, recording.valid))
    return digest([*CODE, *code_of(type(twin.likelihood(name)))], settings, chain(arrays, looked_at))


def code_of(likelihood: type[Likelihood]) -> list[ModuleType]:
    """The modules of a likelihood, whose nats decide which weights are taken, and of those that it is made from."""
    return [sys.modules[kind.__module__] for kind in likelihood.__mro__ if issubclass(kind, Likelihood)]


def active_of(own: OwnFilters) -> Tensor:
    """Which units fired in training trials, (U,): the others have nothing that could be fitted."""
    return torch.tensor(own.linear.spec.unit_mean_counts, device=own.weight.device) > 0


def fitted_frames(own: OwnFilters) -> int:
    """How many are fitted to, and decide."""
    return max(1, min(FIT_FRAMES, FIT_NUMBERS // max(1, int(active_of(own).sum()) * own.FEATURES)))


def searched_frames(own: OwnFilters, known: Known) -> int:
    """In how many pairs are looked for."""
    return max(1, min(SEARCH_FRAMES, most_frames(own), SEARCH_WORK // max(1, len(known.hidden))))


def most_frames(own: OwnFilters) -> int:
    """Of which so many fit into memory."""
    _, height, width = own.linear.spec.frame_shape
    return max(1, SEARCH_PIXELS // (height * width))


def find_own_filters(twin: Twin, recording: Retina, own: OwnFilters, known: Known, steps: int) -> None:
    """See :func:`begin_own_filters`."""
    name, device = recording.info.recording_id, own.weight.device
    pieces = spread(recording, SCALE_FRAMES)
    frames = [torch.as_tensor(recording.frames(*piece), device=device)[None] for piece in pieces]
    centers_U2 = torch.as_tensor(known.centers_U2)
    if known.linear is not None:
        own.take_linear(known.linear, frames)
    members_U = torch.zeros(len(own.scale_U), dtype=torch.long)
    if known.hidden:
        usual = usual_courses(own.courses_U2L.shape[2], recording.info.frame_rate_hz)
        courses = usual if known.courses_2L is None else own.newest(torch.as_tensor(known.courses_2L))
        trials = seen_and_done(recording, own, searched_frames(own, known))
        bank_M2PP = own.shapes().pairs(own.side)
        found = energy_pairs(trials, known.hidden, centers_U2, courses, bank_M2PP)
        own.take_pairs(found, courses, frames)
        members_U = found.member_U.clamp_min(0)
    own.take_pools(centers_U2, frames)
    if recording.info.trials.of("train").n_bins < LEAST_FRAMES:
        return
    train = Pieces(recording, own, "train")
    judge = Judge(twin, recording, own, train)
    judge.take_over()
    if not judge.seen_U.any():
        return
    likelihood, bias_U = twin.likelihood(name), twin.readout(name).bias
    linear_U = (own.scale_U > 0) & (own.size_U == 0)

    def not_normalized() -> None:
        own.pool_U.zero_()

    pooled_U = own.pool_U > 0
    plain_U = judge.take_over(not_normalized) & pooled_U

    def take_pools() -> None:
        own.take_pools(centers_U2, frames)
        own.pool_U[plain_U] = 0.0

    def as_pairs() -> None:
        own_U = own.take_shapes(linear_U.nonzero()[:, 0].tolist(), frames)
        take_pools()
        members = torch.where(linear_U.cpu(), own_U, members_U)
        refine(own, likelihood, bias_U, members, active_of(own), pieces_shown(train, own), steps)
        take_pools()

    def as_pixels() -> None:
        refine(own, likelihood, bias_U, members_U, pixels_U, pieces_shown(train, own), steps)

    pixels_U = linear_U & ~judge.take_over(as_pairs)
    if pixels_U.any():
        judge.take_over(as_pixels, pixels_U)


class Piece(NamedTuple):
    """Of a trial: frames (1, C, T, H, W), the pools there (1, T, M), counts and which of them are valid, (T, U)."""

    frames: Tensor
    pools: Tensor
    counts: Tensor
    valid: Tensor


class Pieces:
    """Pieces that are spread over the trials of a split, as many as are fitted to. Filters are tried on them again and
    again, so those that fit into ``KEPT_BYTES`` are kept with what is seen there whatever a unit's filters are."""

    def __init__(self, recording: Retina, own: OwnFilters, split: str) -> None:
        self.recording, self.own = recording, own
        self.places = spread(recording, fitted_frames(own), split)
        self.kept: dict[tuple[int, int], Piece] = {}
        self.bytes = 0

    def __iter__(self) -> Iterator[Piece]:
        yield from map(self.piece, self.places)

    def piece(self, place: tuple[int, int]) -> Piece:
        go_on()
        if place in self.kept:
            return self.kept[place]
        frames, counts_TU, valid_TU = read(self.recording, place, self.own.weight.device)
        pools_BTM = self.own.pools(frames).clamp_max(MOST_POOL).half()
        piece = Piece(frames, pools_BTM, counts_TU, valid_TU)
        size = sum(part.untyped_storage().nbytes() for part in piece)
        if self.bytes + size <= KEPT_BYTES:
            self.kept[place] = piece
            self.bytes += size
        return piece


class Judge:
    """Lets units take over other filters and weights where their validation trials say so.

    Attributes
    ----------
    nats_NU : of those trials' bins, as things are.
    seen_U : which units have any.
    """

    def __init__(self, twin: Twin, recording: Retina, own: OwnFilters, train: Pieces) -> None:
        self.twin, self.recording, self.own = twin, recording, own
        self.train, self.val = train, Pieces(recording, own, "val")
        self.nats_NU, self.seen_U = self.validation_nats()

    def take_over(self, change: Callable[[], None] | None = None, changed_U: Tensor | None = None) -> Tensor:
        """Fit the weights, after a change of filters if there is one.

        Parameters
        ----------
        change : of filters.
        changed_U : of which units, to whose weights it is fitted; None: of all.

        Returns
        -------
        Which units took over what that gave, (U,): those that gain by it (:func:`regression.expected_gain`), and where
        no filter changed those that have no validation trials.
        """
        learned = (*self.own.learned(), self.twin.readout(self.recording.info.recording_id).bias)
        begun = [each.clone() for each in learned]
        if change is not None:
            change()
        fit_own_filters(self.twin, self.recording, self.own, self.train, changed_U)
        after_NU, _ = self.validation_nats()
        took_U = expected_gain(*difference(self.nats_NU, after_NU)) > 0
        took_U = took_U | ~self.seen_U if change is None else took_U & self.seen_U
        for each, was in zip(learned, begun, strict=True):
            each[~took_U] = was[~took_U]
        self.nats_NU = torch.where(took_U, after_NU, self.nats_NU)
        return took_U

    def validation_nats(self) -> tuple[Tensor, Tensor]:
        """Of the validation trials' bins, by what filters alone predict, (N, U); and which units have any, (U,)."""
        name, own = self.recording.info.recording_id, self.own
        likelihood, bias_U = self.twin.likelihood(name), self.twin.readout(name).bias
        nats, seen_U = [own.scale_U.new_zeros(0, len(own.scale_U))], torch.zeros_like(own.scale_U, dtype=torch.bool)
        for frames, pools_BTM, counts_TU, valid_TU in self.val:
            x_TUK = own.features(*own.responded(frames, pools_BTM))[0]
            rate_TU = likelihood.rate((x_TUK * own.weight).sum(-1) + bias_U)
            counts_TU = torch.where(valid_TU, counts_TU, 0.0)
            nats.append(torch.where(valid_TU, likelihood.nats(rate_TU, counts_TU), 0.0))
            seen_U |= valid_TU.any(0)
        return torch.cat(nats), seen_U


def pieces_shown(train: Pieces, own: OwnFilters) -> Shown:
    """What units saw and did in training trials, in as many pieces as fit into memory."""
    shown = Shown([], [], [], [])
    for place in spread(train.recording, min(fitted_frames(own), most_frames(own))):
        frames, pools_BTM, counts_TU, valid_TU = train.piece(place)
        shown.contrast.append(own.linear.contrast(frames)[0].half())
        shown.pool.append(own.faded(own.pool_of(pools_BTM))[0])
        shown.counts.append(counts_TU)
        shown.valid.append(valid_TU)
    return shown


def spread(recording: Recording | Retina, frames: int, split: str = "train") -> list[tuple[int, int]]:
    """Starts and stops of pieces of a split's trials, spread over the recording, of about so many frames together.

    A trial is cut into equal pieces, of which there are ``LEAST_PIECES`` where the recording has so many bins.
    """
    trials = recording.info.trials.of(split)
    if not (total := trials.n_bins):
        return []
    longest = max(1, min(PIECE_FRAMES, min(frames, total) // LEAST_PIECES))
    pieces: list[tuple[int, int]] = []
    for start, stop in zip(trials.start.tolist(), trials.stop.tolist(), strict=True):
        edges = np.linspace(start, stop, -(-(stop - start) // longest) + 1).round().astype(int).tolist()
        pieces.extend(pairwise(edges))
    number = max(1, min(len(pieces), round(len(pieces) * frames / total)))
    return [pieces[int(index)] for index in np.linspace(0, len(pieces) - 1, number)]


def seen_and_done(recording: Retina, own: OwnFilters, frames: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Contrast (T, H, W) and counts less their mean (T, U) of training trials, zero where they do not count."""
    mean_U = torch.tensor(own.linear.spec.unit_mean_counts)
    for place in spread(recording, frames):
        shown, counts_TU, valid_TU = read(recording, place, torch.device("cpu"))
        yield own.linear.contrast(shown)[0].half(), torch.where(valid_TU, counts_TU - mean_U, 0.0)


def read(recording: Retina, place: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Frames (1, C, T, H, W), counts and which of them are valid (T, U), of a piece of a trial."""
    frames, counts_TU, valid_TU = (
        torch.as_tensor(of(*place), device=device) for of in (recording.frames, recording.counts, recording.valid)
    )
    return frames[None], counts_TU, valid_TU


def fit_own_filters(
    twin: Twin, recording: Retina, own: OwnFilters, train: Pieces, wanted_U: Tensor | None = None
) -> None:
    """Fit the filters' weights and the readout's bias of some active units, or of all, as if nothing else drove
    them."""
    name = recording.info.recording_id
    bias_U, likelihood = twin.readout(name).bias, twin.likelihood(name)
    active_U = active_of(own)
    units = (active_U if wanted_U is None else active_U & wanted_U).nonzero()[:, 0]
    if not len(units):
        return
    columns = [
        (own.features(*own.responded(frames, pools_BTM))[0][:, units].half(), counts_TU[:, units], valid_TU[:, units])
        for frames, pools_BTM, counts_TU, valid_TU in train
    ]
    pieces = [len(counts_TU) for _, counts_TU, _ in columns]
    chooses = np.random.default_rng(0).permutation(len(pieces)) % EVERY_NTH == EVERY_NTH - 1  # not in step with trials
    held_N = torch.as_tensor(np.repeat(chooses, pieces), device=bias_U.device)
    x_UNK = torch.cat([x_NUK.transpose(0, 1) for x_NUK, *_ in columns], dim=1)
    counts_NU, valid_NU = (torch.cat([each[part] for each in columns]) for part in (1, 2))
    del columns
    seen = Seen(x_UNK, counts_NU, valid_NU, held_N, 0, x_UNK.shape[2])
    begun_UK = torch.cat([own.weight[units], bias_U[units, None]], dim=1)

    def fit(some: slice) -> Fit:
        return Fit(likelihood.of_units(units[some].tolist()), seen, some, begun_UK[some])

    groups = in_groups(slice(0, len(units)), x_UNK[0].numel(), x_UNK.device)
    better_UK, _ = best_of([fitted(fit, seen, groups)], begun_UK)
    own.weight[units] = better_UK[:, :-1]
    bias_U[units] = better_UK[:, -1]
