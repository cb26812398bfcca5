"""Small recordings made by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_recordings import small_arrays

from vivit_core.data.recording.guard import Guard
from vivit_core.data.recording.validate import examine
from vivit_core.data.recording.writer import write_recording


@pytest.fixture
def arrays() -> Callable[..., dict[str, Any]]:
    return small_arrays


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Examine in this process: what is found is the same, and no other process has to start."""
    monkeypatch.setattr(Guard, "run", lambda self, path, function, arguments: examine(**arguments))


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Path]:
    """Write a small recording, with some arguments changed."""

    def write(name: str = "a.h5", seed: int = 0, n_frames: int = 120, n_units: int = 3, **changes: Any) -> Path:
        return write_recording(tmp_path / name, **(small_arrays(seed, n_frames, n_units) | changes))

    return write
