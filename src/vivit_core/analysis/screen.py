"""A twin before a screen: clips of one's own choice, shown to the units of one recording.

Shape letters: B clips, C channels, T bins (= frames), H W pixels, U units.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from einops import repeat
from torch import Tensor

from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Split
from vivit_core.data.recording.reader import Recording
from vivit_core.data.resample import ResampledRecording
from vivit_core.models.predictor import Predictor
from vivit_core.names import nearest
from vivit_core.specs import Clips, RecordingSpec
from vivit_core.system.terminal import track

BINS_AT_ONCE = 1200  # bins of a pass; what a pass keeps for a gradient grows with it


TEST_FIRST: tuple[Split, ...] = ("test", "val", "train")
RANGE_FRAMES = 512  # frames, evenly spaced over the recording, whose extremes bound float pixels


class AnyScreen(ABC):
    """Units of one recording before a screen that shows any clip.

    Clips are given as contrast: 0 is gray; ±1 is the largest step from it. Where a recording has colors, all channels
    show the same.

    Parameters
    ----------
    spec : of the recording, with these units.
    gray, reach : the pixel at a contrast of 0, and the step from it at 1.
    device : where to compute.
    """

    def __init__(self, spec: RecordingSpec, gray: float, reach: float, device: str = "cpu") -> None:
        self.spec, self.gray, self.reach, self.device = spec, gray, reach, device
        self.bins_shown, self.seconds_taken = 0, 0.0

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the recording's own frames, px."""
        return self.spec.frame_shape[1], self.spec.frame_shape[2]

    @property
    def natural_contrast(self) -> float:
        """Standard deviation of the training trials' pixels, in contrast."""
        return self.spec.pixel_std / self.reach

    def bins(self, seconds: float) -> int:
        """Bins of a time, at least one."""
        return max(1, round(seconds * self.spec.frame_rate_hz))

    def to_contrast(self, frames_BTHW: Tensor) -> Tensor:
        return (frames_BTHW.float() - self.gray) / self.reach

    @abstractmethod
    def rates(self, contrast_BTHW: Tensor) -> Tensor:
        """Rates in Hz, (B, T, U), in one pass."""

    @torch.no_grad()
    def show(
        self, clips: Sequence[Tensor] | Iterator[Tensor], total: int, what: str, progress: bool
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Show clips (T, H, W) one after another, several at a time.

        Yields
        ------
        clips (B, T, H, W) and the rates they give, (B, T, U) in Hz, in the order given.
        """
        begun = time.monotonic()
        followed = track(clips, f"{what} {self.spec.recording_id}", total, disable=not progress)
        for batch in batches(followed):
            rates_BTU = self.rates(batch).cpu()
            self.seconds_taken += time.monotonic() - begun
            self.bins_shown += batch.shape[0] * batch.shape[1]
            yield batch, rates_BTU
            begun = time.monotonic()


class Screen(AnyScreen):
    """One recording's units of a model before a screen, as the animal looks on with average behavior.

    Gray is the mean pixel of the training trials; ±1 is the largest step from it that the recording's pixels can make
    in both directions. Every bin has the training trials' mean behavior, so nothing but the picture changes.

    Parameters
    ----------
    model : a twin, or an LN model in its place; set to evaluation. Every bin is read out, also where it was trained
        on a clip's newest alone.
    recording_id : whose units.
    pixel_range : least and largest pixel value of the recording (``pixel_range``).
    device : where to compute.
    columns : which of the recording's units; None: all.

    Raises
    ------
    ValueError
        Where the model does not know the recording, or its mean pixel lies at the end of the range.
    """

    def __init__(
        self,
        model: Predictor,
        recording_id: str,
        pixel_range: tuple[float, float],
        device: str = "cpu",
        columns: Sequence[int] | None = None,
    ) -> None:
        spec = model.spec(recording_id)
        self.model = model.to(device).eval()
        self.columns = list(range(spec.n_units) if columns is None else columns)
        gray = float(spec.pixel_mean)
        super().__init__(spec.of_units(self.columns), gray, min(pixel_range[1] - gray, gray - pixel_range[0]), device)
        if self.reach <= 0:
            raise ValueError(
                f"recording {recording_id}: its mean pixel {gray:g} is not inside its range {pixel_range}, "
                "which leaves no contrast to show; check the frames' values"
            )

    def rates(self, contrast_BTHW: Tensor) -> Tensor:
        """Rates in Hz, (B, T, U), in one pass; differentiable."""
        b, bins = contrast_BTHW.shape[:2]
        pixels = self.gray + self.reach * contrast_BTHW.to(self.device)
        behavior = torch.tensor(self.spec.behavior_mean, dtype=torch.float32, device=self.device)
        clips = Clips(
            frames=repeat(pixels, "b t h w -> b c t h w", c=self.spec.frame_shape[0]),
            behavior=repeat(behavior, "d -> b t d", b=b, t=bins),
        )
        predict = self.model.predict
        self.model.predict = "all"
        try:
            counts = self.model({self.spec.recording_id: clips})[self.spec.recording_id]
        finally:
            self.model.predict = predict
        return counts[..., self.columns].float() * self.spec.frame_rate_hz


def batches(clips: Iterable[Tensor]) -> Iterator[Tensor]:
    """Clips (T, H, W) in the order given, as many of one length as make ``BINS_AT_ONCE``; (B, T, H, W)."""
    waiting: list[Tensor] = []
    for clip in clips:
        if waiting and (len(clip) != len(waiting[0]) or (len(waiting) + 1) * len(clip) > BINS_AT_ONCE):
            yield torch.stack(waiting)
            waiting.clear()
        waiting.append(clip)
    if waiting:
        yield torch.stack(waiting)


def pixel_range(recording: Recording) -> tuple[float, float]:
    """Least and largest pixel value: of the type for bytes, of a sample of the frames for floats."""
    if recording.info.frame_dtype == "uint8":
        return 0.0, 255.0
    frames = sampled_frames(recording)
    return float(frames.min()), float(frames.max())


def screens_of(
    model: Predictor,
    datamodule: RecordingsDataModule,
    device: str,
    clip_s: float | None,
    units: Sequence[str] | int | None = None,
) -> list[tuple[ResampledRecording, Screen]]:
    """The screens of all recordings, so that what cannot be shown is known before anything is computed.

    Parameters
    ----------
    model, device : see :class:`Screen`.
    datamodule : set up.
    clip_s : s; of natural clips that will be asked for; None where none will.
    units : see :func:`chosen_columns`. Recordings without any of them are left out.

    Raises
    ------
    ValueError
        For units that no recording has. One for all recordings that show no contrast, or have no trial of that length.
    """
    screens: list[tuple[ResampledRecording, Screen]] = []
    problems: list[str] = []
    chosen = chosen_columns(datamodule.specs, units)
    for recording, spec in zip(datamodule.recordings, datamodule.specs, strict=True):
        if not chosen[spec.recording_id]:
            continue
        try:
            refuse_one_gray(recording)
            screen = Screen(model, spec.recording_id, pixel_range(recording), device, chosen[spec.recording_id])
            if clip_s is not None:
                clip_starts(recording, screen.bins(clip_s))
        except ValueError as error:
            problems.append(str(error))
            continue
        screens.append((recording, screen))
    if problems:
        raise ValueError("; ".join([*problems, "or leave them out: data.recordings=[…] names the others"]))
    return screens


def chosen_columns(specs: Sequence[RecordingSpec], units: Sequence[str] | int | None) -> dict[str, list[int]]:
    """Which units of each recording are meant, in the recording's order.

    Parameters
    ----------
    specs : of the recordings.
    units : ids; or a number of each recording's, those with most spikes in the training trials; None: all.

    Raises
    ------
    ValueError
        For ids that no recording has, and where there are none.
    """
    if units is None or isinstance(units, int):
        most = {spec.recording_id: np.argsort(-np.array(spec.unit_mean_counts), kind="stable") for spec in specs}
        return {name: sorted(order[:units].tolist()) for name, order in most.items()}
    there = [unit for spec in specs for unit in spec.unit_ids]
    if not units:
        raise ValueError("units=[] names none; give their ids, a number, or null for all")
    if unknown := [unit for unit in units if unit not in there]:
        close = nearest(unknown[0], there)
        hint = f"did you mean {close}?" if close else f"their first is {there[0]}"
        raise ValueError(f"units: no recording here has {', '.join(unknown)}; {hint}")
    return {spec.recording_id: [i for i, unit in enumerate(spec.unit_ids) if unit in set(units)] for spec in specs}


def refuse_one_gray(recording: Recording) -> None:
    """A recording of a single pixel value has no contrast, and a model has learnt nothing of one from it."""
    frames = sampled_frames(recording)
    if frames.min() == frames.max():
        raise ValueError(
            f"recording {recording.recording_id} ({recording.path}) shows one gray alone (pixels of {frames.min():g}): "
            "there is no contrast to measure against"
        )


def sampled_frames(recording: Recording) -> np.ndarray:
    """At most ``RANGE_FRAMES`` frames, evenly spaced."""
    places = np.linspace(0, recording.info.n_frames - 1, min(RANGE_FRAMES, recording.info.n_frames)).astype(int)
    return np.stack([recording.frames(int(place), int(place) + 1) for place in places])


def natural_clips(
    screen: AnyScreen, recording: Recording, bins: int, number: int, splits: Sequence[Split] = TEST_FIRST
) -> Tensor:
    """Clips (B, T, H, W) in contrast, evenly spread over :func:`clip_starts`; at most ``number``, colors averaged."""
    starts = clip_starts(recording, bins, splits)
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, number).round().astype(int))]
    clips = [recording.frames(int(start), int(start) + bins).astype(np.float32).mean(0) for start in chosen]
    return screen.to_contrast(torch.as_tensor(np.stack(clips)))


def natural_pictures(screen: AnyScreen, recording: Recording, number: int) -> tuple[Tensor, np.ndarray]:
    """Pictures (B, H, W) in contrast, evenly spread over one trial of each test stimulus, and the stimulus of each.

    At most ``number``; colors are averaged. Where there are no test trials they are of validation, or of training.
    """
    trials = next(of for split in TEST_FIRST if len((of := recording.info.trials.of(split)).start))
    rows = [repeats[0] for repeats in trials.by_stimulus().values()]
    places = np.concatenate([np.arange(trials.start[row], trials.stop[row]) for row in rows])
    film = np.repeat(np.arange(len(rows)), [trials.stop[row] - trials.start[row] for row in rows])
    chosen = np.unique(np.linspace(0, len(places) - 1, number).round().astype(int))
    pictures = [recording.frames(int(at), int(at) + 1).astype(np.float32).mean((0, 1)) for at in places[chosen]]
    return screen.to_contrast(torch.as_tensor(np.stack(pictures))), film[chosen]


def clip_starts(recording: Recording, bins: int, splits: Sequence[Split] = TEST_FIRST) -> np.ndarray:
    """Where clips of so many bins begin in the trials of the first of these splits that has one as long.

    Raises
    ------
    ValueError
        Where no trial is that long.
    """
    starts = np.zeros(0, int)
    for split in splits:
        trials = recording.info.trials.of(split)
        ranges = [np.arange(start, stop - bins + 1) for start, stop in zip(trials.start, trials.stop, strict=True)]
        starts = np.concatenate([np.zeros(0, int), *ranges])
        if len(starts):
            break
    if not len(starts):
        raise ValueError(
            f"recording {recording.recording_id}: no trial is as long as a clip of {bins} bins; ask for shorter ones "
            "(duration_s and gradient_clip_s of task=receptive_fields, mei.picture_s of task=tuning)"
        )
    return starts
