"""The whole of receptive fields: every unit's by several methods, tables, pictures.

Shape letters: L lags (oldest first), H W pixels, U units.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vivit_core.analysis.receptive_fields import plots as pictures
from vivit_core.analysis.receptive_fields.fields import gradient_fields, is_white, measured_fields, noise_fields
from vivit_core.analysis.receptive_fields.numbers import DEFINITIONS, rows_of, summary_of
from vivit_core.analysis.screen import natural_clips, screens_of
from vivit_core.analysis.tables import write_summary
from vivit_core.analysis.truth import by_group_and_recording, truth_of
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.predictor import Predictor
from vivit_core.names import key_name
from vivit_core.stimuli.noise import Noise
from vivit_core.system.files import atomic_write
from vivit_core.system.tables import write_table


def receptive_fields(
    model: Predictor,
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
    known : share of the oracle that the model has, by recording and unit, where it was evaluated.
    device, progress : where to compute; whether to show bars.

    Returns
    -------
    dict
        The content of ``receptive_fields.json``; a number that is not defined is None.
    """
    rows: list[dict[str, Any]] = []
    screens = screens_of(model, datamodule, device, max(clip_s, duration_s))
    with (
        atomic_write(out / "receptive_fields.npz") as temporary,
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
            windows = model.gaussians_px(spec.recording_id)
            truth = truth_of(recording)
            place_U2 = model.centers_px(spec.recording_id)
            rows += rows_of(recording, place_U2, windows, found, truth, known)
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
    summary = by_group_and_recording(rows, [spec.recording_id for spec in datamodule.specs], summary_of)
    write_table(out / "receptive_fields.csv", rows)
    summary = write_summary(out / "receptive_fields.json", summary | {"methods": DEFINITIONS})
    pictures.plot_errors(out / "pictures", rows)
    return summary


def append(archive: zipfile.ZipFile, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as members of an ``.npz``, floats in single precision."""
    for name, array in arrays.items():
        single = array.astype(np.float32, copy=False) if array.dtype.kind == "f" else array
        with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
            np.lib.format.write_array(member, single, allow_pickle=False)
