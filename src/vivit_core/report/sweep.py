"""A sweep's section: its jobs as a table, as lines across their values, and the pictures of each swept key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_core.report.explore import Column, Explorer
from vivit_core.report.section import Section, Table


def sweep_section(
    keys: Sequence[str],
    scores: Sequence[str],
    jobs: Sequence[Mapping[str, Any]],
    pictures: Sequence[tuple[Path, str]],
    command: str,
) -> Section:
    """What a sweep came to.

    Parameters
    ----------
    keys, scores : the swept keys, and the names of what the jobs came to, the first of which sorts them.
    jobs : the rows of ``sweep_summary.csv``, best first: ``job``, a value of each key, ``status``, ``reason``, scores
        and ``run``.
    pictures : of each swept key, with its caption.
    command : the command line that does it again.
    """
    ended = sum(job["status"] == "finished" for job in jobs)
    text = [f"{len(jobs)} jobs, of which {ended} finished. They are sorted by what they came to, the best first."]
    columns = ("job", *keys, "status", *scores)
    table = Table("Jobs", columns, [[str(job["job"]), *(job[name] for name in columns[1:])] for job in jobs])
    explore = job_explorer(keys, scores, jobs) if scores else None
    return Section("sweep", "What was tried", text, [table], pictures, command, explore=explore)


def job_explorer(keys: Sequence[str], scores: Sequence[str], jobs: Sequence[Mapping[str, Any]]) -> Explorer | None:
    """The jobs of a sweep; None where none has a score. That of a job which did not finish, such as a pruned one,
    stands in the section's table alone: it would not compare with the others."""
    jobs = [job if job["status"] == "finished" else {**job, **dict.fromkeys(scores)} for job in jobs]
    statuses = {job["status"] for job in jobs}
    shown = {*keys, *scores} | ({"status"} if len(statuses) > 1 else set())
    columns = [
        Column(name, name, values, shown=name in shown)
        for name in (*keys, *scores, "status", "reason", "run")
        for values in [numbers_of([job[name] for job in jobs])]
        if any(value is not None for value in values)
    ]
    if scores[0] not in {column.key for column in columns}:
        return None
    names = [f"job {job['job']}" for job in jobs]
    return Explorer("jobs", "Jobs", "sweep", "job", [""] * len(jobs), names, columns, (), scores[0])


def numbers_of(values: Sequence[Any]) -> list[Any]:
    """Values as numbers where all of them are; else as they were written, None where there are none."""
    known = [None if value in (None, "") else value for value in values]
    try:
        return [None if value is None else float(value) for value in known]
    except ValueError:
        return known
