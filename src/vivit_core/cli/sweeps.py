"""Sweeps: what each job came to, which the job itself writes down, and the summary of all of them.

A sweep's folder holds ``outcomes/<job>.json``, one file a job, and when all have ended ``sweep_summary.csv`` and a
picture for each swept key.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.table import Table

from vivit_core.cli.runs import number_in
from vivit_core.names import file_name
from vivit_core.parts.schema import check_call
from vivit_core.system.activity import duration
from vivit_core.system.files import remove_leftovers, write_text
from vivit_core.system.plain import read_plain
from vivit_core.system.processes import is_first_rank
from vivit_core.system.tables import write_table
from vivit_core.system.terminal import shown

log = logging.getLogger(__name__)

Status = Literal["waiting", "running", "finished", "pruned", "refused", "failed", "interrupted"]
ENDED = ("finished", "pruned", "refused", "failed", "interrupted")


@dataclass(frozen=True)
class Outcome:
    """What a job came to.

    Attributes
    ----------
    status : finished; pruned, because other trials of its search were ahead; refused by the program, which says why (a
        combination that cannot be, a missing file); failed by itself; interrupted from outside.
    reason : why it did not finish; None where it did.
    run : its run folder, which is another sweep's where the same training had finished there.
    score : what the task returns to be maximized; None where it returns nothing.
    score_name : which number that is: of a training, ``val/bps_mean`` of the checkpoint that was kept.
    trained : it is a training, whose test score stands beside that.
    """

    status: Status = "waiting"
    reason: str | None = None
    run: str | None = None
    score: float | None = None
    score_name: str | None = None
    trained: bool = False


@dataclass(frozen=True)
class Job:
    """The file of one job of a sweep."""

    sweep: Path
    number: int

    @property
    def file(self) -> Path:
        return self.sweep / "outcomes" / f"{self.number}.json"

    def outcome(self) -> Outcome:
        """What is known of it; ``waiting`` where it has not begun."""
        if not self.file.is_file():
            return Outcome()
        values = read_plain(self.file)
        if problems := list(check_call("outcome", Outcome, values)):
            raise ValueError(f"{self.file}: {'; '.join(problems)}")
        return Outcome(**values)

    def note(self, **changes: Any) -> Outcome:
        """Change what is known of it; the names are those of :class:`Outcome`."""
        outcome = replace(self.outcome(), **changes)
        remove_leftovers(self.file.parent, self.file.name)  # a job has one writer at a time
        write_text(self.file, json.dumps(asdict(outcome), indent=2) + "\n")
        return outcome

    def begin_again(self) -> None:
        """Forget what an earlier command's try came to."""
        if self.file.is_file():
            self.note(status="waiting", reason=None, score=None)

    def give_up(self, status: Status, reason: str) -> Outcome:
        """For a job that has ended without a word; what it said itself stays."""
        outcome = self.outcome()
        return outcome if outcome.status in ENDED else self.note(status=status, reason=reason)


def note_job(job: Job | None, **changes: Any) -> None:
    """Note what a job has come to (the names are those of :class:`Outcome`), in the first process; do nothing where
    there is no sweep. A score that is no number is none."""
    if job is not None and is_first_rank():
        score = changes.get("score")
        job.note(**changes | ({"score": None} if score is not None and not math.isfinite(score) else {}))


DONE = 0.1  # of the longest job's time: one that takes less was done before, or refused
_jobs = 0  # of the sweep that this process runs
_took: list[float] = []  # seconds of each job that it ran


def begin(jobs: int) -> None:
    """This process begins a sweep of so many jobs."""
    global _jobs
    _jobs = jobs
    _took.clear()


def took(seconds: float) -> None:
    """A job of this process took so long."""
    _took.append(seconds)


def job_of(number: int) -> str:
    """Which job of the sweep begins here, and how long the sweep takes yet: ``job 2 of 8, about 12:30 min are left``.

    Jobs are counted from 1 here. A job in a process of its own, as a scheduler starts it, knows its number alone. What
    jobs take is known from those that this process worked on: of a sweep that goes on, others are done already.
    """
    if not _jobs:
        return f"job {number}"
    worked = [seconds for seconds in _took if seconds > DONE * max(_took)]
    left = sum(worked) / len(worked) * (_jobs - number) if worked else None
    return f"job {number + 1} of {_jobs}" + ("" if left is None else f", about {duration(left)} are left")


@dataclass(frozen=True)
class Row:
    """A job in the summary."""

    job: int
    values: dict[str, str]  # what this job sets of the swept keys
    outcome: Outcome
    test_bps: float | None  # of a training

    @property
    def scores(self) -> dict[str, float | None]:
        """What the job came to, by the numbers' names."""
        name = self.outcome.score_name
        if name is None:
            return {}
        return {name: self.outcome.score} | ({"test/bps_mean": self.test_bps} if self.outcome.trained else {})


def swept_keys(jobs: Sequence[Sequence[str]]) -> list[str]:
    """The keys that differ between jobs, which are lists of ``key=value``."""
    seen: dict[str, set[str]] = {}
    for key, value in (word.split("=", 1) for words in jobs for word in words):
        seen.setdefault(key, set()).add(value)
    return [key for key, values in seen.items() if len(values) > 1]


def summarize(sweep: Path, jobs: Sequence[Sequence[str]], console: Console, command: str) -> list[Row]:
    """Write ``sweep_summary.csv``, a picture for each swept key and ``report.html``; print a table, best first.

    Parameters
    ----------
    sweep : the sweep's folder.
    jobs : for each job its settings, as ``key=value``.
    console : where the table is printed.
    command : the command line that does it again.
    """
    from vivit_core.plotting.sweep import sweep_axis
    from vivit_core.report.page import publish
    from vivit_core.report.sweep import sweep_section

    keys = swept_keys(jobs)
    rows = []
    for number, words in enumerate(jobs):
        outcome = Job(sweep, number).outcome()
        values = {key: value for key, value in (word.split("=", 1) for word in words) if key in keys}
        rows.append(Row(number, values, outcome, test_bps_of(outcome)))
    rows.sort(
        key=lambda row: (
            *(row.outcome.score is None, row.outcome.status != "finished"),
            *(row.outcome.score_name or "", -(row.outcome.score or 0.0), row.job),
        )
    )
    table = plain_rows(keys, rows)
    write_table(sweep / "sweep_summary.csv", table)
    console.print(table_of(keys, rows))
    for row in rows:
        if row.outcome.reason is not None:
            console.print(shown(f"job {row.job} {row.outcome.status}: {row.outcome.reason}", lines=True))
    scored = [row for row in rows if row.outcome.status == "finished" and row.outcome.score is not None]
    scored = [row for row in scored if row.outcome.score_name == scored[0].outcome.score_name]  # one axis, one number
    pictures = []
    for key in keys if scored else ():
        path = sweep_axis(
            sweep / "pictures" / f"{file_name(key.replace('/', '.'))}.png",
            key=key,
            values=[row.values[key] for row in scored],
            others=[tuple(value for name, value in row.values.items() if name != key) for row in scored],
            scores=[row.outcome.score or 0.0 for row in scored],
            score_name=scored[0].outcome.score_name or "score",
        )
        pictures.append((path, f"{key}: a point a job; the line joins the best of each value."))
    page = publish(sweep, sweep_section(keys, score_names(rows), table, pictures, command))
    console.print(shown(f"report: {page}"))
    console.print(shown(f"sweep summary: {sweep / 'sweep_summary.csv'}"))
    return rows


def test_bps_of(outcome: Outcome) -> float | None:
    """A training's mean bits per spike on the test split, by which it was evaluated at its end."""
    summary = Path(outcome.run) / "summary.json" if outcome.run is not None else None
    if not outcome.trained or outcome.status != "finished" or summary is None or not summary.is_file():
        return None
    try:
        return number_in(summary, "bps_mean")
    except ValueError as error:
        log.warning("%s", error)
        return None


def plain_rows(keys: Sequence[str], rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The rows of ``sweep_summary.csv``."""
    names = score_names(rows)
    table: list[dict[str, Any]] = []
    for row in rows:
        run = row.outcome.run if row.outcome.run is not None and Path(row.outcome.run).is_dir() else None
        table.append(
            {"job": row.job}
            | {key: row.values.get(key, "") for key in keys}
            | {"status": row.outcome.status, "reason": row.outcome.reason}
            | {name: row.scores.get(name) for name in names}
            | {"run": run}
        )
    return table


def score_names(rows: Sequence[Row]) -> list[str]:
    """The columns of a summary that hold scores."""
    return list(dict.fromkeys(name for row in rows for name in row.scores))


def table_of(keys: Sequence[str], rows: Sequence[Row]) -> Table:
    table = Table("job", title=f"{len(rows)} jobs, best first")
    for name in short_names(keys):
        table.add_column(shown(name), overflow="fold")
    table.add_column("status", no_wrap=True)
    for name in (names := score_names(rows)):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        known = [row.scores.get(name) for name in names]
        scores = ("–" if value is None else f"{value:.4f}" for value in known)
        table.add_row(str(row.job), *(shown(row.values.get(key, "")) for key in keys), row.outcome.status, *scores)
    return table


def short_names(keys: Sequence[str]) -> list[str]:
    """The last words of the keys, as many as tell them apart."""
    for count in range(1, max((key.count(".") for key in keys), default=0) + 2):
        names = [".".join(key.split(".")[-count:]) for key in keys]
        if len(set(names)) == len(names):
            break
    return names if keys else []
