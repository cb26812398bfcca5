"""Parts from plain nodes: what a group takes, and that nothing else is built."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from tampering import DATA

import vivit_core
from vivit_core.parts.build import build
from vivit_core.parts.groups import GROUPS, class_of

SRC = Path(vivit_core.__file__).parents[1]


def test_nothing_calls_hydras_instantiate() -> None:
    for path in (*SRC.rglob("*.py"), *(SRC.parent / "benchmarks").rglob("*.py")):
        text = path.read_text()
        assert not re.search(r"\binstantiate\(|hydra\.utils", text), path
        loads = [line for line in text.splitlines() if "torch.load(" in line and "weights_only=True" not in line]
        assert not [line for line in loads if not line.strip().startswith('"')], path


def test_each_group_has_its_kind() -> None:
    for path, group in GROUPS.items():
        for kind in group.kinds:  # they exist
            module, _, name = kind.rpartition(".")
            assert isinstance(getattr(__import__(module, fromlist=[name]), name), type), (path, kind)
    velocity = "vivit_core.data.transforms.Velocity"
    assert class_of("data.transforms.any_name", velocity).__name__ == "Velocity"
    for path, target in (
        ("data.simulator", velocity),
        ("data.transforms.x", "vivit_core.data.augmentation.CutMix"),
        ("data.transforms.x", "vivit_core.data.transforms.Whole"),
        ("model.tokenizer", "vivit_core.models.cores.vivit.ViViT"),
        ("importer", "vivit_core.data.importers.common.Importer"),
        ("data.recordings", velocity),
        ("callbacks.x", "lightning.pytorch.loggers.CSVLogger"),
    ):
        with pytest.raises(ValueError, match=r"is no |lies outside|no class can be named"):
            class_of(path, target)


def test_a_node_becomes_plain_python_and_parts() -> None:
    module = build("data", DATA | {"recordings": ("a", "b"), "behavior": ("eye",)})
    assert module._patterns == ["a", "b"] and module.simulator.units == 6 and module._transforms["eye"].source
    for changes, message in (
        ({"clip_length": "3"}, r"data\.clip_length=\"3\" should be a valid integer"),
        ({"clip_lenght": 3}, r"data\.clip_lenght does not exist; did you mean data\.clip_length"),
        ({"behavior": "eye"}, r"data\.behavior=\"eye\" should be .*a list; .* write data\.behavior=\[eye\]"),
        ({"simulator": {"units": 3}}, r"data\.simulator needs a _target_"),
        ({"simulator": 3}, r"data\.simulator=3 is no part"),
        ({"behavior": [{"_target_": "os.system"}]}, r"data\.behavior has a _target_ where there is no part"),
        ({"simulator": DATA["simulator"] | {"_partial_": True}}, r"data\.simulator\._partial_ does not exist"),
    ):
        with pytest.raises(ValueError, match=message):
            build("data", DATA | changes)
    with pytest.raises(ValueError, match="clip_length is missing"):
        build("data", {key: value for key, value in DATA.items() if key != "clip_length"})
