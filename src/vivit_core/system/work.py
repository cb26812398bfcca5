"""How long work took on this machine before, so that it can be said beforehand how long it will take.

A rate is seconds for a piece of work, measured when the same kind of work was done last. Most work begins with
something that takes a time whatever its size, so a rate tells nothing of work that is far larger, and work that is far
smaller changes none. Nothing depends on it but what is said.
"""

from __future__ import annotations

import json
import math
import platform
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from vivit_core.names import file_name
from vivit_core.system.files import write_text
from vivit_core.system.kept import user_folder
from vivit_core.system.plain import read_plain

FAR = 10.0  # times: work that is so much larger or smaller is far
MOST = 100  # kinds of work that are remembered, the latest ones


@dataclass(frozen=True)
class Work:
    """Work to be done: of which kind, and how much, in a unit of that kind's own."""

    kind: str
    amount: float

    @property
    def expected_s(self) -> float | None:
        """:func:`expected_s` of it."""
        return expected_s(self.kind, self.amount)

    def took(self, seconds: float, share: float = 1.0) -> None:
        """:func:`remember` how long this share of it took."""
        remember(self.kind, share * self.amount, seconds)


def expected_s(kind: str, work: float) -> float | None:
    """About how many seconds so much work takes; None where this machine has not done any of its kind, or far less.

    Parameters
    ----------
    kind : what is done; rates of other kinds say nothing of it.
    work : how much, in whatever unit :func:`remember` was told of this kind.
    """
    rate, amount = _known().get(kind, (0.0, 0.0))
    return rate * work if work <= FAR * amount else None


def remember(kind: str, work: float, took_s: float) -> None:
    """Note how long so much work took. Where nothing can be noted, nothing happens."""
    path = _path()
    if path is None or not (work > 0 and took_s > 0):
        return
    rates = _known()
    if kind in rates and rates[kind][1] > FAR * work:
        return
    rates.pop(kind, None)
    rates[kind] = took_s / work, work
    with suppress(OSError):
        write_text(path, json.dumps(dict(list(rates.items())[-MOST:])))


def _path() -> Path | None:
    folder = user_folder("rates")  # which several machines may share
    return None if folder is None else folder / f"{file_name(platform.node() or 'machine')}.json"


def _known() -> dict[str, tuple[float, float]]:
    """Of each kind the rate, and of how much work it is."""
    path = _path()
    try:
        content = {} if path is None else read_plain(path)
    except ValueError:  # not there yet, or damaged
        return {}
    return {kind: (pair[0], pair[1]) for kind, pair in content.items() if is_pair(pair)}


def is_pair(value: object) -> bool:
    """Whether it is two numbers above zero."""
    if not isinstance(value, list) or len(value) != 2:
        return False
    return all(type(x) in (int, float) and math.isfinite(x) and x > 0 for x in value)
