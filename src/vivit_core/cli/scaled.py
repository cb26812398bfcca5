"""The trainings of sweeps as points of curves: what a training notes of its data, and how that is found again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_core.analysis.scaling.numbers import NOTHING, SCORED, Over, TrainedRun
from vivit_core.analysis.tables import IDS
from vivit_core.cli.runs import RunFolder
from vivit_core.cli.sweeps import Job
from vivit_core.cli.validate import deciding
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.twin import Twin
from vivit_core.names import short
from vivit_core.system.plain import read_plain
from vivit_core.system.tables import read_table
from vivit_core.training.transfer import leaves

TRAINED_ON = "trained_on"  # in environment.json

# The settings that a choice of what grows changes: they make no other curve. data.geometry follows the simulator.
RECORDINGS = ("data.recordings", "data.root", "data.simulator.recordings", "data.geometry.recordings")
GROWS: dict[Over, tuple[str, ...]] = {
    "minutes": ("data.train_minutes",),
    "recordings": RECORDINGS,
    "units": (*RECORDINGS, "data.most_units"),
    "parameters": ("model.",),
}
SEEDS = ("seed", "data.seed")
TRANSFER = ("init_from", "optim.core_lr_scale", "optim.readouts_first")  # what transfer_of says in words


def trained_on(twin: Twin, datamodule: RecordingsDataModule, follows: Sequence[str]) -> dict[str, Any]:
    """What a training notes of what it learns from: the minutes that there are, which may be less than what was asked
    for, and units of each recording; the parameters of the core; and which settings follow the recordings."""
    recordings = {}
    for recording in datamodule.recordings:
        info = recording.info
        train = info.trials.of("train")
        seconds = float((train.stop - train.start).sum()) / info.frame_rate_hz
        recordings[recording.recording_id] = {"minutes": seconds / 60, "units": info.n_units}
    return {
        "recordings": recordings,
        "core_parameters": sum(p.numel() for p in twin.core.parameters()),
        "follows": list(follows),
    }


def runs_of(sweeps: Sequence[Path], over: Over) -> tuple[list[TrainedRun], list[dict[str, str]], list[str]]:
    """The finished trainings of sweeps, each with its curve; the jobs that are none, each with a reason; and the
    settings in which curves differ beside what their names say.

    Parameters
    ----------
    sweeps : folders of sweeps, finished or not.
    over : what grows.

    Raises
    ------
    ValueError
        Where a folder is no sweep's, is named twice, or no training of them has finished.
    """
    found: list[tuple[str, Path, dict[str, Any]]] = []  # name, run folder, flat settings
    left_out: list[dict[str, str]] = []
    if len({sweep.resolve() for sweep in sweeps}) < len(sweeps):
        raise ValueError("sweeps: one is named twice; name each once")
    if not sweeps:
        raise ValueError("sweeps=[]: name at least one folder that a sweep (-m) has written")
    for sweep in sweeps:
        for name, reason, run in jobs_of(sweep):
            twice = next((other for other, path, _ in found if run is not None and path.samefile(run)), None)
            if run is None or twice is not None:
                left_out.append({"job": name, "reason": reason or f"the same training as {twice}"})
            else:
                found.append((name, run, dict(leaves(deciding(read_plain(run / "config.yaml"))))))
    if not found:
        reasons = "; ".join(f"{job['job']}: {job['reason']}" for job in left_out[:4])
        raise ValueError(f"sweeps: no training of them has finished with a score ({reasons}); wait, or start -m again")
    along = [growing(run, over) for _, run, _ in found]
    any_along = {key for own in along for key in own or ()}
    settled = [
        {key: value for key, value in settings.items() if key not in (any_along if own is None else own)}
        for (_, _, settings), own in zip(found, along, strict=True)
    ]
    names, differ = curve_names(settled, over)
    runs = [
        trained_run(name, run, curve, int(settings["seed"]))
        for (name, run, settings), curve in zip(found, names, strict=True)
    ]
    return runs, left_out, differ


def growing(run: Path, over: Over) -> Sequence[str] | None:
    """The settings of a run that follow its recordings, where these grow: they grow along. None where the run does not
    say it, because it is older: then they are taken to be those of the others."""
    if not set(RECORDINGS) <= set(GROWS[over]):
        return ()
    about = RunFolder(run).environment[TRAINED_ON]
    follows: Sequence[str] | None = about.get("follows") if isinstance(about, dict) else None
    return follows


def jobs_of(sweep: Path) -> Iterator[tuple[str, str | None, Path | None]]:
    """Each job of a sweep: its name, why it is no point of a curve (None: it is), and its run folder."""
    files = sorted((sweep / "outcomes").glob("*.json"), key=lambda file: (len(file.stem), file.stem))
    if not files:
        raise ValueError(
            f"sweeps: {sweep} is no sweep's folder, because it holds no outcomes/0.json; give one that "
            "python run.py -m … has printed or written (outputs/train/<date>_<time>_<unique>)"
        )
    for file in files:
        name = f"{sweep.name}/{file.stem}"
        if not file.stem.isdecimal():
            raise ValueError(f"{file}: a sweep writes outcomes/<number>.json, and this is none; take it away")
        outcome = Job(sweep, int(file.stem)).outcome()
        if outcome.status != "finished":
            yield name, outcome.status, None
            continue
        # A sweep's folder may have been copied from the machine that trained.
        places = [Path(outcome.run)] if outcome.run is not None else []
        run = next((place for place in [*places, sweep / file.stem] if (place / "units.csv").is_file()), None)
        if not outcome.trained:
            yield name, "no training", None
        elif run is None:
            yield name, "its run folder is gone, or was not evaluated", None
        elif TRAINED_ON not in RunFolder(run).environment:
            yield name, "does not say what it was trained on (no twin, or an older version)", None
        else:
            yield name, None, run


def trained_run(name: str, path: Path, curve: str, seed: int) -> TrainedRun:
    """What a run folder says.

    Raises
    ------
    ValueError
        Where a file of it is damaged; names it.
    """
    table = read_table(path / "units.csv", IDS)
    if lacking := [column for column in SCORED if column not in table]:
        raise ValueError(f"{path / 'units.csv'}: has no column {', '.join(lacking)}; evaluate the run again")
    try:
        about = RunFolder(path).environment[TRAINED_ON]
        recordings = [(float(own["minutes"]), int(own["units"])) for own in about["recordings"].values()]
        amounts: dict[Over, float] = {
            "minutes": sum(minutes for minutes, _ in recordings) / len(recordings),
            "recordings": len(recordings),
            "units": sum(units for _, units in recordings),
            "parameters": int(about["core_parameters"]),
        }
    except (AttributeError, KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"{path / 'environment.json'}: its {TRAINED_ON} is damaged; train that job again") from error
    likelihood = str(read_plain(path / "summary.json").get("likelihood"))
    return TrainedRun(name, path, curve, amounts, seed, likelihood, table.set_index(list(IDS))[SCORED])


def curve_names(settings: Sequence[Mapping[str, Any]], over: Over) -> tuple[list[str], list[str]]:
    """The curve of each run, and the settings that differ between curves and that no name says.

    A run's curve is how its core came to be (:func:`transfer_of`), and what else differs between the runs of that kind:
    neither seeds nor what grows. Long values are shortened in names alone, and names that would then be equal are
    numbered.

    Parameters
    ----------
    settings : of the runs, flat: dotted key -> value.
    over : what grows.
    """
    kinds = [transfer_of(own) for own in settings]
    names, shown, said = list(kinds), list(kinds), set()
    for kind in dict.fromkeys(kinds):
        rows = [row for row, own in enumerate(kinds) if own == kind]
        for key in differing([settings[row] for row in rows], over):
            if key in TRANSFER[1:]:
                continue
            last = key.rpartition(".")[2]
            said.add(last)
            for row in rows:
                text = as_text(settings[row].get(key))
                names[row] += f", {key}={text}"
                shown[row] += f", {last}={short(text)}"
    names = numbered(names, shown)
    of_curve = {name: settings[row] for row, name in reversed(list(enumerate(names)))}
    beside = [
        key
        for key in differing(list(of_curve.values()), over)
        if key not in TRANSFER and key.rpartition(".")[2] not in said
    ]
    return names, beside


def numbered(names: Sequence[str], shown: Sequence[str]) -> list[str]:
    """How each name is shown; where several are shown alike, with a number behind."""
    alike: dict[str, list[str]] = {}
    for name, own in dict.fromkeys(zip(names, shown, strict=True)):
        alike.setdefault(own, []).append(name)
    return [
        own if len(alike[own]) == 1 else f"{own} ({alike[own].index(name) + 1})"
        for name, own in zip(names, shown, strict=True)
    ]


def differing(settings: Sequence[Mapping[str, Any]], over: Over) -> list[str]:
    """The keys in which runs differ, but for seeds and for what grows."""
    keys = dict.fromkeys(key for own in settings for key in own)
    return [
        key
        for key in keys
        if key not in SEEDS
        and not any(key == part or (part.endswith(".") and key.startswith(part)) for part in GROWS[over])
        and len({as_text(own.get(key)) for own in settings}) > 1
    ]


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def transfer_of(settings: Mapping[str, Any]) -> str:
    """How a run's core came to be, in words."""
    if settings.get("init_from") is None:
        return NOTHING
    scale, first = settings.get("optim.core_lr_scale"), settings.get("optim.readouts_first")
    if scale == 0:
        return "frozen core"
    return f"core learns at {scale:g}" + (f" after {first:.0%}" if first else "")
