"""What a twin predicts of training clips, and what units did there: for what is fitted beside its rates.

Shape letters: T bins of a clip, U units.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vivit_core.data.recording.reader import Recording
from vivit_core.models.readouts.base import Drive
from vivit_core.models.twin import Twin
from vivit_core.training.readout_fit import deciding, done, evenly, fitted_and_deciding, shown


class Clip(NamedTuple):
    """What the twin makes of one without past counts (T, U), and what units did: all of the clip's T bins."""

    drive: Drive
    counts: Tensor
    valid: Tensor
    first: int  # bin that counts
    decides: bool

    def scored(self) -> Drive:
        """Of the bins that count."""
        return self.drive.each(lambda x: x[self.first :])


@torch.no_grad()
def predicted_clips(twin: Twin, recording: Recording, clip_length: int, burn_in: int, bins: int) -> list[Clip]:
    """Clips that may be fitted to, and those that decide; none where they are too few.

    Parameters
    ----------
    twin : in evaluation, wherever it lies.
    recording : which of its clips are fitted to, and which decide, is as for readouts.
    clip_length, burn_in : bins of a clip, and those at its start that do not count.
    bins : about so many count.
    """
    name = recording.info.recording_id
    windows, choosing = fitted_and_deciding(recording, clip_length, burn_in)
    if not windows:
        return []
    windows, choosing = evenly(windows, bins), evenly(choosing, deciding(bins))
    clips: list[Clip] = []
    for number, (start, stop, scored, _) in enumerate((*windows, *choosing)):
        drives = twin.drives({name: shown(twin, recording, start, stop)}, last=False)
        drive = drives[name].each(lambda x_BTU: x_BTU[0])
        counts_TU, valid_TU = done(recording, start, stop, drive.value.device)
        clips.append(Clip(drive, counts_TU, valid_TU, scored - start, number >= len(windows)))
    return clips
