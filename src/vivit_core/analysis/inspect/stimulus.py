"""What may be wrong with stimuli: still or repeated frames, and frames shared by splits.

Shape letters: K frames, H W pixels.
"""

from __future__ import annotations

import hashlib

import numpy as np

from vivit_core.analysis.inspect.findings import SAMPLED_FRAMES, TRIAL_FRAMES, Look
from vivit_core.data.recording.hdf5 import open_hdf5
from vivit_core.data.recording.reader import Recording
from vivit_core.data.statistics import Moments, constant
from vivit_core.names import few


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
            "are one gray in all trials",
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
            "are one flat gray or black",
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
    shared = list(trials.in_several_splits)
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
            f"trials {few(blank)}",
            "show flat gray or black frames alone",
            "Leave them out, or mark them in responses/valid: nothing was shown, or the frames were lost",
        )
    if shared:
        look.find(
            "stimulus_in_two_splits",
            "fault",
            f"trials/split, stimuli {few(shared)}",
            "are shown in trials of different splits",
            "Put all trials of a stimulus into one split",
        )
    if leaks:
        look.find(
            "same_frames_in_two_splits",
            "fault",
            few(leaks),
            "show the same frames, pixel by pixel",
            "Put all trials that show the same into one split, and give them one stimulus_id",
        )
    if unmarked:
        look.find(
            "unmarked_repeats",
            "note",
            few(unmarked),
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
