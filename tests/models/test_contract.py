"""What every model keeps: shapes on odd geometries, causality, a gradient for every parameter, round trips, the same
numbers on every path.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import (
    ABSOLUTE,
    BASIS,
    LIKELIHOOD,
    MODELS_UNDER_CONTRACT,
    MODULATORS,
    READOUTS_UNDER_CONTRACT,
    RELATIVE,
    RESIDUAL_STEM,
    STEM,
    TUBELET,
    WINDOW,
    batch,
    clips,
    dropping,
    factorized,
    resnet,
    spec,
    twin,
    vivit,
)

from vivit_core import testing
from vivit_core.cli import schema
from vivit_core.cli.trained import is_fitted_alone
from vivit_core.models.attention.base import AttentionMask
from vivit_core.models.attention.rotary import RotaryAttention
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.convolution import Conv3d
from vivit_core.models.load import checkpoint_of, load_twin
from vivit_core.specs import Clips
from vivit_core.testing import twins

INNER = RESIDUAL_STEM["stem"]
STEM_ALONE = vivit(tokenizer=RESIDUAL_STEM, temporal_depth=0, spatial_depth=0, registers=0)  # no blocks but the stem's
SHALLOW = {"window": 12, "spatial_depth": 1, "temporal_depth": 1}
GEOMETRIES = [(31, 1), (37, 50), (36, 64), (51, 51)]
models = pytest.mark.parametrize("model", MODELS_UNDER_CONTRACT.values(), ids=MODELS_UNDER_CONTRACT)


def narrowed(model: dict[str, Any], width: int) -> dict[str, Any]:
    """The model for frames that may be narrower than its patches."""
    changed = dict(model)
    for key, value in model.items():
        if key in ("patch_size", "token_stride") and value is not None:
            changed[key] = [*value[:2], min(value[2], width)]
        elif key == "stride" and width == 1 and "kernel" in model:
            changed[key] = 1
        elif key == "widths" and width == 1 and "stem" in model:
            changed[key] = value[:1]  # a second stage would have half a cell
        elif key in ("tokenizer", "stem"):
            changed[key] = narrowed(value, width)
    return changed


@models
@pytest.mark.parametrize(("height", "width"), GEOMETRIES)
def test_shapes_on_odd_geometries(model: dict[str, Any], height: int, width: int) -> None:
    twins.check_geometries(twins.Parts(narrowed(model, width)), [(height, width)])


@models
def test_the_future_never_changes_a_past_prediction(model: dict[str, Any]) -> None:
    twins.check_no_look_ahead(twins.Parts(model))


def test_an_acausal_model_sees_the_future() -> None:
    made = twin(vivit(causal=False)).eval()
    assert not made.causal
    before, after = batch(spec()), batch(spec())
    after["a"]["frames"][:, :, 12:] = 0
    with torch.no_grad():
        assert (made(after)["a"] - made(before)["a"])[:, 5:9].abs().max() > 0


def test_time_runs_forward() -> None:
    made = twin(MODELS_UNDER_CONTRACT["stem"]).eval()
    forward = batch(spec())
    backward = {"a": clips(spec()) | {"frames": forward["a"]["frames"].flip(2)}}
    with torch.no_grad():
        assert (made(forward)["a"] - made(backward)["a"].flip(1)).abs().max() > 1e-4


@models
def test_every_parameter_gets_a_gradient(model: dict[str, Any]) -> None:
    twins.check_gradients(twins.Parts(model))


@models
def test_a_checkpoint_holds_the_whole_twin(model: dict[str, Any]) -> None:
    twins.check_round_trip(twins.Parts(model))


PAIRS = [
    pytest.param(model, readout, id=f"{name}-{kind}", marks=[] if name == "residual-stem-gain" else pytest.mark.long)
    for name, model in MODELS_UNDER_CONTRACT.items()
    for kind, readout in READOUTS_UNDER_CONTRACT.items()
]


@pytest.mark.parametrize(("model", "readout"), PAIRS)
def test_every_readout_reads_every_core(model: dict[str, Any], readout: dict[str, Any]) -> None:
    parts = twins.Parts(model, readout=readout)
    twins.check_geometries(parts, [twins.FRAME])
    twins.check_no_look_ahead(parts)
    twins.check_gradients(parts)
    twins.check_round_trip(parts)
    twins.check_stream(parts)


@pytest.mark.parametrize("modulator", MODULATORS.values(), ids=MODULATORS)
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(model, id=name, marks=[] if name == "residual-stem-gain" else pytest.mark.long)
        for name, model in MODELS_UNDER_CONTRACT.items()
    ],
)
def test_every_modulator_acts_on_every_core(model: dict[str, Any], modulator: dict[str, Any]) -> None:
    parts = twins.Parts(model | {"modulator": modulator})
    twins.check_geometries(parts, [twins.FRAME])
    twins.check_no_look_ahead(parts)
    twins.check_gradients(parts)
    twins.check_round_trip(parts)
    twins.check_stream(parts)
    twins.check_checkpointing(parts)


@models
def test_checkpointed_blocks_compute_the_same(model: dict[str, Any]) -> None:
    twins.check_checkpointing(twins.Parts(dropping(model)))


@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize(
    "model",
    [
        pytest.param(vivit(window=12), id="vivit", marks=pytest.mark.slow),
        pytest.param(vivit(**SHALLOW, attention=ABSOLUTE, blocks="joint"), id="absolute", marks=pytest.mark.long),
        pytest.param(vivit(**SHALLOW, attention=RELATIVE), id="relative", marks=pytest.mark.long),
        pytest.param(vivit(**SHALLOW, attention=WINDOW), id="window", marks=pytest.mark.long),
        pytest.param(STEM_ALONE, id="residual-stem", marks=pytest.mark.long),  # each compiles for up to a minute
        pytest.param(resnet(), id="resnet", marks=pytest.mark.long),
        pytest.param(factorized(), id="factorized", marks=pytest.mark.long),
    ],
)
def test_compiled_blocks_compute_the_same(model: dict[str, Any], checkpointing: bool) -> None:
    """Dropout included: an element's fate does not depend on how it is computed."""
    twins.check_compiled(twins.Parts(dropping(model)), checkpointing=checkpointing)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("modulator", MODULATORS.values(), ids=MODULATORS)
def test_every_modulator_acts_on_compiled_blocks(modulator: dict[str, Any]) -> None:
    for checkpointing in (False, True):
        twins.check_compiled(twins.Parts(vivit(**SHALLOW, modulator=modulator)), checkpointing=checkpointing)


@pytest.mark.long
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.parametrize("readout", READOUTS_UNDER_CONTRACT.values(), ids=READOUTS_UNDER_CONTRACT)
def test_every_readout_reads_compiled_blocks(readout: dict[str, Any]) -> None:
    for checkpointing in (False, True):
        twins.check_compiled(twins.Parts(vivit(), readout=readout), checkpointing=checkpointing)


# What is shipped, as conf/ has it: a new file is tested without a word here

CONF = schema.conf_dir()
CHECKS: dict[str, Callable[..., None]] = {
    "model": testing.check_core,
    "model/tokenizer": testing.check_tokenizer,
    "model/attention": testing.check_attention,
    "model/frontend": testing.check_frontend,
    "model/energy": testing.check_energy,
    "model/modulator": testing.check_modulator,
    "model/own_filter": testing.check_own_filter,
    "model/history": testing.check_history,
    "model/latent": testing.check_latent,
    "model/shifter": testing.check_shifter,
    "readout": testing.check_readout,
    "likelihood": testing.check_likelihood,
}
SHIPPED = [(group, path.stem) for group in CHECKS for path in sorted((CONF / group).glob("*.yaml"))]
LARGE = ("model", "vivit_baseline")


def test_every_group_of_parts_has_its_check() -> None:
    within = {f"model/{path.name}" for path in (CONF / "model").iterdir() if path.is_dir()}
    assert {"model", "readout", "likelihood"} | within == set(CHECKS)


@pytest.mark.parametrize(
    ("group", "name"),
    [pytest.param(*of, marks=[pytest.mark.slow] if of == LARGE else [], id="=".join(of)) for of in SHIPPED],
)
def test_what_is_shipped_keeps_the_contract(group: str, name: str, compose: Any) -> None:
    settings = compose(f"{group}={name}")
    node = settings
    for key in group.split("/"):
        node = node[key]
    if group == "model" and is_fitted_alone(node):
        return  # LN, of which tests/training/test_baseline.py asks the same
    CHECKS[group](node)


# Streams


STREAMED = MODELS_UNDER_CONTRACT | {
    f"{name}-window": model | {"window": 8} for name, model in MODELS_UNDER_CONTRACT.items() if "attention" in model
}


@pytest.mark.parametrize("model", STREAMED.values(), ids=STREAMED)
@pytest.mark.parametrize("bins", [17, 64])
def test_a_stream_equals_the_clip(model: dict[str, Any], bins: int) -> None:
    twins.check_stream(twins.Parts(model), bins=bins)


def test_a_window_takes_away_what_lies_before() -> None:
    """Two temporal blocks with windows of 2 tokens of 4 frames see 3 tokens; the whole clip sees them all."""
    of = clips(spec(), count=1, bins=32)
    changed = Clips(frames=of["frames"].clone(), behavior=of["behavior"])
    changed["frames"][:, :, :4] = 255 - changed["frames"][:, :, :4]
    for window, seen in ((8, 16), (None, 32)):
        made = twin(vivit(window=window, modulator=None)).eval()
        with torch.no_grad():
            difference = (made({"a": changed})["a"] - made({"a": of})["a"]).abs().amax((0, 2))
        assert difference[4:seen:4].min() > 0
        assert seen == 32 or difference[seen:].max() == 0


def test_an_endless_stream_holds_no_more_than_a_window() -> None:
    made = twin(vivit(window=8))
    one = clips(spec(), count=1, bins=200)
    stream = made.stream("a")

    def held() -> int:
        gc.collect()
        return sum(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor)

    sizes = []
    for t in range(200):
        stream.step(one["frames"][0, 0, t].numpy(), one["behavior"][0, t].numpy())
        if t in (39, 199):
            sizes.append(held())
    assert sizes[0] == sizes[1]
    assert stream.bins == 200


def test_streams_that_cannot_be() -> None:
    made = twin(vivit())
    with pytest.raises(ValueError, match=r"model.causal=false"):
        twin(vivit(causal=False)).stream("a")
    with pytest.raises(ValueError, match="does not know recording 'z'"):
        made.stream("z")
    with pytest.raises(ValueError, match=r"frames of shape \(1, 12, 16\)"):
        made.stream("a").step(np.zeros((16, 12)), np.zeros(3))
    with pytest.raises(ValueError, match=r"behavior of shape \(3,\)"):
        made.stream("a").step(np.zeros((12, 16)))
    for changes in ({"window": 3}, {"window": 8, "causal": False}):
        with pytest.raises(ValueError, match=r"model.window=null"):
            twin(vivit(**changes))


@pytest.mark.parametrize(
    ("model", "share"),
    [
        (vivit(modulator=None), 0.5),
        (STEM_ALONE | {"modulator": None}, 0.85),
    ],
    ids=["tubelet", "residual-stem"],
)
def test_checkpointing_stores_less(model: dict[str, Any], share: float) -> None:
    def stored(checkpointing: bool) -> int:
        kept: dict[int, torch.Tensor] = {}
        made = twin(model | {"checkpointing": checkpointing})
        own = {p.untyped_storage().data_ptr() for p in made.parameters()}

        def keep(x: torch.Tensor) -> torch.Tensor:
            if x.untyped_storage().data_ptr() not in own:
                kept[x.untyped_storage().data_ptr()] = x
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            made(batch(spec()))
        return sum(x.untyped_storage().nbytes() for x in kept.values())

    assert stored(True) < share * stored(False)


def test_several_recordings_share_one_core_pass() -> None:
    first, second = spec("a", units=5), spec("b", units=3)
    made = twin(vivit(), first, second).eval()
    passes = []
    made.core.register_forward_hook(lambda module, inputs, output: passes.append(inputs[0].shape[0]))
    both = batch(first, second)
    with torch.no_grad():
        together = made(both)
        alone = {rid: made({rid: own})[rid] for rid, own in both.items()}
    assert passes == [4, 2, 2]
    assert together["a"].shape == (2, 17, 5) and together["b"].shape == (2, 17, 3)
    for rid in both:
        torch.testing.assert_close(together[rid], alone[rid], rtol=1e-4, atol=1e-6)


def test_recordings_of_different_frame_sizes_meet_on_a_common_grid() -> None:
    first, second = spec("a"), spec("b", height=18, width=24)
    with pytest.raises(ValueError, match=r"model.frame_size"):
        twin(vivit(), first, second)
    made = twin(vivit(frame_size=[12, 16]), first, second).eval()
    with torch.no_grad():
        assert made(batch(first, second))["b"].shape == (2, 17, 5)


@pytest.mark.parametrize("wrong", [[36], [36, 64, 3], [0, 64], [-4, 8], []])
def test_a_frame_size_is_two_positive_numbers(wrong: list[int]) -> None:
    with pytest.raises(ValueError, match=r"model.frame_size=\[.*\] must be two positive numbers, \[height,width\]"):
        twin(vivit(frame_size=wrong))


def test_rates_are_in_hz_and_take_plain_arrays() -> None:
    of = spec()
    made = twin(vivit(), of)
    one = clips(of, count=1)
    with torch.no_grad():
        expected = made.eval()({"a": one})["a"][0] * of.frame_rate_hz
    rates = made.train().rates("a", one["frames"][0, 0].numpy(), one["behavior"][0].numpy())
    np.testing.assert_allclose(rates, expected.numpy(), rtol=1e-5)
    assert made.training
    with pytest.raises(ValueError, match="behavior of shape"):
        made.rates("a", one["frames"][0, 0].numpy())
    with pytest.raises(ValueError, match="does not know recording 'z'"):
        made.rates("z", one["frames"][0, 0].numpy())
    for wrong in (one["frames"][0].transpose(2, 3), one["frames"][0].repeat(2, 1, 1, 1), one["frames"][0, 0, 0]):
        with pytest.raises(ValueError, match=r"frames of shape \(1, 12, 16\) .*: give \(1, bins, 12, 16\), not"):
            made.rates("a", wrong.numpy(), one["behavior"][0].numpy())


def test_normalization_is_the_recordings_own() -> None:
    of = spec()
    made = twin(vivit(), of)
    frames, behavior = made.adapt("a", clips(of))
    torch.testing.assert_close(frames, (clips(of)["frames"].float() - 120) / 50)
    torch.testing.assert_close(behavior, (clips(of)["behavior"] - 0.5) / 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"embedding_dim": 18}, r"embedding_dim=18 .* heads that fit"),
        ({"spatial_depth": 0}, r"registers=2 .* model.registers=0"),
        ({"drop_path": 1.5}, r"drop_path=1.5 is not a probability"),
        ({"tokenizer": TUBELET | {"patch_size": [4, 4]}}, r"patch_size=\[4, 4\]"),
        ({"tokenizer": STEM | {"kernel": 4}}, r"kernel=4 must be odd"),
        ({"tokenizer": STEM | {"patch_size": [4, 5, 4]}}, r"multiples of the stem.s stride=2"),
        ({"tokenizer": {"_target_": "os.system"}}, r"lies outside 'vivit_core.models'"),
        (
            {"tokenizer": {"_target_": "vivit_core.models.tokenizers.base.Tublet"}},
            r"there is no 'vivit_core.models.tokenizers.base.Tublet'",
        ),
    ],
)
def test_impossible_models_are_refused_with_a_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        twin(vivit(**changes))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (resnet(widths=[]), r"widths=\[\], depth=2"),
        (resnet(kernel=[3]), r"kernel=\[3\] must be two numbers"),
        (resnet(kernel=[3, 4]), r"3 steps and 4 cells: cells must be odd"),
        (resnet(kernel=[2, 3], causal=False), r"2 steps and 3 cells: .* model.causal=false"),
        (factorized(channels=[]), r"model.channels=\[\]"),
        (factorized(kernel=[3, 3, 3]), r"kernel=\[3, 3, 3\] must be two numbers"),
        (resnet(tokenizer=RESIDUAL_STEM), r"a ResNet lacks; set model/tokenizer=stem"),
        # A stem's own errors are told as they are.
        (vivit(tokenizer=RESIDUAL_STEM | {"stem": INNER | {"kernel": 8}}), r"^the stem's kernel=8 must be odd"),
        (vivit(tokenizer=RESIDUAL_STEM | {"stem": INNER | {"dropout": 1.5}}), r"^dropout=1.5 is not a probability"),
        (vivit(tokenizer=RESIDUAL_STEM | {"stem": INNER | {"stride": 0}}), r"stem\.stride=0 should be greater than 0"),
        (
            vivit(tokenizer=RESIDUAL_STEM | {"depth": 0}),
            r"widths=\[4, 6\], depth=0: a stage has channels and blocks",
        ),
    ],
)
def test_impossible_rivals_are_refused_with_a_reason(model: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        twin(model)


@pytest.mark.parametrize(
    ("patch", "cell", "stride", "widths", "remedy"),
    [
        ([4, 5, 8], 4, 2, [4, 6], ([4, 8, 8], 4)),
        ([4, 6, 8], 4, 2, [4, 6], ([4, 8, 8], 4)),
        ([4, 12, 12], 3, 2, [4, 6], ([4, 12, 12], 4)),  # no side fits a cell that is no multiple of the stride
        ([4, 4, 8], 0, 2, [4], ([4, 4, 8], 2)),
        ([4, 9, 12], 4, 3, [4, 6, 8], ([4, 12, 12], 6)),
    ],
)
def test_cells_that_fill_no_token_are_refused_with_what_works(
    patch: list[int], cell: int, stride: int, widths: list[int], remedy: tuple[list[int], int]
) -> None:
    tokenizer = RESIDUAL_STEM | {"stem": INNER | {"stride": stride}, "widths": widths}
    with pytest.raises(ValueError, match=r"sides of \d+ px, because each of model.tokenizer.widths") as refusal:
        twin(vivit(tokenizer=tokenizer | {"patch_size": patch, "cell": cell}))
    sides, fits = remedy
    assert str(refusal.value).endswith(
        f"set model.tokenizer.patch_size=[{sides[0]},{sides[1]},{sides[2]}] and model.tokenizer.cell={fits}"
    )
    twin(vivit(tokenizer=tokenizer | {"patch_size": sides, "cell": fits}))


def test_heads_that_fit_are_a_short_list() -> None:
    with pytest.raises(ValueError, match=r"heads that fit: \[1, 2, .*, 256\]$"):
        RotaryAttention(2**20, AttentionMask("space"), 3, True, 0.0, rope_base_space=100.0, rope_base_time=1000.0)


@pytest.mark.parametrize("model", [resnet(), factorized()], ids=["resnet", "factorized"])
def test_acausal_rivals_see_the_future_and_do_not_stream(model: dict[str, Any]) -> None:
    made = twin(model | {"causal": False}).eval()
    before, after = batch(spec()), batch(spec())
    after["a"]["frames"][:, :, 12:] = 0
    with torch.no_grad():
        assert (made(after)["a"] - made(before)["a"])[:, 8:12].abs().max() > 0
    with pytest.raises(ValueError, match=r"model.causal=false"):
        made.stream("a")


def test_a_convolutions_outputs_are_centered_on_every_second_cell() -> None:
    convolution = Conv3d(1, 1, (1, 5), stride=2)
    torch.nn.init.ones_(convolution.weight)
    x = torch.zeros(1, 1, 1, 13, 15, requires_grad=True)
    y = convolution(x)
    assert y.shape[3:] == (7, 8)
    (seen,) = torch.autograd.grad(y[0, 0, 0, 3, 2], x)
    assert seen[0, 0, 0].nonzero().float().mean(0).tolist() == [6, 4]


def test_levels_lie_where_their_cells_are() -> None:
    frame = torch.zeros(1, 1, 8, 13, 15)
    (feature_map,) = twin(factorized(), spec(height=13, width=15)).core(frame)
    assert (feature_map.ys.tolist(), feature_map.xs.tolist()) == (list(range(0, 13, 2)), list(range(0, 15, 2)))
    first, second = twin(resnet(), spec(height=13, width=15)).core(frame)
    assert first.ys.tolist() == [0.5, 4.5, 8.5, 12.5]  # 16 rows, the first of them put before the frame
    assert second.ys.tolist() == [0.5, 8.5] and second.cell == 2 * first.cell == 8
    stem = vivit(tokenizer=RESIDUAL_STEM | {"patch_size": [4, 8, 8]}, frontend=BASIS)
    fine, first_map, second_map, gain_map = twin(stem, spec(height=13, width=15)).core(frame)
    assert [m.gain for m in (fine, first_map, second_map, gain_map)] == [False, False, False, True]
    assert fine.ys.tolist() == [2 * i - 1 for i in range(8)]  # half a pixel off: an odd kernel, an even stride
    for feature_map, theirs in ((first_map, first), (second_map, second), (gain_map, second)):
        assert (
            feature_map.ys.tolist() == (theirs.ys - 0.5).tolist()
            and feature_map.xs.tolist() == (theirs.xs - 0.5).tolist()
        )


def test_impossible_geometry_is_refused_with_a_remedy() -> None:
    made = twin(vivit())
    with pytest.raises(ValueError, match=r"data.clip_length to at least 8"):
        made.check_geometry(4)
    with pytest.raises(ValueError, match=r"to at least 8 and give training trials of as many bins$"):
        made.check_geometry(1)  # as trials of one bin have; no shorter patch mends that
    large = twin(vivit(tokenizer=TUBELET | {"patch_size": [4, 16, 4]}))
    with pytest.raises(ValueError, match=r"patch_size=\[4,12,4\]"):
        large.check_geometry(17)
    with pytest.raises(ValueError, match="1 time step of 4 frames, which has nothing before it") as refusal:
        twin(resnet()).check_geometry(4)
    assert "attend" not in str(refusal.value) and "block" not in str(refusal.value)


@pytest.mark.parametrize(
    ("tokenizer", "height", "width", "remedy", "changes"),
    [
        (STEM, 15, 15, "model.tokenizer.patch_size=[4,14,14]", {}),
        (STEM, 31, 1, "model.tokenizer.stride=1 and model.tokenizer.patch_size=[4,16,1]", {"stride": 1}),
        (RESIDUAL_STEM, 15, 15, "model.tokenizer.patch_size=[4,12,12]", {}),
        (
            RESIDUAL_STEM,
            31,
            1,
            "model.tokenizer.stem.stride=1, model.tokenizer.widths=[6] and model.tokenizer.patch_size=[4,16,1]",
            {"stem": INNER | {"stride": 1}, "widths": [6]},
        ),
    ],
)
def test_a_frame_smaller_than_a_token_is_refused_with_what_works(
    tokenizer: dict[str, Any], height: int, width: int, remedy: str, changes: dict[str, Any]
) -> None:
    of = spec(height=height, width=width)
    with pytest.raises(ValueError, match="larger than the frame") as refusal:
        twin(vivit(tokenizer=tokenizer | {"patch_size": [4, 16, 16]}), of).check_geometry(17)
    assert str(refusal.value).endswith(f"; set {remedy}")
    sides = [int(side) for side in remedy.split("[")[-1].rstrip("]").split(",")]
    made = twin(vivit(tokenizer=tokenizer | changes | {"patch_size": sides}), of).eval()
    made.check_geometry(17)
    with torch.no_grad():
        assert torch.isfinite(made(batch(of))["a"]).all()


def test_broken_checkpoints_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such checkpoint"):
        read_checkpoint(tmp_path / "none.ckpt")
    garbage = tmp_path / "garbage.ckpt"
    garbage.write_bytes(b"not a checkpoint")
    with pytest.raises(ValueError, match="not a readable checkpoint"):
        load_twin(garbage)
    other = tmp_path / "other.ckpt"
    torch.save({"weights": torch.zeros(1)}, other)
    with pytest.raises(ValueError, match="not a checkpoint of a twin"):
        load_twin(other)
    made = twin(vivit())
    torch.save(checkpoint_of(made) | {"state_dict": {}}, other)
    with pytest.raises(ValueError, match="do not fit the model"):
        load_twin(other)


def test_the_output_may_be_softplus() -> None:
    made = twin(vivit(), likelihood=LIKELIHOOD | {"output": "softplus"}).eval()
    with torch.no_grad():
        assert (made(batch(spec()))["a"] > 0).all()
