"""Which parameter is treated how, and the learning rate's course."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from tiny_models import MODELS_UNDER_CONTRACT, READOUT, RETINOTOPIC, SHIFTERS, resnet, twin
from tiny_training import MUON, make_batch, make_twin, optimization
from torch import nn

from vivit_core.training.optim import MATRICES, parameter_groups, readouts_rate

CONV_STEM = {
    "_target_": "vivit_core.models.tokenizers.stem.ConvStem",
    "patch_size": [2, 4, 4],
    "channels": 4,
    "kernel": 3,
    "stride": 2,
    "dropout": 0.0,
    "smoothness": 0.0,
}


@pytest.mark.parametrize("model", [{}, {"tokenizer": CONV_STEM}, {"modulator": None, "frontend": None}])
def test_every_parameter_is_in_exactly_one_group(model):
    twin = make_twin(**model)
    groups = parameter_groups(twin)
    names = [name for members in groups.values() for name in members]
    assert sorted(names) == sorted(name for name, _ in twin.named_parameters())
    optimizer, _ = optimization().build(twin, 2, 3)
    assert [g["name"] for g in optimizer.param_groups] == list(groups)
    assert [p for g in optimizer.param_groups for p in g["params"]] == [
        p for members in groups.values() for p in members.values()
    ]


def test_groups_by_name():
    """The list, written by hand: what decays, and what must not."""
    groups = parameter_groups(make_twin(tokenizer=CONV_STEM))
    assert set(groups) == {
        "core/decay", "core/plain", "attention/decay", "attention/plain", "readouts/plain", "windows/plain"
    }  # fmt: skip
    decay = {
        "core.tokenizer.fields.weight",
        "core.tokenizer.mix.weight",
        "core.tokenizer.embed.weight",
        *(f"modulator.{w}.weight" for w in ("input", "behavior", "recur", "out")),
        *(f"modulator.gain.{w}.weight" for w in ("net.0", "net.2", "directions")),
    }
    assert set(groups["core/decay"]) == decay
    assert set(groups["attention/decay"]) == {
        f"core.{block}.0.{w}.weight"
        for block in ("spatial", "temporal")
        for w in ("attention.qkv", "attention.out", "ff.fc1", "ff.fc2")
    }
    plain = groups["core/plain"]
    assert {
        "core.registers",
        "core.frontend.weight_KL",
        "core.norm.weight",
    } <= set(plain)
    assert "core.spatial.0.attention.q_scale" in groups["attention/plain"]
    assert all(name.startswith(("core.", "modulator.")) for name in plain)
    kinds = {name.split(".")[2] for name in groups["readouts/plain"]}
    assert kinds == {"features", "bias"}
    assert {name.split(".", 2)[2] for name in groups["windows/plain"]} == {"mean", "log_std", "angle"}


def test_a_convolution_in_any_dimension_decays():
    module = nn.ModuleDict(
        {"core": nn.Sequential(nn.Conv1d(1, 1, 3), nn.Conv3d(1, 1, 3), nn.ConvTranspose2d(1, 1, 3), nn.LayerNorm(3))}
    )
    groups = parameter_groups(module)
    assert set(groups["core/decay"]) == {"core.0.weight", "core.1.weight", "core.2.weight"}


def test_the_matrices_of_a_recurrent_layer_decay():
    groups = parameter_groups(nn.ModuleDict({"core": nn.GRU(2, 3)}))
    assert set(groups["core/decay"]) == {"core.weight_ih_l0", "core.weight_hh_l0"}
    assert set(groups["core/plain"]) == {"core.bias_ih_l0", "core.bias_hh_l0"}


def test_blocks_that_begin_with_comparisons_learn_at_a_rate_of_their_own():
    made = twin(MODELS_UNDER_CONTRACT["energies"])
    groups = parameter_groups(made)
    assert "attention/decay" not in groups
    own = {*groups["context/decay"], *groups["context/plain"]}
    around = {"lift.weight", "level.weight", "norm.bias", "registers", "tokenizer.embed.weight"}
    assert {f"core.{name}" for name in (*around, "tokenizer.unembed.weight", "spatial.0.ff.fc1.weight")} <= own
    assert not [name for name in own if name.startswith(("core.tokenizer.stem", "core.frontend", "readouts"))]
    for changed in ({}, MUON | {"muon_lr": 0.1}):
        optim = optimization(lr=0.1, core_lr_scale=0.5, context_lr_scale=0.1, warmup_epochs=0, **changed)
        optim.check(made)
        optimizer, _ = optim.build(made, 2, 3)
        rates = {g["name"]: g["lr"] for g in optimizer.param_groups}
        assert rates["context/decay"] == rates["context/plain"] == pytest.approx(0.005)


def test_groups_get_their_rates():
    scales = {"core_lr_scale": 0.25, "attention_lr_scale": 0.1, "window_lr_scale": 20.0}
    made = optimization(lr=0.1, weight_decay=0.3, warmup_epochs=0, **scales)
    optimizer, _ = made.build(make_twin(), 2, 3)
    got = {g["name"]: (g["lr"], g["weight_decay"], g["betas"]) for g in optimizer.param_groups}
    betas = (0.9, 0.95)
    assert got == {
        "core/decay": (pytest.approx(0.025), 0.3, betas),
        "core/plain": (pytest.approx(0.025), 0.0, betas),
        "attention/decay": (pytest.approx(0.0025), 0.3, betas),
        "attention/plain": (pytest.approx(0.0025), 0.0, betas),
        "readouts/plain": (0.1, 0.0, betas),
        "windows/plain": (pytest.approx(2.0), 0.0, betas),
    }


@pytest.mark.parametrize("kind", [READOUT, RETINOTOPIC], ids=["gaussian", "retinotopic"])
@pytest.mark.parametrize("shifter", SHIFTERS)
def test_without_a_rate_of_their_own_windows_and_shifts_stay(kind, shifter):
    """To the bit, while the readouts learn."""
    made = twin(resnet(shifter=SHIFTERS[shifter]), readout=kind)
    gaze = torch.randn(4, 3, 3)
    readout, own = made.readout("a"), made.shifters[0]

    def look():
        return [readout.centers(), readout.log_std.detach(), readout.angle.detach(), own(gaze).detach()]

    before, features = [each.clone() for each in look()], readout.features[0].detach().clone()
    optimizer, _ = optimization(window_lr_scale=0.0, weight_decay=0.5, warmup_epochs=0).build(made, 1, 3)
    assert len([p for g in optimizer.param_groups for p in g["params"]]) == len(list(made.parameters()))
    for _ in range(3):
        for parameter in made.parameters():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(look(), before, strict=True))
    assert not torch.equal(readout.features[0], features)


def rates(epochs, steps_per_epoch, **changed):
    optimizer, schedule = optimization(lr=1.0, core_lr_scale=1.0, **changed).build(make_twin(), epochs, steps_per_epoch)
    seen = []
    for _ in range(epochs * steps_per_epoch):
        seen.append(readouts_rate(optimizer))
        optimizer.step()
        schedule.step()
    return np.array(seen)


def test_warm_up_then_cosine_to_the_floor():
    lr = rates(5, 4, warmup_epochs=1.5, min_lr_fraction=0.1)
    np.testing.assert_allclose(lr[:6], np.arange(1, 7) / 7, rtol=1e-12)
    steps = np.arange(14)
    np.testing.assert_allclose(lr[6:], 0.1 + 0.9 * 0.5 * (1 + np.cos(math.pi * steps / 13)), rtol=1e-12)
    assert lr[0] > 0 and lr.max() == lr[6] == 1.0 and lr[-1] == pytest.approx(0.1)


def test_no_warm_up_starts_at_the_peak():
    assert rates(2, 5, warmup_epochs=0, min_lr_fraction=0.0)[0] == 1.0


def test_a_constant_rate_cools_down_to_the_floor():
    lr = rates(5, 4, warmup_epochs=1, min_lr_fraction=0.1, cooldown_fraction=0.25)
    np.testing.assert_allclose(lr[:4], np.arange(1, 5) / 5, rtol=1e-12)
    np.testing.assert_allclose(lr[4:16], 1.0)
    np.testing.assert_allclose(lr[16:], 0.1 + 0.9 * np.array([3, 2, 1, 0]) / 4, rtol=1e-12)
    np.testing.assert_allclose(
        rates(2, 3, warmup_epochs=0, min_lr_fraction=0.0, cooldown_fraction=1.0)[1:],
        np.arange(4, -1, -1) / 6,
        rtol=1e-12,
    )


@pytest.mark.parametrize("changed", [{}, MUON])
def test_the_core_begins_after_the_readouts_with_a_warm_up_of_its_own(changed):
    """20 steps, 3 of warm-up, the core from step 8 on; and in 10 steps, where a limit of time halves them."""
    for made, begins, warm in ((20, 8, 3), (10, 4, 2)):
        own = optimization(**changed, lr=1.0, core_lr_scale=0.5, warmup_epochs=0.6, readouts_first=0.4)
        optimizer, schedule = own.build(make_twin(), 4, 5, steps=lambda made=made: made)
        peaks = [group["initial_lr"] for group in optimizer.param_groups]
        words = [group["name"].split("/")[0] for group in optimizer.param_groups]
        assert {"core", "attention", "readouts", "windows"} == set(words)
        for step in range(made):
            course = own.lr_fraction(step, made, warm)
            core = min(course, (step - begins + 1) / (warm + 1)) if step >= begins else 0.0
            parts = {"core": core, "attention": core, "readouts": course, "windows": course}
            expected = [peak * parts[word] for peak, word in zip(peaks, words, strict=True)]
            assert [group["lr"] for group in optimizer.param_groups] == pytest.approx(expected, rel=1e-12), step
            optimizer.step()
            schedule.step()


def test_what_begins_with_comparisons_waits_with_the_core():
    made = twin(MODELS_UNDER_CONTRACT["energies"])
    optimizer, _ = optimization(lr=1.0, warmup_epochs=0, readouts_first=0.4).build(made, 2, 5)
    learns = {group["name"].split("/")[0]: group["lr"] > 0 for group in optimizer.param_groups}
    assert learns == {"core": False, "context": False, "readouts": True, "windows": True}


def test_a_core_that_begins_never_is_another_wish():
    with pytest.raises(ValueError, match=r"optim\.core_lr_scale=0 it never does"):
        optimization(readouts_first=0.3, core_lr_scale=0.0)
    assert optimization(readouts_first=0.99).core_begins(10) == 9  # it begins, if late


def test_a_warm_up_longer_than_the_training_is_said():
    with pytest.warns(UserWarning, match="still rising"):
        lr = rates(2, 2, warmup_epochs=10)
    assert (np.diff(lr) > 0).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("weight_decay", -1.0),
        ("betas", [0.9]),
        ("betas", [0.9, 1.0]),
        ("core_lr_scale", -0.1),
        ("attention_lr_scale", 0.0),
        ("context_lr_scale", 0.0),
        ("window_lr_scale", -0.1),
        ("warmup_epochs", -1),
        ("min_lr_fraction", 1.5),
        ("cooldown_fraction", 0.0),
        ("cooldown_fraction", 1.1),
        ("readouts_first", -0.1),
        ("readouts_first", 1.0),
        ("muon_lr", 0.0),
        ("muon_momentum", 1.0),
    ],
)
def test_numbers_out_of_range_are_named(key, value):
    with pytest.raises(ValueError, match=f"optim.{key}"):
        optimization(**(MUON if key.startswith("muon") else {}) | {key: value})


def test_plain_parameters_do_not_decay():
    """Without gradients but with decay, a step changes the decaying group alone."""
    twin = make_twin()
    before = {name: p.detach().clone() for name, p in twin.named_parameters()}
    optimizer, _ = optimization(weight_decay=0.5, warmup_epochs=0).build(twin, 1, 1)
    for p in twin.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    changed = {name for name, p in twin.named_parameters() if not torch.equal(p, before[name])}
    groups = parameter_groups(twin)
    assert changed == {n for n in (*groups["core/decay"], *groups["attention/decay"]) if before[n].any()}


# Muon ----------------------------------------------------------------------------------------------------------------


def test_muon_takes_the_blocks_matrices_and_adamw_the_rest():
    """Beside torch's own two optimizers, each given its parameters by hand, for three steps of a real loss."""
    made, twin, other = optimization(**MUON, warmup_epochs=0), make_twin(), make_twin()
    optimizer, schedule = made.build(twin, 1, 3)
    groups = parameter_groups(other)
    assert {name for group in optimizer.parts[0].param_groups for name in [group["name"]]} == {MATRICES[0]}
    assert len(optimizer.parts[0].param_groups[0]["params"]) == len(groups[MATRICES[0]]) == 8
    muon = torch.optim.Muon(
        groups[MATRICES[0]].values(), lr=0.5 * MUON["muon_lr"], weight_decay=0.1, momentum=0.9,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    rest = [
        {"params": list(own.values()), "lr": 1e-2 * (0.5 if name.split("/")[0] in ("core", "attention") else 1.0),
         "weight_decay": 0.1 if name.endswith("decay") else 0.0}
        for name, own in groups.items() if name != MATRICES[0]
    ]  # fmt: skip
    theirs = [muon, torch.optim.AdamW(rest, betas=(0.9, 0.95), fused=True)]
    courses = [torch.optim.lr_scheduler.LambdaLR(own, lambda step: made.lr_fraction(step, 3, 0)) for own in theirs]
    for k in range(3):
        for model, steps in ((twin, [optimizer, schedule]), (other, [*theirs, *courses])):
            torch.manual_seed(k)
            model.zero_grad()
            sum(rate.square().mean() for rate in model(make_batch(k)).values()).backward()
            for step in steps:
                step.step()
    for (name, ours), expected in zip(twin.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, expected), name


def test_muon_goes_on_from_its_state():
    """Saved after two steps and taken over by another one, whose third step is the same."""
    twins = [make_twin(), make_twin()]
    optimizers = [optimization(**MUON).build(twin, 1, 4)[0] for twin in twins]

    def step(index, k):
        torch.manual_seed(k)
        twins[index].zero_grad()
        sum(rate.square().mean() for rate in twins[index](make_batch(k)).values()).backward()
        optimizers[index].step()

    step(0, 0)
    step(0, 1)
    twins[1].load_state_dict(twins[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    step(0, 2)
    step(1, 2)
    assert all(torch.equal(a, b) for a, b in zip(*(twin.parameters() for twin in twins), strict=True))


def test_muon_without_gradients_changes_nothing():
    """As a step with a non-finite loss is skipped."""
    twin = make_twin()
    before = [p.detach().clone() for p in twin.parameters()]
    optimizer, _ = optimization(**MUON).build(twin, 1, 1)
    optimizer.zero_grad(set_to_none=True)
    optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(twin.parameters(), before, strict=True))


def test_muon_needs_blocks():
    optimization(**MUON).check(make_twin())
    with pytest.raises(ValueError, match=r"optim=muon .* none; set optim=adamw"):
        optimization(**MUON).check(make_twin(spatial_depth=0, temporal_depth=0, registers=0))
