"""What may be wrong with responses: silent, alike, drifting units, and behavior.

Shape letters: N trials, U units.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from vivit_core.analysis.inspect.findings import EXPECTED, STEADY, Look, pieces
from vivit_core.data.recording.format import SPLITS
from vivit_core.data.recording.reader import Recording
from vivit_core.data.statistics import Moments, constant
from vivit_core.names import few
from vivit_core.system.terminal import track


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
            f"units {few(ids[never].tolist())}",
            "never respond in any trial",
            "They are left out of scores; if they are no neurons, drop their columns of counts and import again",
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
                f"units {few(ids[lost].tolist())}, split {split}",
                f"do not respond in {split} trials, where {np.nan_to_num(others * bins[split])[lost].min():.0f} "
                "or more spikes were to be expected from the other splits",
                "Mark the bins in which a unit was not recorded in responses/valid, or leave the unit out",
            )
        blind = np.flatnonzero((bins[split] == 0) & (bins["train"] + bins["val"] + bins["test"] > 0))
        if len(blind) and (trials.split == split).any():
            look.find(
                "not_valid_in_one_split",
                "fault",
                f"units {few(ids[blind].tolist())}, split {split}",
                f"have no valid bin in {split} trials",
                "Check responses/valid, or leave the units out",
            )
    equal = twins(print_U, sum_NU.sum(0))
    if equal:
        look.find(
            "duplicated_units",
            "fault",
            f"units {few([' = '.join(ids[list(group)]) for group in equal])}",
            "have the same counts at every bin",
            "Drop the columns of counts of all but one of each group, and import again",
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
            f"units {few(ids[drifting].tolist())}",
            f"{share:.0%} of the units at least double or halve their rate from the first to the last third of the "
            "recording, steadily",
            "Mark bins in which a unit was lost in responses/valid; spread validation and test over the recording",
        )
    quiet = np.flatnonzero((sum_NU.sum(1) == 0) & ((np.nan_to_num(mean_U) * bins_NU).sum(1) > EXPECTED))
    if len(quiet):
        look.find(
            "silent_trials",
            "fault",
            f"trials {few([str(n) for n in quiet])}",
            "no unit responds in them at all",
            "Mark them in responses/valid or leave them out: nothing was recorded there",
        )
    valid_U = bins_NU.sum(0) / max(1, trials.n_bins)
    poor = np.flatnonzero(valid_U < 0.5)
    if len(poor):
        look.find(
            "hardly_valid",
            "note",
            f"units {few(ids[poor].tolist())}",
            "are valid in less than half of the bins",
            "Check responses/valid; scores of these units rest on little",
        )
    return {"mean_counts_U": np.nan_to_num(mean_U), "spikes": spikes, "valid_share": float(valid_U.mean())}


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


# --- behavior -------------------------------------------------------------------------------------------------------
def behavior(recording: Recording, look: Look) -> dict[str, Any]:
    """Width, mean and standard deviation of each behavior inside trials; constant ones are findings."""
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
                f"behavior/{name}, column {few([str(c) for c in flat])}",
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
