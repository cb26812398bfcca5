"""The shipped settings: each file composes and fits its code, keeps to its own group, and no value stands twice."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from vivit_core.cli import schema
from vivit_core.cli.trained import is_fitted_alone
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build, build_all
from vivit_core.specs import Batch, Clips, RecordingSpec
from vivit_core.testing.twins import begin_anywhere

CONF = schema.conf_dir()
RECIPES = ("experiment", "hparams_search")  # change several groups together, and say so in their first lines
# Sets how much of the data is used, and what is simulated where none is given; that is what it is for.
ALLOWED = {"trainer/debug.yaml": ["data", "callbacks"]}
OPTIONS = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent != CONF and "hydra" not in path.parts]
GROUPS = {".".join(path.parent.relative_to(CONF).parts) for path in OPTIONS}


def keys_of(path: Path) -> list[str]:
    """Where an option's settings stand in the whole configuration: its package, and the first key below."""
    text = path.read_text(encoding="utf-8")
    group = ".".join(path.parent.relative_to(CONF).parts)
    said = re.search(r"^# @package (\S+)", text, flags=re.MULTILINE)
    package = {None: group, "_global_": ""}.get(said and said[1], said and said[1])
    content = [key for key in yaml.safe_load(text) or {} if key != "defaults"]
    return [".".join(filter(None, (package, key))) for key in content]


def foreign(path: Path, group: str) -> list[str]:
    """The settings of an option that belong to another group, or to none where the option has one of its own."""
    own = [key for key in keys_of(path) if key == group or key.startswith(f"{group}.")]
    others = [key for key in keys_of(path) if key not in own]
    if group == "task":  # whose settings stand at the root
        return [key for key in others if key.split(".")[0] in GROUPS]
    return others


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: str(path.relative_to(CONF)))
def test_an_option_sets_nothing_of_another_group(path: Path) -> None:
    """Else what the user chose there would be replaced without a word."""
    group = ".".join(path.parent.relative_to(CONF).parts)
    if group not in RECIPES:
        assert foreign(path, group) == ALLOWED.get(str(path.relative_to(CONF)), [])


def test_a_foreign_key_is_noticed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(globals(), "CONF", tmp_path)
    for name, text in (
        ("data/transforms/a.yaml", "# @package data\nbehavior: [x]\ntransforms: {}\n"),
        ("task/b.yaml", "# @package _global_\ntask: b\nmodel: {}\n"),
        ("trainer/c.yaml", "# @package _global_\nseed: 1\n"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert foreign(tmp_path / "data/transforms/a.yaml", "data.transforms") == ["data.behavior"]
    assert foreign(tmp_path / "task/b.yaml", "task") == ["model"]
    assert foreign(tmp_path / "trainer/c.yaml", "trainer") == ["seed"]


def nodes(value: Any) -> Iterator[dict[str, Any]]:
    """The parts among some settings: all that has a ``_target_``."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield value
        for inner in value.values():
            yield from nodes(inner)


def settings(path: Path) -> dict[str, Any]:
    """An option's settings, with the keys that its defaults list fills: None, or what they fill at its own level."""
    content: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    for entry in content.pop("defaults", []):
        for key, option in entry.items() if isinstance(entry, dict) else ():
            group, _, place = key.partition("@")
            if place == "_here_":
                content = settings(path.parent / group / f"{option}.yaml") | content
            elif not group.startswith(("override", "/")):  # a recipe's choice, for the root
                *above, last = group.split("/")
                node = content
                for word in above:
                    node = node[word]
                node.setdefault(last, None)
    return content


def twice(path: Path) -> list[str]:
    """What an option sets though the constructor has a value for it as well, of classes that are ours."""
    found = []
    for node in nodes(settings(path)):
        module, _, name = node["_target_"].rpartition(".")
        made = getattr(import_module(module), name)
        if not inspect.unwrap(made.__init__).__module__.startswith("vivit_core."):
            continue  # Lightning's own constructor
        for parameter in inspect.signature(made).parameters.values():
            if parameter.name in node and parameter.default is not parameter.empty:
                found.append(f"{name}.{parameter.name}={parameter.default!r}")
    return found


@pytest.mark.parametrize("path", OPTIONS, ids=lambda path: str(path.relative_to(CONF)))
def test_no_value_stands_twice(path: Path) -> None:
    """What conf sets, the constructor leaves open: there the two could differ, and nobody would see which holds."""
    assert twice(path) == []


def test_a_second_value_is_noticed(tmp_path: Path) -> None:
    """Also where it comes with the defaults list, at the top and further down."""
    bar = "_target_: vivit_core.training.callbacks.progress.TrainingProgress"
    for name, text in (
        ("a.yaml", f"x:\n  {bar}\n  bar: true\n"),
        ("b.yaml", f"defaults:\n  - below@_here_: c\n{bar}\n"),
        ("below/c.yaml", "bar: true\n"),
        ("d.yaml", f"defaults:\n  - x/bar: c\nx:\n  {bar}\n"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    for name in ("a.yaml", "b.yaml", "d.yaml"):
        assert twice(tmp_path / name) == ["TrainingProgress.bar=True"]


NEEDED = {
    "task=evaluate": ["checkpoint=some.ckpt"],
    "task=receptive_fields": ["checkpoint=some.ckpt"],
    "task=tuning": ["checkpoint=some.ckpt"],
    "experiment=surround_lab": ["checkpoint=some.ckpt"],
    "task=compare": ["checkpoints=[some.ckpt,other.ckpt]"],
    "task=scaling": ["sweeps=[folder]"],
    "task=ensemble": ["checkpoints=[some.ckpt,other.ckpt]", "out=both.ckpt"],
    "task=stream": ["checkpoint=some.ckpt"],
    "task=attention": ["checkpoint=some.ckpt"],
    "task=export": ["checkpoint=some.ckpt", "out=folder"],
    "task=publish": ["checkpoint=some.ckpt", "out=folder"],
    "task=predict": ["checkpoint=some.ckpt", "video=film.mp4", "out=rates.h5"],
    "task=import": [
        "importer=arrays",
        "source=a.npz",
        "out=b.h5",
        "importer.recording_id=a",
        "importer.frame_rate_hz=30",
    ],
    "importer=arrays": ["importer.frame_rate_hz=30"],
    "importer/about=blank": ["importer=nwb"],
}


def choices() -> list[str]:
    """``group=name`` for each file in the tree."""
    files = sorted(path.relative_to(CONF).with_suffix("") for path in CONF.rglob("*.yaml") if path.parent != CONF)
    return [f"{path.parent}={path.name}" for path in files]


def recordings_of(data: dict[str, Any]) -> list[RecordingSpec]:
    """Recordings such as ``data.geometry`` describes."""
    geometry = data["geometry"]
    units, width = geometry["units"], sum(geometry["behavior"].values())
    return [
        RecordingSpec(
            recording_id=f"recording{i}",
            frame_rate_hz=geometry["frame_rate_hz"],
            frame_shape=geometry["frame_shape"],
            unit_ids=tuple(map(str, range(units))),
            unit_mean_counts=(0.1,) * units,
            pixel_mean=120.0,
            pixel_std=50.0,
            behavior=geometry["behavior"],
            behavior_mean=(0.0,) * width,
            behavior_std=(1.0,) * width,
            unit_position_um=tuple(
                tuple(float(u**power) for power in range(1, geometry["position_dim"] + 1)) for u in range(units)
            )
            if geometry["position_dim"]
            else (),
        )
        for i in range(geometry["recordings"])
    ]


def batch_for(recordings: list[RecordingSpec], clips: int, bins: int) -> Batch:
    """Random clips of each recording."""
    made = torch.Generator().manual_seed(0)
    return {
        r.recording_id: Clips(
            frames=torch.randint(
                0, 255, (clips, r.frame_shape[0], bins, *r.frame_shape[1:]), generator=made, dtype=torch.uint8
            ),
            counts=torch.poisson(torch.full((clips, bins, r.n_units), 0.3), generator=made),
            valid=torch.ones(clips, bins, r.n_units, dtype=torch.bool),
            observed=torch.ones(clips, r.n_units, dtype=torch.bool),
            behavior=torch.randn(clips, bins, r.behavior_dim, generator=made),
        )
        for r in recordings
    }


@pytest.mark.parametrize("choice", choices())
def test_every_file_composes_and_fits_its_code(choice, compose):
    used = ["task=import", "source=a", "out=b"] if choice.startswith("importer") else []
    placed = choice.replace("importer/about=", "importer/about@importer=")  # its keys are the importer's own
    placed = placed.replace("data/common=", "data/common@data=")
    assert compose(placed, *used, *NEEDED.get(choice, []))["seed"] == 0


@pytest.mark.parametrize(
    "choice", [c for c in choices() if c.startswith(("model", "readout")) and not c.startswith("model=ln")]
)
def test_every_model_is_built_and_stepped(choice, compose, tiny):
    settings = compose(choice, *tiny)
    assert not is_fitted_alone(settings["model"])
    recordings = recordings_of(settings["data"])
    twin = Twin(settings["model"], settings["readout"], settings["likelihood"], recordings)
    bins = 24 if twin.latents is None else 72  # of which a latent needs several steps
    for own in twin.own_filters or ():
        begin_anywhere(own)  # what was not found has no gradient
    batch = batch_for(recordings, clips=1, bins=bins)
    counts = twin(batch)
    assert {name: x.shape for name, x in counts.items()} == {r.recording_id: (1, bins, 6) for r in recordings}
    (sum(x.sum() for x in counts.values()) + twin.more_nats(counts, batch, 0)).backward()
    without = [name for name, p in twin.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@pytest.mark.parametrize("choice", ["callbacks=default", "callbacks=ema", "logger=csv"])
def test_callbacks_and_loggers_are_made(choice, compose):
    group = choice.split("=")[0]
    assert len(build_all(group, compose(choice)[group])) == len(compose(choice)[group])


def test_width_changes_everywhere_with_embedding_dim_alone(compose, tiny):
    made = {}
    for width in (48, 96):
        settings = compose(f"model.embedding_dim={width}", *tiny)
        twin = Twin(settings["model"], settings["readout"], settings["likelihood"], recordings_of(settings["data"]))
        made[width] = {name: p.shape for name, p in twin.named_parameters() if ".attention." in name or ".ff." in name}
    assert made[48].keys() == made[96].keys() and len(made[48]) > 16
    for name, narrow in made[48].items():
        wide = made[96][name]
        assert all(b in (a, 2 * a) for a, b in zip(narrow, wide, strict=True)), name
        assert narrow != wide or "_norm" in name, name


@pytest.mark.parametrize(("name", "batch", "accumulate"), [("vivit_small", 32, 2), ("vivit_baseline", 16, 4)])
def test_experiments_are_the_quick_starts_recipes(name, batch, accumulate, compose):
    settings = compose(f"experiment={name}")
    optim, budget = settings["optim"], settings["trainer"]["cuda"]
    assert (optim["lr"], optim["weight_decay"], optim["warmup_epochs"]) == (3e-4, 0.05, 10)
    assert (budget["epochs"], budget["steps_per_epoch"], budget["precision"]) == (200, 1000, "bf16-mixed")
    assert (budget["batch_size"], budget["accumulate"]) == (batch, accumulate)
    assert settings["trainer"]["gradient_clip"] == 1.0
    assert settings["callbacks"]["early_stopping"]["patience"] == 50
    assert settings["model"] == compose(f"model={name}")["model"]


def test_debug_beats_an_experiments_budget(compose):
    assert compose("experiment=vivit_baseline", "trainer=debug")["trainer"]["steps_per_epoch"] == 2


def test_debug_makes_a_small_recording_of_its_own_where_none_is_given(compose, tmp_path):
    """A minute on a slow machine: eight clips are trained on, and a handful of trials simulated and predicted."""
    settings = compose("trainer=debug")
    budget, simulator = settings["trainer"], build("data.simulator", settings["data"]["simulator"])
    assert budget["epochs"] * budget["steps_per_epoch"] * budget["batch_size"] * budget["accumulate"] <= 8
    assert simulator.recordings * simulator.n_trials * simulator.n_bins <= 9 * settings["data"]["clip_length"]
    assert simulator.n_bins >= settings["data"]["clip_length"] and simulator.repeated_stimuli > 0
    assert simulator.recordings * simulator.units <= 16
    left = ("most_trials", "simulator", "geometry")  # which is the simulator's, and of plans
    for words in ([], ["data=sensorium2023"], [f"data.root={tmp_path}"]):
        alone, debug = compose(*words)["data"], compose(*words, "trainer=debug")["data"]
        assert {k: v for k, v in alone.items() if k not in left} == {k: v for k, v in debug.items() if k not in left}
        assert (alone["most_trials"], debug["most_trials"]) == (None, 4)
    assert compose("trainer=debug", "data.simulator.recordings=3")["data"]["simulator"]["recordings"] == 3


def test_optim_is_what_the_code_takes(compose):
    node = compose()["optim"]
    made = build("optim", node)
    assert {key: getattr(made, key) for key in node if key != "_target_"} == {
        k: v for k, v in node.items() if k != "_target_"
    }


def test_files_are_plain_yaml():
    for path in CONF.rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path
