"""A sweep's report: its jobs as a table, as lines across their values, and the pictures of each swept key."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vivit_core.names import page_text
from vivit_core.report.explore import Column, Explorer
from vivit_core.report.section import Section, Table

if TYPE_CHECKING:
    from vivit_core.cli.sweeps import Row


def sweep_section(
    keys: Sequence[str], scores: Sequence[str], rows: Sequence[Row], pictures: Sequence[tuple[Path, str]], command: str
) -> Section:
    """What a sweep came to.

    Parameters
    ----------
    keys, scores : the swept keys, and the names of what the jobs came to.
    rows : the jobs, best first.
    pictures : of each swept key, with its caption.
    command : the command line that does it again.
    """
    ended = sum(row.outcome.status == "finished" for row in rows)
    text = [f"{len(rows)} jobs, of which {ended} finished. They are sorted by what they came to, the best first."]
    columns = ("job", *keys, "status", *scores)
    told = [
        (str(row.job), *(row.values.get(key, "") for key in keys), row.outcome.status, *map(row.scores.get, scores))
        for row in rows
    ]
    explore = job_explorer(keys, scores, rows)
    return Section("sweep", "What was tried", text, [Table("Jobs", columns, told)], pictures, command, explore=explore)


def job_explorer(keys: Sequence[str], scores: Sequence[str], rows: Sequence[Row]) -> Explorer | None:
    """The jobs of a sweep, from their outcomes; None where none has a score."""
    first = next((row.outcome.score_name for row in rows if row.outcome.score is not None), None)
    if first is None:
        return None
    statuses = [row.outcome.status for row in rows]
    columns = [
        *(Column(key, key, numbers_of([row.values.get(key) for row in rows]), shown=True) for key in keys),
        *(Column(name, name, [row.scores.get(name) for row in rows], shown=True) for name in scores),
        Column("status", "status", statuses, shown=len(set(statuses)) > 1),
        Column("reason", "reason", [row.outcome.reason for row in rows]),
        Column("run", "run folder", [row.outcome.run for row in rows]),
    ]
    columns = [column for column in columns if any(value is not None for value in column.values)]
    names = [f"job {row.job}" for row in rows]
    return Explorer("jobs", "Jobs", "sweep", "job", [""] * len(rows), names, columns, (), first)


def numbers_of(words: Sequence[str | None]) -> list[Any]:
    """Values as numbers where all of them are; else as they were written."""
    try:
        return [None if word is None else float(word) for word in words]
    except ValueError:
        return [None if word is None else page_text(word) for word in words]
