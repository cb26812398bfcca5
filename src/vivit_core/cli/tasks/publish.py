"""task=publish: a trained twin as a folder that can be shared, and on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from vivit_core.analysis.publish.card import About
from vivit_core.analysis.publish.publish import write_folder
from vivit_core.analysis.publish.scores import scores_in
from vivit_core.cli.console import tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.trained import load_trained
from vivit_core.models.checkpoint import settings_of
from vivit_core.models.hub import check_name
from vivit_core.models.hub import push as push_folder
from vivit_core.models.load import AVERAGE
from vivit_core.models.shipped import shipped
from vivit_core.names import setting
from vivit_core.report.training import training_of
from vivit_core.system.files import check_new_folder


def publish(
    context: RunContext,
    *,
    checkpoint: Path,
    average: bool,
    out: Path,
    evaluation: Path | None,
    title: str | None,
    authors: str | None,
    license: str | None,
    cite: str | None,
    note: str | None,
    push: str | None,
    private: bool,
) -> None:
    """Write a twin's weights, description and card into a folder, and upload it where that is asked for.

    Parameters
    ----------
    context : the run.
    checkpoint : of a twin or of an LN model.
    average : take the averaged weights, which ``callbacks=ema`` keeps, and their scores.
    out : a new folder.
    evaluation : run folder of task=evaluate with the scores of these weights; None: the training's own.
    title : of the card; None: the folder's name.
    authors, license, cite, note : for the card; the license is of the weights. None: it says that none was given.
    push : user/name on the Hub, where it is uploaded to; None: nowhere.
    private : whether a new repository there is.

    Raises
    ------
    ValueError
        Where the checkpoint cannot be read, has no averaged weights or no scores, the folder is not new, or the Hub
        refuses.
    """
    check_new_folder(out)
    if shipped(out) is not None:
        raise ValueError(
            f"out={out}: this name stands for the twin that comes with the package, which would be loaded instead of "
            "yours; name another folder"
        )
    if push is not None:
        check_name(push)
    trained = load_trained(checkpoint, average)
    how = setting("checkpoint", checkpoint) + " average=true" * average
    folder = evaluation or training_of(checkpoint)
    if folder is None:
        raise ValueError(
            f"checkpoint={checkpoint}: does not lie in the run folder of its training, where its scores would be; run "
            f"task=evaluate {how}, and give its run folder by evaluation=FOLDER"
        )
    if average and evaluation is None:
        folder = folder / AVERAGE
    scores = scores_in(folder, trained.model, how)
    context.describe()
    about = About(title or out.resolve().name, authors, license, cite, note)
    files = write_folder(out, trained.model, trained.baseline, settings_of(checkpoint, trained.content), scores, about)
    if trained.weights is not None:
        tell(trained.weights)
    size = sum((out / name).stat().st_size for name in files)
    tell(f"wrote {out}: {', '.join(files)}, {size / 1e6:.1f} MB")
    tell(f'load_twin("{out}") loads it; read its README.md before you share it')
    if push is not None:
        try:
            tell(f"uploaded: {push_folder(out, push, private, files)}")
        except ValueError as error:
            hidden = " --private" if private else ""
            raise ValueError(f"{error}. {out} is whole: then `hf upload {push} {out}{hidden}` uploads it") from error
