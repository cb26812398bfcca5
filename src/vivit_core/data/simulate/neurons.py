"""The neurons of a simulated recording, made again from its file, so that they can be shown other stimuli.

Shape letters: N trials or clips, T bins (= frames), H W pixels, U units, 2 = (x, y).
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vivit_core.data.recording.reader import Recording
from vivit_core.data.simulate.cells import Cells, FloatArray
from vivit_core.data.simulate.context import Context, Contexts
from vivit_core.data.simulate.eye_tracker import EyeTracker
from vivit_core.data.simulate.population import Population
from vivit_core.data.simulate.simulate import SETTINGS, Simulator
from vivit_core.data.simulate.world import velocity

log = logging.getLogger(__name__)

CHECKED_TRIALS = 2  # training trials on which rates made again are compared with the file's
TOLERANCE = 0.01  # of their root mean square difference, as a share of the rates'


@dataclass(frozen=True, eq=False)
class TrueNeurons:
    """One simulated recording's neurons.

    Attributes
    ----------
    population : with the scales that the recording has.
    contexts : what changes their answers from beside their fields; None where they are local.
    gain_U : mean gain that the eye gave in the training trials.
    unit_ids : in the file's order, which is that of every array.
    """

    population: Population
    contexts: Contexts | None
    gain_U: FloatArray
    unit_ids: tuple[str, ...]

    @property
    def frame_shape(self) -> tuple[int, int]:
        """Height and width of the frames, px."""
        return self.population.frame_shape

    @property
    def frame_rate_hz(self) -> float:
        """Frames, and bins, a second."""
        return self.population.frame_rate_hz

    def rates(self, pixels_NTHW: NDArray) -> FloatArray:
        """What the neurons fire without noise, as the eye does what it does on average.

        Parameters
        ----------
        pixels_NTHW : clips from 0 to 255, fractions too; each begins after a gray screen (127.5).

        Returns
        -------
        (N, T, U) in Hz.
        """
        return self.population.rate(self.drive(pixels_NTHW), self.gain_U)

    def drive(self, pixels_NTHW: NDArray) -> FloatArray:
        """Normalized response, with what the contexts leave of it; (N, T, U)."""
        energy_NTU, pool_NTU = self.population.filter(pixels_NTHW)
        drive_NTU = self.population.drive(energy_NTU, pool_NTU)
        if self.contexts is None:
            return drive_NTU
        signal_NTU = self.contexts.signal(pixels_NTHW, energy_NTU / self.population.energy_scale)
        return drive_NTU * self.contexts.kept(signal_NTU)


def true_neurons(path: Path) -> TrueNeurons | None:
    """The neurons of a simulated recording.

    Drawn again from the settings that lie beside the file, with the scales that its frames give, and compared with the
    rates that it holds.

    Parameters
    ----------
    path : a recording file in the folder that :class:`Simulator` made, as ``data.cache`` keeps it.

    Returns
    -------
    None, with the reason logged, where the file was not simulated, was moved away from its settings, was made by
    another version, or has a wrong eye tracker.
    """
    recording = Recording(path)
    if "rate" not in recording.truths:
        return None
    simulator = settings_of(path)
    if simulator is None or path.stem not in simulator.ids:
        log.info("%s: its neurons cannot be made again, because no %s of this version lies beside it", path, SETTINGS)
        return None
    if simulator.eye_tracker is not None:
        log.info("%s: its neurons cannot be made again, because its eye tracker hides what the eye saw", path)
        return None
    neurons = drawn(simulator, recording, simulator.ids.index(path.stem))
    if neurons is None:
        log.info("%s: its neurons cannot be made again, because other settings than those beside it made it", path)
    return neurons


def settings_of(path: Path) -> Simulator | None:
    """The simulator that made a recording file, from the settings beside it; None where there are none of this
    version."""
    file = path.parent / SETTINGS
    if not file.is_file():
        return None
    try:
        fields: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        fields.pop("version")
        fields.pop("gaze_room_deg", None)
        context = fields.pop("context", None)
        if context is not None:
            context.pop("version")
            ranges: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in context.items()}
            context = Context(**ranges)
        tracker = fields.pop("eye_tracker", None)
        simulator = Simulator(**fields, context=context, eye_tracker=None if tracker is None else EyeTracker(**tracker))
    except (ValueError, TypeError, KeyError, AttributeError):
        return None
    return simulator if path.parent.name == simulator.name else None  # the name is of the settings and the version


def drawn(simulator: Simulator, recording: Recording, index: int) -> TrueNeurons | None:
    """The neurons of one of a simulator's recordings; None where they do not fire as the file says."""
    shape, rate_hz = (simulator.height, simulator.width), simulator.frame_rate_hz
    population = simulator.population(index)
    if not all(np.array_equal(recording.truth(name), value) for name, value in population.truth().items()):
        return None
    trials = recording.info.trials.of("train")
    spans = list(zip(trials.start.tolist(), trials.stop.tolist(), strict=True))
    energy_U, pool_U, bins = np.zeros(simulator.units), np.zeros(simulator.units), 0
    for start, stop in spans:
        energy_NTU, pool_NTU = population.filter(recording.frames(start, stop))  # the one channel as the one trial
        energy_U += energy_NTU.sum((0, 1), dtype=np.float64)
        pool_U += pool_NTU.sum((0, 1), dtype=np.float64)
        bins += stop - start
    population = replace(
        population,
        energy_scale=(energy_U / bins).astype(np.float32),
        pool_scale=(pool_U / bins).astype(np.float32),
    )
    contexts = None
    if simulator.context is not None:
        kind_U = recording.unit_column("context")
        assert kind_U is not None  # the simulator writes it
        contexts = Contexts(
            cells=Cells.over(shape, rate_hz),
            center_px_U2=population.center_px,
            far_px=simulator.context.far_px,
            kind_U=np.array([kind.decode() if isinstance(kind, bytes) else str(kind) for kind in kind_U]),
            suppression_U=recording.truth("context_suppression"),
            tau_s_U=recording.truth("context_tau_s"),
            strength_U=recording.truth("context_strength"),
        )
    gains = [gain_of(population, recording, *span) for span in spans]
    neurons = TrueNeurons(population, contexts, np.concatenate(gains).mean(0), tuple(recording.info.unit_ids))
    return scaled(neurons, recording, spans[:CHECKED_TRIALS], gains[:CHECKED_TRIALS])


def gain_of(population: Population, recording: Recording, start: int, stop: int) -> FloatArray:
    """The gain that the eye gave in a trial, (T, U)."""
    position_T2 = recording.behavior(start, stop, {"eye_position": 2})
    return population.gain(position_T2[None], velocity(position_T2[None], population.frame_rate_hz))[0]


def scaled(
    neurons: TrueNeurons, recording: Recording, spans: list[tuple[int, int]], gains: list[FloatArray]
) -> TrueNeurons | None:
    """The same neurons with the scale of their rates that these trials' true rates give; None where none does."""
    population = neurons.population
    drive_TU = np.concatenate([neurons.drive(recording.frames(*span))[0] for span in spans]).astype(np.float64)
    gain_TU = np.concatenate(gains).astype(np.float64)
    rate_TU = np.concatenate([recording.truth("rate", *span) for span in spans]) * population.frame_rate_hz
    driven_TU = rate_TU / gain_TU - population.baseline * population.mean_rate_hz
    scale_U = (driven_TU * drive_TU).sum(0) / np.maximum(np.square(drive_TU).sum(0), 1e-30)
    again = replace(neurons, population=replace(population, rate_scale=scale_U.astype(np.float32)))
    wrong_TU = again.population.rate(drive_TU.astype(np.float32), gain_TU.astype(np.float32)) - rate_TU
    error_U = np.sqrt(np.square(wrong_TU).mean(0) / np.maximum(np.square(rate_TU).mean(0), 1e-30))
    return again if error_U.max() <= TOLERANCE else None
