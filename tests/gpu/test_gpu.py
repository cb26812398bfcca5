"""What only a GPU can show, in at most 8 minutes: ``python -m pytest -m gpu``. Without one all of it is skipped; what a
CPU can show instead is in ``test_emulated`` and in docs/gpu.md."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
import tiny_models
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from vivit_core import load_twin
from vivit_core.models.attention.base import AttentionMask
from vivit_core.models.attention.rotary import RotaryAttention
from vivit_core.training.machine import exact_float32

# cuBLAS asks for it at its first product in a process, and with deterministic algorithms refuses without it. Lightning
# sets it for a training; here other tests may come first.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(480),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU here; these tests are for one"),
]
SMALL = [
    "trainer.epochs=2", "trainer.steps_per_epoch=6", "trainer.batch_size=4", "trainer.cuda.max_minutes=5",
    "model.embedding_dim=48", "model.attention.heads=2", "data.num_workers=2", "model.compile=true",
]  # fmt: skip


def test_the_main_job_with_a_gpus_defaults(command, tiny, tmp_path):
    """From simulation to report: bf16, clipping, a fused optimizer, compiled blocks, pinned batches from workers,
    deterministic algorithms. Done again it gives the same weights; then resume, and every task that looks at a twin."""
    words = [*tiny, *SMALL]
    code, printed = command(*words, "hydra.run.dir=one", "outputs=elsewhere")
    said = " ".join(printed.split())
    assert code == 0 and "training on cuda" in said and "bf16-mixed" in said, printed
    assert "the blocks are compiled" in said and "report:" in said, printed
    assert "4 clips, bf16-mixed, as many as fit into 5 minutes, on cuda" in Path("one/report.html").read_text()
    rows = list(csv.DictReader(Path("one/metrics.csv").read_text().splitlines()))
    memory = [float(row["system/gpu_memory"]) for row in rows if row.get("system/gpu_memory")]
    assert memory and all(0 < gib < 80 for gib in memory)

    code, printed = command(*words, "hydra.run.dir=two", "outputs=another")
    assert code == 0, printed
    weights = [torch.load(f"{name}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for name in ("one", "two")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])

    code, printed = command(*words, "hydra.run.dir=one", "outputs=elsewhere")
    assert code == 0 and "already finished" in printed, printed
    before = json.loads(Path("one/summary.json").read_text())
    torch.use_deterministic_algorithms(False)  # a process of its own does not ask for them
    for task, *more in (
        ["evaluate", "behavior_controls=true"],
        ["stream", "bins=60"],
        ["attention", "clips=2", "units=2"],
        ["tuning", "lab_units=2", "mei.steps=5", "mei_units=2", "natural=8"],
        ["receptive_fields", "gradient_clips=4", "noise.clips=4"],
    ):
        code, printed = command(
            f"task={task}", "checkpoint=one/checkpoints/best.ckpt", f"hydra.run.dir={task}", "debug=true", *more
        )
        assert code == 0, printed
    code, printed = command("task=compare", "checkpoints=[one/checkpoints/best.ckpt,two/checkpoints/last.ckpt]")
    assert code == 0, printed
    assert json.loads(Path("evaluate/summary.json").read_text())["bps_mean"] == pytest.approx(
        before["bps_mean"], abs=1e-5
    )
    assert json.loads(Path("stream/stream.json").read_text())["largest_difference"] < 1e-4


def test_an_interrupted_training_continues_to_the_same_weights(command, tiny):
    """From a checkpoint of the first epoch: the optimizer's state goes back to the GPU."""
    words = [*tiny, *SMALL, "model.compile=false", "callbacks.checkpoint.save_top_k=-1"]
    code, printed = command(*words, "hydra.run.dir=whole")
    assert code == 0, printed
    first = sorted(Path("whole/checkpoints").glob("epoch*"))[0]
    Path("parts/checkpoints").mkdir(parents=True)
    for name in ("environment.json", "config.yaml", "overrides.yaml"):
        (Path("parts") / name).write_bytes((Path("whole") / name).read_bytes())
    (Path("parts/checkpoints/last.ckpt")).write_bytes(first.read_bytes())
    code, printed = command(*words, "hydra.run.dir=parts")
    assert code == 0 and "continues the run" in printed, printed
    whole, parts = (
        torch.load(f"{n}/checkpoints/last.ckpt", weights_only=True)["state_dict"] for n in ("whole", "parts")
    )
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


@pytest.mark.parametrize("name", ["stem", "residual-stem", "resnet", "factorized"])
def test_compiled_blocks_equal_eager_ones_and_a_stream_its_clip(name):
    """In float32, dropout included: the same elements are dropped."""
    exact_float32()
    torch._dynamo.reset()  # after eight kinds of blocks in one process it goes on without compiling
    torch._dynamo.utils.counters.clear()
    model, spec = tiny_models.dropping(tiny_models.MODELS_UNDER_CONTRACT[name]), tiny_models.spec("a")
    if "attention" in model:
        model["attention"] = tiny_models.ATTENTION  # attention's own dropout is drawn by its kernel
    batch = {"a": {key: value.cuda() for key, value in tiny_models.clips(spec, 2, 16).items()}}
    outcomes = []
    for compiled in (False, True):
        twin = tiny_models.twin(model, spec).cuda().train()
        if compiled:
            twin.core.compile_blocks()
        torch.manual_seed(3)
        counts = twin(batch)["a"]
        counts.sum().backward()
        outcomes.append(
            (counts.detach(), torch.cat([p.grad.flatten() for p in twin.parameters() if p.grad is not None]))
        )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0
    for eager, fused in zip(*outcomes, strict=True):
        torch.testing.assert_close(fused, eager, rtol=1e-3, atol=1e-4)
    twin = tiny_models.twin(model, spec).cuda().eval()
    clip = tiny_models.clips(spec, 1, 16)
    frames, behavior = clip["frames"][0].numpy(), clip["behavior"][0].numpy()
    expected, stream = twin.rates("a", frames, behavior), twin.stream("a", clip_length=16)
    streamed = np.stack([stream.step(frames[:, t], behavior[t]) for t in range(16)])
    np.testing.assert_allclose(streamed, expected, rtol=1e-4, atol=1e-4 * expected.max())


@pytest.mark.parametrize("window", [None, 40, 5])
def test_attention_of_every_kernel_equals_the_reference(window):
    """The flash kernel where the window takes nothing away, another with a mask where it does; float32 and bfloat16."""
    exact_float32()
    torch.manual_seed(0)
    tokens, mask = 40, AttentionMask("time", True, window)
    attention = RotaryAttention(32, mask, 2, True, 0.0, 100.0, 1000.0).cuda()
    x, at = torch.randn(3, tokens, 32, device="cuda"), attention.positions(1, 1, 0, torch.arange(tokens, device="cuda"))
    q, k, v = attention.project(x, at)
    expected = attention.out((attention.weights(q, k, at, at) @ v).transpose(1, 2).flatten(2))
    seed = torch.zeros(2, dtype=torch.int32, device="cuda")
    torch.testing.assert_close(attention(x, at, seed), expected, rtol=1e-4, atol=1e-5)
    kernels = [SDPBackend.FLASH_ATTENTION] if mask.is_triangle(tokens) else [SDPBackend.EFFICIENT_ATTENTION]
    with torch.autocast("cuda", torch.bfloat16), sdpa_kernel(kernels):  # raises where that kernel cannot
        torch.testing.assert_close(attention(x, at, seed).float(), expected, rtol=0.05, atol=0.02)


def test_one_process_of_an_nccl_group_trains_as_one_without(tmp_path, monkeypatch):
    from tiny_training import WITHOUT_DROPOUT, make_twin, train

    where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29533", "RANK": "0", "WORLD_SIZE": "1"}
    for name, value in {**where, "LOCAL_RANK": "0", "NODE_RANK": "0"}.items():  # Lightning writes all of them
        monkeypatch.setenv(name, value)
    options = {"accelerator": "gpu", "epochs": 1, "steps": 3, "precision": "bf16-mixed", "deterministic": True}
    alone, _, _ = train(tmp_path / "alone", twin=make_twin(**WITHOUT_DROPOUT), **options)
    torch.distributed.init_process_group("nccl", rank=0, world_size=1)
    try:
        options |= {"strategy": "ddp_find_unused_parameters_true", "use_distributed_sampler": False}
        grouped, _, _ = train(tmp_path / "group", twin=make_twin(**WITHOUT_DROPOUT), **options)
    finally:
        torch.distributed.destroy_process_group()
    for one, other in zip(alone.parameters(), grouped.parameters(), strict=True):
        torch.testing.assert_close(other.cpu(), one.cpu(), rtol=1e-3, atol=1e-4)
    assert load_twin(tmp_path / "alone" / "last.ckpt", "cuda").specs
