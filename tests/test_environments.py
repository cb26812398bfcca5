"""Machines that differ from ours: terminals, file systems, homes and disks."""

from __future__ import annotations

import ast
import errno
import getpass
import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from vivit_core.cli import resume, runs
from vivit_core.cli.context import RunContext
from vivit_core.cli.main import message_of
from vivit_core.cli.tasks import plan
from vivit_core.data.recording import resumable
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.names import setting
from vivit_core.specs import RecordingError
from vivit_core.system import locks
from vivit_core.system.stops import STOPS, Stopped, stoppable
from vivit_core.system.user import give_names

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
            name == "open"
            and ast.unparse(node.func) not in ("os.open", "archive.open", "rich.progress.open", "av.open", "Image.open")
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
    run = runs.RunFolder(tmp_path / "run")
    with run.held(), locks.locked(tmp_path / "a"), (tmp_path / "b").open("w") as handle:
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

            patch.setattr(resumable.os, "fsync", refuse)
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
        resumable.write_in_pieces(
            tmp_path / "x.h5",
            lambda file: None,
            {"a": (Lost(), np.dtype(np.uint8))},
            print,
            layout_bytes=0,
            piece_bytes=100,
        )


# What the system refuses --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (
            PermissionError(errno.EACCES, "Permission denied", "/o/train/x/y.csv"),
            r"/o/train/x/y\.csv: .*outputs=FOLDER",
        ),
        (OSError(errno.EROFS, "Read-only file system", b"/c/sim"), r"/c/sim: Read-only.* by data\.cache=…"),
        (
            FileNotFoundError(errno.ENOENT, "No such file", "/r/a.h5"),
            r"/r/a\.h5: .*the path, which data\.root=… chooses",
        ),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/z"), "/z: File name too long; correct the path$"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/o/train/x/a"),
            "make room, or choose another place by outputs=",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left.*MB are free there\); make room"),
        (OSError(errno.EMFILE, "Too many open files", "/z"), "ulimit -n 4096"),
        (OSError(errno.EIO, "Input/output error", "/z"), "try again, or choose another place"),
        (FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"), "TMPDIR"),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), None),
        (OSError("something of a library's"), None),
    ],
)
def test_what_the_system_refuses_is_a_line_with_a_remedy(error, said):
    places = {"outputs=FOLDER": Path("/o/train/x"), "data.cache=…": Path("/c"), "data.root=…": Path("/r")}
    message = message_of(error, places)
    assert message is None if said is None else (re.search(said, message) and "\n" not in message), message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["task=plan", "outputs=/proc/no"], "/proc/no"),  # Hydra's own, before the task
        (["data.cache=/proc/no"], "data.cache="),
        (["task=evaluate", "checkpoint=x.ckpt", "hydra.run.dir=/proc/no"], "/proc/no"),
    ],
)
def test_a_folder_that_cannot_be_made_is_one_line(command, words, said):
    code, printed = command(*words)
    assert code == 1 and said in printed and "Traceback" not in printed, printed
    said_before = r".* begins(?:;.*)?\n|  \S+ +# .*\n"
    own = re.split(said_before, printed)[-1]  # after what goes on, and the settings that follow the recordings
    assert "HYDRA_FULL_ERROR" not in os.environ and len(own.splitlines()) <= 5


# Terminals ----------------------------------------------------------------------------------------------------------

SPEAK = """if True:
    import os, sys
    sys.path.insert(0, sys.argv[1])
    from vivit_core.system.streams import steady_streams
    steady_streams(); steady_streams()
    kept = open(sys.argv[2], "w")
    for _ in range(2000):
        print("\\xb5 \\u2013 \\u2550 \\xe4", flush=True)
        print("\\xb5 \\u2013 \\u2550 \\xe4", file=sys.stderr)
    os.write(2, b"of a handler")
    kept.write("kept")
"""


@pytest.mark.parametrize("unbuffered", [{}, {"PYTHONUNBUFFERED": "1"}], ids=["", "unbuffered"])
@pytest.mark.parametrize("shell", ["{} | head -n 1", "{} >&- 2>&- <&-", "{} >/dev/full", "{}"])
def test_no_terminal_ends_a_program(tmp_path, shell, unbuffered):
    """An ASCII terminal that is there, that its reader has left, that is closed, on a full disk."""
    words = [sys.executable, "-c", SPEAK, str(SRC), str(tmp_path / "kept")]
    line = f"set -o pipefail; {shell.format(shlex.join(words))}"
    ascii_alone = {
        "PATH": os.environ["PATH"],
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    } | unbuffered
    done = subprocess.run(["bash", "-c", line], env=ascii_alone, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "kept").read_text() == "kept"
    assert b"Error" not in done.stderr
    if shell == "{}":
        assert done.stdout.splitlines()[0] == b"? ? ? ?" and rb"\xb5" in done.stderr


@pytest.mark.slow
def test_a_reader_that_does_not_read_ends_no_program(tmp_path):
    """A pipe that somebody has made non-blocking, as shells and runners do, and nobody empties."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        words = [sys.executable, "-c", SPEAK.replace("2000", "20000"), str(SRC), str(tmp_path / "kept")]
        done = subprocess.run(words, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False)
    finally:
        os.close(reading)
        os.close(writing)
    assert done.returncode == 0 and b"Error" not in done.stderr, done.stderr[-2000:]
    assert (tmp_path / "kept").read_text() == "kept"


def test_a_user_whom_nobody_knows_gets_a_name(monkeypatch):
    def unknown(uid):
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("HOME", "LOGNAME", "USER", "LNAME", "USERNAME", "TRITON_HOME"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    give_names()
    assert getpass.getuser() == f"uid{os.getuid()}" and os.environ["TRITON_HOME"] == tempfile.gettempdir()


@pytest.mark.slow
def test_a_container_of_nobody(tmp_path):
    """No home, no name, an ASCII terminal one character wide, a folder in which nobody may write, no git."""
    (tmp_path / "sitecustomize.py").write_text(
        "import pwd\ndef unknown(uid): raise KeyError(uid)\npwd.getpwuid = unknown"
    )
    environment = {
        "PATH": "/nowhere",
        "PYTHONPATH": f"{tmp_path}:{SRC}",
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "1",
        "TERM": "dumb",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    words = ["task=plan", f"outputs={tmp_path / 'outputs'}"]
    done = subprocess.run(
        [sys.executable, str(SRC.parent / "run.py"), *words],
        cwd="/proc",
        env=environment,
        capture_output=True,
        check=False,
    )
    assert (
        done.returncode == 0
        and b"FLOPs" in done.stdout
        and b"parameters" in done.stdout
        and b"Traceback" not in done.stderr
    ), done.stderr[-3000:]


# Signals ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", STOPS)
def test_a_signal_stops_a_task_with_a_word(command, monkeypatch, number):
    cleaned = []

    def interrupted(context: RunContext) -> None:
        try:
            os.kill(os.getpid(), number)
            raise AssertionError("it went on")
        finally:
            os.kill(os.getpid(), signal.SIGTERM)  # schedulers repeat themselves
            cleaned.append(number)

    before = [signal.getsignal(n) for n in STOPS]
    monkeypatch.setattr(plan, "plan", interrupted)
    code, printed = command("task=plan")
    assert code == 128 + number and cleaned == [number]
    stopped = f"task=plan is stopped by {number.name} before its end; the same command starts it again"
    assert printed.splitlines() == ["task=plan begins", stopped]
    assert [signal.getsignal(n) for n in STOPS] == before


def test_what_others_handle_stays_theirs():
    mine = lambda *_: None  # noqa: E731
    before = {n: signal.signal(n, h) for n, h in ((signal.SIGUSR2, mine), (signal.SIGHUP, signal.SIG_IGN))}
    try:
        with stoppable():
            assert signal.getsignal(signal.SIGUSR2) is mine and signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            os.kill(os.getpid(), signal.SIGHUP)
            if (child := os.fork()) == 0:
                os.kill(os.getpid(), signal.SIGUSR1)  # as to all of a group
                os.kill(os.getpid(), signal.SIGTERM)  # as by whoever made it
                os._exit(0)
            assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_a_stopped_training_says_how_to_go_on(tmp_path):
    run = runs.RunFolder(tmp_path / "run")
    run.last.parent.mkdir(parents=True)
    (run.path / "environment.json").write_text('{"seed": 0}')
    stopped = Stopped(signal.SIGTERM)
    resume.note_failure(run, stopped)
    assert "the same command starts it again" in str(stopped)
    run.last.touch()
    resume.note_failure(run, stopped)
    assert f"continue with the same words and {setting('resume', run.last)} (resume=auto finds it)" in str(stopped)
    assert run.environment["ended"] == str(stopped)
    run.end_training(3)
    resume.note_failure(run, OSError("no space left"))  # in what follows it
    assert run.environment["ended"] == str(stopped)
    assert run.environment["failed_after_training"] == "no space left"
