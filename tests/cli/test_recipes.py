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
    assert said_of_model("elsewhere", [conf_dir(), tmp_path]) == frozenset()
