"""What the machine is asked for before a training: a compiler, bfloat16, exact float32."""

from __future__ import annotations

import shutil
import sysconfig

import pytest
import torch

from vivit_core.training import machine
from vivit_core.training.machine import compiles


@pytest.fixture
def able(monkeypatch):
    """A machine that has all that torch's compiler needs; ``able(name=…)`` takes something away."""
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.delenv("CXX", raising=False)

    def made(missing=(), capability=(8, 0), triton=True, headers=True, folder=None):
        monkeypatch.setattr(shutil, "which", lambda name: None if name in missing else f"/usr/bin/{name}")
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
        monkeypatch.setattr(machine, "find_spec", lambda name: object() if triton else None)
        (folder / "Python.h").touch() if headers else (folder / "Python.h").unlink(missing_ok=True)
        monkeypatch.setattr(sysconfig, "get_path", lambda name: str(folder))

    return made


@pytest.mark.parametrize(
    ("device", "lacking", "named"),
    [
        ("cpu", {"missing": ("g++",)}, r"a C\+\+ compiler \(g\+\+; CXX names another\)"),
        ("cpu", {"headers": False}, "Python's header files"),
        ("cuda", {"missing": ("gcc", "clang")}, r"a C compiler \(gcc; CC names another\)"),
        ("cuda", {"headers": False}, "Python's header files"),
        ("cuda", {"triton": False}, "the package triton"),
        ("cuda", {"capability": (6, 1)}, r"compute capability 7\.0"),
    ],
)
def test_what_compiling_needs(able, tmp_path, device, lacking, named):
    able(folder=tmp_path)
    assert compiles(True, device, 1) and compiles("auto", device, 10**6) and not compiles("auto", device, 10)
    able(folder=tmp_path, **lacking)
    assert not compiles("auto", device, 10**6) and not compiles(False, device, 10**6)
    with pytest.raises(ValueError, match=named):
        compiles(True, device, 1)


def test_another_compiler_may_be_named(able, tmp_path, monkeypatch):
    able(folder=tmp_path, missing=("gcc", "g++"))
    assert compiles(True, "cuda", 1)  # clang
    monkeypatch.setenv("CXX", "c++")
    assert compiles(True, "cpu", 1)


@pytest.mark.parametrize(
    ("capability", "given", "precision"),
    [
        ((9, 0), None, "bf16-mixed"),
        ((7, 5), None, "32-true"),
        ((7, 5), "bf16-mixed", "bf16-mixed"),
        ((8, 0), "32-true", "32-true"),
    ],
)
def test_a_gpus_budget(monkeypatch, compose, capsys, capability, given, precision):
    """The defaults of a GPU; one that does not compute in bfloat16 gets float32, and the line says so. Float32 is
    exact. The report names what it was trained in."""
    from vivit_core.cli.context import RunContext
    from vivit_core.cli.machine import announce, budget_record, machine_of
    from vivit_core.report.training import budget_of

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    settings = compose() if given is None else compose(f"trainer.precision={given}")
    device, budget = machine_of(settings["trainer"])
    announce(settings["trainer"])
    assert torch.backends.cudnn.allow_tf32  # so far it was asked what would be taken
    assert RunContext(settings).device == device
    assert device == "cuda" and budget.precision == precision
    assert (budget.epochs, budget.steps_per_epoch, budget.batch_size) == (20, 200, 16)
    assert f"clips, {precision}, on cuda" in budget_of(budget_record(device, budget))
    printed = " ".join(capsys.readouterr().out.split())
    assert ("does not compute in bfloat16" in printed) == (precision == "32-true" and given is None)
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32


def test_a_plan_is_of_this_machine(monkeypatch, command):
    def planned(*arguments, device, precision, **sizes):
        raise ValueError(f"a plan of {device} in {precision}")

    monkeypatch.setattr("vivit_core.cli.tasks.plan.plan_twin", planned)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "a GPU")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    assert "a plan of cuda in bf16-mixed" in command("task=plan")[1]
    assert "a plan of cpu in 32-true" in command("task=plan", "trainer.device=cpu")[1]
