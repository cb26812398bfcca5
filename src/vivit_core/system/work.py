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
    """Work to be done: of which kind, and how much, in a unit of that kind's own. Rates of other kinds say nothing of
    it."""

    kind: str
    amount: float

    @property
    def expected_s(self) -> float | None:
        """About how many seconds it takes; None where this machine has not done any of its kind, or far less."""
        rate, amount = _known().get(self.kind, (0.0, 0.0))
        return rate * self.amount if self.amount <= FAR * amount else None

    def took(self, seconds: float, share: float = 1.0) -> None:
        """Note how long this share of it took. Where nothing can be noted, nothing happens."""
        path, amount = _path(), share * self.amount
        if path is None or not (amount > 0 and seconds > 0):
            return
        rates = _known()
        if self.kind in rates and rates[self.kind][1] > FAR * amount:
            return
        rates.pop(self.kind, None)
        rates[self.kind] = seconds / amount, amount
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
