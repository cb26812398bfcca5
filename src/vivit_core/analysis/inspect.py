"""What is in a recording file, and what may be wrong with it, before anything is trained on it.

One pass over responses and behaviour, samples of the frames; memory depends neither on the length of the recording nor
on the size of its frames.

Shape letters: T bins, U units, H W pixels, N trials, F stimulus features, L lags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Container, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange, reduce
from scipy.stats import rankdata

from vivit_core.analysis.evaluate import without_nan
from vivit_core.analysis.inspect_pictures import page
from vivit_core.analysis.report import Section, Table
from vivit_core.analysis.tables import write_summary
from vivit_core.data.checks import lack
from vivit_core.data.hdf5 import open_hdf5
from vivit_core.data.recording import SPLITS, Recording, validate_recording
from vivit_core.data.statistics import Moments, constant
from vivit_core.data.windows import ends_of_trials
from vivit_core.names import file_name
from vivit_core.specs import RecordingError, RecordingSpec
from vivit_core.terminal import track
from vivit_core.training.ln import CLEAR, MAP_LAGS, Stretches, contrast_energies, place, pooled

BINS = 4096  # bins of responses and behaviour read at once
PIXELS = 48e6  # most pixels of a recording that the maps are made from
SAMPLED_FRAMES = 2048  # frames looked at one by one
TRIAL_FRAMES = 8  # frames by which trials are compared first
UNITS = 128  # units mapped at once
ALIGNED_UNITS = 128  # most active units that alignment is judged by
BLOCKS = 48  # places of a frame that alignment is judged by
WINDOW_S = 0.4  # lags looked at, to both sides
LATE_S = {"spikes": 0.25, "calcium": 0.8}  # responses that peak later than this are suspected of being shifted
STEADY = 3.0  # standard deviations of a rank correlation of rate with time
ENOUGH_S = 60.0  # of stimulus, after which responses that do not follow it are a fault
EXPECTED = 20.0  # spikes that must be missing before a unit counts as silent


@dataclass(frozen=True)
class Finding:
    """Something to know of a recording: ``fault`` where it is likely to spoil a training, else ``note``."""

    check: str
    level: Literal["fault", "note"]
    where: str  # units, trials, fields
    what: str
    remedy: str


@dataclass
class Look:
    """What was seen of a recording. Arrays are for the pictures; ``summary`` is for the file."""

    summary: dict[str, Any]
    findings: list[Finding]
    rate_NU: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))  # mean counts a bin of each trial
    split_N: np.ndarray = field(default_factory=lambda: np.zeros(0, str))
    mean_rate_hz_U: np.ndarray = field(default_factory=lambda: np.zeros(0))
    snr_U: np.ndarray = field(default_factory=lambda: np.zeros(0))
    map_UHW: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1)))  # that placed the clearest units
    mapped_units: list[int] = field(default_factory=list)
    center_U2: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    lag_s_L: np.ndarray = field(default_factory=lambda: np.zeros(0))
    link_L: np.ndarray = field(
        default_factory=lambda: np.zeros(0)
    )  # stimulus-response link, in null standard deviations
    frames_KHW: np.ndarray = field(default_factory=lambda: np.zeros((0, 1, 1)))

    def find(self, check: str, level: Literal["fault", "note"], where: str, what: str, remedy: str) -> None:
        self.findings.append(Finding(check, level, where, what, remedy))


def inspect(
    paths: Sequence[Path],
    *,
    duration_s: float,
    max_frames: int,
    out: Path,
    progress: bool = True,
    burn_in: int = 0,
    frame_rate_hz: float | None = None,
) -> dict[str, Any]:
    """Look at recordings; write ``inspect.json`` and a picture of each.

    Parameters
    ----------
    paths : recording files; a broken one is a finding, and the others are looked at.
    duration_s : history of the receptive fields, s.
    max_frames : most training frames that receptive fields and alignment use (fewer of large frames).
    out : folder for the files.
    progress : show bars.
    burn_in, frame_rate_hz : bins of a trial that are not scored, at the rate to which a training would bring the
        recordings; None for the lowest among them.

    Returns
    -------
    dict
        The content of ``inspect.json``: ``recordings`` by id, each with its numbers and ``findings``, and ``faults``,
        their number.
    """
    out.mkdir(parents=True, exist_ok=True)
    recordings: dict[str, Any] = {}
    whole: dict[Path, Recording] = {}
    for path in paths:
        try:
            validate_recording(path)
            whole[path] = Recording(path)
        except RecordingError as error:
            broken = Finding("file", "fault", error.field, error.problem, error.remedy)
            recordings[distinct(path.stem, path, recordings)] = {"path": str(path), "findings": [asdict(broken)]}
    rate_hz = frame_rate_hz or min((recording.info.frame_rate_hz for recording in whole.values()), default=1.0)
    for path, recording in whole.items():
        look = look_at(
            recording,
            duration_s=duration_s,
            max_frames=max_frames,
            progress=progress,
            burn_in_s=burn_in / rate_hz,
        )
        name = distinct(look.summary["recording"], path, recordings)
        picture = page(out / "pictures" / f"inspect_{file_name(name)}.png", look)
        found = [asdict(finding) for finding in look.findings]
        recordings[name] = {"path": str(path), **look.summary, "picture": str(picture), "findings": found}
    faults = sum(f["level"] == "fault" for r in recordings.values() for f in r["findings"])
    summary: dict[str, Any] = without_nan({"faults": faults, "recordings": recordings})
    write_summary(out / "inspect.json", summary)
    return summary


def distinct(name: str, path: Path, known: Container[str]) -> str:
    """The name under which a file is reported: its recording's, and its path where another file has that one too."""
    return f"{name} ({path})" if name in known else name


def look_at(
    recording: Recording, *, duration_s: float, max_frames: int, progress: bool, burn_in_s: float = 0.0
) -> Look:
    """All checks of one recording."""
    info = recording.info
    look = Look({}, [])
    numbers = responses(recording, look, progress)
    usable(recording, look, burn_in_s)
    behaviors = behaviour(recording, look)
    stimulus(recording, look)
    chunks(recording, look)
    spec = RecordingSpec(
        recording_id=info.recording_id,
        frame_rate_hz=info.frame_rate_hz,
        frame_shape=info.frame_shape,
        unit_ids=info.unit_ids,
        unit_mean_counts=tuple(numbers["mean_counts_U"].tolist()),
        pixel_mean=look.summary["pixel_mean"],
        pixel_std=look.summary["pixel_std"] or 1.0,
    )
    fields_and_alignment(recording, spec, look, duration_s, max_frames, progress)
    by_split = {}
    for split in SPLITS:
        own = info.trials.of(split)
        shown = np.array([len(rows) for rows in own.by_stimulus().values()])
        by_split[split] = {
            "trials": len(own),
            "bins": own.n_bins,
            "seconds": own.n_bins / info.frame_rate_hz,
            "stimuli": len(shown),
            "repeated_stimuli": int((shown > 1).sum()),
            "repeats": int(shown.max()) if len(shown) else 0,
            "spikes": float(numbers["spikes"][split].sum()),
        }
    look.summary = {
        "recording": info.recording_id,
        "frames": info.n_frames,
        "seconds": info.n_frames / info.frame_rate_hz,
        "frame_rate_hz": info.frame_rate_hz,
        "frame_shape": list(info.frame_shape),
        "units": info.n_units,
        "kind": info.kind,
        "rate_hz": quantiles(look.mean_rate_hz_U),
        "valid_share": numbers["valid_share"],
        "snr": quantiles(look.snr_U),
        "units_with_field": int((look.snr_U >= CLEAR).sum()),
        "splits": by_split,
        "behavior": behaviors,
        **look.summary,
    }
    recording.close()
    return look


def quantiles(values: np.ndarray) -> dict[str, float]:
    known = values[np.isfinite(values)]
    names = ("q05", "median", "q95")
    return dict(zip(names, np.quantile(known, [0.05, 0.5, 0.95]).tolist() if len(known) else [np.nan] * 3, strict=True))


def pieces(recording: Recording) -> Iterator[tuple[int, int, int]]:
    """Trial, first and last bin of every piece of every trial."""
    trials = recording.info.trials
    for n, (first, last) in enumerate(zip(trials.start.tolist(), trials.stop.tolist(), strict=True)):
        for start in range(first, last, BINS):
            yield n, start, min(start + BINS, last)


def some(names: Sequence[str], most: int = 6) -> str:
    return ", ".join(names[:most]) + (f" … ({len(names)} in all)" if len(names) > most else "")


# --- responses -------------------------------------------------------------------------------------------------------


def responses(recording: Recording, look: Look, progress: bool) -> dict[str, Any]:
    """One pass over counts and validity; the checks of units."""
    info, trials = recording.info, recording.info.trials
    sum_NU, bins_NU = np.zeros((len(trials), info.n_units)), np.zeros((len(trials), info.n_units))
    print_U, fractional, largest = np.zeros(info.n_units), np.zeros(info.n_units, bool), 0.0
    todo = list(pieces(recording))
    for n, start, stop in track(todo, f"responses of {info.recording_id}", disable=not progress):
        counts, valid = recording.counts(start, stop).astype(np.float64), recording.valid(start, stop)
        counts *= valid
        sum_NU[n] += counts.sum(0)
        bins_NU[n] += valid.sum(0)
        # Units with equal counts at all bins, and no others, have equal sums under random weights.
        print_U += np.random.default_rng(start).standard_normal(stop - start) @ counts
        fractional |= (counts != np.round(counts)).any(0)
        largest = max(largest, float(counts.max(initial=0.0)))
    ids = np.array(info.unit_ids)
    with np.errstate(invalid="ignore", divide="ignore"):
        look.rate_NU = sum_NU / bins_NU
        mean_U = sum_NU.sum(0) / bins_NU.sum(0)
    look.split_N, look.mean_rate_hz_U = trials.split, mean_U * info.frame_rate_hz
    spikes = {split: sum_NU[trials.split == split].sum(0) for split in SPLITS}
    bins = {split: bins_NU[trials.split == split].sum(0) for split in SPLITS}

    never = np.flatnonzero(sum_NU.sum(0) == 0)
    if len(never):
        look.find(
            "silent_units",
            "note",
            f"units {some(ids[never].tolist())}",
            "never respond in any trial",
            "They are left out of scores; leave them out of the recording if they are no neurons",
        )
    for split in SPLITS:
        others_bins = sum(bins[s] for s in SPLITS if s != split)
        with np.errstate(invalid="ignore", divide="ignore"):
            others = sum(spikes[s] for s in SPLITS if s != split) / others_bins
        lost = np.flatnonzero((spikes[split] == 0) & (np.nan_to_num(others) * bins[split] > EXPECTED))
        if len(lost):
            look.find(
                "silent_in_one_split",
                "fault",
                f"units {some(ids[lost].tolist())}, split {split}",
                f"do not respond in {split} trials, where {np.nan_to_num(others * bins[split])[lost].min():.0f} "
                "or more spikes were to be expected from the other splits",
                "Mark the bins in which a unit was not recorded in responses/valid, or leave the unit out",
            )
        blind = np.flatnonzero((bins[split] == 0) & (bins["train"] + bins["val"] + bins["test"] > 0))
        if len(blind) and (trials.split == split).any():
            look.find(
                "not_valid_in_one_split",
                "fault",
                f"units {some(ids[blind].tolist())}, split {split}",
                f"have no valid bin in {split} trials",
                "Check responses/valid, or leave the units out",
            )
    equal = twins(print_U, sum_NU.sum(0))
    if equal:
        look.find(
            "duplicated_units",
            "fault",
            f"units {some([' = '.join(ids[list(group)]) for group in equal])}",
            "have the same counts at every bin",
            "Leave all but one of each group out",
        )
    if info.kind == "spikes":
        broken = np.flatnonzero(fractional)
        if len(broken):
            look.find(
                "fractional_counts",
                "fault",
                f"responses/counts of {len(broken)} of {info.n_units} units",
                "kind is spikes, but the counts are no whole numbers",
                "Store counts a bin, not rates or smoothed traces; for a calcium signal write kind = calcium",
            )
        if largest == 255:
            look.find(
                "clipped_counts",
                "fault",
                "responses/counts",
                "reach 255, the largest that one byte holds",
                "Store them in a wider type; counts above may have been cut off",
            )
    drifting = drift(look.rate_NU, sum_NU)
    if len(drifting):
        share = len(drifting) / info.n_units
        look.find(
            "drifting_rates",
            "fault" if share > 0.1 else "note",
            f"units {some(ids[drifting].tolist())}",
            f"{share:.0%} of the units at least double or halve their rate from the first to the last third of the "
            "recording, steadily",
            "Mark bins in which a unit was lost in responses/valid; spread validation and test over the recording",
        )
    quiet = np.flatnonzero((sum_NU.sum(1) == 0) & ((np.nan_to_num(mean_U) * bins_NU).sum(1) > EXPECTED))
    if len(quiet):
        look.find(
            "silent_trials",
            "fault",
            f"trials {some([str(n) for n in quiet])}",
            "no unit responds in them at all",
            "Mark them in responses/valid or leave them out: nothing was recorded there",
        )
    valid_U = bins_NU.sum(0) / max(1, trials.n_bins)
    poor = np.flatnonzero(valid_U < 0.5)
    if len(poor):
        look.find(
            "hardly_valid",
            "note",
            f"units {some(ids[poor].tolist())}",
            "are valid in less than half of the bins",
            "Check responses/valid; scores of these units rest on little",
        )
    return {"mean_counts_U": np.nan_to_num(mean_U), "spikes": spikes, "valid_share": float(valid_U.mean())}


def usable(recording: Recording, look: Look, burn_in_s: float) -> None:
    """What a training asks of a recording at its start, and says of its trials."""
    info, trials = recording.info, recording.info.trials
    burn_in = round(burn_in_s * info.frame_rate_hz)
    for split in SPLITS:
        found = lack(recording, split, burn_in if split != "train" else 0)
        if found is not None:
            look.find(found.check, "fault", f"trials/split, {split}", found.what, found.remedy)
    test = trials.of("test")
    if len(test) and all(len(rows) == 1 for rows in test.by_stimulus().values()):
        look.find(
            "no_repeats",
            "note",
            "trials/stimulus_id, test",
            "no stimulus is shown twice",
            "Explainable variance and normalised correlation, which need repeats, stay empty",
        )
    if trials.unnamed:
        look.find(
            "unnamed_stimuli",
            "note",
            f"trials/stimulus_id, {trials.unnamed} of {len(trials)} trials",
            "say no stimulus",
            "Each is taken for a stimulus of its own; give repeats one stimulus_id",
        )
    lengths = trials.stop - trials.start
    if lengths.min() < lengths.max():
        look.find(
            "unequal_trials",
            "note",
            "trials/start and trials/stop",
            f"trials have {lengths.min()} to {lengths.max()} bins",
            "Those shorter than data.clip_length are not trained on",
        )


def twins(print_U: np.ndarray, spikes_U: np.ndarray) -> list[list[int]]:
    """Groups of units that are the same; silent ones are left out."""
    groups: dict[tuple[float, float], list[int]] = {}
    for unit in np.flatnonzero(spikes_U > 0):
        groups.setdefault((float(spikes_U[unit]), round(float(print_U[unit]), 6)), []).append(int(unit))
    return [group for group in groups.values() if len(group) > 1]


def drift(rate_NU: np.ndarray, sum_NU: np.ndarray) -> np.ndarray:
    """Units whose rate at least doubles or halves from the first to the last third, in the order of the trials."""
    n_trials = len(rate_NU)
    if n_trials < 9:
        return np.zeros(0, int)
    third = n_trials // 3
    known = np.isfinite(rate_NU)
    rate = np.where(known, rate_NU, 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        late = rate[-third:].sum(0) / known[-third:].sum(0)
        fold = late / (rate[:third].sum(0) / known[:third].sum(0))
    order = np.arange(n_trials) - (n_trials - 1) / 2
    ranks = rankdata(rate, axis=0)
    ranks -= ranks.mean(0)
    scale = np.sqrt(np.square(order).sum() * np.square(ranks).sum(0))
    spearman = np.where(scale > 0, (order @ ranks) / np.maximum(scale, 1e-12), 0)
    steady = np.abs(spearman) * np.sqrt(n_trials - 1) > STEADY
    return np.flatnonzero(steady & ((fold > 2) | (fold < 0.5)) & (sum_NU.sum(0) > 3 * EXPECTED))


# --- behaviour -------------------------------------------------------------------------------------------------------


def behaviour(recording: Recording, look: Look) -> dict[str, Any]:
    """Width, mean and standard deviation of each behaviour inside trials; constant ones are findings."""
    info, described = recording.info, {}
    for name, width in info.behavior.items():
        seen = Moments(width)
        for _, start, stop in pieces(recording):
            seen.add(recording.behavior(start, stop, {name: width}))
        described[name] = {
            "numbers": width,
            "mean": float(seen.mean.mean()),
            "std": float(seen.std.mean()),
            "missing": float(seen.missing.mean()),
            "causal": info.behavior_causal[name],
        }
        if seen.missing.any():
            lost = bool((seen.known == 0).any())
            look.find(
                "missing_behavior",
                "fault" if lost else "note",
                f"behavior/{name}, {seen.missing.mean():.1%} of its numbers",
                "are missing (NaN)" + (", in one column all of them" if lost else ""),
                "Leave it out of data.behavior, or import it again" if lost else "A twin sees their mean there",
            )
        flat = np.flatnonzero(constant(seen.mean, seen.std) & (seen.known > 0))
        if len(flat):
            look.find(
                "constant_behavior",
                "fault",
                f"behavior/{name}, column {some([str(c) for c in flat])}",
                "has the same value at every bin of every trial",
                "Check where it was read from, or leave it out of data.behavior",
            )
        if not info.behavior_causal[name]:
            look.find(
                "acausal_behavior",
                "note",
                f"behavior/{name}",
                "was made with a basis that looks ahead",
                "A twin that reads it knows the future; its reports say causal: false",
            )
    return described


# --- stimulus --------------------------------------------------------------------------------------------------------


def stimulus(recording: Recording, look: Look) -> None:
    """Samples of the frames: blank and repeated ones; trials of different splits that show the same."""
    trials = recording.info.trials
    lengths = trials.stop - trials.start
    ends = np.cumsum(lengths)
    chosen = np.unique(np.linspace(0, ends[-1] - 1, min(int(ends[-1]), SAMPLED_FRAMES)).astype(np.int64))
    trial_K = np.searchsorted(ends, chosen, side="right")
    place_K = trials.stop[trial_K] - (ends[trial_K] - chosen)
    blank, same, pairs, pixels = 0, 0, 0, Moments(1)
    shown = []
    for k, (place_, trial) in enumerate(zip(place_K.tolist(), trial_K.tolist(), strict=True)):
        start = max(place_ - 1, int(trials.start[trial]))
        two = recording.frames(start, place_ + 1)
        frame = two[:, -1].astype(np.float64)
        blank += bool((frame == frame.flat[0]).all())
        if two.shape[1] == 2:
            pairs, same = pairs + 1, same + bool((two[:, 0] == two[:, 1]).all())
        pixels.add(frame.reshape(-1, 1))
        if k in np.linspace(0, len(place_K) - 1, 4).astype(int):
            shown.append(frame.mean(0))
    look.frames_KHW = np.stack(shown)
    still = bool(constant(pixels.mean, pixels.std)[0])
    if still:
        look.find(
            "constant_frames",
            "fault",
            "stimulus/frames",
            "are one grey in all trials",
            "Nothing can be learnt from them: check where they were read from",
        )
    look.summary |= {
        "pixel_mean": float(pixels.mean[0]),
        "pixel_std": 0.0 if still else float(pixels.std[0]),
        "blank_share": blank / len(place_K),
        "unchanged_share": same / max(pairs, 1),
    }
    if blank > 0.01 * len(place_K):
        look.find(
            "blank_frames",
            "note",
            f"stimulus/frames, {blank / len(place_K):.0%} of the bins in trials",
            "are one flat grey or black",
            "Where nothing was shown, mark the bins in responses/valid or cut the trials shorter; "
            "where a flat frame was shown, all is well",
        )
    if same > 0.5 * pairs:
        look.find(
            "unchanged_frames",
            "note",
            f"stimulus/frames, {same / max(pairs, 1):.0%} of the bins in trials",
            "show the frame of the bin before",
            "The stimulus is slower than the bins, which data.frame_rate_hz can pool",
        )
    across_splits(recording, look)


def across_splits(recording: Recording, look: Look) -> None:
    """Trials that show the same frames, found by a few frames of each and confirmed by all of them."""
    trials = recording.info.trials
    shared = [name for name, rows in trials.by_stimulus().items() if len(set(trials.split[rows].tolist())) > 1]
    offsets = np.unique(np.linspace(0, (trials.stop - trials.start).min() - 1, TRIAL_FRAMES).astype(int))
    groups: dict[str, list[int]] = {}
    blank: list[str] = []
    for n, start in enumerate(trials.start.tolist()):
        digest, flat = hashlib.blake2b(digest_size=16), True
        for offset in offsets.tolist():
            frame = recording.frames(start + offset, start + offset + 1)
            flat &= bool((frame == frame.flat[0]).all())
            digest.update(np.ascontiguousarray(frame).tobytes())
        if flat:
            blank.append(str(n))
        else:
            groups.setdefault(digest.hexdigest(), []).append(n)
    leaks, unmarked = [], []
    for group in groups.values():
        first = group[0]
        for n in group[1:]:
            if not same_frames(recording, first, n):
                continue
            if trials.split[n] != trials.split[first]:
                leaks.append(f"trials {first} ({trials.split[first]}) and {n} ({trials.split[n]})")
            elif trials.stimulus_id[n] != trials.stimulus_id[first]:
                unmarked.append(f"trials {first} and {n}")
    if blank:
        look.find(
            "blank_trials",
            "fault",
            f"trials {some(blank)}",
            "show flat grey or black frames alone",
            "Leave them out, or mark them in responses/valid: nothing was shown, or the frames were lost",
        )
    if shared:
        look.find(
            "stimulus_in_two_splits",
            "fault",
            f"trials/split, stimuli {some(shared)}",
            "are shown in trials of different splits",
            "Put all trials of a stimulus into one split",
        )
    if leaks:
        look.find(
            "same_frames_in_two_splits",
            "fault",
            some(leaks),
            "show the same frames, pixel by pixel",
            "Put all trials that show the same into one split, and give them one stimulus_id",
        )
    if unmarked:
        look.find(
            "unmarked_repeats",
            "note",
            some(unmarked),
            "show the same frames under different stimulus_ids",
            "Give repeats one stimulus_id, so that they are scored as repeats",
        )


def same_frames(recording: Recording, one: int, other: int) -> bool:
    """Whether two trials show the same for as long as the shorter one lasts."""
    trials = recording.info.trials
    a, b = int(trials.start[one]), int(trials.start[other])
    length = int(min(trials.stop[one] - a, trials.stop[other] - b))
    step = max(1, int(4e6) // int(np.prod(recording.info.frame_shape)))
    return all(
        np.array_equal(
            recording.frames(a + i, a + min(i + step, length)), recording.frames(b + i, b + min(i + step, length))
        )
        for i in range(0, length, step)
    )


def chunks(recording: Recording, look: Look) -> None:
    """Whether windows of frames can be read without reading much more."""
    with open_hdf5(recording.path) as file:
        dataset = file["stimulus/frames"]
        if dataset.chunks is None:
            return
        size = int(np.prod(dataset.chunks)) * dataset.dtype.itemsize
        if size > 1 << 26:
            look.find(
                "large_chunks",
                "note",
                "stimulus/frames",
                f"is stored in chunks of {size / 2**20:.0f} MiB, each of which is read whole for any frame in it",
                "Write the recording again with write_recording",
            )


# --- receptive fields, alignment -------------------------------------------------------------------------------------


def fields_and_alignment(
    recording: Recording, spec: RecordingSpec, look: Look, duration_s: float, max_frames: int, progress: bool
) -> None:
    """Maps of the units' receptive fields with their signal to noise, and the lag at which responses follow."""
    info = recording.info
    look.snr_U, look.center_U2 = np.full(info.n_units, np.nan), np.full((info.n_units, 2), np.nan)
    split: Literal["train", "val"] = "train" if (info.trials.split == "train").any() else "val"
    few = int(min(max_frames, PIXELS / np.prod(info.frame_shape[1:])))
    if not (info.trials.split == split).any() or look.summary["pixel_std"] == 0:
        return
    alignment(recording, spec, look, split, few)
    lags = max(2, round(duration_s * info.frame_rate_hz))
    data = Stretches.read(recording, split, lags, few)
    if not data.use_TU.any():
        return
    pool = max(1, lags // MAP_LAGS)
    frames_THW, rest_TU = pooled(data, spec, pool)
    del data
    energies_CTHW = contrast_energies(frames_THW) if min(info.frame_shape[1:]) >= 4 else None
    maps = np.zeros((info.n_units, *info.frame_shape[1:]), np.float32)
    groups = [slice(u, u + UNITS) for u in range(0, info.n_units, UNITS)]
    for group in track(groups, f"receptive fields of {info.recording_id}", disable=not progress):
        center, snr, map_UHW = place(frames_THW[None], rest_TU[:, group], -(-lags // pool), ridge=0.5)
        if energies_CTHW is not None:
            by_energy, energy_snr, energy_UHW = place(energies_CTHW, rest_TU[:, group], -(-lags // pool), ridge=100.0)
            better = (snr < CLEAR) & (energy_snr > snr)
            center = torch.where(better[:, None], 2 * by_energy + 0.5, center)
            snr = torch.where(better, energy_snr, snr)
            finer = energy_UHW.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, : maps.shape[1], : maps.shape[2]]
            map_UHW = torch.where(better[:, None, None], finer, map_UHW)
        look.snr_U[group], look.center_U2[group], maps[group] = snr.numpy(), center.numpy(), map_UHW.numpy()
    silent = look.mean_rate_hz_U == 0
    look.snr_U[silent], look.center_U2[silent] = np.nan, np.nan
    look.mapped_units = np.argsort(-np.nan_to_num(look.snr_U), kind="stable")[:12].tolist()
    look.map_UHW = maps[look.mapped_units]


def alignment(recording: Recording, spec: RecordingSpec, look: Look, split: str, few: int) -> None:
    """How strongly responses go with the stimulus, for lags to both sides.

    Features of the stimulus are the brightness, the contrast and the change of a few places of the frame, so that
    simple and complex cells both follow one of them. The link at a lag is the sum of all squared correlations of
    features and units; chance is what responses of other trials give. The stimulus' own slowness makes the link broad,
    but cannot move its peak to before the response.
    """
    info = recording.info
    window = round(WINDOW_S * info.frame_rate_hz)
    units = np.argsort(-look.mean_rate_hz_U, kind="stable")[:ALIGNED_UNITS]
    seen: list[tuple[np.ndarray, np.ndarray]] = []
    for start, last in ends_of_trials(info.trials, split, few, least=4 * window):
        if last - start > window + 2:
            counts = (recording.counts(start, last) * recording.valid(start, last))[:, units]
            seen.append((features(recording.frames(start, last), spec), counts))
    if len(seen) < 2:
        return
    # Less each trial's own mean: a bright trial in which all units were awake says nothing about lags.
    x_std = np.sqrt(np.mean([x.var(0) for x, _ in seen], 0))
    c_std = np.sqrt(np.mean([c.var(0) for _, c in seen], 0))
    kept, active = x_std > 1e-6, c_std > 0
    if not kept.any() or not active.any():
        return
    scaled = [
        (((x - x.mean(0)) / x_std.clip(1e-6))[:, kept], ((c - c.mean(0)) / c_std.clip(1e-12))[:, active])
        for x, c in seen
    ]
    seconds = sum(len(x) for x, _ in seen) / info.frame_rate_hz
    step = max(1, window // 24)
    lags = np.arange(-window // step * step, window + 1, step)

    def link(shift: int, lag: int) -> float:
        """With the responses of the trial ``shift`` places later."""
        total, n = 0.0, 0
        for i, (x, _) in enumerate(scaled):
            c = scaled[(i + shift) % len(scaled)][1]
            length = min(len(x), len(c))
            a, b = x[max(0, -lag) : length - max(0, lag)], c[max(0, lag) : length - max(0, -lag)]
            total, n = total + a.T @ b, n + len(a)
        return float(np.square(total / n).sum())

    shifts = sorted({1 + i * (len(scaled) - 1) // 12 for i in range(12)} & set(range(1, len(scaled))))
    chance = np.array([link(shift, lag) for shift in shifts for lag in (0, window // 2)])
    link_L = np.array([link(0, int(lag)) for lag in lags])
    spread = max(float(chance.std()), 0.02 * float(chance.mean()), 1e-12)
    look.lag_s_L, look.link_L = lags / info.frame_rate_hz, (link_L - chance.mean()) / spread
    best = int(look.link_L.argmax())
    lag_s, peak = float(look.lag_s_L[best]), float(look.link_L[best])
    after = float(look.link_L[lags >= 0].max())
    look.summary |= {"link_lag_s": lag_s, "link": peak}
    if peak < 6:
        look.find(
            "unrelated",
            "fault" if seconds > ENOUGH_S else "note",
            "stimulus/frames and responses/counts",
            f"responses follow the stimulus at no lag within ±{WINDOW_S:g} s (link {peak:.1f} standard deviations)",
            "Check that trials and responses are in the same order, and what was shown; few spikes also look so",
        )
    elif lag_s < 0 and after < 0.9 * peak:
        look.find(
            "misaligned",
            "fault",
            "stimulus/frames and responses/counts",
            f"responses come {-1e3 * lag_s:.0f} ms before the stimulus they go with",
            f"Shift one of them: responses belong later by {-1e3 * lag_s:.0f} ms and a latency",
        )
    elif lag_s > LATE_S[info.kind] and float(look.link_L[look.lag_s_L <= LATE_S[info.kind]].max()) < 0.7 * peak:
        look.find(
            "late",
            "fault",
            "stimulus/frames and responses/counts",
            f"responses come {1e3 * lag_s:.0f} ms after the stimulus they go with, more than a latency",
            "Check the clocks of stimulus and recording; a display's delay must be taken out",
        )


def features(frames_CTHW: np.ndarray, spec: RecordingSpec) -> np.ndarray:
    """Brightness, contrast and change of a grid of places: (T, 3 · places)."""
    _, _, height, width = frames_CTHW.shape
    scale = (BLOCKS / (height * width)) ** 0.5
    rows, columns = max(1, min(height, round(height * scale))), max(1, min(width, round(width * scale)))
    rows_of = np.arange(height) * rows // height
    columns_of = np.arange(width) * columns // width
    to_rows = (rows_of == np.arange(rows)[:, None]) / np.bincount(rows_of)[:, None]
    to_columns = (columns_of == np.arange(columns)[:, None]) / np.bincount(columns_of)[:, None]
    found = []
    before: np.ndarray | None = None
    for start in range(0, frames_CTHW.shape[1], 256):
        x = reduce(frames_CTHW[:, start : start + 256].astype(np.float32), "c t h w -> t h w", "mean")
        x = (x - spec.pixel_mean) / spec.pixel_std
        down = np.zeros_like(x)
        across = np.zeros_like(x)
        down[:, 1:], across[:, :, 1:] = np.diff(x, axis=1), np.diff(x, axis=2)
        change = np.diff(x, axis=0, prepend=x[:1] if before is None else before)
        before = x[-1:]
        for values in (x, down**2 + across**2, change**2):
            found.append(rearrange(to_rows @ values @ to_columns.T, "t r c -> t (r c)"))
    return np.concatenate([np.concatenate(found[kind::3]) for kind in range(3)], axis=1).astype(np.float32)


# --- the report ------------------------------------------------------------------------------------------------------


def report_section(summary: dict[str, Any], command: str) -> Section:
    """The tables and pictures of an inspection."""
    known = {name: r for name, r in summary["recordings"].items() if "units" in r}
    overview = Table(
        "recordings",
        ["recording", "minutes", "units", "frames", "rate Hz", "spikes/s, median", "valid", "units with a field",
         "lag ms", "faults", "notes"],
        [
            [name, r["seconds"] / 60, r["units"], "×".join(map(str, r["frame_shape"])), r["frame_rate_hz"],
             r["rate_hz"]["median"], r["valid_share"], r["units_with_field"],
             None if r.get("link_lag_s") is None else 1e3 * r["link_lag_s"],
             *(sum(f["level"] == level for f in r["findings"]) for level in ("fault", "note"))]
            for name, r in known.items()
        ],
    )  # fmt: skip
    splits = Table(
        "splits",
        ["recording", "split", "trials", "minutes", "stimuli", "of them repeated", "most repeats", "spikes"],
        [
            [
                name,
                split,
                s["trials"],
                s["seconds"] / 60,
                s["stimuli"],
                s["repeated_stimuli"],
                s["repeats"],
                s["spikes"],
            ]
            for name, r in known.items()
            for split, s in r["splits"].items()
        ],
    )
    behaviors = Table(
        "behaviour",
        ["recording", "behaviour", "numbers", "mean", "std", "missing", "looks ahead"],
        [
            [name, b, v["numbers"], v["mean"], v["std"], v["missing"], "no" if v["causal"] else "yes"]
            for name, r in known.items()
            for b, v in r["behavior"].items()
        ],
    )
    findings = Table(
        "findings",
        ["recording", "level", "check", "where", "what", "what to do"],
        [
            [name, f["level"], f["check"], f["where"], f["what"], f["remedy"]]
            for name, r in summary["recordings"].items()
            for f in r["findings"]
        ],
    )
    faults, n = summary["faults"], len(summary["recordings"])
    text = [
        f"{n} recording{'s' if n != 1 else ''}, {faults or 'no'} fault{'s' if faults != 1 else ''} found.",
        "A unit has a field where its map stands clearly above maps made with responses shifted in time. The lag is "
        "that at which responses go best with brightness, contrast and change of the stimulus; it must lie after 0.",
    ]
    pictures = [
        (Path(r["picture"]), f"{name}: frames, receptive fields of the clearest units, rates, lags")
        for name, r in known.items()
    ]
    tables = [table for table in (findings, overview, splits, behaviors) if table.rows]
    return Section("inspect", "What is in the recordings", text, tables, pictures, command)
