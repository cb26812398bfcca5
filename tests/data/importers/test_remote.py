"""Files on a server, read in parts; what servers do wrong is one line, and soon."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nwb_files import write
from range_server import Files
from requests.hooks import dispatch_hook

from vivit_core.data.importers import remote
from vivit_core.data.importers.common import Importer
from vivit_core.data.importers.remote import ATTEMPTS, Remote, is_remote
from vivit_core.data.recording.reader import Recording
from vivit_core.specs import RecordingError

DATA = np.random.default_rng(0).bytes(10_000)
SPLITS = ["val_fraction=0", "test_fraction=0"]


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[Files]:
    for name, value in {"BLOCK": 1000, "BLOCKS": 4, "WAIT_S": 0.01}.items():
        monkeypatch.setattr(remote, name, value)
    with Files() as made:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        for name in ("no_proxy", "NO_PROXY"):
            monkeypatch.setenv(name, "127.0.0.1")
        monkeypatch.setenv("DANDI_INSTANCE", f"{made.url}/api")
        made.content["/a/b.nwb"] = DATA
        yield made


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Waits are short where a fault is one of time; elsewhere a busy machine needs the usual patience."""

    def shorten(fault: str) -> None:
        if (name := {"hang": "SILENT_S", "slow": "BLOCK_S"}.get(fault)) is not None:
            monkeypatch.setattr(remote, name, 0.4)

    return shorten


@pytest.fixture(scope="module")
def session_nwb(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("nwb") / "s.nwb")


def test_what_is_an_address() -> None:
    assert all(map(is_remote, ["https://a.org/b.nwb", "http://a/b", "dandi://000006/x.nwb"]))
    assert not any(map(is_remote, ["a.nwb", "/https/a.nwb", "sessions/*.nwb", "http:/a/b", "hf://a/b", r"C:\a.nwb"]))


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10_100), st.integers(0, 2500)), max_size=6))
def test_it_reads_as_a_file_does(files: Files, places: list[tuple[int, int]]) -> None:
    file = Remote(f"{files.url}/a/b.nwb").file
    for start, length in places:
        file.seek(start)
        assert file.read(length) == DATA[start : start + length]
        assert file.tell() == start + len(DATA[start : start + length])
    assert (file.seek(0, 2), file.seek(-5, 2), file.read()) == (10_000, 9_995, DATA[-5:])


def test_only_what_is_needed_is_asked_for_and_once(files: Files) -> None:
    file = Remote(f"{files.url}/a/b.nwb").file
    for start in (100, 5200, 5300, 5100, 200):
        file.seek(start)
        file.read(50)
    assert files.asked == ["/a/b.nwb bytes=0-999", "/a/b.nwb bytes=5000-5999"]
    assert (file.loaded, file.requests, file.size) == (2000, 2, 10_000)


@pytest.mark.parametrize("fault", ["500", "503", "429", "short", "less", "end", "hang", "slow"])
def test_what_may_pass_is_asked_again(files: Files, fault: str, impatient: Callable[[str], None]) -> None:
    impatient(fault)
    files.faults["/a/b.nwb"] = [fault, fault]
    file = Remote(f"{files.url}/a/b.nwb").file
    files.faults["/a/b.nwb"] = [fault]
    file.seek(3000)
    assert file.read(10) == DATA[3000:3010]
    assert len(files.asked) >= 5  # a busy machine may fail once more


@pytest.mark.parametrize(
    ("fault", "asked", "message"),
    [
        ("whole", 1, "the server gives no parts of files .* only the whole of 0.0 MB. Download the file, and give its"),
        ("404", 1, "there is no such file .*404.* Correct source=…"),
        ("403", 1, "it may not be read .*403.* download the file with your account"),
        ("416", 1, "is empty, or shorter than it was"),
        ("418", 1, "the server answers 418"),
        ("page", 1, "the server answers with a web page, not with a file. Give the address that downloads"),
        ("elsewhere", 1, r"answers nonsense \(asked for bytes from 0 on, it says that it gives bytes 1-999/10000\)"),
        ("unknown size", 1, r"answers nonsense .* gives bytes 0-999/\*\)"),
        ("loop", None, "cannot be asked .*Exceeded 30 redirects.* Correct source=…"),
        ("500", ATTEMPTS, rf"the server answers 500 .* \(asked {ATTEMPTS} times\)"),
        ("short", ATTEMPTS, rf"(breaks off|cannot be reached).* \(asked {ATTEMPTS} times\)"),
        ("end", ATTEMPTS, rf"breaks off .*\(asked {ATTEMPTS} times\)"),
        ("hang", ATTEMPTS, rf"says nothing for 0.4 s \(asked {ATTEMPTS} times\)"),
        ("slow", ATTEMPTS, rf"takes more than 0.4 s for 1000 bytes \(asked {ATTEMPTS} times\)"),
    ],
)
def test_what_does_not_pass_is_said_in_a_line(
    files: Files, fault: str, asked: int | None, message: str, impatient: Callable[[str], None]
) -> None:
    impatient(fault)
    files.faults["/a/b.nwb"] = [f"{fault}!"]
    begin = time.monotonic()
    with pytest.raises(RecordingError, match=message) as caught:
        Remote(f"{files.url}/a/b.nwb")
    assert time.monotonic() - begin < 20 and "\n" not in str(caught.value) and len(str(caught.value)) < 700
    assert str(caught.value).startswith("http://127.0.0.1:")
    assert asked is None or len(files.asked) == asked


def test_a_server_that_is_not_there_and_one_that_changes_the_file(files: Files) -> None:
    file = Remote(f"{files.url}/a/b.nwb").file
    files.faults["/a/b.nwb"] = ["changed"]
    file.seek(5000)
    with pytest.raises(RecordingError, match=r"file: changed while it was read\. Import it again"):
        file.read(10)
    with pytest.raises(RecordingError, match=rf"cannot be reached.*\(asked {ATTEMPTS} times\)"):
        Remote("http://127.0.0.1:9/a.nwb")
    with pytest.raises(RecordingError, match=r"there is no such file"):
        Remote(f"{files.url}/a/c.nwb")


def test_an_address_to_which_it_was_led_is_renewed(files: Files) -> None:
    files.newest, files.assets = {"000006": None}, {("000006", "draft"): {"x.nwb": "/a/b.nwb"}}
    file = Remote("dandi://000006/x.nwb").file
    files.signed += 1  # as after an hour
    file.seek(2000)
    assert file.read(5) == DATA[2000:2005]
    assert [a.partition(" ")[0] for a in files.asked[-3:]] == [
        "/a/b.nwb?signed=1", "/api/assets/a/b.nwb/download/", "/a/b.nwb?signed=3",
    ]  # fmt: skip


def test_it_is_not_led_from_https_to_http() -> None:
    for url, to, refused in [
        ("https://a.org/x", "http://a.org/y", True),
        ("https://a.org/x", "/y", False),
        ("https://a.org/x", "//b.org/y", False),
        ("http://a.org/x", "http://a.org/y", False),
    ]:
        answer = requests.Response()
        answer.url, answer.status_code, answer.headers["Location"] = url, 302, to
        with (
            pytest.raises(requests.exceptions.InvalidSchema, match="from https to http:") if refused else nullcontext()
        ):
            dispatch_hook("response", remote.session().hooks, answer)


def test_an_address_that_is_none_is_a_line(files: Files) -> None:
    with pytest.raises(ValueError, match=r"source=https://\[x: not an address \(Invalid IPv6 URL\); correct source=…"):
        Remote("https://[x")
    files.faults["/a/b.nwb"] = ["to http://[x!"]
    with pytest.raises(RecordingError, match=rf"{files.url}/a/b\.nwb: address: cannot be asked \(.* Correct source=…"):
        Remote(f"{files.url}/a/b.nwb")


def test_the_command_asks_for_the_address_as_it_is(files: Files, command: Callable[..., Any]) -> None:
    path = "/a?to=https://b.org//c/"
    code, printed = command("task=import", "importer=nwb", f"source='{files.url}{path}'", "out=a.h5")
    assert code != 0 and files.asked[0].startswith(f"{path} "), (files.asked, printed)


# The archive -------------------------------------------------------------------------------------------------------


def test_an_archive_is_asked_for_the_file(files: Files) -> None:
    files.newest = {"000006": "0.2", "000007": None}
    files.content |= {"/two": b"2" * 50, "/draft": b"d" * 50, "/old": b"o" * 50}
    files.assets = {
        ("000006", "0.2"): {"sub-a/s b.nwb": "/two", "sub-a/s b.nwb.zarr": None},
        ("000006", "0.1"): {"sub-a/s b.nwb": "/old"},
        ("000007", "draft"): {"x.nwb": "/draft"},
    }
    for address, byte in {
        "dandi://000006/sub-a/s b.nwb": b"2",
        "dandi://000006/sub-a/s%20b.nwb": b"2",  # as a browser writes it
        "dandi://000006@0.1/sub-a/s b.nwb": b"o",
        "dandi://000007/x.nwb": b"d",
    }.items():
        found = Remote(address)
        assert found.file.read(1) == byte and found.file.size == 50
        assert found.stem == ("x" if byte == b"d" else "s b")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("dandi://000009/x.nwb", "archive: there is no dandiset 000009. Correct the number"),
        ("dandi://000006@0.9/x.nwb", "there is no dandiset 000006, version 0.9"),
        ("dandi://000006/sub-a", r"has no file \(in HDF5\) sub-a; it begins the paths of sub-a/s\.nwb, sub-a/t\.nwb\."),
        ("dandi://000006/sub-a/t.nwb", r"has no file \(in HDF5\) sub-a/t\.nwb"),
        ("dandi://6/x.nwb", r"not a file of a DANDI archive; give dandi://DANDISET/PATH"),
        ("dandi://000006", r"not a file of a DANDI archive"),
    ],
)
def test_what_an_archive_does_not_have(files: Files, address: str, message: str) -> None:
    files.newest = {"000006": "0.2"}
    files.assets = {("000006", "0.2"): {"sub-a/s.nwb": "/a/b.nwb", "sub-a/t.nwb": None}}
    with pytest.raises(ValueError, match=message) as caught:
        Remote(address)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("place", "fault", "message"),
    [
        ("/api/dandisets/000006/", "nonsense", r"archive: http.* answers nonsense"),
        ("/api/dandisets/000006/", '{"most_recent_published_version": "0.2"}', r"answers nonsense \(no version\)"),
        ("/api/dandisets/000006/", '{"most_recent_published_version": {"a": 1}}', r"answers nonsense \(no version\)"),
        ("/api/dandisets/000006/versions/0.2/assets/", '{"results": [{"path": "x.nwb"}]}', r"\(no list of assets\)"),
        ("/api/dandisets/000006/", "503", rf"the server answers 503 .*\(asked {ATTEMPTS} times\)"),
        ("/api/dandisets/000006/", "hang", rf"says nothing for 0.4 s \(asked {ATTEMPTS} times\)"),
        ("/api/dandisets/000006/versions/0.2/assets/", "page", "a web page, not with a file"),
        ("/api/assets/a/b.nwb/download/", "401", "it may not be read .*401"),
    ],
)
def test_what_an_archive_does_wrong(
    files: Files,
    place: str,
    fault: str,
    message: str,
    impatient: Callable[[str], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    impatient(fault)
    files.newest = {"000006": "0.2"}
    files.assets = {("000006", "0.2"): {"x.nwb": "/a/b.nwb"}}
    files.faults[place] = [f"{fault}!"]
    with pytest.raises(RecordingError, match=message) as caught:
        Remote("dandi://000006/x.nwb")
    assert "\n" not in str(caught.value)
    monkeypatch.setattr(remote, "SILENT_S", 30.0)
    files.faults[place] = ["500"]
    assert Remote("dandi://000006/x.nwb").file.size == 10_000


def test_settings_and_libraries(files: Files, monkeypatch: pytest.MonkeyPatch, importer: Callable[..., Any]) -> None:
    monkeypatch.setenv("DANDI_INSTANCE", "mars")
    with pytest.raises(ValueError, match=r"DANDI_INSTANCE=mars: not a known archive \(dandi, "):
        Remote("dandi://000006/x.nwb")
    with pytest.raises(ValueError, match=r"this importer reads files, and importer=nwb alone reads from a server"):
        importer("arrays", "recording_id=r", "frame_rate_hz=30")(f"{files.url}/a/b.nwb", "x.h5")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(ValueError, match=r'needs fsspec: pip install "vivit-core\[remote\]"'):
        Remote(f"{files.url}/a/b.nwb")


# NWB files ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_file_on_a_server_becomes_the_same_recording(
    files: Files,
    session_nwb: Path,
    tmp_path: Path,
    importer: Callable[..., Importer],
    command: Callable[..., Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(remote, "BLOCK", 20_000)
    content = session_nwb.read_bytes()
    files.content["/s.nwb"] = content
    files.newest, files.assets = {"000006": "0.2"}, {("000006", "0.2"): {"sub-a/s.nwb": "/s.nwb"}}
    files.faults["/s.nwb"] = ["", "500", "", "short", "end"]  # good again each time
    importer("nwb", *SPLITS)(session_nwb, tmp_path / "local.h5")
    words = [f"importer.{word}" for word in SPLITS]
    code, printed = command("task=import", "importer=nwb", "source=dandi://000006/sub-a/s.nwb", "out=a.h5", *words)
    assert "fetching block" not in printed
    assert code == 0 and f" MB of {len(content) / 1e6:.1f} MB in " in printed, printed
    a, b = Recording(tmp_path / "local.h5"), Recording(tmp_path / "a.h5")
    assert b.info.recording_id == "s" and a.info.trials.stop.tolist() == b.info.trials.stop.tolist()
    for name, values in a.read(0, 350, a.info.behavior).items():
        np.testing.assert_array_equal(values, b.read(0, 350, a.info.behavior)[name])
    before = len(files.asked)
    importer("nwb", *SPLITS)(f"{files.url}/s.nwb", tmp_path / "b.h5")
    importer("nwb", *SPLITS)(f"{files.url}/s.nwb", tmp_path / "b.h5")  # imported already: one look at the file
    again = len(files.asked)
    importer("nwb", *SPLITS)(f"{files.url}/s.nwb", tmp_path / "b.h5")
    assert len(files.asked) == again + 1 > before + 2


@pytest.mark.parametrize("broken", ["half", "nonsense", "server", "changed"])
def test_a_broken_file_on_a_server_is_a_line(
    broken: str, files: Files, session_nwb: Path, tmp_path: Path, importer: Callable[..., Importer]
) -> None:
    content = session_nwb.read_bytes()
    files.content["/s.nwb"] = {"half": content[: len(content) // 2], "nonsense": b"hello " * 999}.get(broken, content)
    if broken in ("server", "changed"):
        files.faults["/s.nwb"] = [*[""] * 9, "503!" if broken == "server" else "changed!"]
    message = {
        "half": r"/s\.nwb: file: cannot be read as NWB \(.*truncated",
        "nonsense": r"/s\.nwb: file: cannot be read as NWB \(.*signature not found",
        "server": rf"/s\.nwb: address: the server answers 503 .*\(asked {ATTEMPTS} times\)",
        "changed": r"/s\.nwb: file: changed while it was read",
    }[broken]
    with pytest.raises(RecordingError, match=message) as caught:
        importer("nwb", *SPLITS)(f"{files.url}/s.nwb", tmp_path / "x.h5")
    assert "\n" not in str(caught.value) and not (tmp_path / "x.h5").exists()
    # What failed is the server, and not the file that libraries could then not read.
    assert ("as NWB" in caught.value.problem) == (broken in ("half", "nonsense"))
