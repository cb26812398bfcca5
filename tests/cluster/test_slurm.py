"""A sweep on a real SLURM of one node, which this machine becomes for the time of the test."""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from optuna.trial import TrialState

from vivit_core.cli import runs
from vivit_core.cli.search import study_in
from vivit_core.cli.sweeps import Job

RUN = Path(__file__).resolve().parents[2] / "run.py"
# Two jobs at a time on two cores, about a quarter of a minute of training each.
SETTINGS = [
    "trainer=debug",
    "trainer.epochs=6",
    "trainer.steps_per_epoch=20",
    "trainer.max_minutes=inf",
    "model.spatial_depth=1",
    "model.temporal_depth=1",
    "model.embedding_dim=16",
    "model.attention.heads=2",
    "data.clip_length=40",
]
QUEUE = ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1"]
# The last patch leaves one step of time: two combinations of six cannot be.
PATCHES, RATES = ["[8,8,8]", "[4,8,8]", "[40,8,8]"], ["0.001", "0.003"]
PATIENCE_S = 900

pytestmark = [pytest.mark.long, pytest.mark.timeout(3000)]


def start(words: list[str], folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(RUN), *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def until(what: Callable[[], bool], sweep: subprocess.Popen[str]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert sweep.poll() is None and time.monotonic() < end, sweep.communicate(timeout=60)[0]
        time.sleep(0.2)


def ask(environment: dict[str, str], *command: str) -> str:
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout.strip()


def summary_of(sweep: Path) -> dict[int, dict[str, str]]:
    with (sweep / "sweep_summary.csv").open(newline="") as file:
        return {int(row["job"]): row for row in csv.DictReader(file)}


def trains(sweep: Path, number: int) -> bool:
    """It is between its first and its last epoch."""
    assert Job(sweep, number).outcome().status in ("waiting", "running"), Job(sweep, number).outcome()
    metrics = sweep / str(number) / "metrics.csv"
    return metrics.is_file() and "val/bps_mean" in metrics.read_text()


def weights(run: Path) -> tuple[int, dict[str, torch.Tensor]]:
    checkpoint = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    return checkpoint["global_step"], checkpoint["state_dict"]


def test_a_sweep_outlives_preemption(slurm, tiny, tmp_path):
    own = [word for word in tiny if not word.startswith("data.clip_length")]
    axes = [f"model.tokenizer.patch_size={','.join(PATCHES)}", f"optim.lr={','.join(RATES)}"]
    words = [*own, *SETTINGS, "baseline=null", "logger.csv.flush_logs_every_n_steps=1"]
    process = start(["-m", *axes, *QUEUE, *words], tmp_path, slurm)
    until(lambda: len(list(tmp_path.glob("outputs/train/*/.submitit/*_0"))) == 1, process)
    (sweep,) = tmp_path.glob("outputs/train/*")
    array = next(sweep.glob(".submitit/*_0")).name.removesuffix("_0")

    # As before the end of the time, or of the machine: SLURM sends USR2, and submitit queues the job again.
    until(lambda: trains(sweep, 0), process)
    # scancel tries to send it again and again while the job leaves, and is not waited for.
    sending = subprocess.Popen(["scancel", "--signal=USR2", f"{array}_0"], env=slurm)
    log = sweep / ".submitit" / f"{array}_0" / f"{array}_0_0_log.out"
    until(lambda: log.is_file() and "Requeued job" in log.read_text(), process)
    sending.kill()  # else it would greet the job's second start as well, before that has a handler
    sending.wait()
    # The machine is taken away: SLURM sends SIGTERM, and queues the job again itself.
    until(lambda: trains(sweep, 1), process)
    ask(slurm, "scontrol", "requeue", f"{array}_1")
    printed = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, printed

    rows = summary_of(sweep)
    assert [rows[number]["status"] for number in range(6)] == ["finished"] * 4 + ["refused"] * 2, printed
    assert all("data.clip_length" in rows[number]["reason"] for number in (4, 5))
    assert {(row["model.tokenizer.patch_size"], row["optim.lr"]) for row in rows.values()} == {
        (patch, rate) for patch in PATCHES for rate in RATES
    }
    assert all(float(rows[n]["val/bps_mean"]) and float(rows[n]["test/bps_mean"]) for n in range(4))
    best_first = [float(row["val/bps_mean"]) for row in rows.values() if row["val/bps_mean"]]
    assert best_first == sorted(best_first, reverse=True) and "best first" in printed
    pictured = {path.name for path in (sweep / "pictures").iterdir()}
    assert pictured == {"model.tokenizer.patch_size.png", "optim.lr.png"}

    for number, stopped_by in ((0, "SIGUSR2"), (1, "SIGTERM")):
        run = runs.RunFolder(Path(rows[number]["run"]))
        assert run.path == sweep / str(number) and len(run.environment["continued"]) == 1
        log = (sweep / ".submitit" / f"{array}_{number}" / f"{array}_{number}_0_log.out").read_text()
        assert f"{stopped_by}: stopping after this step" in log and f"continues the run {run.path}" in log
        assert ("Requeued job" in log) == (stopped_by == "SIGUSR2")  # one owner of the requeue
        alone = start(
            [
                f"model.tokenizer.patch_size={PATCHES[0]}",
                f"optim.lr={RATES[number]}",
                f"hydra.run.dir=alone{number}",
                *words,
            ],
            tmp_path,
            slurm,
        )
        assert "run folder" in alone.communicate(timeout=PATIENCE_S)[0]
        (steps, ours), (undisturbed_steps, undisturbed) = weights(run.path), weights(tmp_path / f"alone{number}")
        assert steps == undisturbed_steps == 120
        assert ours.keys() == undisturbed.keys()
        assert all(torch.equal(ours[name], undisturbed[name]) for name in ours)

    # The same again, elsewhere than on SLURM: nothing is left to do.
    again = start(["-m", *axes, *words], tmp_path, slurm)
    assert again.communicate(timeout=PATIENCE_S) and again.returncode == 0
    (second,) = set(tmp_path.glob("outputs/train/*")) - {sweep}
    assert {n: row["run"] for n, row in summary_of(second).items() if n < 4} == {n: rows[n]["run"] for n in range(4)}
    assert not list(second.glob("*/metrics.csv"))


def test_a_cancelled_job_stays_cancelled_and_the_next_sweep_continues_it(slurm, tiny, tmp_path):
    own = [word for word in tiny if not word.startswith("data.clip_length")]
    words = ["-m", "seed=0,1", *own, *SETTINGS, "baseline=null", "logger.csv.flush_logs_every_n_steps=1"]
    process = start([*words, *QUEUE], tmp_path, slurm)
    until(lambda: len(list(tmp_path.glob("outputs/train/*/.submitit/*_0"))) == 1, process)
    (sweep,) = tmp_path.glob("outputs/train/*")
    array = next(sweep.glob(".submitit/*_0")).name.removesuffix("_0")
    until(lambda: trains(sweep, 0), process)
    ask(slurm, "scancel", f"{array}_0")
    printed = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 1, printed
    rows = summary_of(sweep)
    assert (rows[0]["status"], rows[1]["status"]) == ("interrupted", "finished"), printed
    assert "resume=auto" in rows[0]["reason"]
    assert f"{array}_0" not in ask(slurm, "squeue", "--noheader", "--format=%i").split()

    process = start([*words, "hydra/launcher=slurm_local", "hydra.launcher.gpus_per_node=0"], tmp_path, slurm)
    printed = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, printed
    (second,) = set(tmp_path.glob("outputs/train/*")) - {sweep}
    rows = summary_of(second)
    assert [rows[n]["status"] for n in (0, 1)] == ["finished", "finished"]
    assert [Path(rows[n]["run"]) for n in (0, 1)] == [sweep / "0", sweep / "1"]
    assert weights(sweep / "0")[0] == 120 and Job(second, 0).outcome().score is not None


def test_a_search_of_twelve_trials_is_killed_and_goes_on(slurm, tiny, tmp_path):
    """Jobs of four at a time share one study; the command that asks for them dies in the middle, and its jobs go on."""
    own = [word for word in tiny if not word.startswith("data.clip_length")]
    small = [word for word in SETTINGS if not word.startswith("model.spatial_depth")]
    words = ["-m", "hparams_search=optuna", "hydra.sweeper.trials=12", "hydra.sweeper.startup=4"]
    words += [
        *QUEUE,
        "hydra.sweeper.warmup=1",
        "hydra.sweeper.max_batch_size=4",
        "model.spatial_depth=1,2",
        *own,
        *small,
        "baseline=null",
    ]
    search = tmp_path / "outputs" / "train" / "optuna"
    process = start(words, tmp_path, slurm)
    until(lambda: sum(Job(search, n).outcome().status in ("finished", "pruned") for n in range(12)) >= 3, process)
    process.kill()
    process.wait()
    running = study_in(search).get_trials()
    assert any(trial.state == TrialState.RUNNING for trial in running)

    process = start(words, tmp_path, slurm)
    printed = process.communicate(timeout=PATIENCE_S)[0]
    assert process.returncode == 0, printed
    trials = study_in(search).get_trials()
    assert len(trials) == 12 and {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}, printed
    assert [trial.params for trial in trials[: len(running)]] == [trial.params for trial in running]
    rows = summary_of(search)
    statuses = {n: row["status"] for n, row in rows.items()}
    assert statuses == {t.number: "finished" if t.state == TrialState.COMPLETE else "pruned" for t in trials}, printed
    for trial in trials:
        score, run = float(rows[trial.number]["val/bps_mean"]), search / str(trial.number)
        if trial.state == TrialState.COMPLETE:
            assert (
                trial.value == pytest.approx(score)
                and runs.RunFolder(run).finished
                and len(trial.intermediate_values) == 6
            )
        else:
            assert (
                "pruned after epoch" in str(runs.RunFolder(run).environment["ended"])
                and not runs.RunFolder(run).finished
            )
            assert score == pytest.approx(max(trial.intermediate_values.values()))
