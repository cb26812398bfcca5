"""What a report knows of a training from its run folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivit_core.report.training import still_improving


@pytest.mark.parametrize(
    ("scores", "rises"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], True),
        ([0.1, 0.4, 0.5, 0.5, 0.505, 0.5], False),
        ([0.1, 0.6, 0.5, 0.4, 0.3, 0.2], False),
        ([0.1, None, 0.2, 0.3], True),
        ([0.1, 0.2], True),
        ([0.2, 0.2], False),
        ([0.2], None),
        ([], None),
    ],
)
def test_whether_a_training_still_improved_when_it_ended(
    scores: list[float | None], rises: bool | None, tmp_path: Path
) -> None:
    assert still_improving(tmp_path) is None
    rows = [f"{i},{'' if score is None else score}" for i, score in enumerate(scores)]
    (tmp_path / "metrics.csv").write_text("\n".join(["step,val/bps_mean", *rows]) + "\n")
    assert still_improving(tmp_path) is rises
