"""Where memory ran out: which settings ask for less."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from vivit_core.cli.machine import machine_of
from vivit_core.names import setting

OF_A_CPU = "DefaultCPUAllocator: can't allocate memory"


def ran_out(error: BaseException) -> bool:
    """Whether torch found no memory, on a GPU or a CPU."""
    torch = sys.modules.get("torch")  # imported by whatever may raise this; it takes seconds
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.OutOfMemoryError) or OF_A_CPU in str(error)


def remedy(error: BaseException, settings: Mapping[str, Any]) -> str:
    """What torch said, and which settings ask for less memory, in a line.

    Parameters
    ----------
    error : of which :func:`ran_out` is true.
    settings : the whole plain configuration.
    """
    device, budget = machine_of(settings["trainer"])
    said = str(error).splitlines()[0]
    said = said[max(0, said.find(OF_A_CPU)) :]
    said = ". ".join(said.split(". ")[:3]).rstrip(".")  # how much was asked for, and how much is free
    ways, fewer = [], budget.batch_size // 2
    trains, processes = settings["task"] == "train", settings["trainer"]["devices"] * settings["trainer"]["num_nodes"]
    if fewer and fewer % processes == 0:
        halved, twice = setting("trainer.batch_size", fewer), setting("trainer.accumulate", 2 * budget.accumulate)
        same = " (which leaves the steps as they are)" if budget.batch_size % 2 == 0 else ""
        ways.append(f"{halved} {twice}{same}" if trains else halved)
    if trains and settings["model"].get("checkpointing") is False:
        ways.append("model.checkpointing=true (a third more computing)")
    if trains:
        ways.append("a shorter data.clip_length or a smaller model (task=plan says what they take)")
    elif device == "cuda":
        ways.append("trainer.device=cpu")
    else:
        ways.append("less of what the task is to look at")
    return f"{said}. Where no other program holds memory, take {', or '.join(ways)}"
