"""Files that nobody vouches for are read in a process of its own, with bounds; files that are known are not."""

from __future__ import annotations

import errno
import os
import pwd
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

import vivit_core
from vivit_core.data.recording import guard as guard_module
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.guard import Guard, stored_bytes
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import check_recording, check_recordings
from vivit_core.specs import RecordingError
from vivit_core.system import files

HERE = Path(__file__).parent
SRC = Path(vivit_core.__file__).parents[1]


# What the process may do ---------------------------------------------------------------------------------------------


@pytest.fixture
def bad(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Runs a function of ``bad_readers.py`` under the guard, with little time."""
    monkeypatch.setattr(guard_module, "SECONDS", 0.5)
    monkeypatch.syspath_prepend(str(HERE))

    def run(name: str) -> Any:
        monkeypatch.setattr(guard_module, "PATIENCE_S", 1.0 if name == "sleeps" else 30.0)
        with Guard() as guard:
            return guard.run(Path(__file__), f"bad_readers:{name}", {})

    return run


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("spins", r"could not be read within 1 s|could not be read within 0 s"),
        ("sleeps", r"could not be read within 3 s.*its disk"),
        ("crashes", "HDF5 crashed"),
        ("eats", "takes more than 4 GiB of memory"),
        ("is_killed", "ended from outside.*memory"),
        ("raises", "ZeroDivisionError"),
        ("refuses", "responses/counts: row 3 is negative. Count again"),
    ],
)
def test_whatever_a_reader_does_becomes_one_line(name: str, says: str, bad: Callable[[str], Any]) -> None:
    with pytest.raises(RecordingError, match=says) as caught:
        bad(name)
    assert __file__ in str(caught.value) and "\n" not in str(caught.value)


def test_what_it_prints_does_not_spoil_the_answer_and_it_holds_no_torch(bad: Callable[[str], Any]) -> None:
    assert bad("prints") == {"torch": False}


def test_one_process_examines_many_files_and_ends(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vivit_core.data.recording.validate.known_whole", lambda path: False)
    started = []
    start = guard_module._started
    monkeypatch.setattr(guard_module, "_started", lambda: started.append(start()) or started[-1])
    infos, problems = check_recordings([make(f"{n}.h5", n) for n in range(3)])
    assert [info.recording_id for info in infos] == ["rec0", "rec1", "rec2"] and not problems
    assert len(started) == 1 and started[0].poll() is not None


def test_it_works_in_a_daemon_and_with_threads_that_hold_locks(make: Callable[..., Path], tmp_path: Path) -> None:
    """As in a loader's worker: daemonic processes may have no children of multiprocessing."""
    code = (
        "import multiprocessing, sys\n"
        "from vivit_core.data.recording.validate import validate_recording\n"
        "if __name__ == '__main__':\n"
        "    fork = multiprocessing.get_context('fork')\n"
        "    p = fork.Process(target=validate_recording, args=(sys.argv[1],), daemon=True)\n"
        "    p.start(); p.join(); sys.exit(p.exitcode)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    assert subprocess.run([sys.executable, "-c", code, str(make())], env=environment, timeout=300).returncode == 0


# What a file may claim -----------------------------------------------------------------------------------------------


def test_a_file_of_holes_is_refused_at_once(make: Callable[..., Path]) -> None:
    """40 behaviors of 64 GiB in some kilobytes, with a checksum that holds."""
    path = make(behavior={})
    with h5py.File(path, "r+") as file:
        for n in range(40):
            contiguous = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            contiguous.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
            file.create_dataset(f"behavior/b{n}", (120, 1 << 20), "f4", dcpl=contiguous, fill_time="never")
    with path.open("rb+") as file:
        file.truncate(40 << 36)
    assert stored_bytes(path) < 1 << 20
    began = time.monotonic()
    with pytest.raises(RecordingError, match=r"a\.h5: file: truncated or damaged: of its 2.75e\+12 bytes only"):
        check_recording(path)
    assert time.monotonic() - began < 30


def test_many_claims_are_added_up(make: Callable[..., Path]) -> None:
    path = make()
    with h5py.File(path, "r+") as file:
        for n in range(40):
            file.create_dataset(
                f"behavior/b{n}", (120, 1 << 19), "f4", chunks=(1, 1 << 10)
            )  # 250 MB, none of it stored
    write_checksum(path)
    with pytest.raises(RecordingError, match=r"a\.h5: file: claims 1.01e\+10 bytes in all"):
        check_recording(path)


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda f: f.attrs.__setitem__("source", "x" * 70_000), "attribute source: is larger than"),
        (lambda f: f["responses/counts"].attrs.__setitem__("kind", ["x" * 70_000]), "attribute kind: is larger"),
        (lambda f: f["behavior/eye"].attrs.__setitem__("names", ["x" * 40_000] * 2), "attribute names: is larger"),
        (lambda f: [f["units"].create_group(f"g{n}") for n in range(10_001)], "units: claims 10002 names"),
        (
            lambda f: (
                f.pop("units/id"),
                f.create_dataset("units/id", data=["a", "b", "c" * (1 << 25)], dtype=h5py.string_dtype()),
            ),
            "units/id: holds a text of 33554432 characters",
        ),
        (
            lambda f: f.__setitem__("units/pair", np.zeros(3, [("a", "f4"), ("b", "f4")])),
            "units/pair: has type .*'a'",
        ),
        (lambda f: f.__setitem__("truth", h5py.SoftLink("/truth")), "truth: is a link"),
        (lambda f: (f.pop("behavior"), f.__setitem__("behavior", f["/"])), r"behavior/behavior: is a group"),
    ],
)
def test_text_names_types_and_links_are_bounded(change: Any, says: str, make: Callable[..., Path]) -> None:
    path = make()
    with h5py.File(path, "r+") as file:
        change(file)
    write_checksum(path)
    with pytest.raises(RecordingError, match=says):
        check_recording(path)


def test_compressed_files_of_other_tools_are_read(make: Callable[..., Path], tmp_path: Path) -> None:
    """Also one whose frames are all alike, which deflate makes a thousandth of."""
    path = tmp_path / "compressed.h5"
    with h5py.File(make(frames=np.zeros((120, 40, 60), np.uint8))) as mine, h5py.File(path, "w") as file:
        file.attrs.update(mine.attrs)
        for name in ("trials", "units", "behavior", "responses"):
            mine.copy(name, file)
        file.create_dataset("stimulus/frames", data=mine["stimulus/frames"], chunks=(120, 40, 60), compression=9)
    assert path.stat().st_size < 40_000
    assert check_recording(path).n_frames == 120


# What is known -------------------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    """One bit of a frame, with the file's size and time as they were."""
    times = path.stat()
    with h5py.File(path) as file:
        place = file["stimulus/frames"].id.get_chunk_info(0).byte_offset + 5
    with path.open("rb+") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache of notes, and a process that has seen nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    monkeypatch.setattr(files, "_seen", {})
    return tmp_path / "notes"


def test_a_change_that_hides_its_time_is_seen(make: Callable[..., Path], notes: Path) -> None:
    path = make()
    check_recording(path)
    assert files.known_whole(path)
    flip(path)
    assert not files.known_whole(path)
    with pytest.raises(RecordingError, match="checksum differs"):
        check_recording(path)


def test_bit_rot_is_seen_where_always_verified(make: Callable[..., Path], notes: Path) -> None:
    path = make()
    flip(path)
    files.remember_whole(path)  # as the disk would leave it: no time of the file has changed
    check_recording(path)
    with pytest.raises(RecordingError, match="checksum differs"):
        check_recording(path, verify="always")
    assert check_recordings([path], verify="always")[1][0].problem.endswith("differs from what was written")


def test_a_note_of_another_file_or_another_user_vouches_for_nothing(make: Callable[..., Path], notes: Path) -> None:
    path = make()
    note = files._note_of(path)
    assert note is not None and files.known_whole(path)
    files._seen.clear()
    assert files.known_whole(path)  # by the note
    note.write_bytes(b"\xff\xfe")
    assert not files.known_whole(path)
    check_recording(path)
    files._seen.clear()
    if os.geteuid() == 0:
        os.chown(note, 12345, 12345)
        assert not files.known_whole(path)
    path.rename(path.with_name("b.h5"))
    assert not files.known_whole(path.with_name("b.h5"))


@pytest.mark.parametrize("place", ["none", "read-only", "a file"])
def test_without_a_place_for_notes_files_are_read_again(
    place: str, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(files, "_seen", {})
    path = make()
    if place == "none":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", lambda uid: (_ for _ in ()).throw(KeyError(uid)))
    elif place == "a file":
        (tmp_path / "taken").touch()
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "taken"))
    else:
        monkeypatch.setattr(files, "write_text", lambda *_: (_ for _ in ()).throw(OSError(errno.EROFS, "read-only")))
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "no notes"))
    files._seen.clear()
    assert not files.known_whole(path)
    check_recording(path)
    assert files.known_whole(path)  # by this process
    files._seen.clear()
    assert not files.known_whole(path)


def test_a_file_that_changes_under_a_training_is_not_read_on(make: Callable[..., Path]) -> None:
    path, other = make(), make("b.h5", 1)
    recording = Recording(path)
    recording.read(0, 5, {})
    recording.close()
    os.replace(other, path)
    with pytest.raises(RecordingError, match="has changed since it was checked"):
        recording.read(0, 5, {})


# Who else has it open ------------------------------------------------------------------------------------------------


def test_a_file_that_another_program_writes_to_is_not_called_damaged(make: Callable[..., Path], notes: Path) -> None:
    path = make()
    path.write_bytes(path.read_bytes()[512:])  # as another program writes HDF5: no seal
    writer = subprocess.Popen(
        [sys.executable, "-c", f"import h5py; f = h5py.File({str(path)!r}, 'r+'); print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    writer.stdout.readline()
    try:
        with pytest.raises(RecordingError, match=r"another program has it open for writing.*Close it there"):
            check_recording(path)
    finally:
        writer.communicate(b"\n")
    check_recording(path)


@pytest.mark.parametrize("code", ["ENOSYS", "ENOLCK", "ENOTSUP"])
def test_a_file_system_without_locks_will_do(
    code: str, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path, real = make(), h5py.File

    def without_locks(*words: Any, locking: bool | None = None, **options: Any) -> h5py.File:
        if locking is not False:
            raise OSError(getattr(errno, code), "unable to lock file")
        return real(*words, locking=locking, **options)

    monkeypatch.setattr("vivit_core.data.recording.hdf5.h5py.File", without_locks)
    recording = Recording(path)
    assert recording.read(0, 5, {})["counts"].shape == (5, 3)
    assert "no locks" in caplog.text


# Open files ----------------------------------------------------------------------------------------------------------


MANY = """
import resource, sys
from vivit_core.data.recording.reader import Recording, _open_now
recordings = [Recording(path) for path in sys.argv[1:]]
resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))
first = [r.read(0, 3, {})["counts"].sum() for r in recordings]
assert first == [r.read(0, 3, {})["counts"].sum() for r in recordings]
assert 0 < len(_open_now) <= 6 and list(_open_now.values())[-1] is recordings[-1], len(_open_now)
hold = [open("/dev/null") for _ in range(12)]  # others take the rest
for r in recordings:
    r.read(0, 3, {})
"""


def test_few_files_are_open_at_once(make: Callable[..., Path]) -> None:
    paths = [str(make(f"{n}.h5", n)) for n in range(30)]
    environment = {**os.environ, "PYTHONPATH": str(SRC)}
    done = subprocess.run(
        [sys.executable, "-c", MANY, *paths], env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
