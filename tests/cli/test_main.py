"""The command line, with tiny recordings: what it writes, what it says, and what it refuses."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from vivit_core import load_twin
from vivit_core.cli import runs, schema
from vivit_core.cli.main import main, message_of
from vivit_core.cli.tasks import train as cli_train
from vivit_core.system import activity

RUN = Path(__file__).resolve().parents[2] / "run.py"
SMALL = [
    "trainer=debug",
    "model.embedding_dim=24",
    "model.spatial_depth=1",
    "model.temporal_depth=1",
    "model.attention.heads=2",
]


def run_folder(printed: str) -> Path:
    return Path(printed.rsplit("run folder: ", 1)[1].splitlines()[0])


def sections_of(run: Path) -> list[str]:
    """The sections of a run's report, in order."""
    return re.findall(r'<section id="(\w+)">', (run / "report.html").read_text())


@pytest.mark.slow
def test_train_then_evaluate_then_resume(command, tiny, tiny_files, tmp_path):
    train = [*tiny, *SMALL, "model=vivit_small"]
    code, printed = command(*train)
    assert code == 0, printed
    run = run_folder(printed)
    assert run.parent == tmp_path / "outputs" / "train"
    for name in ("config.yaml", "overrides.yaml", "environment.json", "metrics.csv", "units.csv", "summary.json"):
        assert (run / name).is_file(), name
    assert list((run / "pictures").glob("*.png"))
    assert sections_of(run) == ["train", "evaluate"]
    assert {"best.ckpt", "last.ckpt"} <= {path.name for path in (run / "checkpoints").iterdir()}
    assert yaml.safe_load((run / "config.yaml").read_text())["model"]["embedding_dim"] == 24
    assert yaml.safe_load((run / "overrides.yaml").read_text()) == train
    environment = json.loads((run / "environment.json").read_text())
    assert environment["seed"] == 0 and environment["versions"]["torch"] == torch.__version__
    assert {"val/bps_mean", "train/loss", "step"} <= set(next(csv.reader((run / "metrics.csv").open())))
    assert all(word in printed for word in ("training on", "sim0", "sim1", "twin / LN", "oracle", "the linear model"))

    twin = load_twin(run / "checkpoints" / "best.ckpt")
    assert list(twin.specs) == ["sim0", "sim1"]

    code, printed = command("task=evaluate", f"checkpoint={run / 'checkpoints' / 'best.ckpt'}")
    assert code == 0, printed
    evaluated = run_folder(printed)
    assert evaluated.parent == tmp_path / "outputs" / "evaluate"
    ours, before = (json.loads((folder / "summary.json").read_text()) for folder in (evaluated, run))
    assert ours["bps_mean"] == pytest.approx(before["bps_mean"], abs=1e-6)
    assert ours["ln_bps_mean"] == pytest.approx(before["ln_bps_mean"], abs=1e-6)
    assert sections_of(evaluated) == sections_of(run) == ["train", "evaluate"]
    assert "2 recordings with 12 units" in (run / "report.html").read_text()

    code, printed = command(
        "task=evaluate",
        f"checkpoint={run / 'checkpoints' / 'last.ckpt'}",
        f"data.recordings=[{tiny_files[1]}]",
        "behavior_controls=true",
        "attention_controls=true",
    )
    assert code == 0, printed
    summary = json.loads((run_folder(printed) / "summary.json").read_text())
    assert list(summary["recordings"]) == ["sim1"]
    assert list(summary["behavior"]) == ["shuffled", "none", "frozen_gaze"]
    assert "with behavior shuffled" in printed
    assert list(summary["attention"]) == ["held", "unmixed", "uniform", "own_place", "newest"]
    assert "attention held" in printed and summary["context_gain_mean"] is not None

    both = [str(run / "checkpoints" / f"{name}.ckpt") for name in ("best", "last")]
    code, printed = command("task=compare", f"checkpoints=[{','.join(both)}]", "names=[best,last]", "resamples=50")
    assert code == 0 and "Gains, unit by unit" in printed, printed
    compared = json.loads((run_folder(printed) / "compare.json").read_text())
    assert compared["models"]["best"]["bps_mean"] == pytest.approx(before["bps_mean"], abs=1e-6)
    assert compared["models"]["best"]["flops_per_bin"] > 0 and compared["units"] == 12
    assert (run_folder(printed) / "compare.csv").is_file()
    assert sections_of(run_folder(printed)) == ["compare"] and sections_of(run) == ["train", "evaluate", "compare"]

    code, printed = command(
        "task=stream", f"checkpoint={run / 'checkpoints' / 'best.ckpt'}", "recording=sim1", "bins=60"
    )
    assert code == 0 and "bins/s" in printed, printed
    streamed = json.loads((run_folder(printed) / "stream.json").read_text())
    assert streamed["bins"] == 60 and streamed["recording"] == "sim1" and streamed["largest_difference"] < 1e-4
    assert streamed["p50_ms"] <= streamed["p99_ms"] <= streamed["most_ms"]
    assert (run_folder(printed) / "pictures" / "latency.png").is_file()

    look = ["task=attention", f"checkpoint={run / 'checkpoints' / 'best.ckpt'}", "clips=2", "units=2", "megabytes=0.01"]
    code, printed = command(*look)
    assert code == 0 and "spatial 0" in printed, printed
    looked = run_folder(printed)
    found = json.loads((looked / "attention.json").read_text())
    assert found["recording"] == "sim0" and found["clips"] == 2 and found["tokens"]["steps"] == 120 // 8
    with np.load(looked / "attention.npz") as kept:
        assert kept["spatial"].nbytes + kept["temporal"].nbytes <= 10_000 and kept["steps"][-1] == 120 // 8 - 1
        np.testing.assert_allclose(kept["spatial"].astype(np.float32).sum(-1), 1.0, atol=2e-3)
        np.testing.assert_allclose(kept["rollout"].sum(), 1.0)
    drawn = {path.name for path in (looked / "pictures").iterdir()}
    assert drawn == {"attention.gif"} | {
        f"attention_{name}.png" for name in ("by_head", "heads", "lags", "rollout", "units")
    }
    for page in (looked, run):
        assert "Where it attends" in (page / "report.html").read_text()
    for wrong, named in (
        ("trial=3", "has 3 test trials"),
        ("place=[9,0]", "rows and"),
        ("clips=0", "clips=0 should be"),
    ):
        code, printed = command(*look, wrong)
        assert code == 1 and named in printed and "Traceback" not in printed

    code, printed = command(*train, "resume=auto")
    assert code == 0 and "already finished" in printed and str(run) in printed
    assert len(list(run.parent.iterdir())) == 1  # no empty folder is left


class Timed(io.StringIO):
    """A stream that knows when it was written to."""

    def __init__(self) -> None:
        super().__init__()
        self.times = [time.monotonic()]

    def write(self, text: str) -> int:
        self.times.append(time.monotonic())
        return super().write(text)


@pytest.mark.slow
def test_a_log_file_is_never_silent_for_long(tiny, tmp_path, monkeypatch):
    """The times are a twentieth of the real ones; a stage without a word of its own takes six seconds."""
    fit_baseline = cli_train.fit_baseline
    monkeypatch.setattr(cli_train, "fit_baseline", lambda *given: (time.sleep(6), fit_baseline(*given))[1])
    monkeypatch.setattr(activity, "EVERY_S", 1.0)
    monkeypatch.setattr(activity, "LOOK_S", 0.05)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["run.py", *tiny, *SMALL, "model=vivit_small"])
    monkeypatch.setattr(sys, "stdout", stream := Timed())
    main()
    printed = stream.getvalue()
    longest = max(after - before for before, after in itertools.pairwise([*stream.times, time.monotonic()]))
    assert longest < 4, printed  # a busy machine may be a little late
    assert printed.startswith("task=train begins\n") and printed.count("the linear baseline (LN): 0:0") >= 3
    for words in ("the linear baseline (LN) took", "the training begins", "the evaluation begins"):
        assert words in printed, printed


@pytest.mark.slow
def test_the_baseline_alone(command, tiny):
    code, printed = command(*tiny, "trainer=debug", "model=ln")
    assert code == 0, printed
    summary = json.loads((run_folder(printed) / "summary.json").read_text())
    checkpoint = f"checkpoint={run_folder(printed) / 'checkpoints' / 'best.ckpt'}"
    code, printed = command("task=attention", checkpoint)
    assert code == 1 and "LN has no attention" in printed and "Traceback" not in printed
    code, printed = command("task=evaluate", checkpoint)
    assert code == 0, printed
    assert json.loads((run_folder(printed) / "summary.json").read_text())["bps_mean"] == pytest.approx(
        summary["bps_mean"], abs=1e-6
    )


@pytest.mark.slow
def test_a_finished_run_stays_as_it_is_where_its_checkpoint_is_refused(command, tiny, tiny_files):
    """Its own recordings were named, and the command that is to train for longer names none, or others."""
    data = f"data.recordings=[{','.join(map(str, tiny_files))}]"
    code, printed = command(*SMALL, data, "baseline=null")
    assert code == 0, printed
    run = run_folder(printed)
    before = {name: (run / name).read_text() for name in ("finished.json", "trained.json", "environment.json")}
    go_on = [*SMALL, "baseline=null", "trainer.epochs=9", f"resume={run / 'checkpoints' / 'last.ckpt'}"]
    code, printed = command(*go_on)
    assert code != 0 and "this command names none; give them again: data.recordings=[" in printed.replace("'", "")
    assert "simulating" not in printed
    code, printed = command(*go_on, f"data.recordings=[{tiny_files[1]}]")
    assert code != 0 and "its training is of other recordings, or other units" in printed and "(sim0)" in printed
    code, printed = command(*go_on, data, "optim.betas=[0.9,0.9]", "model.embedding_dim=48")
    assert code != 0 and "this training cannot be continued from it" in printed, printed
    assert {name: (run / name).read_text() for name in before} == before


@pytest.mark.slow
def test_ctrl_c_leaves_a_checkpoint_that_resume_auto_continues(tiny, tmp_path):
    """In a process of its own, as a user does it."""
    words = [
        sys.executable,
        str(RUN),
        *tiny,
        *SMALL,
        "baseline=null",
        "trainer.steps_per_epoch=100",
        "trainer.epochs=2",
        "data.clip_length=40",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith("epoch 1/2"):
            process.send_signal(signal.SIGINT)
    assert process.wait() == 130, "".join(lines)
    assert "resume=auto" in "".join(lines)
    run = runs.RunFolder(next((tmp_path / "outputs" / "train").iterdir()))
    assert run.last.is_file() and not run.finished
    stopped_at = torch.load(run.last, weights_only=True)["global_step"]
    assert 100 <= stopped_at < 200

    done = subprocess.run(
        [*words, "resume=auto"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"continues the run {run.path}" in done.stdout
    assert run.finished and [runs.RunFolder(p) for p in run.path.parent.iterdir()] == [run]
    assert torch.load(run.last, weights_only=True)["global_step"] == 200
    assert len(run.environment["continued"]) == 1
    with (run.path / "metrics.csv").open() as file:
        validated = [int(row["step"]) for row in csv.DictReader(file) if row["val/loss"]]
    assert validated == [99, 199]  # the first epoch's line is still there


@pytest.mark.slow
def test_a_sweep_gives_each_run_its_folder(command, tiny, tmp_path):
    words = [
        *tiny,
        "trainer=debug",
        "baseline=null",
        "model.spatial_depth=1",
        "model.temporal_depth=1",
        "model.attention.heads=2",
    ]
    code, printed = command("-m", "model.embedding_dim=16,24", *words)
    assert code == 0, printed
    (sweep,) = (tmp_path / "outputs" / "train").iterdir()
    widths = [yaml.safe_load((sweep / job / "config.yaml").read_text())["model"]["embedding_dim"] for job in ("0", "1")]
    assert widths == [16, 24]


@pytest.mark.slow
@pytest.mark.parametrize("model", ["vivit_small", "vivit_baseline"])
def test_plan_reads_nothing(command, model, tmp_path):
    code, printed = command("task=plan", f"model={model}", "data=multi_backimage", "data.cache=never")
    assert code == 0, printed
    assert all(word in printed for word in ("tokens", "parameters", "FLOPs", "memory", "spatial blocks", "readouts"))
    assert not (tmp_path / "never").exists() and not list(tmp_path.rglob("*.h5"))
    assert "at 120 Hz; a clip lasts 2.5 s" in " ".join(printed.split())
    for words, seconds in (([], 2.5), (["data.clip_length=300"], 5)):  # a clip follows the rate, unless it is set
        printed = command("task=plan", f"model={model}", "data.geometry.frame_rate_hz=60", *words)[1]
        assert f"at 60 Hz; a clip lasts {seconds:g} s" in " ".join(printed.split())


def test_plan_refuses_impossible_geometry(command):
    code, printed = command("task=plan", "model/tokenizer=tubelet", "model.tokenizer.patch_size=[300,4,4]")
    assert code == 1 and "data.clip_length" in printed and "Traceback" not in printed


def test_import(command, tmp_path):
    made = np.random.default_rng(0)
    np.savez(
        tmp_path / "X.npz", frames=made.integers(0, 255, (90, 6, 8), dtype=np.uint8), counts=made.poisson(0.3, (5, 90))
    )
    words = [
        "task=import",
        "importer=arrays",
        "source=X.npz",
        "out=Y.h5",
        "importer.recording_id=toy",
        "importer.frame_rate_hz=30",
    ]
    code, printed = command(*words, "importer.counts_axis=unit_time", "importer.trial_length=15")
    assert code == 0, printed
    assert (tmp_path / "Y.h5").is_file()
    assert not any((tmp_path / "outputs" / "import").iterdir())


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["model.embeding_dim=3"], "model.embeding_dim"),
        (["+model.embeding_dim=3"], "did you mean model.embedding_dim?"),
        (["optim.lr=abc"], 'optim.lr="abc" should be a valid number'),
        (["trainer.precision=16-mixed"], "bf16-mixed"),
        (["data.recordings=[none.h5]"], "none.h5"),
        (["task=evaluate", "checkpoint=none.ckpt"], "none.ckpt"),
        (["task=stream", "checkpoint=none.ckpt"], "none.ckpt"),
        (["task=attention", "checkpoint=none.ckpt"], "none.ckpt"),
        (["task=compare", "checkpoints=[none.ckpt,some.ckpt]"], "none.ckpt"),
        (["task=compare", "checkpoints=[a.ckpt,b.ckpt]", "names=[a]"], "1 names for 2 checkpoints"),
        (["task=import", "source=a", "out=b"], "importer=arrays"),
        (["predict=last"], "data.evaluation_burn_in=299"),
        (["trainer.device=cuda"], "no GPU"),
        (["-m", "trainer.devices=2", "seed=0,1"], "sweep with trainer.devices=1"),
    ],
)
def test_mistakes_are_one_message(command, words, named):
    if words == ["trainer.device=cuda"] and torch.cuda.is_available():
        pytest.skip("a GPU is there")
    code, printed = command(*words)
    assert code == 1
    assert named in printed
    assert not any(hydras in printed for hydras in ("Traceback", "Error executing job", "HYDRA_FULL_ERROR"))
    assert printed.count("debug=true") <= 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optim.lrr=1e-3"], "optim.lrr does not exist; did you mean optim.lr?"),
        (["-m", "optim.lrr=1e-3,1e-4"], "optim.lrr does not exist; did you mean optim.lr?"),
        (["task=evaluate", "chekpoint=simulated"], "chekpoint does not exist; did you mean checkpoint?"),
        (["model=resnet", "model.embedding_dim=3"], "model.embedding_dim does not exist; model has causal, "),
        (["importer.frame_rate_hz=3"], "no importer is chosen; say importer=NAME, of arrays, "),
        (["model.shifter.nope=1"], "no model.shifter is chosen; say model/shifter=NAME, of affine, gaze, none"),
        (["model.compile.x=1"], "model.compile.x does not exist; model.compile has no settings"),
        (
            ["task=import", "importer=nwb", "importer.keep_units.quality=[good]"],
            "importer.keep_units.quality does not exist; a new entry is said with +importer.keep_units.quality=VALUE",
        ),
        (
            ["data.geometry.behavior.running=1"],
            "data.geometry.behavior.running does not exist; data.geometry.behavior has eye_position, eye_velocity; "
            "a new entry is said with +data.geometry.behavior.running=VALUE",
        ),
        (
            ["data.transforms.foo.bar=1"],
            "data.transforms.foo does not exist; a new entry is said with +data.transforms.foo=VALUE",
        ),
        (
            ["callbacks.checkpoints.monitor=a"],
            "callbacks.checkpoints does not exist; did you mean callbacks.checkpoint?; a new entry is said with "
            "+callbacks.checkpoints=VALUE",
        ),
    ],
)
def test_a_key_that_does_not_exist_is_not_to_be_appended(command, words, said):
    code, printed = command(*words)
    assert code == 1 and f"the configuration has a problem:\n  - {said}" in printed
    assert "append" not in printed and "struct" not in printed


def test_a_refusal_is_its_line_alone_and_how_to_see_more(command):
    _, printed = command("task=stream", "checkpoint=none.ckpt")
    begins, *said, more = printed.splitlines()
    assert begins == "task=stream begins" and more == "(debug=true adds the traceback)"
    assert len(said) == 1 and said[0].startswith("none.ckpt")


def test_debug_shows_the_traceback(command):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HYDRA_FULL_ERROR", "1")
        with pytest.raises(ValueError, match=r"none\.ckpt"):
            command("task=evaluate", "checkpoint=none.ckpt", "debug=true")


def test_only_our_own_value_errors_are_a_users_mistakes():
    try:
        schema.Budget(epochs=0, steps_per_epoch=1, batch_size=1, accumulate=1, precision="32-true", max_minutes=1.0)
    except ValueError as error:
        ours = message_of(error)
    try:
        int("abc")
    except ValueError as error:
        theirs = message_of(error)
    assert ours is not None and "trainer.epochs" in ours
    assert theirs is None


@pytest.mark.long
def test_a_twin_with_a_history_trains_and_says_what_was_observed(command, tiny, tiny_files, tmp_path):
    """Its scores without and with past counts, a stream that is told them, and a video on which it is fed its own."""
    parts = ["model/history=population", "model/latent=shared_gain", "model.latent.hold=5"]
    # A last fit would find that past counts tell nothing here, and take their weights away.
    words = [*tiny, "trainer=debug", *parts, f"data.recordings=[{tiny_files[0]}]", "callbacks.readouts=null"]
    code, printed = command(*words, "hydra.run.dir=run")
    assert code == 0 and "with past counts of the population observed" in printed, printed
    assert "noise correlations of" in printed
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["recordings"]["sim0"]["noise_correlations"]["pairs"] > 0
    assert summary["observed"] == "none" and summary["history"]["observed"] == "population"
    assert summary["history"]["bps_mean"] != summary["bps_mean"]
    checkpoint = f"checkpoint={tmp_path / 'run' / 'checkpoints' / 'best.ckpt'}"
    rates = {}
    for history in ("observed", "samples", "none"):
        code, printed = command("task=stream", checkpoint, "bins=40", f"history={history}", f"hydra.run.dir={history}")
        assert code == 0, printed
        found = json.loads((tmp_path / history / "stream.json").read_text())
        assert found["history"] == history and found["largest_difference"] < 1e-4
    for history in ("samples", "expected", "none"):
        out = tmp_path / f"{history}.npz"
        code, printed = command(
            "task=predict", checkpoint, f"video={tiny_files[0]}", f"out={out}", f"history={history}"
        )
        assert code == 0, printed
        with np.load(out) as file:
            rates[history] = file[next(key for key in file.files if "rates" in key)]
    assert not np.allclose(rates["samples"], rates["none"]) and not np.allclose(rates["expected"], rates["none"])
    code, printed = command("task=export", checkpoint, f"out={tmp_path / 'exported'}")
    assert code == 0, printed
