"""Weights & Biases: what a run sends there, in which run it goes on, and that no failure of it ends a training."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.utilities import rank_zero_only

from vivit_core.names import printable
from vivit_core.system.files import write_text

OBJECTIVE = "val/bps_mean"
ID_FILE = "wandb_id"


class WandbRun(WandbLogger):
    """Lightning's logger for W&B, with three things settled.

    - A run that is continued goes on in the same W&B run: its id lies beside its checkpoints. In a sweep the agent's id
      holds.
    - A failure of W&B is said in one line, and the training goes on: first with W&B's log on the disk alone, and where
      that fails too, without it.
    - The configuration that was composed is the run's configuration. A sweep locks the keys it sets: where one of them
      has the name of a group (``model: vivit_small``), the group stands beside it as ``model_settings``.

    Parameters
    ----------
    save_dir : the run folder; W&B's own files go into its folder ``wandb``.
    project, entity : where the run is filed; entity None: the account's default.
    name : of the run; None: W&B makes one up.
    group : runs of one group are shown together.
    tags : words to find the run by.
    offline : write to the disk alone, for ``wandb sync``.
    checkpoint : whether the best checkpoint is kept as an artifact.
    """

    def __init__(
        self,
        save_dir: str | Path,
        project: str,
        entity: str | None,
        name: str | None,
        group: str | None,
        tags: list[str] | None,
        offline: bool,
        checkpoint: bool,
    ) -> None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)  # else W&B writes into /tmp
        id_file = Path(save_dir) / ID_FILE
        known = id_file.read_text(encoding="utf-8").strip() if id_file.is_file() else None
        super().__init__(name=name, save_dir=save_dir, project=project, id=known, entity=entity, group=group, tags=tags)
        self._id_file, self._checkpoint, self._failed = id_file, checkpoint, False
        self._settings: Mapping[str, Any] = {}
        del self._wandb_init["anonymous"]  # Lightning passes it on, and W&B says that it is no more
        if offline:
            self._wandb_init["mode"] = "offline"

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run; one that does nothing after a failure."""
        if self._experiment is None:
            self._start()
        return self._experiment

    def _start(self) -> None:

        if "mode" not in self._wandb_init and (why := why_not_logged_in()) is not None:
            say(f"{why}: its log stays offline, for `wandb sync`")
            self._wandb_init["mode"] = "offline"
        if self._wandb_init["id"] is None and os.environ.get("WANDB_RUN_ID"):  # an agent's
            self._wandb_init["id"] = os.environ["WANDB_RUN_ID"]
        try:
            self._init()
        except Exception as error:  # the network, the account, the disk, W&B's own process: all of it may fail
            self._fall_back(error)

    def _init(self) -> None:
        import wandb

        run = wandb.init(**self._wandb_init)
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        self._experiment, self._wandb_init["id"] = run, run.id
        write_text(self._id_file, run.id)

    def _fall_back(self, error: Exception) -> None:
        """From the server to the disk, from the disk to nothing."""
        import wandb

        attempt(wandb.teardown, exit_code=1)  # W&B's own process may be gone, and a new run needs one
        if self._wandb_init.get("mode") != "offline" and os.environ.get("WANDB_MODE") != "offline":
            say(f"W&B failed ({first_line(error)}): its log stays offline from here on, for `wandb sync`")
            self._wandb_init["mode"] = "offline"
            try:
                self._init()
                self._log_settings(self._settings)
                return
            except Exception as second:  # as in _start
                error = second
                attempt(wandb.teardown, exit_code=1)
        say(f"W&B failed ({first_line(error)}); the training goes on without it, and metrics.csv has every number")
        self._failed = True
        self._experiment = wandb.init(mode="disabled")

    def _safely(self, call: Callable[..., Any], *args: Any, **named: Any) -> None:
        if self._failed:
            return
        try:
            call(*args, **named)
        except Exception as error:  # as in _start
            self._fall_back(error)
            self._safely(call, *args, **named)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        self._safely(super().log_metrics, metrics, step)

    @rank_zero_only
    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        self._safely(super().log_image, key, images, step, **kwargs)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        self._safely(super().finalize, status)

    @rank_zero_only
    def log_settings(self, settings: Mapping[str, Any]) -> None:
        """The composed configuration, as the run's."""
        self._settings = settings
        self._safely(self._log_settings, settings)

    def _log_settings(self, settings: Mapping[str, Any]) -> None:
        run = self.experiment
        locked = {
            key for key in settings if isinstance(run.config.get(key), str) and not isinstance(settings[key], str)
        }
        named = {f"{key}_settings" if key in locked else key: value for key, value in settings.items()}
        run.config.update(named, allow_val_change=True)

    @rank_zero_only
    def log_results(
        self, summary: Mapping[str, Any], best: float | None, pictures: Sequence[Path], checkpoint: Path
    ) -> None:
        """The end of a training: the test split's scores, the pictures, the best checkpoint as an artifact.

        The objective's summary becomes the score of the checkpoint that was kept, which need not be the largest; a
        sweep compares runs by it.

        Parameters
        ----------
        summary : content of ``summary.json``.
        best : its ``val/bps_mean``.
        pictures : PNG files.
        checkpoint : the one that was kept.
        """
        self._safely(self._log_results, summary, best, pictures, checkpoint)

    def _log_results(
        self, summary: Mapping[str, Any], best: float | None, pictures: Sequence[Path], checkpoint: Path
    ) -> None:
        import wandb

        run = self.experiment
        if pictures:
            run.log({f"pictures/{path.stem}": wandb.Image(str(path)) for path in pictures})
        numbers = {key: value for key, value in summary.items() if isinstance(value, int | float)}
        run.summary.update({f"{summary['split']}/{key}": value for key, value in numbers.items()})
        if best is not None:
            run.summary[OBJECTIVE] = best
        if self._checkpoint and checkpoint.is_file():
            artifact = wandb.Artifact(
                f"twin-{run.id}", type="model", metadata={OBJECTIVE: best, "checkpoint": str(checkpoint)}
            )
            artifact.add_file(str(checkpoint), name=checkpoint.name)
            run.log_artifact(artifact, aliases=["best"])


def why_not_logged_in() -> str | None:
    """Log in; the reason where that is not possible. Where WANDB_MODE is set, it says what is wanted."""
    import wandb

    if "WANDB_MODE" in os.environ:
        return None
    try:
        if wandb.login(prompt=False):
            return None
    except Exception as error:  # a refused key, or no way to the server
        return f"W&B does not let us in ({first_line(error)})"
    return "no W&B account on this machine (`wandb login` makes it known)"


def finish_wandb(failed: bool = False) -> None:
    """End the W&B run, else the runs of a sweep would be merged into one."""
    if "wandb" in sys.modules and (run := sys.modules["wandb"].run) is not None:
        attempt(run.finish, exit_code=1 if failed else 0)


def attempt(call: Callable[..., Any], **named: Any) -> None:
    """What may fail when W&B has failed already, or is the last thing a run does."""
    try:
        call(**named)
    except Exception as error:
        say(f"W&B could not end its run ({first_line(error)}); `wandb sync` may still send it")


def first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def say(line: str) -> None:
    print(printable(line), file=sys.stderr, flush=True)
