"""How a sweep (``-m``) of vivit-core runs: every combination, by SLURM or on this machine, with a summary at its end.

Hydra looks for such classes in this namespace only, and imports them in every program that it starts: so the package
itself is imported where it is used.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, filter_overrides
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher.config import BaseQueueConf
from hydra_plugins.hydra_submitit_launcher.submitit_launcher import BaseSubmititLauncher
from omegaconf import OmegaConf

log = logging.getLogger(__name__)

NAN = float("nan")  # what a job without a score returns to a sweeper
POLL_S = 1.0  # how often to look for results
ASK_S = 30.0  # how often to ask the scheduler, which knows of jobs that were killed; one question for all jobs


class Grid(BasicSweeper):
    """Every combination of the swept values. No job ends the sweep; in the end there is a summary of all of them."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run all jobs; the exit code is 1 where one failed or was interrupted, or none finished."""
        from vivit_core.system.troubles import trouble

        assert self.config is not None
        whole = OmegaConf.to_yaml(self.config)
        try:
            return self.all_jobs(arguments)
        except OSError as error:  # a full disk, where not even an outcome can be written
            kept = Path(str(self.config.hydra.sweep.dir)) / "multirun.yaml"
            if kept.is_file() and kept.read_text(encoding="utf-8", errors="replace") != whole:
                kept.unlink()  # Hydra writes it plainly, and half of it stays
            if (message := trouble(error)) is None:
                raise
            raise CompactHydraException(message) from error

    @staticmethod
    def split_arguments(overrides: list[Any], max_batch_size: int | None) -> list[list[list[str]]]:
        """The jobs of a sweep, whose number is known from here on."""
        from vivit_core.cli import sweeps

        batches = BasicSweeper.split_arguments(overrides, max_batch_size)
        sweeps.begin(sum(len(batch) for batch in batches))
        return batches

    def all_jobs(self, arguments: list[str]) -> Any:
        from vivit_core.cli.console import console

        unexpected = "ended without a word: killed, or out of memory?"
        try:
            returned = self.run_jobs(arguments)
        except BaseException:
            unexpected = "the sweep was left before this job had ended"
            raise
        finally:
            rows = self.conclude(unexpected, console)
        statuses = {row.outcome.status for row in rows}
        if statuses - {"finished", "refused", "pruned"} or "finished" not in statuses:
            raise SystemExit(1)
        return returned

    def run_jobs(self, arguments: list[str]) -> Any:
        """Run all jobs."""
        return super().sweep(arguments)

    def conclude(self, unexpected: str, console: Any) -> list[Any]:
        from vivit_core.cli import sweeps
        from vivit_core.cli.runs import RunFolder
        from vivit_core.names import command

        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        if not (folder / "outcomes").is_dir():  # nothing was started
            return []
        jobs = [words for batch in self.overrides or () for words in batch]
        for number in range(len(jobs)):
            if RunFolder(folder / str(number)).is_held:  # it goes on, and says itself what it comes to
                continue
            sweeps.Job(folder, number).give_up("interrupted" if "left" in unexpected else "failed", unexpected)
        overrides = self.config.hydra.overrides
        words = [word for word in overrides.hydra if not word.startswith("hydra.mode=")]
        return sweeps.summarize(folder, jobs, console, command(["-m", *words, *overrides.task]))


class Optuna(Grid):
    """Trials that Optuna suggests, each from the scores of those before (``vivit_core.cli.search``).

    Parameters
    ----------
    study : name of the search, and of its folder.
    trials : trainings in all, those of earlier commands among them.
    max_batch_size : trainings at a time.
    startup : first trials that are drawn at random.
    seed : of the suggestions.
    pruner, warmup : when a training is stopped early.
    params : swept keys, in Hydra's words for sweeps; the command line's beat them.
    """

    def __init__(
        self,
        study: str,
        trials: int,
        max_batch_size: int | None,
        startup: int,
        seed: int,
        pruner: str,
        warmup: int,
        params: dict[str, str] | None,
    ) -> None:
        super().__init__(max_batch_size=max_batch_size, params=params)
        self.study, self.trials, self.startup, self.seed = study, trials, startup, seed
        self.pruner, self.warmup = pruner, warmup

    def run_jobs(self, arguments: list[str]) -> Any:
        from vivit_core.cli import search, sweeps
        from vivit_core.system.files import write_text

        assert self.config is not None and self.hydra_context is not None and self.launcher is not None
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        try:
            space, fixed = search.space_of(parser.parse_overrides([*self._parse_config(), *arguments]))
            settings = OmegaConf.to_container(self.config, resolve=False)
            assert isinstance(settings, dict)
            about = search.about({str(key): value for key, value in settings.items()}, fixed, space)
            rule = search.Rule(self.pruner, self.warmup, self.startup)  # type: ignore[arg-type]
            with search.held(folder):
                numbers = {"trials": self.trials, "seed": self.seed, "startup": self.startup}
                own = search.Search(folder, space, fixed, **numbers, rule=rule, about=about)
                write_text(folder / "multirun.yaml", OmegaConf.to_yaml(self.config))
                sweeps.begin(self.trials)
                try:
                    return self.all_trials(own, folder)
                finally:
                    self.overrides = [[own.words(number) for number in range(own.begun)]]
        except ValueError as error:
            raise CompactHydraException(str(error)) from error

    def all_trials(self, own: Any, folder: Path) -> list[JobReturn]:
        """Ask, launch and tell, until all trials have ended. Those that ended when no command was there are told first.

        Raises
        ------
        ValueError
            Where a job of an earlier command still runs: a second one would take its trial.
        """
        from vivit_core.cli.runs import RunFolder
        from vivit_core.cli.sweeps import Job

        checked = False
        if running := [str(number) for number in own.left if RunFolder(folder / str(number)).is_held]:
            raise ValueError(
                f"jobs of an earlier command still train in {folder}: {', '.join(running)}; wait for them, and the "
                "same command takes what they came to; or stop them, and it continues them"
            )
        for number in list(own.left):
            own.tell(number, Job(folder, number).outcome())

        def ask() -> tuple[int, list[str]] | None:
            nonlocal checked
            if (asked := own.ask()) is None:
                return None
            if not checked:  # that there are such keys; the values each job checks by itself
                self.validate_batch_is_legal([asked[1]])
                checked = True
            Job(folder, asked[0]).begin_again()
            return asked

        def tell(number: int) -> None:
            own.tell(number, Job(folder, number).outcome())

        (folder / "outcomes").mkdir(exist_ok=True)
        at_once = self.max_batch_size or 1
        if isinstance(self.launcher, PatientLauncher):
            return self.launcher.keep_busy(ask, own.trials, at_once, tell)
        if at_once > 1:
            raise ValueError(
                f"hydra.sweeper.max_batch_size={at_once} trainings at a time need hydra/launcher=slurm or slurm_local; "
                "in this process they run one after the other"
            )
        returned: list[JobReturn] = []
        while (asked := ask()) is not None:
            (one,) = self.launcher.launch([asked[1]], initial_job_idx=asked[0])  # type: ignore[union-attr]
            returned.append(one)
            tell(asked[0])
        return returned


class PatientLauncher(BaseSubmititLauncher):
    """submitit's launcher, but a job that ended badly is a job that ended: the others are waited for.

    Parameters
    ----------
    jobs_at_once : how many run at a time; None leaves that to the scheduler.
    params : of Hydra's submitit launcher.
    """

    def __init__(self, jobs_at_once: int | None = None, **params: Any) -> None:
        super().__init__(**params)
        self.jobs_at_once = jobs_at_once

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Start the jobs, and return when all have ended, whatever they came to."""
        jobs = enumerate((list(words) for words in job_overrides), initial_job_idx)
        return self.keep_busy(lambda: next(jobs, None), len(job_overrides), self.jobs_at_once, lambda number: None)

    def keep_busy(
        self,
        ask: Callable[[], tuple[int, list[str]] | None],
        total: int,
        at_once: int | None,
        ended: Callable[[int], None],
    ) -> list[JobReturn]:
        """Run jobs as they are asked for, and return when there are no more and all have ended, whatever they came to.

        Parameters
        ----------
        ask : the next job's number and settings; None: no more.
        total : jobs in all, for the bar.
        at_once : how many run at a time; None leaves that to the scheduler.
        ended : is told the number of each job that has ended.
        """
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        from vivit_core.cli.console import console
        from vivit_core.cli.sweeps import Job
        from vivit_core.system.activity import duration

        assert self.config is not None
        folder = Path(str(self.config.hydra.sweep.dir)).absolute()
        executor = self.executor()
        more = True
        running: dict[int, Any] = {}
        returned: dict[int, JobReturn] = {}
        (folder / "outcomes").mkdir(parents=True, exist_ok=True)
        with Progress(
            TextColumn("jobs ended"), MofNCompleteColumn(), BarColumn(), console=console, transient=True
        ) as progress:
            bar = progress.add_task("", total=total)
            began = asked = time.monotonic()
            while more or running:
                started: list[tuple[Any, ...]] = []
                while more and (at_once is None or len(running) + len(started) < at_once):
                    asked_for = ask()
                    more = asked_for is not None
                    if asked_for is not None:
                        number, words = asked_for
                        call = (words, "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
                        started.append(call)
                if started:
                    jobs = self.submit(executor, started)
                    running.update({call[2]: job for call, job in zip(started, jobs, strict=True)})
                if running and time.monotonic() - asked > ASK_S:
                    next(iter(running.values())).task(0).done(force_check=True)
                    asked = time.monotonic()
                for number in [number for number, job in running.items() if job.task(0).done()]:
                    returned[number] = self.returned(Job(folder, number), running.pop(number))
                    outcome = Job(folder, number).outcome()
                    said = outcome.reason or (
                        "" if outcome.score is None else f"{outcome.score_name} {outcome.score:.4f}"
                    )
                    ended(number)
                    rest_s = (time.monotonic() - began) / len(returned) * max(0, total - len(returned))
                    progress.console.print(
                        f"job {number} {outcome.status}: {said} "
                        f"({len(returned)} of {total} have ended, about {duration(rest_s)} are left)"
                    )
                    progress.advance(bar)
                time.sleep(POLL_S)
        return [returned[number] for number in sorted(returned)]

    def executor(self) -> Any:
        """submitit's, with the settings of the launcher."""
        import submitit

        generic = set(OmegaConf.structured(BaseQueueConf)) - {"submitit_folder"}
        own = {key: value for key, value in self.params.items() if key not in ("submitit_folder", "max_num_timeout")}
        try:
            executor = submitit.AutoExecutor(
                folder=self.params["submitit_folder"],
                cluster=self._EXECUTOR,
                **{f"{self._EXECUTOR}_max_num_timeout": self.params["max_num_timeout"]},
            )
            executor.update_parameters(
                **{key if key in generic else f"{self._EXECUTOR}_{key}": value for key, value in own.items()}
            )
        except (RuntimeError, NameError, ValueError) as error:  # there is no srun here; a parameter that is none
            raise CompactHydraException(
                f"{error}\nhydra/launcher=slurm is for a machine that knows sbatch, srun and sacct, with the "
                "settings of conf/hydra/launcher/slurm.yaml; hydra/launcher=slurm_local runs the jobs on this one"
            ) from error
        return executor

    def submit(self, executor: Any, calls: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Hand jobs to the scheduler."""
        import submitit

        from vivit_core.names import printable

        try:
            jobs: list[Any] = executor.map_array(self, *zip(*calls, strict=True))
        except submitit.core.utils.FailedJobError as error:  # of the command sbatch
            raise CompactHydraException(
                f"the scheduler did not take the jobs: {error}\nthe settings of the queue are in "
                "conf/hydra/launcher/slurm.yaml; hydra.launcher.partition=… and the like change them"
            ) from error
        for call, job in zip(calls, jobs, strict=True):
            words = printable(" ".join(filter_overrides(call[0])))
            log.info(f"job {call[2]}: {words}  ({self._EXECUTOR} {job.job_id}, log {job.task(0).paths.stdout})")
        return jobs

    def returned(self, noted: Any, job: Any) -> JobReturn:
        """What an ended job returned; NaN, and a note, where it ended without returning."""
        import submitit

        try:
            value: JobReturn = job.task(0).result()
            if value.status != JobStatus.FAILED:
                return value
            # submitit's own word that the job was not queued again, after the task had said why it stopped
            known, error = noted.give_up("failed", ""), value._return_value
            noted.note(reason="; ".join(filter(None, (known.reason, str(error)))))
        except (submitit.core.utils.UncompletedJobError, submitit.core.utils.FailedJobError) as error:
            state = str(job.state)
            last = str(error).strip("- \n").splitlines()[-1] if job.task(0).paths.result_pickle.exists() else ""
            reason = f"{self._EXECUTOR} {job.job_id} ended as {state}; its log is {job.task(0).paths.stderr}"
            noted.give_up(
                "interrupted" if state.startswith("CANCELLED") else "failed", f"{last}; {reason}" if last else reason
            )
        value = JobReturn(status=JobStatus.COMPLETED)
        value.return_value = NAN
        return value


class SlurmLauncher(PatientLauncher):
    """A sweep's jobs as a SLURM array."""

    _EXECUTOR = "slurm"


class LocalLauncher(PatientLauncher):
    """A sweep's jobs as processes of this machine."""

    _EXECUTOR = "local"
