"""From the data's settings to recordings that are ready to be read; and which settings those of a checkpoint are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from typing import TYPE_CHECKING, Any

from vivit_core.cli.console import tell
from vivit_core.cli.schema import Budget
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.transforms import finished, widths
from vivit_core.names import setting
from vivit_core.parts.build import build, build_all, build_data
from vivit_core.parts.groups import class_of
from vivit_core.parts.schema import Node
from vivit_core.specs import RecordingSpec
from vivit_core.system.activity import stage
from vivit_core.system.work import Work

if TYPE_CHECKING:
    from vivit_core.training.ranks import ProcessGroup

# How clips are cut from recordings, and what they hold.
CUT = (
    "behavior", "transforms", "frame_rate_hz", "clip_length", "burn_in", "evaluation_length", "evaluation_burn_in",
    "most_units",
)  # fmt: skip
MOST_SIMULATED_BYTES = 16 << 30  # of the recordings that are made because a checkpoint was trained on such


def make_datamodule(data: Mapping[str, Any]) -> RecordingsDataModule:
    """The recordings of a data node, not yet looked for."""
    datamodule = build_data(data)
    assert isinstance(datamodule, RecordingsDataModule)
    return datamodule


def data_of_evaluation(now: Mapping[str, Any], trained: Mapping[str, Any] | None, said: Set[str]) -> dict[str, Any]:
    """The data's settings for an evaluation.

    Parameters
    ----------
    now : the data node of this command.
    trained : the configuration of the training; None where the checkpoint holds none.
    said : keys on the command line.

    Returns
    -------
    Where this command chooses ``data=…``, that, but with clips cut as in training; else the training's data; and in
    both cases with what the command sets key by key: of a group, such as the simulator, the other keys stay. Where
    simulated recordings are kept and by how many processes clips are read is this command's alone: a checkpoint says
    nothing of what is written here.

    Raises
    ------
    ValueError
        Where the checkpoint would have recordings simulated that are larger than ``MOST_SIMULATED_BYTES``.
    """
    if trained is None:
        return dict(now)
    paths = sorted(key.replace("/", ".").split(".")[1:] for key in said if key.startswith(("data.", "data/")))
    own = {path[0] for path in paths}
    if "data" in said:
        data = {**now, **{key: trained["data"][key] for key in CUT if key in trained["data"]}}
        for path in paths:
            take_over(data, now, path)
        return data
    data = dict(trained["data"])
    for path in (["cache"], ["num_workers"], *paths):
        take_over(data, now, path)
    if data["recordings"] is None and data["root"] is None and data["simulator"] is not None:
        size = build("data.simulator", data["simulator"]).n_bytes
        if size > MOST_SIMULATED_BYTES and ["simulator"] not in paths:
            raise ValueError(
                f"the checkpoint's recordings are simulated ones of {size / 2**30:.3g} GiB; say fewer with "
                "data.simulator.recordings=… and the like, choose this command's own with data/simulator=…, or give "
                "others with data.recordings=[FILES]"
            )
    if "root" in own and "recordings" not in own:
        data["recordings"] = None
    return data


def take_over(settings: dict[str, Any], now: Mapping[str, Any], path: Sequence[str]) -> None:
    """Set the value at a path to what it is now, and leave all others, also of the groups on the way, as they are; a
    group that only one of both has is taken over whole, and what is no longer there is left out."""
    *way, last = path
    for step in way:
        inner, of = settings.get(step), now.get(step)
        if not (isinstance(inner, Mapping) and isinstance(of, Mapping)):
            last = step
            break
        settings[step] = dict(inner)
        settings, now = settings[step], of
    if last in now:
        settings[last] = now[last]
    else:
        settings.pop(last, None)


def tested(datamodule: RecordingsDataModule, name: str | None) -> tuple[Recording, Trials]:
    """The recording of a name (None: the first), and its test trials, of which there are some.

    Raises
    ------
    ValueError
        Where there is no such recording, or it has no test trial.
    """
    known = datamodule.by_id
    name = name or next(iter(known))
    if name not in known:
        others = " or ".join(setting("recording", other) for other in sorted(known))
        raise ValueError(f"recording={name}: the data has no such recording; say {others}")
    trials = known[name].info.trials.of("test")
    if not len(trials):
        raise ValueError(f"recording {name} has no test trial; choose another with recording=…")
    return known[name], trials


def expected_sizes(data: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of clips as ``data.geometry`` gives them, without reading any.

    Raises
    ------
    ValueError
        Where the geometry does not say how many numbers a behavior has.
    """
    geometry = data["geometry"]
    transforms = build_all("data.transforms", data.get("transforms", {}))
    numbers = widths(transforms, geometry["behavior"])
    stored = dict(sorted(geometry["behavior"].items()))  # as files list them, and so as twins see them
    seen = finished(transforms, stored) if data["behavior"] is None else data["behavior"]
    unknown = [name for name in seen if name not in numbers]
    if unknown:
        raise ValueError(
            f"data.geometry.behavior does not say how many numbers {unknown} have, or what they are made from; it says "
            f"{geometry['behavior']}"
        )
    return {
        "frame_shape": tuple(geometry["frame_shape"]),
        "behavior": {name: numbers[name] for name in seen},
        "position_dim": geometry["position_dim"],
        "clip_length": data["clip_length"],
        "frame_rate_hz": data["frame_rate_hz"] or geometry["frame_rate_hz"],  # to which a training would bring them
    }


def read_to_train_on(datamodule: RecordingsDataModule, budget: Budget, device: str, processes: ProcessGroup) -> None:
    """Let recordings be checked and known, in every process. The first makes them where they are simulated, and
    computes their statistics."""
    datamodule.configure(
        batch_size=budget.batch_size,
        batches_per_epoch=budget.steps_per_epoch * budget.accumulate,
        pin_memory=device == "cuda",
    )

    def specs() -> list[RecordingSpec]:
        if not datamodule.simulated:
            reading = Work("reading", sum(path.stat().st_size for path in datamodule.paths()))
            with stage("reading the recordings", work=reading):
                datamodule.setup()
        else:
            size = getattr(datamodule.simulator, "n_bytes", None)
            simulating = None if size is None else Work("simulating", size)
            with stage("the simulation of recordings", work=simulating, unless="they are there already"):
                datamodule.prepare_data()
            datamodule.setup()
        for lines in datamodule.check_start().values():
            for line in lines:
                tell(line)
        return datamodule.specs

    known = processes.first(specs)
    if processes.rank > 0:
        datamodule.configure(specs=known)
        datamodule.setup()


def check_responses(datamodule: RecordingsDataModule, likelihood: Node) -> None:
    """Say where responses are not what the likelihood is made for, and refuse what cannot end well."""
    scatter = class_of("likelihood", likelihood["_target_"])
    for line in datamodule.check_responses(scatter.__name__, scatter.made_for):
        tell(line)
