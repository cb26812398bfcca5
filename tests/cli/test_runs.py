"""Run folders: which of them go on, what a killed process leaves, and small files that are anybody's: whatever stands
in them is passed over, or refused in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from vivit_core.cli import runs, sweeps
from vivit_core.cli.main import message_of
from vivit_core.cli.runs import RunFolder, describe, note_in_run, same_runs, unfinished
from vivit_core.cli.sweeps import Outcome

HOSTILE = [
    *("", "[", "[1]", "3", "null", "\\x00", '{"a": NaN}', '{"a": ' * 60 + "1" + "}" * 60, "[" * 100_000),
    '{"score": "x", "step": [1]}',
    '{"started": 5, "continued": 7, "fingerprint": {"a": 1}, "seed": null, "git": 3}',
]


@pytest.mark.parametrize("text", [*HOSTILE, b"\xff\xfe"], ids=range(len(HOSTILE) + 1))
def test_whatever_stands_in_them(text: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = RunFolder(tmp_path / "train" / "a")
    (run.path / "checkpoints").mkdir(parents=True)
    run.last.touch()
    for name in ("environment.json", "finished.json", "trained.json", "summary.json"):
        (run.path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert isinstance(run.environment, dict) and not run.ended_at(3)
    assert list(unfinished(same_runs(tmp_path, "mine"))) == []
    note_in_run(run, "ended", "why")
    with pytest.raises(ValueError, match=r"finished\.json: ") as refused:
        print(run.score)
    assert "\n" not in str(message_of(refused.value))
    outcome = Outcome(status="finished", trained=True, run=str(run.path))
    assert sweeps.test_bps_of(outcome) is None and "summary.json: " in caplog.text
    describe(run, {"task": "train", "seed": 0}, [], "mine", continues=True)
    assert run.is_of("mine") and len(run.environment["continued"]) == 1


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for score in (0.25, None, float("nan")):
        run.finish(score)
        assert run.score == (0.25 if score == 0.25 else None)
    run.end_training(7)
    assert run.ended_at(7) and not run.ended_at(8)
    (tmp_path / "summary.json").write_text(json.dumps({"bps_mean": 1}))
    outcome = Outcome(status="finished", trained=True, run=str(run.path))
    assert (
        sweeps.test_bps_of(outcome) == 1
        and sweeps.test_bps_of(Outcome(status="failed", trained=True, run=str(run.path))) is None
    )


def begun(folder: Path, fingerprint: str, started: str) -> runs.RunFolder:
    run = runs.RunFolder(folder)
    run.last.parent.mkdir(parents=True)
    run.last.touch()
    (folder / "environment.json").write_text(json.dumps({"fingerprint": fingerprint, "started": started}))
    return run


def test_newest_unfinished(tmp_path):
    old = begun(tmp_path / "train" / "old", "same", "2026-01-01T00:00:00+00:00")
    new = begun(tmp_path / "train" / "sweep" / "0", "same", "2026-01-02T00:00:00+00:00")
    begun(tmp_path / "train" / "other", "other", "2026-01-03T00:00:00+00:00")
    found = runs.same_runs(tmp_path, "same")
    assert found == [new, old]
    assert list(runs.unfinished(found)) == [new, old]
    (new.path / "summary.json").touch()  # written before the end
    assert list(runs.unfinished(found)) == [new, old]
    new.finish(0.5)
    assert list(runs.unfinished(found)) == [old] and new.score == 0.5
    new.begin_training()
    assert not new.finished and list(runs.unfinished(found)) == [new, old]


def test_the_end_of_a_training_is_noted(tmp_path):
    run = runs.RunFolder(tmp_path)
    assert not run.ended_at(8)
    run.end_training(8)
    assert run.ended_at(8) and not run.ended_at(4)
    run.begin_training()
    assert not run.ended_at(8)
    run.finish(float("nan"))
    assert run.finished and run.score is None


def test_leftovers_of_a_killed_process_are_removed(tmp_path):
    """Those that ``files.atomic_write`` leaves, in the folders that a training writes into."""
    run = runs.RunFolder(tmp_path / "run")
    ours = [
        ".config.yaml.01234567.tmp",
        ".responses.npz.01234567.tmp",
        "checkpoints/.last.ckpt.89abcdef.tmp",
        "average/pictures/.a.png.00000000.tmp",
    ]
    others = [
        ".report.html.01234567.tmp",
        ".mine.tmp",
        "checkpoints/notes.tmp",
        "other/checkpoints/.last.ckpt.01234567.tmp",
    ]
    for name in (*ours, *others):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    run.remove_leftovers()
    assert sorted(str(p.relative_to(run.path)) for p in run.path.rglob("*.tmp")) == sorted(others)
    runs.RunFolder(tmp_path / "nowhere").remove_leftovers()


def test_leftovers_of_a_killed_sweep_are_removed_when_none_of_its_jobs_is_worked_on(tmp_path):
    """What a sweep was writing into its own folder when it was killed; its job had finished."""
    sweep = tmp_path / "train" / "sweep"
    job, other = runs.RunFolder(sweep / "0"), runs.RunFolder(tmp_path / "train" / "alone")
    ours = [".sweep_summary.csv.01234567.tmp", "pictures/.optim.lr.png.89abcdef.tmp"]
    for folder in (job.path, other.path, sweep / "outcomes", sweep / "pictures"):
        folder.mkdir(parents=True)
    for path in (*(sweep / name for name in ours), sweep / ".mine.tmp", other.path.parent / ours[0]):
        path.touch()
    job.finish(0.5)
    with job.held():
        runs.remove_leftovers_of_killed([job, other])
        assert all((sweep / name).exists() for name in ours)  # somebody is at work in it
    runs.remove_leftovers_of_killed([job, other])
    assert not any((sweep / name).exists() for name in ours)
    assert (sweep / ".mine.tmp").exists() and (other.path.parent / ours[0]).exists()  # that folder is no sweep's


def test_a_run_that_is_being_worked_on_is_left_alone(tmp_path):
    run = begun(tmp_path / "train" / "a", "same", "2026-01-01T00:00:00+00:00")
    hold = """if True:
        import sys; from pathlib import Path; from vivit_core.cli.runs import RunFolder
        with RunFolder(Path(sys.argv[1])).held():
            print("held", flush=True); input()
    """
    with subprocess.Popen(
        [sys.executable, "-c", hold, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        assert not list(runs.unfinished([run]))
        with pytest.raises(ValueError, match="another process is training"), run.held():
            pass
        other.communicate("\n")
    assert list(runs.unfinished([run])) == [run]
