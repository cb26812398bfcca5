"""Receptive fields: the readouts' windows, the twin's own in silico, the data's, and the simulation's truth.

Two ways into the twin. The spike-triggered average on noise is what a physiologist measures; it sees what is linear in
a response, so a complex cell has none. The gradient of the log rate with respect to the pixels, at natural clips, is
local: its average is the linear field, and its energy, summed over clips, also places and orients a complex cell,
whose gradient changes sign with the stimulus.

Shape letters: B clips, T bins, L lags (oldest first), H W pixels, P = H · W, U units.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from einops import rearrange

from vivit_core.analysis.receptive_fields.fields import Fields
from vivit_core.analysis.truth import NEAR_PX, ORIENTED_DEG
from vivit_core.data.recording.reader import Recording
from vivit_core.metrics.averages import median_finite, share_within
from vivit_core.rf import maps as rf_maps

METHODS = ("gradient", "sta", "measured")


DEFINITIONS = {  # of the numbers; <method> is one of the above
    "<method>": "gradient: of the twin's log rate in the last bin of natural test clips; sta: the spike-triggered "
    "average of the twin on noise; measured: that of the recording, where its own stimulus is white noise. Its energy "
    "is that of the map, less what chance adds; by gradient, the sum over clips and lags.",
    "<method>_has_field": "1 where the energy holds more than rounding and is not the same all over the frame; where "
    "it is 0 there is no other number by that method.",
    "<method>_snr": "energy of the map's strongest pixel over that of the strongest pixel of half the difference of "
    "two halves' maps; 1 is chance.",
    "<method>_x_px": "center of a round Gaussian that is fitted to the energy over the frame by least squares; y_px "
    "likewise, downwards.",
    "<method>_size_px": "four standard deviations of the field's envelope, whose square that Gaussian is; size_deg in "
    "degrees.",
    "<method>_envelope_explained": "share of the energy's variance over the frame that the Gaussian explains.",
    "<method>_latency_s": "time before the response at which the map has most energy.",
    "<method>_orientation_deg": "orientation of the preferred bars by the structure tensor around the center, "
    "counterclockwise from horizontal.",
    "<method>_coherence": "(λ₁ − λ₂) / (λ₁ + λ₂) of the structure tensor's eigenvalues: 1 for a grating, 0 where no "
    "orientation prevails.",
    "<method>_center_error_px": "distance of the center from the true field's; readout_center_error_px that of the "
    "readout's.",
    "<method>_orientation_error_deg": "smaller angle between the orientation and the true one.",
    "readout_x_px": "where the readout looks; y_px downwards. In degrees (readout_x_deg) from the frame's middle, to "
    "the right and upwards.",
    "readout_std_long_px": "larger standard deviation of the readout's Gaussian; readout_std_short_px the smaller one.",
    "sta_measured_cosine": "cosine, without taking means away, of the twin's map on noise and the measured one, within "
    "gradient_size_px of the gradient's center.",
    "sta_measured_distance_px": "distance between the centers of these two.",
    "knowable_fraction": "the model's bits per spike over those of the true rate, by the evaluation of its training.",
}


def rows_of(
    recording: Recording,
    place_U2: np.ndarray,
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
    std_U2 = nowhere if windows is None else windows["std_px"]

    columns: dict[str, np.ndarray] = {
        "readout_x_px": place_U2[:, 0],
        "readout_y_px": place_U2[:, 1],
        "readout_std_long_px": std_U2.max(1),
        "readout_std_short_px": std_U2.min(1),
        # From the frame's middle, to the right and upwards, as one says where a field lies.
        "readout_x_deg": (place_U2[:, 0] - middle[0]) * degrees,
        "readout_y_deg": (middle[1] - place_U2[:, 1]) * degrees,
        "readout_std_long_deg": std_U2.max(1) * degrees,
        "readout_std_short_deg": std_U2.min(1) * degrees,
        "readout_center_error_px": np.linalg.norm(place_U2 - center_U2, axis=1),
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
            else rf_maps.orientation_error_deg(fields.orientation_U, orientation_U),
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
    """Cosine (U,) of two maps, over all lags and the pixels within a third one's size of its center.

    No means are taken away, so it is no correlation. NaN where there is no center, or a map is zero around it.
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

    measured = [method for method in METHODS if np.isfinite(of[f"{method}_has_field"]).any()]
    of = {name: values[own] for name, values in of.items()}
    found: dict[str, Any] = {"units": int(own.sum())}
    for method in ("readout", *METHODS):
        found[f"{method}_center_error_px_median"] = median_finite(of[f"{method}_center_error_px"])
        found[f"{method}_center_within_{NEAR_PX:g}px"] = share_within(of[f"{method}_center_error_px"], NEAR_PX)
    for method in METHODS:
        found[f"{method}_without_field"] = int((of[f"{method}_has_field"] == 0).sum()) if method in measured else None
        found[f"{method}_orientation_error_deg_median"] = median_finite(of[f"{method}_orientation_error_deg"])
        found[f"{method}_orientation_within_{ORIENTED_DEG:g}deg"] = share_within(
            of[f"{method}_orientation_error_deg"], ORIENTED_DEG
        )
        found[f"{method}_snr_median"] = median_finite(of[f"{method}_snr"])
    found["sta_measured_cosine_median"] = median_finite(of["sta_measured_cosine"])
    found["sta_measured_distance_px_median"] = median_finite(of["sta_measured_distance_px"])
    return found
