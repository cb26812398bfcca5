"""The whole of tuning: gratings, the laboratory's protocols, most exciting images, tables, pictures."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vivit_core.analysis.screen import natural_clips, screens_of
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.analysis.truth import ORIENTED_DEG, by_group_and_recording, centers_px, truth_of
from vivit_core.analysis.tuning import plots as pictures
from vivit_core.analysis.tuning.draws import drawn, with_intervals
from vivit_core.analysis.tuning.laboratory import (
    OF_GRATINGS,
    PREFERRED,
    TRULY,
    Run,
    gratings_summary,
    methods,
    pictures_for,
    protocol_summary,
    run_protocols,
    sites_of,
    true_screen,
)
from vivit_core.analysis.tuning.laboratory_plots import plot_protocol, plot_truth
from vivit_core.analysis.tuning.measure import measure, preferences
from vivit_core.analysis.tuning.more_exciting import more_pictures, shown_to
from vivit_core.analysis.tuning.most_exciting import Ascent, Kind, More, best_natural, most_exciting
from vivit_core.analysis.tuning.numbers import FAR, against_truth
from vivit_core.analysis.tuning.protocols.base import Bench, Protocol
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.metrics.averages import mean_known, median_finite, share_within
from vivit_core.models.predictor import Predictor
from vivit_core.names import file_name, key_name
from vivit_core.stimuli.gratings import Gratings
from vivit_core.system.tables import write_table

log = logging.getLogger(__name__)

SEEN = 256  # clips of the training trials, whose mean spectrum most exciting pictures follow


# --- the whole: files, pictures, summary ------------------------------------------------------------------------------
def tune(
    model: Predictor,
    datamodule: RecordingsDataModule,
    *,
    units: Sequence[str] | int | None,
    gratings: Gratings,
    protocols: Mapping[str, Protocol],
    lab_units: int,
    mei: Ascent | None,
    mei_units: int,
    mei_more: Sequence[More],
    natural: int,
    out: Path,
    known: Mapping[tuple[str, str], float],
    device: str = "cpu",
    progress: bool = True,
) -> dict[str, Any]:
    """Tuning of every unit, and pictures that excite a few most; writes ``tuning.{csv,json,npz}`` and ``pictures/``.

    Parameters
    ----------
    model : a twin, or an LN model in its place.
    datamodule : set up; its recordings are among those the model knows.
    units : which are measured: ids, or a number of each recording's, those with most spikes; None: all.
    gratings : what is shown.
    protocols : of the laboratory, by name.
    lab_units : units of each recording at which they are run, and whose numbers of gratings have intervals: those that
        gratings drive most, relative to gray.
    mei : how most exciting pictures are sought; None leaves them out.
    mei_units : units of each recording for which they are sought: the first of those.
    mei_more : sorts of further pictures that are sought for the same units.
    natural : natural pictures of the test split with which they are compared, and that protocols show.
    out : folder for the files.
    known : share of the oracle that the model has, by recording and unit, where it was evaluated.
    device, progress : where to compute; whether to show bars.

    Returns
    -------
    dict
        The content of ``tuning.json``; a number that is not defined, or not finite, is None.
    """
    rows: list[dict[str, Any]] = []
    over = ("directions_deg", "spatial_frequencies", "temporal_frequencies_hz", "contrasts", "sizes_px")
    arrays = {name: np.asarray(getattr(gratings, name), np.float64) for name in over}
    excited: list[dict[str, Any]] = []
    more: list[dict[str, Any]] = []
    runs: dict[str, list[Run]] = {name: [] for name in protocols}
    begun = time.monotonic()
    screens = screens_of(model, datamodule, device, None if mei is None or mei_units == 0 else mei.picture_s, units)
    specs = [screen.spec for _, screen in screens]
    for spec in specs if protocols else ():
        gratings.common_s(spec.frame_rate_hz)  # refuses here, and not after all gratings
    # Read before anything is measured, because a recording may have too few.
    natural_of = [pictures_for(protocols, screen, recording, natural) for recording, screen in screens]
    for done, (recording, screen) in enumerate(screens):
        if done:
            left_s = (time.monotonic() - begun) / done * (len(screens) - done)
            log.info("tuning: %d of %d recordings done, about %.0f s left", done, len(screens), left_s)
        spec = screen.spec
        own_U = [recording.info.unit_ids.index(unit) for unit in spec.unit_ids]  # in the file
        middle = (np.array(screen.frame_size[::-1]) - 1) / 2
        centers_U2 = centers_px(model, recording, spec.recording_id)[own_U]
        # An LN model that found nothing in a unit looks nowhere; a disc in the middle is as good as any.
        centers_U2 = np.where(np.isfinite(centers_U2), centers_U2, middle)
        tuning = measure(screen, gratings, centers_U2, progress)
        found = preferences(tuning)
        order = np.argsort(-found["best_hz"] / np.maximum(tuning.blank_U, 1e-3), kind="stable")
        at_lab = [unit for unit in order.tolist() if found["driven"][unit]][:lab_units]
        found = with_intervals(found, tuning, drawn(screen, tuning, centers_U2, at_lab, progress))
        truth = {name: values[own_U] for name, values in truth_of(recording).items()}
        found |= against_truth(found, truth)
        true = true_screen(recording, screen)
        same: dict[str, np.ndarray] = {}
        if true is not None:
            truly = measure(true, gratings, centers_U2, progress)
            same = preferences(truly)
            again = [unit for unit in at_lab if same["driven"][unit]]
            same = with_intervals(same, truly, drawn(true, truly, centers_U2, again, progress))
        found |= {column: same.get(name, np.full(spec.n_units, np.nan)) for name, column in TRULY.items()}
        if protocols:
            sites = sites_of(tuning, centers_U2, at_lab)
            natural_BHW, film_B = natural_of[done]
            benches = [
                None
                if one is None
                else Bench(one, natural_BHW, gratings.settle_s, gratings.common_s(spec.frame_rate_hz), progress, film_B)
                for one in (screen, true)
            ]
            assert benches[0] is not None
            for run in run_protocols(protocols, benches[0], benches[1], sites):
                runs[run.name].append(run)
                found |= run.columns(spec.n_units)
                arrays |= {
                    f"{key_name(spec.recording_id)}/{name}": values for name, values in run.arrays(spec.n_units).items()
                }
        found["knowable_fraction"] = np.array([known.get((spec.recording_id, unit), np.nan) for unit in spec.unit_ids])
        rows += [
            {"recording": spec.recording_id, "unit": unit} | {name: column[i].item() for name, column in found.items()}
            for i, unit in enumerate(spec.unit_ids)
        ]
        key = key_name(spec.recording_id)
        for name in ("blank_U", "f0_DSFU", "f1_DSFU", "course_TU", "contrast_KU", "size_AU"):
            arrays[f"{key}/{name}"] = getattr(tuning, name)
        for axis, name in enumerate(("direction_DU", "spatial_SU", "temporal_FU")):
            arrays[f"{key}/{name}"] = tuning.curve(axis)
        arrays[f"{key}/unit_ids"] = np.array(spec.unit_ids)
        pictures.plot_tuning(
            out / "pictures" / f"tuning_{file_name(spec.recording_id)}.png",
            spec.recording_id,
            spec.unit_ids,
            tuning,
            found,
        )
        if mei is None or mei_units == 0:
            continue
        sought_for = order[:mei_units].tolist()
        bins = screen.bins(mei.picture_s)
        shown = natural_clips(screen, recording, bins, natural)
        seen = natural_clips(screen, recording, bins, SEEN, ("train", "val", "test"))
        kinds: tuple[Kind, Kind] = ("image", "clip")
        for kind in kinds:
            made, made_hz = most_exciting(screen, seen, sought_for, mei, kind, progress)
            best, best_hz = best_natural(screen, shown, sought_for, mei, kind, progress)
            arrays[f"{key}/mei_{kind}"] = made.numpy()
            arrays[f"{key}/natural_{kind}"] = best.numpy()
            true_hz = [np.full(len(sought_for), math.nan)] * 2
            if true is not None:
                true_hz = [shown_to(true, sought_for, x[:, None], kind, mei)[:, 0] for x in (made, best)]
            for i, unit in enumerate(sought_for):
                excited.append(
                    {
                        "recording": spec.recording_id,
                        "unit": spec.unit_ids[unit],
                        "kind": kind,
                        "mei_hz": float(made_hz[i]),
                        "natural_hz": float(best_hz[i]),
                        "gain": float(made_hz[i] / best_hz[i]),
                        "far": bool(made_hz[i] > FAR * best_hz[i]),
                        "truth_mei_hz": float(true_hz[0][i]),
                        "truth_natural_hz": float(true_hz[1][i]),
                        "mei_rms": float(made[i].square().mean().sqrt()),
                        "natural_rms": float(best[i].square().mean().sqrt()),
                    }
                )
            sites = sites_of(tuning, centers_U2, sought_for)
            found_more, sought = more_pictures(mei_more, kind, screen, true, seen, sites, made, made_hz, mei, progress)
            for row in found_more:
                more.append({"recording": spec.recording_id, **row, "unit": spec.unit_ids[row["unit"]]})
            arrays |= {f"{key}/{name}_{kind}": values for name, values in sought.items()}
        arrays[f"{key}/mei_units"] = np.array([spec.unit_ids[unit] for unit in sought_for])
        pictures.plot_exciting(
            out / "pictures", spec.recording_id, arrays, [e for e in excited if e["recording"] == spec.recording_id],
            bin_s=1 / spec.frame_rate_hz,
        )  # fmt: skip
        if mei_more:
            own_more = [row for row in more if row["recording"] == spec.recording_id]
            pictures.plot_more(out / "pictures", spec.recording_id, arrays, own_more, bin_s=1 / spec.frame_rate_hz)
    pictures.plot_population(out / "pictures" / "population.png", rows)
    if any(np.isfinite(row["truth_osi"]) for row in rows):
        plot_truth(out / "pictures" / "against_truth.png", rows, PREFERRED | OF_GRATINGS)
    for name, own in runs.items():
        plot_protocol(
            out / "pictures" / f"protocol_{file_name(name)}.png", rows, own, [spec.recording_id for spec in specs]
        )
        for curve, (of, _) in own[0].twin.curves.items():
            arrays[f"{name}_{curve}_x"] = np.asarray(of.x, np.float64)
    summary = by_group_and_recording(rows, [spec.recording_id for spec in specs], summary_of)
    summary["most_exciting"] = excited
    summary["more_exciting"] = more
    summary["draws"] = gratings.draws
    summary["gratings"], summary["against_truth"] = gratings_summary(rows)
    summary["protocols"] = protocol_summary(rows, runs)
    write_table(out / "tuning.csv", rows)
    summary = write_summary(out / "tuning.json", summary | {"methods": methods(protocols)})
    write_arrays(out / "tuning.npz", arrays)
    return summary


def summary_of(of: Mapping[str, np.ndarray], own: np.ndarray) -> dict[str, Any]:
    """The numbers of some units; each is over those for which there is a value, so over none that is ``undriven``."""
    of = {name: values[own] for name, values in of.items()}
    names = ["osi", "dsi", "circular_variance", "orientation_bandwidth_deg", "modulation_ratio", "spatial_frequency"]
    names += ["temporal_frequency_hz", "contrast_c50", "suppression_index", "orientation_error_deg"]
    found: dict[str, Any] = {"units": int(own.sum()), "undriven": int((of["driven"] == 0).sum())}
    found |= {f"{name}_median": median_finite(of[name]) if name in of else math.nan for name in names}
    found["modulated_share"] = mean_known(of["modulated"])
    found[f"orientation_within_{ORIENTED_DEG:g}deg"] = share_within(of["orientation_error_deg"], ORIENTED_DEG)
    for name in ("spatial_frequency", "temporal_frequency"):
        found[f"{name}_error_octaves_median"] = median_finite(np.abs(of[f"{name}_error_octaves"]))
    found["kind_right_share"] = mean_known(of["kind_right"])
    found["direction_within_45deg"] = share_within(of["direction_error_deg"], 45.0)
    return found
