"""The plan says what then happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from test_latents import NODE as SHARED_GAIN
from tiny_models import (
    ABSOLUTE,
    ATTENTION,
    ENERGY,
    LIKELIHOOD,
    MODULATORS,
    OWN_FILTER,
    READOUT,
    READOUTS_UNDER_CONTRACT,
    RELATIVE,
    RESIDUAL_STEM,
    TUBELET,
    WINDOW,
    spec,
    twin,
    vivit,
)

from vivit_core.models.plan import plan

LATENT = SHARED_GAIN | {"hold": 1}
SIZES = {
    "frame_shape": (1, 12, 16),
    "recordings": 2,
    "units": 5,
    "behavior": {"gaze": 3},
    "position_dim": 3,
    "clip_length": 16,
    "batch_size": 4,
    "frame_rate_hz": 120.0,
}


@pytest.fixture(scope="module")
def bare():
    return plan(vivit(registers=0), READOUT, LIKELIHOOD, **SIZES)


def test_stages_have_the_shapes_of_the_real_pass(bare) -> None:
    shapes = {stage.name: stage.shape for stage in bare.stages}
    assert shapes["tokenizer"] == "(4, 4, 12, 16)"
    assert shapes["2 spatial blocks"] == "(16, 12, 16)"
    assert shapes["2 temporal blocks"] == "(48, 4, 16)"
    assert shapes["core"] == "(4, 16, 4, 3, 4)"
    assert shapes["2 readouts"] == "(2, 16, 5)"
    made = twin(vivit(registers=0), spec("a"), spec("b"))
    assert bare.parameters == sum(p.numel() for p in made.parameters())
    assert {stage.name: stage.tokens for stage in bare.stages}["tokenizer"] == 48


@pytest.mark.parametrize("readout", READOUTS_UNDER_CONTRACT.values(), ids=READOUTS_UNDER_CONTRACT)
def test_every_readout_has_the_parameters_of_the_plan(readout) -> None:
    model = vivit(spatial_depth=0, temporal_depth=1, registers=0)
    made = twin(model, spec("a"), spec("b"), readout=readout)
    planned = plan(model, readout, LIKELIHOOD, **SIZES)
    assert planned.parameters == sum(p.numel() for p in made.parameters())
    assert {stage.name: stage.parameters for stage in planned.stages}["2 readouts"] == sum(
        p.numel() for p in made.readouts.parameters()
    )


@pytest.mark.parametrize("modulator", MODULATORS.values(), ids=MODULATORS)
def test_every_modulator_has_the_parameters_and_maps_of_the_plan(modulator) -> None:
    model = vivit(spatial_depth=0, temporal_depth=1, registers=0, modulator=modulator)
    planned = plan(model, READOUT, LIKELIHOOD, **SIZES)
    made = twin(model, spec("a"), spec("b"))
    assert planned.parameters == sum(p.numel() for p in made.parameters())
    (stage,) = (stage for stage in planned.stages if stage.name == "modulator")
    assert stage.parameters == sum(p.numel() for p in made.modulator.parameters())
    assert stage.shape == "(4, 16, 4, 3, 4)"


def test_flops_are_those_counted_by_hand() -> None:
    sizes = SIZES | {"behavior": {}, "recordings": 1, "batch_size": 1}
    made = plan(vivit(registers=0, modulator=None), READOUT, LIKELIHOOD, **sizes)
    tokens, dim = 4 * 12, 16
    linear = tokens * (64 * dim + 4 * (3 * dim * dim + dim * dim + 8 * dim * dim))
    attention = 2 * (4 * 2 * 12 * 12 * dim) + 2 * (12 * 2 * 4 * 4 * dim)
    readout = 4 * 12 * dim * 5
    assert made.flops == 3 * 2 * (linear + attention + readout)
    assert (
        plan(vivit(registers=0, modulator=None, checkpointing=True), READOUT, LIKELIHOOD, **sizes).flops == made.flops
    )


def test_a_latent_costs_what_its_integral_takes() -> None:
    """Its Newton steps at least: of each the drive of 500 units by the gain, in 16 steps; and what that holds."""
    sizes, model = SIZES | {"units": 500}, vivit(registers=0)
    without, made = (plan(one, READOUT, LIKELIHOOD, **sizes) for one in (model, model | {"latent": LATENT}))
    gain = 2 * SIZES["batch_size"] * SIZES["clip_length"] * 500
    assert 9 * gain < made.flops - without.flops < 90 * gain
    assert made.activation_bytes > without.activation_bytes
    assert made.parameters == without.parameters + 2 * 501


def test_overlapping_tubelets_cost_what_their_tokens_do() -> None:
    """Half the stride: 8 time steps of 5×7 tokens in place of 4 of 3×4."""
    sizes = SIZES | {"behavior": {}, "recordings": 1, "batch_size": 1}
    model = vivit(registers=0, modulator=None, tokenizer=TUBELET | {"token_stride": [2, 2, 2]})
    planned = plan(model, READOUT, LIKELIHOOD, **sizes)
    assert {stage.name: stage.tokens for stage in planned.stages}["tokenizer"] == 8 * 5 * 7
    steps, places, dim = 8, 35, 16
    linear = steps * places * (64 * dim + 4 * 12 * dim * dim)
    pairs = 2 * (steps * places**2) + 2 * (places * steps**2)
    assert planned.flops == 3 * 2 * (linear + 2 * pairs * dim + steps * places * dim * 5)


@pytest.mark.parametrize("attention", [ATTENTION, ABSOLUTE, RELATIVE, WINDOW])
@pytest.mark.parametrize("blocks", ["factorized", "joint"])
def test_flops_of_each_attention_and_of_joint_blocks(attention, blocks) -> None:
    """4 time steps of 3×4 tokens, 16 numbers, two heads of 8, 2 + 2 blocks or 4 joint ones; 2×3 learned places."""
    sizes = SIZES | {"behavior": {}, "recordings": 1, "batch_size": 1}
    model = vivit(registers=0, modulator=None, attention=attention, blocks=blocks)
    steps, places, dim = 4, 12, 16
    tokens, ages = steps * places, 16  # learned
    linear = tokens * (64 * dim + 4 * (3 * dim * dim + dim * dim + 8 * dim * dim))
    pairs = 2 * (steps * places**2) + 2 * (places * steps**2) if blocks == "factorized" else 4 * tokens**2
    positions = 0
    if attention == ABSOLUTE:
        in_space = [places, places] if blocks == "factorized" else [tokens] * 4
        positions = sum(6 * own * dim for own in in_space) + (4 if blocks == "joint" else 2) * tokens * ages * dim
    planned = plan(model, READOUT, LIKELIHOOD, **sizes)
    assert planned.flops == 3 * 2 * (linear + 2 * pairs * dim + positions + tokens * dim * 5)
    assert planned.parameters == sum(p.numel() for p in twin(model, spec("a", behavior=0)).parameters())
    stages = {stage.name: stage.shape for stage in planned.stages}
    assert stages.get("4 joint blocks") == ("(1, 48, 16)" if blocks == "joint" else None)


@pytest.mark.parametrize(("window", "dropout"), [(None, 0.0), (8, 0.0), (None, 0.2)])
def test_a_gpus_attention_holds_no_weights_of_all_pairs(window, dropout) -> None:
    """On a CPU, 256 tokens are few enough that the weights of all pairs are held, of all clips and heads: scores and
    softmax at least. On a GPU nothing grows with the square; the operations are as many."""
    tokens, heads, clips = 256, 2, 4
    model = vivit(
        registers=0, spatial_depth=0, temporal_depth=1, modulator=None, window=window,
        attention=ATTENTION | {"dropout": dropout},
    )  # fmt: skip
    sizes = SIZES | {"frame_shape": (1, 4, 4), "recordings": 1, "clip_length": 4 * tokens, "batch_size": clips}
    cpu, gpu = (plan(model, READOUT, LIKELIHOOD, **sizes, device=device) for device in ("cpu", "cuda"))
    assert cpu.activation_bytes - gpu.activation_bytes > 2 * clips * heads * tokens**2
    half = plan(model, READOUT, LIKELIHOOD, **sizes | {"clip_length": 2 * tokens}, device="cuda")
    assert gpu.activation_bytes < 2.2 * half.activation_bytes
    assert gpu.flops == cpu.flops and gpu.weight_bytes == cpu.weight_bytes


MEASURE = """
import sys
import torch
sys.path.insert(0, sys.argv[1])
from tiny_models import LIKELIHOOD, READOUT, batch, spec, twin, vivit
from vivit_core.models.plan import plan

def kilobytes(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))

model = vivit(registers=0, embedding_dim=64, checkpointing=sys.argv[2] == "True")
sizes = dict(frame_shape=(1, 32, 32), recordings=1, units=5, behavior={'gaze': 3}, position_dim=0)
sizes |= dict(clip_length=320, batch_size=8, frame_rate_hz=120.0)
planned = plan(model, READOUT, LIKELIHOOD, **sizes).activation_bytes
of = spec(height=32, width=32)
made = twin(model, of)
twin(vivit(embedding_dim=64))(batch(spec()))["a"].sum().backward()  # libraries' own memory
clips = batch(of, bins=320, count=8)
before = kilobytes("VmRSS")
open("/proc/self/clear_refs", "w").write("5")
made(clips)["a"].mean().backward()
print(planned / 1024, kilobytes("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="reads a process's peak memory from Linux")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_memory_is_what_a_pass_then_takes(checkpointing: bool) -> None:
    """Of a process whose allocator gives freed blocks back, so that its peak is what its tensors hold."""
    words = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), str(checkpointing)]
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    planned, measured = map(float, done.stdout.split())
    assert planned == pytest.approx(measured, rel=0.2)


def test_impossible_geometry_is_refused_with_a_remedy() -> None:
    with pytest.raises(ValueError, match="clip_length"):
        plan(vivit(), READOUT, LIKELIHOOD, **SIZES | {"clip_length": 4})


@pytest.mark.slow
def test_what_each_recording_has_and_attention_among_cells_have_rows() -> None:
    """Also where a part gives a drive and a gain."""
    model = vivit(tokenizer=RESIDUAL_STEM, energy=ENERGY, own_filter=OWN_FILTER, embedding_dim=48)
    rows = {row.name: row for row in plan(model, READOUT, LIKELIHOOD, **SIZES).stages}
    of_cells, own = rows["attention among cells"], rows["2 own filters"]
    assert of_cells.parameters == 3 * 3 + 2 * 2 + 2
    assert own.shape.count(" + ") == 1 and own.parameters == 2 * 5 * (11 + 2)


def test_own_filters_are_planned_at_the_rate_of_the_recordings() -> None:
    """Their time courses are seconds long, so that faster recordings have more lags."""
    model = vivit(registers=0, spatial_depth=0, temporal_depth=1, own_filter=OWN_FILTER | {"duration_s": 0.1})
    slow, fast = (plan(model, READOUT, LIKELIHOOD, **SIZES | {"frame_rate_hz": rate}) for rate in (10.0, 120.0))
    assert fast.flops > slow.flops and fast.parameters == slow.parameters
