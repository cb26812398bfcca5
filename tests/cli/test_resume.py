"""Which training the same command means when it is given again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vivit_core.cli import resume, runs
from vivit_core.cli.context import RunContext
from vivit_core.cli.files_read import changed_files, files_read
from vivit_core.cli.resume import where_to_train
from vivit_core.cli.runs import RunFolder, note_in_run
from vivit_core.cli.validate import relocated
from vivit_core.data.recording import Trials, write_recording


def recording(path: Path, seed: int) -> Path:
    chance = np.random.default_rng(seed)
    start = np.arange(3) * 80
    write_recording(
        path, recording_id="a", frame_rate_hz=60.0, frames=chance.integers(0, 256, (240, 4, 4), dtype=np.uint8),
        counts=chance.poisson(0.2, (240, 2)).astype(np.float32),
        trials=Trials(start=start, stop=start + 80, stimulus_id=list("abc"), split=["train", "val", "test"]),
    )  # fmt: skip
    return path


@pytest.fixture
def begun(tmp_path: Path, compose: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """``begun(name)``: the context of a training, whose folder has a checkpoint that reads."""
    monkeypatch.setattr(runs, "git_state", lambda: None)  # which takes a while
    monkeypatch.setattr(RunFolder, "newest_whole", lambda run, say: run.last)
    monkeypatch.setattr(resume, "read_checkpoint", lambda path: {"settings": {}})
    settings = compose(f"outputs={tmp_path}", f"data.recordings=[{recording(tmp_path / 'a.h5', 0)}]")

    def make(name: str, begin: bool = True) -> RunContext:
        context = RunContext(relocated(settings, str(tmp_path / "train" / name)))
        if begin:
            context.describe(trains=True)
            context.run.last.parent.mkdir()
            context.run.last.touch()
        return context

    return make


def test_the_newest_of_what_finished_and_what_was_stopped(begun: Any) -> None:
    """A training that finished anew is not behind an older one that was left; a newer one that was left is."""
    stopped, finished = begun("stopped"), begun("finished")
    finished.run.finish(0.5)
    asked = begun("asked", begin=False)
    assert where_to_train(asked, "auto") == (finished.run, None)
    newer = begun("newer")
    assert where_to_train(asked, "auto") == (newer.run, newer.run.last)
    note_in_run(stopped.run, "started", "2100-01-01T00:00:00+00:00")
    assert where_to_train(asked, "auto") == (stopped.run, stopped.run.last)


def test_a_training_that_goes_on_elsewhere_is_not_begun_again(begun: Any) -> None:
    live, asked = begun("live"), begun("asked", begin=False)
    with live.run.held():
        with pytest.raises(ValueError, match=r"goes on in .*live; wait for it, .* resume=never"):
            where_to_train(asked, "auto")
        assert where_to_train(asked, "never") == (asked.run, None)
    assert where_to_train(asked, "auto") == (live.run, live.run.last)


@pytest.mark.parametrize("finished", [True, False])
def test_a_file_that_was_replaced_is_another_training(
    begun: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], finished: bool
) -> None:
    old, asked = begun("old"), begun("asked", begin=False)
    if finished:
        old.run.finish(0.5)
    assert where_to_train(asked, "auto")[0] == old.run
    (tmp_path / "a.h5").unlink()
    assert where_to_train(asked, "auto")[0] == old.run  # what is not there was not replaced
    recording(tmp_path / "a.h5", 1)
    capsys.readouterr()
    assert where_to_train(asked, "auto") == (asked.run, None)
    said = "".join(capsys.readouterr())
    assert "has the same settings, but" in said and "a.h5 has changed; so it is not taken" in " ".join(said.split())
    with pytest.raises(ValueError, match=r"a\.h5 has changed; give this one another folder by hydra\.run\.dir=FOLDER"):
        where_to_train(old, None)
    recording(tmp_path / "a.h5", 0)  # the same content once more, whenever it was written
    assert where_to_train(asked, "auto")[0] == old.run
    note_in_run(old.run, "files", None)  # of an older version
    recording(tmp_path / "a.h5", 1)
    assert where_to_train(asked, "auto")[0] == old.run


def test_which_files_are_looked_at(compose: Any, tmp_path: Path) -> None:
    """Those that a pattern names, and checkpoints by what is in them: a copy is the same."""
    teacher, run = tmp_path / "t.ckpt", RunFolder(tmp_path / "run")
    torch.save({"a": torch.zeros(3)}, teacher)
    a = recording(tmp_path / "a.h5", 0)
    settings = compose()
    assert files_read(settings) == {}  # simulated: of the settings alone
    settings |= {"teacher": str(teacher), "data": {**settings["data"], "recordings": [f"{tmp_path}/*.h5"]}}
    before = files_read(settings)
    assert list(before) == [str(a), str(teacher)] and "CRC-32" in before[str(a)]
    run.path.mkdir()
    (run.path / "environment.json").write_text('{"seed": 0}')
    note_in_run(run, "files", before)
    os.utime(teacher, (1, 1))
    assert changed_files(run, files_read(settings)) is None
    recording(tmp_path / "b.h5", 0)
    assert changed_files(run, files_read(settings)) == f"{tmp_path}/b.h5 was not read then"
    torch.save({"a": torch.ones(3)}, teacher)
    assert changed_files(run, files_read(settings)) == f"{teacher} has changed and 1 more"
