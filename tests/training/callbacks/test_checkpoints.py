"""A training that is killed, or whose disk is full, leaves what is needed to go on."""

from __future__ import annotations

import math
import os
import resource
import shutil
import signal
import sys
import tempfile
import traceback
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Callback
from test_resume import names, outcome, rows, same
from tiny_training import SignalAt, train

from vivit_core.cli.conclusion import score_of
from vivit_core.cli.runs import RunFolder
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.system.files import NoRoomError, remove_leftovers
from vivit_core.system.stops import TrainingStopped
from vivit_core.training.callbacks.checkpoints import has_ended, name_pattern, save_checkpoint

WRITES = ("os.rename", "os.link", "os.remove", "os.mkdir", "shutil.move")
SHORT = {"epochs": 3, "steps": 2, "keep": {"save_top_k": 1}}


def train_until_event(folder: Path, stop: int, resume: Path | None) -> bool:
    """Train in a child that is killed at its ``stop``-th write event; false where it had fewer."""
    child = os.fork()
    if child == 0:
        count = 0

        def watch(event: str, args: tuple) -> None:
            nonlocal count
            opened = event == "open" and isinstance(args[1], str) and args[1][0] in "wax"
            if (opened or event in WRITES) and str(args[0]).startswith(str(folder)):
                count += 1
                if count == stop:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        code = 1
        try:
            train(folder, resume=resume, **SHORT)
            code = 0
        except BaseException:
            traceback.print_exc()
        os._exit(code)
    status = os.waitpid(child, 0)[1]
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
    return os.WIFSIGNALED(status)


def assert_whole(run: RunFolder) -> None:
    for path in run.checkpoints():
        read_checkpoint(path)
    if (run.path / "checkpoints" / "metrics.csv").is_file():
        rows(run.path / "checkpoints")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("uninterrupted")
    return folder, outcome(*train(folder, **SHORT)[:2])


def assert_equal(run: RunFolder, uninterrupted, lit, trainer) -> None:
    folder, expected = uninterrupted
    got = outcome(lit, trainer)
    for name in expected:
        assert same(expected[name], got[name]), name
    remove_leftovers(run.last.parent)
    assert names(run.last.parent) == names(folder) and rows(run.last.parent) == rows(folder)


@pytest.mark.slow
@pytest.mark.parametrize("stops", [pytest.param(range(1, 200), marks=pytest.mark.long), range(6, 200, 9)])
@pytest.mark.timeout(900)
def test_killed_at_a_write_it_goes_on_as_if_nothing_had_happened(tmp_path, uninterrupted, stops):
    """At each event in turn, and once more at the same event of the training that goes on."""
    for stop in stops:
        run = RunFolder(tmp_path / str(stop))
        resume, interrupted = None, False
        for _ in range(2):
            interrupted = train_until_event(run.last.parent, stop, resume)
            assert_whole(run)
            if not interrupted:
                break
            resume = run.newest_whole(lambda line: None)
        lit, trainer, _ = train(run.last.parent, resume=resume, **SHORT)
        assert_equal(run, uninterrupted, lit, trainer)
        if not interrupted and stop > 20:
            return
    assert stop > 20


def test_the_temporary_folder_is_not_used(tmp_path, monkeypatch):
    """Which may be on another file system, or full."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    train(tmp_path / "run", epochs=1)
    assert read_checkpoint(tmp_path / "run" / "last.ckpt")["global_step"] == 4


class FullDisk(Callback):
    """From an epoch on no file grows beyond so many bytes."""

    def __init__(self, epoch: int, limit: int) -> None:
        self.epoch, self.limit = epoch, limit

    def on_train_epoch_start(self, trainer, module):
        if trainer.current_epoch == self.epoch:
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.limit, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


@pytest.mark.parametrize(("epoch", "then"), [(0, "begin again"), (1, "resume=auto continues")])
def test_a_full_disk_stops_it_and_keeps_what_was_there(tmp_path, uninterrupted, epoch, then):
    run, before = RunFolder(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(NoRoomError, match=f"(?s)no room to write .*ckpt.*File too large.* MB free of .*{then}"):
            train(run.last.parent, callbacks=[FullDisk(epoch, 20_000)], **SHORT)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_whole(run)
    assert not [name for name in names(run.last.parent) if name.endswith(".tmp")]
    resume = run.newest_whole(pytest.fail)
    assert (resume and read_checkpoint(resume)["global_step"]) == (2 if epoch else None)
    assert_equal(run, uninterrupted, *train(run.last.parent, resume=resume, **SHORT)[:2])


def test_a_small_disk(tmp_path):
    """/dev/full is one without any room at all."""
    full = tmp_path / "full.ckpt"
    save_checkpoint({"a": torch.ones(3)}, full)
    content = full.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vivit_core.system.files.uuid4", lambda: type("Id", (), {"hex": "01234567"}))
        (tmp_path / ".full.ckpt.01234567.tmp").symlink_to("/dev/full")
        with pytest.raises(NoRoomError, match=r"no room to write .*full.ckpt: No space left on device"):
            save_checkpoint({"a": torch.zeros(3)}, full)
    assert full.read_bytes() == content and names(tmp_path) == ["full.ckpt"]


def test_the_last_checkpoint_is_of_the_last_epoch(tmp_path):
    """Also where that is not among the best; where it is, the two are one file."""
    _, trainer, record = train(tmp_path, keep={"save_top_k": 1, "mode": "min"})
    worst = int(torch.tensor(record.scores).argmin())
    assert worst != 2, "a training that gets worse would not show it"
    assert names(tmp_path) == [f"epoch={worst}-step={4 * (worst + 1)}.ckpt", "last.ckpt", "metrics.csv"]
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == trainer.global_step == 12
    train(tmp_path / "second", epochs=1)
    best, last = (tmp_path / "second" / name for name in ("epoch=0-step=4.ckpt", "last.ckpt"))
    assert best.samefile(last)


@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val/bps_mean", "max"), (None, "min")])
def test_the_score_is_of_the_checkpoint_that_was_kept(tmp_path, monitor, mode):
    _, trainer, record = train(tmp_path, keep={"monitor": monitor, "mode": mode, "save_top_k": 1})
    state = trainer.checkpoint_callback.state_dict()
    content = read_checkpoint(Path(state["best_model_path"]))
    assert score_of(content, state) == pytest.approx(record.scores[content["epoch"]], abs=1e-6)
    assert score_of({**content, "scores": {"val/bps_mean": math.nan}}, state) is None
    assert score_of(content, {**state, "best_model_path": ""}) is None


def test_files_of_a_lost_course_are_removed(tmp_path):
    train(tmp_path, epochs=1)
    for name in ("epoch=7-step=32", "epoch=0-step=4-v1", "last-v1", "mine", "epoch=0-step=4 copy", "best"):
        shutil.copy(tmp_path / "last.ckpt", tmp_path / f"{name}.ckpt")
    train(tmp_path, epochs=2, resume=tmp_path / "last.ckpt")
    kept = {path.stem for path in tmp_path.glob("*.ckpt")}
    assert kept == {"epoch=0-step=4", "epoch=1-step=8", "last", "mine", "epoch=0-step=4 copy", "best"}


def test_names_of_checkpoints():
    pattern = name_pattern("epoch{epoch:03d}-bps{val/bps_mean:.4f}", "last")
    for ours in ("epoch012-bps0.1234", "epoch012-bps-0.1234", "epoch000-bpsnan", "epoch001-bps0.1000-v2", "last-v1"):
        assert pattern.fullmatch(ours)
    for other in ("last", "best", "epoch012-bps0.1234 copy", "epoch012-bps0.1234-good", "final"):
        assert not pattern.fullmatch(other)


def test_a_run_folder_may_be_moved_and_lose_a_checkpoint(tmp_path):
    whole = train(tmp_path / "whole", **{**SHORT, "keep": {}})
    with pytest.raises(TrainingStopped):
        train(tmp_path / "there", callbacks=[SignalAt(2, 0)], **{**SHORT, "keep": {}})
    (tmp_path / "there").rename(tmp_path / "here")
    _, trainer, _ = train(tmp_path / "here", resume=tmp_path / "here" / "last.ckpt", **{**SHORT, "keep": {}})
    expected, got = (t.checkpoint_callback.best_k_models for t in (whole[1], trainer))
    assert {Path(path).name: float(score) for path, score in got.items()} == {
        Path(path).name: float(score) for path, score in expected.items()
    }
    assert all(Path(path).parent == tmp_path / "here" for path in got)

    best = Path(trainer.checkpoint_callback.best_model_path)
    best.unlink()
    _, trainer, _ = train(tmp_path / "here", resume=tmp_path / "here" / "last.ckpt", **{**SHORT, "keep": {}})
    keeper = trainer.checkpoint_callback
    assert str(best) not in keeper.best_k_models and len(keeper.best_k_models) == 2
    assert Path(keeper.best_model_path).is_file()
    assert float(keeper.best_model_score) == max(float(score) for score in keeper.best_k_models.values())


def test_the_end_of_a_training_is_seen_in_its_checkpoint():
    def content(step, **stop):
        return {"global_step": step, "callbacks": {"A": {"best_model_path": ""}, "EarlyStopping": stop}}

    going_on = {"wait_count": 1, "patience": 2, "stopped_epoch": 0}
    assert not has_ended(content(9, **going_on), 10)
    assert has_ended(content(10, **going_on), 10)
    assert has_ended(content(3, **{**going_on, "wait_count": 2}), 10)
    assert has_ended(content(3, **{**going_on, "stopped_epoch": 1}), 10)
    assert not has_ended(content(3, wait_count=0, patience=0, stopped_epoch=0), 10)
    assert has_ended(content(3, wait_count=1, patience=0, stopped_epoch=0), 10)
    assert not has_ended({"global_step": 3, "callbacks": {}}, 10)


# What of a run is continued -----------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_passed_over(tmp_path):
    run, said = RunFolder(tmp_path), []
    train(run.last.parent, epochs=2)
    first, second = (run.last.with_name(f"epoch={epoch}-step={4 * (epoch + 1)}.ckpt") for epoch in (0, 1))
    assert run.newest_whole(pytest.fail) == run.last

    for damage in (b"", b"PK", second.read_bytes()[:-100], None):
        run.last.unlink()  # and not the epoch's, which is the same file
        if damage is not None:
            run.last.write_bytes(damage)
        said.clear()
        assert run.newest_whole(said.append) == run.last and run.last.samefile(second)
        assert said[-1].startswith(f"{second.name}, of step 8, is the newest checkpoint that reads")
        assert len(said) == (1 if damage is None else 2)
        assert damage is None or (str(run.last) in said[0] and said[0].endswith("passed over"))
    second.write_bytes(b"")
    assert run.newest_whole(said.append) == run.last and run.last.samefile(first)
    first.write_bytes(b"")
    assert run.newest_whole(said.append) is None
    run.last.unlink()
    assert run.checkpoints() == [first, second]
