"""One recording's units and the video that they are shown: what is predicted, piece by piece, and what is kept of it.

Shape letters: M members, C channels, T bins of a piece, N bins in all, H W pixels, U units, D behavior numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.data.rates import PredictedRates
from vivit_core.data.statistics import Moments
from vivit_core.data.transforms import Transform
from vivit_core.data.video.behavior import Behavior, behavior_of
from vivit_core.data.video.match import Match
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.predictor import Predictor

FAR, WIDE = 3.0, 4.0  # standard deviations of the pixels' mean, and ratio of their standard deviations, worth a word


class Showing:
    """A video for the units of one recording.

    Parameters
    ----------
    model : predicts.
    match : the video as the recording's frames.
    transforms : with which the model was trained.
    given : behaviors from a file, a row for each bin or each frame of the whole video; None: those that are stored
        beside the video.
    where : that file, for messages.
    kept : bins of frames and rates that are kept for pictures, the first ones.

    Raises
    ------
    ValueError
        Where the video is shorter than a bin, or the behavior is of another length.
    """

    def __init__(
        self,
        model: Predictor,
        match: Match,
        transforms: Mapping[str, Transform],
        given: Mapping[str, np.ndarray] | None,
        where: Path,
        kept: int,
    ) -> None:
        self.seed = model.seed
        self.model, self.match, self.transforms, self.where, self.kept = model, match, transforms, where, kept
        video, spec = match.video, match.spec
        self.stretches = video.stretches
        self.shown = [match.shown(start, stop) for start, stop in self.stretches]
        self.bins = sum(map(len, self.shown))
        if not self.bins:
            raise ValueError(f"{video.path}: is shorter than a bin of the model, {1 / spec.frame_rate_hz:.4g} s")
        self.given: list[Behavior] | None = None
        if given is not None:
            self.given = [self.behavior(number, self.cut(given, number)) for number in range(len(self.stretches))]
        self.frames, self.rates = list[np.ndarray](), list[np.ndarray]()
        self.at_mean: tuple[str, ...] = ()
        self.done = self.missing = 0
        self.pixels = Moments(1)
        self.rate_sum_U, self.spread_sum_U = np.zeros(spec.n_units), np.zeros(spec.n_units)
        self.members: list[Predictor] = model.each if isinstance(model, Ensemble) else [model]

    def cut(self, given: Mapping[str, np.ndarray], number: int) -> Mapping[str, np.ndarray]:
        """The rows of a stretch, where a video has several."""
        start, stop = self.stretches[number]
        if len(self.stretches) == 1 and start == 0:
            return given
        total = self.match.video.n_frames
        for name, values in given.items():
            if len(values) != total:
                raise ValueError(
                    f"{self.where}: behavior {name} has {len(values)} rows; give one for each of the {total} frames of "
                    f"{self.match.video.path}, which has {len(self.stretches)} trials"
                )
        return {name: values[start:stop] for name, values in given.items()}

    def behavior(self, number: int, given: Mapping[str, np.ndarray]) -> Behavior:
        start, stop = self.stretches[number]
        ended_T = self.match.ended(start, stop)
        return behavior_of(given, self.match.spec, self.transforms, ended_T, stop - start, self.where)

    def predicted(self) -> PredictedRates:
        """The rates, which are predicted when they are read."""
        spec = self.match.spec
        return PredictedRates(
            recording_id=spec.recording_id,
            unit_ids=spec.unit_ids,
            frame_rate_hz=spec.frame_rate_hz,
            time_s_N=np.concatenate([np.arange(len(some)) for some in self.shown]) / spec.frame_rate_hz,
            trial_N=np.repeat(np.arange(len(self.shown)), [len(some) for some in self.shown]),
            frame_N=np.concatenate(self.shown),
            pieces=self.pieces(),
            names=("rates", "spread") if len(self.members) > 1 else ("rates",),
        )

    def pieces(self) -> Iterator[dict[str, np.ndarray]]:
        """The ``rates`` (T, U) of piece after piece, and how far an ensemble's members lie apart, their ``spread`` (the
        standard deviation). What the model remembers is carried on, and forgotten at the end of a stretch.

        Raises
        ------
        ValueError
            Where the model predicts no numbers.
        """
        for number, (start, stop) in enumerate(self.stretches):
            shown_T = self.shown[number]
            if not len(shown_T):
                continue
            stored = None if self.given is None else self.given[number]
            beside = stored or self.behavior(number, self.match.video.behavior(start, stop))
            self.at_mean = beside.at_mean
            self.model.seed = self.seed + number  # a stretch's samples are no other one's
            recording_id = self.match.spec.recording_id
            streams = [member.stream(recording_id, clip_length=len(shown_T)) for member in self.members]
            at = 0
            for frames_CTHW in self.match.frames(start, stop):
                behavior_TD = beside.values_TD[at : at + frames_CTHW.shape[1]]
                rates_MTU = np.stack([stream.run(frames_CTHW, behavior_TD) for stream in streams])
                rates_TU, spread_TU = rates_MTU.mean(0), rates_MTU.std(0)
                self.note(frames_CTHW, rates_TU)
                self.spread_sum_U += spread_TU.sum(0, dtype=np.float64)
                at += len(rates_TU)
                yield {"rates": rates_TU, "spread": spread_TU}
            assert at == len(shown_T), "a bin was left out"
            self.missing += streams[0].missing_values

    @property
    def full(self) -> bool:
        """Whether all that is kept for pictures is there."""
        return self.done >= self.kept

    def note(self, frames_CTHW: np.ndarray, rates_TU: np.ndarray) -> None:
        """Keep what is kept of a piece."""
        if (left := self.kept - self.done) > 0:
            self.frames.append(frames_CTHW[:, :left].copy())
            self.rates.append(rates_TU[:left])
        self.done += len(rates_TU)
        self.rate_sum_U += rates_TU.sum(0, dtype=np.float64)
        self.pixels.add(frames_CTHW.reshape(-1, 1))

    @property
    def moments(self) -> tuple[float, float]:
        """Mean and standard deviation of the pixels shown."""
        return float(self.pixels.mean[0]), float(self.pixels.std[0])

    def lines(self) -> list[str]:
        """How the video was brought to the recording's frames, and what stood in for what was not there."""
        spec, lines = self.match.spec, self.match.lines()
        if self.at_mean:
            lines.append(f"behavior at its mean: {', '.join(self.at_mean)}")
        if self.missing:
            lines.append(f"{self.missing} missing pixels or numbers of behavior at their means")
        mean, std = self.moments
        told = f"pixels shown have mean {mean:.4g} and standard deviation {std:.4g}; in training {spec.pixel_mean:.4g} "
        lines.append(told + f"and {spec.pixel_std:.4g}")
        if abs(mean - spec.pixel_mean) > FAR * spec.pixel_std or not 1 / WIDE < std / spec.pixel_std < WIDE:
            lines.append(
                "these pixels are far from the training's, so the rates are extrapolated; where the video only counts "
                "pixels in another unit, pixel_scale=… and pixel_offset=… bring them to the recording's"
            )
        return lines

    def summary(self) -> dict[str, Any]:
        """Plain values."""
        spec, (mean, std) = self.match.spec, self.moments
        return {
            "units": spec.n_units,
            "bins": self.done,
            "seconds": self.done / spec.frame_rate_hz,
            "frame_rate_hz": spec.frame_rate_hz,
            "mean_rate_hz": float(self.rate_sum_U.mean() / self.done),
            "mean_spread_hz": float(self.spread_sum_U.mean() / self.done) if len(self.members) > 1 else None,
            "pixel_mean": mean,
            "pixel_std": std,
            "behavior_at_mean": list(self.at_mean),
            "how": self.lines(),
        }
