"""What a report knows of a training from its run folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

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


def test_the_readouts_last_fit_is_no_improvement(tmp_path: Path) -> None:
    """Scores of a training of which four times the steps gave nothing."""
    (tmp_path / "metrics.csv").write_text("step,val/bps_mean\n1,1.158\n2,1.187\n3,1.187\n4,1.234\n")
    settings: dict[str, Any] = {"callbacks": {"readouts": {"bins": 9}}, "teacher": None}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "environment.json").write_text('{"ended": null}')
    assert still_improving(tmp_path) is False
    for part, value in (("callbacks", {"readouts": None}), ("teacher", "x.ckpt")):
        (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings | {part: value}))
        assert still_improving(tmp_path) is True
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    (tmp_path / "environment.json").write_text('{"ended": "after 3 steps"}')
    assert still_improving(tmp_path) is True
