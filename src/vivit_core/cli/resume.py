"""Which training a command means: a new one, or one that was interrupted, and the checkpoint that it continues from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import Callback

from vivit_core.cli import runs
from vivit_core.cli.console import console, tell
from vivit_core.cli.context import RunContext
from vivit_core.cli.files_read import changed_files, files_read
from vivit_core.cli.machine import budget_recorded, machine_of
from vivit_core.cli.scaled import TRAINED_ON
from vivit_core.cli.schema import Budget
from vivit_core.cli.search import is_trial
from vivit_core.cli.validate import fingerprint
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.names import setting
from vivit_core.specs import RecordingSpec
from vivit_core.system.stops import Stopped, TrainingPruned, TrainingStopped
from vivit_core.training.callbacks.checkpoints import has_ended


def where_to_train(context: RunContext, resume: str | Path | None) -> tuple[runs.RunFolder, Path | None]:
    """The run folder, and the checkpoint to continue from.

    Parameters
    ----------
    context : the run as it was asked for.
    resume : "auto", "never", a checkpoint's path, or None for what is usual.

    Raises
    ------
    ValueError
        Where the folder is another's, or a training cannot be continued from that checkpoint.
    """
    new, settings = context.run, context.settings
    if resume not in (None, "auto", "never"):
        return run_of(Path(resume), settings)
    if new.has_results:  # a scheduler has stopped this job, and started it again
        return again(new, settings)
    new.refuse_other(fingerprint(settings))
    if resume is None and context.job is not None:
        resume = "auto"
    if resume in (None, "never"):
        return new, None
    same = runs_of_same_files(runs.same_runs(Path(settings["outputs"]), fingerprint(settings)), settings)
    runs.remove_leftovers_of_killed(same)
    finished = next((run for run in same if run.finished), None)
    newer = same if finished is None else same[: same.index(finished)]
    # A trial reports all its epochs, so it does not go on from those of another, which may have been pruned.
    if not (context.job is not None and is_trial(context.job)):
        refuse_live(newer)
        for found in runs.unfinished(newer):
            if (checkpoint := found.newest_whole(tell)) is not None:
                return continued(found, checkpoint, settings)
            tell(f"resume=auto: no checkpoint of {found.path} reads, so it cannot be continued")
    if finished is not None:
        console.print(f"resume=auto: the training of this configuration had already finished, in {finished.path}")
        return finished, None
    console.print("resume=auto: there is no unfinished run of this configuration to continue; a new one starts")
    return new, None


def runs_of_same_files(same: Sequence[runs.RunFolder], settings: Mapping[str, Any]) -> list[runs.RunFolder]:
    """Those runs whose files are as they were; says of the newest other one that it is not, and which file."""
    states = files_read(settings)
    differ = [(run, changed) for run in same if (changed := changed_files(run, states))]
    if differ:
        run, changed = differ[0]
        tell(f"resume=auto: {run.path} has the same settings, but {changed}; so it is not taken")
    others = [run for run, _ in differ]
    return [run for run in same if run not in others]


def refuse_live(same: Sequence[runs.RunFolder]) -> None:
    """Refuse to begin a training that another process is at."""
    for run in same:
        try:
            with suppress(OSError), run.held():  # a folder of somebody else
                pass
        except runs.Held as live:
            raise runs.Held(
                run.path,
                f"this training goes on in {run.path}; wait for it, and the same command takes what it came to, or "
                "say resume=never to train another",
            ) from live


def run_of(resume: Path, settings: Mapping[str, Any]) -> tuple[runs.RunFolder, Path | None]:
    """The run that wrote a checkpoint, to be continued from there."""
    checkpoint, run = resume, runs.RunFolder(resume.resolve().parent.parent)
    in_its_run = bool(run.environment)
    if in_its_run and run.finished and run.is_of(fingerprint(settings)):
        console.print(f"the training in {run.path} had already finished")
        return run, None
    if in_its_run and checkpoint.resolve() == run.last and checkpoint.is_file():
        whole = run.newest_whole(tell)
        if whole is None:
            raise ValueError(
                f"resume={resume}: no checkpoint in {run.last.parent} reads, so this training cannot be continued; "
                "resume=never begins it anew"
            )
        checkpoint = whole
    content = read_checkpoint(checkpoint)
    refuse_simulated(resume, content, settings)
    if not in_its_run:
        raise ValueError(
            f"resume={resume}: a training continues in its own run folder, and {run.path} is none; "
            "give the path of a checkpoint where the training wrote it (…/checkpoints/last.ckpt), or resume=auto"
        )
    return continued(run, checkpoint, settings)


def refuse_simulated(resume: Path, content: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse to go on with simulated recordings where those of the training have names, before any is simulated."""
    then, now = (each.get("data", {}) for each in (content["settings"], settings))
    if not (now.get("root") or now.get("recordings")):
        for name in ("root", "recordings"):
            if said := then.get(name):
                raise ValueError(
                    f"resume={resume}: its training is of recordings of your own, and this command names none; give "
                    f"them again: {setting(f'data.{name}', said)}"
                )


def refuse_other_recordings(checkpoint: Path, content: Mapping[str, Any], specs: Mapping[str, RecordingSpec]) -> None:
    """Refuse a checkpoint of other recordings, or other units, before anything of its run is changed."""
    trained = {str(each["recording_id"]): list(each["unit_ids"]) for each in content["twin"]["recordings"]}
    here = {name: list(spec.unit_ids) for name, spec in specs.items()}
    if trained == here:
        return
    differs = [name for name in {**trained, **here} if trained.get(name) != here.get(name)]
    raise ValueError(
        f"{checkpoint}: its training is of other recordings, or other units of them, than this command names "
        f"({', '.join(differs[:4])}{', …' if len(differs) > 4 else ''}); give the data as then, which its run's "
        "config.yaml holds, or begin a new training (init_from takes over its core)"
    )


def again(run: runs.RunFolder, settings: Mapping[str, Any]) -> tuple[runs.RunFolder, Path | None]:
    """The same job once more, in the folder where it was before."""
    run.refuse_other(fingerprint(settings))
    if changed := changed_files(run, files_read(settings)):
        raise ValueError(
            f"{run.path} holds a training with these settings, but {changed}; give this one another folder by "
            "hydra.run.dir=FOLDER, or leave hydra.run.dir out"
        )
    if run.finished:
        console.print(f"the training in {run.path} had already finished")
        return run, None
    if (checkpoint := run.newest_whole(tell)) is None:
        tell(f"no checkpoint of {run.path} reads, so its training begins anew there")
        return run, None
    return continued(run, checkpoint, settings)


def continued(run: runs.RunFolder, checkpoint: Path, settings: Mapping[str, Any]) -> tuple[runs.RunFolder, Path]:
    """The run goes on from this checkpoint, if it can here."""
    content = read_checkpoint(checkpoint)
    device, budget = machine_of(settings["trainer"])
    if "loops" in content and not is_trained(run, content, settings, budget):  # an LN is fitted in one go
        check_course(run, settings["trainer"], device, budget)
        if (seen := epochs_of(content)) > budget.epochs:
            raise ValueError(
                f"{setting('resume', checkpoint)}: the checkpoint has seen {seen} epochs, and trainer.epochs is "
                f"{budget.epochs}; set trainer.epochs={seen} or more"
            )
    console.print(f"continues the run {run.path} from {checkpoint.name}")
    return run, checkpoint


def check_course(run: runs.RunFolder, trainer: Mapping[str, Any], device: str, budget: Budget) -> None:
    """Refuse to continue the training of a GPU on a CPU, or the reverse, where that has another budget: its schedule
    would break off or stretch. What the configuration sets for both was asked for."""
    begun = budget_recorded(run.environment.get("budget"))
    if begun is None or begun[0] == device:
        return
    other = {key: value for key, value in asdict(begun[1]).items() if value != getattr(budget, key)}
    other.pop("precision", None)  # the weights are float32 in both
    if all(trainer[key] is not None for key in other):
        return
    resume = setting("resume", run.last)
    words = " ".join(setting(f"trainer.{key}", value) for key, value in other.items())
    remedy = f"on a GPU, or with {resume} {words}" if device == "cpu" else f"with {resume} trainer.device=cpu"
    raise ValueError(
        f"{run.path}: this training was begun on {begun[0]}, with {begun[1].epochs} epochs of "
        f"{begun[1].steps_per_epoch} steps, and {device} has another budget ({budget.epochs} of "
        f"{budget.steps_per_epoch}); continue it {remedy}"
    )


def epochs_of(content: Mapping[str, Any]) -> int:
    """The epochs that a checkpoint's training has begun; 0 of an LN."""
    try:
        return int(content["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"])
    except (KeyError, TypeError, ValueError):  # of an LN; or a file that check_restorable will have a word for
        return 0


def is_trained(run: runs.RunFolder, content: Mapping[str, Any], settings: Mapping[str, Any], budget: Budget) -> bool:
    """Whether the training of these settings was over at this checkpoint, and what is missing comes after it.

    ``budget`` is this machine's; the training may have been another's, with a budget of its own.
    """
    if fingerprint(content["settings"]) != fingerprint(settings):
        return False  # continued under other settings, for example for more epochs
    _, own = budget_recorded(run.environment.get("budget")) or ("", budget)
    return run.ended_at(content["global_step"]) or has_ended(content, own.epochs * own.steps_per_epoch)


def note_failure(run: runs.RunFolder, error: BaseException) -> None:
    """Why a training ended, into its run's record; and how to go on, where there is a checkpoint."""
    if run.finished:  # and this one had not begun to change it
        return
    go_on = f"continue with the same words and {setting('resume', run.last)} (resume=auto finds it)"
    go_on = go_on if run.last.is_file() else ""
    if isinstance(error, Stopped):
        error.remedy = go_on or error.remedy
    elif isinstance(error, Exception) and not isinstance(error, TrainingStopped | TrainingPruned) and go_on:
        console.print(f"the training failed; when what follows is mended, {go_on}", markup=False)
    # "ended" says why the training did. What fails in what follows does not change it.
    key = "failed_after_training" if run.trained and not isinstance(error, TrainingPruned) else "ended"
    runs.note_in_run(run, key, (str(error) or type(error).__name__).splitlines()[0])


class KeepSettings(Callback):
    """Keeps the plain configuration in each checkpoint, so that a checkpoint alone can be evaluated; and notes in the
    run folder that a training begins or continues, once the checkpoint has proved to be this model's.

    Parameters
    ----------
    context, run : of the training.
    continues : whether it goes on.
    learns : what it learns from, to be noted as well (:func:`vivit_core.cli.scaled.trained_on`).
    """

    def __init__(self, context: RunContext, run: runs.RunFolder, continues: bool, learns: Mapping[str, Any]) -> None:
        self.context, self.run, self.continues, self.learns = context, run, continues, learns

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if trainer.is_global_zero:
            self.run.begin_training()
            runs.note_in_run(self.run, TRAINED_ON, self.learns)
        if self.continues:
            self.context.describe(trains=True, continues=True)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint["settings"] = self.context.settings
