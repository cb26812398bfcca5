"""A mistake in the configuration is named, all of them at once; what identifies a run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from omegaconf import OmegaConf

from vivit_core.cli import schema, validate
from vivit_core.cli.schema import ConfigError

CONF = schema.conf_dir()


@pytest.mark.parametrize("devices", ["auto", "-1"])
def test_devices_are_a_number(devices, compose):
    with pytest.raises(ConfigError, match=r"trainer\.devices.*say how many: a batch is shared among them"):
        compose(f"trainer.devices={devices}")


def test_a_gradients_norm_is_not_negative(compose):
    with pytest.raises(ConfigError, match=r"trainer\.gradient_clip=-1\.0 should be greater than or equal to 0"):
        compose("trainer.gradient_clip=-1.0")


@pytest.mark.parametrize(
    "words",
    [
        ["task=receptive_fields", "gradient_clips=1", "duration_s=0.0", "gradient_clip_s=-0.5"],
        ["task=tuning", "mei_units=-1", "natural=0", "lab_units=0"],
        ["task=stream", "bins=1"],
        ["task=attention", "trial=-1"],
        ["task=compare", "checkpoints=[a,b]", "resamples=0"],
        ["task=scaling", "sweeps=[a]", "resamples=0"],
        ["task=train", "teacher_share=1.5"],
    ],
    ids=lambda words: " ".join(words),
)
def test_a_tasks_numbers_have_bounds(compose, words):
    checkpoint = ["checkpoint=a"] if words[0] not in ("task=compare", "task=scaling", "task=train") else []
    with pytest.raises(ConfigError) as error:
        compose(*words, *checkpoint)
    for word in words:
        if "[" not in word and not word.startswith("task="):
            assert f"{word} should be" in str(error.value)


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


@pytest.mark.slow
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


def wrong_for(value):
    """Values of another type than a setting's. A YAML writes what may be a fraction as one (6.0)."""
    if isinstance(value, bool):
        return [3, "yes"]
    if isinstance(value, int):
        return [1.5, "abc", True]
    if isinstance(value, float):
        return ["abc", True]
    if isinstance(value, str):
        return [7, ["a"]]
    return ["abc", 3] if isinstance(value, list) else []


@pytest.mark.slow
def test_every_value_of_a_wrong_type_is_named(compose):
    settings = compose()
    # A group's settings are wrong at once: all its problems are told. Those of the root are told before any group's.
    together: dict[Any, dict[tuple[str | int, ...], list[Any]]] = {}
    for path, value in leaves(settings):
        if path[0] not in ("callbacks", "logger") and path[-1] != "_target_":
            together.setdefault(path[:-1] or path, {})[path] = wrong_for(value)
    tried = 0
    for ours in together.values():
        for turn in range(3):
            given = {path: wrong[turn] for path, wrong in ours.items() if turn < len(wrong)}
            if not given:
                continue
            cfg: Any = settings
            for path, bad in given.items():
                cfg = changed(cfg, path, bad)
            with pytest.raises(ConfigError) as error:
                validate.validate(cfg)
            missed = [path for path in given if f"{'.'.join(map(str, path))}=" not in str(error.value)]
            assert not missed
            tried += len(given)
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


@pytest.mark.parametrize("group", validate.RECIPES)
def test_a_recipe_that_would_change_nothing_is_refused(group, compose, tmp_path):
    (tmp_path / group).mkdir()
    (tmp_path / group / "mine.yaml").write_text("optim:\n  lr: 0.5\n")
    words = (f"hydra.searchpath=[file://{tmp_path}]", f"{group}=mine")
    with pytest.raises(ConfigError, match=rf"{group}: its file lacks the line `# @package _global_`.*{group}=…"):
        compose(*words)
    (tmp_path / group / "mine.yaml").write_text("# @package _global_\noptim:\n  lr: 0.5\n")
    assert compose(*words)["optim"]["lr"] == 0.5
