"""Machines that differ from ours: terminals, file systems, homes and disks."""

from __future__ import annotations

import ast
import errno
import os
from pathlib import Path

import numpy as np
import pytest

from vivit_core import locks, runs
from vivit_core.data import partial
from vivit_core.data.recording import Trials, write_recording
from vivit_core.data.simulate.simulate import locked
from vivit_core.specs import RecordingError

SRC = Path(__file__).resolve().parents[1] / "src"


def without_encoding(file: Path) -> list[str]:
    """Calls that open a text file in the machine's own encoding."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
        binary = any("b" in word and len(word) < 4 for word in words)
        opens = (isinstance(node.func, ast.Attribute) and name in ("read_text", "write_text", "fdopen")) or (
            name == "open" and ast.unparse(node.func) not in ("os.open", "archive.open", "rich.progress.open")
        )
        runs = name in ("run", "Popen", "check_output") and "text" in given
        if (opens and not binary and "encoding" not in given) or (runs and "encoding" not in given):
            found.append(f"{file.relative_to(SRC)}:{node.lineno}: {ast.unparse(node)[:80]}")
    return found


def test_every_text_file_is_utf_8():
    """Not in the encoding of whoever's terminal it is: a folder is moved between machines."""
    assert [call for file in sorted(SRC.rglob("*.py")) for call in without_encoding(file)] == []


# Locks --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_worked_on_without(tmp_path, monkeypatch, caplog, number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(locks.fcntl, "flock", flock)
    monkeypatch.setattr(locks, "_WITHOUT", set())
    run = runs.Run(tmp_path / "run")
    with run.held(), locked(tmp_path / "a"), (tmp_path / "b").open("w") as handle:
        locks.lock(handle)
        assert not run.is_held
    assert len(caplog.records) == 1 and "has no locks" in caplog.text and str(tmp_path) in caplog.text


def test_only_a_lock_that_is_taken_is_anothers(tmp_path, caplog):
    with (tmp_path / "a").open("w") as mine, (tmp_path / "a").open("w") as other:
        locks.lock(mine)
        with pytest.raises(BlockingIOError):
            locks.lock(other)
    assert not caplog.records


def test_no_other_module_locks_by_itself():
    assert [f.name for f in SRC.rglob("*.py") if "fcntl" in f.read_text(encoding="utf-8")] == ["locks.py"]


# Places that cannot be written to -----------------------------------------------------------------------------------


def small(path: Path) -> Path:
    rng = np.random.default_rng(0)
    trials = Trials(np.arange(0, 40, 10), np.arange(10, 50, 10), np.arange(4).astype(str), np.array(["train"] * 4))
    return write_recording(
        path,
        recording_id="a",
        frame_rate_hz=30.0,
        frames=rng.integers(0, 256, (40, 6, 8)).astype(np.uint8),
        counts=rng.poisson(0.5, (40, 3)),
        trials=trials,
    )


def test_a_recording_that_cannot_be_written_names_itself(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    for out, said in (
        (tmp_path / "folder", "is a folder. Name a file, for example .*recording.h5"),
        (tmp_path / "file" / "x.h5", "cannot be written .*Correct the path, or write elsewhere"),
        (Path("/proc/nothing/x.h5"), "cannot be written"),
        (tmp_path / ("x" * 250 + ".h5"), "cannot be written .*too long"),
    ):
        with pytest.raises(RecordingError, match=said) as refused:
            small(out)
        assert refused.value.path == str(out)
    for number, remedy in ((errno.EROFS, "Ask for the right"), (errno.ENOSPC, "Make room")):
        with monkeypatch.context() as patch:

            def refuse(*_, number=number):
                raise OSError(number, os.strerror(number))

            patch.setattr(partial.os, "fsync", refuse)
            with pytest.raises(RecordingError, match=f"x.h5: file: cannot be written .*{remedy}"):
                small(tmp_path / "x.h5")
    assert {p.name for p in tmp_path.iterdir()} == {"folder", "file"}
    assert not any((tmp_path / "folder").iterdir())


def test_a_source_that_cannot_be_read_is_not_blamed_on_the_file_written(tmp_path):
    class Lost:
        shape, dtype = (40, 6, 8), np.dtype(np.uint8)

        def __getitem__(self, key):
            raise OSError(errno.EIO, "Input/output error", "source.npy")

    with pytest.raises(OSError, match=r"source\.npy"):
        partial.write_in_pieces(
            tmp_path / "x.h5", lambda file: None, {"a": (Lost(), np.dtype(np.uint8))}, print, piece_bytes=100
        )
