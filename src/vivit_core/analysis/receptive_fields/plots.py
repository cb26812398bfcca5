"""Pictures of receptive fields. Arrays in, PNGs' paths out.

Shape letters: L lags (oldest first), H W pixels, U units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Ellipse

from vivit_core.analysis.tables import columns_of_rows
from vivit_core.analysis.truth import NEAR_PX, ORIENTED_DEG, kinds_of
from vivit_core.names import file_name, short
from vivit_core.plotting.style import TALL, save

if TYPE_CHECKING:
    from vivit_core.analysis.receptive_fields.fields import Fields


SHOWN = 8  # units of a recording whose fields are drawn


AROUND_PX = 10.0  # half a side of what is drawn of a field


NAMES = {"gradient": "gradient at natural clips", "sta": "twin's STA on noise", "measured": "measured STA"}


COLORS = {"readout": "tab:blue", "gradient": "tab:green", "sta": "tab:purple", "measured": "0.25", "truth": "tab:red"}


@dataclass(frozen=True)
class FieldsOfRecording:
    """What is drawn of a recording."""

    recording_id: str
    frame: np.ndarray  # (H, W), a frame of the stimulus
    bin_s: float
    unit_ids: Sequence[str]
    windows: Mapping[str, np.ndarray] | None  # the readouts' Gaussians
    found: Mapping[str, Fields]  # by method
    truth: Mapping[str, np.ndarray]  # empty where it is not known


def plot_receptive_fields(folder: Path, fields: FieldsOfRecording) -> list[Path]:
    """Where each unit's readout looks (``readouts_<id>.png``, where there are windows), and the fields of a few units
    by every method (``fields_<id>.png``, where any unit has a field)."""
    written, name = [], file_name(fields.recording_id)
    if fields.windows is not None:
        written.append(plot_windows(folder / f"readouts_{name}.png", fields))
    if choose(fields):
        written.append(plot_fields(folder / f"fields_{name}.png", fields))
    return written


def plot_windows(path: Path, fields: FieldsOfRecording) -> Path:
    """The readouts' Gaussians (ellipses of one standard deviation), tied to the true centers where they are known."""
    assert fields.windows is not None
    height, width = fields.frame.shape
    figure = Figure(figsize=(9, 9 * min(height / width, TALL) + 1.0), layout="constrained")
    axes = figure.subplots()
    axes.imshow(fields.frame, cmap="gray", interpolation="nearest", alpha=0.5)
    mean_U2 = fields.windows["mean_px"]
    for (x, y), (along, across), angle in zip(
        mean_U2, fields.windows["std_px"], fields.windows["angle_deg"], strict=True
    ):
        axes.add_patch(
            Ellipse((x, y), 2 * along, 2 * across, angle=float(angle), fill=False, edgecolor=COLORS["readout"], lw=0.9)
        )
    axes.plot(*mean_U2.T, ".", color=COLORS["readout"], ms=5, label="readout's mean")
    title = f"{short(fields.recording_id)}: the readouts' windows, 1 standard deviation ({len(mean_U2)} units)"
    if (center_U2 := fields.truth.get("center_px")) is not None:
        lines = np.stack([mean_U2, center_U2], 1)
        for line in lines:
            axes.plot(*line.T, "-", color=COLORS["truth"], lw=0.8)
        axes.plot(*center_U2.T, "+", color=COLORS["truth"], ms=6, label="true center")
        error_U = np.linalg.norm(mean_U2 - center_U2, axis=1)
        title += f", median error {np.median(error_U):.2f} px"
    axes.legend(frameon=False, ncols=2, fontsize=9, loc="upper left", bbox_to_anchor=(0, -0.12))
    axes.set(xlim=(-0.5, width - 0.5), ylim=(height - 0.5, -0.5), xlabel="x (px)", ylabel="y (px)", title=title)
    return save(figure, path)


def plot_fields(path: Path, fields: FieldsOfRecording) -> Path:
    """A row a unit, those with the clearest gradients: maps at the lag where each is strongest, and time courses."""
    chosen = choose(fields)
    methods = [method for method in ("gradient", "sta", "measured") if method in fields.found]
    figure = Figure(figsize=(1.9 * len(methods) + 3.6, 1.75 * len(chosen) + 0.7), layout="constrained")
    grid = figure.subplots(
        len(chosen), len(methods) + 1, squeeze=False, gridspec_kw={"width_ratios": [1.0] * len(methods) + [1.5]}
    )
    height, width = fields.frame.shape
    for row, unit in zip(grid, chosen, strict=True):
        lags = -np.arange(fields.found["gradient"].map_ULHW.shape[1])[::-1] * fields.bin_s * 1e3
        x, y = fields.found["gradient"].center_U2[unit]
        for axes, method in zip(row, methods, strict=False):
            own = fields.found[method]
            # A map of zeros is strongest nowhere; it is drawn as it is.
            peak_lag = int(np.nan_to_num(own.peak_lag_U[unit]))
            image = own.map_ULHW[unit, -1 - peak_lag]
            limit = float(np.abs(image).max()) or 1.0
            axes.imshow(image, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
            mark(axes, own.center_U2[unit], own.orientation_U[unit], COLORS[method], "-")
            if fields.truth.get("center_px") is not None and "orientation_deg" in fields.truth:
                mark(axes, fields.truth["center_px"][unit], fields.truth["orientation_deg"][unit], "black", ":")
            axes.set(
                xlim=(max(x - AROUND_PX, -0.5), min(x + AROUND_PX, width - 0.5)),
                ylim=(min(y + AROUND_PX, height - 0.5), max(y - AROUND_PX, -0.5)),
                xticks=[],
                yticks=[],
            )
            if unit == chosen[0]:
                axes.set_title(NAMES[method], fontsize=9)
            snr = own.snr_U[unit]
            axes.set_xlabel("SNR not known" if np.isnan(snr) else f"SNR {snr:.3g}", fontsize=8)
            course_L = time_course(own.map_ULHW[unit], peak_lag)
            row[-1].plot(lags, course_L, color=COLORS[method], lw=1.3, label=NAMES[method])
        row[0].set_ylabel(label(fields, unit), fontsize=8)
        row[-1].axhline(0, color="0.8", lw=0.8, zorder=0)
        row[-1].set(yticks=[], xlim=(lags[0], 0), xlabel="time before the response (ms)" if unit == chosen[-1] else "")
        row[-1].tick_params(labelsize=8)
        if unit == chosen[0]:
            row[-1].legend(frameon=False, fontsize=7, loc="upper left")
            row[-1].set_title("time course", fontsize=9)
    known = ", dotted: the truth" if "orientation_deg" in fields.truth else ""
    figure.suptitle(
        f"{short(fields.recording_id)}: fields at their strongest lag; line: found orientation{known}", fontsize=10
    )
    return save(figure, path)


def choose(fields: FieldsOfRecording) -> list[int]:
    """The units with the clearest gradients, as many simple as complex ones where it is known which is which; none
    without a place."""
    gradient = fields.found["gradient"]
    order = np.argsort(-gradient.snr_U, kind="stable")
    order = order[np.isfinite(gradient.center_U2[order, 0])]
    kind = fields.truth.get("complex")
    if kind is None:
        return order[:SHOWN].tolist()
    halves = [order[~kind[order].astype(bool)][: SHOWN // 2], order[kind[order].astype(bool)][: SHOWN // 2]]
    return np.concatenate(halves).tolist()


def label(fields: FieldsOfRecording, unit: int) -> str:
    kind = fields.truth.get("complex")
    return short(fields.unit_ids[unit], 20) + ("" if kind is None else "\ncomplex" if kind[unit] else "\nsimple")


def mark(axes: Axes, center_2: np.ndarray, orientation_deg: float, color: str, style: str) -> None:
    """A line along the bars, through the center; y points down."""
    angle = np.deg2rad(orientation_deg)
    along = 3.5 * np.array([np.cos(angle), -np.sin(angle)])
    ends = np.stack([center_2 - along, center_2 + along])
    axes.plot(*ends.T, style, color=color, lw=1.4)
    axes.plot(*center_2, "o", color=color, ms=3)


def time_course(map_LHW: np.ndarray, peak_lag: int) -> np.ndarray:
    """The map at every lag seen through the one where it is strongest; its largest value is ±1."""
    strongest = map_LHW[-1 - peak_lag]
    course_L = np.einsum("lhw,hw->l", map_LHW, strongest)
    return course_L / (np.abs(course_L).max() or 1.0)


def plot_errors(folder: Path, rows: Sequence[Mapping[str, Any]]) -> list[Path]:
    """How far places and orientations are from the truth, by method and kind of unit; nothing where it is unknown."""
    of = columns_of_rows(rows)
    if not np.isfinite(of["truth_x_px"]).any():
        return []
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    places, orientations = figure.subplots(1, 2)
    kinds = {f", {kind}": own for kind, own in kinds_of(of).items()} or {"": of["truth_x_px"] < np.inf}
    for method in ("readout", "gradient", "sta"):
        for (kind, own), style in zip(kinds.items(), ("-", "--"), strict=False):
            for axes, name in (
                (places, f"{method}_center_error_px"),
                (orientations, f"{method}_orientation_error_deg"),
            ):
                values = np.sort(of[name][own]) if name in of else np.zeros(0)
                values = values[np.isfinite(values)]
                if len(values):
                    share = np.arange(1, len(values) + 1) / len(values)
                    axes.step(values, share, style, where="post", color=COLORS[method], label=f"{method}{kind}")
    for axes, name, limit, line in (
        (places, "distance of the center from the truth (px)", 8, NEAR_PX),
        (orientations, "turn of the orientation from the truth (degrees)", 90, ORIENTED_DEG),
    ):
        axes.axvline(line, color="0.7", lw=0.8, zorder=0)
        axes.set(xlabel=name, ylabel="share of units", xlim=(0, limit), ylim=(0, 1))
        if axes.lines[1:]:
            axes.legend(frameon=False, fontsize=8, loc="lower right")
    return [save(figure, folder / "errors.png")]
