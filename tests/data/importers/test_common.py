"""What all importers share: what stands at ``out`` is checked as a training checks it, and sources are bounded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from shipped import arrays_importer
from small_recordings import small_arrays

from vivit_core.cli.schema import ConfigError
from vivit_core.data.importers.common import Importer
from vivit_core.data.recording import guard as guard_module
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.resumable import write_in_pieces
from vivit_core.data.recording.validate import check_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.specs import RecordingError
from vivit_core.testing.small import ABOUT


@pytest.fixture
def imported(tmp_path: Path) -> tuple[Callable[[], Any], Path]:
    """An import that was made, and its file."""
    rng = np.random.default_rng(0)
    source, out = tmp_path / "x.npz", tmp_path / "y.h5"
    np.savez(source, frames=rng.integers(0, 255, (60, 5, 6), dtype=np.uint8), counts=rng.poisson(0.3, (60, 4)))
    importer = arrays_importer(trial_length=10)
    importer(source, out)
    return lambda: importer(source, out), out


def ones(path: Path) -> None:
    with path.open("rb+") as file:
        file.seek(2000)
        file.write(b"\xff" * 300)


def a_frame(path: Path) -> None:
    with h5py.File(path) as file:
        place = file["stimulus/frames"].id.get_chunk_info(0).byte_offset
    with path.open("rb+") as file:
        file.seek(place)
        file.write(b"\x01\x02")


@pytest.mark.parametrize(
    "damage",
    [
        ones,
        a_frame,
        lambda path: path.write_bytes(path.read_bytes()[:700]),
        lambda path: path.write_bytes(path.read_bytes()[:100]),
        lambda path: path.write_bytes(b""),
    ],
)
def test_a_file_that_the_training_refuses_is_imported_anew(
    damage: Callable[[Path], Any], imported: tuple[Callable[[], Any], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    again, out = imported
    again()
    assert "is imported already" in capsys.readouterr().out
    whole = out.read_bytes()
    damage(out)
    with pytest.raises(RecordingError):
        check_recording(out)
    again()
    said = capsys.readouterr().out
    assert f"{out}: file: " in said and "It is imported anew" in said and "wrote" in said
    assert out.read_bytes() == whole
    check_recording(out)


def test_what_no_import_made_is_not_written_over(imported: tuple[Callable[[], Any], Path]) -> None:
    again, out = imported
    for content in ("a text", "an HDF5 file", "a recording"):
        out.write_text(content)
        if content == "an HDF5 file":
            out.unlink()
            with h5py.File(out, "w") as file:
                file["data"] = 1
        if content == "a recording":
            out.unlink()
            write_recording(out, **small_arrays())
        before = out.read_bytes()
        with pytest.raises(RecordingError, match=r"y\.h5: file: stands there already, and no import made it.*out=…"):
            again()
        assert out.read_bytes() == before


@dataclass(frozen=True, kw_only=True)
class Hangs(Importer):
    """As the C code of a format may."""

    guarded = True
    seconds: float

    @contextmanager
    def read(self, source: Path) -> Any:
        while True:
            pass
        yield


def test_a_source_that_hangs_its_reader_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "SECONDS", 0.5)
    monkeypatch.setattr("vivit_core.data.importers.common._IMPORTS_S", 0.0)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    monkeypatch.setattr(Hangs, "__module__", Path(__file__).stem)
    (tmp_path / "a.nwb").write_bytes(b"anything")
    with pytest.raises(RecordingError, match=r"a\.nwb: file: damaged: it could not be read within"):
        Hangs(seconds=1.0, **ABOUT)(tmp_path / "a.nwb", tmp_path / "out.h5")


def test_a_source_of_holes_is_refused(imported: tuple[Callable[[], Any], Path], tmp_path: Path) -> None:
    again, out = imported
    out.unlink()
    with (tmp_path / "x.npz").open("rb+") as file:
        file.truncate(1 << 40)
    with pytest.raises(RecordingError, match=r"x\.npz: file: truncated or damaged: of its 1.1e\+12 bytes only"):
        again()


@pytest.mark.parametrize("what", ["journal", "partial"])
def test_a_damaged_rest_of_a_killed_import_is_not_continued(what: str, tmp_path: Path) -> None:
    path = tmp_path / "y.h5"
    values = np.arange(4000.0).reshape(1000, 4)

    class Killed(BaseException):
        pass

    class Source:
        shape, dtype = values.shape, values.dtype
        reads = 0

        def __getitem__(self, key: slice) -> Any:
            Source.reads += 1
            if Source.reads == 4:
                raise Killed
            return values[key]

    def write(source: Any) -> None:
        write_in_pieces(
            path,
            lambda file: None,
            {"v": (source, values.dtype)},
            write_checksum,
            layout_bytes=0,
            piece_bytes=3200,
            key="k",
        )

    with pytest.raises(Killed):
        write(Source())
    partial, journal = tmp_path / ".y.h5.partial", tmp_path / ".y.h5.journal"
    assert partial.exists() and len(journal.read_text().splitlines()) == 4
    if what == "journal":
        journal.write_text(journal.read_text() + '["v", 300\n')
    else:
        content = partial.read_bytes()
        partial.write_bytes(content[:600] + bytes(len(content) - 600))
    write(values)
    with h5py.File(path) as file:
        np.testing.assert_array_equal(file["v"][:], values)
    assert not partial.exists() and not journal.exists()


def write_sources(folder: Path, *names: str) -> None:
    """Small .npz files; one whose name begins with "bad" counts spikes below zero."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(names):
        rng = np.random.default_rng(seed)
        counts = rng.poisson(0.3, (60, 4)) - name.startswith("bad")
        np.savez(folder / name, frames=rng.integers(0, 255, (60, 5, 6), dtype=np.uint8), counts=counts)


def test_many_files_in_one_command(tmp_path: Path, command: Callable[..., tuple[int, str]]) -> None:
    """Each under its own name, and a broken one keeps no other from it."""
    write_sources(tmp_path / "sessions", "a.npz", "bad.npz", "c.npz")
    words = ["task=import", "importer=arrays", "source=sessions/*.npz", "importer.frame_rate_hz=30"]
    code, printed = command(*words, "out=data", "importer.trial_length=10")
    assert code == 1 and "bad.h5: responses/counts: row 0" in printed and "Traceback" not in printed
    files = sorted((tmp_path / "data").glob("*.h5"))
    assert [(path.name, Recording(path).recording_id) for path in files] == [("a.h5", "a"), ("c.h5", "c")]
    (tmp_path / "sessions" / "bad.npz").unlink()
    times = [path.stat().st_mtime_ns for path in files]
    code, printed = command(*words, "out=data", "importer.trial_length=10")
    assert code == 0 and printed.count("is imported already") == 2
    assert [path.stat().st_mtime_ns for path in files] == times


def test_several_problems_are_told_together(tmp_path: Path) -> None:
    write_sources(tmp_path, "a.npz", "bad1.npz", "bad2.npz")
    with pytest.raises(ValueError, match=r"(?s)2 of 3 recordings cannot be imported.*bad1\.h5.*bad2\.h5"):
        arrays_importer(recording_id=None, trial_length=10)(tmp_path / "*.npz", tmp_path / "out")
    assert (tmp_path / "out" / "a.h5").is_file()


def test_a_file_that_may_not_be_read_keeps_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_sources(tmp_path, "a.npz", "b.npz", "c.npz")
    importer = arrays_importer(recording_id=None, trial_length=10)
    whole = type(importer).files

    def files(self: Any, source: Path) -> list[Path]:
        if source.name == "b.npz":
            raise PermissionError(13, "Permission denied", str(source))
        return whole(self, source)

    monkeypatch.setattr(type(importer), "files", files)
    with pytest.raises(PermissionError, match=r"b\.npz"):
        importer(tmp_path / "*.npz", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.h5")) == ["a.h5", "c.h5"]


def test_what_several_files_cannot_share_is_refused(tmp_path: Path) -> None:
    write_sources(tmp_path / "x", "a.npz", "b.npz")
    write_sources(tmp_path / "y", "a.npz")
    for pattern, out, name, says in (
        ("x/*.npz", "out", "r", r"recording_id=r: .* gives 2 recordings; leave it out"),
        ("x/*.npz", "out.h5", None, r"may give several recordings \(now 2\); name a folder"),
        ("*/a.npz", "out", None, r"would both become .*a\.h5"),
        ("*/z.npz", "out", None, "and nothing of this pattern"),
        ("y/a.npz", "out.hdf5", None, r"ends in \.h5; write out=.*out\.h5"),
        ("y/a.npz", "out", None, r"out=.*out: a recording file ends in \.h5; write out=.*out/a\.h5"),
    ):
        with pytest.raises(ValueError, match=says):
            arrays_importer(recording_id=name, trial_length=10)(tmp_path / pattern, tmp_path / out)
    assert not list(tmp_path.glob("out*"))


@pytest.mark.parametrize(
    ("name", "setting", "value"),
    [
        ("arrays", "frame_rate_hz", "0"),
        ("arrays", "trial_length", "0"),
        ("arrays", "val_fraction", "-0.1"),
        ("arrays", "degrees_per_pixel", "0"),
        ("nwb", "frame_rate_hz", "0"),
        ("nwb", "trial_s", "-5"),
        ("nwb", "trial_s", "0"),
        ("nwb", "longest_frame_s", "0"),
        ("nwb", "longest_hold_s", "-1"),
        ("nwb", "test_fraction", "1"),
        ("mahuas2020", "bin_ms", "0"),
        ("mahuas2020", "pool", "0"),
        ("mahuas2020", "val_fraction", "1.5"),
        ("visioncore", "rate_hz", "-240"),
        ("visioncore", "pool", "0"),
        ("visioncore", "min_rate_hz", "-1"),
        ("visioncore", "val_fraction", "-0.1"),
        ("sensorium2023", "frame_rate_hz", "0"),
        ("sensorium2023", "test_from_val", "-0.5"),
    ],
)
def test_numbers_that_make_no_recording_are_refused_by_their_key(
    name: str, setting: str, value: str, compose: Callable[..., dict[str, Any]]
) -> None:
    rate = ["importer.frame_rate_hz=30"] if (name, setting) != ("arrays", "frame_rate_hz") else []
    words = [f"importer={name}", *(rate if name == "arrays" else []), f"importer.{setting}={value}"]
    with pytest.raises(ConfigError, match=rf"importer\.{setting}=-?[\d.]+ should be (greater|less) than"):
        compose("task=import", "source=a", "out=b", *words)
