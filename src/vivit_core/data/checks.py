"""What a recording must hold so that it can be trained on, chosen by, and scored: asked at the start of a training, and
by ``task=inspect``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vivit_core.data.recording.format import SPLITS, RecordingInfo, Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.repeats import leak
from vivit_core.data.resample import ResampledRecording

BINS = 4096  # bins of responses read at once
UNLIKE = 1.25  # times another's visual angle, from which on a pixel's is told


@dataclass(frozen=True)
class Lack:
    """What a split of a recording lacks: the name of the check, what is wrong, what to do."""

    check: str
    what: str
    remedy: str


def lack_of_trials(trials: Trials, split: str, burn_in: int, least: int = 1) -> Lack | None:
    """Why nothing of a split can be used, as far as its trials tell, which a file's header knows; None where they tell
    nothing.

    Parameters
    ----------
    trials : of all splits, in the model's bins.
    split : train, val or test.
    burn_in : a trial's first bins, which do not count.
    least : bins of the shortest trial that counts.
    """
    trials = trials.of(split)
    if not len(trials):
        return Lack(
            f"no_{split}_trial",
            f"has no {split} trial",
            f"Give some trials the split {split!r} in trials/split, or import it again with importer.val_fraction and "
            "importer.test_fraction above 0",
        )
    lengths = trials.stop - trials.start
    if lengths.max() < max(least, burn_in + 1):
        names = ("clip_length", "burn_in") if split == "train" else ("evaluation_length", "evaluation_burn_in")
        return Lack(
            f"short_{split}_trials",
            f"has no {split} trial of {max(least, burn_in + 1)} bins; the longest has {lengths.max()}",
            f"Lower data.{names[0]} and data.{names[1]} (now {burn_in}), or cut longer trials",
        )
    return None


def lack(recording: Recording, split: str, burn_in: int, least: int = 1) -> Lack | None:
    """Why nothing of a split can be used; None where something can. Reads no further than to the first response.

    Parameters
    ----------
    recording : its file, or a view of it.
    split, burn_in, least : of :func:`lack_of_trials`.
    """
    if (found := lack_of_trials(recording.info.trials, split, burn_in, least)) is not None:
        return found
    trials, valid = recording.info.trials.of(split), False
    for first, last in zip(trials.start.tolist(), trials.stop.tolist(), strict=True):
        if last - first < least:
            continue
        for start in range(first + burn_in, last, BINS):
            stop = min(start + BINS, last)
            counted = recording.valid(start, stop)
            if (counted & (recording.counts(start, stop) != 0)).any():
                return None
            valid = valid or bool(counted.any())
    where = f"{split} trials" + (f" after their first {burn_in} bins" if burn_in else "")
    if not valid:
        return Lack(f"no_valid_{split}_bin", f"has no valid bin in {where}", "Check responses/valid")
    return Lack(f"silent_{split}", f"has no response of any unit in {where}", "Check responses/counts, or leave it out")


def check_start(
    recordings: Mapping[str, Recording], first: Mapping[str, int], clip_length: int
) -> dict[str, list[str]]:
    """Ask for all that a training needs from its first step to its last score.

    Parameters
    ----------
    recordings : by id, as the twin sees them.
    first : split -> a trial's first bins that do not count.
    clip_length : bins of a training clip.

    Returns
    -------
    dict
        Split -> lines for the user, about recordings of which nothing is learnt, validated or scored; those of the test
        also say which recordings show a stimulus in several splits.

    Raises
    ------
    ValueError
        One for all: where a recording has nothing to train on, or no recording a valid bin to choose the checkpoint by.
    """
    lacks = {
        split: {
            name: found
            for name, recording in recordings.items()
            if (found := lack(recording, split, first[split], clip_length if split == "train" else 1)) is not None
        }
        for split in SPLITS
    }
    files = {name: str(recording.path) for name, recording in recordings.items()}
    _refuse(files, lacks["train"], lacks["val"])
    lines = {
        "train": [f"{_line(files, n, f)}: nothing is learnt of its units" for n, f in lacks["train"].items()],
        "val": [f"{_line(files, n, f)}: it does not choose the checkpoint" for n, f in lacks["val"].items()],
        "test": [f"{_line(files, n, f)}: it gets no test score" for n, f in lacks["test"].items()],
    }
    if len(lacks["val"]) == len(recordings):
        lines["val"].append("no recording can be scored on its val split: best.ckpt will hold the weights of the end")
    if len(lacks["test"]) == len(recordings):
        lines["test"].append("no recording can be scored on its test split: the training ends without a score")
    lines["test"] += [
        f"recording {name} ({files[name]}) {leaking}"
        for name, own in recordings.items()
        if (leaking := leak(own.info.trials)) is not None
    ]
    return lines


def check_trials(known: Mapping[str, tuple[str, Trials]], first: Mapping[str, int], clip_length: int) -> None:
    """Of what :func:`check_start` asks for, all that trials tell, before any response is read or simulated.

    Parameters
    ----------
    known : by recording, its file and its trials in the model's bins.
    first, clip_length : of :func:`check_start`.

    Raises
    ------
    ValueError
        As :func:`check_start`.
    """
    lacks = {
        split: {
            name: found
            for name, (_, trials) in known.items()
            if (found := lack_of_trials(trials, split, first[split], clip_length if split == "train" else 1))
            is not None
        }
        for split in ("train", "val")
    }
    _refuse({name: file for name, (file, _) in known.items()}, lacks["train"], lacks["val"])


def _refuse(files: Mapping[str, str], untrained: Mapping[str, Lack], unchosen: Mapping[str, Lack]) -> None:
    """Raise ValueError where recordings lack too much to be trained on.

    Parameters
    ----------
    files : of all recordings.
    untrained, unchosen : what they lack for training and for validation.
    """
    # Silent ones beside others are trained on all the same; and their scores, no numbers, end nothing.
    if len(untrained) < len(files):
        untrained = {name: found for name, found in untrained.items() if found.check != "silent_train"}
    problems = [_line(files, name, found, with_remedy=True) for name, found in untrained.items()]
    if len(unchosen) == len(files) and all(found.check != "silent_val" for found in unchosen.values()):
        problems += [_line(files, name, found, with_remedy=True) for name, found in unchosen.items()]
    if problems:
        raise ValueError(
            "these recordings cannot be trained on: each needs training trials, and at least one of all validation "
            "trials, by which the checkpoint is chosen:\n" + "\n".join(f"- {line}" for line in problems)
        )


def check_responses(
    recordings: Mapping[str, ResampledRecording], likelihood: str, made_for: Sequence[str]
) -> list[str]:
    """Ask whether responses are what a likelihood is made for.

    Parameters
    ----------
    recordings : by id, as the twin sees them.
    likelihood : its class's name.
    made_for : kinds of recordings.

    Returns
    -------
    list
        Lines for the user, where they are not and can be trained on all the same: counts' likelihoods take any number
        above zero.

    Raises
    ------
    ValueError
        Where a density would be fitted to whole numbers, which is the better the narrower it is, without end.
    """
    lines = []
    for name, recording in recordings.items():
        kind, trials = recording.info.kind, recording.info.trials.of("train")
        where = f"recording {name} ({recording.path})"
        check_kind(where, kind, likelihood, made_for)
        if kind not in made_for:
            lines.append(
                f"{where} holds a calcium trace, and {likelihood} takes it for numbers of spikes: rates are learned "
                "all the same, and how responses scatter is not what it says. Set likelihood=zero_inflated_gamma for a "
                "deconvolved trace, likelihood=gaussian for another"
            )
        elif kind == "spikes" and recording.clock.same and len(trials):
            start, stop = int(trials.start[0]), min(int(trials.stop[0]), int(trials.start[0]) + BINS)
            counts = recording.counts(start, stop)[recording.valid(start, stop)]
            if len(odd := counts[counts != counts.round()]):
                lines.append(
                    f"{where} is said to hold spikes, and its first training trial has numbers such as {odd[0]:g}: "
                    "store counts a bin; if it is a calcium trace, import it with importer.kind=calcium (or write the "
                    "attribute kind), and set likelihood=zero_inflated_gamma or likelihood=gaussian"
                )
    return lines


def unlike_angles(infos: Sequence[RecordingInfo], frame_size: Sequence[int] | None) -> str | None:
    """A line for the user where pixels of recordings cover different visual angles, which the core that they share does
    not know; None where they are alike, or nobody knows.

    Parameters
    ----------
    infos : of the recordings.
    frame_size : height and width to which all frames are brought; None where they stay.
    """
    for axis in (0, 1):
        angles = [
            (degrees * (info.frame_shape[1 + axis] / frame_size[axis] if frame_size else 1), info.recording_id)
            for info in infos
            if (degrees := info.degrees_per_pixel) is not None
        ]
        (small, fine), (large, coarse) = (min(angles), max(angles)) if angles else ((1.0, ""), (1.0, ""))
        if large > UNLIKE * small:
            return (
                f"a pixel covers {small:.3g} degrees of visual angle in recording {fine} and {large:.3g} in {coarse}, "
                "and the core that they share takes them for equal: bring films to one scale before their import, or "
                "by model.frame_size=[height,width] where they show the same field; or train a twin of each"
            )
    return None


def check_kind(where: str, kind: str, likelihood: str, made_for: Sequence[str]) -> None:
    """Refuse a density of numbers for responses that are whole ones.

    Parameters
    ----------
    where : the recording, for the message.
    kind : of its responses, "spikes" or "calcium".
    likelihood, made_for : of :func:`check_responses`.

    Raises
    ------
    ValueError
        Says what to take.
    """
    if kind == "spikes" and kind not in made_for:
        raise ValueError(
            f"{where} holds spikes (responses/counts, attribute kind), and {likelihood} is made for calcium "
            "traces. Set likelihood=negative_binomial or likelihood=poisson; if it is a trace, write kind = calcium"
        )


def _line(files: Mapping[str, str], name: str, found: Lack, with_remedy: bool = False) -> str:
    text = f"recording {name} ({files[name]}) {found.what}"
    return f"{text}. {found.remedy}" if with_remedy else text


def unscored(recordings: Mapping[str, Recording], split: str, burn_in: int) -> list[str]:
    """Lines for the user about recordings of which a split cannot be scored; a last one where that is so of all."""
    lacks = {name: found for name, own in recordings.items() if (found := lack(own, split, burn_in)) is not None}
    files = {name: str(own.path) for name, own in recordings.items()}
    lines = [f"{_line(files, name, found)}: it gets no {split} score" for name, found in lacks.items()]
    if len(lacks) == len(recordings):
        lines.append(f"no recording can be scored on its {split} split: there are no scores")
    return lines


def scorable(recordings: Sequence[Recording], split: str, burn_in: int) -> bool:
    """Whether a split of any recording can be scored."""
    return any(lack(recording, split, burn_in) is None for recording in recordings)
