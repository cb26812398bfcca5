"""Other behaviors in the place of the animal's: what tells a twin's use of behavior apart.

Shape letters: B clips, T bins of a clip, D behavior numbers.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence

import numpy as np
from einops import repeat

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.reader import Recording
from vivit_core.data.statistics import Moments
from vivit_core.models.predictor import Predictor
from vivit_core.specs import Clips, RecordingSpec

PIECE = 4096  # bins of behavior read at once
GAZE = "eye_"  # how the names of behaviors that tell of the gaze begin


Control = Callable[[str, Clips], np.ndarray]
"""The behavior (B, T, D) that stands in for the one of these clips of a recording, raw as in the recording."""


def behavior_controls(datamodule: RecordingsDataModule, split: str, seed: int) -> dict[str, Control]:
    """What tells a twin's use of behavior apart: the same frames, with another behavior beside them.

    - ``shuffled``: the time course of another trial of the same recording and split, whose stimulus was another where
      there is one; a shorter one is repeated from its start. It is drawn once a trial, from the seed.
    - ``none``: every number at its mean over the training trials, which is zero after normalization.
    - ``frozen_gaze``, where a behavior's name begins with ``eye_``: those that tell of velocity or speed are zero, and
      the others stay at their trial's mean; the other behaviors are the animal's own.

    Frames are the animal's own in each, so where they move with the gaze, the model still sees the eye's movement.

    Parameters
    ----------
    datamodule : set up.
    split : the split that will be predicted.
    seed : of the shuffling.

    Raises
    ------
    ValueError
        Where a recording has a single trial in the split.
    """
    by_id = {
        spec.recording_id: _Behavior(recording, spec, split, seed)
        for recording, spec in zip(datamodule.recordings, datamodule.specs, strict=True)
    }
    if alone := [name for name, own in by_id.items() if len(own.trials) == 1]:
        raise ValueError(
            f"behavior_controls=true shuffles behavior across trials, which takes two, and there is one {split} trial "
            f"of recording {' and of recording '.join(alone)}; leave it out by data.recordings=[…], or set "
            "behavior_controls=false"
        )
    controls: dict[str, Control] = {
        "shuffled": lambda name, clips: by_id[name].shuffled(clips),
        "none": lambda name, clips: by_id[name].none(clips),
    }
    if any(name.startswith(GAZE) for own in by_id.values() for name in own.spec.behavior):
        controls["frozen_gaze"] = lambda name, clips: by_id[name].frozen_gaze(clips)
    return controls


def refuse_blind(model: Predictor) -> None:
    """What the checkpoint alone says: a model without behavior has none that could be another.

    Raises
    ------
    ValueError
        Where that is so.
    """
    if not model.sees_behavior:
        raise ValueError(f"behavior_controls=true: a model of kind {model.kind} sees no behavior; leave them out")
    if blind := [name for name, spec in model.specs.items() if not spec.behavior_dim]:
        raise ValueError(
            f"behavior_controls=true, but this twin sees no behavior (data.behavior was empty) in {', '.join(blind)}"
        )


class _Behavior:
    """The behavior of one recording, and what can stand in for it."""

    def __init__(self, recording: Recording, spec: RecordingSpec, split: str, seed: int) -> None:
        self.recording, self.spec = recording, spec
        self.trials = recording.info.trials.of(split)
        self.partners = partners(self.trials.stimulus_id, [seed, zlib.crc32(spec.recording_id.encode())])
        self._means: dict[int, np.ndarray] = {}

    def trial_of(self, start: int) -> int:
        return int(np.searchsorted(self.trials.start, start, side="right")) - 1

    def shuffled(self, clips: Clips) -> np.ndarray:
        bins = clips["behavior"].shape[1]
        rows = []
        for start in clips["start"].tolist():
            trial = self.trial_of(start)
            rows.append(self.course(int(self.partners[trial]), start - int(self.trials.start[trial]), bins))
        return np.stack(rows)

    def course(self, trial: int, offset: int, bins: int) -> np.ndarray:
        """Bins of a trial's behavior from ``offset`` on; after its end it begins anew."""
        first, last = int(self.trials.start[trial]), int(self.trials.stop[trial])
        pieces = []
        while bins > 0:
            start = first + offset % (last - first)
            stop = min(start + bins, last)
            pieces.append(self.recording.behavior(start, stop, self.spec.behavior))
            offset, bins = offset + stop - start, bins - (stop - start)
        return np.concatenate(pieces)

    def none(self, clips: Clips) -> np.ndarray:
        shape = clips["behavior"].shape
        return np.broadcast_to(np.asarray(self.spec.behavior_mean, np.float32), shape).copy()

    def frozen_gaze(self, clips: Clips) -> np.ndarray:
        frozen = clips["behavior"].float().numpy().copy()
        column = 0
        for name, width in self.spec.behavior.items():
            own = slice(column, column := column + width)
            if not name.startswith(GAZE):
                continue
            if "velocity" in name or "speed" in name:
                frozen[..., own] = 0.0
            else:
                means = np.stack([self.mean(self.trial_of(start))[own] for start in clips["start"].tolist()])
                frozen[..., own] = repeat(means, "b d -> b t d", t=frozen.shape[1])
        return frozen

    def mean(self, trial: int) -> np.ndarray:
        """Mean over a trial's bins, (D,)."""
        if trial not in self._means:
            first, last = int(self.trials.start[trial]), int(self.trials.stop[trial])
            seen = Moments(self.spec.behavior_dim)
            for start in range(first, last, PIECE):
                seen.add(self.recording.behavior(start, min(start + PIECE, last), self.spec.behavior))
            self._means[trial] = np.where(seen.known > 0, seen.mean, np.nan).astype(np.float32)
        return self._means[trial]


def partners(stimulus_id: np.ndarray, seed: Sequence[int]) -> np.ndarray:
    """For each trial another one, of another stimulus where there is one: repeats may have seen equal movements."""
    rng = np.random.default_rng(list(seed))
    chosen = np.zeros(len(stimulus_id), np.int64)
    for trial, stimulus in enumerate(stimulus_id):
        others = np.flatnonzero(stimulus_id != stimulus)
        if not len(others):
            others = np.delete(np.arange(len(stimulus_id)), trial)
        if len(others):
            chosen[trial] = rng.choice(others)
    return chosen
