"""Receptive fields: the readouts' windows, the twin's own in silico, the data's, and the simulation's truth.

Two ways into the twin. The spike-triggered average on noise is what a physiologist measures; it sees what is linear in
a response, so a complex cell has none. The gradient of the log rate with respect to the pixels, at natural clips, is
local: its average is the linear field, and its energy, summed over clips, also places and orients a complex cell,
whose gradient changes sign with the stimulus.

Shape letters: B clips, T bins, L lags (oldest first), H W pixels, P = H · W, U units.
"""

from __future__ import annotations

import csv
import logging
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from vivit_core.analysis import field_pictures as pictures
from vivit_core.analysis import maps
from vivit_core.analysis.evaluate import gaussians_px, without_nan
from vivit_core.analysis.insilico import BINS_AT_ONCE, Screen, natural_clips, screens_of
from vivit_core.analysis.report import Section, Table
from vivit_core.analysis.tables import by_group, write_summary, write_units
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording import Recording
from vivit_core.files import whole
from vivit_core.models.baselines import LN
from vivit_core.models.twin import Twin
from vivit_core.names import file_name, key_name, text_of_csv
from vivit_core.terminal import track

log = logging.getLogger(__name__)

WHITE = 0.1  # largest correlation between neighbouring pixels and successive frames of what counts as white noise
NEAR_PX, ORIENTED_DEG = 2.0, 15.0  # what counts as the right place, and the right orientation
METHODS = ("gradient", "sta", "measured")
CHUNK_BINS = 4096  # bins of a recording read at once
ROUNDING = 1e-5  # what a contrast of one changes in the log rate by no more than this is single precision's rounding


@dataclass(frozen=True)
class Noise:
    """Checkerboard noise for reverse correlation.

    Parameters
    ----------
    kind : "white": every check is dark or light, with even chances; "sparse": a check is grey but with probability
        ``density``, when it is dark or light.
    contrast : of a dark or light check; 1 is the largest step from grey that the pixels can make.
    density : probability that a check of sparse noise is not grey.
    check_px : side of a check, px; each frame's checks are shifted at random, so that the pixels stay the resolution.
    hold_bins : bins for which a frame stands still.
    clips, clip_s : how many clips, and how long, s.
    seed : of the noise.
    """

    kind: Literal["white", "sparse"]
    contrast: float
    density: float
    check_px: int
    hold_bins: int
    clips: int
    clip_s: float
    seed: int

    def __post_init__(self) -> None:
        problems = [f"contrast={self.contrast} is not in 0 … 1"] if not 0 < self.contrast <= 1 else []
        problems += [f"density={self.density} is not in 0 … 1"] if not 0 < self.density <= 1 else []
        problems += [
            f"{name}={getattr(self, name)} is below {least}"
            for name, least in (("check_px", 1), ("hold_bins", 1), ("clips", 2))
            if getattr(self, name) < least
        ]
        if problems:
            raise ValueError("noise: " + "; ".join(problems))

    @property
    def variance(self) -> float:
        """Of a pixel, in squared contrast."""
        return self.contrast**2 * (1.0 if self.kind == "white" else self.density)

    def make(self, bins: int, height: int, width: int) -> Iterator[Tensor]:
        """``clips`` clips (T, H, W) of contrast; the same ones for a seed."""
        rng = np.random.default_rng(self.seed)
        check, frames = self.check_px, -(-bins // self.hold_bins)
        rows, columns = (-(-size // check) + 1 for size in (height, width))
        for _ in range(self.clips):
            coarse = rng.choice(np.array([-1, 1], np.int8), (frames, rows, columns))
            if self.kind == "sparse":
                coarse *= rng.random(coarse.shape) < self.density
            fine = coarse.repeat(check, 1).repeat(check, 2)
            shift = rng.integers(0, check, (frames, 2))
            noise = np.stack([f[y : y + height, x : x + width] for f, (y, x) in zip(fine, shift, strict=True)])
            yield self.contrast * torch.as_tensor(noise.repeat(self.hold_bins, 0)[:bins]).float()


@dataclass(frozen=True, eq=False)
class Fields:
    """The receptive fields of a recording's units by one method.

    Where a map shows nothing but rounding, its numbers are NaN. A map that is the same all over the frame has no place.
    """

    map_ULHW: np.ndarray  # the linear field
    snr_U: np.ndarray  # peak energy over chance's; 1 is chance
    center_U2: np.ndarray  # x, y, px
    size_U: np.ndarray  # diameter: four standard deviations of the field's envelope, px
    explained_U: np.ndarray  # share of the energy's variance that a round envelope explains
    orientation_U: np.ndarray  # degrees, of the preferred bars
    coherence_U: np.ndarray  # how much of one orientation, 0 to 1
    peak_lag_U: np.ndarray  # bins before the response at which the field is strongest

    @classmethod
    def of(
        cls, map_ULHW: Tensor, snr_U: np.ndarray, energy_UHW: Tensor, structure_U3HW: Tensor, seen_U: Tensor
    ) -> Fields:
        """``seen``: whether the energy holds more than rounding; a complex cell's map may be zero all the same."""
        energy_UHW = torch.where(seen_U[:, None, None], energy_UHW, 0.0)
        envelope = maps.fit_envelope(energy_UHW)
        std_U = math.sqrt(2) * envelope.std_U
        orientation_U, coherence_U = maps.orientation(structure_U3HW, envelope.center_U2, std_U)
        course_UL = torch.stack([lag_UHW.square().sum((1, 2)) for lag_UHW in map_ULHW.unbind(1)], 1)
        lag_U = (map_ULHW.shape[1] - 1 - course_UL.argmax(1)).double()
        return cls(
            map_ULHW.cpu().numpy(),
            np.where(seen_U, snr_U, np.nan),
            envelope.center_U2,
            4 * std_U,
            envelope.explained_U,
            orientation_U,
            coherence_U,
            torch.where(seen_U & (course_UL.amax(1) > 0), lag_U, torch.nan).numpy(),
        )


class Halves:
    """A mean over samples, in two halves: half of their difference has the noise of the mean, but not its signal."""

    def __init__(self) -> None:
        self.sums: list[Tensor | None] = [None, None]
        self.counts: list[Tensor | float] = [0.0, 0.0]

    def add(self, half: int, total: Tensor, count: Tensor | float) -> None:
        """``count`` broadcasts against ``total``, the sum over that many samples."""
        own = self.sums[half]
        self.sums[half] = total.clone() if own is None else own + total
        self.counts[half] = self.counts[half] + count

    @property
    def means(self) -> tuple[Tensor, Tensor]:
        first, second = self.sums
        if first is None or second is None:
            raise ValueError("signal to noise needs two halves; give at least two clips (or trials)")
        return first / torch.as_tensor(self.counts[0]).clamp_min(1), second / torch.as_tensor(self.counts[1]).clamp_min(
            1
        )

    @property
    def mean(self) -> Tensor:
        first, second = self.means
        return (first + second) / 2

    @property
    def chance(self) -> Tensor:
        first, second = self.means
        return (first - second) / 2


class TriggeredAverage:
    """A spike-triggered average, collected piece by piece: what a contrast of one changes in the rate, in Hz.

    Where pixels or frames move as one, a filter is seen blurred by that, and the sum over the blur is its value.

    Parameters
    ----------
    lags : frames before a response, its own included.
    """

    def __init__(self, lags: int) -> None:
        self.lags = lags
        # For each half: stimulus times response, stimulus, response, bins.
        self.pieces: list[list[Tensor]] = [[], []]

    def add(self, half: int, stimulus_BTP: Tensor, response_BTU: Tensor, use_BTV: Tensor) -> None:
        """Stimulus in contrast, response in Hz; ``use`` (V = U, or 1) is true where a response counts.

        Of each piece, the first ``lags - 1`` responses are left out, since their history lies outside of it.
        """
        use_BTV = use_BTV.float()
        use_BTV[:, : self.lags - 1] = 0.0
        weighted_BTU = response_BTU.float() * use_BTV
        found = [self.lagged(weighted_BTU, stimulus_BTP), self.lagged(use_BTV, stimulus_BTP)]
        found += [weighted_BTU.sum((0, 1)), use_BTV.sum((0, 1))]
        before = self.pieces[half]
        self.pieces[half] = [a + b for a, b in zip(before, found, strict=True)] if before else found

    def lagged(self, weight_BTV: Tensor, stimulus_BTP: Tensor) -> Tensor:
        bins = stimulus_BTP.shape[1]
        one_lag = [
            rearrange(weight_BTV[:, lag:], "b t v -> v (b t)")
            @ rearrange(stimulus_BTP[:, : bins - lag], "b t p -> (b t) p")
            for lag in reversed(range(self.lags))
        ]
        return torch.stack(one_lag, 1)

    @property
    def rate_U(self) -> Tensor:
        """Mean response of the bins that count."""
        total_U, count_V = (sum(parts) for parts in zip(*(piece[2:] for piece in self.pieces if piece), strict=True))
        return torch.as_tensor(total_U) / torch.as_tensor(count_V).clamp_min(1)

    def halves(self, power: float) -> Halves:
        """The averages (U, L, P), divided by the stimulus' power: a pixel's covariance with all others at all lags.

        That of a white stimulus is its variance.
        """
        found = Halves()
        for half, piece in enumerate(self.pieces):
            if not piece:
                continue
            triggered_ULP, seen_VLP, total_U, count_V = piece
            mean_U = total_U / count_V.clamp_min(1)
            found.add(half, (triggered_ULP - mean_U[:, None, None] * seen_VLP) / power, count_V[:, None, None])
        return found


def noise_fields(screen: Screen, noise: Noise, lags: int, progress: bool = True) -> Fields:
    """The twin's fields by spike-triggered average on noise, blurred by its checks and holds.

    A check's pixels and a held frame's bins move as one, so each pixel and lag of the average also holds the share of
    its neighbours: a filter that is smooth over checks and holds keeps its values, a finer one is flattened.
    """
    height, width = screen.frame_size
    bins = screen.bins(noise.clip_s)
    if bins < 2 * lags:
        raise ValueError(
            f"noise.clip_s={noise.clip_s} makes clips of {bins} bins, and a history has {lags}; "
            f"give at least {2 * lags / screen.spec.frame_rate_hz:.3g} s"
        )
    average = TriggeredAverage(lags)
    shown = screen.show(noise.make(bins, height, width), noise.clips, "noise", progress)
    clip = 0
    for stimulus_BTHW, rates_BTU in shown:
        for stimulus, rates in zip(rearrange(stimulus_BTHW, "b t h w -> b 1 t (h w)"), rates_BTU[:, None], strict=True):
            average.add(clip % 2, stimulus, rates, torch.ones(*rates.shape[:2], 1))
            clip += 1
    return triggered_fields(average, noise.variance * noise.check_px**2 * noise.hold_bins, height)


def triggered_fields(average: TriggeredAverage, power: float, height: int) -> Fields:
    """Fields of averages; what chance adds to energy and slopes is taken away."""
    halves = average.halves(power)
    map_ULHW, chance_ULHW = (rearrange(x, "u l (h w) -> u l h w", h=height) for x in (halves.mean, halves.chance))
    pieces = list(zip(*(of_ULHW.split(maps.UNITS_AT_ONCE) for of_ULHW in (map_ULHW, chance_ULHW)), strict=True))
    return Fields.of(
        map_ULHW,
        np.concatenate([maps.peak_over_chance(found, chance) for found, chance in pieces]),
        torch.cat([maps.energy(found) - maps.energy(chance) for found, chance in pieces]),
        torch.cat([maps.structure(found) - maps.structure(chance) for found, chance in pieces]),
        map_ULHW.flatten(1).abs().amax(1) > ROUNDING * average.rate_U,
    )


def gradient_fields(screen: Screen, clips_BTHW: Tensor, lags: int, progress: bool = True) -> Fields:
    """The twin's fields by the gradient of the log rate in the last bin of natural clips.

    The map is the mean gradient over clips: the relative change of the rate with the contrast of a pixel. Place and
    orientation come from the gradients' energy and slopes summed over clips, whatever their sign, and so hold for
    complex cells as well.
    """
    at_once = max(1, BINS_AT_ONCE // clips_BTHW.shape[1])
    units = screen.spec.n_units
    height, width = screen.frame_size
    halves = Halves()
    energy_UHW, structure_U3HW = torch.zeros(units, height, width), torch.zeros(units, 3, height, width)
    steps = [(piece, unit) for piece in range(-(-len(clips_BTHW) // at_once)) for unit in range(units)]
    sums_HULHW = torch.zeros(2, units, lags, height, width)
    x_BTHW, log_BU = clips_BTHW, clips_BTHW
    for piece, unit in track(steps, f"gradients {screen.spec.recording_id}", disable=not progress):
        if unit == 0:
            x_BTHW = clips_BTHW[piece * at_once : (piece + 1) * at_once].to(screen.device).requires_grad_()
            log_BU = screen.rates(x_BTHW)[:, -1].clamp_min(1e-6).log()
        (gradient,) = torch.autograd.grad(log_BU[:, unit].sum(), x_BTHW, retain_graph=unit < units - 1)
        gradient_BLHW = gradient[:, -lags:].cpu()
        first = piece * at_once % 2
        for half in (0, 1):
            sums_HULHW[(half + first) % 2, unit] += gradient_BLHW[half::2].sum(0)
        every_1KHW = rearrange(gradient_BLHW, "b l h w -> 1 (b l) h w")
        energy_UHW[unit] += maps.energy(every_1KHW)[0]
        structure_U3HW[unit] += maps.structure(every_1KHW)[0]
    for half, total in enumerate(sums_HULHW):
        halves.add(half, total, float(len(range(half, len(clips_BTHW), 2))))
    seen_U = (energy_UHW.flatten(1).amax(1) / (len(clips_BTHW) * lags)).sqrt() > ROUNDING
    snr_U = maps.peak_over_chance(halves.mean, halves.chance)
    return Fields.of(halves.mean, snr_U, energy_UHW, structure_U3HW, seen_U)


def measured_fields(screen: Screen, recording: Recording, lags: int, progress: bool = True) -> Fields:
    """The fields that the data show, by spike-triggered average on all trials of a recording of white noise."""
    average = TriggeredAverage(lags)
    trials = recording.info.trials
    pieces = [
        (max(start, at - lags + 1), min(at + CHUNK_BINS, stop))
        for start, stop in zip(trials.start.tolist(), trials.stop.tolist(), strict=True)
        for at in range(start, stop, CHUNK_BINS)
    ]
    squares, pixels = 0.0, 0
    for piece, (start, stop) in enumerate(track(pieces, f"measured {recording.recording_id}", disable=not progress)):
        frames_THW = torch.as_tensor(recording.frames(start, stop).astype(np.float32).mean(0))
        stimulus_TP = screen.to_contrast(frames_THW).flatten(1)
        counts_TU = torch.as_tensor(recording.counts(start, stop).astype(np.float32))
        valid_TU = torch.as_tensor(recording.valid(start, stop)).expand(counts_TU.shape).clone()
        average.add(piece % 2, stimulus_TP[None], counts_TU[None] * recording.info.frame_rate_hz, valid_TU[None])
        squares += float(stimulus_TP.square().sum(dtype=torch.float64))
        pixels += stimulus_TP.numel()
    return triggered_fields(average, squares / pixels, screen.frame_size[0])


def is_white(recording: Recording, pairs: int = 64) -> bool:
    """Whether neither neighbouring pixels nor successive frames of a recording are correlated."""
    trials = recording.info.trials
    starts = np.concatenate([np.arange(a, b - 1) for a, b in zip(trials.start, trials.stop, strict=True)])
    chosen = starts[np.unique(np.linspace(0, len(starts) - 1, pairs).round().astype(int))]
    frames_N2HW = np.stack([recording.frames(int(a), int(a) + 2).astype(np.float64).mean(0) for a in chosen])
    neighbours = [(frames_N2HW[:, 0], frames_N2HW[:, 1])]
    neighbours += [(frames_N2HW[..., 1:, :], frames_N2HW[..., :-1, :]), (frames_N2HW[..., 1:], frames_N2HW[..., :-1])]
    return all(
        min(one.shape) == 0 or (one.std() > 0 and abs(np.corrcoef(one.ravel(), other.ravel())[0, 1]) < WHITE)
        for one, other in neighbours
    )


# --- the whole: files, pictures, summary ------------------------------------------------------------------------------


def receptive_fields(
    model: Twin | LN,
    datamodule: RecordingsDataModule,
    *,
    noise: Noise | None,
    duration_s: float,
    clips: int,
    clip_s: float,
    measured: bool | Literal["auto"],
    out: Path,
    known: Mapping[tuple[str, str], float],
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """All receptive fields of every unit; writes ``receptive_fields.{csv,json,npz}`` and ``pictures/``.

    Parameters
    ----------
    model : a twin, or an LN model in its place.
    datamodule : set up; its recordings are among those the model knows.
    noise : shown for the spike-triggered average; None leaves it out.
    duration_s : history of a field, s.
    clips, clip_s : natural clips of the test split at whose last bin gradients are taken: how many, and how long, s.
    measured : whether the recordings' own stimulus is white noise, from which the data's fields can be measured;
        "auto" looks at its correlations.
    out : folder for the files.
    known : fraction of the knowable information that the model has, by recording and unit, where it was evaluated.
    device, progress : where to compute; whether to show bars.

    Returns
    -------
    dict
        The content of ``receptive_fields.json``; a number that is not defined is None.
    """
    rows: list[dict[str, Any]] = []
    screens = screens_of(model, datamodule, device, max(clip_s, duration_s))
    with (
        whole(out / "receptive_fields.npz") as temporary,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive,
    ):
        for (recording, screen), spec in zip(screens, datamodule.specs, strict=True):
            lags = screen.bins(duration_s)
            natural = natural_clips(screen, recording, max(screen.bins(clip_s), lags), clips)
            found = {"gradient": gradient_fields(screen, natural, lags, progress)}
            if noise is not None:
                found["sta"] = noise_fields(screen, noise, lags, progress)
            if measured is True or (measured == "auto" and is_white(recording)):
                found["measured"] = measured_fields(screen, recording, lags, progress)
            windows = gaussians_px(model, recording, spec.recording_id) if isinstance(model, Twin) else None
            truth = truth_of(recording)
            rows += rows_of(recording, windows, found, truth, known)
            key = key_name(spec.recording_id)
            arrays = {f"{key}/{method}": fields.map_ULHW for method, fields in found.items()}
            append(archive, arrays | {f"{key}/unit_ids": np.array(recording.info.unit_ids)})
            pictures.plot_receptive_fields(
                out / "pictures",
                pictures.FieldsOfRecording(
                    recording_id=spec.recording_id,
                    frame=natural[0, -1].numpy(),
                    bin_s=1 / spec.frame_rate_hz,
                    unit_ids=recording.info.unit_ids,
                    windows=windows,
                    found=found,
                    truth=truth,
                ),
            )
            del found, arrays  # maps are large: one recording's at a time are kept
    summary = by_group(rows, summary_of)
    summary["recordings"] = {
        spec.recording_id: by_group([row for row in rows if row["recording"] == spec.recording_id], summary_of)
        for spec in datamodule.specs
    }
    summary = without_nan(summary)
    write_units(out / "receptive_fields.csv", rows)
    write_summary(out / "receptive_fields.json", summary)
    pictures.plot_errors(out / "pictures", rows)
    return summary


def append(archive: zipfile.ZipFile, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as members of an ``.npz``, floats in single precision."""
    for name, array in arrays.items():
        single = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, single, allow_pickle=False)


TRUTHS = (
    "center_px",
    "size_px",
    "orientation_deg",
    "spatial_frequency",
    "temporal_frequency_hz",
    "complex",
    "direction",
)


def truth_of(recording: Recording) -> dict[str, np.ndarray]:
    """What a simulated recording knows of its units' fields; empty where it was measured."""
    return {name: recording.truth(name) for name in TRUTHS if name in recording.truths}


def rows_of(
    recording: Recording,
    windows: Mapping[str, np.ndarray] | None,
    found: Mapping[str, Fields],
    truth: Mapping[str, np.ndarray],
    known: Mapping[tuple[str, str], float],
) -> list[dict[str, Any]]:
    """A row for each unit of ``receptive_fields.csv``: the same columns whatever was measured, NaN where it was not."""
    units = recording.info.n_units
    unknown = np.full(units, np.nan)
    nowhere = np.full((units, 2), np.nan)
    degrees = recording.info.degrees_per_pixel or np.nan
    _, height, width = recording.info.frame_shape
    middle = np.array([(width - 1) / 2, (height - 1) / 2])
    center_U2, orientation_U = truth.get("center_px", nowhere), truth.get("orientation_deg", unknown)
    window = windows or {"mean_px": nowhere, "std_px": nowhere, "angle_deg": unknown}

    columns: dict[str, np.ndarray] = {
        "readout_x_px": window["mean_px"][:, 0],
        "readout_y_px": window["mean_px"][:, 1],
        "readout_std_long_px": window["std_px"].max(1),
        "readout_std_short_px": window["std_px"].min(1),
        # From the frame's middle, to the right and upwards, as one says where a field lies.
        "readout_x_deg": (window["mean_px"][:, 0] - middle[0]) * degrees,
        "readout_y_deg": (middle[1] - window["mean_px"][:, 1]) * degrees,
        "readout_std_long_deg": window["std_px"].max(1) * degrees,
        "readout_std_short_deg": window["std_px"].min(1) * degrees,
        "readout_center_error_px": np.linalg.norm(window["mean_px"] - center_U2, axis=1),
    }
    lag_s = 1 / recording.info.frame_rate_hz
    for method in METHODS:
        fields = found.get(method)
        own = {
            "has_field": unknown if fields is None else np.isfinite(fields.center_U2[:, 0]).astype(float),
            "snr": unknown if fields is None else fields.snr_U,
            "x_px": unknown if fields is None else fields.center_U2[:, 0],
            "y_px": unknown if fields is None else fields.center_U2[:, 1],
            "size_px": unknown if fields is None else fields.size_U,
            "size_deg": unknown if fields is None else fields.size_U * degrees,
            "envelope_explained": unknown if fields is None else fields.explained_U,
            "latency_s": unknown if fields is None else fields.peak_lag_U * lag_s,
            "orientation_deg": unknown if fields is None else fields.orientation_U,
            "coherence": unknown if fields is None else fields.coherence_U,
            "center_error_px": unknown if fields is None else np.linalg.norm(fields.center_U2 - center_U2, axis=1),
            "orientation_error_deg": unknown
            if fields is None
            else maps.orientation_error_deg(fields.orientation_U, orientation_U),
        }
        columns |= {f"{method}_{name}": column for name, column in own.items()}
    both = "measured" in found and "sta" in found
    columns["sta_measured_cosine"] = likeness(found["sta"], found["measured"], found["gradient"]) if both else unknown
    columns["sta_measured_distance_px"] = (
        np.linalg.norm(found["sta"].center_U2 - found["measured"].center_U2, axis=1) if both else unknown
    )
    columns |= {
        "truth_x_px": center_U2[:, 0],
        "truth_y_px": center_U2[:, 1],
        "truth_size_px": truth.get("size_px", unknown),
        "truth_orientation_deg": orientation_U,
        "truth_complex": truth.get("complex", unknown).astype(float),
        "knowable_fraction": np.array(
            [known.get((recording.recording_id, unit), np.nan) for unit in recording.info.unit_ids]
        ),
    }
    return [
        {"recording": recording.recording_id, "unit": unit}
        | {name: column[i].item() for name, column in columns.items()}
        for i, unit in enumerate(recording.info.unit_ids)
    ]


def likeness(one: Fields, other: Fields, where: Fields) -> np.ndarray:
    """Cosine (U,) of two maps, over all lags and the pixels within a third one's size of its centre.

    No means are taken away, so it is no correlation. NaN where there is no centre, or a map is zero around it.
    """
    height, width = where.map_ULHW.shape[2:]
    y_H1, x_W = np.arange(height)[:, None], np.arange(width)
    apart_UHW = np.hypot(x_W - where.center_U2[:, :1, None], y_H1 - where.center_U2[:, 1:, None])
    inside_UHW = apart_UHW <= where.size_U[:, None, None]
    a_UP, b_UP = (rearrange(x.map_ULHW * inside_UHW[:, None], "u l h w -> u (l h w)") for x in (one, other))
    norm_U = np.linalg.norm(a_UP, axis=1) * np.linalg.norm(b_UP, axis=1)
    return np.divide((a_UP * b_UP).sum(1), norm_U, out=np.full(len(norm_U), np.nan), where=norm_U > 0)


def summary_of(of: Mapping[str, np.ndarray], own: np.ndarray) -> dict[str, Any]:
    """The numbers of some units; each is over the units for which there is a value.

    ``<method>_without_field`` counts those whose map by a method shows no place, which are left out of its numbers.
    """

    def median(name: str) -> float:
        values = of[name][own]
        values = values[np.isfinite(values)]
        return float(np.median(values)) if len(values) else math.nan

    def share(name: str, most: float) -> float:
        values = of[name][own]
        values = values[np.isfinite(values)]
        return float((values <= most).mean()) if len(values) else math.nan

    found: dict[str, Any] = {"units": int(own.sum())}
    for method in ("readout", *METHODS):
        found[f"{method}_center_error_px_median"] = median(f"{method}_center_error_px")
        found[f"{method}_center_within_{NEAR_PX:g}px"] = share(f"{method}_center_error_px", NEAR_PX)
    for method in METHODS:
        with_field = of[f"{method}_has_field"]
        found[f"{method}_without_field"] = int((with_field[own] == 0).sum()) if np.isfinite(with_field).any() else None
        found[f"{method}_orientation_error_deg_median"] = median(f"{method}_orientation_error_deg")
        found[f"{method}_orientation_within_{ORIENTED_DEG:g}deg"] = share(
            f"{method}_orientation_error_deg", ORIENTED_DEG
        )
        found[f"{method}_snr_median"] = median(f"{method}_snr")
    found["sta_measured_cosine_median"] = median("sta_measured_cosine")
    found["sta_measured_distance_px_median"] = median("sta_measured_distance_px")
    return found


def known_fractions(training: Path | None) -> dict[tuple[str, str], float]:
    """The fraction of the knowable information by recording and unit, as a training's final evaluation found it."""
    file = None if training is None else training / "units.csv"
    if file is None or not file.is_file():
        return {}
    try:
        with file.open(newline="", encoding="utf-8") as lines:
            rows = list(csv.DictReader(lines))
        return {
            (text_of_csv(row["recording"]), text_of_csv(row["unit"])): float(row["knowable_fraction"])
            for row in rows
            if row["knowable_fraction"]
        }
    except (OSError, ValueError, KeyError, AttributeError, csv.Error) as error:  # a file of somebody's run folder
        log.warning("%s does not say how much of each unit is known (%s: %s)", file, type(error).__name__, error)
        return {}


def summary_table(summary: Mapping[str, Any]) -> Table:
    """Errors by group of units and method, where the truth is known; signal to noise elsewhere."""
    columns = ["units", "number", "method", "median SNR", "centre error (px)", f"within {NEAR_PX:g} px"]
    columns += ["orientation error (°)", f"within {ORIENTED_DEG:g}°"]
    rows = []
    for group, of in summary["groups"].items():
        for method in ("readout", *METHODS):
            values = (
                of.get(f"{method}_snr_median"),
                of[f"{method}_center_error_px_median"],
                of[f"{method}_center_within_{NEAR_PX:g}px"],
                of.get(f"{method}_orientation_error_deg_median"),
                of.get(f"{method}_orientation_within_{ORIENTED_DEG:g}deg"),
            )
            if any(value is not None for value in values):
                rows.append((group, of["units"], method, *values))
    return Table("Receptive fields", columns, rows)


def report_section(summary: Mapping[str, Any], folder: Path, command: str) -> Section:
    """What the receptive fields add to a twin's report, from their summary and the pictures in ``folder``."""
    text = [
        "Where each readout looks; the twin's receptive fields in silico, by the gradient of a unit's log rate at "
        "natural clips of the test split and by reverse correlation on noise; and the fields measured from the data, "
        "where the recording's stimulus is white noise. Signal to noise is the energy of a map's strongest pixel over "
        "that of the strongest pixel of a map made by chance (half the difference of two halves' maps): 1 is chance.",
        "The gradient's place and orientation come from its energy over clips, so they hold for complex cells too; "
        "reverse correlation shows only what is linear in a response, blurred by the noise's checks and the time for "
        "which frames hold. Orientations are of the preferred bars, counterclockwise from horizontal.",
    ]
    everyone = summary["groups"]["all"]
    without = {method: everyone[f"{method}_without_field"] for method in METHODS if everyone[f"{method}_without_field"]}
    if without:
        told = ", ".join(f"{number} by {method}" for method, number in without.items())
        text.append(
            f"Of {everyone['units']} units, maps hold nothing beyond rounding, or are the same all over the "
            f"frame, for {told}. These units have no place, size or orientation by that method, and are left out of "
            "its numbers."
        )
    if (measured := everyone["sta_measured_cosine_median"]) is not None:
        text.append(
            f"The median cosine (not the correlation: no means are taken away) of the twin's map on noise with the "
            f"measured one is {measured:.2f}. Measured maps use all trials, those that the twin was trained on among "
            "them, so this likeness is in-sample."
        )
    captions = {
        "readouts": "The readouts' windows on a frame of the stimulus",
        "fields": "Fields of a few units, by method",
        "errors": "How far places and orientations are from the truth",
    }
    of_recording = {f"_{file_name(name)}": f": {name}" for name in summary["recordings"]}
    drawn = [
        (path, f"{captions[kind]}{of_recording.get(path.stem.removeprefix(kind), '')}.")
        for kind in captions
        for path in sorted((folder / "pictures").glob(f"{kind}*.png"))
    ]
    return Section("receptive_fields", "Receptive fields", text, [summary_table(summary)], drawn, command)
