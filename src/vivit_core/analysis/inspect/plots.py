"""The picture page of a recording's inspection. Plain arrays in, a PNG out.

Shape letters: U units, N trials, H W pixels, K frames, L lags.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

import numpy as np
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from vivit_core.names import short
from vivit_core.plotting.style import BASELINE, MEASURED, TWIN, save

SPLIT_COLORS = {"train": MEASURED, "val": BASELINE, "test": TWIN}


class Seen(Protocol):
    """What is drawn; `inspect.Look` is one."""

    summary: dict
    rate_NU: np.ndarray
    split_N: np.ndarray
    mean_rate_hz_U: np.ndarray
    snr_U: np.ndarray
    map_UHW: np.ndarray
    mapped_units: list[int]
    mapped_ids: list[str]
    center_U2: np.ndarray
    lag_s_L: np.ndarray
    link_L: np.ndarray
    frames_KHW: np.ndarray


def page(path: Path, look: Seen) -> Path:
    """Frames, receptive fields of the clearest units, rates over units and time, and the lag of responses."""
    figure = Figure(figsize=(12, 11), layout="constrained")
    rows = figure.add_gridspec(3, 1, height_ratios=[1, 1.5, 2.4])
    top, middle, bottom = (figure.add_subfigure(rows[row, 0]) for row in range(3))
    limits = (float(look.frames_KHW.min()), float(look.frames_KHW.max()))
    for axes, frame in zip(top.subplots(1, 4), look.frames_KHW, strict=False):
        axes.imshow(frame, cmap="gray", vmin=limits[0], vmax=limits[1], interpolation="nearest")
        axes.set(xticks=[], yticks=[])
    top.suptitle(f"{short(look.summary['recording'])}: frames from the first trial to the last")

    mapped = zip(look.mapped_units, look.mapped_ids, look.map_UHW, strict=True)
    for axes, (unit, name, field) in zip(middle.subplots(2, 6).flat, mapped, strict=False):
        largest = float(np.abs(field).max()) or 1.0
        axes.imshow(field, cmap="RdBu_r", vmin=-largest, vmax=largest, interpolation="nearest")
        axes.plot(*look.center_U2[unit], "+", color="black", markersize=8)
        axes.set_title(f"unit {short(name, 16)}, {look.snr_U[unit]:.1f}", fontsize=9)
        axes.set(xticks=[], yticks=[])
    middle.suptitle(
        "maps (of pixels or of contrast energy) of the clearest units, with their height over chance, and their centers"
    )

    rates, lags, trials, snr = bottom.subplots(2, 2).flat
    active = look.mean_rate_hz_U[look.mean_rate_hz_U > 0]
    if len(active):
        rates.hist(active, bins=np.geomspace(active.min(), active.max() * 1.001, 30), color=MEASURED)
    rates.set(xscale="log", xlabel="mean rate (a second)", ylabel="units", title="rates")
    if len(look.lag_s_L):
        lags.plot(look.lag_s_L * 1e3, look.link_L, color=TWIN)
        lags.axvline(0, color=MEASURED, lw=1)
        lags.set(ylabel="link over chance (std)")
    lags.set(xlabel="response after stimulus (ms)", title="how responses go with the stimulus")
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = look.rate_NU / np.nanmean(look.rate_NU, 0)
    order = np.argsort(-np.nan_to_num(look.mean_rate_hz_U), kind="stable")
    shown = trials.imshow(
        np.clip(np.nan_to_num(relative.T[order]), 0.1, 10), aspect="auto", cmap="PuOr", norm=LogNorm(0.1, 10)
    )
    bottom.colorbar(shown, ax=trials, label="rate over the unit's mean")
    for n, split in enumerate(look.split_N):
        trials.plot([n - 0.5, n + 0.5], [-1.5, -1.5], color=SPLIT_COLORS[str(split)], lw=4, clip_on=False)
    trials.set(
        xlabel="trial (gray train, orange val, blue test)", ylabel="unit, fastest first", title="rates over time"
    )
    known = look.snr_U[np.isfinite(look.snr_U)]
    if len(known):
        snr.hist(known, bins=30, color=MEASURED)
    snr.set(xlabel="height of the map over chance", ylabel="units", title="receptive fields")
    return save(figure, path)
