"""Every model and every task on a GPU that is not there: what meets what, and on which device (see ``emulated``)."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
import tiny_models
import torch
from emulated import CUDA, OnGpu, emulated_gpu
from lightning.pytorch.accelerators import CPUAccelerator
from lightning.pytorch.strategies import SingleDeviceStrategy
from test_history_fit import POPULATION, SPIKES, shared
from test_latent_fit import NODE as LATENT
from test_readout_fit import BURN_IN, CLIP, MODELS, fit_of, made, recorded, synthetic
from tiny_training import WITHOUT_DROPOUT, make_twin, optimization, train
from torch import nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from vivit_core.metrics.streamed_scores import StreamedScores
from vivit_core.models.checkpoint import read_checkpoint
from vivit_core.models.likelihoods.loss import counted, summed_loss
from vivit_core.models.ln import LN
from vivit_core.models.load import load_twin
from vivit_core.training import latent_fit, regression
from vivit_core.training.beside_rates import fit_beside_rates
from vivit_core.training.callbacks.averaging import Averaging
from vivit_core.training.readout_fit import fit_readout
from vivit_core.training.regression import fitted, in_groups
from vivit_core.training.transfer import load_parts, pretrained

MORE = {
    "windowed": tiny_models.vivit(window=8),
    "frames-resized": tiny_models.vivit(frame_size=[8, 10]),
    "shifted-and-resized": tiny_models.vivit(frame_size=[8, 10], shifter=tiny_models.SHIFTERS["affine"]),
    "gru": tiny_models.vivit(modulator=tiny_models.MODULATORS["gru"]),
    "own-filters": tiny_models.vivit(own_filter=tiny_models.OWN_FILTER, shifter=tiny_models.SHIFTERS["gaze"]),
    "history-and-latent": tiny_models.vivit(history=POPULATION, latent=LATENT),
}
ALL = tiny_models.MODELS_UNDER_CONTRACT | MORE


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
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *_: None)
    monkeypatch.setattr(torch.backends.cudnn, "is_acceptable", lambda *_: False)  # which it warns of
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


@pytest.mark.parametrize("name", ALL)
def test_a_training_step_on_the_gpu_equals_the_cpus(name, gpu):
    """Loss, regularizer, gradients, clipping, a fused step, the scores; with deterministic algorithms alone, as
    ``trainer.deterministic=true`` asks for. Every dropout but that of attention, which a GPU's kernel draws itself."""
    model = tiny_models.dropping(ALL[name])
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
            total, pairs = summed_loss(predicted, moved, 2, twin.likelihood)
            total = total + twin.more_nats(predicted, moved, 2)
            (total / pairs + twin.regularizer()).backward()
            learned = [p for p in twin.parameters() if p.grad is not None]
            norm = nn.utils.get_total_norm([p.grad for p in learned])
            nn.utils.clip_grads_with_norm_(learned, 0.1, norm)
            optimizer.step()
            twin.set_progress(0.5)
            metrics = []
            for spec in specs:
                metric = StreamedScores(spec.n_units, tiny_models.POISSON).to(device)
                metric.update(*counted(predicted[spec.recording_id], moved[spec.recording_id], 2))
                metrics.append(metric.compute().by_name["bps"])
            weights = torch.cat([p.detach().cpu().flatten() for p in twin.parameters()])
            assert all(p.device.type == device for p in twin.parameters())
            seen.append((float(total.detach()), float(norm), np.concatenate(metrics), weights))
    finally:
        torch.use_deterministic_algorithms(False)
    for of_cpu, of_gpu in zip(*seen, strict=True):
        np.testing.assert_allclose(of_gpu, of_cpu, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ALL)
def test_predictions_and_streams_on_the_gpu_equal_the_cpus(name, gpu):
    model = ALL[name]
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
    assert {name: type(x) for name, x in twin.gaussians_px("a").items()} == dict.fromkeys(
        ("mean_px", "std_px", "angle_deg"), np.ndarray
    )


@pytest.mark.parametrize("name", ["stem", *MORE])
def test_gradients_by_frames_on_the_gpu_equal_the_cpus(name, gpu):
    """Of a twin in evaluation, as receptive fields and most exciting images ask for them."""
    spec = tiny_models.spec("a")
    twin, seen = tiny_models.twin(ALL[name], spec).eval(), []
    for device in ("cpu", "cuda"):
        moved = {key: value.to(device) for key, value in tiny_models.clips(spec, 1, 16).items()}
        moved["frames"] = moved["frames"].float().requires_grad_()
        (found,) = torch.autograd.grad(twin.to(device)({"a": moved})["a"][:, -1].sum(), moved["frames"])
        seen.append(found.cpu())
    assert seen[0].any()
    torch.testing.assert_close(seen[1], seen[0], rtol=1e-3, atol=1e-6)


def test_the_baseline_on_the_gpu(gpu):
    spec = tiny_models.spec("a")
    ln, batch = LN([spec], duration_s=0.05, patch=5, nonlinearity="exp"), measured_batch(spec)
    expected = ln(batch)["a"].detach().numpy()
    moved = {"a": {key: value.to("cuda") for key, value in batch["a"].items()}}
    np.testing.assert_allclose(ln.to("cuda")(moved)["a"].detach().cpu().numpy(), expected, rtol=1e-5)


def test_units_are_fitted_on_the_gpu_by_the_thread_that_asks(monkeypatch, request):
    """Or torch, which loads its library of linear algebra at the first call there, ends the training. In larger groups
    than those of a CPU's threads, to the same numbers."""
    weights = torch.ones(6, 4)
    seen = synthetic(weights, 400, of_core=2, drives=4)
    fit, whole, numbers = fit_of(seen), slice(0, 6), seen.x_UNK[0].numel()
    monkeypatch.setattr(regression, "GROUP", 6 * numbers)
    monkeypatch.setattr(regression, "cores", lambda: 6)
    expected = fitted(fit, seen, in_groups(whole, numbers, torch.device("cpu")))
    solved_by, cholesky = set(), torch.linalg.cholesky_ex
    monkeypatch.setattr(torch.linalg, "cholesky_ex", lambda x: solved_by.add(threading.current_thread()) or cholesky(x))
    request.getfixturevalue("gpu")
    tensors = {name: value.to("cuda") for name, value in vars(seen).items() if isinstance(value, torch.Tensor)}
    there = replace(seen, **tensors)
    moved = fit_of(there, torch.zeros(6, 5, device="cuda"))
    groups = in_groups(whole, numbers, there.x_UNK.device)
    found = fitted(lambda some: on_gpu(moved(some)), there, groups)
    assert solved_by == {threading.current_thread()} and groups == [whole]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.cpu(), other, rtol=1e-3, atol=1e-4)


def on_gpu(fit):
    fit.likelihood.to("cuda")
    return fit


@pytest.mark.slow
@pytest.mark.parametrize("history", [SPIKES, POPULATION], ids=["spikes", "population"])
def test_the_last_fits_on_the_gpu_equal_the_cpus(history, tmp_path, monkeypatch, request):
    model = MODELS["gains"] | {"history": history, "latent": LATENT}
    monkeypatch.setattr(latent_fit, "STEPS", 5)
    recording, found = None, []
    for device in ("cpu", "cuda"):
        torch.manual_seed(0)
        twin = made(model)
        recording = recording or recorded(tmp_path, lambda *given, twin=twin: shared(twin, *given))
        if device == "cuda":
            request.getfixturevalue("gpu")
            torch.use_deterministic_algorithms(True)
        twin.to(device)
        try:
            torch.manual_seed(1)
            assert fit_readout(twin, recording, CLIP, BURN_IN, bins=2000)
            fit_beside_rates(twin, recording, CLIP, BURN_IN, bins=2000)
        finally:
            torch.use_deterministic_algorithms(False)
        found.append({name: value.cpu() for name, value in twin.state_dict().items()})
    begun = made(model).state_dict()
    for part in ("readouts.", "histories.", "latents."):
        moved = {name for name in begun if name.startswith(part) and not torch.equal(begun[name], found[0][name])}
        assert moved, f"{part} was not fitted"
    for name, expected in found[0].items():
        torch.testing.assert_close(found[1][name], expected, rtol=1e-2, atol=1e-3, msg=name)


class Accelerator(CPUAccelerator):
    """Lightning's for the GPU that is not there: it looks for no driver."""

    def setup_device(self, device):
        pass


def on_the_gpu(folder, **options):
    strategy = SingleDeviceStrategy(device=CUDA, accelerator=Accelerator())
    return train(folder, accelerator="auto", devices="auto", strategy=strategy, deterministic=True, **options)


def weights_of(content):
    return {**content["state_dict"], **{f"average.{k}": v for k, v in content["average"]["state_dict"].items()}}


@pytest.mark.slow
def test_a_whole_training_on_the_gpu_equals_the_cpus(tmp_path, request):
    """Lightning's loop with validation, an average of the weights and checkpoints; then continued, on a trained core,
    and loaded there. Before each step every tensor of the optimizer lies on the GPU."""
    options = {"epochs": 2, "steps": 2, "keep": {"save_top_k": -1}}
    _, _, seen = train(tmp_path / "cpu", twin=make_twin(**WITHOUT_DROPOUT), callbacks=[Averaging(0.8)], **options)
    request.getfixturevalue("gpu")
    places = set()

    def look(optimizer, *_):
        held = [
            *optimizer.param_groups[0]["params"],
            *(x for state in optimizer.state.values() for x in state.values()),
        ]
        places.update(type(x) for x in held)

    watched = register_optimizer_step_pre_hook(look)
    try:
        own = options | {"callbacks": [Averaging(0.8)]}
        _, _, found = on_the_gpu(tmp_path / "gpu", twin=make_twin(**WITHOUT_DROPOUT), **own)
        first = next((tmp_path / "gpu").glob("epoch*0-*.ckpt"))
        own = options | {"callbacks": [Averaging(0.8)]}
        on_the_gpu(tmp_path / "more", twin=make_twin(5, **WITHOUT_DROPOUT), resume=first, **own)
    finally:
        watched.remove()
        torch.use_deterministic_algorithms(False)
    assert places == {OnGpu} or places == {OnGpu, nn.Parameter}, places
    np.testing.assert_allclose(found.losses, seen.losses, rtol=1e-4)
    np.testing.assert_allclose(found.scores, seen.scores, rtol=1e-3)
    kept = [read_checkpoint(tmp_path / name / "last.ckpt") for name in ("cpu", "gpu", "more")]
    for name, expected in weights_of(kept[0]).items():
        for content in kept[1:]:
            torch.testing.assert_close(weights_of(content)[name], expected, rtol=1e-3, atol=1e-4)
    tuned = make_twin(**WITHOUT_DROPOUT)
    parts = pretrained(tuned, kept[1], "trained").parts
    tuned.to("cuda")
    load_parts(tuned, kept[1], parts, "trained")
    assert all(isinstance(p, OnGpu) for p in tuned.parameters())
    on_the_gpu(tmp_path / "tuned", twin=tuned, epochs=1, steps=1, optim={"core_lr_scale": 0.0})
    torch.use_deterministic_algorithms(False)
    for average in (False, True):
        assert all(
            isinstance(p, OnGpu) for p in load_twin(tmp_path / "gpu" / "last.ckpt", "cuda", average).parameters()
        )
