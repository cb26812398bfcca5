"""Checkpoints that no training made, for tests of the commands that take one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import twin, vivit

from vivit_core.cli.recordings import make_datamodule
from vivit_core.models.load import checkpoint_of


@pytest.fixture
def checkpoints(tiny: list[str], tiny_files: list[Path], compose: Any, tmp_path: Path) -> list[Path]:
    """Two twins of the tiny recordings with random weights; the second was trained on longer clips."""
    found = []
    for seed, length in enumerate((60, 70)):
        settings = compose(
            *tiny, f"data.clip_length={length}", "data.recordings=[" + ",".join(map(str, tiny_files)) + "]"
        )
        data = make_datamodule(settings["data"])
        data.setup()
        made = twin(vivit(modulator=None, spatial_depth=1, temporal_depth=1, window=8), *data.specs)
        torch.manual_seed(seed)
        with torch.no_grad():
            for parameter in made.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
        found.append(tmp_path / f"member{seed}.ckpt")
        torch.save(checkpoint_of(made) | {"settings": settings, "ln": None}, found[-1])
    return found
