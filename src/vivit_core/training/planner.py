"""Settings that follow the recordings, from sizes alone: how fine a map is, how long a clip is, how many make a step.

``conf/`` marks a value that may follow them. Any other value is settled, and what is chosen here follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from math import log2
from typing import Any

CLIP_S = 2.5  # of a clip, s
FEWEST_BINS = 60  # of a clip, where trials are that long
BURN_IN_S = 0.42  # longer than the linear memory of a neuron of the retina or of visual cortex, s
FADINGS = 3  # times in which a calcium trace fades to 1/e, that filters reach back
MOST_REACH_S = 1.2  # of filters for calcium traces, s: each bin more costs time
BURN_IN_SHARE = 3  # part of a clip that may burn in, at most: one in so many bins
USUAL_STRIDE = 2  # pixels between places of a map, where the model does not say
BUDGET = ("epochs", "accumulate", "batch_size")  # of all devices, where they are given
PLACES = {"cpu": 2 * 18 * 32 * 300, "cuda": 16 * 18 * 32 * 300}  # of the map of a pass over the default recordings
THIN = 8  # px of a side below which a frame is a line of pixels rather than a picture
FEWEST_TOKENS = 4  # one after the other in a clip
SMALL_PX = 32 * 32  # of a picture whose every pixel is a place
FILTERS = ("model.own_filter.duration_s", "baseline.duration_s", "model.duration_s")  # of the units themselves
STRIDES = ("model.tokenizer.stem.stride", "model.tokenizer.stride")  # of a stem inside another tokenizer, or of its own
CLIPS = {"cpu": (2, 16), "cuda": (16, 64)}  # fewest and most in a pass
PASSES = 159  # over all training bins, without a time limit: as many as over the default recordings
STEPS = (50, 1000)  # fewest and most of an epoch


@dataclass(frozen=True)
class Sizes:
    """What recordings say of themselves before anything is read of them.

    Attributes
    ----------
    height, width : of a frame, px.
    rate_hz : bins a second, at the rate to which a training brings all of them.
    recordings, units : how many, and the units of all together.
    trial_bins : of a training trial into which a clip must fit (:func:`usual_trial`), in each recording; None where
        nobody knows.
    train_bins : of the training trials of all together; None where nobody knows.
    fading_s : time in which calcium traces fade to 1/e, of the recording where it is longest; None for spikes.
    shortest : the recording with the usual trial, where others have longer ones; None where they are alike.
    unlike : what to say of pixels of different visual angles; None where there are none.
    """

    height: int
    width: int
    rate_hz: float
    recordings: int
    units: int
    trial_bins: int | None
    train_bins: int | None
    fading_s: float | None = None
    shortest: str | None = None
    unlike: str | None = None

    def __str__(self) -> str:
        files = f"{self.recordings} recordings" if self.recordings != 1 else "1 recording"
        bins = self.train_bins
        minutes = "" if bins is None else f", {bins / self.rate_hz / 60:.3g} minutes of training trials"
        return f"{files}, {self.units} units, frames of {self.height}×{self.width} px at {self.rate_hz:g} Hz{minutes}"


@dataclass(frozen=True)
class Choice:
    """A setting that follows the recordings: its dotted key, its value, and why."""

    key: str
    value: Any
    reason: str


def usual_trial(lengths: Sequence[int]) -> int:
    """The longest clip that fits into trials with nine tenths of all bins: a few short trials shorten no clip.

    Parameters
    ----------
    lengths : bins of each training trial of a recording; 0 of none.
    """
    left = 0.9 * sum(lengths)
    for length in sorted(lengths, reverse=True):
        left -= length
        if left <= 0:
            return int(length)
    return 0


def plan(sizes: Sizes, settings: Mapping[str, Any], free: Set[str]) -> list[Choice]:
    """What suits recordings of these sizes.

    Parameters
    ----------
    sizes : of the recordings.
    settings : the whole plain configuration.
    free : its dotted keys that may follow the recordings. All others are settled, and the choices follow those.

    Returns
    -------
    list of Choice
        One for each free key of which something is known to go by.
    """
    found: list[Choice] = []

    def settled(key: str, value: Any, reason: str) -> Any:
        """The value of a key; a choice where it is free."""
        if key not in free:
            return value_at(settings, key)
        found.append(Choice(key, value, reason))
        return value

    cell = value_at(settings, STRIDES[0]) or value_at(settings, STRIDES[1]) or USUAL_STRIDE
    for key in STRIDES:
        if key in free:
            cell = settled(key, *stride_of(sizes, cell))
    clip = settled("data.clip_length", *clip_length(sizes))
    if sizes.fading_s is not None:
        for key in FILTERS:
            if key in free:
                settled(key, *filters_of(sizes, value_at(settings, key), clip))
    if "model.window" in free:
        settled("model.window", clip, "frames that attention looks back over: as many as a clip has, and so has seen")
    patch, coarse = value_at(settings, "model.tokenizer.patch_size"), value_at(settings, "model.tokenizer.cell")
    if "model.tokenizer.patch_size" in free:  # a patch that somebody gave is not looked at: it may be no patch
        settled("model.tokenizer.patch_size", *patch_of(sizes, patch, cell, clip))
    if coarse is not None:
        settled("model.tokenizer.cell", 2 * cell, "px of a cell of the slower maps: two of the fast map's")
    burn_in = settled("data.burn_in", *burn_in_of(sizes, clip))
    for device in PLACES:
        clips = settled(f"trainer.{device}.batch_size", *clips_of(sizes, clip, cell, device))
        given = {key: value for key, value in settings["trainer"].items() if key in BUDGET and value is not None}
        budget = {**settings["trainer"][device], "batch_size": clips, **given}
        if sizes.train_bins is not None:
            # A burn-in of a whole clip is refused where clips are cut.
            learnt = max(1, budget["epochs"] * budget["accumulate"] * budget["batch_size"] * (clip - burn_in))
            steps, reason = steps_of(sizes.train_bins, learnt)
            if value_at(settings, "data.train_minutes") is not None:  # a sweep over them has one budget
                reason = "steps in an epoch: as of all training trials, of which data.train_minutes takes some"
            settled(f"trainer.{device}.steps_per_epoch", steps, reason)
    return found


def value_at(settings: Mapping[str, Any], key: str) -> Any:
    """The value of a dotted key."""
    value: Any = settings
    for word in key.split("."):
        value = value.get(word) if isinstance(value, Mapping) else None
    return value


def stride_of(sizes: Sizes, usual: int) -> tuple[int, str]:
    """Pixels between the places of a stem's map, and why."""
    if min(sizes.height, sizes.width) < THIN or sizes.height * sizes.width <= SMALL_PX:
        return 1, "px between places of the stem's map: frames are small"
    return usual, "px between places of the stem's map"


def patch_of(sizes: Sizes, usual: Sequence[int], stride: int, clip: int) -> tuple[list[int], str]:
    """Frames and pixels of a token, and why: as usual, but no larger than the frame, and several in a clip."""
    usual_frames, *sides = usual
    frames = min(usual_frames, max(1, 2 ** int(log2(clip / FEWEST_TOKENS))))
    fitting = [
        min(side, max(stride, 2 ** int(log2(of)))) for side, of in zip(sides, (sizes.height, sizes.width), strict=True)
    ]
    reason = "frames, and px down and across, of a token"
    if fitting != sides:
        reason += ": none larger than a frame"
    if frames < usual_frames:
        reason += f": {FEWEST_TOKENS} of them in a clip"
    return [frames, *fitting], reason


def clip_length(sizes: Sizes) -> tuple[int, str]:
    """Bins of a training clip, and why."""
    clip_s = max(CLIP_S, BURN_IN_SHARE * reach_s(sizes))
    wished = max(FEWEST_BINS, round(clip_s * sizes.rate_hz))
    if sizes.trial_bins is not None and 0 < sizes.trial_bins < wished:
        where = f" in {sizes.shortest}, for which all clips are so short" if sizes.shortest is not None else ""
        return sizes.trial_bins, f"{sizes.trial_bins / sizes.rate_hz:.3g} s: trials are no longer{where}"
    why = f"{wished / sizes.rate_hz:.3g} s"
    return wished, why if wished > FEWEST_BINS else f"{why}: at least {FEWEST_BINS} bins"


def burn_in_of(sizes: Sizes, clip: int) -> tuple[int, str]:
    """First bins of a clip that do not count, and why."""
    reach = reach_s(sizes)
    wished = round(reach * sizes.rate_hz)
    most = clip // BURN_IN_SHARE
    if wished > most:
        return most, f"a third of a clip: no more, though filters reach back {reach:g} s"
    return wished, f"{reach:g} s, which filters reach back"


def reach_s(sizes: Sizes) -> float:
    """How far back filters reach, s."""
    fading_s = FADINGS * sizes.fading_s if sizes.fading_s is not None else 0.0
    return max(BURN_IN_S, min(MOST_REACH_S, round(fading_s, 2)))


def filters_of(sizes: Sizes, usual: float, clip: int) -> tuple[float, str]:
    """Length of a unit's own filters for calcium traces, s, and why."""
    assert sizes.fading_s is not None
    wished = max(usual, min(MOST_REACH_S, round(FADINGS * sizes.fading_s, 2)))
    most = max(usual, round(clip / BURN_IN_SHARE / sizes.rate_hz, 2))
    if wished > most:
        return most, "s: a third of a clip, though traces last longer"
    return wished, f"s: traces fade to 1/e in {sizes.fading_s:.2g} s"


def clips_of(sizes: Sizes, clip: int, stride: int, device: str) -> tuple[int, str]:
    """Clips of a pass, and why."""
    fewest, most = CLIPS[device]
    as_many = PLACES[device] / (sizes.height * sizes.width * clip / stride**2)
    if as_many < fewest:
        return fewest, "clips in a step: no fewer, however large they are"
    if as_many > most:
        return most, "clips in a step: more are not needed, though frames are small"
    clips = 2 ** round(log2(as_many))  # which processes can share
    return clips, "clips in a step: together about as large as usual"


def steps_of(train_bins: int, learnt: int) -> tuple[int, str]:
    """Steps of an epoch, and why; ``learnt``: bins that count in a step of every epoch."""
    fewest, most = STEPS
    wished = round(PASSES * train_bins / learnt)
    steps = min(most, max(fewest, wished))
    passes = steps * learnt / train_bins
    return steps, f"steps in an epoch: the training sees each bin about {passes:.3g} times"
