"""Settings that follow the recordings, from conf's marks to the run folder."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from omegaconf import DictConfig

from vivit_core.cli import schema
from vivit_core.cli.planned import expected, explain, followers, following, free_keys, sizes_of
from vivit_core.cli.schema import ConfigError
from vivit_core.cli.validate import validate
from vivit_core.data.recording import Trials, write_recording
from vivit_core.training.planner import Sizes, plan


def composed(*words: str) -> DictConfig:
    with initialize_config_dir(str(schema.conf_dir()), version_base="1.3"):
        return hydra_compose("config", overrides=["run_dir=/run/folder", *words])


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a recording of 40 bars at 50 Hz, in trials of 80 bins."""
    folder, random = tmp_path_factory.mktemp("bars"), np.random.default_rng(0)
    start = np.arange(0, 800, 80)
    trials = Trials(start, start + 80, [f"s{i}" for i in range(10)], ["train"] * 8 + ["val", "test"])
    write_recording(
        folder / "bars.h5",
        recording_id="bars",
        frame_rate_hz=50.0,
        frames=random.integers(0, 255, (800, 40, 1), dtype=np.uint8),
        counts=random.poisson(0.3, (800, 3)),
        trials=trials,
    )
    return folder


@pytest.mark.slow
def test_every_mark_is_a_key_that_follows(compose):
    """A mark that nothing sets would be a number that only looks as if it followed."""
    everything = Sizes(36, 64, 120.0, 1, 10, 600, 6000, fading_s=0.3)
    for words in (
        [],
        ["model=resnet"],
        ["model=vivit_baseline"],
        ["model=factorized_cnn"],
        ["model=ln"],
        ["data=liu2017"],
        ["data=mahuas2020"],
        ["experiment=bars"],
        ["experiment=small_frames"],
    ):
        free = set(free_keys(composed(*words)))
        assert {"data.clip_length", "data.burn_in", "trainer.cpu.batch_size"} <= free
        assert {choice.key for choice in plan(everything, compose(*words), free)} == free


@pytest.mark.parametrize("data", ["multi_backimage", "liu2017", "mahuas2020"])
def test_conf_says_what_follows_its_own_recordings(data, compose):
    """So that a task that composes without recordings has their numbers, and nobody is told two."""
    settings, free = compose(f"data={data}"), set(free_keys(composed(f"data={data}")))
    for choice in plan(expected(settings["data"], None), settings, free):
        if choice.key.startswith("data.") or data == "multi_backimage":
            node = settings
            for word in choice.key.split("."):
                node = node[word]
            assert node == choice.value, choice.key


def test_they_follow_files_and_what_refers_to_them_follows_too(bars, capsys):
    cfg = composed(f"data.root={bars}")
    before = validate(cfg)
    settings = following(cfg, before)
    data = settings["data"]
    assert (data["clip_length"], data["burn_in"], data["evaluation_burn_in"]) == (80, 21, 21)
    assert settings["trainer"]["cpu"]["batch_size"] == 16
    assert before["data"]["clip_length"] == 300 and validate(cfg) == before  # what was composed stays
    assert {"data.burn_in", "data.evaluation_burn_in", "trainer.cuda.batch_size"} <= set(followers(cfg))
    printed = capsys.readouterr().out
    assert "1 recording, 3 units, frames of 40×1 px at 50 Hz" in printed
    assert "data.clip_length=80" in printed and "# 1.6 s: trials are no longer" in printed
    assert "trainer.cpu.batch_size=16" in printed and "cuda" not in printed


def test_the_command_line_overrides_them(bars, capsys):
    words = [f"data.root={bars}", "data.clip_length=30", "trainer.batch_size=2"]
    cfg = composed(*words)
    settings = following(cfg, validate(cfg))
    assert (settings["data"]["clip_length"], settings["data"]["burn_in"]) == (30, 10)
    printed = capsys.readouterr().out
    assert "data.burn_in=10" in printed and "clip_length" not in printed and "batch_size" not in printed


def test_a_model_that_comes_with_a_checkpoint_stays(bars, capsys):
    words = [f"data.root={bars}", "init_from=some.ckpt", "optim.core_lr_scale=1"]
    cfg = composed(*words)
    settings = following(cfg, validate(cfg))
    assert settings["model"] == validate(cfg)["model"] and settings["data"]["clip_length"] == 80
    assert "model." not in capsys.readouterr().out
    cfg = composed(f"data.root={bars}")
    tokenizer = following(cfg, validate(cfg))["model"]["tokenizer"]
    assert tokenizer["stem"]["stride"] == tokenizer["patch_size"][2] == 1


def test_recordings_of_several_rates_are_seen_at_the_trainings(bars, tmp_path, compose, capsys):
    random, start = np.random.default_rng(0), np.arange(0, 800, 200)
    write_recording(
        tmp_path / "fast.h5",
        recording_id="fast",
        frame_rate_hz=100.0,
        frames=random.integers(0, 255, (800, 8, 6), dtype=np.uint8),
        counts=random.poisson(0.3, (800, 2)),
        trials=Trials(start, start + 200, list("abcd"), ["train", "train", "val", "test"]),
    )
    both = [str(bars / "bars.h5"), str(tmp_path / "fast.h5"), str(tmp_path / "broken.h5")]
    (tmp_path / "broken.h5").write_text("no recording")
    node = {"recordings": both, "root": None, "frame_rate_hz": None, "most_trials": None, "most_units": None}
    assert sizes_of(node, None) == Sizes(8, 6, 50.0, 2, 5, 80, 640 + 200, shortest="bars")
    assert sizes_of(node | {"most_units": 1}, None) == Sizes(8, 6, 50.0, 2, 2, 80, 640 + 200, shortest="bars")
    assert sizes_of({**node, "frame_rate_hz": 25.0, "most_trials": 1}, [20, 10]) == Sizes(
        20, 10, 25.0, 2, 5, 40, 90, shortest="bars"
    )
    assert "degrees" not in capsys.readouterr().out
    for name, degrees in (("fine", 0.5), ("coarse", 2.0)):
        write_recording(
            tmp_path / f"{name}.h5",
            recording_id=name,
            frame_rate_hz=100.0,
            frames=random.integers(0, 255, (800, 8, 6), dtype=np.uint8),
            counts=random.poisson(0.3, (800, 2)),
            trials=Trials(start, start + 200, list("abcd"), ["train", "train", "val", "test"]),
            degrees_per_pixel=degrees,
        )
    unlike = sizes_of({**node, "recordings": [str(tmp_path / f"{name}.h5") for name in ("fine", "coarse")]}, None)
    assert unlike is not None
    explain([], unlike, compose()["trainer"])
    assert "0.5 degrees of visual angle in recording fine and 2 in coarse" in capsys.readouterr().out.replace("\n", " ")
    near = sizes_of({**node, "frame_rate_hz": 50.2}, None)  # near enough that bins stay as they are
    assert near is not None and (near.trial_bins, near.train_bins) == (80, 640 + 200)
    assert sizes_of({**node, "recordings": both[2:]}, None) is None  # which the task will say


def test_nothing_follows_recordings_that_cannot_be_read(bars, tmp_path, capsys):
    """What the simulator's recordings are is not said of them; of a data file's own, its geometry knows."""
    for word in (f"data.root={tmp_path}/none", f"data.root={tmp_path}", f"data.root={bars}/bars.h5"):
        cfg = composed(word)
        before = validate(cfg)
        assert following(cfg, before, {"data.root"}) == before
    cfg = composed(f"data.recordings=[{tmp_path}/none.h5]")
    assert following(cfg, validate(cfg), {"data.recordings"}) == validate(cfg)
    assert "settings that follow" not in capsys.readouterr().out
    cfg = composed("data=liu2017", f"data.recordings=[{tmp_path}/none.h5]")
    following(cfg, validate(cfg))
    assert "settings that follow the recordings (1 recording" in capsys.readouterr().out


def test_a_root_that_cannot_be_read_is_the_only_thing_said(command, bars):
    code, printed = command(f"data.root={bars}/bars.h5")
    assert code == 1 and "settings that follow" not in printed
    assert f"data.root: {bars}/bars.h5 is a file; give a folder, or say data.recordings=[{bars}/bars.h5]" in printed


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("data.clip_length=0", "should be greater than 0"),
        ("data.frame_rate_hz=-5.0", "should be greater than 0"),
        ("data.most_trials=0", "should be greater than 0"),
        ("data.train_minutes=0.0", "should be greater than 0"),
        ("data.most_units=0", "should be greater than 0"),
        ("data.geometry.frame_rate_hz=0.0", "should be greater than 0"),
        ("data.geometry.recordings=0", "should be greater than 0"),
        ("data.geometry.units=0", "should be greater than 0"),
        ("data.geometry.frame_shape=[1, 0, 9]", "should be greater than 0"),
        ("model.tokenizer.stem.stride=-2", "should be greater than 0"),
        ("model.frame_size=[0, 0]", "give two numbers above 0, [height,width] in px, or null"),
        ("model.frame_size=[32]", "give two numbers above 0, [height,width] in px, or null"),
    ],
)
def test_values_that_are_no_sizes_are_refused_before_anything_follows_them(word, said, compose):
    with pytest.raises(ConfigError, match=re.escape(word) + ".*" + re.escape(said)):
        compose(word)


@pytest.mark.parametrize("patch", ["[]", "[8,8]"])
def test_a_patch_that_is_none_is_the_models_to_refuse(patch, command):
    code, printed = command("task=plan", f"model.tokenizer.patch_size={patch}")
    assert code == 1 and "must be three positive numbers: [frames, pixels down, pixels across]" in printed, printed


@pytest.mark.slow
def test_a_training_keeps_plain_numbers_and_an_evaluation_takes_them(command, bars):
    """The command of the README, in small: nothing said of clips."""
    words = ["experiment=bars", f"data.root={bars}", "trainer=debug", "baseline=null", "hydra.run.dir=run"]
    code, printed = command(*words)
    assert code == 0, printed
    assert "data.clip_length=80" in printed and "trial" in printed
    kept = yaml.safe_load(Path("run/config.yaml").read_text())
    assert kept["data"]["clip_length"] == 80 and kept["trainer"]["cpu"]["batch_size"] == 16
    foretold = printed.index("expected from here on: ")
    for stage in ("reading the recordings begins", "starting values from data begins", "the training begins"):
        assert stage in printed, printed
    assert printed.index("the limit covers the training") < foretold < printed.index("the training begins")
    assert "the evaluation begins" in printed
    code, printed = command(*words, "resume=auto")
    assert code == 0 and "already finished" in printed, printed
    code, printed = command("task=evaluate", "checkpoint=run/checkpoints/best.ckpt", "hydra.run.dir=again")
    assert code == 0 and "settings that follow" not in printed, printed
    assert yaml.safe_load(Path("again/config.yaml").read_text())["data"]["clip_length"] == 80


def test_an_inspection_says_them_too(command, bars):
    code, printed = command("task=inspect", f"data.root={bars}")
    assert code == 0 and "data.clip_length=80" in printed, printed


def test_filters_follow_calcium_traces(tmp_path, compose):
    """What is left of the bin before, .8 of it, fades to 1/e in .15 s at 30 Hz; a recording of spikes has none."""
    random = np.random.default_rng(0)
    start = np.arange(0, 3000, 300)
    for name, kind in (("traces", "calcium"), ("spikes", "spikes")):
        counts = random.poisson(0.3, (3000, 4)).astype(np.float32)
        if kind == "calcium":
            for t in range(1, len(counts)):
                counts[t] += 0.8 * counts[t - 1]
        (tmp_path / name).mkdir()
        write_recording(
            tmp_path / name / f"{name}.h5",
            recording_id=name,
            frame_rate_hz=30.0,
            frames=random.integers(0, 255, (3000, 8, 6), dtype=np.uint8),
            counts=counts,
            trials=Trials(start, start + 300, np.array(list("abcdefghij")), np.array(["train"] * 8 + ["val", "test"])),
            kind=kind,
        )
    words = [f"data.root={tmp_path / 'traces'}", "model.own_filter.patch=5"]
    cfg = composed(*words)
    settings = following(cfg, validate(cfg), {"data.root"})
    assert settings["baseline"]["duration_s"] == settings["model"]["own_filter"]["duration_s"]
    assert settings["baseline"]["duration_s"] == pytest.approx(3 / (30 * -np.log(0.8)), rel=0.15)
    cfg = composed(f"data.root={tmp_path / 'spikes'}")
    assert following(cfg, validate(cfg), {"data.root"})["baseline"]["duration_s"] == 0.3
