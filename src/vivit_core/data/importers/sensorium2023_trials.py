"""Trials of the Sensorium 2023 competition as a video: those whose responses the organizers keep, which no recording
file has.

Shape letters: C channels, T frames of a piece, H W pixels, D behavior numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from vivit_core.data.importers.sensorium2023 import (
    BEHAVIOR,
    behavior_files,
    end_of,
    series_of,
    tiers_of,
    video_of,
)
from vivit_core.data.importers.sliceable import held
from vivit_core.data.video.source import PIECE, Video, in_channels
from vivit_core.specs import RecordingError


class TierVideo(Video):
    """What the trials of a tier show, one stretch a trial, with the behavior beside it.

    A trial ends as an imported one does: where its video, its behavior or (where there are some) its responses end.

    Parameters
    ----------
    folder : ``dynamic*-Video-*``.
    tier : for example ``live_test_main``.
    rate_hz : frames a second.

    Attributes
    ----------
    trials : their numbers.

    Raises
    ------
    RecordingError
        Where a file is missing or damaged, or a video has a hole or another size.
    """

    def __init__(self, folder: Path, tier: str, rate_hz: float) -> None:
        self.path, self.frame_rate_hz = folder, rate_hz
        self.trials = np.flatnonzero(tiers_of(folder) == tier).tolist()
        self._ends, sizes = list[int](), set[tuple[int, int]]()
        for trial in self.trials:
            ends = [end_of(video := video_of(folder, trial))]
            ends += [end_of(series_of(folder, file, trial)) for file in behavior_files()]
            if (folder / f"data/responses/{trial}.npy").exists():
                released = end_of(series_of(folder, "responses", trial))
                ends += [released] if released else []  # NaN alone are withheld ones, as zeros and a missing file are
            if not (frames := min(ends)) or not np.isfinite(video[:frames]).all():
                raise RecordingError(
                    folder / f"data/videos/{trial}.npy", "array", "has no frames, or NaN before their end",
                    "Unzip the recording again",
                )  # fmt: skip
            sizes.add((video.shape[1], video.shape[2]))
            self._ends.append((self._ends[-1] if self._ends else 0) + frames)
        if len(sizes) > 1:
            raise RecordingError(folder, "data/videos", f"has sizes {sorted(sizes)}", "Unzip the recording again")
        self.n_frames = self._ends[-1] if self._ends else 0
        self.frame_shape = (1, *(sizes.pop() if sizes else (0, 0)))

    @property
    def stretches(self) -> list[tuple[int, int]]:
        return list(zip([0, *self._ends[:-1]], self._ends, strict=True)) if self.trials else []

    def frames(self, start: int, stop: int, channels: int) -> Iterator[np.ndarray]:
        for trial, first, low, high in self._parts(start, stop):
            video = video_of(self.path, trial)
            for at in range(low, high, PIECE):
                piece = video[at - first : min(high, at + PIECE) - first].astype(np.float32)
                yield in_channels(piece[None], channels, self.path)

    def behavior(self, start: int, stop: int) -> Mapping[str, np.ndarray]:
        found: dict[str, list[np.ndarray]] = {name: [] for name in BEHAVIOR}
        for trial, first, low, high in self._parts(start, stop):
            for name, (file, rows, _) in BEHAVIOR.items():
                whole = held(series_of(self.path, file, trial)[: high - first])[0]
                found[name].append(whole[low - first :, rows].astype(np.float32))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
        """The trials in a range of frames: number, first frame, and the part of them that the range has."""
        for trial, (first, last) in zip(self.trials, self.stretches, strict=True):
            if first < stop and last > start:
                yield trial, first, max(first, start), min(last, stop)
