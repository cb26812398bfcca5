"""``metrics.csv``: a training's numbers, one row a step."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from vivit_core.system.files import atomic_write

COST = 50  # a write is put off until this many times its own length has gone by, so that writing takes 2 % at most


class MetricsFile(Logger):
    """Keeps ``metrics.csv``: each step has one row, and the file is replaced whole.

    Lightning's ``CSVLogger`` appends, deletes the file where a training goes on, and writes a second row for a step's
    validation. Here a step's numbers stand in one row, whoever logs them. A training that goes on drops the rows of
    steps that it makes again. Columns are added as numbers come.

    Parameters
    ----------
    save_dir : folder of ``metrics.csv``.
    flush_logs_every_n_steps : optimizer steps between two writes. Each writes the whole file, so in a long training
        they become rarer; a checkpoint and the end of a training always write.
    """

    def __init__(self, save_dir: str | Path, flush_logs_every_n_steps: int) -> None:
        super().__init__()
        if flush_logs_every_n_steps < 1:
            raise ValueError(f"logger.csv.flush_logs_every_n_steps={flush_logs_every_n_steps} must be 1 or more")
        self.path = Path(save_dir) / "metrics.csv"
        self._every = flush_logs_every_n_steps
        self._columns: list[str] = []
        self._lines: list[str] = []  # of all rows but the newest
        self._row: dict[str, Any] = {}  # the newest, which may still get numbers
        self._changed = False
        self._flushed_step = -1
        self._flushed_at, self._cost = -float("inf"), 0.0  # monotonic time of the last write's end, its length; s

    @property
    def name(self) -> str:
        return ""

    @property
    def version(self) -> str:
        return ""

    @property
    def save_dir(self) -> str:
        return str(self.path.parent)

    @rank_zero_only
    def continue_from(self, step: int) -> None:
        """Take over the file's rows of the steps before ``step``, which is the next to be made; of a damaged file those
        that read."""
        if not self.path.is_file():
            return
        kept: dict[int, dict[str, str]] = {}
        with self.path.open(newline="", encoding="utf-8", errors="replace") as file, suppress(csv.Error):
            for row in csv.DictReader(file):
                numbers = {name: value for name, value in row.items() if name is not None and value}
                if (number := numbers.pop("step", "")).isdecimal() and int(number) < step:
                    kept.setdefault(int(number), {}).update(numbers)
        for number, numbers in sorted(kept.items()):
            self._add(numbers, number)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        assert step is not None
        self._add({name: float(value) if name != "epoch" else int(value) for name, value in metrics.items()}, step)

    def _add(self, numbers: Mapping[str, Any], step: int) -> None:
        if self._row.get("step") != step:
            self._close_row()
            self._row = {"step": step}
        self._row.update(numbers)
        new = sorted(self._row.keys() - set(self._columns))
        if new:
            self._columns += new
            self._lines = [line + "," * len(new) for line in self._lines]
        self._changed = True

    def _close_row(self) -> None:
        if self._row:
            self._lines.append(line_of([self._row.get(name, "") for name in self._columns]))

    @rank_zero_only
    def save(self) -> None:
        """Write where it is time; Lightning calls this after each row."""
        step = int(self._row.get("step", -1))
        due = self._flushed_step < 0 or step // self._every > self._flushed_step // self._every
        if due and time.monotonic() - self._flushed_at >= COST * self._cost:
            self.flush()

    @rank_zero_only
    def flush(self) -> None:
        """Replace the file by one with all rows."""
        if not self._changed:
            return
        began = time.monotonic()
        newest = line_of([self._row.get(name, "") for name in self._columns])
        with atomic_write(self.path) as temporary:
            temporary.write_text("\n".join([line_of(self._columns), *self._lines, newest, ""]), encoding="utf-8")
        self._changed, self._flushed_step = False, int(self._row["step"])
        self._flushed_at = time.monotonic()
        self._cost = self._flushed_at - began

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self.flush()

    def log_hyperparams(self, params: Any) -> None:
        """Nothing: the configuration stands in config.yaml."""


def line_of(values: Sequence[Any]) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(values)
    return line.getvalue()
