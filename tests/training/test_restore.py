"""What a checkpoint brings upon Lightning before the first step is the checkpoint's fault, in one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_training import train

from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.training.restore import Begun, restoring

DAMAGE: dict[str, Any] = {
    "loops that are a number": lambda content: content["loops"].update(fit_loop=3),
    "another progress": lambda content: content["loops"]["fit_loop"].update({"epoch_progress": {"total": 1}}),
    "the loader's state": lambda content: content.update(Data={"beyond": 1}),
    "a callback's state": lambda content: content["callbacks"].update(
        {name: {"wait_count": 1} for name in content["callbacks"] if "EarlyStopping" in name}
    ),
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    train(folder, epochs=1, steps=2)
    return folder / "last.ckpt"


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_lightning_cannot_take_over_is_one_line(damage: str, checkpoint: Path, tmp_path: Path) -> None:
    content, begun, path = read_checkpoint(checkpoint), Begun(), tmp_path / "last.ckpt"
    DAMAGE[damage](content)
    torch.save(content, path)
    with pytest.raises(ValueError) as refused, restoring(path, content, begun):
        train(tmp_path, epochs=2, steps=2, resume=path, callbacks=[begun])
    said = str(refused.value)
    assert said.startswith(f"{path}: this training cannot be continued from it (") and "\n" not in said
    assert not begun.begun and refused.value.__cause__ is not None


def test_what_fails_later_or_without_a_checkpoint_is_no_fault_of_its(checkpoint: Path, tmp_path: Path) -> None:
    def broken(k: int) -> Any:
        raise LookupError("of the training itself")

    content, begun = read_checkpoint(checkpoint), Begun()
    with pytest.raises(LookupError, match="of the training itself"), restoring(checkpoint, content, begun):
        train(tmp_path, epochs=2, steps=2, resume=checkpoint, callbacks=[begun], batches=broken)
    assert begun.begun
    with pytest.raises(LookupError), restoring(None, None, Begun()):
        raise LookupError("a fresh one")
    with pytest.raises(KeyboardInterrupt), restoring(checkpoint, content, Begun()):
        raise KeyboardInterrupt
