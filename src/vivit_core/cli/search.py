"""A search of hyperparameters by Optuna: what is tried next follows from what the trials before came to.

All that is known of a search lies in its folder: ``search.journal``, which Optuna keeps and every job opens, and beside
it what a sweep has (``sweeps``). Trial n is job n. A trial that was begun and has no end is begun again, by the command
that goes on with the search, with the same settings and in the same run folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal

import numpy as np
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep

from vivit_core.cli.sweeps import Job, Outcome
from vivit_core.parts.schema import check_call
from vivit_core.system.files import remove_leftovers, write_text
from vivit_core.system.locks import lock
from vivit_core.system.plain import read_plain

log = logging.getLogger(__name__)

NAME = "search"  # of the study in its journal
JOURNAL, RULE, HELD = "search.journal", "search.json", ".search"
BELONGS_TO = "settings"  # the study's attribute that says what it is a search of
QUARTER = 4  # of the trainings at a rung of asha, one goes on


@dataclass(frozen=True)
class Rule:
    """When a training is stopped early, as its job has to know it.

    Attributes
    ----------
    pruner : median: below the median of the other trials at the same epoch; asha: not among the best quarter at epochs
        ``warmup``, 4 ``warmup``, 16 ``warmup`` … (asynchronous successive halving, Li et al. 2020); none: never.
    warmup : the first epoch after which one may be stopped.
    startup : trials that have ended before the median counts.
    """

    pruner: Literal["median", "asha", "none"]
    warmup: int
    startup: int

    def __post_init__(self) -> None:
        if self.pruner not in ("median", "asha", "none"):
            raise ValueError(f"hydra.sweeper.pruner={self.pruner}: choose median, asha or none")
        if self.warmup < 1 or self.startup < 1:
            raise ValueError("hydra.sweeper.warmup and hydra.sweeper.startup must be 1 or more")

    def pruner_of(self, optuna: Any) -> Any:
        """Optuna's, whose steps are epochs."""
        if self.pruner == "median":
            return optuna.pruners.MedianPruner(n_startup_trials=self.startup, n_warmup_steps=self.warmup)
        if self.pruner == "asha":
            return optuna.pruners.SuccessiveHalvingPruner(min_resource=self.warmup, reduction_factor=QUARTER)
        return optuna.pruners.NopPruner()


def imported() -> Any:
    """Optuna, which says nothing of its own.

    Raises
    ------
    ValueError
        Where it is not installed; says how to.
    """
    try:
        import optuna
    except ImportError as error:
        raise ValueError('hparams_search=optuna: needs Optuna: pip install "vivit-core[search]"') from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def study_in(folder: Path, pruner: Any = None) -> Any:
    """The study of a search's folder, which is made where there is none."""
    optuna = imported()
    backend = optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL))
    return optuna.create_study(
        storage=optuna.storages.JournalStorage(backend),
        study_name=NAME,
        direction="maximize",
        pruner=pruner,
        load_if_exists=True,
    )


# The command that searches --------------------------------------------------------------------------------------------


def space_of(overrides: Sequence[Override]) -> tuple[dict[str, Any], dict[str, str]]:
    """What is searched, as Optuna's distributions by key, and what is fixed, as ``key=value`` by key.

    Parameters
    ----------
    overrides : parsed; of two with one key the later counts.

    Raises
    ------
    ValueError
        Where nothing is searched, or a range is none.
    """
    space: dict[str, Any] = {}
    fixed: dict[str, str] = {}
    for override in overrides:
        key = override.get_key_element()
        space.pop(key, None)
        fixed.pop(key, None)
        if override.is_sweep_override():
            space[key] = distribution(key, override)
        else:
            fixed[key] = f"{key}={override.get_value_element_as_str()}"
    if not space:
        raise ValueError(
            "hparams_search=optuna: nothing is searched; give hydra.sweeper.params, or on the command line "
            "'optim.lr=tag(log,interval(1e-3,1e-2))'"
        )
    return space, fixed


def distribution(key: str, override: Override) -> Any:
    """Where one key's values come from."""
    found, value = imported().distributions, override.value()
    tags: set[str] = getattr(value, "tags", set())
    try:
        if isinstance(value, IntervalSweep):
            low, high = value.start, value.end
            if isinstance(low, int) and isinstance(high, int):
                return found.IntDistribution(low, high, log="log" in tags)
            return found.FloatDistribution(float(low), float(high), log="log" in tags)  # type: ignore[arg-type]
        if isinstance(value, RangeSweep):
            # As decimals, because (0.4 - 0.1) / 0.1 is above 3, and 0.4 would be in range(0.1,0.4,0.1).
            start, stop, step = (Decimal(str(x)) for x in (value.start, value.stop, value.step))
            number = math.ceil((stop - start) / step) if step > 0 else 0
            if number < 1:
                raise ValueError("holds no number; give range(from,below,step)")
            last = start + (number - 1) * step
            if isinstance(value.start, int) and isinstance(value.step, int):
                return found.IntDistribution(int(start), int(last), step=int(step))
            return found.FloatDistribution(float(start), float(last), step=float(step))
        return found.CategoricalDistribution(list(override.sweep_string_iterator()))
    except ValueError as error:
        raise ValueError(f"{override.input_line or key}: {error}") from error


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold the folder of a search while a command goes on with it.

    Raises
    ------
    ValueError
        Where another command does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / HELD).open("w", encoding="utf-8") as handle:
        try:
            lock(handle)
        except BlockingIOError as error:
            raise ValueError(f"another command goes on with the search in {folder}; wait for it") from error
        for name in (RULE, "multirun.yaml"):  # of a search that was killed
            remove_leftovers(folder, name)
        yield


class Search:
    """The trials of a search, which one command at a time asks for and tells of.

    Parameters
    ----------
    folder : of the search, :func:`held` by this process.
    space, fixed : of :func:`space_of`.
    trials : in all.
    seed, startup : of the suggestions: the first ``startup`` are drawn at random.
    rule : when trainings are stopped early.
    about : what it is a search of, in one word (a hash of the other settings).

    Raises
    ------
    ValueError
        Where the folder holds another search.
    """

    def __init__(
        self,
        folder: Path,
        space: Mapping[str, Any],
        fixed: Mapping[str, str],
        *,
        trials: int,
        seed: int,
        startup: int,
        rule: Rule,
        about: str,
    ) -> None:
        if trials < 1:
            raise ValueError(f"hydra.sweeper.trials={trials}: give 1 or more")
        self.folder, self.space, self.fixed = folder, dict(space), dict(fixed)
        self.trials, self.seed, self.startup = trials, seed, startup
        self.optuna = imported()
        self.study = study_in(folder)
        known = self.study.user_attrs.get(BELONGS_TO)
        if known is None:
            self.study.set_user_attr(BELONGS_TO, about)
        elif known != about:
            raise ValueError(
                f"{folder} holds a search with other settings or ranges (or conf/ has changed since it began); give "
                "this one a name of its own by hydra.sweeper.study=NAME"
            )
        write_text(folder / RULE, json.dumps(asdict(rule)) + "\n")
        # Begun by a command that is gone, and without an end: they go on.
        self.left = [trial.number for trial in self.study.get_trials(deepcopy=False) if not trial.state.is_finished()]

    @property
    def begun(self) -> int:
        """Trials so far."""
        return len(self.study.get_trials(deepcopy=False))

    def ask(self) -> tuple[int, list[str]] | None:
        """The number and the settings of a trial to run; None where none is left."""
        if self.left:
            number = self.left.pop(0)
            return number, self.words(number)
        if self.begun >= self.trials:
            return None
        # A sampler anew each time, so that a suggestion follows from seed, number and scores, whatever was killed.
        mixed = int(np.random.SeedSequence([self.seed, self.begun]).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is experimental in Optuna
            self.study.sampler = self.optuna.samplers.TPESampler(
                seed=mixed, n_startup_trials=self.startup, constant_liar=True
            )
            trial = self.study.ask(self.space)
        return trial.number, self.words(trial.number)

    def words(self, number: int) -> list[str]:
        """The settings of a trial, as words of a command line."""
        values = self.study.get_trials(deepcopy=False)[number].params
        return [*self.fixed.values(), *(f"{key}={values[key]}" for key in self.space)]

    def tell(self, number: int, outcome: Outcome) -> None:
        """What a trial came to. One that was interrupted has no end, and goes on with the next command."""
        state = self.optuna.trial.TrialState
        if outcome.status == "finished" and outcome.score is not None:
            self.study.tell(number, outcome.score)
        elif outcome.status == "pruned":
            self.study.tell(number, state=state.PRUNED)
        elif outcome.status in ("finished", "refused", "failed"):
            self.study.tell(number, state=state.FAIL)
        else:
            return
        if number in self.left:  # it ended when no command was there
            self.left.remove(number)


def about(settings: Mapping[str, Any], fixed: Mapping[str, str], space: Mapping[str, Any]) -> str:
    """A hash of what a search is of: the settings that are not searched, and the ranges of those that are."""
    aside = ("hydra", "outputs", "run_dir", "resume", "debug", "packages", "logger", *space)
    kept = {key: value for key, value in settings.items() if key not in aside}
    words = [word for key, word in fixed.items() if key.split(".")[0] not in aside]
    told = json.dumps([kept, words, {key: str(value) for key, value in space.items()}], sort_keys=True, default=str)
    return hashlib.sha256(told.encode()).hexdigest()[:16]


# A job of it ----------------------------------------------------------------------------------------------------------


class Trial:
    """A job's own trial: it reports its score epoch by epoch, and asks whether to go on.

    Parameters
    ----------
    folder : of the search.
    number : of the trial.
    """

    def __init__(self, folder: Path, number: int) -> None:
        optuna = imported()
        values = read_plain(folder / RULE)
        if problems := list(check_call("search", Rule, values)):
            raise ValueError(f"{folder / RULE}: {'; '.join(problems)}")
        self.rule = Rule(**values)
        study = study_in(folder, pruner=self.rule.pruner_of(optuna))
        self.trial = optuna.trial.Trial(study, study.get_trials(deepcopy=False)[number]._trial_id)

    def falls_behind(self, score: float, epoch: int) -> bool:
        """Report the score after an epoch, counted from 1; whether the training is to be stopped. A trial that has
        ended for its search goes on undisturbed."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an epoch that a job which was killed had reported already
            try:
                self.trial.report(score, epoch)
            except imported().exceptions.UpdateFinishedTrialError:
                return False
        return bool(self.trial.should_prune())

    def __str__(self) -> str:
        return f"hydra.sweeper.pruner={self.rule.pruner}"


def is_trial(job: Job) -> bool:
    """Whether a job's sweep is a search."""
    return (job.sweep / RULE).is_file()


def trial_of(job: Job | None) -> Trial | None:
    """The trial that a job of a sweep is; None where the sweep is no search."""
    return Trial(job.sweep, job.number) if job is not None and is_trial(job) else None
