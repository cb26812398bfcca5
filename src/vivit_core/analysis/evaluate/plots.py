"""Pictures of an evaluation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse
from matplotlib.ticker import NullFormatter, ScalarFormatter
from numpy.lib.stride_tricks import sliding_window_view

from vivit_core.names import short
from vivit_core.plotting.rates import RATES_HZ, smoothed_average
from vivit_core.plotting.style import BASELINE, FLOOR, MEASURED, TRUTH, TWIN, label_of, note_beyond, save

ROUNDING = 1e-3  # of a spike; by how much a count that was a rate may differ from a whole number


def receptive_fields(
    path: Path, *, frame: np.ndarray, mean_px: np.ndarray, std_px: np.ndarray, angle_deg: np.ndarray, title: str
) -> Path:
    """The readouts' Gaussians, as ellipses of one standard deviation, on a frame of the stimulus.

    Parameters
    ----------
    path : of the PNG.
    frame : (H, W) gray values.
    mean_px : (U, 2) as x, y.
    std_px : (U, 2) along the two axes.
    angle_deg : (U,) from the x axis towards the y axis, which points down.
    title : above all.
    """
    height, width = frame.shape
    figure = Figure(figsize=(8, 8 * height / width + 0.9), layout="constrained")
    axes = figure.subplots()
    axes.imshow(frame, cmap="gray", interpolation="nearest", alpha=0.75)
    colors = (f"C{i % 10}" for i in range(len(mean_px)))
    for (x, y), (along, across), angle, color in zip(mean_px, std_px, angle_deg, colors, strict=True):
        axes.add_patch(Ellipse((x, y), 2 * along, 2 * across, angle=float(angle), fill=False, edgecolor=color, lw=1.0))
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
        axes.scatter(
            np.maximum(ln_bps[own], FLOOR),
            np.maximum(twin_bps[own], FLOOR),
            s=14,
            alpha=0.7,
            lw=0,
            label=label_of(name),
        )
    note_beyond(axes, int((np.minimum(twin_bps, ln_bps)[known] < FLOOR).sum()))
    values = np.concatenate([twin_bps[known], ln_bps[known], [0.0]])
    low, high = max(float(values.min()), FLOOR), float(values.max())
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


def distributions(path: Path, *, panels: Mapping[str, Mapping[str, np.ndarray]]) -> Path:
    """A histogram over units for each score: {score: {model: (U,)}}; NaN is left out, and a panel without a number."""
    known = {
        title: {name: x[~np.isnan(x)] for name, x in models.items() if not np.isnan(x).all()}
        for title, models in panels.items()
    }
    known = {title: models for title, models in known.items() if models}
    figure = Figure(figsize=(4.2 * max(len(known), 1), 3.4), layout="constrained")
    row = figure.subplots(1, max(len(known), 1), squeeze=False)[0, : len(known)]
    colors = {"twin": TWIN, "LN": BASELINE, "true rate": TRUTH}
    for axes, (title, models) in zip(row, known.items(), strict=True):
        values = np.concatenate(list(models.values()))
        low, high = max(float(values.min()), FLOOR), float(values.max())
        bins = np.linspace(low, max(high, low + 0.1), 31)
        for name, x in models.items():
            median = float(np.median(x))
            alpha = 0.45 if len(models) > 1 else 0.8
            label = f"{name}: median {median:.3f}"
            axes.hist(np.clip(x, low, None), bins, color=colors[name], alpha=alpha, label=label)
            axes.axvline(median, color=colors[name], lw=1.5)
        axes.set(xlabel=title, ylabel="units" if axes is figure.axes[0] else None)
        axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, 1.27))
    return save(figure, path)


def rasters(
    path: Path,
    *,
    kind: str,
    bin_s: float,
    trials_hz: np.ndarray,
    predicted_hz: np.ndarray,
    ln_hz: np.ndarray | None,
    titles: Sequence[str],
    title: str,
) -> Path:
    """Each unit's spikes in all repeats of a stimulus, and below them the averages, measured and predicted.

    Parameters
    ----------
    path : of the PNG.
    kind : the recording's: whole numbers of spikes are ticks; shares of them, and a calcium trace, are shades.
    bin_s : length of a bin.
    trials_hz : (R, T, U), NaN where not valid.
    predicted_hz, ln_hz : (T, U), means over the repeats.
    titles : one a unit.
    title : above all.
    """
    repeats, bins, units = trials_hz.shape
    times_s = (np.arange(bins) + 0.5) * bin_s
    columns = min(units, 2)
    rows = -(-units // columns)
    figure = Figure(figsize=(6.2 * columns, rows * (2.3 + 0.06 * min(repeats, 40)) + 0.5), layout="constrained")
    heights = [0.7 + 0.06 * min(repeats, 40), 1.2] * rows
    grid = figure.subplots(2 * rows, columns, sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights})
    for place in range(rows * columns):
        raster, average = (
            grid[2 * (place // columns), place % columns],
            grid[2 * (place // columns) + 1, place % columns],
        )
        if place >= units:
            raster.set_axis_off()
            average.set_axis_off()
            continue
        own = np.nan_to_num(trials_hz[..., place]) * bin_s
        # Spikes that were brought to another rate may be shared by two bins; a rate's rounding is no share.
        if kind == "spikes" and np.abs(own - own.round()).max() < ROUNDING:
            trial, time = np.nonzero(own > 0.5)
            raster.plot(times_s[time], trial, "|", color=MEASURED, ms=min(4.0, 110 / repeats), mew=0.7)
        else:
            raster.imshow(
                own, aspect="auto", cmap="Grays", extent=(0, bins * bin_s, repeats - 0.5, -0.5), interpolation="nearest"
            )
        raster.set(
            ylim=(repeats - 0.5, -0.5), ylabel="repeat", yticks=[0, repeats - 1], yticklabels=["1", str(repeats)]
        )
        raster.set_title(titles[place], loc="left", fontsize=10)
        measured, _ = smoothed_average(trials_hz[..., place], bin_s)
        average.fill_between(times_s, measured, color=MEASURED, alpha=0.3, lw=0, label="measured, smoothed")
        if ln_hz is not None:
            average.plot(times_s, ln_hz[:, place], color=BASELINE, lw=1.0, alpha=0.9, label="LN")
        average.plot(times_s, predicted_hz[:, place], color=TWIN, lw=1.4, label="predicted")
        average.set(ylabel="rate (Hz)", xlim=(0, bins * bin_s), ylim=(0, None))
        if place // columns == rows - 1:
            average.set_xlabel("time (s)")
    figure.legend(
        *grid[1, 0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center", fontsize=9
    )
    figure.suptitle(title)
    return save(figure, path)


def averages(
    path: Path,
    *,
    bin_s: float,
    trials_hz: Mapping[str, np.ndarray],
    predicted_hz: Mapping[str, np.ndarray],
    ln_hz: Mapping[str, np.ndarray],
    titles: Sequence[str],
    title: str,
) -> Path:
    """Averages over repeats: a row a unit, a column a stimulus.

    Parameters
    ----------
    path : of the PNG.
    bin_s : length of a bin.
    trials_hz : stimulus -> (R, T, U), NaN where not valid.
    predicted_hz, ln_hz : stimulus -> (T, U), means over the repeats; ``ln_hz`` may be empty.
    titles : one a unit.
    title : above all.
    """
    figure = Figure(figsize=(4.6 * len(trials_hz) + 1, 2.0 * len(titles) + 0.8), layout="constrained")
    grid = figure.subplots(len(titles), len(trials_hz), sharey="row", squeeze=False)
    for column, (stimulus, own_hz) in enumerate(trials_hz.items()):
        times_s = (np.arange(own_hz.shape[1]) + 0.5) * bin_s
        for unit, axes in enumerate(grid[:, column]):
            mean, error = smoothed_average(own_hz[..., unit], bin_s)
            axes.fill_between(
                times_s, mean - error, mean + error, color=MEASURED, alpha=0.3, lw=0, label="measured ± s.e."
            )
            axes.plot(times_s, mean, color=MEASURED, lw=0.8, alpha=0.8)
            if stimulus in ln_hz:
                axes.plot(times_s, ln_hz[stimulus][:, unit], color=BASELINE, lw=1.0, alpha=0.9, label="LN")
            axes.plot(times_s, predicted_hz[stimulus][:, unit], color=TWIN, lw=1.4, label="predicted")
            axes.set_xlim(0, own_hz.shape[1] * bin_s)
            if column == 0:
                axes.set_ylabel("rate (Hz)")
                axes.set_title(titles[unit], loc="left", fontsize=9)
            if unit == 0:
                axes.set_title(
                    f"{short(stimulus, 24)}, {own_hz.shape[0]} repeats", loc="right", fontsize=9, color="0.4"
                )
            if unit == len(titles) - 1:
                axes.set_xlabel("time (s)")
    for axes in grid[:, 0]:
        axes.set_ylim(0, None)  # now that the whole row, which shares it, is drawn
    figure.legend(
        *grid[0, 0].get_legend_handles_labels(), frameon=False, ncols=3, loc="outside lower center", fontsize=9
    )
    figure.suptitle(title)
    return save(figure, path)


def performance(path: Path, *, against: Mapping[str, np.ndarray], scores: Mapping[str, np.ndarray]) -> Path:
    """Each score (a row) against each property of the units (a column), a point a unit, with a running median."""
    figure = Figure(figsize=(4.6 * len(against), 3.1 * len(scores)), layout="constrained")
    grid = figure.subplots(len(scores), len(against), sharey="row", sharex="col", squeeze=False)
    for row, (score, y) in enumerate(scores.items()):
        for column, (name, x) in enumerate(against.items()):
            axes, known = grid[row, column], ~(np.isnan(x) | np.isnan(y))
            axes.scatter(x[known], np.maximum(y[known], FLOOR), s=12, alpha=0.6, lw=0, color=TWIN)
            note_beyond(axes, int((y[known] < FLOOR).sum()))
            order = np.argsort(x[known])
            width = max(5, int(known.sum()) // 8)
            if len(order) >= 2 * width:
                ranks = sliding_window_view(y[known][order], width)
                places = sliding_window_view(x[known][order], width)
                axes.plot(np.median(places, 1), np.median(ranks, 1), color=MEASURED, lw=1.5)
            if known.any():
                axes.set_ylim(max(float(y[known].min()), FLOOR) - 0.05, float(y[known].max()) + 0.05)
            if name.endswith("(Hz)") and (x[known] > 0).all() and known.any():
                axes.set_xscale("log")
                axes.xaxis.set_major_formatter(ScalarFormatter())
                axes.xaxis.set_minor_formatter(NullFormatter())
                axes.set_xticks([t for t in RATES_HZ if x[known].min() <= t <= x[known].max()])
            axes.set(xlabel=name if row == len(scores) - 1 else None, ylabel=score if column == 0 else None)
    return save(figure, path)


def center_errors(
    path: Path,
    *,
    error_px: np.ndarray,
    ln_error_px: np.ndarray | None,
    knowable_fraction: np.ndarray,
    near_px: float,
    half: float,
) -> Path:
    """How many units are read within which distance of their true center; that distance by what is known of a unit."""
    figure = Figure(figsize=(9.2, 3.4), layout="constrained")
    cumulative, scatter = figure.subplots(1, 2)
    known = ~np.isnan(error_px)
    well = known & (np.nan_to_num(knowable_fraction) >= half)
    curves = {f"twin, the {well.sum()} units with {half:.0%} known": (error_px[well], TWIN, "-")}
    curves["twin, all units"] = (error_px[known], TWIN, ":")
    if ln_error_px is not None:
        curves["LN, all units"] = (ln_error_px[~np.isnan(ln_error_px)], BASELINE, "-")
    for name, (x, color, style) in curves.items():
        if len(x):
            cumulative.plot(np.sort(x), np.arange(1, len(x) + 1) / len(x), style, color=color, label=name)
    cumulative.axvline(near_px, color="0.6", lw=1)
    cumulative.set(
        xlabel="distance from the true center (px)", ylabel="part of the units", ylim=(0, 1.02), xlim=(0, 12)
    )
    cumulative.legend(frameon=False, fontsize=8, loc="lower right")
    both = known & ~np.isnan(knowable_fraction)
    scatter.scatter(knowable_fraction[both], error_px[both], s=12, alpha=0.6, lw=0, color=TWIN)
    scatter.axhline(near_px, color="0.6", lw=1)
    scatter.axvline(half, color="0.6", lw=1)
    scatter.set(xlabel="share of the oracle", ylabel="distance from the true center (px)", ylim=(0, None))
    if both.any():
        low, high = knowable_fraction[both].min(), knowable_fraction[both].max()
        scatter.set_xlim(max(min(low, 0.0), -0.5) - 0.02, max(high, 1.0) + 0.02)
    return save(figure, path)


def calibration(path: Path, *, share: np.ndarray, title: str) -> Path:
    """Counts in each class of predicted probability, relative to a model whose counts scatter as it says.

    Parameters
    ----------
    path : of the PNG.
    share : (classes,) with sum 1: see ``metrics.calibration``.
    title : above all.
    """
    figure = Figure(figsize=(5.4, 3.4), layout="constrained")
    axes = figure.subplots()
    width = 1 / len(share)
    axes.bar((np.arange(len(share)) + 0.5) * width, share * len(share), width, color=TWIN, alpha=0.6, edgecolor="white")
    axes.axhline(1, color=MEASURED, lw=1)
    axes.set(
        xlim=(0, 1),
        xlabel="predicted probability of at most the measured count",
        ylabel="counts, relative to a perfect scatter",
        title=title,
    )
    return save(figure, path)


def behavior_share(path: Path, *, bps: np.ndarray, controls: Mapping[str, np.ndarray]) -> Path:
    """Bits per spike that each unit loses where another behavior stands in for the animal's."""
    lost = {name.replace("_", " "): bps - other for name, other in controls.items()}
    lost = {name: x[np.isfinite(x)] for name, x in lost.items()}
    figure = Figure(figsize=(7.5, 0.9 * len(lost) + 1.1), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    for row, (name, x) in enumerate(lost.items()):
        axes.scatter(x, row + rng.uniform(-0.28, 0.28, len(x)), s=8, alpha=0.45, lw=0, color=TWIN)
        if len(x):
            axes.plot([x.mean()] * 2, [row - 0.36, row + 0.36], color=MEASURED, lw=2)
            axes.annotate(
                f"{name}: mean {x.mean():.3f}", (x.mean(), row - 0.36), (4, 0), textcoords="offset points", fontsize=9
            )
    everything = np.concatenate([*lost.values(), [0.0]])
    low, high = np.percentile(everything, [0.5, 99.5])
    axes.axvline(0, color="0.6", lw=1, zorder=0)
    axes.set(
        yticks=range(len(lost)),
        yticklabels=list(lost),
        ylim=(len(lost) - 0.5, -0.6),
        xlim=(min(low, -0.02) * 1.05, max(high, 0.02) * 1.05),
        xlabel="bits per spike lost",
    )
    return save(figure, path)
