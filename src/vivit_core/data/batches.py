"""Clips of recordings as batches, to train on and to score. Which bins a clip covers is :mod:`clips`'s to say."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch.utils.data import Dataset

from vivit_core.data.augmentation import Augmentation, Clip
from vivit_core.data.clips import TrainingSampler, Window, evaluation_windows
from vivit_core.data.repeats import grouped
from vivit_core.data.resample import ResampledRecording
from vivit_core.specs import Batch, Clips, RecordingSpec


def stacked(read: Sequence[Clip]) -> Clips:
    """The clips of one recording as one tensor each."""
    return Clips(
        frames=torch.from_numpy(np.stack([clip["frames"] for clip in read])),
        counts=torch.from_numpy(np.stack([clip["counts"] for clip in read])),
        valid=torch.from_numpy(np.stack([clip["valid"] for clip in read])),
        behavior=torch.from_numpy(np.stack([clip["behavior"] for clip in read])),
    )


def _clip_bytes(view: ResampledRecording, spec: RecordingSpec, bins: int) -> int:
    """Of a clip's frames, counts, behavior and valid."""
    pixels = int(np.prod(view.info.frame_shape)) * np.dtype(view.info.frame_dtype).itemsize
    return bins * (pixels + 5 * view.info.n_units + 4 * spec.behavior_dim)


class TrainingBatches(Dataset[Batch]):
    """Item k is this rank's share of the batch that begins with training sample k."""

    def __init__(
        self,
        recordings: Sequence[ResampledRecording],
        specs: Sequence[RecordingSpec],
        sampler: TrainingSampler,
        clip_length: int,
        share: range,
        augmentation: Augmentation | None = None,
    ) -> None:
        self.recordings, self.specs, self.sampler = recordings, specs, sampler
        self.clip_length, self.share, self.augmentation = clip_length, share, augmentation
        largest = max(_clip_bytes(r, s, clip_length) for r, s in zip(recordings, specs, strict=True))
        self.batch_bytes = len(share) * largest
        self.batch_tensors = 4 * min(len(share), len(recordings))

    def __getitem__(self, first_sample: int) -> Batch:
        samples = range(first_sample + self.share.start, first_sample + self.share.stop)
        drawn = [(k, *self.sampler.sample(k)) for k in samples]
        return {
            self.specs[i].recording_id: stacked([self._sample(k, i, start) for k, index, start in drawn if index == i])
            for i in sorted({index for _, index, _ in drawn})
        }

    def _sample(self, k: int, index: int, start: int) -> Clip:
        """Training sample k, a pure function of (seed, k)."""
        clip = self._read(index, start)
        if self.augmentation is None:
            return clip
        rng = self.sampler.generator(k)
        if rng.random() >= self.augmentation.probability:
            return clip
        windows = self.sampler.windows[index]
        other = self._read(index, windows[int(rng.integers(len(windows)))])
        return self.augmentation(clip, other, rng, self.specs[index].frame_rate_hz)

    def _read(self, index: int, start: int) -> Clip:
        recording, stop = self.recordings[index], start + self.clip_length
        return Clip(
            frames=recording.frames(start, stop),
            counts=recording.targets(start, stop),
            valid=recording.valid(start, stop),
            behavior=recording.behavior(start, stop, self.specs[index].behavior),
        )


class EvaluationBatches(Dataset[Batch]):
    """Item i is this rank's share of the i-th batch of evaluation windows.

    A batch holds windows of one recording and one length; those that show the same (:mod:`repeats`) share a row of its
    frames and behavior, and so a prediction. A rank that would go without a row takes one another scores, and scores
    nothing of it, so that all ranks make the same number of steps.

    Parameters
    ----------
    recordings, specs : what is read, and which behaviors of it.
    split, clip_length, burn_in : of :func:`clips.evaluation_windows`.
    bins : of the rows of a batch, over all ranks together; a row that is longer is one for each of them.
    rank, world : this process, and how many there are.
    """

    def __init__(
        self,
        recordings: Sequence[ResampledRecording],
        specs: Sequence[RecordingSpec],
        split: str,
        clip_length: int,
        burn_in: int,
        bins: int,
        rank: int,
        world: int,
    ) -> None:
        self.recordings, self.specs, self.rank, self.world = recordings, specs, rank, world
        self.batches: list[tuple[int, list[list[Window]]]] = []
        for index, (recording, spec) in enumerate(zip(recordings, specs, strict=True)):
            windows = evaluation_windows(recording.info.trials, split, clip_length, burn_in)
            by_length: dict[int, list[list[Window]]] = {}
            for group in grouped(recording, spec.behavior, split, windows):
                by_length.setdefault(group[0].stop - group[0].start, []).append(group)
            recording.close()  # before worker processes are forked
            for length, same in by_length.items():
                rows = max(1, bins // (length * world)) * world
                self.batches += [(index, same[first : first + rows]) for first in range(0, len(same), rows)]
        self.batch_bytes, self.batch_tensors = 0, 7
        for index, groups in self.batches:
            bins = groups[0][0].stop - groups[0][0].start
            clip, again = _clip_bytes(recordings[index], specs[index], bins), 5 * bins * recordings[index].info.n_units
            for rank in range(world):
                mine = self._share(groups, rank)
                copies = sum(map(len, mine)) - len(mine)
                self.batch_bytes = max(self.batch_bytes, len(mine) * clip + copies * again)

    def _share(self, groups: list[list[Window]], rank: int) -> list[list[Window]]:
        """A rank's rows of a batch."""
        each = -(-len(groups) // self.world)
        window = groups[0][0]
        filler = window._replace(score_start=window.start, score_stop=window.start)
        mine = groups[rank * each : (rank + 1) * each]
        return mine + [[filler]] * (each - len(mine))

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Batch:
        index, groups = self.batches[item]
        mine = self._share(groups, self.rank)
        recording, behavior = self.recordings[index], self.specs[index].behavior
        windows = [window for group in mine for window in group]
        bins = torch.stack([torch.arange(w.start, w.stop) for w in windows])
        first, last = (torch.tensor([[getattr(w, name)] for w in windows]) for name in ("score_start", "score_stop"))
        clips = Clips(
            frames=torch.from_numpy(np.stack([recording.frames(w.start, w.stop) for w, *_ in mine])),
            behavior=torch.from_numpy(np.stack([recording.behavior(w.start, w.stop, behavior) for w, *_ in mine])),
            counts=torch.from_numpy(np.stack([recording.counts(w.start, w.stop) for w in windows])),
            valid=torch.from_numpy(np.stack([recording.valid(w.start, w.stop) for w in windows])),
            score=(bins >= first) & (bins < last),
            start=bins[:, 0].clone(),
            row=torch.tensor([row for row, group in enumerate(mine) for _ in group]),
        )
        return {self.specs[index].recording_id: clips}
