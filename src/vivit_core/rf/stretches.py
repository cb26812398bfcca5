"""Trials as the regression takes them: frames of few pixels, counts, and which bins count.

Shape letters: T bins, H W pixels, U units, 2 = (x, y).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from einops import reduce

from vivit_core.data.clips import ends_of_trials
from vivit_core.data.recording.reader import Recording
from vivit_core.models.frames import shifted

# How far windows look to the right and down of where the file says, (T, 2) px, in bins from a start to a stop.
ShiftPx = Callable[[int, int], np.ndarray]


PIXELS = 5e8  # most pixels of a recording's split held at once: frames of any size take the same memory


MOVED = 256  # frames that are moved at once


@dataclass
class TrialStretches:
    """Training (or validation) trials laid end to end, at most a given number of frames.

    A trial's first ``lags - 1`` bins have a zero in ``use``, as their history is incomplete: so no lag reaches over a
    trial's border.
    """

    frames_THW: np.ndarray  # as stored, or moved; channels averaged
    counts_TU: np.ndarray
    use_TU: np.ndarray  # bool

    @classmethod
    def read(
        cls,
        recording: Recording,
        split: Literal["train", "val"],
        lags: int,
        max_frames: int,
        shift_px: ShiftPx | None = None,
    ) -> TrialStretches:
        """The ends of a split's trials, evenly over the recording: at most ``max_frames``, fewer of very large ones.
        Frames are moved by ``shift_px``, where there is one."""
        frames, counts, use = [], [], []
        for start, stop in stretches(recording, split, lags, max_frames):
            gray = recording.frames(start, stop)
            gray_THW = gray[0] if len(gray) == 1 else reduce(gray.astype(np.float32), "c t h w -> t h w", "mean")
            frames.append(gray_THW if shift_px is None else moved(gray_THW, shift_px(start, stop)))
            counts.append(recording.counts(start, stop))
            valid = recording.valid(start, stop).copy()
            valid[: lags - 1] = False
            use.append(valid)
        if not frames:  # no trial of the split
            frames.append(np.zeros((0, *recording.info.frame_shape[1:]), np.float32))
            counts.append(np.zeros((0, recording.info.n_units), np.float32))
            use.append(np.zeros((0, recording.info.n_units), bool))
        return cls(np.concatenate(frames), np.concatenate(counts), np.concatenate(use))

    def held_out(self, part: float) -> tuple[TrialStretches, TrialStretches]:
        """All but the last part of the frames, and that part."""
        border = len(self.use_TU) - round(part * len(self.use_TU))

        def part_of(bins: slice) -> TrialStretches:
            return TrialStretches(self.frames_THW[bins], self.counts_TU[bins], self.use_TU[bins])

        return part_of(slice(0, border)), part_of(slice(border, None))


def stretches(
    recording: Recording, split: Literal["train", "val"], lags: int, max_frames: int
) -> list[tuple[int, int]]:
    """From where to where trials are read, half open, in bins of the recording."""
    max_frames = max(1, min(max_frames, int(PIXELS / np.prod(recording.info.frame_shape[1:]))))
    return ends_of_trials(recording.info.trials, split, max_frames, least=8 * lags)


def moved(frames_THW: np.ndarray, shift_T2: np.ndarray) -> np.ndarray:
    """Frames as windows that are shifted so see them; bytes stay bytes, which take no more memory."""
    found = np.empty_like(frames_THW)
    for start in range(0, len(found), MOVED):
        part = slice(start, start + MOVED)
        given = torch.as_tensor(frames_THW[part].astype(np.float32))[None, None]
        shift = torch.as_tensor(shift_T2[part].astype(np.float32))[None]
        moved_THW = shifted(given, shift)[0, 0].numpy()
        found[part] = moved_THW if found.dtype.kind == "f" else moved_THW.round().clip(0, 255)
    return found
