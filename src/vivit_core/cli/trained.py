"""A checkpoint that a task looks at: its model, and the recordings that the model is shown. All tasks that take a
checkpoint go this one way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vivit_core.cli.context import RunContext
from vivit_core.cli.planned import recordings_named
from vivit_core.cli.recordings import data_of_evaluation, make_datamodule
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.models.checkpoint import settings_of
from vivit_core.models.load import AVERAGE, baseline_in, predictor_in, read_trained
from vivit_core.models.predictor import Predictor
from vivit_core.parts.build import build_all
from vivit_core.parts.groups import class_of
from vivit_core.parts.schema import Node
from vivit_core.training.distillation import Teacher


@dataclass(frozen=True)
class Trained:
    """What a checkpoint holds.

    Attributes
    ----------
    path, content : the file, and what was read from it.
    model : a twin, or another predictor in its place, as an LN model that was fitted alone.
    average : whether the model has the averaged weights.
    """

    path: Path
    content: Mapping[str, Any]
    model: Predictor
    average: bool

    @property
    def weights(self) -> str | None:
        """Which weights the model has, in a line; None where the checkpoint holds no others."""
        if AVERAGE not in self.content:
            return None
        if self.average:
            return "these are the averaged weights (average=true)"
        return "these are the trained weights; the checkpoint also holds averaged ones (average=true)"

    @property
    def baseline(self) -> Predictor | None:
        """The LN model that the twin is compared with; None where the checkpoint holds none."""
        return baseline_in(self.path, self.content)

    @property
    def transforms(self) -> dict[str, Any]:
        """How its training changed what recordings hold, by name; none where the checkpoint does not say."""
        settings = settings_of(self.path, self.content)
        return {} if settings is None else build_all("data.transforms", settings["data"].get("transforms", {}))

    def recordings(
        self, context: RunContext, data: Mapping[str, Any], described: bool = True, leave_out: Collection[str] = ()
    ) -> RecordingsDataModule:
        """The recordings that the model is to be shown: the training's, or those that this command chooses. They are
        ready to be read.

        Parameters
        ----------
        context : the run, which reads by its device's budget.
        data : the data node of this command.
        described : write into the run folder what is done there, and with these recordings.
        leave_out : ids of recordings that it is not shown, though a file of them is named.

        Raises
        ------
        ValueError
            Where the checkpoint's settings cannot be used, the run folder is another's, or a recording does not fit.
        """
        chosen = data_of_evaluation(data, settings_of(self.path, self.content), context.overridden)
        if described:
            context.with_settings(data=chosen).describe()
        datamodule = make_datamodule(chosen)
        datamodule.configure(
            batch_size=context.budget.batch_size, specs=list(self.model.specs.values()), leave_out=leave_out
        )
        datamodule.prepare_data()
        datamodule.setup()
        return datamodule


def load_trained(path: Path, average: bool = False) -> Trained:
    """Read a checkpoint and make its model.

    Parameters
    ----------
    path : of the file, or of what else :func:`vivit_core.models.load.read_trained` reads.
    average : take the averaged weights, which ``callbacks=ema`` keeps.

    Raises
    ------
    ValueError
        Where it cannot be read, holds no model, or no averaged weights.
    """
    content = read_trained(path)
    return Trained(path, content, predictor_in(path, content, average), average)


def is_fitted_alone(model: Mapping[str, Any]) -> bool:
    """Whether a model node is of a whole predictor (model=ln), and not of the core of a twin, which steps train."""
    return issubclass(class_of("model", model["_target_"]), Predictor)


def teacher_in(path: Path | None, share: float, context: RunContext, model: Node, data: Node) -> Teacher | None:
    """The model whose rates a training learns; None where it learns counts.

    Parameters
    ----------
    path : of its checkpoint; None: there is none.
    share : of the loss that its rates have.
    context, model, data : of the training.

    Raises
    ------
    ValueError
        Where it does not know the recordings that the settings name, its data were made in another way, its share is
        none, the model is fitted and not trained in steps, or the recipe wants a teacher and there is none.
    """
    if path is None and context.experiment == "distill":
        raise ValueError("from what is the twin to learn? Say teacher=CHECKPOINT, of an ensemble or another model")
    if path is None:
        return None
    if is_fitted_alone(model):
        raise ValueError(f"teacher={path}: model=ln is fitted to counts; leave teacher out, or train another model")
    trained = load_trained(path)
    teacher = Teacher(trained.model, str(path), share)
    teacher.check_known(recordings_named(data))
    if (settings := settings_of(path, trained.content)) is not None:
        check_taught_alike(path, settings["data"], data)
    return teacher


def check_taught_alike(path: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    """Refuse a teacher whose frames and behavior were made in another way, or that was not trained to predict so early
    in a clip.

    Parameters
    ----------
    path : of its checkpoint, for messages.
    there, here : the data nodes of its training and of this one.

    Raises
    ------
    ValueError
        Says what differs.
    """
    if there.get("transforms") != here.get("transforms"):
        raise ValueError(
            f"teacher={path} was trained with other data.transforms than this training has, so that no frames and "
            "behavior suit both; take those of its training, for example by data/transforms=…, or another teacher"
        )
    if there["burn_in"] > here["burn_in"]:
        raise ValueError(
            f"teacher={path} learned bins after a clip's first {there['burn_in']} (data.burn_in), and here it would "
            f"teach those after the first {here['burn_in']}, of which it knows too little past; set "
            f"data.burn_in={there['burn_in']}"
        )
