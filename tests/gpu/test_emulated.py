"""Every model and every task on a GPU that is not there: what meets what, and on which device (see ``emulated``)."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_models
import torch
from emulated import OnGpu, emulated_gpu
from tiny_training import optimization
from torch import nn

from vivit_core.models.baselines import LN
from vivit_core.training.losses import counted, poisson_loss
from vivit_core.training.metrics import UnitMetrics

WINDOWED = {"windowed": tiny_models.vivit(window=8), "frames-resized": tiny_models.vivit(frame_size=[8, 10])}


def measured_batch(*specs):
    """Clips with counts, some of which are not valid."""
    batch = tiny_models.batch(*specs, count=2, bins=17)
    drawn = torch.Generator().manual_seed(1)
    for spec in specs:
        shape = (2, 17, spec.n_units)
        batch[spec.recording_id]["counts"] = torch.poisson(torch.full(shape, 0.5), generator=drawn)
        batch[spec.recording_id]["valid"] = torch.rand(shape, generator=drawn) < 0.9
    return batch


@pytest.fixture
def gpu(monkeypatch):
    """As if torch saw one GPU, on which it may use deterministic algorithms alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda *_: "emulated")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    with emulated_gpu():
        yield


def test_the_emulation_refuses_what_a_gpu_refuses(gpu):
    here, there = torch.ones(3), torch.ones(3, device="cuda")
    assert there.device.type == "cuda" and isinstance(here.to("cuda"), OnGpu) and type(there.cpu()) is torch.Tensor
    assert isinstance(there + 1, OnGpu) and isinstance(there * torch.tensor(2.0), OnGpu)  # a number may come from a CPU
    for mixed in (lambda: here + there, lambda: there @ here, lambda: torch.cat([here, there])):
        with pytest.raises(RuntimeError, match="same device"):
            mixed()
    for unreadable in (there.numpy, lambda: np.asarray(there)):
        with pytest.raises((RuntimeError, TypeError)):
            unreadable()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, device="cuda", generator=torch.Generator())
    frames = torch.rand(1, 1, 8, 8, device="cuda").requires_grad_()
    smaller = nn.functional.interpolate(frames, (4, 4), mode="bilinear", antialias=True)
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(RuntimeError, match="deterministic"):
            smaller.sum().backward()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("name", [*tiny_models.MODELS_UNDER_CONTRACT, *WINDOWED])
def test_a_training_step_on_the_gpu_equals_the_cpus(name, gpu):
    """Loss, penalty, gradients, clipping, a fused step, the scores; with deterministic algorithms alone, as
    ``trainer.deterministic=true`` asks for. Every dropout but that of attention, which a GPU's kernel draws itself."""
    model = tiny_models.dropping(tiny_models.MODELS_UNDER_CONTRACT.get(name) or WINDOWED[name])
    if "attention" in model:
        model["attention"] = tiny_models.ATTENTION
    specs = [tiny_models.spec("a"), tiny_models.spec("b", units=3)]
    batch = measured_batch(*specs)
    seen = []
    torch.use_deterministic_algorithms(True)
    try:
        for device in ("cpu", "cuda"):
            twin = tiny_models.twin(model, *specs).train().to(device)
            optimizer, _ = optimization().build(twin, 1, 1)
            moved = {rid: {key: value.to(device) for key, value in clips.items()} for rid, clips in batch.items()}
            torch.manual_seed(3)
            predicted = twin(moved)
            total, pairs = poisson_loss(predicted, moved, 2)
            (total / pairs + twin.penalty()).backward()
            learned = [p for p in twin.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in learned])
            nn.utils.clip_grads_with_norm_(learned, 0.1, norm)
            optimizer.step()
            twin.set_progress(0.5)
            metrics = []
            for spec in specs:
                metric = UnitMetrics(spec.n_units).to(device)
                metric.update(*counted(predicted[spec.recording_id], moved[spec.recording_id], 2))
                metrics.append(metric.compute().bps)
            weights = torch.cat([p.detach().cpu().flatten() for p in twin.parameters()])
            assert all(p.device.type == device for p in twin.parameters())
            seen.append((float(total.detach()), float(norm), np.concatenate(metrics), weights))
    finally:
        torch.use_deterministic_algorithms(False)
    for of_cpu, of_gpu in zip(*seen, strict=True):
        np.testing.assert_allclose(of_gpu, of_cpu, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", [*tiny_models.MODELS_UNDER_CONTRACT, *WINDOWED])
def test_predictions_and_streams_on_the_gpu_equal_the_cpus(name, gpu):
    model = tiny_models.MODELS_UNDER_CONTRACT.get(name) or WINDOWED[name]
    spec = tiny_models.spec("a")
    clip = tiny_models.clips(spec, 1, 16)
    frames, behavior = clip["frames"][0].numpy(), clip["behavior"][0].numpy()
    twin = tiny_models.twin(model, spec).eval()
    expected = twin.rates("a", frames, behavior)
    twin = twin.to("cuda")
    np.testing.assert_allclose(twin.rates("a", frames, behavior), expected, rtol=1e-4)
    stream = twin.stream("a", clip_length=16)
    streamed = np.stack([stream.step(frames[:, t], behavior[t]) for t in range(16)])
    np.testing.assert_allclose(streamed, expected, rtol=1e-4)
    assert {name: type(x) for name, x in twin.readout_gaussians("a").items()} == dict.fromkeys(
        ("mean_px", "std_px", "angle_deg"), np.ndarray
    )


def test_the_baseline_on_the_gpu(gpu):
    spec = tiny_models.spec("a")
    ln, batch = LN([spec], duration_s=0.05, patch=5), measured_batch(spec)
    expected = ln(batch)["a"].detach().numpy()
    moved = {"a": {key: value.to("cuda") for key, value in batch["a"].items()}}
    np.testing.assert_allclose(ln.to("cuda")(moved)["a"].detach().cpu().numpy(), expected, rtol=1e-5)
