"""A run folder's small files are anybody's: whatever stands in them is passed over, or refused in one line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vivit_core.cli import sweeps
from vivit_core.cli.main import message_of
from vivit_core.cli.runs import Run, describe, note_end, same_runs, unfinished
from vivit_core.cli.sweeps import Outcome

HOSTILE = [
    *("", "[", "[1]", "3", "null", "\\x00", '{"a": NaN}', '{"a": ' * 60 + "1" + "}" * 60, "[" * 100_000),
    '{"score": "x", "step": [1]}',
    '{"started": 5, "continued": 7, "fingerprint": {"a": 1}, "seed": null, "git": 3}',
]


@pytest.mark.parametrize("text", [*HOSTILE, b"\xff\xfe"], ids=range(len(HOSTILE) + 1))
def test_whatever_stands_in_them(text: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run = Run(tmp_path / "train" / "a")
    (run.path / "checkpoints").mkdir(parents=True)
    run.last.touch()
    for name in ("environment.json", "finished.json", "trained.json", "summary.json"):
        (run.path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    assert isinstance(run.environment, dict) and not run.ended_at(3)
    assert list(unfinished(same_runs(tmp_path, "mine"))) == []
    note_end(run, "why")
    with pytest.raises(ValueError, match=r"finished\.json: ") as refused:
        print(run.score)
    assert "\n" not in str(message_of(refused.value))
    outcome = Outcome(status="finished", trained=True, run=str(run.path))
    assert sweeps.test_bps_of(outcome) is None and "summary.json: " in caplog.text
    describe(run, {"task": "train", "seed": 0}, [], "mine", continues=True)
    assert run.is_of("mine") and len(run.environment["continued"]) == 1


def test_what_a_run_says_of_itself(tmp_path: Path) -> None:
    run = Run(tmp_path)
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
