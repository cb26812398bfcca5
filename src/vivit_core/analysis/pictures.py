"""Pictures of a training and of an evaluation. Plain arrays in, a PNG's path out; no state is kept between them.

Shape letters: T bins, U units, H W pixels.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from scipy.ndimage import gaussian_filter1d

MEASURED, TWIN, BASELINE = "0.25", "tab:blue", "tab:orange"
SMOOTHING_S = 0.025  # standard deviation of the Gaussian over measured counts


def learning_curve(path: Path, metrics_csv: Path) -> Path:
    """Training loss, validation loss and validation bits per spike over optimiser steps, from a run's ``metrics.csv``.

    Raises
    ------
    ValueError
        Where the file holds none of them.
    """
    with metrics_csv.open(newline="") as file:
        rows = list(csv.DictReader(file))

    def column(name: str) -> tuple[list[float], list[float]]:
        known = [(float(row["step"]), float(row[name])) for row in rows if row.get(name)]
        return [step for step, _ in known], [value for _, value in known]

    curves = {name: column(name) for name in ("train/loss", "val/loss", "val/bps_mean")}
    if not any(steps for steps, _ in curves.values()):
        raise ValueError(
            f"{metrics_csv}: no train/loss, val/loss or val/bps_mean in it; give the metrics.csv of a training run"
        )
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    loss_axes, bps_axes = figure.subplots(1, 2)
    for name, colour in (("train/loss", MEASURED), ("val/loss", TWIN)):
        steps, values = curves[name]
        if steps:
            loss_axes.plot(
                steps, values, color=colour, label=name.split("/")[0], marker="." if name.startswith("val") else None
            )
    loss_axes.set(xlabel="optimiser step", ylabel="Poisson loss (nats a bin and unit)", title="loss")
    if loss_axes.lines:
        loss_axes.legend(frameon=False)
    steps, values = curves["val/bps_mean"]
    bps_axes.plot(steps, values, color=TWIN, marker=".")
    if values:
        best = int(np.argmax(values))
        bps_axes.plot(steps[best], values[best], "o", color=TWIN, fillstyle="none", markersize=10)
        bps_axes.annotate(
            f"{values[best]:.3f}", (steps[best], values[best]), (0, -18), textcoords="offset points", ha="center"
        )
    bps_axes.set(xlabel="optimiser step", ylabel="bits per spike, mean over units", title="validation")
    return save(figure, path)


def rates(
    path: Path,
    *,
    times_s: np.ndarray,
    measured_hz: np.ndarray,
    predicted_hz: np.ndarray,
    ln_hz: np.ndarray | None,
    titles: Sequence[str],
    title: str,
) -> Path:
    """Measured (smoothed) and predicted rates of a few units, one below the other.

    Parameters
    ----------
    times_s : (T,) evenly spaced.
    measured_hz, predicted_hz, ln_hz : (T, U).
    titles : one a unit.
    """
    bin_s = times_s[1] - times_s[0] if len(times_s) > 1 else SMOOTHING_S
    smooth_hz = gaussian_filter1d(measured_hz.astype(np.float64), SMOOTHING_S / bin_s, axis=0)
    figure = Figure(figsize=(10, 2.1 * len(titles) + 0.6), layout="constrained")
    for unit, axes in enumerate(figure.subplots(len(titles), 1, sharex=True, squeeze=False)[:, 0]):
        axes.fill_between(times_s, smooth_hz[:, unit], color=MEASURED, alpha=0.3, lw=0, label="measured, smoothed")
        if ln_hz is not None:
            axes.plot(times_s, ln_hz[:, unit], color=BASELINE, lw=1.0, alpha=0.9, label="LN")
        axes.plot(times_s, predicted_hz[:, unit], color=TWIN, lw=1.4, label="predicted")
        axes.set_title(titles[unit], loc="left", fontsize=10)
        axes.set(ylabel="rate (Hz)", xlim=(times_s[0], times_s[-1] + bin_s), ylim=(0, None))
        if unit == 0:
            axes.legend(frameon=False, ncols=3, loc="lower right", bbox_to_anchor=(1, 0.98), fontsize=9)
        if unit == len(titles) - 1:
            axes.set_xlabel("time (s)")
    figure.suptitle(title)
    return save(figure, path)


def receptive_fields(
    path: Path, *, frame: np.ndarray, mean_px: np.ndarray, std_px: np.ndarray, angle_deg: np.ndarray, title: str
) -> Path:
    """The readouts' Gaussians, as ellipses of one standard deviation, on a frame of the stimulus.

    Parameters
    ----------
    frame : (H, W) grey values.
    mean_px : (U, 2) as x, y.
    std_px : (U, 2) along the two axes.
    angle_deg : (U,) from the x axis towards the y axis, which points down.
    """
    height, width = frame.shape
    figure = Figure(figsize=(8, 8 * height / width + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(frame, cmap="gray", interpolation="nearest", alpha=0.75)
    colours = (f"C{i % 10}" for i in range(len(mean_px)))
    for (x, y), (along, across), angle, colour in zip(mean_px, std_px, angle_deg, colours, strict=True):
        axes.add_patch(Ellipse((x, y), 2 * along, 2 * across, angle=float(angle), fill=False, edgecolor=colour, lw=1.0))
    axes.plot(
        mean_px[:, 0], mean_px[:, 1], ".", color="white", markersize=3, markeredgecolor="black", markeredgewidth=0.3
    )
    axes.set(
        xlim=(-0.5, width - 0.5),
        ylim=(height - 0.5, -0.5),
        xlabel="x (px)",
        ylabel="y (px)",
        title=f"{title} ({len(mean_px)} units, 1 standard deviation)",
    )
    return save(figure, path)


def twin_against_ln(path: Path, *, twin_bps: np.ndarray, ln_bps: np.ndarray, recording: Sequence[str]) -> Path:
    """Bits per spike of the twin against the LN baseline, a point a unit; units without a score are left out."""
    known = ~(np.isnan(twin_bps) | np.isnan(ln_bps))
    names = list(dict.fromkeys(recording))
    figure = Figure(figsize=(5.4, 5.4), layout="constrained")
    axes = figure.subplots()
    for name in names:
        own = known & (np.array(recording) == name)
        axes.scatter(ln_bps[own], twin_bps[own], s=14, alpha=0.7, lw=0, label=name)
    values = np.concatenate([twin_bps[known], ln_bps[known], [0.0]])
    # A few units far below zero must not squeeze the others into a corner.
    low, high = max(float(values.min()), -0.5), float(values.max())
    span = max(high - low, 0.1)
    limits = (low - 0.05 * span, high + 0.05 * span)
    axes.plot(limits, limits, color="0.6", lw=1, zorder=0)
    wins = int((twin_bps[known] > ln_bps[known]).sum())
    axes.set(
        xlim=limits,
        ylim=limits,
        aspect="equal",
        xlabel="LN (bits per spike)",
        ylabel="twin (bits per spike)",
        title=f"the twin is better for {wins} of {int(known.sum())} units",
    )
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return save(figure, path)


def latency(path: Path, seconds: np.ndarray, clip_seconds: float, bin_s: float) -> Path:
    """How long each bin of a stream took, beside the length of a bin and the time of the whole clip."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(np.arange(len(seconds)), seconds * 1e3, ".", ms=3, color=TWIN, label="a bin of the stream")
    axes.axhline(bin_s * 1e3, color=MEASURED, ls="--", label="length of a bin: below it, the twin keeps up")
    axes.axhline(clip_seconds * 1e3, color=BASELINE, label="running the whole clip again")
    axes.set(xlabel="bin", ylabel="time (ms)", yscale="log")
    axes.legend(frameon=False, fontsize="small")
    return save(figure, path)


def save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    FigureCanvasAgg(figure).print_png(path)
    return path
