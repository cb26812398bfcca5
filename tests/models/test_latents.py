"""A shared gain: its integral beside quadrature, and noise correlations of pairs that were never seen together."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_models import spec, twin, vivit

from vivit_core.models.latents.shared_gain import FARTHEST, SharedGain
from vivit_core.models.plan import _Peak
from vivit_core.models.twin import Twin
from vivit_core.testing import small

NODE = {
    "_target_": "vivit_core.models.latents.shared_gain.SharedGain", "rank": 1, "hold": 8, "memory": 4.0, "std": 0.3,
}  # fmt: skip


def test_the_integral_is_that_of_quadrature() -> None:
    """Of two steps, over a grid of both numbers; and its gradient is that of small differences."""
    torch.manual_seed(0)
    made = SharedGain([1.0] * 6, rank=1, hold=10, memory=2.0, std=0.4).double()
    rate = torch.full((1, 17, 6), 0.8, dtype=torch.float64, requires_grad=True)
    counts, mask = torch.poisson(torch.full((1, 17, 6), 1.1)).double(), torch.rand(1, 17, 6) < 0.9
    grid = torch.linspace(-6, 6, 241, dtype=torch.float64)
    x_NK = torch.cartesian_prod(grid, grid)

    def exact() -> float:
        with torch.no_grad():
            z_NS = x_NK @ made.course(2)[0].double().T
            weight_U = made.weight_UR[:, 0]
            log_gain = z_NS[..., None] * weight_U - 0.5 * weight_U**2
            gain = log_gain.repeat_interleave(10, 1)[:, :17]
            nats = torch.where(mask, rate * gain.expm1() - counts * gain, 0.0).sum((1, 2))
            log_prior = -0.5 * x_NK.square().sum(1) - math.log(2 * math.pi)
            return float(-torch.logsumexp(log_prior - nats + 2 * math.log(0.05), 0))

    found = made.more_nats(rate, counts, mask)
    assert float(found) == pytest.approx(exact(), abs=0.02) and abs(exact()) > 0.1
    found.backward()
    for parameter, at in ((made.weight_UR, (2, 0)), (made.log_memory_R, (0,)), (rate, (0, 3, 2))):
        slope = float(parameter.grad[at])
        with torch.no_grad():
            ends = []
            for step in (0.05, -0.1):
                parameter[at] += step
                ends.append(exact())
            parameter[at] += 0.05
        assert slope == pytest.approx((ends[0] - ends[1]) / 0.1, abs=0.05)


def test_the_curvature_is_that_of_the_nats_and_takes_no_cube_of_the_steps() -> None:
    """An evaluation's run may be of hundreds of steps."""
    torch.manual_seed(0)
    made = SharedGain([1.0] * 6, rank=2, hold=1, memory=2.0, std=0.4).double()
    expected, counts = torch.rand(1, 5, 6, dtype=torch.float64), torch.ones(1, 5, 6, dtype=torch.float64)
    course, x = made.course(5).double(), 0.3 * torch.randn(1, 5, 2, dtype=torch.float64)

    def nats(x_BKR: torch.Tensor) -> torch.Tensor:
        log_gain = made.log_gain(x_BKR, course)
        return (expected * log_gain.exp() - counts * log_gain).sum() + 0.5 * x_BKR.square().sum()

    slope, hessian = torch.func.grad(nats)(x), torch.autograd.functional.hessian(nats, x)
    found = made.curvature(expected * made.log_gain(x, course).exp(), course)
    torch.testing.assert_close(found, hessian.reshape(1, 10, 10), rtol=1e-12, atol=1e-12)
    step = x - made.newton(x, expected, counts, course)
    assert step.abs().max() < FARTHEST
    torch.testing.assert_close(found @ step.reshape(1, 10, 1), slope.reshape(1, 10, 1), rtol=1e-10, atol=1e-10)
    rate, steps = torch.full((1, 200, 6), 0.3), 200
    with torch.no_grad(), _Peak() as peak:
        made.float().more_nats(rate, torch.ones_like(rate), torch.ones_like(rate, dtype=torch.bool))
    assert peak.bytes < 10 * (2 * steps) ** 2 * 4


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_rate_that_is_no_number_makes_the_loss_none(broken: float) -> None:
    """A training skips such a step; one rate of one clip is enough."""
    made = SharedGain([0.3] * 4, rank=2, hold=2, memory=4.0, std=0.3)
    rate, counts = torch.full((2, 20, 4), 0.3), torch.ones(2, 20, 4)
    rate[0, 3, 1] = broken
    rate.requires_grad_()
    nats = made.more_nats(rate, counts, torch.ones(2, 20, 4, dtype=torch.bool))
    assert not nats.isfinite()
    nats.backward()
    assert not all(p.grad.isfinite().all() for p in made.parameters())


def simulated(clips: int, bins: int, units: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, np.ndarray]:
    """Rates, counts, and the units' true weights on one slow gain (2 s at 60 Hz)."""
    rng = np.random.default_rng(seed)
    weight_U = np.random.default_rng(0).uniform(-0.3, 0.9, units)
    rate = np.exp(rng.normal(-1.2, 0.5, (clips, bins, units)))
    z, keep = np.zeros((clips, bins)), math.exp(-1 / 120)
    z[:, 0] = rng.standard_normal(clips)
    for t in range(1, bins):
        z[:, t] = keep * z[:, t - 1] + math.sqrt(1 - keep**2) * rng.standard_normal(clips)
    counts = rng.poisson(rate * np.exp(z[..., None] * weight_U - weight_U**2 / 2))
    return torch.as_tensor(rate, dtype=torch.float32), torch.as_tensor(counts, dtype=torch.float32), weight_U


def test_noise_correlations_of_pairs_that_were_never_seen_together() -> None:
    """Units 0–7 were measured in one half of the clips and 8–15 in the other, 16–23 in both."""
    rate, counts, weight_U = simulated(clips=40, bins=240, units=24, seed=1)
    mask = torch.ones_like(counts, dtype=torch.bool)
    mask[:20, :, :8] = False
    mask[20:, :, 8:16] = False
    torch.manual_seed(0)
    made = SharedGain([0.3] * 24, rank=1, hold=15, memory=4.0, std=0.1)
    optimizer = torch.optim.Adam(made.parameters(), lr=0.05)
    for _ in range(80):
        optimizer.zero_grad()
        loss = made.more_nats(rate, counts, mask)
        loss.backward()
        optimizer.step()
    assert float(loss) < -100.0
    with torch.no_grad():
        found, true = made.log_covariance().numpy()[:8, 8:16], np.outer(weight_U, weight_U)[:8, 8:16]
        assert np.corrcoef(found.ravel(), true.ravel())[0, 1] > 0.9
        assert np.polyfit(true.ravel(), found.ravel(), 1)[0] == pytest.approx(1.0, abs=0.3)
        memory_bins = float(made.log_memory_R.exp()) * 15
        assert 60 < memory_bins < 240
        new = simulated(clips=10, bins=240, units=24, seed=2)
        assert float(made.more_nats(new[0], new[1], torch.ones_like(new[1], dtype=torch.bool))) < -20.0


def test_what_cannot_go_together_is_refused() -> None:
    negative = {"_target_": "vivit_core.models.likelihoods.negative_binomial.NegativeBinomial", "output": "exp"}
    model = vivit(latent=NODE)
    for likelihood, predict in ((negative | {"dispersion": 0.1}, "all"), (small.LIKELIHOOD, "last")):
        with pytest.raises(ValueError, match="likelihood=poisson and predict=all, or model/latent=none"):
            Twin(model, small.READOUT, likelihood, [spec()], predict=predict)
    for changed, named in (({"rank": 0}, "rank=0"), ({"hold": 0}, "hold=0"), ({"memory": 0.0}, "memory=0")):
        with pytest.raises(ValueError, match=named):
            twin(vivit(latent=NODE | changed))
