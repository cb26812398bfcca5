"""What a twin predicts of training clips, and what units did there: for what is fitted beside its rates.

Shape letters: T bins of a clip that count, P the same and some before them, U units.
"""

from __future__ import annotations

from operator import itemgetter
from typing import NamedTuple

import torch
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models.readouts.base import Drive
from vivit_core.models.twin import Twin
from vivit_core.training.readout_fit import deciding, done, evenly, fitted_and_deciding, shown


class Clip(NamedTuple):
    """What the twin makes of a clip's bins that count, without past counts, (T, U); and what units did in these bins
    and in some before them, (P, U)."""

    drive: Drive
    counts: Tensor
    valid: Tensor
    decides: bool

    @property
    def first(self) -> int:
        """How many bins are before those that count."""
        return len(self.counts) - len(self.drive.value)

    def scored(self) -> tuple[Tensor, Tensor]:
        """Counts of the bins that count, and which are valid, (T, U)."""
        return self.counts[self.first :], self.valid[self.first :]


@torch.no_grad()
def predicted_clips(
    twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int, before: int
) -> list[Clip]:
    """Clips that may be fitted to, and those that decide; none where they are too few.

    Parameters
    ----------
    twin : in evaluation, wherever it lies.
    recording : which of its clips are fitted to, and which decide, is as for readouts.
    clip_length, burn_in : bins of a clip, and those at its start that do not count.
    bins : about so many count.
    before : bins whose counts are kept before those that count, at most.
    """
    name = recording.info.recording_id
    windows, choosing = fitted_and_deciding(recording, clip_length, burn_in)
    if not windows:
        return []
    windows, choosing = evenly(windows, bins), evenly(choosing, deciding(bins))
    clips: list[Clip] = []
    for number, (start, stop, scored, _) in enumerate((*windows, *choosing)):
        drives = twin.drives({name: shown(twin, recording, start, stop)}, last=False)
        drive = drives[name].each(itemgetter((0, slice(scored - start, None)))).each(torch.clone)  # no view of all bins
        counts_PU, valid_PU = done(recording, max(start, scored - before), stop, drive.value.device)
        clips.append(Clip(drive, counts_PU, valid_PU, number >= len(windows)))
    return clips
