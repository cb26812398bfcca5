"""The attack's own tools, which run in every test run."""

from __future__ import annotations

import os
from pathlib import Path

import breaking
import forks
import numpy as np
import pytest
from attacking import Row, spread, table
from forks import is_write
from looking import halves


def test_samples_are_even() -> None:
    for n in (1, 2, 7, 64, 356):
        for seed in (0, 5):
            numbers = spread(n, seed)
            assert sorted(numbers) == list(range(n)) and numbers == spread(n, seed)
    first = np.sort(spread(356, 3)[:32])
    assert np.diff(first).max() < 3 * 356 / 32 and spread(356, 3) != spread(356, 4)


def test_what_is_a_write(tmp_path: Path) -> None:
    there = tmp_path / "there"
    there.touch()
    assert is_write("open", (str(there), "w", 0)) and is_write("open", (str(there), None, os.O_RDWR))
    assert not is_write("open", (str(there), "r", os.O_RDONLY)) and not is_write("open", (3, "w", 0))
    assert is_write("os.remove", (there,)) and not is_write("os.remove", (tmp_path / "gone",))
    assert is_write("os.mkdir", (tmp_path / "new",)) and not is_write("os.mkdir", (tmp_path,))
    assert is_write("os.rename", (there, tmp_path / "new")) and not is_write("import", ("os",))


def test_half_files_are_seen(tmp_path: Path) -> None:
    whole = {"a.json": "{}\n", "a.csv": "x,y\n1,2\n", "a.html": "<html></html>\n", "a.yaml": "a: 1\n"}
    for name, text in whole.items():
        (tmp_path / name).write_text(text)
    (tmp_path / ".held").touch()
    assert halves(str(tmp_path), True) == []
    for name, half in {
        "a.json": "{",
        "a.csv": "x,y\n1",
        "a.html": "<html>",
        "b.png": "",
        "c.ckpt": "",
        "d.npz": "",
    }.items():
        (tmp_path / name).write_text(half)
        assert any(f"{tmp_path / name} (" in line for line in halves(str(tmp_path))), name
    (tmp_path / ".a.json.0123abcd.tmp").touch()
    assert any("is left" in line for line in halves(str(tmp_path), True))


def test_places_in_a_tree() -> None:
    tree = {"a": [1, {"b": 2}]}
    assert list(breaking.places(tree)) == [("a",), ("a", 0), ("a", 1), ("a", 1, "b")]
    assert breaking.changed(tree, ("a", 1, "b"), 3) == {"a": [1, {"b": 3}]} and tree == {"a": [1, {"b": 2}]}


def test_the_table() -> None:
    lines = table([Row("kills", planned=10, tries=4, faults=["one"]), Row("disks", note="skipped: no mount")])
    assert lines[1].split() == ["kills", "4", "3", "1", "6", "0"] and "skipped: no mount" in lines[2]
    assert lines[3].split() == ["all", "4", "3", "1", "6", "0"] and lines[4] == "one"


def test_a_fork_killed_while_it_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has told by half is no answer, and no end of the process that forks."""

    def run(job: dict[str, object], tell: int) -> None:
        os.write(tell, b'{"value": 1, "events": ["os.mk')
        os.kill(os.getpid(), 9)

    monkeypatch.setattr(forks, "run", run)
    answer = forks.answered({"seconds": 30})
    assert answer["code"] == -9 and answer["value"] is None and answer["events"] == []
