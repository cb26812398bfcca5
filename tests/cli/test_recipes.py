"""What a recipe says of the model, which a checkpoint's may not contradict."""

from __future__ import annotations

from pathlib import Path

import pytest

from vivit_core.cli.recipes import said_of_model
from vivit_core.cli.schema import conf_dir


@pytest.mark.parametrize(
    ("recipe", "says"),
    [(None, set()), ("finetune", set()), ("distill", set()), ("surround_lab", set()), ("vivit_small", {""})],
)
def test_what_shipped_recipes_say(recipe: str | None, says: set[str]) -> None:
    assert said_of_model(recipe, [conf_dir()]) == says


def test_what_a_recipe_of_ones_own_says(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "ours.yaml").write_text(
        "# @package _global_\ndefaults:\n- theirs\n- override /model/tokenizer@model.tokenizer: stem\n- _self_\n"
        "- override /data: liu2017\nmodel:\n  attention:\n    heads: 2\n  window: ${planned:300}\noptim:\n  lr: 0.1\n"
    )
    (tmp_path / "experiment" / "theirs.yaml").write_text("# @package _global_\nmodel:\n  frame_size: [4, 4]\n")
    assert said_of_model("ours", [conf_dir(), tmp_path]) == {"tokenizer", "attention.heads", "frame_size"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("# only words\n# @package _global_\n", set()),
        ("# @package _global_\nlogger:\n  name: 2026-11-30\n", set()),
        ("# @package _global_\ndefaults: [/experiment/deep, _self_]\n", {"spatial_depth"}),
        ("# @package _global_\ndefaults: [{/experiment: deep}]\n", {"spatial_depth"}),
        ("# @package _global_\ndefaults: [deep.yaml]\n", {"spatial_depth"}),
        ("# @package _global_\ndefaults: [{optional /model/attention: window}]\n", {"attention"}),
        ("# @package _global_\nmodel: ${other}\n", {""}),
        ("# @package _global_.model\nspatial_depth: 4\n", {""}),
        ("# @package _global_\ndefaults: [{attention: window}]\n", {""}),
        ("# @package _global_\ndefaults: [elsewhere]\n", {""}),
    ],
)
def test_what_is_not_understood_may_say_everything(text: str, says: set[str], tmp_path: Path) -> None:
    """A recipe whose model was overlooked would train another one without a word."""
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "ours.yaml").write_text(text)
    (tmp_path / "experiment" / "deep.yaml").write_text("# @package _global_\nmodel:\n  spatial_depth: 4\n")
    assert said_of_model("ours", [conf_dir(), tmp_path]) == says


def test_a_recipe_in_a_folder_names_its_neighbors(tmp_path: Path) -> None:
    (tmp_path / "experiment" / "mine").mkdir(parents=True)
    (tmp_path / "experiment" / "mine" / "sub.yaml").write_text("# @package _global_\ndefaults: [near]\n")
    (tmp_path / "experiment" / "mine" / "near.yaml").write_text("# @package _global_\nmodel: {window: 8}\n")
    assert said_of_model("mine/sub", [tmp_path]) == {"window"}
