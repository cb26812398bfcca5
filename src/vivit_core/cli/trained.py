"""A checkpoint that a task looks at: its model, and the recordings that the model is shown. All tasks that take a
checkpoint go this one way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivit_core.cli.context import RunContext
from vivit_core.cli.recordings import Data, data_of_evaluation, make_datamodule
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.checkpoint import read_checkpoint, refused, settings_of
from vivit_core.models.ln import LN, load_ln
from vivit_core.models.load import load_twin
from vivit_core.models.twin import Twin

LN_TARGET = f"{LN.__module__}.{LN.__qualname__}"


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes
    ----------
    path, content : the file, and what was read from it.
    model : a twin, or an LN model that was fitted alone.
    """

    path: Path
    content: Mapping[str, Any]
    model: Twin | LN

    @property
    def baseline(self) -> LN | None:
        """The LN model that the twin is compared with; None where there is none, or the model itself is one."""
        return None if isinstance(self.model, LN) else load_ln(self.path, self.content)

    def recordings(self, context: RunContext, data: Data, described: bool = True) -> RecordingsDataModule:
        """The recordings that the model is to be shown: the training's, or those that this command chooses. They are
        ready to be read.

        Parameters
        ----------
        context : the run, which reads by its device's budget.
        data : the data node of this command.
        described : write into the run folder what is done there, and with these recordings.

        Raises
        ------
        ValueError
            Where the checkpoint's settings cannot be used, the run folder is another's, or a recording does not fit.
        """
        chosen = data_of_evaluation(data, settings_of(self.path, self.content), context.overridden)
        if described:
            context.with_settings(data=chosen).describe()
        datamodule = make_datamodule(chosen)
        datamodule.configure(batch_size=context.budget.batch_size, specs=list(self.model.specs.values()))
        datamodule.prepare_data()
        datamodule.setup()
        return datamodule


def load_trained(path: Path, average: bool = False) -> Trained:
    """Read a checkpoint and make its model.

    Parameters
    ----------
    path : of the file.
    average : take the averaged weights, which only a twin's checkpoint may hold.

    Raises
    ------
    ValueError
        Where it cannot be read, holds no model, or no averaged weights.
    """
    content = read_checkpoint(path)
    model: Twin | LN | None
    if is_ln(content) and not average:
        model = load_ln(path, content)
        if model is None:
            raise refused(path, content, "it says that it holds an LN model, and holds none")
    else:
        model = load_twin(path, average=average)
    return Trained(path, content, model)


def is_ln(content: Mapping[str, Any]) -> bool:
    """Whether a checkpoint is of model=ln, and has no twin."""
    return content["twin"].get("_target_") == LN_TARGET
