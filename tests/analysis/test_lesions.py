"""What a twin predicts without what its attention finds, and what an evaluation makes of it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from shipped import PLAIN
from tiny_models import ABSOLUTE, ENERGY, GAIN, RELATIVE, RESIDUAL_STEM, WINDOW, clips, spec, twin, vivit
from torch import Tensor

from vivit_core.analysis.attention.blocks import core_with_blocks, has_blocks
from vivit_core.analysis.attention.lesions import HELD, LESIONS, UNMIXED, Lesioned, lesions
from vivit_core.analysis.evaluate.evaluate import evaluate
from vivit_core.analysis.evaluate.section import report_section
from vivit_core.data.datamodule import RecordingsDataModule
from vivit_core.data.recording.format import Trials
from vivit_core.data.recording.writer import write_recording
from vivit_core.models.twin import Twin
from vivit_core.report.section import between
from vivit_core.specs import Clips

BARE: dict[str, Any] = {"modulator": None, "registers": 0}


def made(**changes: Any) -> Twin:
    return twin(vivit(**(BARE | changes)), spec()).eval()


@torch.no_grad()
def tokens(model: Twin, lesion: str, shown: Clips) -> Tensor:
    """The core's last map, (D, T', H', W')."""
    with Lesioned(model, LESIONS[lesion]).lesioned():
        map_BCTHW: Tensor = model.core(model.adapt("a", shown)[0])[-1].x_BCTHW
    return map_BCTHW[0]


def changed(model: Twin, lesion: str, steps: slice, columns: slice) -> np.ndarray:
    """Which tokens change with these steps' and columns' pixels, (T', W')."""
    before = clips(spec(), count=1, bins=16)
    after = Clips(frames=before["frames"].clone(), behavior=before["behavior"])
    after["frames"][:, :, steps, :, columns] ^= 255
    moved = (tokens(model, lesion, after) - tokens(model, lesion, before)).abs().amax((0, 2)) > 1e-6
    return moved.numpy()


def test_only_the_own_place_or_only_the_newest_token_is_attended() -> None:
    first_step, first_column = slice(0, 4), slice(0, 4)  # of tubelets of 4 frames and 4 px
    moved = changed(made(), "own_place", first_step, first_column)
    assert moved[:, 0].all() and not moved[:, 1:].any()
    moved = changed(made(), "newest", first_step, first_column)
    assert moved[0].all() and not moved[1:].any()
    moved = changed(made(), "uniform", first_step, first_column)
    assert moved.all()


def test_joint_blocks_are_lesioned_in_space_and_in_time() -> None:
    """What is left of a joint block without other places, and without earlier time steps."""
    model = made(blocks="joint", spatial_depth=1, temporal_depth=1)
    first_step, first_column = slice(0, 4), slice(0, 4)
    moved = changed(model, "own_place", first_step, first_column)
    assert moved[:, 0].all() and not moved[:, 1:].any()
    moved = changed(model, "newest", first_step, first_column)
    assert moved[0].all() and not moved[1:].any()
    assert changed(model, "uniform", first_step, first_column).all()


def test_cells_alone_can_be_controlled_and_have_no_maps_of_tokens() -> None:
    """A twin without blocks, which docs/when_attention_pays.md sets beside one with them."""
    four = ENERGY | {"orientations": 4, "std_px": 2.5, "cycles_per_std": 0.4, "reach": 4.0}
    core = {"tokenizer": RESIDUAL_STEM | {"patch_size": [8, 8, 8]}, "energy": four, "embedding_dim": 64}
    of = spec(height=32, width=40)
    alone = twin(vivit(**(BARE | core | {"spatial_depth": 0, "temporal_depth": 0})), of).eval()
    assert alone.core.cell_attention is not None and not has_blocks(alone.core)
    with torch.no_grad():
        for weights in alone.readout("a").features:
            weights.normal_()
    shown = {"a": clips(of, count=1, bins=24)}
    found = lesions(alone, [shown])
    with torch.no_grad():
        before = alone(shown)["a"]
        moved = {name: (lesioned(shown)["a"] - before).abs().max().item() for name, lesioned in found.items()}
    assert min(moved[name] for name in (HELD, UNMIXED, "uniform", "own_place")) > 1e-5 and moved["newest"] == 0
    with pytest.raises(ValueError, match=r"has no blocks: its cells attend.*attention_controls=true"):
        core_with_blocks(alone)


@torch.no_grad()
@pytest.mark.parametrize("attention", [ABSOLUTE, RELATIVE, WINDOW], ids=["absolute", "relative_bias", "window"])
def test_lesions_keep_to_what_an_attention_sees(attention: dict[str, Any]) -> None:
    """Even weights are the mean over what is seen, at every kind of position; own places are one neighborhood less."""
    model, shown = made(attention=attention, temporal_depth=0), clips(spec())
    (first, *_) = model.core.spatial
    given: list[Any] = []
    hook = first.attention.register_forward_hook(lambda module, inputs, output: given.append((inputs, output)))
    with Lesioned(model, LESIONS["uniform"]).lesioned():
        model({"a": shown})
    hook.remove()
    ((x, positions, _), output), seen = given[0], first.attention.seen(given[0][0][1], given[0][0][1])
    values = first.attention.project(x, positions)[2]
    even = values.new_ones(12, 12) if seen is None else seen.to(values)
    mixed = (even / even.sum(1, keepdim=True)) @ values
    torch.testing.assert_close(output, first.attention.out(mixed.transpose(1, 2).flatten(2)), rtol=1e-4, atol=1e-5)
    assert (seen is not None) == (attention is WINDOW)
    for lesioned in lesions(model, [{"a": shown}]).values():
        assert torch.isfinite(lesioned({"a": shown})["a"]).all()


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"registers": 2}, {"window": 8}, {"blocks": "joint", "registers": 2}])
def test_uniform_attention_is_that_of_queries_that_tell_nothing(changes: dict[str, Any]) -> None:
    model, shown = made(**changes), clips(spec())
    lesioned = Lesioned(model, LESIONS["uniform"])({"a": shown})["a"]
    whole = model({"a": shown})["a"]
    for block in (*model.core.spatial, *model.core.temporal, *model.core.joint):
        dim = block.attention.qkv.in_features
        block.attention.qkv.weight[:dim] = 0
        block.attention.qkv.bias[:dim] = 0
    torch.testing.assert_close(lesioned, model({"a": shown})["a"], rtol=1e-5, atol=1e-7)
    assert not torch.allclose(lesioned, whole, rtol=1e-4)


@torch.no_grad()
def test_a_held_output_is_its_mean_and_leaves_the_local_path_and_behavior() -> None:
    model = made(tokenizer=RESIDUAL_STEM, modulator=GAIN)
    shown = clips(spec())
    seen: list[Tensor] = []
    hook = model.core.norm.register_forward_hook(lambda module, given, output: seen.append(output))
    whole = model({"a": shown})["a"]
    hook.remove()
    held = lesions(model, [{"a": shown}])[HELD]
    torch.testing.assert_close(held.held[model.core.norm][0].float(), seen[0].mean((0, 1, 2)), rtol=1e-4, atol=1e-6)
    without = held({"a": shown})["a"]
    assert not torch.allclose(without, whole, rtol=1e-4)
    model.core.tokenizer.unembed.weight.zero_()  # blocks that say nothing are worth nothing
    torch.testing.assert_close(held({"a": shown})["a"], model({"a": shown})["a"])
    assert not any(module._forward_hooks for module in model.modules())
    assert all(block.attention.reweigh is None for block in (*model.core.spatial, *model.core.temporal))


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"registers": 2}, {"blocks": "joint"}])
def test_where_nothing_is_mixed_a_token_still_tells_of_itself(changes: dict[str, Any]) -> None:
    model = made(tokenizer=RESIDUAL_STEM, modulator=GAIN, **changes)
    shown = clips(spec())
    apart = lesions(model, [{"a": shown}])[UNMIXED]
    blocks = [*model.core.spatial, *model.core.temporal, *model.core.joint]
    assert set(apart.held) == {block.attention for block in blocks}
    seen: list[Tensor] = []
    hook = blocks[0].attention.register_forward_hook(lambda module, given, output: seen.append(output))
    whole = model({"a": shown})["a"]
    hook.remove()
    mean_D = seen[0].mean((0, 1))
    torch.testing.assert_close(apart.held[blocks[0].attention][0].float(), mean_D, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(apart({"a": shown})["a"], whole, rtol=1e-4)
    for block in blocks:  # an attention that says nothing is worth nothing
        block.attention.out.weight.zero_()
    again = lesions(model, [{"a": shown}])[UNMIXED]
    torch.testing.assert_close(again({"a": shown})["a"], model({"a": shown})["a"])

    bare = made(**changes)
    apart = lesions(bare, [{"a": shown}])[UNMIXED]
    moved = {**shown, "frames": shown["frames"].clone()}
    moved["frames"][..., :4] = 255 - moved["frames"][..., :4]
    with apart.lesioned():
        before, after = (bare.core(bare.adapt("a", given)[0])[-1].x_BCTHW for given in (shown, moved))
    told_W = (before - after).abs().amax((0, 1, 2, 3)) > 1e-6
    assert told_W.tolist() == [True, *[False] * (len(told_W) - 1)]  # its own column knows, and no other


def test_an_evaluation_says_what_attention_is_worth(tmp_path: Path) -> None:
    """Counts are drawn from the twin's own rates, so that it loses whatever is taken from it."""
    model = made(tokenizer=RESIDUAL_STEM, modulator=GAIN)
    with torch.no_grad():
        model.core.tokenizer.unembed.weight.mul_(20)
    rng = np.random.default_rng(0)
    trial, number = 60, 30
    edges = np.arange(number + 1) * trial
    frames = rng.integers(0, 256, (edges[-1], 12, 16), dtype=np.uint8)
    gaze = rng.normal(size=(edges[-1], 3)).astype(np.float32)
    rates_hz = np.concatenate([model.rates("a", frames[None, a:b], gaze[a:b]) for a, b in pairwise(edges)])
    split = np.array(["train", "val", *["test"] * (number - 2)])
    path = write_recording(
        tmp_path / "a.h5",
        recording_id="a",
        frame_rate_hz=120.0,
        frames=frames,
        counts=rng.poisson(rates_hz / 120).astype(np.uint8),
        behavior={"gaze": gaze},
        trials=Trials(edges[:-1], edges[1:], np.arange(number).astype(str), split),
        units={"id": np.array([f"a{u}" for u in range(5)])},
    )
    data = RecordingsDataModule(
        recordings=[str(path)], root=None, simulator=None, cache="", behavior=["gaze"], clip_length=32, burn_in=8,
        evaluation_length=None, evaluation_burn_in=8, weighting="units", num_workers=0, seed=0, **PLAIN,
    )  # fmt: skip
    data.configure(batch_size=4)
    data.setup()
    out = tmp_path / "out"
    asked = {"ln": None, "out": out, "checkpoint": "hand", "progress": False}
    summary = evaluate(model, data, with_attention_controls=True, **asked)
    assert list(summary["attention"]) == [HELD, UNMIXED, *LESIONS]
    for lost in (summary["attention"][HELD], unmixed := summary["attention"][UNMIXED]):
        low, high = lost["bps_lost_interval"]
        assert 0 < low < lost["bps_lost_mean"] < high
    told = summary["context_gain_mean"]
    assert told == unmixed["bps_lost_mean"] == pytest.approx(summary["bps_mean"] - unmixed["bps_mean"])
    assert summary["recordings"]["a"]["attention"] == summary["attention"]
    assert {"context_gain", "attention_held_bps", "attention_newest_bps"} <= set(
        (out / "units.csv").read_text().split("\n")[0].split(",")
    )
    section = report_section(summary, out / "pictures", "again")
    (table,) = (table for table in section.tables if table.title.startswith("What attention is worth"))
    assert [row[:2] for row in table.rows[:5]] == [(name.replace("_", " "), "all") for name in summary["attention"]]
    without = evaluate(model, data, **asked)
    assert without["attention"] == {} and without["context_gain_mean"] is None and without["behavior"] == {}
    assert without["bps_mean"] == summary["bps_mean"]


def test_cells_are_held_with_the_blocks() -> None:
    """Attention among cells is attention: what it says of the surround goes, and under even weights stays how much
    there is."""
    stem = RESIDUAL_STEM | {"patch_size": [4, 8, 8]}
    model = twin(
        vivit(tokenizer=stem, energy=ENERGY, embedding_dim=48, modulator=None), spec(height=16, width=24)
    ).eval()
    attention, shown = model.core.cell_attention, clips(spec(height=16, width=24), count=1, bins=16)

    def of_cells(lesioned: Lesioned | None) -> Tensor:
        with torch.no_grad():
            if lesioned is None:
                return model.core(model.adapt("a", shown)[0])[-2].x_BCTHW[0]
            with lesioned.lesioned():
                return model.core(model.adapt("a", shown)[0])[-2].x_BCTHW[0]

    found, whole = lesions(model, [{"a": shown}]), of_cells(None)
    changes = {name: (of_cells(own) - whole).abs().amax((1, 2, 3)) > 1e-6 for name, own in found.items()}
    level = torch.zeros(len(whole), dtype=torch.bool)
    level[attention.LEVEL] = True
    assert changes[HELD].all() and changes[UNMIXED].all() and changes["own_place"].all()
    assert torch.equal(changes["uniform"], ~level) and not changes["newest"].any()
    for name in (HELD, UNMIXED, "own_place"):
        held = of_cells(found[name])
        torch.testing.assert_close(held.mean((1, 2, 3)), whole.mean((1, 2, 3)))
        assert held.std((1, 2, 3)).max() < 1e-5


def test_an_interval_without_a_bound_is_told() -> None:
    """Of units that a resampling leaves without spikes a score may be infinite, which a summary has as None."""
    told = [between(bounds) for bounds in ([0.1, 0.25], [None, 0.25], [0.1, None], [None, None])]
    assert told == ["0.100 … 0.250", "−∞ … 0.250", "0.100 … ∞", None] and between([0.1, None], ", ") == "0.100, ∞"
