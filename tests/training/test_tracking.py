"""Weights & Biases: what arrives, that a continued run goes on in its own, and that failures end nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import wandb
from wandb_reading import Logged, read_log

from vivit_core.training.tracking import ID_FILE, OBJECTIVE, WandbRun

SMALL = [
    "logger=wandb",
    "trainer=debug",
    "baseline=null",
    "model.embedding_dim=24",
    "model.spatial_depth=1",
    "model.temporal_depth=1",
    "model.attention.heads=2",
]


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    """No key, no mode, no home with a key in it; and nothing of one test is left to the next."""
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_SWEEP_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    yield
    wandb.teardown()


def logs_under(folder: Path) -> list[Logged]:
    wandb.teardown()  # W&B's own process writes at its leisure
    return [read_log(path) for path in sorted(folder.rglob("offline-run-*/run-*.wandb"))]


def logger(folder: Path, **changed) -> WandbRun:
    settings = {"project": "p", "entity": None, "name": None, "group": None, "tags": None, "offline": False}
    return WandbRun(**(settings | {"save_dir": str(folder), "checkpoint": True} | changed))


@pytest.mark.slow
def test_a_training_without_an_account(command, tiny, tmp_path):
    code, printed = command(*tiny, *SMALL)
    assert code == 0, printed
    assert printed.count("stays offline, for `wandb sync`") == 1
    (log,) = logs_under(tmp_path)
    assert log.config["model"]["embedding_dim"] == 24 and log.config["data"]["clip_length"] == 60
    names = {name for row in log.rows for name in row}
    assert names >= {
        *("train/loss", "train/grad_norm", "train/lr", "val/loss", OBJECTIVE, "val/bps_sim0", "val/corr_mean"),
        *("system/samples_per_sec", "system/data_wait_frac", "val/rates_sim0", "val/rates_sim1"),
    }
    assert log.summary[OBJECTIVE] == pytest.approx(max(log.values(OBJECTIVE)))
    assert log.summary["test/units"] == 12 and "test/bps_mean" in log.summary
    assert ("model", f"twin-{log.run_id}") in log.artifacts and log.exit_code == 0
    (id_file,) = tmp_path.rglob(ID_FILE)
    assert id_file.read_text() == log.run_id


def test_a_continued_run_goes_on_in_the_same_wandb_run(tmp_path):
    for value in (1.0, 2.0):
        one = logger(tmp_path, offline=True)
        one.log_metrics({OBJECTIVE: value}, step=int(value))
        wandb.finish()
    logs = logs_under(tmp_path)
    assert len(logs) == 2 and logs[0].run_id == logs[1].run_id != ""
    assert [log.values(OBJECTIVE) for log in logs] == [[1.0], [2.0]]


def test_in_a_sweep_the_agents_run_is_taken_and_its_keys_stay(monkeypatch, tmp_path):
    one = logger(tmp_path, offline=True)
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    one.experiment.config["model"] = "vivit_small"  # what an agent does for a sweep over `model`
    one.log_settings({"model": {"embedding_dim": 24}, "seed": 3})
    wandb.finish()
    (log,) = logs_under(tmp_path)
    assert log.run_id == "theirs"
    assert log.config["model"] == "vivit_small" and log.config["model_settings"] == {"embedding_dim": 24}
    assert log.config["seed"] == 3


def test_without_a_way_to_the_server_the_log_stays_on_the_disk(monkeypatch, tmp_path, capsys):
    start = wandb.init

    def unreachable(**named):
        if named.get("mode") != "offline":
            raise wandb.errors.CommError("no route to host")
        return start(**named)

    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(wandb, "init", unreachable)
    one = logger(tmp_path)
    one.log_settings({"seed": 3})
    one.log_metrics({OBJECTIVE: 1.0}, step=1)
    wandb.finish()
    (log,) = logs_under(tmp_path)
    assert log.config["seed"] == 3 and log.values(OBJECTIVE) == [1.0]
    assert capsys.readouterr().err.count("no route to host") == 1


def test_a_failure_in_the_middle_goes_on_offline(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setattr(WandbRun, "_init", start_offline := counted_start())
    one = logger(tmp_path)
    one.log_settings({"seed": 3})
    one.log_metrics({OBJECTIVE: 1.0}, step=1)
    monkeypatch.setattr(one._experiment, "log", broken)
    one.log_metrics({OBJECTIVE: 2.0}, step=2)
    one.log_metrics({OBJECTIVE: 3.0}, step=3)
    wandb.finish()
    assert start_offline.calls == 2
    log = logs_under(tmp_path)[-1]
    assert log.values(OBJECTIVE) == [2.0, 3.0] and log.config["seed"] == 3
    assert capsys.readouterr().err.count("pipe broke") == 1


@pytest.mark.slow
def test_a_training_outlives_a_wandb_that_does_not_start(command, tiny, monkeypatch):
    start = wandb.init
    monkeypatch.setattr(wandb, "init", lambda **named: start(**named) if named.get("mode") == "disabled" else broken())
    code, printed = command(*tiny, *SMALL)
    assert code == 0 and printed.count("the training goes on without it") == 1, printed


def broken(*_, **__):
    raise ConnectionResetError("the pipe broke")


def counted_start():
    """``WandbRun._init`` with every run on the disk, as there is no server here."""
    own = WandbRun._init

    def start(self):
        start.calls += 1
        mode, self._wandb_init["mode"] = self._wandb_init.get("mode"), "offline"
        own(self)
        self._wandb_init["mode"] = mode

    start.calls = 0
    return start
