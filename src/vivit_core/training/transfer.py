"""New recordings on a trained core: the model that comes with a checkpoint, and its weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from vivit_core.data.resample import ratio_of
from vivit_core.models.frames import common_frame_size
from vivit_core.models.twin import Twin
from vivit_core.parts.groups import class_of
from vivit_core.specs import RecordingSpec

# What may differ from the checkpoint's model, because the trained weights do not depend on it.
FREE = {"ff_dropout", "drop_path", "patch_dropout", "dropout", "smoothness", "checkpointing", "compile", "frame_size"}

OWN = (
    "own_filter",
    "history",
    "latent",
    "shifter",
)  # parts of each recording, as readouts are: nothing of them is loaded


def adopted_model(
    content: Mapping[str, Any],
    composed: Mapping[str, Any],
    said: Collection[str],
    path: str | Path,
    follows: Collection[str] = (),
) -> dict[str, Any]:
    """The model node of a training that starts from a checkpoint: the checkpoint's.

    Parameters
    ----------
    content : of the checkpoint.
    composed : this command's model node.
    said : the keys of the model that the command sets, dotted, for example ``tokenizer.patch_size``, or ``tokenizer``
        for all below it, or the empty word for all.
    path : of the checkpoint, for messages.
    follows : keys of the model, dotted, that would follow the recordings: nobody has set them.

    Raises
    ------
    ValueError
        Where the checkpoint holds no twin with a core, or the command wants another model than it holds.
    """
    if not issubclass(class_of("predictor", content["twin"].get("_target_")), Twin):
        raise ValueError(
            f"init_from={path} holds no core to start from; give the checkpoint of a twin, not of "
            "model=ln or of an ensemble"
        )
    there: dict[str, Any] = copied(content["twin"]["model"])
    own, wanted = {"frame_size": None, **dict(leaves(there))}, dict(leaves(composed))
    settled = set(own | wanted) - set(follows)
    keys = {key for key in settled if any(word in ("", key) or key.startswith(f"{word}.") for word in said)}
    whole = {name for name in OWN if replaced(name, said, own, wanted)}
    differ = sorted(key for key in keys if own.get(key) != wanted.get(key) and key.split(".")[0] not in whole)
    # What is free in one model may be unknown to the checkpoint's: a dropout of a stem that it lacks.
    taken = {key for key in differ if key.split(".")[0] in OWN or (is_free(key) and key in own)}
    fixed = [f"{key} is {own.get(key)} there and {wanted.get(key)} here" for key in differ if key not in taken]
    if fixed:
        raise ValueError(
            f"init_from={path}: this command's model is another one: {'; '.join(fixed)}. "
            "Leave these keys out, because the model comes with the checkpoint, or train anew without init_from"
        )
    for name in whole:
        there[name] = composed.get(name)
    for key in differ:
        node = there
        *above, last = key.split(".")
        for word in above:
            node = node[word]
        node[last] = wanted.get(key)
    return there


def replaced(name: str, said: Collection[str], own: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Whether the command's node of an own part takes the place of the checkpoint's: where the command chose it, or
    says a key of it and the checkpoint's is of another class. Otherwise such keys change what the checkpoint has."""
    kind = f"{name}._target_"
    asked = any(word.split(".")[0] == name for word in said) and own.get(kind) != wanted.get(kind)
    return asked or "" in said or name in said


def is_free(key: str) -> bool:
    return key.rpartition(".")[2] in FREE


def leaves(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def copied(node: Mapping[str, Any]) -> dict[str, Any]:
    return {key: copied(value) if isinstance(value, Mapping) else value for key, value in node.items()}


@dataclass(frozen=True)
class Pretrained:
    """Which parts of a twin a checkpoint's weights fit.

    Attributes
    ----------
    parts : ``core``, and ``modulator`` where the twin has one that sees the behaviors it was trained with.
    fresh : why another part starts anew, or None.
    """

    parts: tuple[str, ...]
    fresh: str | None


def pretrained(twin: Twin, content: Mapping[str, Any], path: str | Path) -> Pretrained:
    """What a twin, made with :func:`adopted_model`, can take over from a checkpoint.

    Raises
    ------
    ValueError
        Where its recordings do not suit the core: another frame rate, other channels, or frames of another size where
        ``model.frame_size`` does not say what to do with them.
    """
    known = [RecordingSpec.from_dict(values) for values in content["twin"]["recordings"]]
    there, here = known[0], next(iter(twin.specs.values()))
    if ratio_of(here.frame_rate_hz, there.frame_rate_hz) != 1:
        raise ValueError(
            f"init_from={path}: its core was trained at {there.frame_rate_hz:g} frames a second, and these recordings "
            f"have {here.frame_rate_hz:g}; set data.frame_rate_hz={there.frame_rate_hz:g} to resample them"
        )
    if here.frame_shape[0] != there.frame_shape[0]:
        raise ValueError(
            f"init_from={path}: its core sees frames of {there.frame_shape[0]} channels, and these recordings have "
            f"{here.frame_shape[0]}; write the recordings with as many"
        )
    trained_size = common_frame_size(content["twin"]["model"].get("frame_size"), known)
    if twin.frame_size != trained_size and twin.description()["model"].get("frame_size") is None:
        raise ValueError(
            f"init_from={path}: its core was trained on frames of {size(trained_size)} px, and these recordings have "
            f"{size(twin.frame_size)}; set model.frame_size=[{trained_size[0]},{trained_size[1]}] to resize them, or "
            f"model.frame_size=[{twin.frame_size[0]},{twin.frame_size[1]}] to keep them, where a pixel is as large"
        )
    if twin.modulator is None:
        return Pretrained(("core",), None)
    if list(there.behavior.items()) == list(here.behavior.items()):
        return Pretrained(("core", "modulator"), None)
    return Pretrained(("core",), f"the modulator, which saw {there.behavior} there and sees {here.behavior} here")


def size(pixels: tuple[int, int]) -> str:
    return f"{pixels[0]}×{pixels[1]}"


def load_parts(twin: Twin, content: Mapping[str, Any], parts: Collection[str], path: str | Path) -> str:
    """Give parts of a twin the weights of a checkpoint, all of them; returns what was loaded, in words.

    Raises
    ------
    ValueError
        As :func:`check_parts`, and then nothing was loaded.
    """
    loaded = []
    for name, state in check_parts(twin, content, parts, path).items():
        getattr(twin, name).load_state_dict(state)
        numbers = sum(value.numel() for value in state.values())
        loaded.append(f"{len(state)} tensors of the {name} ({numbers:,} numbers)")
    return " and ".join(loaded)


def check_parts(
    twin: Twin, content: Mapping[str, Any], parts: Collection[str], path: str | Path
) -> dict[str, dict[str, Tensor]]:
    """A checkpoint's weights of parts of a twin, by part; without those that have none.

    Parameters
    ----------
    twin : whose parameters need shapes, and no numbers.
    content, path : of the checkpoint.
    parts : names of the twin's modules.

    Raises
    ------
    ValueError
        Where the checkpoint holds no weights of a part, or others than the part has, by name.
    """
    found = {}
    for name in parts:
        module: nn.Module = getattr(twin, name)
        prefix = f"twin.{name}."
        state: dict[str, Tensor] = {
            key.removeprefix(prefix): value for key, value in content["state_dict"].items() if key.startswith(prefix)
        }
        own = module.state_dict()
        if not state and not own:  # a gain of behavior has no weights where there is no behavior
            continue
        if not state:
            raise ValueError(
                f"init_from={path} holds not one tensor of the {name}; give a checkpoint that task=train wrote"
            )
        problems = [f"{key} is missing" for key in own if key not in state]
        problems += [f"{key} is unknown" for key in state if key not in own]
        problems += [
            f"{key} is {tuple(state[key].shape)} there and {tuple(own[key].shape)} here"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ]
        if problems:
            shown = "; ".join(problems[:6]) + (f"; and {len(problems) - 6} more" if len(problems) > 6 else "")
            raise ValueError(
                f"init_from={path}: the weights of the {name} do not fit this twin's: {shown}. Use recordings of the "
                "kind that the core was trained on, and leave model=… out, because the model comes with the checkpoint"
            )
        found[name] = state
    return found
