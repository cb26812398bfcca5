"""Arrays in the user's cache: found again, by many at once, on a full or damaged disk; a file of them runs nothing."""

from __future__ import annotations

import fcntl
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vivit_core.system import files, kept
from vivit_core.system.kept import Kept, digest, user_folder
from vivit_core.system.threads import Stopped

KEY = "ab12"
ARRAYS = {"x": np.arange(6, dtype=np.float32).reshape(2, 3), "n": np.array([4, 5])}
LIKE = {name: np.zeros_like(array) for name, array in ARRAYS.items()}


@pytest.fixture(autouse=True)
def nothing_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "_told", set())


def get(folder: Path, key: str = KEY, make: Any = lambda: ARRAYS, **settings: Any) -> bool:
    found, old = Kept(folder, **settings).get(key, LIKE, make)
    for name, array in ARRAYS.items():
        assert np.array_equal(found[name], array) and found[name].dtype == array.dtype
    return old


def never() -> Any:
    pytest.fail("it is computed again")


def test_what_was_made_is_found_again(tmp_path: Path) -> None:
    assert not get(tmp_path / "new")
    assert get(tmp_path / "new", make=never)
    assert not get(tmp_path / "new", key="ab13")


def test_a_key_is_of_code_settings_and_arrays() -> None:
    x = ARRAYS["x"]
    keys = [
        digest([kept], [1], [x]),
        digest([files], [1], [x]),
        digest([kept], [2], [x]),
        digest([kept], [1], [x + 1]),
        digest([kept], [1], [x.T]),
        digest([kept], [1], [x.astype(float)]),
        digest([kept], [1], [x, x]),
    ]
    assert len(set(keys)) == len(keys)
    assert digest([kept], [1], iter([x])) == keys[0]


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "bit", "other names", "other shape", "nan", "large"])
def test_a_damaged_file_is_made_again_and_said(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    get(tmp_path)
    path = tmp_path / f"{KEY}.npz"
    content = path.read_bytes()
    at = content.index(ARRAYS["x"].tobytes())
    if damage in ("other names", "other shape", "nan"):
        arrays = {"other names": {"y": ARRAYS["x"]}, "other shape": ARRAYS | {"x": np.zeros(3, np.float32)}}
        np.savez(path, **arrays.get(damage, ARRAYS | {"x": np.full((2, 3), np.nan, np.float32)}))  # type: ignore[arg-type]
    else:
        path.write_bytes(
            {
                "cut": content[:-30],
                "empty": b"",
                "text": b"what is this?",
                "bit": content[:at] + b"\x07" + content[at + 1 :],
                "large": content + bytes(1 << 20),
            }[damage]
        )
    assert not get(tmp_path)
    assert f"{path} cannot be used" in caplog.text and "computed again" in caplog.text
    assert get(tmp_path, make=never)


def test_a_file_runs_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "evil"),)

    folder = tmp_path / "cache"
    folder.mkdir()
    for content in (pickle.dumps(Evil()), None):
        if content is None:
            np.savez(folder / f"{KEY}.npz", x=np.array([Evil()], object), n=ARRAYS["n"], allow_pickle=True)
        else:
            (folder / f"{KEY}.npz").write_bytes(content)
        assert not get(folder)
    assert caplog.text.count("cannot be used") == 2
    assert not (tmp_path / "evil").exists()


def test_without_a_place_it_goes_on_and_says_so_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    for _ in range(2):
        assert not get(tmp_path / "file" / "cache")
    (line,) = (record.getMessage() for record in caplog.records)
    assert "nothing can be kept in" in line and "Not a directory" in line and "VIVIT_CORE_CACHE=off" in line


def test_a_full_disk_is_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*words: Any, **named: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", full)
        for key in ("ab12", "ab13"):
            assert not get(tmp_path, key)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "(No space left on device)" in line
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    assert not get(tmp_path)


def test_a_folder_that_is_only_read_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    get(tmp_path)
    opened = Path.open

    def only_read(path: Path, mode: str = "r", *words: Any, **named: Any) -> Any:
        if mode != "rb":
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, mode, *words, **named)

    monkeypatch.setattr(Path, "open", only_read)  # the tests' user may be one whom no permission stops
    assert get(tmp_path, make=never)
    assert not caplog.records


def test_its_size_is_bounded_by_what_was_used_last(tmp_path: Path) -> None:
    get(tmp_path, "aa")
    size = (tmp_path / "aa.npz").stat().st_size
    for i, key in enumerate(("ab", "ac")):
        get(tmp_path, key)
        os.utime(tmp_path / f"{key}.npz", (i + 1, i + 1))
    assert get(tmp_path, "ab", make=never)  # so it was used after "ac"
    os.utime(tmp_path / "aa.npz", (3, 3))
    get(tmp_path, "ad", most_bytes=3 * size + 10)
    assert {path.stem for path in tmp_path.glob("*.npz")} == {"aa", "ab", "ad"}
    get(tmp_path, "ae", most_bytes=1)
    assert {path.stem for path in tmp_path.glob("*.npz")} == {"ae"}


def test_leftovers_of_killed_processes_go(tmp_path: Path) -> None:
    (tmp_path / f".{KEY}.npz.0123abcd.tmp").write_text("half")
    get(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ab.lock", f"{KEY}.npz"]


def test_threads_take_turns_and_are_no_other_process(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of keys that share a lock, too."""
    caplog.set_level("INFO")
    now, most = [], []

    def make() -> Any:
        now.append(1)
        most.append(len(now))
        threading.Event().wait(0.05)
        now.pop()
        return ARRAYS

    several = [threading.Thread(target=get, args=(tmp_path, f"ab{number}", make)) for number in range(4)]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    assert most == [1] * 4 and not caplog.records


def test_another_process_is_waited_for_as_long_as_that_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    looks = []

    def go_on() -> None:
        looks.append(1)
        if len(looks) == 3:
            raise Stopped

    monkeypatch.setattr(kept, "go_on", go_on)
    monkeypatch.setattr(kept, "LOOK_S", 0.01)
    with (tmp_path / "ab.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Stopped):
            get(tmp_path, make=never)
    (line,) = (record.getMessage() for record in caplog.records)
    assert "another process computes the same" in line
    assert not get(tmp_path)


PROGRAM = """
import sys, time
from pathlib import Path
import numpy as np
from vivit_core.system.kept import Kept
folder = Path(sys.argv[1])
def make():
    with (folder / "made").open("a") as file:
        file.write("x")
    time.sleep(0.5)
    return {"x": np.ones(3)}
print(Kept(folder / "cache").get("ab12", {"x": np.zeros(3)}, make)[0]["x"].sum())
"""


def test_processes_at_once_compute_it_once(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    started = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate()[0].strip() for process in started] == ["3.0"] * 3
    assert (tmp_path / "made").read_text() == "x"


def test_who_dies_lets_others_go_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="cannot be fitted"):
        get(tmp_path, make=lambda: (_ for _ in ()).throw(RuntimeError("cannot be fitted")))
    assert not get(tmp_path)
    assert not list(tmp_path.glob("*.tmp"))


def test_where_it_is_and_how_it_is_switched_off(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("VIVIT_CORE_CACHE", raising=False)
    assert user_folder("ln") == tmp_path / "vivit-core" / "ln"
    monkeypatch.setenv("VIVIT_CORE_CACHE", "off")
    assert user_folder("ln") is None
    monkeypatch.delenv("VIVIT_CORE_CACHE")

    def homeless(*words: Any, **named: Any) -> None:
        raise RuntimeError("no home")

    monkeypatch.setattr("platformdirs.user_cache_path", homeless)
    assert user_folder("ln") is None
    assert files.known_whole(tmp_path / "x") is False
