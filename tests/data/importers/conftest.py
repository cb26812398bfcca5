"""What the importers' tests share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vivit_core.data.importers.common import Importer
from vivit_core.data.importers.mahuas2020 import Mahuas2020Importer
from vivit_core.data.importers.nwb import NwbImporter
from vivit_core.parts.build import build

# A model and a training so small that a recording goes through everything in seconds.
SMALL = [
    "trainer=debug",
    "model.embedding_dim=16",
    "model.attention.heads=2",
    "model.spatial_depth=1",
    "model.temporal_depth=1",
    "model/tokenizer=stem",
    "model.tokenizer.channels=4",
    "model.tokenizer.kernel=3",
    "model.tokenizer.stride=1",
    "model.tokenizer.patch_size=[2,4,4]",
]


@pytest.fixture(autouse=True)
def no_second_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources are not read through in another process first, whose libraries take seconds to start."""
    for one in (NwbImporter, Mahuas2020Importer):
        monkeypatch.setattr(one, "guarded", False)


@pytest.fixture
def importer(compose: Callable[..., dict[str, Any]]) -> Callable[..., Importer]:
    """``importer("name", "key=value", …)``: made of its file in conf/, with some settings changed."""

    def make(name: str, *changes: str) -> Importer:
        words = [f"{'+' * change.startswith('+')}importer.{change.lstrip('+')}" for change in changes]
        return build("importer", compose("task=import", f"importer={name}", "source=a", "out=b", *words)["importer"])

    return make


@pytest.fixture
def train_and_evaluate(command: Callable[..., tuple[int, str]], tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Train a small twin for a few steps; the summary of the evaluation that follows."""

    def run(*words: str) -> dict[str, Any]:
        code, printed = command(*SMALL, *words)
        assert code == 0, printed
        (found,) = tmp_path.rglob("summary.json")
        return json.loads(found.read_text())

    return run


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int], None]]:
    """``interrupted(n)``: a Ctrl-C comes when n pieces are written; pieces are small from now on."""
    from vivit_core.data.recording import resumable

    monkeypatch.setattr("vivit_core.data.recording.writer.COPY_BYTES", 2000)
    note, left = resumable._note, [-1]

    def counted(journal: Any, entry: Any) -> None:
        note(journal, entry)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(resumable, "_note", counted)

    def set_to(n: int) -> None:
        left[0] = n + 1  # the first line is the key

    yield set_to
