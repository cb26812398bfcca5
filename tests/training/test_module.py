"""One training step and the numbers reported, each against a computation that does not use the module."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import tiny_training
import torch
from lightning.pytorch.loggers import CSVLogger
from scipy import stats
from tiny_training import (
    BURN_IN,
    MUON,
    SMALL_STEPS,
    UNITS,
    WITHOUT_DROPOUT,
    make_batch,
    make_twin,
    moments,
    rows,
    spoil,
    train,
)
from torch import nn

from vivit_core.models.likelihoods.poisson import Poisson
from vivit_core.models.load import load_twin
from vivit_core.models.predictor import Predictor
from vivit_core.training.module import _mixed

TESTS = Path(__file__).parent


def weights(module):
    return torch.cat([p.detach().flatten() for p in module.parameters()])


def mean_loss(twin, batches):
    """Loss of batches as the mean over all their valid pairs, plus the regularizer; in float64, by recording."""
    total, pairs = 0.0, 0
    for batch in batches:
        for rid, rate in twin(batch).items():
            use = batch[rid]["valid"][:, BURN_IN:]
            r, n = rate[:, BURN_IN:][use].double(), batch[rid]["counts"][:, BURN_IN:][use].double()
            total, pairs = total + (r - n * r.log()).sum(), pairs + use.sum()
    return total / pairs + twin.regularizer()


def halves(k):
    """Batch k of two clips, dealt out one by one; the halves have different numbers of valid pairs."""
    return rows(make_batch(k // 2), slice(k % 2, k % 2 + 1))


def test_a_step_follows_the_gradient_of_the_mean_over_all_accumulated_pairs(tmp_path):
    """Plain SGD-like check: with betas 0 the first AdamW step is the sign of the gradient, so its direction shows in
    the moments."""
    twin = make_twin(**WITHOUT_DROPOUT)
    mean_loss(twin, [halves(0), halves(1)]).backward()
    expected = {name: p.grad.clone() for name, p in twin.named_parameters()}
    for accumulate, batches in ((1, make_batch), (2, halves)):
        lit, trainer, record = train(
            tmp_path / str(accumulate),
            epochs=1,
            steps=1,
            accumulate=accumulate,
            batches=batches,
            twin=make_twin(**WITHOUT_DROPOUT),
            optim={"betas": [0.0, 0.0]},
            module={"gradient_clip": 0.0},
        )
        state = trainer.optimizers[0].state
        for name, p in lit.twin.named_parameters():  # with betas of 0 the first moment is the gradient of the step
            torch.testing.assert_close(state[p]["exp_avg"], expected[name], rtol=2e-4, atol=1e-6)
        assert record.losses[0] == pytest.approx(
            float(mean_loss(make_twin(**WITHOUT_DROPOUT), [make_batch(0)]) - twin.regularizer()), rel=1e-5
        )
        norm = math.sqrt(sum(float(g.square().sum()) for g in expected.values()))
        assert float(trainer.callback_metrics["train/grad_norm"]) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_clipping_equals_lightnings(tmp_path, accumulate):
    """Which cannot be used, because Lightning refuses it to a fused optimizer in mixed precision. The norm that is
    reported is the one before. The two sum their norms in different orders."""
    norm, options = 0.05, {"epochs": 2, "steps": 2, "accumulate": accumulate, "batches": broken}
    ours, by_us, _ = train(tmp_path / "ours", module={"gradient_clip": norm}, **options)
    theirs, by_lightning, _ = train(
        tmp_path / "theirs", module={"gradient_clip": 0.0}, gradient_clip_val=norm, **options
    )
    torch.testing.assert_close(weights(ours), weights(theirs), rtol=1e-5, atol=1e-7)
    assert ours.skipped_steps == theirs.skipped_steps == 1
    reported = [float(t.callback_metrics["train/grad_norm"]) for t in (by_us, by_lightning)]
    assert reported[0] == pytest.approx(reported[1], rel=1e-5) and reported[0] > 2 * norm
    _, trainer, _ = train(
        tmp_path / "first", epochs=1, steps=1, optim={"betas": [0.0, 0.0]}, module={"gradient_clip": norm}
    )  # with betas of 0 the first moment is the gradient of the step
    clipped = torch.cat([moment.flatten() for moment in moments(trainer)]).double().norm()
    assert float(clipped) == pytest.approx(norm, rel=1e-4)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_gpus_precision_trains_with_clipping_and_a_fused_optimizer(tmp_path, accumulate):
    """bfloat16 has 8 bits: losses of the first steps are those of float32 to about one part in 100."""
    options = {"epochs": 2, "steps": 2, "accumulate": accumulate, "twin": make_twin(**WITHOUT_DROPOUT)}
    lit, trainer, seen = train(tmp_path / "bf16", precision="bf16-mixed", batches=broken, **options)
    assert trainer.optimizers[0].defaults["fused"] and lit.gradient_clip == 1.0 and lit.skipped_steps == 1
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in lit.twin.parameters())
    options["twin"] = make_twin(**WITHOUT_DROPOUT)
    _, _, wide = train(tmp_path / "float32", batches=broken, **options)
    assert seen.losses != wide.losses
    np.testing.assert_allclose(seen.losses, wide.losses, rtol=0.02, atol=0.01)
    np.testing.assert_allclose(seen.scores, wide.scores, rtol=0.05, atol=0.02)


@pytest.mark.parametrize(
    "changed",
    [
        {"optim": {"lr": 2e-2}},
        {"optim": {"weight_decay": 0.9}},
        {"optim": {"betas": [0.5, 0.95]}},
        {"optim": {"core_lr_scale": 0.1}},
        {"optim": {"attention_lr_scale": 0.1}},
        {"optim": {"window_lr_scale": 9.0}},
        {"optim": {"warmup_epochs": 1.5}},
        {"optim": {"min_lr_fraction": 1.0}},
        {"optim": {"readouts_first": 0.5}},
        {"module": {"seed": 1}},
        {"module": {"gradient_clip": 0.01}},
        {"accumulate": 2},
    ],
    ids=str,
)
def test_each_option_has_an_effect(tmp_path, changed, plain):
    lit, _, _ = train(tmp_path, epochs=2, steps=2, **changed)
    assert not torch.equal(weights(lit), plain)


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    lit, _, _ = train(tmp_path_factory.mktemp("plain"), epochs=2, steps=2)
    return weights(lit)


def test_equal_runs_are_equal_and_burn_in_counts(tmp_path, plain, monkeypatch):
    lit, _, _ = train(tmp_path, epochs=2, steps=2)
    assert torch.equal(weights(lit), plain)
    monkeypatch.setattr(tiny_training, "BURN_IN", 4)
    lit, _, _ = train(tmp_path, epochs=2, steps=2)
    assert not torch.equal(weights(lit), plain)


def test_dropout_is_another_at_each_batch(tmp_path):
    class Seeds(tiny_training.Record):
        seen: ClassVar[list[int]] = []

        def on_before_zero_grad(self, *args):
            self.seen.append(torch.initial_seed())

    train(tmp_path, epochs=2, steps=3, callbacks=[Seeds()])
    assert len(set(Seeds.seen)) == 6
    assert not any(seed in Seeds.seen for seed in range(100)), "the plain seed would drop alike on all ranks"


def test_seeds_mix_without_collisions():
    places = [(s, e, b, r) for s in range(3) for e in range(3) for b in range(3) for r in range(3)]
    seeds = {_mixed(*place) for place in places}
    assert len(seeds) == len(places) and all(0 <= s < 2**63 for s in seeds)


# A step that is not finite


def broken(k, at=(1,)):
    batch = make_batch(k)
    if k in at:
        spoil(batch)
    return batch


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_non_finite_step_changes_nothing(tmp_path, accumulate):
    """One NaN in one of the accumulated batches: no weight, no moment and no decay moves, and training goes on."""

    class Watch(tiny_training.Record):
        def __init__(self):
            super().__init__()
            self.states = []

        def on_train_batch_end(self, trainer, module, *args):
            if trainer.global_step > len(self.states):
                moments = [s["exp_avg"].clone() for s in trainer.optimizers[0].state.values()]
                self.states.append((weights(module).clone(), moments))

    watch = Watch()
    at = 2 * accumulate - 1  # in the second step
    lit, trainer, _ = train(
        tmp_path,
        epochs=1,
        steps=4,
        accumulate=accumulate,
        batches=lambda k: broken(k, (at,)),
        callbacks=[watch],
    )
    (w0, m0), (w1, m1), (w2, _), _ = watch.states
    assert torch.equal(w0, w1) and all(torch.equal(a, b) for a, b in zip(m0, m1, strict=True))
    assert not torch.equal(w1, w2) and weights(lit).isfinite().all()
    assert lit.skipped_steps == 1 and lit.skipped_in_a_row == 0
    assert float(trainer.callback_metrics["train/skipped_steps"]) == 1


def test_a_loss_that_hides_its_nan_from_the_gradient_is_found(tmp_path):
    """NaN counts whose gradient a clamp of the rate blocks."""

    class Blocked(nn.Module):
        spec, index = Predictor.spec, Predictor.index

        def __init__(self):
            super().__init__()
            self.core = nn.Linear(1, 1)
            self.specs = {s.recording_id: s for s in tiny_training.specs()[:1]}

        def forward(self, batch):
            x = self.core(batch["a"]["counts"].nan_to_num()[..., :1]).clamp(max=-5).exp()
            return {"a": x.expand(-1, -1, UNITS["a"])}

        def regularizer(self):
            return self.core.weight.square().sum() * 0.1

        def set_progress(self, fraction):
            pass

        def description(self):
            return {}

        def likelihood(self, recording_id):
            return Poisson(self.specs[recording_id].unit_mean_counts, "exp")

        def more_nats(self, predicted, batch, burn_in):
            return 0.0

    def nan_counts(k):
        batch = {"a": make_batch(k)["a"]}
        batch["a"]["counts"][0, -1, 0], batch["a"]["valid"][0, -1, 0] = torch.nan, True
        return batch

    lit, _, _ = train(tmp_path, epochs=1, steps=2, batches=nan_counts, twin=Blocked())
    assert lit.skipped_steps == 2


def test_many_skipped_steps_in_a_row_stop_the_run_with_advice(tmp_path):
    with pytest.raises(ValueError, match=r"3 steps in a row had a non-finite loss.*Lower optim.lr"):
        train(tmp_path, steps=8, batches=lambda k: broken(k, (1, 3, 4, 5)), module={"max_skipped": 3})


def test_a_step_without_a_valid_bin_is_skipped(tmp_path):
    def nothing_valid(k):
        batch = make_batch(k)
        for clips in batch.values():
            clips["valid"] &= k != 1
        return batch

    lit, _, _ = train(tmp_path, epochs=1, steps=3, batches=nothing_valid)
    assert lit.skipped_steps == 1 and weights(lit).isfinite().all()


# Validation, logs, checkpoints


def test_validation_scores_are_those_of_all_scored_bins(tmp_path):
    lit, trainer, _ = train(tmp_path, epochs=1, steps=1)
    twin, metrics = lit.twin.eval(), trainer.callback_metrics
    batches, bps, correlation, loss = [make_batch(1000 + k) for k in range(2)], {}, [], []
    for rid, n_units in UNITS.items():
        with torch.no_grad():
            rate = np.concatenate([twin(b)[rid][:, BURN_IN:].double().numpy() for b in batches])
        counts = np.concatenate([b[rid]["counts"][:, BURN_IN:].double().numpy() for b in batches])
        use = np.concatenate([b[rid]["valid"][:, BURN_IN:].numpy() for b in batches])
        bps[rid] = []
        for u in range(n_units):
            r, n = rate[..., u][use[..., u]], counts[..., u][use[..., u]]
            ratio = stats.poisson.logpmf(n, r).sum() - stats.poisson.logpmf(n, n.mean()).sum()
            bps[rid].append(ratio / n.sum() / math.log(2))
            correlation.append(np.corrcoef(r, n)[0, 1])
            loss.append(r - n * np.log(r))
    assert float(metrics["val/bps_a"]) == pytest.approx(np.mean(bps["a"]), rel=1e-5)
    assert float(metrics["val/bps_b"]) == pytest.approx(np.mean(bps["b"]), rel=1e-5)
    assert float(metrics["val/bps_mean"]) == pytest.approx(np.mean(bps["a"] + bps["b"]), rel=1e-5)
    assert float(metrics["val/corr_mean"]) == pytest.approx(np.mean(correlation), rel=1e-4)
    assert float(metrics["val/loss"]) == pytest.approx(np.concatenate(loss).mean(), rel=1e-5)


def test_the_promised_names_are_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    train(tmp_path, epochs=2, steps=2, logger=logger)
    header, *lines = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    names = set(header.split(","))
    assert {
        "train/loss",
        "train/grad_norm",
        "train/lr",
        "train/skipped_steps",
        "system/samples_per_sec",
        "system/data_wait_frac",
    } <= names
    assert {"val/loss", "val/bps_mean", "val/bps_a", "val/bps_b", "val/corr_mean"} <= names
    column = header.split(",").index("system/data_wait_frac")
    waits = [float(line.split(",")[column]) for line in lines if line.split(",")[column]]
    assert len(waits) == 4 and all(0 <= w <= 1 for w in waits)


@pytest.mark.parametrize(
    "optim", [{"window_lr_scale": 0.0}, {"window_lr_scale": 10.0}, MUON | {"window_lr_scale": 10.0}]
)
def test_the_learning_rate_that_is_logged_is_the_readouts(tmp_path, optim):
    """And not their windows', which comes last among the groups."""
    lit, _, record = train(tmp_path, epochs=1, steps=3, optim=optim | {"warmup_epochs": 0.0})
    course = [lit.optimization.lr * lit.optimization.lr_fraction(step, 3, 0) for step in range(3)]
    assert record.learning_rates == pytest.approx(course)


def test_newest_bin_alone_can_be_trained(tmp_path):
    lit, trainer, _ = train(tmp_path, epochs=1, steps=2, twin=make_twin(predict="last"))
    assert math.isfinite(float(trainer.callback_metrics["val/bps_mean"])) and lit.skipped_steps == 0


def test_the_checkpoint_holds_plain_values_and_rebuilds_the_twin(tmp_path):
    class SetLn(tiny_training.Record):
        def on_fit_start(self, trainer, module):
            module.ln = {"description": {"patch": 3}, "weights": {"w": torch.ones(2)}}

    lit, _, _ = train(tmp_path, epochs=1, steps=2, callbacks=[SetLn()])
    content = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert content["ln"]["description"] == {"patch": 3} and content["burn_in"] == BURN_IN
    twin = load_twin(tmp_path / "last.ckpt")
    batch = make_batch(3)
    for rid, rate in lit.twin.eval()(batch).items():
        assert torch.equal(twin(batch)[rid], rate)


def test_a_checkpoint_of_another_twin_is_refused(tmp_path):
    train(tmp_path, epochs=1, steps=1)
    with pytest.raises(ValueError, match="another one than this run's"):
        train(tmp_path, epochs=2, steps=1, resume=tmp_path / "last.ckpt", twin=make_twin(ff_dropout=0.0))


def test_lengths_that_disagree_are_refused(tmp_path):
    with pytest.raises(ValueError, match="made for 3 epochs of 4 steps, but the trainer will run 2 of 4"):
        train(tmp_path, max_epochs=2)


def test_the_std_schedule_follows_the_steps(tmp_path):
    seen = []
    twin = make_twin()
    twin.set_progress = seen.append
    train(tmp_path, epochs=2, steps=2, accumulate=2, twin=twin)
    assert seen == [0.0, 0.25, 0.5, 0.75, 1.0]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_processes_make_the_same_steps_as_one(tmp_path):
    """Gradients, losses, scores, and the step that is skipped because one rank alone met a NaN. One rank may lack a
    recording."""

    def one_clip_of_b(batch):
        return {**batch, **rows({"b": batch["b"]}, slice(0, 1))}

    def batches(k):
        return one_clip_of_b(make_batch(k)) if k == 1 else broken(k, (2,))

    paths = os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    ranks = subprocess.Popen(
        [sys.executable, TESTS / "tiny_training.py", tmp_path, "ddp"], env=environment, start_new_session=True
    )
    try:
        assert ranks.wait(timeout=280) == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(ranks.pid, signal.SIGKILL)  # no rank outlives a test that failed
    two = torch.load(tmp_path / "result.pt", weights_only=True)

    class OneBatch:
        def __len__(self):
            return 1

        def __iter__(self):
            yield one_clip_of_b(make_batch(1000, score=True))

    lit, trainer, record = train(
        tmp_path / "one",
        epochs=1,
        batches=batches,
        validation=OneBatch(),
        twin=make_twin(**WITHOUT_DROPOUT),
        optim=SMALL_STEPS,
    )
    assert lit.skipped_steps == 1
    assert two["metrics"]["train/skipped_steps"] == 1
    np.testing.assert_allclose(two["losses"], record.losses, rtol=1e-5)
    for of_two, of_one in zip(two["moments"], moments(trainer), strict=True):
        torch.testing.assert_close(of_two, of_one, rtol=1e-3, atol=1e-5)
    for name, value in two["metrics"].items():
        assert value == pytest.approx(float(trainer.callback_metrics[name]), rel=1e-3, abs=1e-5), name
