"""Run folders: what is written beside a run's results, and how an unfinished run is found again."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from vivit_core.system.files import link_or_copy, remove_leftovers, write_text
from vivit_core.system.locks import lock
from vivit_core.system.plain import read_plain

# torch, and what reads with it, is imported where it is used: a task that has no run folder does without.
VERSIONS = (
    "vivit-core",
    "torch",
    "lightning",
    "torchmetrics",
    "hydra-core",
    "numpy",
    "scipy",
    "h5py",
    "einops",
    "scikit-image",
    "wandb",
)


class Held(ValueError):
    """Another process is training in a run folder.

    Attributes
    ----------
    path : of the folder.
    """

    def __init__(self, path: Path, message: str | None = None) -> None:
        self.path = path
        super().__init__(message or f"another process is training in {path}; wait for it, or start a new run")


@dataclass(frozen=True)
class RunFolder:
    """A training's folder."""

    path: Path

    @property
    def last(self) -> Path:
        return self.path / "checkpoints" / "last.ckpt"

    @property
    def best(self) -> Path:
        return self.path / "checkpoints" / "best.ckpt"

    @property
    def finished(self) -> bool:
        """All that a training leaves is there."""
        return self._finished.is_file()

    @property
    def score(self) -> float | None:
        """The ``val/bps_mean`` by which a sweep selects a finished run; None where it has none.

        Raises
        ------
        ValueError
            Where what was written is damaged.
        """
        return number_in(self._finished, "score")

    @property
    def _finished(self) -> Path:
        return self.path / "finished.json"

    @property
    def _trained(self) -> Path:
        return self.path / "trained.json"

    def finish(self, score: float | None) -> None:
        """Say that it has finished: the last thing that a training writes."""
        known = score if score is not None and math.isfinite(score) else None
        write_text(self._finished, json.dumps({"score": known}) + "\n")

    def end_training(self, step: int) -> None:
        """Note that the training is over, so that only what follows it is done again where that is interrupted."""
        write_text(self._trained, json.dumps({"step": step}) + "\n")

    def begin_training(self) -> None:
        """Take back what was said of an earlier end."""
        self._finished.unlink(missing_ok=True)
        self._trained.unlink(missing_ok=True)

    @property
    def trained(self) -> bool:
        """Whether the training is over, whatever came of what follows it."""
        return self._trained.is_file()

    def ended_at(self, step: int) -> bool:
        """Whether :meth:`end_training` was at this step."""
        try:
            return read_plain(self._trained).get("step") == step
        except ValueError:  # not written, or damaged: the training goes on, to the same end
            return False

    def checkpoints(self) -> list[Path]:
        """Checkpoints in it, whether or not they can be read."""
        return sorted(self.last.parent.glob("*.ckpt"))

    def newest_whole(self, say: Callable[[str], None]) -> Path | None:
        """The checkpoint to continue from: ``last.ckpt``; None where no checkpoint reads.

        Where ``last.ckpt`` does not read, it becomes the newest checkpoint that does. A fitted LN has ``best.ckpt``.

        Parameters
        ----------
        say : is told of each that does not read, and what stands in for it.
        """
        from vivit_core.models.checkpoint import read_checkpoint

        found: dict[Path, int] = {}
        for path in sorted(self.checkpoints(), key=lambda path: path != self.last):
            try:
                content = read_checkpoint(path)
            except ValueError as error:
                say(f"{error}. It is passed over")
                continue
            if "model" not in content["twin"]:  # no twin, but fitted in one go: only the evaluation may be left to do
                return path
            if "loops" in content:  # a trainer can go on with it
                if path == self.last:
                    return path
                found[path] = content["global_step"]
        if not found:
            return None
        newest = max(found, key=lambda path: found[path])
        with self.held():
            link_or_copy(newest, self.last)
        say(
            f"{newest.name}, of step {found[newest]}, is the newest checkpoint that reads, and becomes {self.last.name}"
        )
        return self.last

    def remove_leftovers(self) -> None:
        """Remove the temporary files of killed processes; only for who holds the folder."""
        for name in ("*.yaml", "*.json", "*.csv", "*.npz"):  # the report has a lock of its own
            remove_leftovers(self.path, name)
        for folder in ("checkpoints", "pictures", "average", "average/pictures", "validation", "validation/pictures"):
            remove_leftovers(self.path / folder)

    @property
    def environment(self) -> dict[str, Any]:
        """What ``describe`` wrote; empty where it wrote nothing that can be read."""
        try:
            return read_plain(self.path / "environment.json")
        except ValueError:  # another process is about to write it; another program's file
            return {}

    @property
    def has_results(self) -> bool:
        """Something was computed here: a checkpoint, or the numbers with which each task ends."""
        numbers = (file for file in self.path.glob("*.json") if file.name != "environment.json")
        return any(self.path.glob("checkpoints/*.ckpt")) or any(numbers)

    def is_of(self, fingerprint: str) -> bool:
        return self.environment.get("fingerprint") == fingerprint

    def refuse_other(self, fingerprint: str) -> None:
        """
        Raises
        ------
        ValueError
            Where the folder holds the results of other settings, or a user's own ``config.yaml``.
        """
        if self.has_results and not self.is_of(fingerprint):
            task = self.environment.get("task", "train")
            what = "a training" if task == "train" else f"results of task={task}"
            raise ValueError(
                f"{self.path} holds {what} with other settings (conf/ may have changed since it started); give this "
                "one another folder by hydra.run.dir=FOLDER, or leave hydra.run.dir out"
            )
        if (self.path / "config.yaml").is_file() and not self.environment:
            raise ValueError(
                f"{self.path} holds a config.yaml that no run wrote; give this run a folder of its own by "
                "hydra.run.dir=FOLDER, or leave hydra.run.dir out"
            )

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder while a training writes into it, so that ``resume=auto`` of another process leaves it alone.

        Raises
        ------
        Held
            Where another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".held").open("w", encoding="utf-8") as handle:
            try:
                lock(handle)
            except BlockingIOError as error:
                raise Held(self.path) from error
            yield

    @property
    def is_held(self) -> bool:
        if not self.path.is_dir():
            return False
        try:
            with self.held():
                return False
        except (ValueError, OSError):  # a folder that this process may not write into is another's too
            return True


def describe(
    run: RunFolder,
    settings: Mapping[str, Any],
    overrides: Sequence[str],
    fingerprint: str,
    budget: Mapping[str, Any] | None = None,
    continues: bool = False,
    files: Mapping[str, str] | None = None,
) -> None:
    """Write what is done in a folder: its configuration, overrides, environment; a training's budget, and the files
    that it reads (:func:`vivit_core.cli.files_read.files_read`).

    An earlier try that came to nothing is forgotten. A continued run keeps its beginning and notes this continuation,
    whose settings are now its own.

    Raises
    ------
    ValueError
        Where a run that is not continued would take the place of another's results.
    """
    run.path.mkdir(parents=True, exist_ok=True)
    here = environment()
    asked = {"task": settings["task"], "overrides": list(overrides), "fingerprint": fingerprint, "budget": budget}
    asked |= {} if files is None else {"files": files}
    now = {**here, **asked}
    if continues:
        first = run.environment
        about = {**first, **asked}
        about.pop("ended", None)
        before = first.get("continued")
        about |= {"continued": [*(before if isinstance(before, list) else []), now]}
    else:
        run.refuse_other(fingerprint)
        about = now
    # The environment comes first: a config.yaml without one is a user's.
    write_text(run.path / "environment.json", json.dumps({**about, "seed": settings["seed"]}, indent=2))
    write_text(run.path / "config.yaml", yaml.safe_dump(dict(settings), sort_keys=False, allow_unicode=True))
    write_text(run.path / "overrides.yaml", yaml.safe_dump(list(overrides), allow_unicode=True))


def number_in(file: Path, name: str) -> float | None:
    """A number of a run folder's JSON file; None where it says null.

    Raises
    ------
    ValueError
        Where the file is damaged or says anything else; names it.
    """
    content = read_plain(file)
    number = content.get(name)
    if name not in content or isinstance(number, bool) or not isinstance(number, int | float | None):
        raise ValueError(f"{file}: it does not say {name} as a number or null; delete it, and run the same again")
    return number


def note_in_run(run: RunFolder, what: str, value: Any) -> None:
    """Note in the run's environment what came of its training: ``steps``, how many its time was found to suffice for;
    ``ended``, why it ended before the last of them, None where it did not.

    A record that cannot be written ends nothing.
    """
    with suppress(OSError):
        if about := run.environment:
            write_text(run.path / "environment.json", json.dumps({**about, what: value}, indent=2))


def environment() -> dict[str, Any]:
    """When, where, by which code and which versions."""
    import torch

    versions: dict[str, str | None] = {}
    for name in VERSIONS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "started": datetime.now(UTC).isoformat(timespec="microseconds"),
        "command": sys.argv,
        "git": git_state(),
        "python": platform.python_version(),
        "versions": versions,
        "host": platform.node(),
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores",
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "slurm_job": os.environ.get("SLURM_JOB_ID"),
    }


def git_state() -> dict[str, Any] | None:
    """Commit, branch and whether there are changes beside it; None where the code is not in a git checkout."""

    def git(*words: str) -> str:
        where = Path(__file__).resolve().parent
        return subprocess.run(
            ["git", *words],
            cwd=where,
            check=True,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=10,
        ).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no")
        return {
            "commit": git("rev-parse", "HEAD"),
            "branch": git("rev-parse", "--abbrev-ref", "HEAD"),
            "changed": changed.splitlines(),
        }
    except (OSError, subprocess.SubprocessError):
        return None


def same_runs(outputs: Path, fingerprint: str) -> list[RunFolder]:
    """Trainings of this configuration under ``outputs``, newest first."""
    found = []
    for pattern in ("train/*/environment.json", "train/*/*/environment.json"):  # the second: runs of a multirun
        for file in outputs.glob(pattern):
            run = RunFolder(file.parent.resolve())
            if run.is_of(fingerprint):
                found.append(run)
    return sorted(found, key=lambda run: (started(run), str(run.path)), reverse=True)


def started(run: RunFolder) -> datetime:
    """The instant at which a run began: local times of two zones, or of summer and winter, do not sort as text."""
    try:
        began = datetime.fromisoformat(str(run.environment.get("started")))
    except ValueError:
        return datetime.min.replace(tzinfo=UTC)
    return began.astimezone(UTC) if began.tzinfo is not None else began.replace(tzinfo=UTC)


def remove_leftovers_of_killed(runs: Sequence[RunFolder]) -> None:
    """Remove temporary files from unfinished trainings that no process works on, and from the sweeps that they are of.

    Also from those that nobody can go on with, because they were killed as they wrote their first checkpoint. A sweep
    may have been killed as it wrote its summary.
    """
    for run in runs:
        if not run.finished:
            with suppress(ValueError, OSError), run.held():  # held by another process; a folder of somebody else
                run.remove_leftovers()
    for sweep in {run.path.parent for run in runs if (run.path.parent / "outcomes").is_dir()}:
        if not any(run.is_held for run in runs if run.path.parent == sweep):
            with suppress(OSError):
                remove_leftovers(sweep, "sweep_summary.csv")
                remove_leftovers(sweep / "pictures")


def unfinished(runs: Sequence[RunFolder]) -> Iterator[RunFolder]:
    """Those that have a checkpoint, have not finished, and that no process works on."""
    return (run for run in runs if run.checkpoints() and not run.finished and not run.is_held)
