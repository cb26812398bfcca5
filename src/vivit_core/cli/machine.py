"""What a run computes on, and how much it is given to do."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any

from vivit_core.cli.console import console
from vivit_core.cli.schema import Budget


def machine_of(trainer: Mapping[str, Any]) -> tuple[str, Budget]:
    """The device and its budget, of the node ``trainer``.

    Raises
    ------
    ValueError
        Where a GPU is asked for and there is none.
    """
    import torch

    from vivit_core.training.machine import bf16_is_native, precision_on_gpu

    there = torch.cuda.is_available()
    if trainer["device"] == "cuda" and not there:
        raise ValueError("trainer.device=cuda, but torch sees no GPU here; trainer.device=auto takes what there is")
    device = ("cuda" if there else "cpu") if trainer["device"] == "auto" else str(trainer["device"])
    budget = configured(trainer, device)
    if device == "cuda":
        precision = precision_on_gpu(trainer["precision"], budget.precision, bf16_is_native())
        budget = replace(budget, precision=precision)
    return device, budget


def configured(trainer: Mapping[str, Any], device: str) -> Budget:
    """A device's budget, whether or not it computes in that precision."""
    return Budget(
        **{name: value if trainer[name] is None else trainer[name] for name, value in trainer[device].items()}
    )


def announce(trainer: Mapping[str, Any]) -> None:
    """Say what :func:`machine_of` gives a training, and why."""
    import torch

    device, budget = machine_of(trainer)
    why = f"trainer.device={trainer['device']}"
    if trainer["device"] == "auto":
        why = torch.cuda.get_device_name() if device == "cuda" else "no GPU here"
    if budget.precision != configured(trainer, device).precision:
        why = f"{why}, which does not compute in bfloat16"
    processes = trainer["devices"] * trainer["num_nodes"]
    where = f"{device} with {processes} processes" if processes > 1 else device
    passes = f"{budget.accumulate} × {budget.batch_size}" if budget.accumulate > 1 else f"{budget.batch_size}"
    limit = "" if budget.max_minutes == float("inf") else f", as many as fit into {budget.max_minutes:g} minutes"
    console.print(
        f"{why}: training on {where}, {budget.epochs} epochs of {budget.steps_per_epoch} steps of {passes} clips, "
        f"{budget.precision}{limit} (trainer.epochs=… and the like change it)"
    )
    if limit:
        console.print(
            "the limit covers the training with its validations, and is planned after its first steps; what comes "
            "before (recordings, the linear baseline) and after (evaluation, report) comes on top"
        )


def prepare(device: str) -> None:
    """Let a device compute as exactly as its numbers tell, before anything is computed there."""
    from vivit_core.training.machine import exact_float32

    if device == "cuda":
        exact_float32()


def budget_record(device: str, budget: Budget) -> dict[str, Any]:
    """:func:`machine_of` as a training's environment.json keeps it; ``max_minutes`` is None where there is no limit."""
    minutes = None if math.isinf(budget.max_minutes) else budget.max_minutes
    return {"device": device, **asdict(budget), "max_minutes": minutes}


def budget_recorded(record: Any) -> tuple[str, Budget] | None:
    """What :func:`budget_record` noted; None where that is not known, as of a file that is another program's."""
    try:
        values = {**record, "max_minutes": math.inf if record["max_minutes"] is None else record["max_minutes"]}
        return str(values.pop("device")), Budget(**values)
    except (KeyError, TypeError, ValueError):
        return None
