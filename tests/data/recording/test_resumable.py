"""A file is written whole or not at all, and a killed writer's work is not lost."""

from __future__ import annotations

import multiprocessing
import signal
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from vivit_core.data.recording import resumable
from vivit_core.data.recording.resumable import write_in_pieces
from vivit_core.specs import RecordingError

VALUES = np.arange(400 * 5, dtype=np.int32).reshape(400, 5)
MORE = np.arange(400.0, dtype=np.float32)[:, None]


class Reads:
    """An array that counts what is read of it, and fails at some row."""

    def __init__(self, values: np.ndarray, fail_at: int | None = None, how: type[BaseException] = KeyboardInterrupt):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype
        self.fail_at, self.how, self.rows = fail_at, how, 0

    def __getitem__(self, key: slice) -> Any:
        if self.fail_at is not None and key.stop > self.fail_at:
            raise self.how()
        self.rows += key.stop - key.start
        return self.values[key]


def write(path: Path, values: Any, more: Any = MORE, key: str | None = "k", attr: int = 1) -> None:
    def layout(file: h5py.File) -> None:
        file.attrs["attr"] = attr

    arrays = {"a/values": (values, np.dtype(np.int32)), "a/more": (more, np.dtype(np.float32))}
    write_in_pieces(path, layout, arrays, lambda _: None, layout_bytes=0, piece_bytes=200, key=key)


def check(path: Path) -> None:
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["a/values"][()], VALUES)
        np.testing.assert_array_equal(file["a/more"][()], MORE)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_an_interrupted_write_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    first = Reads(VALUES, fail_at=250)
    with pytest.raises(KeyboardInterrupt):
        write(path, first)
    assert not path.exists() and first.rows == 250
    second = Reads(VALUES)
    write(path, second)
    assert second.rows == 150
    check(path)


@pytest.mark.parametrize("key", ["other", None])
def test_another_key_starts_again(tmp_path: Path, key: str | None) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        write(path, Reads(VALUES + 7, fail_at=250))
    again = Reads(VALUES)
    write(path, again, key=key, attr=2)
    assert again.rows == 400
    check(path)
    with h5py.File(path) as file:
        assert file.attrs["attr"] == 2


def test_without_a_key_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "x.h5", Reads(VALUES, fail_at=250), key=None)
    with pytest.raises(OSError):
        write(tmp_path / "x.h5", Reads(VALUES, fail_at=250, how=OSError))
    assert not list(tmp_path.iterdir())


def test_a_torn_journal_line_is_no_harm(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        write(path, Reads(VALUES, fail_at=250))
    journal = tmp_path / ".x.h5.journal"
    journal.write_text(journal.read_text()[:-5])
    again = Reads(VALUES)
    write(path, again)
    assert again.rows == 160
    check(path)


@pytest.mark.parametrize(
    "line", [b"[" * 100_000 + b"\n", b"\xff\n", b"{}\n", b"[1, 2]\n", b"[[], 0, 10, 1]\n", b"9" * 5000 + b"\n"]
)
def test_a_journal_of_anything_begins_anew(line: bytes, tmp_path: Path) -> None:
    path, journal = tmp_path / "x.h5", tmp_path / ".x.h5.journal"
    with pytest.raises(KeyboardInterrupt):
        write(path, Reads(VALUES, fail_at=250))
    journal.write_bytes(journal.read_bytes() + line)
    again = Reads(VALUES)
    write(path, again)
    assert again.rows == 400
    check(path)


def test_what_the_disk_gives_back_is_compared(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(KeyboardInterrupt):
        write(path, Reads(VALUES, fail_at=250))
    with h5py.File(tmp_path / ".x.h5.partial", "r+") as file:
        file["a/values"][123, 2] += 1
    with pytest.raises(RecordingError, match=r"x\.h5: a/values: rows 120:130 read back from the disk differ"):
        write(path, Reads(VALUES))
    assert not list(tmp_path.iterdir())


def test_a_source_that_shrinks_is_refused(tmp_path: Path) -> None:
    source = Reads(VALUES)
    source.values = VALUES[:395]
    with pytest.raises(RecordingError, match=r"rows 390:400 of the source have shape \(5, 5\), not \(10, 5\)"):
        write(tmp_path / "x.h5", source)


def test_two_writers_of_one_file(tmp_path: Path) -> None:
    class Other:
        shape, dtype = VALUES.shape, VALUES.dtype

        def __getitem__(self, key: slice) -> Any:
            with pytest.raises(RecordingError, match="another process is writing it"):
                write(tmp_path / "x.h5", VALUES)
            return VALUES[key]

    write(tmp_path / "x.h5", Other())
    check(tmp_path / "x.h5")


class Slow:
    shape, dtype = VALUES.shape, VALUES.dtype

    def __getitem__(self, key: slice) -> Any:
        time.sleep(0.004)
        return VALUES[key]


def test_killed_again_and_again(tmp_path: Path) -> None:
    """SIGKILL at odd moments; what is written stays, and the end is exact."""
    path, journal, noted = tmp_path / "x.h5", tmp_path / ".x.h5.journal", 0
    fork = multiprocessing.get_context("fork")
    for kill in range(4):
        process = fork.Process(target=write, args=(path, Slow()))
        process.start()
        while process.is_alive() and (not journal.exists() or journal.read_bytes().count(b"\n") < noted + 5 + kill):
            time.sleep(0.0005)
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL and not path.exists()
        now = journal.read_bytes().count(b"\n")
        assert noted < now < 40
        noted = now
    write(path, rest := Reads(VALUES))
    assert rest.rows <= 400 - 10 * (noted - 2)
    check(path)


def test_ranges_cover_all_rows() -> None:
    assert list(resumable.pieces(7, 10, 30)) == [(0, 3), (3, 6), (6, 7)]
    assert list(resumable.pieces(2, 100, 30)) == [(0, 1), (1, 2)]
    assert list(resumable.pieces(0, 100, 30)) == []
