"""The best weights of readouts on a core that stands still.

A readout weighs what its units' windows see of the core's maps. With the core and the windows held, the weights of one
unit are a regression of some hundred numbers, close to convex. A few steps of Fisher scoring come near its optimum,
where gradient steps on small batches stay farther away and noisy.

Shape letters: B clips, T bins of a clip, N bins that count, U units, C channels, K weights of a unit (the bias last).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vivit_core.data.clips import Window, evaluation_windows
from vivit_core.data.recording.reader import Recording
from vivit_core.models.twin import Twin
from vivit_core.specs import Clips
from vivit_core.training.regression import EVERY_NTH, Fit, Found, Seen, best_of, fitted, in_groups, parts

MEMORY = 2**29  # numbers of all units' features that are held at a time, at two bytes each; half of it at four
MOST_DECIDING = 3_000  # bins of the held-out clips; what units gain together they tell well enough
LEAST_SHARE = 16  # less than one bin for so many of the training trials
MOST = 6e4  # of a feature, in half precision


@dataclass
class Weights:
    """Weights of a readout that can be fitted.

    Attributes
    ----------
    drive, gain : (U, …) each, of the maps that drive, and of those that multiply.
    bias : (U,) of the drive.
    """

    drive: list[nn.Parameter]
    gain: list[nn.Parameter]
    bias: nn.Parameter

    def of(self, units: slice) -> Tensor:
        """Those of some units side by side, (U, K)."""
        return torch.cat([own[units].flatten(1) for own in (*self.drive, *self.gain, self.bias[:, None])], dim=1)

    def set(self, units: slice, weights_UK: Tensor) -> None:
        *weights, bias_U1 = weights_UK.split([*(own[0].numel() for own in (*self.drive, *self.gain)), 1], dim=1)
        for own, values in zip((*self.drive, *self.gain), weights, strict=True):
            own[units] = values.view_as(own[units])
        self.bias[units] = bias_U1[:, 0]


@torch.no_grad()
def fit_readout(twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int) -> int | None:
    """Give the readout of one recording, and its own filters, the weights that predict its training trials best.

    Parameters
    ----------
    twin : in evaluation, wherever it lies. Only weights and biases of this recording's readout and filters change.
    recording : its validation trials decide which weights are taken over; where they are few, one clip in
        ``EVERY_NTH`` of the training trials does too, and is not fitted to.
    clip_length, burn_in : bins of a clip, and those at its start that do not count.
    bins : about so many count, of clips that are spread over the training trials; fewer where all units together see
        more than ``MEMORY`` numbers in them.

    Returns
    -------
    How many units took over other weights: those that are expected to gain (``regression.expected_gain``). None where
    the readout has no weights that can be fitted (``Readout.weighed``), or there are fewer than ``EVERY_NTH`` clips.
    """
    units, likelihood = slice(0, recording.info.n_units), twin.likelihood(recording.info.recording_id)
    windows, choosing = fitted_and_deciding(recording, clip_length, burn_in)
    if not windows:
        return None
    if (one := look(twin, recording, windows[:1], [], slice(0, 1))) is None:
        return None
    numbers = one[1].x_UNK.shape[2]
    # Where not all units can be looked at together, the core works for some of them after others, and on fewer clips.
    bins = min(bins, math.isqrt(bins * MEMORY // (numbers * units.stop)))
    chosen, choosing = evenly(windows, bins), evenly(choosing, deciding(bins))
    scored = scored_bins([*chosen, *choosing])
    found: list[Found] = []
    begun: list[Tensor] = []
    for some in parts(units, MEMORY // (scored * numbers)):
        # Half a number's precision is lost where it must be: it shows in the weights of what hardly varies.
        many = scored * numbers * (some.stop - some.start) > MEMORY // 2
        looked = look(twin, recording, chosen, choosing, some, torch.float16 if many else torch.float32)
        assert looked is not None
        weights, seen = looked

        def fit(few: slice, seen: Seen = seen, weights: Weights = weights, first: int = some.start) -> Fit:
            own = likelihood.of_units(range(few.start, few.stop))
            return Fit(own, seen, slice(few.start - first, few.stop - first), weights.of(few))

        found.append(fitted(fit, seen, in_groups(some, scored * numbers, seen.x_UNK.device)))
        begun.append(weights.of(some))
        del looked, seen, fit  # before the next part is looked at
    better_UK, took_U = best_of(found, torch.cat(begun))
    weights.set(units, better_UK)
    return int(took_U.sum())


def fitted_and_deciding(recording: Recording, clip_length: int, burn_in: int) -> tuple[list[Window], list[Window]]:
    """Clips that may be fitted to, and those that decide: none of the first where all are fewer than ``EVERY_NTH``."""
    windows, choosing = (
        evaluation_windows(recording.info.trials, split, clip_length, burn_in) for split in ("train", "val")
    )
    choosing = [window for window in choosing if recording.valid(window.score_start, window.score_stop).any()]
    if scored_bins(choosing) * LEAST_SHARE < scored_bins(windows):  # too little to choose by
        choosing += windows[EVERY_NTH - 1 :: EVERY_NTH]
        del windows[EVERY_NTH - 1 :: EVERY_NTH]
    return (windows, choosing) if len(windows) + len(choosing) >= EVERY_NTH else ([], choosing)


def deciding(bins: int) -> int:
    """How many held-out bins decide where so many are fitted to."""
    return max(1, min(bins // EVERY_NTH, MOST_DECIDING))


def scored_bins(windows: Sequence[Window]) -> int:
    return sum(window.score_stop - window.score_start for window in windows)


def evenly(windows: Sequence[Window], bins: int) -> list[Window]:
    """As many of them as score about so many bins, evenly taken; at least ``EVERY_NTH`` where there are so many."""
    number = min(len(windows), max(EVERY_NTH, len(windows) * bins // scored_bins(windows)))
    return [windows[int(i)] for i in np.linspace(0, len(windows) - 1, number)]


def shown(twin: Twin, recording: Recording, start: int, stop: int) -> Clips:
    """One clip of a recording, where the twin lies."""
    device = next(twin.parameters()).device
    behavior = recording.behavior(start, stop, twin.specs[recording.info.recording_id].behavior)
    frames, moved = (torch.as_tensor(x, device=device)[None] for x in (recording.frames(start, stop), behavior))
    return {"frames": frames, "behavior": moved}


def done(recording: Recording, start: int, stop: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """What units did, and which of it is valid, (N, U)."""
    counts_NU, valid_NU = recording.counts(start, stop), recording.valid(start, stop)
    return torch.as_tensor(counts_NU, device=device), torch.as_tensor(valid_NU, device=device)


def look(
    twin: Twin,
    recording: Recording,
    windows: Sequence[Window],
    choosing: Sequence[Window],
    units: slice,
    precision: torch.dtype = torch.float32,
) -> tuple[Weights, Seen] | None:
    """The weights of a recording's readout, and what some units see and do in these windows, and in those that choose,
    kept in this precision; None where weights cannot be fitted."""
    name, weights, of_core, drives = recording.info.recording_id, None, 0, 0
    readout, device = twin.readout(name), next(twin.parameters()).device
    columns: list[tuple[Tensor, ...]] = []
    for number, (start, stop, scored, _) in enumerate((*windows, *choosing)):
        clips = shown(twin, recording, start, stop)
        frames, moved = twin.adapt(name, clips)
        maps = twin.core(frames)
        if twin.modulator is not None:
            maps = twin.modulator(maps, moved)
        of_drive: list[tuple[nn.Parameter, Tensor]] = []
        of_gain: list[tuple[nn.Parameter, Tensor]] = []
        for index, feature_map in enumerate(maps):
            if (weighed := readout.weighed(index, feature_map, units)) is None:
                return None
            x_BTK = weighed[1].flatten(2)
            x_NUC = feature_map.to_bins(x_BTK, stop - start)[0, scored - start :].unflatten(1, weighed[1].shape[2:])
            (of_gain if feature_map.gain else of_drive).append((weighed[0], x_NUC))
        of_core = sum(x_NUC.shape[2] for _, x_NUC in of_drive)
        if (filters := twin.own_filter(name)) is not None:
            of_unit = filters.looked(twin.seen(name, clips))
            of_drive.append((filters.weight, of_unit.drive[0, scored - start :, units]))
            of_gain.append((filters.gain, of_unit.gain[0, scored - start :, units]))
        weights = Weights([own for own, _ in of_drive], [own for own, _ in of_gain], readout.bias)
        drives = sum(x_NUC.shape[2] for _, x_NUC in of_drive)
        x_NUK = torch.cat([x_NUC for _, x_NUC in (*of_drive, *of_gain)], dim=2).clamp(-MOST, MOST).to(precision)
        counts_NU, valid_NU = done(recording, scored, stop, device)
        held_N = torch.full((stop - scored,), number >= len(windows), device=device)
        columns.append((x_NUK, counts_NU[:, units], valid_NU[:, units], held_N))
    assert weights is not None
    x_UNK = torch.cat([x_NUK.transpose(0, 1) for x_NUK, *_ in columns], dim=1)
    counts_NU, valid_NU, held_N = (torch.cat([each[part] for each in columns]) for part in (1, 2, 3))
    return weights, Seen(x_UNK, counts_NU, valid_NU, held_N, of_core, drives)
