"""A twin that learns another model's rates: the loss by hand, exact resume, and what is no teacher."""

from __future__ import annotations

import copy
import dataclasses
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tiny_training
import torch
from tiny_training import BURN_IN, SMALL_STEPS, WITHOUT_DROPOUT, SignalAt, make_batch, make_twin, moments, specs
from tiny_training import make_teacher as teacher

from vivit_core.models.likelihoods.negative_binomial import NegativeBinomial
from vivit_core.models.load import checkpoint_of
from vivit_core.models.twin import Twin
from vivit_core.system.stops import TrainingStopped
from vivit_core.training.distillation import Teacher

NB = {"_target_": f"{NegativeBinomial.__module__}.NegativeBinomial", "output": "softplus", "dispersion": 0.3}
HISTORY = {"_target_": "vivit_core.models.histories.spikes.OwnSpikes", "bases": 3, "lags": 6, "shown": 0.5}
GAUSSIAN = {"_target_": "vivit_core.models.likelihoods.gaussian.Gaussian", "output": "softplus"}
ZIG = {"_target_": "vivit_core.models.likelihoods.zero_inflated_gamma.ZeroInflatedGamma", "output": "softplus"}


def with_likelihood(node: dict[str, Any], seed: int = 0, recordings: Any = None) -> Twin:
    torch.manual_seed(seed)
    return Twin(tiny_training.MODEL, tiny_training.READOUT, node, recordings or specs())


@pytest.mark.parametrize("share", [1.0, 0.3])
def test_the_loss_by_hand(share: float) -> None:
    """Poisson nats against the rate in every bin after the burn-in, also where counts are invalid, even NaN."""
    taught, twin = teacher(share), make_twin().eval()
    batch = make_batch(0)
    for clips in batch.values():
        clips["counts"][~clips["valid"]] = torch.nan
    predicted = twin(batch)
    total, pairs = taught.summed_loss(predicted, batch, BURN_IN, twin.likelihood)
    expected, number = 0.0, 0
    for name, rates in predicted.items():
        with torch.no_grad():
            target = taught.model(batch)[name][:, BURN_IN:].double()
        rate, counts = rates[:, BURN_IN:].double(), batch[name]["counts"][:, BURN_IN:].double()
        of_rates = rate - target * rate.log()
        of_counts = rate - counts * rate.log()
        valid = batch[name]["valid"][:, BURN_IN:]
        expected += torch.where(valid, share * of_rates + (1 - share) * of_counts, of_rates).nan_to_num().sum()
        number += rate.numel()
    assert int(pairs) == number
    torch.testing.assert_close(total.double(), expected, rtol=1e-5, atol=0)
    total.backward()
    assert all(p.grad is None for p in taught.model.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in twin.parameters())


def test_units_are_found_by_their_ids() -> None:
    """The teacher knows a recording more, and the units in another order."""
    own = specs()
    a = dataclasses.replace(own[0], unit_ids=("u2", "u0", "u1"))
    model = with_likelihood(tiny_training.LIKELIHOOD, 3, [a, own[1], dataclasses.replace(own[1], recording_id="c")])
    made, batch = teacher(model=model), make_batch(0)
    with torch.no_grad():
        torch.testing.assert_close(made.rates(batch)["a"], model(batch)["a"][..., [1, 2, 0]])


def distance(twin: Twin, taught: Teacher) -> float:
    """Of the rates of clips that the training has not seen."""
    batch = make_batch(500, clips=4)
    with torch.no_grad():
        return float(sum((twin.eval()(batch)[n] - r).abs().mean() for n, r in taught.rates(batch).items()))


@pytest.mark.slow
def test_a_twin_comes_near_its_teacher_and_goes_on_exactly(tmp_path: Path) -> None:
    options: dict[str, Any] = {"module": {"teacher": teacher()}, "epochs": 6, "optim": {"weight_decay": 0.0}}
    whole, trainer, _ = tiny_training.train(tmp_path / "whole", **options)
    counted, _, _ = tiny_training.train(tmp_path / "counted", **options | {"module": {}})
    near, before, without = (distance(twin, teacher()) for twin in (whole.twin, make_twin(), counted.twin))
    assert near < 0.7 * before and near < 0.5 * without, (near, before, without)
    saved = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)
    assert saved["teacher"] == teacher().checksum != teacher(model=make_twin(5)).checksum
    assert all(name.startswith("twin.") for name in saved["state_dict"] if "unit_metrics" not in name)

    with pytest.raises(TrainingStopped):
        tiny_training.train(tmp_path / "parts", callbacks=[SignalAt(3, 1)], **options)
    last = tmp_path / "parts" / "last.ckpt"
    parts, again, _ = tiny_training.train(tmp_path / "parts", resume=last, **options)
    assert again.global_step == trainer.global_step == 24
    ours, theirs = parts.twin.state_dict(), whole.twin.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for other in (None, teacher(model=make_twin(5))):
        with pytest.raises(ValueError, match="had another teacher than this one"):
            tiny_training.train(tmp_path / "parts", resume=last, **options | {"module": {"teacher": other}})


def test_accumulated_batches_are_one() -> None:
    """As ranks are: sums of nats and pairs add up."""
    taught, twin, batch = teacher(0.5), make_twin().eval(), make_batch(0, clips=4)
    with torch.no_grad():
        whole = taught.summed_loss(twin(batch), batch, BURN_IN, twin.likelihood)
        halves = [tiny_training.rows(batch, slice(i, i + 2)) for i in (0, 2)]
        parts = [taught.summed_loss(twin(half), half, BURN_IN, twin.likelihood) for half in halves]
    torch.testing.assert_close(sum(part[0] for part in parts), whole[0])
    assert sum(int(part[1]) for part in parts) == int(whole[1])


def test_how_counts_scatter_is_the_teachers() -> None:
    """Rates do not scatter: a dispersion comes from the teacher, and learns from counts alone."""
    model, twin = with_likelihood(NB, 4), with_likelihood(NB)
    with torch.no_grad():
        model.likelihood("a").log_dispersion_U.copy_(torch.tensor([-1.0, 0.0, 0.5]))
    for share, moves in ((1.0, False), (0.5, True)):
        taught = Teacher(model, "nb.ckpt", share)
        taught.check(twin)
        taught.hand_over(twin)
        dispersion = twin.likelihood("a").log_dispersion_U
        assert dispersion.tolist() == [-1.0, 0.0, 0.5]
        twin.zero_grad()
        batch = make_batch(0)
        taught.summed_loss(twin(batch), batch, BURN_IN, twin.likelihood)[0].backward()
        assert dispersion.grad is not None and bool(dispersion.grad.any()) == moves


def test_in_what_counts_are_said_is_the_students_own() -> None:
    """Where mean counts are above one, which depends on the units and the trials."""
    few, many = (0.9, 0.2, 0.1), (4.0, 0.2, 0.1)
    for theirs, own in ((many, (2.0, 0.2, 0.1)), (many, few), (few, many)):
        model, twin = with_likelihood(NB, 4), with_likelihood(NB)
        model.likelihoods[0], twin.likelihoods[0] = (NegativeBinomial(m, "softplus", 0.1) for m in (theirs, own))
        with torch.no_grad():
            model.likelihood("a").log_dispersion_U.copy_(torch.tensor([-1.0, 0.0, 0.5]))
        taught = Teacher(model, "nb.ckpt", 1.0)
        taught.check(twin)
        taught.hand_over(twin)
        student = twin.likelihood("a")
        assert student.log_dispersion_U.tolist() == [-1.0, 0.0, 0.5]
        torch.testing.assert_close(student.rate(student.mean_drive()), torch.tensor(own), rtol=1e-4, atol=1e-5)


def test_a_likelihood_of_another_kind_learns_from_counts_or_not_at_all() -> None:
    """Parameters are handed over where they mean the same: the spread of a root is none of the response itself."""
    raw, root = (with_likelihood(GAUSSIAN | {"stabilized": of_root}) for of_root in (False, True))
    with torch.no_grad():
        root.likelihood("a").sd_U.fill_(0.2)
    for model, twin in ((root, raw), (make_twin(), with_likelihood(NB))):
        with pytest.raises(ValueError, match=r"rates alone do not tell; set teacher_share below 1"):
            Teacher(model, "t.ckpt", 1.0).check(twin)
        taught, before = Teacher(model, "t.ckpt", 0.5), copy.deepcopy(twin.likelihood("a").state_dict())
        taught.check(twin)
        taught.hand_over(twin)
        after = twin.likelihood("a").state_dict()
        assert all(torch.equal(after[key], value) for key, value in before.items())
        batch = make_batch(0)
        taught.summed_loss(twin(batch), batch, BURN_IN, twin.likelihood)[0].backward()
        assert all(p.grad is not None and p.grad.any() for p in twin.likelihood("a").parameters())
    Teacher(with_likelihood(NB), "nb.ckpt", 1.0).check(make_twin())  # Poisson's has nothing to learn


def test_what_is_no_teacher_is_refused() -> None:
    own = specs()
    with pytest.raises(ValueError, match=r"teacher_share=0\.0 must be above 0"):
        teacher(0.0)
    for wrong, said in {
        "does not know the recordings b; it knows a": [own[0]],
        "does not know 1 of 3 units of recording a: u2": [
            dataclasses.replace(own[0], unit_ids=("u0", "u1"), unit_mean_counts=(0.5, 0.5)), own[1]
        ],
        "the frame rate of recording a is 60.0 there and 30.0 here": [
            dataclasses.replace(one, frame_rate_hz=60.0) for one in own
        ],
        r"the behaviors of recording a is \[\('pupil', 2\)\] there": [
            dataclasses.replace(one, behavior={"pupil": 2}) for one in own
        ],
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=wrong):
            teacher(model=with_likelihood(tiny_training.LIKELIHOOD, recordings=said))
    with pytest.raises(ValueError, match="predicts last bins, and this training all"):
        teacher(model=make_twin(predict="last"))
    sharing = make_twin()
    sharing.latents = torch.nn.ModuleList()
    with pytest.raises(ValueError, match="set model/latent=none"):
        teacher().check(sharing)
    with pytest.raises(ValueError, match="set model/history=none"):
        teacher().check(make_twin(history=HISTORY))
    with pytest.raises(ValueError, match="no targets of the likelihood ZeroInflatedGamma"):
        Teacher(make_twin(), "t.ckpt", 1.0).check(with_likelihood(ZIG | {"floor": 0.01}))


def test_the_command_asks_before_anything_is_read(command: Callable[..., Any], tiny: list[str], tmp_path: Path) -> None:
    torch.save(checkpoint_of(make_twin()), tmp_path / "teacher.ckpt")
    code, printed = command("experiment=distill", *tiny)
    assert code == 1 and "Say teacher=CHECKPOINT, of an ensemble" in printed
    code, printed = command("experiment=distill", "teacher=teacher.ckpt", "data.cache=none", *tiny[:-1])
    assert code == 1 and "does not know the recordings sim0, sim1; it knows a, b" in printed
    assert not (tmp_path / "none").exists()
    code, printed = command("experiment=distill", "teacher=teacher.ckpt", "model=ln", *tiny)
    assert code == 1 and "model=ln is fitted to counts" in printed


def test_a_teacher_of_other_data_is_refused_by_the_command(
    command: Callable[..., Any], compose: Callable[..., Any], tiny: list[str], tmp_path: Path
) -> None:
    """Behaviors of equal names and sizes may be made in different ways; and no rate is taught of less past."""
    known = [dataclasses.replace(one, recording_id=name) for one, name in zip(specs(), ("sim0", "sim1"), strict=True)]
    model = with_likelihood(tiny_training.LIKELIHOOD, recordings=known)
    for its, said in {
        "data/transforms=locomotion": "was trained with other data.transforms than this training has",
        "data.burn_in=21": "here it would teach those after the first 20, of which it knows too little past; set "
        "data.burn_in=21",
    }.items():
        settings = compose(*tiny, its)
        torch.save(checkpoint_of(model) | {"settings": settings}, tmp_path / "teacher.ckpt")
        code, printed = command("experiment=distill", "teacher=teacher.ckpt", *tiny)
        assert code == 1 and said in " ".join(printed.split()), printed


@pytest.mark.long
def test_two_processes_learn_alike(tmp_path: Path) -> None:
    script = Path(tiny_training.__file__)
    paths = os.pathsep.join(filter(None, [str(script.parent), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    process = subprocess.Popen(
        [sys.executable, script, tmp_path, "ddp", "taught"], env=environment, start_new_session=True
    )
    try:
        assert process.wait(240) == 0
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    result = torch.load(tmp_path / "result.pt", weights_only=True)
    _, trainer, record = tiny_training.train(
        tmp_path / "alone",
        epochs=1,
        twin=make_twin(**WITHOUT_DROPOUT),
        optim=SMALL_STEPS,
        module={"teacher": teacher(0.5)},
    )
    assert result["losses"] == pytest.approx(record.losses, rel=1e-5)
    for ours, theirs in zip(result["moments"], moments(trainer), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-7)
