"""Damaged and hostile files: each is refused with words that help, none crashes, hangs, runs code or takes memory."""

from __future__ import annotations

import os
import pickle
import resource
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import small_recordings
import tiny_models
import torch
from fuzzing import DAMAGES, Outcome, damaged, fuzz
from shipped import PLAIN, arrays_importer
from small_recordings import npz, rich

import vivit_core
from vivit_core import load_twin
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.checksum import write_checksum
from vivit_core.data.recording.reader import Recording
from vivit_core.data.recording.validate import check_recording, validate_recording
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.load import checkpoint_of
from vivit_core.specs import RecordingError
from vivit_core.system import files

SRC = Path(vivit_core.__file__).parents[1]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of the process that reads: its notes of files read whole are its own."""
    return {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(SRC), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    twin = tiny_models.twin(tiny_models.vivit(spatial_depth=1, temporal_depth=1))
    path = tmp_path / "good.ckpt"
    torch.save(checkpoint_of(twin), path)
    return path


# Damage ---------------------------------------------------------------------------------------------------------------


def good_file(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    return {"recording": rich, "arrays": npz}[kind](tmp_path) if kind != "checkpoint" else request.getfixturevalue(kind)


def report(kind: str, out: Outcome) -> str:
    lines = [f"{kind}: {dict(out.counts)}, the slowest took {out.slowest:.1f} s", *out.failures]
    return "\n".join(lines + [f"{n:5} × {message}" for message, n in out.messages.most_common()])


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["recording", "checkpoint", "arrays"])
def test_damaged_files_are_refused(kind, tmp_path, environment, request):
    out = fuzz(good_file(kind, tmp_path, request), kind, range(25), tmp_path, environment)
    assert not out.failures, report(kind, out)
    assert out.counts["refused"] > 15


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_damaged_files_whose_checksum_holds_neither_hang_nor_crash(tmp_path, environment):
    out = fuzz(rich(tmp_path), "recording", range(5000, 5015), tmp_path, environment, resealed=True)
    assert not out.failures, report("resealed", out)
    assert out.counts["refused"] > 2 and out.counts["unharmed"] > 1


@pytest.mark.long
@pytest.mark.timeout(3600)
def test_a_thousand_damaged_files_whose_checksum_holds(tmp_path, environment):
    out = fuzz(rich(tmp_path), "recording", range(6000, 7000), tmp_path, environment, resealed=True)
    print(report("resealed", out))
    assert not out.failures, report("resealed", out)


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("kind", "many"), [("recording", 1600), ("checkpoint", 800), ("arrays", 800)])
def test_thousands_of_damaged_files_are_refused(kind, many, tmp_path, environment, request):
    """``pytest -m long -s`` prints what the users would read."""
    out = fuzz(good_file(kind, tmp_path, request), kind, range(1000, 1000 + many), tmp_path, environment)
    print(report(kind, out))
    assert not out.failures, report(kind, out)
    assert sum(out.counts.values()) == many


def test_the_damage_is_real():
    content = bytes(range(256)) * 40
    for seed in range(3 * len(DAMAGES)):
        assert damaged(content, seed) == damaged(content, seed)
    assert {damaged(content, seed)[0] for seed in range(len(DAMAGES))} == set(DAMAGES)
    assert sum(damaged(content, seed)[1] != content for seed in range(100)) > 80


def test_a_flipped_pixel_is_found_once_and_the_file_is_read_whole_only_once(make, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    path = make()
    with h5py.File(path) as file:
        place = file["stimulus/frames"].id.get_chunk_info(0).byte_offset
    check_recording(path)
    assert files.known_whole(path)
    reads = []
    monkeypatch.setattr("vivit_core.data.recording.checksum.checksum_holds", lambda path: reads.append(path) or True)
    check_recording(path)
    assert not reads  # as it was
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "notes"))
    with path.open("rb+") as file:
        file.seek(place + 5)
        byte = file.read(1)[0]
        file.seek(place + 5)
        file.write(bytes([byte ^ 1]))
    assert not files.known_whole(path)
    with pytest.raises(RecordingError, match="checksum differs"):
        check_recording(path)


def test_a_change_on_purpose_names_its_field_or_is_sealed_again(make):
    path = make()
    with h5py.File(path, "r+") as file:
        file["stimulus/frames"][0] = 7
    with pytest.raises(RecordingError, match=r"write_checksum\(path\)"):
        validate_recording(path)
    write_checksum(path)
    validate_recording(path)
    with h5py.File(path, "r+") as file:
        file["behavior/eye"][3, 1] = np.inf
    with pytest.raises(RecordingError, match=r"behavior/eye: row 3"):
        validate_recording(path)


def test_files_of_other_programs_have_no_seal_and_are_read(make, tmp_path):
    other = tmp_path / "other.h5"
    with h5py.File(make()) as mine, h5py.File(other, "w") as file:
        for name in mine:
            mine.copy(name, file)
        file.attrs.update(mine.attrs)
    assert validate_recording(other).n_units == 3


# Claims ---------------------------------------------------------------------------------------------------------------


def claimed(path: Path, name: str, shape: tuple[int, ...], dtype: Any = "u1", chunks: Any = True) -> None:
    with h5py.File(path, "r+") as file:
        attrs = dict(file[name].attrs)
        del file[name]
        file.create_dataset(name, shape, dtype, chunks=chunks).attrs.update(attrs)


@pytest.mark.parametrize(
    ("name", "shape", "dtype", "chunks", "says"),
    [
        ("stimulus/frames", (10**12, 36, 64), "u1", (64, 36, 64), "claims content"),
        ("stimulus/frames", (120, 10**5, 10**5), "u1", (1, 1000, 1000), "claims a bin"),
        ("stimulus/frames", (120, 40000, 6), "u1", (120, 40000, 6), None),
        ("stimulus/frames", (10**6, 40, 60), "u1", (10**6, 40, 60), "chunks of"),
        ("responses/counts", (120, 10**10), "f4", (1, 1000), "claims a bin"),
        ("trials/start", (10**9,), "i8", (1000,), "claims a table"),
        ("trials/start", (10**7,), "i8", (1000,), "trials"),
        ("units/id", (10**9,), "i8", (1000,), "claims a table"),
    ],
)
def test_what_a_file_claims_is_bounded(name, shape, dtype, chunks, says, make):
    path = make()
    claimed(path, name, shape, dtype, chunks)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if says is None:
        write_checksum(path)
        validate_recording(path)
    else:
        with pytest.raises(RecordingError, match=f"{name}.*{says}"):
            validate_recording(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


def test_a_bomb_of_an_npz_and_of_a_checkpoint_is_refused(tmp_path, checkpoint, monkeypatch):
    from vivit_core.data.importers import arrays

    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as bomb:
        for name in ("frames", "counts"):
            with bomb.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|u1", "fortran_order": False, "shape": (64 << 20, 1, 1)}
                )
                for _ in range(64):
                    member.write(bytes(1 << 20))
    assert (tmp_path / "bomb.npz").stat().st_size < 200_000
    monkeypatch.setattr(arrays, "free_memory", lambda: 100 << 20)
    importer = arrays_importer(recording_id="x", frame_rate_hz=1.0, split="train")
    with pytest.raises(ValueError, match=r"bomb\.npz holds arrays of 0\.134 GB, and 0\.105 GB of memory are free"):
        importer(tmp_path / "bomb.npz", tmp_path / "out.h5")
    monkeypatch.undo()
    assert arrays.free_memory() > 1 << 26
    with zipfile.ZipFile(checkpoint) as good, zipfile.ZipFile(tmp_path / "bomb.ckpt", "w") as bomb:
        for member in good.infolist():
            bomb.writestr(member.filename, good.read(member))
        bomb.writestr("good/data/999", b"\0" * (64 << 20), zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match="more memory"):
        load_twin(tmp_path / "bomb.ckpt")


# Code -----------------------------------------------------------------------------------------------------------------


class Runs:
    """A pickle that runs a command when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


def test_no_pickle_is_run(tmp_path, checkpoint):

    mark = tmp_path / "ran"
    evil = np.array([Runs(mark)], dtype=object)
    np.savez(tmp_path / "evil.npz", frames=evil, counts=np.zeros((1, 1)))
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "frames.npy", evil)
    np.save(tmp_path / "folder" / "counts.npy", np.zeros((1, 1)))
    importer = arrays_importer(recording_id="x", frame_rate_hz=1.0, split="train")
    for source in ("evil.npz", "folder"):
        with pytest.raises(ValueError, match=source.split(".")[0]):
            importer(tmp_path / source, tmp_path / "out.h5")
    torch.save({"twin": Runs(mark), "state_dict": {}}, tmp_path / "evil.ckpt")
    (tmp_path / "bare.ckpt").write_bytes(pickle.dumps(Runs(mark)))
    for name in ("evil.ckpt", "bare.ckpt"):
        with pytest.raises(ValueError, match="not a readable checkpoint"):
            load_twin(tmp_path / name)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [("embedding_dim", 10**9), ("spatial_depth", 10**9), ("registers", 10**12), ("embedding_dim", "16"), ("x", 1)],
)
def test_a_description_takes_no_more_memory_than_its_weights(key, value, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["twin"]["model"][key] = value
    torch.save(content, tmp_path / "changed.ckpt")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=r"changed.ckpt: the (checkpoint describes no twin|weights do not fit)"):
        load_twin(tmp_path / "changed.ckpt")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000  # kB


@pytest.mark.parametrize("changes", [{"depth": 400}, {"depth": 1, "widths": [1] * 400}])
def test_blocks_of_a_tokenizer_are_counted_before_they_are_made(changes, checkpoint, tmp_path):
    content = torch.load(checkpoint, weights_only=True)
    content["twin"]["model"]["tokenizer"] = tiny_models.RESIDUAL_STEM | changes
    content["twin"]["model"]["spatial_depth"] = -1000  # takes nothing away from the others'
    torch.save(content, tmp_path / "changed.ckpt")
    with pytest.raises(ValueError, match=r"describes no twin that can be made \(ValueError: [48]0\d blocks, but"):
        load_twin(tmp_path / "changed.ckpt")


def test_links_out_of_the_folder_are_refused(make, tmp_path):
    outside = make("outside.h5")
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.h5").symlink_to(outside)
    with pytest.raises(RecordingError, match=r"a\.h5.*leads out of data\.root"):
        data(root=str(tmp_path / "root")).setup()


# Interruptions --------------------------------------------------------------------------------------------------------


def data(**changed: Any) -> RecordingsDataModule:
    settings: dict[str, Any] = {
        "recordings": None,
        "root": None,
        "simulator": None,
        "cache": "",
        "behavior": ["eye"],
        "clip_length": 10,
        "burn_in": 2,
        "evaluation_length": 10,
        "evaluation_burn_in": 2,
        "weighting": "units",
        "num_workers": 0,
        "seed": 0,
    }
    return RecordingsDataModule(**(PLAIN | settings | changed))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_vanishes_in_an_epoch_is_named(workers, make, tmp_path):
    paths = [make("a.h5", 0), make("b.h5", 1)]
    module = data(recordings=[str(p) for p in paths], num_workers=workers)
    module.configure(batch_size=2, batches_per_epoch=200)
    module.setup()
    paths[1].unlink()
    with pytest.raises(RecordingError, match=r"b\.h5: file: it is gone"):
        for _ in module.train_dataloader():
            pass


FULL = """
import resource, sys
sys.path[:0] = [{tests!r}]
from small_recordings import small_arrays
from vivit_core.data.recording import write_recording
resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))  # as on a disk with 30 kB left
try:
    write_recording({path!r}, **small_arrays(n_frames=4000))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(make, tmp_path, environment):
    path = make()
    before = path.read_bytes()
    code = FULL.format(tests=str(Path(small_recordings.__file__).parent), path=str(path))
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120)
    assert "RecordingError" in done.stdout and str(path) in done.stdout, done.stdout + done.stderr
    assert "disk" in done.stdout
    assert path.read_bytes() == before and os.listdir(tmp_path) == [path.name]


def test_a_text_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "summary.json"
    files.write_text(path, "old")
    monkeypatch.setattr(os, "fsync", lambda handle: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        files.write_text(path, "new")
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["summary.json"]


def test_two_that_write_the_same_file_leave_one_whole(make, arrays, tmp_path):
    """One wins or is told to wait; the file is whole."""
    refused = []

    def write(seed: int) -> None:
        try:
            write_recording(tmp_path / "same.h5", **arrays(seed, n_frames=2000))
        except RecordingError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("another process is writing it" in message for message in refused) and len(refused) < 2
    validate_recording(tmp_path / "same.h5")
    assert os.listdir(tmp_path) == ["same.h5"]


def test_an_error_keeps_its_words_across_processes():
    error = RecordingError("a.h5", "responses/counts", "row 3 is negative", "Store counts")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    assert str(type(error)(str(error))) == str(error)  # as torch makes it again from a worker's text


def test_a_file_cut_short_after_its_check_is_not_read(make):
    path = make()
    recording = Recording(path)
    with h5py.File(path, "r+") as file:
        place = file["responses/counts"].id.get_chunk_info(0).byte_offset
    with path.open("rb+") as file:
        file.truncate(place)
    with pytest.raises(RecordingError, match="it has changed since it was checked"):
        recording.read(0, 20, {})
