"""Several processes: who started how many, and that they train as one process does."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from vivit_core.cli import runs
from vivit_core.training.ranks import PeerLost, ProcessGroup, check_started, environment_of, lost_peer

RUN = Path(__file__).resolve().parents[2] / "run.py"
SMALL = [
    "model.embedding_dim=24",
    "model.spatial_depth=1",
    "model.temporal_depth=1",
    "model.attention.heads=2",
    "model.ff_dropout=0",
    "model.drop_path=0",
    "model.tokenizer.dropout=0",
    "model.compile=false",
    "trainer.device=cpu",
    "trainer.batch_size=4",
    "trainer.epochs=2",
    "optim.lr=3e-4",  # small, because Adam makes whole steps of a gradient that is nothing but rounding
]

TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_NODES": "2", "SLURM_STEP_NUM_TASKS": "4", "SLURM_NTASKS_PER_NODE": "2"}
SUBMITIT = {
    "SUBMITIT_EXECUTOR": "local",
    "SUBMITIT_LOCAL_NTASKS": "2",
    "SUBMITIT_LOCAL_GLOBALID": "1",
    "SUBMITIT_LOCAL_JOB_ID": "12345",
}


@pytest.fixture
def started(monkeypatch):
    """``started(variables)``: as if something had started this process with these environment variables alone."""
    for name in list(os.environ):
        if name.startswith(("SLURM", "SUBMITIT", "TORCHELASTIC")) or name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
            monkeypatch.delenv(name)
    return lambda variables: [monkeypatch.setenv(*item) for item in variables.items()]


@pytest.mark.parametrize(
    ("variables", "devices", "num_nodes"),
    [({}, 1, 1), ({}, 2, 1), (TORCHRUN, 2, 2), (SRUN, 2, 2), (SUBMITIT, 2, 1), ({"SLURM_JOB_ID": "7"}, 1, 1)],
)
def test_as_many_processes_as_devices(started, variables, devices, num_nodes):
    started(variables)
    check_started("cpu", devices, num_nodes)


@pytest.mark.parametrize(
    ("variables", "devices", "num_nodes", "advice"),
    [
        ({}, 0, 1, r"trainer\.devices=0"),
        ({}, 2, 2, r"torchrun --nnodes=2 --nproc-per-node=2"),
        (TORCHRUN, 1, 1, r"torchrun started 4 on 2 machine.*set trainer\.devices=2 trainer\.num_nodes=2"),
        (TORCHRUN, 4, 1, "torchrun --nnodes=1 --nproc-per-node=4"),
        (SRUN, 1, 1, r"SLURM started 4 on 2 machine.*trainer\.devices=2 trainer\.num_nodes=2"),
        # srun -n1 -c2 python run.py trainer.devices=2, and a batch script without srun: Lightning would train alone
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "1"}, 2, 1, "srun --nodes=1 --ntasks-per-node=2"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "2"}, 2, 1, "srun --nodes=1 --ntasks-per-node=2"),
        ({k: v for k, v in SRUN.items() if k != "SLURM_NTASKS_PER_NODE"}, 2, 2, "--ntasks-per-node=2 instead of -n"),
        (SUBMITIT, 1, 1, r"submitit started 2.*set trainer\.devices=2"),
        (SUBMITIT, 4, 1, r"hydra\.launcher\.tasks_per_node=4"),
    ],
)
def test_another_number_of_processes_is_refused_with_advice(started, variables, devices, num_nodes, advice):
    started(variables)
    with pytest.raises(ValueError, match=advice):
        check_started("cpu", devices, num_nodes)


@pytest.mark.parametrize("variables", [TORCHRUN, SRUN, SUBMITIT])
def test_only_training_takes_several_processes(started, command, variables):
    started(variables)
    code, printed = command("task=evaluate", "checkpoint=none.ckpt")
    assert code == 1 and "task=evaluate is one process's work" in printed, printed


def test_more_gpus_than_are_seen_are_refused(started, monkeypatch):
    started({})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match=r"sees 1 GPU.*--gpus-per-node"):
        check_started("cuda", 2, 1)


def test_lightning_never_requeues_a_job(started):
    started(SRUN)
    assert environment_of(4).auto_requeue is False
    assert not hasattr(environment_of(1), "auto_requeue")


def test_submitits_tasks_know_their_ranks(started, monkeypatch):
    for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that it is taken back
    started(SUBMITIT)
    environment = environment_of(2)
    assert environment.creates_processes_externally and environment.local_rank() == 1
    assert environment.main_address == "127.0.0.1" and 20_000 <= environment.main_port < 40_000


# The command line ---------------------------------------------------------------------------------------------------


def run_command(words, folder, interrupt_at=None):
    """The exit code and what was printed; Ctrl-C, which goes to all processes, where a line starts with a word."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SUBMITIT"))}
    process = subprocess.Popen(
        words,
        cwd=folder,
        env={**environment, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if interrupt_at and line.startswith(interrupt_at):
                os.killpg(process.pid, signal.SIGINT)
        code = process.wait(timeout=60)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    return code, "".join(lines)


# A script's processes write into one pipe: in one call, or parts of two lines mix where Python is unbuffered.
WRITE_LINE = """
import os
def write_line(text):
    os.write(1, (text + os.linesep).encode())
"""

EXCHANGE = (
    WRITE_LINE
    + """
import os
from vivit_core.training.ranks import process_group
with process_group("cpu", 2, 1) as together:
    assert together.first(lambda: list(range(100))) == list(range(100))
threads = {open(f"/proc/self/task/{number}/comm").read().strip() for number in os.listdir("/proc/self/task")}
write_line(f"threads of {together.rank}: " + " ".join(threads))
"""
)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="only Linux lists a process's threads in /proc")
def test_no_thread_of_a_process_group_outlives_the_training(tmp_path):
    """One that lets go of the last exchange's tensors while Python ends aborts the process: some 1 in 5 did."""
    script = tmp_path / "exchange.py"
    script.write_text(EXCHANGE)
    code, printed = run_command([sys.executable, str(script)], tmp_path)
    assert code == 0 and "threads of 0:" in printed and "threads of 1:" in printed, printed
    assert "gloo" not in printed.partition("threads of")[2], printed


LATE = (
    WRITE_LINE
    + """
import time
from datetime import timedelta
from torch.distributed import distributed_c10d, group
from vivit_core.training.ranks import process_group
with process_group("cpu", 2, 1) as together:
    strategy = together.strategy(1)
    distributed_c10d._set_pg_timeout(timedelta(seconds=1), group.WORLD)
    together.first(lambda: None)
    if together.rank == 0:
        time.sleep(3)
    write_line(f"{together.rank} knows {strategy.broadcast(str(together.rank))}")
"""
)


@pytest.mark.slow
def test_in_a_training_too_the_others_wait_for_the_first_as_long_as_it_takes(tmp_path):
    """Which fits all readouts after the last step, while the exchange of gradients has a time-out."""
    script = tmp_path / "late.py"
    script.write_text(LATE)
    code, printed = run_command([sys.executable, str(script)], tmp_path)
    assert code == 0 and "0 knows 0" in printed and "1 knows 0" in printed, printed


LOST = (
    WRITE_LINE
    + """
import os, signal, sys
import torch
from vivit_core.cli.main import message_of
from vivit_core.training.ranks import PeerLost, process_group
try:
    with process_group("cpu", 2, 1) as together:
        together.first(lambda: 1)
        if together.rank == int(sys.argv[1]):
            os.kill(os.getpid(), signal.SIGKILL)
        while sys.argv[2] == "steps":
            torch.distributed.all_reduce(torch.ones(3))
        together.first(lambda: 1)
except PeerLost as lost:
    write_line(message_of(lost))
    os._exit(1)
"""
)


@pytest.mark.slow
@pytest.mark.parametrize(("gone", "at"), [(0, "decision"), (1, "steps")])
def test_a_process_that_is_gone_is_a_line(gone, at, tmp_path):
    """And not gloo's traceback: in the training's steps, and where the others wait for the first."""
    script = tmp_path / "lost.py"
    script.write_text(LOST)
    code, printed = run_command([sys.executable, str(script), str(gone), at], tmp_path)
    told = [line for line in printed.splitlines() if "is gone" in line]
    assert code != 0 and len(told) == 1, printed
    assert told[0].startswith(f"process {1 - gone} of 2 ") and "resume=auto" in told[0]
    assert "Traceback" not in printed and "gloo/" not in printed, printed


def test_any_other_error_stays_what_it_is():
    environment = environment_of(1)
    one, two = ProcessGroup(0, 1, environment), ProcessGroup(0, 2, environment)
    gone = RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:22249.")
    assert isinstance(lost_peer(gone, two), PeerLost) and lost_peer(gone, one) is gone
    for error in (RuntimeError("shapes differ"), KeyError("Connection closed by peer")):
        assert lost_peer(error, two) is error


def assert_alike(one: runs.RunFolder, two: runs.RunFolder) -> None:
    """Weights, the optimizer's running gradients, metrics, and the scores on the test split."""
    kept = [torch.load(run.last, weights_only=True) for run in (one, two)]
    weights = [content["state_dict"] for content in kept]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    states = [content["optimizer_states"][0]["state"] for content in kept]
    for number, state in states[0].items():
        gradient, other = state["exp_avg"], states[1][number]["exp_avg"]
        torch.testing.assert_close(other, gradient, rtol=0, atol=1e-4 * float(gradient.abs().max()))
    rows = [list(csv.DictReader((run.path / "metrics.csv").open())) for run in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 2  # one a step that is logged, with its validation
    for row, other in zip(*rows, strict=True):
        for name in [n for n in row if row[n] and not n.startswith("system/")]:
            assert float(other[name]) == pytest.approx(float(row[name]), abs=1e-6, rel=1e-6), name
    summaries = [json.loads((run.path / "summary.json").read_text()) for run in (one, two)]
    for name in ("bps_mean", "ln_bps_mean", "corr_mean", "bins", "units", "units_silent"):
        assert summaries[1][name] == pytest.approx(summaries[0][name], abs=1e-6), name


@pytest.mark.slow
@pytest.mark.timeout(900)  # the machine may be busy
def test_two_processes_train_as_one(tiny, tmp_path, command):
    """Weights after eight steps, validation's metrics, the test split's scores; and one process alone writes."""
    words = [*tiny, *SMALL, "trainer.steps_per_epoch=4", "callbacks=ema", "callbacks.averaging.decay=0.7"]
    code, printed = run_command([sys.executable, str(RUN), *words, "trainer=ddp", "hydra.run.dir=two"], tmp_path)
    assert code == 0, printed
    assert "with 2 processes" in printed and printed.count("epoch 2/2") == printed.count("run folder:") == 1
    code, printed = command(*words, "hydra.run.dir=one")
    assert code == 0, printed
    one, two = runs.RunFolder(tmp_path / "one"), runs.RunFolder(tmp_path / "two")
    assert_alike(one, two)
    averages = [json.loads((run.path / "average" / "summary.json").read_text())["bps_mean"] for run in (one, two)]
    assert averages[1] == pytest.approx(averages[0], abs=1e-6)
    code, printed = command("task=evaluate", f"checkpoint={one.best}", "average=true", "hydra.run.dir=averaged")
    assert code == 0, printed
    bps = json.loads((tmp_path / "averaged" / "summary.json").read_text())["bps_mean"]
    assert bps == pytest.approx(averages[0], abs=1e-6)
    assert bps != pytest.approx(json.loads((one.path / "summary.json").read_text())["bps_mean"], abs=1e-4)
    assert {p.name for p in two.path.iterdir()} == {p.name for p in one.path.iterdir()}


@pytest.mark.long
@pytest.mark.timeout(1800)
def test_torchrun_stops_and_continues_as_if_nothing_had_happened(tiny, tmp_path):
    """Started from outside, with accumulated batches; Ctrl-C in all processes, then ``resume=auto``."""
    words = [
        *[sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(RUN)],
        *[*tiny, *SMALL, "trainer=ddp", "trainer.steps_per_epoch=10", "trainer.accumulate=2", "data.clip_length=40"],
    ]
    code, printed = run_command([*words, "hydra.run.dir=whole", "outputs=elsewhere"], tmp_path)
    assert code == 0, printed
    code, printed = run_command([*words, "data.num_workers=0"], tmp_path, interrupt_at="epoch 1/2")
    assert code != 0 and "resume=auto finds it" in printed, printed
    (folder,) = (tmp_path / "outputs" / "train").iterdir()
    assert 10 < torch.load(runs.RunFolder(folder).last, weights_only=True)["global_step"] < 20
    code, printed = run_command([*words, "data.num_workers=0", "resume=auto"], tmp_path)
    assert code == 0 and f"continues the run {folder}" in printed, printed
    assert_alike(runs.RunFolder(tmp_path / "whole"), runs.RunFolder(folder))
