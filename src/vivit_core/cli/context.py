"""What tasks share: the machine, the data of a checkpoint, the run folder, the console."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from lightning.pytorch.utilities import rank_zero_only
from rich.table import Table

from vivit_core.cli import runs
from vivit_core.cli.schema import Budget
from vivit_core.cli.sweeps import Job
from vivit_core.cli.validate import fingerprint
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.reader import Recording
from vivit_core.data.transforms import widths
from vivit_core.models.checkpoint import refused, settings_of
from vivit_core.models.ln import LN, load_ln
from vivit_core.models.load import load_twin
from vivit_core.models.twin import Twin
from vivit_core.names import command, setting
from vivit_core.parts.build import build, build_all
from vivit_core.report.page import publish
from vivit_core.report.section import Section, cell
from vivit_core.system.terminal import PlainConsole, shown
from vivit_core.training.machine import (
    bf16_is_native,
    exact_float32,
    precision_on_gpu,
)

Settings = dict[str, Any]  # a composed, validated, plain configuration


# How clips are cut from recordings, and what they hold.
CUT = (
    "behavior", "transforms", "frame_rate_hz", "clip_length", "burn_in", "evaluation_length", "evaluation_burn_in",
)  # fmt: skip


MOST_SIMULATED_BYTES = 16 << 30  # of the recordings that are made because a checkpoint was trained on such


LOG_WIDTH = 160  # characters of a line in a log file, where no terminal says how many there are


LEAST_WIDTH = 40  # below it a table's columns hold nothing


LN_TARGET = f"{LN.__module__}.{LN.__qualname__}"


console = PlainConsole()


def job_of_sweep() -> Job | None:
    """This job of a sweep; None outside of one."""
    config = HydraConfig.get()
    return Job(Path(config.sweep.dir).absolute(), config.job.num) if config.mode == RunMode.MULTIRUN else None


def note(job: Job | None, **changes: Any) -> None:
    if job is not None and is_first_rank():
        score = changes.get("score")
        job.note(**changes | ({"score": None} if score is not None and not math.isfinite(score) else {}))


def tell(line: str) -> None:
    console.print(line, markup=False)


def machine_of(trainer: Mapping[str, Any], announce: bool = False) -> tuple[str, Budget]:
    """The device and its budget; ``announce`` says in one line what was chosen and why."""
    there = torch.cuda.is_available()
    device, why = str(trainer["device"]), f"trainer.device={trainer['device']}"
    if device == "cuda" and not there:
        raise ValueError("trainer.device=cuda, but torch sees no GPU here; trainer.device=auto takes what there is")
    if device == "auto":
        device, why = ("cuda", torch.cuda.get_device_name()) if there else ("cpu", "no GPU here")
    budget = Budget(
        **{name: value if trainer[name] is None else trainer[name] for name, value in trainer[device].items()}
    )
    if device == "cuda":
        exact_float32()
        precision = precision_on_gpu(trainer["precision"], budget.precision, bf16_is_native())
        if precision != budget.precision:
            budget, why = replace(budget, precision=precision), f"{why}, which does not compute in bfloat16"
    if announce:
        processes = trainer["devices"] * trainer["num_nodes"]
        where = f"{device} with {processes} processes" if processes > 1 else device
        passes = f"{budget.accumulate} × {budget.batch_size}" if budget.accumulate > 1 else f"{budget.batch_size}"
        limit = "" if budget.max_minutes == float("inf") else f", at most {budget.max_minutes:g} minutes"
        console.print(
            f"{why}: training on {where}, {budget.epochs} epochs of {budget.steps_per_epoch} steps of {passes} clips, "
            f"{budget.precision}{limit} (trainer.epochs=… and the like change it)"
        )
    return device, budget


def budget_record(trainer: Mapping[str, Any]) -> dict[str, Any]:
    """:func:`machine_of` as a run's environment.json keeps it; ``max_minutes`` is None where there is no limit."""
    device, budget = machine_of(trainer)
    minutes = None if math.isinf(budget.max_minutes) else budget.max_minutes
    return {"device": device, **asdict(budget), "max_minutes": minutes}


def data_of_checkpoint(
    settings: Settings, content: Mapping[str, Any], twin: Twin | LN, budget: Budget
) -> tuple[runs.Run, RecordingsDataModule]:
    """A run folder, described, and the data that a checkpoint's model is to be shown."""
    trained = settings_of(settings["checkpoint"], content)
    settings = {**settings, "data": data_of_evaluation(settings["data"], trained, overridden())}
    run = runs.Run(Path(settings["run_dir"]))
    describe(run, settings)
    return run, data_for(settings["data"], twin, budget)


def data_for(data: Mapping[str, Any], twin: Twin | LN, budget: Budget) -> RecordingsDataModule:
    """The recordings that a model knows, ready to be read."""
    datamodule = make_datamodule(data)
    datamodule.configure(batch_size=budget.batch_size, specs=list(twin.specs.values()))
    datamodule.prepare_data()
    datamodule.setup()
    return datamodule


def data_of_evaluation(now: Settings, trained: Settings | None, said: set[str]) -> Settings:
    """The data's settings for an evaluation.

    Parameters
    ----------
    now : the data node of this command.
    trained : the configuration of the training; None where the checkpoint holds none.
    said : keys on the command line.

    Returns
    -------
    Where this command chooses ``data=…``, that, but with clips cut as in training; else the training's data; and in
    both cases with what the command sets key by key. Where simulated recordings are kept and by how many processes
    clips are read is this command's alone: a checkpoint says nothing of what is written here.

    Raises
    ------
    ValueError
        Where the checkpoint would have recordings simulated that are larger than ``MOST_SIMULATED_BYTES``.
    """
    if trained is None:
        return now
    own = {key[len("data.") :].split(".")[0] for key in said if key.startswith(("data.", "data/"))}
    if "data" in said:
        cut = {key: trained["data"][key] for key in CUT if key not in own and key in trained["data"]}
        return {**now, **cut}
    data = {**trained["data"], **{key: now[key] for key in now.keys() & (own | {"cache", "num_workers"})}}
    if data["recordings"] is None and data["root"] is None and data["simulator"] is not None and "simulator" not in own:
        size = build("data.simulator", data["simulator"]).n_bytes
        if size > MOST_SIMULATED_BYTES:
            raise ValueError(
                f"the checkpoint's recordings are simulated ones of {size / 2**30:.3g} GiB; to have them made here, "
                "say so with data.simulator.recordings=… and the like, or give others with data.recordings=[FILES]"
            )
    if "root" in own and "recordings" not in own:
        data["recordings"] = None
    return data


# Look inside --------------------------------------------------------------------------------------------------------
def model_of(path: Path, content: Mapping[str, Any]) -> Twin | LN:
    """The model in a checkpoint: a twin, or an LN model that was fitted alone."""
    if not is_ln(content):
        return load_twin(path)
    ln = load_ln(path, content)
    if ln is None:
        raise refused(path, content, "it says that it holds an LN model, and holds none")
    return ln


def is_ln(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of model=ln, and has no twin."""
    return content["twin"].get("_target_") == LN_TARGET


def announce(section: Section, run: runs.Run, checkpoint: Path) -> None:
    """The end of an analysis: its section on the console and in the reports, and where they are."""
    show(section)
    console.print(f"report: {publish(run.path, section, checkpoint)}")
    console.print(f"run folder: {run.path}")


def show(section: Section) -> None:
    """Print a section's tables."""
    for found in section.tables:
        table = Table(title=shown(found.title))
        for i, name in enumerate(found.columns):
            # Folded where there is no room, because a number that is cut off is lost.
            table.add_column(shown(name), justify="right" if i else "left", overflow="fold")
        for row in found.rows:
            table.add_row(*(shown(cell(value)) for value in row))
        console.print(table)


def tested(datamodule: RecordingsDataModule, name: str | None) -> tuple[Recording, Trials]:
    """The recording of a name (None: the first), and its test trials, of which there are some."""
    known = {recording.recording_id: recording for recording in datamodule.recordings}
    name = name or next(iter(known))
    if name not in known:
        others = " or ".join(setting("recording", other) for other in sorted(known))
        raise ValueError(f"recording={name}: the data has no such recording; say {others}")
    trials = known[name].info.trials.of("test")
    if not len(trials):
        raise ValueError(f"recording {name} has no test trial; choose another with recording=…")
    return known[name], trials


def expected_sizes(data: Settings) -> dict[str, Any]:
    """The sizes of clips as ``data.geometry`` gives them, without reading any."""
    geometry = data["geometry"]
    transforms = build_all("data.transforms", data.get("transforms", {}))
    numbers = widths(transforms, geometry["behavior"])
    unknown = [name for name in data["behavior"] if name not in numbers]
    if unknown:
        raise ValueError(
            f"data.geometry.behavior does not say how many numbers {unknown} have, or what they are made from; it says "
            f"{geometry['behavior']}"
        )
    return {
        "frame_shape": tuple(geometry["frame_shape"]),
        "behavior_dim": sum(numbers[name] for name in data["behavior"]),
        "clip_length": data["clip_length"],
    }


# What the tasks share -----------------------------------------------------------------------------------------------
def make_datamodule(data: Mapping[str, Any]) -> RecordingsDataModule:
    datamodule = build("data", {key: value for key, value in data.items() if key != "geometry"})
    assert isinstance(datamodule, RecordingsDataModule)
    return datamodule


def arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in node.items() if key != "_target_"}


def is_first_rank() -> bool:
    """Whether this process is the one, of those that train together, that writes files."""
    return int(getattr(rank_zero_only, "rank", 0)) == 0


def describe(run: runs.Run, settings: Settings, continues: bool = False) -> None:
    if is_first_rank():
        budget = budget_record(settings["trainer"]) if settings["task"] == "train" else None
        runs.describe(run, settings, HydraConfig.get().overrides.task, fingerprint(settings), budget, continues)


def command_line() -> str:
    """The command that does this run again."""
    return command(HydraConfig.get().overrides.task)


def overridden() -> set[str]:
    """The keys on this command line."""
    return {override.lstrip("+~").split("=", 1)[0].split("@")[0] for override in HydraConfig.get().overrides.task}
