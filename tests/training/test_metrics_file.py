"""metrics.csv: a row a step, in a file that is whole at every moment."""

from __future__ import annotations

import csv
import os

import pytest

from vivit_core.training import metrics_file
from vivit_core.training.metrics_file import MetricsFile


def rows(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def log(logger, step, **numbers):
    """As Lightning does."""
    logger.log_metrics({"epoch": step // 2, **numbers}, step)
    logger.save()


def test_a_step_has_one_row_and_columns_come_as_they_are_logged(tmp_path):
    logger = MetricsFile(str(tmp_path), 1)
    log(logger, 0, loss=1.5)
    log(logger, 1, loss=1.25)
    logger.log_metrics({"epoch": 0, 'val/bps_a, the "first"': 0.1}, 1)
    log(logger, 2, loss=float("nan"), lr=1e-3)
    logger.finalize("success")
    header = next(csv.reader((tmp_path / "metrics.csv").open(newline="")))
    assert header == ["epoch", "loss", "step", 'val/bps_a, the "first"', "lr"]
    assert rows(tmp_path) == [
        {"epoch": "0", "step": "0", "loss": "1.5"},
        {"epoch": "0", "step": "1", "loss": "1.25", 'val/bps_a, the "first"': "0.1"},
        {"epoch": "1", "step": "2", "loss": "nan", "lr": "0.001"},
    ]


def test_a_training_that_goes_on_makes_no_row_twice(tmp_path):
    first = MetricsFile(str(tmp_path), 1)
    for step in range(6):
        log(first, step, loss=step)
    first.flush()
    before = (tmp_path / "metrics.csv").read_bytes()
    second = MetricsFile(str(tmp_path), 1)
    second.continue_from(4)
    assert (tmp_path / "metrics.csv").read_bytes() == before  # killed here, it has lost nothing
    for step in range(4, 8):
        log(second, step, loss=step, new=0)
    second.finalize("success")
    assert [(int(row["step"]), float(row["loss"])) for row in rows(tmp_path)] == [(s, s) for s in range(8)]
    MetricsFile(str(tmp_path / "empty"), 1).continue_from(4)


def test_rows_that_an_earlier_version_wrote_twice_become_one(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,loss,step,val\n0,1,0,\n0,2,1,\n0,,1,7\n0,3,1,\n1,4,2,\n1,,")
    logger = MetricsFile(str(tmp_path), 1)
    logger.continue_from(9)
    logger.flush()
    assert [(row["step"], row["loss"], row.get("val")) for row in rows(tmp_path)] == [
        ("0", "1", None), ("1", "3", "7"), ("2", "4", None),
    ]  # fmt: skip


def test_of_a_damaged_file_what_reads_is_kept(tmp_path):
    good, long = b"epoch,loss,step\n0,1.5,0\n", b"0," + b"9" * 200_000 + b",1\n"
    for damage, kept in ((b"0,\xff\xfe,1\n", 2), (b"\0\0\n0,1,1\n", 2), (long + b"0,2,2\n", 1), (b"\xff" * 50, 1)):
        (tmp_path / "metrics.csv").write_bytes(good + damage)
        logger = MetricsFile(str(tmp_path), 1)
        logger.continue_from(9)
        log(logger, 9, loss=3.0)
        logger.flush()
        assert len(rows(tmp_path)) == kept + 1 and rows(tmp_path)[0] == {"epoch": "0", "loss": "1.5", "step": "0"}


def test_a_write_that_fails_leaves_the_former_file(tmp_path, monkeypatch):
    logger = MetricsFile(str(tmp_path), 1)
    log(logger, 0, loss=1.0)
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(RuntimeError("power failure")))
    with pytest.raises(RuntimeError, match="power failure"):
        log(logger, 1, loss=2.0)
        logger.flush()
    assert os.listdir(tmp_path) == ["metrics.csv"] and len(rows(tmp_path)) == 1


def test_long_files_are_written_rarely(tmp_path, monkeypatch):
    """A write takes as many seconds here as there are rows: 2 % of the time is spent on it, however many there are."""
    now, written = 0.0, []

    class Clock:
        @staticmethod
        def monotonic():
            return now

    def write(self):
        nonlocal now
        began, now = now, now + len(self._lines) / 100
        self._flushed_step, self._flushed_at, self._cost = self._row["step"], now, now - began
        written.append(now - began)

    monkeypatch.setattr(metrics_file, "time", Clock)
    monkeypatch.setattr(MetricsFile, "flush", write)
    logger = MetricsFile(str(tmp_path), 50)
    for step in range(20_000):
        now += 1.0
        log(logger, step, loss=0.0)
    assert len(written) > 15 and sum(written) < 0.03 * now


def test_the_number_of_steps_between_writes(tmp_path):
    logger = MetricsFile(str(tmp_path), 4)
    seen = []
    for step in range(9):
        logger._flushed_at = -float("inf")
        log(logger, step, loss=0.0)
        seen.append(len(rows(tmp_path)))
    assert seen == [1, 1, 1, 1, 5, 5, 5, 5, 9]
    with pytest.raises(ValueError, match="flush_logs_every_n_steps=0 must be 1 or more"):
        MetricsFile(str(tmp_path), 0)
