"""From a checkpoint's file to a twin that predicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vivit_core.models.checkpoint import asked, check_model
from vivit_core.models.checkpoint import read_checkpoint as read_checkpoint
from vivit_core.models.twin import MOST_RESIZED, Twin, recordings_in

AVERAGE = "average"  # where a checkpoint keeps averaged weights (training/averaging.py)


def load_twin(path: str | Path, device: str = "cpu", average: bool = False) -> Twin:
    """The twin in a checkpoint, ready to predict; with its averaged weights, where ``average`` and it holds some.

    Reads with ``weights_only=True`` and builds classes of this package alone: a checkpoint cannot run code.

    Raises
    ------
    ValueError
        Where the file is not a checkpoint of a twin, its weights do not fit the model it describes, or it holds no
        average.
    """
    content = read_checkpoint(path)
    if average and AVERAGE not in content:
        raise ValueError(f"{path} holds no averaged weights; callbacks=ema keeps them in training")
    state = weights_in(content[AVERAGE].get("state_dict", {}) if average else content["state_dict"])
    check_description(path, content, state)
    twin = Twin.from_description(content["twin"])
    twin.load_state_dict(state, strict=True)
    return twin.to(device).eval()


def weights_in(state: Any) -> dict[str, Any]:
    """A twin's own weights in the state of what trains it."""
    items = state.items() if isinstance(state, Mapping) else ()
    return {str(name).removeprefix("twin."): value for name, value in items if str(name).startswith("twin.")}


def check_description(path: str | Path, content: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Compare the twin that a checkpoint describes with a state of weights, before anything of its size is made.

    Raises
    ------
    ValueError
        Where the description makes no twin, or one of other weights.
    """
    description = content["twin"]

    def make() -> Twin:
        numbers = {"blocks": asked(description.get("model")), "recordings": len(recordings_in(description))}
        for what, number in numbers.items():
            if number > max(len(state), 64):
                raise ValueError(f"{number} {what}, but {len(state)} tensors")
        twin = Twin.from_description(description)
        largest = max(max(spec.frame_shape[1:]) for spec in twin.specs.values())
        if max(twin.frame_size) > MOST_RESIZED * largest:
            raise ValueError(
                f"model.frame_size={list(twin.frame_size)} is over {MOST_RESIZED} times the recordings' {largest} px"
            )
        return twin

    check_model(path, content, make, state)
