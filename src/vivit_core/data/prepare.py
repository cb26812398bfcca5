"""Recordings prepared for a model: brought to one rate, and under the names and statistics that it knows.

A training computes the statistics from the files; a trained twin brings its own.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from vivit_core.data.clips import Some
from vivit_core.data.recording.format import RecordingInfo
from vivit_core.data.resample import ResampledRecording, ratio_of
from vivit_core.data.statistics import training_statistics
from vivit_core.data.transforms import BehaviorTransform, Transform, finished
from vivit_core.specs import RecordingError, RecordingSpec

log = logging.getLogger(__name__)


def without(infos: Sequence[RecordingInfo], ids: Collection[str]) -> tuple[list[RecordingInfo], list[str]]:
    """What is left without the recordings of these ids, and which of them there were."""
    left = [info for info in infos if info.recording_id not in ids]
    left_out = [info.recording_id for info in infos if info.recording_id in ids]
    if not left:
        raise ValueError(f"all recordings are left out: {', '.join(left_out)}; name others with data.recordings=[…]")
    return left, left_out


def for_training(
    infos: Sequence[RecordingInfo],
    rate_hz: float | None,
    transforms: Mapping[str, Transform],
    behavior: Sequence[str] | None,
    clip_length: int,
    most_trials: int | None,
    some: Some,
) -> tuple[list[ResampledRecording], list[RecordingSpec]]:
    """Recordings to train on, with statistics of their training trials.

    Parameters
    ----------
    infos : what the files say of themselves.
    rate_hz : to which all are brought; None for the lowest among them.
    transforms : by the names of the settings.
    behavior : names of those that the twin sees; None for all (:func:`seen_behavior`).
    clip_length : bins of a training clip.
    most_trials : of each split that are used; None for all.
    some : which units and training trials are used.
    """
    rate_hz = rate_hz or min(info.frame_rate_hz for info in infos)
    recordings = [
        ResampledRecording(info.path, rate_hz, transforms, most_trials=most_trials, some=some) for info in infos
    ]
    for view in recordings:
        if not view.clock.same:
            log.warning("%s", _resampled(view))
    widths = seen_behavior(behavior, recordings, transforms)
    for view in recordings:
        view.absent = {name: np.zeros(width) for name, width in widths.items()}  # the mean that statistics then have
        _say_behavior(view, widths)
        train = view.info.trials.of("train")
        short = train.stop - train.start < clip_length
        if not len(short):
            raise ValueError(f"{view.path} has no training trial; training statistics need some (trials/split)")
        if short.all():
            longest = (train.stop - train.start).max()
            raise ValueError(
                f"{view.path}: its longest training trial has {longest} bins, "
                f"and data.clip_length is {clip_length}; shorten the clip"
            )
        if short.any():
            log.warning(
                "%s: %d of %d training trials are shorter than a clip of %d bins and are not trained on",
                view.path,
                short.sum(),
                len(short),
                clip_length,
            )
    specs = [training_statistics(recording, widths) for recording in recordings]
    for recording in recordings:
        recording.close()
    return recordings, specs


def seen_behavior(
    behavior: Sequence[str] | None, recordings: Sequence[ResampledRecording], transforms: Mapping[str, Transform]
) -> dict[str, int]:
    """The behaviors that the twin sees, each with its numbers: those that are named, or all that the recordings have
    (None), but those that look ahead or have another width in each."""
    if behavior is not None:
        return {name: common_width(name, recordings, transforms) for name in behavior}
    seen: dict[str, int] = {}
    for name in sorted({name for view in recordings for name in finished(transforms, view.stored.behavior)}):
        having = [view.info for view in recordings if name in view.info.behavior]
        widths = sorted({info.behavior[name] for info in having})
        if len(widths) > 1:
            log.warning(
                "behavior %r is left out: recordings have %s numbers of it", name, " or ".join(map(str, widths))
            )
        elif not all(info.behavior_causal[name] for info in having):
            log.warning("behavior %r is left out, because it looks ahead in time; data.behavior can name it", name)
        else:
            seen[name] = widths[0]
    for name, made in transforms.items():
        if isinstance(made, BehaviorTransform) and not any(name in view.info.behavior for view in recordings):
            log.warning("data.transforms.%s makes nothing, because no recording has %r", name, made.source)
    return seen


def common_width(name: str, recordings: Sequence[ResampledRecording], transforms: Mapping[str, Transform]) -> int:
    """How many numbers a behavior has, alike in all recordings that have it."""
    widths = {view.path: view.info.behavior[name] for view in recordings if name in view.info.behavior}
    if not widths:
        there = sorted(set().union(*(view.info.behavior for view in recordings)))
        made = transforms.get(name)
        lacks = (
            f"; data.transforms.{name} makes it from {made.source!r}, which no recording has"
            if isinstance(made, BehaviorTransform)
            else ""
        )
        raise ValueError(
            f"data.behavior: no recording has {name!r}{lacks}; there are {', '.join(there) if there else 'none at all'}"
        )
    if len(set(widths.values())) > 1:
        raise ValueError(
            f"data.behavior: {name!r} has a different width in each of "
            + ", ".join(f"{p} ({w})" for p, w in widths.items())
            + "; one twin reads the same numbers of all: make it alike with data.transforms, or leave it out"
        )
    return next(iter(widths.values()))


def _say_behavior(view: ResampledRecording, widths: Mapping[str, int]) -> None:
    """What a reader of the run's log must know of a recording's behaviors."""
    for name in widths:
        if name not in view.info.behavior:
            log.warning("%s has no behavior %r: its mean stands in", view.path, name)
        elif not view.info.behavior_causal[name]:
            log.warning(
                "%s: behavior %r looks ahead in time: the twin knows the future, its reports say causal: false",
                view.path,
                name,
            )


def for_twin(
    infos: Sequence[RecordingInfo],
    known: Mapping[str, RecordingSpec],
    transforms: Mapping[str, Transform],
    most_trials: int | None,
    some: Some,
) -> tuple[list[ResampledRecording], list[RecordingSpec]]:
    """Recordings of a trained twin: under its names, its order of units, its rate, its statistics."""
    recordings, specs = [], []

    def of_the_twin(spec: RecordingSpec, unit_ids: tuple[str, ...]) -> tuple[str, ...]:
        """Where a twin was trained on some of the units, it knows which."""
        own = set(spec.unit_ids)
        few = some.units is not None and own <= set(unit_ids)
        return tuple(unit for unit in unit_ids if unit in own) if few else unit_ids

    for info in infos:
        spec = known.get(info.recording_id)
        if spec is None:
            same_units = [s for s in known.values() if set(s.unit_ids) == set(of_the_twin(s, info.unit_ids))]
            if len(same_units) != 1:
                raise ValueError(
                    f"{info.path}: the twin knows no recording {info.recording_id!r}, "
                    f"and {len(same_units)} of its recordings have these unit ids; it knows {', '.join(known)}"
                )
            spec = same_units[0]
            log.warning(
                "%s is recording %r, which the twin does not know, and is taken for its recording %r, because the %d "
                "units have the same ids; where these are other neurons, all that follows is wrong",
                info.path,
                info.recording_id,
                spec.recording_id,
                len(spec.unit_ids),
            )
        if info.frame_shape != spec.frame_shape:
            raise ValueError(
                f"{info.path}: frame shape (C, H, W) is {info.frame_shape}, but the twin was trained on "
                f"{spec.recording_id} with {spec.frame_shape}; resample the recording"
            )
        try:
            view = ResampledRecording(
                info.path,
                spec.frame_rate_hz,
                transforms,
                spec.recording_id,
                spec.unit_ids,
                most_trials,
                some,
                partial(of_the_twin, spec),
            )
        except ValueError as error:
            if isinstance(error, RecordingError) or ratio_of(info.frame_rate_hz, spec.frame_rate_hz) >= 1:
                raise
            raise ValueError(
                f"{info.path} has {info.frame_rate_hz:g} Hz, and the twin was trained at {spec.frame_rate_hz:g}; "
                "counts cannot be made finer, and a trained twin keeps its rate: train one with "
                f"data.frame_rate_hz={info.frame_rate_hz:g} or below"
            ) from error
        if not view.clock.same:
            log.info("%s", _resampled(view))
        for name, width in spec.behavior.items():
            if view.info.behavior.get(name, width) != width:
                raise ValueError(
                    f"{info.path}: behavior {name!r} has {view.info.behavior[name]} numbers, "
                    f"but the twin was trained with {width}"
                )
        _say_behavior(view, spec.behavior)
        ends = np.cumsum([0, *spec.behavior.values()])
        view.absent = {
            name: np.array(spec.behavior_mean[ends[i] : ends[i + 1]]) for i, name in enumerate(spec.behavior)
        }
        recordings.append(view)
        specs.append(spec)
    return recordings, specs


def _resampled(view: ResampledRecording) -> str:
    p, q = view.clock.p, view.clock.q
    how = f"{p} bins become one" if q == 1 else f"{p} bins become {q}, counts shared by overlap"
    return f"{view.path}: {view.stored.frame_rate_hz:g} Hz is brought to {view.clock.frame_rate_hz:g} Hz ({how})"


def refuse_twice(recordings: Sequence[ResampledRecording]) -> None:
    """Refuse two files of one recording id."""
    seen: dict[str, Path] = {}
    for view in recordings:
        path, recording_id = view.path, view.recording_id
        if recording_id in seen:
            raise ValueError(
                f"{seen[recording_id]} and {path} are both recording {recording_id!r}; leave one out or rename it"
            )
        seen[recording_id] = path
