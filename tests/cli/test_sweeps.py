"""A sweep's jobs write down what they came to, and its end tells of all of them."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from hydra._internal.core_plugins import basic_sweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf
from omegaconf import OmegaConf
from rich.console import Console
from submitit.core.utils import UncompletedJobError

from hydra_plugins.vivit_core_sweeps import Grid, PatientLauncher, SlurmLauncher
from vivit_core.cli import schema, sweeps, validate
from vivit_core.cli.asked import Asked
from vivit_core.cli.recordings import make_datamodule
from vivit_core.cli.runs import RunFolder
from vivit_core.cli.sweeps import Job, Outcome
from vivit_core.cli.tasks import train
from vivit_core.cli.unfit import refuse_unfit
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.parts.build import build
from vivit_core.plotting import sweep as sweep_plots
from vivit_core.system.stops import TrainingStopped
from vivit_core.system.tables import read_table
from vivit_core.training import requeue as requeueing
from vivit_core.training.requeue import requeue

CONF = schema.conf_dir()
SMALL = ["trainer=debug", "baseline=null", "model.spatial_depth=1", "model.temporal_depth=1", "model.attention.heads=2"]


def summary_of(printed: str) -> list[dict[str, str]]:
    path = Path(printed.rsplit("sweep summary: ", 1)[1].splitlines()[0])
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def statuses(rows: list[dict[str, str]]) -> dict[str, str]:
    return {row["model.embedding_dim"]: row["status"] for row in rows}


@pytest.mark.slow
def test_no_job_ends_the_sweep_and_the_next_one_does_what_is_left(command, tiny, tmp_path, monkeypatch):
    """24 and 16 can be trained, 25 cannot be split into heads, 32 runs out of memory the first time."""
    words = ["-m", "model.embedding_dim=24,25,32,16", *tiny, *SMALL]
    trained: list[int] = []
    fit = train.fit

    def counted(context, run, checkpoint, processes, asked, teacher):
        width = asked.model["embedding_dim"]
        trained.append(width)
        if width == 32 and len(trained) < 5:
            raise RuntimeError("out of memory")
        return fit(context, run, checkpoint, processes, asked, teacher)

    monkeypatch.setattr(train, "fit", counted)
    code, printed = command(*words)
    assert code == 1 and trained == [24, 25, 32, 16], printed
    rows = summary_of(printed)
    assert statuses(rows) == {"24": "finished", "16": "finished", "25": "refused", "32": "failed"}
    of = {row["model.embedding_dim"]: row for row in rows}
    assert "does not split into 2 heads" in of["25"]["reason"] and of["32"]["reason"] == "RuntimeError: out of memory"
    assert "job 1 refused: embedding_dim=25" in printed and "Traceback" in printed  # of the failure alone
    for width in ("24", "16"):
        run = Path(of[width]["run"])
        assert float(of[width]["test/bps_mean"]) == json.loads((run / "summary.json").read_text())["bps_mean"]
        with (run / "metrics.csv").open() as file:
            best = max(float(row["val/bps_mean"]) for row in csv.DictReader(file) if row["val/bps_mean"])
        assert float(of[width]["val/bps_mean"]) == pytest.approx(best, abs=1e-6)
    scores = [float(row["val/bps_mean"]) for row in rows if row["val/bps_mean"]]
    assert scores == sorted(scores, reverse=True) and [bool(row["val/bps_mean"]) for row in rows] == [1, 1, 0, 0]
    (sweep,) = (tmp_path / "outputs" / "train").iterdir()
    assert [path.name for path in (sweep / "pictures").iterdir()] == ["model.embedding_dim.png"]

    code, printed = command(*words)
    assert code == 0 and trained == [24, 25, 32, 16, 25, 32], printed
    again = summary_of(printed)
    assert statuses(again) == {"24": "finished", "16": "finished", "25": "refused", "32": "finished"}
    assert {row["run"] for row in again if row["model.embedding_dim"] in ("24", "16")} == {
        of["24"]["run"],
        of["16"]["run"],
    }

    trained.clear()
    monkeypatch.setattr(train, "fit", lambda context, run, *rest: trained.append(run.path.name))
    code, printed = command(*words[:1], "model.embedding_dim=16,24", "resume=never", *words[2:])
    assert code == 0 and trained == ["0", "1"]


def test_a_job_whose_folder_another_process_trains_in_leaves_its_outcome_alone(command, tiny, tmp_path):
    """As where the command that started it was lost, and is given again."""
    sweep = tmp_path / "sweep"
    live = Job(sweep, 0).note(status="running", run=str(sweep / "0"), score_name="val/bps_mean", trained=True)
    with RunFolder(sweep / "0").held():
        code, printed = command("-m", "seed=0", f"hydra.sweep.dir={sweep}", *tiny, *SMALL)
        assert code == 1 and "another process is training in" in printed
        assert Job(sweep, 0).outcome() == live


def test_a_sweep_that_is_left_says_what_it_has(command, tiny, monkeypatch):
    def stopped(context, run, *rest):
        if context.seed == 1:
            raise TrainingStopped(run.last, "stopped after step 3", frozenset({signal.SIGINT}))
        return 0.5

    monkeypatch.setattr(train, "fit", stopped)
    code, printed = command("-m", "seed=0,1,2", *tiny, *SMALL)
    assert code == 130
    rows = {row["seed"]: row for row in summary_of(printed)}
    assert [rows[seed]["status"] for seed in "012"] == ["finished", "interrupted", "interrupted"]
    assert rows["1"]["reason"] == "stopped after step 3" and "before this job had ended" in rows["2"]["reason"]


@pytest.mark.parametrize("cut", [True, False])
def test_a_disk_that_fills_up_leaves_no_half_of_hydras_file(command, tmp_path, monkeypatch, cut):
    """Hydra writes its ``multirun.yaml`` plainly; a whole one stays, whatever else has no room."""
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "out"))

    def half(config, path):
        Path(path).write_text(OmegaConf.to_yaml(config)[:4096])
        raise full

    def none(self, batch):
        raise full

    if cut:
        monkeypatch.setattr(basic_sweeper.OmegaConf, "save", half)
    else:
        monkeypatch.setattr(basic_sweeper.BasicSweeper, "validate_batch_is_legal", none)
    code, printed = command("-m", "task=plan", "seed=0,1", "hydra.sweep.dir=out")
    assert code == 1 and "No space left" in printed and "Traceback" not in printed
    kept = tmp_path / "out" / "multirun.yaml"
    assert not kept.exists() if cut else yaml.safe_load(kept.read_text())["task"] == "plan"


@pytest.mark.slow
@pytest.mark.parametrize(("monitor", "mode"), [("val/loss", "min"), ("val_ema/corr_mean", "max")])
def test_whatever_keeps_checkpoints_a_sweep_maximizes_their_bits(command, tiny, monitor, mode):
    """The score is that of the checkpoint that was kept, and the learning curve rings its step."""
    words = [f"callbacks.checkpoint.monitor={monitor}", f"callbacks.checkpoint.mode={mode}", "callbacks=ema"]
    code, printed = command("-m", "model.embedding_dim=16,24", *tiny, *SMALL, *words)
    assert code == 0, printed
    rows = summary_of(printed)
    for row in rows:
        step = read_checkpoint(Path(row["run"]) / "checkpoints" / "best.ckpt")["global_step"]
        metrics = read_table(Path(row["run"]) / "metrics.csv").set_index("step").loc[step - 1]
        assert float(row["val/bps_mean"]) == pytest.approx(metrics[f"{monitor.split('/')[0]}/bps_mean"], abs=1e-6)
    scores = [float(row["val/bps_mean"]) for row in rows]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_a_sweep_without_scores(command):
    code, printed = command("-m", "task=plan", "data.clip_length=32", "trainer=debug", "model.spatial_depth=1,2,0.5")
    assert code == 0, printed
    rows = summary_of(printed)
    assert [row["status"] for row in rows] == ["finished", "finished", "refused"]
    assert "model.spatial_depth=0.5 should be a valid integer" in rows[2]["reason"] and not rows[0]["run"]


@pytest.mark.slow
def test_the_baseline_is_selected_by_its_validation(command, tiny, monkeypatch):
    words = ["-m", "model.patch=5,7", "model=ln", *tiny, "trainer=debug"]
    code, printed = command(*words)
    assert code == 0, printed
    rows = summary_of(printed)
    for row in rows:
        validation, test = (
            json.loads((Path(row["run"]) / name / "summary.json").read_text())["bps_mean"]
            for name in ("validation", "")
        )
        assert (float(row["val/bps_mean"]), float(row["test/bps_mean"])) == (validation, test)
        assert validation != test
    # Killed between the summaries it has not finished; what was fitted is not fitted again.
    killed = Path(rows[0]["run"])
    (killed / "finished.json").unlink()
    (killed / "validation" / "summary.json").unlink()
    monkeypatch.setattr(train, "fit_baseline", lambda *a, **k: pytest.fail("it fits again"))
    code, printed = command(*words)
    assert code == 0 and [row["val/bps_mean"] for row in summary_of(printed)] == [r["val/bps_mean"] for r in rows]
    assert (killed / "finished.json").is_file() and (killed / "validation" / "summary.json").is_file()


def files_of(run):
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and ".hydra" not in path.parts}


@pytest.mark.slow
def test_a_run_folder_holds_one_training_and_all_that_follows_it(command, tiny, tmp_path, monkeypatch):
    """What a scheduler starts again goes on in the same folder, and makes what a killed end has not made."""
    words = [*tiny, *SMALL, "model.embedding_dim=16", "callbacks=ema"]
    code, printed = command(*words, "hydra.run.dir=outputs/train/run")
    assert code == 0, printed
    folder = tmp_path / "outputs" / "train" / "run"
    run, made = RunFolder(folder), files_of(folder)
    score, metrics = run.score, (folder / "metrics.csv").read_bytes()
    assert {"finished.json", "summary.json", "report.html", "pictures/learning_curve.png", "average/units.csv"} <= made
    code, printed = command(*words, "hydra.run.dir=outputs/train/run")
    assert code == 0 and "had already finished" in printed
    code, printed = command(*words, "hydra.run.dir=outputs/train/run", "seed=1")
    assert code == 1 and "holds a training with other settings" in printed

    monkeypatch.setattr("lightning.Trainer.fit", lambda *a, **k: pytest.fail("it trains again"))
    lost = [
        "pictures/learning_curve.png",
        "report.html",
        "summary.json",
        "average/summary.json",
        "checkpoints/best.ckpt",
    ]
    for name in ("finished.json", *lost):
        (folder / name).unlink()
    (folder / "checkpoints" / ".last.ckpt.01234567.tmp").touch()
    code, printed = command(*words, "resume=auto")
    assert code == 0 and "its training is complete" in printed, printed
    assert files_of(folder) == made and run.score == score
    assert (folder / "metrics.csv").read_bytes() == metrics

    # Nothing that reads is left to continue from: a new run.
    (folder / "finished.json").unlink()
    for path in run.checkpoints():
        path.write_bytes(path.read_bytes()[:1000])
    code, printed = command(*words, "resume=outputs/train/run/checkpoints/last.ckpt")
    assert code == 1 and "resume=never begins it anew" in printed and "Traceback" not in printed
    began = []
    monkeypatch.setattr(train, "fit", lambda context, run, checkpoint, *rest: began.append((run.path, checkpoint)))
    code, printed = command(*words, "resume=auto")
    assert code == 0 and printed.count("It is passed over") == len(run.checkpoints()), printed
    assert "so it cannot be continued" in printed and "a new one starts" in printed
    assert began[0][0] != folder and began[0][1] is None
    code, printed = command(*words, "hydra.run.dir=outputs/train/run")  # as a scheduler does
    assert code == 0 and "begins anew there" in printed and began[1] == (folder, None)


# Outcomes and the summary -------------------------------------------------------------------------------------------


def test_outcomes(tmp_path):
    job = Job(tmp_path, 3)
    assert job.outcome() == Outcome("waiting")
    job.note(status="running", run="a")
    assert job.give_up("failed", "killed") == job.outcome() == Outcome("failed", "killed", "a")
    job.note(status="finished", score=0.5, reason=None)
    assert job.give_up("failed", "too late") == Outcome("finished", None, "a", 0.5)
    assert [path.name for path in job.file.parent.iterdir()] == ["3.json"]


def test_names_of_swept_keys():
    jobs = [["a.lr=1", "model.tokenizer.patch_size=[1,2,3]", "seed=0"], ["a.lr=2", "model.tokenizer.patch_size=x=y"]]
    assert sweeps.swept_keys(jobs) == ["a.lr", "model.tokenizer.patch_size"]
    assert sweeps.short_names(["a.lr", "model.tokenizer.patch_size"]) == ["lr", "patch_size"]
    assert sweeps.short_names(["a.b.lr", "a.c.lr", "seed"]) == ["b.lr", "c.lr", "seed"]
    assert sweeps.short_names(["lr", "a.lr"]) == ["lr", "a.lr"] and sweeps.short_names([]) == []


def test_a_summary_of_two_axes(tmp_path):
    jobs = [[f"lr={lr}", f"p={p}", "same=1"] for lr in ("1e-3", "1e-2") for p in ("[4,4]", "[8,8]")]
    for number, score in enumerate([0.1, 0.4, None, 0.3]):
        job = Job(tmp_path, number)
        job.note(score_name="val/bps_mean", trained=True)
        job.note(status="finished", score=score) if score else job.note(status="failed", reason="[bold]lost")
    rows = sweeps.summarize(tmp_path, jobs, console := Console(record=True, width=100), "python run.py -m lr=1e-3,1e-2")
    assert [row.job for row in rows] == [1, 3, 0, 2]
    assert "job 2 failed: [bold]lost" in console.export_text()
    assert sorted(path.name for path in (tmp_path / "pictures").iterdir()) == ["lr.png", "p.png"]
    assert next(csv.DictReader((tmp_path / "sweep_summary.csv").open())) == {
        "job": "1", "lr": "1e-3", "p": "[8,8]", "status": "finished", "reason": "", "val/bps_mean": "0.4",
        "test/bps_mean": "", "run": "",
    }  # fmt: skip
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 2 and "python run.py -m lr=1e-3,1e-2" in page
    told = json.loads(re.search(r'class="explore">(.*?)</script>', page)[1])
    assert told["names"] == ["job 1", "job 3", "job 0", "job 2"] and told["axes"] == []
    values = {column["key"]: column["values"] for column in told["columns"]}
    assert values["lr"] == [1e-3, 1e-2, 1e-3, 1e-2] and values["p"] == ["[8,8]", "[8,8]", "[4,4]", "[4,4]"]
    assert values["val/bps_mean"] == [0.4, 0.3, 0.1, None] and values["reason"] == [None, None, None, "[bold]lost"]


@pytest.mark.parametrize(
    ("values", "places", "ticks"),
    [
        (["1e-3", "0.1", "1e-3"], [0.001, 0.1, 0.001], {0.001: "1e-3", 0.1: "0.1"}),
        (["[8,8]", "[4,4]", "nan"], [1.0, 0.0, 2.0], {1.0: "[8,8]", 0.0: "[4,4]", 2.0: "nan"}),
        (["8", "16", "32", "null"], [0.0, 1.0, 2.0, 3.0], {0.0: "8", 1.0: "16", 2.0: "32", 3.0: "null"}),
    ],
)
def test_places_on_an_axis(values, places, ticks):
    assert sweep_plots._places(values) == (places, ticks)


# The shipped searches and launchers ---------------------------------------------------------------------------------


def jobs_of(*words: str) -> list[list[str]]:
    parsed = OverridesParser.create().parse_overrides(list(words))
    (jobs,) = Grid.split_arguments(parsed, None)
    return jobs


@pytest.mark.slow
@pytest.mark.parametrize("name", ["patch_depth_lr", "embedding_dim", "scaling"])
def test_every_combination_of_a_shipped_search_can_be(name, compose):
    params = yaml.safe_load((CONF / "hparams_search" / f"{name}.yaml").read_text())["hydra"]["sweeper"]["params"]
    jobs = jobs_of(*(f"{key}={values}" for key, values in params.items()))
    assert len(jobs) == {"patch_depth_lr": 18, "embedding_dim": 4, "scaling": 8}[name]
    fingerprints = set()
    for words in jobs:
        settings = compose(f"hparams_search={name}", *words)
        fingerprints.add(validate.fingerprint(settings))
        if {"optim.lr=3e-3", "model.spatial_depth=2"} <= set(words) or name == "embedding_dim":
            refuse_unfit(
                make_datamodule(settings["data"]),
                build("optim", settings["optim"]),
                Asked(**{name: settings[name] for name in Asked.__dataclass_fields__}),
                device="cpu",
            )
    assert len(fingerprints) == len(jobs)
    if name == "patch_depth_lr":
        assert settings["model"]["temporal_depth"] == settings["model"]["spatial_depth"] == 6


@pytest.mark.slow
def test_few_shot_is_every_length_on_both_kinds_of_core(compose):
    params = yaml.safe_load((CONF / "hparams_search" / "few_shot.yaml").read_text())["hydra"]["sweeper"]["params"]
    jobs = jobs_of(*(f"{key}={values}" for key, values in params.items()))
    data_and_optim = set()
    for words in jobs:
        settings = compose("experiment=finetune", "init_from=core.ckpt", "hparams_search=few_shot", *words)
        data_and_optim.add((settings["data"]["train_minutes"], settings["optim"]["core_lr_scale"]))
    assert data_and_optim == {(minutes, scale) for minutes in (0.5, 1, 2, 5, 10) for scale in (0.0, 0.1)}


def launcher(name: str, *words: str) -> dict[str, object]:
    from hydra import compose, initialize_config_dir

    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"hydra/launcher={name}", *words], return_hydra_config=True)
    node = OmegaConf.to_container(cfg.hydra.launcher, resolve=False)
    assert isinstance(node, dict)
    return node


def test_slurms_launcher_has_all_keys_of_hydras_with_a_comment_each():
    text = (CONF / "hydra" / "launcher" / "slurm.yaml").read_text()
    written = yaml.safe_load(text)
    assert set(written) - {"defaults"} == set(OmegaConf.structured(SlurmQueueConf))
    assert all(
        "#" in line for line in text.splitlines() if line[:1].isalpha() and not line.startswith(("_", "defaults"))
    )
    node = launcher("slurm", "hydra.launcher.partition=gpu")
    assert node["partition"] == "gpu" and node["max_num_timeout"] > 0
    assert node["tasks_per_node"] == "${trainer.devices}"
    with pytest.raises(Exception, match="timeout_min"):
        launcher("slurm", "hydra.launcher.timeout_min=abc")


def test_sbatchs_script_says_what_the_launcher_was_told(tmp_path, monkeypatch):
    """As submitit would hand it to sbatch; there need be no SLURM."""
    (tmp_path / "srun").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    params = {key: value for key, value in launcher("slurm").items() if key != "_target_"}
    params |= {"submitit_folder": str(tmp_path), "tasks_per_node": 2, "gpus_per_node": 2, "nodes": 1, "account": "lab"}
    executor = SlurmLauncher(**params).executor()
    script = executor._executor._make_submission_file_text("run", "id")
    for line in ("account=lab", "ntasks-per-node=2", "gpus-per-node=2", "mem=32GB", "time=720", "signal=USR2@180"):
        assert f"#SBATCH --{line}\n" in script, line
    assert "#SBATCH --requeue\n" in script and "export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK\n" in script
    assert executor._executor.max_num_timeout == 20


def test_without_slurm_it_says_so(command, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    code, printed = command("-m", "seed=0,1", "hydra/launcher=slurm")
    assert code == 1 and "slurm_local" in printed and "Traceback" not in printed


class FakeJob:
    """Ends at the second look."""

    def __init__(self, log: list[int], number: int) -> None:
        self.log, self.number, self.looks = log, number, 0

    def task(self, number):
        return self

    def done(self, force_check=False):
        self.looks += 1
        if self.looks == 2:
            self.log.append(-self.number)
        return self.looks >= 2


def test_jobs_at_once(tmp_path, monkeypatch):
    log: list[int] = []

    class Fake(PatientLauncher):
        def executor(self):
            return None

        def submit(self, executor, calls):
            log.extend(call[2] for call in calls)
            return [FakeJob(log, call[2]) for call in calls]

        def returned(self, noted, job):
            return job.number

    monkeypatch.setattr("hydra_plugins.vivit_core_sweeps.POLL_S", 0.0)
    made = Fake(jobs_at_once=2)
    made.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}}})
    assert made.launch([["a=1"]] * 4, 1) == [1, 2, 3, 4]
    assert log == [1, 2, -1, -2, 3, 4, -3, -4]
    log.clear()
    made.jobs_at_once = None
    made.launch([["a=1"]] * 3, 0)
    assert log[:3] == [0, 1, 2]


class EndedJob(FakeJob):
    """Its result is what was given, or raised."""

    def __init__(self, result: object, state: str = "FAILED") -> None:
        super().__init__([], 0)
        self.given, self.state, self.job_id = result, state, "7_0"
        self.paths = SimpleNamespace(result_pickle=Path("nowhere"), stderr="its.log")

    def result(self):
        if isinstance(self.given, Exception):
            raise self.given
        return self.given


def job_return(value: object) -> JobReturn:
    made = JobReturn(status=JobStatus.FAILED if isinstance(value, Exception) else JobStatus.COMPLETED)
    made.return_value = value
    return made


@pytest.mark.parametrize(
    ("said", "job", "status", "reason"),
    [
        ("finished", EndedJob(job_return(0.5)), "finished", None),
        ("running", EndedJob(UncompletedJobError("no output"), "OUT_OF_MEMORY"), "failed", "ended as OUT_OF_MEMORY"),
        ("waiting", EndedJob(UncompletedJobError("no output"), "CANCELLED by 0"), "interrupted", "CANCELLED by 0"),
        ("interrupted", EndedJob(job_return(UncompletedJobError("timed out too often"))), "interrupted", "too often"),
        ("running", EndedJob(job_return(RuntimeError("lost"))), "failed", "lost"),
    ],
)
def test_what_an_ended_job_returns(said, job, status, reason, tmp_path):
    noted = Job(tmp_path, 0)
    noted.note(status=said, reason=None if said != "interrupted" else "stopped after step 3")
    value = SlurmLauncher().returned(noted, job).return_value
    assert value == 0.5 if status == "finished" else math.isnan(value)
    outcome = noted.outcome()
    assert outcome.status == status and (reason is None or reason in (outcome.reason or ""))
    assert said != "interrupted" or (outcome.reason or "").startswith("stopped after step 3; ")


# docs/cluster.md -----------------------------------------------------------------------------------------------------


def documented() -> list[list[str]]:
    """Every command line of docs/cluster.md, in words."""
    text = (CONF.parent / "docs" / "cluster.md").read_text()
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.DOTALL)).splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_the_clusters_page_names_what_there_is():
    others = {" ".join(words[:2]) for words in documented() if words[0] != "python"}
    assert others == {"git clone", "make setup", "source .venv/bin/activate"}
    keys = set(OmegaConf.structured(SlurmQueueConf))
    table = re.findall(r"^\| (`.*?) \|", (CONF.parent / "docs" / "cluster.md").read_text(), flags=re.MULTILINE)
    named = {key for cell in table for key in re.findall(r"`([a-z_]+)`", cell)}
    assert len(named) >= 10 and named <= keys


@pytest.mark.parametrize("words", [words[2:] for words in documented() if words[0] == "python"], ids=" ".join)
def test_the_clusters_commands_compose(words, compose):
    sweep = "-m" in words
    plain = [word for word in words if word != "-m"]
    chosen = dict(word.split("=", 1) for word in plain)
    assert sweep == ("hydra/launcher" in chosen)
    (job, *_) = jobs_of(*(word for word in plain if not word.startswith("hydra")))
    compose(*job)
    if sweep:
        from hydra import compose as hydra_compose
        from hydra import initialize_config_dir

        queue = [word for word in plain if word.startswith("hydra")]
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = hydra_compose("config", overrides=[*job, *queue], return_hydra_config=True)
        assert cfg.hydra.launcher.tasks_per_node == cfg.trainer.devices
        assert cfg.hydra.launcher.nodes == cfg.trainer.num_nodes


# Back into the queue ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("executor", "rank", "state", "signals", "queued"),
    [
        ("slurm", 0, "RUNNING", {signal.SIGUSR2}, True),
        ("slurm", 0, "COMPLETING", {signal.SIGUSR2, signal.SIGTERM}, True),
        ("slurm", 0, "RUNNING", {signal.SIGTERM}, True),  # it was signalled, not cancelled
        ("slurm", 0, "COMPLETING", {signal.SIGTERM}, False),
        ("slurm", 0, "RUNNING", {signal.SIGINT}, False),
        ("slurm", 0, "RUNNING", {signal.SIGHUP}, False),
        ("slurm", 0, "RUNNING", {signal.SIGUSR1}, True),
        ("local", 0, "", {signal.SIGUSR2}, True),
        ("local", 0, "", {signal.SIGTERM}, False),
        ("slurm", 1, "RUNNING", {signal.SIGUSR2}, "leaves"),
        (None, 0, "RUNNING", {signal.SIGUSR2}, False),
    ],
)
def test_requeue(executor, rank, state, signals, queued, monkeypatch, tmp_path):
    squeue = tmp_path / "squeue"
    squeue.write_text(f"#!/bin/sh\necho {state}\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.delenv("SUBMITIT_EXECUTOR", raising=False)
    if executor:
        monkeypatch.setenv("SUBMITIT_EXECUTOR", executor)
    monkeypatch.setenv("RANK", str(rank))
    caught: list[int] = []

    def submitits(number, frame):
        caught.append(number)
        for again in (signal.SIGUSR2, signal.SIGTERM):
            os.kill(os.getpid(), again)

    before = {number: signal.getsignal(number) for number in (signal.SIGUSR2, signal.SIGTERM)}
    signal.signal(signal.SIGUSR2, submitits)
    try:
        if queued == "leaves":
            with pytest.raises(SystemExit) as left:
                requeue(signals)
            assert left.value.code == 0 and not caught
        else:
            requeue(signals)
            assert caught == ([signal.SIGUSR2] if queued else [])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize(
    ("squeue", "queued"),
    [
        ("exec sleep 60", False),
        (None, False),  # not installed
        ("echo 'Unable to contact slurm controller' >&2; exit 1", False),
        ("echo x >>$0.asked; test $(wc -l <$0.asked) = 3 || exit 1; echo RUNNING", True),  # it was busy
    ],
)
def test_a_scheduler_that_does_not_answer_is_one_line(squeue, queued, monkeypatch, tmp_path, capsys):
    if squeue is not None:
        (tmp_path / "squeue").write_text(f"#!/bin/sh\n{squeue}\n")
        (tmp_path / "squeue").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin" if squeue else str(tmp_path))
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setenv("SUBMITIT_EXECUTOR", "slurm")
    monkeypatch.setattr(requeueing, "TRY_S", 0.5)
    monkeypatch.setattr(requeueing, "PAUSE_S", 0.0)
    assert requeueing.runs_on() is queued
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) == (0 if queued else 1)
    assert queued or "resume=auto continues the training" in printed


def test_the_plugin_alone_imports_little():
    """Hydra imports it in every program that is started in this environment."""
    code = "import sys, hydra_plugins.vivit_core_sweeps; print('torch' in sys.modules, 'submitit' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_a_job_says_which_it_is_and_how_long_the_sweep_takes(monkeypatch):
    monkeypatch.setattr(sweeps, "_jobs", 0)
    assert sweeps.job_of(3) == "job 3"  # of a scheduler, in a process of its own
    Grid.split_arguments([], None)
    sweeps.begin(4)
    assert sweeps.job_of(0) == "job 1 of 4"
    sweeps.took(120.0)
    sweeps.took(3.0)  # the second was done before
    assert sweeps.job_of(2) == "job 3 of 4, about 4:00 min are left"
    sweeps.took(120.0)
    assert sweeps.job_of(3) == "job 4 of 4, about 2:00 min are left"
    sweeps.begin(30)  # a search that goes on
    assert sweeps.job_of(20) == "job 21 of 30"
