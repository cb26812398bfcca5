"""Recordings to batches: finds and checks the files, computes training statistics, deals out clips.

Shape letters: B clips, T bins, C channels, H W pixels, U units, D behavior numbers.
"""

from __future__ import annotations

import logging
import typing
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed

from vivit_core.data.augmentation import Augmentation
from vivit_core.data.batches import EvaluationBatches, TrainingBatches
from vivit_core.data.checks import check_responses, check_start, check_trials, scorable, unscored
from vivit_core.data.clips import Some, TrainingSampler, Weighting
from vivit_core.data.loaders import EvaluationLoader, TrainingLoader
from vivit_core.data.paths import inside, named
from vivit_core.data.prepare import for_training, for_twin, refuse_twice, seen_behavior, without
from vivit_core.data.recording.format import RecordingInfo, Split, Trials, Verify
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import check_recordings
from vivit_core.data.resample import Clock, ResampledRecording, used_trials
from vivit_core.data.transforms import BehaviorTransform, FrameTransform, TargetTransform, Transform, refuse_unseen
from vivit_core.parts.schema import Count, Positive
from vivit_core.specs import RecordingSpec

log = logging.getLogger(__name__)
PASS = 4  # training clips in a pass over an evaluated trial; without a gradient it takes less memory than one of them
_MOST_WORKERS = 128  # processes of a loader; what a slip of the finger asks for would take the machine down


class MakesRecordings(Protocol):
    """What the data module asks of a simulator."""

    def make(self, cache: Path) -> list[Path]: ...


class RecordingsDataModule:
    """Batches of clips from recording files; memory does not grow with the recordings.

    Parameters
    ----------
    recordings
        Paths or glob patterns of recording files; None to take those of ``root``. A file or folder that is there is
        no pattern, whatever its name.
    root
        Folder searched, with its subfolders, for ``*.h5``, where ``recordings`` is None.
    simulator
        Makes recordings where neither ``recordings`` nor ``root`` is given.
    cache
        Folder in which the simulator keeps its files.
    behavior
        Names of the behaviors the twin sees; None for all that the recordings have, but those that look ahead or have
        another width in each. A recording that lacks one gets its mean, and a line says so; one that none has is an
        error.
    clip_length
        Bins of a clip.
    burn_in
        First bins of a training clip that do not count in the loss.
    evaluation_length, evaluation_burn_in
        The same for the windows in which validation and test trials are scored: a trial is one, in one pass, and a
        longer one than ``evaluation_length`` bins is cut. Windows overlap by the burn-in, so that each scored bin has
        at least that much past, and a trial's first bins are left out. Length None: four training clips.
    weighting
        How often a recording is drawn in training: by its "units", "equal", "proportional" to its training bins, or by
        "subjects", so that no animal outweighs the others (:class:`clips.TrainingSampler`).
    num_workers
        Processes that read ahead, for each loader; 0 reads in the training process. Batches do not depend on it.
    seed
        Of the training samples.
    frame_rate_hz
        Rate to which all recordings are brought, causally (:class:`resample.ResampledRecording`); None for the lowest
        rate among them, so that a bin lasts as long in each.
    transforms
        Name -> transform: behaviors made from stored ones, under their names; pixels; training targets.
    augmentation
        Mixes training clips; None for clips as they are.
    verify
        "known" reads a file to its end, with its checksum, the first time that this machine sees it, and again after it
        has changed; "always" at the start of each task. Damage of the disk changes neither size nor time of a file.
    most_trials
        Trials of each split of a recording that are used, at most: two that repeat a stimulus, and then the longest.
        None for all.
    train_minutes
        Minutes of each recording's training trials that are trained on, at most (:class:`clips.Some`), so that
        scores show what more data would bring; validation and test trials stay whole. None for all.
    most_units
        Units of each recording that are used, at most (:class:`clips.Some`), so that scores show what more of them
        would bring. None for all.
    worker_timeout_s
        Seconds to wait for a batch from the processes that read ahead; 0 waits for ever.
    """

    def __init__(
        self,
        recordings: list[str | Path] | None,
        root: str | Path | None,
        simulator: MakesRecordings | None,
        cache: str | Path,
        behavior: list[str] | None,
        clip_length: Count,
        burn_in: int,
        evaluation_length: int | None,
        evaluation_burn_in: int,
        weighting: Weighting,
        num_workers: int,
        seed: int,
        frame_rate_hz: Positive | None,
        transforms: dict[str, Transform | None] | None,
        augmentation: Augmentation | None,
        verify: Verify,
        worker_timeout_s: float,
        most_trials: Count | None,
        train_minutes: Positive | None,
        most_units: Count | None,
    ) -> None:
        evaluation_length = PASS * clip_length if evaluation_length is None else evaluation_length
        for length, left_out, (whole, part) in (
            (clip_length, burn_in, ("clip_length", "burn_in")),
            (evaluation_length, evaluation_burn_in, ("evaluation_length", "evaluation_burn_in")),
        ):
            if not 0 <= left_out < length:
                raise ValueError(
                    f"data.{part} is {left_out} and data.{whole} {length}; {part} must be in 0 … {length - 1}"
                )
        if behavior is not None and len(set(behavior)) != len(behavior):
            raise ValueError(f"data.behavior names one twice: {behavior}")
        for name, most in (("most_trials", most_trials), ("most_units", most_units)):
            if most is not None and most < 1:
                raise ValueError(f"data.{name} is {most}; give 1 or more, or null for all")
        if train_minutes is not None and not train_minutes > 0:
            raise ValueError(f"data.train_minutes is {train_minutes}; give minutes above 0, or null for all")
        if worker_timeout_s < 0:
            raise ValueError(f"data.worker_timeout_s is {worker_timeout_s}; give seconds, or 0 to wait for ever")
        if verify not in typing.get_args(Verify):
            raise ValueError(f"data.verify is {verify!r}; give known or always")
        if not 0 <= num_workers <= _MOST_WORKERS:
            raise ValueError(f"data.num_workers is {num_workers}; give 0 … {_MOST_WORKERS} processes")
        if frame_rate_hz is not None and not frame_rate_hz > 0:
            raise ValueError(f"data.frame_rate_hz is {frame_rate_hz}; give a rate in Hz above 0, or null")
        self._frame_rate_hz, self._augmentation = frame_rate_hz, augmentation
        self._transforms = {name: t for name, t in (transforms or {}).items() if t is not None}
        for name, transform in self._transforms.items():
            if not isinstance(transform, BehaviorTransform | FrameTransform | TargetTransform):
                raise ValueError(
                    f"data.transforms.{name} is {transform!r}; give it a _target_ of vivit_core.data.transforms"
                )
        if behavior is not None:
            refuse_unseen(self._transforms, behavior)
        self._patterns = None if recordings is None else [str(pattern) for pattern in recordings]
        self._root, self.simulator, self._cache = root, simulator, Path(cache)
        self._behavior, self._verify, self._most_trials = behavior, verify, most_trials
        self._some = Some(train_minutes, seed, most_units)
        self.clip_length, self.burn_in = clip_length, burn_in
        self.evaluation_length, self.evaluation_burn_in = evaluation_length, evaluation_burn_in
        self._weighting: Weighting = weighting
        self._num_workers, self._worker_timeout_s, self._seed = num_workers, worker_timeout_s, seed
        self.batch_size, self._pin_memory = 16, False
        self._batches_per_epoch: int | None = None
        self._known: dict[str, RecordingSpec] | None = None
        self._leave_out, self.left_out = frozenset[str](), list[str]()
        self._next_sample = 0  # where training continues
        self._training: TrainingLoader | None = None
        self.recordings, self.specs = list[ResampledRecording](), list[RecordingSpec]()

    def configure(
        self,
        *,
        batch_size: int | None = None,
        batches_per_epoch: int | None = None,
        specs: Sequence[RecordingSpec] | None = None,
        pin_memory: bool | None = None,
        leave_out: Collection[str] | None = None,
    ) -> None:
        """What is known only outside the data's own settings. Call before :meth:`setup`; what is None stays as it is.

        Parameters
        ----------
        batch_size : clips of a batch over all ranks together (16 where never said).
        batches_per_epoch : training batches of an epoch.
        specs : the recordings a trained twin knows. Statistics then come from these and not from the files, and each
            file must be one of them: by its recording id, or else by having exactly its unit ids.
        pin_memory : hand out batches in memory from which a GPU copies while it computes; false where never said,
            because pinning wakes the GPU, which a training on the CPU must leave alone.
        leave_out : ids of recordings whose files are not used; ``left_out`` lists those that there were.
        """
        for name, value in (("batch_size", batch_size), ("batches_per_epoch", batches_per_epoch)):
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; give 1 or more")
        if batch_size is not None and batch_size % self._ranks()[1]:
            raise ValueError(
                f"a batch of {batch_size} clips cannot be shared by {self._ranks()[1]} processes; make it a multiple"
            )
        self.batch_size = batch_size or self.batch_size
        self._batches_per_epoch = batches_per_epoch or self._batches_per_epoch
        self._pin_memory = self._pin_memory if pin_memory is None else pin_memory
        self._leave_out = self._leave_out if leave_out is None else frozenset(leave_out)
        if specs is not None:
            self._known = {spec.recording_id: spec for spec in specs}
            self.recordings, self.specs = [], []

    def prepare_data(self) -> None:
        """Make the simulated recordings where they are needed and missing; called in one process."""
        if self.simulated:
            self.paths()

    @property
    def simulated(self) -> bool:
        """Whether no recordings are named, so that the simulator makes them."""
        return self._patterns is None and self._root is None

    def paths(self) -> list[Path]:
        """The recording files that the settings name; simulated ones are made where they are missing."""
        if self._patterns is not None:
            return named(self._patterns)
        if self._root is not None:
            return inside(Path(self._root))
        if self.simulator is None:
            raise ValueError("no recordings: give data.recordings, data.root or data.simulator")
        return [Path(path) for path in self.simulator.make(self._cache)]

    def headers(self) -> tuple[list[RecordingInfo], dict[str, int]]:
        """What the named recordings say of themselves at the model's rate, and the widths of the behaviors that the
        twin sees; some milliseconds a file that this machine has read before, because no frame, count or behavior is
        read.

        Raises
        ------
        ValueError
            RecordingError where a file is no recording; or where the recordings do not fit each other.
        """
        paths = self.paths()
        slowest_hz = min(Recording(path).info.frame_rate_hz for path in paths)  # a broken file is told of first
        rate_hz = self._frame_rate_hz or slowest_hz
        views = [
            ResampledRecording(path, rate_hz, self._transforms, most_trials=self._most_trials, some=self._some)
            for path in paths
        ]
        seen = seen_behavior(self._behavior, views, self._transforms)
        refuse_twice(views)
        self._behavior = list(seen)  # so that what is left out is said once, and not again by setup
        return [view.info for view in views], seen

    def setup(self) -> None:
        """Check all recordings and know their statistics. Does its work once.

        Raises
        ------
        ValueError
            One for all broken files together; or where recordings do not fit each other, the settings, or the twin.
        """
        if self.recordings:
            return
        infos, problems = check_recordings(self.paths(), verify=self._verify)
        if len(problems) == 1:
            raise problems[0]
        if problems:
            raise ValueError(
                f"{len(problems)} recordings cannot be used:\n" + "\n".join(f"- {error}" for error in problems)
            )
        infos, self.left_out = without(infos, self._leave_out)
        if self._known is None:
            recordings, specs = for_training(
                infos,
                self._frame_rate_hz,
                self._transforms,
                self._behavior,
                self.clip_length,
                self._most_trials,
                self._some,
            )
        else:
            recordings, specs = for_twin(infos, self._known, self._transforms, self._most_trials, self._some)
        refuse_twice(recordings)
        self.recordings, self.specs = recordings, specs

    def used(self, trials: Trials, unit_ids: tuple[str, ...], rate_hz: float) -> tuple[Trials, tuple[str, ...]]:
        """What would be used of a recording that is yet to be made, all of them of one rate: its trials in the model's
        bins, and its units."""
        clock = Clock(trials, int(trials.stop[-1]), rate_hz, self._frame_rate_hz or rate_hz)
        return used_trials(clock, self._most_trials, self._some), self._some.units_of(unit_ids)

    @property
    def by_id(self) -> dict[str, ResampledRecording]:
        """The recordings by their ids."""
        return {view.recording_id: view for view in self.recordings}

    @property
    def _first(self) -> dict[str, int]:
        """The first bins of a trial of each split that do not count."""
        return {"train": self.burn_in, "val": self.evaluation_burn_in, "test": self.evaluation_burn_in}

    def check_start(self) -> dict[str, list[str]]:
        """:func:`checks.check_start` of these recordings."""
        return check_start(self.by_id, self._first, self.clip_length)

    def check_trials(self, known: Mapping[str, tuple[str, Trials]]) -> None:
        """:func:`checks.check_trials` of recordings that are not yet read."""
        check_trials(known, self._first, self.clip_length)

    def check_responses(self, likelihood: str, made_for: Sequence[str]) -> list[str]:
        """:func:`checks.check_responses` of these recordings."""
        return check_responses(self.by_id, likelihood, made_for)

    def unscored(self, split: str) -> list[str]:
        """:func:`checks.unscored` of these recordings."""
        return unscored(self.by_id, split, self.evaluation_burn_in)

    def scorable(self, split: str) -> bool:
        """Whether anything of a split can be scored."""
        return scorable(self.recordings, split, self.evaluation_burn_in)

    def _ranks(self) -> tuple[int, int]:
        """This process and the number of processes that train together."""
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def train_dataloader(self) -> TrainingLoader:
        """Batches of ``clip_length`` bins, ``batches_per_epoch`` of them an epoch, without end over the epochs."""
        if self._batches_per_epoch is None:
            raise ValueError("say the length of an epoch before training: configure(batches_per_epoch=…)")
        rank, world = self._ranks()
        sampler = TrainingSampler(
            self._seed,
            [r.info.trials for r in self.recordings],
            [r.info.n_units for r in self.recordings],
            self.clip_length,
            self._weighting,
            [spec.subject for spec in self.specs],
        )
        share = self.batch_size // world
        batches = TrainingBatches(
            self.recordings,
            self.specs,
            sampler,
            self.clip_length,
            range(rank * share, (rank + 1) * share),
            self._augmentation,
        )
        self._training = TrainingLoader(
            batches,
            self.batch_size,
            self._batches_per_epoch,
            self._num_workers,
            self._pin_memory,
            self._next_sample,
            self._worker_timeout_s,
        )
        return self._training

    def state_dict(self) -> dict[str, Any]:
        """The number of the next training sample: of the training loader made last."""
        return self._training.state_dict() if self._training else {"next_sample": self._next_sample}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Training loaders made from now on continue at this sample."""
        self._next_sample = int(state_dict["next_sample"])

    def val_dataloader(self) -> EvaluationLoader:
        """This process's share of the validation trials."""
        return self.evaluation_dataloader("val", self._ranks())

    def evaluation_dataloader(self, split: Split, share: tuple[int, int] = (0, 1)) -> EvaluationLoader:
        """Windows of a split, one recording a batch, recordings in their order. Each bin, burn-in left out, is scored
        once. A batch has at most the bins of a training batch, or one window of ``evaluation_length``; in it, windows
        that show the same share a row of frames and behavior (``Clips``).

        Parameters
        ----------
        split : the split.
        share : number of this process and of the processes that share the split. All get equally many batches of
            equally many rows; a row that fills a place scores nothing.
        """
        batches = EvaluationBatches(
            self.recordings,
            self.specs,
            split,
            self.evaluation_length,
            self.evaluation_burn_in,
            self.batch_size * self.clip_length,
            *share,
        )
        if not len(batches):
            raise ValueError(
                f"no recording has a {split} trial longer than the burn-in of "
                f"{self.evaluation_burn_in} bins (trials/split)"
            )
        return EvaluationLoader(batches, self._num_workers, self._pin_memory, self._worker_timeout_s)
