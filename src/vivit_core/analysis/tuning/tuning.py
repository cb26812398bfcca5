"""The whole of tuning: gratings, the laboratory's protocols, most exciting images, tables, pictures.

Shape letters: U units, D directions, S spatial and F temporal frequencies, T bins of a course, K contrasts, A sizes,
B pictures, H W pixels.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from vivit_core.analysis.screen import Screen, natural_clips, screens_of
from vivit_core.analysis.tables import write_arrays, write_summary
from vivit_core.analysis.truth import ORIENTED_DEG, by_group_and_recording, centers_px, truth_of
from vivit_core.analysis.tuning import plots as pictures
from vivit_core.analysis.tuning.draws import drawn, with_intervals
from vivit_core.analysis.tuning.laboratory import (
    OF_GRATINGS,
    PREFERRED,
    TRULY,
    ProtocolRun,
    TrueScreen,
    gratings_summary,
    methods,
    pictures_for,
    protocol_summary,
    run_protocols,
    sites_of,
    true_screen,
)
from vivit_core.analysis.tuning.laboratory_plots import plot_protocol, plot_truth
from vivit_core.analysis.tuning.measure import Tuning, measure, preferences
from vivit_core.analysis.tuning.more_exciting import more_pictures, shown_to
from vivit_core.analysis.tuning.most_exciting import Ascent, Kind, More, best_natural, most_exciting
from vivit_core.analysis.tuning.numbers import FAR, against_truth
from vivit_core.analysis.tuning.protocols.base import Bench, Protocol
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.reader import Recording
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
    runs: dict[str, list[ProtocolRun]] = {name: [] for name in protocols}
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
        spec, key = screen.spec, key_name(screen.spec.recording_id)
        own = measured(model, recording, screen, gratings, lab_units, progress)
        found = dict(own.found)
        for run in laboratory(protocols, own, *natural_of[done], progress):
            runs[run.name].append(run)
            found |= run.columns(spec.n_units)
            arrays |= {f"{key}/{name}": values for name, values in run.arrays(spec.n_units).items()}
        found["knowable_fraction"] = np.array([known.get((spec.recording_id, unit), np.nan) for unit in spec.unit_ids])
        rows += [
            {"recording": spec.recording_id, "unit": unit} | {name: column[i].item() for name, column in found.items()}
            for i, unit in enumerate(spec.unit_ids)
        ]
        arrays |= {f"{key}/{name}": values for name, values in own.arrays.items()}
        pictures.plot_tuning(
            out / "pictures" / f"tuning_{file_name(spec.recording_id)}.png",
            spec.recording_id,
            spec.unit_ids,
            own.tuning,
            found,
        )
        if mei is None or mei_units == 0:
            continue
        sought = most_exciting_of(own, recording, own.order[:mei_units], mei, mei_more, natural, progress)
        excited += sought.excited
        more += sought.more
        arrays |= {f"{key}/{name}": values for name, values in sought.arrays.items()}
        bin_s = 1 / spec.frame_rate_hz
        pictures.plot_exciting(out / "pictures", spec.recording_id, arrays, sought.excited, bin_s)
        if mei_more:
            pictures.plot_more(out / "pictures", spec.recording_id, arrays, sought.more, bin_s)
    pictures.plot_population(out / "pictures" / "population.png", rows)
    if any(np.isfinite(row["truth_osi"]) for row in rows):
        plot_truth(out / "pictures" / "against_truth.png", rows, PREFERRED | OF_GRATINGS)
    ids = [spec.recording_id for spec in specs]
    for name, of_protocol in runs.items():
        plot_protocol(out / "pictures" / f"protocol_{file_name(name)}.png", rows, of_protocol, ids)
        for curve, (of, _) in of_protocol[0].twin.curves.items():
            arrays[f"{name}_{curve}_x"] = np.asarray(of.x, np.float64)
    summary = by_group_and_recording(rows, ids, summary_of)
    summary["most_exciting"] = excited
    summary["more_exciting"] = more
    summary["draws"] = gratings.draws
    summary["gratings"], summary["against_truth"] = gratings_summary(rows)
    summary["protocols"] = protocol_summary(rows, runs)
    write_table(out / "tuning.csv", rows)
    summary = write_summary(out / "tuning.json", summary | {"methods": methods(protocols)})
    write_arrays(out / "tuning.npz", arrays)
    return summary


# --- one recording ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class Measured:
    """Gratings at one recording's units, of the twin and of the true neurons where they are known.

    Attributes
    ----------
    screen, true : the units, and the true neurons before the same screen.
    centers_U2 : around which discs were shown, x and y in px.
    tuning : of the twin's units.
    found : columns of ``tuning.csv``, (U,) each.
    order : the units, those first that gratings drive most, relative to gray.
    at_lab : those at which protocols are run.
    """

    screen: Screen
    true: TrueScreen | None
    centers_U2: np.ndarray
    tuning: Tuning
    found: dict[str, np.ndarray]
    order: list[int]
    at_lab: list[int]

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """For ``tuning.npz``."""
        names = ("blank_U", "f0_DSFU", "f1_DSFU", "course_TU", "contrast_KU", "size_AU")
        curves = {
            name: self.tuning.curve(axis) for axis, name in enumerate(("direction_DU", "spatial_SU", "temporal_FU"))
        }
        ids = {"unit_ids": np.array(self.screen.spec.unit_ids)}
        return {name: getattr(self.tuning, name) for name in names} | curves | ids


def measured(
    model: Predictor, recording: Recording, screen: Screen, gratings: Gratings, lab_units: int, progress: bool
) -> Measured:
    """Show gratings to one recording's units, and to the true neurons where they are known; see :func:`tune`."""
    spec = screen.spec
    own_U = [recording.info.unit_ids.index(unit) for unit in spec.unit_ids]  # in the file
    middle = (np.array(screen.frame_size[::-1]) - 1) / 2
    centers_U2 = centers_px(model, recording, spec.recording_id)[own_U]
    # An LN model that found nothing in a unit looks nowhere; a disc in the middle is as good as any.
    centers_U2 = np.where(np.isfinite(centers_U2), centers_U2, middle)
    tuning = measure(screen, gratings, centers_U2, progress)
    found = preferences(tuning)
    order = np.argsort(-found["best_hz"] / np.maximum(tuning.blank_U, 1e-3), kind="stable").tolist()
    at_lab = [unit for unit in order if found["driven"][unit]][:lab_units]
    found = with_intervals(found, tuning, drawn(screen, tuning, centers_U2, at_lab, progress))
    found |= against_truth(found, {name: values[own_U] for name, values in truth_of(recording).items()})
    true = true_screen(recording, screen)
    same: dict[str, np.ndarray] = {}
    if true is not None:
        truly = measure(true, gratings, centers_U2, progress)
        same = preferences(truly)
        again = [unit for unit in at_lab if same["driven"][unit]]
        same = with_intervals(same, truly, drawn(true, truly, centers_U2, again, progress))
    found |= {column: same.get(name, np.full(spec.n_units, np.nan)) for name, column in TRULY.items()}
    return Measured(screen, true, centers_U2, tuning, found, order, at_lab)


def laboratory(
    protocols: Mapping[str, Protocol], own: Measured, natural_BHW: Tensor, film_B: np.ndarray, progress: bool
) -> list[ProtocolRun]:
    """Every protocol at the units at which they are run, with natural pictures and the stimulus of each."""
    if not protocols:
        return []
    gratings = own.tuning.gratings
    sites = sites_of(own.tuning, own.centers_U2, own.at_lab)
    lasts_s = gratings.common_s(own.screen.spec.frame_rate_hz)
    twin, true = (
        None if screen is None else Bench(screen, natural_BHW, gratings.settle_s, lasts_s, progress, film_B)
        for screen in (own.screen, own.true)
    )
    assert twin is not None
    return run_protocols(protocols, twin, true, sites)


@dataclass(frozen=True)
class Sought:
    """Pictures that excite units most, and others.

    Attributes
    ----------
    excited, more : rows of ``tuning.json``, one a picture.
    arrays : the pictures, for ``tuning.npz``.
    """

    excited: list[dict[str, Any]]
    more: list[dict[str, Any]]
    arrays: dict[str, np.ndarray]


def most_exciting_of(
    own: Measured,
    recording: Recording,
    units: Sequence[int],
    mei: Ascent,
    mei_more: Sequence[More],
    natural: int,
    progress: bool,
) -> Sought:
    """Seek pictures for some units of a recording; see :func:`tune`."""
    screen, true, spec = own.screen, own.true, own.screen.spec
    bins = screen.bins(mei.picture_s)
    shown = natural_clips(screen, recording, bins, natural)
    seen = natural_clips(screen, recording, bins, SEEN, ("train", "val", "test"))
    sites = sites_of(own.tuning, own.centers_U2, units)
    excited: list[dict[str, Any]] = []
    more: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    kinds: tuple[Kind, Kind] = ("image", "clip")
    for kind in kinds:
        made, made_hz = most_exciting(screen, seen, units, mei, kind, progress)
        best, best_hz = best_natural(screen, shown, units, mei, kind, progress)
        arrays |= {f"mei_{kind}": made.numpy(), f"natural_{kind}": best.numpy()}
        true_hz = [np.full(len(units), math.nan)] * 2
        if true is not None:
            true_hz = [shown_to(true, units, x[:, None], kind, mei)[:, 0] for x in (made, best)]
        excited += [
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
            for i, unit in enumerate(units)
        ]
        found, pictures_of = more_pictures(mei_more, kind, screen, true, seen, sites, made, made_hz, mei, progress)
        more += [{"recording": spec.recording_id, **row, "unit": spec.unit_ids[row["unit"]]} for row in found]
        arrays |= {f"{name}_{kind}": values for name, values in pictures_of.items()}
    return Sought(excited, more, arrays | {"mei_units": np.array([spec.unit_ids[unit] for unit in units])})


# --- its summary ------------------------------------------------------------------------------------------------------
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
