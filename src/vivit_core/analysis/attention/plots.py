"""Pictures and a film of attention. Plain arrays in, a file's path out.

Weights and relevance are shown in multiples of what even attention would give: 1 is even.

Shape letters: L layers, h heads, T time steps, F frames, H W pixels, U units, N those drawn, R C rows and columns of
cells (C also colors).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LinearSegmentedColormap, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Ellipse, Rectangle
from matplotlib.ticker import MaxNLocator

from vivit_core.plotting.film import write_film
from vivit_core.plotting.style import save

# Nothing where attention is even, so that the stimulus stays visible; cold below, hot above.
HEAT: Colormap = LinearSegmentedColormap.from_list(
    "heat",
    [
        (0.0, (0.1, 0.25, 0.6, 0.55)),
        (0.5, (1.0, 1.0, 1.0, 0.0)),
        (0.75, (1.0, 0.55, 0.05, 0.5)),
        (1.0, (0.85, 0.0, 0.1, 0.65)),
    ],
)


BOX = "tab:cyan"  # what looks


EVEN = {"color": "0.5", "ls": "--", "lw": 1.0}


FILM_FRAMES, FILM_MS = 60, 100  # at most; of each


Box = tuple[float, float, float, float]
"""Left, top, right and bottom edge in pixels, pixel x reaching from x to x + 1."""


def colors(most: float) -> TwoSlopeNorm:
    """From 0 over even (1) to the largest weight."""
    return TwoSlopeNorm(1.0, 0.0, max(most, 1.1))


def show(
    axes: Axes, frame_HW: np.ndarray, heat_HW: np.ndarray, most: float, box: Box | None = None
) -> tuple[AxesImage, AxesImage]:
    """A frame in gray under what is looked at, and a box around what looks."""
    height, width = frame_HW.shape
    extent = (0, width, height, 0)
    low, high = float(frame_HW.min()), float(frame_HW.max())
    frame = axes.imshow(
        frame_HW, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), extent=extent, interpolation="nearest"
    )
    heat = axes.imshow(heat_HW, cmap=HEAT, norm=colors(most), extent=extent, interpolation="nearest")
    if box is not None:
        left, top, right, bottom = box
        axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, edgecolor=BOX, lw=1.5))
    axes.set(xlim=(0, width), ylim=(height, 0))
    return frame, heat


def scale_beside(figure: Figure, axes: Sequence[Axes], most: float, label: str) -> None:
    bar = figure.colorbar(ScalarMappable(colors(most), HEAT), ax=list(axes), label=label, shrink=0.9, aspect=25)
    bar.set_ticks([0.0, 0.5, 1.0, *(t for t in MaxNLocator(3).tick_values(1.0, most) if 1.0 < t <= most)])


def bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[])


def panel_size(height: int, width: int, most_wide: float, most_high: float) -> tuple[float, float]:
    """Inches of a picture of a frame that fits, its shape kept; a very narrow frame still gets a tenth of an inch."""
    by = min(most_wide / width, most_high / height)
    return max(0.1, by * width), max(0.1, by * height)


def heads(
    path: Path, *, frame_HW: np.ndarray, weights_LhHW: np.ndarray, to_registers_Lh: np.ndarray, box: Box, title: str
) -> Path:
    """Where one token looks, a panel for each head (columns) and spatial block (rows)."""
    layers, number, height, width = weights_LhHW.shape
    wide, high = panel_size(height, width, 10.5 / number, 2.2)
    figure = Figure(figsize=(max(5.0, wide * number + 1.4), (high + 0.28) * layers + 0.8), layout="constrained")
    panels = figure.subplots(layers, number, squeeze=False)
    most = float(max(weights_LhHW.max(), 1.0))
    for layer in range(layers):
        for head in range(number):
            axes = panels[layer, head]
            show(axes, frame_HW, weights_LhHW[layer, head], most, box)
            bare(axes)
            if layer == 0:
                axes.set_title(f"head {head}", fontsize=9)
            if to_registers_Lh.any():
                axes.set_xlabel(f"{to_registers_Lh[layer, head]:.0%} to registers", fontsize=7, labelpad=2)
        panels[layer, 0].set_ylabel(f"block {layer}", fontsize=9)
    scale_beside(figure, list(panels.ravel()), most, "attention weight (1 = even)")
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def lags(path: Path, *, lags_ms: np.ndarray, profile_LhT: np.ndarray, even_T: np.ndarray) -> Path:
    """Attention by lag: a panel for each temporal block, a line for each head, and one for even attention."""
    layers, number, _ = profile_LhT.shape
    columns = min(layers, 4)
    rows = math.ceil(layers / columns)
    figure = Figure(figsize=(max(5.5, 2.9 * columns), 2.5 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    for layer, axes in enumerate(panels[:layers]):
        for head in range(number):
            axes.plot(
                lags_ms, profile_LhT[layer, head], color=f"C{head % 10}", lw=1.3, label=f"head {head}", marker="."
            )
        axes.plot(lags_ms, even_T, **EVEN, label="even")
        axes.set_title(f"temporal block {layer}", fontsize=10)
    panels[0].set(ylim=(0, 1.05 * float(max(profile_LhT.max(), even_T.max()))))
    for axes in panels[layers:]:
        axes.set_visible(False)
    for axes in panels[max(0, layers - columns) : layers]:
        axes.set_xlabel("how far back (ms)")
        axes.tick_params(labelbottom=True)
    for row in range(rows):
        panels[row * columns].set_ylabel("attention weight")
    figure.legend(*panels[0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside right upper")
    return save(figure, path)


def by_head(path: Path, *, measures: Sequence[tuple[str, np.ndarray, float | None]]) -> Path:
    """Some numbers of each head, block after block.

    Parameters
    ----------
    path : of the PNG.
    measures : of each panel the label with its unit, the numbers (L, h), and what even attention has.
    """
    shown = [measure for measure in measures if measure[1].size]
    figure = Figure(figsize=(max(4.5, 2.8 * len(shown)), 3.0), layout="constrained")
    for axes, (label, values_Lh, even) in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
        layers, number = values_Lh.shape
        for head in range(number):
            beside = (head - (number - 1) / 2) * 0.5 / number
            axes.plot(np.arange(layers) + beside, values_Lh[:, head], ".", ms=7, color=f"C{head % 10}")
        axes.plot(np.arange(layers), values_Lh.mean(1), color="0.2", lw=1.0)
        if even is not None:
            axes.axhline(even, **EVEN)
            axes.annotate("even", (1.0, even), (0, 2), xycoords=("axes fraction", "data"), textcoords="offset points",
                          ha="right", fontsize=8, color="0.5")  # fmt: skip
        axes.set(xlabel="block", ylabel=label, ylim=(0, None), xticks=range(layers), xlim=(-0.5, layers - 0.5))
    return save(figure, path)


def rolled(
    path: Path,
    *,
    frames_FHW: np.ndarray,
    relevance_FHW: np.ndarray,
    step_edges: np.ndarray,
    step: int,
    frame_ms: float,
    box: Box,
    title: str,
) -> Path:
    """Where an output looks: over all time, by time, and in each of the last steps before it."""
    frames, height, width = relevance_FHW.shape
    last = int(step_edges[step + 1]) - 1
    strip = [s for s in range(step - 5, step + 1) if s >= 0]
    even = 1.0 / (height * width)
    figure = Figure(figsize=(10.5, 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[3, 2])[:, 0]
    large, profile = upper.subplots(1, 2)
    collapsed = relevance_FHW.sum(0) / even
    show(large, frames_FHW[last], collapsed, float(collapsed.max()), box)
    large.set(xlabel="x (px)", ylabel="y (px)", title="all frames together")
    scale_beside(upper, [large], float(collapsed.max()), "relevance (1 = even)")
    in_time = relevance_FHW.sum((1, 2)) * (last + 1)
    before = (np.arange(frames + 1) - last - 1) * frame_ms
    profile.stairs(in_time[: last + 1], before[: last + 2], fill=True, color="tab:red", alpha=0.6, lw=0)
    profile.axhline(1.0, **EVEN)
    profile.set(
        xlabel="time before the output (ms)",
        ylabel="relevance of a frame (1 = even)",
        title="all pixels together",
        xlim=(before[0], 0),
    )
    panels = lower.subplots(1, len(strip), squeeze=False)[0]
    ends = [int(step_edges[s + 1]) - 1 for s in strip]
    most = float(relevance_FHW[ends].max()) / even * (last + 1)
    for axes, s, end in zip(panels, strip, ends, strict=True):
        show(axes, frames_FHW[end], relevance_FHW[end] / even * (last + 1), most, box)
        bare(axes)
        axes.set_title("newest token" if s == step else f"−{(last - end) * frame_ms:.0f} ms", fontsize=9)
    scale_beside(lower, list(panels), most, "relevance")
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def readouts(
    path: Path,
    *,
    frame_HW: np.ndarray,
    relevance_UHW: np.ndarray,
    in_time_UF: np.ndarray,
    frame_ms: float,
    windows: Mapping[str, np.ndarray] | None,
    names: Sequence[str],
    title: str,
) -> Path:
    """Where some units' readouts look through the attention: all frames together, and by time.

    Parameters
    ----------
    path : of the PNG.
    frame_HW : of the stimulus, below the maps.
    relevance_UHW, in_time_UF : (U, H, W) and (U, F); each unit's sum to one.
    frame_ms : time of a frame.
    windows : ``mean_px`` (U, 2), ``std_px`` (U, 2) and ``angle_deg`` (U,) of the readouts' own windows, on this frame;
        None where they have none.
    names : of the units.
    title : above all.
    """
    units, height, width = relevance_UHW.shape
    columns = min(units, 3)
    rows = math.ceil(units / columns)
    wide, high = panel_size(height, width, 3.1, 2.6)
    figure = Figure(figsize=(max(6.5, wide * columns + 1.6), (high + 0.4) * rows + 2.6), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[(high + 0.4) * rows, 2.2])[:, 0]
    panels = upper.subplots(rows, columns, squeeze=False).ravel()
    heat = relevance_UHW * height * width
    most = float(heat.max())
    for unit, axes in enumerate(panels[:units]):
        show(axes, frame_HW, heat[unit], most)
        if windows is not None:
            axes.add_patch(
                Ellipse(
                    tuple(windows["mean_px"][unit] + 0.5),
                    *(2 * windows["std_px"][unit]),
                    angle=float(windows["angle_deg"][unit]),
                    fill=False,
                    edgecolor=f"C{unit % 10}",
                    lw=2.0,
                )
            )
        axes.set_title(names[unit], fontsize=9, color=f"C{unit % 10}")
        if unit // columns == rows - 1:
            axes.set_xlabel("x (px)")
        if unit % columns == 0:
            axes.set_ylabel("y (px)")
    for axes in panels[units:]:
        axes.set_visible(False)
    scale_beside(upper, list(panels), most, "relevance (1 = even)")
    axes = lower.subplots()
    frames = in_time_UF.shape[1]
    before = (np.arange(frames + 1) - frames) * frame_ms
    for unit in range(units):
        axes.stairs(in_time_UF[unit] * frames, before, color=f"C{unit % 10}", lw=1.3, baseline=None)
    axes.axhline(1.0, **EVEN)
    axes.set(xlabel="time before the output (ms)", ylabel="relevance (1 = even)", xlim=(before[0], 0), ylim=(0, None))
    figure.suptitle(title, fontsize=11)
    return save(figure, path)


def surrounds(
    path: Path, *, maps_NRC: np.ndarray, true_NRC: np.ndarray, names: Sequence[str], correlation_N: np.ndarray
) -> Path:
    """Units' maps of their surround (left of each pair) beside the true ones (right), each from 0 to its largest."""
    number, height, width = maps_NRC.shape
    pairs = min(number, 2)
    rows = math.ceil(number / pairs)
    wide, high = panel_size(height, width, 2.6, 2.2)
    figure = Figure(figsize=(max(6.5, 2 * wide * pairs), (high + 0.5) * rows + 0.3), layout="constrained")
    panels = figure.subplots(rows, 2 * pairs, squeeze=False)
    for axes in panels.ravel():
        axes.set_axis_off()
    for n in range(number):
        left, right = panels[n // pairs, 2 * (n % pairs) :][:2]
        for axes, values in ((left, maps_NRC[n]), (right, true_NRC[n])):
            axes.set_axis_on()
            axes.imshow(values, cmap="magma", vmin=0.0, vmax=max(float(values.max()), 1e-12), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
        left.set_title(names[n], fontsize=9)
        right.set_title(f"true; correlation {correlation_N[n]:.2f}", fontsize=9)
    return save(figure, path)


def profiles(
    path: Path,
    *,
    lag_s: np.ndarray,
    profile_NL: np.ndarray,
    true_NL: np.ndarray,
    names: Sequence[str],
    correlation_N: np.ndarray,
) -> Path:
    """What the past counts for some units, by lag, and what it truly counts."""
    number, columns = len(names), min(len(names), 3)
    rows = math.ceil(number / columns)
    figure = Figure(figsize=(max(6.5, 3.2 * columns), 2.1 * rows + 0.7), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True).ravel()
    edges_s = np.append(lag_s, lag_s[-1] + (lag_s[-1] - lag_s[-2] if len(lag_s) > 1 else 1.0))
    for n, axes in enumerate(panels[:number]):
        axes.stairs(true_NL[n], edges_s, fill=True, color="0.8", lw=0, label="true")
        axes.stairs(profile_NL[n], edges_s, color="tab:red", lw=1.3, baseline=None, label="twin")
        axes.set_title(f"{names[n]}: correlation {correlation_N[n]:.2f}", fontsize=9)
        axes.set_xlim(0, edges_s[-1])
    for axes in panels[number:]:
        axes.set_visible(False)
    for axes in panels[max(0, number - columns) : number]:
        axes.set_xlabel("how far back (s)")
        axes.tick_params(labelbottom=True)
    for row in range(rows):
        panels[row * columns].set_ylabel("share")
    panels[0].legend(frameon=False, fontsize=8)
    return save(figure, path)


def film(
    path: Path,
    *,
    frames_FHW: np.ndarray,
    relevance_TFHW: Sequence[np.ndarray],
    step_edges: np.ndarray,
    frame_ms: float,
    box: Box,
) -> Path:
    """A GIF: the stimulus under what the output of each moment looks at, and at which frames, as time goes on."""
    frames, height, width = frames_FHW.shape
    ends = step_edges[1:].astype(int) - 1
    shown = np.unique(np.linspace(ends[0], frames - 1, min(FILM_FRAMES, frames - int(ends[0]))).round().astype(int))
    collapsed = [relevance.sum(0) * height * width for relevance in relevance_TFHW]
    in_time = [relevance.sum((1, 2)) for relevance in relevance_TFHW]
    # The first output has one step to look at, so all of its relevance; what follows sets the scale.
    most, most_in_time = max(float(c.max()) for c in collapsed), max(float(p.max()) for p in in_time[1:] or in_time)
    wide, high = panel_size(height, width, 3.6, 3.0)
    figure = Figure(figsize=(wide + 3.4, max(2.3, high + 0.7)), dpi=80, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    large, profile = figure.subplots(1, 2, width_ratios=[max(wide, 0.8), 2.6])
    times_ms = np.arange(frames + 1) * frame_ms
    frame, heat = show(large, frames_FHW[0], collapsed[0], most, box)
    frame.set_clim(float(frames_FHW.min()), float(frames_FHW.max()) + 1e-6)
    large.set(xlabel="x (px)", ylabel="y (px)")
    line = profile.axvline(0.0, color="0.2", lw=1.0)
    stairs = profile.stairs(in_time[0], times_ms, fill=True, color="tab:red", alpha=0.6, lw=0)
    title = profile.set_title("at 0 ms", fontsize=10)
    profile.set(xlim=(0, times_ms[-1]), ylim=(0, most_in_time * 1.05), yticks=[])
    profile.set(xlabel="time in the clip (ms)", ylabel="relevance of a frame")
    profile.spines[["top", "right"]].set_visible(False)
    moving = [frame, heat, *large.patches, stairs, line, title]
    canvas.draw()
    figure.set_layout_engine("none")  # it stays as it is
    for artist in moving:
        artist.set_animated(True)
    canvas.draw()
    still = canvas.copy_from_bbox(figure.bbox)
    pictures = []
    for now in shown:
        step = int(np.searchsorted(ends, now, side="right")) - 1
        frame.set_data(frames_FHW[now])
        heat.set_data(collapsed[step])
        stairs.set_data(in_time[step])
        line.set_xdata([now * frame_ms] * 2)
        title.set_text(f"at {now * frame_ms:.0f} ms")
        canvas.restore_region(still)
        for artist in moving:
            figure.draw_artist(artist)
        pictures.append(np.asarray(canvas.buffer_rgba())[..., :3].copy())
    # Colors of a few frames, and every tint of every gray, so that what is rare in them is not shown in another color.
    few = np.concatenate([picture.reshape(-1, 3) for picture in pictures[:: max(1, len(pictures) // 6)]])
    heat_C4, grays = HEAT(np.linspace(0, 1, 16)), np.linspace(0, 1, 32)
    tints = heat_C4[:, None, :3] * heat_C4[:, None, 3:] + grays[:, None] * (1 - heat_C4[:, None, 3:])
    tints = np.repeat((255 * tints).astype(np.uint8).reshape(-1, 3), len(few) // 1024, axis=0)
    return write_film(path, pictures, 1000 / FILM_MS, colors=np.concatenate([few, tints]))
