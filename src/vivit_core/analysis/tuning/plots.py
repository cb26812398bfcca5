"""Pictures of tuning and of most exciting pictures. Arrays in, PNGs and GIFs out.

Shape letters: M units, T frames, H W pixels, U units, D directions, S spatial and F temporal frequencies, R rows of a
film.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from vivit_core.analysis.tables import columns_of_rows
from vivit_core.analysis.truth import ORIENTED_DEG, kinds_of
from vivit_core.names import file_name, key_name, short
from vivit_core.plotting.film import write_film
from vivit_core.plotting.style import MEASURED, TALL, TWIN, save

if TYPE_CHECKING:
    from vivit_core.analysis.tuning.measure import Tuning


SHOWN = 6  # units of a recording whose curves are drawn


TRUTH = "tab:red"


ZOOM = 4  # screen pixels of a frame's pixel in films


SLOWER = 8  # times slower than life in films, so that single frames can be seen


def plot_tuning(
    path: Path, recording_id: str, unit_ids: Sequence[str], tuning: Tuning, found: Mapping[str, np.ndarray]
) -> Path:
    """A row a unit: direction, spatial and temporal frequency, the preferred grating's response, contrast, size.

    The clearest ones; undriven units stand in only where there are no others.
    """
    gratings = tuning.gratings
    clear_U = found["best_hz"] * (1 - np.nan_to_num(found["circular_variance"]))
    order = np.lexsort((-clear_U, found["driven"] == 0))
    simple = tuning.simple_U[order]
    chosen = np.concatenate([order[simple][: SHOWN // 2], order[~simple][: SHOWN // 2]])
    figure = Figure(figsize=(14, 1.75 * len(chosen) + 0.9), layout="constrained")
    grid = figure.subplots(len(chosen), 5, squeeze=False)
    directions = np.append(gratings.directions_deg, 360.0)
    curve_DU = tuning.curve(0)
    for unit, row in zip(chosen, grid, strict=True):
        direction, frequency, course, contrast, size = row
        direction.plot(directions, np.append(curve_DU[:, unit], curve_DU[0, unit]), ".-", color=TWIN)
        if np.isfinite(true := found["truth_orientation_deg"][unit]):
            for place in ((true - 90) % 360, (true + 90) % 360):
                direction.axvline(place, color=TRUTH, ls=":", lw=1)
        direction.set(xlim=(0, 360), xticks=[0, 90, 180, 270, 360], ylim=(min(0, curve_DU[:, unit].min()), None))
        direction.set_ylabel(f"{short(unit_ids[unit], 20)}\n{kind_of(tuning, found, unit)}\nresponse (Hz)", fontsize=8)

        map_SF = tuning.response_DSFU[tuning.best_U3[unit, 0], :, :, unit]
        frequency.imshow(map_SF, cmap="viridis", origin="lower", aspect="auto", vmin=0)
        frequency.set_xticks(range(map_SF.shape[1]), [f"{hz:g}" for hz in gratings.temporal_frequencies_hz])
        frequency.set_yticks(range(map_SF.shape[0]), [f"{f:g}" for f in gratings.spatial_frequencies])
        frequency.set_ylabel("cycles a pixel", fontsize=8)

        times = np.arange(len(tuning.course_TU)) / tuning.rate_hz
        course.plot(times, tuning.course_TU[:, unit], color=TWIN)
        course.axhline(tuning.blank_U[unit], color=MEASURED, ls=":", lw=1)
        analysed = np.isfinite(tuning.course_TU[:, unit]).sum()
        course.set(xlim=(0, analysed / tuning.rate_hz), ylim=(0, None))
        course.set_ylabel("rate (Hz)", fontsize=8)

        if gratings.contrasts:
            contrast.plot(gratings.contrasts, tuning.contrast_KU[:, unit], "o", color=TWIN, ms=4)
            fine = np.geomspace(min(gratings.contrasts), max(gratings.contrasts), 60)
            n, half = found["contrast_exponent"][unit], found["contrast_c50"][unit]
            contrast.plot(fine, found["contrast_rmax_hz"][unit] * fine**n / (fine**n + half**n), color=TWIN, lw=1)
            contrast.set(xscale="log", ylim=(min(0, tuning.contrast_KU[:, unit].min()), None))
            contrast.set_xticks(gratings.contrasts, [f"{c:g}" for c in gratings.contrasts], minor=False)
            contrast.set_xticks([], minor=True)
        sizes = [f"{s:g}" for s in gratings.sizes_px] + ["full"]
        size.plot(range(len(sizes)), tuning.size_AU[:, unit], ".-", color=TWIN)
        size.set_xticks(range(len(sizes)), sizes)
        size.set(ylim=(min(0, tuning.size_AU[:, unit].min()), None))
        for axes in row:
            axes.tick_params(labelsize=7)
    for axes, title in zip(grid[0], ("direction", "frequencies", "preferred grating", "contrast", "size"), strict=True):
        axes.set_title(title, fontsize=10)
    for axes, name in zip(
        grid[-1],
        ("direction of motion (°)", "temporal frequency (Hz)", "time (s)", "contrast", "diameter (px)"),
        strict=True,
    ):
        axes.set_xlabel(name, fontsize=9)
    known = "; red: the truth" if np.isfinite(found["truth_orientation_deg"]).any() else ""
    figure.suptitle(f"{short(recording_id)}: tuning in silico; dotted gray: rate at gray{known}", fontsize=11)
    return save(figure, path)


def kind_of(tuning: Tuning, found: Mapping[str, np.ndarray], unit: int) -> str:
    ratio = found["modulation_ratio"][unit]
    told = "undriven" if not found["driven"][unit] else "F0 below gray" if np.isnan(ratio) else f"F1/F0 {ratio:.2f}"
    true = found["truth_complex"][unit]
    return told if not np.isfinite(true) else f"{told}, truly {'complex' if true else 'simple'}"


def plot_population(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    """Selectivity and kind of all units, and preferred values against the truth where it is known."""
    of = columns_of_rows(rows)
    truth = np.isfinite(of["truth_orientation_deg"]).any()
    figure = Figure(figsize=(13 if truth else 7, 3.6), layout="constrained")
    panels = figure.subplots(1, 4 if truth else 2)
    kinds = kinds_of(of) or {"all": np.ones(len(rows), bool)}
    colors = {"all": TWIN, "simple": "tab:green", "complex": "tab:purple"}
    for kind, own in kinds.items():
        for axes, name, most in ((panels[0], "osi", 1), (panels[1], "modulation_ratio", 3)):
            values = np.clip(of[name][own & np.isfinite(of[name])], 0, most)
            axes.hist(values, np.linspace(0, most, 20 + most), histtype="step", color=colors[kind], label=kind, lw=1.5)
    panels[0].set(xlabel="OSI", ylabel="units", xlim=(0, 1))
    panels[1].set(xlabel="F1/F0 (above 3 at 3)", ylabel="units", xlim=(0, 3))
    panels[1].axvline(1, color="0.7", lw=0.8, zorder=0)
    if len(kinds) > 1:
        panels[1].legend(frameon=False, fontsize=8)
    if truth:
        for kind, own in kinds.items():
            # Drawn in the half turn around the truth, so that a point's distance from the line is its error.
            true = of["truth_orientation_deg"][own]
            near = true + (of["orientation_deg"][own] - true + 90) % 180 - 90
            panels[2].plot(true, near, ".", color=colors[kind], ms=5, label=kind)
            panels[3].plot(
                of["truth_spatial_frequency"][own], of["spatial_frequency"][own], ".", color=colors[kind], ms=5
            )
        panels[2].plot([0, 180], [0, 180], color="0.6", lw=0.8, zorder=0)
        for shift in (-ORIENTED_DEG, ORIENTED_DEG):
            panels[2].plot([0, 180], [shift, 180 + shift], color="0.8", lw=0.8, zorder=0)
        panels[2].set(
            xlabel="true orientation (°)",
            ylabel="tuned orientation (°)",
            xlim=(0, 180),
            xticks=range(0, 181, 45),
            yticks=range(-45, 226, 45),
        )
        ends = np.array([0.04, 0.3])
        panels[3].plot(ends, ends, color="0.6", lw=0.8, zorder=0)
        panels[3].set(xlabel="true cycles a pixel", ylabel="tuned cycles a pixel", xscale="log", yscale="log")
        ticks = [0.05, 0.1, 0.2]
        for axis in (panels[3].xaxis, panels[3].yaxis):
            axis.set_ticks([], minor=True)
            axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
    return save(figure, path)


def plot_exciting(
    folder: Path,
    recording_id: str,
    arrays: Mapping[str, np.ndarray],
    excited: Sequence[Mapping[str, Any]],
    bin_s: float,
) -> list[Path]:
    """Most exciting images over the best natural ones (PNG), and the same of clips (GIF)."""
    images = [e for e in excited if e["kind"] == "image"]
    clips = [e for e in excited if e["kind"] == "clip"]
    name, key = file_name(recording_id), key_name(recording_id)
    made, natural = arrays[f"{key}/mei_image"][:, 0], arrays[f"{key}/natural_image"][:, 0]
    height, width = made.shape[1:]
    figure = Figure(figsize=(2.9 * len(images), 2 * 2.9 * min(height / width, TALL) + 1.1), layout="constrained")
    grid = figure.subplots(2, len(images), squeeze=False)
    for i, told in enumerate(images):
        for axes, picture, sort in ((grid[0, i], made[i], "mei"), (grid[1, i], natural[i], "natural")):
            axes.imshow(picture, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            truth = told[f"truth_{sort}_hz"]
            truly = f", truly {truth:.1f} Hz" if np.isfinite(truth) else ""
            axes.set_xlabel(f"{told[f'{sort}_hz']:.1f} Hz{truly}", fontsize=8)
        grid[0, i].set_title(short(told["unit"], 24), fontsize=9)
    grid[0, 0].set_ylabel("most exciting", fontsize=8)
    grid[1, 0].set_ylabel("best natural", fontsize=8)
    figure.suptitle(f"{short(recording_id)}: most exciting images, mean rate while they stand", fontsize=10)
    return [
        save(figure, folder / f"exciting_{name}.png"),
        film(
            folder / f"clips_{name}.gif",
            np.stack([arrays[f"{key}/mei_clip"], arrays[f"{key}/natural_clip"]]),
            [
                [f"{short(e['unit'], 16)}: {e['mei_hz']:.0f} Hz" for e in clips],
                [f"natural: {e['natural_hz']:.0f} Hz" for e in clips],
            ],
            bin_s,
        ),
    ]


MORE = {"least": "least exciting", "diverse": "diverse", "surround": "suppressing surround"}


def plot_more(
    folder: Path,
    recording_id: str,
    arrays: Mapping[str, np.ndarray],
    more: Sequence[Mapping[str, Any]],
    bin_s: float,
) -> list[Path]:
    """The most exciting pictures and the others that were sought: images (PNG) and clips (GIF)."""
    name = file_name(recording_id)
    images = beside_most(recording_id, arrays, [row for row in more if row["kind"] == "image"])
    made = [plot_more_images(folder / f"more_{name}.png", recording_id, images)]
    clips = beside_most(recording_id, arrays, [row for row in more if row["kind"] == "clip"])
    if clips:
        labels = [
            [f"{short(unit, 16)}: most", *(f"{title} {words}" for _, title, words in own[1:])]
            for unit, own in clips.items()
        ]
        pictures_RMTHW = np.stack([[own[r][0] for own in clips.values()] for r in range(len(labels[0]))])
        rows = list(zip(*labels, strict=True))
        made.append(film(folder / f"further_clips_{name}.gif", pictures_RMTHW, rows, bin_s))
    return made


def beside_most(
    recording_id: str, arrays: Mapping[str, np.ndarray], more: Sequence[Mapping[str, Any]]
) -> dict[str, list[tuple[np.ndarray, str, str]]]:
    """Of each unit the most exciting picture and the others of its kind, (T, H, W), with a title and what was found."""
    key = key_name(recording_id)
    told = {(row["unit"], row["sort"]): row for row in more}
    shown = {}
    for m, unit in enumerate(dict.fromkeys(row["unit"] for row in more)):
        shown[unit] = [(arrays[f"{key}/mei_{more[0]['kind']}"][m], "most exciting", "")]
        for sort in (sort for sort in MORE if (unit, sort) in told):
            row = told[unit, sort]
            truth = "" if not np.isfinite(row["truth_ratio"]) else f", truly {row['truth_ratio']:.2f}"
            words = f"{row['ratio']:.2f} of {row['compared_hz']:.0f} Hz{truth}"
            pictures = arrays[f"{key}/{sort}_{row['kind']}"][m]
            shown[unit] += [(picture, MORE[sort], words if k == 0 else "") for k, picture in enumerate(pictures)]
    return shown


def plot_more_images(
    path: Path, recording_id: str, images: Mapping[str, Sequence[tuple[np.ndarray, str, str]]]
) -> Path:
    """A row a unit, as :func:`beside_most` gives them."""
    columns = len(next(iter(images.values())))
    height, width = next(iter(images.values()))[0][0].shape[1:]
    figure = Figure(
        figsize=(2.2 * columns + 0.6, len(images) * (2.2 * min(height / width, TALL) + 0.5) + 0.8), layout="constrained"
    )
    grid = figure.subplots(len(images), columns, squeeze=False)
    for m, (unit, shown) in enumerate(images.items()):
        for axes, (image, title, words) in zip(grid[m], shown, strict=True):
            axes.imshow(image[0], cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(words, fontsize=7)
            if m == 0:
                axes.set_title(title, fontsize=8)
        grid[m, 0].set_ylabel(short(unit, 20), fontsize=8)
    figure.suptitle(
        f"{short(recording_id)}: rates as shares of that to the most exciting image, or to the center alone",
        fontsize=10,
    )
    return save(figure, path)


def film(path: Path, clips_RMTHW: np.ndarray, labels: Sequence[Sequence[str]], bin_s: float) -> Path:
    """Clips in contrast, in rows and columns, as a GIF that runs in a circle, ``SLOWER`` times slower than life."""
    rows, columns, frames, height, width = clips_RMTHW.shape
    gap, line = 6, 12
    canvas = (columns * (width * ZOOM + gap) + gap, rows * (height * ZOOM + gap + line) + gap)
    bytes_RMTHW = np.clip(127.5 + 127.5 * clips_RMTHW, 0, 255).astype(np.uint8)
    pages = []
    for t in range(frames):
        page = Image.new("L", canvas, 255)
        draw = ImageDraw.Draw(page)
        for r in range(rows):
            for m in range(columns):
                x, y = gap + m * (width * ZOOM + gap), gap + r * (height * ZOOM + gap + line)
                draw.text((x, y), labels[r][m], fill=0)
                page.paste(
                    Image.fromarray(bytes_RMTHW[r, m, t]).resize(
                        (width * ZOOM, height * ZOOM), Image.Resampling.NEAREST
                    ),
                    (x, y + line),
                )
        pages.append(np.asarray(page))
    return write_film(path, pages, 1 / (bin_s * SLOWER))
