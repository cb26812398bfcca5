"""The configuration: every shipped file composes and fits its code; every mistake is named."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from vivit_core.cli import schema, validate
from vivit_core.cli.schema import ConfigError
from vivit_core.cli.trained import is_fitted_alone
from vivit_core.models.twin import Twin
from vivit_core.parts.build import build, build_all
from vivit_core.specs import Batch, Clips, RecordingSpec

CONF = schema.conf_dir()
NEEDED = {
    "task=evaluate": ["checkpoint=some.ckpt"],
    "task=receptive_fields": ["checkpoint=some.ckpt"],
    "task=tuning": ["checkpoint=some.ckpt"],
    "task=compare": ["checkpoints=[some.ckpt,other.ckpt]"],
    "task=stream": ["checkpoint=some.ckpt"],
    "task=attention": ["checkpoint=some.ckpt"],
    "task=import": [
        "importer=arrays",
        "source=a.npz",
        "out=b.h5",
        "importer.recording_id=a",
        "importer.frame_rate_hz=30",
    ],
    "importer=arrays": ["importer.recording_id=a", "importer.frame_rate_hz=30"],
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
            behavior=torch.randn(clips, bins, r.behavior_dim, generator=made),
        )
        for r in recordings
    }


@pytest.mark.parametrize("choice", choices())
def test_every_file_composes_and_fits_its_code(choice, compose):
    used = ["task=import", "source=a", "out=b"] if choice.startswith("importer=") else []
    assert compose(choice, *used, *NEEDED.get(choice, []))["seed"] == 0


@pytest.mark.parametrize(
    "choice", [c for c in choices() if c.startswith(("model", "readout")) and not c.startswith("model=ln")]
)
def test_every_model_is_built_and_stepped(choice, compose, tiny):
    settings = compose(choice, *tiny)
    assert not is_fitted_alone(settings["model"])
    recordings = recordings_of(settings["data"])
    twin = Twin(settings["model"], settings["readout"], settings["likelihood"], recordings)
    batch = batch_for(recordings, clips=1, bins=24)
    counts = twin(batch)
    assert {name: x.shape for name, x in counts.items()} == {r.recording_id: (1, 24, 6) for r in recordings}
    sum(x.sum() for x in counts.values()).backward()
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


@pytest.mark.parametrize("devices", ["auto", "-1"])
def test_devices_are_a_number(devices, compose):
    with pytest.raises(ConfigError, match=r"trainer\.devices.*say how many: a batch is shared among them"):
        compose(f"trainer.devices={devices}")


def test_a_gradients_norm_is_not_negative(compose):
    with pytest.raises(ConfigError, match=r"trainer\.gradient_clip=-1\.0 should be greater than or equal to 0"):
        compose("trainer.gradient_clip=-1.0")


# Mistakes -----------------------------------------------------------------------------------------------------------


def leaves(node: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from leaves(value, (*path, key))
    else:
        yield path, node


def changed(settings: dict[str, Any], path: tuple[str | int, ...], value: Any, key: str | None = None) -> Any:
    """The configuration with another value, or another name, at one place."""
    cfg = OmegaConf.to_container(OmegaConf.create(settings))
    node: Any = cfg
    for step in path[:-1]:
        node = node[step]
    if key is None:
        node[path[-1]] = value
    else:
        node[key] = node.pop(path[-1])
    return OmegaConf.create(cfg)


def test_every_key_spelt_wrong_is_named(compose):
    settings = compose("logger=wandb", "model/frontend=temporal_basis")
    keys = [
        path for path, _ in leaves(settings) if path[-1] != "_target_" and path[:3] != ("data", "geometry", "behavior")
    ]
    assert len(keys) > 80
    for path in keys:
        typo = f"{path[-1]}x"
        if path[:2] == ("logger", "wandb"):
            continue  # W&B takes any further setting
        with pytest.raises(ConfigError) as error:
            validate.validate(changed(settings, path, None, key=typo))
        assert ".".join((*map(str, path[:-1]), typo)) in str(error.value)


def test_every_value_of_a_wrong_type_is_named(compose):
    settings = compose()
    ours = [
        (path, value)
        for path, value in leaves(settings)
        if path[0] not in ("callbacks", "logger") and path[-1] != "_target_"
    ]
    tried = 0
    for path, value in ours:
        wrong: list[Any] = []
        if isinstance(value, bool):
            wrong = [3, "yes"]
        elif isinstance(value, int):
            wrong = [1.5, "abc", True]
        elif isinstance(value, float):
            wrong = ["abc", True]
        elif isinstance(value, str):
            wrong = [7, ["a"]]
        elif isinstance(value, list):
            wrong = ["abc", 3]
        for bad in wrong:
            with pytest.raises(ConfigError) as error:
                validate.validate(changed(settings, path, bad))
            assert f"{'.'.join(map(str, path))}=" in str(error.value)
            tried += 1
    assert tried > 150


def test_all_problems_are_told_at_once(compose):
    with pytest.raises(ConfigError) as error:
        compose("+model.embeding_dim=3", "optim.lr=abc", "trainer.precision=16-mixed", "model.spatial_depth=1.5")
    assert len(error.value.problems) == 4
    assert "model.embeding_dim does not exist; did you mean model.embedding_dim?" in str(error.value)
    assert "bf16-mixed" in next(p for p in error.value.problems if "16-mixed" in p)


def test_a_whole_number_may_stand_for_a_fraction(compose):
    assert compose("optim.lr=1")["optim"]["lr"] == 1


def test_values_that_only_the_program_knows_cannot_be_set(compose):
    with pytest.raises(ConfigError, match=r"model\.attention\.dim is not yours to set"):
        compose("+model.attention.dim=3")


def test_a_missing_value_is_named(compose):
    with pytest.raises(ConfigError, match=r"checkpoint has no value; say checkpoint="):
        compose("task=evaluate")
    with pytest.raises(ConfigError, match=r"model\.embedding_dim is missing: ViViT needs it"):
        compose("~model.embedding_dim")


def test_a_target_that_does_not_exist_is_named(compose):
    with pytest.raises(
        ConfigError, match=r"model\.tokenizer\._target_: there is no 'vivit_core.models.tokenizers.base.Tubelett'"
    ):
        compose("model.tokenizer._target_=vivit_core.models.tokenizers.base.Tubelett")


def test_a_reference_that_leads_nowhere_is_an_error(compose):
    with pytest.raises(ConfigError, match="nowhere"):
        compose("data.seed=${nowhere}")


# What identifies a run ----------------------------------------------------------------------------------------------


def test_fingerprint_is_of_what_is_computed_alone(compose):
    same = validate.fingerprint(compose())
    for other in ("outputs=elsewhere", "logger=wandb", "resume=auto", "debug=true"):
        assert validate.fingerprint(compose(other)) == same
    assert validate.fingerprint(validate.relocated(compose(), "/another/folder")) == same
    for other in ("seed=1", "optim.lr=1e-5", "callbacks.early_stopping.patience=3", "data.burn_in=7", "predict=last"):
        assert validate.fingerprint(compose(other)) != same


def test_relocated_moves_the_runs_files_and_nothing_else(compose):
    before = compose("data.root=/run/folder-of-recordings")
    after = validate.relocated(before, "/new")
    assert after["callbacks"]["checkpoint"]["dirpath"] == "/new/checkpoints"
    assert after["logger"]["csv"]["save_dir"] == after["run_dir"] == "/new"
    assert after["data"] == before["data"] and before["run_dir"] == "/run/folder"


def test_budget_refuses_nothing_to_do():
    with pytest.raises(ValueError, match=r"trainer\.epochs=0 must be above zero"):
        schema.Budget(epochs=0, steps_per_epoch=1, batch_size=1, accumulate=1, precision="32-true", max_minutes=1.0)


def test_optim_is_what_the_code_takes(compose):
    node = compose()["optim"]
    made = build("optim", node)
    assert {key: getattr(made, key) for key in node if key != "_target_"} == {
        k: v for k, v in node.items() if k != "_target_"
    }


def test_files_are_plain_yaml():
    for path in CONF.rglob("*.yaml"):
        assert isinstance(yaml.safe_load(path.read_text()), dict), path
