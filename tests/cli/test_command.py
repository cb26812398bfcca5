"""The command line before and around a task: words, folders, what a folder says of itself, and what a plan reads."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vivit_core.cli import command as words_and_folders
from vivit_core.cli import main as cli_main
from vivit_core.cli import resume, runs, schema, sweeps, validate
from vivit_core.cli.context import RunContext
from vivit_core.cli.machine import budget_record
from vivit_core.cli.schema import ConfigError
from vivit_core.cli.sweeps import Job
from vivit_core.cli.tasks import plan, train
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.checkpoint import WRITTEN, written_by
from vivit_core.training.callbacks.checkpoints import save_checkpoint
from vivit_core.training.monitors import check_monitors


def recording(path: Path, **changed: object) -> Path:
    """Noise: six trials of 40 bins, three units."""
    rng = np.random.default_rng(0)
    starts = np.arange(6) * 40
    given = {
        "recording_id": path.stem,
        "frame_rate_hz": 30.0,
        "frames": rng.integers(0, 256, (240, 24, 32)).astype(np.uint8),
        "counts": rng.poisson(0.5, (240, 3)),
        "trials": Trials(
            starts, starts + 40, np.array(list("abcdef")), np.array(["train"] * 4 + ["val", "test"], dtype=object)
        ),
    }
    return write_recording(path, **{**given, **changed})


# Words --------------------------------------------------------------------------------------------------------------


def test_home_is_quoted_where_hydra_has_no_word_for_it():
    given = ["out=~/a b.h5", "data.recordings=[~/a.h5,b.h5,~c/d]", "~data.seed", "x='~/q'", "checkpoint=~/a,~/b", "y=1"]
    assert words_and_folders.prepared(given) == [
        "out='~/a b.h5'", "data.recordings=['~/a.h5',b.h5,'~c/d']", "~data.seed", "x='~/q'", "checkpoint='~/a','~/b'",
        "y=1",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "word", ["callbacks=null", "logger=null", "model=null", "task=null", "data=", "optim=null", "model=resnet,null"]
)
def test_a_group_without_a_choice_is_one_line(word, command):
    code, printed = command(word)
    assert code == 1 and f"say {word.split('=')[0]}=NAME, of " in printed and "Traceback" not in printed


@pytest.mark.parametrize(
    "word", ["callbacks=5", "model=-1.5", "data/transforms=true", "optim={lr:1}", "model=resnet,6"]
)
def test_a_plain_value_for_a_group_is_one_line(word, command):
    group, _, value = word.partition("=")
    code, printed = command("task=plan", word)
    said = f"{word}: {value.split(',')[-1]} is no name; leave the word out, or say {group}=NAME, of "
    assert code == 1 and said in printed, printed
    assert "Traceback" not in printed


def test_a_word_without_a_key_is_not_taken_for_a_group(command):
    code, printed = command("task=plan", "=null")
    assert code == 1 and printed.strip() == "=null: the key is missing; say KEY=null"


def test_a_missing_task_is_one_line(command):
    code, printed = command("~task")
    assert code == 1 and "hydra.run.dir: Interpolation key 'task' not found" in printed and "Traceback" not in printed


# Paths and numbers --------------------------------------------------------------------------------------------------


def test_home_is_expanded_in_every_path(compose, monkeypatch):
    monkeypatch.setenv("HOME", "/h")
    settings = compose(
        "outputs='~/o'", "data.root='~/r'", "data.cache='~'", "data.recordings=['~/a.h5',b.h5]", "resume='~/c'",
        "init_from='~/i'", "logger=wandb", "logger.csv.save_dir='~/l'", "logger.wandb.save_dir='~/w'",
        "callbacks.checkpoint.dirpath='~/k'", "callbacks.pictures.folder='~/p'",
    )  # fmt: skip
    data = settings["data"]
    assert (settings["outputs"], settings["resume"], settings["init_from"]) == ("/h/o", "/h/c", "/h/i")
    assert (data["root"], data["cache"], data["recordings"]) == ("/h/r", "/h", ["/h/a.h5", "b.h5"])
    assert settings["logger"]["csv"]["save_dir"] == "/h/l" and settings["logger"]["wandb"]["save_dir"] == "/h/w"
    assert (
        settings["callbacks"]["checkpoint"]["dirpath"] == "/h/k"
        and settings["callbacks"]["pictures"]["folder"] == "/h/p"
    )
    assert compose("task=evaluate", "checkpoint='~/c'")["checkpoint"] == "/h/c"
    assert compose("task=compare", "checkpoints=['~/c',d]")["checkpoints"] == ["/h/c", "d"]
    imported = compose("task=import", "source='~/s'", "out='~/t'")
    assert (imported["source"], imported["out"]) == ("/h/s", "/h/t")
    assert compose("task=stream", "checkpoint=x", "recording='~x'")["recording"] == "~x"  # a name is no path


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["outputs='~nobody_here/x'"], "outputs=~nobody_here/x: no such home directory"),
        (["outputs=''"], "outputs is empty; give a path"),
        (["data.root=''"], "data.root is empty; give a path, or null"),
        (["data.recordings=['']"], "data.recordings is empty"),
        (["seed=-1"], "seed=-1 must be 0 … 4294967295"),
        (["data.simulator.seed=4294967296"], "data.simulator.seed=4294967296 must be 0 … 4294967295"),
        (
            ["task=import", "source=a", "out=b", "importer=sensorium2023", "importer.seed=-1"],
            "importer.seed=-1 must be 0 … 4294967295",
        ),
        (["optim.lr=nan"], "optim.lr=NaN should be a finite number"),
        (["optim.betas=[0.9,inf]"], "optim.betas=[0.9, Infinity] should be a finite number"),
        (["data.frame_rate_hz=inf"], "data.frame_rate_hz=Infinity should be a finite number"),
        (["trainer.max_minutes=nan"], "trainer.max_minutes"),
        (["trainer.gradient_clip=-1"], "trainer.gradient_clip=-1 should be greater than or equal to 0"),
        (["callbacks.checkpoint=null"], "callbacks.checkpoint is left out"),
        (["~callbacks.checkpoint"], "callbacks.checkpoint is left out"),
        (["callbacks.checkpoint=???"], "callbacks.checkpoint is left out"),
        (["callbacks.checkpoint=5"], "callbacks.checkpoint is left out"),
        (["+callbacks.foo=5"], "callbacks.foo=5 is no part; give it a _target_"),
        (["+callbacks.foo='${nope}'"], "callbacks.foo: Interpolation key 'nope' not found"),
        (["task=plan", "data.transforms=5"], "data.transforms=5 should be an object"),
        (["task=plan", "data.transforms=foo"], 'data.transforms="foo" should be an object'),
        (["~trainer.cpu"], "trainer.cpu is missing"),
    ],
)
def test_what_the_schema_refuses(words, said, compose):
    with pytest.raises(ConfigError) as error:
        compose(*words)
    assert said in str(error.value)


def test_no_limit_and_the_last_seed_are_taken(compose):
    settings = compose("trainer.max_minutes=inf", "seed=4294967295")
    assert settings["trainer"]["max_minutes"] == float("inf") and settings["data"]["seed"] == 2**32 - 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["callbacks.checkpoint.monitor=val/foo"], "callbacks.checkpoint.monitor=val/foo is no number of a validation"),
        (["callbacks.early_stopping.monitor=val_ema/loss"], "val_ema/… comes with callbacks=ema"),
        (["callbacks.checkpoint.mode=min"], "set callbacks.checkpoint.mode=max"),
        (["callbacks.checkpoint.monitor=val/loss"], "set callbacks.checkpoint.mode=min"),
    ],
)
def test_what_a_callback_watches_is_a_number_of_the_validation(words, said, compose):
    with pytest.raises(ValueError) as error:
        check_monitors(compose(*words)["callbacks"], ["a"])
    assert said in str(error.value)


def test_what_may_be_watched(compose):
    for words in (
        [], ["callbacks.checkpoint.monitor=val/bps_a"], ["callbacks=ema", "callbacks.checkpoint.monitor=val_ema/loss",
        "callbacks.checkpoint.mode=min"],
        ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"], ["callbacks.early_stopping=null"],
    ):  # fmt: skip
        check_monitors(compose(*words)["callbacks"], ["a"])


# Run folders --------------------------------------------------------------------------------------------------------


def test_runs_are_sorted_by_instants(tmp_path):
    times = {
        "summer": "2026-10-25T02:30:00+02:00", "winter": "2026-10-25T02:10:00+01:00",  # later, though it reads earlier
        "east": "2026-10-25T10:00:00+09:00", "bad": "yesterday", "naive": "2026-10-25T00:00:00",
    }  # fmt: skip
    for name, started in times.items():
        (tmp_path / "train" / name).mkdir(parents=True)
        about = {"fingerprint": "same", "started": started}
        (tmp_path / "train" / name / "environment.json").write_text(json.dumps(about))
    (tmp_path / "train" / "half").mkdir()
    (tmp_path / "train" / "half" / "environment.json").write_text("[1")
    found = [run.path.name for run in runs.same_runs(tmp_path, "same")]
    assert found == ["winter", "east", "summer", "naive", "bad"]
    assert runs.environment()["started"].endswith("+00:00")


def test_a_folder_says_what_was_done_there(tmp_path):
    run = runs.RunFolder(tmp_path / "here")

    def described() -> tuple[int, str, int]:
        config_yaml = yaml.safe_load((run.path / "config.yaml").read_text())
        return config_yaml["seed"], run.environment["fingerprint"], len(run.environment.get("continued", []))

    runs.describe(run, {"task": "train", "seed": 0}, [], "first")
    runs.describe(run, {"task": "train", "seed": 1}, [], "second")  # the first came to nothing
    assert described() == (1, "second", 0)
    run.last.parent.mkdir()
    run.last.touch()
    for other in ({"task": "train", "seed": 2}, {"task": "evaluate", "seed": 1}):
        with pytest.raises(ValueError, match=r"holds a training with other settings.*hydra.run.dir=FOLDER"):
            runs.describe(run, other, [], "third")
    assert described() == (1, "second", 0)
    runs.describe(run, {"task": "train", "seed": 3}, [], "third", continues=True)
    assert described() == (3, "third", 1)
    mine = runs.RunFolder(tmp_path / "mine")
    mine.path.mkdir()
    (mine.path / "config.yaml").write_text("mine: true")
    with pytest.raises(ValueError, match=r"holds a config.yaml that no run wrote"):
        runs.describe(mine, {"task": "plan", "seed": 0}, [], "any")
    assert (mine.path / "config.yaml").read_text() == "mine: true"


@pytest.mark.slow
def test_a_refused_try_is_forgotten_and_results_are_kept(command, tmp_path, monkeypatch):
    """A whole command line each, with the training itself left out."""

    def fit(context, run, *rest):
        if not (tmp_path / "there").exists():
            raise ValueError("data.root is not there")
        run.last.parent.mkdir(parents=True, exist_ok=True)
        run.last.touch()
        return 0.5

    monkeypatch.setattr(train, "fit", fit)
    here = ["hydra.run.dir=here", "trainer=debug"]
    with pytest.raises(ValueError, match="not there"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "1")
        command(*here, "debug=true")
    (tmp_path / "there").touch()
    assert command(*here, "seed=3")[0] == 0
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["seed"] == 3
    code, printed = command(*here, "seed=3")
    assert code == 0 and "had already finished" in printed
    code, printed = command(*here, "seed=4")
    assert code == 1 and "hydra.run.dir=FOLDER" in printed
    assert command(*here[1:], "seed=4", "hydra.run.dir=another")[0] == 0
    assert yaml.safe_load((tmp_path / "here" / "config.yaml").read_text())["seed"] == 3


def nothing(context: RunContext) -> None:
    """A task that does nothing, under the name of another."""


@pytest.mark.slow
def test_only_a_folder_that_this_run_made_is_taken_away(command, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(plan, "plan", nothing)
    (tmp_path / "mine").mkdir()
    (tmp_path / "sweep" / "1").mkdir(parents=True)
    for words in (["hydra.run.dir=mine"], ["hydra.run.dir=new"], ["hydra.run.dir=~/new"], ["outputs=~/all"]):
        assert command("task=plan", *words)[0] == 0
    assert command("-m", "task=plan", "seed=0,1", "hydra.sweep.dir=sweep")[0] == 0
    assert command("-m", "task=plan", "seed=0,1", "hydra.sweep.dir=~/sweep")[0] == 0
    assert (tmp_path / "mine").is_dir() and not (tmp_path / "new").exists() and not (tmp_path / "~").exists()
    assert (tmp_path / "sweep" / "1").is_dir() and not (tmp_path / "sweep" / "0").exists()
    home = tmp_path / "home"
    assert not (home / "new").exists() and list((home / "all" / "plan").iterdir()) == []
    assert (home / "sweep" / "sweep_summary.csv").is_file()


@pytest.mark.parametrize(("seen", "epochs", "right"), [(4, 2, False), (4, 4, True), (4, 6, True)])
def test_a_checkpoint_that_has_seen_more_epochs(seen, epochs, right, compose, tmp_path, monkeypatch):
    run = runs.RunFolder(tmp_path / "run")
    settings = compose("trainer=debug", f"trainer.epochs={epochs}")
    runs.describe(run, settings, [], "of the first")
    content = {"loops": {"fit_loop": {"epoch_progress": {"current": {"processed": seen}}}}, "settings": {}}
    monkeypatch.setattr(resume, "read_checkpoint", lambda path: content)
    if right:
        assert resume.run_of(run.last, settings) == (run, run.last)
    else:
        with pytest.raises(
            ValueError, match=r"has seen 4 epochs, and trainer.epochs is 2; set trainer.epochs=4 or more"
        ):
            resume.run_of(run.last, settings)


@pytest.mark.parametrize(
    ("words", "step", "continues"),
    [
        ((), 7, "begun on cuda, with 20 epochs of 200 steps, and cpu has another budget (6 of 108); continue it on a"),
        ((), 648, "begun on cuda"),  # all steps of this machine's budget
        ((), 4000, True),  # all of its own: only what follows is missing
        (("trainer.epochs=20", "trainer.batch_size=16"), 7, "begun on cuda"),
        (("trainer.epochs=20", "trainer.steps_per_epoch=200", "trainer.batch_size=16", "trainer.max_minutes=inf"), 7,
         True),
        (("trainer.device=cpu",), 7, "begun on cuda"),
    ],
)  # fmt: skip
def test_a_training_of_a_gpu_is_not_continued_by_the_budget_of_a_cpu(
    words, step, continues, compose, tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    run = runs.RunFolder(tmp_path / "run")
    settings = compose(*words)
    begun = budget_record("cuda", schema.Budget(**settings["trainer"]["cuda"]))
    runs.describe(run, settings, [], validate.fingerprint(settings), begun)
    content = {WRITTEN: written_by(), "twin": {"model": {}}, "state_dict": {}, "loops": {}, "callbacks": {}}
    save_checkpoint({**content, "global_step": step, "settings": settings}, run.last)
    if continues is True:
        assert resume.again(run, settings) == (run, run.last) == resume.run_of(run.last, settings)
        return
    with pytest.raises(ValueError, match=re.escape(continues)):
        resume.again(run, settings)
    with pytest.raises(ValueError, match=re.escape(f"or with resume={run.last} trainer.")) as refused:
        resume.run_of(run.last, settings)
    remedy = str(refused.value).rsplit(" or with ", 1)[1].split()[1:]
    assert resume.run_of(run.last, compose(*words, *remedy)) == (run, run.last)


# Sweeps and plans ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "split", "columns"),
    [
        ("train", None, ["val/bps_mean", "test/bps_mean"]), ("evaluate", "test", ["test/bps_mean"]),
        ("evaluate", "val", ["val/bps_mean"]), ("compare", "test", ["test/bps_gain_mean"]),
        ("plan", None, []), ("inspect", None, []),
    ],
)  # fmt: skip
def test_a_sweeps_columns_are_named_for_what_they_hold(task, split, columns, tmp_path):
    from omegaconf import OmegaConf

    job = Job(tmp_path, 0)
    name = cli_main.score_name(OmegaConf.create({"task": task, "split": split}))
    outcome = job.note(status="finished", score=0.5 if name else None, score_name=name, trained=task == "train")
    rows = [sweeps.Row(0, {}, outcome, None)]
    assert sweeps.score_names(rows) == columns


@pytest.mark.slow
def test_a_plan_is_of_the_recordings_that_are_named(command, tmp_path):
    recording(tmp_path / "a.h5", recording_id="a")
    recording(tmp_path / "b.h5", recording_id="b")
    small = ["task=plan", "trainer=debug", "data.behavior=[]", "data.clip_length=32", "data.burn_in=8"]
    code, printed = command(*small, "data.recordings=[a.h5,b.h5]")
    assert code == 0 and "of 2 recordings: frames (1, 24, 32)" in printed and "at 30 Hz, 3 units" in printed
    code, printed = command(*small, "data.recordings=[none.h5]")
    assert code == 1 and "no file matches 'none.h5'" in printed


@pytest.mark.slow
def test_a_plans_seconds_are_those_of_the_rate_that_is_asked_for(command, compose):
    geometry = compose("task=plan")["data"]["geometry"]
    assert geometry["frame_rate_hz"] != 60
    for asked, rate_hz in ((), geometry["frame_rate_hz"]), (("data.frame_rate_hz=60",), 60):
        words = ("task=plan", "trainer=debug", "data.recordings=null", "data.clip_length=32", "data.burn_in=8", *asked)
        code, printed = command(*words)
        assert code == 0 and f"at {rate_hz:g} Hz; a clip lasts {32 / rate_hz:.3g} s" in " ".join(printed.split())


def test_three_ways_to_start_are_one():
    import vivit_core.__main__ as module

    assert module.main is cli_main.main
    scripts = (schema.conf_dir().parent / "pyproject.toml").read_text()
    assert 'vivit-core = "vivit_core.cli.main:main"' in scripts


def test_help_calls_the_program_by_its_name(command):
    code, printed = command("--help")
    assert code == 0 and printed.startswith("vivit-core ")
