"""Whether responses follow the frames when they should: fields and their lags.

Shape letters: C channels or scales of contrast energy, T bins, H W pixels, U units, L lags.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Literal

import numpy as np
import torch
from einops import rearrange, reduce

from vivit_core.analysis.inspect.findings import (
    ALIGNED_UNITS,
    BLOCKS,
    ENOUGH_S,
    LATE_S,
    PIXELS,
    UNITS,
    WINDOW_S,
    Look,
)
from vivit_core.data.clips import ends_of_trials
from vivit_core.data.recording.reader import Recording
from vivit_core.names import few
from vivit_core.rf.beyond_average import CLEAR_SD, links
from vivit_core.rf.placing import MAP_LAGS, came, contrast, contrast_energies, place_clearest
from vivit_core.rf.stretches import TrialStretches
from vivit_core.specs import RecordingSpec
from vivit_core.system.terminal import track


# --- receptive fields, alignment -------------------------------------------------------------------------------------
def fields_and_alignment(
    recording: Recording, spec: RecordingSpec, look: Look, duration_s: float, max_frames: int, progress: bool
) -> None:
    """Maps of the units' receptive fields with their signal to noise, and the lag at which responses follow."""
    info = recording.info
    look.snr_U, look.center_U2 = np.full(info.n_units, np.nan), np.full((info.n_units, 2), np.nan)
    split: Literal["train", "val"] = "train" if (info.trials.split == "train").any() else "val"
    frames = int(min(max_frames, PIXELS / np.prod(info.frame_shape[1:])))
    if not (info.trials.split == split).any() or look.summary["pixel_std"] == 0:
        return
    alignment(recording, spec, look, split, frames)
    lags = max(2, round(duration_s * info.frame_rate_hz))
    data = TrialStretches.read(recording, split, lags, frames)
    if not data.use_TU.any():
        return
    pool = max(1, lags // MAP_LAGS)
    frames_THW, rest_TU = torch.cat(list(contrast(data, spec, pool))), came(data, pool, info.kind)
    del data
    energies = cache(partial(contrast_energies, frames_THW, coarse=True))
    maps = np.zeros((info.n_units, *info.frame_shape[1:]), np.float32)
    groups = [slice(u, u + UNITS) for u in range(0, info.n_units, UNITS)]
    for group in track(groups, f"receptive fields of {info.recording_id}", disable=not progress):
        placed = place_clearest(frames_THW, energies, rest_TU[:, group], -(-lags // pool))
        look.snr_U[group], look.center_U2[group] = placed.clear_U.numpy(), placed.centers_U2.numpy()
        maps[group] = placed.clearer_UHW().numpy()
    silent = look.mean_rate_hz_U == 0
    look.snr_U[silent], look.center_U2[silent] = np.nan, np.nan
    beyond_average(frames_THW, rest_TU, -(-lags // pool), look, np.array(info.unit_ids), progress)
    look.mapped_units = np.argsort(-np.nan_to_num(look.snr_U), kind="stable")[:12].tolist()
    look.mapped_ids = [info.unit_ids[unit] for unit in look.mapped_units]
    look.map_UHW = maps[look.mapped_units]


def beyond_average(
    frames_THW: torch.Tensor, rest_TU: torch.Tensor, lags: int, look: Look, ids_U: np.ndarray, progress: bool
) -> None:
    """Which units follow the stimulus's variance and not the stimulus: what is linear cannot see them."""
    average_U, variance_U = np.full(len(ids_U), np.nan), np.full(len(ids_U), np.nan)
    groups = [slice(u, u + UNITS) for u in range(0, len(ids_U), UNITS)]
    for group in track(groups, "spike-triggered variance", disable=not progress):
        average, variance = links(frames_THW, rest_TU[:, group], lags)
        average_U[group], variance_U[group] = average.numpy(), variance.numpy()
    hidden_U = variance_U >= CLEAR_SD
    look.summary |= {
        "units_with_average": int((average_U >= CLEAR_SD).sum()),
        "units_with_variance_alone": int(hidden_U.sum()),
        "spike_triggered": {
            str(unit): {"average_sd": float(a), "variance_sd": float(v)}
            for unit, a, v in zip(ids_U, average_U, variance_U, strict=True)
        },
    }
    if hidden_U.any():
        look.find(
            "hidden_from_average",
            "note",
            f"units {few(ids_U[hidden_U].tolist())}",
            "have no spike-triggered average, but follow the stimulus's variance, as complex cells do",
            "Linear models (LN) and maps by averages do not see them; a twin can, so judge it there by its own score",
        )


def alignment(recording: Recording, spec: RecordingSpec, look: Look, split: str, max_frames: int) -> None:
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
    for start, last in ends_of_trials(info.trials, split, max_frames, least=4 * window):
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
