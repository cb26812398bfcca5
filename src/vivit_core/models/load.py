"""From a checkpoint's file to a model that predicts, and back to what a file holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vivit_core.models.checkpoint import (
    WRITTEN,
    asked,
    check_model,
    check_packages,
    largest,
    read_checkpoint,
    refused,
    written_by,
)
from vivit_core.models.ensemble import Ensemble, members_in
from vivit_core.models.hub import fetched, is_address
from vivit_core.models.ln import LN
from vivit_core.models.predictor import Predictor, recordings_in
from vivit_core.models.published import read_published
from vivit_core.models.shipped import shipped
from vivit_core.models.twin import Twin
from vivit_core.parts.groups import class_of, consent

AVERAGE = "average"  # where a checkpoint keeps averaged weights (training/callbacks/averaging.py)
LEAST_NUMBERS = 1 << 16  # a description may ask for as many of something, whatever the number of its weights
LEAST_TENSORS = 64  # a description may ask for as many blocks and recordings, whatever the number of its weights


def load_predictor(
    path: str | Path, device: str = "cpu", average: bool = False, packages: Sequence[str] = ()
) -> Predictor:
    """The model in a checkpoint, a twin, an LN model or an ensemble, ready to predict; with its averaged weights, where
    ``average`` and it holds some.

    Reads with ``weights_only=True`` and builds classes of this package alone: a checkpoint cannot run code. A published
    twin cannot either.

    Parameters
    ----------
    path : of a .ckpt file, of a folder that task=publish wrote, ``hf://user/name[@revision]``, or ``simulated``, the
        twin that comes with the package (:func:`read_trained`).
    device : "cpu" or "cuda".
    average : take the averaged weights.
    packages : other packages whose classes it may be made of, because you trust them: importing one runs its code.

    Raises
    ------
    ValueError
        Where the file is no checkpoint, its weights do not fit the model it describes, it needs a package that is not
        among ``packages``, it holds no average, or the device is not there.
    """
    check_device(device)
    with consent(packages):
        return predictor_in(path, read_trained(path), average).to(device).eval()


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or see."""
    try:
        kind = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'device={device}: torch knows no such device; give "cpu" or "cuda"') from error
    if kind.type == "cuda" and not (kind.index or 0) < torch.cuda.device_count():
        raise ValueError(f'device={device}, but torch sees no such GPU here; give "cpu"')


def load_twin(
    path: str | Path, device: str = "cpu", average: bool = False, packages: Sequence[str] = ()
) -> Twin | Ensemble:
    """The same where it has to be a twin, which has a core, readouts and a stream; or an ensemble, which takes its
    place.

    Raises
    ------
    ValueError
        As :func:`load_predictor`; and where the checkpoint holds another model.
    """
    predictor = load_predictor(path, device, average, packages)
    if not isinstance(predictor, Twin | Ensemble):
        raise ValueError(f"{path} holds a model of kind {predictor.kind} and no twin; load_predictor loads it")
    return predictor


def read_trained(path: str | Path) -> dict[str, Any]:
    """What a trained model consists of, wherever it is kept: in a checkpoint, in a folder that task=publish wrote, in
    one on the Hugging Face Hub, ``hf://user/name[@revision]``, or in one that comes with the package, ``simulated``.

    Raises
    ------
    ValueError
        Where nothing is there, it is damaged, or holds anything but plain values and tensors; one line that names it.
    """
    if is_address(path):
        return read_published(fetched(path))
    path = shipped(path) or path
    return read_published(Path(path)) if Path(path).is_dir() else read_checkpoint(path)


def predictor_in(path: str | Path, content: Mapping[str, Any], average: bool = False) -> Predictor:
    """The model in a checkpoint that was read (:func:`read_trained`); ``path`` is for messages."""
    if average and AVERAGE not in content:
        raise ValueError(f"{path} holds no averaged weights; callbacks=ema keeps them in training")
    state = weights_in(content[AVERAGE].get("state_dict", {}) if average else content["state_dict"])
    return restored(path, content, content["twin"], state)


def baseline_in(path: str | Path, content: Mapping[str, Any]) -> LN | None:
    """The LN baseline in a twin's checkpoint that was read; None where it holds none.

    Raises
    ------
    ValueError
        Where its weights do not fit the model that is described.
    """
    values = content.get("ln")
    if values is None:
        return None
    if values.keys() != {"description", "weights"} or not all(isinstance(inner, dict) for inner in values.values()):
        raise refused(path, content, f"its LN model has {sorted(values)}, and should have a description and weights")
    model = restored(path, content, values["description"], values["weights"])
    if not isinstance(model, LN):
        raise refused(path, content, f"its LN model is of kind {model.kind}")
    return model


def checkpoint_of(predictor: Predictor) -> dict[str, Any]:
    """What a checkpoint has to hold of a model: saved with ``torch.save``, ``load_predictor`` loads it."""
    description = predictor.description()
    weights = {f"twin.{name}": value for name, value in predictor.state_dict().items()}
    return {WRITTEN: written_by(description), "twin": description, "state_dict": weights}


def restored(
    path: str | Path, content: Mapping[str, Any], description: Mapping[str, Any], state: Mapping[str, Any]
) -> Predictor:
    """The model of a description, with its weights."""
    check_description(path, content, description, state)
    model = described(description)
    model.load_state_dict(state, strict=True)
    return model


def described(description: Mapping[str, Any]) -> Predictor:
    """The model of a description, not yet with its weights."""
    kind: type[Predictor] = class_of("predictor", description.get("_target_"))
    return kind.from_description(description)


def weights_in(state: Any) -> dict[str, Any]:
    """A model's own weights in the state of what trains it."""
    items = state.items() if isinstance(state, Mapping) else ()
    return {str(name).removeprefix("twin."): value for name, value in items if str(name).startswith("twin.")}


def check_description(
    path: str | Path, content: Mapping[str, Any], description: Mapping[str, Any], state: Mapping[str, Any]
) -> None:
    """Compare a model that a checkpoint describes with a state of weights, before anything of its size is made.

    Raises
    ------
    ValueError
        Where the description makes no model, or one of other weights, or needs a package that nobody consented to.
    """
    check_packages(path, content, description)

    def make() -> Predictor:
        models = members_in(description)
        numbers = {
            "blocks": sum(asked(own.get("model")) for own in models),
            "recordings": sum(len(recordings_in(own)) for own in models),
        }
        for what, number in numbers.items():
            if number > max(len(state), LEAST_TENSORS):
                raise ValueError(f"{number} {what}, but {len(state)} tensors")
        # Tensors of any size have no numbers yet, but a constructor's loop may count as far as it is told to.
        most = max(sum(value.numel() for value in state.values() if isinstance(value, Tensor)), LEAST_NUMBERS)
        if (number := max(largest({**own, "recordings": None}) for own in models)) > most:
            raise ValueError(f"it asks for {number} of something, and at most {most} are possible with its weights")
        return described(description)

    check_model(path, content, make, state)
