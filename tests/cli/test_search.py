"""A search by Optuna: what it asks for, what it is told, how it goes on, and how a training is stopped early."""

from __future__ import annotations

import csv
import json
import math
import signal
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import optuna
import pytest
import tiny_training
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from hydra_plugins.vivit_core_sweeps import Optuna
from vivit_core.cli import resume, search
from vivit_core.cli.asked import Asked
from vivit_core.cli.context import RunContext
from vivit_core.cli.recordings import make_datamodule
from vivit_core.cli.resume import where_to_train
from vivit_core.cli.runs import RunFolder
from vivit_core.cli.schema import conf_dir
from vivit_core.cli.search import Rule, Search, Trial, held, space_of, study_in, trial_of
from vivit_core.cli.sweeps import Job, Outcome
from vivit_core.cli.tasks import train
from vivit_core.cli.unfit import refuse_unfit
from vivit_core.cli.validate import fingerprint
from vivit_core.parts.build import build
from vivit_core.system.stops import TrainingPruned, TrainingStopped
from vivit_core.training.budget import TimeBudget
from vivit_core.training.callbacks.pruning import Pruning

SMALL = ["trainer=debug", "baseline=null", "model.spatial_depth=1", "model.temporal_depth=1", "model.attention.heads=2"]
RULE = Rule("median", warmup=1, startup=2)


def parsed(*words: str) -> tuple[dict[str, Any], dict[str, str]]:
    return space_of(OverridesParser.create().parse_overrides(list(words)))


def test_ranges_are_hydras_words_and_the_last_word_counts() -> None:
    space, fixed = parsed(
        "a=interval(0.1,1)", "b=tag(log,interval(1e-3,1e-1))", "c=int(interval(1,9))", "d=range(2,7,2)", "e=x,y,[1,2]",
        "f=1,2", "f=3", "g=4", "g=range(0,1,0.25)", "h=word",
    )  # fmt: skip
    made = optuna.distributions
    assert space == {
        "a": made.FloatDistribution(0.1, 1.0), "b": made.FloatDistribution(1e-3, 1e-1, log=True),
        "c": made.IntDistribution(1, 9), "d": made.IntDistribution(2, 6, step=2),
        "e": made.CategoricalDistribution(["x", "y", "[1,2]"]), "g": made.FloatDistribution(0.0, 0.75, step=0.25),
    }  # fmt: skip
    assert fixed == {"f": "f=3", "h": "h=word"}
    for words, said in {
        ("a=1",): "nothing is searched",
        ("a=interval(2,1)",): "a=",
        ("a=tag(log,interval(0,1))",): "a=",
        ("a=range(3,3)",): "holds no number",
        ("a=range(3,1,0.5)",): "holds no number",
        ("a=range(1,3,0.0)",): "holds no number",
    }.items():
        with pytest.raises(ValueError, match=said):
            parsed(*words)
    for word, values in {
        "range(0.1,0.4,0.1)": (0.1, 0.3),
        "range(0.2,0.8,0.2)": (0.2, 0.6),
        "range(0,1,0.3)": (0.0, 0.9),
        "range(1,2.5,0.5)": (1.0, 2.0),
    }.items():  # floats: the upper end is left out
        found = parsed(f"a={word}")[0]["a"]
        assert (found.low, found.high) == values
    with pytest.raises(ValueError, match="choose median, asha or none"):
        Rule("best", 1, 1)  # type: ignore[arg-type]


def test_the_shipped_search_can_be(compose: Any) -> None:
    """At both ends of all its ranges."""
    params = yaml.safe_load((conf_dir() / "hparams_search" / "optuna.yaml").read_text())["hydra"]["sweeper"]["params"]
    space, _ = parsed(*(f"{key}={words}" for key, words in params.items()))
    for end in ("low", "high"):
        values = {key: getattr(found, end, None) or found.choices[-1] for key, found in space.items()}
        settings = compose("hparams_search=optuna", *(f"{key}={value}" for key, value in values.items()))
        refuse_unfit(
            make_datamodule(settings["data"]),
            build("optim", settings["optim"]),
            Asked(**{name: settings[name] for name in Asked.__dataclass_fields__}),
            device="cpu",
        )
    assert settings["model"]["temporal_depth"] == settings["model"]["spatial_depth"] == 6


def search_in(folder: Path, **changed: Any) -> Search:
    space, fixed = parsed("x=tag(log,interval(1e-4,1))", "depth=range(1,5)", "seed=0")
    given: dict[str, Any] = {"trials": 24, "seed": 3, "startup": 8, "rule": RULE, "about": "this"} | changed
    folder.mkdir(exist_ok=True)
    return Search(folder, space, fixed, **given)


def score_of(words: list[str]) -> float:
    """Best at x = .01 and depth 3."""
    values = dict(word.split("=") for word in words)
    return -abs(math.log10(float(values["x"])) + 2) - 0.3 * abs(int(values["depth"]) - 3)


def run(own: Search, most: int = 1000) -> list[list[str]]:
    said = []
    while len(said) < most and (asked := own.ask()) is not None:
        number, words = asked
        own.tell(number, Outcome(status="finished", score=score_of(words)))
        said.append(words)
    return said


def test_suggestions_follow_the_scores_and_a_killed_search_makes_the_same(tmp_path: Path) -> None:
    whole = run(search_in(tmp_path / "whole"))
    assert len(whole) == 24 and all(words[0] == "seed=0" and words[1].startswith("x=") for words in whole)
    assert len({words[1] for words in whole[:8]}) == 8  # the first are drawn anew each
    scores = [score_of(words) for words in whole]
    assert sum(scores[16:]) / 8 > sum(scores[:8]) / 8 + 0.5  # the last third looks where it is good
    first = run(search_in(tmp_path / "parts"), most=10)
    begun = search_in(tmp_path / "parts").ask()  # the 11th was begun by a process that is then killed
    again = search_in(tmp_path / "parts")
    assert begun is not None and again.left == [10]
    assert [*first, *run(again)] == whole
    assert search_in(tmp_path / "parts").ask() is None
    assert search_in(tmp_path / "parts", trials=25).ask() is not None  # more trials: it goes on


def test_what_trials_come_to(tmp_path: Path) -> None:
    own = search_in(tmp_path)
    outcomes = {
        "COMPLETE": Outcome(status="finished", score=0.5), "PRUNED": Outcome(status="pruned", score=0.1),
        "FAIL": Outcome(status="failed"), "RUNNING": Outcome(status="interrupted"),
    }  # fmt: skip
    for outcome in outcomes.values():
        asked = own.ask()
        assert asked is not None
        own.tell(asked[0], outcome)
    assert [trial.state.name for trial in own.study.get_trials()] == list(outcomes)
    assert search_in(tmp_path).left == [3]
    with pytest.raises(ValueError, match=r"other settings or ranges .* hydra\.sweeper\.study=NAME"):
        search_in(tmp_path, about="another")
    with held(tmp_path), pytest.raises(ValueError, match="another command goes on with the search"), held(tmp_path):
        pass


@pytest.mark.parametrize("pruner", ["median", "asha", "none"])
def test_who_falls_behind(tmp_path: Path, pruner: Any) -> None:
    """Three trials of high, middling and low scores are through 4 epochs; the fourth is lower yet."""
    own = search_in(tmp_path, rule=Rule(pruner, warmup=1, startup=2))
    for level in (0.6, 0.5, 0.4):
        asked = own.ask()
        assert asked is not None
        trial = Trial(tmp_path, asked[0])
        for epoch in range(1, 5):
            trial.falls_behind(level + 0.01 * epoch, epoch)
        own.tell(asked[0], Outcome(status="finished", score=level))
    asked = own.ask()
    assert asked is not None
    told = [Trial(tmp_path, asked[0]).falls_behind(0.3, epoch) for epoch in (1, 2)]  # a process of its own each
    assert told == {"median": [True, True], "asha": [True, False], "none": [False, False]}[pruner]
    assert study_in(tmp_path).get_trials()[3].intermediate_values == {1: 0.3, 2: 0.3}
    patient = Trial(tmp_path, asked[0])
    patient.rule = Rule("median", warmup=4, startup=2)
    patient.trial.study.pruner = patient.rule.pruner_of(optuna)
    assert [patient.falls_behind(0.3, epoch) for epoch in (3, 4)] == [False, True]
    assert trial_of(Job(tmp_path, 3)) is not None and trial_of(Job(tmp_path / "outcomes", 3)) is None


class Below:
    """Stops where the score of this epoch is reported."""

    def __init__(self, stops: int) -> None:
        self.stops = stops
        self.seen: list[tuple[float, int]] = []

    def falls_behind(self, score: float, epoch: int) -> bool:
        self.seen.append((score, epoch))
        return epoch == self.stops


def test_a_training_that_falls_behind_ends_with_its_checkpoint(tmp_path: Path) -> None:
    judge = Below(2)
    pruning = Pruning(judge, "val/bps_mean")
    _, trainer, record = tiny_training.train(tmp_path, epochs=5, callbacks=[pruning])
    assert judge.seen == [(pytest.approx(score), epoch) for epoch, score in enumerate(record.scores, 1)]
    assert len(record.scores) == 2 and trainer.global_step == 8
    assert pruning.reason is not None and "pruned after epoch 2 of 5: val/bps_mean=" in pruning.reason
    assert pruning.score == pytest.approx(max(record.scores)) and (tmp_path / "last.ckpt").is_file()


@pytest.mark.parametrize(("epochs", "steps", "limit_s", "ends"), [(2, 2, math.inf, 2), (2, 20, 5.0, 1)])
def test_a_score_after_the_last_step_is_neither_reported_nor_judged(
    tmp_path: Path, epochs: int, steps: int, limit_s: float, ends: int
) -> None:
    """Of all steps, and of those that a limit leaves: it follows the last fit, and the others' may not."""
    judge = Below(ends)
    pruning = Pruning(judge, "val/bps_mean")
    budget = TimeBudget(limit_s, epochs * steps, clock=count().__next__)  # a second passes with each look
    module, trainer, record = tiny_training.train(
        tmp_path, epochs, steps, callbacks=[pruning], module={"budget": budget}
    )
    assert trainer.global_step == module.steps == (4 if ends == epochs else 11)
    assert [epoch for _, epoch in judge.seen] == list(range(1, ends)) and len(record.scores) == ends
    assert pruning.reason is None and pruning.score == pytest.approx(max(record.scores))


def test_what_a_killed_search_was_writing_is_removed(tmp_path: Path) -> None:
    ours = [".search.json.01234567.tmp", ".multirun.yaml.89abcdef.tmp"]
    for name in (*ours, ".mine.tmp"):
        (tmp_path / name).touch()
    with held(tmp_path):
        assert [path.name for path in tmp_path.glob("*.tmp")] == [".mine.tmp"]


def test_a_suggestion_that_comes_again_does_not_go_on_from_the_pruned_one(
    tmp_path: Path, compose: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else its trial would report epochs from the middle on. What has finished is not trained again."""
    monkeypatch.setattr(RunFolder, "newest_whole", lambda run, say: run.last)
    monkeypatch.setattr(resume, "read_checkpoint", lambda path: {"settings": {}})
    folder = tmp_path / "train" / "optuna"
    folder.parent.mkdir()
    search_in(folder)
    settings = compose(f"outputs={tmp_path}", f"run_dir={folder / '1'}")
    pruned, context = RunFolder(folder / "0"), RunContext(settings, job=Job(folder, 1))
    pruned.last.parent.mkdir(parents=True)
    pruned.last.touch()
    (pruned.path / "environment.json").write_text(json.dumps({"fingerprint": fingerprint(settings)}))
    assert where_to_train(context, None) == where_to_train(context, "auto") == (context.run, None)
    no_search = replace(context, job=Job(tmp_path, 1))
    assert where_to_train(no_search, None) == (pruned, pruned.last)
    pruned.finish(0.5)
    assert where_to_train(context, None) == (pruned, None)


class Lost:
    """What the sweeper needs of a command: whose jobs it would start."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.started = folder, list[int]()

    def sweeper(self) -> Any:
        sweeper = object.__new__(Optuna)  # Hydra's own __init__ needs the module that Hydra has found
        sweeper.max_batch_size = 1
        sweeper.validate_batch_is_legal = lambda batch: None  # type: ignore[method-assign]
        sweeper.launcher = self  # type: ignore[assignment]
        return sweeper

    def launch(self, words: Any, initial_job_idx: int) -> list[None]:
        self.started.append(initial_job_idx)
        Job(self.folder, initial_job_idx).note(status="finished", reason=None, score=0.0)
        return [None]


def test_a_command_leaves_the_jobs_of_an_earlier_one_alone(tmp_path: Path) -> None:
    """Three trials whose command was lost: one still trains, one was pruned since, one was killed."""
    before = search_in(tmp_path, trials=3)
    (tmp_path / "outcomes").mkdir()
    for number, status in enumerate(("running", "pruned", "running")):
        before.ask()
        (tmp_path / str(number)).mkdir()
        Job(tmp_path, number).note(status=status, run=str(tmp_path / str(number)))
    lost, own = Lost(tmp_path), search_in(tmp_path, trials=3)
    with RunFolder(tmp_path / "0").held():
        with pytest.raises(ValueError, match=r"jobs of an earlier command still train in .*: 0; wait for them"):
            lost.sweeper().all_trials(own, tmp_path)
        assert lost.started == [] and Job(tmp_path, 0).outcome().status == "running"
        assert not any(trial.state.is_finished() for trial in own.study.get_trials())
    lost.sweeper().all_trials(search_in(tmp_path, trials=3), tmp_path)
    assert lost.started == [0, 2] and Job(tmp_path, 1).outcome().status == "pruned"
    assert [trial.state.name for trial in own.study.get_trials()] == ["COMPLETE", "PRUNED", "COMPLETE"]


def test_a_trial_whose_search_has_ended_it_goes_on(tmp_path: Path) -> None:
    own = search_in(tmp_path)
    own.ask()
    trial = Trial(tmp_path, 0)
    own.tell(0, Outcome(status="failed"))
    assert trial.falls_behind(0.1, 1) is False


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "sweep_summary.csv").open(newline="") as file:
        return sorted(csv.DictReader(file), key=lambda row: int(row["job"]))


@pytest.mark.slow
def test_the_same_command_again_goes_on(
    command: Callable[..., Any], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["-m", "hparams_search=optuna", "hydra.sweeper.trials=4", *tiny, *SMALL]
    trained: list[tuple[int, float]] = []
    stop = {2}

    def fit(context: Any, run: Any, checkpoint: Any, processes: Any, asked: Asked, teacher: Any) -> float:
        number = context.job.number
        trained.append((number, asked.optim["lr"]))
        assert run.path == tmp_path / "outputs" / "train" / "optuna" / str(number)
        if number in stop:
            raise TrainingStopped(run.last, "stopped after step 3", frozenset({signal.SIGINT}))
        if number == 1:
            raise TrainingPruned("pruned after epoch 1 of 5", 0.1)
        return float(-abs(math.log10(asked.optim["lr"]) + 2))

    monkeypatch.setattr(train, "fit", fit)
    code, printed = command(*words)
    assert code == 130 and [number for number, _ in trained] == [0, 1, 2], printed
    folder = tmp_path / "outputs" / "train" / "optuna"
    assert [row["status"] for row in rows_of(folder)] == ["finished", "pruned", "interrupted"]
    stop.clear()
    code, printed = command(*words)
    assert code == 0 and [number for number, _ in trained] == [0, 1, 2, 2, 3], printed
    assert trained[2] == trained[3]  # with the same settings
    rows = rows_of(folder)
    assert [row["status"] for row in rows] == ["finished", "pruned", *["finished"] * 2] and "job 1 pruned" in printed
    assert float(rows[1]["val/bps_mean"]) == 0.1 and rows[1]["reason"] == "pruned after epoch 1 of 5"
    assert len({row["optim.lr"] for row in rows}) == 4 and (folder / "pictures" / "optim.lr.png").is_file()
    assert [trial.state.name for trial in study_in(folder).get_trials()] == ["COMPLETE", "PRUNED", *["COMPLETE"] * 2]
    code, printed = command(*words, "optim.weight_decay=0.2")
    assert code == 1 and "hydra.sweeper.study=NAME" in printed and len(trained) == 5
    code, printed = command(*words, "hydra.sweeper.study=other", "optim.ls=1,2")
    assert code == 1 and "optim.ls does not exist" in printed and len(trained) == 5


@pytest.mark.slow
def test_a_pruned_run_says_so(
    command: Callable[..., Any], tiny: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole training, whose trial is behind from the beginning."""
    monkeypatch.setattr(search.Trial, "falls_behind", lambda self, score, epoch: True)
    small = [*tiny, *SMALL, "trainer.epochs=3", "trainer.steps_per_epoch=1"]
    code, printed = command("-m", "hparams_search=optuna", "hydra.sweeper.trials=1", *small)
    run = tmp_path / "outputs" / "train" / "optuna" / "0"
    assert code == 1 and "pruned after epoch 1 of 3: val/bps_mean=" in printed, printed  # no trial has finished
    assert "pruned after epoch 1 of 3" in json.loads((run / "environment.json").read_text())["ended"]
    assert (run / "checkpoints" / "last.ckpt").is_file() and not (run / "finished.json").exists()
    assert not (run / "trained.json").exists()  # whoever goes on with it trains it to its end
    outcome = Job(run.parent, 0).outcome()
    assert outcome.status == "pruned" and outcome.score is not None and "the training failed" not in printed
