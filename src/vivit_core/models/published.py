"""A published twin: a folder of weights (safetensors) and a description (JSON), which anybody may have written.

Neither can run code. What is read is what a checkpoint holds (``checkpoint``), with the same checks.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from vivit_core.models.checkpoint import WRITTEN, check_kind, written_by
from vivit_core.models.predictor import Predictor
from vivit_core.names import few
from vivit_core.system.files import atomic_write, write_text
from vivit_core.system.plain import in_a_line, read_plain

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "README.md"
TWIN, BASELINE = "twin.", "ln."  # how the names of their tensors begin


def read_published(folder: Path) -> dict[str, Any]:
    """The content of a published folder, as ``read_checkpoint`` gives that of a checkpoint.

    Raises
    ------
    ValueError
        Where the folder is none, its files are damaged, or of another format; one line that names it.
    """
    if not (folder / CONFIG).is_file():
        run = " (this is a run folder: give its checkpoints/best.ckpt)" if (folder / "checkpoints").is_dir() else ""
        raise ValueError(
            f"{folder}: not a published twin, because it holds no {CONFIG}{run}; give a folder that task=publish "
            "wrote, or a .ckpt file"
        )
    weights = folder / WEIGHTS
    # Ids, means and places of all units stand in it, of LN and of each member anew: as the weights, it grows with them.
    config = read_plain(folder / CONFIG, beside=weights.stat().st_size if weights.is_file() else 0)
    wanted = {WRITTEN, "twin", "ln", "settings"}
    if config.keys() != wanted:
        raise ValueError(
            f"{folder / CONFIG}: not the description of a twin: it holds {few(sorted(map(str, config)))}, "
            f"and should hold {', '.join(sorted(wanted))}; give a folder that task=publish wrote"
        )
    try:
        tensors = load_file(weights)
    except (OSError, SafetensorError, ValueError, KeyError) as error:
        raise ValueError(f"{weights}: not readable weights ({in_a_line(error)}); fetch it again") from error
    content = {
        WRITTEN: config[WRITTEN],
        "twin": config["twin"],
        "state_dict": {name: value for name, value in tensors.items() if not name.startswith(BASELINE)},
        "settings": config["settings"],
    }
    if config["ln"] is not None:
        own = {name.removeprefix(BASELINE): value for name, value in tensors.items() if name.startswith(BASELINE)}
        content["ln"] = {"description": config["ln"], "weights": own}
    check_kind(folder, content)
    return content


def write_published(
    folder: Path, model: Predictor, baseline: Predictor | None, settings: Mapping[str, Any] | None
) -> list[Path]:
    """Write weights and description; the description comes last, without which a folder is no twin. They are read back.

    Parameters
    ----------
    folder : for the files.
    model, baseline : the twin, and the linear model beside it; None: none.
    settings : of the training, as far as they are to be known (:func:`shared`).

    Raises
    ------
    ValueError
        For a model that cannot be kept, or whose files would be refused by who loads them.
    OSError
        Where the disk is full.
    """
    description = model.description()
    config = {
        WRITTEN: written_by(description),
        "twin": description,
        "ln": None if baseline is None else baseline.description(),
        "settings": settings,
    }
    tensors = named(TWIN, model) | ({} if baseline is None else named(BASELINE, baseline))
    with atomic_write(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(tensors, {"format": "pt"}))
    # In one line, because with a number a line it has half as many bytes again.
    write_text(folder / CONFIG, json.dumps(config, separators=(",", ":"), allow_nan=False) + "\n")
    try:
        read_published(folder)
    except ValueError as error:
        raise ValueError(f"what was written could not be loaded again: {error}; share the checkpoint itself") from error
    return [folder / WEIGHTS, folder / CONFIG]


def named(prefix: str, model: nn.Module) -> dict[str, Tensor]:
    """A model's tensors, each whole and in its own memory."""
    return {f"{prefix}{name}": value.detach().cpu().clone().contiguous() for name, value in model.state_dict().items()}


def weights_of(model: nn.Module) -> str:
    """A hash of a model's weights: alike on every device, and from whatever file it was loaded."""
    found = hashlib.sha256()
    for name, value in sorted(named("", model).items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()[:16]


def shared(settings: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """What of a training's settings a published twin tells: how its data were prepared, and no place on a disk."""
    if settings is None:
        return None
    data = dict(settings["data"])
    if data["recordings"] is not None or data["root"] is not None:
        data["simulator"] = None  # its recordings are not those
    return {"data": data | {"recordings": None, "root": None, "cache": "simulated"}}
