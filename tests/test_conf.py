"""The tree of settings itself: each option keeps to its own group, and no value stands twice."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from vivit_core.cli import schema

CONF = schema.conf_dir()
RECIPES = ("experiment", "hparams_search")  # change several groups together, and say so in their first lines
OPTIONS = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent != CONF and "hydra" not in path.parts]
GROUPS = {".".join(path.parent.relative_to(CONF).parts) for path in OPTIONS}


def keys_of(path: Path) -> list[str]:
    """Where an option's settings stand in the whole configuration: its package, and the first key below."""
    text = path.read_text(encoding="utf-8")
    group = ".".join(path.parent.relative_to(CONF).parts)
    said = re.search(r"^# @package (\S+)", text, flags=re.MULTILINE)
    package = {None: group, "_global_": ""}.get(said and said[1], said and said[1])
    content = {key for key in yaml.safe_load(text) or {} if key != "defaults"}
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
        assert foreign(path, group) == []


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
