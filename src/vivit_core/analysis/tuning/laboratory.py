"""The laboratory: protocols at some units of a recording, on the twin and on the true neurons where they are known.

Shape letters: S sites (units), U units, X places of a curve, B clips, T bins, H W pixels, A sizes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vivit_core.analysis.screen import AnyScreen, Screen, natural_pictures
from vivit_core.analysis.tuning.measure import Tuning
from vivit_core.analysis.tuning.numbers import METHODS
from vivit_core.analysis.tuning.protocols.base import Bench, Outcome, Protocol, Site
from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.cells import GRAY
from vivit_core.data.simulate.neurons import TrueNeurons, true_neurons
from vivit_core.rf.maps import turn_deg
from vivit_core.specs import RecordingSpec
from vivit_core.stimuli.surrounds import Drift

log = logging.getLogger(__name__)

ROUNDING = 1e-9  # bounds of an interval that differ by less, relatively or at all, are the same
NEARLY_FULL = 0.95  # share of the largest response to a disc that counts as nearly full

# Where a unit prefers gratings to be; an angle has no median.
ANGLES = {"orientation_deg": "orientation (°)", "direction_deg": "direction (°)"}
PREFERRED = ANGLES | {
    "spatial_frequency": "spatial frequency (cycles/px)",
    "temporal_frequency_hz": "temporal frequency (Hz)",
}
# What gratings tell beside.
OF_GRATINGS = {
    "osi": "OSI",
    "dsi": "DSI",
    "circular_variance": "circular variance",
    "orientation_bandwidth_deg": "half width (°)",
    "modulation_ratio": "F1/F0",
    "contrast_c50": "c50",
    "preferred_size_px": "preferred size (px)",
    "suppression_index": "suppression index",
}
# What the true neuron does under the same gratings stands in columns of these names. ``truth_orientation_deg`` and the
# like are taken: they are what its filters were made with.
TRULY = {name: f"neuron_{name}" for name in PREFERRED} | {name: f"truth_{name}" for name in OF_GRATINGS}


# --- the true neurons -------------------------------------------------------------------------------------------------
class TrueScreen(AnyScreen):
    """The true neurons of a simulated recording before the screen that the twin's units look at.

    Parameters
    ----------
    neurons : of the recording.
    spec : what the twin knows of it; its order of units is taken.
    gray, reach : of the twin's screen: the pixel at a contrast of 0, and the step from it at 1.
    """

    def __init__(self, neurons: TrueNeurons, spec: RecordingSpec, gray: float, reach: float) -> None:
        super().__init__(spec, gray, reach)
        self.neurons = neurons
        self.columns = [neurons.unit_ids.index(unit) for unit in spec.unit_ids]

    @classmethod
    def alone(cls, neurons: TrueNeurons) -> TrueScreen:
        """The neurons before a screen of their own, which needs no twin."""
        gray, units = GRAY, neurons.unit_ids
        spec = RecordingSpec(
            recording_id="true neurons",
            frame_rate_hz=neurons.frame_rate_hz,
            frame_shape=(1, *neurons.frame_shape),
            unit_ids=units,
            unit_mean_counts=tuple((neurons.population.mean_rate_hz / neurons.frame_rate_hz).tolist()),
            pixel_mean=gray,
            pixel_std=gray / 2,
        )
        return cls(neurons, spec, gray, gray)

    def rates(self, contrast_BTHW: Tensor) -> Tensor:
        pixels_BTHW = (self.gray + self.reach * contrast_BTHW).numpy()
        return torch.as_tensor(self.neurons.rates(pixels_BTHW)[..., self.columns])


def true_screen(recording: Recording, screen: Screen) -> TrueScreen | None:
    """The true neurons before a twin's screen; None where they are not known, or where the twin sees other frames or
    another rate than the file holds."""
    neurons = true_neurons(recording.path)
    if neurons is None:
        return None
    same = neurons.frame_shape == screen.frame_size and math.isclose(
        neurons.frame_rate_hz, screen.spec.frame_rate_hz, rel_tol=1e-3
    )
    if not same or not np.array_equal(recording.frames(0, 2), Recording(recording.path).frames(0, 2)):
        log.info(
            "%s: the twin sees other frames than the true neurons did, so they are not shown the stimuli", recording
        )
        return None
    return TrueScreen(neurons, screen.spec, screen.gray, screen.reach)


# --- the units --------------------------------------------------------------------------------------------------------
def sites_of(tuning: Tuning, centers_U2: np.ndarray, units: Sequence[int]) -> list[Site]:
    """Where protocols show their stimuli to some units, and which gratings they prefer.

    A unit that no disc drives has one of half the frame, and a line tells how many have.
    """
    gratings = tuning.gratings
    sites, without = [], 0
    for unit in units:
        d, s, f = tuning.best_U3[unit].tolist()
        sizes_A = np.maximum(tuning.size_AU[: len(gratings.sizes_px), unit], 0)
        # The full field is left out: a surround has to lie inside the frame.
        fits = np.flatnonzero((sizes_A > 0) & (sizes_A >= NEARLY_FULL * sizes_A.max(initial=0.0)))
        diameter = gratings.sizes_px[fits[0]] if len(fits) else min(tuning.frame_size) / 2
        without += not len(fits)
        drift = Drift(
            float(gratings.directions_deg[d]),
            gratings.spatial_frequencies[s],
            gratings.temporal_frequencies_hz[f],
            gratings.contrast,
        )
        x, y = centers_U2[unit].tolist()
        analysed_s = gratings.analysed_bins(tuning.rate_hz)[f] / tuning.rate_hz
        sites.append(Site(int(unit), (x, y), float(diameter), drift, bool(tuning.simple_U[unit]), analysed_s))
    if without:
        words = "%d of %d units answer to no disc (gratings.sizes_px); protocols take one of half the frame, %g px"
        log.info(words, without, len(sites), min(tuning.frame_size) / 2)
    return sites


def pictures_for(
    protocols: Mapping[str, Protocol], screen: Screen, recording: Recording, number: int
) -> tuple[Tensor, np.ndarray]:
    """:func:`natural_pictures`, at most ``number``; none where no protocol shows any.

    Raises
    ------
    ValueError
        Where the recording has fewer than a protocol shows.
    """
    if not any(protocol.pictures for protocol in protocols.values()):
        return torch.zeros(0, *screen.frame_size), np.zeros(0, int)
    natural_BHW, film_B = natural_pictures(screen, recording, number)
    for name, protocol in protocols.items():
        if protocol.pictures > len(natural_BHW):
            raise ValueError(
                f"lab.{name} shows {protocol.pictures} natural pictures, and recording {recording.recording_id} gives "
                f"{len(natural_BHW)}, which are of one trial of each stimulus; set lab.{name}.draws to so many or fewer"
            )
    return natural_BHW, film_B


# --- the protocols ----------------------------------------------------------------------------------------------------
@dataclass(frozen=True, eq=False)
class ProtocolRun:
    """One protocol at one recording's sites."""

    name: str
    protocol: Protocol
    sites: list[Site]
    twin: Outcome
    true: Outcome | None

    def columns(self, n_units: int) -> dict[str, np.ndarray]:
        """Columns of ``tuning.csv``, (U,); NaN for units at which it did not run."""
        rows = [site.unit for site in self.sites]
        found: dict[str, np.ndarray] = {}
        for number, values_S3 in self.twin.numbers.items():
            column = f"{self.name}_{number}"
            for i, end in enumerate(("", "_low", "_high")):
                found[column + end] = placed(values_S3[:, i], rows, n_units)
            true_S = np.full(len(rows), np.nan) if self.true is None else self.true.numbers[number][:, 0]
            found[f"truth_{column}"] = placed(true_S, rows, n_units)
        return found

    def arrays(self, n_units: int) -> dict[str, np.ndarray]:
        """Curves for ``tuning.npz``, (U, X)."""
        rows = [site.unit for site in self.sites]
        found = {}
        for word, outcome in (("", self.twin), ("truth_", self.true)):
            for curve, (_, values_SX) in ({} if outcome is None else outcome.curves).items():
                found[f"{word}{self.name}_{curve}_UX"] = placed(values_SX, rows, n_units)
        return found


def placed(values_S: np.ndarray, rows: Sequence[int], n_units: int) -> np.ndarray:
    """Values of some units among all."""
    whole = np.full((n_units, *values_S.shape[1:]), np.nan)
    whole[list(rows)] = values_S
    return whole


def run_protocols(
    protocols: Mapping[str, Protocol], twin: Bench, true: Bench | None, sites: Sequence[Site]
) -> list[ProtocolRun]:
    """Every protocol, on the twin and on the true neurons."""
    runs = []
    for name, protocol in protocols.items():
        found = protocol.run(twin, sites, name)
        again = None if true is None else protocol.run(true, sites, f"{name}, true neurons")
        runs.append(ProtocolRun(name, protocol, list(sites), found, again))
    return runs


def apart(column: str, twin_U: np.ndarray, true_U: np.ndarray) -> np.ndarray:
    """How far a number of units is from that of the true neurons: angles by the smaller turn, preferred frequencies in
    octaves."""
    if column in ANGLES:
        return turn_deg(twin_U, true_U, 180.0 if column == "orientation_deg" else 360.0)
    if column in PREFERRED:
        return np.abs(np.log2(twin_U / true_U))
    with np.errstate(invalid="ignore"):
        return np.where(twin_U == true_U, 0.0, np.abs(twin_U - true_U))  # of two infinite ones too


def agreement(of: Mapping[str, np.ndarray], column: str) -> dict[str, Any]:
    """How a number of the twin's units compares with that of the true neurons, over units at which both have it; angles
    have no median and no correlation.

    Where it is infinite of one of them or of both, a unit is counted as ``beyond``, and has its place in medians; the
    correlation is over the others.
    """
    twin_U, true_U = of[column], of[TRULY.get(column, f"truth_{column}")]
    both = ~np.isnan(twin_U) & ~np.isnan(true_U)
    twin_U, true_U = twin_U[both], true_U[both]
    within = np.isfinite(twin_U) & np.isfinite(true_U)
    found: dict[str, Any] = {"units": len(within), "beyond": int((~within).sum()), "error_median": math.nan}
    found |= {"correlation": math.nan, "twin_median": math.nan, "truth_median": math.nan}
    if len(within):
        found["error_median"] = float(np.median(apart(column, twin_U, true_U)))
    if len(within) and column not in ANGLES:
        found["twin_median"], found["truth_median"] = float(np.median(twin_U)), float(np.median(true_U))
    twin_U, true_U = twin_U[within], true_U[within]
    if len(twin_U) > 2 and column not in ANGLES and twin_U.std() > 0 and true_U.std() > 0:
        found["correlation"] = float(np.corrcoef(twin_U, true_U)[0, 1])
    return found


def methods(protocols: Mapping[str, Protocol]) -> dict[str, str]:
    """How each number of gratings and of protocols is defined."""
    of_protocols = {
        f"{name}_{number}": method
        for name, protocol in protocols.items()
        for number, method in protocol.methods.items()
    }
    return METHODS | of_protocols


def protocol_summary(
    rows: Sequence[Mapping[str, Any]], runs: Mapping[str, Sequence[ProtocolRun]]
) -> dict[str, dict[str, Any]]:
    """What each protocol found over all units at which it ran, for ``tuning.json``."""
    summary = {}
    for name, own in runs.items():
        protocol = own[0].protocol
        numbers = {}
        for number, title in protocol.titles.items():
            of = told_of(rows, f"{name}_{number}")
            numbers[number] = {"title": title, **middle(of), "against_truth": agreement(of, f"{name}_{number}")}
        summary[name] = {
            "over": protocol.over,
            "draws": protocol.drawn,
            "units": sum(len(run.sites) for run in own),
            "numbers": numbers,
            "curves": {
                key: {"title": f"{name.replace('_', ' ')}: {curve.title.lower()}", "x_title": curve.x_title}
                for key, (curve, _) in own[0].twin.curves.items()
            },
        }
    return summary


def told_of(rows: Sequence[Mapping[str, Any]], column: str) -> dict[str, np.ndarray]:
    """A number of all units with its bounds, and the true neurons'; NaN where a column is missing."""
    keys = (column, f"{column}_low", f"{column}_high", TRULY.get(column, f"truth_{column}"))
    return {key: np.array([row.get(key, math.nan) for row in rows], float) for key in keys}


def middle(of: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Units that have a number, how many of them have no interval, a number or an interval that goes beyond what was
    shown (infinite), and the medians of numbers and of intervals' widths, in which those count too."""
    column, low, high, _ = of
    has_U, told_U = ~np.isnan(of[column]), ~np.isnan(of[low])
    with np.errstate(invalid="ignore"):
        same_U = np.isclose(of[low], of[high], rtol=ROUNDING, atol=ROUNDING)  # also where both are infinite
        width_U = np.where(same_U, 0.0, of[high] - of[low])
    medians = (float(np.median(values)) if len(values) else math.nan for values in (of[column][has_U], width_U[told_U]))
    return {
        "units": int(has_U.sum()),
        "beyond": int(np.isinf(of[column]).sum()),
        "open_intervals": int(np.isinf(of[high]).sum()),
        "without_interval": int((has_U & ~told_U).sum()),
        **dict(zip(("median", "interval_width"), medians, strict=True)),
    }


def gratings_summary(rows: Sequence[Mapping[str, Any]]) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """What gratings tell of the units that have intervals, and how what they tell of all compares with the true neurons
    under the same gratings."""
    told, compared = {}, {}
    for column, title in (PREFERRED | OF_GRATINGS).items():
        own = [row for row in rows if math.isfinite(row["best_hz_low"])]
        told[column] = {"title": title, **middle(told_of(own, column))}
        if column in ANGLES:
            told[column]["median"] = math.nan
        compared[column] = agreement(told_of(rows, column), column)
    return told, compared
