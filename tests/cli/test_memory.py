"""Where memory ran out, a line says which settings ask for less."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vivit_core.cli.memory import ran_out, remedy
from vivit_core.cli.tasks import train

OF_A_GPU = torch.OutOfMemoryError(
    "CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 23.64 GiB of which 1.25 GiB is free"
    ". Including non-PyTorch memory, this process has 22.39 GiB memory in use. Of the allocated memory …"
)


def test_a_training_without_memory_says_what_takes_less(command: Any, tiny: list[str], monkeypatch: Any) -> None:
    def fit(*_: Any) -> float:
        raise OF_A_GPU

    monkeypatch.setattr(train, "fit", fit)
    code, printed = command(*tiny, "trainer=debug", "trainer.batch_size=8", "hydra.run.dir=here")
    (said,) = [line for line in printed.splitlines() if "out of memory" in line]
    assert code == 1 and "Traceback" not in printed, printed
    assert said.startswith("CUDA out of memory. Tried to allocate 3.50 GiB. GPU 0 has a total capacity of 23.64 GiB")
    assert "trainer.batch_size=4 trainer.accumulate=2 (which leaves the steps as they are)" in said
    assert "model.checkpointing=true" in said and "task=plan" in said


def test_only_what_helps_is_said(compose: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alone = remedy(OF_A_GPU, compose("trainer.batch_size=1", "model.checkpointing=true"))
    assert "batch_size" not in alone and "checkpointing" not in alone and "data.clip_length" in alone
    odd = remedy(OF_A_GPU, compose("trainer.batch_size=3"))
    assert "trainer.batch_size=1 trainer.accumulate=2, or" in odd
    shared = remedy(OF_A_GPU, compose("trainer=ddp", "trainer.devices=4", "trainer.batch_size=4"))
    assert "batch_size" not in shared and "model.checkpointing=true" in shared
    words = ["task=evaluate", "checkpoint=a.ckpt", "trainer.batch_size=8"]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    evaluated = remedy(OF_A_GPU, compose(*words))
    assert evaluated.endswith("take trainer.batch_size=4, or trainer.device=cpu")


def test_a_cpu_runs_out_too(compose: Any) -> None:
    with pytest.raises(RuntimeError) as found:
        torch.empty(2**60, dtype=torch.uint8)
    assert ran_out(found.value) and remedy(found.value, compose("trainer.device=cpu")).startswith("DefaultCPUAllocator")
    assert not ran_out(RuntimeError("shapes do not fit")) and not ran_out(ValueError("out of memory"))
