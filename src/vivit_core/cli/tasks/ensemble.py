"""task=ensemble: several checkpoints become one, which predicts the mean of their rates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vivit_core.cli.console import tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.data.datamodule import PASS
from vivit_core.models.checkpoint import settings_of
from vivit_core.models.ensemble import Ensemble
from vivit_core.models.load import checkpoint_of
from vivit_core.models.twin import Twin
from vivit_core.system.plain import in_a_line
from vivit_core.training.callbacks.checkpoints import save_checkpoint

WIDEST = ("clip_length", "burn_in", "evaluation_length", "evaluation_burn_in")  # no member gets less past than alone


def ensemble(context: RunContext, *, checkpoints: list[Path], out: Path, average: bool) -> None:
    """Write an ensemble into one checkpoint, which every task takes in the place of a twin's.

    Parameters
    ----------
    context : the run.
    checkpoints : of the members, at least two, of the same recordings and units.
    out : a new file.
    average : take the averaged weights, which ``callbacks=ema`` keeps.

    Raises
    ------
    ValueError
        Where a checkpoint cannot be read, they make no ensemble, or the file is not new.
    """
    if out.exists():
        raise ValueError(f"out={out}: stands there already; name a new file")
    found = [load_trained(path, average) for path in checkpoints]
    try:
        model = Ensemble([own.model for own in found])
    except ValueError as error:
        named = ", ".join(f"{number}: {path}" for number, path in enumerate(checkpoints, 1))
        raise ValueError(f"checkpoints: {in_a_line(error, 2000)} (members are {named})") from error
    settings = common_settings([settings_of(own.path, own.content) for own in found])
    content = checkpoint_of(model) | {"settings": settings}
    content["ln"] = next((own.content["ln"] for own in found if own.content.get("ln") is not None), None)
    context.describe()
    save_checkpoint(content, out)
    tell(f"wrote {out}: an {model.kind} of {len(model.specs)} recordings, {out.stat().st_size / 1e6:.1f} MB")
    if any(isinstance(member, Twin) and member.latents is not None for member in model.each):
        tell(
            "its members' model.latent is left out: an ensemble says no noise correlations; task=evaluate of a member "
            "does"
        )
    tell(f"it takes a twin's place: task=evaluate checkpoint={out}; what it is worth: task=compare")


def common_settings(of: Sequence[Mapping[str, Any] | None]) -> dict[str, Any] | None:
    """The settings of an ensemble: those of its first member, with clips as long as the longest of all; None where
    no member has any.

    Raises
    ------
    ValueError
        Where frames or behaviors were made in different ways.
    """
    known = [settings for settings in of if settings is not None]
    if not known:
        return None
    data = said(known[0]["data"])
    for settings in known[1:]:
        if settings["data"].get("transforms") != data.get("transforms"):
            raise ValueError(
                "checkpoints: the members were trained with different data.transforms, so that no frames and behavior "
                "suit them all; train them with the same"
            )
        own = said(settings["data"])
        data |= {name: max(data[name], own[name]) for name in WIDEST}
    return {**known[0], "data": data}


def said(data: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of the data in which the length of evaluated clips is a number: null is a multiple of a member's own
    ``clip_length``, and not of the longest one."""
    length = data["evaluation_length"]
    return {**data, "evaluation_length": PASS * data["clip_length"] if length is None else length}
