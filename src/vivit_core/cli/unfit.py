"""Trainings that do not fit their recordings are refused before these are read or simulated, which may take hours."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from vivit_core.cli.asked import Asked
from vivit_core.cli.recordings import expected_sizes
from vivit_core.cli.refusal import check_positions
from vivit_core.cli.trained import is_fitted_alone
from vivit_core.data.checks import check_kind
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.simulate.simulate import Simulator
from vivit_core.models.load import read_trained
from vivit_core.models.plan import check_geometry, expected
from vivit_core.models.twin import Twin
from vivit_core.parts.groups import class_of
from vivit_core.parts.schema import Node
from vivit_core.specs import RecordingError, RecordingSpec, unread
from vivit_core.training.baseline import check_baseline
from vivit_core.training.distillation import Teacher
from vivit_core.training.machine import compiles
from vivit_core.training.monitors import check_monitors
from vivit_core.training.optim import Optimization
from vivit_core.training.surround import check_alone
from vivit_core.training.transfer import check_parts, pretrained


@dataclass(frozen=True)
class Foreseen:
    """A recording of which the header alone was read, or that is yet to be simulated.

    Attributes
    ----------
    file : where it is.
    kind : of its responses, "spikes" or "calcium".
    trials : those that are used, in the model's bins; None where they are not known.
    spec : its sizes. Its statistics are made up, because no check asks for them.
    """

    file: str
    kind: str
    trials: Trials | None
    spec: RecordingSpec


def refuse_unfit(
    datamodule: RecordingsDataModule,
    optimization: Optimization,
    asked: Asked,
    device: str,
    teacher: Teacher | None = None,
) -> None:
    """Refuse a training that cannot be made on recordings, or that would fail or keep nothing later on.

    Parameters
    ----------
    datamodule, optimization : of what is asked for; the recordings are not yet read.
    asked : of the training.
    device : "cpu" or "cuda".
    teacher : the model whose rates it learns; None: it learns counts.

    Raises
    ------
    ValueError
        With a remedy.
    """
    model, readout, likelihood, baseline = asked.model, asked.readout, asked.likelihood, asked.baseline
    alone = is_fitted_alone(model)
    known = simulated(datamodule, asked.data) if datamodule.simulated else named(datamodule, None if alone else readout)
    if known is None:
        return  # the reading names the broken files, all together
    specs = [own.spec for own in known]
    trials = {own.spec.recording_id: (own.file, own.trials) for own in known if own.trials is not None}
    datamodule.check_trials(trials)
    bins = {name: longest(own) for name, (_, own) in trials.items()}
    if alone:
        check_alone(model, specs, bins)
        return
    scatter = class_of("likelihood", likelihood["_target_"])
    for own in known:
        check_kind(f"recording {own.spec.recording_id} ({own.file})", own.kind, scatter.__name__, scatter.made_for)
    twin = check_geometry(model, readout, likelihood, specs, datamodule.clip_length, asked.predict)
    optimization.check(twin)
    check_monitors(asked.callbacks, list(twin.specs))
    if baseline is not None:
        check_baseline(baseline, specs, bins)
    if optimization.core_lr_scale > 0:
        compiles(twin.core.compile_choice, device, passes=0)
    if asked.init_from is not None:
        trained = read_trained(asked.init_from)
        check_parts(twin, trained, pretrained(twin, trained, asked.init_from).parts, asked.init_from)
    if teacher is not None:
        with torch.random.fork_rng(devices=[]):  # a likelihood's nats need numbers, but no draw that a training makes
            teacher.check(Twin(model, readout, likelihood, specs, asked.predict))


def named(datamodule: RecordingsDataModule, readout: Node | None) -> list[Foreseen] | None:
    """What the headers of recording files say; None where one is broken.

    Parameters
    ----------
    datamodule : the recordings.
    readout : which may ask where units lie; None: nothing does.

    Raises
    ------
    ValueError
        Where recordings do not fit each other, or do not say where units lie.
    """
    try:
        infos, seen = datamodule.headers()
    except RecordingError:
        return None
    if readout is not None:
        check_positions(readout, infos)
    return [
        Foreseen(
            str(info.path),
            info.kind,
            info.trials,
            unread(info.recording_id, info.frame_rate_hz, info.frame_shape, info.unit_ids, seen, info.position_dim),
        )
        for info in infos
    ]


def simulated(datamodule: RecordingsDataModule, data: Node) -> list[Foreseen]:
    """What recordings will be that are yet to be simulated. Of a simulator that is not ours ``data.geometry`` knows the
    sizes, and one recording of one unit stands for all."""
    sizes, simulator = expected_sizes(data), datamodule.simulator
    shape, behavior, position_dim = sizes["frame_shape"], sizes["behavior"], sizes["position_dim"]
    if not isinstance(simulator, Simulator):
        return [
            Foreseen("yet to be simulated", "spikes", None, own)
            for own in expected(shape, 1, 1, behavior, position_dim, sizes["frame_rate_hz"])
        ]
    rate_hz = simulator.frame_rate_hz
    order = np.random.default_rng(0)  # any: what is asked for is in all orders the same
    found = []
    for name in simulator.ids:
        trials, unit_ids = datamodule.used(simulator.trials(order), simulator.unit_ids(name), rate_hz)
        spec = unread(name, data["frame_rate_hz"] or rate_hz, shape, unit_ids, behavior, position_dim)
        found.append(Foreseen("yet to be simulated", "spikes", trials, spec))
    return found


def longest(trials: Trials) -> int:
    """Bins of the longest training trial; 0 where there is none."""
    train = trials.of("train")
    return int((train.stop - train.start).max(initial=0))
