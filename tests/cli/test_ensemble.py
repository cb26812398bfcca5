"""task=ensemble writes one checkpoint, which takes a twin's place on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vivit_core import load_twin
from vivit_core.cli.tasks.ensemble import common_settings
from vivit_core.models.load import checkpoint_of
from vivit_core.models.twin import Twin

SHARED_GAIN = {
    "_target_": "vivit_core.models.latents.shared_gain.SharedGain", "rank": 1, "hold": 8, "memory": 4.0, "std": 0.3,
}  # fmt: skip


@pytest.mark.slow
def test_one_checkpoint_of_two_is_evaluated(
    command: Callable[..., Any], checkpoints: list[Path], tmp_path: Path
) -> None:
    both = tmp_path / "both.ckpt"
    members = ",".join(map(str, checkpoints))
    code, printed = command("task=ensemble", f"checkpoints=[{members}]", f"out={both}")
    assert code == 0 and "an Ensemble of 2 ViViT of 2 recordings" in printed, printed
    assert "latent" not in printed
    content = torch.load(both, weights_only=True)
    assert content["settings"]["data"]["clip_length"] == 70  # no member gets less past than alone
    loaded = load_twin(both)
    frames = np.random.default_rng(0).integers(0, 256, (40, 18, 26), dtype=np.uint8)
    behavior = np.zeros((40, loaded.specs["sim0"].behavior_dim))
    alone = [load_twin(path).rates("sim0", frames, behavior) for path in checkpoints]
    np.testing.assert_allclose(loaded.rates("sim0", frames, behavior), np.mean(alone, 0), rtol=1e-5)

    code, printed = command("task=evaluate", f"checkpoint={both}", "hydra.run.dir=evaluated")
    assert code == 0, printed
    summary = json.loads((tmp_path / "evaluated" / "summary.json").read_text())
    assert summary["units"] == 12 and summary["bps_mean"] is not None
    code, printed = command("task=attention", f"checkpoint={both}")
    assert code == 1 and "has no attention of its own; look at a member" in printed
    code, printed = command("task=ensemble", f"checkpoints=[{members}]", f"out={both}")
    assert code == 1 and "stands there already; name a new file" in printed


@pytest.mark.parametrize(
    ("lengths", "longest"), [((None, 800), 800), ((800, None), 800), ((200, None), 240), ((None, None), 300)]
)
def test_evaluated_clips_are_as_long_as_the_longest_of_the_members(
    lengths: tuple[int | None, int | None], longest: int
) -> None:
    """Where nothing is said it is four times a member's own training clip."""
    burn_in = {"burn_in": 10, "evaluation_burn_in": 10}
    members = [
        {"data": {"transforms": {}, "clip_length": clip, "evaluation_length": length, **burn_in}}
        for clip, length in zip((75, 60), lengths, strict=True)
    ]
    for settings in (members, members[::-1]):
        made = common_settings(settings)
        assert made is not None and made["data"]["clip_length"] == 75
        assert made["data"]["evaluation_length"] == longest


@pytest.mark.long
@pytest.mark.parametrize(
    "words",
    [
        ["task=compare", "checkpoints=[MEMBER,BOTH]", "resamples=20"],
        ["task=stream", "checkpoint=BOTH", "bins=20"],
        ["task=receptive_fields", "checkpoint=BOTH"],
        ["task=tuning", "checkpoint=BOTH", "mei=null"],
        ["task=predict", "checkpoint=BOTH", "video=FILE", "out=rates.npz"],
        ["task=export", "checkpoint=BOTH", "out=exported", "recording=sim0"],
        ["task=publish", "checkpoint=BOTH", "out=shared", "evaluation=evaluated"],
    ],
    ids=lambda words: words[0].removeprefix("task="),
)
def test_every_task_that_takes_a_twin_takes_an_ensemble(
    command: Callable[..., Any], checkpoints: list[Path], tiny_files: list[Path], tmp_path: Path, words: list[str]
) -> None:
    both = tmp_path / "both.ckpt"
    code, printed = command("task=ensemble", f"checkpoints=[{','.join(map(str, checkpoints))}]", f"out={both}")
    if words[0] == "task=publish":
        code, printed = command("task=evaluate", f"checkpoint={both}", "hydra.run.dir=evaluated")
    assert code == 0, printed
    names = {"BOTH": str(both), "MEMBER": str(checkpoints[0]), "FILE": str(tiny_files[0])}
    for name, value in names.items():
        words = [word.replace(name, value) for word in words]
    code, printed = command(*words, "hydra.run.dir=done")
    assert code == 0, printed
    if words[0] == "task=stream":
        assert json.loads((tmp_path / "done" / "stream.json").read_text())["largest_difference"] <= 1e-4
    if words[0] == "task=publish":
        assert load_twin(tmp_path / "shared").kind == "Ensemble of 2 ViViT"


@pytest.mark.long
def test_one_twin_learns_from_two(
    command: Callable[..., Any], checkpoints: list[Path], tiny: list[str], tmp_path: Path
) -> None:
    """The winners' two steps: an ensemble, and one twin of its rates."""
    command("task=ensemble", f"checkpoints=[{','.join(map(str, checkpoints))}]", "out=both.ckpt")
    small = ["trainer=debug", "baseline=null", "model.spatial_depth=1", "model.temporal_depth=1"]
    words = ["experiment=distill", "teacher=both.ckpt", *tiny, *small, "model.attention.heads=2"]
    code, printed = command(*words, "hydra.run.dir=student")
    assert code == 0 and "teacher=both.ckpt, an Ensemble of 2 ViViT: its rates are 100% of the loss" in printed, printed
    assert json.loads((tmp_path / "student" / "summary.json").read_text())["bps_mean"] is not None
    twin = load_twin(tmp_path / "student" / "checkpoints" / "best.ckpt")
    assert twin.kind == "ViViT"  # and no ensemble in its file
    content = torch.load(tmp_path / "student" / "checkpoints" / "last.ckpt", weights_only=True)
    assert len(content["teacher"]) == 32


def test_that_a_latent_is_left_out_is_said(
    command: Callable[..., Any], checkpoints: list[Path], tmp_path: Path
) -> None:
    content = torch.load(checkpoints[1], weights_only=True)
    content["twin"]["model"] |= {"latent": SHARED_GAIN}
    made = Twin.from_description(content["twin"])
    made.load_state_dict(content["state_dict"], strict=False)
    torch.save(content | checkpoint_of(made), checkpoints[1])
    code, printed = command("task=ensemble", f"checkpoints=[{','.join(map(str, checkpoints))}]", "out=both.ckpt")
    assert code == 0 and "its members' model.latent is left out" in " ".join(printed.split()), printed


def test_members_that_do_not_fit_are_named(
    command: Callable[..., Any], checkpoints: list[Path], tmp_path: Path
) -> None:
    content = torch.load(checkpoints[1], weights_only=True)
    content["settings"]["data"]["transforms"] = {"speed": None}
    torch.save(content, checkpoints[1])
    words = [f"checkpoints=[{','.join(map(str, checkpoints))}]", f"out={tmp_path / 'both.ckpt'}"]
    code, printed = command("task=ensemble", *words)
    assert code == 1 and "different data.transforms" in printed
    content["twin"]["recordings"][0]["unit_ids"][0] = "other"
    torch.save(content, checkpoints[1])
    code, printed = command("task=ensemble", *words)
    assert code == 1 and "recording sim0: the first member and member 2 differ in their units" in printed
    assert f"2: {checkpoints[1]}" in printed and not (tmp_path / "both.ckpt").exists()
