"""What every task is given: :class:`RunContext`. A task asks it, and never Hydra."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from rich.console import Console

from vivit_core.cli import runs
from vivit_core.cli.console import console, show
from vivit_core.cli.files_read import files_read
from vivit_core.cli.machine import budget_record, machine_of, prepare
from vivit_core.cli.schema import Budget
from vivit_core.cli.sweeps import Job, note_job
from vivit_core.cli.validate import fingerprint, relocated
from vivit_core.names import command
from vivit_core.report.section import Section
from vivit_core.system.processes import is_first_rank

Settings = dict[str, Any]  # a composed, validated, plain configuration


@dataclass(frozen=True)
class RunContext:
    """One run of one task: where it writes, on what it computes, what was asked for.

    Attributes
    ----------
    settings : the whole configuration, plain and checked. A task takes its own keys as arguments; this is for what
        keeps the configuration as a whole.
    words : the settings on the command line, as they were typed.
    experiment : the recipe of ``conf/experiment`` that was chosen; None without one.
    job : this job of a sweep; None outside of one.
    follows : the dotted keys of what follows the recordings.
    recipe_says : what the recipe says of the model (:func:`vivit_core.cli.recipes.said_of_model`).
    console : what is printed goes here.
    """

    settings: Settings
    words: tuple[str, ...] = ()
    experiment: str | None = None
    job: Job | None = None
    follows: tuple[str, ...] = ()
    recipe_says: frozenset[str] = frozenset()
    console: Console = console

    @property
    def run(self) -> runs.RunFolder:
        """The run folder."""
        return runs.RunFolder(Path(self.settings["run_dir"]))

    @property
    def seed(self) -> int:
        return int(self.settings["seed"])

    @cached_property
    def machine(self) -> tuple[str, Budget]:
        """The device ("cpu" or "cuda"), which is ready to compute, and how much it is given to do."""
        device, budget = machine_of(self.settings["trainer"])
        prepare(device)
        return device, budget

    @property
    def device(self) -> str:
        return self.machine[0]

    @property
    def budget(self) -> Budget:
        return self.machine[1]

    @property
    def command_line(self) -> str:
        """The command that does this run again."""
        return command(self.words)

    @property
    def overridden(self) -> frozenset[str]:
        """The keys on the command line, dotted; of a group, its name."""
        return frozenset(word.lstrip("+~").split("=", 1)[0].split("@")[0] for word in self.words)

    def with_settings(self, **changed: Any) -> RunContext:
        """The same run with other values of some keys of the configuration's root."""
        return replace(self, settings={**self.settings, **changed})

    def moved_to(self, run: runs.RunFolder) -> RunContext:
        """The same run with its files in another folder."""
        return replace(self, settings=relocated(self.settings, str(run.path)))

    def note(self, **changes: Any) -> None:
        """Note what this job of a sweep has come to (:class:`vivit_core.cli.sweeps.Outcome`); else do nothing."""
        note_job(self.job, **changes)

    def describe(self, trains: bool = False, continues: bool = False) -> None:
        """Write the configuration, the command and the environment into the run folder (:func:`runs.describe`).

        Parameters
        ----------
        trains : note the budget and the files that are read as well.
        continues : the run has begun before.
        """
        if is_first_rank():
            budget, files = (budget_record(*self.machine), files_read(self.settings)) if trains else (None, None)
            runs.describe(self.run, self.settings, self.words, fingerprint(self.settings), budget, continues, files)

    def publish(self, section: Section, checkpoints: Path | Sequence[Path] | None = None) -> None:
        """The end of an analysis: its section into the reports, and on the console where they are.

        Parameters
        ----------
        section : what was found.
        checkpoints : of the models it was found with; the reports of their trainings get the section too.
        """
        from vivit_core.report.page import publish

        self.console.print(f"report: {publish(self.run.path, section, checkpoints)}")
        self.console.print(f"run folder: {self.run.path}")

    def announce(self, section: Section, checkpoints: Path | Sequence[Path] | None = None) -> None:
        """Print a section's tables, and :meth:`publish` it."""
        show(section)
        self.publish(section, checkpoints)
