"""task=publish with an upload that goes well, and with one that does not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vivit_core import load_twin


@pytest.mark.slow
def test_a_refused_upload_leaves_the_folder_and_says_how_to_go_on(
    command: Callable[..., Any], checkpoints: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, printed = command("task=evaluate", f"checkpoint={checkpoints[0]}", "hydra.run.dir=evaluated")
    assert code == 0, printed
    words = ["task=publish", f"checkpoint={checkpoints[0]}", "evaluation=evaluated", "push=lab/twin"]

    def refused(folder: Path, name: str, private: bool, files: list[str]) -> str:
        raise ValueError("hf://lab/twin: HTTPError: 401; log in (hf auth login)")

    monkeypatch.setattr("vivit_core.cli.tasks.publish.push_folder", refused)
    code, printed = command(*words, "out=shared", "hydra.run.dir=first")
    assert code == 1 and "401" in printed and "`hf upload lab/twin shared --private` uploads it" in printed
    code, printed = command(*words, "out=open", "private=false", "hydra.run.dir=opening")
    assert code == 1 and "`hf upload lab/twin open` uploads it" in printed
    assert load_twin(tmp_path / "shared").kind == "ViViT"
    given: list[Any] = []

    def taken(folder: Path, name: str, private: bool, files: list[str]) -> str:
        given.extend([name, private, sorted(files)])
        return "https://hub/lab/twin"

    monkeypatch.setattr("vivit_core.cli.tasks.publish.push_folder", taken)
    code, printed = command(*words, "out=again", "private=false", "hydra.run.dir=second")
    assert code == 0 and "uploaded: https://hub/lab/twin" in printed
    assert given[:2] == ["lab/twin", False]
    assert {str(path.relative_to(tmp_path / "again")) for path in (tmp_path / "again").rglob("*.*")} >= set(given[2])
    assert {"README.md", "config.json", "model.safetensors"} <= set(given[2])
